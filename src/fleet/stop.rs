//! The threads of a running fleet, and their end.
//!
//! Thread: the caller's. Blocks: until the threads have ended, each for a bounded time.
//!
//! If a thread cannot be started, the ones already running end by being dropped.

use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use super::handle::Handle;
use super::takeover::{Handed, Successors};
use crate::aggregator::Request;
use crate::config::plan::Output;
#[cfg(feature = "http")]
use crate::http::Http;
use crate::journal::Journal;
use crate::lane::Port;
use crate::lane::counters::ShardHealth;
use crate::rundir::binding::BoundSocket;
use crate::rundir::upkeep::Upkeep;
use crate::sinks::{Earlier, EventWriter, OutputState, WriterReport};
use crate::sys::clock::SystemClock;
use crate::sys::thread::join_until;
use crate::time::Clock;
use crate::view::health::{Health, Problem};
use crate::warning::Warning;

/// How long a stop waits for threads. They end within milliseconds unless they are stuck.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a fleet that was taken over waits for its successor to observe.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(31);
/// The default time for writing the remaining events.
pub const WRITE_WITHIN: Duration = Duration::from_millis(500);

/// How a fleet stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Shards whose threads ended before the stop, or were stuck.
    pub shards_dead: usize,
    /// The aggregator's thread ended before the stop, or was stuck: events are missing.
    pub is_aggregator_dead: bool,
    /// Events that could not be written to the output in time.
    pub events_unwritten: u64,
    /// The output ends in the middle of a line.
    pub ends_mid_line: bool,
    /// What made the fleet unhealthy when the stop began, and threads that ended before it.
    pub problems: Vec<Problem>,
    /// Problems of the fleet's files since the last call of
    /// [`Fleet::next_warning`](crate::Fleet::next_warning), up to the stop.
    pub warnings: Vec<Warning>,
}

/// The shards' threads. They end when this is dropped.
#[derive(Debug)]
pub struct Shards {
    pub ports: Arc<[Arc<Port>]>,
    pub stop: Arc<AtomicBool>,
    pub threads: Vec<JoinHandle<()>>,
}

impl Shards {
    /// Requests their end.
    fn end(&self) {
        let now = SystemClock.mono();
        self.stop.store(true, Ordering::Release);
        for port in &*self.ports {
            port.kick(now);
        }
    }

    /// Waits for them. Returns how many had ended before, or were stuck.
    fn join_until(&mut self, until: Instant) -> usize {
        let mut dead = 0;
        for (thread, port) in self.threads.drain(..).zip(&*self.ports) {
            // A shard that is known to be stuck gets no further time.
            let has_ended =
                join_until(thread, if port.is_alive() { until } else { Instant::now() }).is_some();
            dead += usize::from(!has_ended || port.counters.health() != ShardHealth::Alive);
        }
        dead
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
            self.join_until(Instant::now() + STOP_WITHIN);
        }
    }
}

/// The threads that report: they start before the shards and end after them. They end when this is dropped.
#[derive(Debug)]
pub struct Tellers {
    pub handle: Handle,
    pub aggregator: Option<JoinHandle<()>>,
    /// The lookup and the watch thread. They end once the aggregator drops its senders.
    pub helpers: Vec<JoinHandle<()>>,
    pub writers: Writers,
}

/// A running event writer and its output.
#[derive(Debug)]
pub struct OutputWriter {
    pub writer: EventWriter,
    pub output: Output,
    /// Device and inode of its file when it was opened.
    pub file: Option<(u64, u64)>,
    /// Another one writes the events since.
    pub is_replaced: Arc<AtomicBool>,
}

/// The event writers: the last one, if it is not replaced, writes present events; the others write the rest of theirs.
#[derive(Debug)]
pub struct Writers {
    all: Mutex<Vec<OutputWriter>>,
    state: Arc<OutputState>,
}

impl Writers {
    /// The writer that was started with the fleet, if any.
    pub fn new(writer: Option<OutputWriter>, state: Arc<OutputState>) -> Self {
        Self { all: Mutex::new(writer.into_iter().collect()), state }
    }

    /// Reopens the outputs.
    pub fn reopen(&self) {
        self.all.lock().iter().for_each(|of| of.writer.reopen());
    }

    /// The writers so far, for the next one, which writes to this output.
    pub fn before(&self, output: &Output, file: Option<(u64, u64)>) -> Earlier {
        let all = self.all.lock();
        let on_it = all.iter().filter(|of| of.output == *output || of.file.is_some() && of.file == file);
        Earlier {
            all: all.iter().map(|of| of.writer.ended()).collect(),
            on_it: on_it.map(|of| of.writer.ended()).collect(),
        }
    }

    /// The ends of the writers so far.
    pub fn ends(&self) -> Vec<Receiver<Infallible>> {
        self.all.lock().iter().map(|of| of.writer.ended()).collect()
    }

    /// Puts a writer, or none, in the place of the present one, which finishes in the background.
    pub fn replace(&self, writer: Option<OutputWriter>) {
        let mut all = self.all.lock();
        all.iter().for_each(|of| of.is_replaced.store(true, Ordering::Release));
        all.retain(|of| !of.writer.has_ended());
        all.extend(writer);
        self.state.clear();
    }

    /// Whether all of them have written what they have.
    #[cfg(test)]
    pub fn have_ended(&self) -> bool {
        self.all.lock().iter().all(|of| of.writer.has_ended())
    }

    /// Ends all of them, within this time. The senders of their events are gone.
    fn close(&self, within: Duration) -> Option<WriterReport> {
        let until = Instant::now() + within;
        let all = mem::take(&mut *self.all.lock());
        let reports =
            all.into_iter().map(|of| of.writer.close(until.saturating_duration_since(Instant::now())));
        reports.reduce(WriterReport::and)
    }
}

impl Tellers {
    /// Ends all but the writers. Returns whether the aggregator had ended before, or is stuck.
    pub fn end(&mut self) -> bool {
        let Some(aggregator) = self.aggregator.take() else { return false };
        let _ = self.handle.requests.send(Request::Stop);
        self.handle.doorbell.ring();
        let is_dead = join_until(aggregator, Instant::now() + STOP_WITHIN).is_none();
        // While the aggregator is stuck, its helpers cannot end.
        let act = self.handle.act_thread.lock().take();
        for thread in self.helpers.drain(..).chain(act) {
            if !is_dead {
                let _ = join_until(thread, Instant::now() + STOP_WITHIN);
            }
        }
        is_dead
    }

    /// Ends the writers, after the others have ended.
    fn close(&self, within: Duration) -> Option<WriterReport> {
        self.writers.close(within)
    }
}

impl Drop for Tellers {
    fn drop(&mut self) {
        self.end();
        let _ = self.close(WRITE_WITHIN);
    }
}

/// All threads of a running fleet.
#[derive(Debug)]
pub struct Running {
    pub shards: Shards,
    pub tellers: Tellers,
    #[cfg(feature = "http")]
    pub http: Http,
    pub upkeep: Upkeep,
    /// What answers successors, if anything does.
    pub successors: Option<Successors>,
    /// Where it is recorded how this observer ended.
    pub journal: Arc<Journal>,
}

impl Running {
    /// Stops them in order. Remaining events may take `within` to be written.
    pub fn stop(self, within: Duration) -> StopReport {
        self.end(within).unwrap_or_default()
    }

    /// Ends them without a trace, if a successor has taken over; else stops them.
    pub fn leave(self, within: Duration) -> Result<Handed, StopReport> {
        self.end(within).map_or_else(Ok, Err)
    }

    fn end(mut self, within: Duration) -> Result<StopReport, Handed> {
        if let Some(successors) = self.successors.take() {
            if successors.close() {
                self.abandon();
                return Err(successors.join(SUCCESSOR_WITHIN).unwrap_or(Handed::Silent));
            }
            // It shares the files with the upkeep.
            let _ = successors.join(STOP_WITHIN);
        }
        Ok(self.stop_in_order(within))
    }

    /// Ends the threads, which are parked, and changes nothing that the successor has now.
    fn abandon(self) {
        let Self { mut shards, mut tellers, upkeep, .. } = self;
        tellers.handle.vitals.stop();
        // It would answer clients of the successor.
        #[cfg(feature = "http")]
        end_http(self.http);
        let upkeep = upkeep.end();
        let until = Instant::now() + STOP_WITHIN;
        shards.join_until(until);
        let _ = upkeep.join_until(until);
        tellers.end();
        // It has written everything.
        let _ = tellers.close(Duration::ZERO);
    }

    fn stop_in_order(self, within: Duration) -> StopReport {
        let Self { mut shards, mut tellers, upkeep, journal, .. } = self;
        let vitals = &tellers.handle.vitals;
        let Health { problems } = vitals.threads(SystemClock.mono());
        vitals.stop();
        shards.end();
        let upkeep = upkeep.end();
        let until = Instant::now() + STOP_WITHIN;
        let shards_dead = shards.join_until(until);
        // An upkeep thread stuck in the file system keeps the files, as in a crash. One that panicked left
        // them to us.
        let (mut files, warnings) = upkeep.join_until(until);
        if let Some(files) = &mut files {
            if files.sockets.iter().all(BoundSocket::stays) {
                files.dir.leave();
            } else {
                files.dir.withdraw();
            }
        }
        let is_aggregator_dead = tellers.end();
        // HTTP also delivers the last events, so it ends after the aggregator.
        #[cfg(feature = "http")]
        end_http(self.http);
        let written = tellers.close(within);
        // A problem that ended it may come from what it adopted.
        if problems.iter().any(Problem::is_fatal) || is_aggregator_dead || shards_dead > 0 {
            journal.mark_failed();
        } else {
            journal.mark_clean();
        }
        drop(files);
        StopReport {
            is_aggregator_dead,
            shards_dead,
            events_unwritten: written.as_ref().map_or(0, |report| report.events_unwritten),
            ends_mid_line: written.is_some_and(|report| report.ends_mid_line),
            problems,
            warnings,
        }
    }
}

/// Ends the HTTP thread.
#[cfg(feature = "http")]
pub fn end_http(http: Http) {
    let _ = join_until(http.end(), Instant::now() + STOP_WITHIN);
}
