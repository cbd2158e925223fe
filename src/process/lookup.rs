//! The lookup thread: reads from procfs who a process is, once per session, and, before a stall is reported,
//! what it runs and whether it is frozen, so that neither shards nor the aggregator do.
//!
//! In: questions, urgent ones first. Out: findings. Thread: its own. Blocks: in procfs and waiting for
//! questions. At most one question of each kind per slot is pending.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

#[cfg(any(test, feature = "bench"))]
use crossbeam::channel::Receiver;
use crossbeam::channel::{Sender, select, unbounded};

use crate::lane::Doorbell;
use crate::process::freezer::Freezer;
use crate::process::procfs::{self, End, Program};
use crate::process::question::{Finding, Inquiry, Question};
use crate::table::place::Holder;
use crate::time::Clock;

/// The sending side.
#[derive(Debug)]
pub struct Lookups {
    urgent: Sender<Question>,
    ordinary: Sender<Question>,
}

impl Lookups {
    /// Starts the thread; it ends when the sending side is dropped. Rings after each finding. Runs `on_start`
    /// first; calls `on_program` with each program that was read, and with the real user when it is.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread.
    pub fn spawn(
        clock: impl Clock + Send + 'static,
        findings: Sender<Finding>,
        doorbell: Arc<Doorbell>,
        on_start: impl FnOnce() + Send + 'static,
        on_program: impl Fn(Holder, &Program, Option<u32>) + Send + 'static,
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
                let Ok(Question { holder, pid, of }) = question else { return };
                let finding = match of {
                    Inquiry::Who => {
                        let mut found = procfs::identify(pid, &clock);
                        if let Ok(identity) = &mut found {
                            on_program(holder, &identity.program, Some(identity.uid));
                            // What it is for is done, and it may be long.
                            identity.program.groups.clear();
                        }
                        Finding::Who { holder, found }
                    }
                    Inquiry::Program | Inquiry::Class => {
                        let mut found = procfs::program(pid);
                        on_program(holder, &found, None);
                        let is_frozen =
                            freezer.is_any_frozen(&std::mem::take(&mut found.groups), clock.mono());
                        Finding::Program { holder, found, is_frozen }
                    }
                    Inquiry::Lives(start) => Finding::Lives { pid, life: procfs::life(pid, start) },
                    Inquiry::Freezer(incarnation) => {
                        let is_frozen = freezer.is_frozen(pid, clock.mono());
                        // An exited process is in no group, and the next one may be in another: that is no
                        // thaw.
                        let end = if is_frozen { None } else { procfs::end(pid, incarnation, &clock) };
                        match end {
                            Some(End { at, how }) => Finding::Gone { holder, at, how },
                            None => Finding::Freezer { holder, is_frozen },
                        }
                    }
                };
                if findings.send(finding).is_err() {
                    return;
                }
                doorbell.ring();
            }
        })?;
        Ok((Self { urgent, ordinary }, thread))
    }

    /// The sending side without a thread, for tests that answer themselves: urgent questions, others.
    #[cfg(any(test, feature = "bench"))]
    pub fn detached() -> (Self, [Receiver<Question>; 2]) {
        let (urgent, urgent_questions) = unbounded();
        let (ordinary, questions) = unbounded();
        (Self { urgent, ordinary }, [urgent_questions, questions])
    }

    /// Questions that are not urgent and wait for their turn.
    pub fn waiting(&self) -> usize {
        self.ordinary.len()
    }

    /// Sends a question. Never blocks. If the thread has ended there is no answer, so callers need a timeout.
    pub fn ask(&self, question: Question) {
        let _ = match question.of {
            Inquiry::Who | Inquiry::Class | Inquiry::Freezer(_) | Inquiry::Lives(_) => {
                self.ordinary.send(question)
            }
            Inquiry::Program => self.urgent.send(question),
        };
    }
}
