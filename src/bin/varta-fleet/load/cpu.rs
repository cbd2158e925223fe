//! CPU time of a process, from the scheduler's accounting of its threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// ns by the name of a thread.
pub type ByThread = BTreeMap<String, u64>;

/// A process to measure.
#[derive(Debug)]
pub struct Cpu {
    tasks: PathBuf,
}

impl Cpu {
    /// Measures the process `pid`.
    ///
    /// # Errors
    /// There is no such process, or it may not be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let cpu = Self { tasks: PathBuf::from(format!("/proc/{pid}/task")) };
        cpu.used_ns().map(|_| cpu)
    }

    /// Run time of the present threads since each began, ns, by thread name.
    ///
    /// # Errors
    /// The process has exited.
    pub fn used_ns(&self) -> io::Result<ByThread> {
        let mut used = ByThread::new();
        for task in fs::read_dir(&self.tasks)? {
            let task = task?.path();
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
            let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
            let ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
            *used.entry(name.trim_end().to_owned()).or_default() += ns.unwrap_or(0);
        }
        Ok(used)
    }
}
