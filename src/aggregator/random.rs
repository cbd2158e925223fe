//! Agents that do whatever comes to their minds, observed by shards, a lookup thread and an aggregator that
//! sleep whenever they like; what is told is compared with what happened. The seed of a failing world is
//! in the message.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tests::{MS, Process, STEP, THRESHOLD, World, beat};
use super::*;
use crate::wire::Frame;

const PIDS: u64 = 60;
const SLOTS: u32 = 256;
const ROUNDS: u32 = 3;
const CHAOS: u64 = 2500 * MS;
const CALM: u64 = 4 * THRESHOLD;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % n
    }

    fn shard(&mut self, shards: usize) -> usize {
        usize::try_from(self.below(shards as u64)).unwrap()
    }
}

/// A process, and what is true of it.
#[derive(Clone, Debug, Default)]
struct Actor {
    pid: u32,
    is_alive: bool,
    died: MonoNs,
    /// Its frames carry this pid.
    frame_pid: u32,
    nonce: u64,
    status: Status,
    period: u64,
    next: MonoNs,
    /// Where it beats; in turn, if two.
    homes: [usize; 2],
    is_silent: bool,
    /// This process beat honestly.
    has_beaten: bool,
    /// It forged: who does before it was looked up is nobody's agent until its next honest beat.
    is_forger: bool,
    arrivals: Vec<MonoNs>,
}

struct Play {
    world: World,
    random: Random,
    actors: Vec<Actor>,
    incarnations: u64,
    /// Until when who sleeps: aggregator, lookup thread, shards.
    asleep: Vec<MonoNs>,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let shards = 2 + random.shard(3);
        let world = World::with(shards, SLOTS, Vec::new());
        let actors =
            (0..PIDS).map(|n| Actor { pid: u32::try_from(100 + n).unwrap(), ..Actor::default() }).collect();
        Self { world, random, actors, incarnations: 0, asleep: vec![MonoNs(0); 2 + shards] }
    }

    fn shards(&self) -> usize {
        self.asleep.len() - 2
    }

    fn send(&mut self, index: usize, frame: &Frame) {
        let actor = &self.actors[index];
        let shard = actor.homes[usize::try_from(actor.nonce % 2).unwrap()];
        self.world.send(shard, actor.pid, frame);
    }

    fn beat(&mut self, index: usize) {
        let now = self.world.now();
        let actor = &mut self.actors[index];
        actor.nonce += 1;
        actor.next = now + actor.period;
        actor.has_beaten = true;
        // A forger's claim of an inner pid is refused like any other: that is no life.
        if !actor.is_forger || actor.frame_pid == actor.pid {
            actor.arrivals.push(now);
        }
        let frame = Frame { status: actor.status, ..beat(actor.frame_pid, actor.nonce) };
        self.send(index, &frame);
    }

    fn be_born(&mut self, index: usize) {
        self.incarnations += 1;
        let now = self.world.now();
        let homes = [self.random.shard(self.shards()); 2];
        let is_inner = self.random.below(5) == 0;
        let actor = &mut self.actors[index];
        actor.is_alive = true;
        actor.frame_pid = if is_inner { 5 } else { actor.pid };
        actor.nonce = self.random.below(3) * 1_000_000;
        actor.status = Status::Ok;
        actor.period = (20 + self.random.below(150)) * MS;
        // Later than the kernel's rounding of start times.
        actor.next = now + 20 * MS;
        actor.homes = homes;
        (actor.is_silent, actor.has_beaten, actor.is_forger) = (false, false, false);
        let process = Process {
            incarnation: self.incarnations,
            started: now,
            inner_pids: if is_inner { vec![5] } else { Vec::new() },
            comm: "agent",
            exe: "/agent",
        };
        self.world.processes.insert(self.actors[index].pid, process);
    }

    fn die(&mut self, index: usize) {
        let actor = &mut self.actors[index];
        if actor.is_alive {
            actor.is_alive = false;
            actor.died = self.world.now();
            self.world.processes.remove(&actor.pid);
        }
    }

    fn something_happens(&mut self) {
        let now = self.world.now();
        let index = self.random.shard(self.actors.len());
        let shards = self.shards();
        let what = self.random.below(40);
        if what == 0 {
            let who = self.random.shard(self.asleep.len());
            self.asleep[who] = now + self.random.below(1000) * MS;
            return;
        }
        if what == 1 && self.random.below(4) == 0 {
            let shard = self.random.shard(shards);
            // What is queued when a shard starts over counts as arrived then, be its sender dead or not.
            if now >= self.asleep[2 + shard] {
                self.world.shards[shard].recover();
            }
            return;
        }
        if !self.actors[index].is_alive {
            if now.since(self.actors[index].died) > 20 * MS {
                self.be_born(index);
            }
            return;
        }
        let pid = self.actors[index].pid;
        match what {
            2..=6 => self.die(index),
            7..=10 => self.actors[index].homes = [self.random.shard(shards); 2],
            11..=12 => self.actors[index].homes[1] = self.random.shard(shards),
            13..=15 => self.actors[index].next = now + self.random.below(3 * THRESHOLD),
            16..=17 => {
                self.actors[index].is_forger = true;
                self.send(index, &beat(pid + 1, 9));
            }
            18 => {
                let last_words = Frame { status: Status::Critical, ..beat(pid, NONCE_TERMINAL) };
                self.actors[index].arrivals.push(now);
                self.send(index, &last_words);
            }
            19..=20 => self.actors[index].nonce = self.random.below(10) * 1_000_000,
            21 => self.actors[index].status = Status::Degraded,
            22..=24 => self.actors[index].is_silent ^= true,
            _ => {}
        }
    }

    fn step(&mut self) {
        let now = self.world.now();
        for index in 0..self.actors.len() {
            let actor = &self.actors[index];
            if actor.is_alive && !actor.is_silent && now >= actor.next {
                self.beat(index);
            }
        }
        self.world.is_aggregator_asleep = now < self.asleep[0];
        self.world.is_mute = now < self.asleep[1];
        self.world.asleep = (0..self.shards()).filter(|shard| now < self.asleep[2 + shard]).collect();
        self.world.run(STEP);
    }

    fn run(&mut self, for_ns: u64, is_chaos: bool) {
        let until = self.world.now() + for_ns;
        while self.world.now() < until {
            if is_chaos {
                self.something_happens();
                self.something_happens();
            }
            self.step();
        }
    }

    fn calm(&mut self) {
        self.asleep.fill(MonoNs(0));
        let now = self.world.now();
        for actor in &mut self.actors {
            actor.next = actor.next.min(now + actor.period);
        }
        self.run(CALM, false);
        let tally = self.world.tally.lock();
        let counted: u64 = tally.shards.iter().map(|shard| shard.up + shard.stalled).sum();
        drop(tally);
        let mut tracked = 0;
        for (shard, port) in self.world.ports.clone().iter().enumerate() {
            for slot in 0..SLOTS {
                let hot = port.table.read_hot(slot).unwrap();
                let place = Place { shard: u16::try_from(shard).unwrap(), slot };
                let told = *self.world.aggregator.told(place);
                let is_agent = matches!(hot.state, State::Up | State::Stalled) && !told.is_closed;
                assert!(hot.state == State::Free || told.pid == hot.pid, "{told:?} {hot:?}");
                tracked += u64::from(is_agent);
            }
        }
        assert_eq!(counted, tracked, "agents up or stalled");
    }

    /// Plays back what was told: whether each pid is up and stalled.
    fn told(&self) -> HashMap<u32, (bool, bool)> {
        let mut told = HashMap::<u32, (bool, bool)>::new();
        for (index, event) in self.world.told.iter().enumerate() {
            assert_eq!(event.seq, index as u64 + 1, "gap");
            let Some(agent) = event.agent else { continue };
            let (is_up, is_stalled) = told.entry(agent.pid).or_default();
            match event.kind {
                EventKind::Up => assert!(!mem::replace(is_up, true), "up twice: {event:?}"),
                EventKind::Stall { certain, .. } => {
                    assert!(*is_up && !*is_stalled, "two stalls, or of nobody: {event:?}");
                    *is_stalled = true;
                    if certain {
                        let actor = self.actors.iter().find(|actor| actor.pid == agent.pid).unwrap();
                        let within = event.mono - THRESHOLD + 1..event.mono;
                        let beat = actor.arrivals.iter().find(|at| within.contains(at));
                        assert_eq!(beat, None, "false stall: {event:?}");
                    }
                }
                EventKind::Resume { .. } => {
                    assert!(*is_up && *is_stalled, "resume without stall: {event:?}");
                    *is_stalled = false;
                }
                EventKind::Exit { .. } => (*is_up, *is_stalled) = (false, false),
                _ => {}
            }
        }
        told
    }

    fn check(&self) {
        let told = self.told();
        let is_agent = |actor: &&Actor| actor.is_alive && actor.has_beaten && !actor.is_forger;
        for actor in self.actors.iter().filter(is_agent) {
            let (is_up, is_stalled) = told.get(&actor.pid).copied().unwrap_or_default();
            let history: Vec<_> = self
                .world
                .told
                .iter()
                .filter(|event| event.agent.is_some_and(|agent| agent.pid == actor.pid))
                .map(|event| (event.shard, event.mono, event.kind.name()))
                .collect();
            let Actor { pid, is_silent, died, homes, .. } = *actor;
            let last = actor.arrivals.last();
            let who = format!("{pid} {homes:?} died {died:?} beat {last:?} told {history:?}");
            assert!(is_up, "not up: {who}");
            assert_eq!(is_stalled, is_silent, "stalled: {who}");
        }
    }
}

fn play(seed: u64) {
    let mut play = Play::new(seed);
    for _ in 0..ROUNDS {
        play.run(CHAOS, true);
        play.calm();
        play.check();
    }
    for index in 0..play.actors.len() {
        play.die(index);
    }
    play.run(CALM, false);
    for (pid, told) in play.told() {
        assert_eq!(told, (false, false), "{pid} did not exit");
    }
    let aggregator = &play.world.aggregator;
    assert!(aggregator.places.is_empty() && aggregator.pending.is_empty(), "{:?}", aggregator.places);
    assert_eq!(play.world.agents(), (0, 0));
    assert_eq!(play.world.admission.tracked(), 0);
    for shard in &play.world.tally.lock().shards {
        assert_eq!(shard.off_hash, 0);
    }
}

#[test]
fn whatever_happens_what_is_told_is_true() {
    for seed in 1..=8 {
        catch_unwind(AssertUnwindSafe(|| play(seed))).unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("seed {seed}: {what}");
        });
    }
}
