//! The receiving Unix datagram socket, with its options set before it is bound, or as soon as it was passed to
//! this process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Longest socket path in bytes. `sun_path` holds 108 and the kernel accepts all of them, but agents reserve
/// the last for the NUL as unix(7) advises, and could not connect.
pub const PATH_BYTES_MAX: usize = 107;

/// Sets the length of a datagram queue, less one, per network namespace.
const QUEUE_LIMIT: &str = "/proc/sys/net/unix/max_dgram_qlen";

/// Whether senders may attach descriptors. Linux 6.16; asm-generic, so the same number on x86_64 and aarch64.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Whether the kernel attaches a pidfd of the sender, for which there is no room. Linux 6.5; asm-generic, too.
const SO_PASSPIDFD: libc::c_int = 76;

/// Opens a shard's socket: datagrams, non-blocking, closed on exec, not bound yet.
///
/// The kernel will attach sender credentials and arrival stamps, and refuse descriptors with EPERM at the
/// sender if it can (otherwise [`Batch`](super::mmsg::Batch) leaves no room for them). The options are set
/// before the bind because a datagram queued before SO_PASSCRED was on carries pid 0 for ever.
///
/// Also returns `net.unix.max_dgram_qlen`, read just before the socket is created, which fixes it: the queue
/// holds one datagram more. SO_RCVBUF does nothing for Unix sockets (unix(7)).
///
/// # Errors
/// The kernel's; also if the queue limit cannot be read, since a full queue could not be detected then.
pub fn open_receiver() -> io::Result<(OwnedFd, u32)> {
    open_with(false)
}

/// As [`open_receiver`], a socket whose senders may attach descriptors. Receive from it with
/// [`MessageBatch`](super::mmsg::MessageBatch), which has room for them.
///
/// # Errors
/// As [`open_receiver`].
pub fn open_notify_receiver() -> io::Result<(OwnedFd, u32)> {
    open_with(true)
}

fn open_with(takes_fds: bool) -> io::Result<(OwnedFd, u32)> {
    let limit = queue_limit()?;
    let fd = datagram_socket()?;
    set_receiver_options(fd.as_fd(), takes_fds)?;
    Ok((fd, limit))
}

fn set_receiver_options(fd: BorrowedFd<'_>, takes_fds: bool) -> io::Result<()> {
    sockopt::set_socket_passcred(fd, true)?;
    set_option(fd, libc::SO_TIMESTAMPNS, true)?;
    // Whatever else the kernel can attach has no room.
    for (option, on) in [(SO_PASSRIGHTS, takes_fds), (SO_PASSPIDFD, false), (libc::SO_PASSSEC, false)] {
        match set_option(fd, option, on) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {} // an older kernel
            other => other?,
        }
    }
    Ok(())
}

/// What the kernel attached to the datagrams that a socket had queued before it was passed to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The sender of each.
    pub senders: bool,
    /// The arrival of each.
    pub arrivals: bool,
}

/// What the kernel attaches to the datagrams of this socket.
///
/// # Errors
/// The kernel's.
pub fn attested_of(fd: BorrowedFd<'_>) -> io::Result<Attested> {
    let senders = sockopt::socket_passcred(fd)?;
    Ok(Attested { senders, arrivals: is_option_set(fd, libc::SO_TIMESTAMPNS)? })
}

/// Makes a receiver of a datagram socket that was bound elsewhere: non-blocking, and with the options of
/// [`open_receiver`]. Returns what was attached to the datagrams queued so far.
///
/// # Errors
/// The kernel's.
pub fn adopt_receiver(fd: BorrowedFd<'_>) -> io::Result<Attested> {
    adopt_with(fd, false)
}

/// As [`adopt_receiver`], with the options of [`open_notify_receiver`].
///
/// # Errors
/// The kernel's.
pub fn adopt_notify_receiver(fd: BorrowedFd<'_>) -> io::Result<Attested> {
    adopt_with(fd, true)
}

fn adopt_with(fd: BorrowedFd<'_>, takes_fds: bool) -> io::Result<Attested> {
    let attested = attested_of(fd)?;
    rustix::io::ioctl_fionbio(fd, true)?;
    set_receiver_options(fd, takes_fds)?;
    Ok(attested)
}

/// What a passed descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Family and type; `None` if it is no socket.
    pub kind: Option<(AddressFamily, SocketType)>,
    /// It listens for connections.
    pub is_listening: bool,
    /// It is connected to another socket.
    pub is_connected: bool,
    /// The path that it was bound to.
    pub path: Option<PathBuf>,
}

/// Looks at a descriptor, whatever it is. Five system calls.
pub fn shape_of(fd: BorrowedFd<'_>) -> Shape {
    let kind = sockopt::socket_domain(fd).and_then(|family| Ok((family, sockopt::socket_type(fd)?)));
    let name = rustix::net::getsockname(fd).ok().and_then(|name| SocketAddrUnix::try_from(name).ok());
    let path = name.and_then(|name| {
        let bytes = name.path_bytes()?.to_vec();
        Some(PathBuf::from(OsString::from_vec(bytes)))
    });
    Shape {
        kind: kind.ok(),
        is_listening: sockopt::socket_acceptconn(fd).unwrap_or(false),
        is_connected: rustix::net::getpeername(fd).is_ok_and(|peer| peer.is_some()),
        path,
    }
}

/// Sends empty datagrams to the socket at `path` until one is refused because its queue is full, but at most
/// `max`. Returns how many were sent. Does not block.
///
/// # Errors
/// The kernel's, if the path leads to no datagram socket that this process may send to.
pub fn send_empty(path: &Path, max: u32) -> io::Result<u32> {
    let address = SocketAddrUnix::new(path)?;
    let mut sent = 0;
    loop {
        // The kernel also refuses what exceeds the send buffer of one socket, with the same error; but never
        // the first datagram of a new one.
        let sender = datagram_socket()?;
        rustix::net::connect(&sender, &address)?;
        let before = sent;
        while sent < max {
            match rustix::net::send(&sender, &[], SendFlags::DONTWAIT) {
                Ok(_) => sent += 1,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if sent == before || sent == max {
            return Ok(sent);
        }
    }
}

/// Opens a connection-mode socket, to listen on or to connect: non-blocking, closed on exec, not bound yet.
///
/// # Errors
/// The kernel's.
pub fn open_connected(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// The process at the other end of a connection, as it was when it connected or called listen(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process id here; `None` if it has none in this pid namespace.
    pub pid: Option<u32>,
    /// Its user id.
    pub uid: u32,
}

/// The process at the other end of a connection. Not by rustix, whose pid cannot be 0.
///
/// # Errors
/// The kernel's.
pub fn peer_of(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes: libc::socklen_t = 12;
    const _: () = assert!(size_of::<libc::ucred>() == 12);
    // SAFETY: `fd` is open while it is borrowed. getsockopt(2) writes at most `bytes` bytes at the pointer to
    // `found`, which has as many, and their number to `bytes`; both outlive the call.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut bytes,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { pid: u32::try_from(found.pid).ok().filter(|pid| *pid > 0), uid: found.uid })
}

/// Makes a bound socket listen. The kernel limits the backlog to `net.core.somaxconn`.
///
/// # Errors
/// The kernel's.
pub fn listen(fd: BorrowedFd<'_>) -> io::Result<()> {
    const BACKLOG: i32 = 1024;
    Ok(rustix::net::listen(fd, BACKLOG)?)
}

/// `net.unix.max_dgram_qlen` of this network namespace, as it is now.
///
/// # Errors
/// The file cannot be read, or contains no number.
pub fn queue_limit() -> io::Result<u32> {
    let text = std::fs::read_to_string(QUEUE_LIMIT).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("cannot read {QUEUE_LIMIT}: {error}; is /proc mounted?"))
        }
        // For instance no free descriptor, which is not about this file.
        _ => error,
    })?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{QUEUE_LIMIT} holds {:?}, not a number", text.trim()),
        )
    })
}

/// Binds the socket to a path, which must be free: a file there, even a dangling symlink, is EADDRINUSE.
///
/// The mode of the file is the mode of the descriptor (fchmod(2), 0777 unless changed) less the umask.
///
/// # Errors
/// The kernel's.
pub fn bind(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(rustix::net::bind(fd, &SocketAddrUnix::new(path)?)?)
}

/// Checks whether a socket is open at `path`, by connecting to it. Sends nothing and does not block, even if
/// the queue is full.
///
/// # Errors
/// `ConnectionRefused`: no process has it open. `PermissionDenied`: this process may not connect. `NotFound`:
/// no file. EPROTOTYPE: open, but not a datagram socket. And the kernel's others.
pub fn connect_probe(path: &Path) -> io::Result<()> {
    let address = SocketAddrUnix::new(path)?;
    let fd = datagram_socket()?;
    loop {
        match rustix::net::connect(&fd, &address) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn datagram_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// Sets a boolean option of level SOL_SOCKET that rustix does not have.
fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, on: bool) -> io::Result<()> {
    const VALUE_BYTES: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == 4);
    let value = libc::c_int::from(on);
    // SAFETY: `fd` is open while it is borrowed. setsockopt(2) only reads VALUE_BYTES bytes at the pointer:
    // exactly the initialised `value`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), VALUE_BYTES)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a boolean option of level SOL_SOCKET that rustix does not have is set.
fn is_option_set(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut bytes: libc::socklen_t = 4;
    // SAFETY: `fd` is open while it is borrowed. getsockopt(2) writes at most `bytes` bytes at the pointer to
    // `value`, which has as many, and their number to `bytes`; both outlive the call.
    let code = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut bytes)
    };
    if code == 0 { Ok(value != 0) } else { Err(io::Error::last_os_error()) }
}

/// Behaves like an older kernel, for tests: accepts descriptors from senders, and with `bare` attaches
/// neither credentials nor stamps, so that there is room for descriptors.
#[cfg(test)]
pub fn behave_like_an_older_kernel(fd: BorrowedFd<'_>, bare: bool) -> io::Result<()> {
    match set_option(fd, SO_PASSRIGHTS, true) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {} // it is one
        other => other?,
    }
    if bare {
        sockopt::set_socket_passcred(fd, false)?;
        set_option(fd, libc::SO_TIMESTAMPNS, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn receiver_options_are_set_before_it_has_a_name() {
        let (fd, limit) = open_receiver().unwrap();
        assert!(sockopt::socket_passcred(&fd).unwrap());
        assert!(rustix::fs::fcntl_getfl(&fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(limit, queue_limit().unwrap());
    }

    #[test]
    fn queue_holds_one_datagram_more_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (fd, limit) = open_receiver().unwrap();
        bind(fd.as_fd(), &path).unwrap();
        let mut queued = 0;
        // A sender is limited by its own SO_SNDBUF to 278 datagrams, so use several.
        'full: loop {
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            for _ in 0..200 {
                if sender.send_to(&[0; 32], &path).is_err() {
                    break 'full;
                }
                queued += 1;
            }
            if queued > 4000 {
                return; // a host with a large limit: enough seen
            }
        }
        assert_eq!(queued, limit + 1);
    }

    #[test]
    fn probe_tells_live_stale_and_absent_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let kind = |path: &Path| connect_probe(path).map_err(|error| error.kind());
        assert_eq!(kind(&path), Err(io::ErrorKind::NotFound));
        let (fd, _) = open_receiver().unwrap();
        bind(fd.as_fd(), &path).unwrap();
        assert_eq!(kind(&path), Ok(()));
        drop(fd);
        assert_eq!(kind(&path), Err(io::ErrorKind::ConnectionRefused));
        let _stream = std::os::unix::net::UnixListener::bind(dir.path().join("t")).unwrap();
        assert_eq!(connect_probe(&dir.path().join("t")).unwrap_err().raw_os_error(), Some(libc::EPROTOTYPE));
    }

    #[test]
    fn bind_follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        let (fd, _) = open_receiver().unwrap();
        assert_eq!(bind(fd.as_fd(), &path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn longest_path_is_the_longest_that_agents_can_connect_to() {
        let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        std::os::unix::net::SocketAddr::from_pathname(path(PATH_BYTES_MAX)).unwrap();
        std::os::unix::net::SocketAddr::from_pathname(path(PATH_BYTES_MAX + 1)).unwrap_err();
        SocketAddrUnix::new(path(PATH_BYTES_MAX)).unwrap();
    }
}
