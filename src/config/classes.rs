//! Classes of agents: the rule of each class, and its threshold.
//!
//! Class 0 is for agents that no rule matches, class i + 1 for agents of rule i. If there are rules, a last
//! class is for agents that have not been looked up yet. Its threshold is the largest, so that no rule that
//! may match gives such an agent more time than it gets.
//!
//! A rule may allow a longer silence in phases: while its agents start, or while their payload says what they do.

use super::bounds::RULES_MAX;

/// Thresholds by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    default_ns: u64,
    /// Including that of class 0.
    thresholds_ns: Box<[u64]>,
    /// Phases by rule; empty if no rule has any.
    phases: Box<[Phases]>,
}

/// The phases in which agents of a rule may be silent for longer than its threshold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phases {
    /// The start.
    pub start: Option<Start>,
    /// Phases that the payload shows, in no order; at most [`PHASES_MAX`](super::bounds::PHASES_MAX), none within
    /// another.
    pub payload: Vec<PayloadPhase>,
}

/// The start of an agent: from its first beat until it says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// Silence that is a stall meanwhile, ns; at least the threshold of the rule.
    pub threshold_ns: u64,
    /// It ends with so many beats; `None`: with the first status `ok`.
    pub beats: Option<u32>,
}

/// A phase that the payload shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayloadPhase {
    /// The least payload in it.
    pub from: u64,
    /// The largest.
    pub to: u64,
    /// Silence that is a stall in it, ns; at least the threshold of the rule.
    pub threshold_ns: u64,
}

impl Phases {
    const fn is_none(&self) -> bool {
        self.start.is_none() && self.payload.is_empty()
    }

    fn longest_ns(&self) -> u64 {
        let of_start = self.start.map(|start| start.threshold_ns);
        self.payload.iter().map(|phase| phase.threshold_ns).chain(of_start).max().unwrap_or(0)
    }
}

/// The class of an agent with a threshold of its own, which its slot's extra words are kept for. No rule has it.
pub const OWN_THRESHOLD: u8 = u8::MAX;

// A slot holds the class of its agent in one byte.
const _: () = assert!(RULES_MAX + 2 <= OWN_THRESHOLD as usize);

impl Classes {
    /// The classes of a fleet whose rules have these thresholds, ns, in the order of the rules; at most
    /// [`RULES_MAX`].
    pub fn new(default_ns: u64, of_rules_ns: impl IntoIterator<Item = u64>) -> Self {
        let mut thresholds_ns = vec![default_ns];
        thresholds_ns.extend(of_rules_ns);
        if thresholds_ns.len() > 1 {
            thresholds_ns.extend(thresholds_ns.iter().copied().max());
        }
        Self { default_ns, thresholds_ns: thresholds_ns.into(), phases: Box::default() }
    }

    /// The same classes, whose rules have these phases, in the order of the rules.
    #[must_use]
    pub fn with_phases(self, phases: impl IntoIterator<Item = Phases>) -> Self {
        let phases: Box<[Phases]> = phases.into_iter().collect();
        let phases = if phases.iter().all(Phases::is_none) { Box::default() } else { phases };
        Self { phases, ..self }
    }

    /// One class, of all agents.
    pub fn single(threshold_ns: u64) -> Self {
        Self::new(threshold_ns, [])
    }

    /// The class of the agents that a rule matches.
    pub fn of_rule(rule: usize) -> u8 {
        u8::try_from(rule + 1).unwrap_or(0)
    }

    /// Whether some rule has phases.
    #[inline]
    pub fn have_phases(&self) -> bool {
        !self.phases.is_empty()
    }

    /// The phases that may hold for agents of a class: those of its rule; of all rules, for an agent that has not been
    /// looked up yet.
    pub fn phases_of(&self, class: u8) -> &[Phases] {
        if self.phases.is_empty() || class == 0 {
            return &[];
        }
        if class == self.unknown() {
            return &self.phases;
        }
        let rule = usize::from(class) - 1;
        self.phases.get(rule..=rule).filter(|phases| !phases[0].is_none()).unwrap_or_default()
    }

    /// The longest threshold that an agent of a class may have, in any phase, ns.
    pub fn longest_ns(&self, class: u8) -> u64 {
        let of_phases = self.phases_of(class).iter().map(Phases::longest_ns).max();
        self.threshold_ns(class).max(of_phases.unwrap_or(0))
    }

    /// The rule of a class. `None`: no rule matches, the agent has not been looked up yet, or the class does
    /// not exist.
    pub fn rule_of(&self, class: u8) -> Option<usize> {
        usize::from(class).checked_sub(1).filter(|_| self.has(class) && class != self.unknown())
    }

    /// The class of an agent that has not been looked up yet.
    pub fn unknown(&self) -> u8 {
        u8::try_from(self.thresholds_ns.len() - 1).unwrap_or(0)
    }

    /// Whether the class exists.
    pub fn has(&self, class: u8) -> bool {
        usize::from(class) < self.thresholds_ns.len()
    }

    /// The threshold of a class, ns. For a class that does not exist, the default, as for class 0.
    pub fn threshold_ns(&self, class: u8) -> u64 {
        self.thresholds_ns.get(usize::from(class)).copied().unwrap_or(self.default_ns)
    }

    /// The smallest threshold of all, ns.
    pub fn smallest_ns(&self) -> u64 {
        self.thresholds_ns.iter().copied().fold(self.default_ns, u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_rules_and_the_last_is_of_agents_that_are_not_known() {
        let classes = Classes::new(20, [50, 10]);
        let thresholds: Vec<_> = (0..4).map(|class| classes.threshold_ns(class)).collect();
        assert_eq!((thresholds, classes.smallest_ns()), (vec![20, 50, 10, 50], 10));
        let rules: Vec<_> = (0..=4).map(|class| classes.rule_of(class)).collect();
        assert_eq!(rules, [None, Some(0), Some(1), None, None]);
        assert_eq!((Classes::of_rule(0), Classes::of_rule(1), classes.unknown()), (1, 2, 3));
        assert_eq!((classes.has(3), classes.has(4), classes.threshold_ns(4)), (true, false, 20));
    }

    #[test]
    fn who_is_not_known_may_be_in_any_phase() {
        let start = Start { threshold_ns: 100, beats: None };
        let phase = PayloadPhase { from: 1, to: 2, threshold_ns: 70 };
        let of_rules = [
            Phases { start: Some(start), payload: Vec::new() },
            Phases::default(),
            Phases { start: None, payload: vec![phase] },
        ];
        let classes = Classes::new(20, [50, 10, 60]).with_phases(of_rules);
        let longest: Vec<_> = (0..=4).map(|class| classes.longest_ns(class)).collect();
        assert_eq!(longest, [20, 100, 10, 70, 100]);
        let phases: Vec<_> = (0..=4).map(|class| classes.phases_of(class).len()).collect();
        assert_eq!(phases, [0, 1, 0, 1, 3]);
        let plain = Classes::new(20, [50]).with_phases([Phases::default()]);
        assert_eq!((plain.phases_of(1), plain.phases_of(2)), (&[][..], &[][..]));
    }

    #[test]
    fn without_rules_there_is_one_class() {
        let classes = Classes::single(7);
        assert_eq!((classes.unknown(), classes.rule_of(0), classes.has(1)), (0, None, false));
        assert_eq!((classes.threshold_ns(0), classes.smallest_ns()), (7, 7));
    }

    #[test]
    fn as_many_rules_as_there_may_be_have_classes() {
        let classes = Classes::new(1, (0..RULES_MAX as u64).map(|rule| rule + 2));
        let last = Classes::of_rule(RULES_MAX - 1);
        assert_eq!(classes.rule_of(last), Some(RULES_MAX - 1));
        assert_eq!((classes.threshold_ns(last), classes.unknown()), (RULES_MAX as u64 + 1, last + 1));
    }
}
