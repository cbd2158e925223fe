//! `load`: beats as a fleet does, and reports the result.
//!
//! Open loop: each beat has a due time, whatever happened to the beats before it, and its latency counts from
//! there; a late agent sends its missed beats. So the figures hide neither a slow observer nor a slow load
//! generator. Each agent is a process of its own. With --forge, which needs root, it is a real process that
//! sleeps while one sender beats for all.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use varta_fleet::api::Fleet;
use varta_fleet::{MANIFEST, Manifest, Reason, Shown, shard_for};

use crate::access::denied;
use crate::client::{Client, await_fleet};
use crate::exit::{CliError, Exit, counted};
use crate::route::hears_us;

mod agent;
mod args;
mod cpu;
mod forge;
mod observed;
mod report;
mod schedule;

pub use agent::{LoadAgentArgs, agent};
pub use args::LoadArgs;
use args::{version_of, wire_version};
use cpu::Cpu;
use observed::{Look, Observed};
use report::{Report, Sent};
use schedule::{Schedule, now_ns, sleep_until};

/// From the start message to the first beat: by then every agent has read the message.
const LEAD_NS: u64 = 300_000_000;
/// How long all agents together may take to connect.
const PATIENCE: Duration = Duration::from_secs(120);

/// Beats as a fleet does.
pub fn load(args: &LoadArgs) -> Result<Exit, CliError> {
    let target = Target::find(args)?;
    let schedule = Schedule::new(args.agents, args.rate, args.flat_out, args.warm_up, args.r#for);
    let watch = target.watch()?;
    let crowd = Crowd::assemble(args, &target, &schedule)?;
    let (sent, observed) = crowd.run(&schedule, watch.as_ref())?;
    let shards = target.sockets.len();
    let report = Report { args, shards, schedule: &schedule, sent: &sent, observed: observed.as_ref() };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(Exit::Clean)
}

/// Where beats are sent.
struct Target {
    sockets: Vec<PathBuf>,
    observer: Option<u32>,
    /// A fleet of this program, which can be queried for its counts.
    fleet: Option<PathBuf>,
}

/// What to measure.
struct Watch {
    cpu: Cpu,
    fleet: Option<Client>,
}

impl Watch {
    /// The present counts. The cost of the query is not measured: the first look queries before it reads the
    /// CPU time, the second after it.
    fn look(&self, is_begin: bool) -> Result<Look, CliError> {
        let ask = || self.fleet.as_ref().map(|fleet| fleet.get::<Fleet>("/api/v1/fleet")).transpose();
        let cpu = || self.cpu.used_ns().map_err(gone);
        let (fleet, cpu) = if is_begin {
            let fleet = ask()?;
            (fleet, cpu()?)
        } else {
            let cpu = cpu()?;
            (ask()?, cpu)
        };
        Ok(Look { fleet, cpu })
    }
}

impl Target {
    fn find(args: &LoadArgs) -> Result<Self, CliError> {
        if !args.socket.is_empty() {
            if args.observe == Some(None) {
                let message =
                    "cannot observe: sockets do not say whose they are; name the process, --observe PID";
                return Err(CliError::new(Exit::Usage, message));
            }
            return Ok(Self { sockets: args.socket.clone(), observer: args.observe.flatten(), fleet: None });
        }
        let dir = args.fleet.dir()?;
        let manifest = await_fleet(&dir, || {
            let manifest = Manifest::read(&dir).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    let path = dir.join(MANIFEST);
                    denied(&format!("cannot read {}", Shown(path.display())), &path, ["mode", "group"])
                }
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CliError::new(
                    Exit::Unavailable,
                    format!(
                        "no fleet is running in {}; start one (varta-fleet run), or name its directory with --dir",
                        Shown(dir.display())
                    ),
                ),
                _ => CliError::new(Exit::Unavailable, error.to_string()),
            })?;
            // The manifest may be left from an observer that was killed.
            hears_us(&manifest.shards[0].socket)?;
            Ok(manifest)
        })?;
        let observer = args.observe.map(|pid| pid.unwrap_or(manifest.pid));
        // Another process than the fleet's own cannot be queried.
        let fleet = observer.filter(|observer| *observer == manifest.pid).map(|_| dir);
        let sockets = manifest.shards.into_iter().map(|shard| shard.socket).collect();
        Ok(Self { sockets, observer, fleet })
    }

    fn watch(&self) -> Result<Option<Watch>, CliError> {
        let Some(pid) = self.observer else { return Ok(None) };
        let cpu = Cpu::of(pid).map_err(|error| {
            CliError::new(
                Exit::Unavailable,
                format!("cannot measure process {pid}: {}; is it there?", Reason(&error)),
            )
        })?;
        let fleet = self.fleet.as_deref().map(Client::new).transpose()?;
        let watch = Watch { cpu, fleet };
        // Report a failing query before the load, not after it.
        watch.look(true)?;
        Ok(Some(watch))
    }

    fn socket_for(&self, pid: u32) -> &Path {
        let shards = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        &self.sockets[shard_for(pid, shards) as usize]
    }
}

/// All agents, connected and waiting for the start.
struct Crowd {
    children: Vec<Child>,
    gate: PipeWriter,
    answers: BufReader<PipeReader>,
    forger: Option<forge::Forger>,
}

impl Crowd {
    fn assemble(args: &LoadArgs, target: &Target, schedule: &Schedule) -> Result<Self, CliError> {
        let failed = |what: &'static str| {
            move |error: io::Error| {
                CliError::new(
                    Exit::Runtime,
                    format!("cannot {what}: {}; ask for fewer agents", Reason(&error)),
                )
            }
        };
        let program = std::env::current_exe().map_err(failed("find this program"))?;
        let (gate_end, gate) = io::pipe().map_err(failed("make a pipe"))?;
        let (answers, answer_end) = io::pipe().map_err(failed("make a pipe"))?;
        let mut crowd = Self { children: Vec::new(), gate, answers: BufReader::new(answers), forger: None };
        for index in 0..args.agents {
            let mut command = Command::new(&program);
            command.args(["load-agent", "--name", &format!("load-{index:03}")]);
            if !args.forge {
                command.args(schedule.arguments(index));
                command.args(["--wire", version_of(&args.wire, index)]);
                for socket in &target.sockets {
                    command.arg("--socket").arg(socket);
                }
            }
            command.stdin(gate_end.try_clone().map_err(failed("share a pipe"))?);
            command.stdout(answer_end.try_clone().map_err(failed("share a pipe"))?);
            command.stderr(Stdio::inherit());
            crowd.children.push(command.spawn().map_err(failed("start an agent"))?);
        }
        drop((gate_end, answer_end));
        crowd.await_ready()?;
        if args.forge {
            let pids: Vec<u32> = crowd.children.iter().map(Child::id).collect();
            let versions = (0..args.agents).map(|index| wire_version(version_of(&args.wire, index)));
            let agents =
                pids.iter().zip(versions).map(|(pid, version)| (*pid, target.socket_for(*pid), version));
            crowd.forger = Some(forge::Forger::new(agents)?);
        }
        Ok(crowd)
    }

    /// Waits until each agent reports that it is connected, or why it is not.
    fn await_ready(&mut self) -> Result<(), CliError> {
        let expected = self.children.len();
        for ready in 0..expected {
            match self.answer()?.as_deref() {
                Some("ready") => {}
                Some(problem) => {
                    let (code, problem) = problem.split_once(' ').unwrap_or_default();
                    let exits = [Exit::Unavailable, Exit::Permission];
                    let exit = exits.into_iter().find(|exit| (*exit as u8).to_string() == code);
                    return Err(CliError::new(exit.unwrap_or(Exit::Runtime), problem));
                }
                None => {
                    let message = format!(
                        "only {ready} of {} could be started and connect within {PATIENCE:?}; see the messages above",
                        counted(expected as u64, "agent")
                    );
                    return Err(CliError::new(Exit::Runtime, message));
                }
            }
        }
        Ok(())
    }

    /// The next line of any agent; `None` when all have exited.
    fn answer(&mut self) -> Result<Option<String>, CliError> {
        let mut line = String::new();
        let len = self.answers.read_line(&mut line).map_err(|error| {
            CliError::new(Exit::Runtime, format!("cannot hear the agents: {}", Reason(&error)))
        })?;
        Ok((len > 0).then(|| line.trim_end().to_owned()))
    }

    /// Runs the load, and measures the observer meanwhile.
    fn run(
        mut self,
        schedule: &Schedule,
        watch: Option<&Watch>,
    ) -> Result<(Sent, Option<Observed>), CliError> {
        let begin = now_ns() + LEAD_NS;
        let failed = |error: io::Error| {
            CliError::new(Exit::Runtime, format!("cannot start the agents: {}", Reason(&error)))
        };
        let forger = self.forger.take().map(|forger| forger.start(schedule, begin));
        for _ in &self.children {
            self.gate.write_all(&begin.to_le_bytes()).map_err(failed)?;
        }
        sleep_until(begin + schedule.warm_up_ns);
        let before = watch.map(|watch| watch.look(true)).transpose()?;
        sleep_until(begin + schedule.warm_up_ns + schedule.length_ns);
        let after = watch.map(|watch| watch.look(false)).transpose()?;
        let mut sent = Sent::default();
        if let Some(forger) = forger {
            sent.merge(&forger.finish()?);
        }
        drop(self.gate);
        while let Some(line) = {
            let mut line = String::new();
            self.answers.read_line(&mut line).map_err(failed)?;
            (!line.is_empty()).then_some(line)
        } {
            sent.take(line.trim_end()).map_err(|problem| CliError::new(Exit::Runtime, problem))?;
        }
        for mut child in self.children {
            child.wait().map_err(failed)?;
        }
        Ok((sent, before.zip(after).map(|(before, after)| Observed::between(before, after))))
    }
}

fn gone(error: io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("the observer is gone: {}; nothing was measured", Reason(&error)))
}
