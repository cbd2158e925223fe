//! Agents that fall silent, return and die while observers come and go.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Agent, AgentOptions, Chance, Client, Event, T, mono_ns, ns};

/// An agent under chaos.
pub struct Victim {
    pub agent: Agent,
    pub state: State,
    /// Ranges of time in which it did not beat, by its own report.
    pub gaps: Vec<(u64, u64)>,
    /// How often it was stopped until that was told.
    pub stops: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Beats,
    /// Stopped at this instant, until its stall is told.
    Stopped(u64),
    /// Continued at this instant, until its return is told.
    Returns(u64),
    Dead,
}

impl Victim {
    /// This many that beat.
    pub fn start(dir: &Path, count: u32) -> Vec<Self> {
        let options =
            |at: u32| AgentOptions { client: Client::RUST[at as usize % 2], ..AgentOptions::default() };
        let agents = (0..count).map(|at| Agent::start_in(dir, options(at)));
        // All of them are started before one is waited for.
        let agents: Vec<_> = agents.collect();
        let victim = |agent| Self { agent, state: State::Beats, gaps: Vec::new(), stops: 0 };
        agents.into_iter().map(victim).collect()
    }

    /// Continues it once its stall is told.
    fn go_on(&mut self, events: &[Event]) {
        let pid = self.agent.pid();
        let is_told = |kind, after| {
            events.iter().rev().any(|event| event.is(kind, pid) && event.u64("mono_ns") > after)
        };
        match self.state {
            State::Stopped(at) if is_told("stall", at) => {
                self.state = State::Returns(mono_ns());
                self.agent.signal(Signal::CONT);
            }
            State::Returns(at) if is_told("resume", at) => self.state = State::Beats,
            _ => {}
        }
    }

    fn stop(&mut self) {
        self.stops += 1;
        self.state = State::Stopped(mono_ns());
        self.agent.signal(Signal::STOP);
    }

    fn kill(&mut self) {
        self.gaps = self.agent.gaps();
        if let Some((_, to)) = self.gaps.last_mut() {
            *to = u64::MAX;
        }
        self.agent.signal(Signal::KILL);
        self.agent.wait();
        self.state = State::Dead;
    }

    /// Whether what was told of it, in order and without repeats, is what happened to it.
    pub fn judge(&self, told: &[Event]) -> Result<(), String> {
        let of = |kind: &'static str| told.iter().filter(move |event| event.kind() == kind);
        for (kind, expected) in [("up", 1), ("exit", usize::from(self.state == State::Dead))] {
            let count = of(kind).count();
            if count != expected {
                return Err(format!("{count} x {kind} instead of {expected}"));
            }
        }
        let mut truly = 0;
        for stall in of("stall") {
            let (judged, silent) = (stall.u64("mono_ns"), stall.u64("silent_ns"));
            // Beats before the gap may have been refused, by a queue that was full while nobody read it.
            let is_earned = |gap: &(u64, u64)| gap.0 + ns(T) <= judged && judged <= gap.1;
            if silent < ns(T) || !self.gaps.iter().any(is_earned) {
                return Err(format!("it did beat: {stall}"));
            }
            truly += 1;
        }
        if truly < self.stops {
            return Err(format!("{truly} x stall, and it was stopped {} times", self.stops));
        }
        let verdicts = told.iter().map(Event::kind).filter(|kind| ["stall", "resume"].contains(kind));
        if verdicts.enumerate().any(|(i, kind)| kind != ["stall", "resume"][i % 2]) {
            return Err("stall and resume do not take turns".to_owned());
        }
        if self.state == State::Dead && told.last().is_none_or(|event| event.kind() != "exit") {
            return Err("exit is not the last word".to_owned());
        }
        Ok(())
    }
}

/// Where victims live: an observer, and those that follow it.
pub trait Live {
    /// All events so far.
    fn events(&mut self) -> &[Event];

    /// Has the observer read its configuration again.
    fn reload(&self);
}

/// For this long, lets agents fall silent and die at random, and reloads the observer; one time in five has `act` do
/// something to it. Then waits until all that were stopped are back. Returns the number of reloads.
pub fn live<P: Live>(
    place: &mut P,
    victims: &mut [Victim],
    chance: &mut Chance,
    seconds: u32,
    mut act: impl FnMut(&mut P, &mut Chance),
) -> u32 {
    let mut reloads = 0;
    let count = u32::try_from(victims.len()).expect("so many processes");
    let end = Instant::now() + Duration::from_secs(seconds.into());
    while Instant::now() < end || victims.iter().any(|of| !matches!(of.state, State::Beats | State::Dead)) {
        for victim in &mut *victims {
            victim.go_on(place.events());
        }
        if Instant::now() >= end {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let victim = &mut victims[chance.below(count) as usize];
        match chance.below(100) {
            0..=69 if victim.state == State::Beats => victim.stop(),
            70..=74 if victim.state == State::Beats && chance.below(count) >= 10 => victim.kill(),
            75..=79 => {
                reloads += 1;
                place.reload();
            }
            80..=99 => act(place, chance),
            _ => {}
        }
        thread::sleep(Duration::from_millis(chance.below(60).into()));
    }
    reloads
}

/// Fails if what was told of any of them, in order and without repeats, is not what happened to it. Returns how many
/// silences and exits there were.
pub fn judge_all(victims: &[Victim], events: &[Event], messages: &str) -> (usize, usize) {
    let mut findings = String::new();
    for victim in victims {
        let pid = victim.agent.pid();
        let told: Vec<Event> = events.iter().filter(|event| event.pid() == Some(pid)).cloned().collect();
        if let Err(finding) = victim.judge(&told) {
            let lines: String = told.iter().map(|event| format!("\n    {event}")).collect();
            let _ =
                writeln!(findings, "{pid}: {finding}\n  it did not beat {:?}\n  told:{lines}", victim.gaps);
        }
    }
    assert!(findings.is_empty(), "\n{findings}\n{messages}");
    let dead = victims.iter().filter(|victim| victim.state == State::Dead).count();
    (victims.iter().map(|victim| victim.stops).sum(), dead)
}

/// How long `scripts/chaos` runs this, and with how many agents.
pub fn setting(name: &str, otherwise: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}
