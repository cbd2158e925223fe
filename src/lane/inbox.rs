//! Instructions of the aggregator to a shard: cannot overflow, one place per slot.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::index::{IndexLane, index_lane};
use crate::sys::memory::Words;
use crate::table::word::Word;
use crate::time::MonoNs;

/// The kinds of an instruction: a set of bits.
pub mod instruction {
    /// The slot's holder is gone as of the instruction's instant: release the slot.
    pub const RELEASE: u32 = 1;
    /// With [`RELEASE`]: only if it has not beaten since; it now beats on another shard.
    pub const IF_SILENT: u32 = 1 << 1;
    /// The claimed pid is not the sender's.
    pub const FORGED: u32 = 1 << 2;
    /// The claimed pid is one of the sender's inner pids, or the sender has exited and cannot be looked up.
    pub const INNER_PID: u32 = 1 << 3;
    /// The agent's threshold class is known.
    pub const CLASS: u32 = 1 << 4;
    /// The agent beat elsewhere before, so its terminal frame opens a deadline, too.
    pub const OPEN: u32 = 1 << 5;
    /// The last stall was premature: a longer threshold applies, or a frame was refused meanwhile. Judge it again.
    pub const WITHDRAW: u32 = 1 << 6;
    /// Another program began under the agent's pid: its start begins anew.
    pub const BEGIN: u32 = 1 << 7;
    /// It is known what the daemon was started with.
    pub const STARTED_WITH: u32 = 1 << 8;
    /// The daemon was heard from its start on.
    pub const FROM_START: u32 = 1 << 9;
    /// The bits below this are those above; the bits from here on are the holder's generation.
    pub(super) const GENERATION_SHIFT: u32 = 10;
}

/// The bits of a value that hold the class and the number of its table.
const OF_CLASS: u64 = 0xFF_FFFF;

/// The values of an instruction; its bits decide which of them apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// The slot's holder is known to be gone until this instant.
    pub as_of: MonoNs,
    /// The pid that the agent's frames carry.
    pub inner_pid: u32,
    /// The threshold that a daemon was started with, ms; 0: none. It has no other pid in its messages.
    pub threshold_ms: u32,
    /// The threshold class.
    pub class: u8,
    /// The number of the table that the class is of: the shard may use another one by now.
    pub table: u16,
}

/// An instruction taken from an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The slot.
    pub slot: u32,
    /// The low bits of the holder's generation.
    holder: u32,
    /// The bits of the instruction.
    pub bits: u32,
    /// Its values.
    pub instruction: Instruction,
}

impl Taken {
    /// Whether it is about this holder of the slot.
    #[must_use]
    pub const fn is_about(&self, generation: u32) -> bool {
        generation << instruction::GENERATION_SHIFT >> instruction::GENERATION_SHIFT == self.holder
    }
}

/// Instructions to one shard: cannot overflow, one place per slot. `L` and `M` hold the words.
#[derive(Debug)]
pub struct Inbox<N = AtomicU32, V = AtomicU64, L = Words<N>, M = Words<V>>
where
    N: Word<Value = u32>,
    V: Word<Value = u64>,
    L: Deref<Target = [N]>,
    M: Deref<Target = [V]>,
{
    pub(super) lane: IndexLane<N, L>,
    /// Per slot two words: the instant; the inner pid or the threshold, the number of the table and the class.
    pub(super) values: M,
}

impl Inbox {
    /// An inbox for this many slots.
    ///
    /// # Errors
    /// The kernel's, if it grants no address space.
    pub fn new(slots: u32) -> io::Result<Self> {
        Ok(Self { lane: index_lane(slots)?, values: Words::anonymous(slots as usize * 2)? })
    }
}

impl<N, V, L, M> Inbox<N, V, L, M>
where
    N: Word<Value = u32>,
    V: Word<Value = u64>,
    L: Deref<Target = [N]>,
    M: Deref<Target = [V]>,
{
    /// Posts an instruction about the holder `generation` of a slot. Aggregator only; kick the shard afterwards.
    ///
    /// The slot may have another holder meanwhile, to which the instruction must not apply: the shard compares
    /// generations. The aggregator posts about a later holder only once the shard has taken all instructions
    /// about the one before or cannot apply them any more, so the values below are those of the bits' holder.
    pub fn post(&self, slot: u32, generation: u32, bits: u32, instruction: Instruction) {
        let [as_of, rest] = self.values(slot);
        if bits & instruction::RELEASE != 0 {
            as_of.store(instruction.as_of.0, Ordering::Relaxed);
        }
        let mut word = rest.load(Ordering::Relaxed);
        if bits & instruction::INNER_PID != 0 {
            word = word & OF_CLASS | u64::from(instruction.inner_pid) << 32;
        }
        if bits & instruction::STARTED_WITH != 0 {
            word = word & OF_CLASS | u64::from(instruction.threshold_ms) << 32;
        }
        if bits & instruction::CLASS != 0 {
            word = word & !OF_CLASS | u64::from(instruction.table) << 8 | u64::from(instruction.class);
        }
        rest.store(word, Ordering::Relaxed);
        let holder = generation << instruction::GENERATION_SHIFT;
        let of_bits = (1 << instruction::GENERATION_SHIFT) - 1;
        self.lane.push_amended(slot, |waiting| {
            // Bits for an earlier holder are void.
            let mut waiting = if waiting & !of_bits == holder { waiting & of_bits } else { 0 };
            // An unconditional release overrides one that depends on silence.
            let both = waiting & bits & instruction::RELEASE != 0;
            let if_silent = instruction::IF_SILENT & if both { waiting & bits } else { waiting | bits };
            waiting = (waiting | bits) & !instruction::IF_SILENT | if_silent;
            holder | waiting
        });
    }

    /// Takes the next instruction. Shard only.
    #[inline]
    pub fn take(&self) -> Option<Taken> {
        let (slot, word_of_bits) = self.lane.pop()?;
        let bits = word_of_bits & ((1 << instruction::GENERATION_SHIFT) - 1);
        let holder = word_of_bits >> instruction::GENERATION_SHIFT;
        let [as_of, rest] = self.values(slot);
        let word = rest.load(Ordering::Relaxed);
        let [class, low, high, ..] = word.to_le_bytes();
        let table = u16::from_le_bytes([low, high]);
        let inner_pid = (word >> 32) as u32;
        let as_of = MonoNs(as_of.load(Ordering::Relaxed));
        let instruction = Instruction { as_of, inner_pid, threshold_ms: inner_pid, class, table };
        Some(Taken { slot, holder, bits, instruction })
    }

    fn values(&self, slot: u32) -> [&V; 2] {
        let start = slot as usize * 2;
        [&self.values[start], &self.values[start + 1]]
    }
}
