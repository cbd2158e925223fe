//! Starts the thread that acts, at the start of the fleet or once a reload brings the first action.
//!
//! Thread: the caller's. Blocks: while the audit file is opened.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::acquire::{boot_id, pid_namespace};
use super::handle::Handle;
use crate::action::orders::Orders;
use crate::action::thread::{Act, Surroundings};
use crate::aggregator::Request;
use crate::aggregator::fanout::{EVENTS_SLACK, Subscriber};
use crate::config::act::ActPlan;
use crate::lane::kick::Kick;
use crate::view::health::FleetThread;
use crate::view::tally::Reader;

/// Starts it, and puts it into the handle. `dir`: the runtime directory. It hears the events from now on, and ends with the aggregator.
///
/// # Errors
/// The kernel's: no thread, no descriptor, or the audit file cannot be opened.
pub fn start_act(plan: &ActPlan, dir: &Path, handle: &Handle) -> io::Result<()> {
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
        orders: Orders { dir: dir.to_owned(), boot_id: boot_id(), pid_namespace: pid_namespace() },
    };
    let (act, thread) =
        Act::spawn(plan.clone(), surroundings, events, bell, handle.vitals.of(FleetThread::Act))?;
    let _ = handle.requests.send(Request::Subscribe(subscriber));
    handle.doorbell.ring();
    *handle.act.lock() = Some(act);
    *handle.act_thread.lock() = Some(thread);
    Ok(())
}
