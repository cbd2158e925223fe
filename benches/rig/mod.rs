//! A shard in memory for benches and instruction counts: its datagrams come from a recording, and only this
//! code moves its clock. It makes no system call except to allocate.

#![expect(dead_code, reason = "every bench uses a part of it")]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use varta_fleet::bench::{
    Admission, BATCH_MAX, Classes, Credentials, Datagram, Doorbell, Front, Header, Heard, Kick, Legacy,
    Limits, Outcome, PID_MAX, Port, SAMPLES_MAX, Shard, Table, TableWriter, Tracker, Transport, UidAccounts,
    adopt, create,
};
use varta_fleet::time::{Clock, ManualClock, MonoNs, WallNs};
use varta_fleet::wire::{FRAME_BYTES, Frame, Status, Version};

pub const MS: u64 = 1_000_000;
/// The program's defaults.
pub const THRESHOLD_NS: u64 = 2_000 * MS;
pub const TICK_NS: u64 = 10 * MS;
const DELAY_NS: u64 = MS;
/// Time of one receive call. The length does not matter, but the clock has to move.
const RECEIVE_NS: u64 = 1_000;
const START: MonoNs = MonoNs(1_000_000 * MS);
const WALL_AHEAD_NS: i64 = 1_700_000_000_000_000_000;
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
/// Steps in which time passes without datagrams: shorter than what a shard treats as a pause.
const STEP_NS: u64 = 50 * MS;
pub const UID: u32 = 1000;

/// The `nonce`th frame of a stock agent.
pub fn frame(version: Version, pid: u32, nonce: u64) -> Frame {
    let timestamp = nonce * 1_000 * MS + u64::from(pid);
    Frame { version, status: Status::Ok, pid, timestamp, nonce, payload: nonce }
}

/// Consecutive pids, as on a host that starts its agents together.
pub fn pids(agents: u32) -> Vec<u32> {
    (1000..1000 + agents).collect()
}

/// Shuffles with a fixed seed, into an order that no prefetcher predicts.
pub fn shuffle(pids: &mut [u32]) {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for end in (1..pids.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = usize::try_from(seed % (end as u64 + 1)).expect("an index");
        pids.swap(end, at);
    }
}

/// Up to 4096 pids that are in one bucket of any table of up to 1024 buckets that hashes by the golden ratio,
/// as the routing does.
pub fn pids_of_one_hash(agents: u32) -> Vec<u32> {
    let hash = |pid: u32| pid.wrapping_mul(0x9E37_79B1);
    let pids: Vec<u32> = (2..=PID_MAX).filter(|pid| hash(*pid) >> 22 == 0).take(agents as usize).collect();
    assert_eq!(pids.len(), agents as usize, "there are fewer");
    pids
}

/// What was recorded, and how much of it has arrived and was received.
#[derive(Default)]
struct Queue {
    datagrams: RefCell<Vec<Recorded>>,
    received: Cell<usize>,
    arrived: Cell<usize>,
}

#[derive(Clone, Copy)]
struct Recorded {
    bytes: [u8; FRAME_BYTES],
    pid: u32,
}

/// The recording as a transport. Arrivals are spread evenly over the time since the call before.
pub struct Recording {
    queue: Rc<Queue>,
    clock: ManualClock,
    batch: [Recorded; BATCH_MAX],
    arrived_from: WallNs,
    arrived_each_ns: u64,
    received_at: WallNs,
}

impl Transport for Recording {
    /// A batch arrives during the wait. A wait for datagrams takes at most a millisecond.
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        let timeout_ns = until.since(now);
        self.clock.advance(if for_datagrams { timeout_ns.min(MS) } else { timeout_ns });
        self.queue.arrived.set(self.queue.arrived.get() + BATCH_MAX);
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        self.clock.advance(RECEIVE_NS);
        let datagrams = self.queue.datagrams.borrow();
        let from = self.queue.received.get();
        let len = (self.queue.arrived.get().min(datagrams.len()) - from).min(BATCH_MAX);
        self.batch[..len].copy_from_slice(&datagrams[from..from + len]);
        self.queue.received.set(from + len);
        let now = self.clock.wall();
        self.arrived_from = self.received_at;
        self.arrived_each_ns = (now.0 - self.received_at.0) / (len as u64 + 1);
        self.received_at = now;
        Ok(len)
    }

    #[inline]
    fn datagram(&self, index: usize) -> Datagram<'_> {
        let Recorded { bytes, pid } = &self.batch[index];
        let ahead = self.arrived_each_ns * (index as u64 + 1);
        Datagram {
            bytes,
            is_truncated: false,
            is_control_truncated: false,
            has_foreign_fds: false,
            credentials: Some(Credentials { pid: *pid, uid: UID }),
            stamp: Some(WallNs(self.arrived_from.0 + ahead)),
        }
    }

    #[inline]
    fn sender(&self, index: usize) -> Option<u32> {
        Some(self.batch[index].pid)
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn queue_limit(&self) -> u32 {
        512
    }
}

/// The bench's end of a recording.
pub struct Recorder {
    queue: Rc<Queue>,
    pub clock: ManualClock,
}

impl Recorder {
    fn new() -> (Self, Recording) {
        let (queue, clock) = (Rc::new(Queue::default()), ManualClock::new(START, WALL_AHEAD_NS));
        let recording = Recording {
            queue: Rc::clone(&queue),
            clock: clock.clone(),
            batch: [Recorded { bytes: [0; FRAME_BYTES], pid: 0 }; BATCH_MAX],
            arrived_from: clock.wall(),
            arrived_each_ns: 0,
            received_at: clock.wall(),
        };
        (Self { queue, clock }, recording)
    }

    /// Starts a new, empty recording.
    pub fn clear(&self) {
        self.queue.datagrams.borrow_mut().clear();
        self.queue.received.set(0);
        self.queue.arrived.set(0);
    }

    /// Marks everything recorded as arrived.
    fn arrive(&self) {
        self.queue.arrived.set(self.queue.datagrams.borrow().len());
    }

    pub fn add(&self, frame: &Frame) {
        self.queue.datagrams.borrow_mut().push(Recorded { bytes: frame.encode(), pid: frame.pid });
    }
}

fn front(recording: Recording, slots: u32, threshold_ns: u64) -> (Front<Recording, ManualClock>, Arc<Port>) {
    let clock = recording.clock.clone();
    let (writer, table) = create(slots, HEADER).expect("memory for the table");
    let kick = Arc::new(Kick::new().expect("a descriptor"));
    let port = Port::new(table, kick, false).expect("memory for the lanes");
    let tracker = Tracker::new(
        writer,
        Classes::single(threshold_ns),
        TICK_NS,
        Admission::new(slots).expect("address space for pids"),
        UidAccounts::new(Arc::clone(&port.uids), None),
        clock.mono(),
    );
    let limits = Limits { threshold_min_ns: threshold_ns, tick_ns: TICK_NS };
    (Front::new(recording, clock, tracker, limits, None), Arc::new(port))
}

/// A front whose agents all beat in turn.
pub struct Beating {
    pub recorder: Recorder,
    pub front: Front<Recording, ManualClock>,
    pids: Vec<u32>,
    nonce: u64,
}

impl Beating {
    /// Creates the front; each of `pids` has beaten once.
    pub fn new(pids: Vec<u32>) -> Self {
        let (recorder, recording) = Recorder::new();
        let slots = u32::try_from(pids.len()).expect("fewer than there are pids");
        let (front, _) = front(recording, slots, THRESHOLD_NS);
        let mut beating = Self { recorder, front, pids, nonce: 0 };
        beating.record();
        beating.drain();
        beating
    }

    pub fn shuffle(&mut self) {
        shuffle(&mut self.pids);
    }

    /// Records the next beat of every agent.
    pub fn record(&mut self) {
        self.nonce += 1;
        self.recorder.clear();
        for pid in &self.pids {
            self.recorder.add(&frame(Version::V02, *pid, self.nonce));
        }
        self.recorder.arrive();
    }

    /// Receives everything recorded; returns how many were ordinary beats.
    pub fn drain(&mut self) -> u64 {
        let mut ordinary = 0;
        loop {
            let batch = self.front.receive().expect("a recording does not fail");
            for index in 0..batch.len {
                let Heard { outcome, .. } = self.front.hear(&batch, index);
                ordinary += u64::from(matches!(outcome, Outcome::Beat(_)));
            }
            self.front.end_batch(&batch);
            if batch.is_last {
                return ordinary;
            }
        }
    }

    /// Lets time pass in which nothing arrives and no agent is judged.
    pub fn pass(&mut self, ns: u64) {
        self.recorder.clear();
        let end = self.recorder.clock.mono() + ns;
        while self.recorder.clock.mono() < end {
            self.recorder.clock.advance(STEP_NS.min(end.since(self.recorder.clock.mono())));
            self.drain();
        }
        // The next call learns up to when the watermark may move.
        self.drain();
    }

    /// Judges every agent that is due; returns how many stalled.
    pub fn judge(&mut self) -> u64 {
        let mut stalled = 0;
        while self.front.judge(JUDGE_BUDGET, |_| stalled += 1) {}
        stalled
    }

    /// Makes every agent due, with a beat since its deadline was set.
    pub fn make_due(&mut self) {
        self.pass(900 * MS);
        self.record();
        self.drain();
        self.pass(600 * MS);
    }

    /// Makes every agent due and silent.
    pub fn make_silent(&mut self) {
        self.record();
        self.drain();
        self.pass(THRESHOLD_NS + 10 * TICK_NS);
    }
}

/// The table of a shard that has ended.
pub struct Inheritance {
    table: Table,
    slots: u32,
    now: MonoNs,
}

/// What a start has made before it adopts: nothing of it depends on the number of agents in the table.
pub struct Prepared {
    admission: Arc<Admission>,
    now: MonoNs,
}

impl Inheritance {
    /// What a front leaves when it ends in order.
    pub fn of(beating: Beating) -> Self {
        let Beating { recorder, mut front, pids, .. } = beating;
        let progress = front.progress();
        front.tracker.writer().mark_progress(&progress);
        let table = front.tracker.writer().table().clone();
        let slots = u32::try_from(pids.len()).expect("fewer than there are pids");
        Self { table, slots, now: recorder.clock.mono() }
    }

    pub fn prepare(&self) -> Prepared {
        Prepared { admission: Admission::new(self.slots).expect("address space for pids"), now: self.now }
    }

    pub fn adopt(&self) -> (TableWriter, Table, Legacy) {
        let memfd = self.table.memfd().try_clone_to_owned().expect("a descriptor");
        adopt(memfd, &HEADER, self.slots, GRANTED_AHEAD, self.now).expect("a table in order")
    }
}

impl Prepared {
    pub fn track(&self, (writer, _, legacy): (TableWriter, Table, Legacy)) -> Tracker {
        // Another class, so that every slot is written.
        let classes = Classes::new(THRESHOLD_NS, [THRESHOLD_NS]);
        let admission = Arc::clone(&self.admission);
        Tracker::new(writer, classes, TICK_NS, admission, UidAccounts::default(), self.now)
            .go_on_after(&legacy)
    }
}

/// Slots whose memory a fleet of one shard has granted ahead.
const GRANTED_AHEAD: u32 = 16_384;

/// Agents judged between two receive calls, as in a shard.
const JUDGE_BUDGET: u32 = 4096;

/// A whole shard in steady state: 64 beats a millisecond, the agents in turn, each four times a second; a
/// silence of half a second is a stall.
pub struct Turning {
    pub recorder: Recorder,
    pub port: Arc<Port>,
    shard: Shard<Recording, ManualClock>,
    pids: Vec<u32>,
    next: usize,
    nonce: u64,
}

/// Turns in which every agent beats once.
pub const ROUND: usize = 250;

impl Turning {
    /// Runs two rounds, so that all agents are admitted and timers have expired.
    pub fn new() -> Self {
        let (recorder, recording) = Recorder::new();
        let agents = u32::try_from(ROUND * BATCH_MAX).expect("fewer than there are pids");
        let (front, port) = front(recording, agents, 500 * MS);
        let shard = Shard::new(front, Arc::clone(&port), Arc::new(Doorbell::default()), DELAY_NS);
        let mut turning = Self { recorder, port, shard, pids: pids(agents), next: 0, nonce: 1 };
        // The first turn does not sleep, so nothing arrives.
        turning.turn();
        for _ in 0..2 * ROUND {
            turning.record();
            turning.turn();
            turning.collect();
        }
        turning
    }

    /// Adds the next batch to the recording. Every fourth agent sends 0.1.
    pub fn record(&mut self) {
        for _ in 0..BATCH_MAX {
            let pid = self.pids[self.next];
            let version = if pid.is_multiple_of(4) { Version::V01 } else { Version::V02 };
            self.recorder.add(&frame(version, pid, self.nonce));
            self.next += 1;
            if self.next == self.pids.len() {
                self.next = 0;
                self.nonce += 1;
            }
        }
    }

    /// One turn, which receives one recorded batch.
    pub fn turn(&mut self) {
        self.shard.turn().expect("a recording does not fail");
    }

    /// Drains the reports of the turns so far and clears the recording.
    pub fn collect(&mut self) {
        self.recorder.clear();
        let mut samples = [0; SAMPLES_MAX];
        while self.port.reports.pop(&mut samples).is_some() {}
        while self.port.facts.pop().is_some() {}
    }

    /// Fails unless only beats happened: otherwise something else was measured.
    pub fn check(&self) {
        let counters = &self.port.counters;
        let frames = counters.frames.get();
        assert_eq!(counters.beats.get(), frames, "a datagram was refused");
        assert_eq!(counters.reports_dropped.get(), 0, "a report was dropped");
        assert_eq!(counters.blind_ns.get() + counters.is_blind.get(), 0, "the shard was blind");
        assert_eq!(self.port.facts.pop(), None, "somebody stalled");
    }
}
