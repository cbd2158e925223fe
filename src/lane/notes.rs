//! Single datagrams that are reported beyond their count: samples of refused ones, and every beat if a
//! subscriber wants that.

use crate::event::NoFrame;
use crate::refusal::Refusal;
use crate::time::MonoNs;
use crate::wire::{DecodeError, Status};

/// A refused datagram, as a sample of those counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it arrived.
    pub arrival: MonoNs,
    /// Attested sender.
    pub attested: u32,
    /// Attested user.
    pub uid: u32,
    /// What was wrong.
    pub what: SampleOf,
}

/// What was wrong with a sampled datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleOf {
    /// It was no frame.
    Decode(NoFrame),
    /// It claimed this pid.
    Forged(u32),
}

impl SampleOf {
    /// The sample of a refusal, if refusals of this kind are reported.
    pub const fn of(refusal: Refusal, error: Option<DecodeError>, claimed: u32) -> Option<Self> {
        match (refusal, error) {
            (_, Some(error)) => Some(Self::Decode(NoFrame::Undecodable(error))),
            (Refusal::WrongSize, None) => Some(Self::Decode(NoFrame::WrongSize)),
            (Refusal::Forged, None) => Some(Self::Forged(claimed)),
            _ => None,
        }
    }
}

/// One accepted frame, for a subscriber that wants every beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatNote {
    /// When it arrived.
    pub arrival: MonoNs,
    /// Attested sender.
    pub pid: u32,
    /// The pid in the frame.
    pub frame_pid: u32,
    /// Its nonce.
    pub nonce: u64,
    /// Its status.
    pub status: Status,
    /// Its payload.
    pub payload: u64,
}
