//! One agent of the load: connects, waits for the start, beats, reports the result.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Signal, set_parent_process_death_signal};
use varta_fleet::wire::{Frame, Status, Version};
use varta_fleet::{Reason, shard_for};

use super::args::wire_version;
use super::report::Sent;
use super::schedule::{now_ns, sleep_until};
use crate::exit::{CliError, Exit};
use crate::route::unheard;

/// Arguments of `load-agent`, which `load` starts.
#[derive(clap::Args, Debug)]
pub struct LoadAgentArgs {
    /// The name of its process, at most 15 bytes.
    #[arg(long)]
    name: CString,
    /// Without a socket it only lends its pid.
    #[arg(long)]
    socket: Vec<PathBuf>,
    #[arg(long, default_value = "0.2")]
    wire: String,
    #[arg(long, default_value_t = 0)]
    period_ns: u64,
    #[arg(long, default_value_t = 0)]
    phase_ns: u64,
    #[arg(long, default_value_t = 0)]
    warm_up_ns: u64,
    #[arg(long, default_value_t = 0)]
    length_ns: u64,
}

/// Runs one agent.
pub fn agent(args: &LoadAgentArgs) -> Result<Exit, CliError> {
    let told = |error: io::Error| CliError::new(Exit::Runtime, Reason(&error).to_string());
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| told(error.into()))?;
    // So that views tell the agents apart. Without it they work as well.
    let _ = rustix::thread::set_name(&args.name);
    let mut out = io::stdout().lock();
    if args.socket.is_empty() {
        writeln!(out, "ready")?;
        // Ends when the other end is closed.
        io::copy(&mut io::stdin().lock(), &mut io::sink()).map_err(told)?;
        return Ok(Exit::Clean);
    }
    let shards = u32::try_from(args.socket.len()).unwrap_or(u32::MAX);
    let path = &args.socket[shard_for(process::id(), shards) as usize];
    let socket = match connect(path, args.period_ns > 0) {
        Ok(socket) => socket,
        Err(error) => {
            // One line, which `load` prints before it ends.
            let error = unheard(path, &error);
            writeln!(out, "{} {error}", error.exit() as u8)?;
            return Ok(error.exit());
        }
    };
    writeln!(out, "ready")?;
    out.flush()?;
    let mut word = [0; 8];
    // Bypasses the buffer of `Stdin`, which would also take the bytes meant for other agents.
    let heard = rustix::io::read(io::stdin(), &mut word).map_err(|error| told(error.into()))?;
    if heard < word.len() {
        // Cancelled before the start.
        return Ok(Exit::Runtime);
    }
    let sent = beat(args, &socket, u64::from_le_bytes(word));
    // Stay alive until the observer is measured: exits are not part of the load.
    await_end().map_err(|error| told(error.into()))?;
    for line in sent.lines() {
        // Shorter than PIPE_BUF: written whole, although all agents write to one pipe.
        out.write_all(line.as_bytes())?;
    }
    out.flush()?;
    Ok(Exit::Clean)
}

/// Waits until the other end of standard input is closed. Reads nothing: the bytes in it are for other
/// agents.
fn await_end() -> rustix::io::Result<()> {
    let stdin = io::stdin();
    let mut gate = [PollFd::new(&stdin, PollFlags::empty())];
    // poll(2) always reports POLLHUP.
    retry_on_intr(|| poll(&mut gate, None)).map(drop)
}

fn connect(path: &PathBuf, is_paced: bool) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // With --flat-out, send(2) blocks until there is room.
    socket.set_nonblocking(is_paced)?;
    Ok(socket)
}

fn beat(args: &LoadAgentArgs, socket: &UnixDatagram, begin: u64) -> Sent {
    let counts_from = begin + args.warm_up_ns;
    let end = counts_from + args.length_ns;
    let mut frame = first_frame(process::id(), wire_version(&args.wire));
    let mut sent = Sent::default();
    let mut due = begin + args.phase_ns;
    sleep_until(due);
    while due < end {
        if args.period_ns > 0 {
            sleep_until(due);
        }
        let started = now_ns();
        frame.nonce += 1;
        frame.timestamp = started - begin;
        let result = socket.send(&frame.encode());
        if due >= counts_from {
            sent.record(result.err().map(|error| error.raw_os_error().unwrap_or(0)), due, started, now_ns());
        }
        due = if args.period_ns > 0 { due + args.period_ns } else { now_ns() };
    }
    sent
}

/// The frame of an agent; nonce and timestamp are set later.
pub fn first_frame(pid: u32, version: Version) -> Frame {
    Frame { version, status: Status::Ok, pid, timestamp: 0, nonce: 0, payload: 0 }
}
