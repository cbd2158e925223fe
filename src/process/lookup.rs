//! The lookup thread: asks procfs who a process is, once per session, and what it runs by now and whether it is
//! frozen, before a stall is reported, so that no other thread reads procfs.
//!
//! In: questions, urgent ones first. Out: answers. Thread: its own. Blocks: in procfs and waiting for questions.
//! The number of questions under way is bounded by the slots: one of each kind a slot.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

#[cfg(any(test, feature = "bench"))]
use crossbeam::channel::Receiver;
use crossbeam::channel::{Sender, select, unbounded};

use crate::lane::Doorbell;
use crate::process::freezer::Freezer;
use crate::process::procfs::{self, End, Program};
use crate::process::question::{Answer, Inquiry, Question, Ticket};
use crate::time::Clock;

/// The asking side.
#[derive(Debug)]
pub struct Lookups {
    urgent: Sender<Question>,
    ordinary: Sender<Question>,
}

impl Lookups {
    /// Starts the thread; it ends when the asking side is dropped. Each answer rings. `on_start` runs on it first;
    /// `on_program` is told what processes run.
    ///
    /// # Errors
    /// The kernel's, when it grants no thread.
    pub fn spawn(
        clock: impl Clock + Send + 'static,
        answers: Sender<Answer>,
        doorbell: Arc<Doorbell>,
        on_start: impl FnOnce() + Send + 'static,
        on_program: impl Fn(Ticket, &Program) + Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (urgent, urgent_questions) = unbounded::<Question>();
        let (ordinary, questions) = unbounded::<Question>();
        let thread = thread::Builder::new().name("varta-lookup".into()).spawn(move || {
            on_start();
            let mut freezer = Freezer::default();
            loop {
                let question = urgent_questions.try_recv().or_else(|_| {
                    select! {
                        recv(urgent_questions) -> question => question,
                        recv(questions) -> question => question,
                    }
                });
                let Ok(Question { ticket, pid, of }) = question else { return };
                let answer = match of {
                    Inquiry::Identity => {
                        let found = procfs::identify(pid, &clock);
                        if let Ok(identity) = &found {
                            on_program(ticket, &identity.program);
                        }
                        Answer::Identity { ticket, found }
                    }
                    Inquiry::Program => {
                        let found = procfs::program(pid);
                        on_program(ticket, &found);
                        Answer::Program { ticket, found, is_frozen: freezer.is_frozen(pid, clock.mono()) }
                    }
                    Inquiry::Freezer(incarnation) => {
                        let is_frozen = freezer.is_frozen(pid, clock.mono());
                        // The dead are in no group, and an heir may be in another: that is no thaw.
                        let end = if is_frozen { None } else { procfs::end(pid, incarnation, &clock) };
                        match end {
                            Some(End { at, how }) => Answer::Gone { ticket, at, how },
                            None => Answer::Freezer { ticket, is_frozen },
                        }
                    }
                };
                if answers.send(answer).is_err() {
                    return;
                }
                doorbell.ring();
            }
        })?;
        Ok((Self { urgent, ordinary }, thread))
    }

    /// The asking side without a thread, for a world that answers by itself: urgent questions, others.
    #[cfg(any(test, feature = "bench"))]
    pub fn detached() -> (Self, [Receiver<Question>; 2]) {
        let (urgent, urgent_questions) = unbounded();
        let (ordinary, questions) = unbounded();
        (Self { urgent, ordinary }, [urgent_questions, questions])
    }

    /// Asks. Never blocks. If the thread is gone there will be no answer: askers set themselves a limit.
    pub fn ask(&self, question: Question) {
        let _ = match question.of {
            Inquiry::Identity | Inquiry::Freezer(_) => self.ordinary.send(question),
            Inquiry::Program => self.urgent.send(question),
        };
    }
}
