//! Where threads wait, between two turns, while another process may go on in their place.
//!
//! A turn costs one load to look whether anybody wants that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A place to wait for some threads.
#[derive(Debug, Default)]
pub struct Park {
    is_wanted: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_wanted: bool,
    /// Nobody comes back: another process went on.
    is_left: bool,
    parked: usize,
}

impl Park {
    /// Whether a thread is to [wait](Park::wait) now.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// Waits until the thread may go on. False: never.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        state.parked += 1;
        self.changed.notify_all();
        while state.is_wanted && !state.is_left {
            self.changed.wait(&mut state);
        }
        state.parked -= 1;
        !state.is_left
    }

    /// Has the threads wait as soon as their turns end. The caller wakes them.
    pub fn want(&self) {
        self.state.lock().is_wanted = true;
        self.is_wanted.store(true, Ordering::Release);
    }

    /// Whether this many wait, by then.
    pub fn has_within(&self, threads: usize, until: Instant) -> bool {
        let mut state = self.state.lock();
        while state.parked < threads {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return state.parked >= threads;
            }
        }
        true
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.is_wanted.store(false, Ordering::Release);
        self.state.lock().is_wanted = false;
        self.changed.notify_all();
    }

    /// Ends the wait of those that are here, who do not go on.
    pub fn leave(&self) {
        self.state.lock().is_left = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn parked(park: &Arc<Park>) -> thread::JoinHandle<bool> {
        park.want();
        assert!(park.is_wanted());
        let of_thread = Arc::clone(park);
        let thread = thread::spawn(move || of_thread.wait());
        assert!(park.has_within(1, Instant::now() + SOON));
        thread
    }

    #[test]
    fn who_is_parked_goes_on_or_leaves() {
        let park = Arc::<Park>::default();
        assert!(!park.is_wanted() && park.wait(), "nobody wants it");
        let thread = parked(&park);
        park.resume();
        assert!(thread.join().unwrap() && !park.is_wanted());
        let thread = parked(&park);
        park.leave();
        assert!(!thread.join().unwrap());
    }

    #[test]
    fn who_does_not_come_is_not_waited_for() {
        let park = Park::default();
        park.want();
        assert!(!park.has_within(1, Instant::now()));
    }
}
