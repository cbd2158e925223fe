//! Whether a threshold can work: one that is not above the usual period of an agent makes it stall again and again. Pure,
//! like all rules.
//!
//! Looked at are agents whose stall has ended, over some of their beats. A single long silence is no period, and neither is
//! one in a while: the threshold is too short if at least a quarter of the gaps were stalls, and the others together are
//! that long, too. Nothing is judged by it.

use crate::table::slot::{Cold, Hot};
use crate::time::MonoNs;

/// Gaps between beats after which the usual period of an agent is known.
const GAPS: u64 = 16;
/// At least one gap of so many was a stall.
const STALLED_PART: u64 = 4;

/// Some of the beats of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual {
    /// What the slot counted before them.
    beats: u64,
    lost: u64,
    stalls: u32,
    /// The last one before them.
    since: MonoNs,
    longest_ns: u64,
}

impl Usual {
    /// No beats so far, of an agent whose slot holds these halves.
    #[must_use]
    pub fn begin(hot: &Hot, cold: &Cold) -> Self {
        Self {
            beats: cold.beats(hot),
            lost: cold.beats_lost,
            stalls: cold.stalls,
            since: hot.last_arrival,
            longest_ns: 0,
        }
    }

    /// A stall has ended. Returns the usual period, if the threshold is not above it. When it is known whether that is so,
    /// the next beats are looked at.
    pub fn look(&mut self, hot: &Hot, cold: &Cold, threshold_ns: u64) -> Option<u64> {
        self.longest_ns = self.longest_ns.max(cold.resume_silent_ns);
        let gaps = cold.beats(hot).saturating_sub(self.beats);
        if gaps < GAPS {
            return None;
        }
        let stalls = u64::from(cold.stalls.wrapping_sub(self.stalls));
        // Beats that never came were sent: the period is that of the agent.
        let sent = gaps - 1 + cold.beats_lost.saturating_sub(self.lost);
        let span_ns = hot.last_arrival.since(self.since).saturating_sub(self.longest_ns);
        let period_ns = span_ns / sent;
        *self = Self::begin(hot, cold);
        (stalls * STALLED_PART >= gaps && period_ns >= threshold_ns).then_some(period_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::slot::Account;

    const T: u64 = 1000;

    /// The periods that are found of an agent with these gaps.
    fn found(gaps: impl IntoIterator<Item = u64>, lost: u64) -> Vec<u64> {
        let mut hot = Hot { account: Account::new(0, 1), ..Hot::default() };
        let mut cold = Cold::default();
        let mut usual = None;
        let mut found = Vec::new();
        for gap in gaps {
            hot.last_arrival = hot.last_arrival + gap;
            hot.account = hot.account.next();
            cold.beats_lost += lost;
            if gap > T {
                (cold.stalls, cold.resume_silent_ns) = (cold.stalls + 1, gap);
                let usual = usual.get_or_insert(Usual::begin(&hot, &cold));
                found.extend(usual.look(&hot, &cold, T));
            }
        }
        found
    }

    #[test]
    fn sixteen_gaps_that_are_longer_show_it() {
        assert_eq!(found([1500; 16], 0), [0; 0]);
        assert_eq!(found([1500; 17], 0), [1500]);
        assert_eq!(found([1500; 40], 0), [1500, 1500], "again, for whoever did not hear");
        assert_eq!(found([995, 1010].into_iter().cycle().take(40), 0), [1002, 1002], "half of them");
    }

    #[test]
    fn a_long_silence_now_and_then_is_no_period() {
        assert_eq!(found([100_000].into_iter().chain([10; 500]).chain([100_000, 2000]), 0), [0; 0]);
        assert_eq!(found([10, 10, 10, 10, 10, 10, 10, 50_000].into_iter().cycle().take(400), 0), [0; 0]);
        assert_eq!(found([900, 900, 900, 900, 1100].into_iter().cycle().take(100), 0), [0; 0]);
    }

    #[test]
    fn beats_that_were_lost_were_sent() {
        assert_eq!(found([1500; 100], 1), [0; 0]);
        assert_eq!(found([1500; 100], 0).len(), 6);
    }
}
