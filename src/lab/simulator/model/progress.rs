//! What must hold of agents whose rule asks for progress: who is at a standstill has beaten for a progress threshold
//! without a change of what its beats count, and that is said once, until it is over.

use super::*;

/// How much later than a progress threshold and the time between two looks a standstill may be reported.
const LATE: u64 = 500 * MS;

/// A time in which an agent works at nothing, in a world in which nothing else happens to it or the observer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stand {
    pid: u32,
    /// Its first beat then.
    since: u64,
    /// When it must be reported by.
    due: u64,
}

/// The times that must be reported.
pub(super) fn stands_of(story: &Story, truth: &Truth) -> Vec<Stand> {
    let Some(threshold) = story.setting.progress else { return Vec::new() };
    let is_calm =
        |what: &What| what.agent().is_some() || matches!(what, What::Garbage { .. } | What::Wake { .. });
    let is_quiet = story.setting.lookup_fails == 0
        && story.setting.agents_max as usize >= truth.of_pid.len()
        && story.happenings.iter().all(|happening| is_calm(&happening.what));
    let mut stands = Vec::new();
    for life in truth.lives.iter().filter(|_| is_quiet) {
        let of: Vec<&What> = story.happenings.iter().map(|happening| &happening.what).collect();
        let mut of = of.into_iter().filter(|what| what.agent() == Some(life.id));
        let is_rule = life.class_at(0) > 0 && life.inner.is_none();
        if !is_rule || of.any(|what| !matches!(what, What::Stand { .. })) {
            continue;
        }
        let beats: Vec<(u64, u64)> =
            truth.sendings.iter().filter_map(|sending| beat_of(sending, life)).collect();
        let period = beats.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(0);
        let smallest = story.setting.terms().smallest();
        if period + 2 * story.setting.tick + LATE / 10 >= smallest {
            // It may seem to be silent.
            continue;
        }
        for same in beats.chunk_by(|one, other| one.1 == other.1) {
            let since = same[0].0;
            let due = since + threshold + threshold / 4 + 2 * period + LATE;
            if same[same.len() - 1].0 > due {
                stands.push(Stand { pid: life.pid, since, due });
            }
        }
    }
    stands
}

/// When and with which payload, if it is a beat of this process.
fn beat_of(sending: &Sending, life: &Life) -> Option<(u64, u64)> {
    match sending.what {
        Datagram::Frame(frame) if truth::id_of(frame.payload) == life.id && !frame.is_terminal() => {
            Some((sending.at, frame.payload))
        }
        _ => None,
    }
}

impl Model {
    /// A standstill or its end was reported.
    pub(super) fn on_progress(&mut self, event: &Event) -> Verdict {
        let pid = event.agent.unwrap().pid;
        let told = &self.told[&pid];
        let is_still = matches!(event.kind, EventKind::Standstill { .. });
        must!(self, I15, told.is_up, "nobody is up as {pid}: {event:?}; {}", self.history(pid));
        must!(self, I15, told.is_still != is_still, "said twice of {pid}: {event:?}; {}", self.history(pid));
        self.told.get_mut(&pid).unwrap().is_still = is_still;
        if is_still {
            let now = self.now;
            self.stands.retain(|stand| stand.pid != pid || stand.since > now);
            self.stalls.push((now, *event));
        }
        Ok(())
    }

    /// Whatever must be reported by now was.
    pub(super) fn check_stands(&self) -> Verdict {
        let missed = self.stands.iter().find(|stand| stand.due < self.now);
        must!(self, I15, missed.is_none(), "a standstill was not said: {missed:?}");
        Ok(())
    }

    pub(super) fn check_standstill(&self, event: &Event, told_at: u64) -> Verdict {
        let EventKind::Standstill { still_ns, certain } = event.kind else { return Ok(()) };
        let agent = event.agent.unwrap();
        let (pid, at) = (agent.pid, event.mono.since(START));
        let Some(threshold) = self.setting.progress else {
            must!(self, I15, false, "no rule asks for progress: {event:?}");
            return Ok(());
        };
        must!(self, I15, still_ns + ERROR >= threshold, "too short: {event:?}");
        let mut rules =
            self.terms_within(at.saturating_sub(ERROR), told_at).flat_map(|index| &self.terms[index].1.rules);
        let asks = rules.any(|(of, _)| self.classes_of(pid, told_at).any(|class| class == *of));
        must!(self, I15, asks, "no rule asks {pid} for progress: {event:?}");
        let from = (at + ERROR).saturating_sub(threshold);
        let mut counted = None;
        let told = &self.told[&pid];
        let begun = told.silence[0].resumed_at.max(told.up_at);
        must!(self, I15, begun <= from, "{pid} beats since {begun}: {event:?}; {}", self.history(pid));
        for index in self.sendings_within(pid, from, at) {
            let sending = &self.truth.sendings[index];
            let Datagram::Frame(frame) = sending.what else { continue };
            let is_taken = matches!(self.fates[index], Fate::Queued | Fate::Read);
            // What a full queue refused makes a shard blind.
            let is_refused = certain && self.fates[index] == Fate::Refused;
            let is_excused = !certain && Some(sending.shard) != event.shard;
            let counts = sending.worth == Worth::Sure && (is_taken || is_refused) && !is_excused;
            if !counts || truth::id_of(frame.payload) != truth::id_of(agent.payload) {
                continue;
            }
            must!(self, I15, frame.status != AT_REST, "{pid} had nothing to do at {}: {event:?}", sending.at);
            // A second handle counts nothing.
            if truth::is_counted(frame.payload) {
                let before = counted.replace(frame.payload);
                let is_same = before.is_none_or(|before| before == frame.payload);
                must!(
                    self,
                    I15,
                    is_same,
                    "{pid} had advanced by {}: {event:?}; {}",
                    sending.at,
                    self.history(pid)
                );
            }
        }
        Ok(())
    }
}
