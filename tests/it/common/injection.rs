//! System calls of one thread of the observer that fail or take long.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Observer, needs_root, wait_for};

/// Changes calls of one of the observer's threads, until dropped.
#[derive(Debug)]
pub struct Injection {
    strace: Child,
    log: PathBuf,
}

impl Injection {
    /// `strace` attaches. `how`: what follows `inject=` on its command line.
    ///
    /// # Panics
    /// Without `strace`, or if the user is not root: a test that cannot run must not pass.
    pub fn begin(observer: &Observer, thread: &str, how: &str) -> Self {
        needs_root("it attaches to a running process");
        let task = thread_of(observer, thread);
        let log = observer.place().base().join("strace");
        let child = Command::new("strace")
            .args(["-qq", "-p", &task.to_string(), "-e", &format!("inject={how}"), "-o"])
            .arg(&log)
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(strace) => Self { strace, log },
            Err(error) => panic!("cannot run strace: {error}; `scripts/check --setup` installs it"),
        }
    }

    /// As [`begin`](Self::begin), and waits until `strace` has the thread.
    pub fn attached(observer: &Observer, thread: &str, how: &str) -> Self {
        let injection = Self::begin(observer, thread, how);
        let status = format!("/proc/{}/status", thread_of(observer, thread));
        wait_for("strace", || {
            let status = fs::read_to_string(&status).expect("the thread lives");
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            (tracer.expect("a line").trim() != "0").then_some(())
        });
        injection
    }

    /// As [`begin`](Self::begin), and waits until a call has failed.
    pub fn into_thread(observer: &Observer, thread: &str, how: &str) -> Self {
        let injection = Self::begin(observer, thread, how);
        wait_for("a call that failed", || {
            let text = fs::read_to_string(&injection.log).unwrap_or_default();
            text.contains("(INJECTED)").then_some(())
        });
        injection
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // SIGTERM makes strace detach; SIGKILL would leave the thread stopped.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

fn thread_of(observer: &Observer, name: &str) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", observer.pid())).expect("list its threads");
    let found = tasks
        .flatten()
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    let task = found.unwrap_or_else(|| panic!("it has no thread {name}"));
    task.file_name().to_str().and_then(|number| number.parse().ok()).expect("a thread's number")
}
