//! Looks every two seconds whether agents still find the fleet, puts back what somebody removed of its sockets,
//! manifest and symlink, and tells.
//!
//! Who is connected does not need the files; but every agent that starts after a socket's file was removed
//! would beat into nothing, and nobody would know.
//!
//! In: the files. Out: requests to the aggregator, which tells; warnings to who runs the fleet. Thread:
//! upkeep. Blocks: in calls of the file system; no other thread waits for it. Nothing is replaced but a stale socket.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::rundir::binding::{BindError, BoundSocket};
use crate::rundir::dir::{self, RunDir, RunDirError};
use crate::sys::thread::join_until;
use crate::view::health::Lifeline;
use crate::warning::Warning;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Warnings that wait to be taken; further ones are reported as events only.
const WARNINGS: usize = 256;

/// The files of a running fleet. Dropping them removes them, the lock last.
#[derive(Debug)]
pub struct Files {
    /// One a shard, in the order of their index.
    pub sockets: Vec<BoundSocket>,
    /// The socket that answers questions.
    #[cfg(feature = "http")]
    pub control: BoundSocket,
    /// The runtime directory.
    pub dir: RunDir,
}

/// The thread that looks after the files.
#[derive(Debug)]
pub struct Upkeep {
    stop: Sender<Infallible>,
    thread: JoinHandle<()>,
    /// Here and not on the thread, so that a panic of it leaves the files where they are.
    keeper: Arc<Mutex<Keeper>>,
    warnings: Receiver<Warning>,
}

impl Upkeep {
    /// Starts to look after `files`. The thread keeps its `lifeline` until it ends. `on_change` is called on it when
    /// the file of a shard's socket (`None`: those of the fleet) is not where it was put, with the error number, or
    /// is back, with 0.
    ///
    /// # Errors
    /// The kernel's, when it grants no thread; the files are removed then.
    pub fn spawn(
        files: Files,
        lifeline: Lifeline,
        on_change: impl Fn(Option<u16>, i32) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (teller, warnings) = bounded(WARNINGS);
        let keeper = Keeper {
            troubles: vec![None; files.sockets.len()],
            dir_trouble: None,
            files,
            on_change: Box::new(on_change),
            warnings: teller,
        };
        let keeper = Arc::new(Mutex::new(keeper));
        let of_thread = Arc::clone(&keeper);
        let body = move || {
            let _lifeline = lifeline;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                of_thread.lock().look();
            }
        };
        let thread = Builder::new().name("varta-upkeep".into()).spawn(body)?;
        Ok(Self { stop, thread, keeper, warnings })
    }

    /// The next thing that was found and not taken yet.
    pub fn next_warning(&self) -> Option<Warning> {
        self.warnings.try_recv().ok()
    }

    /// The thread panics when it finds something out of place.
    #[cfg(test)]
    pub fn make_panic(&self) {
        self.keeper.lock().troubles.clear();
    }

    /// Tells the thread to end; until it has, it may find something more.
    pub fn end(self) -> Ending {
        drop(self.stop);
        Ending { thread: self.thread, keeper: self.keeper, warnings: self.warnings }
    }
}

/// A thread that was told to end.
#[derive(Debug)]
pub struct Ending {
    thread: JoinHandle<()>,
    keeper: Arc<Mutex<Keeper>>,
    warnings: Receiver<Warning>,
}

impl Ending {
    /// The files, unless the thread has not ended by then, and what was found and not taken.
    pub fn join_until(self, until: Instant) -> (Option<Files>, Vec<Warning>) {
        let _ = join_until(self.thread, until);
        // The thread's share of it is gone if it ended, well or not.
        let keeper = Arc::into_inner(self.keeper);
        (keeper.map(|keeper| keeper.into_inner().files), self.warnings.try_iter().collect())
    }
}

/// What keeps agents from finding something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    errno: i32,
    why: String,
}

impl From<RunDirError> for Trouble {
    fn from(error: RunDirError) -> Self {
        Self { errno: error.errno(), why: error.to_string() }
    }
}

impl From<BindError> for Trouble {
    fn from(error: BindError) -> Self {
        Self { errno: error.errno(), why: error.to_string() }
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    InPlace,
    PutBack,
}

struct Keeper {
    files: Files,
    /// What was told of each socket, and did not end since.
    troubles: Vec<Option<Trouble>>,
    dir_trouble: Option<Trouble>,
    on_change: Box<dyn Fn(Option<u16>, i32) + Send>,
    warnings: Sender<Warning>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Looks at everything once. Two system calls a socket and four more while nothing is wrong.
    fn look(&mut self) {
        let Files { sockets, dir, .. } = &mut self.files;
        // Without the lock somebody else may be about to bind the same paths.
        let held = dir.hold().map_err(Trouble::from);
        let of_sockets: Vec<_> = sockets.iter_mut().map(|socket| look_after(socket, &held)).collect();
        let of_dir = match &held {
            Ok(was_lost) => dir
                .look_after()
                .map_err(Trouble::from)
                .map(|is_repaired| if *was_lost || is_repaired { Found::PutBack } else { Found::InPlace }),
            Err(trouble) => Err(trouble.clone()),
        };
        let path = self.files.dir.path().to_owned();
        #[cfg(feature = "http")]
        let (path, of_dir) = match (of_dir, look_after(&mut self.files.control, &held)) {
            (Ok(Found::InPlace), of_control) => (self.files.control.path().to_owned(), of_control),
            (of_dir, _) => (path, of_dir),
        };
        for (shard, found) in of_sockets.into_iter().enumerate() {
            if has_news(&mut self.troubles[shard], &found) {
                self.tell(u16::try_from(shard).ok(), self.files.sockets[shard].path().to_owned(), found);
            }
        }
        if has_news(&mut self.dir_trouble, &of_dir) {
            self.tell(None, path, of_dir);
        }
    }

    fn tell(&self, shard: Option<u16>, path: PathBuf, found: Result<Found, Trouble>) {
        let (errno, warning) = match found {
            Ok(_) => (0, Warning::PutBack { path }),
            Err(Trouble { errno, why }) => (errno, Warning::Unreachable { path, why }),
        };
        (self.on_change)(shard, errno);
        let _ = self.warnings.try_send(warning);
    }
}

fn look_after(socket: &mut BoundSocket, held: &Result<bool, Trouble>) -> Result<Found, Trouble> {
    if socket.is_in_place() {
        socket.renew_spare();
        return Ok(Found::InPlace);
    }
    if let Err(trouble) = held {
        return Err(trouble.clone());
    }
    if let Some(parent) = socket.path().parent() {
        dir::vet(parent)?;
    }
    socket.put_back()?;
    socket.renew_spare();
    Ok(Found::PutBack)
}

/// Whether it differs from what was told last: a trouble is told once, and its end.
fn has_news(told: &mut Option<Trouble>, found: &Result<Found, Trouble>) -> bool {
    let now = found.as_ref().err();
    let is_news = *found == Ok(Found::PutBack) || told.as_ref() != now;
    *told = now.cloned();
    is_news
}
