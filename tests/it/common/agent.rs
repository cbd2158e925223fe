//! Real processes that beat. They run `tests/agents/stock-agent.rs` or its Python counterpart.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fmt, fs};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::observer::{needs_root, only_child_of};
use super::{Observer, PERIOD, SOON, wait_for};

/// The stock client that an agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Rust, protocol 0.1.
    Rust01,
    /// Rust, protocol 0.2.
    Rust02,
    /// Python, protocol 0.2.
    Python,
}

impl Client {
    pub const ALL: [Self; 3] = [Self::Rust01, Self::Rust02, Self::Python];
    pub const RUST: [Self; 2] = [Self::Rust01, Self::Rust02];
}

/// How an agent beats. By default it is a 0.2 agent on the socket that the manifest gives for its pid.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    pub client: Client,
    /// Sockets to connect to, one handle each, instead of the socket from the manifest.
    pub sockets: Vec<PathBuf>,
    pub handles: u32,
    pub period: Duration,
    /// Number of beats after which the agent falls silent.
    pub beats: Option<u32>,
    /// The status of its beats from the first on.
    pub status: &'static str,
    pub reconnect_after: u32,
    pub uid: Option<u32>,
    /// The command that runs the agent, such as `unshare` with its arguments, or empty. Each word `--fork` or
    /// `nsenter` adds a process between test and agent. Needs root.
    pub within: String,
    /// A copy of the program to run instead, for users who cannot reach the original.
    pub program: Option<PathBuf>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            client: Client::Rust02,
            sockets: Vec::new(),
            handles: 1,
            period: PERIOD,
            beats: None,
            status: "ok",
            reconnect_after: 0,
            uid: None,
            within: String::new(),
            program: None,
        }
    }
}

/// A process that beats. Killed when dropped.
pub struct Agent {
    child: Child,
    /// The agent's pid in this namespace: the child, or a descendant of it.
    pid: u32,
    /// How many generations the agent is below the child.
    depth: usize,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    heard: Vec<u8>,
}

/// An agent's own counts.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub sent: u64,
    pub dropped: u64,
    pub failed: u64,
    /// The longest time in which the agent did not try to beat.
    pub gap: Duration,
}

impl Agent {
    /// Starts an agent with the default options.
    pub fn start(client: Client, observer: &Observer) -> Self {
        Self::start_with(observer, AgentOptions { client, ..AgentOptions::default() })
    }

    /// Starts an agent on this shard's socket.
    pub fn start_on(client: Client, observer: &Observer, shard: u32) -> Self {
        let sockets = vec![observer.socket(shard)];
        Self::start_with(observer, AgentOptions { client, sockets, ..AgentOptions::default() })
    }

    /// Starts an agent and waits until it is connected.
    pub fn start_with(observer: &Observer, options: AgentOptions) -> Self {
        Self::start_in(&observer.dir(), options)
    }

    /// Starts an agent of the observer with this runtime directory and waits until it is connected.
    pub fn start_in(dir: &Path, options: AgentOptions) -> Self {
        let mut agent = Self::spawn(dir, options);
        agent.expect_up();
        agent
    }

    /// Starts all agents, then waits until each is connected.
    pub fn start_many(observer: &Observer, all: impl IntoIterator<Item = AgentOptions>) -> Vec<Self> {
        let mut agents: Vec<_> =
            all.into_iter().map(|options| Self::spawn(&observer.dir(), options)).collect();
        for agent in &mut agents {
            agent.expect_up();
        }
        agents
    }

    fn spawn(dir: &Path, options: AgentOptions) -> Self {
        let program = match options.client {
            Client::Python => python(),
            Client::Rust01 | Client::Rust02 => options.program.unwrap_or_else(|| rust_program().to_owned()),
        };
        let mut words = options.within.split_whitespace();
        let mut command = if let Some(outermost) = words.next() {
            needs_root("it runs an agent in namespaces of its own");
            let mut command = Command::new(outermost);
            command.args(words).arg(program);
            command
        } else {
            Command::new(program)
        };
        match options.client {
            Client::Python => {
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agents/stock_agent.py"));
            }
            Client::Rust01 => {
                command.args(["--client", "0.1"]);
            }
            Client::Rust02 => {
                command.args(["--client", "0.2"]);
            }
        }
        if options.sockets.is_empty() {
            command.arg("--dir").arg(dir);
        }
        for socket in &options.sockets {
            command.arg("--socket").arg(socket);
        }
        let mut set = |flag: &str, value: u128| {
            command.args([flag, &value.to_string()]);
        };
        set("--period-ms", options.period.as_millis());
        if options.handles != 1 {
            set("--handles", options.handles.into());
        }
        if options.reconnect_after != 0 {
            set("--reconnect-after", options.reconnect_after.into());
        }
        if let Some(beats) = options.beats {
            set("--beats", beats.into());
        }
        if options.status != "ok" {
            command.args(["--status", options.status]);
        }
        let mut set = |flag: &str, value: u128| {
            command.args([flag, &value.to_string()]);
        };
        if let Some(uid) = options.uid {
            set("--uid", uid.into());
        }
        let mut child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Discards the messages of panics. The agent reports errors on standard output.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {command:?}: {error}; unshare, nsenter and setpriv are in util-linux")
            });
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it was piped"));
        let forks = |word: &&str| ["--fork", "nsenter"].contains(word);
        let depth = options.within.split_whitespace().filter(forks).count();
        Self { pid: child.id(), child, depth, stdin, stdout, heard: Vec::new() }
    }

    /// Waits for the line that the agent prints once it is connected, after each start of its program.
    pub fn expect_up(&mut self) {
        let answer = self.answer();
        self.pid = (0..self.depth).fold(self.child.id(), |pid, _| only_child_of(pid));
        assert_eq!(answer, format!("up {}", self.inner_pid()));
    }

    /// The agent's pid in this namespace and in each inner one.
    pub fn pids(&self) -> Vec<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("a line of pids");
        let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
        let here = pids.iter().position(|pid| *pid == self.pid).expect("its pid here is one of them");
        pids[here..].to_vec()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The agent's pid in its own namespace.
    pub fn inner_pid(&self) -> u32 {
        *self.pids().last().expect("every process has a pid")
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.pid, signal);
    }

    /// Sends a command that the agent does not answer.
    pub fn tell(&mut self, command: impl fmt::Display) {
        let stdin = self.stdin.as_mut().expect("open until it is dropped");
        writeln!(stdin, "{command}").expect("tell an agent something");
    }

    /// Sends a command and returns the answer.
    pub fn ask(&mut self, command: impl fmt::Display) -> String {
        self.tell(command);
        self.answer()
    }

    pub fn report(&mut self) -> Report {
        let answer = self.ask("report");
        let number = |name: &str| {
            let field = answer.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            field.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name} in {answer}"))
        };
        let gap = Duration::from_millis(number("gap-ms"));
        Report { sent: number("sent"), dropped: number("dropped"), failed: number("failed"), gap }
    }

    /// Long gaps between attempts to beat, as ranges of `CLOCK_MONOTONIC`; the last one has no end yet.
    pub fn gaps(&mut self) -> Vec<(u64, u64)> {
        let answer = self.ask("gaps");
        let ranges = answer.strip_prefix("gaps").unwrap_or_else(|| panic!("not an answer: {answer}"));
        let instant = |text: &str| text.parse().unwrap_or_else(|_| panic!("no instant in {answer}"));
        let range = |text: &str| text.split_once('-').map(|(from, to)| (instant(from), instant(to)));
        ranges.split_whitespace().map(|text| range(text).expect("two instants")).collect()
    }

    /// Sends one beat; returns an instant just before it.
    pub fn beat(&mut self) -> u64 {
        let answer = self.ask("beat");
        match answer.split(' ').collect::<Vec<_>>()[..] {
            ["beat", at, "1"] => at.parse().expect("an instant"),
            _ => panic!("the beat was not sent: {answer}"),
        }
    }

    /// Forks the agent and returns the child's pid. The child ends with the agent.
    pub fn fork(&mut self) -> u32 {
        self.forked("fork")
    }

    /// Like `fork`, but the child runs until this `Agent` is dropped.
    pub fn fork_orphan(&mut self) -> u32 {
        self.forked("orphan")
    }

    fn forked(&mut self, how: &str) -> u32 {
        let answer = self.ask(how);
        let child = answer.strip_prefix("forked ").and_then(|pid| pid.parse().ok());
        child.unwrap_or_else(|| panic!("not forked: {answer}"))
    }

    /// Starts `count` children of this agent, which beat on connections of their own; returns their pids.
    pub fn spawn_children(&mut self, count: u32) -> Vec<u32> {
        self.children("spawn", count)
    }

    /// Like `spawn_children`, but the children start beating together once the last exists.
    pub fn spawn_crowd(&mut self, count: u32) -> Vec<u32> {
        self.children("crowd", count)
    }

    fn children(&mut self, how: &str, count: u32) -> Vec<u32> {
        self.tell(format_args!("{how} {count}"));
        // Starting thousands of processes takes longer than an ordinary answer.
        let answer = self.answer_within(SOON * (1 + count / 1000));
        let pids = answer.strip_prefix("spawned").unwrap_or_else(|| panic!("not spawned: {answer}"));
        pids.split_ascii_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }

    /// Sends a datagram from this process; returns whether the kernel accepted it.
    pub fn send(&mut self, datagram: &[u8]) -> bool {
        self.ask(format_args!("send {}", hex(datagram))) == "send ok"
    }

    /// Sends a datagram with the credentials of another process; returns the kernel's result.
    pub fn forge(&mut self, pid: u32, datagram: &[u8]) -> String {
        let answer = self.ask(format_args!("forge {pid} {}", hex(datagram)));
        answer.strip_prefix("forge ").unwrap_or_else(|| panic!("not an answer: {answer}")).to_owned()
    }

    /// Waits until the agent exits.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of an agent", || self.child.try_wait().expect("it is our child"))
    }

    /// Returns whether the agent writes anything within this time.
    pub fn answers(&mut self, within: Duration) -> bool {
        let within = Timespec::try_from(within).expect("a few seconds");
        poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&within)).expect("wait") > 0
    }

    fn answer(&mut self) -> String {
        self.answer_within(SOON)
    }

    fn answer_within(&mut self, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return String::from_utf8(line).expect("answers are text").trim_end().to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a few seconds");
            let is_there = poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&left));
            assert!(is_there.is_ok_and(|ready| ready > 0), "agent {} does not answer", self.pid());
            let mut bytes = [0; 1024];
            let len = self.stdout.read(&mut bytes).expect("hear an agent");
            assert!(len > 0, "agent {} ended instead of answering", self.pid());
            self.heard.extend_from_slice(&bytes[..len]);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter with the stock Python client.
///
/// # Panics
/// If it does not exist: a test that cannot run must not pass.
pub fn python() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let python = env::var_os("VARTA_TEST_PYTHON").map_or_else(default, PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: `scripts/check --setup` makes it, with the stock Python client in it",
        python.display()
    );
    python
}

/// The example `stock-agent`. It is built here because cargo builds examples only for a `cargo test` without
/// a target.
pub fn rust_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let me = env::current_exe().expect("a test has a path");
        let profile_dir = me.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let mut command = Command::new(cargo);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["build", "--quiet", "--locked", "--example", "stock-agent"]);
        command.arg("--target-dir").arg(profile_dir.parent().expect("target"));
        if profile_dir.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().expect("run cargo");
        assert!(status.success(), "cannot build the example stock-agent: {status}");
        profile_dir.join("examples/stock-agent")
    })
}
