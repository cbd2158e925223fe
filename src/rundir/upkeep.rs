//! Checks every two seconds whether agents can still find the fleet, restores its sockets, manifest and
//! symlink if they were removed, and reports that. Before that, each second, it records the history of the fleet, and
//! does what else is to be done each second.
//!
//! Connected agents do not need the files; but every agent that starts after a socket's file was removed
//! would fail to connect, unnoticed.
//!
//! It also has the roster written, for an observer that can adopt nothing.
//!
//! In: the files; what threads publish. Out: calls of `on_change`, warnings for the owner of the fleet, the history.
//! Thread: upkeep. Blocks: in file system calls and for the roster in procfs; no other thread waits for it. Only a stale
//! socket is ever replaced.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::history::Recorder;
use crate::message::Reason;
use crate::rundir::binding::{BindError, BoundSocket};
use crate::rundir::dir::{self, RunDir, RunDirError};
use crate::rundir::names::ROSTER;
use crate::sys::thread::join_until;
use crate::view::health::Lifeline;
use crate::warning::Warning;

/// The files are looked at in each such second.
const SECONDS_PER_LOOK: u32 = 2;
/// The roster is written at each such look, at the start and at the end.
const LOOKS_PER_ROSTER: u32 = 5;
/// Warnings held until they are taken; further ones are reported as events only.
const WARNINGS: usize = 256;

/// The files of a running fleet. Dropping this removes them, the lock last.
#[derive(Debug)]
pub struct Files {
    /// One per shard, ordered by index.
    pub sockets: Vec<BoundSocket>,
    /// The control socket.
    #[cfg(feature = "http")]
    pub control: BoundSocket,
    /// The socket for successors, unless it could not be bound.
    pub takeover: Option<BoundSocket>,
    /// The runtime directory.
    pub dir: RunDir,
}

impl Files {
    /// Has all of them obey the tenure of the directory.
    pub fn hold(&mut self) {
        let tenure = self.dir.tenure().clone();
        let sockets = self.sockets.iter_mut().chain(&mut self.takeover);
        #[cfg(feature = "http")]
        let sockets = sockets.chain([&mut self.control]);
        for socket in sockets {
            let stays = socket.stays();
            socket.held_by(&tenure, stays);
        }
    }
}

/// The list of the agents in the runtime directory.
pub trait Roster: fmt::Debug + Send {
    /// Takes the list that the observer before left.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for a file that no observer leaves.
    fn begin(&mut self, dir: &RunDir) -> io::Result<()>;

    /// Writes the list as it is now.
    ///
    /// # Errors
    /// The kernel's; the list before is still there.
    fn write(&mut self, dir: &RunDir) -> io::Result<()>;
}

/// The thread that maintains the files.
#[derive(Debug)]
pub struct Upkeep {
    stop: Sender<Infallible>,
    thread: JoinHandle<()>,
    /// Not owned by the thread, so that its panic leaves the files where they are.
    keeper: Arc<Mutex<Keeper>>,
    warnings: Receiver<Warning>,
}

impl Upkeep {
    /// Starts the thread that maintains `files`. The thread keeps its `lifeline` until it ends. It calls
    /// `on_change` when the file of a shard's socket (`None`: those of the fleet) is found missing or
    /// replaced, with the error number, or restored, with 0. It begins `roster`, and writes it at once, every ten
    /// seconds and at the end. It calls `recorder` as each second ends, and then `each_second`.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread, and the files.
    pub fn spawn(
        files: Files,
        lifeline: Lifeline,
        on_change: impl Fn(Option<u16>, i32) + Send + 'static,
        roster: impl Roster + 'static,
        recorder: Arc<Recorder>,
        mut each_second: impl FnMut() + Send + 'static,
    ) -> Result<Self, (io::Error, Option<Box<Files>>)> {
        let (stop, stopped) = bounded(0);
        let (teller, warnings) = bounded(WARNINGS);
        let keeper = Keeper {
            troubles: vec![None; files.sockets.len()],
            dir_trouble: None,
            files,
            on_change: Box::new(on_change),
            roster: Box::new(roster),
            has_begun: false,
            is_roster_unwritten: false,
            warnings: teller,
        };
        let keeper = Arc::new(Mutex::new(keeper));
        let of_thread = Arc::clone(&keeper);
        let body = move || {
            let _lifeline = lifeline;
            // At once: if this observer is killed, the next one adopts its agents, and must know whom it awaited.
            of_thread.lock().write_roster();
            let (mut seconds, mut looks) = (0_u32, 0_u32);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(recorder.rest_of_second()) {
                recorder.record_second();
                each_second();
                seconds = seconds.wrapping_add(1);
                if !seconds.is_multiple_of(SECONDS_PER_LOOK) {
                    continue;
                }
                let mut keeper = of_thread.lock();
                keeper.look();
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS_PER_ROSTER) {
                    keeper.write_roster();
                }
            }
            recorder.record_part();
            of_thread.lock().write_roster();
        };
        match Builder::new().name("varta-upkeep".into()).spawn(body) {
            Ok(thread) => Ok(Self { stop, thread, keeper, warnings }),
            Err(error) => {
                Err((error, Arc::into_inner(keeper).map(|keeper| Box::new(keeper.into_inner().files))))
            }
        }
    }

    /// The oldest warning not taken yet.
    pub fn next_warning(&self) -> Option<Warning> {
        self.warnings.try_recv().ok()
    }

    /// What writes the roster on another thread.
    pub fn clerk(&self) -> Clerk {
        Clerk(Arc::clone(&self.keeper))
    }

    /// Asks the thread to end; until it has, it may report more.
    pub fn end(self) -> Ending {
        drop(self.stop);
        Ending { thread: self.thread, keeper: self.keeper, warnings: self.warnings }
    }
}

/// Writes the roster besides the upkeep.
#[derive(Clone, Debug)]
pub struct Clerk(Arc<Mutex<Keeper>>);

impl Clerk {
    /// Writes it now. False: the upkeep hangs in the file system for longer than `patience`.
    pub fn write_roster(&self, patience: Duration) -> bool {
        self.0.try_lock_for(patience).map(|mut keeper| keeper.write_roster()).is_some()
    }
}

/// A thread that was asked to end.
#[derive(Debug)]
pub struct Ending {
    thread: JoinHandle<()>,
    keeper: Arc<Mutex<Keeper>>,
    warnings: Receiver<Warning>,
}

impl Ending {
    /// The files, unless the thread has not ended by then, and the warnings not taken yet.
    pub fn join_until(self, until: Instant) -> (Option<Files>, Vec<Warning>) {
        let _ = join_until(self.thread, until);
        // The thread's reference is dropped once it ended, even by a panic.
        let keeper = Arc::into_inner(self.keeper);
        (keeper.map(|keeper| keeper.into_inner().files), self.warnings.try_iter().collect())
    }
}

/// Why agents cannot find a socket, or the fleet.
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

/// The result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    InPlace,
    PutBack,
}

struct Keeper {
    files: Files,
    /// The trouble last reported of each socket, if it is not over.
    troubles: Vec<Option<Trouble>>,
    dir_trouble: Option<Trouble>,
    on_change: Box<dyn Fn(Option<u16>, i32) + Send>,
    roster: Box<dyn Roster>,
    /// It has taken the list of the observer before.
    has_begun: bool,
    /// To write it failed last time.
    is_roster_unwritten: bool,
    warnings: Sender<Warning>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("files", &self.files)
            .field("roster", &self.roster)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// Checks all files once. Two system calls per socket and four more if nothing is wrong.
    fn look(&mut self) {
        if self.files.dir.tenure().is_anothers() {
            return;
        }
        let Files { sockets, dir, .. } = &mut self.files;
        // Without the lock, another observer may be about to bind the same paths.
        let held = dir.hold().map_err(Trouble::from);
        let of_sockets: Vec<_> = sockets.iter_mut().map(|socket| look_after(socket, &held)).collect();
        let of_dir = match &held {
            Ok(was_lost) => dir
                .look_after()
                .map_err(Trouble::from)
                .map(|is_repaired| if *was_lost || is_repaired { Found::PutBack } else { Found::InPlace }),
            Err(trouble) => Err(trouble.clone()),
        };
        let mut of_fleet = vec![(self.files.dir.path().to_owned(), of_dir)];
        let sockets = self.files.takeover.iter_mut();
        #[cfg(feature = "http")]
        let sockets = sockets.chain([&mut self.files.control]);
        of_fleet.extend(sockets.map(|socket| (socket.path().to_owned(), look_after(socket, &held))));
        // One event: the first trouble of them, else the first that was put back.
        of_fleet.sort_by_key(|(_, found)| match found {
            Err(_) => 0,
            Ok(Found::PutBack) => 1,
            Ok(Found::InPlace) => 2,
        });
        let mut of_fleet = of_fleet.into_iter();
        let first = of_fleet.next();
        for (path, _) in of_fleet.filter(|(_, found)| *found == Ok(Found::PutBack)) {
            let _ = self.warnings.try_send(Warning::PutBack { path });
        }
        for (shard, found) in of_sockets.into_iter().enumerate() {
            if has_news(&mut self.troubles[shard], &found) {
                self.tell(u16::try_from(shard).ok(), self.files.sockets[shard].path().to_owned(), found);
            }
        }
        if let Some((path, of_dir)) = first
            && has_news(&mut self.dir_trouble, &of_dir)
        {
            self.tell(None, path, of_dir);
        }
    }

    fn begin_roster(&mut self) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        if let Err(error) = self.roster.begin(&self.files.dir) {
            let _ = self.warnings.try_send(Warning::NoRoster { why: Reason(&error).to_string() });
        }
    }

    fn write_roster(&mut self) {
        self.begin_roster();
        if self.files.dir.tenure().is_anothers() {
            return;
        }
        let written = self.roster.write(&self.files.dir);
        let was_unwritten = std::mem::replace(&mut self.is_roster_unwritten, written.is_err());
        if let (Err(error), false) = (written, was_unwritten) {
            let path = self.files.dir.path().join(ROSTER);
            let why = Reason(&error).to_string();
            let _ = self.warnings.try_send(Warning::RosterUnwritten { path, why });
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

/// Whether this differs from what was last reported: a trouble is reported once, and so is its end.
fn has_news(told: &mut Option<Trouble>, found: &Result<Found, Trouble>) -> bool {
    let now = found.as_ref().err();
    let is_news = *found == Ok(Found::PutBack) || told.as_ref() != now;
    *told = now.cloned();
    is_news
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::unbounded;

    use super::*;
    use crate::history::History;
    use crate::view::copies::Copies;
    use crate::view::health::{FleetThread, Vitals};

    impl Upkeep {
        /// Makes the thread panic at its next look.
        pub fn make_panic(&self) {
            self.keeper.lock().troubles.clear();
        }
    }

    /// A roster that says what it is called for.
    #[derive(Debug)]
    struct Calls(Sender<&'static str>);

    impl Roster for Calls {
        fn begin(&mut self, _: &RunDir) -> io::Result<()> {
            self.0.send("begin").map_err(io::Error::other)
        }

        fn write(&mut self, _: &RunDir) -> io::Result<()> {
            self.0.send("write").map_err(io::Error::other)
        }
    }

    /// An observer that is killed soon has said whom it awaits, for the one that adopts what it leaves.
    #[test]
    fn fault_26_the_roster_is_written_at_once() {
        let place = tempfile::tempdir().unwrap();
        let dir = RunDir::open(place.path()).unwrap();
        let files = Files {
            sockets: Vec::new(),
            #[cfg(feature = "http")]
            control: dir.bind_control(0o600, Default::default()).unwrap(),
            takeover: None,
            dir,
        };
        let (calls, called) = unbounded();
        let (copies, _asked) = Copies::new(0, Arc::default());
        let recorder =
            Recorder::new(Arc::new(History::create(0, 0, 0).unwrap()), Arc::from([]), Arc::new(copies));
        let lifeline = Vitals::new(Arc::from([]), Arc::default()).of(FleetThread::Upkeep);
        let upkeep = Upkeep::spawn(files, lifeline, |_, _| (), Calls(calls), Arc::new(recorder), || ())
            .expect("a thread");
        assert_eq!(called.recv(), Ok("begin"));
        upkeep.end().thread.join().unwrap();
        let calls: Vec<_> = called.try_iter().collect();
        assert!(
            calls.len() >= 2 && calls.iter().all(|call| *call == "write"),
            "now, and at the end: {calls:?}"
        );
    }
}
