//! The wiring: config -> fleet -> handle. Binds, spawns, publishes; stops in order.
//!
//! Start: lock, bind all sockets, shards receive, manifest, symlink. Stop: shards drain, the aggregator
//! tells what is left, outputs flush, files go, the lock last.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use rustix::process::{Resource, getrlimit};

use super::handle::Handle;
use crate::aggregator::fanout::{EVENTS_SLACK, Subscriber};
use crate::aggregator::policy::Policy;
use crate::aggregator::thread::{AGGREGATOR_NICE, aggregate};
use crate::aggregator::{Aggregator, Inquiries, Request};
use crate::config::Config;
use crate::config::plan::{CoreChoice, EventsFormat, Output, Plan, ShardPlan};
use crate::fleet::error::StartError;
#[cfg(feature = "http")]
use crate::http::{Heard, Http, Listeners, Sources};
use crate::lane::counters::ShardHealth;
use crate::lane::kick::Kick;
use crate::lane::{Doorbell, Port};
#[cfg(feature = "http")]
use crate::priority::Standing;
use crate::process::lookup::Lookups;
#[cfg(feature = "http")]
use crate::process::names::Names;
use crate::process::procfs;
use crate::process::procfs::Program;
use crate::process::question::Ticket;
use crate::process::watch::Watch;
use crate::rundir::binding::{BoundSocket, Owner};
use crate::rundir::dir::{self, RunDir};
use crate::rundir::upkeep::{Files, Upkeep};
use crate::shard::Shard;
use crate::shard::front::{Front, Limits};
use crate::shard::input::unix::Unix;
use crate::shard::thread::{Life, observe};
use crate::shard::tracker::{Admission, Tracker};
use crate::sinks::{self, EventWriter, OutputState, Rotation, WriteTrouble, WriterReport};
use crate::sys::clock::SystemClock;
use crate::sys::mmsg::is_recvmmsg_refused;
use crate::sys::thread::{allowed_cores, join_until, set_own_nice};
use crate::table::{self, Origin};
use crate::time::Clock;
use crate::view::copies::Copies;
use crate::view::health::{FleetThread, Health, Problem, Vitals};
use crate::view::tally::Reader;
use crate::warning::Warning;

/// How long a stop waits for threads, which end within milliseconds unless they are stuck.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Agents that may come before the kernel is asked for more memory, of all shards together and of one at least: more
/// than start at once, and half of it is left when it is asked.
const GRANTED_AHEAD: u32 = 16_384;
const GRANTED_AHEAD_MIN: u32 = 1024;

/// A running fleet. Dropping it stops it.
#[derive(Debug)]
pub struct Fleet {
    handle: Handle,
    stop: Arc<AtomicBool>,
    shards: Vec<JoinHandle<()>>,
    aggregator: Option<JoinHandle<()>>,
    lookup: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    writer: Option<EventWriter>,
    upkeep: Option<Upkeep>,
    #[cfg(feature = "http")]
    http: Option<Http>,
    /// What the HTTP thread will hear, until it runs.
    #[cfg(feature = "http")]
    heard: Option<Heard>,
    /// The end of the HTTP thread was told.
    is_unanswered_told: AtomicBool,
    dir: PathBuf,
    /// Where questions are answered by TCP.
    address: Option<SocketAddr>,
    warnings: Vec<Warning>,
}

/// How a fleet stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Shards whose threads had died before, or were stuck.
    pub shards_dead: usize,
    /// The aggregator's thread had died before, or was stuck: events are missing.
    pub is_aggregator_dead: bool,
    /// Events that could not be written to the output in time.
    pub events_unwritten: u64,
    /// The output ends in the middle of a line.
    pub ends_mid_line: bool,
    /// What made the fleet unhealthy when the stop began, and threads that died.
    pub problems: Vec<Problem>,
    /// What was found of the fleet's files since [`Fleet::next_warning`] was asked last, up to the stop.
    pub warnings: Vec<Warning>,
}

impl Fleet {
    /// Starts to observe as configured. Returns once every shard receives and agents can find it.
    ///
    /// Installs no signal handler and no logger, changes nothing of the process but its threads.
    ///
    /// # Errors
    /// The first thing that cannot be had; nothing is left behind.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_plan(config.plan()?)
    }

    /// As [`Fleet::start`], of a plan made before.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_plan(plan: Plan) -> Result<Self, StartError> {
        let mut dir = RunDir::open(&plan.dir)?;
        let mut sockets = Vec::with_capacity(plan.shards.len());
        for (shard, of) in plan.shards.iter().enumerate() {
            if let Some(parent) = of.socket.parent().filter(|parent| *parent != dir.path()) {
                dir::vet(parent)?;
            }
            let bound = dir.bind_shard(&of.socket, of.mode, Owner { uid: None, gid: of.group });
            sockets.push(bound.map_err(|source| StartError::Bind { shard, source })?);
        }
        let mut warnings = Warning::of_here();
        warnings.extend(Warning::of_rules(&plan));
        #[cfg(feature = "http")]
        let (control, listeners) = {
            let owner = Owner { uid: None, gid: plan.control_group };
            let control = dir.bind_control(plan.control_mode, owner).map_err(StartError::Control)?;
            let listener = control.fd().try_clone().map_err(resources("open the control socket"))?;
            (control, Listeners::open(listener.into(), &plan.http)?)
        };
        #[cfg(not(feature = "http"))]
        if let Some(address) = plan.http.listen {
            return Err(StartError::NoHttp { address });
        }
        let mut fleet = Self::spawn(&plan, &sockets, warnings)?;
        #[cfg(feature = "http")]
        fleet.answer(&plan, dir.path(), listeners)?;
        let paths: Vec<PathBuf> = plan.shards.iter().map(|shard| shard.socket.clone()).collect();
        dir.publish(&paths)?;
        fleet.dir = dir.path().to_owned();
        let (requests, doorbell) = (fleet.handle.requests.clone(), Arc::clone(&fleet.handle.doorbell));
        let files = Files {
            sockets,
            #[cfg(feature = "http")]
            control,
            dir,
        };
        let lifeline = fleet.handle.vitals.of(FleetThread::Upkeep);
        let upkeep = Upkeep::spawn(files, lifeline, move |shard, errno| {
            let _ = requests.send(Request::Files { shard, errno });
            doorbell.ring();
        });
        fleet.upkeep = Some(upkeep.map_err(resources("start a thread"))?);
        fleet.handle.vitals.warn(fleet.warnings.iter().map(ToString::to_string).collect());
        Ok(fleet)
    }

    fn spawn(plan: &Plan, sockets: &[BoundSocket], warnings: Vec<Warning>) -> Result<Self, StartError> {
        let doorbell = Arc::new(Doorbell::default());
        let with_beats = plan.events.as_ref().is_some_and(|events| events.beats);
        let mut cores = Vec::new();
        let mut ports = Vec::new();
        let admission = Admission::with_shares(plan.agents_max, plan.uid_agents_max)
            .map_err(resources("reserve memory for agents"))?;
        for (index, (shard, socket)) in plan.shards.iter().zip(sockets).enumerate() {
            let (core, port) = make_shard(plan, index, shard, socket, &admission, with_beats)
                .map_err(resources("reserve memory for a shard"))?;
            cores.push(core);
            ports.push(port);
        }
        let thread = resources("start a thread");
        let (requests, requests_of) = unbounded();
        let (copies, asked) = Copies::new(plan.shards.len(), Arc::clone(&doorbell));
        let copies = Arc::new(copies);
        let ports: Arc<[Arc<Port>]> = ports.into();
        let output: Arc<OutputState> = Arc::default();
        let vitals = Vitals::new(Arc::clone(&ports), Arc::clone(&output));
        let (answer, answers) = unbounded();
        #[cfg(feature = "http")]
        let names = Arc::new(Names::new(ports.len()));
        let on_program = {
            #[cfg(feature = "http")]
            let names = Arc::clone(&names);
            let lifeline = vitals.of(FleetThread::Lookup);
            move |_ticket: Ticket, _program: &Program| {
                let _ = &lifeline;
                #[cfg(feature = "http")]
                names.put(_ticket, _program);
            }
        };
        // As the aggregator's: exits and stalls are reported within milliseconds on a busy host, too.
        let on_start = || drop(set_own_nice(AGGREGATOR_NICE));
        let (lookups, lookup) =
            Lookups::spawn(SystemClock, answer.clone(), Arc::clone(&doorbell), on_start, on_program)
                .map_err(&thread)?;
        let lifeline = vitals.of(FleetThread::Watch);
        let on_start = || {
            let _ = set_own_nice(AGGREGATOR_NICE);
            lifeline
        };
        let (watch, watch_thread) =
            Watch::spawn(SystemClock, answer, Arc::clone(&doorbell), pidfds_max(plan), on_start)
                .map_err(&thread)?;
        let handle = Handle {
            ports,
            copies: Arc::clone(&copies),
            requests,
            doorbell: Arc::clone(&doorbell),
            vitals: Arc::clone(&vitals),
            agents_max: plan.agents_max,
            output,
            #[cfg(feature = "http")]
            names,
        };
        let mut fleet = Self {
            handle: handle.clone(),
            stop: Arc::new(AtomicBool::new(false)),
            shards: Vec::new(),
            aggregator: None,
            lookup: Some(lookup),
            watch: Some(watch_thread),
            writer: None,
            upkeep: None,
            #[cfg(feature = "http")]
            http: None,
            #[cfg(feature = "http")]
            heard: None,
            is_unanswered_told: AtomicBool::new(false),
            dir: PathBuf::new(),
            address: None,
            warnings,
        };
        // Subscribed before the first event is told, so that its file begins with `start`.
        fleet.writer = open_writer(plan, &handle)?;
        #[cfg(feature = "http")]
        {
            let (heard, subscriber) = Heard::subscribe(plan);
            let _ = handle.requests.send(Request::Subscribe(subscriber));
            fleet.heard = Some(heard);
        }
        let policy = Policy { thresholds_ns: thresholds(plan), rules: plan.rules.clone() };
        let inquiries = Inquiries { lookups, watch, answers };
        let aggregator =
            Aggregator::new(&handle.ports, policy, inquiries, requests_of, Arc::clone(&doorbell), asked);
        let (said, raised) = unbounded();
        let body = aggregate(aggregator, copies, vitals, Arc::clone(&doorbell), said.clone());
        let aggregator =
            thread::Builder::new().name("varta-aggregate".into()).spawn(body).map_err(&thread)?;
        doorbell.answer(aggregator.thread().clone());
        fleet.aggregator = Some(aggregator);
        let pins = pins(&plan.shards);
        for (index, core) in cores.into_iter().enumerate() {
            let port = Arc::clone(&handle.ports[index]);
            let shard = Shard::new(core, port, Arc::clone(&doorbell), plan.max_delay_ns);
            let stop = Arc::clone(&fleet.stop);
            let life = Life { port: Arc::clone(&handle.ports[index]), doorbell: Arc::clone(&doorbell), stop };
            let body = observe(shard, life, index, pins[index], said.clone());
            let thread =
                thread::Builder::new().name(format!("varta-shard-{index}")).spawn(body).map_err(&thread)?;
            fleet.shards.push(thread);
        }
        drop(said);
        // Each thread says how it is set up, then that it runs; all have spoken when the channel closes.
        fleet.warnings.extend(raised);
        fleet.warnings.dedup_by(|one, other| {
            matches!((&*one, &*other), (Warning::Priority { thread: a, .. }, Warning::Priority { thread: b, .. }) if a == b)
        });
        Ok(fleet)
    }

    /// Lets others ask.
    #[cfg(feature = "http")]
    fn answer(&mut self, plan: &Plan, dir: &Path, listeners: Listeners) -> Result<(), StartError> {
        let handle = &self.handle;
        let is_raised = ["the shards", "the aggregator"].map(|threads| {
            let is_about =
                |warning: &Warning| matches!(warning, Warning::Priority { thread, .. } if *thread == threads);
            !self.warnings.iter().any(is_about)
        });
        let counts = Standing::own() == Standing::Host;
        let sources = Sources {
            ports: Arc::clone(&handle.ports),
            copies: Arc::clone(&handle.copies),
            names: Arc::clone(&handle.names),
            vitals: Arc::clone(&handle.vitals),
            output: Arc::clone(&handle.output),
            thresholds_ns: thresholds(plan),
            plan: plan.clone(),
            dir: dir.to_owned(),
            is_raised: is_raised.map(|is_raised| is_raised && counts),
            started: (SystemClock.mono(), SystemClock.wall()),
            address: listeners.address(),
        };
        self.address = sources.address;
        let Some(heard) = self.heard.take() else { return Ok(()) };
        self.http = Some(Http::spawn(sources, listeners, heard).map_err(resources("start a thread"))?);
        Ok(())
    }

    /// Where metrics, API and status page are served by TCP, if they are.
    #[must_use]
    pub const fn http_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What works less well than it should.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The next thing that came to work less well since the start, or works again; each is told once. To be
    /// asked for about once a second; `io` events tell the same.
    #[must_use]
    pub fn next_warning(&self) -> Option<Warning> {
        let is_unanswered = self.handle.vitals.has_died(FleetThread::Http);
        if is_unanswered && !self.is_unanswered_told.swap(true, Ordering::Relaxed) {
            return Some(Warning::Unanswered);
        }
        self.upkeep.as_ref().and_then(Upkeep::next_warning)
    }

    /// Whether every thread that observes and tells runs, and turns: one that is stuck for 5 s is not healthy. To
    /// be asked about once a second; who asks less often learns later that the aggregator is stuck. A time in
    /// which the whole process stood still counts against nobody. Never waits for any of them.
    ///
    /// A socket that agents cannot find any more does not count: to end for it would lose those that are
    /// connected, too. [`Fleet::next_warning`], an `io` event and the [`Snapshot`](crate::Snapshot) tell of it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.handle.vitals.threads(SystemClock.mono()).is_healthy()
    }

    /// What is wrong, fatal or not; as [`Fleet::is_healthy`] otherwise, and about 0.1 ms more.
    #[must_use]
    pub fn health(&self) -> Health {
        self.handle.health()
    }

    /// Opens the event output again, at once; for whoever has moved its file away and does not want to wait for the
    /// next event. Without it the next event finds out. Never waits.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// To be asked from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The runtime directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops: shards drain what is queued, what is left is told, outputs flush, the files go. `within`
    /// bounds the flushing of the event output; the rest takes milliseconds. A thread that is stuck is left
    /// behind after 5 s; it ends by itself if it ever goes on.
    #[must_use]
    pub fn stop(mut self, within: Duration) -> StopReport {
        self.stop_now(within)
    }

    fn stop_now(&mut self, within: Duration) -> StopReport {
        let now = SystemClock.mono();
        let Health { problems } = self.handle.vitals.threads(now);
        self.handle.vitals.stop();
        self.stop.store(true, Ordering::Release);
        for port in &*self.handle.ports {
            port.kick(now);
        }
        let upkeep = self.upkeep.take().map(Upkeep::end);
        let until = Instant::now() + STOP_WITHIN;
        let mut shards_dead = 0;
        for (shard, port) in self.shards.drain(..).zip(&*self.handle.ports) {
            // One that is known to be stuck had its time.
            let has_ended = join_until(shard, if port.is_alive() { until } else { Instant::now() }).is_some();
            shards_dead += usize::from(!has_ended || port.counters.health() != ShardHealth::Alive);
        }
        // One that is stuck in the file system keeps the files, as a crash would. One that died left them to us.
        let (mut files, warnings) = upkeep.map(|upkeep| upkeep.join_until(until)).unwrap_or_default();
        if let Some(files) = &mut files {
            files.dir.withdraw();
        }
        let _ = self.handle.requests.send(Request::Stop);
        self.handle.doorbell.ring();
        let mut is_aggregator_dead = false;
        if let Some(aggregator) = self.aggregator.take() {
            is_aggregator_dead = join_until(aggregator, Instant::now() + STOP_WITHIN).is_none();
        }
        // Both end once the aggregator has dropped its questions: as long as it is stuck they cannot.
        for thread in [self.lookup.take(), self.watch.take()].into_iter().flatten() {
            if !is_aggregator_dead {
                let _ = join_until(thread, Instant::now() + STOP_WITHIN);
            }
        }
        // It tells the last events, too.
        #[cfg(feature = "http")]
        if let Some(http) = self.http.take() {
            let _ = join_until(http.end(), Instant::now() + STOP_WITHIN);
        }
        let written: Option<WriterReport> = self.writer.take().map(|writer| writer.close(within));
        drop(files);
        StopReport {
            is_aggregator_dead,
            shards_dead,
            events_unwritten: written.as_ref().map_or(0, |report| report.events_unwritten),
            ends_mid_line: written.is_some_and(|report| report.ends_mid_line),
            problems,
            warnings,
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.aggregator.is_some() || !self.shards.is_empty() {
            self.stop_now(Duration::from_millis(500));
        }
    }
}

impl Warning {
    /// What an observer could not see or do from where this process runs. Four system calls.
    #[must_use]
    pub fn of_here() -> Vec<Self> {
        let procfs = match () {
            () if !procfs::is_procfs_ours() => Some(Self::ForeignProcfs),
            () if procfs::is_procfs_hiding() => Some(Self::HiddenProcfs),
            () => None,
        };
        let namespace = is_inside_pid_namespace().then_some(Self::PidNamespace);
        let calls = is_recvmmsg_refused().then_some(Self::OneByOne);
        namespace.into_iter().chain(procfs).chain(calls).collect()
    }
}

impl Warning {
    /// What of this plan's rules an observer could not decide from where this process runs. One system call.
    #[must_use]
    pub fn of_rules(plan: &Plan) -> Option<Self> {
        let looks_at_programs = plan.rules.iter().any(|rule| rule.matcher.exe.is_some());
        (looks_at_programs && !procfs::may_look_into_others()).then_some(Self::UnreadablePrograms)
    }
}

/// What the kernel would not grant.
fn resources(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Resources { what, source }
}

/// Class 0 is the default, class i + 1 is rule i; after them, if there are rules, the largest of all: it
/// holds until the lookup is done.
fn thresholds(plan: &Plan) -> Vec<u64> {
    let mut thresholds = vec![plan.threshold_ns];
    if !plan.rules.is_empty() {
        thresholds.extend(plan.rules.iter().map(|rule| rule.threshold_ns));
        thresholds.push(plan.threshold_max_ns());
    }
    thresholds
}

/// Pidfds that the limit of this process leaves room for. The limit is not ours to raise: whoever owns the
/// process does before the start.
fn pidfds_max(plan: &Plan) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    plan.pidfds_max(limit.map_or(u64::MAX, |limit| limit.saturating_sub(open))) as usize
}

fn make_shard(
    plan: &Plan,
    index: usize,
    shard: &ShardPlan,
    socket: &BoundSocket,
    admission: &Arc<Admission>,
    with_beats: bool,
) -> io::Result<(Front<Unix, SystemClock>, Arc<Port>)> {
    let number = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    let origin = Origin {
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        shard: number(index),
        shards: number(plan.shards.len()),
    };
    let ahead = (GRANTED_AHEAD / u32::from(origin.shards.max(1))).max(GRANTED_AHEAD_MIN);
    let (writer, table) = table::create_granted(plan.agents_max, origin, ahead)?;
    let kick = Arc::new(Kick::new()?);
    let port = Port::new(table, Arc::clone(&kick), with_beats)?.with_turned_away(admission.turned_away());
    let thresholds = thresholds(plan);
    let first_class = u8::try_from(thresholds.len() - 1).unwrap_or(u8::MAX);
    let now = SystemClock.mono();
    let tracker = Tracker::new(writer, &thresholds, first_class, plan.tick_ns, Arc::clone(admission), now);
    let transport = Unix::new(Arc::clone(socket.fd()), socket.queue_limit(), kick)?;
    let mut core =
        Front::new(transport, SystemClock, tracker, Limits::from(plan), shard.allow_uids.as_deref());
    core.limit_uids(plan.uid_frames_max);
    Ok((core, Arc::new(port)))
}

fn open_writer(plan: &Plan, handle: &Handle) -> Result<Option<EventWriter>, StartError> {
    let Some(events) = &plan.events else { return Ok(None) };
    let (mut subscriber, source) = Subscriber::new(Reader::Log, plan.agents_max as usize + EVENTS_SLACK);
    subscriber.wants_beats = events.beats;
    let output = match &events.output {
        Output::Stdout => sinks::Output::Stdout,
        Output::File(path) => sinks::Output::File(path.clone()),
    };
    let rotation = events.max_bytes.map(|bytes_max| Rotation { bytes_max, keep: events.keep });
    let format = match events.format {
        EventsFormat::Jsonl => sinks::Format::Jsonl,
        EventsFormat::Tsv => sinks::Format::Tsv { start: SystemClock.mono() },
    };
    let (requests, doorbell) = (handle.requests.clone(), Arc::clone(&handle.doorbell));
    let output_state = Arc::clone(&handle.output);
    let lifeline = handle.vitals.of(FleetThread::Events);
    let on_trouble = move |trouble: WriteTrouble| {
        let _ = &lifeline;
        if let Some(errno) = output_state.take(trouble) {
            let _ = requests.send(Request::WriteFailed(errno));
            doorbell.ring();
        }
    };
    let writer =
        EventWriter::spawn(source, output, rotation, format, on_trouble).map_err(StartError::Events)?;
    subscriber.counters = Some(writer.counters());
    let _ = handle.requests.send(Request::Subscribe(subscriber));
    Ok(Some(writer))
}

/// The core of each shard. `auto` pins only if there are more cores than shards: a pinned shard on a
/// busy core would be worse off than one that may move.
fn pins(shards: &[ShardPlan]) -> Vec<Option<usize>> {
    let cores = allowed_cores();
    let is_room = cores.len() > shards.len();
    let mut free = cores.iter().copied();
    shards
        .iter()
        .map(|shard| match shard.core {
            CoreChoice::Core(core) => Some(core as usize),
            CoreChoice::Auto if is_room => free.next(),
            CoreChoice::Auto | CoreChoice::None => None,
        })
        .collect()
}

fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Whether processes exist that we cannot see.
fn is_inside_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`: the inode of the initial pid namespace, fixed by the kernel.
    const INITIAL: u64 = 0xEFFF_FFFC;
    pid_namespace() != INITIAL
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
