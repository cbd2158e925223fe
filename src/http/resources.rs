//! What this process takes from the host, as metrics of processes are commonly called.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What the kernel says of this process. Four system calls, whatever the number of descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU time of all threads in user and system mode, s.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors; 0 before Linux 6.2, which does not count them for us.
    pub open_fds: u64,
    /// Most of them that this process may have.
    pub max_fds: u64,
}

impl Resources {
    /// As of now; what cannot be read is 0.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            open_fds: rustix::fs::stat("/proc/self/fd")
                .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0)),
            max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            ..Self::of_stat(&stat, clock_ticks_per_second(), page_size() as u64)
        }
    }

    /// What proc_pid_stat(5) holds; the name in it may contain anything, also spaces and parentheses.
    fn of_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Self {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // Field 3 of the manual, the state, is the first here.
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        let ticks = field(14).unwrap_or(0) + field(15).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are three million years")]
        let cpu_seconds = ticks as f64 / ticks_per_second as f64;
        Self {
            cpu_seconds,
            threads: field(20).unwrap_or(0),
            virtual_bytes: field(23).unwrap_or(0),
            resident_bytes: field(24).unwrap_or(0) * page_bytes,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line =
            "7 (a) b (c) R 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 5 4096000 300 18446744073709551615";
        let read = Resources::of_stat(line, 100, 4096);
        assert_eq!((read.cpu_seconds, read.threads), (2.0, 9));
        assert_eq!((read.virtual_bytes, read.resident_bytes), (4_096_000, 300 * 4096));
        assert_eq!(Resources::of_stat("", 100, 4096), Resources::default());
    }

    #[test]
    fn this_process_has_threads_memory_and_descriptors() {
        let now = Resources::now();
        assert!(now.threads >= 1 && now.resident_bytes > 0 && now.virtual_bytes >= now.resident_bytes);
        assert!(now.max_fds >= now.open_fds);
    }
}
