//! Counts by unit of the service manager, of a bounded number of units. Time is an argument.
//!
//! Units have places. Without a free one, a unit without agents makes room, and loses its counts to those of the
//! others. A configured unit takes the place of one that is not, with or without agents. The units of one user keep
//! [`SHARE`] places, and more only as long as no other user asks for them. User 0 has no such limit, and the other users
//! together leave it as many.

use std::collections::{HashMap, HashSet};

use crate::config::bounds::UNITS_MAX;
use crate::label::{Label, Text};
use crate::pattern::Pattern;
use crate::time::MonoNs;

/// The places that the units of one user keep. Configured ones are not counted.
pub const SHARE: usize = UNITS_MAX / 4;

/// Labels of which is remembered whether they are configured: as many as there are at once.
const KNOWN_MAX: usize = 1 << 17;

/// A unit that an agent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub label: Label,
    /// The user whose share it is part of.
    pub uid: u32,
    /// It is among the configured ones.
    pub is_configured: bool,
}

/// The configured units. What matches is remembered: names of units are long, and there are many patterns.
#[derive(Debug, Default)]
pub struct Configured {
    patterns: Vec<Pattern>,
    known: HashMap<Label, bool>,
}

impl Configured {
    /// The units that match any of these patterns.
    pub fn new(patterns: &[String]) -> Self {
        let patterns = patterns.iter().map(|pattern| Pattern::new(pattern)).collect();
        Self { patterns, known: HashMap::new() }
    }

    /// Whether a unit is among them.
    pub fn has(&mut self, unit: Label) -> bool {
        let Self { patterns, known } = self;
        if known.len() >= KNOWN_MAX {
            // Those of freed texts are among them.
            known.clear();
        }
        let matches = || {
            let name = unit.text();
            name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(&name)))
        };
        !patterns.is_empty() && *known.entry(unit).or_insert_with(matches)
    }
}

/// The counts of one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitCounts {
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Stalls reported.
    pub stalls: u64,
    /// Agents that died, as far as the kernel said how.
    pub deaths: u64,
}

impl UnitCounts {
    const fn agents(&mut self, is_stalled: bool) -> &mut u64 {
        if is_stalled { &mut self.stalled } else { &mut self.up }
    }

    fn leave(&mut self, is_stalled: bool) {
        let agents = self.agents(is_stalled);
        *agents = agents.saturating_sub(1);
    }

    const fn has_agents(&self) -> bool {
        self.up > 0 || self.stalled > 0
    }

    const fn add(&mut self, Self { up, stalled, stalls, deaths }: Self) {
        self.up += up;
        self.stalled += stalled;
        self.stalls += stalls;
        self.deaths += deaths;
    }
}

/// A place, which a unit holds.
#[derive(Clone, Debug)]
struct Seat {
    /// Held, so that the unit has the same label as long as its counts are kept.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only metrics show it"))]
    name: Text,
    counts: UnitCounts,
    /// No other place ever had it.
    number: u32,
    uid: u32,
    is_configured: bool,
    /// When something was counted last.
    at: MonoNs,
}

/// Where an agent is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    unit: Option<Label>,
    /// The number of the unit's place; if that is gone, or for 0, it is counted with the others.
    number: u32,
    state: CountedAs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CountedAs {
    #[default]
    Nothing,
    Up,
    Stalled,
}

/// What a unit without a place may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claim {
    /// It is configured: any place but that of a configured unit with agents.
    Configured,
    /// It is of user 0: as for a share, or that of any unit of other users if these leave too few.
    Host,
    /// Its user has less than its share: that of a unit without agents, or of a user with more than its share.
    Share,
    /// Its user has its share: that of a unit of the same user without agents.
    Own(u32),
}

/// The counts of all units.
#[derive(Clone, Debug, Default)]
pub struct Units {
    own: HashMap<Label, Seat>,
    /// Agents of no unit, and of units without counts of their own.
    pub other: UnitCounts,
    /// Units whose counts were added to those of the others to make room for another one.
    pub folded: u64,
    /// The number of the latest place.
    number: u32,
    /// The places of each user, those of configured units not counted.
    held: HashMap<u32, usize>,
    /// For these claims there was no place, and none has changed since.
    refused: HashSet<Claim>,
}

impl Units {
    /// The units with counts of their own, by name.
    #[cfg(feature = "http")]
    pub fn by_name(&self) -> Vec<(&str, UnitCounts)> {
        let mut units: Vec<_> = self.own.values().map(|seat| (&*seat.name, seat.counts)).collect();
        units.sort_by_key(|(name, _)| *name);
        units
    }

    /// The sums over all units: up, stalled, stalls, deaths.
    #[cfg(test)]
    pub fn sums(&self) -> [u64; 4] {
        let mut sum = self.other;
        self.own.values().for_each(|seat| sum.add(seat.counts));
        [sum.up, sum.stalled, sum.stalls, sum.deaths]
    }

    /// Takes other configured units. Agents are counted where they belong now once [`Self::count`] is called for each.
    pub fn configure(&mut self, configured: &mut Configured) {
        self.held.clear();
        for (unit, seat) in &mut self.own {
            seat.is_configured = configured.has(*unit);
            if !seat.is_configured {
                *self.held.entry(seat.uid).or_default() += 1;
            }
        }
        self.refused.clear();
    }

    /// Counts an agent that was `counted`: now as one of this unit that is stalled or up, or no more. The same twice
    /// changes nothing.
    pub fn count(
        &mut self,
        counted: &mut Counted,
        unit: Option<Unit>,
        is_stalled: Option<bool>,
        now: MonoNs,
    ) {
        let state = match is_stalled {
            None => CountedAs::Nothing,
            Some(false) => CountedAs::Up,
            Some(true) => CountedAs::Stalled,
        };
        let label = unit.map(|unit| unit.label);
        let has_its_place = label.is_none() || self.seat(*counted).is_some();
        if (counted.unit, counted.state) == (label, state) && (has_its_place || is_stalled.is_none()) {
            return;
        }
        if counted.state != CountedAs::Nothing {
            let was_stalled = counted.state == CountedAs::Stalled;
            if let Some(seat) = self.seat(*counted) {
                seat.at = now;
                seat.counts.leave(was_stalled);
                if !seat.counts.has_agents() {
                    self.refused.clear();
                }
            } else {
                self.other.leave(was_stalled);
            }
        }
        *counted = Counted::default();
        if let Some(is_stalled) = is_stalled {
            let (number, counts) = self.of(unit, now);
            *counts.agents(is_stalled) += 1;
            *counted = Counted { unit: label, number, state };
        }
    }

    /// Counts reported stalls.
    pub fn add_stalls(&mut self, unit: Option<Unit>, stalls: u64, now: MonoNs) {
        self.of(unit, now).1.stalls += stalls;
    }

    /// Counts an agent that died.
    pub fn add_death(&mut self, unit: Option<Unit>, now: MonoNs) {
        self.of(unit, now).1.deaths += 1;
    }

    /// The place where an agent is counted, unless that is with the others.
    fn seat(&mut self, Counted { unit, number, .. }: Counted) -> Option<&mut Seat> {
        self.own.get_mut(&unit?).filter(|seat| seat.number == number)
    }

    /// The counts for a unit: those of its place, with the number of that, or those of the others.
    fn of(&mut self, unit: Option<Unit>, now: MonoNs) -> (u32, &mut UnitCounts) {
        let Some(unit) = unit else { return (0, &mut self.other) };
        if !self.own.contains_key(&unit.label) && !self.give_place(unit, now) {
            return (0, &mut self.other);
        }
        match self.own.get_mut(&unit.label) {
            Some(seat) => {
                seat.at = now;
                (seat.number, &mut seat.counts)
            }
            None => (0, &mut self.other),
        }
    }

    /// Gives the unit a place, if there is one for it and its name was not freed; another unit may lose its own.
    fn give_place(&mut self, Unit { label, uid, is_configured }: Unit, now: MonoNs) -> bool {
        let Some(name) = label.text() else { return false };
        if self.own.len() >= UNITS_MAX {
            let claim = match uid {
                _ if is_configured => Claim::Configured,
                0 => Claim::Host,
                _ if self.held_by(uid) < SHARE => Claim::Share,
                _ => Claim::Own(uid),
            };
            if self.refused.contains(&claim) {
                return false;
            }
            let Some(cheapest) = self.cheapest(claim) else {
                self.refused.insert(claim);
                return false;
            };
            self.fold(cheapest);
        }
        self.refused.clear();
        // 0 is no place.
        self.number = self.number.wrapping_add(1).max(1);
        if !is_configured {
            *self.held.entry(uid).or_default() += 1;
        }
        let counts = UnitCounts::default();
        self.own.insert(label, Seat { name, counts, number: self.number, uid, is_configured, at: now });
        true
    }

    /// The unit that makes room for such a claim.
    fn cheapest(&self, claim: Claim) -> Option<Label> {
        let of_users: usize = self.held.iter().filter(|(uid, _)| **uid != 0).map(|(_, held)| held).sum();
        let is_crowded = claim == Claim::Host && of_users > UNITS_MAX - SHARE;
        let is_above = |seat: &Seat| seat.uid != 0 && self.held_by(seat.uid) > SHARE;
        let may_go = |seat: &Seat| {
            let has_agents = seat.counts.has_agents();
            match claim {
                Claim::Configured => !seat.is_configured || !has_agents,
                _ if seat.is_configured => false,
                Claim::Host => !has_agents || is_above(seat) || is_crowded && seat.uid != 0,
                Claim::Share => !has_agents || is_above(seat),
                Claim::Own(uid) => !has_agents && seat.uid == uid,
            }
        };
        let cost = |seat: &Seat| {
            (seat.is_configured, seat.counts.has_agents(), !is_above(seat), seat.at, seat.number)
        };
        let going = self.own.iter().filter(|(_, seat)| may_go(seat));
        going.min_by_key(|(_, seat)| cost(seat)).map(|(unit, _)| *unit)
    }

    /// Adds the counts of a unit to those of the others; so are its agents from now on.
    fn fold(&mut self, unit: Label) {
        let Some(seat) = self.own.remove(&unit) else { return };
        self.other.add(seat.counts);
        self.folded += 1;
        if let Some(held) = self.held.get_mut(&seat.uid).filter(|_| !seat.is_configured) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&seat.uid);
            }
        }
    }

    fn held_by(&self, uid: u32) -> usize {
        self.held.get(&uid).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str) -> Label {
        Label::of(name, 0).unwrap()
    }

    fn of_user(name: &str, uid: u32) -> Option<Unit> {
        Some(Unit { label: label(name), uid, is_configured: false })
    }

    fn unit(name: &str) -> Option<Unit> {
        of_user(name, 0)
    }

    fn configured(name: &str) -> Option<Unit> {
        unit(name).map(|unit| Unit { is_configured: true, ..unit })
    }

    fn own(units: &Units, name: &str) -> Option<UnitCounts> {
        units.own.get(&label(name)).map(|seat| seat.counts)
    }

    /// How many places the units of a user have.
    fn places(units: &Units, uid: u32) -> usize {
        units.own.values().filter(|seat| seat.uid == uid).count()
    }

    /// Counts an agent that beats in each of the units.
    fn fill(units: &mut Units, of: impl Iterator<Item = Option<Unit>>) -> Vec<(Option<Unit>, Counted)> {
        let agents = (1..).zip(of).map(|(at, unit)| {
            let mut agent = Counted::default();
            units.count(&mut agent, unit, Some(false), MonoNs(at));
            (unit, agent)
        });
        agents.collect()
    }

    fn of_many(name: &str, uid: u32, count: usize) -> impl Iterator<Item = Option<Unit>> {
        (0..count).map(move |number| of_user(&format!("units-{name}-{number}.service"), uid))
    }

    #[test]
    fn an_agent_is_counted_once_wherever_it_goes() {
        let mut units = Units::default();
        let mut agent = Counted::default();
        let (a, b) = (unit("units-a.service"), unit("units-b.service"));
        for _ in 0..2 {
            units.count(&mut agent, None, Some(false), MonoNs(1));
        }
        assert_eq!((units.other.up, units.own.len()), (1, 0));
        units.count(&mut agent, a, Some(false), MonoNs(2));
        for _ in 0..2 {
            units.count(&mut agent, a, Some(true), MonoNs(3));
        }
        units.add_stalls(a, 2, MonoNs(3));
        assert_eq!(units.other.up, 0);
        assert_eq!(
            own(&units, "units-a.service"),
            Some(UnitCounts { stalled: 1, stalls: 2, ..UnitCounts::default() })
        );
        units.count(&mut agent, b, Some(true), MonoNs(4));
        units.count(&mut agent, b, None, MonoNs(5));
        units.add_death(b, MonoNs(5));
        units.count(&mut agent, None, None, MonoNs(6));
        assert_eq!(own(&units, "units-a.service"), Some(UnitCounts { stalls: 2, ..UnitCounts::default() }));
        assert_eq!(own(&units, "units-b.service"), Some(UnitCounts { deaths: 1, ..UnitCounts::default() }));
    }

    #[test]
    fn a_unit_with_counts_keeps_its_name_and_one_whose_name_was_freed_is_counted_with_the_others() {
        let mut units = Units::default();
        let mut agent = Counted::default();
        let freed = Some(Unit { label: Label::freed(), uid: 0, is_configured: false });
        units.count(&mut agent, freed, Some(false), MonoNs(1));
        units.add_death(freed, MonoNs(2));
        assert_eq!((units.other.up, units.other.deaths, units.own.len()), (1, 1, 0));
        let held = unit("units-held.service");
        units.count(&mut agent, held, Some(false), MonoNs(3));
        units.count(&mut agent, None, None, MonoNs(4));
        held.unwrap().label.free();
        units.add_stalls(held, 1, MonoNs(5));
        let stalls = own(&units, "units-held.service").map(|counts| counts.stalls);
        assert_eq!((units.other.up, stalls), (0, Some(1)));
        assert!(!Configured::new(&["*".to_owned()]).has(Label::freed()));
    }

    #[test]
    fn units_are_bounded_and_no_count_is_lost() {
        let mut units = Units::default();
        let mut agents = fill(&mut units, of_many("host", 0, UNITS_MAX + 10));
        assert_eq!((units.own.len(), units.other.up, units.folded), (UNITS_MAX, 10, 0));
        // The agents of two units leave, and a new unit takes the place of the first of them.
        units.add_death(agents[7].0, MonoNs(1000));
        units.count(&mut agents[7].1, None, None, MonoNs(1000));
        units.count(&mut agents[9].1, None, None, MonoNs(1001));
        fill(&mut units, of_many("new", 0, 1));
        assert_eq!((units.own.len(), units.other.deaths, units.folded), (UNITS_MAX, 1, 1));
        assert_eq!(own(&units, "units-host-7.service"), None);
        // What was counted with the others is still counted there.
        let (_, last) = &mut agents[UNITS_MAX];
        units.count(last, None, None, MonoNs(1003));
        assert_eq!(units.other.up, 9);
        assert_eq!(units.sums(), [UNITS_MAX as u64 + 10 - 3 + 1, 0, 0, 1]);
    }

    #[test]
    fn a_configured_unit_has_a_place_whenever_it_comes() {
        let mut units = Units::default();
        let mut agents = fill(&mut units, of_many("host", 0, UNITS_MAX));
        units.add_stalls(agents[0].0, 3, MonoNs(1));
        units.add_death(agents[0].0, MonoNs(1));
        let mut mine = fill(&mut units, [configured("units-mine.service")].into_iter());
        assert_eq!(own(&units, "units-mine.service").map(|counts| counts.up), Some(1));
        assert_eq!(own(&units, "units-host-0.service"), None, "counted last long ago");
        assert_eq!(units.other, UnitCounts { up: 1, stalled: 0, stalls: 3, deaths: 1 });
        assert_eq!((units.own.len(), units.folded), (UNITS_MAX, 1));
        // Its agent is with the others now, and stays counted once.
        let (host, agent) = &mut agents[0];
        units.count(agent, *host, Some(true), MonoNs(2000));
        units.count(agent, *host, Some(true), MonoNs(2001));
        assert_eq!((units.other.up, units.other.stalled), (0, 1));
        // It keeps its place without agents, however many come.
        let (_, agent) = &mut mine[0];
        units.count(agent, None, None, MonoNs(2002));
        fill(&mut units, of_many("late", 0, 10));
        fill(&mut units, of_many("late", 1000, 10));
        assert!(own(&units, "units-mine.service").is_some());
        assert_eq!(units.folded, 1);
        // All places may be theirs. One more waits until one of them has no agent.
        let mut first =
            fill(&mut units, (0..UNITS_MAX).map(|n| configured(&format!("units-mine-{n}.service"))));
        assert_eq!(units.own.values().filter(|seat| seat.is_configured).count(), UNITS_MAX);
        assert_eq!(own(&units, "units-mine.service"), None, "the only one without agents");
        fill(&mut units, [configured("units-last.service")].into_iter());
        assert_eq!(own(&units, "units-last.service"), None);
        let (_, agent) = &mut first[5];
        units.count(agent, None, None, MonoNs(3000));
        fill(&mut units, [configured("units-last.service")].into_iter());
        assert!(own(&units, "units-last.service").is_some());
        let agents = UNITS_MAX as u64 + 20 + UNITS_MAX as u64 + 2 - 1;
        assert_eq!(units.sums()[..2], [agents - 1, 1]);
    }

    #[test]
    fn a_unit_that_lost_its_place_and_has_one_again_counts_each_agent_once() {
        let mut units = Units::default();
        let host = unit("units-host-0.service");
        let mut first = fill(&mut units, [host, host].into_iter());
        fill(&mut units, of_many("host", 0, UNITS_MAX));
        let mut mine = fill(&mut units, [configured("units-mine.service")].into_iter());
        assert_eq!(own(&units, "units-host-0.service"), None);
        let mut others: Vec<_> = units.own.keys().copied().collect();
        others.retain(|unit| *unit != label("units-mine.service"));
        units.fold(others[0]);
        let before = units.sums();
        let (_, agent) = &mut first[0];
        units.count(agent, host, Some(true), MonoNs(2000));
        let stalled = UnitCounts { stalled: 1, ..UnitCounts::default() };
        assert_eq!(own(&units, "units-host-0.service"), Some(stalled), "of the place it has now");
        let (_, agent) = &mut first[1];
        units.count(agent, None, None, MonoNs(2001));
        assert_eq!(
            own(&units, "units-host-0.service"),
            Some(stalled),
            "the other one was never counted there"
        );
        let (_, agent) = &mut mine[0];
        units.count(agent, None, None, MonoNs(2002));
        assert_eq!(units.sums(), [before[0] - 3, 1, 0, 0]);
    }

    #[test]
    fn units_become_configured_and_cease_to_be() {
        let mut units = Units::default();
        let mut agents = fill(&mut units, of_many("host", 0, UNITS_MAX + 1));
        let mut some = Configured::new(&["units-host-256.*".to_owned(), "*-host-1?.service".to_owned()]);
        units.configure(&mut some);
        let last = agents.last_mut().unwrap();
        assert!(some.has(label("units-host-256.service")) && !some.has(label("units-host-1.service")));
        units.count(&mut last.1, configured("units-host-256.service"), Some(false), MonoNs(2000));
        assert_eq!(own(&units, "units-host-256.service").map(|counts| counts.up), Some(1));
        assert_eq!(units.own.values().filter(|seat| seat.is_configured).count(), 11);
        units.configure(&mut Configured::default());
        assert_eq!((places(&units, 0), units.held_by(0)), (UNITS_MAX, UNITS_MAX));
        assert_eq!(units.sums(), [UNITS_MAX as u64 + 1, 0, 0, 0]);
    }

    #[test]
    fn a_user_with_many_units_leaves_room_for_the_host_and_for_others() {
        let mut units = Units::default();
        // The first user takes everything, with agents that stay, and churns.
        let mut agents = fill(&mut units, of_many("one", 1000, 400));
        assert_eq!((places(&units, 1000), units.other.up), (UNITS_MAX, 144));
        // Another gets its share of it, and no more.
        fill(&mut units, of_many("two", 1001, 400));
        assert_eq!((places(&units, 1000), places(&units, 1001)), (UNITS_MAX - SHARE, SHARE));
        // The host gets all it needs, but for the shares.
        fill(&mut units, of_many("host", 0, 100));
        assert_eq!(places(&units, 0), 100);
        fill(&mut units, of_many("host", 0, UNITS_MAX));
        assert_eq!([0, 1000, 1001].map(|uid| places(&units, uid)), [UNITS_MAX - 2 * SHARE, SHARE, SHARE]);
        // Units of the first user come and go: only their own places change hands.
        let host: Vec<Label> =
            units.own.iter().filter(|(_, seat)| seat.uid == 0).map(|(unit, _)| *unit).collect();
        for (_, agent) in &mut agents {
            units.count(agent, None, None, MonoNs(5000));
        }
        for (unit, mut agent) in fill(&mut units, of_many("again", 1000, 400)) {
            units.count(&mut agent, unit, None, MonoNs(6000));
        }
        assert!(host.iter().all(|unit| units.own.contains_key(unit)));
        assert_eq!([0, 1000, 1001].map(|uid| places(&units, uid)), [UNITS_MAX - 2 * SHARE, SHARE, SHARE]);
        assert_eq!(units.sums(), [400 + 100 + UNITS_MAX as u64, 0, 0, 0]);
    }

    #[test]
    fn users_together_leave_a_share_to_the_host() {
        let mut units = Units::default();
        for uid in 1000..1008 {
            fill(&mut units, of_many(&format!("of-{uid}"), uid, 100));
        }
        assert_eq!((units.own.len(), places(&units, 0)), (UNITS_MAX, 0));
        fill(&mut units, of_many("host", 0, 300));
        assert_eq!((units.own.len(), places(&units, 0)), (UNITS_MAX, SHARE));
        assert_eq!(units.sums()[0], 800 + 300);
    }

    /// A unit whose agents are gone for a moment, as between two starts, keeps its place as long as others give way.
    #[test]
    fn of_units_without_agents_those_of_the_user_with_too_many_go_first() {
        let mut units = Units::default();
        let mut host = fill(&mut units, of_many("host", 0, 10));
        let mut agents = fill(&mut units, of_many("one", 1000, 300));
        for (_, agent) in host.iter_mut().chain(&mut agents) {
            units.count(agent, None, None, MonoNs(2000));
        }
        fill(&mut units, of_many("two", 1001, SHARE));
        assert_eq!((places(&units, 0), places(&units, 1001)), (10, SHARE));
    }
}
