//! The record of every step of an action: a file of JSON lines, appended to, that survives a crash.
//!
//! Thread: act. Blocks: in the file system. A line that a crash left half written is removed at the next start.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Subject;
use super::request::Asker;
use crate::label::Label;
use crate::message::{Reason, Shown};
use crate::sys::clock::SystemClock;
use crate::time::{Clock, WallNs};

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
struct ReadBack {
    #[serde(default)]
    run: String,
    session: Option<u32>,
    phase: Option<String>,
    silent_since_ns: Option<u64>,
}

/// A line of the audit file.
#[derive(Serialize)]
pub struct Line<'a> {
    /// When it was written.
    pub ts: WallNs,
    /// The run of the observer.
    pub run: String,
    /// The action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'a str>,
    /// The phase of an action, or what else it is about.
    pub phase: &'a str,
    /// Why, in the word of the event schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
    /// Its user, or that of a brake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<&'a str>,
    /// Its unit, or that of a brake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The last beat before the silence, `CLOCK_MONOTONIC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_since_ns: Option<u64>,
    /// Which attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u16>,
    /// The process that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<u32>,
    /// Its exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// What was ordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a [String]>,
    /// What it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<&'a str>,
    /// How much that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Asker>,
    /// A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// A line that says nothing else.
    pub fn new(run: u64, phase: &'a str) -> Self {
        Self {
            ts: SystemClock.wall(),
            run: format!("{run:x}"),
            action: None,
            phase,
            why: None,
            pid: None,
            session: None,
            uid: None,
            comm: None,
            unit: None,
            silent_since_ns: None,
            attempt: None,
            child: None,
            code: None,
            signal: None,
            arguments: None,
            output: None,
            output_bytes: None,
            by: None,
            text: None,
        }
    }

    /// The same, about this agent.
    pub fn of(self, subject: &'a Subject) -> Self {
        let about = &subject.agent.about;
        Self {
            pid: Some(subject.agent.pid),
            session: Some(subject.agent.session),
            uid: about.uid,
            comm: Some(about.comm.as_str()).filter(|comm| !comm.is_empty()),
            unit: about.unit.and_then(Label::text).map(String::from),
            silent_since_ns: Some(silent_since(subject)),
            ..self
        }
    }
}

/// The last beat before the silence.
pub fn silent_since(subject: &Subject) -> u64 {
    subject.since.0.saturating_sub(subject.silent_ns)
}

/// Why an audit file cannot be opened: what, where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open audit file {}: {}; set audit to a file that this process may read and write",
    Shown(.path.display()),
    Reason(.why)
)]
struct OpenError {
    path: PathBuf,
    why: io::Error,
}

impl Audit {
    /// Opens the file, or makes it (mode 0600), and reads its end.
    ///
    /// # Errors
    /// It cannot be opened. The kind is the kernel's; the text names the path and what to do.
    pub fn open(path: PathBuf, is_synced: bool) -> io::Result<(Self, Before)> {
        let opened = open(&path).and_then(|mut file| Ok((repair(&mut file)?, file)));
        match opened {
            Ok((before, file)) => Ok((Self { path, is_synced, file: Some(file), lost: 0 }, before)),
            Err(why) => Err(io::Error::new(why.kind(), OpenError { path, why })),
        }
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
    let mut starts: HashMap<_, u32> = HashMap::new();
    for line in lines {
        let ReadBack { run, session, phase, silent_since_ns } = line;
        let run = u64::from_str_radix(&run, 16).ok();
        let Some(((run, session), silent_since)) = run.zip(session).zip(silent_since_ns) else { continue };
        let of_stall = starts.entry((run, session, silent_since)).or_default();
        *of_stall = match phase.as_deref() {
            Some("starting" | "started") => *of_stall + 1,
            // No spawner took the order of the line before.
            Some("not-taken") => of_stall.saturating_sub(1),
            _ => *of_stall,
        };
    }
    let acted = starts.into_iter().filter_map(|(stall, starts)| (starts > 0).then_some(stall)).collect();
    Ok(Before { acted, cut })
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
        audit.write(&line(5, "starting")).unwrap();
        audit.write(&line(5, "not-taken")).unwrap();
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
