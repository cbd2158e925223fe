//! Who is next: the users take turns, and within a user the oldest is first.

use std::collections::{BTreeMap, VecDeque};

/// Cases that are due, by user.
#[derive(Debug, Default)]
pub struct Queue {
    /// Without empty ones.
    by_uid: BTreeMap<u32, VecDeque<u64>>,
    /// The user that had the last turn.
    last: u32,
    len: usize,
}

impl Queue {
    /// Appends a case.
    pub fn push(&mut self, uid: u32, case: u64) {
        self.by_uid.entry(uid).or_default().push_back(case);
        self.len += 1;
    }

    /// Puts a case back that was taken.
    pub fn push_front(&mut self, uid: u32, case: u64) {
        self.by_uid.entry(uid).or_default().push_front(case);
        self.len += 1;
        self.last = uid.wrapping_sub(1);
    }

    /// Removes a case, wherever it is.
    pub fn remove(&mut self, uid: u32, case: u64) {
        let Some(cases) = self.by_uid.get_mut(&uid) else { return };
        let before = cases.len();
        cases.retain(|other| *other != case);
        self.len -= before - cases.len();
        if cases.is_empty() {
            self.by_uid.remove(&uid);
        }
    }

    /// Removes and returns the case that is next among those of free users that may start, and gives the next user its
    /// turn.
    pub fn take(
        &mut self,
        is_user_free: impl Fn(u32) -> bool,
        mut may_start: impl FnMut(u64) -> bool,
    ) -> Option<u64> {
        let after = self.by_uid.range(self.last.saturating_add(1)..).map(|(uid, _)| *uid);
        let turns: Vec<u32> = after.chain(self.by_uid.range(..=self.last).map(|(uid, _)| *uid)).collect();
        for uid in turns.into_iter().filter(|uid| is_user_free(*uid)) {
            let next =
                self.by_uid.get(&uid).and_then(|cases| cases.iter().copied().find(|case| may_start(*case)));
            if let Some(case) = next {
                self.remove(uid, case);
                self.last = uid;
                return Some(case);
            }
        }
        None
    }

    /// Number of cases.
    pub const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns_and_the_oldest_of_each_is_first() {
        let mut queue = Queue::default();
        for (uid, case) in [(1000, 1), (1000, 2), (1000, 3), (7, 4), (u32::MAX, 5), (7, 6)] {
            queue.push(uid, case);
        }
        queue.remove(1000, 2);
        queue.remove(8, 1);
        assert_eq!(queue.len(), 5);
        let taken: Vec<u64> = std::iter::from_fn(|| queue.take(|_| true, |_| true)).collect();
        assert_eq!(taken, [4, 1, 5, 6, 3]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_may_not_start_holds_up_nobody() {
        let mut queue = Queue::default();
        [(1, 1), (1, 2), (2, 3)].into_iter().for_each(|(uid, case)| queue.push(uid, case));
        assert_eq!(queue.take(|_| true, |case| case != 1), Some(2));
        assert_eq!(queue.take(|_| true, |case| case != 3), Some(1));
        assert_eq!((queue.take(|_| true, |_| false), queue.len()), (None, 1));
        assert_eq!(queue.take(|uid| uid != 2, |_| true), None, "its user is not free");
    }
}
