//! What the event log says of a time that the observer no longer remembers.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use varta_fleet::event::filter::Filter;
use varta_fleet::event::{Event, EventKind};
use varta_fleet::time::WallNs;

/// No line is longer.
const LINE_MAX: u64 = 64 * 1024;
/// A part of a file that is not worth to be halved.
const PART: u64 = 64 * 1024;

/// Files of the event log, oldest first.
#[derive(Debug)]
pub struct Log {
    files: Vec<File>,
    /// When the first line of them was reported, unless that is the first event of an observer.
    pub begins: Option<WallNs>,
    /// Older events are in a file like this, which is compressed.
    pub compressed: Option<PathBuf>,
}

/// What is needed of a line to find others.
#[derive(Deserialize)]
struct Head {
    ts: Option<WallNs>,
    seq: Option<u64>,
}

impl Log {
    /// Opens those files that reach back to `since`, as far as there are any: the log, and what was renamed to `.1`, `.2`
    /// and so on.
    ///
    /// # Errors
    /// The kernel's for the log; `InvalidData` if it is none.
    pub fn open(path: &Path, since: WallNs) -> io::Result<Self> {
        let mut log = Self { files: Vec::new(), begins: None, compressed: None };
        // A log that was renamed a moment ago is created again with the next event.
        let renamed = PathBuf::from(format!("{}.1", path.display()));
        match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && renamed.exists() => {}
            file => log.files.push(file?),
        }
        for number in 1_u32.. {
            let first = log.files.last().map(first_line).transpose()?.flatten();
            if first.as_ref().and_then(|first| first.ts).is_some_and(|ts| ts <= since) {
                return Ok(log);
            }
            let older = |ending: &str| PathBuf::from(format!("{}.{number}{ending}", path.display()));
            match open(&older("")) {
                // Renamed a moment ago.
                Ok(file) if log.files.last().is_some_and(|last| is_same(last, &file)) => {}
                Ok(file) => log.files.push(file),
                Err(_) => {
                    log.begins = first.filter(|first| first.seq != Some(1)).and_then(|first| first.ts);
                    log.compressed = Some(older(".gz")).filter(|path| path.exists());
                    break;
                }
            }
        }
        Ok(log)
    }

    /// Calls `each` with the wanted lines that were reported before the event with this number, which was reported
    /// then, oldest first.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` for lines that no log has; those of `each`.
    pub fn each_before<E: From<io::Error>>(
        self,
        (ts, seq): (WallNs, u64),
        filter: &Filter,
        mut each: impl FnMut(&str, &Event) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut is_inside, mut last_seq) = (false, 0);
        for file in self.files.iter().rev() {
            let mut lines = Lines::from(file, start_of(file, filter.since.unwrap_or_default())?)?;
            while let Some(line) = lines.next()? {
                let Ok(event) = serde_json::from_str::<Event>(line) else { continue };
                match event.kind {
                    EventKind::Beat => continue,
                    // It has no time: it is of that of the lines around it.
                    EventKind::Lost { .. } if is_inside && filter.kinds.is_empty() => {
                        each(line, &event)?;
                        continue;
                    }
                    EventKind::Lost { .. } => continue,
                    EventKind::Start { .. } => last_seq = 0,
                    _ => {}
                }
                let is_after = filter.until.is_some_and(|until| event.wall >= until);
                if is_after || (event.wall, event.seq) >= (ts, seq) {
                    break;
                }
                is_inside = filter.is_in_time(event.wall);
                let is_repeated = event.again && event.seq <= last_seq;
                last_seq = last_seq.max(event.seq);
                if !is_repeated && filter.wants(&event) {
                    each(line, &event)?;
                }
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening a FIFO waits for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
    }
    File::open(path)
}

fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(one) == id(other)
}

fn first_line(file: &File) -> io::Result<Option<Head>> {
    let mut lines = Lines::from(file, 0)?;
    while let Some(line) = lines.next()? {
        if let Some(head) = serde_json::from_str::<Head>(line).ok().filter(|head| head.ts.is_some()) {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// An offset after which all lines of this time and later are. Lines are in the order of their times, but for steps of
/// the clock.
fn start_of(file: &File, since: WallNs) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > PART {
        let middle = low + (high - low) / 2;
        let mut lines = Lines::from(file, middle)?;
        let mut is_before = false;
        while let Some(line) = lines.next()? {
            if let Some(ts) = serde_json::from_str::<Head>(line).ok().and_then(|head| head.ts) {
                is_before = ts < since;
                break;
            }
        }
        if is_before { low = middle } else { high = middle }
    }
    Ok(low)
}

/// The whole lines of a file.
struct Lines<'a> {
    reader: BufReader<&'a File>,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Those that begin after this offset.
    fn from(mut file: &'a File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset.saturating_sub(1)))?;
        let mut lines = Self { reader: BufReader::new(file), line: Vec::new() };
        if offset > 0 {
            lines.next()?;
        }
        Ok(lines)
    }

    /// The next one. What is being written at the end of the file is none.
    fn next(&mut self) -> io::Result<Option<&str>> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                let is_too_long = read as u64 == LINE_MAX;
                let why = "it has a line of more than 64 KiB, which is no event";
                return if is_too_long {
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                } else {
                    Ok(None)
                };
            }
            self.line.pop();
            if std::str::from_utf8(&self.line).is_ok() {
                break;
            }
        }
        Ok(std::str::from_utf8(&self.line).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(seq: u64, second: u64, kind: &str) -> String {
        let ts = WallNs(1_796_047_200_000_000_000 + second * 1_000_000_000);
        format!("{{\"v\":1,\"seq\":{seq},\"ts\":\"{ts}\",\"mono_ns\":1,{kind}}}\n")
    }

    fn at(second: u64) -> WallNs {
        WallNs(1_796_047_200_000_000_000 + second * 1_000_000_000)
    }

    const START: &str = "\"kind\":\"start\",\"shards\":1";
    const STOP: &str = "\"kind\":\"stop\"";

    fn numbers(path: &Path, since: WallNs, before: (WallNs, u64)) -> Vec<u64> {
        let filter = Filter { since: Some(since), ..Filter::default() };
        let mut found = Vec::new();
        let each = |_: &str, event: &Event| {
            found.push(event.seq);
            Ok::<_, io::Error>(())
        };
        Log::open(path, since).expect("a log").each_before(before, &filter, each).expect("it is read");
        found
    }

    #[test]
    fn any_time_of_a_long_log_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        // Two events a second, about 200 KiB.
        let text: String = (1..=2000).map(|seq| line(seq, seq / 2, START)).collect();
        fs::write(&path, &text).expect("write");
        assert!(text.len() as u64 > 2 * PART);
        for second in [0, 1, 7, 499, 500, 501, 999] {
            let before = (at(second + 3), 2 * (second + 3) + 1);
            let expected: Vec<u64> = (2 * second.max(1)..=(2 * second + 6).min(2000)).collect();
            let found = numbers(&path, at(second), before);
            assert_eq!(found[usize::from(second == 0)..], expected[..], "{second}");
        }
        assert_eq!(numbers(&path, at(5000), (at(6000), 1)), [0; 0]);
    }

    #[test]
    fn renamed_files_come_first_and_what_is_missing_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        let write = |ending: &str, lines: &[String]| {
            fs::write(format!("{}{ending}", path.display()), lines.concat()).expect("write");
        };
        write("", &[line(7, 70, STOP), line(8, 80, STOP), "{\"v\":1,\"seq\":9".to_owned()]);
        write(".1", &[line(5, 50, STOP), "no event\n".to_owned(), line(6, 60, STOP)]);
        write(".2", &[line(3, 30, STOP), line(4, 40, STOP)]);
        write(".3.gz", &[]);
        let all = (at(1000), 1);
        assert_eq!(numbers(&path, at(70), all), [7, 8]);
        assert_eq!(numbers(&path, at(60), all), [6, 7, 8]);
        assert_eq!(numbers(&path, at(0), (at(70), 7)), [3, 4, 5, 6]);
        let log = Log::open(&path, at(0)).expect("a log");
        assert_eq!((log.files.len(), log.begins), (3, Some(at(30))));
        assert!(log.compressed.is_some_and(|path| path.ends_with("events.3.gz")));
        let log = Log::open(&path, at(30)).expect("a log");
        assert_eq!((log.files.len(), log.begins, log.compressed), (3, None, None));
    }

    #[test]
    fn a_log_that_was_just_renamed_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        fs::write(directory.path().join("events.1"), line(1, 10, START)).expect("write");
        assert_eq!(numbers(&path, at(0), (at(11), 2)), [1]);
    }

    #[test]
    fn events_of_several_observers_are_each_told_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events");
        let again = line(2, 11, STOP).replace("\"seq\":2", "\"seq\":2,\"again\":true");
        let lost = "{\"v\":1,\"kind\":\"lost\",\"from_seq\":3,\"to_seq\":4}\n".to_owned();
        let lines = [
            line(1, 10, START),
            line(2, 11, STOP),
            again,
            lost,
            line(5, 12, STOP),
            line(1, 20, START),
            line(2, 21, STOP),
        ];
        fs::write(&path, lines.concat()).expect("write");
        assert_eq!(numbers(&path, at(0), (at(21), 2)), [1, 2, 0, 5, 1]);
        assert_eq!(Log::open(&path, at(0)).expect("a log").begins, None, "it begins with an observer");
        assert_eq!(numbers(&path, at(12), (at(21), 2)), [5, 1]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let refused = |path: &Path| Log::open(path, at(0)).expect_err("refused");
        assert_eq!(refused(&directory.path().join("events")).kind(), io::ErrorKind::NotFound);
        assert!(refused(directory.path()).to_string().contains("not a file"));
        let long = directory.path().join("long");
        fs::write(&long, "x".repeat(100_000)).expect("write");
        assert!(refused(&long).to_string().contains("64 KiB"));
    }
}
