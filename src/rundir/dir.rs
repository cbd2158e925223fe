//! The runtime directory: one observer at a time, sockets, and where agents look them up.
//!
//! | Name | What |
//! |---|---|
//! | `lock` | held by flock(2) from before the first bind until after the last removal; contains the observer's pid |
//! | `shard-<i>.sock` | socket of shard i, unless configured elsewhere |
//! | `fleet.json` | the [`Manifest`] |
//! | `control.sock` | the observer's HTTP socket |
//! | `takeover.sock` | where a successor takes over |
//! | `roster` | the agents, for a start that can adopt nothing; it stays |
//! | `varta.sock` | symlink to the socket of shard 0, for agents without support for shards |
//! | `.shard-<i>~xxx` | second name of that socket, from which its path is restored if it is removed |
//!
//! The directory is opened once, and everything but bind(2) uses that descriptor, so it cannot be exchanged.
//! Nothing that is removed or replaced is reached through a symlink.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::names::{CONTROL, LOCK, ROSTER, SYMLINK, TAKEOVER};
use crate::message::{Reason, Shown};
use crate::route::{MANIFEST, Manifest};
use crate::rundir::binding::{self, BindError, BoundSocket, FileId, Found, Kind, Owner};
use crate::rundir::tenure::Tenure;

/// Renamed over manifest and symlink to replace them. Only the holder of the lock uses them.
const MANIFEST_NEW: &str = "fleet.json.new";
const SYMLINK_NEW: &str = "varta.sock.new";
/// Written by a successor while the observer before still runs.
const REHEARSAL: &str = "fleet.json.try";
const ROSTER_NEW: &str = "roster.new";

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const LOCK_MODE: Mode = Mode::from_raw_mode(0o600);
const MANIFEST_MODE: Mode = Mode::from_raw_mode(0o644);
const ROSTER_MODE: Mode = Mode::from_raw_mode(0o600);
/// A longer roster is not ours.
const ROSTER_BYTES_MAX: u64 = 16 << 20;
const TAKEOVER_MODE: u32 = 0o600;
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Whether sockets may be bound in `dir`, a directory other than the runtime directory: only root and the
/// observer's user may be able to replace what is in it.
///
/// # Errors
/// The first problem found.
pub fn vet(dir: &Path) -> Result<(), RunDirError> {
    let dir = absolute(dir)?;
    let mut problems = Vec::new();
    examine(&dir, &mut problems);
    first(&mut problems)
}

/// A runtime directory held until this is dropped.
///
/// Drop the [`BoundSocket`]s first: the lock should be released last.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    held: Held,
    published: (Vec<PathBuf>, Vec<PathBuf>),
    manifest: Option<Published>,
    symlink: Option<Published>,
    tenure: Tenure,
}

/// The directory as it was opened, and its lock.
#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    file_id: FileId,
    lock: File,
    lock_file_id: FileId,
}

/// A file this observer wrote. Kept open, so that no other file gets its inode.
#[derive(Debug)]
struct Published {
    file_id: FileId,
    _file: OwnedFd,
}

/// What is wrong with a runtime directory. Nothing foreign was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// Another observer holds it.
    #[error(
        "another observer{} is already running in {}; stop it, or choose another directory",
        holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), Shown(dir.display())
    )]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// The pid that the holder of the lock wrote into it.
        holder: Option<u32>,
    },
    /// It does not exist and could not be created.
    #[error("cannot create directory {}: {}{}", Shown(dir.display()), Reason(source), advice(source))]
    Create {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It could not be opened, or one of its parents could not be read.
    #[error("cannot open directory {}: {}{}", Shown(dir.display()), Reason(source), advice_open(source))]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// This process may not create files in it.
    #[error("cannot write to directory {}: {}{}", Shown(dir.display()), Reason(source), advice(source))]
    Write {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is not a directory.
    #[error("{} is not a directory; remove it, or choose another directory", Shown(dir.display()))]
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// It is a symlink whose owner is neither root nor the observer's user.
    #[error("{} is a symlink made by user {uid}, who could point it elsewhere; name the directory itself", Shown(dir.display()))]
    ForeignSymlink {
        /// The path.
        dir: PathBuf,
        /// Owner of the symlink.
        uid: u32,
    },
    /// Another user than root and the observer's could replace everything in it.
    #[error("directory {} is owned by user {uid}, neither root nor the observer's user; chown it, or choose another", Shown(dir.display()))]
    ForeignOwner {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others could replace the sockets in it.
    #[error("directory {} is writable by its group or others (mode {mode:04o}); chmod go-w it", Shown(dir.display()))]
    Writable {
        /// The directory.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Others could replace a directory above it.
    #[error(
        "directory {} is below {}, which others may write to and which has no sticky bit (mode {mode:04o}); chmod +t or o-w it",
        Shown(dir.display()), Shown(parent.display())
    )]
    ExposedParent {
        /// The directory.
        dir: PathBuf,
        /// The directory above it.
        parent: PathBuf,
        /// Mode of the parent.
        mode: u32,
    },
    /// The lock could not be taken, for another reason than that it is held.
    #[error("cannot lock {}: {}{}", Shown(path.display()), Reason(source), advice(source))]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Something else is where a file of the observer belongs.
    #[error("{} is in the way: it is not {expected}; remove it, or choose another directory", Shown(path.display()))]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// The manifest or the symlink could not be written.
    #[error("cannot write {}: {}{}", Shown(path.display()), Reason(source), advice(source))]
    Publish {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn advice_open(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound { "; create it first" } else { advice(error) }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create the directory above it first",
        io::ErrorKind::PermissionDenied => "; run as its owner, or choose a directory of your own",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory on a writable file system",
        io::ErrorKind::IsADirectory => "; remove what is there, or choose another directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, or choose another directory"
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "; raise the limit of open files (ulimit -n, LimitNOFILE=)"
        }
        _ => "; choose another directory",
    }
}

impl RunDirError {
    /// `AddrInUse` if another observer holds it, `PermissionDenied` if this process lacks permission, else
    /// what is wrong with the configured directory: `InvalidInput`, or the kernel's kind.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Busy { .. } => io::ErrorKind::AddrInUse,
            Self::Create { source, .. }
            | Self::Open { source, .. }
            | Self::Write { source, .. }
            | Self::Lock { source, .. }
            | Self::Publish { source, .. } => source.kind(),
            Self::NotADirectory { .. } => io::ErrorKind::NotADirectory,
            Self::InTheWay { .. } => io::ErrorKind::AlreadyExists,
            Self::ForeignSymlink { .. }
            | Self::ForeignOwner { .. }
            | Self::Writable { .. }
            | Self::ExposedParent { .. } => io::ErrorKind::InvalidInput,
        }
    }

    /// The error number closest to this error.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Busy { .. } => libc::EADDRINUSE,
            Self::Create { source, .. }
            | Self::Open { source, .. }
            | Self::Write { source, .. }
            | Self::Lock { source, .. }
            | Self::Publish { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::NotADirectory { .. } => libc::ENOTDIR,
            Self::InTheWay { .. } => libc::EEXIST,
            Self::ForeignSymlink { .. }
            | Self::ForeignOwner { .. }
            | Self::Writable { .. }
            | Self::ExposedParent { .. } => libc::EPERM,
        }
    }
}

impl Held {
    fn take(dir: &Path, fd: OwnedFd) -> Result<Self, RunDirError> {
        let opened = |errno: Errno| RunDirError::Open { dir: dir.to_owned(), source: errno.into() };
        let file_id = FileId::from(&rustix::fs::fstat(&fd).map_err(opened)?);
        let (lock, lock_file_id) = take_lock(dir, &fd)?;
        Ok(Self { fd, file_id, lock, lock_file_id })
    }
}

impl Published {
    fn new(file: OwnedFd) -> Result<Self, Errno> {
        let file_id = FileId::from(&rustix::fs::fstat(&file)?);
        Ok(Self { file_id, _file: file })
    }
}

impl RunDir {
    /// Takes `dir`: creates it (mode 0755) if only it is missing, refuses it if others could replace what is
    /// in it, and takes the lock. Removes sockets that a crash left under temporary names. Does not block.
    ///
    /// # Errors
    /// See [`RunDirError`]; the first problem found. [`inspect`] returns all.
    pub fn open(dir: &Path) -> Result<Self, RunDirError> {
        let dir = absolute(dir)?;
        let mut problems = Vec::new();
        if let Err(Errno::NOENT) = rustix::fs::lstat(&dir) {
            examine_parents(&dir, &mut problems);
            first(&mut problems)?; // before anything is created
            create(&dir)?;
        }
        let fd = examine(&dir, &mut problems);
        first(&mut problems)?;
        let Some(fd) = fd else { return Err(RunDirError::NotADirectory { dir }) };
        let held = Held::take(&dir, fd)?;
        let opened = Self::of(dir, held, Tenure::default());
        opened.remove_leftovers();
        Ok(opened)
    }

    const fn of(dir: PathBuf, held: Held, tenure: Tenure) -> Self {
        Self { dir, held, published: (Vec::new(), Vec::new()), manifest: None, symlink: None, tenure }
    }

    /// The directory that another observer holds by `lock`, a duplicate of its descriptor. As long as it is that one's,
    /// by `tenure`, dropping this changes nothing there.
    ///
    /// # Errors
    /// As [`RunDir::open`]; `Busy` if that is not the lock of this directory.
    pub fn of_another(dir: &Path, lock: OwnedFd, tenure: Tenure) -> Result<Self, RunDirError> {
        let dir = absolute(dir)?;
        let mut problems = Vec::new();
        let fd = examine(&dir, &mut problems);
        first(&mut problems)?;
        let Some(fd) = fd else { return Err(RunDirError::NotADirectory { dir }) };
        let opened = |errno: Errno| RunDirError::Open { dir: dir.clone(), source: errno.into() };
        let file_id = FileId::from(&rustix::fs::fstat(&fd).map_err(opened)?);
        let lock_file_id = FileId::from(&rustix::fs::fstat(&lock).map_err(opened)?);
        let there = rustix::fs::statat(&fd, LOCK, AtFlags::SYMLINK_NOFOLLOW).map_err(opened)?;
        if FileId::from(&there) != lock_file_id {
            return Err(RunDirError::Busy { dir, holder: None });
        }
        let held = Held { fd, file_id, lock: lock.into(), lock_file_id };
        Ok(Self::of(dir, held, tenure))
    }

    /// Absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Binds the socket of one shard, here or elsewhere; see [`binding::bind_as`]. Removes temporary names of
    /// it that a crash left behind.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_shard(
        &self,
        path: &Path,
        kind: Kind,
        mode: u32,
        owner: Owner,
    ) -> Result<BoundSocket, BindError> {
        let socket = binding::bind_as(path, kind, mode, owner)?;
        binding::remove_leftovers_of(socket.path());
        Ok(socket)
    }

    /// Binds the control socket. Every process that may connect may query.
    ///
    /// # Errors
    /// See [`BindError`].
    #[cfg(feature = "http")]
    pub fn bind_control(&self, mode: u32, owner: Owner) -> Result<BoundSocket, BindError> {
        let path = self.dir.join(CONTROL);
        let socket = binding::bind_as(&path, Kind::Listener, mode, owner)?;
        binding::remove_leftovers_of(socket.path());
        Ok(socket)
    }

    /// Binds the socket for successors: only root and this user may connect.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_takeover(&self) -> Result<BoundSocket, BindError> {
        let socket =
            binding::bind_as(&self.dir.join(TAKEOVER), Kind::Takeover, TAKEOVER_MODE, Owner::default())?;
        binding::remove_leftovers_of(socket.path());
        Ok(socket)
    }

    /// Publishes the sockets to agents: writes the manifest, then points `varta.sock` at the first socket,
    /// unless a shard is bound there. Call it once every shard receives. Each of the two is replaced in one
    /// step, so a reader sees the old or the new one.
    ///
    /// Not synced to the disk: after a crash of the host there is no fleet to find.
    ///
    /// # Errors
    /// `InTheWay` if something other than a symlink is at `varta.sock`; `Publish`. Then neither of the two is
    /// left behind.
    pub fn publish(&mut self, sockets: &[PathBuf], notify: &[PathBuf]) -> Result<(), RunDirError> {
        let published = self.publish_manifest(sockets, notify).and_then(|()| self.publish_symlink(sockets));
        if published.is_err() {
            self.withdraw();
        }
        self.published = (sockets.to_vec(), notify.to_vec());
        published
    }

    /// If the directory or its lock was replaced or removed, takes both again as by [`RunDir::open`] and returns
    /// true. Two system calls if not.
    ///
    /// # Errors
    /// As [`RunDir::open`]; then nothing here may be changed.
    pub fn hold(&mut self) -> Result<bool, RunDirError> {
        let here = rustix::fs::stat(&self.dir).ok().as_ref().map(FileId::from);
        if here == Some(self.held.file_id) && self.file_id(LOCK) == Some(self.held.lock_file_id) {
            return Ok(false);
        }
        let mut problems = Vec::new();
        let fd = examine(&self.dir, &mut problems);
        first(&mut problems)?;
        let Some(fd) = fd else { return Err(RunDirError::NotADirectory { dir: self.dir.clone() }) };
        self.held = Held::take(&self.dir, fd)?;
        Ok(true)
    }

    /// Writes manifest and symlink again if they were removed, and returns whether they were. If another file
    /// is in their place, it is left there. Two system calls if there is nothing to do.
    ///
    /// # Errors
    /// What is in the way, or makes the directory unsafe; the first of them.
    pub fn look_after(&mut self) -> Result<bool, RunDirError> {
        let manifest = self.is_missing(MANIFEST, self.manifest.as_ref());
        let symlink = self.is_missing(SYMLINK, self.symlink.as_ref());
        let is_missing = |found: &Result<bool, RunDirError>| matches!(found, Ok(true));
        let is_any = is_missing(&manifest) || is_missing(&symlink);
        if is_any {
            vet(&self.dir)?;
        }
        let (sockets, notify) = mem::take(&mut self.published);
        let written = if is_missing(&manifest) { self.publish_manifest(&sockets, &notify) } else { Ok(()) };
        let linked = if is_missing(&symlink) { self.publish_symlink(&sockets) } else { Ok(()) };
        self.published = (sockets, notify);
        manifest.and(symlink).and(written.and(linked).map(|()| is_any))
    }

    /// Whether nothing is where a file was published.
    fn is_missing(&self, name: &str, published: Option<&Published>) -> Result<bool, RunDirError> {
        let Some(published) = published else { return Ok(false) };
        let path = self.dir.join(name);
        match self.lstat(name) {
            Ok(stat) if FileId::from(&stat) == published.file_id => Ok(false),
            Ok(_) => Err(RunDirError::InTheWay { path, expected: "what this observer wrote" }),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(RunDirError::Publish { path, source: errno.into() }),
        }
    }

    /// Removes manifest and symlink, if they are still this observer's. Drop does it, too; call it earlier so
    /// that agents stop connecting before the sockets are closed.
    pub fn withdraw(&mut self) {
        for (name, published) in [(MANIFEST, self.manifest.take()), (SYMLINK, self.symlink.take())] {
            if let Some(published) = published
                && self.file_id(name) == Some(published.file_id)
            {
                let _ = rustix::fs::unlinkat(&self.held.fd, name, AtFlags::empty());
            }
        }
    }

    /// Leaves manifest and symlink where they are: the sockets they name outlive this observer, and agents
    /// that start before the next one can queue there.
    pub fn leave(&mut self) {
        (self.manifest, self.symlink) = (None, None);
    }

    /// Whose the files are.
    pub const fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Has the lock name this process, once the observer before runs no more.
    pub fn sign(&mut self) {
        // Only messages name the pid.
        let _ = write_pid(&mut self.held.lock);
    }

    /// Whether [`RunDir::publish`] could write manifest and symlink. Writes a manifest of these sockets under another
    /// name, and removes it.
    ///
    /// # Errors
    /// As [`RunDir::publish`].
    pub fn rehearse(&self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(MANIFEST);
        let failed = |source: io::Error| RunDirError::Publish { path: path.clone(), source };
        let text = self.manifest_of(sockets, &[]).map_err(failed)?;
        let written = self.write_new(REHEARSAL, MANIFEST_MODE, &text);
        let _ = self.remove_if_there(REHEARSAL);
        written.map_err(failed)?;
        self.is_symlink_free(sockets)
    }

    /// A duplicate of the descriptor that holds the lock.
    ///
    /// # Errors
    /// The kernel's, if it grants no descriptor.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.held.lock.try_clone()?.into())
    }

    fn publish_manifest(&mut self, sockets: &[PathBuf], notify: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(MANIFEST);
        let failed = |source: io::Error| RunDirError::Publish { path: path.clone(), source };
        let text = self.manifest_of(sockets, notify).map_err(failed)?;
        let written = self.write_over((MANIFEST_NEW, MANIFEST), MANIFEST_MODE, &text);
        let published = written.and_then(|file| Ok(Published::new(file.into())?));
        self.manifest = Some(published.map_err(failed)?);
        Ok(())
    }

    /// The text of the manifest.
    fn manifest_of(&self, sockets: &[PathBuf], notify: &[PathBuf]) -> io::Result<Vec<u8>> {
        let relative = |sockets: &[PathBuf]| -> io::Result<Vec<_>> {
            sockets.iter().map(|socket| self.relative(socket)).collect()
        };
        let manifest = Manifest::new(&relative(sockets)?, std::process::id()).with_notify(&relative(notify)?);
        let mut text = serde_json::to_vec(&manifest)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Writes a new file.
    fn write_new(&self, new: &str, mode: Mode, text: &[u8]) -> io::Result<File> {
        self.remove_if_there(new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.held.fd, new, flags, mode)?);
        rustix::fs::fchmod(&file, mode)?; // whatever the umask
        file.write_all(text)?;
        Ok(file)
    }

    /// Writes a file whole, under another name first.
    fn write_over(&self, (new, name): (&str, &str), mode: Mode, text: &[u8]) -> io::Result<File> {
        let written = (|| {
            let file = self.write_new(new, mode, text)?;
            rustix::fs::renameat(&self.held.fd, new, &self.held.fd, name)?;
            Ok(file)
        })();
        if written.is_err() {
            let _ = self.remove_if_there(new);
        }
        written
    }

    /// Replaces the roster. It stays when the observer ends.
    ///
    /// # Errors
    /// The kernel's; the one before is still there.
    pub fn write_roster(&self, text: &[u8]) -> io::Result<()> {
        self.write_over((ROSTER_NEW, ROSTER), ROSTER_MODE, text).map(drop)
    }

    /// The roster that an observer before this one left; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for a file that no observer leaves.
    pub fn read_roster(&self) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.held.fd, ROSTER, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let found = file.metadata()?;
        if !found.is_file() || found.len() > ROSTER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no roster"));
        }
        let mut text = Vec::new();
        file.take(ROSTER_BYTES_MAX).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    fn publish_symlink(&mut self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(SYMLINK);
        let failed = |source: io::Error| RunDirError::Publish { path: path.clone(), source };
        let Some(first) = sockets.first().filter(|_| !self.has_symlink_path(sockets)) else { return Ok(()) };
        let target = self.relative(first).map_err(failed)?;
        self.is_symlink_free(sockets)?;
        let linked = (|| {
            self.remove_if_there(SYMLINK_NEW)?;
            rustix::fs::symlinkat(&target, &self.held.fd, SYMLINK_NEW)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let link = rustix::fs::openat(&self.held.fd, SYMLINK_NEW, flags, Mode::empty())?;
            rustix::fs::renameat(&self.held.fd, SYMLINK_NEW, &self.held.fd, SYMLINK)?;
            Ok(Published::new(link)?)
        })();
        if linked.is_err() {
            let _ = self.remove_if_there(SYMLINK_NEW);
        }
        self.symlink = Some(linked.map_err(failed)?);
        Ok(())
    }

    /// Whether a shard is bound where the symlink would be: agents that know only this path reach that shard.
    fn has_symlink_path(&self, sockets: &[PathBuf]) -> bool {
        sockets.iter().any(|socket| self.is_symlink_path(socket))
    }

    /// Fails if something other than a symlink is where the symlink is to be.
    fn is_symlink_free(&self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(SYMLINK);
        match self.lstat(SYMLINK) {
            _ if self.has_symlink_path(sockets) => Ok(()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => {
                Err(RunDirError::InTheWay { path, expected: "a symlink" })
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(RunDirError::Publish { path, source: errno.into() }),
        }
    }

    /// Relative path to a socket in this directory, so that it also leads there where the directory is
    /// mounted under another name; else the absolute path.
    fn relative(&self, socket: &Path) -> io::Result<PathBuf> {
        let absolute = std::path::absolute(socket)?;
        Ok(match (absolute.strip_prefix(&self.dir), absolute.file_name()) {
            (Ok(below), _) => below.to_owned(),
            (Err(_), Some(name)) if self.is_parent_of(&absolute) => PathBuf::from(name),
            _ => absolute,
        })
    }

    /// Whether `socket` is `varta.sock` of this directory, whatever path leads there.
    fn is_symlink_path(&self, socket: &Path) -> bool {
        socket.file_name() == Some(OsStr::new(SYMLINK)) && self.is_parent_of(socket)
    }

    /// Whether the directory of `path` is this one, whatever path leads there.
    fn is_parent_of(&self, path: &Path) -> bool {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let theirs = rustix::fs::stat(parent.unwrap_or(Path::new(".")));
        theirs.is_ok_and(|theirs| FileId::from(&theirs) == self.held.file_id)
    }

    fn remove_if_there(&self, name: &str) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.held.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Removes stale sockets with temporary names. No other process binds such a name here while the lock is
    /// held, and a socket that no process has open is never opened again. Names that cannot be removed do no
    /// harm.
    fn remove_leftovers(&self) {
        let Ok(entries) = Dir::read_from(&self.held.fd) else { return };
        for entry in entries.flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if binding::is_temporary(name)
                && let Ok(Found::Stale(found)) = binding::probe(&self.dir.join(name), Kind::Receiver)
                && self.lstat(name).is_ok_and(|stat| FileId::from(&stat) == found)
            {
                let _ = rustix::fs::unlinkat(&self.held.fd, name, AtFlags::empty());
            }
        }
    }

    fn file_id(&self, name: &str) -> Option<FileId> {
        self.lstat(name).ok().as_ref().map(FileId::from)
    }

    fn lstat(&self, name: impl rustix::path::Arg) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.held.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.tenure.is_anothers() {
            return;
        }
        self.withdraw();
        // The file names only a process that holds it. It is not removed: otherwise two observers could each
        // hold a lock, one on the removed file and one on the next.
        let _ = rustix::fs::ftruncate(&self.held.lock, 0);
        // To close it is not enough: a child that this program forked has a copy until it executes another.
        let _ = rustix::fs::flock(&self.held.lock, FlockOperation::Unlock);
    }
}

/// All problems that would keep an observer from using `dir`, except that one is running there. Changes
/// nothing; a directory that a start could create is no problem. An empty list is no guarantee: the directory
/// may change.
pub fn inspect(dir: &Path) -> Vec<RunDirError> {
    let mut problems = Vec::new();
    let dir = match absolute(dir) {
        Ok(dir) => dir,
        Err(problem) => return vec![problem],
    };
    if let Err(Errno::NOENT) = rustix::fs::lstat(&dir) {
        let parent = dir.parent().unwrap_or(Path::new("/"));
        if let Err(errno) = may_make_files_in(CWD, parent) {
            problems.push(RunDirError::Create { dir: dir.clone(), source: errno.into() });
        }
        examine_parents(&dir, &mut problems);
        return problems;
    }
    let Some(fd) = examine(&dir, &mut problems) else { return problems };
    if let Err(errno) = may_make_files_in(fd.as_fd(), Path::new(".")) {
        problems.push(RunDirError::Write { dir: dir.clone(), source: errno.into() });
    }
    for (name, expected, has_to_be) in [
        (LOCK, "a regular file", Some(FileType::RegularFile)),
        (SYMLINK, "a symlink", Some(FileType::Symlink)),
        (CONTROL, "a socket", Some(FileType::Socket)),
        (TAKEOVER, "a socket", Some(FileType::Socket)),
        (MANIFEST, "a file", None),
    ] {
        let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let found = FileType::from_raw_mode(stat.st_mode);
        // A socket there is a shard's, which is allowed if configured.
        let is_own_socket = name == SYMLINK && found == FileType::Socket;
        if found == FileType::Directory || has_to_be.is_some_and(|wanted| wanted != found && !is_own_socket) {
            problems.push(RunDirError::InTheWay { path: dir.join(name), expected });
        } else if name == LOCK
            && let Err(errno) = rustix::fs::accessat(
                &fd,
                name,
                rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
                AtFlags::EACCESS,
            )
        {
            problems.push(RunDirError::Lock { path: dir.join(name), source: errno.into() });
        }
    }
    problems
}

fn may_make_files_in(at: impl AsFd, dir: &Path) -> Result<(), Errno> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::accessat(at, dir, access, AtFlags::EACCESS)
}

fn absolute(dir: &Path) -> Result<PathBuf, RunDirError> {
    std::path::absolute(dir).map_err(|source| RunDirError::Open { dir: dir.to_owned(), source })
}

fn first(problems: &mut Vec<RunDirError>) -> Result<(), RunDirError> {
    if problems.is_empty() { Ok(()) } else { Err(problems.swap_remove(0)) }
}

/// Creates `dir` with its mode, whatever the umask.
fn create(dir: &Path) -> Result<(), RunDirError> {
    let failed = |errno: Errno| RunDirError::Create { dir: dir.to_owned(), source: errno.into() };
    match rustix::fs::mkdir(dir, DIRECTORY_MODE) {
        Err(Errno::EXIST) => return Ok(()), // created by another process; checked next
        other => other.map_err(failed)?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::fchmod(&fd, DIRECTORY_MODE).map_err(failed)
}

/// Opens `dir` and checks the opened directory. `None` if it cannot be opened; `problems` then has the
/// reason.
fn examine(dir: &Path, problems: &mut Vec<RunDirError>) -> Option<OwnedFd> {
    let unusable = |source: Errno| match source {
        Errno::NOTDIR | Errno::LOOP => RunDirError::NotADirectory { dir: dir.to_owned() },
        errno => RunDirError::Open { dir: dir.to_owned(), source: errno.into() },
    };
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // A symlink is followed if its owner is trusted with the directory itself.
    match rustix::fs::lstat(dir) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            if !is_trusted(stat.st_uid) {
                problems.push(RunDirError::ForeignSymlink { dir: dir.to_owned(), uid: stat.st_uid });
                return None;
            }
            flags.remove(OFlags::NOFOLLOW);
        }
        _ => {}
    }
    let opened = rustix::fs::open(dir, flags, Mode::empty());
    let (fd, stat) = match opened.and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat))) {
        Ok(opened) => opened,
        Err(errno) => {
            problems.push(unusable(errno));
            return None;
        }
    };
    let mode = stat.st_mode & 0o7777;
    if !is_trusted(stat.st_uid) {
        problems.push(RunDirError::ForeignOwner { dir: dir.to_owned(), uid: stat.st_uid });
    }
    if mode & GROUP_OR_OTHERS_WRITE != 0 {
        problems.push(RunDirError::Writable { dir: dir.to_owned(), mode });
    }
    examine_parents(dir, problems);
    Some(fd)
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Checks the directories above `dir`, both along the path and along the symlinks in it.
fn examine_parents(dir: &Path, problems: &mut Vec<RunDirError>) {
    let real = std::fs::canonicalize(dir).unwrap_or_default();
    let mut parents: Vec<&Path> = dir.ancestors().skip(1).chain(real.ancestors().skip(1)).collect();
    parents.sort();
    parents.dedup();
    for parent in parents {
        // A parent that cannot be read cannot be passed either: opening `dir` reports that.
        let Ok(stat) = rustix::fs::stat(parent) else { continue };
        let mode = stat.st_mode & 0o7777;
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            let parent = parent.to_owned();
            problems.push(RunDirError::ExposedParent { dir: dir.to_owned(), parent, mode });
        }
    }
}

/// Takes the lock and writes the observer's pid into it.
fn take_lock(dir: &Path, fd: &OwnedFd) -> Result<(File, FileId), RunDirError> {
    let path = dir.join(LOCK);
    let failed = |source: io::Error| RunDirError::Lock { path: path.clone(), source };
    // NONBLOCK: opening a pipe there must not wait for its other end.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        let opened = rustix::fs::openat(fd, LOCK, flags, LOCK_MODE);
        let in_the_way = || RunDirError::InTheWay { path: path.clone(), expected: "a regular file" };
        let mut lock = match opened {
            Ok(lock) => File::from(lock),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(in_the_way()),
            Err(errno) => return Err(failed(errno.into())),
        };
        let stat = rustix::fs::fstat(&lock).map_err(|errno| failed(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(in_the_way());
        }
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(RunDirError::Busy { dir: dir.to_owned(), holder: holder(&mut lock) });
            }
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno.into())),
        }
        // The file may have been removed meanwhile; the next observer would lock another file.
        let now = rustix::fs::statat(fd, LOCK, AtFlags::SYMLINK_NOFOLLOW);
        if now.is_ok_and(|now| FileId::from(&now) == FileId::from(&stat)) {
            write_pid(&mut lock).map_err(failed)?;
            return Ok((lock, FileId::from(&stat)));
        }
    }
}

/// Writes the pid of this process into a lock file.
fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// The pid in a lock file. `None` until its holder has written it.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
