//! What a process was started with, as far as it concerns an observer: the threshold that the protocol of sd_notify(3)
//! puts into its environment.

use std::fs::File;
use std::io::Read;

/// So much of an environment is read, bytes: a longer one is possible, but not made by hand.
const BYTES_MAX: u64 = 1 << 20;
const MICROSECOND_NS: u64 = 1_000;

/// The threshold that the process with this pid was started with, ns. `inner_pids`: its pids in its own pid namespaces.
/// `None`: none, or one that is meant for another process, or its environment cannot be read. Three system calls.
pub fn watchdog_of(pid: u32, inner_pids: &[u32]) -> Option<u64> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    watchdog_in(&bytes, |meant| meant == pid || inner_pids.contains(&meant))
}

/// The threshold in an environment, ns, if `WATCHDOG_PID` is absent or names this process. As sd_watchdog_enabled(3)
/// has it, but for 0, which is none.
fn watchdog_in(environment: &[u8], is_this: impl Fn(u32) -> bool) -> Option<u64> {
    let value = |name: &str| -> Option<&str> {
        let of_name =
            |entry: &&[u8]| entry.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
        let entry = environment.split(|byte| *byte == 0).find(of_name)?;
        std::str::from_utf8(&entry[name.len() + 1..]).ok()
    };
    let us: u64 = value("WATCHDOG_USEC")?.parse().ok().filter(|us| *us > 0)?;
    let is_meant = match value("WATCHDOG_PID") {
        Some(pid) => pid.parse().is_ok_and(is_this),
        None => true,
    };
    is_meant.then(|| us.saturating_mul(MICROSECOND_NS))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_threshold_is_that_of_the_process_it_names() {
        let of = |text: &str| watchdog_in(text.replace('|', "\0").as_bytes(), |pid| pid == 7);
        assert_eq!(of("A=1|WATCHDOG_USEC=30000000|WATCHDOG_PID=7|"), Some(30_000_000_000));
        assert_eq!(of("WATCHDOG_USEC=30000000"), Some(30_000_000_000));
        assert_eq!(of("WATCHDOG_USEC=18446744073709551615"), Some(u64::MAX));
        for other in [
            "",
            "A=1|B=2",
            "WATCHDOG_USEC=30000000|WATCHDOG_PID=8",
            "WATCHDOG_USEC=30000000|WATCHDOG_PID=",
            "WATCHDOG_USEC=0",
            "WATCHDOG_USEC=",
            "WATCHDOG_USEC=30s",
            "WATCHDOG_USEC=-1",
            "WATCHDOG_USECS=30000000",
            "XWATCHDOG_USEC=30000000",
            "WATCHDOG_USEC",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn it_is_read_from_a_process() {
        let started = |pid: &str| {
            let mut command = Command::new("sleep");
            command.arg("60").env_clear().env("WATCHDOG_USEC", "5000000").env("PATH", "/usr/bin:/bin");
            if !pid.is_empty() {
                command.env("WATCHDOG_PID", pid);
            }
            command.spawn().expect("sleep")
        };
        for (meant, expected) in [("", Some(5_000_000_000)), ("1", None)] {
            let mut child = started(meant);
            assert_eq!(watchdog_of(child.id(), &[]), expected);
            child.kill().expect("it runs");
            child.wait().expect("it ended");
        }
        assert_eq!(watchdog_of(0, &[]), None);
    }
}
