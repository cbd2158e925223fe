//! Admission of agents: one count of tracked agents for all shards, each user's share in it, and the
//! refusals.
//!
//! In: agents that come and go, with attested pid and user. Out: admitted or not. Thread: any shard; touched
//! only when an agent comes, goes or is turned away, never by an ordinary beat. Blocks, locks: never.
//! Allocates: at start only; memory is touched as pids appear.
//!
//! An agent takes one place however many slots it has: one that beats on two shards, or moves, needs no
//! second place. Each pid has a *seat*, a word that records how many slots hold it and to whose share it is
//! counted.
//!
//! Shares are counted in sets of 16 places, chosen by a hash of the user id that differs in every run; a
//! place with no agents is free for any user. Users who find no place in their set form the *crowd*, which
//! has one share in total. So a full table of shares refuses too many agents rather than let a user exceed
//! its share.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::slots::PIDS;
use super::turned_away::TurnedAway;
use crate::sys::memory::Words;

const SETS: usize = 64;
const PLACES_PER_SET: usize = 16;

/// One count of tracked agents for all shards.
#[derive(Debug)]
pub struct Admission {
    tracked: AtomicU32,
    /// By pid; 0 = none.
    seats: Words<AtomicU64>,
    agents_max: u32,
    shares: Shares,
    turned_away: Arc<TurnedAway>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The fleet tracks as many agents as it may.
    Fleet,
    /// The share of the agent's user is full.
    Share,
}

/// Where an admitted agent is counted, and must be released when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountedIn {
    /// In its user's own place, or nowhere without shares.
    Own,
    /// In the crowd.
    Crowd,
}

/// The content of a pid's seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    uid: u32,
    counted_in: CountedIn,
    /// Slots that hold the agent, at most one per shard.
    slots: u16,
}

impl Seat {
    const IN_CROWD: u64 = 1 << 16;

    const fn to_word(self) -> u64 {
        let crowd = match self.counted_in {
            CountedIn::Own => 0,
            CountedIn::Crowd => Self::IN_CROWD,
        };
        (self.uid as u64) << 32 | crowd | self.slots as u64
    }

    fn from_word(word: u64) -> Option<Self> {
        let counted_in = if word & Self::IN_CROWD == 0 { CountedIn::Own } else { CountedIn::Crowd };
        let [low, high, ..] = word.to_le_bytes();
        let slots = u16::from_le_bytes([low, high]);
        (slots > 0).then_some(Self { uid: parts(word).0, counted_in, slots })
    }
}

impl Admission {
    /// Room for `agents_max` agents, of any user.
    ///
    /// # Errors
    /// The kernel's, if it grants no address space.
    pub fn new(agents_max: u32) -> io::Result<Arc<Self>> {
        Self::with_shares(agents_max, None)
    }

    /// Room for `agents_max` agents, at most `uid_agents_max` of each user.
    ///
    /// # Errors
    /// As [`Admission::new`].
    pub fn with_shares(agents_max: u32, uid_agents_max: Option<u32>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            tracked: AtomicU32::new(0),
            seats: Words::anonymous(PIDS)?,
            agents_max,
            shares: Shares::new(uid_agents_max),
            turned_away: Arc::new(TurnedAway::new()?),
        }))
    }

    /// Called when one more slot is to hold the agent `pid` of `uid`: takes a place for it unless it has one.
    /// A place counted to another user (the agent changed its user, or a former process had the pid) is moved
    /// to this user.
    ///
    /// # Errors
    /// Why there is no place; nothing is taken then.
    pub fn enter(&self, pid: u32, uid: u32) -> Result<(), NoRoom> {
        self.find_seat(pid, uid)?;
        self.change_user(pid, uid).inspect_err(|_| self.leave(pid))
    }

    fn find_seat(&self, pid: u32, uid: u32) -> Result<(), NoRoom> {
        self.sit(pid, uid, || {
            let is_room = |tracked: u32| tracked < self.agents_max || planted!(LetsEverybodyIn);
            let room = |tracked: u32| is_room(tracked).then_some(tracked + 1);
            if self.tracked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
                return Err(NoRoom::Fleet);
            }
            self.shares.enter(uid, self.shares.most()).ok_or_else(|| {
                self.tracked.fetch_sub(1, Ordering::Relaxed);
                NoRoom::Share
            })
        })
    }

    /// Counts an agent that a slot already holds, even beyond the limits.
    pub fn count_in(&self, pid: u32, uid: u32) {
        let _ = self.sit(pid, uid, || {
            self.tracked.fetch_add(1, Ordering::Relaxed);
            Ok(self.shares.enter(uid, u32::MAX).unwrap_or(CountedIn::Own))
        });
    }

    /// How many agents are tracked, if they are more than may be: they were counted in.
    pub fn beyond(&self) -> Option<u32> {
        Some(self.tracked.load(Ordering::Relaxed)).filter(|tracked| *tracked > self.agents_max)
    }

    /// A slot no longer holds the agent; its place is released if that was the last slot.
    pub fn leave(&self, pid: u32) {
        let Some(word) = self.seats.get(pid as usize) else { return };
        let less = |word: u64| match Seat::from_word(word)? {
            Seat { slots: 1, .. } => Some(0),
            _ => Some(word - 1),
        };
        let before = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        debug_assert!(before.is_ok(), "{pid} left that never entered");
        if let Some(seat) = before.ok().and_then(Seat::from_word).filter(|seat| seat.slots == 1) {
            self.give_back(seat.uid, seat.counted_in);
        }
    }

    /// Counts the agent under another user from now on.
    ///
    /// # Errors
    /// The share of that user is full; nothing changes then.
    pub fn change_user(&self, pid: u32, to: u32) -> Result<(), NoRoom> {
        let Some(word) = self.seats.get(pid as usize) else { return Ok(()) };
        loop {
            let before = word.load(Ordering::Acquire);
            let Some(seat) = Seat::from_word(before).filter(|seat| seat.uid != to) else { return Ok(()) };
            let counted_in = self.shares.enter(to, self.shares.most()).ok_or(NoRoom::Share)?;
            let after = Seat { uid: to, counted_in, ..seat }.to_word();
            let is_moved = word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire).is_ok();
            // The old place, or the new one if another shard changed the seat meanwhile.
            let (uid, counted_in) = if is_moved { (seat.uid, seat.counted_in) } else { (to, counted_in) };
            self.shares.leave(uid, counted_in);
            if is_moved {
                return Ok(());
            }
        }
    }

    /// Adds a slot to the agent's seat, or opens a seat with the place that `take` finds.
    fn sit(&self, pid: u32, uid: u32, take: impl Fn() -> Result<CountedIn, NoRoom>) -> Result<(), NoRoom> {
        // No process has a larger pid.
        let Some(word) = self.seats.get(pid as usize) else { return Err(NoRoom::Fleet) };
        let more = |word: u64| Seat::from_word(word).map(|_| word + 1);
        loop {
            if word.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return Ok(());
            }
            let counted_in = take()?;
            let seat = Seat { uid, counted_in, slots: 1 };
            if word.compare_exchange(0, seat.to_word(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Ok(());
            }
            // Another shard admitted it meanwhile.
            self.give_back(uid, counted_in);
        }
    }

    fn give_back(&self, uid: u32, counted_in: CountedIn) {
        self.tracked.fetch_sub(1, Ordering::Relaxed);
        self.shares.leave(uid, counted_in);
    }

    /// Lets each user have at most `uid_agents_max` agents from now on; `None`: as many as there is room for. Agents
    /// that are tracked stay. From any thread.
    pub fn set_share(&self, uid_agents_max: Option<u32>) {
        self.shares.uid_agents_max.store(uid_agents_max.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The refusals.
    pub const fn turned_away(&self) -> &Arc<TurnedAway> {
        &self.turned_away
    }
}

/// The number of agents of each user.
#[derive(Debug)]
struct Shares {
    /// `u32::MAX`: no limit.
    uid_agents_max: AtomicU32,
    hash: RandomState,
    /// User id in the high half, number of its agents in the low half; a place with number 0 is free.
    places: Box<[AtomicU64]>,
    crowd: AtomicU32,
}

impl Shares {
    fn new(uid_agents_max: Option<u32>) -> Self {
        let uid_agents_max = AtomicU32::new(uid_agents_max.unwrap_or(u32::MAX));
        let places = (0..SETS * PLACES_PER_SET).map(|_| AtomicU64::new(0)).collect();
        Self { uid_agents_max, hash: RandomState::new(), places, crowd: AtomicU32::new(0) }
    }

    /// Most agents of one user.
    fn most(&self) -> u32 {
        self.uid_agents_max.load(Ordering::Relaxed)
    }

    fn set(&self, uid: u32) -> &[AtomicU64] {
        let [low, ..] = self.hash.hash_one(uid).to_le_bytes();
        let start = usize::from(low) % SETS * PLACES_PER_SET;
        &self.places[start..start + PLACES_PER_SET]
    }

    /// Agents of `uid` in its set. Two shards that admit a new user at once may give it two places, so all
    /// are added up.
    fn taken(&self, set: &[AtomicU64], uid: u32) -> u32 {
        let of_uid = |place: &AtomicU64| {
            let (holder, count) = parts(place.load(Ordering::SeqCst));
            if holder == uid { count } else { 0 }
        };
        set.iter().map(of_uid).fold(0, u32::saturating_add)
    }

    /// Counts an agent, unless its user already has `most`.
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
            // Another shard took the last place at the same time; at most one of the two keeps it.
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
        // Another shard may change the word between two loads; one place of the set holds our count.
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

    impl Admission {
        /// Places in total.
        pub const fn agents_max(&self) -> u32 {
            self.agents_max
        }

        /// Places taken.
        pub fn tracked(&self) -> u32 {
            self.tracked.load(Ordering::Relaxed)
        }

        /// Places taken by agents of `uid`, as far as the user has a place of its own.
        pub fn share_of(&self, uid: u32) -> u32 {
            self.shares.taken(self.shares.set(uid), uid)
        }
    }

    #[test]
    fn a_user_has_its_share_and_no_more_and_others_are_not_touched() {
        let admission = Admission::with_shares(10, Some(3)).unwrap();
        for pid in 1..=3 {
            assert_eq!(admission.enter(pid, 7), Ok(()));
        }
        assert_eq!(admission.enter(4, 7), Err(NoRoom::Share));
        assert_eq!(admission.tracked(), 3, "who was refused takes no place");
        assert_eq!(admission.enter(5, 8), Ok(()));
        admission.leave(2);
        assert_eq!(admission.enter(4, 7), Ok(()));
        assert_eq!(admission.enter(2, 7), Err(NoRoom::Share));
        for uid in 100..106 {
            assert!(admission.enter(uid, uid).is_ok());
        }
        assert_eq!(admission.enter(200, 200), Err(NoRoom::Fleet));
        assert_eq!((admission.tracked(), admission.share_of(7), admission.share_of(200)), (10, 3, 0));
    }

    #[test]
    fn without_shares_only_the_fleet_is_full() {
        let admission = Admission::new(2).unwrap();
        assert_eq!((admission.enter(1, 7), admission.enter(2, 7)), (Ok(()), Ok(())));
        assert_eq!(admission.enter(3, 7), Err(NoRoom::Fleet));
        admission.leave(1);
        assert!(admission.enter(3, 8).is_ok());
        assert_eq!(admission.enter(u32::MAX, 8), Err(NoRoom::Fleet), "no process has this pid");
    }

    #[test]
    fn fault_52_an_agent_has_one_place_however_many_slots() {
        let admission = Admission::with_shares(2, Some(1)).unwrap();
        for _ in 0..3 {
            assert_eq!(admission.enter(1, 7), Ok(()));
        }
        assert_eq!(admission.enter(2, 7), Err(NoRoom::Share));
        for left in [1, 1, 0] {
            admission.leave(1);
            assert_eq!((admission.tracked(), admission.share_of(7)), (left, left));
        }
    }

    /// An agent changed its user and moved, or its pid was reused: the last slot decides whose it is.
    #[test]
    fn fault_61_whose_an_agent_is_says_the_slot_that_came_last() {
        let admission = Admission::with_shares(9, Some(1)).unwrap();
        let shares = |of: &Admission| (of.tracked(), of.share_of(7), of.share_of(8));
        assert_eq!((admission.enter(1, 7), admission.enter(1, 8)), (Ok(()), Ok(())));
        assert_eq!(shares(&admission), (1, 0, 1));
        // Another agent has taken the share of its old user meanwhile.
        assert_eq!((admission.enter(2, 7), admission.enter(1, 7)), (Ok(()), Err(NoRoom::Share)));
        assert_eq!(shares(&admission), (2, 1, 1));
        [1, 1, 2].into_iter().for_each(|pid| admission.leave(pid));
        assert_eq!(shares(&admission), (0, 0, 0));
    }

    #[test]
    fn users_that_find_no_place_share_one_and_places_come_free() {
        let admission = Admission::with_shares(1_000_000, Some(2)).unwrap();
        let counted: Vec<u32> = (1..=100_000).filter(|uid| admission.enter(*uid, *uid).is_ok()).collect();
        let places = u32::try_from(SETS * PLACES_PER_SET).unwrap();
        assert_eq!(admission.tracked(), places + 2, "every place is used, and one share for the whole crowd");
        let crowd = *counted.iter().find(|uid| admission.share_of(**uid) == 0).unwrap();
        counted.iter().for_each(|uid| admission.leave(*uid));
        assert_eq!(admission.tracked(), 0);
        assert_eq!(admission.enter(crowd, crowd), Ok(()));
        assert_eq!(admission.share_of(crowd), 1, "a place that came free is anybody's");
    }

    #[test]
    fn who_is_in_the_table_is_counted_though_it_is_full() {
        let admission = Admission::with_shares(2, Some(1)).unwrap();
        (1..=3).for_each(|pid| admission.count_in(pid, 7));
        admission.count_in(3, 7);
        assert_eq!((admission.tracked(), admission.share_of(7)), (3, 3));
        assert_eq!(admission.beyond(), Some(3));
        assert_eq!(admission.enter(4, 7), Err(NoRoom::Fleet));
        admission.leave(1);
        assert_eq!(admission.beyond(), None);
        [2, 3, 3].into_iter().for_each(|pid| admission.leave(pid));
        assert!(admission.enter(4, 7).is_ok());
    }

    #[test]
    fn shards_that_bring_in_one_user_at_once_never_exceed_its_share() {
        const MOST: u32 = 20;
        for round in 0..50 {
            let admission = Admission::with_shares(1_000, Some(MOST)).unwrap();
            let start = std::sync::Barrier::new(4);
            let kept: u32 = std::thread::scope(|scope| {
                let shard = |first_pid: u32| {
                    let (start, admission) = (&start, &admission);
                    move || {
                        start.wait();
                        let mut kept = Vec::new();
                        for step in 0..400 {
                            if admission.enter(first_pid + step, round).is_ok() {
                                kept.push(first_pid + step);
                                assert!(admission.share_of(round) <= MOST + 4, "attempts of others at most");
                            }
                            if step % 3 == 0
                                && let Some(pid) = kept.pop()
                            {
                                admission.leave(pid);
                            }
                        }
                        u32::try_from(kept.len()).unwrap()
                    }
                };
                let shards: Vec<_> = (1..5).map(|number| scope.spawn(shard(number * 1000))).collect();
                shards.into_iter().map(|shard| shard.join().expect("shard")).sum()
            });
            assert!(kept <= MOST, "{kept}");
            assert_eq!((admission.tracked(), admission.share_of(round)), (kept, kept));
        }
    }

    #[test]
    fn fault_52_shards_that_bring_in_one_agent_at_once_count_it_once() {
        let admission = Admission::with_shares(4, Some(3)).unwrap();
        let start = std::sync::Barrier::new(4);
        let slots: usize = std::thread::scope(|scope| {
            let shard = || {
                start.wait();
                let mut slots = Vec::new();
                for step in 0..20_000 {
                    let pid = 1 + step % 3;
                    if slots.contains(&pid) {
                        admission.leave(pid);
                        slots.retain(|of| *of != pid);
                    } else if admission.enter(pid, 7).is_ok() {
                        slots.push(pid);
                    }
                    assert!(admission.tracked() <= 4);
                }
                slots.iter().for_each(|pid| admission.leave(*pid));
                slots.len()
            };
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
            shards.into_iter().map(|shard| shard.join().expect("shard")).sum()
        });
        assert_eq!((admission.tracked(), admission.share_of(7)), (0, 0), "{slots} slots were left at last");
    }

    proptest! {
        /// Agrees with a plain count per user: no share is exceeded, no agent is refused without need, and an
        /// agent with a slot gets a second one.
        #[test]
        fn shares_are_those_of_a_plain_count(
            steps in prop::collection::vec((1..30_u32, any::<bool>()), 1..300)
        ) {
            let admission = Admission::with_shares(12, Some(4)).unwrap();
            let mut slots = HashMap::<u32, u32>::new();
            let uid_of = |pid: u32| pid % 6;
            for (pid, comes) in steps {
                let uid = uid_of(pid);
                let held = *slots.get(&pid).unwrap_or(&0);
                if comes {
                    let of_user = slots.keys().filter(|pid| uid_of(**pid) == uid).count();
                    let expected = match (held, slots.len(), of_user) {
                        (1.., ..) => Ok(()),
                        (0, 12, _) => Err(NoRoom::Fleet),
                        (0, _, 4) => Err(NoRoom::Share),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(admission.enter(pid, uid), expected);
                    if expected.is_ok() {
                        slots.insert(pid, held + 1);
                    }
                } else if held > 0 {
                    admission.leave(pid);
                    slots.insert(pid, held - 1);
                    slots.retain(|_, held| *held > 0);
                }
                prop_assert_eq!(admission.tracked() as usize, slots.len());
            }
        }
    }
}
