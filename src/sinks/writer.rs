//! The thread behind `--events`: writes events to a file, a FIFO or standard output.
//!
//! In: a bounded channel of events. Out: whole lines. Thread: its own. Blocks: on the channel, the output and
//! its own back-off, never a sender. Allocates: until its buffer holds one batch.
//!
//! Lines are collected in one buffer while events are queued, and written when the queue is empty or the
//! buffer holds 64 KiB. If a write fails (full disk, failing device), the rest of a partial write is kept and
//! tried again on the same descriptor, and the next byte written is the next byte of the stream: lines stay
//! whole however often the disk fills. Meanwhile nothing is read from the channel; it fills, and its sender
//! counts what it drops and reports it in a `lost` event.
//!
//! If the file was renamed or removed, the writer opens its path again between two lines; a line begun in the
//! old file is written whole to the new one. So rotate by renaming: copying and truncating loses the lines
//! written in between, which is reported without their numbers. [`sink`](super::sink) describes each kind of
//! output, [`rotation`](super::rotation) the built-in rotation.
//!
//! Once the reader of standard output has closed it (EPIPE) none can come: further events are discarded and
//! counted.

use std::convert::Infallible;
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
use crate::journal::Journal;

/// Collected lines are written at this size even if more events are queued.
const BATCH_BYTES: usize = 64 * 1024;
/// Longest single wait for room, so that a stop is noticed in between.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Largest part of the deadline of [`EventWriter::close`] that is reserved for the report.
const REPORT_RESERVE: Duration = Duration::from_millis(20);

/// The result of a closed writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct WriterReport {
    /// Lines written whole.
    pub lines: u64,
    /// Bytes of formatted lines that were not written.
    pub bytes_unwritten: u64,
    /// Events not written as a whole line: discarded, in the buffer or still queued.
    pub events_unwritten: u64,
    /// Failed attempts to write; a pipe that stays full counts once.
    pub errors: u64,
    /// The output ends in the middle of a line. The next writer to append to it begins a new line.
    pub ends_mid_line: bool,
}

impl WriterReport {
    /// Both together; the line that is cut short is that of either.
    pub const fn and(self, other: Self) -> Self {
        Self {
            lines: self.lines + other.lines,
            bytes_unwritten: self.bytes_unwritten + other.bytes_unwritten,
            events_unwritten: self.events_unwritten + other.events_unwritten,
            errors: self.errors + other.errors,
            ends_mid_line: self.ends_mid_line || other.ends_mid_line,
        }
    }
}

/// What the writer has done so far; written by its thread, read by any.
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

    /// Events discarded because no reader can come.
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

/// Orders to the thread.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Open the output again.
    Reopen,
    /// End, at this instant at the latest.
    Stop(Instant),
}

/// The events of a writer.
#[derive(Debug)]
pub struct Queue {
    /// The events.
    pub events: Receiver<Event>,
    /// Those that wrote the events before.
    pub earlier: Earlier,
}

/// Writers that may still have something to write: see [`EventWriter::ended`].
#[derive(Debug, Default)]
pub struct Earlier {
    /// All of them. Until they have ended nothing is acknowledged, as their events come before.
    pub all: Vec<Receiver<Infallible>>,
    /// Those of the same output, which write first.
    pub on_it: Vec<Receiver<Infallible>>,
}

impl From<Receiver<Event>> for Queue {
    fn from(events: Receiver<Event>) -> Self {
        Self { events, earlier: Earlier::default() }
    }
}

/// The running writer of one output.
///
/// If it is dropped instead of [closed](EventWriter::close), it stops as soon as it can, and discards what is
/// queued.
#[derive(Debug)]
#[must_use = "close() drains the queue and says what did not get out"]
pub struct EventWriter {
    orders: Sender<Order>,
    report: Receiver<WriterReport>,
    source: Receiver<Event>,
    counters: Arc<WriterCounters>,
    /// Disconnected once the thread has ended.
    ended: Receiver<Infallible>,
}

impl EventWriter {
    /// Starts the thread that writes the events of `source` to an open output.
    ///
    /// It acknowledges in the `journal` what it has written. `on_trouble` is called on that thread and must not wait for it. The thread writes every event it gets,
    /// beats included: a sender that does not want them written must not send them.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread.
    pub fn spawn(
        source: impl Into<Queue>,
        sink: Descriptor,
        format: Format,
        journal: Option<Arc<Journal>>,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn_on(source, sink, format, Backoff::default(), journal, on_trouble)
    }

    fn spawn_on(
        source: impl Into<Queue>,
        sink: impl Sink + 'static,
        format: Format,
        backoff: Backoff,
        journal: Option<Arc<Journal>>,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        let Queue { events: source, earlier } = source.into();
        let (end, ended) = channel::bounded(0);
        let (orders, ordered) = channel::unbounded();
        let (reporter, report) = channel::bounded(1);
        let counters = Arc::new(WriterCounters::default());
        let writer = Writer {
            source: source.clone(),
            orders: ordered,
            sink,
            format,
            on_trouble,
            journal,
            earlier: earlier.all,
            last_seq: 0,
            counters: Arc::clone(&counters),
            lines: Vec::new(),
            written: 0,
            is_repairing: false,
            is_gone: false,
            deadline: None,
            episode: None,
            unrotated: None,
            full_since: None,
            backoff,
        };
        let run = move || {
            // Fails only if the caller no longer waits for the report.
            let _ = reporter.send(writer.run(&earlier.on_it));
            drop(end);
        };
        thread::Builder::new().name("varta-events".to_owned()).spawn(run)?;
        Ok(Self { orders, report, source, counters, ended })
    }

    /// Opens the output again at once, after its file was renamed. Never waits. If the output cannot be
    /// opened, that is reported as trouble.
    pub fn reopen(&self) {
        // Fails only if the thread has ended.
        let _ = self.orders.send(Order::Reopen);
    }

    /// Disconnected once the thread has ended.
    pub fn ended(&self) -> Receiver<Infallible> {
        self.ended.clone()
    }

    /// Whether the thread has ended: all senders are gone and every event is written, or it was closed.
    pub fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// What the writer has done so far.
    pub fn counters(&self) -> Arc<WriterCounters> {
        Arc::clone(&self.counters)
    }

    /// Writes what is queued and ends, after at most `deadline`, whatever the output does.
    ///
    /// All senders must be dropped first: while one exists, more events may come, and this waits until the
    /// deadline. A back-off ends at once. If the kernel blocks the thread in a write beyond the deadline, the
    /// thread is left running, and the report does not include that write.
    pub fn close(self, deadline: Duration) -> WriterReport {
        let reserve = (deadline / 8).min(REPORT_RESERVE);
        // Fails only if the thread has ended, and then its report is there.
        let _ = self.orders.send(Order::Stop(later(Instant::now(), deadline.saturating_sub(reserve))));
        match self.report.recv_timeout(deadline) {
            Ok(report) => report,
            Err(_) => self.counters.report(self.source.len()),
        }
    }
}

/// How long to wait before a failed write is tried again, and before a full pipe is reported.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    first: Duration,
    most: Duration,
    /// A failure this long after the previous one begins at `first` again. A recovery does not reset the
    /// wait: a disk that is freed and filled in turn would be reported about 20 times a second.
    forget: Duration,
    /// How long a pipe may be full before that is reported: its reader may just be slow.
    patience: Duration,
    next: Duration,
    failed_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let (forget, patience) = (Duration::from_secs(60), Duration::from_secs(1));
        Self { first, most, forget, patience, next: first, failed_at: None }
    }
}

impl Backoff {
    /// The wait after a failure at `now`: doubles from `first` up to `most`.
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
    /// Disconnected: the caller does not wait.
    orders: Receiver<Order>,
    sink: S,
    format: Format,
    on_trouble: F,
    /// Where to acknowledge what was written.
    journal: Option<Arc<Journal>>,
    /// Those that may still write earlier events.
    earlier: Vec<Receiver<Infallible>>,
    /// Number of the last event taken.
    last_seq: u64,
    counters: Arc<WriterCounters>,
    /// Formatted lines; `..written` of them are written.
    lines: Vec<u8>,
    written: usize,
    /// The first newline ends a line that another process began.
    is_repairing: bool,
    is_gone: bool,
    deadline: Option<Instant>,
    episode: Option<Episode>,
    /// The failed rotation, as last reported.
    unrotated: Option<i32>,
    full_since: Option<Instant>,
    backoff: Backoff,
}

impl<S: Sink, F: Fn(WriteTrouble)> Writer<S, F> {
    fn run(mut self, after: &[Receiver<Infallible>]) -> WriterReport {
        self.wait_for(after);
        self.is_repairing = self.sink.ends_mid_line();
        if self.is_repairing {
            self.lines.push(b'\n');
        }
        while !self.is_over() && self.gather() {
            self.write_out();
            self.hear();
        }
        if self.lines.is_empty() {
            // Earlier writers may have ended meanwhile.
            self.acknowledge();
        }
        self.counters.report(self.source.len())
    }

    /// Formats what is queued, up to a batch; waits if nothing is. False at the end: all senders are dropped
    /// and all events taken, or the deadline has passed.
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
                // If disconnected, the next call finds that again, after what was collected is written.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        true
    }

    /// Waits until the earlier writers of this output have ended, or the deadline has passed.
    fn wait_for(&mut self, after: &[Receiver<Infallible>]) {
        for ended in after {
            loop {
                if let Some(deadline) = self.deadline {
                    let _ = ended.recv_deadline(deadline);
                    break;
                }
                channel::select! {
                    recv(ended) -> _ => break,
                    recv(self.orders) -> order => self.on_order(order.ok()),
                }
            }
        }
        if !after.is_empty() {
            self.sink.begin();
        }
    }

    fn wait_for_event(&mut self) -> Option<Event> {
        loop {
            if let Some(deadline) = self.deadline {
                return self.source.recv_deadline(deadline).ok();
            }
            let earlier = self.earlier.first().cloned().unwrap_or_else(channel::never);
            channel::select! {
                recv(self.source) -> event => return event.ok(),
                recv(earlier) -> _ => self.acknowledge(),
                recv(self.orders) -> order => {
                    self.on_order(order.ok());
                    self.attend_idle();
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        self.counters.taken.fetch_add(1, Relaxed);
        self.last_seq = self.last_seq.max(event.seq);
        if self.is_gone {
            self.counters.discarded.fetch_add(1, Relaxed);
            return;
        }
        self.format.write_line(event, &mut self.lines);
        self.publish_unwritten();
    }

    /// Writes everything collected, however long that takes; returns early only at the deadline or if no
    /// reader can come.
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
        self.acknowledge();
        self.tell_rotation();
        if let Some(episode) = self.episode.take() {
            (self.on_trouble)(WriteTrouble::Recovered {
                errno: episode.errno,
                after: episode.since.elapsed(),
            });
        }
    }

    /// Checks that the next write goes to the right file.
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

    /// As [`Writer::attend`], without anything to write: the caller may wait to unmount a disk.
    fn attend_idle(&mut self) {
        if let Err(error) = self.attend()
            && !self.is_gone
        {
            self.counters.errors.fetch_add(1, Relaxed);
            self.tell(errno_of(&error));
        }
    }

    /// Writes the current line again from its begin, after ending a line that another process left
    /// unfinished.
    fn begin_line_anew(&mut self) {
        let ended = self.lines[..self.written].iter().rposition(|byte| *byte == b'\n').map(|last| last + 1);
        self.written = ended.unwrap_or(0);
        if self.is_repairing {
            // This newline was for a line of the other file.
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
        let wait = self.backoff.after_failure(now);
        match self.deadline {
            // Space may become free at any moment, and little time is left to use it.
            Some(deadline) => {
                thread::sleep(wait.min(self.backoff.first).min(deadline.saturating_duration_since(now)));
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
        if now.saturating_duration_since(since) >= self.backoff.patience && self.tell(libc::EAGAIN) {
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

    /// Reports an error once per episode, and again when another error replaces it. True if reported.
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

    /// Reports a failed rotation, or its recovery, if that has changed.
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

    /// Everything taken is written: no successor has to repeat it.
    fn acknowledge(&mut self) {
        self.earlier.retain(|ended| ended.try_recv() == Err(TryRecvError::Empty));
        if let Some(journal) = &self.journal
            && self.last_seq > 0
            && self.earlier.is_empty()
        {
            journal.acknowledge(self.last_seq);
        }
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

/// `now + wait`, or a year from now if that overflows.
fn later(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    now.checked_add(wait).unwrap_or_else(|| now + YEAR)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
