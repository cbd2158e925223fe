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
//! What happens to an output:
//! - **File.** Opened in append mode at start, created with mode 0640 less the umask. The descriptor
//!   is kept: a file that is renamed is still the one written to, so rotate it by copying and truncating.
//!   One that is removed is made again with the next line, for nobody could ever read what the old one gets;
//!   if it cannot be made, that is trouble like any other, and tried again. If the last line in it is cut (a crash), a newline is written first.
//! - **FIFO.** Opened without blocking. No reader yet is no error at start: it is trouble (ENXIO)
//!   from the first event on, and tried again. A reader that went away (EPIPE) may be replaced by
//!   another, which goes on at the same byte.
//! - **Standard output.** Once its reader is gone (EPIPE) nobody can come back: the rest is discarded
//!   and counted. Its descriptor is shared with other processes, so it is not made non-blocking:
//!   it is asked for room and then given what a pipe with room takes at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Format;
use crate::error::{Reason, Shown};
use crate::event::Event;

/// Lines gather up to here before they are written although more events are queued.
const BATCH_BYTES: usize = 64 * 1024;
/// A pipe that says it has room takes this much without blocking: PIPE_BUF, pipe(7).
const PIPE_ROOM_BYTES: usize = 4096;
/// Longest wait for room in one piece, so that a stop is heard in between.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Part of the deadline of [`EventWriter::close`] kept for the report, at most.
const REPORT_RESERVE: Duration = Duration::from_millis(20);

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The standard output of this process.
    Stdout,
    /// A file, FIFO or device, appended to.
    File(PathBuf),
}

/// What an output's owner is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteTrouble {
    /// Writing fails and is tried again; nothing is lost yet. Once for each error of an episode,
    /// which lasts until everything held back is written. EAGAIN: a pipe nobody reads.
    Failing {
        /// The kernel's error number.
        errno: i32,
    },
    /// Everything held back is written.
    Recovered {
        /// The last error of the episode.
        errno: i32,
        /// From the first failure to now.
        after: Duration,
    },
    /// The reader of standard output is gone; all further events are discarded. Told once.
    Gone {
        /// The kernel's error number.
        errno: i32,
    },
}

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

/// Why there is no writer: what, where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot open event output {}: {}; {remedy}", Shown(.path.display()), Reason(.why))]
struct OpenError {
    path: PathBuf,
    why: io::Error,
    remedy: String,
}

/// The running writer of one output.
///
/// Dropped instead of [closed](EventWriter::close), it stops as soon as it can, whatever is queued.
#[derive(Debug)]
#[must_use = "close() drains the queue and says what did not get out"]
pub struct EventWriter {
    stop: Sender<Instant>,
    report: Receiver<WriterReport>,
    source: Receiver<Event>,
    counters: Arc<WriterCounters>,
}

impl EventWriter {
    /// Opens the output and starts the thread that writes the events of `source` to it.
    ///
    /// `on_trouble` is called on that thread and must not wait for it. The thread writes whatever
    /// comes, also beats: who does not want them does not send them.
    ///
    /// # Errors
    /// The output cannot be opened, or the thread not be started. The kind is the kernel's, the text
    /// names the path and what to do.
    pub fn spawn(
        source: Receiver<Event>,
        output: Output,
        format: Format,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        let sink = Descriptor::open(output)?;
        Self::spawn_on(source, sink, format, Pace::default(), on_trouble)
    }

    fn spawn_on(
        source: Receiver<Event>,
        sink: impl Sink + 'static,
        format: Format,
        pace: Pace,
        on_trouble: impl Fn(WriteTrouble) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel::bounded(1);
        let (reporter, report) = channel::bounded(1);
        let counters = Arc::new(WriterCounters::default());
        let is_repairing = sink.ends_mid_line();
        let writer = Writer {
            source: source.clone(),
            stop: stopped,
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
            full_since: None,
            pace,
        };
        let run = move || {
            // Fails only if nobody waits for the report any more.
            let _ = reporter.send(writer.run());
        };
        thread::Builder::new().name("varta-events".to_owned()).spawn(run)?;
        Ok(Self { stop, report, source, counters })
    }

    #[cfg(test)]
    fn counters(&self) -> Arc<WriterCounters> {
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
        let _ = self.stop.send(later(Instant::now(), deadline.saturating_sub(reserve)));
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

/// What takes the bytes; in tests it is scripted.
trait Sink: Send {
    /// Takes some of `bytes` from the front. `WouldBlock`: no room now.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Sleeps until there may be room, `timeout` at most.
    fn wait_for_room(&self, timeout: Duration);
    /// EPIPE is final: nobody can begin to read where the last reader left.
    fn is_gone_after_epipe(&self) -> bool;
    /// What is there already ends in the middle of a line.
    fn ends_mid_line(&self) -> bool;
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
    /// Delivers the deadline once; hung up means that nobody waits.
    stop: Receiver<Instant>,
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
    full_since: Option<Instant>,
    pace: Pace,
}

impl<S: Sink, F: Fn(WriteTrouble)> Writer<S, F> {
    fn run(mut self) -> WriterReport {
        while !self.is_over() && self.gather() {
            self.write_out();
            self.hear_stop();
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
                recv(self.stop) -> deadline => self.on_stop(deadline.ok()),
            }
        }
    }

    fn take(&mut self, event: &Event) {
        self.counters.taken.fetch_add(1, Relaxed);
        if !self.is_gone {
            self.format.write_line(event, &mut self.lines);
            self.publish_unwritten();
        }
    }

    /// Writes everything gathered, however long that takes; leaves early only at the deadline or
    /// when nobody will ever read it.
    fn write_out(&mut self) {
        while self.written < self.lines.len() {
            match self.sink.write(&self.lines[self.written..]) {
                Ok(0) => self.on_failure(libc::EIO),
                Ok(bytes) => self.on_written(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.on_full_pipe(),
                Err(error) if is_broken_pipe(&error) && self.sink.is_gone_after_epipe() => {
                    self.on_gone();
                    return;
                }
                Err(error) => self.on_failure(error.raw_os_error().unwrap_or(libc::EIO)),
            }
            self.hear_stop();
            if self.is_over() {
                return;
            }
        }
        self.lines.clear();
        self.written = 0;
        if let Some(episode) = self.episode.take() {
            (self.on_trouble)(WriteTrouble::Recovered {
                errno: episode.errno,
                after: episode.since.elapsed(),
            });
        }
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
            None => match self.stop.recv_timeout(wait) {
                Ok(deadline) => self.on_stop(Some(deadline)),
                Err(RecvTimeoutError::Disconnected) => self.on_stop(None),
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

    fn hear_stop(&mut self) {
        if self.deadline.is_none() {
            match self.stop.try_recv() {
                Ok(deadline) => self.on_stop(Some(deadline)),
                Err(TryRecvError::Disconnected) => self.on_stop(None),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    fn on_stop(&mut self, deadline: Option<Instant>) {
        self.deadline = Some(deadline.unwrap_or_else(Instant::now));
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

/// `now + wait`, or what comes closest.
fn later(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    now.checked_add(wait).unwrap_or_else(|| now + YEAR)
}

/// An output of the kernel's.
struct Descriptor {
    output: Output,
    /// `None`: a FIFO nobody has opened for reading yet.
    file: Option<File>,
    /// A pipe, socket or terminal that others share and that may block.
    may_block: bool,
    ends_mid_line: bool,
    /// The last byte written ended a line.
    is_between_lines: bool,
}

impl Descriptor {
    fn open(output: Output) -> io::Result<Self> {
        match &output {
            Output::Stdout => {
                let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                let may_block = !file.metadata()?.is_file();
                Ok(Self { output, file: Some(file), may_block, ends_mid_line: false, is_between_lines: true })
            }
            Output::File(path) => {
                let file = match open_to_append(path) {
                    Ok(file) => Some(file),
                    Err(error) if has_no_reader(path, &error) => None,
                    Err(error) => return Err(refusal(path, error)),
                };
                let ends_mid_line = file.as_ref().is_some_and(ends_mid_line);
                Ok(Self { output, file, may_block: false, ends_mid_line, is_between_lines: true })
            }
        }
    }
}

impl Sink for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match (&mut self.file, &self.output) {
            (Some(file), Output::File(path)) if self.is_between_lines && is_removed(file) => {
                *file = open_to_append(path)?;
                file
            }
            (Some(file), _) => file,
            (none, Output::File(path)) => none.insert(open_to_append(path)?),
            (None, Output::Stdout) => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        if !self.may_block {
            let written = file.write(bytes)?;
            self.is_between_lines = written.checked_sub(1).is_none_or(|last| bytes[last] == b'\n');
            return Ok(written);
        }
        if !has_room(file, Duration::ZERO)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        file.write(&bytes[..bytes.len().min(PIPE_ROOM_BYTES)])
    }

    fn wait_for_room(&self, timeout: Duration) {
        if let Some(file) = &self.file {
            // An error shows again in the write that follows.
            let _ = has_room(file, timeout);
        }
    }

    fn is_gone_after_epipe(&self) -> bool {
        self.output == Output::Stdout
    }

    fn ends_mid_line(&self) -> bool {
        self.ends_mid_line
    }
}

/// Whether a write would get on (also to an error) within `timeout`.
fn has_room(file: &File, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut files = [PollFd::new(file, PollFlags::OUT)];
    Ok(poll(&mut files, Some(&timeout))? > 0)
}

/// Opens without ever blocking: a FIFO without a reader is ENXIO, a full one says EAGAIN later.
fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Whether nobody can ever open it again. One system call.
fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 0)
}

fn has_no_reader(path: &Path, error: &io::Error) -> bool {
    // ENXIO is also what a socket says, and that is never an output.
    error.raw_os_error() == Some(libc::ENXIO)
        && std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

fn refusal(path: &Path, why: io::Error) -> io::Error {
    let remedy = match why.kind() {
        io::ErrorKind::NotFound => format!("create {}", Shown(path.parent().unwrap_or(path).display())),
        io::ErrorKind::PermissionDenied => {
            "let the observer's user write there, or name another file".to_owned()
        }
        io::ErrorKind::IsADirectory => "name a file in it".to_owned(),
        _ => "name another file".to_owned(),
    };
    io::Error::new(why.kind(), OpenError { path: path.to_owned(), why, remedy })
}

/// Whether a regular file's last byte is something other than a newline. A file that cannot be read
/// is taken to be whole.
fn ends_mid_line(file: &File) -> bool {
    use std::os::fd::AsRawFd;

    let Ok(found) = file.metadata() else { return false };
    if !found.is_file() || found.size() == 0 {
        return false;
    }
    // Reopened through its descriptor, which is for appending only: the path may mean another file by now.
    let Ok(readable) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return false };
    let mut last = [b'\n'];
    readable.read_exact_at(&mut last, found.size() - 1).is_ok() && last != *b"\n"
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicI32;

    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::super::samples::up;
    use super::*;
    use crate::event::EventKind;

    /// Far more than any test needs, so that only a defect waits for it.
    const LONG: Duration = Duration::from_secs(30);

    fn fast() -> Pace {
        let tiny = Duration::from_micros(1);
        Pace { first: tiny, most: tiny, next: tiny, ..Pace::default() }
    }

    fn lines_of(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut lines = Vec::new();
        seqs.into_iter().for_each(|seq| Format::Jsonl.write_line(&up(seq), &mut lines));
        lines
    }

    fn newlines(bytes: &[u8]) -> u64 {
        bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
    }

    /// Events 1..=count, all queued, nothing to follow.
    fn queued(count: u64) -> Receiver<Event> {
        let (sender, source) = channel::unbounded();
        (1..=count).for_each(|seq| sender.send(up(seq)).unwrap());
        source
    }

    /// Waits until everything is written, without asking the writer to stop.
    fn finish(writer: &EventWriter) -> WriterReport {
        writer.report.recv_timeout(LONG).expect("the writer ends once its senders have hung up")
    }

    fn troubles() -> (impl Fn(WriteTrouble) + Send + 'static, Receiver<WriteTrouble>) {
        let (sender, told) = channel::unbounded();
        let tell = move |trouble| {
            // A test that has seen enough does not listen any more.
            let _ = sender.send(trouble);
        };
        (tell, told)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(usize),
        Fail(i32),
    }

    /// Follows its script, then takes everything.
    #[derive(Default)]
    struct Scripted {
        steps: VecDeque<Step>,
        is_stdout: bool,
        begins_mid_line: bool,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Scripted {
        fn new(steps: impl IntoIterator<Item = Step>) -> (Self, Arc<Mutex<Vec<u8>>>) {
            let sink = Self { steps: steps.into_iter().collect(), ..Self::default() };
            let out = Arc::clone(&sink.out);
            (sink, out)
        }
    }

    impl Sink for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = match self.steps.pop_front() {
                Some(Step::Fail(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                Some(Step::Take(most)) => most.min(bytes.len()),
                None => bytes.len(),
            };
            self.out.lock().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn wait_for_room(&self, _timeout: Duration) {}
        fn is_gone_after_epipe(&self) -> bool {
            self.is_stdout
        }
        fn ends_mid_line(&self) -> bool {
            self.begins_mid_line
        }
    }

    /// Fails with the number in `errno` until it is 0.
    struct Switched {
        errno: Arc<AtomicI32>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Switched {
        fn failing(errno: i32) -> (Self, Arc<AtomicI32>, Arc<Mutex<Vec<u8>>>) {
            let (errno, out) = (Arc::new(AtomicI32::new(errno)), Arc::default());
            (Self { errno: Arc::clone(&errno), out: Arc::clone(&out) }, errno, out)
        }
    }

    impl Sink for Switched {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.errno.load(Relaxed) {
                0 => {
                    self.out.lock().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
        fn wait_for_room(&self, _timeout: Duration) {}
        fn is_gone_after_epipe(&self) -> bool {
            false
        }
        fn ends_mid_line(&self) -> bool {
            false
        }
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let errors = vec![libc::ENOSPC, libc::EIO, libc::EAGAIN, libc::EINTR, libc::EDQUOT, libc::EPIPE];
        prop_oneof![
            (0..600_usize).prop_map(Step::Take),
            (0..70_000_usize).prop_map(Step::Take),
            prop::sample::select(errors).prop_map(Step::Fail),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_stay_whole_and_in_order_whatever_the_output_does(
            count in 0..900_u64,
            steps in prop::collection::vec(any_step(), 0..120),
        ) {
            let (sink, out) = Scripted::new(steps);
            let (on_trouble, told) = troubles();
            let writer = EventWriter::spawn_on(queued(count), sink, Format::Jsonl, fast(), on_trouble).unwrap();
            let report = finish(&writer);
            prop_assert!(*out.lock() == lines_of(1..=count));
            let errors = report.errors;
            prop_assert_eq!(report, WriterReport { lines: count, errors, ..WriterReport::default() });

            let told: Vec<_> = told.try_iter().collect();
            prop_assert_eq!(told.is_empty(), errors == 0);
            for pair in told.windows(2) {
                prop_assert_ne!(pair[0], pair[1]);
            }
            if let Some(last) = told.last() {
                let is_over = matches!(last, WriteTrouble::Recovered { .. });
                prop_assert!(is_over);
            }
        }
    }

    #[test]
    fn an_episode_is_told_once_for_each_error_and_once_when_it_is_over() {
        use Step::{Fail, Take};
        let full = Fail(libc::ENOSPC);
        let steps = [Take(10), full, full, Take(3), full, Fail(libc::EIO), Fail(libc::EIO), Take(0)];
        let (sink, out) = Scripted::new(steps);
        let (on_trouble, told) = troubles();
        let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), on_trouble).unwrap();
        assert_eq!(finish(&writer).errors, 6);
        assert_eq!(*out.lock(), lines_of(1..=3));
        let told: Vec<_> = told.try_iter().collect();
        let [WriteTrouble::Failing { errno: first }, WriteTrouble::Failing { errno: second }, recovered] =
            told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!((first, second), (libc::ENOSPC, libc::EIO));
        assert!(matches!(recovered, WriteTrouble::Recovered { errno: libc::EIO, .. }));
    }

    #[test]
    fn fault_36_while_the_disk_is_full_the_queue_fills_and_what_was_queued_is_written_after() {
        let (sink, errno, out) = Switched::failing(libc::ENOSPC);
        let (on_trouble, told) = troubles();
        let (sender, source) = channel::bounded(4);
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), on_trouble).unwrap();
        sender.send(up(1)).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENOSPC }));

        let queued = (2..).take_while(|&seq| sender.try_send(up(seq)).is_ok()).last().unwrap();
        assert_eq!(queued, 5, "nothing is taken from the queue while the buffer cannot be written");
        errno.store(0, Relaxed);
        let lost = Event { seq: 0, kind: EventKind::Lost { from_seq: 6, to_seq: 8 }, ..up(0) };
        sender.send(lost).unwrap();
        drop(sender);

        assert_eq!(finish(&writer).lines, 6);
        let mut expected = lines_of(1..=5);
        expected.extend_from_slice(b"{\"v\":1,\"kind\":\"lost\",\"from_seq\":6,\"to_seq\":8}\n");
        assert_eq!(*out.lock(), expected);
        assert!(matches!(told.recv_timeout(LONG), Ok(WriteTrouble::Recovered { .. })));
    }

    #[test]
    fn after_the_reader_of_stdout_is_gone_events_are_discarded_and_counted() {
        let (mut sink, out) = Scripted::new([Step::Take(5), Step::Fail(libc::EPIPE)]);
        sink.is_stdout = true;
        let (on_trouble, told) = troubles();
        let (sender, source) = channel::bounded(1);
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), on_trouble).unwrap();
        (1..=100).for_each(|seq| sender.send(up(seq)).unwrap());
        drop(sender);
        let report = writer.close(LONG);
        assert_eq!((report.lines, report.events_unwritten, report.errors), (0, 100, 1));
        assert!(report.ends_mid_line && report.bytes_unwritten > 0);
        assert_eq!(*out.lock(), lines_of([1])[..5]);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [WriteTrouble::Gone { errno: libc::EPIPE }]);
    }

    #[test]
    fn close_ends_a_back_off_at_once_and_writes_the_rest() {
        let (sink, errno, out) = Switched::failing(libc::EIO);
        let (on_trouble, told) = troubles();
        let hour = Duration::from_secs(3600);
        let pace = Pace { first: hour, most: hour, next: hour, ..Pace::default() };
        let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, pace, on_trouble).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::EIO }));
        errno.store(0, Relaxed);
        let report = writer.close(LONG);
        assert_eq!((report.lines, report.events_unwritten), (3, 0));
        assert_eq!(*out.lock(), lines_of(1..=3));
    }

    #[test]
    fn close_gives_up_at_its_deadline_and_says_what_is_missing() {
        let begun = Instant::now();
        let (on_trouble, told) = troubles();
        let (sender, source) = channel::bounded(8);
        let output = Output::File("/dev/full".into());
        let writer = EventWriter::spawn(source, output, Format::Jsonl, on_trouble).unwrap();
        sender.send(up(1)).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENOSPC }));
        (2..=5).for_each(|seq| sender.send(up(seq)).unwrap());
        assert!(writer.counters().errors() > 0);
        let report = writer.close(Duration::from_millis(100));
        assert!(begun.elapsed() < LONG);
        assert_eq!((report.lines, report.events_unwritten, report.ends_mid_line), (0, 5, false));
        assert_eq!(report.bytes_unwritten, lines_of([1]).len() as u64);
    }

    #[test]
    fn fault_38_close_returns_although_the_kernel_holds_the_thread_in_a_write() {
        struct Stuck {
            inside: Sender<()>,
            release: Receiver<()>,
        }
        impl Sink for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.inside.send(());
                let _ = self.release.recv();
                Ok(bytes.len())
            }
            fn wait_for_room(&self, _timeout: Duration) {}
            fn is_gone_after_epipe(&self) -> bool {
                false
            }
            fn ends_mid_line(&self) -> bool {
                false
            }
        }
        let (inside, is_inside) = channel::unbounded();
        let (_held, release) = channel::bounded(0);
        let sink = Stuck { inside, release };
        let writer = EventWriter::spawn_on(queued(9), sink, Format::Jsonl, fast(), |_| {}).unwrap();
        is_inside.recv_timeout(LONG).unwrap();
        let report = writer.close(Duration::from_millis(50));
        assert_eq!((report.lines, report.events_unwritten), (0, 9));
        assert_eq!(report.bytes_unwritten, lines_of(1..=9).len() as u64);
    }

    #[test]
    fn close_waits_for_senders_only_until_its_deadline() {
        let (sink, out) = Scripted::new([]);
        let (sender, source) = channel::unbounded();
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), |_| {}).unwrap();
        sender.send(up(1)).unwrap();
        while writer.counters().lines() == 0 {
            thread::yield_now();
        }
        let report = writer.close(Duration::from_millis(50));
        assert_eq!((report.lines, report.events_unwritten), (1, 0));
        assert_eq!(*out.lock(), lines_of([1]));
        drop(sender);
    }

    #[test]
    fn dropped_instead_of_closed_it_ends_although_senders_live() {
        let (sink, out) = Scripted::new([]);
        let (sender, source) = channel::bounded(0);
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), |_| {}).unwrap();
        drop(writer);
        // The thread was the last receiver.
        while sender.send(up(1)).is_ok() {}
        assert_eq!(out.lock().len() % lines_of([1]).len(), 0);
    }

    #[test]
    fn a_cut_line_of_a_crashed_run_is_ended_first() {
        let dir = tempfile::tempdir().unwrap();
        for (before, repaired) in [("", ""), ("whole\n", "whole\n"), ("{\"v\":1,\"se", "{\"v\":1,\"se\n")] {
            let path = dir.path().join("events.jsonl");
            std::fs::write(&path, before).unwrap();
            let output = Output::File(path.clone());
            let writer = EventWriter::spawn(queued(2), output, Format::Jsonl, |_| {}).unwrap();
            let report = writer.close(LONG);
            assert_eq!(report, WriterReport { lines: 2, ..WriterReport::default() });
            let expected = [repaired.as_bytes(), &lines_of(1..=2)].concat();
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }

        let (mut sink, out) = Scripted::new([Step::Take(0), Step::Take(1)]);
        sink.begins_mid_line = true;
        let writer = EventWriter::spawn_on(queued(0), sink, Format::Jsonl, fast(), |_| {}).unwrap();
        assert_eq!(finish(&writer).lines, 0);
        assert_eq!(*out.lock(), b"\n");
    }

    #[test]
    fn fault_37_a_file_that_was_removed_is_made_again_and_one_that_was_renamed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/events");
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let (sender, source) = channel::bounded(16);
        let (on_trouble, told) = troubles();
        let sink = Descriptor::open(Output::File(path.clone())).unwrap();
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), on_trouble).unwrap();
        let write = |seq: u64, to: &Path| {
            sender.send(up(seq)).unwrap();
            let until = Instant::now() + LONG;
            while !std::fs::read(to).is_ok_and(|written| written.ends_with(&lines_of([seq]))) {
                assert!(Instant::now() < until, "{seq} is not written to {}", to.display());
                thread::yield_now();
            }
        };
        write(1, &path);
        std::fs::remove_file(&path).unwrap();
        write(2, &path);
        let renamed = dir.path().join("renamed");
        std::fs::rename(&path, &renamed).unwrap();
        write(3, &renamed);
        assert_eq!(told.try_recv().ok(), None);

        std::fs::remove_file(&renamed).unwrap();
        std::fs::remove_dir(dir.path().join("log")).unwrap();
        sender.send(up(4)).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENOENT }));
        std::fs::create_dir(dir.path().join("log")).unwrap();
        write(5, &path);
        assert_eq!(std::fs::read(&path).unwrap(), lines_of(4..=5));
        drop(sender);
        assert_eq!(finish(&writer).lines, 5);
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.tsv");
        let format = Format::Tsv { start: crate::time::MonoNs(0) };
        let writer = EventWriter::spawn(queued(1), Output::File(path.clone()), format, |_| {}).unwrap();
        assert_eq!(writer.close(LONG).lines, 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "1\tup\t4711\t42\tdegraded\t18446744073709551615\n"
        );
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_refused_at_start_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _bound = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        let missing = dir.path().join("missing/events");
        let cases = [
            (missing, io::ErrorKind::NotFound, format!("create {}/missing", dir.path().display())),
            (dir.path().to_owned(), io::ErrorKind::IsADirectory, "name a file in it".to_owned()),
            (socket, io::Error::from_raw_os_error(libc::ENXIO).kind(), "name another file".to_owned()),
        ];
        for (path, kind, remedy) in cases {
            let error =
                EventWriter::spawn(queued(0), Output::File(path.clone()), Format::Jsonl, |_| {}).unwrap_err();
            assert_eq!(error.kind(), kind);
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot open event output {}: ", path.display())), "{text}");
            assert!(text.ends_with(&remedy), "{text}");
        }
    }

    fn fifo(dir: &Path) -> PathBuf {
        let path = dir.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        path
    }

    /// Everything until the writer's thread has let go of the pipe, which it does after its report.
    fn read_until_hang_up(reader: &mut File) -> Vec<u8> {
        let mut got = Vec::new();
        while let Err(error) = reader.read_to_end(&mut got) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let long = Timespec::try_from(LONG).unwrap();
            assert_eq!(poll(&mut [PollFd::new(&*reader, PollFlags::IN)], Some(&long)), Ok(1), "it lets go");
        }
        got
    }

    fn reader_of(fifo: &Path) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(fifo).unwrap()
    }

    #[test]
    fn fault_38_a_fifo_nobody_reads_holds_up_neither_start_nor_stop() {
        const COUNT: u64 = 3000;
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let mut reader = reader_of(&path);
        let (on_trouble, told) = troubles();
        let sink = Descriptor::open(Output::File(path)).unwrap();
        let pace = Pace { patience: Duration::ZERO, ..fast() };
        let writer = EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, pace, on_trouble).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::EAGAIN }));

        let begun = Instant::now();
        let report = writer.close(Duration::from_secs(1));
        assert!(begun.elapsed() < LONG);
        let got = read_until_hang_up(&mut reader);
        let all = lines_of(1..=COUNT);
        assert_eq!(got, all[..got.len()]);
        assert_eq!(report.lines, newlines(&got));
        assert_eq!(report.events_unwritten, COUNT - newlines(&got));
        assert_eq!(report.ends_mid_line, got.last() != Some(&b'\n'));
        assert!(report.bytes_unwritten > 0);
    }

    #[test]
    fn a_fifo_waits_for_its_first_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let (on_trouble, told) = troubles();
        let sink = Descriptor::open(Output::File(path.clone())).unwrap();
        let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), on_trouble).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENXIO }));
        assert_eq!(std::fs::read(&path).unwrap(), lines_of(1..=3));
        assert_eq!(finish(&writer).lines, 3);
    }

    #[test]
    fn the_next_reader_of_a_fifo_goes_on_at_the_same_byte() {
        const COUNT: u64 = 3000;
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let mut first = reader_of(&path);
        let (on_trouble, told) = troubles();
        let sink = Descriptor::open(Output::File(path.clone())).unwrap();
        let pace = Pace { patience: Duration::ZERO, ..fast() };
        let writer = EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, pace, on_trouble).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::EAGAIN }));
        let mut got = vec![0; 10_001];
        first.read_exact(&mut got).unwrap();
        drop(first);
        while told.recv_timeout(LONG).unwrap() != (WriteTrouble::Failing { errno: libc::EPIPE }) {}
        File::open(&path).unwrap().read_to_end(&mut got).unwrap();
        assert!(got == lines_of(1..=COUNT));
        assert_eq!(finish(&writer).lines, COUNT);
    }

    /// Standard output as it is when piped: blocking, shared, its reader free to leave.
    fn piped_stdout() -> (io::PipeReader, Descriptor) {
        let (reader, pipe) = io::pipe().unwrap();
        let file = Some(File::from(std::os::fd::OwnedFd::from(pipe)));
        (
            reader,
            Descriptor {
                output: Output::Stdout,
                file,
                may_block: true,
                ends_mid_line: false,
                is_between_lines: true,
            },
        )
    }

    #[test]
    fn fault_38_a_blocking_pipe_does_not_block_the_thread() {
        const COUNT: u64 = 3000;
        let (mut reader, sink) = piped_stdout();
        let (on_trouble, told) = troubles();
        let pace = Pace { patience: Duration::ZERO, ..fast() };
        let writer = EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, pace, on_trouble).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::EAGAIN }));
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == lines_of(1..=COUNT));
        assert_eq!(finish(&writer).lines, COUNT);
    }

    #[test]
    fn a_pipe_whose_reader_leaves_is_gone() {
        let (reader, sink) = piped_stdout();
        drop(reader);
        let (on_trouble, told) = troubles();
        let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), on_trouble).unwrap();
        let report = finish(&writer);
        assert_eq!((report.lines, report.events_unwritten), (0, 3));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [WriteTrouble::Gone { errno: libc::EPIPE }]);
    }

    #[test]
    fn the_back_off_doubles_to_its_end_and_is_forgotten_after_a_quiet_minute() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut wait_after = |seconds| {
            now += Duration::from_secs(seconds);
            pace.after_failure(now).as_millis()
        };
        let waits: Vec<_> = [0, 0, 0, 0, 0, 0, 0, 60, 61].map(&mut wait_after).into();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000, 1000, 50]);
    }
}
