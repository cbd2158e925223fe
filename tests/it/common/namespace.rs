//! Tests that need pids to themselves: they run once more, alone, in a pid namespace of their own.

use std::process::Command;
use std::{any, env, fs};

use super::agent::rust_program;
use super::{Agent, needs_root, wait_for};

/// Set inside: the test that runs there.
const INSIDE: &str = "VARTA_TEST_INSIDE";

/// Proof of being in a pid namespace of one's own, where pids may be chosen.
#[derive(Debug)]
pub struct PidNamespace(());

impl PidNamespace {
    /// Starts an agent that gets this pid, which nobody may have any more.
    pub fn start_as(&self, pid: u32, start: impl Fn() -> Agent) -> Agent {
        self.choose(pid, || Some(start()).filter(|agent| agent.pid() == pid))
    }

    /// Repeats until what was started has this pid: somebody else may be faster.
    pub fn choose<R>(&self, pid: u32, mut start: impl FnMut() -> Option<R>) -> R {
        wait_for("the pid to be used again", || {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("choose the next pid");
            start()
        })
    }
}

/// Runs the body of the calling test in a new pid namespace with a /proc of its own, where this program is
/// the first process.
///
/// # Panics
/// If it fails there, with what it printed.
pub fn in_pid_namespace<F: FnOnce(&PidNamespace)>(body: F) {
    // `program::test::{{closure}}`
    let name = any::type_name::<F>().split("::").nth(1).expect("a closure has a path");
    if env::var(INSIDE).as_deref() == Ok(name) {
        return body(&PidNamespace(()));
    }
    needs_root("it chooses the pids of processes, in a pid namespace of its own");
    // So that inside nobody but the test starts processes.
    rust_program();
    let output = Command::new("unshare")
        .args(["--pid", "--mount", "--mount-proc", "--fork", "--kill-child"])
        .arg(env::current_exe().expect("a test has a path"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, name)
        .output()
        .expect("unshare is there: it is in util-linux");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(is_passed, "in a pid namespace: {}\n{stdout}\n{stderr}", output.status);
}
