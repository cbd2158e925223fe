//! Messages of the notification protocol, in the name of the process that they are about.
//!
//! The kernel attests who sent a message. Another process may be named only with the capability CAP_SYS_ADMIN, and its
//! user and group only with CAP_SETUID and CAP_SETGID: root has all three, except in most containers.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, UCred, sendmsg_addr, socket_with,
};
use rustix::process::{Gid, Pid, Uid};

/// Most descriptors that one datagram can carry (SCM_MAX_FD).
const FDS_MAX: usize = 253;

/// Whoever sends to one socket.
#[derive(Debug)]
pub struct Speaker {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

/// A process with its effective user and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// As this process sees it.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Person {
    /// The process with this pid, as it is now. Reads procfs.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let effective = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        match (effective("Uid:"), effective("Gid:")) {
            (Some(uid), Some(gid)) => Ok(Self { pid, uid, gid }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn credentials(&self) -> io::Result<UCred> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(UCred { pid, uid: Uid::from_raw(self.uid), gid: Gid::from_raw(self.gid) })
    }
}

impl Speaker {
    /// Sends to this address: a path, or `@` and an abstract name. A message waits so long for room in the queue.
    ///
    /// # Errors
    /// It is no such address, or the kernel grants no socket.
    pub fn to(address: &OsStr, patience: Duration) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(Path::new(address))?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is neither a path nor begins with @",
                ));
            }
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        Ok(Self { socket, address })
    }

    /// Sends a message with these descriptors, by `whom` or else by this process.
    ///
    /// # Errors
    /// `WouldBlock`: there was no room in time. `PermissionDenied`: this process may not speak for that one. ESRCH: that
    /// one is gone. Others of the kernel: nobody listens.
    pub fn say(&self, text: &[u8], whom: Option<Person>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let credentials = whom.as_ref().map(Person::credentials).transpose()?;
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if let Some(credentials) = credentials {
            control.push(SendAncillaryMessage::ScmCredentials(credentials));
        }
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            match sendmsg_addr(
                &self.socket,
                &self.address,
                &[IoSlice::new(text)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Err(Errno::INTR) => {}
                sent => return sent.map(|_| ()).map_err(io::Error::from),
            }
        }
    }
}
