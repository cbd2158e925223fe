//! Distinguishes a stuck thread from a process that was paused as a whole.
//!
//! Thread: any that checks. Time is an argument.

use crate::time::MonoNs;

/// A thread that should turn once a second and did not for this long is stuck.
pub const STUCK_NS: u64 = 5_000_000_000;
/// Most time that counts between two checks: in a longer gap the checking thread did not run either, and a
/// thread must not be blamed for a time in which the whole process was paused.
const GAP_NS: u64 = 1_500_000_000;

/// Watches one thread, by repeated checks.
#[derive(Debug, Default)]
pub struct Vigil {
    /// The thread's last turn as of the last check.
    turned_at: MonoNs,
    looked_at: MonoNs,
    /// For how long the thread has not turned, as far as it was checked.
    quiet_ns: u64,
}

impl Vigil {
    /// Whether the thread is stuck, which last turned at `turned_at`. Call it once a second: less often
    /// delays the result.
    pub fn look(&mut self, turned_at: MonoNs, now: MonoNs) -> bool {
        let gap = now.since(self.looked_at).min(GAP_NS);
        self.quiet_ns = if turned_at == self.turned_at { self.quiet_ns.saturating_add(gap) } else { 0 };
        (self.turned_at, self.looked_at) = (turned_at, now);
        self.quiet_ns >= STUCK_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_thread_that_turns_is_never_stuck() {
        let mut vigil = Vigil::default();
        for second in 0..100 {
            let now = MonoNs(second * SECOND);
            assert!(!vigil.look(now - SECOND / 2, now), "{second}");
        }
    }

    #[test]
    fn a_thread_that_turns_no_more_is_stuck_after_five_seconds_until_it_turns() {
        let mut vigil = Vigil::default();
        let last = MonoNs(100 * SECOND);
        let stuck: Vec<bool> = (0..8).map(|second| vigil.look(last, last + second * SECOND)).collect();
        assert_eq!(stuck, [false, false, false, false, false, true, true, true]);
        let now = last + 9 * SECOND;
        assert!(!vigil.look(now, now), "it turned");
    }

    #[test]
    fn a_time_in_which_nobody_ran_is_nobodys_fault() {
        let mut vigil = Vigil::default();
        let last = MonoNs(100 * SECOND);
        assert!(!vigil.look(last, last));
        // Stopped for an hour, and checked before the thread could turn.
        let now = last + 3600 * SECOND;
        assert!(!vigil.look(last, now));
        assert!(!vigil.look(now, now + SECOND));
    }

    #[test]
    fn who_looks_seldom_finds_out_all_the_same() {
        let mut vigil = Vigil::default();
        let found = (0..10).find(|minute| vigil.look(MonoNs(7), MonoNs(minute * 60 * SECOND)));
        assert_eq!(found, Some(4));
    }
}
