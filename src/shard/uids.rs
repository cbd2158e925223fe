//! Counts what each user costs this shard, in a bounded table, and limits the frames of each user by a
//! budget.
//!
//! In: the attested user and the arrival of every datagram. Out: its row, and whether it is over the budget.
//! Thread: shard. Blocks, locks: never. Allocates: at start only. Time is an argument.
//!
//! 64 users have a row of their own; all others share one row and its budget. A row is reassigned only when
//! that has no visible effect: no agent of its user is tracked, and no datagram arrived for as long as an
//! empty budget takes to fill.

use std::sync::Arc;

use crate::lane::uids::{OTHER, ROWS, UidTable};
use crate::refusal::Refusal;
use crate::time::MonoNs;

/// The time in which an empty budget fills; the frames of this time may be sent at once.
const BURST_NS: u64 = 1_000_000_000;
/// Budget units per datagram. Each nanosecond adds one unit for each frame a second.
const FRAME_COST: u64 = 1_000_000_000;
/// Size of the cache from the low bits of a user id to its row, a power of two.
const HINTS: usize = 256;
/// No user has this id: chown(2) uses it for "no change".
const NO_UID: u32 = u32::MAX;

/// Where a datagram was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its user's row.
    pub row: u8,
    /// The budget was already spent.
    pub is_over_budget: bool,
}

/// The writing half of a [`UidTable`].
#[derive(Debug)]
pub struct UidAccounts {
    table: Arc<UidTable>,
    /// The user of each row, [`NO_UID`] for unused ones.
    uids: [u32; ROWS],
    /// User and row of the last datagram; the next one usually has the same.
    last: (u32, u8),
    hints: [u8; HINTS],
    /// Arrival of the last datagram of each row.
    seen: [MonoNs; ROWS + 1],
    /// What is left of each row's budget, as of its last datagram.
    left: [u64; ROWS + 1],
    /// Frames a second; 0 = no budget.
    frames_max: u64,
    /// No row comes free before this, unless an agent goes.
    no_row_before: MonoNs,
}

/// No budget, and counts that are not read.
impl Default for UidAccounts {
    fn default() -> Self {
        Self::new(Arc::default(), None)
    }
}

impl UidAccounts {
    /// Counts in this table. Each user may send `frames_max` datagrams a second, and as many at once; `None`:
    /// no limit.
    pub fn new(table: Arc<UidTable>, frames_max: Option<u32>) -> Self {
        let frames_max = u64::from(frames_max.unwrap_or(0));
        Self {
            table,
            uids: [NO_UID; ROWS],
            last: (NO_UID, other()),
            hints: [0; HINTS],
            seen: [MonoNs(0); ROWS + 1],
            left: [frames_max * FRAME_COST; ROWS + 1],
            frames_max,
            no_row_before: MonoNs(0),
        }
    }

    /// Each user may send `frames_max` datagrams a second from now on, and has a full budget. `None`: no limit.
    pub fn set_frames_max(&mut self, frames_max: Option<u32>) {
        let frames_max = u64::from(frames_max.unwrap_or(0));
        if frames_max != self.frames_max {
            self.frames_max = frames_max;
            self.left = [frames_max * FRAME_COST; ROWS + 1];
        }
    }

    /// Whether readers of this table see its counts.
    pub fn counts_in(&self, table: &Arc<UidTable>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// Rebuilds from the table after a panic left everything else in doubt. The caller counts the agents of
    /// each user again.
    pub fn recover(&mut self) {
        self.table.repair();
        self.uids = [NO_UID; ROWS];
        for (place, uid) in self.uids.iter_mut().zip(self.table.uids()) {
            *place = uid;
        }
        self.last = (NO_UID, other());
        self.no_row_before = MonoNs(0);
        for row in 0..=OTHER {
            self.table.row(row).agents.set(0);
        }
    }

    /// Counts a datagram of `uid` (`None`: the kernel does not attest a user) that arrived at `arrival`, and
    /// takes it from its user's budget.
    #[inline]
    pub fn on_datagram(&mut self, uid: Option<u32>, arrival: MonoNs) -> Account {
        let uid = uid.unwrap_or(NO_UID);
        let row = if uid == self.last.0 { self.last.1 } else { self.find(uid, arrival) };
        let at = usize::from(row);
        self.table.row(at).frames.add(1);
        let is_over_budget = self.frames_max != 0 && uid != NO_UID && !self.spend(at, arrival);
        self.seen[at] = self.seen[at].max(arrival);
        Account { row, is_over_budget }
    }

    /// The datagram was refused.
    #[cold]
    pub fn on_refused(&self, account: Account, refusal: Refusal) {
        let row = self.table.row(usize::from(account.row));
        row.refused.add(1);
        if refusal == Refusal::Budget {
            row.over_budget.add(1);
        }
    }

    /// Counts an agent of `uid` that was admitted at `now`; returns the row, for [`UidAccounts::on_left`].
    pub fn on_admitted(&mut self, uid: u32, now: MonoNs) -> u8 {
        let row = self.find(uid, now);
        self.table.row(usize::from(row)).agents.add(1);
        row
    }

    /// An agent counted in this row is gone.
    pub fn on_left(&mut self, row: u8) {
        let agents = &self.table.row(usize::from(row)).agents;
        agents.set(agents.get().saturating_sub(1));
        self.no_row_before = MonoNs(0);
    }

    /// An agent of `uid` was refused because its user's share is full.
    pub fn on_share_refused(&self, uid: u32) {
        self.table.share_refused_uid.set(u64::from(uid));
        self.table.share_refused.add(1);
    }

    fn find(&mut self, uid: u32, now: MonoNs) -> u8 {
        let hint = self.hints[hint_of(uid)];
        let row = if self.uids[usize::from(hint) % ROWS] == uid && uid != NO_UID {
            hint
        } else {
            let row = self.search(uid, now);
            if usize::from(row) == OTHER {
                // Not cached: a row may come free before the next datagram.
                return row;
            }
            self.hints[hint_of(uid)] = row;
            row
        };
        self.last = (uid, row);
        row
    }

    #[cold]
    fn search(&mut self, uid: u32, now: MonoNs) -> u8 {
        if uid == NO_UID {
            return other();
        }
        if let Some(row) = self.uids.iter().position(|of| *of == uid) {
            return number(row);
        }
        let Some(row) = self.free_row(now) else { return other() };
        if self.uids[row] == self.last.0 {
            self.last = (NO_UID, other());
        }
        self.uids[row] = uid;
        self.seen[row] = MonoNs(0);
        self.left[row] = self.frames_max * FRAME_COST;
        self.table.assign(row, uid);
        number(row)
    }

    /// An unused row, or one that can be reassigned without a visible effect.
    fn free_row(&mut self, now: MonoNs) -> Option<usize> {
        if now < self.no_row_before {
            return None;
        }
        if let Some(row) = self.uids.iter().position(|uid| *uid == NO_UID) {
            return Some(row);
        }
        let without_agents = (0..ROWS).filter(|row| self.table.row(*row).agents.get() == 0);
        let idlest = without_agents.min_by_key(|row| self.seen[*row]);
        let free_at = idlest.map_or(MonoNs(u64::MAX), |row| self.seen[row] + BURST_NS);
        if now < free_at {
            self.no_row_before = free_at;
            return None;
        }
        idlest
    }

    /// Takes one datagram from the budget of a row; false if the budget was spent.
    fn spend(&mut self, row: usize, arrival: MonoNs) -> bool {
        let passed_ns = arrival.since(self.seen[row]).min(BURST_NS);
        let filled = self.left[row] + passed_ns * self.frames_max;
        let left = filled.min(self.frames_max * FRAME_COST);
        self.left[row] = left.saturating_sub(if left < FRAME_COST { 0 } else { FRAME_COST });
        left >= FRAME_COST
    }
}

#[expect(clippy::cast_possible_truncation, reason = "there are 65 rows")]
const fn number(row: usize) -> u8 {
    row as u8
}

const fn other() -> u8 {
    number(OTHER)
}

const fn hint_of(uid: u32) -> usize {
    uid as usize % HINTS
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const START: MonoNs = MonoNs(1_000_000_000_000);

    fn at(ms: u64) -> MonoNs {
        START + ms * MS
    }

    fn with_budget(frames_max: u32) -> UidAccounts {
        UidAccounts::new(Arc::default(), Some(frames_max))
    }

    /// Whether each datagram of `uid`, arriving at these instants, is over the budget.
    fn over(accounts: &mut UidAccounts, uid: u32, arrivals_ms: &[u64]) -> Vec<bool> {
        arrivals_ms.iter().map(|ms| accounts.on_datagram(Some(uid), at(*ms)).is_over_budget).collect()
    }

    #[test]
    fn a_budget_is_a_rate_with_one_second_of_burst() {
        let mut accounts = with_budget(4);
        assert_eq!(over(&mut accounts, 7, &[0, 0, 0, 0, 0, 0]), [false, false, false, false, true, true]);
        assert_eq!(over(&mut accounts, 8, &[0]), [false], "another user's is its own");
        // Four a second: one per 250 ms.
        assert_eq!(over(&mut accounts, 7, &[249, 250, 250, 499, 500]), [true, false, true, true, false]);
        // After any quiet time, the burst is that of one second.
        assert_eq!(over(&mut accounts, 7, &[100_000; 5]), [false, false, false, false, true]);
    }

    #[test]
    fn without_a_budget_everything_passes() {
        let mut accounts = UidAccounts::default();
        assert!(over(&mut accounts, 7, &[0; 10_000]).iter().all(|is_over| !is_over));
    }

    #[test]
    fn the_largest_budget_is_exact() {
        let mut accounts = with_budget(u32::MAX);
        for ms in [0, 1, 5_000, 10_000_000] {
            assert!(!accounts.on_datagram(Some(7), at(ms)).is_over_budget);
        }
    }

    #[test]
    fn a_row_goes_to_another_user_only_when_nobody_can_tell() {
        let mut accounts = with_budget(2);
        let row_of = |accounts: &mut UidAccounts, uid, ms| accounts.on_datagram(Some(uid), at(ms)).row;
        let with_an_agent = 1;
        accounts.on_admitted(with_an_agent, at(0));
        for uid in 2..=64 {
            assert_ne!(row_of(&mut accounts, uid, 0), other());
        }
        let last = row_of(&mut accounts, 64, 5);
        assert_eq!(row_of(&mut accounts, 65, 5), other(), "all rows are in use");
        assert_eq!(row_of(&mut accounts, 65, 999), other(), "an empty budget is not full again yet");
        let row = row_of(&mut accounts, 65, 1_000);
        assert!(row != other() && row != last, "the row of one who was quiet for a second");
        // All but the first user and the 65th are idle: 62 more rows come free, and no more.
        for uid in 1_000..1_062 {
            assert_ne!(row_of(&mut accounts, uid, 1_500), other(), "{uid}");
        }
        assert_eq!(row_of(&mut accounts, 2_000, 1_999), other());
        // An agent keeps the row of its user however long it is silent.
        let counts = accounts.table.read().unwrap();
        assert!(counts.iter().any(|counts| (counts.uid, counts.agents) == (Some(with_an_agent), 1)));
        let row = accounts.on_admitted(with_an_agent, at(1_999));
        accounts.on_left(row);
        accounts.on_left(row);
        assert_eq!(row_of(&mut accounts, 2_000, 2_000), row);
    }

    #[test]
    fn all_who_have_no_row_share_one_budget() {
        let mut accounts = with_budget(3);
        for uid in 0..64 {
            accounts.on_admitted(uid, at(0));
        }
        let late: Vec<bool> =
            (100..105).map(|uid| accounts.on_datagram(Some(uid), at(1)).is_over_budget).collect();
        assert_eq!(late, [false, false, false, true, true]);
        assert!(!accounts.on_datagram(Some(0), at(1)).is_over_budget);
        assert!(!accounts.on_datagram(None, at(1)).is_over_budget, "whose it is nobody knows");
        assert_eq!(
            accounts.table.read().unwrap().last().map(|other| (other.uid, other.frames)),
            Some((None, 6))
        );
    }

    #[test]
    fn after_a_panic_rows_and_counts_are_found_again_and_agents_counted_anew() {
        let mut accounts = UidAccounts::default();
        accounts.on_admitted(7, at(0));
        let row = accounts.on_datagram(Some(7), at(0)).row;
        accounts.on_datagram(Some(8), at(0));
        accounts.recover();
        assert_eq!(accounts.on_admitted(7, at(1)), row);
        assert_eq!(accounts.on_datagram(Some(7), at(1)).row, row);
        let counts = accounts.table.read().unwrap();
        assert_eq!((counts[0].uid, counts[0].agents, counts[0].frames), (Some(7), 1, 2));
        assert_eq!((counts[1].uid, counts[1].agents, counts[1].frames), (Some(8), 0, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Datagram(u32, bool),
        Comes(u32),
        Goes(usize),
        Passes(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let uid = || prop_oneof![0..3_u32, 0..100_u32, Just(u32::MAX), any::<u32>()];
        prop_oneof![
            6 => (uid(), any::<bool>()).prop_map(|(uid, is_refused)| Step::Datagram(uid, is_refused)),
            2 => uid().prop_map(Step::Comes),
            2 => any::<usize>().prop_map(Step::Goes),
            1 => (0..1_500_u64).prop_map(Step::Passes),
        ]
    }

    proptest! {
        /// The rows add up to what arrived, no user has two rows, and a row counts the agents of its own
        /// user.
        #[test]
        fn rows_add_up(steps in prop::collection::vec(step(), 1..600)) {
            let mut accounts = UidAccounts::default();
            let (mut frames, mut refused, mut ms) = (0, 0, 0);
            let mut agents: Vec<(u32, u8)> = Vec::new();
            for (index, step) in steps.iter().enumerate() {
                match *step {
                    Step::Datagram(uid, is_refused) => {
                        let account = accounts.on_datagram(Some(uid), at(ms));
                        frames += 1;
                        if is_refused {
                            accounts.on_refused(account, Refusal::BadCrc);
                            refused += 1;
                        }
                    }
                    Step::Comes(uid) => agents.push((uid, accounts.on_admitted(uid, at(ms)))),
                    Step::Goes(_) if agents.is_empty() => {}
                    Step::Goes(index) => {
                        let (_, row) = agents.swap_remove(index % agents.len());
                        accounts.on_left(row);
                    }
                    Step::Passes(more) => ms += more,
                }
                // Reading the table costs more than a step.
                if index % 16 != 0 && index + 1 < steps.len() {
                    continue;
                }
                let counts = accounts.table.read().unwrap();
                prop_assert_eq!(counts.iter().map(|counts| counts.frames).sum::<u64>(), frames);
                prop_assert_eq!(counts.iter().map(|counts| counts.refused).sum::<u64>(), refused);
                prop_assert_eq!(counts.iter().map(|counts| counts.agents).sum::<u64>(), agents.len() as u64);
                let mut by_row: HashMap<usize, u64> = HashMap::new();
                for (uid, row) in agents.iter().filter(|(_, row)| *row != other()) {
                    prop_assert_eq!(counts[usize::from(*row)].uid, Some(*uid));
                    *by_row.entry(usize::from(*row)).or_default() += 1;
                }
                let named = counts.iter().filter(|counts| counts.uid.is_some());
                for (row, counts) in named.clone().enumerate() {
                    prop_assert_eq!(counts.agents, by_row.get(&row).copied().unwrap_or(0));
                }
                let uids: HashSet<_> = named.clone().map(|counts| counts.uid).collect();
                prop_assert_eq!(uids.len(), named.count(), "no user has two rows");
            }
        }
    }
}
