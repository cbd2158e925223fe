//! The writer with outputs that fail, fill up, block and disappear.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;

use parking_lot::Mutex;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::rotation::Rotation;
use super::*;
use crate::config::plan::Output;
use crate::event::EventKind;
use crate::journal::Identity;
use crate::lab::samples::up;
use crate::time::MonoNs;

/// Much longer than any test needs, so that only a defect waits this long.
const LONG: Duration = Duration::from_secs(30);

fn fast() -> Backoff {
    let tiny = Duration::from_micros(1);
    Backoff { first: tiny, most: tiny, next: tiny, ..Backoff::default() }
}

fn lines_of(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut lines = Vec::new();
    seqs.into_iter().for_each(|seq| Format::Jsonl.write_line(&up(seq), &mut lines));
    lines
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Events 1..=count, all queued, and no sender left.
fn queued(count: u64) -> Receiver<Event> {
    let (sender, source) = channel::unbounded();
    (1..=count).for_each(|seq| sender.send(up(seq)).unwrap());
    source
}

/// Waits until everything is written, without stopping the writer.
fn finish(writer: &EventWriter) -> WriterReport {
    writer.report.recv_timeout(LONG).expect("the writer ends once its senders have hung up")
}

/// What it has written counts as written once the writer of another output, which had the events before, has ended; nobody
/// has to report another event for that.
#[test]
fn what_is_written_is_acknowledged_when_the_writer_before_has_ended() {
    let identity = Identity { boot_id: 1, pid_namespace: 2, fleet: 3 };
    let journal = Arc::new(Journal::create(&identity, 4, MonoNs(5)).expect("memory"));
    let (sender, events) = channel::unbounded();
    let (before, ended) = channel::bounded(0);
    let earlier = Earlier { all: vec![ended], on_it: Vec::new() };
    let (sink, out) = Scripted::new([]);
    let queue = Queue { events, earlier };
    let kept = Some(Arc::clone(&journal));
    let writer = EventWriter::spawn_on(queue, sink, Format::Jsonl, fast(), kept, |_| {}).unwrap();
    sender.send(up(1)).unwrap();
    until(|| newlines(&out.lock()) == 1);
    assert_eq!(journal.acknowledged(), 0);
    drop::<Sender<Infallible>>(before);
    until(|| journal.acknowledged() == 1);
    drop(sender);
    let _ = finish(&writer);
}

fn troubles() -> (impl Fn(WriteTrouble) + Send + 'static, Receiver<WriteTrouble>) {
    let (sender, told) = channel::unbounded();
    let tell = move |trouble| {
        // A test that has seen enough may drop its receiver.
        let _ = sender.send(trouble);
    };
    (tell, told)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take(usize),
    Fail(i32),
}

/// Follows its script, then accepts everything.
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
        let writer = EventWriter::spawn_on(queued(count), sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
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
    let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
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
    let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
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
    let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
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
    let backoff = Backoff { first: hour, most: hour, next: hour, ..Backoff::default() };
    let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, backoff, None, on_trouble).unwrap();
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
    let output = Descriptor::open(Output::File("/dev/full".into()), None).unwrap();
    let writer = EventWriter::spawn(source, output, Format::Jsonl, None, on_trouble).unwrap();
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
    let writer = EventWriter::spawn_on(queued(9), sink, Format::Jsonl, fast(), None, |_| {}).unwrap();
    is_inside.recv_timeout(LONG).unwrap();
    let report = writer.close(Duration::from_millis(50));
    assert_eq!((report.lines, report.events_unwritten), (0, 9));
    assert_eq!(report.bytes_unwritten, lines_of(1..=9).len() as u64);
}

#[test]
fn close_waits_forsender_only_until_its_deadline() {
    let (sink, out) = Scripted::new([]);
    let (sender, source) = channel::unbounded();
    let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), None, |_| {}).unwrap();
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
fn dropped_instead_of_closed_it_ends_althoughsender_live() {
    let (sink, out) = Scripted::new([]);
    let (sender, source) = channel::bounded(0);
    let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), None, |_| {}).unwrap();
    drop(writer);
    // The thread owned the last receiver.
    while sender.send(up(1)).is_ok() {}
    assert_eq!(out.lock().len() % lines_of([1]).len(), 0);
}

#[test]
fn a_cut_line_of_a_crashed_run_is_ended_first() {
    let dir = tempfile::tempdir().unwrap();
    for (before, repaired) in [("", ""), ("whole\n", "whole\n"), ("{\"v\":1,\"se", "{\"v\":1,\"se\n")] {
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, before).unwrap();
        let output = Descriptor::open(Output::File(path.clone()), None).unwrap();
        let writer = EventWriter::spawn(queued(2), output, Format::Jsonl, None, |_| {}).unwrap();
        let report = writer.close(LONG);
        assert_eq!(report, WriterReport { lines: 2, ..WriterReport::default() });
        let expected = [repaired.as_bytes(), &lines_of(1..=2)].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    let (mut sink, out) = Scripted::new([Step::Take(0), Step::Take(1)]);
    sink.begins_mid_line = true;
    let writer = EventWriter::spawn_on(queued(0), sink, Format::Jsonl, fast(), None, |_| {}).unwrap();
    assert_eq!(finish(&writer).lines, 0);
    assert_eq!(*out.lock(), b"\n");
}

/// A log in a folder, with its writer.
struct Log {
    dir: tempfile::TempDir,
    path: PathBuf,
    sender: Sender<Event>,
    writer: EventWriter,
    told: Receiver<WriteTrouble>,
}

impl Log {
    fn new(rotation: Option<Rotation>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/events");
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let (sender, source) = channel::unbounded();
        let (on_trouble, told) = troubles();
        let sink = Descriptor::open(Output::File(path.clone()), rotation).unwrap();
        let writer = EventWriter::spawn_on(source, sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
        Self { dir, path, sender, writer, told }
    }

    /// Sends one event, and waits until it is the last of this file.
    fn write(&self, seq: u64, to: &Path) {
        self.sender.send(up(seq)).unwrap();
        until(|| std::fs::read(to).is_ok_and(|written| written.ends_with(&lines_of([seq]))));
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.aside(name)).unwrap_or_default()
    }

    fn finish(self) -> WriterReport {
        drop(self.sender);
        finish(&self.writer)
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn fault_37_a_file_that_was_removed_is_made_again_even_if_its_folder_was() {
    let log = Log::new(None);
    log.write(1, &log.path);
    std::fs::remove_file(&log.path).unwrap();
    log.write(2, &log.path);
    assert_eq!(log.told.try_recv().ok(), None);

    std::fs::remove_dir_all(log.aside("log")).unwrap();
    log.sender.send(up(3)).unwrap();
    assert_eq!(log.told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENOENT }));
    std::fs::create_dir(log.aside("log")).unwrap();
    log.write(4, &log.path);
    assert_eq!(std::fs::read(&log.path).unwrap(), lines_of(3..=4));
    assert_eq!(log.finish().lines, 4);
}

#[test]
fn fault_70_a_file_that_was_renamed_is_left_and_its_path_written_to() {
    let log = Log::new(None);
    log.write(1, &log.path);
    std::fs::rename(&log.path, log.aside("old")).unwrap();
    log.write(2, &log.path);
    assert_eq!((log.read("old"), log.read("log/events")), (lines_of([1]), lines_of([2])));
    // Another file at the path, which ends in the middle of a line.
    std::fs::write(log.aside("new"), "{").unwrap();
    std::fs::rename(log.aside("new"), &log.path).unwrap();
    log.write(3, &log.path);
    assert_eq!(log.read("log/events"), [b"{\n", &*lines_of([3])].concat());
    assert_eq!(log.told.try_recv().ok(), None);
    assert_eq!(log.finish().lines, 3);
}

#[test]
fn fault_70_a_line_that_was_begun_in_the_old_file_is_whole_in_the_new_one() {
    struct Moving {
        old: Vec<u8>,
        new: Arc<Mutex<Vec<u8>>>,
        writes: u32,
    }
    impl Sink for Moving {
        fn look(&mut self) -> io::Result<Look> {
            Ok(if self.writes == 2 { Look::Other } else { Look::Same })
        }
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            let taken = if self.writes < 3 { 150 } else { bytes.len() };
            let mut new = self.new.lock();
            let to = if self.writes < 3 { &mut self.old } else { &mut *new };
            to.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn wait_for_room(&self, _timeout: Duration) {}
        fn is_gone_after_epipe(&self) -> bool {
            false
        }
        fn ends_mid_line(&self) -> bool {
            true
        }
    }
    let new = Arc::new(Mutex::new(Vec::new()));
    let sink = Moving { old: Vec::new(), new: Arc::clone(&new), writes: 0 };
    let writer = EventWriter::spawn_on(queued(4), sink, Format::Jsonl, fast(), None, |_| {}).unwrap();
    assert_eq!(finish(&writer).lines, 4);
    let all = lines_of(1..=4);
    // Of the 299 bytes written to the old file (150, and 150 with the newline of a repair), one line was
    // whole.
    let second = lines_of([1]).len();
    assert!((second..2 * second).contains(&299));
    assert_eq!(*new.lock(), [b"\n", &all[second..]].concat());
}

#[test]
fn fault_70_no_line_is_lost_over_fifty_rotations_under_load() {
    let log = Log::new(None);
    let mut seq = 0;
    for rotation in 0..50 {
        // As many as fit before the rename, and during it.
        (0..40).for_each(|_| {
            seq += 1;
            log.sender.send(up(seq)).unwrap();
        });
        std::fs::rename(&log.path, log.aside(&format!("old.{rotation}"))).unwrap();
        if rotation % 2 == 0 {
            log.writer.reopen();
        }
        (0..40).for_each(|_| {
            seq += 1;
            log.sender.send(up(seq)).unwrap();
        });
        until(|| log.path.exists());
    }
    until(|| log.writer.counters().lines() == seq);
    let mut all: Vec<u8> = (0..50).flat_map(|rotation| log.read(&format!("old.{rotation}"))).collect();
    all.extend(log.read("log/events"));
    assert!(all == lines_of(1..=seq), "{} lines of {seq}", newlines(&all));
    assert_eq!(log.told.try_recv().ok(), None);
    assert_eq!(log.finish().lines, seq);
}

#[test]
fn fault_70_a_file_is_opened_again_at_once_although_nothing_is_written() {
    let log = Log::new(None);
    log.write(1, &log.path);
    std::fs::rename(&log.path, log.aside("old")).unwrap();
    log.writer.reopen();
    until(|| log.path.exists());
    std::fs::remove_dir_all(log.aside("log")).unwrap();
    log.writer.reopen();
    assert_eq!(log.told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::ENOENT }));
    assert_eq!(log.finish().lines, 1);
}

#[test]
fn fault_71_a_file_that_somebody_cut_is_told_of() {
    let log = Log::new(None);
    log.write(1, &log.path);
    log.write(2, &log.path);
    std::fs::copy(&log.path, log.aside("copy")).unwrap();
    File::options().write(true).open(&log.path).unwrap().set_len(0).unwrap();
    log.write(3, &log.path);
    assert_eq!(log.told.try_iter().collect::<Vec<_>>(), [WriteTrouble::Cut]);
    assert_eq!((log.read("copy"), log.read("log/events")), (lines_of(1..=2), lines_of([3])));
    assert_eq!(log.finish().errors, 1);
}

#[test]
fn fault_72_a_file_renames_itself_when_it_is_full() {
    let size = lines_of([1]).len() as u64;
    let log = Log::new(Some(Rotation { bytes_max: 7 * size, keep: 2 }));
    (1..=9).for_each(|seq| log.sender.send(up(seq)).unwrap());
    (1..=9).for_each(|seq| log.write(seq, &log.path));
    assert_eq!(log.told.try_recv().ok(), None);
    let files = ["log/events", "log/events.1", "log/events.2"].map(|name| log.read(name));
    assert!(files.iter().all(|file| !file.is_empty() && file.len() as u64 <= 7 * size));
    assert!(!log.aside("log/events.3").exists());
    let all: Vec<u8> = files.into_iter().rev().flatten().collect();
    assert_eq!(all, [lines_of(1..=9), lines_of(1..=9)].concat());
    assert_eq!(log.finish().lines, 18);
}

#[test]
fn fault_72_a_file_that_cannot_be_renamed_away_is_written_on_and_told_of() {
    let size = lines_of([1]).len() as u64;
    let log = Log::new(Some(Rotation { bytes_max: 2 * size, keep: 1 }));
    std::fs::create_dir(log.aside("log/events.1")).unwrap();
    (1..=5).for_each(|seq| log.write(seq, &log.path));
    assert_eq!(log.told.try_iter().collect::<Vec<_>>(), [WriteTrouble::Unrotated { errno: libc::EISDIR }]);
    assert_eq!(log.read("log/events"), lines_of(1..=5));
    assert_eq!(log.finish().lines, 5);
}

#[test]
fn a_new_file_is_for_its_owner_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.tsv");
    let format = Format::Tsv { start: MonoNs(0) };
    let output = Descriptor::open(Output::File(path.clone()), None).unwrap();
    let writer = EventWriter::spawn(queued(1), output, format, None, |_| {}).unwrap();
    assert_eq!(writer.close(LONG).lines, 1);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\tup\t4711\t42\tdegraded\t18446744073709551615\n");
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
        let error = Descriptor::open(Output::File(path.clone()), None).err().unwrap();
        assert_eq!(error.kind(), kind);
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot open event output {}: ", path.display())), "{text}");
        assert!(text.ends_with(&remedy), "{text}");
    }
}

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    path
}

/// Everything until the writer's thread closes the pipe, which it does after its report.
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
    let sink = Descriptor::open(Output::File(path), None).unwrap();
    let backoff = Backoff { patience: Duration::ZERO, ..fast() };
    let writer =
        EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, backoff, None, on_trouble).unwrap();
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
    let sink = Descriptor::open(Output::File(path.clone()), None).unwrap();
    let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
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
    let sink = Descriptor::open(Output::File(path.clone()), None).unwrap();
    let backoff = Backoff { patience: Duration::ZERO, ..fast() };
    let writer =
        EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, backoff, None, on_trouble).unwrap();
    assert_eq!(told.recv_timeout(LONG), Ok(WriteTrouble::Failing { errno: libc::EAGAIN }));
    let mut got = vec![0; 10_001];
    first.read_exact(&mut got).unwrap();
    drop(first);
    while told.recv_timeout(LONG).unwrap() != (WriteTrouble::Failing { errno: libc::EPIPE }) {}
    File::open(&path).unwrap().read_to_end(&mut got).unwrap();
    assert!(got == lines_of(1..=COUNT));
    assert_eq!(finish(&writer).lines, COUNT);
}

/// Standard output to a pipe: blocking, shared, and its reader may exit.
fn piped_stdout() -> (io::PipeReader, Descriptor) {
    let (reader, pipe) = io::pipe().unwrap();
    (reader, Descriptor::shared(File::from(std::os::fd::OwnedFd::from(pipe))).unwrap())
}

#[test]
fn fault_38_a_blocking_pipe_does_not_block_the_thread() {
    const COUNT: u64 = 3000;
    let (mut reader, sink) = piped_stdout();
    let (on_trouble, told) = troubles();
    let backoff = Backoff { patience: Duration::ZERO, ..fast() };
    let writer =
        EventWriter::spawn_on(queued(COUNT), sink, Format::Jsonl, backoff, None, on_trouble).unwrap();
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
    let writer = EventWriter::spawn_on(queued(3), sink, Format::Jsonl, fast(), None, on_trouble).unwrap();
    let report = finish(&writer);
    assert_eq!((report.lines, report.events_unwritten), (0, 3));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [WriteTrouble::Gone { errno: libc::EPIPE }]);
}

#[test]
fn the_back_off_doubles_to_its_end_and_is_forgotten_after_a_quiet_minute() {
    let mut backoff = Backoff::default();
    let mut now = Instant::now();
    let mut wait_after = |seconds| {
        now += Duration::from_secs(seconds);
        backoff.after_failure(now).as_millis()
    };
    let waits: Vec<_> = [0, 0, 0, 0, 0, 0, 0, 60, 61].map(&mut wait_after).into();
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000, 1000, 50]);
}
