//! One end of a connection with a spawner: whole messages, some with a descriptor. Never blocks.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::spawner::protocol::MESSAGE_BYTES_MAX;
use crate::sys::unix_socket::{Peer, peer_of};

/// One end.
#[derive(Debug)]
pub struct Line(OwnedFd);

/// What was received.
#[derive(Debug)]
pub enum Received {
    /// A message, and what came with it.
    Message(Vec<u8>, Attached),
    /// Nothing is there to be read.
    Nothing,
    /// The other side hung up.
    End,
}

/// What came with a message.
#[derive(Debug)]
pub enum Attached {
    Nothing,
    Descriptor(OwnedFd),
    /// A descriptor, for which this process has no room.
    Lost,
}

impl Line {
    /// Both ends of a new connection.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), other))
    }

    pub const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The other side.
    pub fn peer(&self) -> io::Result<Peer> {
        peer_of(self.0.as_fd())
    }

    /// Whether there was room for the message.
    pub fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let fds: &[BorrowedFd<'_>] = fd.as_slice();
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.0, &[IoSlice::new(message)], &mut control, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// # Errors
    /// The kernel's; `InvalidData` for a message that is too long or has more than one descriptor.
    pub fn receive(&self) -> io::Result<Received> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Ok(received) => break received,
                // CONNRESET: the other side hung up before it read everything. That is said once, and what it wrote
                // is still to be read.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
        if received.flags.contains(ReturnFlags::TRUNC) || fds.len() > 1 || is_cut && !fds.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        if received.bytes == 0 {
            // Nobody sends an empty message.
            return Ok(Received::End);
        }
        bytes.truncate(received.bytes);
        let attached = match fds.pop() {
            Some(fd) => Attached::Descriptor(fd),
            None if is_cut => Attached::Lost,
            None => Attached::Nothing,
        };
        Ok(Received::Message(bytes, attached))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Line, Line) {
        let (one, other) = Line::pair().unwrap();
        (one, Line::new(other))
    }

    fn is_open(inode: u64) -> bool {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .any(|to| to.to_str() == Some(&format!("pipe:[{inode}]")))
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptor_and_then_the_end() {
        let (one, other) = pair();
        assert!(matches!(other.receive().unwrap(), Received::Nothing));
        let (reader, writer) = io::pipe().unwrap();
        assert!(one.send(b"a", Some(reader.as_fd())).unwrap());
        assert!(one.send(&vec![b'b'; MESSAGE_BYTES_MAX], None).unwrap());
        drop(one);
        let Received::Message(message, Attached::Descriptor(fd)) = other.receive().unwrap() else {
            panic!("a message with a descriptor")
        };
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!((message.as_slice(), inode(fd.as_fd())), (b"a".as_slice(), inode(writer.as_fd())));
        let Received::Message(message, Attached::Nothing) = other.receive().unwrap() else {
            panic!("a message")
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
        assert!(matches!(other.receive().unwrap(), Received::End));
        assert!(other.send(b"c", None).is_err());
    }

    #[test]
    fn what_is_too_long_is_an_error_and_no_descriptor_stays() {
        let (one, other) = pair();
        one.send(&vec![b' '; MESSAGE_BYTES_MAX + 1], None).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (reader, writer) = io::pipe().unwrap();
        let inode = rustix::fs::fstat(&writer).unwrap().st_ino;
        for count in [2, 3, 100] {
            let fds = vec![reader.as_fd(); count];
            let mut room = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            sendmsg(&one, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
            assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData, "{count}");
        }
        drop((reader, writer));
        assert!(!is_open(inode));
    }

    #[test]
    fn a_full_line_says_so() {
        let (one, other) = pair();
        let mut sent = 0;
        while one.send(&[b'x'; 10_000], None).unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        assert!(matches!(other.receive().unwrap(), Received::Message(..)));
    }
}
