//! Counts by unit of the service manager, of a bounded number of units. Time is an argument.

use std::collections::HashMap;

use crate::label::{Label, Text};
use crate::time::MonoNs;

/// Units with counts of their own.
pub const UNITS_MAX: usize = 256;
/// How long no room is looked for after none was found.
const FULL_NS: u64 = 1_000_000_000;

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
    /// When something was counted last.
    at: MonoNs,
}

impl UnitCounts {
    const fn agents(&mut self, is_stalled: bool) -> &mut u64 {
        if is_stalled { &mut self.stalled } else { &mut self.up }
    }
}

/// A unit with counts of its own.
#[derive(Clone, Debug)]
struct Own {
    /// Held, so that the unit has the same label as long as its counts are kept.
    name: Text,
    counts: UnitCounts,
}

/// Where an agent is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its unit, if that has counts of its own.
    unit: Option<Label>,
    state: CountedAs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CountedAs {
    #[default]
    Nothing,
    Up,
    Stalled,
}

/// The counts of all units.
#[derive(Clone, Debug, Default)]
pub struct Units {
    own: HashMap<Label, Own>,
    /// Agents of no unit, and of units without counts of their own.
    pub other: UnitCounts,
    /// Units whose counts were added to those of the others to make room for another one.
    pub folded: u64,
    /// No unit makes room before this instant: all have agents.
    full_until: MonoNs,
}

impl Units {
    /// The units with counts of their own, by name.
    #[cfg(feature = "http")]
    pub fn by_name(&self) -> Vec<(&str, UnitCounts)> {
        let mut units: Vec<_> = self.own.values().map(|own| (&*own.name, own.counts)).collect();
        units.sort_by_key(|(name, _)| *name);
        units
    }

    /// The sums over all units: up, stalled, stalls, deaths.
    #[cfg(test)]
    pub fn sums(&self) -> [u64; 4] {
        let own = self.own.values().map(|own| &own.counts);
        own.chain([&self.other]).fold([0; 4], |[up, stalled, stalls, deaths], unit| {
            [up + unit.up, stalled + unit.stalled, stalls + unit.stalls, deaths + unit.deaths]
        })
    }

    /// Counts an agent that was `counted`: now as one of this unit that is stalled or up, or no more. The same twice
    /// changes nothing.
    pub fn count(
        &mut self,
        counted: &mut Counted,
        unit: Option<Label>,
        is_stalled: Option<bool>,
        now: MonoNs,
    ) {
        let state = match is_stalled {
            None => CountedAs::Nothing,
            Some(false) => CountedAs::Up,
            Some(true) => CountedAs::Stalled,
        };
        if (counted.unit, counted.state) == (unit, state) {
            return;
        }
        if counted.state != CountedAs::Nothing {
            let is_stalled = counted.state == CountedAs::Stalled;
            let own = counted.unit.and_then(|unit| self.own.get_mut(&unit));
            let before = own.map_or(&mut self.other, |own| &mut own.counts);
            let agents = before.agents(is_stalled);
            *agents = agents.saturating_sub(1);
            before.at = now;
        }
        *counted = Counted::default();
        if let Some(is_stalled) = is_stalled {
            let (unit, counts) = self.of(unit, now);
            *counts.agents(is_stalled) += 1;
            *counted = Counted { unit, state };
        }
    }

    /// Counts reported stalls.
    pub fn add_stalls(&mut self, unit: Option<Label>, stalls: u64, now: MonoNs) {
        self.of(unit, now).1.stalls += stalls;
    }

    /// Counts an agent that died.
    pub fn add_death(&mut self, unit: Option<Label>, now: MonoNs) {
        self.of(unit, now).1.deaths += 1;
    }

    /// The counts of a unit, and the unit if they are its own. A unit without agents makes room for a new one.
    fn of(&mut self, unit: Option<Label>, now: MonoNs) -> (Option<Label>, &mut UnitCounts) {
        let name =
            |unit: Label| self.own.get(&unit).map_or_else(|| unit.text(), |own| Some(own.name.clone()));
        let Some((unit, name)) = unit.and_then(|unit| Some((unit, name(unit)?))) else {
            return (None, &mut self.other);
        };
        if self.own.len() >= UNITS_MAX && !self.own.contains_key(&unit) {
            if now < self.full_until {
                return (None, &mut self.other);
            }
            let idle = self.own.iter().filter(|(_, own)| own.counts.up == 0 && own.counts.stalled == 0);
            let Some(oldest) = idle.min_by_key(|(_, own)| own.counts.at).map(|(unit, _)| *unit) else {
                self.full_until = now + FULL_NS;
                return (None, &mut self.other);
            };
            if let Some(Own { counts, .. }) = self.own.remove(&oldest) {
                self.other.stalls += counts.stalls;
                self.other.deaths += counts.deaths;
                self.folded += 1;
            }
        }
        let own = self.own.entry(unit).or_insert_with(|| Own { name, counts: UnitCounts::default() });
        own.counts.at = now;
        (Some(unit), &mut own.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str) -> Option<Label> {
        Label::of(name, 0)
    }

    fn own(units: &Units, name: &str) -> UnitCounts {
        let own = units.own.get(&label(name).unwrap());
        let counts = own.map_or_else(UnitCounts::default, |own| own.counts);
        UnitCounts { at: MonoNs(0), ..counts }
    }

    #[test]
    fn an_agent_is_counted_once_wherever_it_goes() {
        let mut units = Units::default();
        let mut agent = Counted::default();
        let (a, b) = (label("units-a.service"), label("units-b.service"));
        for _ in 0..2 {
            units.count(&mut agent, None, Some(false), MonoNs(1));
        }
        assert_eq!((units.other.up, units.own.len()), (1, 0));
        units.count(&mut agent, a, Some(false), MonoNs(2));
        units.count(&mut agent, a, Some(true), MonoNs(3));
        units.add_stalls(a, 2, MonoNs(3));
        assert_eq!(units.other.up, 0);
        assert_eq!(
            own(&units, "units-a.service"),
            UnitCounts { stalled: 1, stalls: 2, ..Default::default() }
        );
        units.count(&mut agent, b, Some(true), MonoNs(4));
        units.count(&mut agent, b, None, MonoNs(5));
        units.add_death(b, MonoNs(5));
        units.count(&mut agent, None, None, MonoNs(6));
        assert_eq!(own(&units, "units-a.service"), UnitCounts { stalls: 2, ..Default::default() });
        assert_eq!(own(&units, "units-b.service"), UnitCounts { deaths: 1, ..Default::default() });
    }

    #[test]
    fn a_unit_with_counts_keeps_its_name_and_one_whose_name_was_freed_is_counted_with_the_others() {
        let mut units = Units::default();
        let mut agent = Counted::default();
        let freed = Some(Label::freed());
        units.count(&mut agent, freed, Some(false), MonoNs(1));
        units.add_death(freed, MonoNs(2));
        assert_eq!((units.other.up, units.other.deaths, units.own.len()), (1, 1, 0));
        units.count(&mut agent, label("units-held.service"), Some(false), MonoNs(3));
        units.count(&mut agent, None, None, MonoNs(4));
        let held = label("units-held.service").unwrap();
        held.free();
        units.add_stalls(Some(held), 1, MonoNs(5));
        assert_eq!((units.other.up, own(&units, "units-held.service").stalls), (0, 1));
    }

    #[test]
    fn units_are_bounded_and_no_count_is_lost() {
        let mut units = Units::default();
        let second = |seconds: u64| MonoNs(seconds * FULL_NS);
        let mut agents = vec![Counted::default(); UNITS_MAX + 10];
        for (number, agent) in agents.iter_mut().enumerate() {
            units.count(agent, label(&format!("units-{number}.service")), Some(false), MonoNs(number as u64));
        }
        assert_eq!((units.own.len(), units.other.up, units.folded), (UNITS_MAX, 10, 0));
        // The agents of two units leave, and a new unit takes the place of the first of them.
        units.add_death(label("units-7.service"), MonoNs(1000));
        units.count(&mut agents[7], None, None, MonoNs(1000));
        units.count(&mut agents[9], None, None, MonoNs(1001));
        let mut newcomer = Counted::default();
        units.count(&mut newcomer, label("units-new.service"), Some(false), second(2));
        assert_eq!((units.own.len(), units.other.deaths, units.folded), (UNITS_MAX, 1, 1));
        // What was counted with the others is still counted there.
        units.count(&mut agents[UNITS_MAX], label("units-256.service"), None, second(3));
        assert_eq!(units.other.up, 9);
    }
}
