//! What the aggregator reported, in memory that outlives its process: the last events, and for each slot what was
//! reported of its holder. A successor goes on from there and reports nothing twice.
//!
//! In: what a turn of the aggregator reported. Out: the same to a successor. Thread: the aggregator writes; the
//! writer of the event output acknowledges. Blocks: never. Allocates: at creation only.
//!
//! Order of a turn's end: its events and the changed [`Kept`] are written to the ring and committed together;
//! then the `Kept` are written to their tables ([`KeptTable`]); then shards get their instructions and outputs
//! the events. So whatever reached an output or a shard is committed, and whatever is committed is never
//! reported anew. A crash before the commit leaves no trace of the turn: the successor finds the same facts in
//! the slots. A crash after it leaves events that no output acknowledged, which the successor repeats under their
//! numbers, and perhaps tables that are half written, which it completes from the ring.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::config::plan::{NOTIFY_MAX, SHARDS_MAX};
use crate::event::{Event, RestartWhy};
use crate::sys::memory::Words;
use crate::table::place::Place;
use crate::time::MonoNs;

mod entry;
mod identity;
mod kept;

use entry::ENTRY_WORDS;
pub use identity::{Identity, Refused};
use kept::KEPT_WORDS;
pub use kept::{Kept, KeptTable, flag};

/// Words of the header: one page.
const HEADER_WORDS: usize = 512;
/// `vartajnl` in byte order.
const MAGIC: u64 = u64::from_le_bytes(*b"vartajnl");
/// Incremented whenever the meaning of a word changes.
const LAYOUT: u64 = 1;
/// Entries of the ring: 2 MiB. An event that changes what is kept of its agent takes two.
const ENTRIES: usize = 1 << 14;
/// Most entries committed together.
pub const COMMIT_MAX: usize = ENTRIES / 2;
/// The first word of an entry with a [`Kept`]; that of an event has another lowest byte.
const IS_KEPT: u64 = 2;
const SHARD_SHIFT: u32 = 32;
/// An observer that fails within this time after it adopted may have failed because of what it adopted.
const SUSPECT_NS: u64 = 60_000_000_000;
/// Sockets whose files are remembered: as many as a fleet has shards, by their lasting numbers.
const SOCKETS_MAX: usize = (SHARDS_MAX + NOTIFY_MAX) as usize;
const SOCKET_WORDS: usize = 4;
/// No count gets there.
const EVER: u64 = 1 << 62;

/// Indices of the header's words.
mod header {
    pub const MAGIC: usize = 0;
    pub const LAYOUT: usize = 1;
    pub const ENTRIES: usize = 2;
    pub const IDENTITY: usize = 3;
    pub const RUN: usize = 7;
    pub const LAST_SEQ: usize = 8;
    pub const LAST_SESSION: usize = 9;
    /// Entries before this one may be being written.
    pub const BEGUN: usize = 10;
    /// Entries before this one are committed.
    pub const COMMITTED: usize = 11;
    /// What is kept by entries before this one was written to the tables.
    pub const APPLIED: usize = 12;
    pub const ACKNOWLEDGED: usize = 13;
    pub const LAST_ALIVE: usize = 14;
    pub const IS_CLEAN: usize = 15;
    pub const ADOPTED_AT: usize = 16;
    /// The observer has not looked at everything it adopted, or a thread of its own failed.
    pub const IS_UNPROVED: usize = 17;
    /// Observers in a row that ended like that.
    pub const FAILURES: usize = 18;
    /// The last [`Offer`](super::Offer), and what became of it.
    pub const OFFER: usize = 19;
    /// Shards of frames; those of daemons are numbered from there on in the entries. 0: none is of daemons.
    pub const OF_FRAMES: usize = 20;
    pub const SOCKETS: usize = 64;
}

/// How the predecessor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// It stopped in order.
    pub is_clean: bool,
    /// When it was last known to run.
    pub last_alive: MonoNs,
    /// Observers in a row that failed soon after they adopted this, it among them.
    failures: u64,
}

/// The file of a shard's socket, and its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// Device of the file.
    pub dev: u64,
    /// Its inode.
    pub inode: u64,
    /// The kernel's number of the socket, `SO_COOKIE`.
    pub cookie: u64,
    /// Datagrams the kernel queues, less one.
    pub queue_limit: u32,
}

/// A moment in which a successor may take what this observer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer(u64);

impl Offer {
    /// Who took it has adopted everything. As before the first offer.
    const BEGUN: u64 = 0;
    const OPEN: u64 = 1;
    const TAKEN: u64 = 2;
    const KEPT: u64 = 3;
    const STATE_BITS: u32 = 2;
    const NUMBERS: u64 = u64::MAX >> Self::STATE_BITS;

    /// The offer with this number.
    pub const fn numbered(number: u64) -> Self {
        Self(number & Self::NUMBERS)
    }

    /// Its number, which no other offer of this fleet has.
    pub const fn number(self) -> u64 {
        self.0
    }

    const fn of(word: u64) -> (u64, u64) {
        (word >> Self::STATE_BITS, word & !(u64::MAX << Self::STATE_BITS))
    }

    const fn as_word(self, state: u64) -> u64 {
        self.0 << Self::STATE_BITS | state
    }
}

/// What an observer reports from: the memory of a predecessor, or memory of its own.
#[derive(Debug)]
pub struct Estate {
    /// The events.
    pub journal: Arc<Journal>,
    /// What is kept of the slots, by shard.
    pub kept: Vec<KeptTable>,
    /// What else is known of the predecessor, if there was one.
    pub adoption: Option<Adoption>,
}

#[cfg(any(test, feature = "bench"))]
impl Estate {
    /// Memory of its own, for tables of these capacities. What is granted of each is up to the aggregator.
    ///
    /// # Errors
    /// The kernel's, if it grants no memfd, address space or memory.
    pub fn create(
        identity: &Identity,
        run: u64,
        now: MonoNs,
        capacities: impl IntoIterator<Item = u32>,
    ) -> io::Result<Self> {
        let tables = (0..).zip(capacities);
        let tables = tables.map(|(shard, capacity)| KeptTable::create(capacity, shard, identity));
        Ok(Self {
            journal: Arc::new(Journal::create(identity, run, now)?),
            kept: tables.collect::<io::Result<_>>()?,
            adoption: None,
        })
    }
}

/// What a predecessor left, beyond its memory.
pub struct Adoption {
    /// How it ended.
    pub why: RestartWhy,
    /// For how long nobody ran, ns.
    pub gap_ns: u64,
    /// What its journal says of that.
    pub ended: Ended,
    /// Whether a process with this pid exists.
    pub exists: Box<dyn Fn(u32) -> bool + Send>,
}

impl fmt::Debug for Adoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adoption")
            .field("why", &self.why)
            .field("gap_ns", &self.gap_ns)
            .finish_non_exhaustive()
    }
}

/// The ring of events, and what belongs to the fleet as a whole.
#[derive(Debug)]
pub struct Journal {
    words: Words<AtomicU64>,
    /// Where a test ends the aggregator.
    #[cfg(test)]
    pub cut: crate::lab::fault::Cut,
}

impl Journal {
    /// A new one. Obtains all its memory, 2 MiB.
    ///
    /// `run` distinguishes its numbering of events from others.
    ///
    /// # Errors
    /// The kernel's, if it grants no memfd, address space or memory.
    pub fn create(identity: &Identity, run: u64, now: MonoNs) -> io::Result<Self> {
        let words = HEADER_WORDS + ENTRIES * ENTRY_WORDS;
        let words = Words::<AtomicU64>::sealed("varta-fleet", words)?;
        words.grant(0..words.len())?;
        let journal = Self::of(words);
        journal.put(header::LAYOUT, LAYOUT);
        journal.put(header::ENTRIES, ENTRIES as u64);
        for (offset, word) in identity.to_words().into_iter().enumerate() {
            journal.put(header::IDENTITY + offset, word);
        }
        journal.put(header::RUN, run);
        journal.put(header::LAST_ALIVE, now.0);
        journal.words[header::MAGIC].store(MAGIC, Ordering::Release);
        Ok(journal)
    }

    /// That of a predecessor, of this boot and pid namespace. Looks only at what never changes: the predecessor may
    /// still write it.
    ///
    /// # Errors
    /// [`Refused`]: nothing of it may be adopted.
    pub fn identify(memfd: OwnedFd, boot_id: u128, pid_namespace: u64) -> Result<Self, Refused> {
        let words = Words::<AtomicU64>::adopt(memfd).map_err(Refused::Memory)?;
        if words.len() < HEADER_WORDS {
            return Err(Refused::NotOurs);
        }
        let journal = Self::of(words);
        if journal.get(header::MAGIC) != MAGIC {
            return Err(Refused::NotOurs);
        }
        if journal.get(header::LAYOUT) != LAYOUT {
            return Err(Refused::Layout(journal.get(header::LAYOUT)));
        }
        let own = journal.identity();
        Identity { boot_id, pid_namespace, ..own }.check(own.to_words())?;
        let is_whole = journal.get(header::ENTRIES) == ENTRIES as u64
            && journal.words.len() == HEADER_WORDS + ENTRIES * ENTRY_WORDS;
        if is_whole { Ok(journal) } else { Err(Refused::Corrupt) }
    }

    /// How the predecessor ended, which writes no more. See [`Journal::begin`].
    ///
    /// # Errors
    /// [`Refused`]: nothing of it may be adopted.
    pub fn adopt(&self, now: MonoNs) -> Result<Ended, Refused> {
        let [begun, committed, applied] =
            [header::BEGUN, header::COMMITTED, header::APPLIED].map(|index| self.get(index));
        let is_sound = applied <= committed
            && committed <= begun
            && begun - applied <= ENTRIES as u64
            && [begun, self.last_seq(), self.get(header::FAILURES)].iter().all(|word| *word < EVER);
        if !is_sound {
            return Err(Refused::Corrupt);
        }
        // Killed between a commit and the number of its last event.
        let last = self.past().0.last().map_or(0, |event| event.seq);
        self.put(header::LAST_SEQ, self.last_seq().max(last));
        if self.acknowledged() > self.last_seq() {
            return Err(Refused::Corrupt);
        }
        let last_alive = MonoNs(self.get(header::LAST_ALIVE));
        if last_alive > now {
            return Err(Refused::ClockBehind);
        }
        let had_time = last_alive.since(MonoNs(self.get(header::ADOPTED_AT))) >= SUSPECT_NS;
        let is_taken = Offer::of(self.get(header::OFFER)).1 == Offer::TAKEN;
        let has_failed = self.get(header::IS_UNPROVED) == 1 && !had_time;
        // One that was taken over did not end by itself.
        let failures = if has_failed { self.get(header::FAILURES) + u64::from(!is_taken) } else { 0 };
        if failures >= identity::FAILURES_MAX {
            return Err(Refused::Poisoned);
        }
        let is_clean = is_taken || self.get(header::IS_CLEAN) == 1;
        Ok(Ended { is_clean, last_alive, failures })
    }

    /// Offers it to a successor that runs already. From here on nothing is written to it, or to a table, unless
    /// [`Journal::keep`] returns true.
    pub fn offer(&self) -> Offer {
        let (last, _) = Offer::of(self.get(header::OFFER));
        let offer = Offer(last.wrapping_add(1) & Offer::NUMBERS);
        self.put(header::OFFER, offer.as_word(Offer::OPEN));
        offer
    }

    /// Ends the last offer of ours, unless that is over. False: it was taken, so that this process must not write any more.
    pub fn keep(&self, offer: Offer) -> bool {
        self.decide(offer, Offer::KEPT) || !self.is_taken(offer) || planted!(GoesOnAfterATakeOver)
    }

    /// Whether a successor took this offer, the last one of ours. It may have begun since, and made offers of its own.
    pub fn is_taken(&self, offer: Offer) -> bool {
        let (last, state) = Offer::of(self.get(header::OFFER));
        last != offer.0 || matches!(state, Offer::TAKEN | Offer::BEGUN)
    }

    /// Takes what was offered. False: that is over, so that it belongs to the other process.
    pub fn take(&self, offer: Offer) -> bool {
        self.decide(offer, Offer::TAKEN)
    }

    /// Only one of both sides comes first.
    fn decide(&self, offer: Offer, how: u64) -> bool {
        let (open, decided) = (offer.as_word(Offer::OPEN), offer.as_word(how));
        let word = &self.words[header::OFFER];
        word.compare_exchange(open, decided, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn of(words: Words<AtomicU64>) -> Self {
        Self {
            words,
            #[cfg(test)]
            cut: Default::default(),
        }
    }

    /// Records that an observer goes on with it. Until [`Journal::mark_proved`], it counts as one that failed.
    pub fn begin(&self, ended: &Ended, now: MonoNs) {
        self.put(header::FAILURES, ended.failures);
        self.put(header::IS_UNPROVED, 1);
        self.put(header::ADOPTED_AT, now.0);
        self.put(header::IS_CLEAN, 0);
        let (last, _) = Offer::of(self.get(header::OFFER));
        self.put(header::OFFER, Offer(last).as_word(Offer::BEGUN));
    }

    fn get(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    fn put(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Release);
    }

    /// Whose journal it is.
    pub fn identity(&self) -> Identity {
        Identity::from_words(std::array::from_fn(|offset| self.get(header::IDENTITY + offset)))
    }

    /// Distinguishes its numbering of events from others.
    pub fn run(&self) -> u64 {
        self.get(header::RUN)
    }

    /// Number of the last committed event.
    pub fn last_seq(&self) -> u64 {
        self.get(header::LAST_SEQ)
    }

    /// Number of the last session.
    pub fn last_session(&self) -> u32 {
        u32::try_from(self.get(header::LAST_SESSION)).unwrap_or(u32::MAX)
    }

    /// Records that the output has written all events up to this number. Any thread, and a process that was taken
    /// over from.
    pub fn acknowledge(&self, seq: u64) {
        self.words[header::ACKNOWLEDGED].fetch_max(seq, Ordering::AcqRel);
    }

    /// Number of the last event that the output is known to have written.
    pub fn acknowledged(&self) -> u64 {
        self.get(header::ACKNOWLEDGED)
    }

    /// Records that the observer runs.
    pub fn mark_alive(&self, now: MonoNs) {
        self.words[header::LAST_ALIVE].store(now.0, Ordering::Relaxed);
    }

    /// Records that everything adopted was looked at without harm.
    pub fn mark_proved(&self) {
        self.put(header::IS_UNPROVED, 0);
    }

    /// Records that the observer stopped in order.
    pub fn mark_clean(&self) {
        self.put(header::IS_UNPROVED, 0);
        self.put(header::FAILURES, 0);
        self.put(header::IS_CLEAN, 1);
    }

    /// Records that the observer ends because a thread of its own failed.
    pub fn mark_failed(&self) {
        self.put(header::IS_UNPROVED, 1);
    }

    /// The file of the socket of a shard, as recorded.
    pub fn socket(&self, shard: usize) -> Option<SocketFile> {
        let start = header::SOCKETS + shard * SOCKET_WORDS;
        if shard >= SOCKETS_MAX || self.get(start + 1) == 0 {
            return None;
        }
        let queue_limit = u32::try_from(self.get(start + 2)).ok()?;
        let [dev, inode, cookie] = [start, start + 1, start + 3].map(|index| self.get(index));
        Some(SocketFile { dev, inode, cookie, queue_limit })
    }

    /// Records how many shards are of frames: the numbers of the others in coming entries are those behind.
    pub fn set_of_frames(&self, shards: u16) {
        self.put(header::OF_FRAMES, shards.into());
    }

    /// Records the file of the socket of a shard.
    pub fn set_socket(&self, shard: usize, file: SocketFile) {
        if shard < SOCKETS_MAX {
            let start = header::SOCKETS + shard * SOCKET_WORDS;
            self.put(start, file.dev);
            self.put(start + 2, file.queue_limit.into());
            self.put(start + 3, file.cookie);
            self.put(start + 1, file.inode);
        }
    }

    /// Commits events, and what is kept of slots, as one. At most [`COMMIT_MAX`] of both. Next, the caller writes
    /// the latter to their tables, and calls [`Journal::mark_applied`]. Aggregator only.
    pub fn commit(&self, events: &[Event], kept: &[(Place, Kept)], last_session: u32) {
        debug_assert!(events.len() + kept.len() <= COMMIT_MAX, "the caller commits in time");
        #[cfg(test)]
        self.cut.pass(crate::lab::fault::CommitStep::Begin);
        let begin = self.get(header::COMMITTED);
        let end = begin + (events.len() + kept.len()) as u64;
        self.put(header::BEGUN, end);
        // No word of an entry is written before this, and none of a table before the commit below.
        fence(Ordering::Release);
        let kept = kept.iter().map(|(place, kept)| {
            let mut words = [0; ENTRY_WORDS];
            words[0] = IS_KEPT | u64::from(place.shard) << SHARD_SHIFT;
            words[1] = place.slot.into();
            words[2..2 + KEPT_WORDS].copy_from_slice(&kept.to_words());
            words
        });
        let words = events.iter().map(|event| entry::to_words(event).unwrap_or_default()).chain(kept);
        for (entry, words) in (begin..end).zip(words) {
            #[cfg(test)]
            if entry == begin + (end - begin) / 2 {
                self.cut.pass(crate::lab::fault::CommitStep::HalfWritten);
            }
            let start = start_of(entry);
            for (word, value) in self.words[start..start + ENTRY_WORDS].iter().zip(words) {
                word.store(value, Ordering::Relaxed);
            }
        }
        self.put(header::LAST_SESSION, last_session.into());
        self.put(header::COMMITTED, end);
        fence(Ordering::Release);
        #[cfg(test)]
        self.cut.pass(crate::lab::fault::CommitStep::Unnumbered);
        // After the commit: a number that nobody was told is used again.
        self.put(header::LAST_SEQ, events.last().map_or(self.last_seq(), |event| event.seq));
        #[cfg(test)]
        self.cut.pass(crate::lab::fault::CommitStep::Committed);
    }

    /// Records that what was kept by the last commit is in its tables.
    pub fn mark_applied(&self) {
        #[cfg(test)]
        self.cut.pass(crate::lab::fault::CommitStep::InTables);
        self.put(header::APPLIED, self.get(header::COMMITTED));
        #[cfg(test)]
        self.cut.pass(crate::lab::fault::CommitStep::Applied);
    }

    /// What is kept by the last commit and may not be in its tables, in order. `of_frames`: how many shards are of
    /// frames now, which may be others than there were.
    pub fn unapplied(&self, of_frames: u16) -> impl Iterator<Item = (Place, Kept)> + '_ {
        let before = match u16::try_from(self.get(header::OF_FRAMES)) {
            Ok(0) | Err(_) => u16::MAX,
            Ok(shards) => shards,
        };
        let renumbered = move |shard: u16| match shard.checked_sub(before) {
            None => shard,
            Some(of_daemons) => of_frames.saturating_add(of_daemons),
        };
        (self.get(header::APPLIED)..self.get(header::COMMITTED)).filter_map(move |entry| {
            let [first, slot, rest @ ..] = self.read(entry);
            let words = <[u64; KEPT_WORDS]>::try_from(&rest[..KEPT_WORDS]).ok()?;
            let (shard, slot) = (u16::try_from(first >> SHARD_SHIFT).ok()?, u32::try_from(slot).ok()?);
            let place = Place { shard: renumbered(shard), slot };
            (first & 0xFF == IS_KEPT).then(|| (place, Kept::from_words(words)))
        })
    }

    /// The events in the ring, in order, and the first number that its output did not acknowledge.
    pub fn past(&self) -> (Vec<Event>, u64) {
        let oldest = self.get(header::BEGUN).saturating_sub(ENTRIES as u64);
        let entries = oldest..self.get(header::COMMITTED);
        let events = entries.filter_map(|entry| entry::from_words(&self.read(entry)));
        (events.collect(), self.acknowledged() + 1)
    }

    fn read(&self, entry: u64) -> [u64; ENTRY_WORDS] {
        let start = start_of(entry);
        std::array::from_fn(|word| self.words[start + word].load(Ordering::Relaxed))
    }

    /// The descriptor to hand to a successor.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        match self.words.memfd() {
            Some(memfd) => memfd,
            None => unreachable!("it is a memfd"),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
const fn start_of(entry: u64) -> usize {
    HEADER_WORDS + (entry % ENTRIES as u64) as usize * ENTRY_WORDS
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
