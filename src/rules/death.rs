//! How the process of an agent died, as far as its operator has to act. A stop on request is none.

use crate::event::{EventKind, ExitHow};

// The same on every architecture that Linux runs on.
const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGPIPE: u8 = 13;
const SIGTERM: u8 = 15;

/// A death: an end that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// It returned this exit status, other than 0.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
    /// The kernel ended it, out of memory.
    OutOfMemory,
    /// Its last frame said that it panicked.
    Panic,
    /// The kernel did not say how.
    Unknown,
}

impl Death {
    /// The words of the metrics, in the order of [`Death::kind`].
    #[cfg(feature = "http")]
    pub const WORDS: [&str; 5] = ["code", "signal", "oom", "panic", "unknown"];
    /// Number of kinds.
    pub const KINDS: usize = 5;

    /// The death, if an exit was one. `has_panicked`: the last frame of the agent said so.
    ///
    /// Status 0 is none, and neither are the signals by which processes are stopped: SIGTERM, SIGINT, SIGHUP, and
    /// SIGPIPE for a reader that is gone. So a deploy is no wave of deaths.
    #[must_use]
    pub const fn of(how: Option<ExitHow>, has_panicked: bool) -> Option<Self> {
        match how {
            Some(ExitHow::Code(0) | ExitHow::Signal(SIGTERM | SIGINT | SIGHUP | SIGPIPE)) => None,
            _ if has_panicked => Some(Self::Panic),
            Some(ExitHow::Code(code)) => Some(Self::Code(code)),
            Some(ExitHow::Signal(signal)) => Some(Self::Signal(signal)),
            Some(ExitHow::OutOfMemory) => Some(Self::OutOfMemory),
            None => Some(Self::Unknown),
        }
    }

    /// Its index among the kinds.
    #[must_use]
    pub const fn kind(self) -> usize {
        match self {
            Self::Code(_) => 0,
            Self::Signal(_) => 1,
            Self::OutOfMemory => 2,
            Self::Panic => 3,
            Self::Unknown => 4,
        }
    }
}

impl EventKind {
    /// Whether it is an exit that nobody asked for.
    #[must_use]
    pub const fn is_death(&self) -> bool {
        match *self {
            Self::Exit { how, panicked, .. } => Death::of(how, panicked).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_stopped_did_not_die() {
        let of = |how| Death::of(how, false);
        for signal in [15, 2, 1, 13] {
            assert_eq!(of(Some(ExitHow::Signal(signal))), None, "signal {signal}");
            assert_eq!(Death::of(Some(ExitHow::Signal(signal)), true), None, "it was stopped later");
        }
        assert_eq!(of(Some(ExitHow::Code(0))), None);
        assert_eq!(of(Some(ExitHow::Code(1))), Some(Death::Code(1)));
        assert_eq!(of(Some(ExitHow::Signal(9))), Some(Death::Signal(9)));
        assert_eq!(of(Some(ExitHow::OutOfMemory)), Some(Death::OutOfMemory));
        assert_eq!(of(None), Some(Death::Unknown));
    }

    #[test]
    fn who_said_that_it_panicked_did() {
        for how in [None, Some(ExitHow::Code(101)), Some(ExitHow::Signal(6))] {
            assert_eq!(Death::of(how, true), Some(Death::Panic));
        }
    }
}
