//! Starts the threads of a fleet on the acquired resources. Opens and binds nothing that has a name.
//!
//! Thread: the caller's. Blocks: until every shard receives.
//!
//! If a thread cannot be started, the others end and everything is released.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};
#[cfg(feature = "http")]
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use super::acquire::{Acquired, ShardFront};
use super::act::start_act;
use super::agents::Agents;
use super::error::StartError;
use super::handle::Handle;
use super::predecessor::ToStore;
#[cfg(feature = "http")]
use super::stop::end_http;
use super::stop::{OutputWriter, Running, Shards, Tellers, Writers};
use super::takeover::{LISTENER, LOCK, Offerer, Successors, Takeover};
use crate::aggregator::fanout::{EVENTS_SLACK, Subscriber};
use crate::aggregator::policy::Policy;
use crate::aggregator::thread::{AGGREGATOR_NICE, aggregate};
use crate::aggregator::{Aggregator, Inquiries, Request};
use crate::config::plan::{CoreChoice, EventsFormat, EventsPlan, Plan, memory_groups_max};
#[cfg(feature = "http")]
use crate::history::History;
use crate::history::Recorder;
#[cfg(feature = "http")]
use crate::http::{Heard, Http, Listeners, Sources, Terms, TermsInForce};
use crate::journal::Estate;
use crate::lane::park::Park;
use crate::lane::{Doorbell, Port};
use crate::message::Reason;
#[cfg(feature = "http")]
use crate::priority::Standing;
use crate::process::lookup::Lookups;
use crate::process::names::Names;
use crate::process::oom::OomKills;
use crate::process::procfs::Program;
use crate::process::sweeper::Sweeper;
use crate::process::watch::Watch;
use crate::rundir::upkeep::{Files, Upkeep};
use crate::shard::Shard;
use crate::shard::thread::{Life, observe};
use crate::sinks::{Descriptor, Earlier, EventWriter, Format, OutputState, Queue, WriteTrouble};
use crate::sys::clock::SystemClock;
use crate::sys::thread::{allowed_cores, set_own_nice};
use crate::table::place::Holder;
use crate::time::Clock;
use crate::view::copies::{Asked, Copies};
use crate::view::health::{FleetThread, Vitals};
use crate::view::tally::Reader;
use crate::view::units::Configured;
use crate::warning::Warning;

/// A running fleet and its start warnings.
pub struct Started {
    pub running: Running,
    pub handle: Handle,
    /// Problems that limit the fleet.
    pub warnings: Vec<Warning>,
    /// What a successor will need.
    pub to_store: Vec<ToStore>,
    /// The observer that this one took over from.
    pub takeover: Option<Takeover>,
}

/// Runs a fleet. Returns once every shard receives and agents can find it.
///
/// # Errors
/// The kernel grants no thread or descriptor, or the fleet cannot be published; everything is released then.
pub fn run(plan: &Plan, acquired: Acquired) -> Result<Started, StartError> {
    // Declared first, so dropped last if a thread is refused: the files are removed after the others have ended.
    let mut files = acquired.files;
    files.hold();
    let mut warnings = acquired.warnings;
    let (fronts, ports): (Vec<ShardFront>, Vec<Arc<Port>>) = acquired.shards.into_iter().unzip();
    let ports: Arc<[Arc<Port>]> = ports.into();
    let journal = Arc::clone(&acquired.estate.journal);
    let doorbell = Arc::<Doorbell>::default();
    #[cfg(feature = "http")]
    let mut listeners = acquired.listeners;
    #[cfg(feature = "http")]
    let tcp = listeners.tcp();
    #[cfg(not(feature = "http"))]
    let tcp = None;
    let tenure = files.dir.tenure().clone();
    let fds = handed(&files, &acquired.to_store, tcp);
    let listener = files.takeover.as_ref().map(|socket| Arc::clone(socket.fd()));
    let (requests, requests_of) = unbounded();
    let (copies, asked) = Copies::new(ports.len(), Arc::clone(&doorbell));
    let output = Arc::<OutputState>::default();
    let handle = Handle {
        vitals: Vitals::new(Arc::clone(&ports), Arc::clone(&output)),
        copies: Arc::new(copies),
        requests,
        doorbell: Arc::clone(&doorbell),
        agents_max: plan.agents_max,
        output,
        journal: Arc::clone(&journal),
        #[cfg(feature = "http")]
        terms: Arc::new(TermsInForce::new(Terms::of(plan))),
        #[cfg(feature = "http")]
        token: Arc::new(Mutex::new(listeners.take_token())),
        #[cfg(feature = "http")]
        reloader: Arc::default(),
        names: Arc::new(Names::new(ports.len())),
        act: Arc::default(),
        act_thread: Arc::default(),
        ports,
    };
    // Subscribed before the first event, so that its file begins with `start`.
    let writer = match (&plan.events, acquired.output) {
        (Some(events), Some(output)) => {
            let started = write_events(plan, events, output, Earlier::default(), &handle);
            let (writer, subscriber) = started.map_err(StartError::resources("start a thread"))?;
            let _ = handle.requests.send(Request::Subscribe(subscriber));
            Some(writer)
        }
        _ => None,
    };
    #[cfg(feature = "http")]
    let heard = {
        let (heard, subscriber) = Heard::subscribe(plan);
        let _ = handle.requests.send(Request::Subscribe(subscriber));
        heard
    };
    if let Some(act) = &plan.act {
        start_act(act, &plan.dir, &handle).map_err(StartError::Act)?;
    }
    let (said, raised) = unbounded();
    let parks = Parks::default();
    let mut tellers = start_tellers(
        plan,
        &handle,
        writer,
        (requests_of, asked, acquired.estate, Arc::clone(&parks.aggregator)),
        said.clone(),
    )?;
    let shards = start_shards(plan, &handle, fronts, &parks.shards, said)?;
    // Each thread sends the warnings of its setup, then drops its sender; the channel closes after the last
    // one.
    warnings.extend(raised);
    warnings.dedup_by(|one, other| {
        matches!((&*one, &*other), (Warning::Priority { thread: a, .. }, Warning::Priority { thread: b, .. }) if a == b)
    });
    #[cfg(feature = "http")]
    let http = start_http(
        plan,
        &handle,
        (files.dir.path().to_owned(), journal.run(), Arc::clone(&acquired.history)),
        &warnings,
        (listeners, heard),
    )?;
    let recorder = Recorder::new(acquired.history, Arc::clone(&handle.ports), Arc::clone(&handle.copies));
    let recorder = Arc::new(recorder);
    let upkeep = match publish(plan, &handle, files, acquired.adopted.is_some(), &recorder) {
        Ok(upkeep) => upkeep,
        Err((error, files)) => {
            drop(shards);
            tellers.end();
            #[cfg(feature = "http")]
            end_http(http);
            drop(tellers);
            drop(files);
            return Err(error);
        }
    };
    let offerer = fds.map(|fds| {
        listener.map(|listener| Offerer {
            listener,
            fds,
            ports: Arc::clone(&handle.ports),
            doorbell: Arc::clone(&handle.doorbell),
            journal: Arc::clone(&journal),
            shards: parks.shards,
            aggregator: parks.aggregator,
            clerk: upkeep.clerk(),
            recorder,
            tenure,
        })
    });
    let successors = offerer.and_then(|offerer| offerer.map(Successors::spawn).transpose());
    let successors = successors.unwrap_or_else(|error| {
        warnings.push(Warning::NoTakeover { why: Reason(&error).to_string() });
        None
    });
    handle.vitals.warn(warnings.iter().map(ToString::to_string).collect());
    let running = Running {
        shards,
        tellers,
        #[cfg(feature = "http")]
        http,
        upkeep,
        successors,
        journal,
    };
    Ok(Started { running, handle, warnings, to_store: acquired.to_store, takeover: acquired.takeover })
}

/// Where shards and aggregator wait while a successor may go on.
#[derive(Default)]
struct Parks {
    shards: Arc<Park>,
    aggregator: Arc<Park>,
}

/// What a successor gets that takes over, by name, and whether another process keeps it, too.
fn handed(
    files: &Files,
    to_store: &[ToStore],
    tcp: Option<BorrowedFd<'_>>,
) -> io::Result<Vec<(String, Arc<OwnedFd>, bool)>> {
    let is_kept =
        |fd: &Arc<OwnedFd>| files.sockets.iter().any(|socket| Arc::ptr_eq(socket.fd(), fd) && socket.stays());
    let stored = to_store.iter().map(|ToStore { name, fd, .. }| (name.clone(), Arc::clone(fd), is_kept(fd)));
    let mut all: Vec<_> = stored.collect();
    all.push((LOCK.to_owned(), Arc::new(files.dir.lock()?), false));
    if let Some(listener) = &files.takeover {
        all.push((LISTENER.to_owned(), Arc::clone(listener.fd()), false));
    }
    #[cfg(feature = "http")]
    all.push(("control".to_owned(), Arc::clone(files.control.fd()), files.control.stays()));
    if let Some(tcp) = tcp {
        all.push(("http".to_owned(), Arc::new(tcp.try_clone_to_owned()?), false));
    }
    Ok(all)
}

/// Starts an event writer after earlier ones. Returns also the subscriber whose events it writes.
///
/// # Errors
/// As [`EventWriter::spawn`].
pub fn write_events(
    plan: &Plan,
    events: &EventsPlan,
    output: Descriptor,
    earlier: Earlier,
    handle: &Handle,
) -> io::Result<(OutputWriter, Subscriber)> {
    let (mut subscriber, source) = Subscriber::new(Reader::Log, plan.agents_max as usize + EVENTS_SLACK);
    subscriber.wants_beats = events.beats;
    let format = match events.format {
        EventsFormat::Jsonl => Format::Jsonl,
        EventsFormat::Tsv => Format::Tsv { start: SystemClock.mono() },
    };
    let (requests, doorbell) = (handle.requests.clone(), Arc::clone(&handle.doorbell));
    let is_replaced = Arc::new(AtomicBool::new(false));
    let (output_state, is_silent) = (Arc::clone(&handle.output), Arc::clone(&is_replaced));
    let lifeline = handle.vitals.of(FleetThread::Events);
    let on_trouble = move |trouble: WriteTrouble| {
        let _ = &lifeline;
        // The state is that of the output in force.
        let is_in_force = !is_silent.load(Ordering::Acquire);
        let errno = if is_in_force { output_state.take(trouble) } else { trouble.errno() };
        if let Some(errno) = errno {
            let _ = requests.send(Request::WriteFailed(errno));
            doorbell.ring();
        }
    };
    let file = output.file();
    let queue = Queue { events: source, earlier };
    let writer = EventWriter::spawn(queue, output, format, Some(Arc::clone(&handle.journal)), on_trouble)?;
    subscriber.counters = Some(writer.counters());
    Ok((OutputWriter { writer, output: events.output.clone(), file, is_replaced }, subscriber))
}

/// Starts the aggregator and its lookup and watch threads.
fn start_tellers(
    plan: &Plan,
    handle: &Handle,
    writer: Option<OutputWriter>,
    (requests, asked, estate, park): (Receiver<Request>, Asked, Estate, Arc<Park>),
    said: Sender<Warning>,
) -> Result<Tellers, StartError> {
    let thread = StartError::resources("start a thread");
    let doorbell = &handle.doorbell;
    let writers = Writers::new(writer, Arc::clone(&handle.output));
    let mut tellers = Tellers { handle: handle.clone(), aggregator: None, helpers: Vec::new(), writers };
    let (finder, findings) = unbounded();
    let kills = Arc::new(OomKills::new(memory_groups_max(free_files().unwrap_or(u64::MAX))));
    let on_program = {
        let (names, kills) = (Arc::clone(&handle.names), Arc::clone(&kills));
        let lifeline = handle.vitals.of(FleetThread::Lookup);
        move |holder: Holder, program: &Program, uid: Option<u32>| {
            let _ = &lifeline;
            let group = kills.enter(&program.groups, SystemClock.mono());
            names.put(holder, program, uid, group);
        }
    };
    // The priority of the aggregator, so that exits and stalls are reported within milliseconds on a busy
    // host.
    let on_start = || drop(set_own_nice(AGGREGATOR_NICE));
    let tables = handle.ports.iter().map(|port| port.table.clone()).collect();
    let (lookups, lookup) =
        Lookups::spawn(SystemClock, finder.clone(), Arc::clone(doorbell), on_start, tables, on_program)
            .map_err(&thread)?;
    tellers.helpers.push(lookup);
    let lifeline = handle.vitals.of(FleetThread::Watch);
    let on_start = || {
        let _ = set_own_nice(AGGREGATOR_NICE);
        lifeline
    };
    let (watch, watch_thread) = Watch::spawn(
        SystemClock,
        finder,
        Arc::clone(doorbell),
        (kills, Arc::clone(&handle.names)),
        pidfds_max(plan),
        on_start,
    )
    .map_err(&thread)?;
    tellers.helpers.push(watch_thread);
    if !plan.metrics_units.is_empty() {
        let _ = handle.requests.send(Request::Units(Configured::new(&plan.metrics_units)));
    }
    let policy = Policy { classes: plan.classes(), rules: plan.rules.clone() };
    let inquiries = Inquiries { lookups, watch, findings, names: Arc::clone(&handle.names) };
    let aggregator =
        Aggregator::new(&handle.ports, policy, inquiries, requests, Arc::clone(doorbell), asked, estate);
    let (copies, vitals) = (Arc::clone(&handle.copies), Arc::clone(&handle.vitals));
    let body = aggregate(aggregator, copies, vitals, (Arc::clone(doorbell), park), said);
    let aggregator = thread::Builder::new().name("varta-aggregate".into()).spawn(body).map_err(&thread)?;
    doorbell.answer(aggregator.thread().clone());
    tellers.aggregator = Some(aggregator);
    Ok(tellers)
}

fn start_shards(
    plan: &Plan,
    handle: &Handle,
    fronts: Vec<ShardFront>,
    park: &Arc<Park>,
    said: Sender<Warning>,
) -> Result<Shards, StartError> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut shards = Shards { ports: Arc::clone(&handle.ports), stop, threads: Vec::new() };
    let pins = pins(plan);
    for (index, front) in fronts.into_iter().enumerate() {
        let port = Arc::clone(&handle.ports[index]);
        let life = Life {
            port: Arc::clone(&handle.ports[index]),
            doorbell: Arc::clone(&handle.doorbell),
            stop: Arc::clone(&shards.stop),
            park: Arc::clone(park),
        };
        let doorbell = Arc::clone(&handle.doorbell);
        let (pin, said) = (pins[index], said.clone());
        let thread = thread::Builder::new().name(format!("varta-shard-{index}"));
        let thread = match front {
            ShardFront::Frames(front) => {
                let shard = Shard::new(front, port, doorbell, plan.max_delay_ns);
                thread.spawn(observe(shard, life, index, pin, said))
            }
            ShardFront::Messages(front) => {
                let shard = Shard::new(front, port, doorbell, plan.max_delay_ns);
                thread.spawn(observe(shard, life, index, pin, said))
            }
        };
        shards.threads.push(thread.map_err(StartError::resources("start a thread"))?);
    }
    Ok(shards)
}

/// Starts the HTTP thread.
#[cfg(feature = "http")]
fn start_http(
    plan: &Plan,
    handle: &Handle,
    (dir, run, history): (PathBuf, u64, Arc<History>),
    warnings: &[Warning],
    (listeners, heard): (Listeners, Heard),
) -> Result<Http, StartError> {
    let is_raised = ["the shards", "the aggregator"].map(|threads| {
        let is_about =
            |warning: &Warning| matches!(warning, Warning::Priority { thread, .. } if *thread == threads);
        !warnings.iter().any(is_about)
    });
    let counts = Standing::own() == Standing::Host;
    let sources = Sources {
        ports: Arc::clone(&handle.ports),
        copies: Arc::clone(&handle.copies),
        history,
        names: Arc::clone(&handle.names),
        vitals: Arc::clone(&handle.vitals),
        output: Arc::clone(&handle.output),
        terms: Arc::clone(&handle.terms),
        plan: plan.clone(),
        reloader: Arc::clone(&handle.reloader),
        act: Arc::clone(&handle.act),
        dir,
        run,
        is_raised: is_raised.map(|is_raised| is_raised && counts),
        started: (SystemClock.mono(), SystemClock.wall()),
        address: listeners.address(),
    };
    Http::spawn(sources, listeners, Arc::clone(&handle.token), heard)
        .map_err(StartError::resources("start a thread"))
}

/// Publishes the sockets to agents, and starts the upkeep of the files.
///
/// # Errors
/// What failed, and the files: they are removed after the threads have ended.
fn publish(
    plan: &Plan,
    handle: &Handle,
    mut files: Files,
    is_adopted: bool,
    recorder: &Arc<Recorder>,
) -> Result<Upkeep, (StartError, Option<Box<Files>>)> {
    let mut sockets: Vec<PathBuf> = plan.all_shards().map(|shard| shard.socket.clone()).collect();
    let notify = sockets.split_off(plan.shards.len());
    if let Err(error) = files.dir.publish(&sockets, &notify) {
        return Err((error.into(), Some(Box::new(files))));
    }
    let (requests, doorbell) = (handle.requests.clone(), Arc::clone(&handle.doorbell));
    let lifeline = handle.vitals.of(FleetThread::Upkeep);
    let on_change = move |shard, errno| {
        let _ = requests.send(Request::Files { shard, errno });
        doorbell.ring();
    };
    let (ports, requests) = (Arc::clone(&handle.ports), handle.requests.clone());
    let agents = Agents::new(ports, requests, Arc::clone(&handle.doorbell), is_adopted);
    let mut sweeper = Sweeper::new(Arc::clone(&handle.ports), Arc::clone(&handle.names));
    let output = Arc::clone(&handle.output);
    let each_second = move || sweeper.turn(output.trouble().is_some(), SystemClock.mono());
    let upkeep = Upkeep::spawn(files, lifeline, on_change, agents, Arc::clone(recorder), each_second);
    upkeep.map_err(|(error, files)| (StartError::resources("start a thread")(error), files))
}

/// Number of pidfds that the limit of this process allows. The library does not raise the limit: the owner of
/// the process does, before the start.
fn pidfds_max(plan: &Plan) -> usize {
    plan.pidfds_max(free_files().unwrap_or(u64::MAX)) as usize
}

/// How many descriptors are left; `None`: there is no limit.
fn free_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile).current;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    limit.map(|limit| limit.saturating_sub(open))
}

/// The core of each shard. `auto` pins only if there are more cores than shards: a shard pinned to a busy
/// core is worse off than one that may move.
fn pins(plan: &Plan) -> Vec<Option<usize>> {
    let cores = allowed_cores();
    let is_room = cores.len() > plan.all_shards().count();
    let mut free = cores.iter().copied();
    plan.all_shards()
        .map(|shard| match shard.core {
            CoreChoice::Core(core) => Some(core as usize),
            CoreChoice::Auto if is_room => free.next(),
            CoreChoice::Auto | CoreChoice::None => None,
        })
        .collect()
}
