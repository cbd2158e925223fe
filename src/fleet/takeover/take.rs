//! The successor of an observer that still runs.
//!
//! In: the runtime directory. Out: the descriptors of the observer there, and the moment from which they are ours.
//! Thread: the caller's. Blocks: for the answers of the observer, a few seconds at most.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType, connect};

use super::line::{ANSWER_WITHIN, HELLO, LISTENER, LOCK, Line, Message, is_trusted, wait_for};
use crate::journal::{Journal, Offer};
use crate::message::{Reason, Shown};
use crate::process::procfs::time_namespace;
use crate::rundir::names::TAKEOVER;
use crate::rundir::tenure::Tenure;
use crate::sys::unix_socket::open_connected;

/// How often an offer is asked for: on a busy host it may run out before this process gets the processor.
const OFFERS: usize = 10;
/// Between two of them: the observer makes no more.
const PAUSE: Duration = Duration::from_millis(1050);
/// How soon a wait notices that it is no longer wanted.
const LOOK: Duration = Duration::from_millis(50);
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
    /// Whose the files are.
    pub tenure: Tenure,
    /// The take-over is no longer wanted.
    is_cancelled: Arc<AtomicBool>,
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
    #[error("it runs as user {0}; run this one as the same")]
    Foreign(u32),
    #[error("it runs in another pid namespace; run this one in the same")]
    OtherPidNamespace,
    #[error(
        "it runs in another time namespace, so that its instants mean nothing here; run this one in the same"
    )]
    OtherTimeNamespace,
    #[error("it goes on, as this one was asked to stop")]
    Cancelled,
    #[error("{0}")]
    Refused(String),
    #[error("it does not answer; stop it, and start this one")]
    Silent,
    #[error("it hung up; look whether it still runs, and try again")]
    Closed,
    #[error("its answer {0:?} is not understood; stop it, and start this one")]
    Unexpected(String),
    #[error("{0}; stop it, and start this one")]
    Unusable(String),
    #[error("of {OFFERS} times, it never came to that, the last time because {0}; it goes on, try again")]
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
        io::ErrorKind::PermissionDenied => "; run this one as its user",
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "; raise the limit of open files (ulimit -n, LimitNOFILE=)"
        }
        _ => "",
    }
}

impl TakeoverError {
    /// `PermissionDenied` if this process may not, else `AddrInUse`: the observer goes on.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match &self.why {
            Why::Unreachable(error) => error.kind(),
            Why::Foreign(_) => io::ErrorKind::PermissionDenied,
            Why::Cancelled => io::ErrorKind::Interrupted,
            _ => io::ErrorKind::AddrInUse,
        }
    }
}

impl Takeover {
    /// Asks the observer in `dir` for its descriptors, by name. `None`: no observer hands over there. Once
    /// `is_cancelled`, it goes on.
    pub fn begin(dir: &Path, is_cancelled: Arc<AtomicBool>) -> Result<Option<(Self, Named)>, TakeoverError> {
        let failed = |why: Why| TakeoverError { dir: dir.to_owned(), pid: 0, why };
        let line = match dial(&dir.join(TAKEOVER)) {
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => return Ok(None),
            line => line.map_err(|errno| failed(Why::Unreachable(errno.into())))?,
        };
        let peer = line.peer().map_err(|error| failed(Why::Unreachable(error)))?;
        let mut this = Self {
            line,
            dir: dir.to_owned(),
            pid: peer.pid.unwrap_or(0),
            lock: None,
            listener: None,
            kept: BTreeSet::new(),
            tenure: Tenure::of_another(),
            is_cancelled,
        };
        if !is_trusted(&peer) {
            return Err(this.failed(Why::Foreign(peer.uid)));
        }
        if peer.pid.is_none() {
            return Err(this.failed(Why::OtherPidNamespace));
        }
        this.say(HELLO)?;
        let mut fds = Vec::new();
        loop {
            let Message { text, fd } = this.hear()?;
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match (word, fd) {
                ("end", None) => {
                    let mut numbers = rest.split(' ').map(str::parse::<u64>);
                    let (Some(Ok(pid)), Some(Ok(time))) = (numbers.next(), numbers.next()) else {
                        return Err(this.failed(Why::Unexpected(text)));
                    };
                    this.pid = u32::try_from(pid).unwrap_or(0);
                    if time != time_namespace() {
                        return Err(this.failed(Why::OtherTimeNamespace));
                    }
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
        for attempt in 0..OFFERS {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            self.must_be_wanted()?;
            self.say("ready")?;
            let Message { text, .. } = self.hear()?;
            match text.split_once(' ') {
                Some(("busy", why)) => last = why.to_owned(),
                Some(("refused", why)) => return Err(self.failed(Why::Refused(why.to_owned()))),
                Some(("offered", number)) => {
                    let Ok(number) = number.parse() else { return Err(self.failed(Why::Unexpected(text))) };
                    self.must_be_wanted()?;
                    if journal.take(Offer::numbered(number)) {
                        self.tenure.take();
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

    fn must_be_wanted(&self) -> Result<(), TakeoverError> {
        match self.is_cancelled.load(Ordering::Acquire) {
            true => Err(self.failed(Why::Cancelled)),
            false => Ok(()),
        }
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
        let until = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < until {
            self.must_be_wanted()?;
            let [is_heard] =
                wait_for([self.line.as_fd()], Some(Instant::now() + LOOK)).map_err(unreachable)?;
            if is_heard {
                return self.line.receive().map_err(unreachable)?.ok_or_else(|| self.failed(Why::Closed));
            }
        }
        Err(self.failed(Why::Silent))
    }
}

fn dial(path: &Path) -> Result<Line, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let refused = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let line = Line(open_connected(SocketType::SEQPACKET).map_err(refused)?);
    connect(&line, &address)?;
    Ok(line)
}
