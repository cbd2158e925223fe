//! The problems of a configuration, as messages for the operator.

use std::fmt;
use std::path::PathBuf;

use super::keys::Key;
use crate::message::Shown;

/// All problems of a configuration, not only the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<ConfigProblem>,
}

impl ConfigError {
    /// The problems; at least one.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }

    /// `Err` with the problems, if there are any.
    pub(crate) fn check(problems: Vec<ConfigProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    /// One problem alone; several as a list, one on each line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = &self.problems[..] {
            return problem.fmt(f);
        }
        write!(f, "{} problems with the configuration", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// One problem: what, where, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// Full name of the key, such as `threshold` or `rule[0].match.comm`; empty: the file as a whole.
    pub key: String,
    /// The value, as written where that is known.
    pub value: Option<String>,
    /// Who wrote it. `None`: the program that built the [`Config`](super::Config).
    pub origin: Option<Origin>,
    /// The kind of problem.
    pub kind: ProblemKind,
    /// Why it cannot be used.
    pub why: String,
    /// What to do about it.
    pub fix: String,
    /// The other key that it does not agree with; blamed instead if only that one was written.
    pub(crate) against: Option<String>,
}

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The file cannot be read, or is not TOML.
    File,
    /// This user may not read the file.
    Denied,
    /// The key does not exist.
    Unknown,
    /// The value does not have the form that the key takes.
    Unreadable,
    /// The value can be read but not used: it is out of range, or does not agree with another.
    Refused,
}

/// Who wrote a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The default.
    Default,
    /// A file.
    File {
        /// Its path, as given.
        path: PathBuf,
        /// The line, from 1; 0: the file as a whole.
        line: usize,
    },
    /// The environment variable of the key.
    Environment,
    /// The flag of the key.
    Flag,
}

impl ConfigProblem {
    /// A problem with a value whose origin is not known yet.
    pub(crate) fn refused(
        key: &str,
        value: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(value.into()),
            origin: None,
            kind: ProblemKind::Refused,
            why: why.into(),
            fix: fix.into(),
            against: None,
        }
    }

    pub(crate) fn against(mut self, key: &str) -> Self {
        self.against = Some(key.to_owned());
        self
    }

    /// The last part of the key, as it stands in the file.
    fn leaf(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or(&self.key)
    }

    /// What and where: `threshold = "5" (in [[rule]], varta.toml line 3)`.
    fn subject(&self) -> String {
        let assigned = |key: &str| match &self.value {
            Some(value) => format!("{key} = {value}"),
            None => key.to_owned(),
        };
        // A table's key may have the table's name as its flag.
        let flag = self.key.split('.').next().unwrap_or_default();
        match &self.origin {
            _ if self.key.is_empty() => String::new(),
            Some(Origin::Flag) => format!("--{flag} {}", self.value.as_deref().unwrap_or_default()),
            Some(Origin::Environment) => {
                let variable = Key::named(flag).map_or(flag, |key| key.variable);
                format!("{variable}={}", self.value.as_deref().unwrap_or_default())
            }
            Some(origin @ Origin::File { .. }) => {
                // The line of a block says more than its index.
                let block = self.key.split_once('[').filter(|(_, rest)| rest.contains("]."));
                let within = match (block, self.key.split_once('.')) {
                    (Some((block, _)), _) => format!("in [[{block}]], "),
                    (None, Some((table, _))) => format!("in [{table}], "),
                    (None, None) => String::new(),
                };
                let leaf = match self.key.split_once('[') {
                    Some((block, index)) if index.ends_with(']') => format!("[[{block}]]"),
                    _ => assigned(self.leaf()),
                };
                format!("{leaf} ({within}{origin})")
            }
            Some(Origin::Default) => format!("{} (the default)", assigned(&self.key)),
            None => assigned(&self.key),
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values may contain any characters.
        let (why, fix) = (Shown(&self.why), Shown(&self.fix));
        match (&self.origin, self.key.is_empty()) {
            (Some(origin), true) => write!(f, "cannot read {origin}: {why}; {fix}"),
            _ => write!(f, "cannot use {}: {why}; {fix}", Shown(self.subject())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", Shown(path.display())),
            Self::File { path, line } => write!(f, "{} line {line}", Shown(path.display())),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}
