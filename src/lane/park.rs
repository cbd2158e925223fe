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
    /// Counts how often it was wanted. Who waits goes on once its round is over, even if the next one has begun.
    round: u64,
    is_wanted: bool,
    /// Nobody comes back: another process went on.
    is_left: bool,
    /// Those that wait in this round.
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
        let round = state.round;
        state.parked += usize::from(state.is_wanted);
        self.changed.notify_all();
        while state.is_wanted && state.round == round && !state.is_left {
            self.changed.wait(&mut state);
        }
        !state.is_left
    }

    /// Has the threads wait as soon as their turns end. The caller wakes them.
    pub fn want(&self) {
        let mut state = self.state.lock();
        (state.round, state.is_wanted, state.parked) = (state.round + 1, true, 0);
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
        let mut state = self.state.lock();
        self.is_wanted.store(false, Ordering::Release);
        (state.is_wanted, state.parked) = (false, 0);
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

    /// A thread of the last round that has not left yet is none of this round.
    #[test]
    fn each_round_waits_for_all_of_them() {
        let park = Arc::<Park>::default();
        for _ in 0..200 {
            let thread = parked(&park);
            park.resume();
            park.want();
            assert!(!park.has_within(1, Instant::now()), "it has not come to this round");
            assert!(thread.join().unwrap(), "its round is over");
            park.resume();
        }
    }

    #[test]
    fn who_does_not_come_is_not_waited_for() {
        let park = Park::default();
        park.want();
        assert!(!park.has_within(1, Instant::now()));
    }
}
