//! Limits how many agents that come and go are reported one by one: a token bucket for each user, so that a
//! fork loop fills neither log nor queues. A `churn` event a second counts the rest of each user.
//!
//! Time is an argument.

use std::collections::BTreeMap;

use super::limit::SECOND_NS;
use crate::event::EventKind;
use crate::time::MonoNs;

/// Smallest capacity of a bucket.
const AT_ONCE_MIN: u32 = 65_536;
/// Time per token: twenty a second. The exit of a reported agent takes none.
const ONE_MORE_NS: u64 = 50_000_000;
/// Users with a bucket of their own; all others share one.
const USERS_MAX: usize = 1024;
/// An agent this old no longer counts as coming and going: it is reported singly. Agents that live this long
/// cannot be many a second, because all of them are in the table at once.
pub const SETTLED_NS: u64 = 60 * SECOND_NS;

/// Events of a user's agents that were counted instead of reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ups: u32,
    pub exits: u32,
    pub terminals: u32,
    pub changes: u32,
}

#[derive(Debug, Default)]
struct Bucket {
    /// When it is full again.
    full_at: MonoNs,
    /// What to report, and since when.
    counts: Counts,
    since: MonoNs,
}

/// The buckets of all users.
#[derive(Debug)]
pub struct Churns {
    /// By user id; `None`: the shared one.
    of: BTreeMap<Option<u32>, Bucket>,
    at_once: u32,
    report_at: Option<MonoNs>,
}

impl Churns {
    /// Buckets for a fleet of at most `agents_max` agents, all of which may start at once.
    pub fn new(agents_max: u32) -> Self {
        Self { of: BTreeMap::new(), at_once: agents_max.max(AT_ONCE_MIN), report_at: None }
    }

    /// Takes a token of this user, if one is left.
    pub fn take(&mut self, uid: u32, now: MonoNs) -> bool {
        let most = u64::from(self.at_once) * ONE_MORE_NS;
        let bucket = self.bucket(uid, now);
        let full_then = bucket.full_at.max(now) + ONE_MORE_NS;
        let is_left = full_then.since(now) <= most;
        if is_left {
            bucket.full_at = full_then;
        }
        is_left
    }

    /// Counts an event that is not reported.
    pub fn count(&mut self, uid: u32, now: MonoNs, kind: &EventKind) {
        self.report_at = self.report_at.or(Some(now + SECOND_NS));
        let bucket = self.bucket(uid, now);
        if bucket.counts == Counts::default() {
            bucket.since = now;
        }
        let counts = &mut bucket.counts;
        let (count, more) = match *kind {
            EventKind::Up => (&mut counts.ups, 1),
            EventKind::Exit { .. } => (&mut counts.exits, 1),
            EventKind::Terminal { coalesced } => (&mut counts.terminals, coalesced),
            EventKind::Status { coalesced } | EventKind::Session { coalesced, .. } => {
                (&mut counts.changes, coalesced)
            }
            _ => (&mut counts.changes, 1),
        };
        *count = count.saturating_add(more);
    }

    /// When to report the counts.
    pub const fn next(&self) -> Option<MonoNs> {
        self.report_at
    }

    /// The counts of each user, if they are due or `is_last`.
    pub fn report(&mut self, now: MonoNs, is_last: bool) -> Vec<EventKind> {
        if self.report_at.is_none_or(|at| at > now && !is_last) {
            return Vec::new();
        }
        self.report_at = None;
        let buckets = self.of.iter_mut().filter(|(_, bucket)| bucket.counts != Counts::default());
        let reported = buckets.map(|(uid, bucket)| {
            let Counts { ups, exits, terminals, changes } = std::mem::take(&mut bucket.counts);
            EventKind::Churn { uid: *uid, ups, exits, terminals, changes, for_ns: now.since(bucket.since) }
        });
        reported.collect()
    }

    fn bucket(&mut self, uid: u32, now: MonoNs) -> &mut Bucket {
        let mut key = Some(uid);
        if !self.of.contains_key(&key) && self.of.len() >= USERS_MAX {
            self.of.retain(|_, bucket| bucket.full_at > now || bucket.counts != Counts::default());
            key = key.filter(|_| self.of.len() < USERS_MAX);
        }
        self.of.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::samples::EXIT;

    impl Churns {
        /// For tests: the capacity of a bucket.
        pub const fn limit(&mut self, at_once: u32) {
            self.at_once = at_once;
        }
    }

    const START: MonoNs = MonoNs(1_000 * SECOND_NS);

    #[test]
    fn so_many_at_once_and_then_twenty_a_second_of_each_user() {
        const AT_ONCE: u64 = 100_000;
        let mut churns = Churns::new(100_000);
        let mut taken = |uid, now| (0..110_000).filter(|_| churns.take(uid, now)).count() as u64;
        assert_eq!((taken(7, START), taken(8, START)), (AT_ONCE, AT_ONCE));
        assert_eq!(taken(7, START + SECOND_NS), 20);
        assert_eq!(taken(7, START + 2 * SECOND_NS - 1), 19);
        assert_eq!(taken(7, START + AT_ONCE * ONE_MORE_NS + 2 * SECOND_NS), AT_ONCE);
    }

    #[test]
    fn the_numbers_of_each_user_come_once_a_second() {
        let mut churns = Churns::new(10);
        assert_eq!((churns.next(), churns.report(START, true)), (None, Vec::new()));
        churns.count(7, START, &EventKind::Up);
        churns.count(9, START, &EventKind::Terminal { coalesced: 3 });
        churns.count(7, START + 10, &EXIT);
        churns.count(7, START + 10, &EventKind::Status { coalesced: 2 });
        churns.count(7, START + 10, &EventKind::Mixed);
        assert_eq!(churns.next(), Some(START + SECOND_NS));
        assert_eq!(churns.report(START + SECOND_NS - 1, false), Vec::new());
        let churn = |uid, ups, exits, terminals, changes| EventKind::Churn {
            uid: Some(uid),
            ups,
            exits,
            terminals,
            changes,
            for_ns: SECOND_NS,
        };
        assert_eq!(churns.report(START + SECOND_NS, false), [churn(7, 1, 1, 0, 3), churn(9, 0, 0, 3, 0)]);
        assert_eq!((churns.next(), churns.report(START + SECOND_NS, true)), (None, Vec::new()));
    }

    #[test]
    fn users_without_number_take_no_memory() {
        let mut churns = Churns::new(10);
        churns.limit(1);
        for uid in 0..10_000 {
            // The first agent of each user is reported, except of those who share a bucket.
            let is_own = uid < 1024;
            assert_eq!(churns.take(uid, START), is_own || uid == 1024, "{uid}");
            assert!(churns.of.len() <= USERS_MAX + 1);
        }
        churns.count(9_999, START, &EventKind::Up);
        let [EventKind::Churn { uid: None, ups: 1, .. }] = churns.report(START, true)[..] else {
            panic!("it has no bucket of its own");
        };
        assert!(churns.take(20_000, START + SECOND_NS), "by then the buckets are full");
        assert!(churns.of.len() < 10, "{}", churns.of.len());
    }
}
