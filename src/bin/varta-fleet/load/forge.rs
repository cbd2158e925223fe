//! One sender that beats in the name of many processes; needs root.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
use rustix::process::{Gid, Pid, Uid};
use varta_fleet::wire::{Frame, Version};

use super::agent::first_frame;
use super::report::Sent;
use super::schedule::{Schedule, now_ns, sleep_until};
use crate::exit::{CliError, Exit};
use crate::route::unheard;

/// The sender.
#[derive(Debug)]
pub struct Forger {
    agents: Vec<Agent>,
    sockets: Vec<UnixDatagram>,
}

#[derive(Debug)]
struct Agent {
    socket: usize,
    credentials: UCred,
    frame: Frame,
}

/// A sender running on its own thread.
#[derive(Debug)]
pub struct Forging(JoinHandle<Sent>);

impl Forger {
    /// A sender for these pids, each on its socket.
    pub fn new<'a>(agents: impl Iterator<Item = (u32, &'a Path, Version)>) -> Result<Self, CliError> {
        let mut paths: Vec<&Path> = Vec::new();
        let mut forger = Self { agents: Vec::new(), sockets: Vec::new() };
        for (pid, path, version) in agents {
            let socket = paths.iter().position(|known| *known == path);
            let socket = match socket {
                Some(socket) => socket,
                None => {
                    paths.push(path);
                    forger.sockets.push(connect(path)?);
                    paths.len() - 1
                }
            };
            let Some(attested) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let credentials = UCred { pid: attested, uid: Uid::ROOT, gid: Gid::ROOT };
            forger.agents.push(Agent { socket, credentials, frame: first_frame(pid, version) });
        }
        if let Some(first) = forger.agents.first_mut()
            && let Err(error) = send(&forger.sockets[first.socket], first)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            let message =
                "cannot beat in the name of others: operation not permitted; be root, or leave out --forge";
            return Err(CliError::new(Exit::Permission, message));
        }
        Ok(forger)
    }

    /// Beats by the schedule, from `begin` on.
    pub fn start(mut self, schedule: &Schedule, begin: u64) -> Forging {
        let schedule = schedule.clone();
        Forging(thread::spawn(move || self.beat(&schedule, begin)))
    }

    fn beat(&mut self, schedule: &Schedule, begin: u64) -> Sent {
        let counts_from = begin + schedule.warm_up_ns;
        let end = begin + schedule.whole_ns();
        let mut sent = Sent::default();
        for round in 0.. {
            for (index, agent) in (0..).zip(&mut self.agents) {
                let due = begin + schedule.phase_ns(index) + round * schedule.period_ns();
                if due >= end {
                    return sent;
                }
                sleep_until(due);
                let started = now_ns();
                agent.frame.timestamp = started - begin;
                let result = send(&self.sockets[agent.socket], agent);
                if due >= counts_from {
                    let errno = result.err().map(|error| error.raw_os_error().unwrap_or(0));
                    sent.record(errno, due, started, now_ns());
                }
            }
        }
        sent
    }
}

impl Forging {
    /// Waits for the end of the schedule.
    pub fn finish(self) -> Result<Sent, CliError> {
        self.0
            .join()
            .map_err(|_| CliError::new(Exit::Runtime, "the sender failed; please report the panic above"))
    }
}

fn connect(path: &Path) -> Result<UnixDatagram, CliError> {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    connected.map_err(|error| unheard(path, &error))
}

fn send(socket: &UnixDatagram, agent: &mut Agent) -> io::Result<()> {
    agent.frame.nonce += 1;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmCredentials(agent.credentials));
    sendmsg(socket, &[IoSlice::new(&agent.frame.encode())], &mut control, SendFlags::empty())?;
    Ok(())
}
