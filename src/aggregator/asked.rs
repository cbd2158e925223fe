//! Answers to those who act upon agents.

use super::*;

impl Aggregator {
    /// The agent with this pid, as of this turn.
    pub(super) fn present(&mut self, pid: u32) -> Option<Present> {
        let places = self.look_before_verdict(pid);
        let all: Vec<Present> = places.iter().filter_map(|place| self.present_at(place)).collect();
        // An agent that moves has two places for a moment.
        all.into_iter().filter(|present| present.agent.pid == pid).max_by_key(|present| present.last_arrival)
    }

    fn present_at(&mut self, place: Place) -> Option<Present> {
        let reported = *self.record(place);
        if reported.is_over() || reported.is_gone() || reported.is(Mark::Closed) || !reported.is(Mark::Up) {
            return None;
        }
        let (hot, cold) = self.view(place.shard).port.table.read(place.slot).ok()?;
        if cold.generation != reported.generation || hot.state == State::Free {
            return None;
        }
        let freeze = self.session(place).freeze;
        Some(Present {
            shard: place.shard,
            agent: self.agent(place, &hot),
            incarnation: reported.incarnation,
            is_stalled: reported.is(Mark::Stalled) && hot.state == State::Stalled && freeze == Freeze::No,
            is_certain: !cold.is_stall_uncertain,
            is_frozen: freeze == Freeze::Frozen,
            is_still: reported.is(Mark::Still) && hot.state == State::Up,
            last_arrival: hot.last_arrival,
        })
    }

    /// Every agent whose stall was reported and lasts.
    pub(super) fn stalled(&mut self) -> Vec<Present> {
        let mut all = Vec::new();
        for shard in 0..self.shard_count {
            for slot in 0..self.view(shard).port.table.used() {
                // Most are not, and a record that is looked at counts as changed.
                let hot = self.view(shard).port.table.read_hot(slot);
                if hot.is_ok_and(|hot| hot.state == State::Stalled) {
                    all.extend(self.present_at(Place { shard, slot }).filter(|present| present.is_stalled));
                }
            }
        }
        all
    }
}
