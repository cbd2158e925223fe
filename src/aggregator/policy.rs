//! Which threshold holds for a process: that of the first rule that matches. While something is unknown of
//! the process, no rule that might match makes the threshold shorter: the largest of those that may hold
//! does.

use crate::config::RuleMatch;
use crate::config::classes::Classes;
use crate::config::plan::{Progress, Rule};
use crate::pattern::Pattern;
use crate::process::procfs::Program;

/// The part of the plan that the aggregator needs.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The threshold of each class.
    pub classes: Classes,
    /// Which agents belong to which class.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// The class of a process of user `uid`.
    pub fn class_of(&self, uid: u32, program: &Program) -> u8 {
        let mut largest: Option<u8> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let class = Classes::of_rule(index);
            let matches = judge(rule, uid, program);
            if matches == Some(false) {
                continue;
            }
            largest = Some(largest.map_or(class, |other| self.larger(other, class)));
            if matches == Some(true) {
                return largest.unwrap_or(0);
            }
        }
        largest.map_or(0, |class| self.larger(class, 0))
    }

    /// The class of the first rule that matches, if it is known that none before it does.
    pub fn rule_of(&self, uid: u32, program: &Program) -> Option<u8> {
        let mut judged = self.rules.iter().map(|rule| judge(rule, uid, program));
        let first = judged.position(|matches| matches != Some(false))?;
        (judge(&self.rules[first], uid, program) == Some(true)).then(|| Classes::of_rule(first))
    }

    /// What the rule of a class asks of its agents.
    pub fn progress_of(&self, class: u8) -> Option<Progress> {
        self.rules.get(usize::from(class).checked_sub(1)?)?.progress
    }

    /// The shortest progress threshold, ns; `None`: no rule asks for progress.
    pub fn shortest_progress_ns(&self) -> Option<u64> {
        self.rules.iter().filter_map(|rule| rule.progress).map(|progress| progress.threshold_ns).min()
    }

    /// The class that allows more silence; the first if they allow the same. Which one does may depend on the phase that
    /// an agent is in: then the class of agents that are not known, which allows as much as any other.
    fn larger(&self, one: u8, other: u8) -> u8 {
        let allows_as_much =
            |class: u8, other: u8| self.classes.threshold_ns(class) >= self.classes.longest_ns(other);
        match () {
            () if allows_as_much(one, other) => one,
            () if allows_as_much(other, one) => other,
            () => self.classes.unknown(),
        }
    }
}

/// Whether the rule matches; `None` if that depends on something that could not be read.
fn judge(rule: &Rule, uid: u32, program: &Program) -> Option<bool> {
    let RuleMatch { comm, uid: wanted, exe, unit } = &rule.matcher;
    let known = |pattern: &Option<String>, text: &Option<String>| pattern.is_none() || text.is_some();
    // Who can be read and is in no unit is known to be in none.
    let is_unit_known = unit.is_none() || program.unit.is_some() || !program.groups.is_empty();
    let is_known = known(comm, &program.comm) && known(exe, &program.exe) && is_unit_known;
    let is_in_unit = |pattern: &String| match &program.unit {
        Some(unit) => Pattern::new(pattern).matches(unit),
        None => program.groups.is_empty(),
    };
    let holds = |pattern: &Option<String>, text: &Option<String>| match (pattern, text) {
        (Some(pattern), Some(text)) => Pattern::new(pattern).matches(text),
        _ => true,
    };
    let may_match = wanted.is_none_or(|wanted| wanted == uid)
        && holds(comm, &program.comm)
        && holds(exe, &program.exe)
        && unit.as_ref().is_none_or(is_in_unit);
    if may_match && !is_known { None } else { Some(may_match) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Phases, Start};

    fn rule(matcher: RuleMatch, threshold_ns: u64) -> Rule {
        Rule::new(matcher, threshold_ns)
    }

    fn exe(pattern: &str) -> RuleMatch {
        RuleMatch::exe(pattern)
    }

    fn policy(rules: Vec<Rule>) -> Policy {
        Policy { classes: Classes::new(10, rules.iter().map(|rule| rule.threshold_ns)), rules }
    }

    fn program(comm: &str, exe: &str) -> Program {
        Program { comm: Some(comm.to_owned()), exe: Some(exe.to_owned()), ..Program::default() }
    }

    #[test]
    fn the_first_rule_that_matches_holds() {
        let policy = policy(vec![
            rule(RuleMatch::comm("batch-*"), 30),
            rule(RuleMatch::uid(5), 5),
            rule(exe("/opt/*"), 50),
        ]);
        assert_eq!(policy.class_of(1, &program("batch-1", "/bin/x")), 1);
        assert_eq!(policy.class_of(5, &program("batch-1", "/bin/x")), 1);
        assert_eq!(policy.class_of(5, &program("x", "/opt/x")), 2);
        assert_eq!(policy.class_of(1, &program("x", "/opt/x")), 3);
        assert_eq!(policy.class_of(1, &program("x", "/bin/x")), 0);
        assert_eq!(policy.classes.unknown(), 4);
    }

    #[test]
    fn what_cannot_be_read_never_makes_the_threshold_shorter() {
        let unreadable = Program { comm: Some("x".to_owned()), ..Program::default() };
        let short_and_long = policy(vec![rule(exe("/a"), 5), rule(exe("/b"), 50), rule(exe("/c"), 20)]);
        assert_eq!(short_and_long.class_of(1, &unreadable), 2, "the largest that may hold");
        let only_shorter = policy(vec![rule(exe("/a"), 5)]);
        assert_eq!(only_shorter.class_of(1, &unreadable), 0, "the default may hold, and is larger");
        let after_a_match = policy(vec![rule(RuleMatch::comm("x"), 7), rule(exe("/b"), 50)]);
        assert_eq!(after_a_match.class_of(1, &unreadable), 1, "the first match is known");
        let before_a_match = policy(vec![rule(exe("/b"), 50), rule(RuleMatch::comm("x"), 7)]);
        assert_eq!(before_a_match.class_of(1, &unreadable), 1, "what comes before it may match");
    }

    #[test]
    fn what_cannot_be_read_makes_no_start_shorter() {
        let slow = |threshold_ns, start_ns| {
            let start = Some(Start { threshold_ns: start_ns, beats: None });
            Rule { phases: Phases { start, payload: Vec::new() }, ..rule(exe("/slow"), threshold_ns) }
        };
        let unreadable = Program { comm: Some("x".to_owned()), ..Program::default() };
        let class = |rules: Vec<Rule>| {
            let policy = Policy { classes: Classes::of_rules(10, &rules), rules };
            (policy.class_of(1, &unreadable), policy.classes.unknown())
        };
        let after = |rules: Vec<Rule>| [rules, vec![rule(RuleMatch::comm("x"), 30)]].concat();
        assert_eq!(class(after(vec![slow(40, 50)])).0, 1, "it allows more in any phase");
        assert_eq!(class(after(vec![slow(20, 25)])).0, 2, "it never does");
        let (class, unknown) = class(after(vec![slow(20, 50)]));
        assert_eq!(class, unknown, "it does while it starts");
    }

    #[test]
    fn a_unit_is_known_once_the_group_can_be_read() {
        let of_unit = |pattern: &str| RuleMatch { unit: Some(pattern.to_owned()), ..RuleMatch::default() };
        let policy = policy(vec![rule(of_unit("web-*.service"), 50), rule(of_unit("db.service"), 5)]);
        let within = |unit: Option<&str>| Program {
            unit: unit.map(str::to_owned),
            groups: "0::/somewhere\n".to_owned(),
            ..program("x", "/bin/x")
        };
        assert_eq!(policy.class_of(1, &within(Some("web-1.service"))), 1);
        assert_eq!(policy.class_of(1, &within(Some("db.service"))), 2);
        for other in [None, Some("web.service"), Some("user@1000.service/web-1.service")] {
            assert_eq!(policy.class_of(1, &within(other)), 0, "{other:?}");
        }
        assert_eq!(policy.class_of(1, &program("x", "/bin/x")), 1, "the largest that may hold");
    }

    #[test]
    fn a_rule_that_something_known_speaks_against_does_not_match() {
        let of_other_user = RuleMatch { uid: Some(9), ..exe("/b") };
        let policy = policy(vec![rule(of_other_user, 50)]);
        assert_eq!(policy.class_of(1, &Program::default()), 0);
        assert_eq!(policy.class_of(9, &Program::default()), 1);
    }
}
