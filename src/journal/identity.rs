//! Whose memory a memfd of a predecessor is, and why it is refused.

use std::io;

use crate::message::Reason;

/// After this many observers in a row that failed soon after they adopted, what they adopted is refused.
pub(super) const FAILURES_MAX: u64 = 2;

/// Whose memory it is: three files of one fleet carry the same, and so does what runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The boot whose clocks the instants belong to.
    pub boot_id: u128,
    /// Inode of the pid namespace the pids belong to.
    pub pid_namespace: u64,
    /// Chosen at random when the fleet began.
    pub fleet: u64,
}

impl Identity {
    #[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
    pub(super) fn to_words(self) -> [u64; 4] {
        let [high, low] = [(self.boot_id >> 64) as u64, self.boot_id as u64];
        [high, low, self.pid_namespace, self.fleet]
    }

    pub(super) fn from_words([high, low, pid_namespace, fleet]: [u64; 4]) -> Self {
        Self { boot_id: u128::from(high) << 64 | u128::from(low), pid_namespace, fleet }
    }

    /// Compares with what a file says.
    pub(super) fn check(&self, words: [u64; 4]) -> Result<(), Refused> {
        let there = Self::from_words(words);
        match () {
            () if planted!(AdoptsAnotherBoot) => Ok(()),
            () if there.boot_id != self.boot_id => Err(Refused::OtherBoot),
            () if there.pid_namespace != self.pid_namespace => Err(Refused::OtherNamespace),
            () if there.fleet != self.fleet => Err(Refused::OtherFleet),
            () => Ok(()),
        }
    }
}

/// Why memory of a predecessor is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be mapped.
    #[error("it cannot be mapped: {}", Reason(.0))]
    Memory(io::Error),
    /// It does not begin as it should.
    #[error("it was not written by varta-fleet")]
    NotOurs,
    /// It is of another version.
    #[error("its layout has version {0}, this program knows another")]
    Layout(u64),
    /// It contradicts itself.
    #[error("it is corrupt")]
    Corrupt,
    /// It is of an earlier boot.
    #[error("it is of another boot")]
    OtherBoot,
    /// Its pids are of another namespace.
    #[error("it is of another pid namespace")]
    OtherNamespace,
    /// It belongs to something else than the rest.
    #[error("it is of another fleet than the rest")]
    OtherFleet,
    /// Its instants are in the future.
    #[error("the clock is behind its last instant")]
    ClockBehind,
    /// Those who adopted it failed.
    #[error("observers that adopted it failed {FAILURES_MAX} times in a row within a minute")]
    Poisoned,
}
