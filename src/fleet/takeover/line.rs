//! One end of the conversation of two observers: whole messages, some with a descriptor.
//!
//! Blocks in [`wait_for`], and for room for a message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::sys::unix_socket::{Peer, peer_of};

/// The first message.
pub const HELLO: &str = "varta takeover 1";
/// The name of the lock of the runtime directory.
pub const LOCK: &str = "lock";
/// The name of the socket that successors connect to.
pub const LISTENER: &str = "takeover";
/// Longest message, bytes.
const MESSAGE_BYTES: usize = 1024;
/// How long the other side may take for what it does at once.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a successor may take for a start.
pub const START_WITHIN: Duration = Duration::from_secs(30);

/// One end of a conversation.
#[derive(Debug)]
pub struct Line(pub OwnedFd);

/// A message, and a descriptor that came with it.
pub struct Message {
    pub text: String,
    pub fd: Option<OwnedFd>,
}

impl Line {
    /// The other side.
    pub fn peer(&self) -> io::Result<Peer> {
        peer_of(self.0.as_fd())
    }

    /// Waits up to [`ANSWER_WITHIN`] for room.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.send_with(text, &[])
    }

    pub fn send_with(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let text = &text.as_bytes()[..text.floor_char_boundary(MESSAGE_BYTES)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            match sendmsg(&self.0, &[IoSlice::new(text)], &mut control, flags) {
                Err(Errno::AGAIN) if has_room(self.0.as_fd(), until)? => {}
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// The next message. `None`: the other side hung up. Never blocks.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match recvmsg(&self.0, slices, &mut control, flags) {
                // Said once, if the other side hung up before it read everything. What it wrote is still to be read.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                received => break received?,
            }
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // A descriptor that came found no place.
            return Err(Errno::MFILE.into());
        }
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.flatten().next();
        let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
        // Nobody sends an empty one.
        Ok((!text.is_empty()).then_some(Message { text, fd }))
    }
}

/// Root or the user of this process: nobody else may hand over or take over.
pub fn is_trusted(peer: &Peer) -> bool {
    peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw()
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the other side made room for a message, by `until`.
fn has_room(fd: BorrowedFd<'_>, until: Instant) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    poll_until(&mut polled, Some(until))?;
    Ok(!polled[0].revents().is_empty())
}

fn poll_until(polled: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(polled, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled.map(drop)?),
        }
    }
}

/// Which of these descriptors can be read, or hung up, by `until`; without it, some day. None of them: the time is over.
pub fn wait_for<const N: usize>(fds: [BorrowedFd<'_>; N], until: Option<Instant>) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll_until(&mut polled, until)?;
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (Line, Line) {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Line(one), Line(other))
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptor_and_then_the_end() {
        let (one, other) = pair();
        one.send(HELLO).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        one.send_with("fd lock", &[reader.as_fd()]).unwrap();
        one.send(&"x".repeat(5000)).unwrap();
        assert_eq!(other.receive().unwrap().unwrap().text, HELLO);
        let message = other.receive().unwrap().unwrap();
        assert_eq!(message.text, "fd lock");
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(message.fd.unwrap().as_fd()), inode(reader.as_fd()));
        assert_eq!(other.receive().unwrap().unwrap().text.len(), MESSAGE_BYTES);
        assert_eq!(other.receive().map(drop).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn last_words_are_heard_of_a_side_that_hung_up_without_listening() {
        let (one, other) = pair();
        other.send(HELLO).unwrap();
        one.send("refused").unwrap();
        drop(one);
        assert_eq!(other.receive().unwrap().unwrap().text, "refused");
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn a_wait_ends_with_a_message_or_with_the_time() {
        let (one, other) = pair();
        assert_eq!(wait_for([other.as_fd()], Some(Instant::now())).unwrap(), [false]);
        one.send("ready").unwrap();
        assert_eq!(wait_for([one.as_fd(), other.as_fd()], None).unwrap(), [false, true]);
        let ours = Peer { pid: Some(std::process::id()), uid: rustix::process::geteuid().as_raw() };
        assert_eq!(one.peer().unwrap(), ours);
    }
}
