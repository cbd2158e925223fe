//! The observer that hands over.
//!
//! In: messages of a successor. Out: its descriptors. Thread: `varta-takeover`. Blocks: for the next message. It parks
//! shards and aggregator for a fifth of a second at most; whatever a successor does or does not do, they go on
//! afterwards, unless it took what was offered.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::line::{ANSWER_WITHIN, HELLO, Line, Message, START_WITHIN, wait_for};
use crate::journal::{Journal, Offer};
use crate::lane::kick::Kick;
use crate::lane::park::Park;
use crate::lane::{Doorbell, Port};
use crate::sys::clock::SystemClock;
use crate::sys::thread::join_until;
use crate::time::Clock;

/// How long the threads are parked at most.
const PARKED_MAX: Duration = Duration::from_millis(200);
/// How long the shards, then the aggregator, may take to park: longer than a turn takes.
const PARKS_WITHIN: Duration = Duration::from_millis(50);
/// How long the event output may take to write what it has; else the successor repeats it.
const WRITES_WITHIN: Duration = Duration::from_millis(30);
const LOOK_AT_OUTPUT: Duration = Duration::from_millis(1);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What is handed over, and who is parked for it.
pub struct Host {
    /// What successors connect to.
    pub listener: Arc<OwnedFd>,
    /// What a successor gets, by name, and whether another process keeps it, too.
    pub fds: Vec<(String, Arc<OwnedFd>, bool)>,
    pub ports: Arc<[Arc<Port>]>,
    pub doorbell: Arc<Doorbell>,
    pub journal: Arc<Journal>,
    pub shards: Arc<Park>,
    pub aggregator: Arc<Park>,
}

/// What a successor is answered.
pub enum Answer {
    /// Why there is nothing to take over.
    Refuse(String),
    /// Called once a successor, with this pid, has taken over.
    HandOver(Box<dyn FnMut(u32) + Send>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(why) => f.debug_tuple("Refuse").field(why).finish(),
            Self::HandOver(_) => f.write_str("HandOver"),
        }
    }
}

/// What became of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handed {
    /// The pid of the successor.
    pub pid: u32,
    /// The successor has said that it observes.
    pub is_observing: bool,
}

/// The thread that answers successors.
#[derive(Debug)]
pub struct Server {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
    parks: [Arc<Park>; 2],
}

#[derive(Debug)]
struct Shared {
    bell: Kick,
    is_ending: AtomicBool,
    answer: Mutex<Answer>,
    handed: Mutex<Option<Handed>>,
}

impl Server {
    /// Starts the thread. Successors are refused until there is another [`Answer`].
    ///
    /// # Errors
    /// The kernel's, if it grants no thread or descriptor.
    pub fn spawn(host: Host) -> io::Result<Self> {
        let refusal = "the program that observes does not hand over; stop it, and start this one".to_owned();
        let shared = Arc::new(Shared {
            bell: Kick::new()?,
            is_ending: AtomicBool::new(false),
            answer: Mutex::new(Answer::Refuse(refusal)),
            handed: Mutex::new(None),
        });
        let parks = [&host.shards, &host.aggregator].map(Arc::clone);
        let of_thread = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("varta-takeover".into()).spawn(move || host.serve(&of_thread))?;
        Ok(Self { thread, shared, parks })
    }

    /// What successors are answered from now on.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock() = answer;
    }

    /// Answers no more. Returns what became of a hand-over, if there was one: then the parked threads do not go on. Waits
    /// for the successor to observe, but not longer than `within`.
    pub fn end(self, within: Duration) -> Option<Handed> {
        self.shared.is_ending.store(true, Ordering::Release);
        self.shared.bell.kick();
        let _ = join_until(self.thread, Instant::now() + within);
        let handed = *self.shared.handed.lock();
        if handed.is_some() {
            self.parks.iter().for_each(|park| park.leave());
        }
        handed
    }
}

/// What comes next from a successor.
enum Heard {
    Message(Message),
    /// It hung up, or takes too long, or the fleet stops.
    Nothing,
}

impl Host {
    fn serve(mut self, shared: &Shared) {
        while !shared.is_ending.load(Ordering::Acquire) {
            match wait_for([self.listener.as_fd(), shared.bell.as_fd()], None) {
                Ok([true, _]) => {}
                Ok(_) => continue,
                Err(_) => return,
            }
            match self.accept() {
                Ok(Some(line)) => {
                    let _ = self.converse(&line, shared);
                    if shared.handed.lock().is_some() {
                        return;
                    }
                }
                Ok(None) => {}
                // No descriptor: it waits in the backlog.
                Err(_) => thread::sleep(ACCEPT_RETRY),
            }
        }
    }

    fn accept(&self) -> io::Result<Option<Line>> {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Line(fd))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One successor.
    fn converse(&mut self, line: &Line, shared: &Shared) -> io::Result<()> {
        if !line.is_trusted()? {
            return line.send("refused only root and the user of the observer may take over");
        }
        let Heard::Message(hello) = self.hear(line, shared, Instant::now() + ANSWER_WITHIN)? else {
            return Ok(());
        };
        if hello.text != HELLO {
            let what = hello.text;
            return line
                .send(&format!("refused the observer knows {HELLO:?} and not {what:?}; stop it first"));
        }
        if let Answer::Refuse(why) = &*shared.answer.lock() {
            return line.send(&format!("refused {why}"));
        }
        for (name, fd, is_kept) in &self.fds {
            let word = if *is_kept { "kept" } else { "fd" };
            line.send_with(&format!("{word} {name}"), &[fd.as_fd()])?;
        }
        line.send(&format!("end {}", std::process::id()))?;
        let until = Instant::now() + START_WITHIN;
        while let Heard::Message(Message { text, .. }) = self.hear(line, shared, until)? {
            if text != "ready" {
                return line.send(&format!("refused {text:?} is not expected"));
            }
            if let Some(pid) = self.offer(line, shared)? {
                return self.handed(line, shared, pid);
            }
        }
        Ok(())
    }

    /// Offers what it has, once. Returns the pid of the successor if it took it.
    fn offer(&self, line: &Line, shared: &Shared) -> io::Result<Option<u32>> {
        let until = Instant::now() + PARKED_MAX;
        if let Err(why) = self.park() {
            self.resume();
            line.send(&format!("busy {why}"))?;
            return Ok(None);
        }
        let offer = self.journal.offer();
        // Whatever goes wrong in between.
        let _ = self.await_decision(line, shared, offer, until);
        if self.journal.keep(offer) {
            self.resume();
            line.send("over")?;
            return Ok(None);
        }
        Ok(Some(line.pid()))
    }

    fn await_decision(&self, line: &Line, shared: &Shared, offer: Offer, until: Instant) -> io::Result<()> {
        line.send(&format!("offered {}", offer.number()))?;
        self.hear(line, shared, until).map(drop)
    }

    /// Parks the shards, then the aggregator, which has reported all that they found by then.
    fn park(&self) -> Result<(), String> {
        self.shards.want();
        let now = SystemClock.mono();
        self.ports.iter().for_each(|port| port.kick(now));
        if !self.shards.has_within(self.ports.len(), Instant::now() + PARKS_WITHIN) {
            return Err("a shard makes no progress".to_owned());
        }
        self.aggregator.want();
        self.doorbell.ring();
        if !self.aggregator.has_within(1, Instant::now() + PARKS_WITHIN) {
            return Err("the aggregator makes no progress".to_owned());
        }
        let until = Instant::now() + WRITES_WITHIN;
        // Without an output nothing waits: the aggregator has acknowledged it.
        while self.journal.acknowledged() < self.journal.last_seq() && Instant::now() < until {
            thread::sleep(LOOK_AT_OUTPUT);
        }
        Ok(())
    }

    fn resume(&self) {
        self.aggregator.resume();
        self.shards.resume();
    }

    /// The successor has it.
    fn handed(&self, line: &Line, shared: &Shared, pid: u32) -> io::Result<()> {
        *shared.handed.lock() = Some(Handed { pid, is_observing: false });
        if let Answer::HandOver(handler) = &mut *shared.answer.lock() {
            handler(pid);
        }
        let until = Instant::now() + START_WITHIN;
        loop {
            // Not interrupted by the end of the fleet, which waits for this.
            if wait_for([line.as_fd()], Some(until))? != [true] {
                return Ok(());
            }
            match line.receive()? {
                Some(message) if message.text == "observing" => {
                    *shared.handed.lock() = Some(Handed { pid, is_observing: true });
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// The next message of this successor, by `until`. Other successors are refused meanwhile.
    fn hear(&self, line: &Line, shared: &Shared, until: Instant) -> io::Result<Heard> {
        loop {
            let fds = [line.as_fd(), self.listener.as_fd(), shared.bell.as_fd()];
            let [is_heard, is_another, is_ending] = wait_for(fds, Some(until))?;
            if is_heard {
                return Ok(line.receive()?.map_or(Heard::Nothing, Heard::Message));
            }
            if is_another && let Ok(Some(other)) = self.accept() {
                let why =
                    format!("refused another take-over is under way, by pid {}; wait for it", line.pid());
                let _ = other.send(&why);
            }
            if is_ending || !is_another {
                return Ok(Heard::Nothing);
            }
        }
    }
}
