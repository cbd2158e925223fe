//! Thread: `varta-aggregate`. Runs the aggregator until it has reported everything.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::{Aggregator, Next};
use crate::lane::Doorbell;
use crate::lane::park::Park;
use crate::message::Reason;
use crate::sys::clock::SystemClock;
use crate::sys::thread::set_own_nice;
use crate::time::Clock;
use crate::view::copies::Copies;
use crate::view::health::{FleetThread, Vitals};
use crate::warning::Warning;

pub const AGGREGATOR_NICE: i32 = -10;

/// The aggregator's thread.
pub fn aggregate(
    mut aggregator: Aggregator,
    copies: Arc<Copies>,
    vitals: Arc<Vitals>,
    (doorbell, park): (Arc<Doorbell>, Arc<Park>),
    said: Sender<Warning>,
) -> impl FnOnce() + Send {
    move || {
        let _lifeline = vitals.of(FleetThread::Aggregator);
        if let Err(error) = set_own_nice(AGGREGATOR_NICE) {
            let _ =
                said.send(Warning::Priority { thread: "the aggregator", why: Reason(&error).to_string() });
        }
        drop(said);
        let clock = SystemClock;
        aggregator.start(clock.mono(), clock.wall());
        loop {
            // Before the turn, which takes all that the shards found before.
            let is_park_wanted = park.is_wanted();
            let next = aggregator.turn(clock.mono(), clock.wall());
            let now = clock.mono();
            aggregator.kick_shards(now);
            vitals.aggregator_turned_at.set(now.0);
            match next {
                Next::Now => {}
                Next::At(_) if is_park_wanted => {
                    if !park.wait() {
                        return;
                    }
                }
                Next::At(at) => thread::park_timeout(Duration::from_nanos(at.since(now))),
                Next::Stopped => break,
            }
        }
        copies.keep(aggregator.tally().clone());
        // Ringing a thread that is gone does nothing.
        drop(doorbell);
    }
}
