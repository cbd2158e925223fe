//! The runtime directory: one observer at a time, sockets, and where agents look them up.
//!
//! | Name | What |
//! |---|---|
//! | `lock` | held by flock(2) from before the first bind until after the last removal; contains the observer's pid |
//! | `shard-<i>.sock` | socket of shard i, unless configured elsewhere |
//! | `fleet.json` | the [`Manifest`] |
//! | `control.sock` | the observer's HTTP socket |
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

use super::names::{CONTROL, LOCK, SYMLINK};
use crate::message::{Reason, Shown};
use crate::route::{MANIFEST, Manifest};
use crate::rundir::binding::{self, BindError, BoundSocket, Found, Identity, Kind, Owner};

/// Renamed over manifest and symlink to replace them. Only the holder of the lock uses them.
const MANIFEST_NEW: &str = "fleet.json.new";
const SYMLINK_NEW: &str = "varta.sock.new";

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
const LOCK_MODE: Mode = Mode::from_raw_mode(0o600);
const MANIFEST_MODE: Mode = Mode::from_raw_mode(0o644);
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
    published: Vec<PathBuf>,
    manifest: Option<Published>,
    symlink: Option<Published>,
}

/// The directory as it was opened, and its lock.
#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    identity: Identity,
    lock: File,
    lock_identity: Identity,
}

/// A file this observer wrote. Kept open, so that no other file gets its inode.
#[derive(Debug)]
struct Published {
    identity: Identity,
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
    #[error("directory {} is owned by user {uid}, neither root nor us; chown it, or choose another", Shown(dir.display()))]
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
        "directory {} is below {}, which everybody may write to without the sticky bit (mode {mode:04o}); chmod +t or o-w it",
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
        let identity = Identity::from(&rustix::fs::fstat(&fd).map_err(opened)?);
        let (lock, lock_identity) = take_lock(dir, &fd)?;
        Ok(Self { fd, identity, lock, lock_identity })
    }
}

impl Published {
    fn new(file: OwnedFd) -> Result<Self, Errno> {
        let identity = Identity::from(&rustix::fs::fstat(&file)?);
        Ok(Self { identity, _file: file })
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
        let opened = Self { dir, held, published: Vec::new(), manifest: None, symlink: None };
        opened.remove_leftovers();
        Ok(opened)
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
    pub fn bind_shard(&self, path: &Path, mode: u32, owner: Owner) -> Result<BoundSocket, BindError> {
        let socket = binding::bind_as(path, Kind::Receiver, mode, owner)?;
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

    /// Publishes the sockets to agents: writes the manifest, then points `varta.sock` at the first socket,
    /// unless a shard is bound there. Call it once every shard receives. Each of the two is replaced in one
    /// step, so a reader sees the old or the new one.
    ///
    /// Not synced to the disk: after a crash of the host there is no fleet to find.
    ///
    /// # Errors
    /// `InTheWay` if something other than a symlink is at `varta.sock`; `Publish`. Then neither of the two is
    /// left behind.
    pub fn publish(&mut self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let published = self.publish_manifest(sockets).and_then(|()| self.publish_symlink(sockets));
        if published.is_err() {
            self.withdraw();
        }
        self.published = sockets.to_vec();
        published
    }

    /// If the directory or its lock was replaced or removed, takes both again as by [`RunDir::open`] and returns
    /// true. Two system calls if not.
    ///
    /// # Errors
    /// As [`RunDir::open`]; then nothing here may be changed.
    pub fn hold(&mut self) -> Result<bool, RunDirError> {
        let here = rustix::fs::stat(&self.dir).ok().as_ref().map(Identity::from);
        if here == Some(self.held.identity) && self.identity(LOCK) == Some(self.held.lock_identity) {
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
        let sockets = mem::take(&mut self.published);
        let written = if is_missing(&manifest) { self.publish_manifest(&sockets) } else { Ok(()) };
        let linked = if is_missing(&symlink) { self.publish_symlink(&sockets) } else { Ok(()) };
        self.published = sockets;
        manifest.and(symlink).and(written.and(linked).map(|()| is_any))
    }

    /// Whether nothing is where a file was published.
    fn is_missing(&self, name: &str, published: Option<&Published>) -> Result<bool, RunDirError> {
        let Some(published) = published else { return Ok(false) };
        let path = self.dir.join(name);
        match self.lstat(name) {
            Ok(stat) if Identity::from(&stat) == published.identity => Ok(false),
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
                && self.identity(name) == Some(published.identity)
            {
                let _ = rustix::fs::unlinkat(&self.held.fd, name, AtFlags::empty());
            }
        }
    }

    fn publish_manifest(&mut self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(MANIFEST);
        let failed = |source: io::Error| RunDirError::Publish { path: path.clone(), source };
        let sockets: io::Result<Vec<_>> = sockets.iter().map(|socket| self.relative(socket)).collect();
        let manifest = Manifest::new(&sockets.map_err(failed)?, std::process::id());
        let mut text = serde_json::to_vec(&manifest).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let written = (|| {
            self.remove_if_there(MANIFEST_NEW)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&self.held.fd, MANIFEST_NEW, flags, MANIFEST_MODE)?);
            rustix::fs::fchmod(&file, MANIFEST_MODE)?; // whatever the umask
            file.write_all(&text)?;
            rustix::fs::renameat(&self.held.fd, MANIFEST_NEW, &self.held.fd, MANIFEST)?;
            Ok(Published::new(file.into())?)
        })();
        if written.is_err() {
            let _ = self.remove_if_there(MANIFEST_NEW);
        }
        self.manifest = Some(written.map_err(failed)?);
        Ok(())
    }

    fn publish_symlink(&mut self, sockets: &[PathBuf]) -> Result<(), RunDirError> {
        let path = self.dir.join(SYMLINK);
        let failed = |source: io::Error| RunDirError::Publish { path: path.clone(), source };
        let Some(first) = sockets.first() else { return Ok(()) };
        if sockets.iter().any(|socket| self.is_symlink_path(socket)) {
            return Ok(()); // agents that know only this path reach that shard
        }
        let target = self.relative(first).map_err(failed)?;
        match self.lstat(SYMLINK) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => {
                return Err(RunDirError::InTheWay { path, expected: "a symlink" });
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
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
        theirs.is_ok_and(|theirs| Identity::from(&theirs) == self.held.identity)
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
                && self.lstat(name).is_ok_and(|stat| Identity::from(&stat) == found)
            {
                let _ = rustix::fs::unlinkat(&self.held.fd, name, AtFlags::empty());
            }
        }
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        self.lstat(name).ok().as_ref().map(Identity::from)
    }

    fn lstat(&self, name: impl rustix::path::Arg) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.held.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        self.withdraw();
        // The file names only a process that holds it. It is not removed: otherwise two observers could each
        // hold a lock, one on the removed file and one on the next.
        let _ = rustix::fs::ftruncate(&self.held.lock, 0);
        // Then `lock` is closed, which releases it.
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
fn take_lock(dir: &Path, fd: &OwnedFd) -> Result<(File, Identity), RunDirError> {
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
        if now.is_ok_and(|now| Identity::from(&now) == Identity::from(&stat)) {
            let text = format!("{}\n", std::process::id());
            lock.set_len(0).and_then(|()| lock.write_all(text.as_bytes())).map_err(failed)?;
            return Ok((lock, Identity::from(&stat)));
        }
    }
}

/// The pid in a lock file. `None` until its holder has written it.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    fn socket_path(dir: &Path, index: usize) -> PathBuf {
        dir.join(format!("shard-{index}.sock"))
    }

    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixDatagram;

    use rustix::fs::Uid;

    use super::*;

    /// A directory that is safe whatever the umask.
    fn tempdir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o755);
        dir
    }

    fn create_dir(path: &Path) {
        std::fs::create_dir(path).unwrap();
        chmod(path, 0o755);
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Temporary names end in `xxx` instead of random characters.
    fn names_in(dir: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name();
            let is_temporary = binding::is_temporary(&name);
            let name = name.into_string().unwrap();
            names.push(if is_temporary { format!("{}xxx", &name[..name.len() - 3]) } else { name });
        }
        names.sort();
        names
    }

    fn bind_all(run: &RunDir, count: usize) -> (Vec<BoundSocket>, Vec<PathBuf>) {
        let paths: Vec<_> = (0..count).map(|index| socket_path(run.path(), index)).collect();
        let bound = paths.iter().map(|path| run.bind_shard(path, 0o600, Owner::default()).unwrap()).collect();
        (bound, paths)
    }

    /// The first problem of `dir` from `open`, and all from `inspect`.
    fn problems(dir: &Path) -> (RunDirError, Vec<RunDirError>) {
        (RunDir::open(dir).unwrap_err(), inspect(dir))
    }

    #[test]
    fn whole_life_leaves_only_the_lock() {
        let parent = tempdir();
        let dir = parent.path().join("varta");
        assert!(inspect(&dir).is_empty());
        assert!(!dir.exists());
        let mut run = RunDir::open(&dir).unwrap();
        assert_eq!(mode_of(&dir), 0o755);
        assert_eq!(mode_of(&dir.join(LOCK)), 0o600);
        assert_eq!(std::fs::read_to_string(dir.join(LOCK)).unwrap(), format!("{}\n", std::process::id()));
        let (bound, paths) = bind_all(&run, 3);
        run.publish(&paths).unwrap();
        assert_eq!(
            names_in(&dir),
            [
                ".shard-0~xxx",
                ".shard-1~xxx",
                ".shard-2~xxx",
                "fleet.json",
                "lock",
                "shard-0.sock",
                "shard-1.sock",
                "shard-2.sock",
                "varta.sock"
            ]
        );
        assert!(inspect(&dir).is_empty(), "a running fleet is no problem");

        let manifest = Manifest::read(&dir).unwrap();
        assert_eq!(manifest, Manifest::new(&paths, std::process::id()));
        assert_eq!(mode_of(&dir.join(MANIFEST)), 0o644);
        assert_eq!(std::fs::read_link(dir.join(SYMLINK)).unwrap(), Path::new("shard-0.sock"));
        UnixDatagram::unbound().unwrap().send_to(b"beat", dir.join(SYMLINK)).unwrap();

        drop(bound);
        drop(run);
        assert_eq!(names_in(&dir), ["lock"]);
        assert_eq!(std::fs::read_to_string(dir.join(LOCK)).unwrap(), "");
        RunDir::open(&dir).unwrap();
    }

    /// A reader finds the sockets if the directory is mounted under another name, as in a container.
    #[test]
    fn what_agents_read_holds_where_the_directory_is_called_otherwise() {
        let parent = tempdir();
        let (dir, elsewhere) = (parent.path().join("varta"), parent.path().join("mounted"));
        let apart = tempdir();
        let mut run = RunDir::open(&dir).unwrap();
        create_dir(&dir.join("deep"));
        // In the directory, below it, in it by another path, and in another directory.
        symlink(&dir, parent.path().join("alias")).unwrap();
        let names = ["varta/a.sock", "varta/deep/b.sock", "alias/c.sock"];
        let mut paths: Vec<_> = names.iter().map(|name| parent.path().join(name)).collect();
        paths.push(apart.path().join("d.sock"));
        let bound: Vec<_> =
            paths.iter().map(|path| run.bind_shard(path, 0o600, Owner::default()).unwrap()).collect();
        run.publish(&paths).unwrap();
        let sockets = |dir: &Path| -> Vec<_> {
            Manifest::read(dir).unwrap().shards.into_iter().map(|shard| shard.socket).collect()
        };
        let expected =
            |dir: &Path| [dir.join("a.sock"), dir.join("deep/b.sock"), dir.join("c.sock"), paths[3].clone()];
        assert_eq!(sockets(&dir), expected(&dir));
        std::fs::rename(&dir, &elsewhere).unwrap();
        assert_eq!(sockets(&elsewhere), expected(&elsewhere));
        for socket in sockets(&elsewhere).into_iter().chain([elsewhere.join(SYMLINK)]) {
            UnixDatagram::unbound().unwrap().send_to(b"beat", socket).unwrap();
        }
        drop(bound);
    }

    #[test]
    fn second_observer_is_told_who_holds_the_lock() {
        let dir = tempdir();
        let first = RunDir::open(dir.path()).unwrap();
        let error = RunDir::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let pid = std::process::id();
        assert!(
            error.to_string().starts_with(&format!("another observer (pid {pid}) is already running in /"))
        );
        assert!(matches!(error, RunDirError::Busy { holder: Some(holder), .. } if holder == pid));
        drop(first);
        // The pid of an exited process is not used: only the lock counts.
        std::fs::write(dir.path().join(LOCK), "1\n and more text than ever belongs here").unwrap();
        let _second = RunDir::open(dir.path()).unwrap();
        assert!(
            matches!(RunDir::open(dir.path()), Err(RunDirError::Busy { holder: Some(holder), .. }) if holder == pid)
        );
        std::fs::write(dir.path().join(LOCK), "").unwrap();
        assert!(matches!(RunDir::open(dir.path()), Err(RunDirError::Busy { holder: None, .. })));
    }

    #[test]
    fn lock_outlives_the_removal_of_its_file_only_for_its_holder() {
        let dir = tempdir();
        let _first = RunDir::open(dir.path()).unwrap();
        std::fs::rename(dir.path().join(LOCK), dir.path().join("moved")).unwrap();
        // The lock cannot prevent this, but the sockets still protect themselves.
        let (second, path) = (RunDir::open(dir.path()).unwrap(), dir.path().join("s.sock"));
        let _bound = second.bind_shard(&path, 0o600, Owner::default()).unwrap();
        assert!(matches!(binding::bind(&path, 0o600), Err(BindError::InUse { .. })));
    }

    #[test]
    fn lock_must_be_a_regular_file() {
        for make in [
            (|path| symlink("elsewhere", path).unwrap()) as fn(&Path),
            |path| std::fs::create_dir(path).unwrap(),
            |path| rustix::fs::mkfifoat(CWD, path, LOCK_MODE).unwrap(),
            |path| drop(UnixDatagram::bind(path).unwrap()),
        ] {
            let dir = tempdir();
            make(&dir.path().join(LOCK));
            let (error, all) = problems(dir.path());
            assert!(matches!(error, RunDirError::InTheWay { .. }), "{error}");
            assert!(matches!(all[..], [RunDirError::InTheWay { .. }]), "{all:?}");
            assert_eq!(names_in(dir.path()), ["lock"]);
        }
    }

    #[test]
    fn directory_others_can_write_to_is_refused() {
        for mode in [0o775, 0o757, 0o777, 0o1777] {
            let parent = tempdir();
            let dir = parent.path().join("varta");
            create_dir(&dir);
            chmod(&dir, mode);
            let (error, all) = problems(&dir);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("(mode {mode:04o})")), "{error}");
            assert!(matches!(all[..], [RunDirError::Writable { .. }]), "{all:?}");
            assert!(names_in(&dir).is_empty());
        }
    }

    #[test]
    fn parents_are_judged_only_by_what_everybody_may_do() {
        let parent = tempdir();
        let dir = parent.path().join("middle/varta");
        create_dir(dir.parent().unwrap());
        create_dir(&dir);
        for (mode, is_exposed) in [(0o755, false), (0o775, false), (0o1777, false), (0o777, true)] {
            chmod(parent.path(), mode);
            let all = inspect(&dir);
            assert_eq!(
                matches!(all[..], [RunDirError::ExposedParent { .. }]),
                is_exposed,
                "{mode:o} {all:?}"
            );
            assert_eq!(RunDir::open(&dir).is_err(), is_exposed, "{mode:o}");
        }
        assert!(RunDir::open(&parent.path().join("new")).is_err());
        assert!(!parent.path().join("new").exists(), "made where it may not be used");
        // Also a parent that is only above the target of a symlink.
        let linked = tempdir();
        symlink(parent.path().join("middle"), linked.path().join("alias")).unwrap();
        let (error, _) = problems(&linked.path().join("alias/varta"));
        assert!(
            matches!(&error, RunDirError::ExposedParent { parent: found, .. } if found == parent.path()),
            "{error}"
        );
    }

    #[test]
    fn foreign_directories_and_symlinks_are_refused_and_ours_taken() {
        let parent = tempdir();
        let dir = parent.path().join("varta");
        create_dir(&dir);
        let alias = parent.path().join("alias");
        symlink(&dir, &alias).unwrap();
        let mut run = RunDir::open(&alias).unwrap();
        let (_bound, paths) = bind_all(&run, 1);
        run.publish(&paths).unwrap();
        for name in [&dir, &alias] {
            assert_eq!(Manifest::read(name).unwrap().socket_for(0), name.join("shard-0.sock"));
        }
        drop(run);
        symlink("nowhere", parent.path().join("dangling")).unwrap();
        assert!(RunDir::open(&parent.path().join("dangling")).is_err());
        assert!(!parent.path().join("nowhere").exists());

        // Files of another user can be made only by root.
        if rustix::process::geteuid().is_root() {
            let stranger = Some(Uid::from_raw(1234));
            rustix::fs::chownat(CWD, &alias, stranger, None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let (error, all) = problems(&alias);
            assert!(matches!(error, RunDirError::ForeignSymlink { uid: 1234, .. }), "{error}");
            assert!(matches!(all[..], [RunDirError::ForeignSymlink { .. }]), "{all:?}");
            rustix::fs::chownat(CWD, &dir, stranger, None, AtFlags::empty()).unwrap();
            let (error, all) = problems(&dir);
            assert!(matches!(error, RunDirError::ForeignOwner { uid: 1234, .. }), "{error}");
            assert!(matches!(all[..], [RunDirError::ForeignOwner { .. }]), "{all:?}");
        } else {
            assert!(is_trusted(0) && !is_trusted(rustix::process::geteuid().as_raw() + 1));
        }
    }

    #[test]
    fn all_problems_are_told_at_once_and_nothing_is_changed() {
        let parent = tempdir();
        chmod(parent.path(), 0o777);
        let dir = parent.path().join("varta");
        create_dir(&dir);
        chmod(&dir, 0o777);
        std::fs::create_dir(dir.join(LOCK)).unwrap();
        std::fs::create_dir(dir.join(MANIFEST)).unwrap();
        std::fs::write(dir.join(SYMLINK), "precious").unwrap();
        let all = inspect(&dir);
        let told: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), 5, "{told:#?}");
        assert_eq!(names_in(&dir), [MANIFEST, LOCK, SYMLINK]);
        assert_eq!(mode_of(&dir), 0o777);
        for message in told {
            assert!(message.contains("; ") && !message.ends_with('.'), "{message}");
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let parent = tempdir();
        let file = parent.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        let (error, all) = problems(&file);
        assert!(matches!(error, RunDirError::NotADirectory { .. }), "{error}");
        assert!(matches!(all[..], [RunDirError::NotADirectory { .. }]), "{all:?}");
        let (error, all) = problems(&parent.path().join("absent/varta"));
        assert!(matches!(error, RunDirError::Create { .. }), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(matches!(all[..], [RunDirError::Create { .. }]), "{all:?}");
    }

    #[test]
    fn not_being_allowed_is_a_permission_error() {
        let parent = tempdir();
        let (dir, absent) = (parent.path().join("varta"), parent.path().join("absent"));
        create_dir(&dir);
        chmod(&dir, 0o555);
        chmod(parent.path(), 0o555);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if rustix::process::geteuid().is_root() {
                    let nobody = Uid::from_raw(65534);
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                for dir in [&dir, &absent] {
                    let (error, all) = problems(dir);
                    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                    assert_eq!(all.len(), 1, "{all:?}");
                    assert_eq!(all[0].kind(), io::ErrorKind::PermissionDenied, "{all:?}");
                }
            });
        });
        chmod(parent.path(), 0o755);
    }

    #[test]
    fn symlink_is_replaced_but_nothing_else_is() {
        let dir = tempdir();
        let alias = dir.path().join(SYMLINK);
        symlink("left-by-a-crash", &alias).unwrap();
        symlink("left-by-a-crash", dir.path().join(SYMLINK_NEW)).unwrap();
        std::fs::write(dir.path().join(MANIFEST_NEW), "left by a crash").unwrap();
        std::fs::write(dir.path().join(MANIFEST), "left by a crash").unwrap();
        let mut run = RunDir::open(dir.path()).unwrap();
        let (_bound, paths) = bind_all(&run, 2);
        run.publish(&paths).unwrap();
        run.publish(&paths).unwrap();
        assert_eq!(std::fs::read_link(&alias).unwrap(), Path::new("shard-0.sock"));
        assert_eq!(
            names_in(dir.path()),
            [
                ".shard-0~xxx",
                ".shard-1~xxx",
                "fleet.json",
                "lock",
                "shard-0.sock",
                "shard-1.sock",
                "varta.sock"
            ]
        );
        run.withdraw();
        let bound = [".shard-0~xxx", ".shard-1~xxx", "lock", "shard-0.sock", "shard-1.sock"];
        assert_eq!(names_in(dir.path()), bound);

        std::fs::write(&alias, "precious").unwrap();
        let error = run.publish(&paths).unwrap_err();
        assert!(matches!(error, RunDirError::InTheWay { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&alias).unwrap(), "precious");
        assert!(!dir.path().join(MANIFEST).exists(), "half a publication");
    }

    #[test]
    fn no_symlink_where_a_shard_is_bound() {
        let dir = tempdir();
        let mut run = RunDir::open(dir.path()).unwrap();
        let own = dir.path().join(SYMLINK);
        let bound = run.bind_shard(&own, 0o600, Owner::default()).unwrap();
        // The same path, written differently.
        let alias = tempdir();
        symlink(dir.path(), alias.path().join("d")).unwrap();
        for written in [own.clone(), alias.path().join("d").join(SYMLINK)] {
            run.publish(&[socket_path(dir.path(), 0), written]).unwrap();
            assert_eq!(mode_of(&own), 0o600);
            UnixDatagram::unbound().unwrap().send_to(b"beat", &own).unwrap();
        }
        assert!(inspect(dir.path()).is_empty());
        drop(run);
        assert_eq!(names_in(dir.path()), [".varta~xxx", "lock", "varta.sock"]);
        drop(bound);
        assert_eq!(names_in(dir.path()), ["lock"]);
    }

    #[test]
    fn only_our_own_files_are_withdrawn() {
        let dir = tempdir();
        let mut run = RunDir::open(dir.path()).unwrap();
        let (_bound, paths) = bind_all(&run, 1);
        run.publish(&paths).unwrap();
        for name in [MANIFEST, SYMLINK] {
            std::fs::write(dir.path().join("theirs"), "theirs").unwrap();
            std::fs::rename(dir.path().join("theirs"), dir.path().join(name)).unwrap();
        }
        drop(run);
        for name in [MANIFEST, SYMLINK] {
            assert_eq!(std::fs::read_to_string(dir.path().join(name)).unwrap(), "theirs");
        }
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_and_nothing_alike() {
        let dir = tempdir();
        let path = |name: &str| dir.path().join(name);
        drop(UnixDatagram::bind(path(".shard-0~abc")).unwrap());
        drop(UnixDatagram::bind(path("shard-0.sock")).unwrap());
        // A process that another test forks holds a copy of the descriptor until it executes its program.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while UnixDatagram::unbound().unwrap().connect(path(".shard-0~abc")).is_ok() {
            assert!(std::time::Instant::now() < until, "somebody holds the leftover open");
            std::thread::yield_now();
        }
        let _live = UnixDatagram::bind(path(".shard-1~abc")).unwrap();
        std::fs::write(path(".notes~abc"), "precious").unwrap();
        symlink("shard-0.sock", path(".alias-0~abc")).unwrap();
        let _run = RunDir::open(dir.path()).unwrap();
        assert_eq!(
            names_in(dir.path()),
            [".alias-0~xxx", ".notes~xxx", ".shard-1~xxx", "lock", "shard-0.sock"]
        );
    }

    #[test]
    fn what_was_published_is_written_again_where_it_was_removed_and_left_where_it_was_replaced() {
        let dir = tempdir();
        let mut run = RunDir::open(dir.path()).unwrap();
        let (_bound, paths) = bind_all(&run, 2);
        run.publish(&paths).unwrap();
        assert!(!run.look_after().unwrap());
        let path = |name: &str| dir.path().join(name);
        for name in [MANIFEST, SYMLINK] {
            std::fs::remove_file(path(name)).unwrap();
            assert!(run.look_after().unwrap());
            assert!(!run.look_after().unwrap());
        }
        assert_eq!(Manifest::read(dir.path()).unwrap(), Manifest::new(&paths, std::process::id()));
        assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("shard-0.sock"));

        // One is replaced, the other removed: only the removed one is written again.
        std::fs::remove_file(path(SYMLINK)).unwrap();
        symlink("theirs", path(SYMLINK)).unwrap();
        std::fs::remove_file(path(MANIFEST)).unwrap();
        let error = run.look_after().unwrap_err();
        assert_eq!(error.errno(), libc::EEXIST);
        assert!(error.to_string().contains("varta.sock is in the way"), "{error}");
        assert!(path(MANIFEST).exists());
        assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("theirs"));

        // Nothing is written to a directory in which others could replace it.
        std::fs::remove_file(path(MANIFEST)).unwrap();
        chmod(dir.path(), 0o777);
        let error = run.look_after().unwrap_err();
        assert!(matches!(error, RunDirError::Writable { .. }), "{error}");
        chmod(dir.path(), 0o755);
        drop(run);
        assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("theirs"));
    }

    #[test]
    fn a_lock_that_was_removed_is_taken_again_unless_somebody_else_has_it() {
        let parent = tempdir();
        let dir = parent.path().join("varta");
        let mut run = RunDir::open(&dir).unwrap();
        assert!(!run.hold().unwrap());
        std::fs::remove_file(dir.join(LOCK)).unwrap();
        assert!(run.hold().unwrap());
        assert!(!run.hold().unwrap());
        assert!(matches!(RunDir::open(&dir), Err(RunDirError::Busy { .. })));

        // Another directory must be as safe as the first.
        std::fs::rename(&dir, parent.path().join("aside")).unwrap();
        let error = run.hold().unwrap_err();
        assert_eq!(error.errno(), libc::ENOENT, "{error}");
        create_dir(&dir);
        chmod(&dir, 0o777);
        assert!(matches!(run.hold(), Err(RunDirError::Writable { .. })));
        chmod(&dir, 0o755);
        let other = RunDir::open(&dir).unwrap();
        assert_eq!(run.hold().unwrap_err().errno(), libc::EADDRINUSE);
        drop(other);
        assert!(run.hold().unwrap());
        assert!(matches!(RunDir::open(&dir), Err(RunDirError::Busy { .. })));
    }
}
