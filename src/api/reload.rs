//! The answer to a request to reload.

use serde::{Deserialize, Serialize};

use crate::config::KeyChange;

/// What a reload changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Reload {
    /// Keys whose new values are in force.
    pub changed: Vec<KeyChange>,
    /// Keys whose new values need a restart.
    pub restart: Vec<KeyChange>,
    /// Shards that take the new values in their next turn.
    pub late_shards: Vec<usize>,
    /// Problems that limit what was changed.
    pub warnings: Vec<String>,
}
