//! Agents that died, and crash loops.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::WallNs;

/// Agents that died and are kept.
pub const DEAD_MAX: u32 = 1000;

/// The agents that died last: `/api/v1/dead`. A stop on request is no death. An agent whose user's agents come and go
/// too fast to be reported one by one is not listed, but counted in the metrics.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Dead {
    /// At most [`DEAD_MAX`], the latest first.
    pub dead: Vec<DeadAgent>,
    /// How many are kept that the filters of the request match.
    pub total: u64,
    /// When this was written, `CLOCK_MONOTONIC`, ns.
    pub as_of: u64,
    /// What dies again and again, the most deaths first.
    pub crash_loops: Vec<CrashLoop>,
}

/// One agent that died, in the words of the event schema.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct DeadAgent {
    /// Process id as the observer saw it.
    pub pid: u32,
    /// Number of its last session.
    pub session: u32,
    /// The shard that received its beats.
    pub shard: u16,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// How it died, in words: `signal 9`, `out of memory`, `exit status 1`, `panic` or `unknown`.
    pub death: String,
    /// The exit status, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// When that was reported.
    pub at: WallNs,
    /// When it happened, `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// From its last beat to its end.
    pub silent_ns: u64,
    /// From its first beat on its last shard to its end; 0: not known.
    pub lived_ns: u64,
    /// How many listed agents of the same unit died before it; without a unit, of the same user and name.
    pub deaths_before: u32,
}

/// A unit, or without one a program of a user, that died more than three times within a minute, each time after less
/// than a minute of life, and came up again after at least three of these deaths.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct CrashLoop {
    /// The unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The user of the last that died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Path of the program of the last that died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Name of the last that died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// How many died.
    pub deaths: u64,
    /// Within this time.
    pub within_ns: u64,
}

impl fmt::Display for CrashLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.unit.as_deref().or(self.exe.as_deref()).or(self.comm.as_deref()).unwrap_or("?");
        write!(f, "{name} dies again and again: {} times in the last minute", self.deaths)
    }
}
