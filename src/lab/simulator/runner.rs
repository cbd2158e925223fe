//! Runs worlds: a single one, or one after another until time is up.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::simulator::invariants::{Invariant, Violation};
use crate::lab::simulator::shrink::shrink;
use crate::lab::simulator::story::{Story, What};
use crate::lab::simulator::world::{self, Summary};

/// Most runs to shrink one failure.
const SHRINK_RUNS: u32 = 600;
/// How often a hunt prints its progress.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Runs a story and returns the violation under the right name: a verdict that is wrong only if the wall
/// clock steps violates [`Invariant::I10`], and what is wrong only if the observer restarts, [`Invariant::I13`].
pub fn judge(story: &Story) -> Result<Summary, Violation> {
    let violation = match run(story) {
        Ok(summary) => return Ok(summary),
        Err(violation) => violation,
    };
    let is_step = |what: &What| matches!(what, What::StepWall { .. });
    let is_verdict = matches!(violation.invariant, Invariant::I3 | Invariant::I4);
    if is_verdict && story.happenings.iter().any(|happening| is_step(&happening.what)) {
        let mut steady = story.clone();
        steady.happenings.retain(|happening| !is_step(&happening.what));
        if run(&steady).is_ok() {
            return Err(Violation { invariant: Invariant::I10, ..violation });
        }
    }
    if violation.invariant == Invariant::I14 {
        // Of restarts alone.
        return Err(violation);
    }
    let is_restart = |what: &What| matches!(what, What::Restart(_));
    if story.happenings.iter().any(|happening| is_restart(&happening.what)) {
        let mut lasting = story.clone();
        lasting.happenings.retain(|happening| !is_restart(&happening.what));
        if run(&lasting).is_ok() {
            return Err(Violation { invariant: Invariant::I13, ..violation });
        }
    }
    Err(violation)
}

fn run(story: &Story) -> Result<Summary, Violation> {
    catch_unwind(AssertUnwindSafe(|| world::run(story))).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| (*what).to_owned()));
        let what = format!("the world ended by a panic: {}", what.unwrap_or_default());
        Err(Violation { invariant: Invariant::I1, at: 0, what })
    })
}

/// A world that failed, after shrinking.
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
    pub story: Story,
}

impl Failure {
    /// Shrinks the story.
    pub fn of(story: &Story, violation: &Violation, runs: u32) -> Self {
        let (shrunken, violation) = shrink(story, violation, runs);
        Self { seed: story.seed, violation, story: shrunken }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Story { setting, agents, happenings, .. } = &self.story;
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        writeln!(f, "cut down to {} agents and {} happenings:", agents.len(), happenings.len())?;
        writeln!(f, "  {setting:?}")?;
        for agent in agents {
            writeln!(f, "  {agent:?}")?;
        }
        for happening in happenings {
            writeln!(f, "  {happening:?}")?;
        }
        Ok(())
    }
}

/// Parameters of a search for failing worlds.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    pub first_seed: u64,
    /// `None`: no limit of time.
    pub for_time: Option<Duration>,
    /// Most worlds to run.
    pub worlds: u64,
    pub agents: Option<u32>,
    pub jobs: usize,
}

/// The totals of a hunt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bag {
    pub worlds: u64,
    pub summary: Summary,
}

impl Hunt {
    /// Runs one world after another until time is up or one fails. Prints its progress if it takes long.
    ///
    /// # Errors
    /// The first world that failed, shrunk.
    pub fn run(&self) -> Result<Bag, Box<Failure>> {
        let start = Instant::now();
        let next = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        let bag = Mutex::new((Bag::default(), start));
        let failure = Mutex::new(None);
        let is_time_up = || self.for_time.is_some_and(|time| start.elapsed() >= time);
        let hunt = || {
            while !is_over.load(Ordering::Relaxed) && !is_time_up() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.worlds {
                    return;
                }
                let story = Story::new(self.first_seed.wrapping_add(number), self.agents);
                match judge(&story) {
                    Ok(summary) => {
                        let (bag, reported) = &mut *bag.lock().unwrap();
                        bag.add(&summary);
                        if reported.elapsed() >= REPORT_EVERY {
                            *reported = Instant::now();
                            println!("{}", bag.line(start.elapsed()));
                        }
                    }
                    Err(violation) => {
                        if !is_over.swap(true, Ordering::Relaxed) {
                            println!("seed {}: {violation}; cutting it down", story.seed);
                            let cut_down = Failure::of(&story, &violation, SHRINK_RUNS);
                            *failure.lock().unwrap() = Some(cut_down);
                        }
                    }
                }
            }
        };
        thread::scope(|scope| {
            let hunters: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(hunt)).collect();
            for hunter in hunters {
                hunter.join().unwrap();
            }
        });
        let (bag, _) = bag.into_inner().unwrap();
        println!("{}", bag.line(start.elapsed()));
        match failure.into_inner().unwrap() {
            Some(failure) => Err(Box::new(failure)),
            None => Ok(bag),
        }
    }
}

impl Bag {
    fn add(&mut self, of: &Summary) {
        let sum = &mut self.summary;
        self.worlds += 1;
        sum.events += of.events;
        sum.datagrams += of.datagrams;
        sum.steps += of.steps;
        sum.simulated_ns += of.simulated_ns;
        sum.restarts += of.restarts;
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers for people")]
    fn line(&self, took: Duration) -> String {
        let Summary { events, datagrams, steps, simulated_ns, restarts } = self.summary;
        let seconds = took.as_secs_f64().max(0.001);
        let hours = simulated_ns as f64 / 3_600e9;
        format!(
            "{} worlds, {hours:.1} simulated hours, {restarts} restarts, {events} events, {datagrams} datagrams, \
             {steps} steps in {seconds:.0} s; per second: {:.0} worlds, {:.2} simulated hours, {:.0} events, {:.0} datagrams",
            self.worlds,
            self.worlds as f64 / seconds,
            hours / seconds,
            events as f64 / seconds,
            datagrams as f64 / seconds,
        )
    }
}
