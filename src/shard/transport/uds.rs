//! Datagrams from a Unix socket.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Datagram, Transport};
use crate::kick::Kick;
use crate::sys::mmsg::{BATCH_MAX, Batch};

/// The kernel's queue of one bound socket.
///
/// The socket is shared because it outlives the thread: a shard that is restarted goes on with the
/// same queue.
pub struct Uds {
    socket: Arc<OwnedFd>,
    queue_limit: u32,
    batch: Batch,
    kick: Arc<Kick>,
}

impl Uds {
    /// Receives from `socket`, whose queue was made with `queue_limit`; `kick` ends its waits. All
    /// memory it will ever need is allocated here.
    pub fn new(socket: Arc<OwnedFd>, queue_limit: u32, kick: Arc<Kick>) -> Self {
        Self { socket, queue_limit, batch: Batch::new(), kick }
    }
}

impl fmt::Debug for Uds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uds")
            .field("socket", &self.socket)
            .field("queue_limit", &self.queue_limit)
            .finish_non_exhaustive()
    }
}

impl Transport for Uds {
    fn wait(&mut self, for_datagrams: bool, timeout_ns: u64) -> io::Result<()> {
        let timeout = timespec(timeout_ns);
        let mut fds = [PollFd::new(&self.kick, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        let waited_for = if for_datagrams { &mut fds[..] } else { &mut fds[..1] };
        match poll(waited_for, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            self.kick.consume();
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        self.batch.receive(self.socket.as_fd())
    }

    #[inline]
    fn datagram(&self, index: usize) -> Datagram<'_> {
        self.batch.datagram(index)
    }

    #[inline]
    fn sender(&self, index: usize) -> Option<u32> {
        self.batch.sender(index)
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn queue_limit(&self) -> u32 {
        self.queue_limit
    }
}

/// ppoll(2)'s timeout; any `u64` of nanoseconds fits.
fn timespec(ns: u64) -> Timespec {
    const SECOND: u64 = 1_000_000_000;
    Timespec {
        tv_sec: i64::try_from(ns / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % SECOND).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::unix_socket::{bind, open_receiver};

    /// Long enough that a wait which is not ended fails the test by hanging visibly.
    const LONG_NS: u64 = 60_000_000_000;

    fn fixture() -> (tempfile::TempDir, Uds, Arc<Kick>, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (socket, queue_limit) = open_receiver().unwrap();
        bind(socket.as_fd(), &path).unwrap();
        let kick = Arc::new(Kick::new().unwrap());
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.connect(&path).unwrap();
        (dir, Uds::new(Arc::new(socket), queue_limit, Arc::clone(&kick)), kick, sender)
    }

    #[test]
    fn datagram_ends_the_wait_only_if_waited_for() {
        let (_dir, mut uds, _kick, sender) = fixture();
        sender.send(&[1; 32]).unwrap();
        let start = Instant::now();
        uds.wait(true, LONG_NS).unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
        let start = Instant::now();
        uds.wait(false, 3_000_000).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(3));
        assert_eq!(uds.receive().unwrap(), 1);
        assert_eq!(uds.datagram(0).bytes, [1; 32]);
        assert_eq!(uds.receive().unwrap(), 0);
    }

    #[test]
    fn kick_ends_the_wait_and_is_consumed() {
        let (_dir, mut uds, kick, _sender) = fixture();
        for for_datagrams in [false, true] {
            std::thread::scope(|scope| {
                scope.spawn(|| kick.kick());
                uds.wait(for_datagrams, LONG_NS).unwrap();
            });
            let start = Instant::now();
            uds.wait(for_datagrams, 3_000_000).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(3), "kick was heard twice");
        }
    }

    #[test]
    fn any_timeout_is_one_the_kernel_takes() {
        let (_dir, mut uds, kick, _sender) = fixture();
        for timeout_ns in [0, 1, 999_999_999, 1_000_000_000, u64::MAX] {
            kick.kick();
            uds.wait(true, timeout_ns).unwrap();
        }
        uds.wait(true, 0).unwrap();
    }

    #[test]
    fn full_queue_is_drained_in_batches_in_order() {
        let (_dir, mut uds, _kick, sender) = fixture();
        let mut sent = 0_u32;
        while sent < 200 && sender.send(&sent.to_le_bytes()).is_ok() {
            sent += 1;
        }
        assert!(sent == 200 || sent == uds.queue_limit() + 1);
        let mut expected = 0_u32;
        loop {
            let filled = uds.receive().unwrap();
            for index in 0..filled {
                assert_eq!(uds.datagram(index).bytes, expected.to_le_bytes());
                expected += 1;
            }
            if filled < uds.batch_max() {
                break;
            }
        }
        assert_eq!(expected, sent);
    }
}
