//! The agents that died last, and what dies again and again, from events. Time is an argument.

use std::collections::{HashMap, VecDeque};

use super::deaths::RECENT_NS;
use crate::api::DEAD_MAX;
use crate::event::{About, Comm, Event, EventKind, Texts};
use crate::label::Label;
use crate::rules::Death;
use crate::time::MonoNs;

/// Agents kept.
pub const KEPT: usize = DEAD_MAX as usize;
/// Deaths of a minute that may be a coincidence.
const LOOP_DEATHS: u64 = 3;
/// Lives shorter than this are those of a crash loop.
const SHORT_NS: u64 = 60_000_000_000;

/// The unit, if its processes are restarted as one: those of a scope were started one by one.
fn service(about: &About) -> Option<Label> {
    about.unit.filter(|unit| unit.text().is_some_and(|text| text.ends_with(".service")))
}

/// What counts as the same agent after a restart: the service, else user and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Unit(Label),
    Process(Option<u32>, Comm),
}

impl Name {
    fn of(about: &About) -> Self {
        match service(about) {
            Some(unit) => Self::Unit(unit),
            None => Self::Process(about.uid, about.comm),
        }
    }
}

/// What is restarted as one: the service, else the program of a user; of a program that is not known, the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Restarted {
    Unit(Label),
    Program(Option<u32>, Label),
    Process(Option<u32>, Comm),
}

impl Restarted {
    fn of(about: &About) -> Self {
        match (service(about), about.exe) {
            (Some(unit), _) => Self::Unit(unit),
            (None, Some(exe)) => Self::Program(about.uid, exe),
            (None, None) => Self::Process(about.uid, about.comm),
        }
    }
}

/// One agent that died.
#[derive(Clone, Debug)]
pub struct DeadAgent {
    /// Its exit.
    pub event: Event,
    /// What it belonged to and ran, in words.
    pub texts: Texts,
    /// How it died.
    pub death: Death,
    /// From its first beat to its end, ns.
    pub lived_ns: u64,
    /// Agents of the same name that died before it and are kept.
    pub deaths_before: u32,
}

impl DeadAgent {
    /// Who it was.
    pub fn about(&self) -> About {
        self.event.agent.map(|agent| agent.about).unwrap_or_default()
    }
}

/// Something that dies again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashLoop {
    /// Who died last.
    pub about: About,
    /// How often that happened in the last minute.
    pub deaths: u64,
}

/// The agents that died last.
#[derive(Debug, Default)]
pub struct Dead {
    agents: VecDeque<DeadAgent>,
    named: HashMap<Name, u32>,
    /// Number of the event with which this observer went on for another.
    restarted_at: u64,
}

impl Dead {
    /// Keeps the agent of the event, if it died.
    pub fn push(&mut self, event: &Event) {
        if matches!(event.kind, EventKind::Restart { .. }) {
            self.restarted_at = event.seq;
        }
        let EventKind::Exit { how, lived_ns, panicked, .. } = event.kind else { return };
        let (Some(death), Some(agent)) = (Death::of(how, panicked), event.agent) else { return };
        if self.agents.len() == KEPT
            && let Some(oldest) = self.agents.remove(self.to_forget(agent.about.uid))
        {
            let name = Name::of(&oldest.about());
            if let Some(count) = self.named.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&name);
                }
            }
        }
        // Held before the name is made of them: a text that is freed in between would have it counted under two.
        let texts = agent.about.texts();
        let count = self.named.entry(Name::of(&agent.about)).or_default();
        self.agents.push_back(DeadAgent { event: *event, texts, death, lived_ns, deaths_before: *count });
        *count += 1;
    }

    /// Which one makes room for one of this user: its own oldest if it has more than half of the places, so that one
    /// user's agents do not displace all others.
    fn to_forget(&self, uid: Option<u32>) -> usize {
        let of_user = |dead: &&DeadAgent| dead.about().uid == uid;
        let has_most = self.agents.iter().filter(of_user).count() > KEPT / 2;
        let oldest = self.agents.iter().position(|dead| of_user(&dead));
        oldest.filter(|_| has_most).unwrap_or(0)
    }

    /// All of them, the latest first.
    pub fn latest(&self) -> impl Iterator<Item = &DeadAgent> {
        self.agents.iter().rev()
    }

    /// Those of the last minute, the latest first, but for those of which the kernel did not say how they ended: they
    /// may have been stopped.
    pub fn of_last_minute(&self, now: MonoNs) -> impl Iterator<Item = &DeadAgent> {
        let is_recent = move |dead: &&DeadAgent| now.since(dead.event.mono) <= RECENT_NS;
        self.latest().filter(is_recent).filter(|dead| dead.death != Death::Unknown)
    }

    /// What died more than three times in the last minute, each time after a short life, and came up again after at
    /// least three of these deaths: agents that are killed at once are no loop, however young they were. Most deaths
    /// first.
    pub fn crash_loops(&self, now: MonoNs) -> Vec<CrashLoop> {
        let mut of: HashMap<Restarted, Vec<&DeadAgent>> = HashMap::new();
        // A life of no length is one of which the begin is not known. Of what an observer before this one reported, the
        // units are not.
        let is_short = |dead: &&DeadAgent| (1..SHORT_NS).contains(&dead.lived_ns);
        let is_ours = |dead: &&DeadAgent| dead.event.seq > self.restarted_at;
        // Agents that died before anything of them was looked up have nothing in common.
        let has_name = |dead: &&DeadAgent| About { uid: None, ..dead.about() } != About::UNKNOWN;
        for dead in self.of_last_minute(now).filter(is_short).filter(is_ours).filter(has_name) {
            of.entry(Restarted::of(&dead.about())).or_default().push(dead);
        }
        let mut loops: Vec<CrashLoop> = of
            .into_values()
            .filter(|deaths| deaths.len() as u64 > LOOP_DEATHS && restarts(deaths) >= LOOP_DEATHS)
            .map(|deaths| CrashLoop { about: deaths[0].about(), deaths: deaths.len() as u64 })
            .collect();
        loops.sort_by(|one, other| {
            let rank = |each: &CrashLoop| {
                let Texts { unit, exe, .. } = each.about.texts();
                (std::cmp::Reverse(each.deaths), unit, exe, each.about.uid)
            };
            rank(one).cmp(&rank(other)).then_with(|| one.about.comm.as_str().cmp(other.about.comm.as_str()))
        });
        loops
    }
}

/// How many of these deaths, latest first, ended a life that began after an earlier one of them.
fn restarts(deaths: &[&DeadAgent]) -> u64 {
    let mut ended: Option<MonoNs> = None;
    let mut restarts = 0;
    for dead in deaths.iter().rev() {
        let (born, died) = (dead.event.mono - dead.lived_ns, dead.event.mono);
        match ended {
            // Several that ran side by side and died together are one death.
            Some(before) if born < before => {}
            _ => {
                restarts += u64::from(ended.is_some());
                ended = Some(died);
            }
        }
    }
    restarts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ExitHow;
    use crate::lab::samples::up;

    const SECOND: u64 = 1_000_000_000;

    fn exit(comm: &str, unit: Option<&str>, at: u64, lived_ns: u64, how: ExitHow) -> Event {
        let mut event = up(1);
        event.mono = MonoNs(at);
        let agent = event.agent.as_mut().unwrap();
        let label = |text| Label::of(text, 0);
        agent.about = About { comm: comm.into(), unit: unit.and_then(label), ..About::UNKNOWN };
        event.kind =
            EventKind::Exit { silent_ns: 1, how: Some(how), lived_ns, panicked: false, while_away: false };
        event
    }

    #[test]
    fn who_died_is_kept_with_a_count_for_its_name_and_who_was_stopped_is_not() {
        let mut dead = Dead::default();
        for at in 1..=3 {
            dead.push(&exit("a", None, at, 1, ExitHow::Signal(9)));
        }
        dead.push(&exit("a", None, 4, 1, ExitHow::Signal(15)));
        dead.push(&exit("a", Some("a.service"), 5, 1, ExitHow::Code(1)));
        dead.push(&up(6));
        let kept: Vec<(u64, u32)> =
            dead.latest().map(|dead| (dead.event.mono.0, dead.deaths_before)).collect();
        assert_eq!(kept, [(5, 0), (3, 2), (2, 1), (1, 0)]);
        for at in 0..2 * KEPT as u64 {
            dead.push(&exit("b", None, 10 + at, 1, ExitHow::Signal(9)));
        }
        assert_eq!((dead.agents.len(), dead.named.len()), (KEPT, 1));
        assert_eq!(dead.latest().next().map(|dead| dead.deaths_before), Some(999));
    }

    #[test]
    fn the_dead_keep_their_names() {
        let mut dead = Dead::default();
        let event = exit("a", Some("dead-held.service"), 1, 1, ExitHow::Signal(9));
        dead.push(&event);
        let unit = event.agent.unwrap().about.unit.unwrap();
        unit.free();
        assert_eq!(unit.text().as_deref(), Some("dead-held.service"));
        let mut nameless = event;
        nameless.agent.as_mut().unwrap().about.unit = Some(Label::freed());
        (2..2 + KEPT as u64).for_each(|at| dead.push(&Event { mono: MonoNs(at), ..nameless }));
        assert_eq!(dead.named.len(), 1, "they are counted by user and name");
        unit.free();
        assert_eq!(unit.text(), None);
    }

    #[test]
    fn one_user_does_not_displace_the_others() {
        let mut dead = Dead::default();
        let of = |uid: u32, at: u64| {
            let mut event = exit("a", None, at, 1, ExitHow::Signal(9));
            event.agent.as_mut().unwrap().about.uid = Some(uid);
            event
        };
        (0..100).for_each(|at| dead.push(&of(1, at)));
        (100..5000).for_each(|at| dead.push(&of(2, at)));
        let of_first = dead.latest().filter(|dead| dead.about().uid == Some(1)).count();
        assert_eq!((dead.agents.len(), of_first), (KEPT, 100));
    }

    #[test]
    fn what_another_observer_reported_is_listed_and_makes_no_loop() {
        let mut dead = Dead::default();
        for at in 1000..1010 {
            dead.push(&Event { seq: at, ..exit("python3", None, at * SECOND, SECOND / 2, ExitHow::Code(1)) });
        }
        assert_eq!(dead.crash_loops(MonoNs(1010 * SECOND)).len(), 1);
        let why = crate::event::RestartWhy::Planned;
        let kind = EventKind::Restart { why, shards: 1, adopted: 0, gone: 0, gap_ns: 1 };
        dead.push(&Event { seq: 1010, kind, ..up(1) });
        assert_eq!((dead.crash_loops(MonoNs(1010 * SECOND)).len(), dead.latest().count()), (0, 10));
    }

    #[test]
    fn what_dies_again_and_again_is_a_crash_loop() {
        let mut dead = Dead::default();
        let unit = Some("loop.service");
        let start = 1000 * SECOND;
        for round in 1..=3 {
            dead.push(&exit("x", unit, start + round * 10 * SECOND, 5 * SECOND, ExitHow::Code(1)));
            dead.push(&exit("long", Some("long.service"), start + round, 61 * SECOND, ExitHow::Code(1)));
        }
        assert_eq!(dead.crash_loops(MonoNs(start + 30 * SECOND)), [], "three may be a coincidence");
        dead.push(&exit("x", unit, start + 40 * SECOND, 5 * SECOND, ExitHow::Code(1)));
        let found = dead.crash_loops(MonoNs(start + 40 * SECOND));
        assert_eq!(found.iter().map(|each| each.deaths).collect::<Vec<_>>(), [4]);
        assert_eq!(found[0].about.texts().unit.as_deref(), unit);
        assert_eq!(dead.crash_loops(MonoNs(start + 71 * SECOND)), [], "a minute later");
    }

    #[test]
    fn an_end_of_which_nobody_knows_how_is_no_part_of_a_loop() {
        let mut dead = Dead::default();
        for at in 0..10 {
            let mut event = exit("job", None, (1000 + at) * SECOND, SECOND / 2, ExitHow::Code(1));
            let EventKind::Exit { how, .. } = &mut event.kind else { unreachable!("it is one") };
            *how = None;
            dead.push(&event);
        }
        assert_eq!((dead.latest().count(), dead.crash_loops(MonoNs(1010 * SECOND)).len()), (10, 0));
    }

    /// The headline names the first, and must name the same one each second.
    #[test]
    fn equal_loops_have_one_order() {
        let mut dead = Dead::default();
        for at in 1000..1005 {
            for name in ["c", "a", "d", "b"] {
                dead.push(&exit(name, None, at * SECOND, SECOND / 2, ExitHow::Code(1)));
            }
        }
        let found = dead.crash_loops(MonoNs(1005 * SECOND));
        let names: Vec<&str> = found.iter().map(|each| each.about.comm.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn agents_without_a_name_are_no_loop() {
        let mut dead = Dead::default();
        (1000..1010).for_each(|at| dead.push(&exit("", None, at * SECOND, SECOND / 2, ExitHow::Signal(9))));
        assert_eq!((dead.latest().count(), dead.crash_loops(MonoNs(1010 * SECOND)).len()), (10, 0));
    }

    #[test]
    fn agents_that_are_killed_at_once_are_no_loop() {
        let mut dead = Dead::default();
        for at in 0..300 {
            dead.push(&exit("load", None, 1000 * SECOND + at, 30 * SECOND + at, ExitHow::Signal(9)));
        }
        assert_eq!(dead.crash_loops(MonoNs(1001 * SECOND)), []);
    }
}
