//! Serves the status page of more agents than a host has pids.
//!
//!     crowd [--agents N] [--shards N] [--listen ADDRESS]
//!
//! Each agent beats once a second, spread over the second. Their datagrams come from memory, and stand-ins for the lookup
//! and the watch thread answer for their processes; shards, aggregator, history and HTTP are the real ones. The first
//! line of the output is the URL, the second one comes once all of them beat.
//!
//! Lines of the input, about the agents FROM to TO, counted from 0: `stop FROM TO` (they fall silent), `go FROM TO`,
//! `kill FROM TO`. Ends when the input does.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError, unbounded};
use varta_fleet::mass_stall::{Setup, Stage};

/// Between two volleys.
const STEP: Duration = Duration::from_millis(10);
/// Each agent beats once within so many steps.
const STEPS: u32 = 100;
const USAGE: &str = "usage: crowd [--agents N] [--shards N] [--listen ADDRESS]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("crowd: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut setup = Setup {
        agents: 100_000,
        shards: 4,
        threshold_ns: 3_000_000_000,
        tick_ns: 10_000_000,
        max_delay_ns: 1_000_000,
        datagram_ns: 800,
    };
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match argument.as_str() {
            "--agents" => setup.agents = value.parse().map_err(|_| USAGE)?,
            "--shards" => setup.shards = value.parse().map_err(|_| USAGE)?,
            "--listen" => listen = value.parse().map_err(|_| USAGE)?,
            _ => return Err(USAGE.to_owned()),
        }
    }
    let mut stage = Stage::new(&setup).map_err(|error| error.to_string())?;
    let address = stage.serve(listen).map_err(|error| error.to_string())?;
    println!("http://{address}/");
    let orders = orders();
    let mut silent = VecDeque::new();
    let mut is_full = false;
    let from = Instant::now();
    for step in 0.. {
        loop {
            match orders.try_recv() {
                Ok((Order::Go, agents)) => {
                    silent = silent.iter().flat_map(|one| without(one, &agents)).collect()
                }
                Ok((order, agents)) => {
                    if order == Order::Kill {
                        stage.kill(agents.clone());
                    }
                    silent.push_back(agents);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let share = |step: u32| {
            u32::try_from(u64::from(setup.agents) * u64::from(step) / u64::from(STEPS)).unwrap_or(0)
        };
        let mut parts: Vec<_> = std::iter::once(share(step % STEPS)..share(step % STEPS + 1)).collect();
        for silent in &silent {
            parts = parts.iter().flat_map(|part| without(part, silent)).collect();
        }
        parts.into_iter().for_each(|part| stage.beat(part));
        if !is_full && stage.agents_up() == u64::from(setup.agents) {
            is_full = true;
            println!("{} agents beat", setup.agents);
        }
        sleep((STEP * (step + 1)).saturating_sub(from.elapsed()));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Stop,
    Go,
    Kill,
}

/// The orders that come by the input; the channel closes with it.
fn orders() -> Receiver<(Order, Range<u32>)> {
    let (sender, orders) = unbounded();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let order = match words.first() {
                Some(&"stop") => Order::Stop,
                Some(&"go") => Order::Go,
                Some(&"kill") => Order::Kill,
                _ => continue,
            };
            if let [_, from, to] = words[..]
                && let (Ok(from), Ok(to)) = (from.parse(), to.parse())
            {
                let _ = sender.send((order, from..to));
            }
        }
    });
    orders
}

/// What is in the one and not in the other.
fn without(one: &Range<u32>, other: &Range<u32>) -> Vec<Range<u32>> {
    let parts = [one.start..one.end.min(other.start), one.start.max(other.end)..one.end];
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}
