//! Bugs that a test can switch on, to show that the simulator finds them.
//!
//! [`planted!`](planted) marks the place of each bug and is the constant `false` outside of tests.

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
        /// An agent that appears on another shard counts as another agent.
        TakesOneForTwo,
        /// Silences are judged by the clock instead of the watermark.
        JudgesByTheClock,
        /// After a restart the stored deadlines are judged before what is queued was read.
        JudgesBeforeDraining,
        /// After a restart the stored deadlines hold, as if agents had been seen while nobody ran.
        ForgetsTheGap,
        /// After a restart what the last commit kept of the agents, and did not reach the tables, is ignored.
        TellsTwice,
        /// After a restart the events that the output did not acknowledge are not repeated.
        LosesTheUnacknowledged,
        /// An observer goes on although a successor took over.
        GoesOnAfterATakeOver,
        /// What an observer of another boot or pid namespace left is adopted.
        AdoptsAnotherBoot,
        /// The timer of an agent that had beaten before its deadline is not set again.
        ForgetsTheTimer,
        /// A resume is reported twice.
        ResumesTwice,
        /// The next process with the same pid keeps the session of the one before.
        KeepsTheSession,
        /// Agents are admitted beyond the maximum.
        LetsEverybodyIn,
        /// A subscriber does not get `lost` for the events it missed.
        DropsTheLostLine,
        /// Steps of the wall clock are not detected.
        TrustsTheWallClock,
        /// A process is judged by its first name, even after a rename.
        KeepsTheFirstName,
        /// A reload leaves slots the number of their class in the table before.
        KeepsOldClasses,
        /// A threshold that a reload made shorter holds for the silence before it, too.
        JudgesAtOnceByAShorterThreshold,
        /// An agent is reported as missing although it was before.
        MissesTwice,
        /// An agent that beats is reported as missing.
        MissesWhoBeats,
        /// An agent is reported as missing before it was given a threshold to beat.
        MissesAtOnce,
        /// No agent is reported as missing.
        MissesNobody,
        /// The roster has those that beat, and not those that are awaited.
        ForgetsTheAwaited,
        /// An action is started for an agent while a child for it runs.
        StartsASecondChild,
        /// A brake of one user or unit holds nothing.
        StartsUnderABrake,
        /// What was due for a process is done to the next one with its pid.
        ActsUponTheHeir,
        /// Attempts are not counted.
        ForgetsAttempts,
        /// After a reload the brake of the configuration before holds.
        KeepsTheOldBrake,
        /// A reload leaves what is open for actions that it removed.
        KeepsRemovedActions,
        /// What is due is started although only a dry run is configured.
        StartsInADryRun,
        /// What was due for a frozen agent is done after the thaw.
        ActsUponTheThawed,
        /// What was due for a missing agent is done after it came back.
        ActsUponWhoCameBack,
        /// A standstill is reported at each look.
        TellsAStandstillTwice,
        /// An agent that has nothing to do is at a standstill.
        CountsIdle,
        /// The time of a silence counts as one without progress.
        CountsSilence,
        /// What a stream that was not seen has counted does not matter.
        CountsHelpers,
        /// Two streams whose nonces are in step count as one.
        MergesStreams,
        /// What another shard could not see does not matter to a standstill.
        TrustsBlindShards,
        /// An agent that starts has the threshold of its rule.
        JudgesStartsAsUsual,
        /// A status `ok` does not end the start.
        NeverEndsTheStart,
        /// An observer takes those that start for started when it goes on.
        ForgetsTheStart,
        /// The phase that a payload says is ignored.
        IgnoresThePayload,
        /// An agent in a phase is looked at when its longer threshold is over, even if the phase ends before.
        LooksWhenThePhaseIsOver,
        /// No standstill is found.
        FindsNobodyStill,
        /// An agent that is alive in one lane is alive in the other.
        JoinsLanes,
        /// An extension may be as long as a daemon wishes.
        NeverCapsExtensions,
        /// A daemon that sent no beat is to send one.
        StallsWithoutBeats,
        /// `READY=1` ends a stop.
        UndoesStopping,
        /// What a daemon was started with is not known any more after a restart.
        ForgetsTheEnvironment,
        /// A daemon of whom no threshold is known has the default one.
        TakesTheDefault,
        /// A shard of daemons is certain of what it could not see.
        TrustsABlindShard,
        /// A script that says one thing and ends is an agent.
        TellsOfScripts,
        /// A line has one column too many.
        SplitsAColumn,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is on for this thread.
    pub fn is_on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `work` with this bug on, for this thread only.
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
