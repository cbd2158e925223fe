//! A fleet of more agents than a host has pids, in real time, driven by a bench.
//!
//! Real: shards, lanes, aggregator and their threads as in [`fleet`](crate::fleet), and HTTP with its history if it is
//! served. Replaced: the kernel's queue, which supplies datagrams that no process sent, and the lookup and the watch
//! thread, which answer that every process exists until it is killed, and name it.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TryRecvError, select, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::aggregator::fanout::Subscriber;
use crate::aggregator::policy::Policy;
use crate::aggregator::thread::{AGGREGATOR_NICE, aggregate};
use crate::aggregator::{Aggregator, Inquiries, Request};
use crate::config::classes::Classes;
use crate::event::{Event, ExitHow};
use crate::journal::{Estate, Identity};
use crate::lab::crowd::Crowd;
use crate::lane::kick::Kick;
use crate::lane::{Doorbell, Port};
use crate::process::lookup::Lookups;
use crate::process::names::Names;
use crate::process::procfs::{self, Incarnation, LookedUp};
use crate::process::question::{Finding, Inquiry, Question};
use crate::process::watch::{Order, Watch};
use crate::route::shard_for;
use crate::shard::Shard;
use crate::shard::front::{Front, Limits};
use crate::shard::input::Transport;
use crate::shard::thread::{Life, observe};
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::clock::SystemClock;
use crate::sys::datagram::{Credentials, Datagram};
use crate::sys::thread::set_own_nice;
use crate::table::{self, Header};
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::copies::Copies;
use crate::view::health::Vitals;
use crate::view::tally::Reader;
use crate::wire::{FRAME_BYTES, Frame, Status, Version};

/// Datagrams of one receive call, as from the kernel.
const BATCH: usize = 64;
/// The first agent's pid.
const FIRST_PID: u32 = 2;
/// The signal by which processes are killed.
const SIGKILL: u8 = 9;

/// Parameters of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Number of agents.
    pub agents: u32,
    /// Shards the agents are hashed to.
    pub shards: u16,
    /// Threshold of a stall, ns.
    pub threshold_ns: u64,
    /// Resolution of the timers, ns.
    pub tick_ns: u64,
    /// Longest sleep of a shard before it drains, ns.
    pub max_delay_ns: u64,
    /// Time a shard takes to read one datagram from the queue, ns.
    pub datagram_ns: u64,
}

/// The running fleet.
#[derive(Debug)]
pub struct Stage {
    queues: Vec<(Arc<Queue>, Vec<u32>)>,
    kills: Sender<Range<u32>>,
    watch_kick: Arc<Kick>,
    #[cfg(feature = "http")]
    pub(super) setup: Setup,
    pub(super) ports: Vec<Arc<Port>>,
    pub(super) names: Arc<Names>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) requests: Sender<Request>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) copies: Arc<Copies>,
    pub(super) stop: Arc<AtomicBool>,
    #[cfg(feature = "http")]
    pub(super) http: Option<crate::http::Http>,
    threads: Vec<JoinHandle<()>>,
}

/// Agents of one shard that beat at the same instant.
#[derive(Debug)]
struct Volley {
    at: WallNs,
    agents: Range<usize>,
}

/// Datagrams that the bench queues for one shard.
#[derive(Debug)]
struct Queue {
    volleys: (Sender<Volley>, Receiver<Volley>),
    filled: Kick,
}

/// The shard's end of the queue.
#[derive(Debug)]
struct Standin {
    queue: Arc<Queue>,
    kick: Arc<Kick>,
    pids: Vec<u32>,
    crowd: Crowd,
    nonces: Vec<u64>,
    volley: Option<Volley>,
    batch: Vec<([u8; FRAME_BYTES], Credentials, WallNs)>,
    limit: u32,
    datagram_ns: u64,
}

impl Transport for Standin {
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        let timeout_ns = until.since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(timeout_ns % 1_000_000_000).unwrap_or(0),
        };
        let mut fds =
            [PollFd::new(&*self.kick, PollFlags::IN), PollFd::new(&self.queue.filled, PollFlags::IN)];
        let waited_for = if for_datagrams { &mut fds[..] } else { &mut fds[..1] };
        poll(waited_for, Some(&timeout))?;
        let [is_kicked, is_filled] = fds.map(|fd| !fd.revents().is_empty());
        if is_kicked {
            self.kick.consume();
        }
        if is_filled {
            self.queue.filled.consume();
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let from = SystemClock.mono();
        self.batch.clear();
        while self.batch.len() < BATCH {
            let Some(volley) = self.volley.take().or_else(|| self.queue.volleys.1.try_recv().ok()) else {
                break;
            };
            let end = volley.agents.end.min(volley.agents.start + BATCH - self.batch.len());
            for agent in volley.agents.start..end {
                self.nonces[agent] += 1;
                let (pid, nonce) = (self.pids[agent], self.nonces[agent]);
                let frame =
                    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 5, nonce, payload: 0 };
                let credentials = Credentials { pid, uid: self.crowd.user(pid) };
                self.batch.push((frame.encode(), credentials, volley.at));
            }
            if end < volley.agents.end {
                self.volley = Some(Volley { agents: end..volley.agents.end, ..volley });
            }
        }
        while SystemClock.mono().since(from) < self.datagram_ns * self.batch.len() as u64 {
            std::hint::spin_loop();
        }
        Ok(self.batch.len())
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let (bytes, credentials, at) = &self.batch[index];
        Datagram {
            bytes,
            is_truncated: false,
            is_control_truncated: false,
            has_foreign_fds: false,
            credentials: Some(*credentials),
            stamp: Some(*at),
        }
    }

    fn sender(&self, index: usize) -> Option<u32> {
        Some(self.batch[index].1.pid)
    }

    fn batch_max(&self) -> usize {
        BATCH
    }

    fn queue_limit(&self) -> u32 {
        self.limit
    }
}

impl Stage {
    /// Starts the threads. No agent beats yet.
    ///
    /// # Errors
    /// The kernel's, if it grants no memory, descriptor or thread.
    pub fn new(setup: &Setup) -> io::Result<Self> {
        let doorbell = Arc::new(Doorbell::default());
        let admission = Admission::new(setup.agents)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (requests, requests_of) = unbounded();
        let (copies, asked) = Copies::new(setup.shards.into(), Arc::clone(&doorbell));
        let copies = Arc::new(copies);
        let crowd = Crowd { pids: FIRST_PID..FIRST_PID + setup.agents };
        let (mut shards, mut queues, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..setup.shards {
            let header = Header { boot_id: 0, pid_namespace: 0, shard: index, shards: setup.shards };
            let (writer, table) = table::create(setup.agents, header)?;
            let kick = Arc::new(Kick::new()?);
            let port = Port::new(table, Arc::clone(&kick), false)?.with_turned_away(admission.turned_away());
            let port = Arc::new(port);
            let (threshold_ns, now) = (setup.threshold_ns, SystemClock.mono());
            let uids = UidAccounts::new(Arc::clone(&port.uids), None);
            let tracker = Tracker::new(
                writer,
                Classes::single(threshold_ns),
                setup.tick_ns,
                Arc::clone(&admission),
                uids,
                now,
            );
            let queue = Arc::new(Queue { volleys: unbounded(), filled: Kick::new()? });
            let pids: Vec<u32> = crowd
                .pids
                .clone()
                .filter(|pid| shard_for(*pid, u32::from(setup.shards)) == u32::from(index))
                .collect();
            let transport = Standin {
                queue: Arc::clone(&queue),
                kick,
                nonces: vec![0; pids.len()],
                pids: pids.clone(),
                crowd: crowd.clone(),
                volley: None,
                batch: Vec::with_capacity(BATCH),
                limit: setup.agents * 2,
                datagram_ns: setup.datagram_ns,
            };
            let limits = Limits { threshold_min_ns: threshold_ns, tick_ns: setup.tick_ns };
            let front = Front::new(transport, SystemClock, tracker, limits, None);
            shards.push(Shard::new(front, Arc::clone(&port), Arc::clone(&doorbell), setup.max_delay_ns));
            queues.push((queue, pids));
            ports.push(port);
        }
        let watch_kick = Arc::new(Kick::new()?);
        let (kills, killed) = unbounded();
        let mut stage = Self {
            queues,
            kills,
            watch_kick: Arc::clone(&watch_kick),
            #[cfg(feature = "http")]
            setup: *setup,
            vitals: Vitals::new(ports.as_slice().into(), Arc::default()),
            names: Arc::new(Names::new(setup.shards.into())),
            ports,
            requests,
            doorbell: Arc::clone(&doorbell),
            copies: Arc::clone(&copies),
            stop: Arc::clone(&stop),
            #[cfg(feature = "http")]
            http: None,
            threads: Vec::new(),
        };
        let (findings, findings_of) = unbounded();
        let (lookups, questions) = Lookups::detached();
        let (watch, orders) = Watch::detached(Arc::clone(&watch_kick));
        let (found, rung, names) = (findings.clone(), Arc::clone(&doorbell), Arc::clone(&stage.names));
        stage.spawn("lookup", move || answer_questions(&questions, &crowd, &names, &found, &rung))?;
        let rung = Arc::clone(&doorbell);
        stage.spawn("watch", move || obey(&watch_kick, &orders, &killed, &findings, &rung))?;
        let policy = Policy { classes: Classes::single(setup.threshold_ns), rules: Vec::new() };
        let inquiries = Inquiries { lookups, watch, findings: findings_of, names: Arc::clone(&stage.names) };
        let capacities = stage.ports.iter().map(|port| port.table.capacity());
        let identity = Identity { boot_id: 0, pid_namespace: 0, fleet: 0 };
        let estate = Estate::create(&identity, 0, SystemClock.mono(), capacities)?;
        let aggregator = Aggregator::new(
            &stage.ports,
            policy,
            inquiries,
            requests_of,
            Arc::clone(&doorbell),
            asked,
            estate,
        );
        // The warnings of the thread setup are not read.
        let (said, _) = unbounded();
        let vitals = Arc::clone(&stage.vitals);
        let body =
            aggregate(aggregator, copies, vitals, (Arc::clone(&doorbell), Arc::default()), said.clone());
        let aggregator = stage.spawn("aggregate", body)?;
        doorbell.answer(aggregator);
        for (shard, port) in shards.into_iter().zip(stage.ports.clone()) {
            let (doorbell, stop, park) = (Arc::clone(&doorbell), Arc::clone(&stop), Arc::default());
            let life = Life { port, doorbell, stop, park };
            stage.spawn("shard", observe(shard, life, 0, None, said.clone()))?;
        }
        Ok(stage)
    }

    /// Starts a thread that ends when the fleet does.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<thread::Thread> {
        let thread = thread::Builder::new().name(format!("varta-{name}")).spawn(body)?;
        let handle = thread.thread().clone();
        self.threads.push(thread);
        Ok(handle)
    }

    /// Subscribes with room for `capacity` events.
    pub fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (subscriber, events) = Subscriber::new(Reader::Subscriber, capacity);
        let _ = self.requests.send(Request::Subscribe(subscriber));
        self.doorbell.ring();
        events
    }

    /// Makes the agents of a range, counted from 0 over all shards, beat now, all at the same instant.
    pub fn beat(&self, agents: Range<u32>) {
        let at = SystemClock.wall();
        for (queue, pids) in &self.queues {
            let index = |agent: u32| pids.partition_point(|pid| *pid < FIRST_PID + agent);
            let agents = index(agents.start)..index(agents.end);
            if !agents.is_empty() {
                let _ = queue.volleys.0.send(Volley { at, agents });
                queue.filled.kick();
            }
        }
    }

    /// Kills the processes of a range, counted as for [`beat`](Self::beat). They must beat no more.
    pub fn kill(&self, agents: Range<u32>) {
        let _ = self.kills.send(FIRST_PID + agents.start..FIRST_PID + agents.end);
        self.watch_kick.kick();
    }

    /// Agents reported as up and not as stalled.
    pub fn agents_up(&self) -> u64 {
        self.copies.take().shards.iter().map(|shard| shard.up).sum()
    }

    /// Batch reports dropped because a report lane was full.
    pub fn reports_dropped(&self) -> u64 {
        self.ports.iter().map(|port| port.counters.reports_dropped.get()).sum()
    }
}

impl Drop for Stage {
    /// Ends all threads.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for port in &self.ports {
            port.kick(SystemClock.mono());
        }
        let _ = self.requests.send(Request::Stop);
        self.doorbell.ring();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        #[cfg(feature = "http")]
        if let Some(http) = self.http.take() {
            let _ = http.end().join();
        }
    }
}

/// Answers that every pid still belongs to the same process.
fn answer_questions(
    [urgent, questions]: &[Receiver<Question>; 2],
    crowd: &Crowd,
    names: &Names,
    findings: &Sender<Finding>,
    doorbell: &Doorbell,
) {
    loop {
        let question = urgent.try_recv().or_else(|_| {
            select! {
                recv(urgent) -> question => question,
                recv(questions) -> question => question,
            }
        });
        let Ok(Question { holder, pid, of, .. }) = question else { return };
        let (program, uid) = (crowd.program(pid), crowd.user(pid));
        let finding = match of {
            Inquiry::Program | Inquiry::Class => {
                names.put(holder, &program, None, 0);
                Finding::Program { holder, found: program, is_frozen: false }
            }
            Inquiry::Freezer(_) => Finding::Freezer { holder, is_frozen: false },
            Inquiry::Lives(_) => Finding::Lives { pid, life: procfs::Life::Unknown },
            Inquiry::Who => {
                names.put(holder, &program, Some(uid), 0);
                let incarnation = Incarnation::new(u64::from(pid));
                let found =
                    LookedUp { incarnation, started: MonoNs(0), inner_pids: Vec::new(), uid, program };
                Finding::Who { holder, found: Ok(found) }
            }
        };
        if findings.send(finding).is_err() {
            return;
        }
        doorbell.ring();
    }
}

/// Answers that every watched process exists until it is killed. Wakes, rings and keeps as many entries as the watch
/// thread.
fn obey(
    kick: &Kick,
    orders: &[Receiver<Order>; 2],
    killed: &Receiver<Range<u32>>,
    findings: &Sender<Finding>,
    doorbell: &Doorbell,
) {
    let _ = set_own_nice(AGGREGATOR_NICE);
    let mut watched = HashMap::new();
    loop {
        if poll(&mut [PollFd::new(kick, PollFlags::IN)], None).is_ok() {
            kick.consume();
        }
        let mut has_told = false;
        for orders in orders {
            loop {
                match orders.try_recv() {
                    Ok(Order::Watch { holder, pid, .. }) => {
                        watched.insert(holder.place, (holder, pid));
                    }
                    Ok(Order::Unwatch { holder }) => {
                        watched.remove(&holder.place);
                    }
                    Ok(Order::Exists { holder, .. }) => {
                        if watched.get(&holder.place).is_some_and(|(watched, _)| *watched == holder) {
                            has_told |= findings.send(Finding::There { holder }).is_ok();
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
        while let Ok(pids) = killed.try_recv() {
            let (at, how) = (SystemClock.mono(), Some(ExitHow::Signal(SIGKILL)));
            watched.retain(|_, (holder, pid)| {
                let is_killed = pids.contains(pid);
                has_told |= is_killed && findings.send(Finding::Gone { holder: *holder, at, how }).is_ok();
                !is_killed
            });
        }
        if has_told {
            doorbell.ring();
        }
    }
}
