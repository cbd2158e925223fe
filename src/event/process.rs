//! What events say of a process: who it is, and what it does.

use serde::{Deserialize, Deserializer, Serialize};

use crate::label::{Label, Text};
use crate::message::is_deceptive;

/// Who a process is, as of the last lookup. A lookup comes after the first beat, so the first events of an agent may
/// know its user only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The user attested with its last beat.
    pub uid: Option<u32>,
    /// Its name. Empty if it is not known.
    pub comm: Comm,
    /// Its unit of the service manager: the deepest `.service` or `.scope` of its control group, behind the outermost if
    /// it is inside another unit.
    pub unit: Option<Label>,
    /// Its container: the 64 hexadecimal digits that container managers give to a control group.
    pub container: Option<Label>,
    /// Path of its program, as the process itself sees files.
    pub exe: Option<Label>,
}

impl About {
    /// Of a process of which nothing is known.
    pub const UNKNOWN: Self =
        Self { uid: None, comm: Comm { len: 0, bytes: [0; 15] }, unit: None, container: None, exe: None };
}

impl Default for About {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

/// The texts of labels. Those that were freed are absent, and while this is held, the others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// The unit.
    pub unit: Option<Text>,
    /// The container.
    pub container: Option<Text>,
    /// The program.
    pub exe: Option<Text>,
}

impl About {
    /// The texts of its labels.
    #[must_use]
    pub fn texts(&self) -> Texts {
        let Self { unit, container, exe, .. } = *self;
        Texts {
            unit: unit.and_then(Label::text),
            container: container.and_then(Label::text),
            exe: exe.and_then(Label::text),
        }
    }
}

/// The name of a process: at most 15 bytes, chosen by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Comm {
    len: u8,
    bytes: [u8; 15],
}

impl Comm {
    /// Whether it has no character.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl From<&str> for Comm {
    /// As many whole characters as there is room for, with `?` for each that ends a line, steers a terminal or cannot be
    /// seen.
    fn from(text: &str) -> Self {
        let mut comm = Self::default();
        for c in text.chars().map(|c| if is_deceptive(c) { '?' } else { c }) {
            let from = usize::from(comm.len);
            let Some(room) = comm.bytes.get_mut(from..from + c.len_utf8()) else { break };
            let len = c.encode_utf8(room).len();
            comm.len += u8::try_from(len).unwrap_or(0);
        }
        comm
    }
}

impl<'de> Deserialize<'de> for Comm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*String::deserialize(deserializer)?))
    }
}

/// In which language an agent beats.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// Frames of the Varta Lifeline Protocol.
    #[default]
    Vlp,
    /// Messages of sd_notify(3).
    Notify,
}

/// How far a daemon says it has come.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DaemonPhase {
    /// It was heard from its start on, and has not sent `READY=1`.
    Starting,
    /// It is ready, or it beats.
    Up,
    /// `RELOADING=1`, and not ready again.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
}

impl DaemonPhase {
    /// Every phase, in the order of its codes in the journal.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Up, Self::Reloading, Self::Stopping];

    /// The word of the API and of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Reloading => "reloading",
            Self::Stopping => "stopping",
        }
    }
}

/// What a process does, according to the kernel: of its first thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs, or waits for a processor.
    Running,
    /// It waits for something, and a signal would wake it.
    Sleeping,
    /// It waits for something, mostly for a disk or a file system, and no signal wakes it.
    Uninterruptible,
    /// A signal such as SIGSTOP stopped it.
    Stopped,
    /// A debugger holds it.
    Traced,
}

impl ProcessState {
    /// Every state, in the order of its codes in the journal.
    pub const ALL: [Self; 5] =
        [Self::Running, Self::Sleeping, Self::Uninterruptible, Self::Stopped, Self::Traced];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::Uninterruptible => "uninterruptible",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The state with this letter in proc_pid_stat(5), if it is one of these.
    #[must_use]
    pub fn of_letter(letter: &str) -> Option<Self> {
        match letter {
            "R" => Some(Self::Running),
            "S" | "I" => Some(Self::Sleeping),
            "D" => Some(Self::Uninterruptible),
            "T" => Some(Self::Stopped),
            "t" => Some(Self::Traced),
            _ => None,
        }
    }
}

/// A state that this version does not know is none: the rest of the event is read.
pub(super) fn known_state<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ProcessState>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|word| ProcessState::of_word(&word)))
}
