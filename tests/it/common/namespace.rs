//! Tests that choose pids: each runs itself again in a new pid namespace, where no other test runs.

use std::process::Command;
use std::{any, env, fs};

use super::agent::rust_program;
use super::{Agent, needs_root, wait_for};

/// Environment variable with the name of the test that runs in the namespace.
const INSIDE: &str = "VARTA_TEST_INSIDE";

/// Proof of running in a pid namespace of its own, where the test may choose pids.
#[derive(Debug)]
pub struct PidNamespace(());

impl PidNamespace {
    /// Starts an agent with this pid, which no process may have any more.
    pub fn start_as(&self, pid: u32, start: impl Fn() -> Agent) -> Agent {
        self.choose(pid, || Some(start()).filter(|agent| agent.pid() == pid))
    }

    /// Repeats until the started process has this pid: another process may take it first.
    pub fn choose<R>(&self, pid: u32, mut start: impl FnMut() -> Option<R>) -> R {
        wait_for("the pid to be used again", || {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("choose the next pid");
            start()
        })
    }
}

/// Runs the body of the calling test in a new pid namespace with its own /proc, where this program is the
/// first process.
///
/// # Panics
/// If it fails there; the message has its output.
pub fn in_pid_namespace<F: FnOnce(&PidNamespace)>(body: F) {
    // `program::module::test::{{closure}}`
    let path = any::type_name::<F>().strip_suffix("::{{closure}}").expect("a closure has a path");
    let (_, name) = path.split_once("::").expect("a test is in a program");
    if env::var(INSIDE).as_deref() == Ok(name) {
        return body(&PidNamespace(()));
    }
    needs_root("it chooses the pids of processes, in a pid namespace of its own");
    // Build it here, so that only the test starts processes in the namespace.
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
