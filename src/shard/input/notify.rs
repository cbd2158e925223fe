//! Messages of the notification protocol from a Unix socket, with the descriptors that come along.
//!
//! In: datagrams. Out: their bytes, senders and stamps, as for frames. Descriptors go to two closers, so that what one
//! sender attached does not keep another one waiting at its barrier.
//!
//! The kernel releases a descriptor that has no room in the receive call itself, which then takes as long as close(2) of
//! it: 4 s were measured for a socket that lingers for 4 s. So there is room for all that can come, and a call receives
//! no more datagrams than the closer has places for. If it has none, because strangers keep it busy, descriptors are
//! refused by the kernel and messages that carried some are ignored; the others go on.

use std::io;
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::unix::{Receive, Unix};
use crate::notify::closer::Closer;
use crate::sys::datagram::Datagram;
use crate::sys::mmsg::{FDS_MAX, MESSAGES_MAX, MessageBatch};

/// A socket for messages.
pub type NotifyUnix = Unix<Messages>;

/// The descriptors of one datagram that were not given away yet.
#[derive(Debug, Default)]
struct Held {
    /// How many came.
    count: usize,
    /// The first of them.
    first: Option<OwnedFd>,
}

/// The messages of one receive call.
pub struct Messages {
    batch: MessageBatch,
    held: [Held; MESSAGES_MAX],
    /// The last call could take so many.
    asked: usize,
    barriers: Closer,
    others: Closer,
}

impl Messages {
    /// Allocates room for one call. Descriptors are closed by these two.
    pub fn new(barriers: Closer, others: Closer) -> Self {
        Self { batch: MessageBatch::new(), held: Default::default(), asked: MESSAGES_MAX, barriers, others }
    }
}

impl Receive for Messages {
    const MAX: usize = MESSAGES_MAX;
    const HAS_MESSAGES: bool = true;

    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // After a panic some may be left of the batch before.
        for index in 0..MESSAGES_MAX {
            self.let_go(index, false);
        }
        let datagrams = self.others.free() / FDS_MAX;
        self.asked = if datagrams == 0 { MESSAGES_MAX } else { datagrams.min(MESSAGES_MAX) };
        let (held, others) = (&mut self.held, &self.others);
        self.batch.receive_with_fds(self.asked, datagrams > 0, socket, |index, fd| {
            let held = &mut held[index];
            held.count += 1;
            match held.first {
                None => held.first = Some(fd),
                Some(_) => give(others, fd),
            }
        })
    }

    fn len(&self) -> usize {
        self.batch.len()
    }

    fn was_emptied_by(&self, len: usize) -> bool {
        len < self.asked
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        self.batch.datagram(index)
    }

    fn sender(&self, index: usize) -> Option<u32> {
        self.batch.sender(index)
    }

    fn fds(&self, index: usize) -> usize {
        self.held[index].count
    }

    fn let_go(&mut self, index: usize, is_barrier: bool) {
        let Held { first: Some(fd), .. } = mem::take(&mut self.held[index]) else { return };
        match if is_barrier { self.barriers.give(fd) } else { Err(fd) } {
            Ok(()) => {}
            Err(fd) => give(&self.others, fd),
        }
    }
}

/// Gives away a descriptor for which there is a place: no call receives more.
fn give(closer: &Closer, fd: OwnedFd) {
    let given = closer.give(fd);
    debug_assert!(given.is_ok(), "a call receives as many descriptors as there are places");
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, PipeReader, Read, pipe};
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

    use super::*;
    use crate::lane::kick::Kick;
    use crate::notify::closer::{BARRIER_PLACES, PLACES};
    use crate::notify::message::{Envelope, MESSAGE_BYTES_MAX, Message, read};
    use crate::shard::input::Transport;
    use crate::sys::clock::SystemClock;
    use crate::sys::unix_socket::{bind, open_notify_receiver};
    use crate::time::Clock;

    struct Fixture {
        dir: tempfile::TempDir,
        uds: NotifyUnix,
        sender: UnixDatagram,
    }

    fn fixture() -> Fixture {
        fixture_with(Closer::spawn(PLACES).unwrap().0)
    }

    fn fixture_with(others: Closer) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        let (socket, queue_limit) = open_notify_receiver().unwrap();
        bind(socket.as_fd(), &path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.connect(&path).unwrap();
        let messages = Messages::new(Closer::spawn(BARRIER_PLACES).unwrap().0, others);
        let kick = Arc::new(Kick::new().unwrap());
        let uds = Unix::with(messages, Default::default(), Arc::new(socket), queue_limit, kick).unwrap();
        Fixture { dir, uds, sender }
    }

    fn send_fds(sender: &UnixDatagram, text: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(sender, &[IoSlice::new(text)], &mut control, SendFlags::DONTWAIT).unwrap();
    }

    /// What datagram `index` says.
    fn message(uds: &NotifyUnix, index: usize) -> Result<Message<'_>, crate::notify::message::Fault> {
        let datagram = uds.datagram(index);
        let envelope = Envelope {
            is_truncated: datagram.is_truncated,
            is_control_truncated: datagram.is_control_truncated,
            is_attested: datagram.credentials.is_some(),
            fds: uds.fds(index),
        };
        read(datagram.bytes, envelope)
    }

    fn is_closed(reader: &PipeReader) -> bool {
        let mut fds = [PollFd::new(reader, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    fn wait_until_closed(mut reader: &PipeReader) {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    /// Number of this process's descriptors that refer to `path`; those of other tests do not count.
    fn open_fds_of(path: &Path) -> usize {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).filter(|target| target == path).count()
    }

    #[test]
    fn a_message_arrives_with_its_sender_and_its_stamp() {
        let Fixture { mut uds, sender, .. } = fixture();
        let longest = vec![b'x'; MESSAGE_BYTES_MAX];
        let longer = vec![b'x'; MESSAGE_BYTES_MAX + 1];
        for text in [b"WATCHDOG=1".as_slice(), &longest, &longer, b""] {
            sender.send(text).unwrap();
        }
        assert_eq!(uds.receive().unwrap(), 4);
        assert!(uds.was_emptied_by(4));
        for (index, (length, is_truncated)) in
            [(10, false), (MESSAGE_BYTES_MAX, false), (MESSAGE_BYTES_MAX, true), (0, false)]
                .into_iter()
                .enumerate()
        {
            let datagram = uds.datagram(index);
            assert_eq!((datagram.bytes.len(), datagram.is_truncated), (length, is_truncated));
            assert_eq!(datagram.credentials.map(|from| from.pid), Some(std::process::id()));
            assert_eq!(uds.sender(index), Some(std::process::id()));
            assert!(datagram.stamp.is_some() && uds.fds(index) == 0);
        }
    }

    #[test]
    fn a_barrier_is_answered_once_its_turn_has_come() {
        let Fixture { mut uds, sender, .. } = fixture();
        let (reader, writer) = pipe().unwrap();
        sender.send(b"WATCHDOG=1").unwrap();
        send_fds(&sender, b"BARRIER=1", &[writer.as_fd()]);
        drop(writer);
        assert_eq!(uds.receive().unwrap(), 2);
        assert_eq!(message(&uds, 1), Ok(Message::Barrier));
        uds.let_go(0, false);
        assert!(!is_closed(&reader), "the message before it may still be at work");
        uds.let_go(1, true);
        wait_until_closed(&reader);
        assert_eq!(uds.fds(1), 0);
    }

    /// What comes with other messages is closed, too, and with what is refused.
    #[test]
    fn nothing_that_came_along_stays_open() {
        let Fixture { mut uds, sender, .. } = fixture();
        for (text, count) in
            [("READY=1\nFDSTORE=1", 1), ("FDSTORE=1", FDS_MAX), ("BARRIER=1\nREADY=1", 1), ("BARRIER=1", 2)]
        {
            let (reader, writer) = pipe().unwrap();
            send_fds(&sender, text.as_bytes(), &vec![writer.as_fd(); count]);
            drop(writer);
            assert_eq!(uds.receive().unwrap(), 1);
            assert_eq!(uds.fds(0), count);
            assert!(!uds.datagram(0).is_control_truncated, "there is room for all");
            let is_refused = message(&uds, 0).is_err();
            assert_eq!(is_refused, text.starts_with("BARRIER"), "{text}");
            uds.let_go(0, false);
            wait_until_closed(&reader);
        }
        // And what nobody let go, when the next batch is received.
        let (reader, writer) = pipe().unwrap();
        send_fds(&sender, b"FDSTORE=1", &[writer.as_fd()]);
        drop(writer);
        assert_eq!(uds.receive().unwrap(), 1);
        assert_eq!(uds.receive().unwrap(), 0);
        wait_until_closed(&reader);
    }

    #[test]
    fn fault_20_however_many_fds_come_with_messages_none_stays() {
        let Fixture { dir, mut uds, sender } = fixture();
        let path = dir.path().join("attached");
        let file = std::fs::File::create(&path).unwrap();
        let fds = vec![file.as_fd(); FDS_MAX];
        for round in 0..10_000 {
            send_fds(&sender, b"FDSTORE=1", &fds);
            // The kernel limits descriptors in flight (ETOOMANYREFS).
            if round % 4 == 3 {
                let mut left = 4;
                while left > 0 {
                    let len = uds.receive().unwrap();
                    (0..len).for_each(|index| uds.let_go(index, false));
                    left -= len;
                }
            }
            assert!(round % 1000 != 999 || open_fds_of(&path) <= PLACES + 1, "round {round}");
        }
        while open_fds_of(&path) > 1 {
            std::thread::yield_now();
        }
    }

    /// A socket whose close(2) takes a minute, for it lingers and nobody reads; and what must be kept meanwhile.
    fn lingering() -> (TcpStream, (TcpListener, TcpStream)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while io::Write::write(&mut stream, &[0; 65_536]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        sockopt::set_socket_linger(&stream, Some(std::time::Duration::from_secs(60))).unwrap();
        (stream, (listener, peer))
    }

    /// What one sender attached keeps neither the shard nor the barrier of another one waiting.
    #[test]
    fn a_descriptor_that_lingers_delays_no_message_and_no_barrier() {
        let Fixture { mut uds, sender, .. } = fixture();
        let (stream, _peer) = lingering();
        send_fds(&sender, b"FDSTORE=1", &[stream.as_fd()]);
        drop(stream);
        let (behind, writer) = pipe().unwrap();
        send_fds(&sender, b"FDSTORE=1", &[writer.as_fd()]);
        drop(writer);
        let (barrier, writer) = pipe().unwrap();
        send_fds(&sender, b"BARRIER=1", &[writer.as_fd()]);
        drop(writer);
        assert_eq!(uds.receive().unwrap(), 3);
        for index in 0..3 {
            let is_barrier = message(&uds, index) == Ok(Message::Barrier);
            uds.let_go(index, is_barrier);
        }
        wait_until_closed(&barrier);
        assert!(!is_closed(&behind), "the closer is at the one that lingers");
        sender.send(b"WATCHDOG=1").unwrap();
        assert_eq!(uds.receive().unwrap(), 1);
    }

    /// A closer that strangers keep busy: what comes without descriptors is received all the same.
    #[test]
    fn without_a_place_descriptors_are_refused_and_nothing_else() {
        let (stream, _peer) = lingering();
        let others = Closer::spawn(2 * FDS_MAX).unwrap().0;
        others.give(stream.into()).unwrap();
        let Fixture { mut uds, sender, .. } = fixture_with(others);
        let (reader, writer) = pipe().unwrap();
        let all = vec![writer.as_fd(); FDS_MAX];
        for round in 0..3 {
            for _ in 0..2 {
                send_fds(&sender, b"FDSTORE=1", &all);
            }
            sender.send(b"WATCHDOG=1").unwrap();
            let mut taken = 0;
            while taken < 3 {
                let len = uds.receive().unwrap();
                assert!(len > 0, "round {round}");
                for index in 0..len {
                    let is_beat = uds.datagram(index).bytes == b"WATCHDOG=1";
                    let is_refused = uds.datagram(index).is_control_truncated;
                    assert!(!is_beat || !is_refused);
                    assert_eq!(uds.fds(index), if is_beat || is_refused { 0 } else { FDS_MAX });
                    assert!(round < 2 || is_beat || is_refused, "no place is left");
                    uds.let_go(index, false);
                }
                taken += len;
            }
        }
        drop(all);
        drop(writer);
        assert!(!is_closed(&reader), "the closer is at the one that lingers");
    }

    /// Receives and lets go until the sender ends. Returns what it sent, with the pid that the kernel attested.
    fn heard_from(mut uds: NotifyUnix, mut sender: std::process::Command, path: &Path) -> Vec<(u32, String)> {
        let mut child = sender.env("NOTIFY_SOCKET", path).spawn().unwrap();
        let mut heard = Vec::new();
        let status = loop {
            let has_ended = child.try_wait().unwrap();
            let now = SystemClock.mono();
            uds.wait(true, now, now + 10_000_000).unwrap();
            for index in 0..uds.receive().unwrap() {
                let is_barrier = message(&uds, index) == Ok(Message::Barrier);
                let text = String::from_utf8(uds.datagram(index).bytes.to_vec()).unwrap();
                heard.push((uds.sender(index).unwrap(), text));
                uds.let_go(index, is_barrier);
            }
            if let Some(status) = has_ended {
                break status;
            }
        };
        assert!(status.success(), "{status}: {heard:?}");
        heard
    }

    /// The program of systemd sends for its parent, if it may, and ends only once its barrier is answered.
    #[test]
    fn systemd_notify_is_understood_and_does_not_wait_for_ever() {
        let Fixture { dir, uds, .. } = fixture();
        let mut program = std::process::Command::new("systemd-notify");
        program.args(["--ready", "--status=Serving 7 clients", "X_VARTA_NAME=worker-7"]);
        let heard = heard_from(uds, program, &dir.path().join("notify.sock"));
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert_eq!(heard[1].1, "BARRIER=1");
        if rustix::process::geteuid().is_root() {
            assert_eq!(heard[0].0, std::process::id(), "it speaks for its parent");
        }
        let envelope = Envelope { is_attested: true, ..Envelope::default() };
        let Ok(Message::Fields(fields)) = read(heard[0].1.as_bytes(), envelope) else { panic!("{heard:?}") };
        assert!(fields.is_ready && fields.invalid == 0);
        assert_eq!((fields.status, fields.name), (Some("Serving 7 clients"), Some("worker-7")));
    }

    /// What each library does at heart: one datagram to the socket that the variable names.
    #[test]
    fn a_python_daemon_is_understood() {
        let Fixture { dir, uds, .. } = fixture();
        let mut program = std::process::Command::new("python3");
        program.args([
            "-c",
            "import os, socket\n\
             s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
             for text in ('READY=1', 'WATCHDOG=1\\nSTATUS=Grüße', 'STOPPING=1'):\n    \
                 s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])",
        ]);
        let heard = heard_from(uds, program, &dir.path().join("notify.sock"));
        let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["READY=1", "WATCHDOG=1\nSTATUS=Grüße", "STOPPING=1"]);
        assert!(heard.iter().all(|(pid, _)| *pid == heard[0].0 && *pid != std::process::id()));
    }
}
