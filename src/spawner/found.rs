//! What a file of evidence says about a process.

use serde::{Deserialize, Serialize};

use crate::time::WallNs;

/// Why a process did not beat, as far as the kernel knows.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is gone.
    Gone,
    /// A control group of it is frozen.
    Frozen,
    /// A tracer, such as a debugger, holds it.
    Traced,
    /// It was stopped by a signal.
    Stopped,
    /// It has used up the CPU quota of a control group.
    Throttled,
    /// It uses CPU time, or wants to.
    Spinning,
    /// It waits in a system call that nothing interrupts.
    Uninterruptible,
    /// It waits.
    #[default]
    Sleeping,
}

/// What is found about a process before something is done to it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Evidence {
    /// Its process id.
    pub pid: u32,
    /// When it was looked at.
    pub wall: WallNs,
    /// Why it did not beat.
    pub verdict: Verdict,
    /// How long the search took, ns.
    pub took_ns: u64,
    /// CPU time of the whole process at the first look, ns.
    pub cpu_ns: Option<u64>,
    /// How much more it had used at the second, ns.
    pub cpu_used_ns: Option<u64>,
    /// From the first look to the second, ns.
    pub between_ns: u64,
    /// Its threads, the main one first; at most 64.
    pub threads: Vec<Thread>,
    /// How many there are.
    pub threads_all: usize,
    /// Lines of `/proc/PID/status`.
    pub memory: Vec<String>,
    /// Files about its control groups, and the pressure on the host.
    pub files: Vec<Text>,
}

/// One thread.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// As in `/proc/PID/stat`, at the first look.
    pub state: char,
    /// The same at the second; `None`: it was gone.
    pub state_later: Option<char>,
    /// The function of the kernel that it waits in.
    pub wait_channel: Option<String>,
    /// CPU time it had used, ns.
    pub cpu_ns: Option<u64>,
    /// What it used from the first look to the second, ns.
    pub cpu_used_ns: Option<u64>,
}

/// The beginning of a file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Text {
    /// Its path.
    pub path: String,
    /// At most 1 KiB of it.
    pub text: String,
}
