//! When each beat is due.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The schedule of all agents. Instants are `CLOCK_MONOTONIC`, ns.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Number of agents that share it.
    pub agents: u32,
    /// Beats a second of all agents together; `None`: as fast as possible.
    pub rate: Option<u64>,
    /// Beats in this time are not counted.
    pub warm_up_ns: u64,
    /// Beats in the time after that are counted.
    pub length_ns: u64,
}

impl Schedule {
    /// The schedule of `agents` that beat `rate` times a second together, by default twice each.
    pub fn new(
        agents: u32,
        rate: Option<u64>,
        is_flat_out: bool,
        warm_up: Duration,
        length: Duration,
    ) -> Self {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let rate = (!is_flat_out).then(|| rate.unwrap_or(2 * u64::from(agents)));
        Self { agents, rate, warm_up_ns: ns(warm_up), length_ns: ns(length) }
    }

    /// From the first beat to the end.
    pub const fn whole_ns(&self) -> u64 {
        self.warm_up_ns + self.length_ns
    }

    /// Time between two beats of an agent; 0 means as soon as possible.
    pub fn period_ns(&self) -> u64 {
        self.rate.map_or(0, |rate| 1_000_000_000 * u64::from(self.agents) / rate)
    }

    /// Agents start one after the other, so that their beats are spread evenly.
    pub fn phase_ns(&self, index: u32) -> u64 {
        self.period_ns() * u64::from(index) / u64::from(self.agents)
    }

    /// The part of the schedule that an agent needs.
    pub fn arguments(&self, index: u32) -> [String; 8] {
        [
            "--period-ns".to_owned(),
            self.period_ns().to_string(),
            "--phase-ns".to_owned(),
            self.phase_ns(index).to_string(),
            "--warm-up-ns".to_owned(),
            self.warm_up_ns.to_string(),
            "--length-ns".to_owned(),
            self.length_ns.to_string(),
        ]
    }
}

/// `CLOCK_MONOTONIC`, ns.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sleeps until this instant; returns at once if it has passed.
pub fn sleep_until(at_ns: u64) {
    let at = Timespec {
        tv_sec: i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at_ns % 1_000_000_000).unwrap_or(0),
    };
    // A signal may interrupt the sleep, which then continues; nothing else can fail.
    while now_ns() < at_ns && rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at).is_err() {}
}
