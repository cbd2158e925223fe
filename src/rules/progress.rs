//! Whether an agent that beats also advances. Pure, like all rules.
//!
//! A helper thread can beat while the work of its process stands still. So a rule may say that the payload of an agent
//! counts the work it has done: an agent that beats for a whole progress threshold while its payload stays the same is
//! at a standstill. Its slot is read now and then ([`Standing::look`]); nothing is paid for a beat.
//!
//! 1. Judged is the time up to the last beat, not up to now: whoever does not beat is silent, and silences are judged
//!    by themselves. After one the time starts anew: who was not running could not work.
//! 2. The same doubts as about a silence excuse it: see [`judge`]. While the shard was blind, or refused frames of the
//!    agent, the work may have gone on.
//! 3. Two handles of one process are two streams of nonces, and one of them may beat for a helper that has nothing to
//!    count. The agent advances if any of them does. What of a stream was not seen since its last beat is not known,
//!    and there is no standstill before it is. An agent whose streams are not told apart is not judged: three of them,
//!    or two whose nonces are in step, which shows as more beats than nonces.
//! 4. An agent that says it is idle, by its status or payload, does not stand still.

use super::{Judgement, Sight, judge};
use crate::config::plan::Progress;
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::time::MonoNs;

/// An agent is looked at so many times in its progress threshold.
pub const LOOKS: u64 = 8;

/// Whether the agent says that it has nothing to do.
fn is_idle(progress: &Progress, hot: &Hot) -> bool {
    if planted!(CountsIdle) {
        return false;
    }
    progress.idle_payload == Some(hot.payload) || progress.idle_status == Some(hot.status)
}

/// One stream of nonces, as seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// Its last nonce.
    nonce: u64,
    /// The payload seen last; `None`: none yet.
    payload: Option<u64>,
    /// A beat that had this payload, and none with another was seen since.
    since: Moment,
    /// It beat since its payload was seen: the last beat of the agent when that was found.
    unseen: Option<Moment>,
}

/// The arrival of a beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    arrival: MonoNs,
    /// Total time for which the shard had been paused before that, ns.
    paused_before: u64,
}

/// What a look at an agent shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The time begins anew: it is not known what its payload was before, or it did not beat in between.
    Begins,
    /// Its payload changed.
    Advances,
    /// It says that it has nothing to do.
    Idle,
    /// Its payload is the same, and not for long enough.
    Same,
    /// The same, and a stream of it beat that was not seen: look again soon.
    Unseen,
    /// It beats, and its payload has been the same for a progress threshold.
    Still {
        /// Whether the shard saw for that long.
        is_certain: bool,
    },
}

/// What is known of the progress of a slot's holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    streams: [Stream; 2],
    /// As of the last look; `None`: there was none.
    epoch: Option<Epoch>,
    /// When the time began: beats and beats lost by then, and the nonces of both streams.
    begun: (u32, u64, [u64; 2]),
}

/// A change of any of these begins the time anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    generation: u32,
    streams: u32,
    versions: u32,
    resumes: u32,
    users: u16,
    /// Counts only where a status means idle.
    statuses: u32,
}

impl Standing {
    /// Looks at the agent whose slot holds `hot` and `cold`. `last_blind_end` is that of its shard; `was_turned_away`
    /// says whether frames of it were refused since an instant by a limit of ours.
    pub fn look(
        &mut self,
        progress: &Progress,
        (hot, cold): (&Hot, &Cold),
        last_blind_end: MonoNs,
        was_turned_away: impl Fn(MonoNs) -> bool,
    ) -> Look {
        if hot.state != State::Up || hot.flags.has(Flags::MIXED) {
            return Look::Begins;
        }
        let epoch = Epoch {
            generation: cold.generation,
            streams: cold.streams,
            versions: cold.versions,
            resumes: if planted!(CountsSilence) { 0 } else { cold.resumes },
            users: cold.users,
            statuses: if progress.idle_status.is_some() { cold.statuses } else { 0 },
        };
        let before = self.epoch.replace(epoch);
        let now = Moment { arrival: hot.last_arrival, paused_before: hot.paused_before };
        if before == Some(epoch) && self.are_in_step(hot, cold) && !planted!(MergesStreams) {
            self.epoch = None;
            return Look::Begins;
        }
        if before != Some(epoch) {
            self.begun = (hot.beats(), cold.beats_lost, hot.nonces);
            let is_known = before.is_some_and(|before| before.generation == epoch.generation);
            let is_other = is_known && self.streams.iter().all(|stream| stream.payload != Some(hot.payload));
            self.streams = hot.nonces.map(|nonce| Stream { nonce, payload: None, since: now, unseen: None });
            self.streams[hot.current()].payload = Some(hot.payload);
            return match () {
                () if is_idle(progress, hot) => Look::Idle,
                () if is_other => Look::Advances,
                () => Look::Begins,
            };
        }
        let current = hot.current();
        let stream = &mut self.streams[current];
        let seen = stream.payload.replace(hot.payload);
        let has_nothing_to_do = is_idle(progress, hot);
        if seen != stream.payload || has_nothing_to_do {
            stream.since = now;
        }
        (stream.nonce, stream.unseen) = (hot.nonce(), None);
        let other = &mut self.streams[1 - current];
        if hot.nonces[1 - current] != other.nonce && !planted!(CountsHelpers) {
            (other.nonce, other.unseen) = (hot.nonces[1 - current], Some(now));
        }
        if has_nothing_to_do {
            return Look::Idle;
        }
        if seen != Some(hot.payload) {
            return if seen.is_none() { Look::Begins } else { Look::Advances };
        }
        let since = self.begin();
        let sight = Sight { watermark: now.arrival, paused_before: now.paused_before, last_blind_end };
        let sight = if was_turned_away(since.arrival) { sight.but_turned_away() } else { sight };
        match judge(since.arrival, since.paused_before, progress.threshold_ns, &sight) {
            Judgement::Stalled { is_certain } => Look::Still { is_certain },
            Judgement::NotBefore(_) if self.streams.iter().any(|stream| stream.unseen.is_some()) => {
                Look::Unseen
            }
            Judgement::NotBefore(_) => Look::Same,
        }
    }

    /// Whether there were more beats since the time began than the nonces of both streams went ahead.
    fn are_in_step(&self, hot: &Hot, cold: &Cold) -> bool {
        let (beats, lost, nonces) = self.begun;
        let beats = u64::from(hot.beats().wrapping_sub(beats));
        let lost = cold.beats_lost.saturating_sub(lost);
        let ahead = nonces.iter().zip(hot.nonces).map(|(from, to)| to.wrapping_sub(*from));
        beats > ahead.fold(0, u64::saturating_add).saturating_sub(lost)
    }

    fn begin(&self) -> Moment {
        let [first, second] = self.streams.map(|stream| stream.unseen.unwrap_or(stream.since));
        first.max(second)
    }

    /// Since when no payload changed, as far as it was seen.
    #[must_use]
    pub fn since(&self) -> MonoNs {
        self.begin().arrival
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
