//! What a thread may be: its priority and its core.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

/// How often it is looked whether a thread has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Sets the nice value of the calling thread alone (Linux keeps one per thread, setpriority(2)).
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_NICE or a high enough RLIMIT_NICE.
pub fn set_own_nice(nice: i32) -> io::Result<()> {
    rustix::process::setpriority_process(None, nice).map_err(io::Error::from)
}

/// The cores that this process may use, in order.
pub fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread. False if it may not use that core, or the kernel refused.
///
/// The kernel holds sched_setaffinity(2) only against the cpuset: without asking first, a thread could
/// leave the cores that `taskset` or the unit's `CPUAffinity=` left it.
pub fn pin_to(core: usize) -> bool {
    allowed_cores().contains(&core) && core_affinity::set_for_current(CoreId { id: core })
}

/// What the thread returns if it ends in order. One that does not end in time is left to itself.
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
