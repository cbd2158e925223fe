//! Questions about processes, and their findings.

use crate::event::ExitHow;
use crate::process::expected::Expected;
use crate::process::procfs::{Incarnation, Life, LookedUp, LookupError, Program};
use crate::table::place::Holder;
use crate::time::MonoNs;

/// A question about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The slot it is about; the default for [`Inquiry::Lives`].
    pub holder: Holder,
    /// The process.
    pub pid: u32,
    /// The kind of question.
    pub of: Inquiry,
    /// What it was started with is of interest, too: it is a daemon.
    pub is_daemon: bool,
}

/// The kind of a question about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Who is it?
    Who,
    /// What does it run now, and is it frozen? A stall waits for the answer, so this is asked first.
    Program,
    /// As `Program`, but nothing waits for the answer.
    Class,
    /// Is it still frozen, provided it is still the same process?
    Freezer(Option<Incarnation>),
    /// Does an agent of the roster live, whose process started then, in clock ticks since boot? It has no slot.
    Lives(u64),
}

impl Question {
    /// Does this agent of the roster live?
    pub fn of_expected(expected: &Expected) -> Self {
        Self {
            holder: Holder::default(),
            pid: expected.pid,
            of: Inquiry::Lives(expected.start),
            is_daemon: false,
        }
    }
}

/// What the lookup or the watch thread found out about a process.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Who it is.
    Who {
        /// The slot it is about.
        holder: Holder,
        /// What was found.
        found: Result<LookedUp, LookupError>,
    },
    /// What it runs now, if the pid still belongs to it.
    Program {
        /// The slot it is about.
        holder: Holder,
        /// What was found.
        found: Program,
        /// Its control group is frozen.
        is_frozen: bool,
    },
    /// Whether it is still frozen.
    Freezer {
        /// The slot it is about.
        holder: Holder,
        /// Whether it is.
        is_frozen: bool,
    },
    /// Whether an agent of the roster lives.
    Lives {
        /// Its process.
        pid: u32,
        /// Whether it does.
        life: Life,
    },
    /// Asked: it exists, or that could not be found out.
    There {
        /// The slot it is about.
        holder: Holder,
    },
    /// It has exited, asked or not.
    Gone {
        /// The slot it is about.
        holder: Holder,
        /// As of when it is known to have exited.
        at: MonoNs,
        /// How it ended, if the kernel provides it.
        how: Option<ExitHow>,
    },
    /// Whether its exit will be reported unasked. Sent when it turns out that it will not, and when it will
    /// after all.
    Watching {
        /// The slot it is about.
        holder: Holder,
        /// Whether it will.
        is_watched: bool,
    },
}
