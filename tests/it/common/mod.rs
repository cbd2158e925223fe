//! What the tests of the running observer share: an [`Observer`] in a directory of its own, and [`Agent`]s,
//! real processes on the stock clients.
//!
//! Nobody sleeps for what can be seen: waiting is looking at the events, or for an answer, until a deadline.
//! Where time itself is what is tested, it is spent by [`Observer::watch`], and says so.

mod agent;
mod chance;
mod event;
mod freezer;
pub mod http;
mod namespace;
mod observer;
mod table;
pub mod wire;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use agent::{Agent, AgentOptions, Client, python, rust_program};
pub use chance::Chance;
pub use event::Event;
pub use freezer::Freezer;
pub use namespace::{PidNamespace, in_pid_namespace};
pub use observer::{Ended, Observer, Options, Place, needs_root};
pub use table::Table;

/// The threshold of most tests. Far above what a busy machine of two cores does to a process that beats
/// [every 100 ms](PERIOD), and short enough to wait for.
pub const T: Duration = Duration::from_secs(1);
/// From one beat of an agent to the next, unless a test says otherwise.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Slack for everything that is promised within milliseconds, on a machine that does many other things.
/// A test that waits this long in vain fails.
pub const SOON: Duration = Duration::from_secs(30);

/// Copies a program, for those who may not reach the original, or to have another one.
///
/// By another process: one that a neighbouring test forks meanwhile would hold our copy open for writing,
/// and nobody could execute it.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").args([from, to]).status().expect("run cp");
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// Signals a process.
pub fn signal(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(raw, signal).unwrap_or_else(|error| panic!("cannot signal {pid}: {error}"));
}

/// Looks until `found` finds something, at most [`SOON`].
///
/// # Panics
/// When it did not.
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

/// Nanoseconds, as events tell them.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than centuries")
}
