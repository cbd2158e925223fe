//! What the rounds that look for progress remember.

use crate::rules::progress::Standing;
use crate::table::place::{Holder, Place};
use crate::time::MonoNs;

/// The state of the rounds.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Which slot comes next; `None`: the round is over.
    pub next: Option<Place>,
    /// When the next round begins.
    pub begins: MonoNs,
    /// Whom to look at before.
    pub eager: Vec<Holder>,
    /// When.
    pub eager_at: MonoNs,
}

/// What is known of the progress of a slot's holder.
#[derive(Debug, Default)]
pub struct Watched {
    pub standing: Standing,
    /// Since when its reported standstill lasts; the origin of time: a predecessor reported it.
    pub still_since: MonoNs,
    /// For the standstill that is about to be reported: when the lookup thread and the other shards were asked, and the
    /// last beat by then.
    pub asked: Option<(MonoNs, MonoNs)>,
}
