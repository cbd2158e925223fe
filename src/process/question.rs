//! Questions about processes, and their answers.

use crate::event::ExitHow;
use crate::process::procfs::{Identity, Incarnation, LookupError, Program};
use crate::time::MonoNs;

/// The slot a question is about, and which of its holders.
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
    /// The slot it is about.
    pub ticket: Ticket,
    /// The process.
    pub pid: u32,
    /// The kind of question.
    pub of: Inquiry,
}

/// The kind of a question about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Who is it?
    Identity,
    /// What does it run now, and is it frozen? A stall waits for the answer, so this is asked first.
    Program,
    /// Is it still frozen, provided it is still the same process?
    Freezer(Option<Incarnation>),
}

/// Answers of the lookup and the watch thread.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Who it is.
    Identity {
        /// The slot it is about.
        ticket: Ticket,
        /// What was found.
        found: Result<Identity, LookupError>,
    },
    /// What it runs now, if the pid still belongs to it.
    Program {
        /// The slot it is about.
        ticket: Ticket,
        /// What was found.
        found: Program,
        /// Its control group is frozen.
        is_frozen: bool,
    },
    /// Whether it is still frozen.
    Freezer {
        /// The slot it is about.
        ticket: Ticket,
        /// Whether it is.
        is_frozen: bool,
    },
    /// Asked: it exists, or that could not be found out.
    There {
        /// The slot it is about.
        ticket: Ticket,
    },
    /// It has exited, asked or not.
    Gone {
        /// The slot it is about.
        ticket: Ticket,
        /// As of when it is known to have exited.
        at: MonoNs,
        /// How it ended, if the kernel provides it.
        how: Option<ExitHow>,
    },
    /// Whether its exit will be reported unasked. Sent when it turns out that it will not, and when it will
    /// after all.
    Watching {
        /// The slot it is about.
        ticket: Ticket,
        /// Whether it will.
        is_watched: bool,
    },
}
