//! Many agents at once, each stopped, continued, moved, crashed or killed at random: every verdict must match
//! what was done. `VARTA_TEST_SEED` repeats a run as far as scheduling allows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::common::{Agent, AgentOptions, Chance, Client, Event, Observer, Options, SOON, mono_ns, ns};
use rustix::process::Signal;

const T: Duration = Duration::from_secs(1);
const AGENTS: u32 = 60;
const SHARDS: u32 = 3;
const LENGTH: Duration = Duration::from_secs(6);

#[test]
fn every_verdict_was_earned() {
    let mut chance = Chance::from_environment();
    let mut observer = Observer::start(Options { shards: SHARDS, threshold: T, ..Options::default() });
    let options = (0..AGENTS)
        .map(|i| AgentOptions { client: Client::RUST[usize::from(i % 2 == 0)], ..AgentOptions::default() });
    let agents = Agent::start_many(&observer, options);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let mut victims: Vec<_> = agents.into_iter().map(Victim::new).collect();

    let end = Instant::now() + LENGTH;
    while Instant::now() < end {
        observer.watch(Duration::from_millis(10));
        for victim in &mut victims {
            victim.go_on(&mut observer);
        }
        let chosen = chance.below(AGENTS);
        victims[chosen as usize].suffer(&mut chance, &observer);
    }
    while victims.iter().any(|victim| !victim.is_settled()) {
        observer.watch(Duration::from_millis(10));
        for victim in &mut victims {
            victim.go_on(&mut observer);
        }
    }
    // Until every deadline that is still open has passed.
    observer.watch(T + T / 2);

    let mut findings = String::new();
    for victim in &mut victims {
        let pid = victim.agent.pid();
        let told: Vec<_> =
            observer.events().iter().filter(|event| event.pid() == Some(pid)).cloned().collect();
        if victim.state != State::Dead {
            victim.gaps = victim.agent.gaps();
        }
        if let Err(finding) = victim.judge(&told) {
            let lines: String = told.iter().map(|event| format!("\n    {event}")).collect();
            let _ = writeln!(
                findings,
                "{pid}: {finding}\n  it suffered {:?}, {:?}\n  told:{lines}",
                victim.suffered, victim.gaps
            );
        }
    }
    assert!(findings.is_empty(), "\n{findings}");
    observer.stop();
}

/// An agent and what was done to it.
struct Victim {
    agent: Agent,
    state: State,
    suffered: Vec<Suffered>,
    /// Ranges of time in which the agent did not beat, by its own report.
    gaps: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Beating since this instant.
    Free(Instant),
    Stopped {
        until: Instant,
    },
    /// Beating again after a stop that is a stall; left alone until that is reported.
    Returned,
    Dead,
}

/// `at` is CLOCK_MONOTONIC, as in events.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Suffered {
    /// Stopped for less than half a threshold, or for clearly more than one.
    Stop {
        at: u64,
        until: u64,
        is_stall: bool,
    },
    Move {
        at: u64,
        to: u32,
    },
    Panic {
        at: u64,
    },
    Kill {
        at: u64,
    },
}

impl Victim {
    fn new(agent: Agent) -> Self {
        Self { agent, state: State::Free(Instant::now()), suffered: Vec::new(), gaps: Vec::new() }
    }

    fn is_settled(&self) -> bool {
        matches!(self.state, State::Free(_) | State::Dead)
    }

    fn suffer(&mut self, chance: &mut Chance, observer: &Observer) {
        // Time to beat between two faults, so that two silences do not become one.
        let State::Free(since) = self.state else { return };
        if since.elapsed() < T / 2 {
            return;
        }
        self.state = State::Free(Instant::now());
        let at = mono_ns();
        match chance.below(10) {
            0..=5 => {
                let is_stall = chance.below(2) == 0;
                let permille = if is_stall { 1500 + chance.below(1500) } else { 50 + chance.below(350) };
                let length = T * permille / 1000;
                self.agent.signal(Signal::STOP);
                self.state = State::Stopped { until: Instant::now() + length };
                self.suffered.push(Suffered::Stop { at, until: 0, is_stall });
            }
            6..=7 => {
                let to = chance.below(SHARDS);
                self.agent.ask(format_args!("move {}", observer.socket(to).display()));
                self.suffered.push(Suffered::Move { at, to });
                // Sometimes silent at once, on both shards.
                if chance.below(2) == 0 {
                    self.state = State::Free(Instant::now() - T);
                    self.suffer_again(chance);
                }
            }
            8 => {
                assert_eq!(self.agent.ask("survive"), "survive true");
                self.suffered.push(Suffered::Panic { at });
            }
            _ => self.kill(),
        }
    }

    fn suffer_again(&mut self, chance: &mut Chance) {
        self.agent.ask("beat");
        if chance.below(4) == 0 {
            self.kill();
            return;
        }
        let at = mono_ns();
        self.agent.signal(Signal::STOP);
        self.state = State::Stopped { until: Instant::now() + 2 * T };
        self.suffered.push(Suffered::Stop { at, until: 0, is_stall: true });
    }

    fn kill(&mut self) {
        self.gaps = self.agent.gaps();
        self.suffered.push(Suffered::Kill { at: mono_ns() });
        self.agent.signal(Signal::KILL);
        self.agent.wait();
        self.state = State::Dead;
        if let Some((_, to)) = self.gaps.last_mut() {
            *to = u64::MAX;
        }
    }

    fn go_on(&mut self, observer: &mut Observer) {
        match self.state {
            State::Stopped { until } if Instant::now() >= until => {
                let Some(Suffered::Stop { until, is_stall, .. }) = self.suffered.last_mut() else {
                    unreachable!("it was stopped");
                };
                *until = mono_ns();
                self.agent.signal(Signal::CONT);
                self.state = if *is_stall { State::Returned } else { State::Free(Instant::now()) };
            }
            State::Returned => {
                let Some(Suffered::Stop { until, .. }) = self.suffered.last() else {
                    unreachable!("it was stopped");
                };
                let pid = self.agent.pid();
                let is_return = |event: &Event| event.is("resume", pid) && event.u64("mono_ns") > *until;
                if observer.events().iter().any(is_return) {
                    self.state = State::Free(Instant::now());
                } else {
                    let waited = mono_ns() - until;
                    assert!(waited < ns(SOON), "no resume of {pid}: {:?}", self.suffered);
                }
            }
            _ => {}
        }
    }

    fn judge(&self, told: &[Event]) -> Result<(), String> {
        let of = |kind: &'static str| told.iter().filter(move |event| event.kind() == kind);
        let expect = |kind: &'static str, expected: usize| match of(kind).count() {
            count if count == expected => Ok(()),
            count => Err(format!("{count} x {kind} instead of {expected}")),
        };
        let killed = self.suffered.iter().find_map(|suffered| match suffered {
            Suffered::Kill { at } => Some(*at),
            _ => None,
        });
        let mut doubts = 0;
        for stall in of("stall") {
            let (judged, silent) = (stall.u64("mono_ns"), stall.u64("silent_ns"));
            if silent < ns(T) {
                return Err(format!("early: {stall}"));
            }
            // The agent was silent for the whole time, and no earlier beat is missing.
            let is_all_of_it = |gap: &&(u64, u64)| gap.0 <= judged - silent && judged <= gap.1;
            if !self.gaps.iter().any(|gap| is_all_of_it(&gap)) {
                return Err(format!("it did beat: {stall}"));
            }
            // It may take longer to find out whether a silent process has exited than a stall may wait.
            if killed.is_some_and(|at| judged > at) {
                if stall.bool("certain") {
                    return Err(format!("it is dead: {stall}"));
                }
                doubts += 1;
            }
        }
        for suffered in &self.suffered {
            let Suffered::Stop { at, until, is_stall: true } = *suffered else { continue };
            let is_told = |stall: &Event| at < stall.u64("mono_ns") && stall.u64("mono_ns") < until;
            if of("stall").filter(|stall| is_told(stall)).count() != 1 {
                return Err(format!("no stall, or more than one, from {at} to {until}"));
            }
        }
        let is_dead = self.state == State::Dead;
        let panics =
            self.suffered.iter().filter(|suffered| matches!(suffered, Suffered::Panic { .. })).count();
        expect("up", 1)?;
        // An agent that waited for a core may exit before it resumes.
        let (stalls, resumes) = (of("stall").count() - doubts, of("resume").count());
        if resumes != stalls && !(is_dead && resumes + 1 == stalls) {
            return Err(format!("{resumes} x resume for {stalls} x stall"));
        }
        expect("terminal", panics)?;
        expect("exit", usize::from(is_dead))?;
        expect("auth", 0)?;
        if let Some(session) = of("session").find(|session| session.str("why") != "nonce") {
            return Err(format!("it opened new handles, and nothing else: {session}"));
        }
        if is_dead && told.last().is_none_or(|event| event.kind() != "exit") {
            return Err("exit is not the last word".to_owned());
        }
        let verdicts = told.iter().map(Event::kind).filter(|kind| ["stall", "resume"].contains(kind));
        if verdicts.enumerate().any(|(i, kind)| kind != ["stall", "resume"][i % 2]) {
            return Err("stall and resume do not take turns".to_owned());
        }
        Ok(())
    }
}
