//! The watch thread: holds a pidfd of each agent's process and reports its exit within milliseconds. It also
//! answers whether a process still exists.
//!
//! In: orders, urgent ones first. Out: findings. Thread: its own. Blocks: waiting for processes and orders,
//! and while counts of out-of-memory kills are read.
//! Descriptors are bounded; a process without one waits until another is closed, and meanwhile its exit is
//! noticed when it is asked about, as at its threshold. Orders are bounded by the slots: per slot two
//! questions, one order to watch and one to stop.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::event::ExitHow;
use crate::lane::Doorbell;
use crate::lane::kick::Kick;
use crate::process::names::Names;
use crate::process::oom::{self, OomKills};
use crate::process::procfs::{self, End, Incarnation, NotHeld};
use crate::process::question::Finding;
use crate::table::place::{Holder, Place};
use crate::table::slots::Slots;
use crate::time::{Clock, MonoNs};

/// Most events read from the kernel at once.
const EVENTS: usize = 1024;
/// Orders that are not urgent, taken between two checks for urgent ones.
const ORDERS_PER_TURN: usize = 256;
/// How long the report of an exit waits for the parent to reap, if only then the kernel provides how the
/// process ended.
const REAP_NS: u64 = 20_000_000;
/// The epoll data of the bell; slots have smaller numbers.
const BELL: u64 = u64::MAX;

/// Orders to the watch thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Report when the process exits.
    Watch {
        /// The slot it is about.
        holder: Holder,
        /// The process.
        pid: u32,
        /// The process that was looked up before, if any.
        incarnation: Option<Incarnation>,
    },
    /// Stop watching the holder.
    Unwatch {
        /// The slot it is about.
        holder: Holder,
    },
    /// Does it still exist, as the same process as before?
    Exists {
        /// The slot it is about.
        holder: Holder,
        /// The process.
        pid: u32,
        /// The process that was looked up before, if any.
        incarnation: Option<Incarnation>,
        /// A stall waits for the answer, so this is taken first.
        is_urgent: bool,
    },
}

/// The sending side.
#[derive(Debug)]
pub struct Watch {
    /// `None` only during drop.
    orders: Option<(Sender<Order>, Sender<Order>)>,
    kick: Arc<Kick>,
}

impl Watch {
    /// Starts the thread, which holds at most `pidfds_max` descriptors and two of its own; it ends when the
    /// sending side is dropped. Runs `on_start` first, and keeps what it returns until the thread ends. Rings
    /// after findings. `kills`: which processes were killed out
    /// of memory, by the groups in `names`.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread or descriptor.
    pub fn spawn<L>(
        clock: impl Clock + Send + 'static,
        findings: Sender<Finding>,
        doorbell: Arc<Doorbell>,
        (kills, names): (Arc<OomKills>, Arc<Names>),
        pidfds_max: usize,
        on_start: impl FnOnce() -> L + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (urgent, urgent_orders) = unbounded();
        let (ordinary, ordinary_orders) = unbounded();
        let kick = Arc::new(Kick::new()?);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &kick, EventData::new_u64(BELL), EventFlags::IN)?;
        let watcher = Watcher {
            clock,
            epoll,
            kick: Arc::clone(&kick),
            orders: [urgent_orders, ordinary_orders],
            findings,
            doorbell,
            kills,
            names,
            kills_read: MonoNs(0),
            pidfds_max,
            pidfds: 0,
            entries: Entries::default(),
            waiting: BTreeMap::new(),
            last_turn: 0,
            unreaped: VecDeque::new(),
            has_told: false,
        };
        let body = move || {
            let _lifeline = on_start();
            watcher.run();
        };
        let thread = thread::Builder::new().name("varta-watch".into()).spawn(body)?;
        Ok((Self { orders: Some((urgent, ordinary)), kick }, thread))
    }

    /// The sending side without a thread, for tests that act on orders themselves: urgent orders, others.
    /// `kick` is rung as for the thread.
    #[cfg(any(test, feature = "bench"))]
    pub fn detached(kick: Arc<Kick>) -> (Self, [Receiver<Order>; 2]) {
        let (urgent, urgent_orders) = unbounded();
        let (ordinary, ordinary_orders) = unbounded();
        (Self { orders: Some((urgent, ordinary)), kick }, [urgent_orders, ordinary_orders])
    }

    /// Sends an order; nothing happens before [`Watch::begin`]. Never blocks. If the thread has ended there
    /// is no answer, so callers need a timeout.
    pub fn order(&self, order: Order) {
        let Some((urgent, ordinary)) = &self.orders else { return };
        let is_urgent = matches!(order, Order::Exists { is_urgent: true, .. });
        let _ = if is_urgent { urgent.send(order) } else { ordinary.send(order) };
    }

    /// Wakes the thread for the orders sent. One system call, for any number of orders.
    pub fn begin(&self) {
        self.kick.kick();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.orders = None;
        self.kick.kick();
    }
}

/// The process watched for a slot: 24 bytes.
#[derive(Debug)]
struct Entry {
    /// Which holder of the slot.
    generation: u32,
    pid: u32,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// Its pidfd is in the epoll set.
    Pidfd(OwnedFd),
    /// It has exited as of this instant and is not reaped yet.
    Unreaped(OwnedFd, MonoNs),
    /// No descriptor was left.
    Waiting(Box<Waiting>),
}

#[derive(Debug)]
struct Waiting {
    /// Its position in the queue for a descriptor.
    turn: u64,
    incarnation: Option<Incarnation>,
}

/// The entries of all shards, by place.
#[derive(Debug, Default)]
struct Entries {
    shards: Vec<Slots<Option<Entry>>>,
}

impl Entries {
    fn get(&self, Place { shard, slot }: Place) -> Option<&Entry> {
        self.shards.get(usize::from(shard))?.get(slot)?.as_ref()
    }

    /// The entry at a place, if there is one.
    fn of(&mut self, Place { shard, slot }: Place) -> &mut Option<Entry> {
        if self.shards.len() <= usize::from(shard) {
            self.shards.resize_with(usize::from(shard) + 1, Slots::default);
        }
        self.shards[usize::from(shard)].of(slot)
    }
}

struct Watcher<C> {
    clock: C,
    epoll: OwnedFd,
    kick: Arc<Kick>,
    /// Urgent, ordinary.
    orders: [Receiver<Order>; 2],
    findings: Sender<Finding>,
    doorbell: Arc<Doorbell>,
    kills: Arc<OomKills>,
    /// Which group a process belongs to.
    names: Arc<Names>,
    /// When the counts of kills were read last.
    kills_read: MonoNs,
    pidfds_max: usize,
    pidfds: usize,
    entries: Entries,
    /// Entries without a descriptor, longest waiting first.
    waiting: BTreeMap<u64, Place>,
    last_turn: u64,
    /// Deadline and place of those not reaped yet.
    unreaped: VecDeque<(MonoNs, Place)>,
    /// Since the doorbell last rang.
    has_told: bool,
}

impl<C: Clock> Watcher<C> {
    fn run(mut self) {
        let mut is_more = false;
        loop {
            if self.wait(is_more).is_err() {
                // Only a broken descriptor can fail. The health check reports the end of the thread.
                return;
            }
            let Some(left) = self.take_orders() else { return };
            is_more = left;
            self.give_up_reaping();
            self.let_in();
            if std::mem::take(&mut self.has_told) {
                self.doorbell.ring();
            }
        }
    }

    /// Waits for exits and orders; returns at once if `is_more` orders are left.
    fn wait(&mut self, is_more: bool) -> io::Result<()> {
        let now = self.clock.mono();
        let reading = self.kills.has_groups().then(|| self.kills_read + oom::EVERY_NS);
        let reaping = self.unreaped.front().map(|(until, _)| *until);
        let until = reading.into_iter().chain(reaping).min().map(|until| until.since(now));
        let timeout = if is_more { Some(0) } else { until };
        self.take_events(timeout)?;
        let now = self.clock.mono();
        if reading.is_some_and(|at| at <= now) {
            self.kills.read(now);
            self.kills_read = now;
        }
        Ok(())
    }

    /// Takes events from the kernel. Returns their number.
    fn take_events(&mut self, timeout_ns: Option<u64>) -> io::Result<usize> {
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        });
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let events: &[Event] = match epoll::wait(&self.epoll, &mut room, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &[],
            Err(error) => return Err(error.into()),
        };
        // Read after the kernel answered: whatever the exited process sent had arrived by then.
        let now = self.clock.mono();
        for event in events {
            match event.data.u64() {
                BELL => drop(self.kick.consume()),
                word => self.ended(Place::from(word), now),
            }
        }
        Ok(events.len())
    }

    /// The process of this entry exited, or was reaped after it had exited.
    fn ended(&mut self, place: Place, now: MonoNs) {
        let Some(entry) = self.entries.of(place) else { return };
        let (pidfd, at, is_new) = match &entry.held {
            Held::Pidfd(pidfd) => (pidfd, now, true),
            Held::Unreaped(pidfd, at) => (pidfd, *at, false),
            Held::Waiting(_) => return,
        };
        let how = procfs::ended(pidfd, entry.pid);
        let at = procfs::end_of(pidfd, entry.pid, at, &self.clock);
        if how.is_some() || !is_new {
            return self.tell_gone(place, at, how);
        }
        // Without any events requested, the kernel still reports when it is reaped.
        if epoll::modify(&self.epoll, pidfd, EventData::new_u64(place.into()), EventFlags::empty()).is_err() {
            return self.tell_gone(place, at, how);
        }
        let entry = self.entries.of(place);
        if let Some(Entry { generation, pid, held: Held::Pidfd(pidfd) }) = entry.take() {
            *entry = Some(Entry { generation, pid, held: Held::Unreaped(pidfd, at) });
        }
        self.unreaped.push_back((at + REAP_NS, place));
    }

    fn tell_gone(&mut self, place: Place, at: MonoNs, how: Option<ExitHow>) {
        if let Some(holder) = self.forget(place) {
            let how = how.map(|how| self.explained(holder, how));
            self.tell(Finding::Gone { holder, at, how });
        }
    }

    /// How it ended: the kernel counts an out-of-memory kill before it kills.
    fn explained(&self, holder: Holder, how: ExitHow) -> ExitHow {
        let is_kill = how == ExitHow::KILLED;
        let group = if is_kill { self.names.group(holder) } else { 0 };
        if group != 0 && self.kills.is_one(group, self.clock.mono()) { ExitHow::OutOfMemory } else { how }
    }

    /// Reports processes that were not reaped in time, without how they ended.
    fn give_up_reaping(&mut self) {
        let now = self.clock.mono();
        while let Some((_, place)) = self.unreaped.pop_front_if(|(until, _)| *until <= now) {
            if let Some(Entry { held: Held::Unreaped(_, at), .. }) = self.entries.get(place) {
                let at = *at;
                self.tell_gone(place, at, None);
            }
        }
    }

    /// Takes orders: all urgent ones, and some of the others. True if more are left, `None` if the sending
    /// side is dropped.
    fn take_orders(&mut self) -> Option<bool> {
        let mut questions: Vec<Order> = self.orders[0].try_iter().collect();
        let mut is_more = true;
        for _ in 0..ORDERS_PER_TURN {
            match self.orders[1].try_recv() {
                Ok(Order::Watch { holder, pid, incarnation }) => self.watch(holder, pid, incarnation),
                Ok(Order::Unwatch { holder }) => self.unwatch(holder),
                Ok(question) => questions.push(question),
                Err(TryRecvError::Empty) => {
                    is_more = false;
                    break;
                }
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        if questions.is_empty() {
            return Some(is_more);
        }
        // The kernel queues an exit before it is visible otherwise: a watched process without an event
        // existed when the queue was empty. One check serves all questions.
        while self.take_events(Some(0)).ok()? == EVENTS {}
        for question in questions {
            if let Order::Exists { holder, pid, incarnation, .. } = question {
                self.look(holder, pid, incarnation);
            }
        }
        Some(is_more)
    }

    fn look(&mut self, holder: Holder, pid: u32, incarnation: Option<Incarnation>) {
        let entry = self.entry_of(holder);
        match entry.map(|entry| &entry.held) {
            Some(Held::Pidfd(_)) => self.tell(Finding::There { holder }),
            // The caller cannot wait to learn how it ended.
            Some(Held::Unreaped(_, at)) => {
                let at = *at;
                self.tell_gone(holder.place, at, None);
            }
            Some(Held::Waiting(_)) | None => {
                let finding = match procfs::end(pid, incarnation, &self.clock) {
                    None => Finding::There { holder },
                    Some(End { at, how }) => {
                        Finding::Gone { holder, at, how: how.map(|how| self.explained(holder, how)) }
                    }
                };
                self.tell(finding);
            }
        }
    }

    fn watch(&mut self, holder: Holder, pid: u32, incarnation: Option<Incarnation>) {
        let Holder { place, generation } = holder;
        self.forget(place);
        let held = match self.hold(place, pid, incarnation) {
            Ok(pidfd) => Held::Pidfd(pidfd),
            Err(NotHeld::Gone(at)) => return self.tell(Finding::Gone { holder, at, how: None }),
            Err(NotHeld::Refused) => {
                self.last_turn += 1;
                self.waiting.insert(self.last_turn, place);
                self.tell(Finding::Watching { holder, is_watched: false });
                Held::Waiting(Box::new(Waiting { turn: self.last_turn, incarnation }))
            }
        };
        *self.entries.of(place) = Some(Entry { generation, pid, held });
    }

    /// A pidfd of the process, added to the epoll set as `place`.
    fn hold(&mut self, place: Place, pid: u32, incarnation: Option<Incarnation>) -> Result<OwnedFd, NotHeld> {
        if self.pidfds >= self.pidfds_max {
            return Err(NotHeld::Refused);
        }
        let pidfd = procfs::hold(pid, incarnation, &self.clock)?;
        // Readable at once if the process has exited already.
        epoll::add(&self.epoll, &pidfd, EventData::new_u64(place.into()), EventFlags::IN)
            .map_err(|_| NotHeld::Refused)?;
        self.pidfds += 1;
        Ok(pidfd)
    }

    fn unwatch(&mut self, holder: Holder) {
        // The slot's next holder may be watched already.
        if self.entry_of(holder).is_some() {
            self.forget(holder.place);
        }
    }

    /// Opens descriptors for the processes that wait for one, while any are free.
    fn let_in(&mut self) {
        while self.pidfds < self.pidfds_max
            && let Some((turn, place)) = self.waiting.pop_first()
        {
            let Some(Entry { generation, pid, held: Held::Waiting(waiting) }) = self.entries.get(place)
            else {
                continue;
            };
            let (holder, pid, incarnation) =
                (Holder { place, generation: *generation }, *pid, waiting.incarnation);
            match self.hold(place, pid, incarnation) {
                Ok(pidfd) => {
                    let held = Held::Pidfd(pidfd);
                    *self.entries.of(place) = Some(Entry { generation: holder.generation, pid, held });
                    self.tell(Finding::Watching { holder, is_watched: true });
                }
                Err(NotHeld::Gone(at)) => self.tell_gone(place, at, None),
                Err(NotHeld::Refused) => {
                    // The kernel has none left, whatever this thread's limit: try again when one is closed.
                    self.waiting.insert(turn, place);
                    return;
                }
            }
        }
    }

    fn entry_of(&self, holder: Holder) -> Option<&Entry> {
        self.entries.get(holder.place).filter(|entry| entry.generation == holder.generation)
    }

    fn forget(&mut self, place: Place) -> Option<Holder> {
        let entry = self.entries.of(place).take()?;
        match entry.held {
            // Closing it removes it from the set.
            Held::Pidfd(_) | Held::Unreaped(..) => self.pidfds -= 1,
            Held::Waiting(waiting) => drop(self.waiting.remove(&waiting.turn)),
        }
        Some(Holder { place, generation: entry.generation })
    }

    fn tell(&mut self, finding: Finding) {
        self.has_told = true;
        // At the end of the fleet no receiver is left.
        let _ = self.findings.send(finding);
    }
}

#[cfg(test)]
mod tests;
