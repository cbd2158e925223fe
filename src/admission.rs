//! Who may come in: one count of tracked agents for all shards, the share of each user in it, and whom we
//! turned away.
//!
//! In: agents that come and go, with the user the kernel attests. Out: yes or no. Thread: any shard; touched
//! only when an agent comes, goes or is turned away, never by an ordinary beat. Blocks, locks: never.
//! Allocates: at start only.
//!
//! Shares are counted in sets of 16 places, chosen by a hash of the user id that is different in every run;
//! a place with nobody in it is free for any user. A user who finds no place in its set is of the *crowd*:
//! all of the crowd together have one share. So the table of shares being full refuses too many rather
//! than letting anybody exceed a share.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

mod turned_away;

pub use turned_away::{TurnedAway, TurnedAwayFor};

const SETS: usize = 64;
const PLACES_PER_SET: usize = 16;
/// Largest process id Linux gives out (PID_MAX_LIMIT), plus one.
pub const PIDS: usize = 4_194_304 + 1;

/// One count of tracked agents for all shards.
#[derive(Debug)]
pub struct Admission {
    tracked: AtomicU32,
    agents_max: u32,
    shares: Option<Shares>,
    turned_away: Arc<TurnedAway>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The fleet tracks as many agents as it may.
    Fleet,
    /// The agent's user has its share.
    Share,
}

/// Where an agent that came in is counted: to be given back when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedIn {
    /// In its user's own place, or nowhere if there are no shares.
    Own,
    /// In the crowd.
    Crowd,
}

impl Admission {
    /// Room for `agents_max` agents, whoever they are.
    ///
    /// # Errors
    /// The kernel's, when it grants no address space.
    pub fn new(agents_max: u32) -> io::Result<Arc<Self>> {
        Self::with_shares(agents_max, None)
    }

    /// Room for `agents_max` agents, `uid_agents_max` of them of one user.
    ///
    /// # Errors
    /// As [`Admission::new`].
    pub fn with_shares(agents_max: u32, uid_agents_max: Option<u32>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            tracked: AtomicU32::new(0),
            agents_max,
            shares: uid_agents_max.map(Shares::new),
            turned_away: Arc::new(TurnedAway::new()?),
        }))
    }

    /// Takes a place for an agent of `uid`, if there is one.
    ///
    /// # Errors
    /// Why not; nothing is taken then.
    pub fn enter(&self, uid: u32) -> Result<CountedIn, NoRoom> {
        let is_room = |tracked: u32| tracked < self.agents_max || planted!(LetsEverybodyIn);
        let room = |tracked: u32| is_room(tracked).then_some(tracked + 1);
        if self.tracked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Err(NoRoom::Fleet);
        }
        let Some(shares) = &self.shares else { return Ok(CountedIn::Own) };
        shares.enter(uid, shares.uid_agents_max).ok_or_else(|| {
            self.tracked.fetch_sub(1, Ordering::Relaxed);
            NoRoom::Share
        })
    }

    /// Counts an agent that is in the table already, although that may be more than there is room for.
    pub fn count_in(&self, uid: u32) -> CountedIn {
        self.tracked.fetch_add(1, Ordering::Relaxed);
        let counted = self.shares.as_ref().and_then(|shares| shares.enter(uid, u32::MAX));
        counted.unwrap_or(CountedIn::Own)
    }

    /// Gives a place back.
    pub fn leave(&self, uid: u32, counted_in: CountedIn) {
        self.tracked.fetch_sub(1, Ordering::Relaxed);
        if let Some(shares) = &self.shares {
            shares.leave(uid, counted_in);
        }
    }

    /// Whom we turned away.
    pub const fn turned_away(&self) -> &Arc<TurnedAway> {
        &self.turned_away
    }

    /// Places there are.
    #[cfg(test)]
    pub const fn agents_max(&self) -> u32 {
        self.agents_max
    }

    /// Places taken.
    #[cfg(test)]
    pub fn tracked(&self) -> u32 {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Places taken by agents of `uid`, as far as they are counted in a place of their own.
    #[cfg(test)]
    pub fn share_of(&self, uid: u32) -> u32 {
        self.shares.as_ref().map_or(0, |shares| shares.taken(shares.set(uid), uid))
    }
}

/// How many agents of each user there are.
#[derive(Debug)]
struct Shares {
    uid_agents_max: u32,
    hash: RandomState,
    /// User id in the high half, number of its agents in the low half; a place whose number is 0 is free.
    places: Box<[AtomicU64]>,
    crowd: AtomicU32,
}

impl Shares {
    fn new(uid_agents_max: u32) -> Self {
        let places = (0..SETS * PLACES_PER_SET).map(|_| AtomicU64::new(0)).collect();
        Self { uid_agents_max, hash: RandomState::new(), places, crowd: AtomicU32::new(0) }
    }

    fn set(&self, uid: u32) -> &[AtomicU64] {
        let [low, ..] = self.hash.hash_one(uid).to_le_bytes();
        let start = usize::from(low) % SETS * PLACES_PER_SET;
        &self.places[start..start + PLACES_PER_SET]
    }

    /// Agents of `uid` in its set. Two shards that bring in a new user at once may give it two places, so
    /// all are added up.
    fn taken(&self, set: &[AtomicU64], uid: u32) -> u32 {
        let of_uid = |place: &AtomicU64| {
            let (holder, count) = parts(place.load(Ordering::SeqCst));
            if holder == uid { count } else { 0 }
        };
        set.iter().map(of_uid).fold(0, u32::saturating_add)
    }

    /// Counts an agent in, unless its user had `most` already.
    fn enter(&self, uid: u32, most: u32) -> Option<CountedIn> {
        let set = self.set(uid);
        loop {
            if self.taken(set, uid) >= most {
                return None;
            }
            let found = set.iter().map(|place| (place, place.load(Ordering::SeqCst)));
            let is_own = |word: u64| parts(word).0 == uid && parts(word).1 > 0;
            let own = found.clone().find(|(_, word)| is_own(*word));
            let free = || found.clone().find(|(_, word)| parts(*word).1 == 0);
            let Some((place, word)) = own.or_else(free) else { return self.enter_crowd(most) };
            let more = word_of(uid, parts(word).1.saturating_add(1));
            if place.compare_exchange(word, more, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            if self.taken(set, uid) <= most {
                return Some(CountedIn::Own);
            }
            // Another shard took the last place at the same time; of the two at most one keeps it.
            self.leave(uid, CountedIn::Own);
            return None;
        }
    }

    fn enter_crowd(&self, most: u32) -> Option<CountedIn> {
        let room = |count: u32| (count < most).then_some(count.saturating_add(1));
        let entered = self.crowd.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room);
        entered.is_ok().then_some(CountedIn::Crowd)
    }

    fn leave(&self, uid: u32, counted_in: CountedIn) {
        if counted_in == CountedIn::Crowd {
            self.crowd.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let set = self.set(uid);
        let less = |word: u64| match parts(word) {
            (holder, count) if holder == uid && count > 0 => Some(word_of(uid, count - 1)),
            _ => None,
        };
        // Another shard may change the word between two looks at it; one of the set is ours to lower.
        let lowered =
            |place: &AtomicU64| place.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        let is_done = set.iter().any(lowered);
        debug_assert!(is_done, "an agent of user {uid} left that never entered");
    }
}

const fn word_of(uid: u32, count: u32) -> u64 {
    (uid as u64) << 32 | count as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
const fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_has_its_share_and_no_more_and_others_are_not_touched() {
        let admission = Admission::with_shares(10, Some(3)).unwrap();
        for _ in 0..3 {
            assert_eq!(admission.enter(7), Ok(CountedIn::Own));
        }
        assert_eq!(admission.enter(7), Err(NoRoom::Share));
        assert_eq!(admission.tracked(), 3, "who was refused takes no place");
        assert_eq!(admission.enter(8), Ok(CountedIn::Own));
        admission.leave(7, CountedIn::Own);
        assert_eq!(admission.enter(7), Ok(CountedIn::Own));
        assert_eq!(admission.enter(7), Err(NoRoom::Share));
        for uid in 100..106 {
            assert!(admission.enter(uid).is_ok());
        }
        assert_eq!(admission.enter(200), Err(NoRoom::Fleet));
        assert_eq!((admission.tracked(), admission.share_of(7), admission.share_of(200)), (10, 3, 0));
    }

    #[test]
    fn without_shares_only_the_fleet_is_full() {
        let admission = Admission::new(2).unwrap();
        assert_eq!((admission.enter(7), admission.enter(7)), (Ok(CountedIn::Own), Ok(CountedIn::Own)));
        assert_eq!(admission.enter(7), Err(NoRoom::Fleet));
        admission.leave(7, CountedIn::Own);
        assert!(admission.enter(8).is_ok());
    }

    #[test]
    fn users_that_find_no_place_share_one_and_places_come_free() {
        let admission = Admission::with_shares(1_000_000, Some(2)).unwrap();
        let uids = 0..100_000;
        let mut counted: HashMap<u32, CountedIn> = HashMap::new();
        for uid in uids.clone() {
            if let Ok(counted_in) = admission.enter(uid) {
                counted.insert(uid, counted_in);
            }
        }
        let crowd: Vec<u32> = counted
            .iter()
            .filter(|(_, counted)| **counted == CountedIn::Crowd)
            .map(|(uid, _)| *uid)
            .collect();
        assert_eq!(crowd.len(), 2, "one share for the whole crowd");
        assert_eq!(counted.len() - crowd.len(), SETS * PLACES_PER_SET, "every place is used");
        for (uid, counted_in) in counted.drain() {
            admission.leave(uid, counted_in);
        }
        assert_eq!(admission.tracked(), 0);
        assert_eq!(admission.enter(crowd[0]), Ok(CountedIn::Own), "a place that came free is anybody's");
    }

    #[test]
    fn who_is_in_the_table_is_counted_though_it_is_full() {
        let admission = Admission::with_shares(2, Some(1)).unwrap();
        let counted: Vec<_> = (0..3).map(|_| admission.count_in(7)).collect();
        assert_eq!((admission.tracked(), admission.share_of(7)), (3, 3));
        assert_eq!(admission.enter(7), Err(NoRoom::Fleet));
        counted.into_iter().for_each(|counted_in| admission.leave(7, counted_in));
        assert!(admission.enter(7).is_ok());
    }

    #[test]
    fn shards_that_bring_in_one_user_at_once_never_exceed_its_share() {
        const MOST: u32 = 20;
        for round in 0..50 {
            let admission = Admission::with_shares(1_000, Some(MOST)).unwrap();
            let start = std::sync::Barrier::new(4);
            let kept: u32 = std::thread::scope(|scope| {
                let shard = || {
                    start.wait();
                    let mut kept = 0;
                    for step in 0..400 {
                        if admission.enter(round).is_ok() {
                            kept += 1;
                            assert!(admission.share_of(round) <= MOST + 4, "attempts of others at most");
                        }
                        if step % 3 == 0 && kept > 0 {
                            admission.leave(round, CountedIn::Own);
                            kept -= 1;
                        }
                    }
                    kept
                };
                let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
                shards.into_iter().map(|shard| shard.join().expect("shard")).sum()
            });
            assert!(kept <= MOST, "{kept}");
            assert_eq!((admission.tracked(), admission.share_of(round)), (kept, kept));
        }
    }

    proptest! {
        /// Against a plain count of each user: never more than the share, never an innocent refused.
        #[test]
        fn shares_are_those_of_a_plain_count(steps in prop::collection::vec((0..6_u32, any::<bool>()), 1..300)) {
            let admission = Admission::with_shares(12, Some(4)).unwrap();
            let mut counts = [0_u32; 6];
            for (uid, comes) in steps {
                let count = counts[uid as usize];
                if comes {
                    let expected = match (counts.iter().sum::<u32>(), count) {
                        (12, _) => Err(NoRoom::Fleet),
                        (_, 4) => Err(NoRoom::Share),
                        _ => Ok(CountedIn::Own),
                    };
                    prop_assert_eq!(admission.enter(uid), expected);
                    counts[uid as usize] += u32::from(expected.is_ok());
                } else if count > 0 {
                    admission.leave(uid, CountedIn::Own);
                    counts[uid as usize] -= 1;
                }
                prop_assert_eq!(admission.tracked(), counts.iter().sum::<u32>());
            }
        }
    }
}
