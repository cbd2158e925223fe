//! The lookup thread: asks procfs who a process is, once per session, so that nobody else has to.
//!
//! In: questions. Out: answers. Thread: its own. Blocks: in procfs and waiting for questions. The number
//! of questions under way is bounded by the slots: one a slot.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

#[cfg(any(test, feature = "bench"))]
use crossbeam::channel::Receiver;
use crossbeam::channel::{Sender, unbounded};

use crate::event::ExitHow;
use crate::lane::Doorbell;
use crate::time::{Clock, MonoNs};

pub mod process;

use process::Identity;

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

/// Who is it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// On whose behalf.
    pub ticket: Ticket,
    /// The process.
    pub pid: u32,
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
    /// Somebody asked, and it is there, or nobody can tell.
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

/// Why a process could not be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such process as of this instant; how it ended, if the kernel says.
    Gone(MonoNs, Option<ExitHow>),
    /// The kernel would not tell.
    Failed,
}

/// The asking side.
#[derive(Debug)]
pub struct Lookups {
    questions: Sender<Question>,
}

impl Lookups {
    /// Starts the thread; it ends when the asking side is dropped. Each answer rings. `on_name` is told what
    /// processes are called.
    ///
    /// # Errors
    /// The kernel's, when it grants no thread.
    pub fn spawn(
        clock: impl Clock + Send + 'static,
        answers: Sender<Answer>,
        doorbell: Arc<Doorbell>,
        on_name: impl Fn(Ticket, &str) + Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (asking, questions) = unbounded::<Question>();
        let thread = thread::Builder::new().name("varta-lookup".into()).spawn(move || {
            for Question { ticket, pid } in questions {
                let found = process::identify(pid, &clock);
                if let Ok(identity) = &found {
                    on_name(ticket, &identity.comm);
                }
                if answers.send(Answer::Identity { ticket, found }).is_err() {
                    return;
                }
                doorbell.ring();
            }
        })?;
        Ok((Self { questions: asking }, thread))
    }

    /// The asking side without a thread, for a world that answers by itself.
    #[cfg(any(test, feature = "bench"))]
    pub fn detached() -> (Self, Receiver<Question>) {
        let (asking, questions) = unbounded();
        (Self { questions: asking }, questions)
    }

    /// Asks. Never blocks. If the thread is gone there will be no answer: askers set themselves a limit.
    pub fn ask(&self, question: Question) {
        let _ = self.questions.send(question);
    }
}
