//! One child of an action, and the process that supervises it and nothing else.
//!
//! A supervisor adopts whatever its child leaves behind on the way, so that nothing gets out of reach by forking twice,
//! and it alone waits for a program that takes long to be loaded. It is asked by the messages of
//! [`protocol`](super::protocol), too: one order, its cancellation, and reports. Before these comes the number of the child
//! and of its process group, four bytes, since the child may kill its supervisor.
//!
//! If the child ends by itself, what it left running stays: an action may well start a service. If it takes too long or
//! is cancelled, all of it is ended: first by SIGTERM to its process group, [`GRACE`] later by SIGKILL to all that
//! descend from it. If the spawner is gone, all of it is killed at once: nobody would know that it is still running.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, getrlimit,
    kill_process_group, pidfd_open, set_child_subreaper, setrlimit, waitid, waitpid,
};

#[cfg(feature = "systemd")]
use crate::config::act::UnitVerb;
use crate::config::trust::{self, Distrust, Runner};
use crate::message::{Reason, Shown};
#[cfg(feature = "systemd")]
use crate::spawner::line::Attached;
use crate::spawner::line::{Line, Received};
use crate::spawner::protocol::{Deed, OUTPUT_BYTES_MAX, Order, Report};
#[cfg(feature = "systemd")]
use crate::spawner::systemd::{Answer, Asking, Refusal, Request};
use crate::spawner::tree::{descendants, kill_descendants};
use crate::sys::accounts::groups_of;
use crate::sys::child::{Identity, ended_child, make_ordinary};

/// From SIGTERM to SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long after SIGKILL the end of all is waited for before it is reported.
pub const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// The name of a supervisor in the process list.
pub const SUPERVISOR: &str = "varta-order";
/// How often to look for adopted processes that have ended.
const REAP_EVERY: Duration = Duration::from_millis(100);
/// How often to kill what does not end, such as a process in a system call that waits for a disk.
const KILL_EVERY: Duration = Duration::from_secs(1);
/// Descriptors of a child, as of any other process.
const DESCRIPTORS: u64 = 1024;
/// Output is read in pieces of this many bytes, so many of them in a row.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES: usize = 16;

/// Starts a supervisor: this program once more, with the same arguments and another name. Returns it and the line to it.
pub fn start_supervisor() -> io::Result<(process::Child, Line)> {
    let (line, other) = Line::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0(SUPERVISOR)
        .args(std::env::args_os().skip(1))
        .process_group(0)
        .stdin(Stdio::from(other))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, line))
}

/// What a supervisor does: carries out the order that it is given, and ends.
///
/// # Errors
/// No order comes, or it cannot be supervised.
#[cfg_attr(
    not(feature = "systemd"),
    expect(unused_variables, reason = "only systemd is asked about the process of the order")
)]
pub fn supervise(line: Line) -> io::Result<()> {
    wait([Some(PollFd::new(&line, PollFlags::IN))], None)?;
    let Received::Message(message, attached) = line.receive()? else { return Ok(()) };
    let order = Order::decode(&message).map_err(io::Error::other)?;
    let Order::Start { id, pid, deed, timeout_ns, user, env, .. } = order else { return Ok(()) };
    let until = Instant::now() + Duration::from_nanos(timeout_ns);
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let started = match &deed {
        Deed::Run(words) => start(words, user, &env, &line),
        #[cfg(feature = "systemd")]
        Deed::Systemd { verb, unit } => match ask_systemd(pid, attached, verb, unit) {
            Ok(asking) => return Inquiry { id, line, asking, is_started: false }.run(until),
            Err(not_started) => Err(not_started),
        },
        #[cfg(not(feature = "systemd"))]
        Deed::Systemd { .. } => {
            let why = "this spawner was built without the feature systemd".to_owned();
            Err(NotStarted { errno: libc::ENOSYS, why })
        }
        Deed::Signal(_) => Err(NotStarted { errno: 0, why: "this order needs no child".to_owned() }),
    };
    match started {
        Err(NotStarted { errno, why }) => report(&line, &Report::NotStarted { id, errno, why }),
        Ok((child, output)) => {
            report(&line, &Report::Started { id, child: Some(child.number) });
            Watch { id, line, child, output: Output::new(output)?, until, asked: None }.run()?;
        }
    }
    Ok(())
}

#[cfg(feature = "systemd")]
fn ask_systemd(pid: u32, attached: Attached, verb: &str, unit: &str) -> Result<Asking, NotStarted> {
    let (Attached::Descriptor(pidfd), Some(verb)) = (attached, UnitVerb::of(verb)) else {
        return Err(NotStarted { errno: libc::EBADF, why: "no pidfd came with the order".to_owned() });
    };
    Asking::start(Request { pid, pidfd, verb, pattern: unit.to_owned() }).map_err(|error| NotStarted {
        errno: error.raw_os_error().unwrap_or(0),
        why: format!("cannot ask systemd: {}", Reason(&error)),
    })
}

/// An order that systemd is given.
#[cfg(feature = "systemd")]
struct Inquiry {
    id: u64,
    line: Line,
    asking: Asking,
    is_started: bool,
}

#[cfg(feature = "systemd")]
impl Inquiry {
    /// Until it is done, cancelled or takes too long; the thread that asks ends with this process.
    fn run(mut self, until: Instant) -> io::Result<()> {
        loop {
            let line = PollFd::new(&self.line, PollFlags::IN);
            wait([Some(line), Some(PollFd::new(&self.asking, PollFlags::IN))], Some(until))?;
            while let Some(answer) = self.asking.answer() {
                let done = match answer {
                    Answer::Begun => {
                        self.begin();
                        continue;
                    }
                    Answer::Refused(Refusal { errno, why }) => {
                        report(&self.line, &Report::NotStarted { id: self.id, errno, why });
                        return Ok(());
                    }
                    Answer::Done(done) => done,
                };
                self.end(done, false);
                return Ok(());
            }
            match self.line.receive() {
                Ok(Received::Message(message, _)) if is_cancel(&message, self.id) => {
                    if self.asking.call_off() {
                        let (errno, why) = (libc::ECANCELED, "it was cancelled".to_owned());
                        report(&self.line, &Report::NotStarted { id: self.id, errno, why });
                    } else {
                        self.end(
                            Err("it was cancelled after systemd was asked, which goes on".to_owned()),
                            false,
                        );
                    }
                    return Ok(());
                }
                Ok(Received::Nothing | Received::Message(..)) => {}
                Ok(Received::End) | Err(_) => return Ok(()),
            }
            if Instant::now() >= until {
                let why = match self.asking.call_off() {
                    true => "D-Bus or systemd did not answer in time, and nothing was done",
                    false => "systemd was asked, and was not done in time; it goes on",
                };
                self.end(Err(why.to_owned()), true);
                return Ok(());
            }
        }
    }

    fn begin(&mut self) {
        if !self.is_started {
            self.is_started = true;
            report(&self.line, &Report::Started { id: self.id, child: None });
        }
    }

    fn end(&mut self, done: Result<(), String>, timed_out: bool) {
        self.begin();
        let code = Some(u8::from(done.is_err()));
        let output = done.err().unwrap_or_default();
        let output_bytes = output.len() as u64;
        report(
            &self.line,
            &Report::Ended { id: self.id, code, signal: None, timed_out, output, output_bytes },
        );
    }
}

/// Never waits for room, of which a line has enough for all reports of one order.
fn report(line: &Line, report: &Report) {
    if let Some(message) = report.encode() {
        // Ignored: without a spawner nobody wants to know.
        let _ = line.send(&message, None);
    }
}

/// Why a program was not started.
struct NotStarted {
    errno: i32,
    why: String,
}

/// The child, whose number stays its own until it is reaped.
struct Child {
    number: u32,
    pid: Pid,
    pidfd: OwnedFd,
}

fn start(
    words: &[String],
    user: Option<(u32, u32)>,
    env: &[(String, String)],
    line: &Line,
) -> Result<(Child, PipeReader), NotStarted> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| NotStarted { errno: 0, why: "no program is named".to_owned() })?;
    let failed = |error: io::Error| NotStarted {
        errno: error.raw_os_error().unwrap_or(0),
        why: why_not(program, &error),
    };
    let identity = user.map(|(uid, gid)| Ok(Identity { uid, gid, groups: groups_of(uid, gid)? }));
    let identity = identity.transpose().map_err(failed)?;
    let runner =
        identity.as_ref().map_or_else(Runner::own, |user| Runner::user(user.uid, user.groups.clone()));
    trust::program(Path::new(program), &runner).map_err(|distrust| match distrust {
        Distrust::Unreachable { source, .. } => failed(source),
        distrust => NotStarted { errno: distrust.errno(), why: format!("{distrust} (126 in a shell)") },
    })?;
    limit_descriptors();
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer.try_clone().map_err(failed)?))
        .stderr(Stdio::from(writer));
    let announce = line.as_fd().try_clone_to_owned().map_err(failed)?;
    make_ordinary(&mut command, process::id(), announce, identity);
    let child = command.spawn().map_err(failed)?;
    let number = child.id();
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
    let opened = pid.and_then(|pid| Ok((pid, pidfd_open(pid, PidfdFlags::empty())?)));
    let (pid, pidfd) = opened.map_err(|errno| {
        kill_descendants(process::id());
        failed(errno.into())
    })?;
    Ok((Child { number, pid, pidfd }, reader))
}

/// In the words of shells, which end with 127 and 126 then.
fn why_not(program: &str, error: &io::Error) -> String {
    let program = Shown(program);
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no {program}, or not the interpreter that it names (127 in a shell)")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{program} may not be executed, or its user may not be changed to (126 in a shell)")
        }
        _ => format!("cannot start {program}: {}", Reason(error)),
    }
}

fn limit_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let current = Some(limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS)));
    // Ignored: the limit of before is right, too.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
}

/// What is kept of what it wrote.
struct Output {
    /// `None`: closed by all who had it.
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    bytes: u64,
}

impl Output {
    fn new(pipe: PipeReader) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: Some(pipe), kept: Vec::new(), bytes: 0 })
    }

    /// Reads what is there, but not for ever.
    fn read(&mut self) {
        let mut piece = vec![0; PIECE_BYTES];
        for _ in 0..PIECES {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = (OUTPUT_BYTES_MAX - self.kept.len()).min(count);
                    self.kept.extend_from_slice(&piece[..room]);
                    self.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Why all of it is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    TookTooLong,
    Cancelled,
}

struct Watch {
    id: u64,
    line: Line,
    child: Child,
    output: Output,
    /// When the next step is due.
    until: Instant,
    asked: Option<Asked>,
}

impl Watch {
    fn run(mut self) -> io::Result<()> {
        loop {
            let tick = self.until.min(Instant::now() + REAP_EVERY);
            let pipe = self.output.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
            let line = PollFd::new(&self.line, PollFlags::IN);
            let child = self.status().is_none().then(|| PollFd::new(&self.child.pidfd, PollFlags::IN));
            wait([Some(line), child, pipe], Some(tick))?;
            self.output.read();
            match self.line.receive() {
                Ok(Received::Nothing) => {}
                Ok(Received::Message(message, _)) if is_cancel(&message, self.id) => {
                    self.ask(Asked::Cancelled);
                }
                Ok(Received::Message(..)) => {}
                Ok(Received::End) | Err(_) => {
                    self.kill_all();
                    return self.linger();
                }
            }
            self.reap_adopted();
            let status = self.status();
            let is_over = match self.asked {
                None => status.is_some(),
                Some(_) => status.is_some() && self.is_alone(),
            };
            if is_over {
                // What it wrote since the last look, before it ended.
                self.output.read();
                self.report_end(status);
                reap_all();
                return Ok(());
            }
            if Instant::now() >= self.until {
                if self.asked.is_some() {
                    self.kill_all();
                    self.output.read();
                    self.report_end(self.status());
                    return self.linger();
                }
                self.ask(Asked::TookTooLong);
            }
        }
    }

    /// SIGTERM, and SIGCONT for those who are stopped and could not act on it.
    fn ask(&mut self, why: Asked) {
        if self.asked.is_none() {
            self.asked = Some(why);
            self.until = Instant::now() + GRACE;
            for signal in [Signal::TERM, Signal::CONT] {
                // Ignored: there may be nobody left, and SIGKILL follows.
                let _ = kill_process_group(self.child.pid, signal);
            }
        }
    }

    /// How the child ended; it stays a zombie, so that its number is not given to another process.
    fn status(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.child.pid), options).ok().flatten()
    }

    /// Whether nothing but the child itself is left.
    fn is_alone(&self) -> bool {
        descendants(process::id()).iter().all(|one| one.is_zombie)
    }

    fn reap_adopted(&self) {
        while let Some(pid) = ended_child().filter(|pid| *pid != self.child.number) {
            reap(pid);
        }
        // The kernel names the child first, whoever else has ended.
        if self.status().is_some() {
            let own = process::id();
            let is_ours = |one: &u32| *one != self.child.number;
            let ended = descendants(own).into_iter().filter(|one| one.is_zombie && one.parent == own);
            ended.map(|one| one.pid).filter(is_ours).for_each(reap);
        }
    }

    fn kill_all(&self) {
        let until = Instant::now() + KILLED_WITHIN;
        // Ignored: those who left the group are killed below, and there may be nobody.
        let _ = kill_process_group(self.child.pid, Signal::KILL);
        while kill_descendants(process::id()) && Instant::now() < until {
            self.reap_adopted();
            let _ = wait::<0>([], Some(Instant::now() + Duration::from_millis(2)));
        }
        self.reap_adopted();
    }

    fn report_end(&self, status: Option<WaitIdStatus>) {
        let number = |value: Option<i32>| value.and_then(|value| u8::try_from(value).ok());
        let kill = u8::try_from(Signal::KILL.as_raw()).ok();
        let ended = Report::Ended {
            id: self.id,
            code: number(status.and_then(|status| status.exit_status())),
            // Without a status it is still about to die of this one.
            signal: status.map_or(kill, |status| number(status.terminating_signal())),
            timed_out: self.asked == Some(Asked::TookTooLong),
            output: String::from_utf8_lossy(&self.output.kept).into_owned(),
            output_bytes: self.output.bytes,
        };
        report(&self.line, &ended);
    }

    /// Stays until the last of them is dead and reaped. What is in a system call that nothing interrupts takes its time.
    fn linger(self) -> io::Result<()> {
        let Self { line, .. } = self;
        drop(line);
        loop {
            reap_all();
            if !kill_descendants(process::id()) && ended_child().is_none() {
                return Ok(());
            }
            wait::<0>([], Some(Instant::now() + KILL_EVERY))?;
        }
    }
}

fn is_cancel(message: &[u8], id: u64) -> bool {
    Order::decode(message) == Ok(Order::Cancel { id })
}

fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Ignored: it has ended, as was just seen, and is ours.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Waits until one of the descriptors is ready, at most until then.
pub fn wait<const N: usize>(fds: [Option<PollFd<'_>>; N], until: Option<Instant>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds.into_iter().flatten().collect();
    poll_until(&mut fds, until)
}

/// The same, which says in `fds` what is ready.
pub fn poll_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}
