//! What a thread may be: its priority and its core.

use std::io;

use core_affinity::CoreId;

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

/// Pins the calling thread. False if the kernel refused.
pub fn pin_to(core: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: core })
}
