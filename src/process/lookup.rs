//! The lookup thread: reads from procfs who a process is, once per session, and, before a stall is reported,
//! what it runs and whether it is frozen, so that neither shards nor the aggregator do.
//!
//! It also notes how much CPU time silent agents have used.
//!
//! In: questions, urgent ones first. Out: findings. Thread: its own. Blocks: in procfs and waiting for
//! questions. At most one question of each kind per slot is pending.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[cfg(any(test, feature = "bench"))]
use crossbeam::channel::Receiver;
use crossbeam::channel::{Sender, after, never, select, unbounded};

use crate::lane::Doorbell;
use crate::process::cpu::{Idlers, ShortestThreshold};
use crate::process::environment::watchdog_of;
use crate::process::freezer::Freezer;
use crate::process::procfs::{self, End, Program};
use crate::process::question::{Finding, Inquiry, Question};
use crate::sys::clock::cpu_time_ns;
use crate::table::Table;
use crate::table::place::Holder;
use crate::time::Clock;

/// The sending side.
#[derive(Debug)]
pub struct Lookups {
    urgent: Sender<Question>,
    ordinary: Sender<Question>,
    shortest: ShortestThreshold,
}

impl Lookups {
    /// Starts the thread; it ends when the sending side is dropped. Rings after each finding. Runs `on_start`
    /// first; between questions it takes the steps of [`Idlers`] of these tables; calls `on_program` with each program
    /// that was read, and with the real user when it is.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread.
    pub fn spawn(
        clock: impl Clock + Send + 'static,
        findings: Sender<Finding>,
        doorbell: Arc<Doorbell>,
        on_start: impl FnOnce() + Send + 'static,
        tables: Vec<Table>,
        on_program: impl Fn(Holder, &Program, Option<u32>) + Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (urgent, urgent_questions) = unbounded::<Question>();
        let (ordinary, questions) = unbounded::<Question>();
        let shortest = ShortestThreshold::default();
        let mut idlers = Idlers::new(tables, Arc::clone(&shortest), cpu_time_ns);
        let thread = thread::Builder::new().name("varta-lookup".into()).spawn(move || {
            on_start();
            let mut freezer = Freezer::default();
            let mut look_at = Some(clock.mono());
            loop {
                let now = clock.mono();
                if look_at.is_none_or(|at| now >= at) {
                    look_at = idlers.step(now);
                }
                let question = match urgent_questions.try_recv() {
                    Ok(question) => Ok(question),
                    Err(_) => select! {
                        recv(urgent_questions) -> question => question,
                        recv(questions) -> question => question,
                        recv(look_at.map_or_else(never, |at| after(Duration::from_nanos(at.since(now))))) -> _ => continue,
                    },
                };
                let Ok(Question { holder, pid, of, is_daemon }) = question else { return };
                let finding = match of {
                    Inquiry::Who => {
                        let mut found = procfs::identify(pid, &clock);
                        if let Ok(identity) = &mut found {
                            if is_daemon {
                                identity.program.watchdog_ns = watchdog_of(pid, &identity.inner_pids);
                            }
                            on_program(holder, &identity.program, Some(identity.uid));
                            // What it is for is done, and it may be long.
                            identity.program.groups.clear();
                        }
                        Finding::Who { holder, found }
                    }
                    Inquiry::Program | Inquiry::Class => {
                        let mut found = procfs::program(pid);
                        if is_daemon {
                            found.watchdog_ns = watchdog_of(pid, &[]);
                        }
                        found.used_cpu = idlers.has_used_cpu(holder.place, pid, clock.mono());
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
        Ok((Self { urgent, ordinary, shortest }, thread))
    }

    /// The sending side without a thread, for tests that answer themselves: urgent questions, others.
    #[cfg(any(test, feature = "bench"))]
    pub fn detached() -> (Self, [Receiver<Question>; 2]) {
        let (urgent, urgent_questions) = unbounded();
        let (ordinary, questions) = unbounded();
        (Self { urgent, ordinary, shortest: ShortestThreshold::default() }, [urgent_questions, questions])
    }

    /// The shortest threshold of the fleet from now on.
    pub fn expect_stalls_after(&self, shortest_ns: u64) {
        self.shortest.store(shortest_ns, Ordering::Relaxed);
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
