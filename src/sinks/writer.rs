//! The thread behind `--events`: events to a file, a FIFO or standard output.
//!
//! In: a bounded channel of events. Out: whole lines. Thread: its own. Blocks: on the channel, the
//! output and its own back-off, never a sender. Allocates: until its buffer holds one batch.
//!
//! Lines gather in one buffer while events are queued and are written when none are, or at 64 KiB.
//! When the output refuses (full disk, failing device), what is left of a partial write is kept, the
//! rest is tried again on the same descriptor, and the next byte written is the next byte of the
//! stream: lines stay whole however often the disk fills. Meanwhile nothing is taken from the
//! channel; it fills, its sender counts what it drops and tells it in a `lost` event like any other.
//!
//! A file that was renamed or removed is left between two lines, and its path opened again; a line that was begun in
//! the old one is written whole to the new one. So rotate it by renaming: what copies and cuts it takes the lines
//! that came in between, which is reported without their numbers. [`sink`](super::sink) says what else happens
//! to an output, [`rotation`](super::rotation) how a log renames itself.
//!
//! Once the reader of standard output is gone (EPIPE) none can come: the rest is discarded and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::format::Format;
use super::sink::{Descriptor, Look, Sink};
use super::trouble::WriteTrouble;
use crate::event::Event;

/// Lines gather up to here before they are written although more events are queued.
const BATCH_BYTES: usize = 64 * 1024;
/// Longest wait for room in one piece, so that a stop is heard in between.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Part of the deadline of [`EventWriter::close`] kept for the report, at most.
const REPORT_RESERVE: Duration = Duration::from_millis(20);

/// How it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct WriterReport {
    /// Lines written whole.
    pub lines: u64,
    /// Bytes of formatted lines that did not get out.
    pub bytes_unwritten: u64,
    /// Events that did not get out as a whole line: discarded, in the buffer or still queued.
    pub events_unwritten: u64,
    /// Failed attempts to write; a pipe that stays full counts once.
    pub errors: u64,
    /// The output ends in the middle of a line. The next writer to append to it begins a new one.
    pub ends_mid_line: bool,
}

/// What the writer has done so far; read by any thread, written by its own.
#[derive(Debug, Default)]
pub struct WriterCounters {
    taken: AtomicU64,
    lines: AtomicU64,
    bytes_unwritten: AtomicU64,
    errors: AtomicU64,
    ends_mid_line: AtomicBool,
    discarded: AtomicU64,
}

impl WriterCounters {
    /// Lines written whole.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Failed attempts to write; a pipe that stays full counts once an episode.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Events discarded because no reader can ever come.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Relaxed)
    }

    fn report(&self, queued: usize) -> WriterReport {
        let lines = self.lines();
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        WriterReport {
            lines,
            bytes_unwritten: self.bytes_unwritten.load(Relaxed),
            events_unwritten: self.taken.load(Relaxed).saturating_sub(lines).saturating_add(queued),
            errors: self.errors(),
            ends_mid_line: self.ends_mid_line.load(Relaxed),
        }
    }
}

/// What the thread is told.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Open the output again.
    Reopen,
    /// End, at this instant at the latest.
    Stop(Instant),
}

/// The running writer of one output.
///
/// Dropped instead of [closed](EventWriter::close), it stops as soon as it can, whatever is queued.
#[derive(Debug)]
#[must_use = "close() drains the queue and says what did not get out"]
pub struct EventWriter {
    orders: Sender<Order>,
    report: Receiver<WriterReport>,
    source: Receiver<Event>,
    counters: Arc<WriterCounters>,
}

impl EventWriter {
    /// Starts the thread that writes the events of `source` to an open output.
    ///
    /// `on_trouble` is called on that thread and must not wait for it. The thread writes whatever
    /// comes, also beats: who does not want them does not send them.
    ///
    /// # Errors
    /// The kernel's, when it grants no thread.
    pub fn spawn(
        source: Receiver<Event>,
        sink: Descriptor,
        format: Format,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn_on(source, sink, format, Pace::default(), on_trouble)
    }

    fn spawn_on(
        source: Receiver<Event>,
        sink: impl Sink + 'static,
        format: Format,
        pace: Pace,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, ordered) = channel::unbounded();
        let (reporter, report) = channel::bounded(1);
        let counters = Arc::new(WriterCounters::default());
        let is_repairing = sink.ends_mid_line();
        let writer = Writer {
            source: source.clone(),
            orders: ordered,
            sink,
            format,
            on_trouble,
            counters: Arc::clone(&counters),
            lines: if is_repairing { b"\n".to_vec() } else { Vec::new() },
            written: 0,
            is_repairing,
            is_gone: false,
            deadline: None,
            episode: None,
            unrotated: None,
            full_since: None,
            pace,
        };
        let run = move || {
            // Fails only if the caller stopped waiting for the report.
            let _ = reporter.send(writer.run());
        };
        thread::Builder::new().name("varta-events".to_owned()).spawn(run)?;
        Ok(Self { orders, report, source, counters })
    }

    /// Opens the output again, at once, after its file was moved away. Never waits; that it cannot be opened is
    /// trouble like any other.
    pub fn reopen(&self) {
        // Fails only if the thread has ended.
        let _ = self.orders.send(Order::Reopen);
    }

    /// What it has done so far.
    pub fn counters(&self) -> Arc<WriterCounters> {
        Arc::clone(&self.counters)
    }

    /// Writes what is queued and ends, after at most `deadline`, whatever the output does.
    ///
    /// The senders must have hung up: as long as one has not, more may come and the deadline is
    /// waited for. A back-off ends at once. If the kernel holds the thread in a write beyond the
    /// deadline, it is left behind and what this write achieves in the end is not in the report.
    pub fn close(self, deadline: Duration) -> WriterReport {
        let reserve = (deadline / 8).min(REPORT_RESERVE);
        // Fails only if the thread has ended already, and then its report is there.
        let _ = self.orders.send(Order::Stop(later(Instant::now(), deadline.saturating_sub(reserve))));
        match self.report.recv_timeout(deadline) {
            Ok(report) => report,
            Err(_) => self.counters.report(self.source.len()),
        }
    }
}

/// How long to wait before a failed write is tried again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    first: Duration,
    most: Duration,
    /// A failure this long after the previous one begins at `first` again. Not the recovery does: a
    /// disk that is freed and filled in turn would otherwise be told about 20 times a second.
    forget: Duration,
    /// A pipe may be full for this long before it is called trouble: its reader may just be slow.
    patience: Duration,
    next: Duration,
    failed_at: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let (forget, patience) = (Duration::from_secs(60), Duration::from_secs(1));
        Self { first, most, forget, patience, next: first, failed_at: None }
    }
}

impl Pace {
    /// Time to wait after a failure at `now`: doubles from `first` up to `most`.
    fn after_failure(&mut self, now: Instant) -> Duration {
        if self.failed_at.is_some_and(|at| now.saturating_duration_since(at) > self.forget) {
            self.next = self.first;
        }
        self.failed_at = Some(now);
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.most);
        wait
    }
}

/// From the first failure until everything held back is written.
#[derive(Clone, Copy, Debug)]
struct Episode {
    errno: i32,
    since: Instant,
}

/// The thread's state.
struct Writer<S, F> {
    source: Receiver<Event>,
    /// Hung up: the caller does not wait.
    orders: Receiver<Order>,
    sink: S,
    format: Format,
    on_trouble: F,
    counters: Arc<WriterCounters>,
    /// Formatted lines; `..written` of them are out.
    lines: Vec<u8>,
    written: usize,
    /// The first newline ends a line that somebody else began.
    is_repairing: bool,
    is_gone: bool,
    deadline: Option<Instant>,
    episode: Option<Episode>,
    /// What keeps the file from being renamed away, as it was told.
    unrotated: Option<i32>,
    full_since: Option<Instant>,
    pace: Pace,
}

impl<S: Sink, F: Fn(WriteTrouble)> Writer<S, F> {
    fn run(mut self) -> WriterReport {
        while !self.is_over() && self.gather() {
            self.write_out();
            self.hear();
        }
        self.counters.report(self.source.len())
    }

    /// Formats what is queued, up to a batch; waits if nothing is. False at the end: the senders
    /// have hung up and everything is taken, or the deadline has passed.
    fn gather(&mut self) -> bool {
        if self.lines.is_empty() {
            match self.wait_for_event() {
                Some(event) => self.take(&event),
                None => return false,
            }
        }
        while !self.is_gone && self.lines.len() < BATCH_BYTES {
            match self.source.try_recv() {
                Ok(event) => self.take(&event),
                // Hung up: told again once what was gathered is written.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        true
    }

    fn wait_for_event(&mut self) -> Option<Event> {
        loop {
            if let Some(deadline) = self.deadline {
                return self.source.recv_deadline(deadline).ok();
            }
            channel::select! {
                recv(self.source) -> event => return event.ok(),
                recv(self.orders) -> order => {
                    self.on_order(order.ok());
                    self.attend_idle();
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        self.counters.taken.fetch_add(1, Relaxed);
        if self.is_gone {
            self.counters.discarded.fetch_add(1, Relaxed);
            return;
        }
        self.format.write_line(event, &mut self.lines);
        self.publish_unwritten();
    }

    /// Writes everything gathered, however long that takes; leaves early only at the deadline or
    /// when nobody will ever read it.
    fn write_out(&mut self) {
        while self.written < self.lines.len() {
            match self.attend().and_then(|()| self.sink.write(&self.lines[self.written..])) {
                Ok(0) => self.on_failure(libc::EIO),
                Ok(bytes) => self.on_written(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.on_full_pipe(),
                Err(error) if is_broken_pipe(&error) && self.sink.is_gone_after_epipe() => {
                    self.on_gone();
                    return;
                }
                Err(error) => self.on_failure(errno_of(&error)),
            }
            self.hear();
            if self.is_over() {
                return;
            }
        }
        self.lines.clear();
        self.written = 0;
        self.tell_rotation();
        if let Some(episode) = self.episode.take() {
            (self.on_trouble)(WriteTrouble::Recovered {
                errno: episode.errno,
                after: episode.since.elapsed(),
            });
        }
    }

    /// Looks whether what is written next goes where it should.
    fn attend(&mut self) -> io::Result<()> {
        match self.sink.look()? {
            Look::Same => {}
            Look::Other => self.begin_line_anew(),
            Look::Cut => {
                self.counters.errors.fetch_add(1, Relaxed);
                (self.on_trouble)(WriteTrouble::Cut);
                self.begin_line_anew();
            }
        }
        Ok(())
    }

    /// The same while there is nothing to write: the caller may wait to unmount a disk.
    fn attend_idle(&mut self) {
        if let Err(error) = self.attend()
            && !self.is_gone
        {
            self.counters.errors.fetch_add(1, Relaxed);
            self.tell(errno_of(&error));
        }
    }

    /// The line under way is written whole, after one that somebody else has left unfinished.
    fn begin_line_anew(&mut self) {
        let ended = self.lines[..self.written].iter().rposition(|byte| *byte == b'\n').map(|last| last + 1);
        self.written = ended.unwrap_or(0);
        if self.is_repairing {
            // The newline for a line of the other file.
            self.lines.remove(self.written);
        }
        self.is_repairing = self.sink.ends_mid_line();
        if self.is_repairing {
            self.lines.insert(self.written, b'\n');
        }
        self.counters.ends_mid_line.store(self.is_repairing, Relaxed);
        self.publish_unwritten();
    }

    fn on_written(&mut self, bytes: usize) {
        let end = self.lines.len().min(self.written.saturating_add(bytes));
        let out = &self.lines[self.written..end];
        // A line's only newline is its last byte.
        let mut ended = out.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if self.is_repairing && ended > 0 {
            self.is_repairing = false;
            ended -= 1;
        }
        self.counters.ends_mid_line.store(out.last() != Some(&b'\n'), Relaxed);
        self.counters.lines.fetch_add(ended, Relaxed);
        self.written = end;
        self.full_since = None;
        self.publish_unwritten();
    }

    fn on_failure(&mut self, errno: i32) {
        self.counters.errors.fetch_add(1, Relaxed);
        self.tell(errno);
        let now = Instant::now();
        let wait = self.pace.after_failure(now);
        match self.deadline {
            // Space may come back any moment and there is little time left to use it.
            Some(deadline) => {
                thread::sleep(wait.min(self.pace.first).min(deadline.saturating_duration_since(now)));
            }
            None => match self.orders.recv_timeout(wait) {
                Ok(order) => self.on_order(Some(order)),
                Err(RecvTimeoutError::Disconnected) => self.on_order(None),
                Err(RecvTimeoutError::Timeout) => {}
            },
        }
    }

    fn on_full_pipe(&mut self) {
        let now = Instant::now();
        let since = *self.full_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.pace.patience && self.tell(libc::EAGAIN) {
            self.counters.errors.fetch_add(1, Relaxed);
        }
        let left = self.deadline.map_or(ROOM_WAIT, |deadline| deadline.saturating_duration_since(now));
        self.sink.wait_for_room(left.min(ROOM_WAIT));
    }

    fn on_gone(&mut self) {
        self.counters.errors.fetch_add(1, Relaxed);
        self.is_gone = true;
        let taken = self.counters.taken.load(Relaxed);
        self.counters.discarded.store(taken.saturating_sub(self.counters.lines()), Relaxed);
        self.lines = Vec::new();
        self.written = 0;
        self.episode = None;
        (self.on_trouble)(WriteTrouble::Gone { errno: libc::EPIPE });
    }

    /// Tells an error once in an episode, and again when another one takes its place. True if told.
    fn tell(&mut self, errno: i32) -> bool {
        let episode = self.episode;
        if episode.is_some_and(|episode| episode.errno == errno) {
            return false;
        }
        let since = episode.map_or_else(Instant::now, |episode| episode.since);
        self.episode = Some(Episode { errno, since });
        (self.on_trouble)(WriteTrouble::Failing { errno });
        true
    }

    /// Says what became of a file that was to be renamed away, when that has changed.
    fn tell_rotation(&mut self) {
        let unrotated = self.sink.unrotated();
        if let Some(errno) = unrotated.filter(|_| unrotated != self.unrotated) {
            self.counters.errors.fetch_add(1, Relaxed);
            (self.on_trouble)(WriteTrouble::Unrotated { errno });
        }
        if let (Some(errno), None) = (self.unrotated, unrotated) {
            (self.on_trouble)(WriteTrouble::Recovered { errno, after: Duration::ZERO });
        }
        self.unrotated = unrotated;
    }

    fn hear(&mut self) {
        while self.deadline.is_none() {
            match self.orders.try_recv() {
                Ok(order) => self.on_order(Some(order)),
                Err(TryRecvError::Disconnected) => self.on_order(None),
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn on_order(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Reopen) => self.sink.reopen(),
            Some(Order::Stop(deadline)) => self.deadline = Some(deadline),
            None => self.deadline = Some(Instant::now()),
        }
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn publish_unwritten(&self) {
        let bytes = self.lines.len() - self.written;
        self.counters.bytes_unwritten.store(bytes as u64, Relaxed);
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPIPE)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// `now + wait`, or what comes closest.
fn later(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    now.checked_add(wait).unwrap_or_else(|| now + YEAR)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
