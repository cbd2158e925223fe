//! What `run` tells its service manager: ready, its state in a line, that it is alive, and that it stops.
//!
//! In: the fleet, when it is due. Out: messages. Thread: main. Never waits: while the service manager has no room
//! for a message, the next one is tried later.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use varta_fleet::time::MonoNs;
use varta_fleet::{Fleet, Health, Reason, ServiceManager, ToStore, WATCHDOG_MIN};

use crate::exit::{CliError, Exit, counted};
use crate::stderr;

/// How long a turn of every thread may take before it is looked for, and looked for again.
const TURN: Duration = Duration::from_millis(20);
/// How long the start waits for room for what is to be kept.
const ROOM: Duration = Duration::from_secs(1);

/// The dialog with the service manager, if there is one.
#[derive(Debug)]
pub struct Service {
    manager: Option<ServiceManager>,
    is_ready: bool,
    /// Every thread was woken then, and must have turned since.
    woken: Option<MonoNs>,
    /// When to look next; `None`: never again.
    due: Option<Instant>,
    /// The line it was told last.
    line: String,
}

impl Service {
    /// The service manager that started this process. Call it before there is a second thread.
    pub fn from_environment() -> Result<Self, CliError> {
        let manager = ServiceManager::from_environment()
            .map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
        let due = manager.is_some().then(Instant::now);
        Ok(Self { manager, is_ready: false, woken: None, due, line: String::new() })
    }

    /// Whether there is one.
    pub const fn is_managed(&self) -> bool {
        self.manager.is_some()
    }

    /// Warns of what it asks for and cannot have.
    pub fn warn(&self) {
        if let Some(why) = self.manager.as_ref().and_then(ServiceManager::watchdog).and_then(too_fast) {
            stderr::warn(&why);
        }
    }

    /// Has it keep what the next observer needs to go on with the agents. Returns whether it has all of it. Waits a
    /// second at most, for room.
    pub fn store(&self, all: &[ToStore]) -> bool {
        let Some(manager) = &self.manager else { return false };
        let until = Instant::now() + ROOM;
        let with_patience = |send: &dyn Fn() -> io::Result<()>| loop {
            match send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    thread::sleep(TURN);
                }
                sent => return sent,
            }
        };
        // Since version 254, systemd says for how many it has room.
        let room = env::var("FDSTORE").ok().and_then(|room| room.parse::<usize>().ok());
        let stored = match room.filter(|room| *room < all.len()) {
            Some(room) => Err(io::Error::other(format!(
                "it keeps {room} descriptors, and {} are needed (FileDescriptorStoreMax=)",
                all.len()
            ))),
            None => all.iter().filter(|stored| stored.is_new).try_for_each(|ToStore { name, fd, .. }| {
                with_patience(&|| manager.remove(name))?;
                with_patience(&|| manager.store(name, fd.as_fd()))
            }),
        };
        if let Err(error) = &stored {
            // Not half of it: the next observer would find it incomplete.
            all.iter().for_each(|ToStore { name, .. }| drop(manager.remove(name)));
            stderr::warn(&format!(
                "the service manager does not keep the state of this observer: {}; the next one starts anew",
                Reason(error)
            ));
        }
        stored.is_ok()
    }

    /// When [`Service::look`] is to be called next.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells it that this process is ready, or alive, if every shard and the aggregator has turned since they
    /// were woken for it.
    pub fn look(&mut self, fleet: &Fleet, now: Instant) {
        let (Some(manager), Some(due)) = (&self.manager, self.due) else { return };
        if now < due {
            return;
        }
        let Some(then) = self.woken else {
            self.woken = Some(fleet.wake());
            self.due = Some(now + TURN);
            return;
        };
        self.due = Some(now + TURN);
        if !fleet.has_turned_since(then) {
            return;
        }
        self.woken = None;
        self.is_ready = self.is_ready || manager.ready().is_ok();
        self.due = match manager.watchdog() {
            _ if !self.is_ready => self.due,
            None => None,
            Some(interval) if manager.alive().is_ok() => Some(now + interval / 2),
            Some(_) => self.due,
        };
    }

    /// Tells it how the fleet is, if that is not what it was told last. Call it every two seconds at most.
    pub fn describe(&mut self, fleet: &Fleet, health: &Health) {
        let Some(manager) = &self.manager else { return };
        let line = line(fleet, health);
        if line != self.line && manager.status(&line).is_ok() {
            self.line = line;
        }
    }

    /// Tells it that a reload begins.
    pub fn reloading(&self) {
        // Refused only while it has no room: then it does not wait for the end of the reload either.
        let _ = self.manager.as_ref().map(ServiceManager::reloading);
    }

    /// Tells it that the reload is over: whether the new configuration is in force or the one before, the service is
    /// ready.
    pub fn reloaded(&mut self) {
        let Some(manager) = &self.manager else { return };
        if manager.ready().is_err() {
            // Tried again as after the start.
            (self.is_ready, self.due) = (false, Some(Instant::now()));
        }
    }

    /// Tells it that the end begins.
    pub fn stopping(&self) {
        // Refused only while it has no room, and then it notices the end itself.
        let _ = self.manager.as_ref().map(ServiceManager::stopping);
    }
}

/// Why this interval of a watchdog is too short, and what to do.
pub fn too_fast(interval: Duration) -> Option<String> {
    (interval < WATCHDOG_MIN).then(|| {
        format!(
            "WatchdogSec= is {} s: on a busy host a healthy observer may be ended by it; set it to {} s or more",
            interval.as_secs_f64(),
            WATCHDOG_MIN.as_secs()
        )
    })
}

fn line(fleet: &Fleet, health: &Health) -> String {
    let snapshot = fleet.handle().snapshot();
    let sum = |of: fn(&varta_fleet::ShardSnapshot) -> u64| snapshot.shards.iter().map(of).sum::<u64>();
    let (up, stalled) = (sum(|shard| shard.up), sum(|shard| shard.stalled));
    let shards = counted(snapshot.shards.len() as u64, "shard");
    let line = format!("{} up, {stalled} stalled, on {shards}", counted(up, "agent"));
    match health.problems.first() {
        Some(worst) => format!("{line}; {worst}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_of_less_than_two_seconds_is_a_finding() {
        assert_eq!(too_fast(Duration::from_secs(2)), None);
        let why = too_fast(Duration::from_millis(1500)).expect("too fast");
        assert!(why.contains("1.5 s") && why.contains("set it to 2 s"), "{why}");
    }
}
