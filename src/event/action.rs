//! What events say of actions: which one, how far it is, and why it is held.

use serde::{Deserialize, Deserializer};

/// Longest name of an action.
pub const NAME_BYTES: usize = 19;

/// The name of an action, from the configuration: 1 to 19 letters, digits, `-` and `_`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionName {
    len: u8,
    bytes: [u8; NAME_BYTES],
}

impl ActionName {
    /// The name, if it is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > NAME_BYTES || !text.bytes().all(is_usable) {
            return None;
        }
        let mut bytes = [0; NAME_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { len: u8::try_from(text.len()).ok()?, bytes })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// Its length and bytes in three words, for the journal.
    pub(crate) fn to_words(self) -> [u64; 3] {
        let mut bytes = [0; 24];
        bytes[0] = self.len;
        bytes[1..=NAME_BYTES].copy_from_slice(&self.bytes);
        std::array::from_fn(|word| {
            let mut of_word = [0; 8];
            of_word.copy_from_slice(&bytes[word * 8..word * 8 + 8]);
            u64::from_le_bytes(of_word)
        })
    }

    /// The name in these words; `None` if there is none.
    pub(crate) fn from_words(words: [u64; 3]) -> Option<Self> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let text = bytes.get(1..1 + usize::from(bytes[0]))?;
        Self::new(std::str::from_utf8(text).ok()?)
    }
}

impl<'de> Deserialize<'de> for ActionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| serde::de::Error::custom("it is not the name of an action"))
    }
}

/// How far an action is for one agent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum ActionPhase {
    /// Its time has come.
    Due,
    /// It waits: `why` says for what. It starts once that is over, if it is still due.
    Held,
    /// It was started.
    Started,
    /// It ended, with success.
    Ended,
    /// It could not be started, ended with a failure, or took too long.
    Failed,
    /// It is not needed any more.
    Cancelled,
    /// It will not be started for this agent.
    Refused,
}

impl ActionPhase {
    /// Every phase, in the order of its codes in the journal.
    pub const ALL: [Self; 7] =
        [Self::Due, Self::Held, Self::Started, Self::Ended, Self::Failed, Self::Cancelled, Self::Refused];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Held => "held",
            Self::Started => "started",
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }
}

/// Why an action is held, failed, cancelled or refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum ActionWhy {
    /// Held: a brake is engaged.
    Brake,
    /// Held: an operator holds it.
    Hand,
    /// Held: the configuration has `dry-run`.
    DryRun,
    /// Held: a shard is blind.
    Blind,
    /// Held: as many children run as may, or one for the same agent.
    Running,
    /// Held: as many were started lately as may be.
    Starts,
    /// Held: it was tried lately for the same agent, unit or name.
    Backoff,
    /// Held: there is no spawner at the moment.
    Spawner,
    /// Refused: it was tried as often as it may be.
    Tries,
    /// Refused: too many actions wait.
    Queue,
    /// Refused: a text that it needs is not known, or could be taken for something else.
    Text,
    /// Refused: the process is the observer, its parent, the first of the system, or one that runs the observer.
    Protected,
    /// Refused: the unit is not one that may be acted upon, or is not that of the process.
    Unit,
    /// Cancelled: the agent beats again.
    Resumed,
    /// Cancelled: the process is gone, or is another.
    Gone,
    /// Cancelled: the configuration has no such action any more.
    Removed,
    /// Cancelled: the observer stops, or another goes on for it.
    Stopped,
    /// Failed: it could not be started; `errno` says why.
    Start,
    /// Failed: it ended with another exit status than 0, or by a signal.
    Status,
    /// Failed: it took longer than its `timeout` and was killed.
    Timeout,
    /// Failed: the spawner ended before it did.
    Lost,
}

impl ActionWhy {
    /// Every reason, in the order of its codes in the journal: new ones are appended.
    pub const ALL: [Self; 21] = [
        Self::Brake,
        Self::Hand,
        Self::DryRun,
        Self::Blind,
        Self::Running,
        Self::Starts,
        Self::Backoff,
        Self::Spawner,
        Self::Tries,
        Self::Queue,
        Self::Text,
        Self::Protected,
        Self::Unit,
        Self::Resumed,
        Self::Gone,
        Self::Removed,
        Self::Stopped,
        Self::Start,
        Self::Status,
        Self::Timeout,
        Self::Lost,
    ];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brake => "brake",
            Self::Hand => "hand",
            Self::DryRun => "dry-run",
            Self::Blind => "blind",
            Self::Running => "running",
            Self::Starts => "starts",
            Self::Backoff => "backoff",
            Self::Spawner => "spawner",
            Self::Tries => "tries",
            Self::Queue => "queue",
            Self::Text => "text",
            Self::Protected => "protected",
            Self::Unit => "unit",
            Self::Resumed => "resumed",
            Self::Gone => "gone",
            Self::Removed => "removed",
            Self::Stopped => "stopped",
            Self::Start => "start",
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
        }
    }
}

/// What a brake holds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum BrakeScope {
    /// All actions.
    Fleet,
    /// Those for the agents of one user.
    Uid,
    /// Those for the agents of one unit.
    Unit,
}

impl BrakeScope {
    /// Every scope, in the order of its codes in the journal.
    pub const ALL: [Self; 3] = [Self::Fleet, Self::Uid, Self::Unit];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Uid => "uid",
            Self::Unit => "unit",
        }
    }
}

/// Begin or end of a brake.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BrakePhase {
    /// It holds actions as of the event's `mono`.
    Engaged,
    /// It does not any more.
    Released,
}

impl BrakePhase {
    /// Both, in the order of their codes in the journal.
    pub const ALL: [Self; 2] = [Self::Engaged, Self::Released];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Engaged => "engaged",
            Self::Released => "released",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_and_short() {
        for text in ["a", "restart-worker_2", &"x".repeat(NAME_BYTES)] {
            let name = ActionName::new(text).unwrap();
            assert_eq!(name.as_str(), text);
            assert_eq!(ActionName::from_words(name.to_words()), Some(name));
        }
        for text in ["", "a b", "a\n", "\u{e4}", "{pid}", &"x".repeat(NAME_BYTES + 1)] {
            assert_eq!(ActionName::new(text), None, "{text:?}");
        }
        assert_eq!(ActionName::from_words([0; 3]), None);
        assert_eq!(ActionName::from_words([u64::MAX; 3]), None);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for phase in ActionPhase::ALL {
            assert_eq!(serde_json::from_value::<ActionPhase>(phase.as_str().into()).unwrap(), phase);
        }
        for why in ActionWhy::ALL {
            assert_eq!(serde_json::from_value::<ActionWhy>(why.as_str().into()).unwrap(), why);
        }
        for phase in BrakePhase::ALL {
            assert_eq!(serde_json::from_value::<BrakePhase>(phase.as_str().into()).unwrap(), phase);
        }
        for scope in BrakeScope::ALL {
            assert_eq!(serde_json::from_value::<BrakeScope>(scope.as_str().into()).unwrap(), scope);
        }
    }
}
