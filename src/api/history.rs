//! What the fleet was like.

use serde::{Deserialize, Serialize};

use crate::time::WallNs;

/// Counts of the fleet over time: `/api/v1/history`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct History {
    /// The length of a step.
    pub step_ns: u64,
    /// When the first step begins. Steps are equally long whatever the wall clock did: this is reckoned back from `now`.
    pub from: WallNs,
    /// The same, in milliseconds since 1970.
    pub from_unix_ms: u64,
    /// When this was written.
    pub now: WallNs,
    /// What was counted.
    pub series: Series,
}

/// One value for each step, oldest first; `None` where nothing was recorded: no observer ran, or it was held up.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Series {
    /// Agents that beat, at the end of the step.
    pub up: Vec<Option<u64>>,
    /// Agents that are stalled, at the end of the step.
    pub stalled: Vec<Option<u64>>,
    /// Agents that died in the step, as [`Died`](super::Died) counts them.
    pub died: Vec<Option<u64>>,
    /// Stalls that ended in the step.
    pub resumed: Vec<Option<u64>>,
    /// Beats per second.
    pub beats: Vec<Option<u64>>,
    /// Beats lost before the shards in the step, a lower bound.
    pub lost: Vec<Option<u64>>,
    /// Datagrams refused in the step.
    pub refused: Vec<Option<u64>>,
    /// The wait in the queue that 99 % of the beats did not exceed, in the worst second of the step; 0 if none came.
    pub queue_p99_ns: Vec<Option<u64>>,
    /// Blind time in the step, of all shards together.
    pub blind_ns: Vec<Option<u64>>,
}
