//! What the users on one shard's socket cost it: rows of counts, written by the shard alone, readable by any
//! thread.
//!
//! In: the shard's bookkeeping ([`crate::shard::uids`]). Out: consistent copies. Blocks: never. Bounded: a
//! row for each of 64 users, and one for all others.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use serde::{Deserialize, Serialize};

use crate::lane::counters::Counter;
use crate::table::Busy;
use crate::table::sequence::{begin, end, read_once, repair};

/// Users with a row of their own.
pub const ROWS: usize = 64;
/// The row of all other users.
pub const OTHER: usize = ROWS;
/// How often a reader may meet the writer before it returns [`Busy`].
const READ_ATTEMPTS: u32 = 64;

/// Counts of one user's datagrams, on one shard.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UidCounts {
    /// The user; `None`: all users without a row, and datagrams without a sender.
    pub uid: Option<u32>,
    /// Agents tracked whose first beat was this user's.
    pub agents: u64,
    /// Datagrams received.
    pub frames: u64,
    /// Those refused, for any reason.
    pub refused: u64,
    /// Those refused because the budget was used up.
    pub over_budget: u64,
}

/// The rows of one shard.
#[derive(Debug)]
pub struct UidTable {
    /// Odd while a row passes from one user to another.
    sequence: CachePadded<AtomicU64>,
    /// Rows from this one on were never used.
    used: Counter,
    rows: [Row; ROWS + 1],
    /// Frames refused because their user has used up its share of the fleet's agents.
    pub share_refused: Counter,
    /// User of the last such frame.
    pub share_refused_uid: Counter,
}

/// The counts of one row.
#[derive(Debug, Default)]
pub struct Row {
    uid: AtomicU32,
    /// Agents tracked.
    pub agents: Counter,
    /// Datagrams received.
    pub frames: Counter,
    /// Those refused, for any reason.
    pub refused: Counter,
    /// Those refused because the budget was used up.
    pub over_budget: Counter,
}

impl Default for UidTable {
    fn default() -> Self {
        Self {
            sequence: CachePadded::new(AtomicU64::new(0)),
            used: Counter::default(),
            rows: std::array::from_fn(|_| Row::default()),
            share_refused: Counter::default(),
            share_refused_uid: Counter::default(),
        }
    }
}

impl UidTable {
    /// The counts of a row, at most [`OTHER`].
    #[inline]
    pub fn row(&self, row: usize) -> &Row {
        &self.rows[row]
    }

    /// Users with a row. Writer only.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        let used = usize::try_from(self.used.get()).unwrap_or(ROWS).min(ROWS);
        self.rows[..used].iter().map(|row| row.uid.load(Ordering::Relaxed))
    }

    /// Gives a row that is free, or whose user has no agents, to `uid`. Its counts are added to the row of
    /// all others, so that the sum of all rows is what the shard counted. Writer only.
    pub fn assign(&self, row: usize, uid: u32) {
        let (of, other) = (&self.rows[row], &self.rows[OTHER]);
        begin(&*self.sequence);
        other.frames.add(of.frames.get());
        other.refused.add(of.refused.get());
        other.over_budget.add(of.over_budget.get());
        for counter in [&of.agents, &of.frames, &of.refused, &of.over_budget] {
            counter.set(0);
        }
        of.uid.store(uid, Ordering::Relaxed);
        self.used.set(self.used.get().max(row as u64 + 1));
        end(&*self.sequence, 0);
    }

    /// Closes the sequence that a writer left open when it panicked. Writer only.
    pub fn repair(&self) {
        repair(&*self.sequence);
    }

    /// All rows in use; the row of all others is last.
    ///
    /// # Errors
    /// [`Busy`] if 64 attempts met a row passing from one user to another.
    pub fn read(&self) -> Result<Vec<UidCounts>, Busy> {
        for _ in 0..READ_ATTEMPTS {
            if let Some((_, counts)) = read_once(&*self.sequence, || self.read_rows()) {
                return Ok(counts);
            }
            std::hint::spin_loop();
        }
        Err(Busy)
    }

    fn read_rows(&self) -> Vec<UidCounts> {
        let uids = self.uids().map(Some).chain([None]);
        let rows =
            uids.enumerate().map(|(row, uid)| (self.row(if uid.is_some() { row } else { OTHER }), uid));
        let counts = rows.map(|(row, uid)| {
            // What is counted last is read first, so that no part exceeds the whole.
            let (over_budget, refused) = (row.over_budget.get(), row.refused.get());
            UidCounts { uid, agents: row.agents.get(), frames: row.frames.get(), refused, over_budget }
        });
        counts.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_row_that_goes_to_another_user_leaves_its_counts_to_the_others() {
        let table = UidTable::default();
        table.assign(0, 1000);
        table.row(0).frames.add(5);
        table.row(0).refused.add(2);
        table.row(OTHER).frames.add(1);
        table.assign(1, 1001);
        table.assign(0, 1002);
        table.row(0).frames.add(1);
        let counts = table.read().unwrap();
        let other = UidCounts { frames: 6, refused: 2, ..UidCounts::default() };
        let of = |uid, frames| UidCounts { uid: Some(uid), frames, ..UidCounts::default() };
        assert_eq!(counts, [of(1002, 1), of(1001, 0), other]);
    }

    #[test]
    fn a_writer_that_died_between_two_users_is_met_until_repaired() {
        let table = UidTable::default();
        begin(&*table.sequence);
        assert_eq!(table.read(), Err(Busy));
        table.repair();
        assert!(table.read().is_ok());
    }

    #[test]
    fn readers_in_other_threads_never_see_one_users_counts_under_another_nor_a_sum_that_is_wrong() {
        let table = UidTable::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    let Ok(counts) = table.read() else { continue };
                    for row in &counts {
                        // The writer counts as many frames for a user as its id, then goes on to the next.
                        let most = row.uid.map_or(u64::MAX, u64::from);
                        assert!(row.frames <= most && row.refused <= row.frames, "{counts:?}");
                    }
                    let sum: u64 = counts.iter().map(|row| row.frames).sum();
                    assert!(sum >= seen, "{sum} after {seen}: {counts:?}");
                    seen = seen.max(sum);
                }
            });
            for uid in 1..2_000 {
                table.assign(0, uid);
                for _ in 0..uid {
                    table.row(0).frames.add(1);
                    table.row(0).refused.add(1);
                }
            }
            done.store(true, Ordering::Relaxed);
            reader.join().expect("reader");
        });
        assert_eq!(table.read().unwrap().iter().map(|row| row.frames).sum::<u64>(), 1999 * 2000 / 2);
    }
}
