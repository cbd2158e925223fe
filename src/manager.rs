//! What a service manager is told (sd_notify(3)): that the observer is ready, how it is, that it is alive, and
//! which descriptors it should keep for the next one.
//!
//! In: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. Out: datagrams to the socket of the service manager.
//! Thread: any. Never blocks: a message that the service manager has no room for is refused.
//!
//! Not with a crate for it: that would block while the queue of the service manager is full, and know no
//! abstract addresses.

use std::env;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, socket_with,
};

use crate::message::{Reason, Shown};
use crate::sys::clock::SystemClock;
use crate::sys::passed;
use crate::time::Clock;

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// A watchdog faster than this can end a healthy observer on a busy host: an idle shard turns once a second.
pub const WATCHDOG_MIN: Duration = Duration::from_secs(2);

/// The service manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: OwnedFd,
    address: SocketAddrUnix,
    watchdog: Option<Duration>,
}

/// Why the service manager cannot be told anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot tell the service manager anything: {SOCKET} is {}: {}; unset it, or start this by systemd",
    Shown(address),
    Reason(source)
)]
pub struct ManagerError {
    address: String,
    source: io::Error,
}

impl ServiceManager {
    /// The service manager named by the environment, from which the variables are removed; `None` if there is
    /// none that wants to be told. Call it before this process has a second thread.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn from_environment() -> Result<Option<Self>, ManagerError> {
        let Some(address) = env::var_os(SOCKET).filter(|address| !address.is_empty()) else {
            return Ok(None);
        };
        let watchdog = watchdog_of(|name| env::var(name).ok());
        let manager = Self::at(address.as_bytes(), watchdog)
            .map_err(|source| ManagerError { address: address.to_string_lossy().into_owned(), source })?;
        passed::forget(&[SOCKET, WATCHDOG_USEC, WATCHDOG_PID]);
        Ok(Some(manager))
    }

    /// The interval of the watchdog that the environment asks for, whether or not there is a socket for it.
    #[must_use]
    pub fn watchdog_in_environment() -> Option<Duration> {
        watchdog_of(|name| env::var(name).ok())
    }

    fn at(address: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(Path::new(std::ffi::OsStr::from_bytes(address)))?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is neither a path nor begins with @",
                ));
            }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, address, watchdog })
    }

    /// How often it wants to hear [`ServiceManager::alive`], at the least. It ends this process otherwise.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// This process does what it is for: the end of a start or of a reload.
    ///
    /// # Errors
    /// As each function of this type: the kernel's, `WouldBlock` if the service manager has no room.
    pub fn ready(&self) -> io::Result<()> {
        self.send(format_args!("READY=1"), &[])
    }

    /// A reload begins. [`ServiceManager::ready`] ends it.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn reloading(&self) -> io::Result<()> {
        let now = SystemClock.mono().0 / 1000;
        self.send(format_args!("RELOADING=1\nMONOTONIC_USEC={now}"), &[])
    }

    /// The end begins.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn stopping(&self) -> io::Result<()> {
        self.send(format_args!("STOPPING=1"), &[])
    }

    /// A line for the operator: how it is.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn status(&self, line: &str) -> io::Result<()> {
        self.send(format_args!("STATUS={}", Shown(line)), &[])
    }

    /// Sets the clock of the watchdog back.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn alive(&self) -> io::Result<()> {
        self.send(format_args!("WATCHDOG=1"), &[])
    }

    /// Has a duplicate of `fd` kept for the next start, which gets it by this name. The service manager keeps
    /// several of one name, and each only once. It drops what is too much (`FileDescriptorStoreMax=`) silently.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        // FDPOLL=0: it stays in the store, whatever the kernel says of its state.
        self.send(format_args!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd])
    }

    /// Drops what is kept by this name.
    ///
    /// # Errors
    /// See [`ServiceManager::ready`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.send(format_args!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn send(&self, message: fmt::Arguments<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = message.to_string();
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let slices = [IoSlice::new(message.as_bytes())];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg_addr(self.socket.as_fd(), &self.address, &slices, &mut control, flags)?;
        Ok(())
    }
}

/// The interval in the variables, if they are about this process.
fn watchdog_of(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_ours = variable(WATCHDOG_PID).is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let interval = Duration::from_micros(variable(WATCHDOG_USEC)?.parse().ok()?);
    (is_ours && !interval.is_zero()).then_some(interval)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn next(receiver: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = receiver.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str().as_bytes(), None).unwrap();
        manager.ready().unwrap();
        assert_eq!(next(&receiver), "READY=1");
        manager.status("3 agents\nREADY=1").unwrap();
        assert_eq!(next(&receiver).lines().count(), 1, "a name in it is no message of its own");
        manager.alive().unwrap();
        assert_eq!(next(&receiver), "WATCHDOG=1");
        manager.stopping().unwrap();
        assert_eq!(next(&receiver), "STOPPING=1");
        let before = SystemClock.mono().0 / 1000;
        manager.reloading().unwrap();
        let told = next(&receiver);
        let usec = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=SystemClock.mono().0 / 1000).contains(&usec), "{told}");
        manager.remove("fleet").unwrap();
        assert_eq!(next(&receiver), "FDSTOREREMOVE=1\nFDNAME=fleet");
    }

    #[test]
    fn a_stored_descriptor_arrives_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str().as_bytes(), None).unwrap();
        let file = std::fs::File::create_new(dir.path().join("stored")).unwrap();
        manager.store("shard-0-table", file.as_fd()).unwrap();
        let mut bytes = [0; 64];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut room);
        let slices = &mut [io::IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(&receiver, slices, &mut control, rustix::net::RecvFlags::CMSG_CLOEXEC)
                .unwrap();
        assert_eq!(&bytes[..received.bytes], b"FDSTORE=1\nFDNAME=shard-0-table\nFDPOLL=0");
        let fds = control.drain().flat_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let fds: Vec<_> = fds.collect();
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(fds.iter().map(|fd| inode(fd.as_fd())).collect::<Vec<_>>(), [inode(file.as_fd())]);
    }

    #[test]
    fn abstract_address_is_reached_and_others_are_refused() {
        let name = format!("varta-notify-{}", std::process::id());
        let receiver = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        ServiceManager::at(format!("@{name}").as_bytes(), None).unwrap().ready().unwrap();
        assert_eq!(next(&receiver), "READY=1");
        let refused = ServiceManager::at(b"vsock:2:1234", None).unwrap_err();
        assert!(refused.to_string().contains("neither a path"), "{refused}");
    }

    #[test]
    fn a_receiver_that_does_not_read_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str().as_bytes(), None).unwrap();
        let refused = (0..1_000_000).find_map(|_| manager.alive().err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn watchdog_is_ours_only_by_our_pid() {
        let own = std::process::id().to_string();
        let of = |usec: Option<&str>, pid: Option<&str>| {
            watchdog_of(|name| (if name == WATCHDOG_USEC { usec } else { pid }).map(str::to_owned))
        };
        assert_eq!(of(Some("3000000"), Some(&own)), Some(Duration::from_secs(3)));
        assert_eq!(of(Some("3000000"), None), Some(Duration::from_secs(3)));
        for (usec, pid) in
            [(Some("3000000"), Some("1")), (None, Some(&*own)), (Some("0"), None), (Some("x"), None)]
        {
            assert_eq!(of(usec, pid), None);
        }
    }
}
