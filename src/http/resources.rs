//! Resources used by this process, under the usual names of process metrics.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Data of the kernel on this process; `None` where it has none. Four system calls, whatever the number of
/// descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU time of all threads in user and system mode, s.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Address space.
    pub virtual_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors; Linux reports their number since 6.2.
    pub open_fds: Option<u64>,
    /// The limit of open descriptors; `None` if there is none.
    pub max_fds: Option<u64>,
}

impl Resources {
    /// As of now.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            // Older kernels report 0, and at least our sockets are open.
            open_fds: rustix::fs::stat("/proc/self/fd")
                .ok()
                .and_then(|stat| u64::try_from(stat.st_size).ok())
                .filter(|count| *count > 0),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Self::of_stat(&stat, clock_ticks_per_second(), page_size() as u64)
        }
    }

    /// The fields of proc_pid_stat(5). The name in it may contain any character, including spaces and
    /// parentheses.
    fn of_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Self {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // Field 3 of the manual, the state, comes first here.
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
        #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are three million years")]
        let cpu_seconds = ticks.map(|ticks| ticks as f64 / ticks_per_second as f64);
        Self {
            cpu_seconds,
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_bytes),
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
        assert_eq!((read.cpu_seconds, read.threads), (Some(2.0), Some(9)));
        assert_eq!((read.virtual_bytes, read.resident_bytes), (Some(4_096_000), Some(300 * 4096)));
        assert_eq!(Resources::of_stat("", 100, 4096), Resources::default());
    }

    #[test]
    fn this_process_has_threads_memory_and_descriptors() {
        let now = Resources::now();
        assert!(
            now.threads >= Some(1) && now.resident_bytes > Some(0) && now.virtual_bytes >= now.resident_bytes
        );
        assert!(now.open_fds.is_none_or(|open| open > 0 && now.max_fds.is_none_or(|max| max >= open)));
    }
}
