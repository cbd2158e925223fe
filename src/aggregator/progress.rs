//! Agents that beat and do not advance: their slots are read now and then, and [`rules::progress`] judges what they
//! show.
//!
//! A round visits each slot whose rule asks for progress, a part of it in each turn, and begins anew after an eighth of
//! the shortest progress threshold. Without such a rule there are no rounds.

use super::*;
use crate::config::ProgressOf;
use crate::config::plan::Progress;
use crate::rules::progress::{LOOKS, Look};

/// Slots visited in one turn.
const VISITS_PER_TURN: u32 = 2048;
/// Agents that are looked at again before the next round, because what one of their streams shows was not seen or
/// somebody was asked.
const EAGER_MAX: usize = 256;
/// How soon.
const EAGER_NS: u64 = 10_000_000;

impl Aggregator {
    /// Goes on with the round. When to take the next turn for that; `None`: no rule asks for progress.
    pub(super) fn look_for_progress(&mut self) -> Option<MonoNs> {
        let shortest = self.policy.shortest_progress_ns().filter(|_| !planted!(FindsNobodyStill));
        let is_any_still = self.tally.shards.iter().any(|shard| shard.still > 0);
        if shortest.is_none() && !is_any_still || self.stop_by.is_some() {
            return None;
        }
        if self.rounds.next.is_none() && self.rounds.begins <= self.now {
            self.rounds.next = Some(Place { shard: 0, slot: 0 });
            self.rounds.begins = self.now + shortest.unwrap_or(SECOND_NS) / LOOKS;
        }
        if self.rounds.eager_at <= self.now {
            for Holder { place, generation } in mem::take(&mut self.rounds.eager) {
                if self.generation_of(place) == Some(generation) {
                    self.look_at_progress(place);
                }
            }
        }
        let mut left = VISITS_PER_TURN;
        while let Some(place) = self.rounds.next {
            let Some(view) = self.shards.get(usize::from(place.shard)) else {
                self.rounds.next = None;
                break;
            };
            if place.slot >= view.port.table.used() {
                self.rounds.next = Some(Place { shard: place.shard + 1, slot: 0 });
                continue;
            }
            if left == 0 {
                return Some(self.now + CONFIRM_TICK_NS);
            }
            left -= 1;
            self.rounds.next = Some(Place { slot: place.slot + 1, ..place });
            self.look_at_progress(place);
            self.commit_if_much();
        }
        let is_eager = !self.rounds.eager.is_empty();
        Some(if is_eager { self.rounds.begins.min(self.rounds.eager_at) } else { self.rounds.begins })
    }

    /// The record as it is: one that is looked at with [`Aggregator::record`] counts as changed.
    fn reported(&self, place: Place) -> Option<Record> {
        self.shards[usize::from(place.shard)]
            .reported
            .get(place.slot)
            .copied()
            .filter(|record| record.pid != 0)
    }

    fn generation_of(&self, place: Place) -> Option<u32> {
        self.reported(place).map(|record| record.generation)
    }

    /// What the rule that is known to match the agent asks of it. A message has no payload, and a frame no status line.
    fn progress_of(&self, place: Place, reported: &Record) -> Option<Progress> {
        let shows = if self.has_messages(place.shard) { ProgressOf::Status } else { ProgressOf::Payload };
        let asked = reported.is(Mark::Ruled).then(|| self.policy.progress_of(reported.class)).flatten();
        asked.filter(|progress| progress.of == shows)
    }

    fn look_at_progress(&mut self, place: Place) {
        let here =
            self.reported(place).filter(|reported| !reported.is_gone() && !reported.is(Mark::Releasing));
        let Some(reported) = here else { return };
        let is_still = reported.is(Mark::Still);
        let Some(progress) = self.progress_of(place, &reported) else {
            // Between a reload and the lookup it is not known what asks for it.
            if is_still && !self.reloading.is_matching && !reported.is(Mark::Identifying) {
                self.end_standstill(place, AdvanceWhy::Rule);
            }
            return;
        };
        if !is_judged(&reported) {
            return;
        }
        let Some((look, at)) = self.look_of(place, &reported, &progress) else { return };
        match look {
            Look::Advances if is_still => self.end_standstill(
                place,
                if progress.of == ProgressOf::Status { AdvanceWhy::Status } else { AdvanceWhy::Payload },
            ),
            Look::Idle if is_still => self.end_standstill(place, AdvanceWhy::Idle),
            Look::Unseen => self.look_again_soon(place, reported.generation),
            Look::Still { is_certain } if !is_still || planted!(TellsAStandstillTwice) => {
                self.found_still(place, &progress, is_certain, at)
            }
            Look::Advances | Look::Idle | Look::Begins | Look::Same | Look::Still { .. } => {}
        }
        if !matches!(look, Look::Still { .. }) {
            self.watched(place).asked = None;
        }
    }

    /// What a look at the slot shows, and the arrival of the last beat.
    fn look_of(&mut self, place: Place, reported: &Record, progress: &Progress) -> Option<(Look, MonoNs)> {
        let view = &mut self.shards[usize::from(place.shard)];
        let (mut hot, cold) = view.port.table.read(place.slot).ok()?;
        if cold.generation != reported.generation || hot.pid != reported.pid {
            return None;
        }
        if let Some(daemons) = &view.port.daemons {
            // Each change counts. Without a line it is not known what it did so far.
            hot.payload = daemons.lines.change(place.slot, cold.generation)?;
        }
        let last_blind_end = MonoNs(view.port.counters.last_blind_end.get());
        let turned_away = &view.port.turned_away;
        let standing = &mut view.watched.of(place.slot).standing;
        let look = standing
            .look(progress, (&hot, &cold), last_blind_end, |since| turned_away.is_after(hot.pid, since));
        Some((look, hot.last_arrival))
    }

    /// The agent seems to be at a standstill. Before that is reported, its other places are looked at, its process is
    /// looked up, for another rule may apply to it by now, and the other shards must have seen as much.
    fn found_still(&mut self, place: Place, progress: &Progress, is_certain: bool, at: MonoNs) {
        let since = self.watched(place).standing.since();
        let Some(reported) = self.reported(place) else { return };
        let places = self.places_of(reported.pid);
        for other in places.iter().filter(|other| *other != place) {
            // What it says in messages shows no work.
            if self.is_same_lane(other.shard, place.shard) && self.advances_at(other, since) {
                return;
            }
        }
        let Some((asked_at, asked_of)) = self.watched(place).asked else {
            self.watched(place).asked = Some((self.now, at));
            self.look_again(place);
            self.kick_others(place);
            return self.look_again_soon(place, reported.generation);
        };
        let is_rule_known = self.reported(place).is_some_and(|reported| !reported.is(Mark::LookingAgain));
        if !is_rule_known && self.now.since(asked_at) <= LOOK_NS {
            return self.look_again_soon(place, reported.generation);
        }
        // Work that was done meanwhile may be in the queue of another shard, or was refused by it.
        let is_unsighted = !planted!(TrustsBlindShards)
            && self.is_unsighted(place, place.shard, since, progress.threshold_ns, asked_of);
        if is_unsighted {
            if self.now.since(asked_at) <= CONFIRM_NS {
                return self.look_again_soon(place, reported.generation);
            }
            if at.since(since) < rules::longest_doubt(progress.threshold_ns) {
                self.watched(place).asked = None;
                return;
            }
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return };
        if cold.generation != reported.generation || hot.state != State::Up {
            return;
        }
        self.report_rest(place, &hot, &cold);
        self.watched(place).still_since = since;
        for other in places.iter() {
            self.mark_still(other, true);
        }
        let certain = is_certain && is_rule_known && !is_unsighted;
        let shard = &mut self.tally.shards[usize::from(place.shard)];
        let count = if certain { &mut shard.standstills_certain } else { &mut shard.standstills_uncertain };
        *count += 1;
        self.report_of(place, &hot, at, EventKind::Standstill { still_ns: at.since(since), certain });
    }

    /// Whether the agent may advance on another shard: it has beaten there since `since`, and is not at a standstill there.
    fn advances_at(&mut self, place: Place, since: MonoNs) -> bool {
        let Some(reported) = self.reported(place).filter(|reported| !reported.is(Mark::Releasing)) else {
            return false;
        };
        let Some(progress) = self.progress_of(place, &reported) else { return true };
        match self.look_of(place, &reported, &progress) {
            None => true,
            Some((Look::Still { .. }, _)) => false,
            Some((_, last_arrival)) => last_arrival > since,
        }
    }

    /// The standstill of the agent is over.
    pub(super) fn end_standstill(&mut self, place: Place, why: AdvanceWhy) {
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return };
        let Some(reported) = self.reported(place) else { return };
        if cold.generation != reported.generation {
            return;
        }
        self.report_rest(place, &hot, &cold);
        let places = self.places_of(reported.pid);
        let mut since = MonoNs(0);
        for other in places.iter() {
            since = since.max(mem::take(&mut self.watched(other).still_since));
            self.mark_still(other, false);
        }
        // What a predecessor reported has lasted since this observer started at least.
        let still_ns = hot.last_arrival.since(if since == MonoNs(0) { self.started } else { since });
        self.tally.shards[usize::from(place.shard)].advances += 1;
        self.report_of(place, &hot, hot.last_arrival, EventKind::Advance { still_ns, why });
    }

    /// Records that the holder of the slot is at a standstill, or is not any more.
    pub(super) fn mark_still(&mut self, place: Place, is_still: bool) {
        if self.record(place).set(Mark::Still, is_still) == is_still {
            return;
        }
        let session = self.session(place);
        self.enter(place, Session { is_still, ..session });
        let count = &mut self.tally.shards[usize::from(place.shard)].still;
        *count = if is_still { *count + 1 } else { *count - 1 };
    }

    fn watched(&mut self, place: Place) -> &mut Watched {
        self.view(place.shard).watched.of(place.slot)
    }

    fn look_again_soon(&mut self, place: Place, generation: u32) {
        if self.rounds.eager.is_empty() {
            self.rounds.eager_at = self.now + EAGER_NS;
        }
        if self.rounds.eager.len() < EAGER_MAX {
            self.rounds.eager.push(Holder { place, generation });
        }
    }
}

/// Whether the progress of the slot's holder is judged: it is known, beats, and nothing else is reported of it first.
fn is_judged(reported: &Record) -> bool {
    let is_other = [
        Mark::Stalled,
        Mark::Confirming,
        Mark::Recalling,
        Mark::Returning,
        Mark::Frozen,
        Mark::Thawed,
        Mark::Doubted,
        Mark::Held,
        Mark::Closed,
    ];
    reported.is(Mark::Up) && !is_other.iter().any(|mark| reported.is(*mark))
}
