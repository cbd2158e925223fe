//! The session of each slot's holder, as the aggregator counts them: it writes, views read.
//!
//! One word per slot, so that none is read half-written: the session's number, the pid in the agent's own
//! namespace, and enough of the holder's generation to recognise the holder. Threads: aggregator writes, any
//! reads. Blocks: never.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::memory::Words;

/// Linux assigns pids below 2^22 (PID_MAX_LIMIT).
const PID_BITS: u32 = 22;
const PID_MASK: u64 = (1 << PID_BITS) - 1;
/// The low bits of the generation, between the pid and the session's number.
const HOLDER_BITS: u32 = 32 - PID_BITS - FREEZE_BITS - 1;
/// The [`Freeze`], next to that.
const FREEZE_BITS: u32 = 2;
const FREEZE_SHIFT: u32 = PID_BITS + HOLDER_BITS;
/// Whether it is at a standstill, next to that.
const STILL: u64 = 1 << 31;

/// The session of a slot's holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Its number, unique in this run, from 1; 0 = none.
    pub number: u32,
    /// The agent's pid inside its own namespace, if that differs and is known.
    pub ns_pid: Option<u32>,
    /// Whether its silence is a stall.
    pub freeze: Freeze,
    /// It beats and is at a standstill.
    pub is_still: bool,
}

/// Why the silence of an agent that its shard judged stalled is not a stall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freeze {
    /// It is a stall.
    #[default]
    No,
    /// The agent is frozen.
    Frozen,
    /// It was frozen, and its threshold has not passed since.
    Thawed,
}

/// The sessions of one shard's slots.
#[derive(Debug)]
pub struct Sessions {
    words: Words<AtomicU64>,
}

impl Sessions {
    /// For this many slots, none with a session.
    ///
    /// # Errors
    /// The kernel's, if it grants no address space.
    pub fn new(slots: u32) -> io::Result<Self> {
        Ok(Self { words: Words::anonymous(slots as usize)? })
    }

    /// Stores the session of holder `generation` of a slot. Aggregator only.
    pub fn put(&self, slot: u32, generation: u32, session: Session) {
        let pid = u64::from(session.ns_pid.unwrap_or(0)) & PID_MASK;
        let freeze = (session.freeze as u64) << FREEZE_SHIFT;
        let still = if session.is_still { STILL } else { 0 };
        let word = u64::from(session.number) << 32 | still | freeze | holder_of(generation) << PID_BITS | pid;
        self.words[slot as usize].store(word, Ordering::Relaxed);
    }

    /// The session of holder `generation` of a slot; `None` if the aggregator has not seen it yet, or already
    /// sees another holder.
    pub fn get(&self, slot: u32, generation: u32) -> Option<Session> {
        let word = self.words[slot as usize].load(Ordering::Relaxed);
        let number = (word >> 32) as u32;
        let is_its = word >> PID_BITS & ((1 << HOLDER_BITS) - 1) == holder_of(generation);
        let pid = u32::try_from(word & PID_MASK).ok().filter(|pid| *pid != 0);
        let freeze = match word >> FREEZE_SHIFT & ((1 << FREEZE_BITS) - 1) {
            1 => Freeze::Frozen,
            2 => Freeze::Thawed,
            _ => Freeze::No,
        };
        let is_still = word & STILL != 0;
        (is_its && number != 0).then_some(Session { number, ns_pid: pid, freeze, is_still })
    }
}

const fn holder_of(generation: u32) -> u64 {
    generation as u64 & ((1 << HOLDER_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_of_one_holder() {
        let sessions = Sessions::new(3).expect("memory");
        assert_eq!(sessions.get(1, 0), None, "nobody yet");
        let ns_pid = Some((1 << PID_BITS) - 1);
        let largest = Session { number: u32::MAX, ns_pid, freeze: Freeze::Thawed, is_still: true };
        sessions.put(1, u32::MAX, largest);
        assert_eq!(sessions.get(1, u32::MAX), Some(largest));
        assert_eq!(sessions.get(1, 0), None, "the next holder");
        assert_eq!((sessions.get(0, u32::MAX), sessions.get(2, u32::MAX)), (None, None));
        let plain = Session { number: 1, ..Session::default() };
        sessions.put(1, 0, plain);
        assert_eq!(sessions.get(1, 0), Some(plain));
    }
}
