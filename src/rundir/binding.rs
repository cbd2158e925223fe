//! Binds a socket path: with the right mode from the first moment, without replacing a live socket or
//! removing a foreign file.
//!
//! The socket is bound to a temporary name beside the path, gets its mode there, and then takes the path in
//! one step: by link(2) if the path is free (EEXIST: another process was faster), by rename(2) over a stale
//! socket. So agents see the old socket or the new one, never none and never one they may not connect to.
//! Whether a socket is stale is found by connecting to it: ECONNREFUSED means that no process has it open.
//!
//! A socket whose path is removed still serves connected agents, but no agent can connect to it any more;
//! once its last name is removed the kernel gives it no new one. So a fleet's sockets keep the temporary name
//! as a spare, from which the path can be restored.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::message::{Reason, Shown};
use crate::rundir::tenure::Tenure;
use crate::sys::unix_socket::{self, PATH_BYTES_MAX};

/// A temporary name begins with a dot, so that `rm *` does not match it, and ends in this and [`TAG_BYTES`]
/// random characters.
const TAG_MARK: u8 = b'~';
const TAG_BYTES: usize = 3;
/// The shortest name whose temporary names can be recognised.
const NAME_BYTES_MIN: usize = TAG_BYTES + 2;
/// Names to try before giving up; only names of one or two bytes ever need several.
const NAMES_MAX: u64 = 64;
/// How often another process may change the path during a bind before it fails.
const ROUNDS_MAX: usize = 16;
/// How long to wait for others that replace a stale socket in the same directory, which takes microseconds.
const LOCK_PATIENCE: (u32, Duration) = (200, Duration::from_millis(1));

/// Owner of a socket file. `None`: as the kernel creates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Receives datagrams.
    Receiver,
    /// Receives datagrams with descriptors.
    Notify,
    /// Accepts connections.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP has one"))]
    Listener,
    /// Accepts connections of successors, whose messages are whole.
    Takeover,
}

impl Kind {
    const fn takes_datagrams(self) -> bool {
        matches!(self, Self::Receiver | Self::Notify)
    }
}

/// The file that a name led to. Unlike a name, it does not refer to another file as long as the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Device of the file system.
    pub dev: u64,
    /// Inode in it.
    pub inode: u64,
}

impl FileId {
    /// No file has it.
    const NONE: Self = Self { dev: 0, inode: 0 };
}

impl From<&Stat> for FileId {
    fn from(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, inode: stat.st_ino }
    }
}

/// A socket at its path. Dropping it removes the path if it still leads to this socket, unless the socket was
/// passed to this process: whoever passed it keeps it open, so that senders queue there until the next start. As long as
/// it is another observer's, dropping it removes nothing.
#[derive(Debug)]
pub struct BoundSocket {
    kind: Kind,
    fd: Arc<OwnedFd>,
    path: PathBuf,
    file_id: FileId,
    queue_limit: u32,
    spare: Option<Spare>,
    /// The path stays when this is dropped: another process keeps the socket open.
    stays: bool,
    tenure: Tenure,
}

/// From which a removed path is restored.
#[derive(Debug)]
struct Spare {
    /// The socket's file, whatever its names; it can be linked as long as it has one.
    file: OwnedFd,
    /// A name that no agent uses.
    name: PathBuf,
}

impl BoundSocket {
    /// The socket, for the thread that uses it.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `net.unix.max_dgram_qlen` when the socket was created: its queue holds one datagram more. 0 for a
    /// listener, and for a passed socket: its limit has to be found out.
    pub fn queue_limit(&self) -> u32 {
        self.queue_limit
    }

    /// A socket that was passed to this process, to be found at `path`. Until [`BoundSocket::found_at`] is
    /// called, nothing is at its path.
    pub fn passed(fd: OwnedFd, path: PathBuf, kind: Kind) -> Self {
        let (file_id, queue_limit) = (FileId::NONE, 0);
        Self {
            kind,
            fd: Arc::new(fd),
            path,
            file_id,
            queue_limit,
            spare: None,
            stays: true,
            tenure: Tenure::default(),
        }
    }

    /// As [`BoundSocket::passed`], of a socket whose file and queue limit are known from an observer before this
    /// one.
    pub fn known(fd: OwnedFd, path: PathBuf, kind: Kind, file_id: FileId, queue_limit: u32) -> Self {
        let mut socket = Self::passed(fd, path, kind);
        (socket.file_id, socket.queue_limit) = (file_id, queue_limit);
        socket
    }

    /// As long as the files are another observer's, dropping this removes nothing. `stays`: whether the path stays
    /// otherwise.
    pub fn held_by(&mut self, tenure: &Tenure, stays: bool) {
        (self.tenure, self.stays) = (tenure.clone(), stays);
    }

    /// Keeps the path when this is dropped: the socket outlives this process.
    pub fn keep_path(&mut self) {
        self.stays = true;
    }

    /// The file at its path.
    pub fn file_id(&self) -> FileId {
        self.file_id
    }

    /// Whether it was passed to this process, and its path stays.
    pub const fn stays(&self) -> bool {
        self.stays
    }

    /// The path, and the temporary names beside it, which an observer before this one may have left.
    pub fn names(&self) -> Vec<PathBuf> {
        let mut names = vec![self.path.clone()];
        if let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) {
            names.extend(temporary_names_of(directory, name));
        }
        names
    }

    /// Takes the file that `name` leads to for this socket's, keeps a spare of it, and removes other spares.
    /// If the path is missing, [`BoundSocket::put_back`] restores it.
    ///
    /// # Errors
    /// The kernel's, if the file cannot be opened.
    pub fn found_at(&mut self, name: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(name, flags, Mode::empty())?;
        self.file_id = FileId::from(&rustix::fs::fstat(&file)?);
        let mut spares =
            self.names().into_iter().skip(1).filter(|spare| self.is_at(spare)).collect::<Vec<_>>();
        let kept = spares.pop();
        for surplus in spares {
            let _ = rustix::fs::unlink(&surplus);
        }
        self.spare = Some(Spare { file, name: kept.unwrap_or_default() });
        self.renew_spare();
        Ok(())
    }

    /// Removes the path, unless another socket or file has taken its place or the path stays, and the spare.
    /// Returns whether the path was removed.
    ///
    /// Call this before the socket is closed: until then no other process that probes the path takes it.
    pub fn unlink_if_ours(&self) -> bool {
        if self.tenure.is_anothers() {
            return false;
        }
        // The last name of a socket that lives on must not go.
        let may_go = !self.stays || self.is_in_place();
        if let Some(spare) = self.spare.as_ref().filter(|spare| may_go && self.is_at(&spare.name)) {
            let _ = rustix::fs::unlink(&spare.name);
        }
        !self.stays && self.is_in_place() && rustix::fs::unlink(&self.path).is_ok()
    }

    /// Whether the path leads to this socket. One system call.
    pub fn is_in_place(&self) -> bool {
        self.is_at(&self.path)
    }

    /// Whether `path` leads to this socket. One system call.
    pub fn is_at(&self, path: &Path) -> bool {
        rustix::fs::lstat(path).is_ok_and(|stat| FileId::from(&stat) == self.file_id)
    }

    /// Restores the socket's path as [`bind`] took it: if it is free, or over a stale socket. Does not check
    /// whether the directory is safe.
    ///
    /// # Errors
    /// As [`bind`]; `Nameless` if it is no longer possible.
    pub fn put_back(&self) -> Result<(), BindError> {
        if self.is_in_place() {
            return Ok(());
        }
        let nameless = || BindError::Nameless { path: self.path.clone() };
        let Some(spare) = &self.spare else { return Err(nameless()) };
        take_path(&self.path, self.kind, |to| spare.link_to(to)).map(drop).map_err(|error| match error {
            BindError::Refused { .. } if spare.is_nameless() => nameless(),
            other => other,
        })
    }

    /// Creates the spare again if it was removed. One system call if not. If it cannot be created, a removed
    /// path cannot be restored, and that is reported when it happens.
    pub fn renew_spare(&mut self) {
        let Some(spare) = &self.spare else { return };
        if self.is_at(&spare.name) {
            return;
        }
        if let Ok(name) = link_beside(&self.path, |to| spare.link_to(to))
            && let Some(spare) = &mut self.spare
        {
            spare.name = name;
        }
    }
}

impl Spare {
    /// Adds one more name to the file.
    fn link_to(&self, path: &Path) -> Result<(), Errno> {
        // Through /proc, since linking a descriptor itself requires a privilege.
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, file, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }

    fn is_nameless(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        self.unlink_if_ours();
    }
}

/// Why a path could not be bound. What was at the path is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Agents could not connect to a path of this length.
    #[error(
        "cannot bind {}: the path has {} bytes, and {PATH_BYTES_MAX} is the limit for sockets; choose a shorter one",
        Shown(path.display()), path.as_os_str().len()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The path does not end in a file name, or contains a NUL.
    #[error("cannot bind {path:?}: it names no file; give the path of a socket")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A live socket is there.
    #[error("another observer is already running at {}; stop it, or choose another path", Shown(path.display()))]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something other than a replaceable socket is there.
    #[error("cannot bind {}: {what} is in the way; remove it, or choose another path", Shown(path.display()))]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: InTheWay,
    },
    /// Whether the socket that is there is live could not be found out.
    #[error(
        "cannot tell whether an observer is running at {}: {}; nothing was removed; run as its owner, or remove it",
        Shown(path.display()), Reason(source)
    )]
    Probe {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Other processes kept binding and removing the same path, or kept its directory locked.
    #[error("cannot bind {}: other processes are binding it at the same time; let one of them finish", Shown(path.display()))]
    Contended {
        /// The path.
        path: PathBuf,
    },
    /// Every name of the socket was removed.
    #[error(
        "cannot put {} back: every name of the socket was removed, and the kernel cannot give it a new one; restart \
         the observer, or the .socket unit if there is one; until then it observes the agents that are connected",
        Shown(path.display())
    )]
    Nameless {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot bind {}: {}{}", Shown(path.display()), Reason(source), advice(source))]
    Refused {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// What is in the way of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InTheWay {
    /// A symlink, dangling or not.
    Symlink,
    /// A directory.
    Directory,
    /// A live socket of the other kind.
    OtherSocket,
    /// A regular file, device or pipe.
    File,
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symlink => "a symlink",
            Self::Directory => "a directory",
            Self::OtherSocket => "a live socket of another program",
            Self::File => "a file that is not a socket",
        })
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create its directory first",
        // From chown(2) and chmod(2); bind(2) returns EACCES.
        _ if error.raw_os_error() == Some(libc::EPERM) => {
            "; name a group that this user is in, or run as root"
        }
        io::ErrorKind::PermissionDenied => "; run as a user who may write to its directory",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a path on a writable file system",
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "; raise the limit of open files (ulimit -n, LimitNOFILE=), or use fewer shards"
        }
        _ => "",
    }
}

impl BindError {
    /// The kind of error the standard library would report: `AddrInUse` for a live socket, `PermissionDenied`
    /// if this process may not probe or not write, and so on.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::PathTooLong { .. } | Self::NoName { .. } => io::ErrorKind::InvalidInput,
            Self::InUse { .. } | Self::Contended { .. } => io::ErrorKind::AddrInUse,
            Self::InTheWay { .. } => io::ErrorKind::AlreadyExists,
            Self::Nameless { .. } => io::ErrorKind::NotFound,
            Self::Probe { source, .. } | Self::Refused { source, .. } => source.kind(),
        }
    }

    /// The error number closest to this error.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::PathTooLong { .. } => libc::ENAMETOOLONG,
            Self::NoName { .. } => libc::EINVAL,
            Self::InUse { .. } | Self::Contended { .. } => libc::EADDRINUSE,
            Self::InTheWay { .. } => libc::EEXIST,
            Self::Nameless { .. } => libc::ENOENT,
            Self::Probe { source, .. } | Self::Refused { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
        }
    }
}

/// Binds a receiving socket to `path` with exactly the permission bits of `mode`, replacing a stale socket
/// there.
///
/// Waits at most a fifth of a second, and only for others that replace a stale socket in the same directory.
/// Does not change the umask, and does not check whether the directory is safe.
///
/// # Errors
/// See [`BindError`]. Nothing is left behind then.
pub fn bind(path: &Path, mode: u32) -> Result<BoundSocket, BindError> {
    let (socket, _) = bind_whole(path, Kind::Receiver, mode, Owner::default())?;
    Ok(socket)
}

/// As [`bind`], for either kind, and for another owner, set before the path exists; and with a spare for
/// [`BoundSocket::put_back`], unless the name is too short for one. A listener listens before it is at its
/// path.
///
/// # Errors
/// As [`bind`].
pub fn bind_as(path: &Path, kind: Kind, mode: u32, owner: Owner) -> Result<BoundSocket, BindError> {
    let (mut socket, temporary) = bind_whole(path, kind, mode, owner)?;
    socket.spare = temporary.keep();
    Ok(socket)
}

/// Also returns the temporary name, which still exists.
fn bind_whole(
    path: &Path,
    kind: Kind,
    mode: u32,
    owner: Owner,
) -> Result<(BoundSocket, Temporary), BindError> {
    let refused = |source: io::Error| BindError::Refused { path: path.to_owned(), source };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > PATH_BYTES_MAX {
        return Err(BindError::PathTooLong { path: path.to_owned() });
    }
    let is_name = !bytes.contains(&0) && !bytes.ends_with(b"/") && !bytes.ends_with(b"/.");
    if path.file_name().is_none() || !is_name {
        return Err(BindError::NoName { path: path.to_owned() });
    }
    let absolute = std::path::absolute(path).map_err(refused)?;
    probe(path, kind)?; // before anything is created
    let (fd, queue_limit) = match kind {
        Kind::Receiver => unix_socket::open_receiver(),
        Kind::Notify => unix_socket::open_notify_receiver(),
        Kind::Listener => unix_socket::open_connected(SocketType::STREAM).map(|fd| (fd, 0)),
        Kind::Takeover => unix_socket::open_connected(SocketType::SEQPACKET).map(|fd| (fd, 0)),
    }
    .map_err(refused)?;
    let temporary = Temporary::bind(&fd, path, mode, owner).map_err(refused)?;
    if !kind.takes_datagrams() {
        unix_socket::listen(fd.as_fd()).map_err(refused)?;
    }
    take_path(path, kind, |to| rustix::fs::link(&temporary.path, to))?;
    let file_id = temporary.file_id;
    let socket = BoundSocket {
        kind,
        fd: Arc::new(fd),
        path: absolute,
        file_id,
        queue_limit,
        spare: None,
        stays: false,
        tenure: Tenure::default(),
    };
    Ok((socket, temporary))
}

/// Gives `path` to a socket, if it is free or holds a stale socket. `link` links the socket to the path it is
/// passed.
fn take_path(path: &Path, kind: Kind, link: impl Fn(&Path) -> Result<(), Errno>) -> Result<(), BindError> {
    let refused = |errno: Errno| BindError::Refused { path: path.to_owned(), source: errno.into() };
    for _ in 0..ROUNDS_MAX {
        match probe(path, kind)? {
            Found::Nothing => match link(path) {
                Err(Errno::EXIST) => continue,
                other => other.map_err(refused)?,
            },
            stale @ Found::Stale(_) => {
                // Two processes that both saw it stale must not rename over each other.
                let _lock = lock_directory(path)?;
                if probe(path, kind)? != stale {
                    continue;
                }
                let step = link_beside(path, &link).map_err(refused)?;
                if let Err(errno) = rustix::fs::rename(&step, path) {
                    let _ = rustix::fs::unlink(&step);
                    return Err(refused(errno));
                }
            }
        }
        return Ok(());
    }
    Err(BindError::Contended { path: path.to_owned() })
}

/// Links to a free temporary name beside `path`.
fn link_beside(path: &Path, link: impl Fn(&Path) -> Result<(), Errno>) -> Result<PathBuf, Errno> {
    for name in temporary_names(path) {
        match link(&name) {
            Err(Errno::EXIST) => {} // in use, or left by a crash
            other => return other.map(|()| name),
        }
    }
    Err(Errno::EXIST)
}

/// Removes temporary names beside `path` that a crash left behind and no process has open. Only the owner of
/// `path` may call this: no other process creates such names. Names that cannot be removed do no harm.
pub fn remove_leftovers_of(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    for leftover in temporary_names_of(directory, name) {
        remove_if_stale(&leftover);
    }
}

/// The temporary names of `name` that exist in `directory`.
fn temporary_names_of(directory: &Path, name: &OsStr) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let is_of_it = |found: &OsStr| is_temporary_name_of(found, name);
    entries.flatten().filter(|entry| is_of_it(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// Whether `found` is a temporary name of `name`.
pub fn is_temporary_name_of(found: &OsStr, name: &OsStr) -> bool {
    recognised_by(name).is_some_and(|alike| {
        is_temporary(found) && found.as_bytes().starts_with(&alike) && found.len() == name.len()
    })
}

/// Removes a socket that no process has open.
pub fn remove_if_stale(path: &Path) {
    if let Ok(Found::Stale(found)) = probe(path, Kind::Receiver)
        && rustix::fs::lstat(path).is_ok_and(|stat| FileId::from(&stat) == found)
    {
        let _ = rustix::fs::unlink(path);
    }
}

/// Whether `name` is a temporary name, which [`bind`] removes and [`bind_as`] keeps. A crash may leave such a
/// socket behind.
pub fn is_temporary(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= NAME_BYTES_MIN && bytes[0] == b'.' && bytes[bytes.len() - TAG_BYTES - 1] == TAG_MARK
}

/// What a path that can be bound may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A socket that no process has open.
    Stale(FileId),
}

/// Checks for everything that would keep an observer from binding `path`. Changes nothing, sends nothing,
/// does not block.
///
/// # Errors
/// [`BindError`]; `InUse` if an observer is running there.
pub fn inspect(path: &Path) -> Result<(), BindError> {
    probe(path, Kind::Receiver).map(drop)
}

/// Whether a live socket of this kind is at `path`.
pub fn is_live(path: &Path, kind: Kind) -> bool {
    matches!(probe(path, kind), Err(BindError::InUse { .. }))
}

/// Checks `path`, where a socket of this kind is to be bound, without following a symlink, sending anything,
/// or blocking. A socket that no process has open is stale, whatever its kind was.
///
/// # Errors
/// [`BindError`] for everything that may not be replaced.
pub fn probe(path: &Path, kind: Kind) -> Result<Found, BindError> {
    let unknown = |source: io::Error| BindError::Probe { path: path.to_owned(), source };
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(errno) => return Err(unknown(errno.into())),
    };
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => match unix_socket::connect_probe(path) {
            Ok(()) if kind.takes_datagrams() => return Err(BindError::InUse { path: path.to_owned() }),
            Ok(()) => InTheWay::OtherSocket,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Ok(Found::Stale(FileId::from(&stat)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => match kind {
                Kind::Receiver | Kind::Notify => InTheWay::OtherSocket,
                Kind::Listener | Kind::Takeover => return Err(BindError::InUse { path: path.to_owned() }),
            },
            Err(error) => return Err(unknown(error)),
        },
        FileType::Symlink => InTheWay::Symlink,
        FileType::Directory => InTheWay::Directory,
        _ => InTheWay::File,
    };
    Err(BindError::InTheWay { path: path.to_owned(), what })
}

/// A socket's file under a temporary name. Dropping it removes that name.
struct Temporary {
    path: PathBuf,
    file_id: FileId,
    file: Option<OwnedFd>,
}

impl Temporary {
    /// Binds `fd` beside `path` under a free name of the same length, with mode and owner set.
    fn bind(fd: &OwnedFd, path: &Path, mode: u32, owner: Owner) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        // The file gets the mode of the descriptor less the umask: never too many bits.
        rustix::fs::fchmod(fd, mode)?;
        let mut last = Errno::ADDRINUSE.into();
        for path in temporary_names(path) {
            match unix_socket::bind(fd.as_fd(), &path) {
                Ok(()) => return Self::finish(path, mode, owner),
                // In use, or left by a crash.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn finish(path: PathBuf, mode: Mode, owner: Owner) -> io::Result<Self> {
        // From here on, drop removes the name after an error.
        let mut temporary = Self { path, file_id: FileId { dev: 0, inode: 0 }, file: None };
        // Through a descriptor, since chmod(2) follows symlinks; with O_PATH, since a socket cannot be opened
        // (ENXIO).
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&temporary.path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        temporary.file_id = FileId::from(&stat);
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        if uid.is_some() || gid.is_some() {
            rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if Mode::from_raw_mode(stat.st_mode) != mode {
            // fchmod(2) refuses an O_PATH descriptor; the path in /proc is the documented way.
            rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
        }
        temporary.file = Some(file);
        Ok(temporary)
    }

    /// Keeps the name, if it can be recognised after a crash.
    fn keep(mut self) -> Option<Spare> {
        self.path.file_name().filter(|name| is_temporary(name))?;
        let file = self.file.take()?;
        let name = mem::take(&mut self.path);
        Some(Spare { file, name })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // bind(2) created it, so it belongs to this process. If it cannot be removed, it does no harm.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Names beside `path`, to be tried one after another.
fn temporary_names(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().unwrap_or_default();
    let random = RandomState::new();
    let names = (0..NAMES_MAX).map(move |attempt| temporary_name(name, random.hash_one(attempt)));
    names.filter(move |candidate| candidate != name).map(|candidate| path.with_file_name(candidate))
}

/// How temporary names of `name` begin. `None`: too short to be recognised.
fn recognised_by(name: &OsStr) -> Option<Vec<u8>> {
    let kept = name.len().checked_sub(NAME_BYTES_MIN)?;
    Some([b".", &name.as_bytes()[..kept], &[TAG_MARK]].concat())
}

/// As long as `name`, so that it fits wherever that fits, and similar, so that ss(8) shows the shard: a
/// socket keeps the name it was bound to. `shard-0.sock` becomes `.shard-0~k3f`.
fn temporary_name(name: &OsStr, random: u64) -> OsString {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = recognised_by(name).unwrap_or_default();
    let letters = random.to_ne_bytes();
    let letters = letters.iter().map(|random| ALPHABET[usize::from(*random) % ALPHABET.len()]);
    bytes.extend(letters.take(name.len() - bytes.len()));
    OsString::from_vec(bytes)
}

/// Locks the directory of `path` until the descriptor is dropped or the process exits.
fn lock_directory(path: &Path) -> Result<OwnedFd, BindError> {
    let refused = |errno: Errno| BindError::Refused { path: path.to_owned(), source: errno.into() };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty()).map_err(refused)?;
    let (times, pause) = LOCK_PATIENCE;
    for _ in 0..times {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(pause),
            Err(errno) => return Err(refused(errno)),
        }
    }
    Err(BindError::Contended { path: path.to_owned() })
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
