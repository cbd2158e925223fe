//! Thresholds that cannot work, as far as that was found: see [`rules::usual`](crate::rules::usual).

use std::fmt;
use std::time::Duration;

use crate::config::written;
use crate::message::Shown;

/// Most of them that are kept.
const KEPT_MAX: usize = 32;

/// A threshold that is not above the usual period of an agent that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooShort {
    /// Index of the rule that gives it; `None`: no rule matches the agent.
    pub rule: Option<usize>,
    /// The threshold, ns.
    pub threshold_ns: u64,
    /// The usual time between two beats of the agent, ns.
    pub period_ns: u64,
    /// Its unit, or else its program, or else its name: there may be more like it.
    pub name: String,
}

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| written(Duration::from_millis(ns / 1_000_000));
        match self.rule {
            Some(rule) => write!(f, "the threshold of rule {rule}")?,
            None => f.write_str("the threshold of agents that no rule matches")?,
        }
        write!(
            f,
            ", {}, cannot work for {}: an agent of it usually beats once in {} and so stalls again and again; write a longer \
             threshold for them, or let them beat more often",
            ms(self.threshold_ns),
            Shown(&self.name),
            ms(self.period_ns)
        )
    }
}

/// Those that were found, each once for a rule and a name.
#[derive(Clone, Debug, Default)]
pub struct FoundTooShort(Vec<TooShort>);

impl FoundTooShort {
    /// Keeps one, unless one like it was found, or there are many already.
    pub fn add(&mut self, found: TooShort) {
        let is_known = self.0.iter().any(|known| (known.rule, &known.name) == (found.rule, &found.name));
        if !is_known && self.0.len() < KEPT_MAX {
            self.0.push(found);
        }
    }

    /// All of them.
    pub fn all(&self) -> &[TooShort] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_not_too_many() {
        let mut found = FoundTooShort::default();
        let of = |rule, name: &str| TooShort {
            rule,
            threshold_ns: 600_000_000,
            period_ns: 1_500_900_000,
            name: name.to_owned(),
        };
        for _ in 0..3 {
            found.add(of(Some(2), "web.service"));
            found.add(of(None, "web.service\u{1b}[31m"));
        }
        let said: Vec<String> = found.all().iter().map(ToString::to_string).collect();
        assert_eq!(
            said[0],
            "the threshold of rule 2, 600ms, cannot work for web.service: an agent of it usually beats once in 1s500ms and so \
             stalls again and again; write a longer threshold for them, or let them beat more often"
        );
        assert!(
            said[1].starts_with("the threshold of agents that no rule matches, 600ms, cannot")
                && !said[1].contains('\u{1b}'),
            "{}",
            said[1]
        );
        for number in 0..100 {
            found.add(of(None, &number.to_string()));
        }
        assert_eq!(found.all().len(), KEPT_MAX);
    }
}
