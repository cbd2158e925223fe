//! Starts the thread that acts, at the start of the fleet or once a reload brings the first action.
//!
//! Thread: the caller's. Blocks: while the audit file is opened.

use std::io;
use std::sync::Arc;

use super::handle::Handle;
use crate::action::thread::{Act, Surroundings};
use crate::aggregator::Request;
use crate::aggregator::fanout::{EVENTS_SLACK, Subscriber};
use crate::config::act::ActPlan;
use crate::lane::kick::Kick;
use crate::view::health::FleetThread;
use crate::view::tally::Reader;

/// Starts it, and puts it into the handle. It hears the events from now on, and ends with the aggregator.
///
/// # Errors
/// The kernel's: no thread, no descriptor, or the audit file cannot be opened.
pub fn start_act(plan: &ActPlan, handle: &Handle) -> io::Result<()> {
    let bell = Arc::new(Kick::new()?);
    let room = handle.agents_max as usize + EVENTS_SLACK;
    let (mut subscriber, events) = Subscriber::new(Reader::Act, room);
    let rung = Arc::clone(&bell);
    subscriber.wake = Some(Box::new(move || rung.kick()));
    let surroundings = Surroundings {
        aggregator: (handle.requests.clone(), Arc::clone(&handle.doorbell)),
        ports: Arc::clone(&handle.ports),
        names: Arc::clone(&handle.names),
        run: handle.journal.run(),
    };
    let (act, thread) =
        Act::spawn(plan.clone(), surroundings, events, bell, handle.vitals.of(FleetThread::Act))?;
    let _ = handle.requests.send(Request::Subscribe(subscriber));
    handle.doorbell.ring();
    *handle.act.lock() = Some(act);
    *handle.act_thread.lock() = Some(thread);
    Ok(())
}
