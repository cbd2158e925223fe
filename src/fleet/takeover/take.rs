//! The successor of an observer that still runs.
//!
//! In: the runtime directory. Out: the descriptors of the observer there, and the moment from which they are ours.
//! Thread: the caller's. Blocks: for the answers of the observer, a few seconds at most.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType, connect};

use super::line::{ANSWER_WITHIN, HELLO, LISTENER, LOCK, Line, Message, wait_for};
use crate::journal::{Journal, Offer};
use crate::message::{Reason, Shown};
use crate::rundir::names::TAKEOVER;
use crate::sys::unix_socket::open_connected;

/// How often an offer is asked for: on a busy host it may run out before this process gets the processor.
const OFFERS: usize = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Descriptors that an observer hands over at most.
const FDS_MAX: usize = 512;

/// Descriptors by name.
type Named = Vec<(String, OwnedFd)>;

/// A conversation with the observer that is to be taken over.
#[derive(Debug)]
pub struct Takeover {
    line: Line,
    dir: PathBuf,
    /// The pid of the observer.
    pid: u32,
    /// The lock of the runtime directory.
    pub lock: Option<OwnedFd>,
    /// The socket for the next successor.
    pub listener: Option<OwnedFd>,
    /// Names of descriptors that another process keeps, too.
    kept: BTreeSet<String>,
}

/// Why an observer was not taken over. It goes on, unless it is said otherwise.
#[derive(Debug, thiserror::Error)]
#[error("cannot take over from the observer{} in {}: {why}", Pid(*pid), Shown(dir.display()))]
pub struct TakeoverError {
    dir: PathBuf,
    /// The pid of the observer, if it is known.
    pid: u32,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{}{}", Reason(.0), advice(.0))]
    Unreachable(io::Error),
    #[error("it runs as another user; run this one as the same")]
    Foreign,
    #[error("{0}")]
    Refused(String),
    #[error("it does not answer; stop it, and start this one")]
    Silent,
    #[error("it hung up; look at its messages")]
    Closed,
    #[error("its answer {0:?} is not understood; stop it, and start this one")]
    Unexpected(String),
    #[error("{0}; stop it, and start this one")]
    Unusable(String),
    #[error("{OFFERS} offers ran out: {0}; it goes on, try again")]
    TooLate(String),
}

/// ` (pid 4711)`.
struct Pid(u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (pid {})", self.0) }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this one as its user, or as root",
        _ => "",
    }
}

impl TakeoverError {
    /// `PermissionDenied` if this process may not, else `AddrInUse`: the observer goes on.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match &self.why {
            Why::Unreachable(error) => error.kind(),
            Why::Foreign => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::AddrInUse,
        }
    }
}

impl Takeover {
    /// Asks the observer in `dir` for its descriptors, by name. `None`: no observer hands over there.
    pub fn begin(dir: &Path) -> Result<Option<(Self, Named)>, TakeoverError> {
        let failed = |why: Why| TakeoverError { dir: dir.to_owned(), pid: 0, why };
        let line = match dial(&dir.join(TAKEOVER)) {
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => return Ok(None),
            line => line.map_err(|errno| failed(Why::Unreachable(errno.into())))?,
        };
        let is_trusted = line.is_trusted().map_err(|error| failed(Why::Unreachable(error)))?;
        let pid = line.pid();
        let mut this =
            Self { line, dir: dir.to_owned(), pid, lock: None, listener: None, kept: BTreeSet::new() };
        if !is_trusted {
            return Err(this.failed(Why::Foreign));
        }
        this.say(HELLO)?;
        let mut fds = Vec::new();
        loop {
            let Message { text, fd } = this.hear()?;
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match (word, fd) {
                ("end", None) => {
                    // The kernel would name who made the socket: an observer before it, perhaps.
                    this.pid = rest.parse().unwrap_or(this.pid);
                    return Ok(Some((this, fds)));
                }
                ("fd", Some(fd)) if rest == LOCK => this.lock = Some(fd),
                ("fd", Some(fd)) if rest == LISTENER => this.listener = Some(fd),
                ("fd" | "kept", Some(fd)) if fds.len() < FDS_MAX => {
                    if word == "kept" {
                        this.kept.insert(rest.to_owned());
                    }
                    fds.push((rest.to_owned(), fd));
                }
                ("refused", _) => return Err(this.failed(Why::Refused(rest.to_owned()))),
                _ => return Err(this.failed(Why::Unexpected(text))),
            }
        }
    }

    /// The pid of the observer.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether another process keeps the descriptor of this name, too.
    pub fn is_kept(&self, name: &str) -> bool {
        self.kept.contains(name)
    }

    /// What the observer has cannot be used: it goes on.
    pub fn unusable(&self, why: impl fmt::Display) -> TakeoverError {
        self.failed(Why::Unusable(why.to_string()))
    }

    /// From here on this process goes on for the observer, whose journal this is, and which writes no more.
    pub fn take(&self, journal: &Journal) -> Result<(), TakeoverError> {
        let mut last = String::new();
        for _ in 0..OFFERS {
            self.say("ready")?;
            let Message { text, .. } = self.hear()?;
            match text.split_once(' ') {
                Some(("busy", why)) => {
                    last = why.to_owned();
                    thread::sleep(BUSY_PAUSE);
                    continue;
                }
                Some(("refused", why)) => return Err(self.failed(Why::Refused(why.to_owned()))),
                Some(("offered", number)) => {
                    let Ok(number) = number.parse() else { return Err(self.failed(Why::Unexpected(text))) };
                    if journal.take(Offer::numbered(number)) {
                        // It notices by itself if this does not get through.
                        let _ = self.line.send("taken");
                        return Ok(());
                    }
                    last = "this process was too slow".to_owned();
                    match self.hear()? {
                        Message { text, .. } if text == "over" => {}
                        Message { text, .. } => return Err(self.failed(Why::Unexpected(text))),
                    }
                }
                _ => return Err(self.failed(Why::Unexpected(text))),
            }
        }
        Err(self.failed(Why::TooLate(last)))
    }

    /// Says that this process observes.
    pub fn observing(self) {
        // Only a message of the other process depends on it.
        let _ = self.line.send("observing");
    }

    fn failed(&self, why: Why) -> TakeoverError {
        TakeoverError { dir: self.dir.clone(), pid: self.pid, why }
    }

    fn say(&self, text: &str) -> Result<(), TakeoverError> {
        self.line.send(text).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.refusal(),
            _ => self.failed(Why::Unreachable(error)),
        })
    }

    /// It hung up: perhaps it said why before.
    fn refusal(&self) -> TakeoverError {
        let why = match self.line.receive() {
            Ok(Some(Message { text, .. })) => text.strip_prefix("refused ").map(str::to_owned),
            _ => None,
        };
        self.failed(why.map_or(Why::Closed, Why::Refused))
    }

    fn hear(&self) -> Result<Message, TakeoverError> {
        let unreachable = |error| self.failed(Why::Unreachable(error));
        match wait_for([self.line.as_fd()], Some(Instant::now() + ANSWER_WITHIN)).map_err(unreachable)? {
            [true] => self.line.receive().map_err(unreachable)?.ok_or_else(|| self.failed(Why::Closed)),
            [false] => Err(self.failed(Why::Silent)),
        }
    }
}

fn dial(path: &Path) -> Result<Line, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let refused = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let line = Line(open_connected(SocketType::SEQPACKET).map_err(refused)?);
    connect(&line, &address)?;
    Ok(line)
}
