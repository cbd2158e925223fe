//! A process that beats with the stock Rust clients and takes commands as lines on standard input.
//! `tests/it/common/agent.rs` starts it.
//!
//! It prints `up PID` once connected and answers every command with one line. It exits at the end of its
//! standard input, and with its parent.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
use rustix::process::{Pid, Signal, getgid, getuid, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

const USAGE: &str = "\
usage: stock-agent --client 0.1|0.2 (--dir DIR | --socket PATH...) [--handles N] [--period-ms N]
                   [--beats N] [--status WORD] [--reconnect-after N] [--uid N]

  --dir DIR            beat on the socket that the fleet of DIR has for this process
  --socket PATH        beat on this one; several: one handle each
  --handles N          as many handles on that socket [default: 1]
  --period-ms N        one beat of every handle each N ms; 0: as fast as possible [default: 100]
  --beats N            be silent after N rounds of beats; 0: silent from the start [default: never]
  --status WORD        ok, degraded or critical [default: ok]
  --reconnect-after N  reconnect after N dropped beats in a row, as the client does it [default: never]
  --uid N              become this user before connecting

commands, one a line:
  report         answer: report sent=N dropped=N failed=N gap-ms=N (the longest time without a try to beat)
  gaps           answer: gaps FROM-TO..., from before a try to beat until after the next where that took 250 ms
                 or more, the last one open; MONO_NS
  beat           one round of beats at once; answer: beat MONO_NS SENT, the instant before the first
  quiet, go      stop and start the regular beats
  work, idle     have the payload of the last handle count each beat, and stop that
  status WORD    beat with this status from now on
  panic          panic without catching it
  survive        panic, catch it, go on
  fork           answer: forked PID; the child goes on beating with its copy of the handles
  spawn N        N more agents, children with connections of their own; answer: spawned PID...
  reap           from now on the kernel reaps children by itself; answer: reap
  orphan         as fork, but the child does not follow its parent: it ends with the standard input
  crowd N        as spawn, but they begin all at once, when the last of them is there
  exec [WORDS]   become the same program again, or that one, with the same process id
  hang           the main thread answers nothing any more; a helper goes on beating, with status degraded
  leave          the main thread ends; a helper goes on beating
  open           one more handle on the first socket
  move PATH      beat on this socket, with a new handle, instead of all others
  send HEX       send this datagram; answer: send ok, or send ERROR
  forge PID HEX  the same with forged credentials: as if that process sent it
  name WORD      take this name; answer: name WORD
  become UID     become this user; answer: become UID
  exit N         end with this exit code";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // Tests read standard output only.
            println!("error {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let options = Options::parse(env::args().skip(1))?;
    if let Some(uid) = options.uid {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid))
            .map_err(told("become that user"))?;
    }
    // After the change of user, which would reset it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(told("follow the parent"))?;
    let mut agent = Agent::connect(options)?;
    println!("up {}", process::id());
    agent.live()
}

fn told<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

// --- options --------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V01,
    V02,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Ok,
    Degraded,
    Critical,
}

impl Status {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "ok" => Ok(Self::Ok),
            "degraded" => Ok(Self::Degraded),
            "critical" => Ok(Self::Critical),
            _ => Err(format!("{word} is no status")),
        }
    }
}

#[derive(Clone, Debug)]
struct Options {
    version: Version,
    /// The runtime directory of a fleet, in which the agent finds its socket by its pid.
    dir: Option<PathBuf>,
    sockets: Vec<PathBuf>,
    period: Duration,
    beats: u64,
    status: Status,
    reconnect_after: u32,
    uid: Option<u32>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            version: Version::V02,
            dir: None,
            sockets: Vec::new(),
            period: Duration::from_millis(100),
            beats: u64::MAX,
            status: Status::Ok,
            reconnect_after: 0,
            uid: None,
        };
        let mut handles = 1;
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(USAGE)?;
            let number = || value.parse::<u32>().map_err(told(&format!("read {flag} {value}")));
            match flag.as_str() {
                "--client" if value == "0.1" => options.version = Version::V01,
                "--client" if value == "0.2" => options.version = Version::V02,
                "--dir" => {
                    options.dir = Some(value.into());
                    options.find_socket()?;
                }
                "--socket" => options.sockets.push(value.into()),
                "--handles" => handles = number()?,
                "--period-ms" => options.period = Duration::from_millis(number()?.into()),
                "--beats" => options.beats = number()?.into(),
                "--status" => options.status = Status::parse(&value)?,
                "--reconnect-after" => options.reconnect_after = number()?,
                "--uid" => options.uid = Some(number()?),
                _ => return Err(USAGE.to_owned()),
            }
        }
        let first = options.sockets.first().cloned().ok_or(USAGE)?;
        options.sockets.extend((1..handles).map(|_| first.clone()));
        Ok(options)
    }

    /// Sets the socket that the fleet has for this process.
    fn find_socket(&mut self) -> Result<(), String> {
        if let Some(dir) = &self.dir {
            let socket = varta_fleet::socket_for(dir, process::id());
            self.sockets = vec![socket.map_err(told("find the socket"))?];
        }
        Ok(())
    }
}

// --- one connection -------------------------------------------------------------------------------

enum Handle {
    V01(varta_client_01::Varta),
    V02(varta_client_02::Varta),
}

enum Outcome {
    Sent,
    Dropped,
    Failed,
}

impl Handle {
    fn connect(version: Version, socket: &Path, reconnect_after: u32) -> Result<Self, String> {
        let connected = match version {
            Version::V01 => varta_client_01::Varta::connect(socket).map(|mut varta| {
                varta.set_reconnect_after(reconnect_after);
                Self::V01(varta)
            }),
            Version::V02 => varta_client_02::Varta::connect(socket).map(|mut varta| {
                varta.set_reconnect_after(reconnect_after);
                Self::V02(varta)
            }),
        };
        connected.map_err(told(&format!("connect to {}", socket.display())))
    }

    /// `done` counts on from the payload that shows the version.
    fn beat(&mut self, status: Status, done: u32) -> Outcome {
        match self {
            Self::V01(varta) => {
                use varta_client_01::{BeatOutcome, Status as Word};
                let word = match status {
                    Status::Ok => Word::Ok,
                    Status::Degraded => Word::Degraded,
                    Status::Critical => Word::Critical,
                };
                match varta.beat(word, (1 + done).into()) {
                    BeatOutcome::Sent => Outcome::Sent,
                    BeatOutcome::Dropped => Outcome::Dropped,
                    BeatOutcome::Failed(_) => Outcome::Failed,
                }
            }
            Self::V02(varta) => {
                use varta_client_02::{BeatOutcome, Status as Word};
                let word = match status {
                    Status::Ok => Word::Ok,
                    Status::Degraded => Word::Degraded,
                    Status::Critical => Word::Critical,
                };
                match varta.beat(word, 2 + done) {
                    BeatOutcome::Sent => Outcome::Sent,
                    BeatOutcome::Dropped(_) => Outcome::Dropped,
                    BeatOutcome::Failed(_) => Outcome::Failed,
                }
            }
        }
    }
}

// --- the loop -------------------------------------------------------------------------------------

struct Agent {
    options: Options,
    handles: Vec<Handle>,
    is_quiet: bool,
    /// Each beat of the last handle counts work done.
    works: bool,
    done: u32,
    sent: u64,
    dropped: u64,
    failed: u64,
    /// Instants before and after the last attempt to beat.
    last_try: Option<(u64, u64)>,
    longest_gap: u64,
    gaps: Vec<(u64, u64)>,
}

/// Gaps of at least this length are recorded.
const LONG_NS: u64 = 250_000_000;

fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("the clock began at boot")
}

impl Agent {
    fn connect(options: Options) -> Result<Self, String> {
        let handles = options
            .sockets
            .iter()
            .map(|socket| Handle::connect(options.version, socket, options.reconnect_after))
            .collect::<Result<_, _>>()?;
        let first = &options.sockets[0];
        match options.version {
            Version::V01 => varta_client_01::install_panic_handler(first),
            Version::V02 => {
                varta_client_02::install_panic_handler(first).map_err(told("install the panic handler"))?;
            }
        }
        Ok(Self {
            options,
            handles,
            is_quiet: false,
            works: false,
            done: 0,
            sent: 0,
            dropped: 0,
            failed: 0,
            last_try: None,
            longest_gap: 0,
            gaps: Vec::new(),
        })
    }

    /// Beats and executes commands until standard input ends.
    fn live(&mut self) -> Result<ExitCode, String> {
        let input = io::stdin();
        let mut heard = Vec::new();
        let mut next = Instant::now();
        loop {
            if is_told_something(&input, self.wait_until(next))? {
                // Bypasses the buffer of `Stdin`: poll(2) does not see what lies in it.
                let mut bytes = [0; 4096];
                let len = rustix::io::read(&input, &mut bytes).map_err(told("read a command"))?;
                if len == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
                heard.extend_from_slice(&bytes[..len]);
                while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = heard.drain(..=end).collect();
                    if let Some(code) = self.obey(String::from_utf8_lossy(&line).trim())? {
                        return Ok(code);
                    }
                }
            }
            self.beat_if_due(&mut next);
        }
    }

    /// The loop of a child or helper thread: beats, reads no commands, and exits when standard input ends.
    fn live_deaf(&mut self) -> ! {
        let input = io::stdin();
        let mut next = Instant::now();
        loop {
            let wait = self.wait_until(next).and_then(|wait| Timespec::try_from(wait).ok());
            // Polls for hang-up only: the commands are for the main loop.
            if let Ok(1..) = poll(&mut [PollFd::new(&input, PollFlags::empty())], wait.as_ref()) {
                process::exit(0);
            }
            self.beat_if_due(&mut next);
        }
    }

    /// In a child: beats on a connection of its own.
    fn become_another(&self) -> ! {
        let mut options = self.options.clone();
        let connected = set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(told("follow the parent"))
            .and_then(|()| options.find_socket())
            .and_then(|()| Self::connect(options));
        match connected {
            Ok(mut agent) => agent.live_deaf(),
            Err(error) => {
                eprintln!("{error}");
                process::exit(1);
            }
        }
    }

    /// Moves the handles to a helper thread, which beats from then on.
    fn beat_from_a_helper(&mut self) -> Result<(), String> {
        let handles = std::mem::take(&mut self.handles);
        let (options, gaps) = (self.options.clone(), self.gaps.clone());
        let mut agent = Self { handles, options, gaps, ..*self };
        let helper = std::thread::Builder::new().spawn(move || {
            // The death signal is set per thread, and the main thread may exit.
            if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
                process::exit(1);
            }
            agent.live_deaf()
        });
        helper.map(drop).map_err(told("start a helper"))
    }

    fn is_beating(&self) -> bool {
        !self.is_quiet && self.options.beats > 0
    }

    fn wait_until(&self, next: Instant) -> Option<Duration> {
        self.is_beating().then(|| next.saturating_duration_since(Instant::now()))
    }

    fn beat_if_due(&mut self, next: &mut Instant) {
        let now = Instant::now();
        if !self.is_beating() || now < *next {
            return;
        }
        self.options.beats -= 1;
        self.beat();
        // No catching up: a pause is not followed by a burst.
        *next = (*next + self.options.period).max(now);
    }

    fn beat(&mut self) -> u64 {
        let (before, begin) = (self.sent, mono_ns());
        self.done += u32::from(self.works);
        let worker = self.handles.len() - 1;
        for (index, handle) in self.handles.iter_mut().enumerate() {
            let done = if index == worker { self.done } else { 0 };
            match handle.beat(self.options.status, done) {
                Outcome::Sent => self.sent += 1,
                Outcome::Dropped => self.dropped += 1,
                Outcome::Failed => self.failed += 1,
            }
        }
        let end = mono_ns();
        if let Some((last_begin, last_end)) = self.last_try.replace((begin, end)) {
            self.longest_gap = self.longest_gap.max(begin - last_end);
            if end - last_begin >= LONG_NS {
                self.gaps.push((last_begin, end));
            }
        }
        self.sent - before
    }

    /// Starts children with connections of their own.
    fn spawn(&self, count: u32, is_at_once: bool) -> Result<String, String> {
        let (mut gate, opener) = io::pipe().map_err(told("make a gate"))?;
        let mut answer = "spawned".to_owned();
        for _ in 0..count {
            match fork()? {
                0 => {
                    drop(opener);
                    if is_at_once {
                        // Nothing is written: the read returns when the last writer closes the pipe.
                        let _ = gate.read(&mut [0]);
                    }
                    self.become_another();
                }
                child => answer.push_str(&format!(" {child}")),
            }
        }
        Ok(answer)
    }

    fn obey(&mut self, line: &str) -> Result<Option<ExitCode>, String> {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "report" => {
                let open = self.last_try.map_or(0, |(_, last_end)| mono_ns() - last_end);
                let gap = Duration::from_nanos(self.longest_gap.max(open));
                println!(
                    "report sent={} dropped={} failed={} gap-ms={}",
                    self.sent,
                    self.dropped,
                    self.failed,
                    gap.as_millis()
                );
            }
            "gaps" => {
                let open = self.last_try.map(|(last_begin, _)| (last_begin, mono_ns()));
                let gaps = self.gaps.iter().copied().chain(open);
                println!("gaps{}", gaps.map(|(from, to)| format!(" {from}-{to}")).collect::<String>());
            }
            "beat" => {
                let now = mono_ns();
                let sent = self.beat();
                println!("beat {now} {sent}");
            }
            "quiet" | "go" => {
                self.is_quiet = command == "quiet";
                println!("{command}");
            }
            "status" => {
                self.options.status = Status::parse(argument)?;
                println!("status {argument}");
            }
            "work" | "idle" => {
                self.works = command == "work";
                println!("{command}");
            }
            "panic" => panic!("told to"),
            "spin" => loop {
                std::hint::spin_loop();
            },
            "eat" => {
                let mut eaten: Vec<Vec<u8>> = Vec::new();
                loop {
                    eaten.push(std::hint::black_box(vec![1; 1 << 20]));
                }
            }
            "survive" => {
                let caught = std::panic::catch_unwind(|| panic!("told to, and caught"));
                println!("survive {}", caught.is_err());
            }
            "fork" | "orphan" => match fork()? {
                0 => {
                    if command == "fork" && set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
                        process::exit(1);
                    }
                    self.live_deaf();
                }
                child => println!("forked {child}"),
            },
            "reap" => {
                ignore_children();
                println!("reap");
            }
            "spawn" | "crowd" => {
                let count = argument.parse().map_err(told("read a number"))?;
                println!("{}", self.spawn(count, command == "crowd")?);
            }
            "exec" if argument.is_empty() => {
                let program = env::current_exe().map_err(told("find this program"))?;
                return Err(Command::new(program).args(env::args().skip(1)).exec().to_string());
            }
            "exec" => {
                let mut words = argument.split(' ');
                let program = words.next().unwrap_or_default();
                return Err(Command::new(program).args(words).exec().to_string());
            }
            "hang" => {
                self.options.status = Status::Degraded;
                self.beat_from_a_helper()?;
                loop {
                    std::thread::park();
                }
            }
            "leave" => {
                self.beat_from_a_helper()?;
                end_this_thread();
            }
            "open" => {
                let Options { version, reconnect_after, .. } = self.options;
                self.handles.push(Handle::connect(version, &self.options.sockets[0], reconnect_after)?);
                println!("open");
            }
            "move" => {
                let Options { version, reconnect_after, .. } = self.options;
                self.handles = vec![Handle::connect(version, Path::new(argument), reconnect_after)?];
                println!("move {argument}");
            }
            "send" => {
                let answer = match send(&self.options.sockets[0], &unhex(argument)?) {
                    Ok(()) => "ok".to_owned(),
                    Err(error) => error.to_string(),
                };
                println!("send {answer}");
            }
            "forge" => {
                let (pid, hex) = argument.split_once(' ').ok_or("forge PID HEX")?;
                let pid = pid.parse().map_err(told("read a pid"))?;
                let answer = match send_as(pid, &self.options.sockets[0], &unhex(hex)?) {
                    Ok(()) => "ok".to_owned(),
                    Err(error) => error.to_string(),
                };
                println!("forge {answer}");
            }
            "name" => {
                // The comm of the main thread is the name of the process.
                fs::write("/proc/self/comm", argument).map_err(told("take a name"))?;
                println!("name {argument}");
            }
            "become" => {
                let uid = argument.parse().map_err(told("read a user id"))?;
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid))
                    .map_err(told("become that user"))?;
                println!("become {uid}");
            }
            "exit" => return Ok(Some(argument.parse::<u8>().map_err(told("read an exit code"))?.into())),
            _ => return Err(format!("{line} is no command")),
        }
        io::stdout().flush().map_err(told("answer"))?;
        Ok(None)
    }
}

/// Ends the calling thread. The process continues while it has another thread.
#[expect(unsafe_code, reason = "no safe wrapper: a thread does not return from this")]
fn end_this_thread() -> ! {
    loop {
        // SAFETY: no other thread uses anything of this one: the helper owns what it needs.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

fn is_told_something(input: &io::Stdin, within: Option<Duration>) -> Result<bool, String> {
    let within = within.map(|wait| Timespec::try_from(wait).unwrap_or_default());
    match poll(&mut [PollFd::new(input, PollFlags::IN)], within.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(format!("cannot wait for a command: {error}")),
    }
}

/// Returns 0 in the child.
#[expect(unsafe_code, reason = "no safe wrapper: a child may not do everything")]
fn fork() -> Result<i32, String> {
    // SAFETY: this process has one thread, so no lock is held by another, and the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot fork: {}", io::Error::last_os_error())),
        pid => Ok(pid),
    }
}

/// Children are reaped by the kernel and leave no zombies.
#[expect(unsafe_code, reason = "no safe wrapper: a handler might do anything")]
fn ignore_children() {
    // SAFETY: no handler is installed; the kernel only stops keeping exited children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

fn send(socket: &Path, datagram: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(datagram, socket).map(drop)
}

/// Sends with credentials that name another process, which takes privileges.
fn send_as(pid: i32, socket: &Path, datagram: &[u8]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let forged = UCred { pid, uid: getuid(), gid: getgid() };
    assert!(control.push(SendAncillaryMessage::ScmCredentials(forged)), "there is room for one");
    let sender = UnixDatagram::unbound()?;
    sender.connect(socket)?;
    sendmsg(&sender, &[IoSlice::new(datagram)], &mut control, SendFlags::DONTWAIT)?;
    Ok(())
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    pairs
        .map(|pair| pair.and_then(|digits| u8::from_str_radix(digits, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{text} is not hexadecimal"))
}
