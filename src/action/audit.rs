//! The record of every step of an action: a file of JSON lines, appended to, that survives a crash.
//!
//! Thread: act. Blocks: in the file system. A line that a crash left half written is removed at the next start.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How much of the end of the file is read at the start, bytes.
const TAIL_BYTES: u64 = 8 << 20;
/// How often a failed write is tried with the file opened anew.
const ATTEMPTS: u32 = 2;

/// A stall that an action was started for: the run of the observer, the session, and the beat since which it is silent,
/// `CLOCK_MONOTONIC`, ns.
pub type Acted = (u64, u32, u64);

/// The file.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    is_synced: bool,
    file: Option<File>,
    /// Lines that could not be written.
    pub lost: u64,
}

/// What an earlier observer left.
#[derive(Debug, Default)]
pub struct Before {
    /// The stalls that something was started for.
    pub acted: HashSet<Acted>,
    /// Bytes of a half-written line that were removed.
    pub cut: u64,
}

/// The keys of a line that are read back.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    run: String,
    session: Option<u32>,
    phase: Option<String>,
    silent_since_ns: Option<u64>,
}

impl Audit {
    /// Opens the file, or makes it (mode 0600), and reads its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf, is_synced: bool) -> io::Result<(Self, Before)> {
        let mut file = open(&path)?;
        let before = repair(&mut file)?;
        Ok((Self { path, is_synced, file: Some(file), lost: 0 }, before))
    }

    /// Writes a line. A failure is counted; the next line tries again with the file opened anew.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            outcome = self.append(&text);
            if outcome.is_ok() {
                return outcome;
            }
            self.file = None;
        }
        self.lost += 1;
        outcome
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // A disk that was full may have taken a part of the line.
        let end = file.seek(SeekFrom::End(0))?;
        let written =
            file.write_all(text).and_then(|()| if self.is_synced { file.sync_data() } else { Ok(()) });
        if written.is_err() {
            let _ = file.set_len(end);
        }
        written
    }

    /// Opens the file anew: it was renamed.
    pub fn reopen(&mut self) {
        self.file = None;
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn repair(file: &mut File) -> io::Result<Before> {
    // A device or a pipe keeps nothing.
    if !file.metadata()?.is_file() {
        return Ok(Before::default());
    }
    let len = file.seek(SeekFrom::End(0))?;
    let from = len.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let cut = (tail.len() - whole) as u64;
    if cut > 0 {
        file.set_len(len - cut)?;
    }
    let lines =
        tail[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let acted = lines.filter_map(|line: Line| {
        let is_start = matches!(line.phase.as_deref(), Some("starting" | "started"));
        let run = u64::from_str_radix(&line.run, 16).ok()?;
        is_start.then_some((run, line.session?, line.silent_since_ns?))
    });
    Ok(Before { acted: acted.collect(), cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(session: u32, phase: &str) -> serde_json::Value {
        serde_json::json!({ "run": "ab", "session": session, "phase": phase, "silent_since_ns": 7 })
    }

    #[test]
    fn a_line_that_a_crash_left_half_written_is_removed_and_the_rest_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (mut audit, before) = Audit::open(path.clone(), true).unwrap();
        assert_eq!((before.acted.len(), before.cut), (0, 0));
        audit.write(&line(1, "starting")).unwrap();
        audit.write(&line(2, "held")).unwrap();
        audit.write(&line(3, "starting")).unwrap();
        drop(audit);
        let whole = std::fs::read(&path).unwrap();
        let third =
            whole.len() - whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() - 1;
        for cut in 0..=third {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut audit, before) = Audit::open(path.clone(), false).unwrap();
            let half = if cut == 0 || cut == third { 0 } else { third - cut };
            assert_eq!(before.cut, half as u64, "{cut}");
            let mut sessions: Vec<u32> = before.acted.iter().map(|(_, session, _)| *session).collect();
            sessions.sort_unstable();
            assert_eq!(sessions, if cut == 0 { vec![1, 3] } else { vec![1] }, "{cut}");
            audit.write(&line(4, "started")).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_said_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (mut audit, _) = Audit::open(path.clone(), false).unwrap();
        audit.reopen();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(audit.write(&line(1, "held")).is_err());
        assert_eq!(audit.lost, 1);
        std::fs::remove_dir(&path).unwrap();
        audit.write(&line(2, "held")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        let (mut full, before) = Audit::open("/dev/full".into(), false).unwrap();
        assert!(full.write(&line(3, "held")).is_err() && before.cut == 0);
        std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).unwrap();
        assert!(Audit::open(directory.path().join("link"), false).is_err(), "a link is not followed");
    }
}
