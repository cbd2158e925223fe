//! What was reported of the holder of each slot of one shard, as a successor needs it: one memfd, written by the
//! aggregator alone.
//!
//! It is written after the same words were committed to the [`Journal`](super::Journal), which repairs what a
//! crash leaves half written here. Thread: aggregator. Blocks: never.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{pair, unpair};
use super::identity::{Identity, Refused};
use crate::sys::memory::Words;
use crate::time::MonoNs;
use crate::wire::Status;

/// Words of one slot: a cache line.
pub const KEPT_WORDS: usize = 8;
/// Words of the header: one page.
const HEADER_WORDS: usize = 512;
/// `vartakpt` in byte order.
const MAGIC: u64 = u64::from_le_bytes(*b"vartakpt");
/// Incremented whenever the meaning of a word changes.
const LAYOUT: u64 = 1;
/// Bits of a pid, below the flags.
const PID_BITS: u32 = 22;
/// Flags beside one pid.
const FLAG_BITS: u32 = u32::BITS - PID_BITS;

/// Indices of the header's words; the identity follows.
mod header {
    pub const MAGIC: usize = 0;
    pub const LAYOUT: usize = 1;
    pub const CAPACITY: usize = 2;
    pub const SHARD: usize = 3;
    pub const IDENTITY: usize = 4;
}

/// What was reported of a slot's holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Which holder; 0 = none.
    pub generation: u32,
    /// Its pid, below 2^22.
    pub pid: u32,
    /// Which of the marks in [`flag`] were set.
    pub flags: u32,
    /// The claimed pid that was looked up last.
    pub settled_claim: u32,
    /// Number of its session.
    pub session: u32,
    /// Its pid in its own namespace; 0 = the same, or unknown.
    pub ns_pid: u32,
    /// Ordinals reported: stalls, resumes, streams, changes of status, terminal frames, changes of the wire
    /// version.
    pub stalls: u32,
    /// See `stalls`.
    pub resumes: u32,
    /// See `stalls`.
    pub streams: u32,
    /// See `stalls`.
    pub statuses: u32,
    /// See `stalls`.
    pub terminals: u32,
    /// See `stalls`.
    pub versions: u32,
    /// Ordinal reported: changes of its user.
    pub users: u16,
    /// Status reported last.
    pub status: Status,
    /// If it is being released: as of when.
    pub as_of: MonoNs,
    /// Which process it is, as the kernel numbers them.
    pub incarnation: Option<NonZeroU64>,
}

/// The flags of a [`Kept`]; there is room for twenty.
pub mod flag {
    /// `up` was reported or counted.
    pub const UP: u32 = 1;
    /// A stall was reported, and no resume since.
    pub const STALLED: u32 = 1 << 1;
    /// `mixed` was reported.
    pub const MIXED: u32 = 1 << 2;
    /// All its frames were forged.
    pub const CLOSED: u32 = 1 << 3;
    /// The shard was instructed to release the slot.
    pub const RELEASING: u32 = 1 << 4;
    /// Its process is gone.
    pub const GONE: u32 = 1 << 5;
    /// Its events are only counted so far.
    pub const UNCALLED: u32 = 1 << 6;
    /// The start of a freeze was reported, and not its end.
    pub const FROZEN: u32 = 1 << 7;
    /// It was frozen and is thawed, and has not beaten since.
    pub const THAWED: u32 = 1 << 8;
    /// The claimed pid was looked up.
    pub const CLAIM_SETTLED: u32 = 1 << 9;
    /// A standstill was reported, and no advance since.
    pub const STILL: u32 = 1 << 10;
}

impl Kept {
    pub(super) fn to_words(self) -> [u64; KEPT_WORDS] {
        [
            pair(self.generation, self.settled_claim),
            pair(self.flags << PID_BITS | self.pid & ((1 << PID_BITS) - 1), self.session),
            pair(self.flags >> FLAG_BITS << PID_BITS | self.ns_pid & ((1 << PID_BITS) - 1), self.stalls),
            pair(self.resumes, self.streams),
            pair(self.statuses, self.terminals),
            pair(self.versions, u32::from(self.users) << 16 | self.status as u32),
            self.as_of.0,
            self.incarnation.map_or(0, NonZeroU64::get),
        ]
    }

    pub(super) fn from_words(words: [u64; KEPT_WORDS]) -> Self {
        let [first, second, third, fourth, fifth, sixth, as_of, incarnation] = words;
        let [generation, settled_claim] = unpair(first);
        let [holder, session] = unpair(second);
        let [ns_pid, stalls] = unpair(third);
        let [resumes, streams] = unpair(fourth);
        let [statuses, terminals] = unpair(fifth);
        let [versions, rest] = unpair(sixth);
        let [status, _, ..] = rest.to_le_bytes();
        Self {
            generation,
            pid: holder & ((1 << PID_BITS) - 1),
            flags: holder >> PID_BITS | ns_pid >> PID_BITS << FLAG_BITS,
            settled_claim,
            session,
            ns_pid: ns_pid & ((1 << PID_BITS) - 1),
            stalls,
            resumes,
            streams,
            statuses,
            terminals,
            versions,
            users: (rest >> 16) as u16,
            status: Status::from_byte(status).unwrap_or_default(),
            as_of: MonoNs(as_of),
            incarnation: NonZeroU64::new(incarnation),
        }
    }

    /// Whether a flag is set.
    pub const fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The [`Kept`] of every slot of one shard.
#[derive(Debug)]
pub struct KeptTable {
    words: Words<AtomicU64>,
    capacity: u32,
    shard: u16,
    identity: Identity,
    granted: u32,
    /// It is a copy of the one of a predecessor, with another capacity.
    pub is_copied: bool,
}

impl KeptTable {
    /// A new one of this many slots, for which nothing was reported. Touches its header only.
    ///
    /// # Errors
    /// The kernel's, if it grants no memfd, address space or memory.
    pub fn create(capacity: u32, shard: u16, identity: &Identity) -> io::Result<Self> {
        let words = HEADER_WORDS + capacity as usize * KEPT_WORDS;
        let words = Words::<AtomicU64>::sealed(&format!("varta-shard-{shard}-told"), words)?;
        words.grant(0..HEADER_WORDS)?;
        let put = |index: usize, value: u64| words[index].store(value, Ordering::Relaxed);
        put(header::LAYOUT, LAYOUT);
        put(header::CAPACITY, capacity.into());
        put(header::SHARD, shard.into());
        for (offset, word) in identity.to_words().into_iter().enumerate() {
            put(header::IDENTITY + offset, word);
        }
        words[header::MAGIC].store(MAGIC, Ordering::Release);
        Ok(Self { words, capacity, shard, identity: *identity, granted: 0, is_copied: false })
    }

    /// The one of a predecessor. Looks only at what never changes: the predecessor may still write it.
    ///
    /// # Errors
    /// [`Refused`]: it is not one, or belongs to another fleet, boot or shard.
    pub fn identify(memfd: OwnedFd, shard: u16, identity: &Identity) -> Result<Self, Refused> {
        let words = Words::<AtomicU64>::adopt(memfd).map_err(Refused::Memory)?;
        let word = |index: usize| words.get(index).map_or(0, |word| word.load(Ordering::Relaxed));
        if word(header::MAGIC) != MAGIC {
            return Err(Refused::NotOurs);
        }
        if word(header::LAYOUT) != LAYOUT {
            return Err(Refused::Layout(word(header::LAYOUT)));
        }
        let slots = words.len().saturating_sub(HEADER_WORDS) / KEPT_WORDS;
        let capacity = u32::try_from(word(header::CAPACITY)).unwrap_or(u32::MAX);
        if capacity as usize != slots || word(header::SHARD) != u64::from(shard) {
            return Err(Refused::Corrupt);
        }
        identity.check(std::array::from_fn(|offset| word(header::IDENTITY + offset)))?;
        Ok(Self { words, capacity, shard, identity: *identity, granted: 0, is_copied: false })
    }

    /// Adopts it for a table of this capacity and this many `used` slots. If it has another capacity, it is copied.
    ///
    /// # Errors
    /// [`Refused::Memory`]: the kernel has none.
    pub fn adopt(mut self, capacity: u32, used: u32) -> Result<Self, Refused> {
        self.grant_ahead(used, 0).map_err(Refused::Memory)?;
        if self.capacity == capacity {
            return Ok(self);
        }
        let mut copy = Self::create(capacity, self.shard, &self.identity).map_err(Refused::Memory)?;
        copy.grant_ahead(used, 0).map_err(Refused::Memory)?;
        (0..used.min(capacity)).for_each(|slot| copy.put(slot, &self.get(slot)));
        copy.is_copied = true;
        Ok(copy)
    }

    /// Obtains memory for the first `slots` slots, and for `ahead` more if it does not have it yet.
    ///
    /// # Errors
    /// The kernel's, if it has no memory.
    pub fn grant_ahead(&mut self, slots: u32, ahead: u32) -> io::Result<()> {
        let slots = slots.min(self.capacity);
        if slots <= self.granted {
            return Ok(());
        }
        let until = slots.saturating_add(ahead).min(self.capacity);
        let words = |slots: u32| HEADER_WORDS + slots as usize * KEPT_WORDS;
        self.words.grant(words(self.granted)..words(until))?;
        self.granted = until;
        Ok(())
    }

    /// What was reported of a slot's holder. A slot that was never written reads as the default.
    pub fn get(&self, slot: u32) -> Kept {
        if slot >= self.granted {
            return Kept::default();
        }
        let start = HEADER_WORDS + slot as usize * KEPT_WORDS;
        Kept::from_words(std::array::from_fn(|word| self.words[start + word].load(Ordering::Relaxed)))
    }

    /// Writes it. Without memory for the slot, nothing is kept of it.
    pub fn put(&self, slot: u32, kept: &Kept) {
        if slot >= self.granted {
            return;
        }
        let start = HEADER_WORDS + slot as usize * KEPT_WORDS;
        for (word, value) in self.words[start..start + KEPT_WORDS].iter().zip(kept.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The descriptor to hand to a successor.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        match self.words.memfd() {
            Some(memfd) => memfd,
            None => unreachable!("it is a memfd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_is_read_back_and_any_words_are_read_without_harm(words in any::<[u64; KEPT_WORDS]>()) {
            let kept = Kept::from_words(words);
            prop_assert_eq!(Kept::from_words(kept.to_words()), kept);
        }
    }
}
