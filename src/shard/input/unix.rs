//! Datagrams from a Unix socket.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::Transport;
use crate::lane::kick::Kick;
use crate::sys::datagram::Datagram;
use crate::sys::mmsg::{BATCH_MAX, Batch};
use crate::time::MonoNs;

/// How long a failed wait sleeps before it returns.
const FAILED: Duration = Duration::from_millis(10);

/// What one receive call takes from a socket.
pub trait Receive {
    /// Most datagrams of one call.
    const MAX: usize;
    /// As [`Transport::HAS_MESSAGES`].
    const HAS_MESSAGES: bool = false;

    /// As [`Transport::receive`].
    ///
    /// # Errors
    /// The kernel's.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize>;
    /// Datagrams of the last call.
    fn len(&self) -> usize;
    /// Whether the last call, which returned `len`, found the queue empty at some instant.
    fn was_emptied_by(&self, len: usize) -> bool;
    /// As [`Transport::datagram`].
    fn datagram(&self, index: usize) -> Datagram<'_>;
    /// As [`Transport::sender`].
    fn sender(&self, index: usize) -> Option<u32>;
    /// As [`Transport::fds`].
    fn fds(&self, _index: usize) -> usize {
        0
    }
    /// As [`Transport::let_go`].
    fn let_go(&mut self, _index: usize, _is_barrier: bool) {}
}

impl Receive for Batch {
    const MAX: usize = BATCH_MAX;

    #[inline]
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        Self::receive(self, socket)
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    #[inline]
    fn was_emptied_by(&self, len: usize) -> bool {
        len < BATCH_MAX
    }

    #[inline]
    fn datagram(&self, index: usize) -> Datagram<'_> {
        Self::datagram(self, index)
    }

    #[inline]
    fn sender(&self, index: usize) -> Option<u32> {
        Self::sender(self, index)
    }
}

/// The kernel's queue of one bound socket, of frames unless it says otherwise.
///
/// The socket is shared because it outlives the thread: a restarted shard continues with the same queue.
pub struct Unix<B = Batch> {
    socket: Arc<OwnedFd>,
    queue_limit: u32,
    batch: B,
    /// Received before this was made; they come first.
    backlog: VecDeque<B>,
    /// The last batch is of the backlog: it proves nothing about the queue.
    is_backlog: bool,
    kick: Arc<Kick>,
    wakers: Wakers,
}

impl Unix<Batch> {
    /// Receives frames from `socket`, whose queue has the limit `queue_limit`; `kick` ends its waits. Allocates all
    /// memory it needs. Costs two descriptors.
    ///
    /// # Errors
    /// The kernel's: no descriptors left.
    pub fn new(socket: Arc<OwnedFd>, queue_limit: u32, kick: Arc<Kick>) -> io::Result<Self> {
        Self::after(VecDeque::new(), socket, queue_limit, kick)
    }

    /// As [`Unix::new`], for a socket from which `backlog` was received before: these datagrams come first.
    ///
    /// # Errors
    /// As [`Unix::new`].
    pub fn after(
        backlog: VecDeque<Batch>,
        socket: Arc<OwnedFd>,
        queue_limit: u32,
        kick: Arc<Kick>,
    ) -> io::Result<Self> {
        Self::with(Batch::new(), backlog, socket, queue_limit, kick)
    }
}

impl<B> Unix<B> {
    /// Receives by `batch`, after `backlog`.
    ///
    /// # Errors
    /// As [`Unix::new`].
    pub fn with(
        batch: B,
        backlog: VecDeque<B>,
        socket: Arc<OwnedFd>,
        queue_limit: u32,
        kick: Arc<Kick>,
    ) -> io::Result<Self> {
        let wakers = Wakers::new(&kick)?;
        Ok(Self { socket, queue_limit, batch, backlog, is_backlog: false, kick, wakers })
    }

    /// Waits until `until`, for a datagram or a kick.
    fn wait_for_datagrams(&mut self, until: MonoNs) -> io::Result<()> {
        self.wakers.take_in(&self.socket)?;
        self.wakers.arm(until)?;
        if self.wakers.wait()? {
            self.kick.consume();
        }
        Ok(())
    }

    /// Sleeps until a kick or the timeout; datagrams do not end the sleep.
    fn sleep(&self, timeout_ns: u64) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.kick, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(timeout_ns))) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => _ = self.kick.consume(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// What ends a wait for datagrams: the socket, the kick, and a timer.
///
/// ppoll(2) arms a timer for each wait, and few of them ever expire. This timer is moved only if it would
/// expire too late; if it expires too early, one wait ends early. At 1000 beats a second on 4 shards this
/// costs 10.8 us of CPU per beat instead of 12.3; a loop woken for each datagram, without timer or kick,
/// costs 8.6 (medians of 9 alternating rounds).
struct Wakers {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// When the timer expires; `None` if it has expired and was not set again.
    armed_for: Option<MonoNs>,
    /// Whether the socket is in the epoll set. It is removed while the shard sleeps: each sender would pay
    /// for the wake-up.
    has_socket: bool,
}

/// Event data: which of the three is ready.
const OF_SOCKET: u64 = 0;
const OF_KICK: u64 = 1;
const OF_TIMER: u64 = 2;

impl Wakers {
    fn new(kick: &Kick) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, kick, EventData::new_u64(OF_KICK), EventFlags::IN)?;
        // Edge-triggered: it does not have to be read.
        epoll::add(&epoll, &timer, EventData::new_u64(OF_TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, timer, armed_for: None, has_socket: false })
    }

    fn take_in(&mut self, socket: &OwnedFd) -> io::Result<()> {
        if !self.has_socket {
            epoll::add(&self.epoll, socket, EventData::new_u64(OF_SOCKET), EventFlags::IN)?;
            self.has_socket = true;
        }
        Ok(())
    }

    fn let_go(&mut self, socket: &OwnedFd) -> io::Result<()> {
        if self.has_socket {
            epoll::delete(&self.epoll, socket)?;
            self.has_socket = false;
        }
        Ok(())
    }

    /// Sets the timer to expire at `until` at the latest.
    fn arm(&mut self, until: MonoNs) -> io::Result<()> {
        if self.armed_for.is_none_or(|armed_for| until < armed_for) {
            // 0 would disarm it.
            let at = Itimerspec { it_interval: timespec(0), it_value: timespec(until.0.max(1)) };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &at)?;
            self.armed_for = Some(until);
        }
        Ok(())
    }

    /// Waits for any of them. Returns whether the kick was among them.
    fn wait(&mut self) -> io::Result<bool> {
        let mut room = [const { MaybeUninit::uninit() }; 3];
        let events = match epoll::wait(&self.epoll, &mut room, None) {
            Ok((events, _)) => &*events,
            Err(Errno::INTR) => &[],
            Err(error) => return Err(error.into()),
        };
        let has_come = |whose| events.iter().any(|event| event.data.u64() == whose);
        if has_come(OF_TIMER) {
            self.armed_for = None;
        }
        Ok(has_come(OF_KICK))
    }
}

impl<B> fmt::Debug for Unix<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unix")
            .field("socket", &self.socket)
            .field("queue_limit", &self.queue_limit)
            .finish_non_exhaustive()
    }
}

impl<B: Receive> Transport for Unix<B> {
    const HAS_MESSAGES: bool = B::HAS_MESSAGES;

    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        if !self.backlog.is_empty() {
            return Ok(());
        }
        let waited = match for_datagrams {
            true => self.wait_for_datagrams(until),
            false => self.wakers.let_go(&self.socket).and_then(|()| self.sleep(until.since(now))),
        };
        if waited.is_err() {
            thread::sleep(FAILED);
        }
        waited
    }

    fn receive(&mut self) -> io::Result<usize> {
        self.is_backlog = false;
        if let Some(earlier) = self.backlog.pop_front() {
            self.is_backlog = true;
            self.batch = earlier;
            return Ok(self.batch.len());
        }
        self.batch.receive(self.socket.as_fd())
    }

    fn was_emptied_by(&self, len: usize) -> bool {
        !self.is_backlog && self.batch.was_emptied_by(len)
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
        B::MAX
    }

    fn fds(&self, index: usize) -> usize {
        self.batch.fds(index)
    }

    fn let_go(&mut self, index: usize, is_barrier: bool) {
        self.batch.let_go(index, is_barrier);
    }

    fn queue_limit(&self) -> u32 {
        self.queue_limit
    }
}

/// Converts for the kernel; any `u64` of nanoseconds fits.
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
    use std::time::Instant;

    use super::*;
    use crate::sys::clock::SystemClock;
    use crate::sys::unix_socket::{bind, open_receiver};
    use crate::time::Clock;

    /// So long that a wait that does not end makes the test hang visibly.
    const LONG_NS: u64 = 60_000_000_000;

    fn fixture() -> (tempfile::TempDir, Unix, Arc<Kick>, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (socket, queue_limit) = open_receiver().unwrap();
        bind(socket.as_fd(), &path).unwrap();
        let kick = Arc::new(Kick::new().unwrap());
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.connect(&path).unwrap();
        let uds = Unix::new(Arc::new(socket), queue_limit, Arc::clone(&kick)).unwrap();
        (dir, uds, kick, sender)
    }

    fn wait(uds: &mut Unix, for_datagrams: bool, timeout_ns: u64) {
        let now = SystemClock.mono();
        uds.wait(for_datagrams, now, now + timeout_ns).unwrap();
    }

    /// A wait may end early once, by a timer that was set for an earlier wait.
    fn waits(uds: &mut Unix, for_datagrams: bool) {
        let start = Instant::now();
        wait(uds, for_datagrams, 3_000_000);
        if start.elapsed() < Duration::from_millis(3) {
            wait(uds, for_datagrams, 3_000_000);
        }
        assert!(start.elapsed() >= Duration::from_millis(3));
    }

    #[test]
    fn datagram_ends_the_wait_only_if_waited_for() {
        let (_dir, mut uds, _kick, sender) = fixture();
        sender.send(&[1; 32]).unwrap();
        let start = Instant::now();
        wait(&mut uds, true, LONG_NS);
        assert!(start.elapsed() < Duration::from_secs(30));
        let start = Instant::now();
        wait(&mut uds, false, 3_000_000);
        assert!(start.elapsed() >= Duration::from_millis(3));
        wait(&mut uds, true, LONG_NS);
        assert_eq!(uds.receive().unwrap(), 1);
        assert_eq!(uds.datagram(0).bytes, [1; 32]);
        assert_eq!(uds.receive().unwrap(), 0);
        waits(&mut uds, true);
    }

    #[test]
    fn a_datagram_that_came_while_nobody_waited_for_it_ends_the_next_wait() {
        let (_dir, mut uds, _kick, sender) = fixture();
        for for_datagrams in [true, false, true, true, false] {
            waits(&mut uds, for_datagrams);
            sender.send(&[1; 32]).unwrap();
            wait(&mut uds, true, LONG_NS);
            assert_eq!(uds.receive().unwrap(), 1);
        }
    }

    #[test]
    fn a_wait_ends_in_time_though_the_timer_was_set_for_later() {
        let (_dir, mut uds, kick, _sender) = fixture();
        for _ in 0..3 {
            kick.kick();
            wait(&mut uds, true, LONG_NS);
            let start = Instant::now();
            waits(&mut uds, true);
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }

    #[test]
    fn kick_ends_the_wait_and_is_consumed() {
        let (_dir, mut uds, kick, _sender) = fixture();
        for for_datagrams in [false, true] {
            thread::scope(|scope| {
                scope.spawn(|| kick.kick());
                wait(&mut uds, for_datagrams, LONG_NS);
            });
            assert!(!kick.consume(), "kick is heard twice");
        }
    }

    #[test]
    fn any_timeout_is_one_the_kernel_takes() {
        let (_dir, mut uds, kick, _sender) = fixture();
        for for_datagrams in [false, true] {
            for until in [0, 1, 999_999_999, 1_000_000_000, u64::MAX] {
                kick.kick();
                uds.wait(for_datagrams, MonoNs(0), MonoNs(until)).unwrap();
            }
        }
        wait(&mut uds, true, 0);
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
