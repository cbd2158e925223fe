//! Shrinks a failing world to the smallest that still fails in the same way.

use std::time::{Duration, Instant};

use crate::lab::simulator::invariants::{Invariant, Violation};
use crate::lab::simulator::runner::judge;
use crate::lab::simulator::story::{MS, Story};

/// Longest time to shrink; then the smallest story so far is returned.
const LONGEST: Duration = Duration::from_secs(60);

/// Returns the smallest story found within `runs` runs that violates the same invariant, and its violation.
pub fn shrink(story: &Story, violation: &Violation, runs: u32) -> (Story, Violation) {
    let mut shrinker = Shrinker {
        story: story.clone(),
        violation: violation.clone(),
        invariant: violation.invariant,
        runs,
        until: Instant::now() + LONGEST,
    };
    shrinker.end_early();
    loop {
        let before = (shrinker.story.agents.len(), shrinker.story.happenings.len());
        shrinker.cut_agents();
        shrinker.cut_happenings();
        if (shrinker.story.agents.len(), shrinker.story.happenings.len()) == before || shrinker.runs == 0 {
            break;
        }
    }
    shrinker.simplify();
    shrinker.end_early();
    (shrinker.story, shrinker.violation)
}

struct Shrinker {
    story: Story,
    violation: Violation,
    invariant: Invariant,
    runs: u32,
    until: Instant,
}

impl Shrinker {
    /// Replaces the story by this one if it violates the same invariant.
    fn try_story(&mut self, story: Story) -> bool {
        if self.runs == 0 || Instant::now() > self.until {
            self.runs = 0;
            return false;
        }
        self.runs -= 1;
        match judge(&story) {
            Err(violation) if violation.invariant == self.invariant => {
                (self.story, self.violation) = (story, violation);
                true
            }
            _ => false,
        }
    }

    /// Cuts off everything after the violation.
    fn end_early(&mut self) {
        let mut story = self.story.clone();
        story.setting.length = story.setting.length.min(self.violation.at + MS);
        let length = story.setting.length;
        story.happenings.retain(|happening| happening.at <= length);
        story.agents.retain(|agent| agent.born <= length);
        self.try_story(story);
    }

    fn cut_agents(&mut self) {
        let mut size = self.story.agents.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.story.agents.len() {
                let mut story = self.story.clone();
                let to = (from + size).min(story.agents.len());
                story.agents.drain(from..to);
                let is_there = |agent: u32| story.agents.iter().any(|there| there.id == agent);
                let happenings = story.happenings.iter().copied();
                let left =
                    happenings.filter(|happening| happening.what.agent().is_none_or(is_there)).collect();
                story.happenings = left;
                if !self.try_story(story) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    fn cut_happenings(&mut self) {
        let mut size = self.story.happenings.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.story.happenings.len() {
                let mut story = self.story.clone();
                let to = (from + size).min(story.happenings.len());
                story.happenings.drain(from..to);
                if !self.try_story(story) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    /// Simplifies the setting as far as the story still fails.
    fn simplify(&mut self) {
        let plainer: [fn(&mut Story); 8] = [
            |story| story.setting.shards = 1,
            |story| story.setting.rules.clear(),
            |story| story.setting.with_beats = false,
            |story| story.setting.frame_ns = 0,
            |story| story.setting.turn_ns = 0,
            |story| story.setting.latency = 0,
            |story| story.setting.lookup_fails = 0,
            |story| story.setting.max_delay = 0,
        ];
        for change in plainer {
            let mut story = self.story.clone();
            change(&mut story);
            self.try_story(story);
        }
    }
}
