//! `run`: observes the fleet until a signal stops it.

use std::fs;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use varta_fleet::config::written;
use varta_fleet::plan::Output;
use varta_fleet::priority::{Standing, raise_own_session};
use varta_fleet::{
    Fleet, FleetThread, Handed, Handle, Health, Inherited, OutputTrouble, Problem, Reason, ReloadRequest,
    Shown, StartError, StopReport, Warning,
};

use crate::config::ConfigArgs;
use crate::exit::{CliError, Exit, counted};
use crate::reload::put_in_force;
use crate::service::Service;
use crate::stderr;
use crate::words::{confined, only_ours_beat, time};

/// How often the health of the threads is checked.
const HEALTH_TICK: Duration = Duration::from_secs(2);
/// How long a stop waits for the event output.
const FLUSH: Duration = Duration::from_millis(700);

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// What to observe.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What only the command line says.
    #[command(flatten)]
    pub options: RunOptions,
}

/// What only the command line of `run` says.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct RunOptions {
    /// Print one line `ready shards=N dir=…` once every shard receives; on standard error if events go to standard output
    #[arg(long)]
    pub print_ready: bool,
    /// Take over from the observer that runs in the directory, without a gap; begin anew if none does
    #[arg(long)]
    pub takeover: bool,
}

/// What the main thread waits for.
enum News {
    Signal(i32),
    /// A client wants the configuration to be read again.
    Reload(ReloadRequest),
    /// The observer with this pid goes on in the place of this one.
    TakenOver(u32),
    /// The ready line cannot be written.
    Unready(CliError),
}

/// Runs what is configured until a signal stops it.
pub fn run(config: &ConfigArgs, options: RunOptions) -> Result<Exit, CliError> {
    let plan = config.plan()?;
    stderr::take_panics();
    stderr::begin(plan.log_format);
    // While this is the only thread.
    let mut inherited = Inherited::from_service_manager().map_err(StartError::from)?;
    let mut service = Service::from_environment()?;
    // Before any thread of the fleet starts, so that a signal always finds its handler.
    let (sender, news) = mpsc::channel();
    let sender = Arc::new(sender);
    let is_stopping = hear_signals(Arc::clone(&sender))?;
    let threshold = written(Duration::from_nanos(plan.threshold_ns));
    let is_told = plan.events.is_some();
    let is_stdout_taken = plan.events.as_ref().is_some_and(|events| events.output == Output::Stdout);
    raise_open_files();
    raise_own_session();
    let before = if options.takeover {
        inherited.take_over(&plan.dir, is_stopping).map_err(StartError::from)?
    } else {
        None
    };
    let fleet = Fleet::start_kept(plan, &mut inherited, |to_store| service.store(to_store))?;
    drop(inherited);
    let shards = fleet.plan().shards.len();
    fleet.warnings().iter().for_each(warn);
    service.warn();
    stderr::info(&format!(
        "observing {} with {}, a silence of {threshold} is a stall; stop with Ctrl-C or SIGTERM{}",
        Shown(fleet.dir().display()),
        counted(shards as u64, "shard"),
        if is_told { "" } else { "; events go nowhere, name a file or - with --events" }
    ));
    if let Some(adopted) = fleet.adopted() {
        stderr::info(&format!(
            "going on with {} of the observer before{}, after a gap of {}",
            counted(adopted.agents.into(), "agent"),
            before.map(|pid| format!(", which had pid {pid}")).unwrap_or_default(),
            time(adopted.gap.as_nanos().try_into().unwrap_or(u64::MAX))
        ));
    }
    if let Some((limit, advice)) = confined(&Standing::own()) {
        stderr::info(&format!("{limit}; {advice}"));
    }
    if !fleet.plan().lets_others_beat() {
        stderr::info(&format!(
            "{}: the mode of the sockets is 0600; see the keys mode and group",
            only_ours_beat()
        ));
    }
    if let Some(address) = fleet.http_address() {
        stderr::info(&format!("serving http://{address}/"));
    }
    if options.takeover && before.is_none() {
        stderr::info("no observer ran there that could be taken over");
    }
    // Weak: when the signal thread dies, the channel must close.
    let to_main = Arc::downgrade(&sender);
    if service.is_managed() {
        fleet.refuse_takeover(
            "it is managed: its main process must not end; restart its unit (systemctl restart), which has no gap either",
        );
    } else {
        fleet.on_takeover(move |pid| {
            if let Some(sender) = to_main.upgrade() {
                let _ = sender.send(News::TakenOver(pid));
            }
        });
    }
    let to_main = Arc::downgrade(&sender);
    fleet.on_reload_request(move |request| {
        if let Some(sender) = to_main.upgrade() {
            let _ = sender.send(News::Reload(request));
        }
    });
    if options.print_ready {
        let line = format!("ready shards={shards} dir={}\n", Shown(fleet.dir().display()));
        say_ready(line, is_stdout_taken, sender)?;
    } else {
        drop(sender);
    }
    let handle = fleet.handle();
    let mut told = Told { trouble: None, short: Vec::new(), thresholds: Vec::new() };
    service.describe(&fleet, &fleet.health());
    let mut next_look = Instant::now() + HEALTH_TICK;
    let problems = loop {
        tell_news(&fleet, &handle, &mut told);
        service.look(&fleet, Instant::now());
        if Instant::now() >= next_look {
            next_look = Instant::now() + HEALTH_TICK;
            let health = fleet.health();
            service.describe(&fleet, &health);
            if !health.is_healthy() {
                break health.problems;
            }
            told.warn_of(&health);
        }
        let until = service.due().map_or(next_look, |due| due.min(next_look));
        match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
            // The message of that follows.
            Ok(News::Signal(SIGHUP) | News::Reload(_)) if fleet.is_taken_over() => {}
            Ok(News::Signal(SIGUSR1)) => say_counts(&handle),
            Ok(News::Signal(SIGHUP)) => {
                // Whatever becomes of the configuration: the log may have been moved away.
                fleet.reopen();
                let _ = put_in_force(&fleet, config, &mut service);
            }
            Ok(News::Reload(request)) => request.answer(&put_in_force(&fleet, config, &mut service)),
            Ok(News::TakenOver(pid)) => return leave(fleet, pid),
            Ok(News::Signal(_)) => break Vec::new(),
            Ok(News::Unready(error)) => {
                let _ = fleet.stop(FLUSH);
                return Err(error);
            }
            // A SIGTERM would no longer be received.
            Err(RecvTimeoutError::Disconnected) => {
                let _ = fleet.stop(FLUSH);
                return Err(CliError::new(
                    Exit::Runtime,
                    "the signal thread died; restart, and report its panic",
                ));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    service.stopping();
    tell_news(&fleet, &handle, &mut told);
    let report = fleet.stop(FLUSH);
    report.warnings.iter().for_each(warn);
    if stderr::is_terminal() {
        say_counts(&handle);
    }
    conclude(problems, &report)
}

/// Ends without a trace: the observer with this pid has taken over.
fn leave(fleet: Fleet, pid: u32) -> Result<Exit, CliError> {
    stderr::info(&format!("the observer with pid {pid} takes over"));
    let why = match fleet.leave(FLUSH) {
        Ok(Handed::Observing) => return Ok(Exit::Clean),
        Ok(Handed::Ended) => "ended before it observed: look at its messages, and start one",
        Ok(_) => "has not said yet that it observes: look at its messages",
        Err(report) => return conclude(Vec::new(), &report),
    };
    Err(CliError::new(Exit::Runtime, format!("the observer with pid {pid} took over and {why}")))
}

/// Prints the table of counters.
fn say_counts(handle: &Handle) {
    stderr::info(&format!("counts since the start:\n{}", handle.table().trim_end()));
}

/// What was printed, so that it is printed once.
struct Told {
    /// The problem of the event output.
    trouble: Option<OutputTrouble>,
    /// The shards that were said to have a short queue.
    short: Vec<usize>,
    /// The thresholds that cannot work: rule, and whom it is for.
    thresholds: Vec<(Option<usize>, String)>,
}

impl Told {
    /// Warns of a short queue, once per shard, and of each threshold that cannot work.
    fn warn_of(&mut self, health: &Health) {
        for problem in &health.problems {
            let is_new = match problem {
                Problem::QueueLimit { shard, .. } => {
                    let is_new = !self.short.contains(shard);
                    self.short.extend(is_new.then_some(*shard));
                    is_new
                }
                Problem::TooShort(found) => {
                    let of = (found.rule, found.name.clone());
                    let is_new = !self.thresholds.contains(&of);
                    self.thresholds.extend(is_new.then_some(of));
                    is_new
                }
                _ => false,
            };
            if is_new {
                stderr::warn(&problem.to_string());
            }
        }
    }
}

/// Prints what became worse, or works again.
fn tell_news(fleet: &Fleet, handle: &Handle, told: &mut Told) {
    let now = handle.output_trouble();
    if now != mem::replace(&mut told.trouble, now) {
        match now {
            Some(trouble) => stderr::warn(&trouble.to_string()),
            None => stderr::info("events are written again"),
        }
    }
    while let Some(warning) = fleet.next_warning() {
        warn(&warning);
    }
}

/// Raises the limit of open files to its maximum: each watched process takes a descriptor. The low soft limit
/// is meant for programs that use select(2), which this one does not.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // If refused, the fleet watches as many processes as it can, and reports the rest as unwatched.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Prints the ready line, by a thread of its own: a full pipe must not delay signals. Fails if the line
/// cannot be written: a supervisor waits for it. The line goes to standard error if events go to standard
/// output, where readers expect only events.
fn say_ready(line: String, is_stdout_taken: bool, news: Arc<Sender<News>>) -> Result<(), CliError> {
    let say = move || {
        let (name, written) = if is_stdout_taken {
            ("error", stderr::answer(&line))
        } else {
            // Earlier messages come before the line.
            stderr::flush();
            let mut stdout = io::stdout().lock();
            ("output", stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()))
        };
        if let Err(error) = written {
            let message = format!(
                "cannot write the ready line to standard {name}: {}; give it a reader, or leave out --print-ready",
                Reason(&error)
            );
            // Fails only if the fleet has stopped.
            let _ = news.send(News::Unready(CliError::new(Exit::Runtime, message)));
        }
    };
    thread::Builder::new().name("varta-ready".into()).spawn(say).map(drop).map_err(|error| {
        let message = format!("cannot start a thread: {}; raise the limits of this process", Reason(&error));
        CliError::new(Exit::Runtime, message)
    })
}

/// Fails if the fleet lost a thread or events. `problems`: why the fleet was ended, unless by a signal.
fn conclude(mut problems: Vec<Problem>, report: &StopReport) -> Result<Exit, CliError> {
    problems.extend(
        report.problems.iter().filter(|problem| !problems.contains(problem)).cloned().collect::<Vec<_>>(),
    );
    let mut failures = Vec::new();
    for problem in problems {
        match problem {
            Problem::ShardDead(_) | Problem::ShardStuck(_) if report.shards_dead > 0 => {}
            Problem::Died(FleetThread::Aggregator) | Problem::AggregatorStuck
                if report.is_aggregator_dead => {}
            Problem::Died(_) => failures.push(problem.to_string()),
            problem if problem.is_fatal() => failures.push(problem.to_string()),
            _ => {}
        }
    }
    if report.shards_dead > 0 {
        failures.push(format!(
            "{} died, and the agents of each were not observed; see the io events",
            counted(report.shards_dead as u64, "shard thread")
        ));
    }
    if report.is_aggregator_dead {
        failures.push("the aggregator died, events are missing; please report the panic above".to_owned());
    }
    if report.events_unwritten > 0 {
        let torn = if report.ends_mid_line { ", and the output ends in the middle of a line" } else { "" };
        failures.push(format!(
            "{} could not be written before the stop{torn}; the output is full or has no reader",
            counted(report.events_unwritten, "event")
        ));
    }
    if failures.is_empty() { Ok(Exit::Clean) } else { Err(CliError::new(Exit::Runtime, failures.join("; "))) }
}

/// Forwards the handled signals. A second stop signal ends the process at once. Returns whether there was one.
fn hear_signals(news: Arc<Sender<News>>) -> Result<Arc<AtomicBool>, CliError> {
    let failed = |error: io::Error| {
        CliError::new(
            Exit::Runtime,
            format!("cannot handle signals: {}; raise the limits of this process", Reason(&error)),
        )
    };
    let ignored = ignored();
    let is_heard = |signal: &i32| ignored >> (signal - 1) & 1 == 0;
    let is_stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT].into_iter().filter(is_heard) {
        // In this order: the first signal finds the flag unset, then sets it.
        flag::register_conditional_shutdown(signal, Exit::Runtime as i32, Arc::clone(&is_stopping))
            .map_err(failed)?;
        flag::register(signal, Arc::clone(&is_stopping)).map_err(failed)?;
    }
    let heard = [SIGTERM, SIGINT, SIGHUP, SIGUSR1].into_iter().filter(is_heard);
    let mut signals = Signals::new(heard).map_err(failed)?;
    let forward = move || {
        for signal in signals.forever() {
            if news.send(News::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("varta-signals".into()).spawn(forward).map_err(failed)?;
    Ok(is_stopping)
}

/// The signals ignored at the start, as nohup and shells without job control set for their children: one bit
/// each, the lowest for signal 1. Without procfs, none.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let may_be = [SIGHUP, SIGINT].iter().map(|signal| 1 << (signal - 1)).sum::<u64>();
    mask & may_be
}

fn warn(warning: &Warning) {
    stderr::warn(&warning.to_string());
}
