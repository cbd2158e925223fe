//! What the tests of the running observer share: an [`Observer`] in a temporary directory, and [`Agent`]s,
//! real processes that use the stock clients.
//!
//! Tests do not sleep for what they can observe: they read the events or poll for a result until a deadline.
//! Where a test needs time to pass, it calls [`Observer::watch`].

mod agent;
mod chance;
mod daemon;
mod event;
pub mod cgroup;
mod freezer;
mod memory_group;
pub mod history;
pub mod http;
mod injection;
mod keeper;
mod namespace;
mod observer;
pub mod packages;
pub mod prometheus;
mod rig;
mod table;
mod terminal;
mod victim;
pub mod wire;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use agent::{Agent, AgentOptions, Client, python, rust_program};
pub use cgroup::Cgroup;
pub use chance::Chance;
pub use daemon::Daemon;
pub use event::Event;
pub use freezer::Freezer;
pub use injection::Injection;
pub use keeper::Keeper;
pub use memory_group::MemoryGroup;
pub use namespace::{PidNamespace, in_pid_namespace};
pub use observer::{ACTS, Ended, Log, Observer, Options, Place, needs_root};
pub use rig::Rig;
pub use table::Table;
pub use terminal::Terminal;
pub use victim::{Live, State, Victim, judge_all, live, setting};

/// The threshold of most tests: far above the scheduling delays of a busy machine with two cores for a
/// process that beats [every 100 ms](PERIOD), and short enough to wait for.
pub const T: Duration = Duration::from_secs(1);
/// The period of an agent's beats, unless a test sets another.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Time limit for what should take milliseconds, on a machine that is busy with other tests. A test that
/// waits this long fails.
pub const SOON: Duration = Duration::from_secs(30);

/// The path of the built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_varta-fleet");

/// A command of the built program. It reads no configuration of this machine.
pub fn program() -> Command {
    program_by(PROGRAM)
}

/// A command that runs the built program, such as `strace`.
pub fn program_by(command: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(command);
    command.env("VARTA_CONFIG", "/dev/null");
    command
}

/// Copies a program, for users who cannot reach the original, or to have another executable.
///
/// A process of its own writes the copy: a test on another thread may fork while the copy is open for
/// writing, and execve(2) then fails with ETXTBSY.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").args([from, to]).status().expect("run cp");
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

pub fn signal(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(raw, signal).unwrap_or_else(|error| panic!("cannot signal {pid}: {error}"));
}

/// Polls until `found` returns something, for at most [`SOON`].
///
/// # Panics
/// If it returns nothing until then.
pub fn wait_for<R>(what: &str, mut found: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `CLOCK_MONOTONIC`, the clock of `mono_ns`.
pub fn mono_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("the clock began at boot")
}

/// Nanoseconds, as in events.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than centuries")
}
