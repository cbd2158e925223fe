//! Datagrams from a script, on a clock that only the script and the test advance: the kernel's queue with its
//! limit, refusals and stamps, and an observer that can be paused at chosen points.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::lane::Port;
use crate::shard::input::Transport;
use crate::sys::allocations::uncounted;
use crate::sys::datagram::{Credentials, Datagram};
use crate::time::{Clock, ManualClock, MonoNs, WallNs};
use crate::wire::Frame;

/// The batch size of the kernel transport.
const BATCH_MAX: usize = 64;

/// One datagram as its sender hands it to the kernel.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub bytes: Vec<u8>,
    pub credentials: Option<Credentials>,
    pub is_stamped: bool,
    pub is_truncated: bool,
    pub is_control_truncated: bool,
    pub has_foreign_fds: bool,
}

impl Recorded {
    /// A valid frame of an agent.
    pub fn frame(frame: &Frame, pid: u32) -> Self {
        Self::bytes(&frame.encode(), pid)
    }

    /// Any bytes, attested to come from `pid`.
    pub fn bytes(bytes: &[u8], pid: u32) -> Self {
        Self {
            bytes: bytes.to_vec(),
            credentials: Some(Credentials { pid, uid: 1000 }),
            is_stamped: true,
            is_truncated: false,
            is_control_truncated: false,
            has_foreign_fds: false,
        }
    }
}

/// An event at an instant, whatever the observer does.
#[derive(Clone, Debug)]
pub enum Act {
    /// An agent sends.
    Send(Recorded),
    /// REALTIME steps by so many ns.
    StepWall(i64),
    /// Another thread kicks the shard.
    Kick,
}

/// Where in its turn the observer is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before or while it sleeps.
    Wait,
    /// After it has read the clock, before it reads the kernel's queue.
    BeforeReceive,
    /// Between the first and the second datagram of a call.
    InReceive,
    /// After the call, before its datagrams are taken.
    AfterReceive,
}

/// The result of a scripted send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub at: MonoNs,
    pub pid: u32,
    /// False: the queue was full.
    pub is_queued: bool,
}

#[derive(Debug, Default)]
struct State {
    clock: ManualClock,
    queue_limit: u32,
    acts: BTreeMap<(MonoNs, u64), Act>,
    acts_made: u64,
    pauses: Vec<(Point, MonoNs, u64)>,
    paused: Vec<(MonoNs, MonoNs)>,
    queue: VecDeque<(Recorded, WallNs)>,
    sent: Vec<Sent>,
    is_kicked: bool,
    kicked_at: Option<MonoNs>,
    port: Option<Arc<Port>>,
    frame_ns: u64,
    errors: VecDeque<i32>,
    panic_after: Option<usize>,
    calls: Vec<usize>,
    full_since: Option<MonoNs>,
    full: Vec<(MonoNs, MonoNs)>,
    /// Datagrams the present call has taken so far.
    in_call: usize,
    seems_full_at: Option<MonoNs>,
}

/// The test's half: what will happen.
#[derive(Clone, Debug)]
pub struct Script(Rc<RefCell<State>>);

impl Script {
    /// An empty script.
    pub fn new(clock: &ManualClock, queue_limit: u32) -> Self {
        let state = State { clock: clock.clone(), queue_limit, ..State::default() };
        Self(Rc::new(RefCell::new(state)))
    }

    /// The observer's half.
    pub fn transport(&self) -> Replay {
        Replay { state: Rc::clone(&self.0), batch: Vec::new() }
    }

    /// Kicks go through this port from now on, as those of other threads do.
    pub fn kick_through(&self, port: Arc<Port>) {
        self.0.borrow_mut().port = Some(port);
    }

    /// Reading one datagram takes this long.
    pub fn set_frame_ns(&self, frame_ns: u64) {
        self.0.borrow_mut().frame_ns = frame_ns;
    }

    /// Schedules an event at `at`.
    pub fn at(&self, at: MonoNs, act: Act) {
        let mut state = self.0.borrow_mut();
        state.acts_made += 1;
        let key = (at, state.acts_made);
        state.acts.insert(key, act);
    }

    /// An agent sends a valid frame at `at`.
    pub fn send(&self, at: MonoNs, frame: &Frame, pid: u32) {
        self.at(at, Act::Send(Recorded::frame(frame, pid)));
    }

    /// The observer is paused for `for_ns` when it first passes `point` at `at` or later.
    pub fn pause(&self, at: MonoNs, for_ns: u64, point: Point) {
        self.0.borrow_mut().pauses.push((point, at, for_ns));
    }

    /// The next receive call fails with this error number.
    pub fn fail(&self, errno: i32) {
        self.0.borrow_mut().errors.push_back(errno);
    }

    /// Ends the next wait at once, without recording a kick.
    pub fn wake(&self) {
        self.0.borrow_mut().is_kicked = true;
    }

    /// The observer panics after it has taken this many datagrams of a batch, or at a batch without any.
    pub fn panic_after(&self, datagrams: usize) {
        self.0.borrow_mut().panic_after = Some(datagrams);
    }

    /// Whether the panic is still pending.
    pub fn has_panic(&self) -> bool {
        self.0.borrow().panic_after.is_some()
    }

    /// Cancels the pending panic.
    pub fn forget_panic(&self) {
        self.0.borrow_mut().panic_after = None;
    }

    /// Cancels the pending pauses.
    pub fn forget_pauses(&self) {
        self.0.borrow_mut().pauses.clear();
    }

    /// The observer has ended, and another one is to read the same queue.
    pub fn change_observer(&self) {
        let mut state = self.0.borrow_mut();
        state.pauses.clear();
        state.errors.clear();
        state.calls.clear();
        (state.is_kicked, state.kicked_at, state.port) = (false, None, None);
        (state.panic_after, state.in_call) = (None, 0);
    }

    /// Datagrams queued at present.
    pub fn depth(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// The sizes of the receive calls since the last query.
    pub fn take_calls(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.borrow_mut().calls)
    }

    /// The periods, ended since the last query, in which the queue was full.
    pub fn take_full(&self) -> Vec<(MonoNs, MonoNs)> {
        std::mem::take(&mut self.0.borrow_mut().full)
    }

    /// When the queue was last full as far as the observer can know: it does not know when during a call a
    /// datagram left.
    pub fn seems_full_at(&self) -> Option<MonoNs> {
        self.0.borrow().seems_full_at
    }

    /// Since when the queue has been full, if it is.
    pub fn full_since(&self) -> Option<MonoNs> {
        self.0.borrow().full_since
    }

    /// The results of the sends since the last query.
    pub fn take_sent(&self) -> Vec<Sent> {
        let mut state = self.0.borrow_mut();
        state.catch_up();
        std::mem::take(&mut state.sent)
    }

    /// The pauses the observer has had.
    pub fn paused(&self) -> Vec<(MonoNs, MonoNs)> {
        self.0.borrow().paused.clone()
    }

    /// When the observer was last kicked; cleared by the query.
    pub fn take_kick(&self) -> Option<MonoNs> {
        self.0.borrow_mut().kicked_at.take()
    }
}

impl State {
    /// Performs everything up to the clock's present.
    fn catch_up(&mut self) {
        while let Some(entry) = self.acts.first_entry() {
            let at = entry.key().0;
            if at > self.clock.mono() {
                return;
            }
            match entry.remove() {
                Act::Send(datagram) => self.send(at, datagram),
                Act::StepWall(ns) => self.clock.step_wall(ns),
                Act::Kick => {
                    self.is_kicked = true;
                    self.kicked_at = self.kicked_at.or(Some(at));
                    if let Some(port) = &self.port {
                        port.kick(at);
                    }
                }
            }
        }
    }

    /// Queues and stamps a datagram as the kernel does, and refuses it if the queue is full.
    fn send(&mut self, at: MonoNs, datagram: Recorded) {
        let is_queued = self.queue.len() <= self.queue_limit as usize;
        let pid = datagram.credentials.map_or(0, |credentials| credentials.pid);
        self.sent.push(Sent { at, pid, is_queued });
        if is_queued {
            let ago = self.clock.mono().since(at);
            let stamp = WallNs(self.clock.wall().0 - ago);
            self.queue.push_back((datagram, stamp));
            if self.queue.len() > self.queue_limit as usize {
                self.full_since = Some(at);
            }
            if self.queue.len() + self.in_call > self.queue_limit as usize {
                self.seems_full_at = Some(at);
            }
        }
    }

    /// Performs the pauses due at this point.
    fn pass(&mut self, point: Point) {
        let now = self.clock.mono();
        while let Some(index) = self.pauses.iter().position(|(where_, at, _)| *where_ == point && *at <= now)
        {
            let (_, _, for_ns) = self.pauses.swap_remove(index);
            let from = self.clock.mono();
            self.clock.advance(for_ns);
            self.paused.push((from, self.clock.mono()));
        }
        self.catch_up();
    }

    fn is_awake(&self, for_datagrams: bool, until: MonoNs) -> bool {
        self.is_kicked || for_datagrams && !self.queue.is_empty() || self.clock.mono() >= until
    }

    /// The next instant that may end or prolong a sleep.
    fn next_instant(&self) -> Option<MonoNs> {
        let act = self.acts.first_key_value().map(|((at, _), _)| *at);
        let pauses = self.pauses.iter().filter(|(point, ..)| *point == Point::Wait).map(|(_, at, _)| *at);
        act.into_iter().chain(pauses).min()
    }
}

/// The observer's half.
#[derive(Debug)]
pub struct Replay {
    state: Rc<RefCell<State>>,
    batch: Vec<(Recorded, WallNs)>,
}

impl Replay {
    fn sleep(&mut self, for_datagrams: bool, timeout_ns: u64) {
        let mut state = self.state.borrow_mut();
        let until = state.clock.mono() + timeout_ns;
        state.pass(Point::Wait);
        while !state.is_awake(for_datagrams, until) {
            let next = state.next_instant().map_or(until, |at| at.min(until));
            state.clock.set(next);
            state.pass(Point::Wait);
        }
        state.is_kicked = false;
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        self.batch.clear();
        state.catch_up();
        state.pass(Point::BeforeReceive);
        if let Some(errno) = state.errors.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        while self.batch.len() < BATCH_MAX {
            let Some(datagram) = state.queue.pop_front() else { break };
            self.batch.push(datagram);
            state.in_call += 1;
            if let Some(since) = state.full_since.take() {
                let left = state.clock.mono();
                state.full.push((since, left));
            }
            let frame_ns = state.frame_ns;
            state.clock.advance(frame_ns);
            state.catch_up();
            if self.batch.len() == 1 {
                state.pass(Point::InReceive);
            }
        }
        state.pass(Point::AfterReceive);
        state.in_call = 0;
        state.calls.push(self.batch.len());
        if self.batch.is_empty() && state.panic_after.take().is_some() {
            drop(state);
            panic_silently();
        }
        Ok(self.batch.len())
    }
}

/// The observer's half, where the datagrams are messages. Keeps which of them were let go, and as what.
#[derive(Debug)]
pub struct MessageReplay {
    pub inner: Replay,
    pub let_go: Rc<RefCell<Vec<(usize, bool)>>>,
}

impl Transport for MessageReplay {
    const HAS_MESSAGES: bool = true;

    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        self.inner.wait(for_datagrams, now, until)
    }
    fn receive(&mut self) -> io::Result<usize> {
        self.inner.receive()
    }
    fn datagram(&self, index: usize) -> Datagram<'_> {
        self.inner.datagram(index)
    }
    fn sender(&self, index: usize) -> Option<u32> {
        self.inner.sender(index)
    }
    fn fds(&self, index: usize) -> usize {
        self.batch_has_fds(index).into()
    }
    fn let_go(&mut self, index: usize, is_barrier: bool) {
        uncounted(|| self.let_go.borrow_mut().push((index, is_barrier)));
    }
    fn batch_max(&self) -> usize {
        self.inner.batch_max()
    }
    fn queue_limit(&self) -> u32 {
        self.inner.queue_limit()
    }
}

impl MessageReplay {
    fn batch_has_fds(&self, index: usize) -> bool {
        self.inner.batch[index].0.has_foreign_fds
    }
}

/// Panics without the hook's message: the test catches it.
fn panic_silently() -> ! {
    std::panic::resume_unwind(Box::new("scripted"))
}

/// Allocations of the script are not counted as the observer's.
impl Transport for Replay {
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        uncounted(|| self.sleep(for_datagrams, until.since(now)));
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        uncounted(|| self.read())
    }

    fn sender(&self, index: usize) -> Option<u32> {
        Some(self.batch[index].0.credentials?.pid)
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        if self.state.borrow().panic_after == Some(index) {
            self.state.borrow_mut().panic_after = None;
            panic_silently();
        }
        let (recorded, stamp) = &self.batch[index];
        Datagram {
            bytes: &recorded.bytes,
            is_truncated: recorded.is_truncated,
            is_control_truncated: recorded.is_control_truncated,
            has_foreign_fds: recorded.has_foreign_fds,
            credentials: recorded.credentials,
            stamp: recorded.is_stamped.then_some(*stamp),
        }
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn queue_limit(&self) -> u32 {
        self.state.borrow().queue_limit
    }
}

mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START: MonoNs = MonoNs(1_000_000_000);

    fn fixture(queue_limit: u32) -> (ManualClock, Script, Replay) {
        let clock = ManualClock::new(START, 5_000_000_000);
        let script = Script::new(&clock, queue_limit);
        let replay = script.transport();
        (clock, script, replay)
    }

    fn some_bytes() -> Act {
        Act::Send(Recorded::bytes(&[7; 32], 42))
    }

    #[test]
    fn the_oldest_stay_and_the_rest_is_refused() {
        let (clock, script, mut replay) = fixture(1);
        for n in 1..=4 {
            script.at(START + n * MS, some_bytes());
        }
        clock.advance(10 * MS);
        let queued: Vec<bool> = script.take_sent().iter().map(|sent| sent.is_queued).collect();
        assert_eq!(queued, [true, true, false, false]);
        assert_eq!(replay.receive().unwrap(), 2);
        assert_eq!(replay.datagram(0).stamp, Some(WallNs(START.0 + MS + 5_000_000_000)));
        assert_eq!(replay.receive().unwrap(), 0);
    }

    fn wait(replay: &mut Replay, for_datagrams: bool, timeout_ns: u64) {
        let now = replay.state.borrow().clock.mono();
        replay.wait(for_datagrams, now, now + timeout_ns).unwrap();
    }

    #[test]
    fn a_wait_ends_by_what_comes_first() {
        let (clock, script, mut replay) = fixture(10);
        script.at(START + 5 * MS, some_bytes());
        script.at(START + 7 * MS, Act::Kick);
        wait(&mut replay, true, 3 * MS);
        assert_eq!(clock.mono(), START + 3 * MS, "timeout");
        wait(&mut replay, true, 30 * MS);
        assert_eq!(clock.mono(), START + 5 * MS, "datagram");
        wait(&mut replay, false, 30 * MS);
        assert_eq!(clock.mono(), START + 7 * MS, "kick");
        assert_eq!(script.take_kick(), Some(START + 7 * MS));
        script.pause(START + 10 * MS, 100 * MS, Point::Wait);
        wait(&mut replay, false, 5 * MS);
        assert_eq!(clock.mono(), START + 110 * MS, "the kernel's timer does not wait for us");
    }

    #[test]
    fn more_than_a_batch_comes_out_in_order() {
        let (clock, script, mut replay) = fixture(512);
        for n in 0..100 {
            script.at(START + n, Act::Send(Recorded::bytes(&[u8::try_from(n).unwrap(); 32], 42)));
        }
        clock.advance(MS);
        assert_eq!(replay.receive().unwrap(), 64);
        assert_eq!(replay.datagram(63).bytes, [63; 32]);
        assert_eq!(replay.receive().unwrap(), 36);
        assert_eq!(replay.datagram(0).bytes, [64; 32]);
    }

    #[test]
    fn a_step_of_the_wall_clock_shows_in_later_stamps_only() {
        let (clock, script, mut replay) = fixture(10);
        script.at(START + MS, some_bytes());
        script.at(START + 2 * MS, Act::StepWall(-1_000_000_000));
        script.at(START + 3 * MS, some_bytes());
        clock.advance(10 * MS);
        assert_eq!(replay.receive().unwrap(), 2);
        assert_eq!(replay.datagram(0).stamp, Some(WallNs(START.0 + MS + 5_000_000_000)));
        assert_eq!(replay.datagram(1).stamp, Some(WallNs(START.0 + 3 * MS + 4_000_000_000)));
    }
}
