//! The lookup thread: asks procfs and pidfds about processes, so that nobody else has to.
//!
//! In: questions, urgent ones first. Out: answers. Thread: its own. Blocks: in procfs and waiting for
//! questions. The number of questions under way is bounded by the slots: three a slot.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, select_biased, unbounded};

use crate::lane::Doorbell;
use crate::time::{Clock, MonoNs};

pub mod process;

use process::{Identity, Incarnation};

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
pub enum Question {
    /// Who is it?
    Identify {
        /// On whose behalf.
        ticket: Ticket,
        /// The process.
        pid: u32,
    },
    /// Is it still there, and the same process as before?
    Exists {
        /// On whose behalf.
        ticket: Ticket,
        /// The process.
        pid: u32,
        /// Which one was looked up before, if any.
        incarnation: Option<Incarnation>,
        /// A stall waits for the answer: before everything else.
        is_urgent: bool,
    },
}

/// What was found out.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Who it is.
    Identity {
        /// On whose behalf.
        ticket: Ticket,
        /// What was found.
        found: Result<Identity, LookupError>,
    },
    /// Whether it is there.
    Existence {
        /// On whose behalf.
        ticket: Ticket,
        /// `None`: it is. Else since when it is known not to be.
        gone_at: Option<MonoNs>,
    },
}

/// Why a process could not be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such process as of this instant.
    Gone(MonoNs),
    /// The kernel would not tell.
    Failed,
}

/// The asking side.
#[derive(Debug)]
pub struct Lookups {
    urgent: Sender<Question>,
    ordinary: Sender<Question>,
    /// What was found out.
    pub answers: Receiver<Answer>,
}

impl Lookups {
    /// Starts the thread; it ends when the asking side is dropped. Each answer rings.
    ///
    /// # Errors
    /// The kernel's, when it grants no thread.
    pub fn spawn(
        clock: impl Clock + Send + 'static,
        doorbell: Arc<Doorbell>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (urgent, urgent_questions) = unbounded();
        let (ordinary, ordinary_questions) = unbounded();
        let (answer, answers) = unbounded();
        let thread = thread::Builder::new().name("varta-lookup".into()).spawn(move || {
            while let Some(question) = next(&urgent_questions, &ordinary_questions) {
                if answer.send(find_out(question, &clock)).is_err() {
                    return;
                }
                doorbell.ring();
            }
        })?;
        Ok((Self { urgent, ordinary, answers }, thread))
    }

    /// The asking side without a thread, for a world that answers by itself: questions come out of the
    /// second and third value.
    #[cfg(test)]
    pub fn detached() -> (Self, Receiver<Question>, Receiver<Question>, Sender<Answer>) {
        let (urgent, urgent_questions) = unbounded();
        let (ordinary, ordinary_questions) = unbounded();
        let (answer, answers) = unbounded();
        (Self { urgent, ordinary, answers }, urgent_questions, ordinary_questions, answer)
    }

    /// Asks. Never blocks. If the thread is gone there will be no answer: askers set themselves a limit.
    pub fn ask(&self, question: Question) {
        let line = match question {
            Question::Exists { is_urgent: true, .. } => &self.urgent,
            Question::Exists { .. } | Question::Identify { .. } => &self.ordinary,
        };
        let _ = line.send(question);
    }
}

/// The next question, urgent ones first; `None` when nobody can ask any more.
fn next(urgent: &Receiver<Question>, ordinary: &Receiver<Question>) -> Option<Question> {
    select_biased! {
        recv(urgent) -> question => question.ok(),
        recv(ordinary) -> question => question.ok(),
    }
}

fn find_out(question: Question, clock: &impl Clock) -> Answer {
    match question {
        Question::Identify { ticket, pid } => {
            Answer::Identity { ticket, found: process::identify(pid, clock) }
        }
        Question::Exists { ticket, pid, incarnation, .. } => {
            Answer::Existence { ticket, gone_at: process::gone_at(pid, incarnation, clock) }
        }
    }
}
