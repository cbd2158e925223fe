//! What was told of each slot so far. The slot counts what happened; the difference is to be told.

use std::num::NonZeroU64;

use crate::event::ExitHow;
use crate::lookup::process::Incarnation;
use crate::time::MonoNs;
use crate::wire::Status;

/// Slots whose records are allocated together, when the first of them is used.
const CHUNK: usize = 1024;

/// A slot of the fleet: shard and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// The slot of its table.
    pub slot: u32,
}

/// The slots of one pid. Nearly all have one, which allocates nothing.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where it was seen last.
    pub first: Option<Place>,
    /// Where else.
    pub more: Vec<Place>,
}

impl Places {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// Whether the holder's process is known to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existence {
    /// Nobody asked lately.
    #[default]
    Unknown,
    /// The watch thread was asked.
    Asked,
    /// It was there when asked.
    There,
    /// It is gone as of this instant.
    Gone(MonoNs),
}

/// What is known and told of one slot's holder, beside what the slot itself says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Which holder; 0 = none since the start.
    pub generation: u32,
    /// Its pid; 0 = nobody holds the slot.
    pub pid: u32,
    /// Its pid inside its own namespace, if that differs.
    pub ns_pid: Option<u32>,
    /// Number of its session.
    pub session: u32,
    /// Ordinals told.
    pub stalls: u32,
    /// Ordinals told.
    pub resumes: u32,
    /// Ordinals told.
    pub streams: u32,
    /// Ordinals told.
    pub statuses: u32,
    /// Ordinals told.
    pub terminals: u32,
    /// Ordinals told.
    pub versions: u32,
    /// Status told last.
    pub status: Status,
    /// `up` was told, or is not to be told because the agent is known on another shard.
    pub is_up: bool,
    /// Counted among the agents up or stalled of its shard.
    pub is_counted: bool,
    /// A stall was told and no resume since.
    pub is_stalled: bool,
    /// A stall waits for what others know before it is told.
    pub is_confirming: bool,
    /// It beats while another slot of its pid is told stalled: it resumes once it is known to be the same.
    pub is_returning: bool,
    /// A stall that was over before it was told is told once other shards had their word.
    pub is_recalling: bool,
    /// What it says waits until its process is known to be the one that was told of.
    pub is_doubted: bool,
    /// `mixed` was told.
    pub is_mixed: bool,
    /// Nothing is told until the lookup says whose pid the frames claim.
    pub is_held: bool,
    /// All its frames were forged: it is nobody's agent, and its silence is not told.
    pub is_closed: bool,
    /// The lookup thread was asked who it is.
    pub is_identifying: bool,
    /// The shard was told to give the slot back.
    pub is_releasing: bool,
    /// Unless it beat later than this.
    pub released_as_of: MonoNs,
    /// Its pid does not hash to its shard.
    pub is_off_hash: bool,
    /// The watch thread was told to say when its process ends.
    pub is_watch_ordered: bool,
    /// It will not, for want of a descriptor.
    pub is_unwatched: bool,
    /// In the list of those whose facts were taken and not looked at.
    pub is_to_be_looked_at: bool,
    /// In the list of those asked about again and again.
    pub is_polled: bool,
    /// How its process ended, once that is known.
    pub how: Option<ExitHow>,
    /// The claimed pid that was looked into last: the shard has the answer, or will have it.
    pub settled_claim: Option<u32>,
    /// Which process it is.
    pub incarnation: Option<Incarnation>,
    /// Hash of its program's path, to notice exec.
    pub program: Option<NonZeroU64>,
    /// Whether its process is there.
    pub existence: Existence,
    /// Questions about that under way.
    pub asked: u8,
    /// Another slot of the same pid.
    pub next: Option<Place>,
}

/// The records of one shard, allocated as slots are used.
#[derive(Debug)]
pub struct ToldTable {
    chunks: Vec<Option<Box<[Told]>>>,
}

impl Told {
    /// Its exit was told, and its slot is on its way back.
    pub const fn is_over(&self) -> bool {
        self.is_releasing && matches!(self.existence, Existence::Gone(_))
    }
}

impl ToldTable {
    /// Records for `slots` slots.
    pub fn new(slots: u32) -> Self {
        let chunks = (slots as usize).div_ceil(CHUNK);
        Self { chunks: (0..chunks).map(|_| None).collect() }
    }

    /// The record of a slot; allocates its chunk at first use.
    pub fn of(&mut self, slot: u32) -> &mut Told {
        let slot = slot as usize;
        let chunk =
            self.chunks[slot / CHUNK].get_or_insert_with(|| vec![Told::default(); CHUNK].into_boxed_slice());
        &mut chunk[slot % CHUNK]
    }
}
