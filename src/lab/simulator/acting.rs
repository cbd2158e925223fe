//! What a simulated observer does about its agents: the real desk decides, the real aggregator says how an agent stands,
//! and a child is a number that ends after a while.
//!
//! The desk hears the log, and works after each turn of the aggregator. While it waits for an answer, it does nothing
//! else, as its thread does.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crossbeam::channel::{Receiver, TryRecvError, bounded};

use crate::action::brake::{Census, Scope};
use crate::action::desk::{Desk, Output, Ticket};
use crate::action::policy::Groups;
use crate::action::verify::{Protected, needed};
use crate::aggregator::Request;
use crate::aggregator::present::Present;
use crate::config::act::{Action, ActionMatch, Brake, Deed, Retry, Trigger};
use crate::event::{ActionName, ActionPhase, ActionWhy, Event, EventKind, ExitHow};
use crate::lab::simulator::invariants::Verdict;
use crate::lab::simulator::model::START;
use crate::lab::simulator::random::Random;
use crate::lab::simulator::story::{MS, SECOND};
use crate::lab::simulator::world::World;
use crate::process::procfs::Incarnation;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;
use crate::time::MonoNs;

/// How long the aggregator may take to answer.
const ANSWER_WITHIN: u64 = 100 * MS;
/// How an action is repeated.
const RETRY: Retry =
    Retry { first_ns: 200 * MS, factor_percent: 200, max_ns: SECOND, tries: 3, reset_after_ns: u64::MAX };

/// The desk of an observer, and what it started.
#[derive(Debug)]
pub struct Acting {
    desk: Desk,
    random: Random,
    heard: VecDeque<Event>,
    /// Starts for which it waits for an answer, since when.
    asked: VecDeque<(Ticket, u64, Receiver<Option<Present>>)>,
    /// When each child ends, and its case.
    children: BTreeSet<(u64, u64)>,
    actions: Vec<Action>,
    /// The number of these actions.
    number: u8,
}

/// What is done for each trigger, and whether it is done to the process.
const TRIGGERS: [(Trigger, bool); 6] = [
    (Trigger::Stall, true),
    (Trigger::Resume, true),
    (Trigger::Exit, false),
    (Trigger::Terminal, false),
    (Trigger::Frozen, true),
    (Trigger::Missing, false),
];

fn actions() -> Vec<Action> {
    let action = |(on, is_process_needed): (Trigger, bool)| Action {
        name: ActionName::new(&on.to_string()).expect("it is a word"),
        on: vec![on],
        matcher: ActionMatch::default(),
        certain: true,
        after_ns: 0,
        deed: if is_process_needed { Deed::Signal(6) } else { Deed::Run(vec!["/bin/true".to_owned()]) },
        timeout_ns: 30 * SECOND,
        retry: RETRY,
        user: None,
        env: Vec::new(),
        evidence: false,
    };
    TRIGGERS.into_iter().map(action).collect()
}

/// The actions of a reload: some are gone, some are others by the same name, and they are in another order.
fn other_actions(random: &mut Random) -> Vec<Action> {
    let mut actions = actions();
    actions.retain(|_| !random.is_one_in(3));
    for action in &mut actions {
        if random.is_one_in(3) {
            action.after_ns = random.one_of(&[MS, SECOND]);
        }
    }
    let first = random.index(actions.len() + 1).min(actions.len().saturating_sub(1));
    actions.rotate_left(first);
    actions
}

fn brake(random: &mut Random) -> Brake {
    Brake {
        running: 1 + random.small(3),
        starts: random.one_of(&[1, 3, 8]),
        per_ns: random.one_of(&[SECOND, 5 * SECOND]),
        percent: random.one_of(&[10, 50, 100]),
        at_least: random.one_of(&[2, 3, 5]),
        within_ns: random.one_of(&[SECOND, 5 * SECOND]),
        release_ns: Some(random.one_of(&[SECOND, 3 * SECOND])),
        dry_run: false,
    }
}

impl Acting {
    /// Takes an event of the log. What is repeated there, others got before.
    pub fn hear(&mut self, event: &Event) {
        if !event.again && event.seq > 0 {
            self.heard.push_back(*event);
        }
    }

    /// Everything the desk does after a turn of the aggregator.
    fn work(&mut self, world: &mut World<'_>) -> Verdict {
        let now = START + world.now;
        while let Some((ticket, since, answer)) = self.asked.pop_front() {
            let is_late = world.now - since > ANSWER_WITHIN;
            let present = match answer.try_recv() {
                Err(TryRecvError::Empty) if !is_late => {
                    self.asked.push_front((ticket, since, answer));
                    return Ok(());
                }
                present => present.ok().flatten().filter(|_| !is_late),
            };
            self.start(world, &ticket, present.as_ref(), now)?;
        }
        while let Some((_, id)) = self.children.first().copied().filter(|(at, _)| *at <= world.now) {
            self.children.pop_first();
            world.model.child_ended(id);
            let code = u8::from(self.random.is_one_in(3));
            self.desk.ended(id, Some(ExitHow::Code(code)), false, now);
        }
        if self.number != world.actions {
            self.number = world.actions;
            let (actions, brake) = world.configured();
            world.model.reloads_actions(&actions, brake);
            self.actions.clone_from(&actions);
            self.desk.replace(actions, brake);
        }
        let is_stall = |event: &Event| matches!(event.kind, EventKind::Stall { .. });
        let census = if self.heard.iter().any(is_stall) { world.census() } else { Counted::default() };
        for event in self.heard.drain(..) {
            world.model.desk_hears(&event);
            self.desk.event(&event, &census, now);
        }
        self.desk.set_spawner(true);
        loop {
            let (outputs, _) = self.desk.step(now);
            if outputs.is_empty() {
                return Ok(());
            }
            for output in outputs {
                match output {
                    Output::Report(_) => {}
                    Output::Brake(news) => world.model.brakes(&news),
                    Output::Start(ticket) => {
                        world.model.is_ordered(&ticket)?;
                        let (to, answer) = bounded(1);
                        let request = Request::Present(ticket.subject.agent.pid, to);
                        world.observer.requests.send(request).expect("the aggregator is here");
                        self.asked.push_back((ticket, world.now, answer));
                    }
                }
            }
            if !self.asked.is_empty() {
                world.observer.doorbell.ring();
                world.ring_aggregator();
                return Ok(());
            }
        }
    }

    fn start(
        &mut self,
        world: &mut World<'_>,
        ticket: &Ticket,
        present: Option<&Present>,
        now: MonoNs,
    ) -> Verdict {
        let (id, pid) = (ticket.id, ticket.subject.agent.pid);
        let is_process_needed = matches!(self.actions[ticket.action].deed, Deed::Signal(_));
        let is_there = |incarnation: Option<Incarnation>| match incarnation {
            None => Ok(false),
            Some(incarnation) if world.gone_at(pid, Some(incarnation)).is_none() => Ok(true),
            Some(_) => Err((ActionPhase::Cancelled, ActionWhy::Gone)),
        };
        match needed(ticket, present, &Protected::default(), is_process_needed).and_then(is_there) {
            Err((phase, why)) => {
                world.model.is_not_started(id);
                self.desk.not_started(id, phase, why);
            }
            Ok(_) if self.random.is_one_in(12) => {
                world.model.is_not_started(id);
                self.desk.not_taken(id);
            }
            Ok(is_for_process) => {
                world.model.is_started(ticket, is_for_process)?;
                if self.random.is_one_in(12) {
                    world.model.child_ended(id);
                    self.desk.failed(id, libc::ENOENT, now);
                    return Ok(());
                }
                self.desk.started(id, 1);
                let takes = self.random.one_of(&[MS, 200 * MS, SECOND, 4 * SECOND]);
                self.children.insert((world.now + self.random.below(takes), id));
            }
        }
        Ok(())
    }
}

impl World<'_> {
    /// An observer begins, and knows nothing of what the one before started.
    pub fn begin_to_act(&mut self) {
        if !self.story.setting.acts {
            return;
        }
        // By numbers of its own: worlds in which nothing is done stay as they were.
        let mut random = Random::new(self.story.seed ^ 0x0AC7_0AC7 ^ self.past.restarts);
        let of_start = brake(&mut random);
        let (actions, brake) = if self.actions == 0 { (actions(), of_start) } else { self.configured() };
        self.model.begins_to_act(&actions, brake, RETRY.tries);
        let desk = Desk::new(actions.clone(), brake);
        let (heard, asked, children) = (VecDeque::new(), VecDeque::new(), BTreeSet::new());
        let number = self.actions;
        self.acting = Some(Acting { desk, random, heard, asked, children, actions, number });
    }

    /// What the configuration says now, after a reload.
    fn configured(&self) -> (Vec<Action>, Brake) {
        let mut random = Random::new(self.story.seed ^ 0x0AC7_0AC7 ^ u64::from(self.actions) << 32);
        let dry_run = random.is_one_in(3);
        (other_actions(&mut random), Brake { dry_run, ..brake(&mut random) })
    }

    /// The desk works.
    pub fn act(&mut self) -> Verdict {
        let Some(mut acting) = self.acting.take() else { return Ok(()) };
        let done = acting.work(self);
        self.acting = Some(acting);
        done
    }

    fn census(&self) -> Counted {
        let mut counted = HashMap::new();
        for (shard, of) in (0..).zip(&self.shards) {
            let table = &of.port.table;
            for slot in 0..table.used() {
                let hot = table.read_hot(slot);
                let Some(hot) = hot.ok().filter(|hot| matches!(hot.state, State::Up | State::Stalled)) else {
                    continue;
                };
                let holder = Holder { place: Place { shard, slot }, generation: table.generation(slot) };
                let unit = self.observer.names.unit(holder).map(Scope::Unit);
                for scope in [Some(Scope::Fleet), Some(Scope::Uid(hot.uid())), unit].into_iter().flatten() {
                    *counted.entry(scope).or_default() += 1;
                }
            }
        }
        Counted(counted)
    }
}

/// How many agents each scope has.
#[derive(Debug, Default)]
struct Counted(HashMap<Scope, u32>);

/// No action depends on them.
impl Groups for Counted {
    fn groups(&self, _: u32) -> String {
        String::new()
    }
}

impl Census for Counted {
    fn agents(&self, scope: Scope) -> u32 {
        self.0.get(&scope).copied().unwrap_or(0)
    }
}
