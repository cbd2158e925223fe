//! The observer that hands over.
//!
//! In: messages of a successor. Out: its descriptors. Thread: `varta-takeover`. Blocks: for the next message. It parks
//! shards and aggregator for a fifth of a second at most; whatever a successor does or does not do, they go on
//! afterwards, unless it took what was offered.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::line::{ANSWER_WITHIN, HELLO, Line, Message, START_WITHIN, is_trusted, wait_for};
use crate::history::Recorder;
use crate::journal::{Journal, Offer};
use crate::lane::kick::Kick;
use crate::lane::park::Park;
use crate::lane::{Doorbell, Port};
use crate::process::procfs::time_namespace;
use crate::rundir::tenure::Tenure;
use crate::rundir::upkeep::Clerk;
use crate::sys::clock::SystemClock;
use crate::sys::thread::join_until;
use crate::time::Clock;

/// How long the threads are parked at most.
const PARKED_MAX: Duration = Duration::from_millis(200);
/// How long the shards, then the aggregator, may take to park: longer than a turn takes.
const PARKS_WITHIN: Duration = Duration::from_millis(50);
/// How long the event output may take to write what it has; else it is no moment to hand over.
const WRITES_WITHIN: Duration = Duration::from_millis(30);
const LOOK_AT_OUTPUT: Duration = Duration::from_millis(1);
/// How long the upkeep may take to let the roster be written.
const ROSTER_WITHIN: Duration = Duration::from_millis(500);
/// The threads are not parked more often than once in this time.
const BETWEEN_OFFERS: Duration = Duration::from_secs(1);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What is handed over, and who is parked for it.
pub struct Offerer {
    /// What successors connect to.
    pub listener: Arc<OwnedFd>,
    /// What a successor gets, by name, and whether another process keeps it, too.
    pub fds: Vec<(String, Arc<OwnedFd>, bool)>,
    pub ports: Arc<[Arc<Port>]>,
    pub doorbell: Arc<Doorbell>,
    pub journal: Arc<Journal>,
    pub shards: Arc<Park>,
    pub aggregator: Arc<Park>,
    pub clerk: Clerk,
    pub recorder: Arc<Recorder>,
    pub tenure: Tenure,
}

/// What a successor is told.
pub enum Reply {
    /// Why there is nothing to take over.
    Refuse(String),
    /// Called once a successor, with this pid, has taken over.
    HandOver(Box<dyn FnOnce(u32) + Send>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(why) => f.debug_tuple("Refuse").field(why).finish(),
            Self::HandOver(_) => f.write_str("HandOver"),
        }
    }
}

/// What became of a successor that took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handed {
    /// It observes.
    Observing,
    /// It ended before it observed: nobody does.
    Ended,
    /// It still runs, and has not said that it observes.
    Silent,
}

/// The thread that answers successors.
#[derive(Debug)]
pub struct Successors {
    thread: JoinHandle<Option<Handed>>,
    shared: Arc<Shared>,
    parks: [Arc<Park>; 2],
    journal: Arc<Journal>,
    tenure: Tenure,
}

#[derive(Debug)]
struct Shared {
    bell: Kick,
    offers: Mutex<Offers>,
    reply: Mutex<Reply>,
}

#[derive(Debug, Default)]
struct Offers {
    /// No more are made.
    are_over: bool,
    last: Option<Offer>,
    last_at: Option<Instant>,
}

impl Successors {
    /// Starts the thread. Successors are refused until there is another [`Reply`].
    ///
    /// # Errors
    /// The kernel's, if it grants no thread or descriptor.
    pub fn spawn(offerer: Offerer) -> io::Result<Self> {
        let refusal = "its program does not hand over, or not yet: try again, or stop it and start this one";
        let shared = Arc::new(Shared {
            bell: Kick::new()?,
            offers: Mutex::default(),
            reply: Mutex::new(Reply::Refuse(refusal.to_owned())),
        });
        let parks = [&offerer.shards, &offerer.aggregator].map(Arc::clone);
        let (journal, tenure) = (Arc::clone(&offerer.journal), offerer.tenure.clone());
        let of_thread = Arc::clone(&shared);
        let body = move || offerer.serve(&of_thread);
        let thread = thread::Builder::new().name("varta-takeover".into()).spawn(body)?;
        Ok(Self { thread, shared, parks, journal, tenure })
    }

    /// What successors are told from now on.
    pub fn reply(&self, reply: Reply) {
        *self.shared.reply.lock() = reply;
    }

    /// Whether a successor has taken over. Never waits.
    pub fn have_taken(&self) -> bool {
        self.shared.offers.lock().last.is_some_and(|offer| self.journal.is_taken(offer))
    }

    /// Makes no more offers, and ends one that is open. Returns whether a successor has taken over: then the threads
    /// that are parked end, and nothing may be written any more. Never waits.
    pub fn close(&self) -> bool {
        let is_taken = {
            let mut offers = self.shared.offers.lock();
            offers.are_over = true;
            offers.last.is_some_and(|offer| !self.journal.keep(offer))
        };
        if is_taken {
            self.tenure.give();
            self.parks.iter().for_each(|park| park.leave());
        }
        self.shared.bell.kick();
        is_taken
    }

    /// Waits for the end of the thread. What became of the successor, if there is one.
    pub fn join(self, within: Duration) -> Option<Handed> {
        join_until(self.thread, Instant::now() + within).unwrap_or(Some(Handed::Silent))
    }
}

/// Why a conversation ends, before anything was taken.
enum Over {
    /// The successor ended it, or cannot be reached.
    HungUp,
    /// The successor is told why.
    Refused(String),
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::HungUp
    }
}

impl Shared {
    /// Whether a successor may take over now.
    fn may_hand_over(&self) -> Result<(), Over> {
        match &*self.reply.lock() {
            Reply::Refuse(why) => Err(Over::Refused(why.clone())),
            Reply::HandOver(_) => Ok(()),
        }
    }
}

/// What comes next from a successor.
enum Heard {
    Message(Message),
    HungUp,
    /// It takes too long, or the fleet stops.
    Nothing,
}

/// Lets the threads go on at the end, unless a successor took what they have.
struct Parked<'a> {
    offerer: &'a Offerer,
    offer: Option<Offer>,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if self.offer.is_none_or(|offer| self.offerer.journal.keep(offer)) {
            self.offerer.aggregator.resume();
            self.offerer.shards.resume();
        }
    }
}

impl Offerer {
    fn serve(self, shared: &Shared) -> Option<Handed> {
        while !shared.offers.lock().are_over {
            match wait_for([self.listener.as_fd(), shared.bell.as_fd()], None) {
                Ok([true, _]) => {}
                Ok(_) => continue,
                Err(_) => {
                    thread::sleep(ACCEPT_RETRY);
                    continue;
                }
            }
            match self.accept() {
                Ok(Some(line)) => match self.converse(&line, shared) {
                    Ok(pid) => return Some(self.handed(&line, shared, pid)),
                    Err(Over::Refused(why)) => drop(line.send(&format!("refused {why}"))),
                    Err(Over::HungUp) => {}
                },
                Ok(None) => {}
                // No descriptor: it waits in the backlog.
                Err(_) => thread::sleep(ACCEPT_RETRY),
            }
        }
        None
    }

    fn accept(&self) -> io::Result<Option<Line>> {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Line(fd))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One successor. Returns its pid once it took over.
    fn converse(&self, line: &Line, shared: &Shared) -> Result<u32, Over> {
        let refused = |why: &str| Err(Over::Refused(why.to_owned()));
        let peer = line.peer()?;
        if !is_trusted(&peer) {
            return refused("only root and its own user may take over");
        }
        let Some(pid) = peer.pid else {
            return refused(
                "it cannot see the other process, which is in another pid namespace: run that in the same",
            );
        };
        let hello = self.text(line, pid, shared, Instant::now() + ANSWER_WITHIN)?;
        if hello != HELLO {
            return refused(&format!("it knows {HELLO:?} and not {hello:?}; stop it first"));
        }
        shared.may_hand_over()?;
        for (name, fd, is_kept) in &self.fds {
            let word = if *is_kept { "kept" } else { "fd" };
            line.send_with(&format!("{word} {name}"), &[fd.as_fd()])?;
        }
        line.send(&format!("end {} {}", std::process::id(), time_namespace()))?;
        let until = Instant::now() + START_WITHIN;
        loop {
            let text = self.text(line, pid, shared, until)?;
            if text != "ready" {
                return refused(&format!("{text:?} is not expected"));
            }
            shared.may_hand_over()?;
            if let Some(shard) = self.ports.iter().position(|port| !port.is_alive()) {
                return refused(&format!("its shard {shard} makes no progress; restart it"));
            }
            match self.offer(line, pid, shared) {
                Ok(true) => return Ok(pid),
                Ok(false) => line.send("over")?,
                Err(why) => line.send(&format!("busy {why}"))?,
            }
        }
    }

    /// The next message of this successor, by `until`.
    fn text(&self, line: &Line, pid: u32, shared: &Shared, until: Instant) -> Result<String, Over> {
        match self.hear(line, pid, shared, until)? {
            Heard::Message(message) => Ok(message.text),
            Heard::HungUp => Err(Over::HungUp),
            Heard::Nothing => Err(Over::Refused("it waited too long for a message; try again".to_owned())),
        }
    }

    /// Offers what it has, once. Returns whether the successor took it.
    fn offer(&self, line: &Line, pid: u32, shared: &Shared) -> Result<bool, &'static str> {
        {
            let mut offers = shared.offers.lock();
            if offers.last_at.is_some_and(|at| at.elapsed() < BETWEEN_OFFERS) {
                return Err("it was ready for that a moment ago");
            }
            offers.last_at = Some(Instant::now());
        }
        // A process that it misses is to be missed by the successor, too.
        if !self.clerk.write_roster(ROSTER_WITHIN) {
            return Err("its file system hangs");
        }
        let until = Instant::now() + PARKED_MAX;
        let mut parked = Parked { offerer: self, offer: None };
        self.park()?;
        // The successor copies it, and counts from its own start.
        self.recorder.record_part();
        let offer = {
            let mut offers = shared.offers.lock();
            if offers.are_over {
                return Err("it stops");
            }
            let offer = self.journal.offer();
            offers.last = Some(offer);
            offer
        };
        parked.offer = Some(offer);
        if line.send(&format!("offered {}", offer.number())).is_ok() {
            // Whatever it says, or if it hangs up: what it did is in the journal.
            let _ = self.hear(line, pid, shared, until);
        }
        let is_kept = self.journal.keep(offer);
        if !is_kept {
            self.tenure.give();
        }
        Ok(!is_kept)
    }

    /// Parks the shards, then the aggregator, which has reported all that they found by then.
    fn park(&self) -> Result<(), &'static str> {
        self.shards.want();
        let now = SystemClock.mono();
        self.ports.iter().for_each(|port| port.kick(now));
        if !self.shards.has_within(self.ports.len(), Instant::now() + PARKS_WITHIN) {
            return Err("a shard of it is in a long turn");
        }
        self.aggregator.want();
        self.doorbell.ring();
        if !self.aggregator.has_within(1, Instant::now() + PARKS_WITHIN) {
            return Err("its aggregator is in a long turn");
        }
        let until = Instant::now() + WRITES_WITHIN;
        // Without an output nothing waits: the aggregator has acknowledged it.
        while self.journal.acknowledged() < self.journal.last_seq() {
            if Instant::now() >= until {
                return Err("its event output is behind");
            }
            thread::sleep(LOOK_AT_OUTPUT);
        }
        Ok(())
    }

    /// The successor has it. Waits until it observes.
    fn handed(&self, line: &Line, shared: &Shared, pid: u32) -> Handed {
        let gone = Reply::Refuse("another observer took over from it; try again".to_owned());
        // Not under the lock: it may ask for another reply.
        let reply = mem::replace(&mut *shared.reply.lock(), gone);
        if let Reply::HandOver(handler) = reply {
            handler(pid);
        }
        let until = Instant::now() + START_WITHIN;
        loop {
            // Not interrupted by the end of the fleet, which waits for this.
            match wait_for([line.as_fd()], Some(until)) {
                Ok([true]) => {}
                Ok([false]) | Err(_) => return Handed::Silent,
            }
            match line.receive() {
                Ok(Some(message)) if message.text == "observing" => return Handed::Observing,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Handed::Ended,
            }
        }
    }

    /// The next message of this successor, by `until`. Other successors are refused meanwhile.
    fn hear(&self, line: &Line, pid: u32, shared: &Shared, until: Instant) -> io::Result<Heard> {
        let mut may_accept = true;
        loop {
            let listener = if may_accept { self.listener.as_fd() } else { line.as_fd() };
            let fds = [line.as_fd(), shared.bell.as_fd(), listener];
            let [is_heard, is_ending, is_another] = wait_for(fds, Some(until))?;
            if is_heard {
                return Ok(line.receive()?.map_or(Heard::HungUp, Heard::Message));
            }
            if is_ending || !is_another {
                return Ok(Heard::Nothing);
            }
            match self.accept() {
                Ok(Some(other)) => {
                    let why = format!("refused another take-over is under way, by pid {pid}; wait for it");
                    let _ = other.send(&why);
                }
                Ok(None) => {}
                // No descriptor: it waits in the backlog, until this conversation is over.
                Err(_) => may_accept = false,
            }
        }
    }
}
