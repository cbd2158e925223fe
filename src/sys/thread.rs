//! Scheduling of a thread: its priority and its core. Joining with a deadline.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

/// How often to check whether a thread has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Sets the nice value of the calling thread only (Linux keeps one per thread, setpriority(2)).
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_NICE or a high enough RLIMIT_NICE.
pub fn set_own_nice(nice: i32) -> io::Result<()> {
    rustix::process::setpriority_process(None, nice).map_err(io::Error::from)
}

/// The cores this process may use, in order.
pub fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread. False if it may not use that core, or the kernel refused.
///
/// sched_setaffinity(2) checks only the cpuset: without this check, a thread could leave the cores to which
/// `taskset` or the unit's `CPUAffinity=` restricts it.
pub fn pin_to(core: usize) -> bool {
    allowed_cores().contains(&core) && core_affinity::set_for_current(CoreId { id: core })
}

/// Returns the thread's result. `None` if it panicked or did not end by `until`; it is then left running.
pub fn join_until<T>(thread: JoinHandle<T>, until: Instant) -> Option<T> {
    while !thread.is_finished() {
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(LOOK_AGAIN);
    }
    thread.join().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_does_not_leave_the_cores_it_was_given() {
        let cores = allowed_cores();
        let (first, last) = (cores[0], cores[cores.len() - 1]);
        thread::spawn(move || {
            assert!(pin_to(first));
            assert_eq!(allowed_cores(), [first]);
            assert_eq!(pin_to(last), first == last);
            assert!(!pin_to(usize::MAX));
            assert_eq!(allowed_cores(), [first]);
        })
        .join()
        .unwrap();
    }
}
