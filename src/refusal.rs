//! Why a datagram was not accepted as a beat. Each refused datagram is counted under exactly one reason.

use crate::notify::message::Fault;
use crate::wire::DecodeError;

macro_rules! refusals {
    ($($variant:ident $word:literal $doc:literal,)*) => {
        /// Why a datagram was not accepted as a beat.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Refusal { $(#[doc = $doc] $variant,)* }

        impl Refusal {
            /// Every reason, ordered by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The spelling of metrics and events.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

refusals! {
    BadMagic "bad_magic" "Not a frame: the first two bytes are wrong.",
    BadVersion "bad_version" "A wire version this observer does not know.",
    BadCrc "bad_crc" "The checksum does not match.",
    BadStatus "bad_status" "A status byte above 3.",
    StallOnWire "stall_on_wire" "Status stall, which only an observer may report.",
    BadPid "bad_pid" "The kernel attests process 1, which is never an agent.",
    BadTimestamp "bad_timestamp" "The reserved timestamp.",
    BadNonce "bad_nonce" "The terminal nonce without status critical.",
    WrongSize "wrong_size" "Not 32 bytes long.",
    TruncatedControl "truncated_control" "The kernel's control data was truncated.",
    ForeignFds "foreign_fds" "Descriptors or other control data were attached.",
    Unattested "unattested" "The kernel attests no sender (it is outside the observer's pid namespace).",
    Forged "forged" "It claims a pid that a lookup showed not to be its sender's.",
    Uid "uid" "The sender's user may not beat on this shard.",
    Budget "budget" "The sender's user spent its frame budget.",
    TableFull "table_full" "No room for another agent.",
    Downgrade "downgrade" "A 0.1 frame in a 0.2 session: perhaps two flipped bits.",
    Probe "probe" "An empty datagram: another observer checked whether this one is running.",
    InnerNul "inner_nul" "A message with a NUL inside.",
    BadBarrier "bad_barrier" "A barrier that is not alone, or does not come with one descriptor.",
    Meaningless "meaningless" "A message of which nothing is understood.",
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::BadMagic(_) => Self::BadMagic,
            DecodeError::BadVersion(_) => Self::BadVersion,
            DecodeError::BadCrc { .. } => Self::BadCrc,
            DecodeError::BadStatus(_) => Self::BadStatus,
            DecodeError::StallOnWire => Self::StallOnWire,
            DecodeError::BadPid(_) => Self::BadPid,
            DecodeError::BadTimestamp(_) => Self::BadTimestamp,
            DecodeError::BadNonce { .. } => Self::BadNonce,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Empty => Self::Probe,
            Fault::TooLong => Self::WrongSize,
            Fault::TruncatedControl => Self::TruncatedControl,
            Fault::Unattested => Self::Unattested,
            Fault::InnerNul => Self::InnerNul,
            Fault::BadBarrier => Self::BadBarrier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_list_and_words_are_unique() {
        for (number, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, number);
            let same = Refusal::ALL.iter().filter(|other| other.as_str() == refusal.as_str()).count();
            assert_eq!(same, 1, "{}", refusal.as_str());
        }
    }
}
