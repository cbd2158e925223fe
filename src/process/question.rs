//! What is asked about processes, and what is found out.

use crate::event::ExitHow;
use crate::process::procfs::{Identity, Incarnation, LookupError, Program};
use crate::time::MonoNs;

/// Which slot a question is about, and which of its holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The shard.
    pub shard: u16,
    /// The slot.
    pub slot: u32,
    /// The holder.
    pub generation: u32,
}

/// A question about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// On whose behalf.
    pub ticket: Ticket,
    /// The process.
    pub pid: u32,
    /// What is asked.
    pub of: Inquiry,
}

/// What is asked about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Who is it?
    Identity,
    /// What does it run by now, and is it frozen? A stall waits for the answer: before everything else.
    Program,
    /// Is it still frozen, if it is still this one?
    Freezer(Option<Incarnation>),
}

/// What the lookup and the watch thread found out.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Who it is.
    Identity {
        /// On whose behalf.
        ticket: Ticket,
        /// What was found.
        found: Result<Identity, LookupError>,
    },
    /// What it runs by now, if the pid is still its own.
    Program {
        /// On whose behalf.
        ticket: Ticket,
        /// What was found.
        found: Program,
        /// Its control group is frozen.
        is_frozen: bool,
    },
    /// Whether it is still frozen.
    Freezer {
        /// On whose behalf.
        ticket: Ticket,
        /// It is.
        is_frozen: bool,
    },
    /// Asked: it is there, or the kernel does not say.
    There {
        /// On whose behalf.
        ticket: Ticket,
    },
    /// It is gone, asked or not.
    Gone {
        /// On whose behalf.
        ticket: Ticket,
        /// Since when it is known to be.
        at: MonoNs,
        /// How it ended, where the kernel says.
        how: Option<ExitHow>,
    },
    /// Whether its end will be told unasked. Said when it turns out not to be, and when it is after all.
    Watching {
        /// On whose behalf.
        ticket: Ticket,
        /// It will.
        is_watched: bool,
    },
}
