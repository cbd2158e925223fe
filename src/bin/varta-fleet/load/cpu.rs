//! What CPU time a process took, by the scheduler's own accounting of its threads.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A process to measure.
#[derive(Debug)]
pub struct Cpu {
    tasks: PathBuf,
}

impl Cpu {
    /// Of this process.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked into.
    pub fn of(pid: u32) -> io::Result<Self> {
        let cpu = Self { tasks: PathBuf::from(format!("/proc/{pid}/task")) };
        cpu.used_ns().map(|_| cpu)
    }

    /// Time that its present threads ran, ns, since each began.
    ///
    /// # Errors
    /// It is gone.
    pub fn used_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(&self.tasks)? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            sum += text.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}
