//! Silences that reached a threshold, and their ends.

use super::*;
use crate::event::StallPhase;
use crate::label::Label;
use crate::notify::daemon::{Daemon, Limit};
use crate::rules::phase::{self, Allowed, By, Facts};
use crate::rules::usual::Usual;
use crate::view::too_short::TooShort;

/// Most agents whose usual period is compared with their threshold at once.
const USUAL_MAX: usize = 4096;

impl Aggregator {
    pub(super) fn report_silence(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let mut reported = *self.record(place);
        if reported.is(Mark::Frozen) || reported.is(Mark::Thawed) {
            if reported.resumes == cold.resumes {
                return;
            }
            self.stir(place, hot, cold);
            reported = *self.record(place);
        }
        let stalls = cold.stalls.wrapping_sub(reported.stalls);
        let resumes = cold.resumes.wrapping_sub(reported.resumes);
        if stalls == 0 && resumes == 0 {
            return;
        }
        if hot.state == State::Stalled {
            // The last stall is not reported yet, and the ones before it ended.
            if reported.is(Mark::Stalled) && resumes > 0 {
                self.resume(place, hot, cold, resumes);
                self.record(place).resumes = cold.resumes;
            }
            return self.confirm(place);
        }
        if reported.is(Mark::Stalled) {
            self.resume(place, hot, cold, resumes);
        } else if stalls > 0 {
            // The stall ended before it was reported. The beat shows that the process existed, but the agent
            // may have beaten on another shard meanwhile.
            self.record(place).set(Mark::Confirming, false);
            if !self.record(place).is(Mark::Recalling) {
                self.record(place).set(Mark::Recalling, true);
                let generation = self.record(place).generation;
                self.look_again(place);
                self.kick_others(place);
                self.await_word(place, generation);
            }
            return;
        }
        let reported = self.record(place);
        (reported.stalls, reported.resumes) = (cold.stalls, cold.resumes);
    }

    /// Finds out whether the threshold of an agent that stalls is above the usual time between its beats.
    fn compare_with_period(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let Record { class, generation, .. } = *self.record(place);
        let rule = self.policy.classes.rule_of(class);
        if rule.is_none() && class != 0 {
            return;
        }
        let threshold_ns = self.allowed_of(place, hot, cold).ns;
        if self.usual.len() >= USUAL_MAX && !self.usual.contains_key(&place) {
            self.usual.clear();
        }
        let begun = || (generation, Usual::begin(hot, cold));
        let of = self.usual.entry(place).or_insert_with(begun);
        if of.0 != generation {
            *of = begun();
        }
        let Some(period_ns) = of.1.look(hot, cold, threshold_ns) else { return };
        let about = self.about(place);
        let label = about.unit.or(about.exe).and_then(Label::text);
        let name = match label {
            Some(label) => label.to_string(),
            None if about.comm.is_empty() => format!("pid {}", hot.pid),
            None => about.comm.as_str().to_owned(),
        };
        self.tally.too_short.add(TooShort { rule, threshold_ns, period_ns, name });
    }

    /// How long the silence that ended last had to be to count as a stall.
    pub(super) fn threshold_of_ended(&mut self, place: Place, hot: &Hot, cold: &Cold) -> u64 {
        let threshold_ns = self.allowed_before(place, hot, cold);
        let began = cold.resume_at - cold.resume_silent_ns;
        let refused = self.view(place.shard).port.turned_away.last(hot.pid);
        if refused.is_some_and(|refused| refused.at > began && refused.at <= cold.resume_at) {
            return rules::longest_doubt(threshold_ns);
        }
        threshold_ns
    }

    /// Reports the last stall, together with all since the last reported one; their ends are counted.
    pub(super) fn stall(&mut self, place: Place, hot: &Hot, cold: &Cold, is_certain: bool, coalesced: u32) {
        self.report_rest(place, hot, cold);
        let silent_since = cold.stall_at - cold.stall_silent_ns;
        let reported = self.record(place);
        let is_known = hot.state == State::Stalled && !reported.is(Mark::LookingAgain);
        let holder = Holder { place, generation: reported.generation };
        let names = &self.inquiries.names;
        let (process, used_cpu) =
            if is_known { (names.state(holder), names.used_cpu(holder)) } else { (None, None) };
        let allowed = match hot.state {
            State::Stalled => self.allowed_of(place, hot, cold),
            _ => Allowed { ns: self.allowed_before(place, hot, cold), by: By::from_code(cold.stall_by) },
        };
        let phase = match self.daemon(place).and_then(|daemon| daemon.missed()) {
            Some(Limit::Start) => Some(StallPhase::Start),
            Some(Limit::Stop) => Some(StallPhase::Stopping),
            Some(Limit::Silence) | None => allowed.by.phase(),
        };
        let kind = EventKind::Stall {
            silent_ns: cold.stall_silent_ns,
            last_nonce: cold.stall_nonce,
            certain: is_certain,
            blind_ns: cold.stall_blind_ns,
            process,
            used_cpu,
            phase,
            coalesced,
        };
        let unit = self.unit_of(place);
        self.tally.units.add_stalls(unit, coalesced.into(), self.now);
        let since = self.thawed_at(place).unwrap_or(silent_since);
        let deadline = self.counts_from(since) + allowed.ns;
        let reported = self.record(place);
        let between = cold.resumes.wrapping_sub(reported.resumes).min(coalesced.saturating_sub(1));
        reported.resumes = reported.resumes.wrapping_add(between);
        {
            let tally = &mut self.tally;
            let shard = &mut tally.shards[usize::from(place.shard)];
            let count = if is_certain { &mut shard.stalls_certain } else { &mut shard.stalls_uncertain };
            *count += u64::from(coalesced);
            shard.resumes += u64::from(between);
            shard.up -= 1;
            shard.stalled += 1;
            shard.histograms.lateness_ns.saturating_record(self.now.since(deadline));
        }
        self.record(place).set(Mark::Stalled, true);
        self.report_of(place, hot, cold.stall_at, kind);
    }

    /// Reports the end of the reported silence, together with all silences since: these were stalls, too, and
    /// uncertain, because the aggregator asked about none of them.
    pub(super) fn resume(&mut self, place: Place, hot: &Hot, cold: &Cold, coalesced: u32) {
        self.report_rest(place, hot, cold);
        let (silent_ns, lost) = (cold.resume_silent_ns, cold.resume_lost);
        let is_refuted = rules::is_refuted(silent_ns, lost, self.allowed_before(place, hot, cold));
        let reported = self.record(place);
        let between = cold.stalls.wrapping_sub(reported.stalls).min(coalesced.saturating_sub(1));
        reported.stalls = reported.stalls.wrapping_add(between);
        {
            let tally = &mut self.tally;
            let shard = &mut tally.shards[usize::from(place.shard)];
            shard.stalls_uncertain += u64::from(between);
            shard.resumes += u64::from(coalesced);
            shard.stalls_refuted += u64::from(is_refuted);
            shard.stalled -= 1;
            shard.up += 1;
        }
        if between > 0 {
            let unit = self.unit_of(place);
            self.tally.units.add_stalls(unit, between.into(), self.now);
        }
        let reported = self.record(place);
        reported.set(Mark::Stalled, false);
        // The beat may be the last frame of a process that has exited.
        if !reported.is_gone() {
            reported.existence = Existence::Unknown;
        }
        self.compare_with_period(place, hot, cold);
        self.report_of(place, hot, cold.resume_at, EventKind::Resume { silent_ns, lost, coalesced });
        if planted!(ResumesTwice) {
            self.report_of(place, hot, cold.resume_at, EventKind::Resume { silent_ns, lost, coalesced });
        }
    }

    /// The silence that is allowed to the slot's holder at present, as far as its rule is known; to a daemon, the length
    /// of the limit that it missed.
    pub(super) fn allowed_of(&mut self, place: Place, hot: &Hot, cold: &Cold) -> Allowed {
        let class = self.record(place).class;
        match self.allowed_to_daemon(place, class) {
            Some(ns) => Allowed { ns, by: By::Rule },
            None => phase::allowed(&self.policy.classes, class, &Facts::of(hot, cold)),
        }
    }

    /// The same, ns, for its last silence that was judged, when a beat has ended that.
    fn allowed_before(&mut self, place: Place, hot: &Hot, cold: &Cold) -> u64 {
        let class = self.record(place).class;
        if let Some(ns) = self.allowed_to_daemon(place, class) {
            return ns;
        }
        let judged_ns = phase::allowed_by(&self.policy.classes, class, By::from_code(cold.stall_by));
        match self.allowed_of(place, hot, cold) {
            // Who starts after a beat started before it, too.
            Allowed { ns, by: By::Start } => ns.max(judged_ns),
            _ => judged_ns,
        }
    }

    /// The longest silence that an agent of this class on this shard may be allowed, ns.
    pub(super) fn longest_of(&self, shard: u16, class: u8) -> u64 {
        let daemons = self.shards[usize::from(shard)].port.daemons.as_ref();
        daemons
            .map_or_else(|| self.policy.classes.longest_ns(class), |daemons| daemons.terms.threshold_max_ns)
    }

    /// The silence that is allowed to the daemon of a slot, ns; `None` if its holder sends frames.
    fn allowed_to_daemon(&self, place: Place, class: u8) -> Option<u64> {
        let daemons = self.shards[usize::from(place.shard)].port.daemons.as_ref()?;
        // Neither the default nor what holds until somebody is looked up is meant for daemons.
        let has_rule = self.policy.classes.rule_of(class).is_some() || planted!(TakesTheDefault);
        let of_rule = has_rule.then(|| self.policy.classes.threshold_ns(class));
        let limits = daemons.terms.limits(of_rule);
        // Its shard has judged by its own threshold: without that, nothing is found to be too short.
        let Some(mut daemon) = self.daemon(place) else { return Some(0) };
        // Perhaps its shard does not know yet what was found.
        if let Some(ms) = self.started_with.get(&place) {
            daemon.started_with((*ms > 0).then(|| u64::from(*ms) * MILLISECOND_NS));
        }
        let missed = daemon.missed().map(|limit| daemon.length_ns(limit, &limits));
        Some(missed.unwrap_or_else(|| daemon.threshold_ns(&limits)))
    }

    /// What the holder of the slot said of itself in messages; `None` if it sends frames, or the slot is being written.
    pub(super) fn daemon(&self, place: Place) -> Option<Daemon> {
        let port = &self.shards[usize::from(place.shard)].port;
        port.daemons.as_ref()?;
        let (hot, _, extra) = port.table.read_with_extra(place.slot).ok()?;
        let words = extra?.first_chunk().copied().unwrap_or_default();
        Some(Daemon::from_words(&words, hot.last_arrival, hot.paused_before))
    }
}
