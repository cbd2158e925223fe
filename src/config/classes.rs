//! Classes of agents: the rule of each class, and its threshold.
//!
//! Class 0 is for agents that no rule matches, class i + 1 for agents of rule i. If there are rules, a last
//! class is for agents that have not been looked up yet. Its threshold is the largest, so that no rule that
//! may match gives such an agent more time than it gets.

use super::bounds::RULES_MAX;

/// Thresholds by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    default_ns: u64,
    /// Including that of class 0.
    thresholds_ns: Box<[u64]>,
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
        Self { default_ns, thresholds_ns: thresholds_ns.into() }
    }

    /// One class, of all agents.
    pub fn single(threshold_ns: u64) -> Self {
        Self::new(threshold_ns, [])
    }

    /// The class of the agents that a rule matches.
    pub fn of_rule(rule: usize) -> u8 {
        u8::try_from(rule + 1).unwrap_or(0)
    }

    /// The rule of a class. `None`: no rule matches, the agent has not been looked up yet, or the class does
    /// not exist.
    #[cfg(any(test, feature = "http"))]
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
