//! A reload: other rules and thresholds, other settings of the shards, another event output.
//!
//! The aggregator changes first, between two of its turns. Until the shard of an agent has taken the new classes,
//! and the agent was looked up again, the largest threshold holds for it here as it does there.

use super::*;
use crate::lane::settings::Settings;
use crate::view::too_short::FoundTooShort;

/// Agents that are asked about in one turn to find their class, and at most so many may wait for answers: the
/// questions of new agents come from the same queue.
const MATCHES_PER_TURN: usize = 64;

impl Aggregator {
    /// Takes a reload, unless its caller gave up.
    pub(super) fn reload(&mut self, reload: Reload) {
        if reload.is_decided.swap(true, Ordering::AcqRel) {
            return;
        }
        self.reloading.edition += 1;
        let edition = self.reloading.edition;
        let has_other_classes = reload.policy.is_some();
        if let Some(policy) = reload.policy {
            self.change_policy(policy);
        }
        for (shard, settings) in (0..self.shard_count).zip(reload.shards) {
            // This offer replaces one that the shard has not taken.
            let table = if has_other_classes || !self.has_present_classes(shard) {
                Some((self.reloading.table, self.policy.classes.clone()))
            } else {
                None
            };
            let view = self.view(shard);
            if table.is_some() {
                view.matching = Matching::Offered(edition);
            }
            view.port.handover.offer(Box::new(Settings { edition, table, ..settings }));
            view.is_to_be_kicked = true;
        }
        if let Some(NewOutput { subscriber, earlier }) = reload.output {
            // What was reported so far is for the output before.
            self.commit();
            self.fanout.replace_log(subscriber, self.wall, self.now);
            self.reloading.earlier = earlier;
        }
        self.tally.is_reload_refused = false;
        self.tally.configured = self.wall;
        self.report(None, None, self.now, reload.event);
        let _ = reload.progress.send(edition);
        self.reloading.waiting = Some(reload.progress);
    }

    /// A reload was refused: the configuration before stays in force.
    pub(super) fn reload_refused(&mut self) {
        self.tally.is_reload_refused = true;
        self.report(None, None, self.now, EventKind::REFUSED_RELOAD);
    }

    fn change_policy(&mut self, policy: Policy) {
        self.inquiries.lookups.expect_stalls_after(policy.classes.smallest_ns());
        self.policy = policy;
        self.usual.clear();
        self.tally.too_short = FoundTooShort::default();
        self.reloading.table = self.reloading.table.wrapping_add(1);
        self.reloading.at = self.now;
        if planted!(KeepsOldClasses) {
            return;
        }
        self.reloading.is_matching = true;
        let unknown = self.policy.classes.unknown();
        for view in &mut self.shards {
            for record in view.reported.iter_mut() {
                record.class = unknown;
                record.set(Mark::Ruled, false);
            }
        }
        let thawed: Vec<Place> = self.freezes.thawed.keys().copied().collect();
        for place in thawed {
            self.judge_thawed(place);
        }
    }

    /// Continues the last reload: looks which shards have taken it, and asks about their agents again.
    pub(super) fn follow_reload(&mut self) {
        let edition = self.reloading.edition;
        if let Some(waiting) = &self.reloading.waiting {
            // A shard whose thread has ended judges nothing any more.
            let has_taken =
                |view: &ShardView| view.port.handover.edition() >= edition || !view.port.counters.is_alive();
            if self.shards.iter().all(has_taken) {
                let _ = waiting.send(edition);
                self.reloading.waiting = None;
            }
        }
        if !self.reloading.is_matching {
            return;
        }
        let mut left = MATCHES_PER_TURN.saturating_sub(self.inquiries.lookups.waiting());
        let mut is_matching = false;
        for shard in 0..self.shard_count {
            is_matching |= self.match_agents(shard, &mut left);
        }
        self.reloading.is_matching = is_matching;
    }

    /// Asks about the next agents of a shard. True if some are left, or the shard has not taken the classes.
    fn match_agents(&mut self, shard: u16, left: &mut usize) -> bool {
        let has_rules = !self.policy.rules.is_empty();
        let view = self.view(shard);
        if let Matching::Offered(edition) = view.matching {
            if view.port.handover.edition() < edition {
                return view.port.counters.is_alive();
            }
            view.matching = if has_rules { Matching::From(0) } else { Matching::Done };
        }
        let Matching::From(mut slot) = view.matching else { return false };
        while *left > 0 {
            // Agents admitted since then are looked up anyway.
            if u64::from(slot) >= self.view(shard).port.counters.slots_used.get() {
                self.view(shard).matching = Matching::Done;
                return false;
            }
            let place = Place { shard, slot };
            slot += 1;
            let reported = self.view(shard).reported.get(place.slot).copied().unwrap_or_default();
            if reported.pid != 0 && !reported.is(Mark::Releasing) && !reported.is_gone() {
                self.ask_program(place, Inquiry::Class);
                *left -= 1;
            }
        }
        self.view(shard).matching = Matching::From(slot);
        true
    }

    /// Whether the shard uses the present classes.
    pub(super) fn has_present_classes(&self, shard: u16) -> bool {
        let view = &self.shards[usize::from(shard)];
        match view.matching {
            Matching::Offered(edition) => view.port.handover.edition() >= edition,
            Matching::From(_) | Matching::Done => true,
        }
    }

    /// The instant from which a silence or thaw counts that began at `since`: a reload that changed classes at the
    /// earliest, because a threshold that it made shorter holds from then on. Which thresholds became shorter is
    /// known to the shards alone.
    pub(super) fn counts_from(&self, since: MonoNs) -> MonoNs {
        since.max(self.reloading.at)
    }
}
