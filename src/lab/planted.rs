//! Bugs that a test may plant, so that the simulator can show that it finds them.
//!
//! [`planted!`](planted) stands at the spot of each bug and is the constant `false` outside of tests.

#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        $crate::lab::planted::is_on($crate::lab::planted::Bug::$bug)
    };
}

#[cfg(test)]
pub use switch::{Bug, is_on, with};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    /// A bug, named by what the code then does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Bug {
        /// A datagram of a wrong size is dropped without being counted.
        ForgetsToCount,
        /// An agent that appears on another shard is taken for another agent.
        TakesOneForTwo,
        /// Silences are judged by the clock, not by the watermark.
        JudgesByTheClock,
        /// An agent that had beaten when its deadline came is not looked at again.
        ForgetsTheTimer,
        /// A resume is told twice.
        ResumesTwice,
        /// The next holder of a pid goes on under its predecessor's session.
        KeepsTheSession,
        /// Agents are let in whatever the maximum.
        LetsEverybodyIn,
        /// A subscriber is not told what it missed.
        DropsTheLostLine,
        /// Steps of the wall clock go unnoticed.
        TrustsTheWallClock,
        /// A process is judged by the name it had at first.
        KeepsTheFirstName,
        /// A line has a column too many.
        SplitsAColumn,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread.
    pub fn is_on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Does `work` with this bug planted, on this thread alone.
    pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        struct Uproot;
        impl Drop for Uproot {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        let _uproot = Uproot;
        PLANTED.set(Some(bug));
        work()
    }
}
