//! What must hold of agents that beat to an observer of which nothing was adopted, and do not beat to the present one:
//! each is missing once if it lives, when a threshold of sight has passed, until it beats or exits.

use std::collections::HashSet;

use super::*;
use crate::process::expected;
use crate::process::procfs::Life as Lives;

/// Longest time between two questions whether somebody lives.
const ASKED: u64 = SECOND + 400 * MS;
/// Shorter times in which a thread does not run delay what is due, and no more.
const DISTURBED: u64 = 50 * MS;

/// An agent that the observer has to expect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    /// Index of its process.
    life: usize,
    /// Start of the observer.
    since: u64,
    /// When it was reported as missing.
    pub(super) missing_at: Option<u64>,
    /// When this observer found it alive.
    found_at: Option<u64>,
}

impl Model {
    /// The observer was given this roster: pid, start of the process, and how its absence stood.
    pub fn expects(&mut self, roster: Vec<(u32, u64, Option<expected::Absence>)>) -> Verdict {
        let Some(successor) = self.successors.last().copied() else {
            must!(self, I14, roster.is_empty(), "the first observer has a roster: {roster:?}");
            return Ok(());
        };
        let before = std::mem::take(&mut self.absent);
        for (pid, start, absence) in roster {
            let lives = self.truth.of_pid.get(&pid).into_iter().flatten();
            let life = lives.copied().find(|life| started(self.truth.lives[*life].born).0 == start);
            must!(self, I14, life.is_some(), "{pid} of the roster never began at {start}");
            let life = life.unwrap();
            if successor.is_adopting && absence.is_none() {
                continue;
            }
            let known = before.get(&pid).filter(|known| successor.is_adopting && known.life == life);
            let missing_at = known.and_then(|known| known.missing_at);
            let is_ahead = successor.is_adopting && absence == Some(expected::Absence::Missing);
            let is_known = missing_at.is_some() || self.may_have_beaten(pid);
            must!(self, I14, !is_ahead || is_known, "{pid} is missing in the roster alone");
            let absence = Absence { life, since: successor.at, missing_at, found_at: None };
            let is_once = self.absent.insert(pid, absence).is_none();
            must!(self, I14, is_once, "{pid} is in the roster twice");
        }
        for (pid, known) in before.iter().filter(|_| successor.is_adopting) {
            let is_kept = self.absent.contains_key(pid) || self.may_have_beaten(*pid);
            let is_gone = self.truth.lives[known.life].died <= self.now && known.missing_at.is_none();
            must!(self, I14, is_kept || is_gone, "{pid} is forgotten: {known:?}");
        }
        Ok(())
    }

    /// The roster was written: pid and start of each.
    pub fn roster_is_written(&self, listed: &HashSet<(u32, u64)>) -> Verdict {
        for (pid, told) in self.told.iter().filter(|(_, told)| told.is_up) {
            let Some(life) = self.truth.holder(*pid, self.now) else { continue };
            if told.up_at < life.born {
                // It is taken for the process before, as far as is reported.
                continue;
            }
            let start = started(life.born).0;
            let sure = |index: usize| {
                let sending = &self.truth.sendings[index];
                let is_read = matches!(self.fates[index], Fate::Read) && sending.worth == Worth::Sure;
                is_read && self.truth.lives[sending.life].id == life.id
            };
            let has_beaten = self.sendings_within(*pid, told.up_at, self.now).any(sure);
            let is_listed = listed.contains(&(*pid, start));
            must!(
                self,
                I14,
                !has_beaten || is_listed,
                "{pid} is up and not in the roster: {}",
                self.history(*pid)
            );
        }
        Ok(())
    }

    /// The lookup thread was asked whether an agent of the roster lives.
    pub fn looked_if_lives(&mut self, pid: u32, life: &Lives) {
        if let Some(absence) = self.absent.get_mut(&pid)
            && matches!(life, Lives::Lives(_))
        {
            absence.found_at = Some(self.now);
        }
    }

    pub(super) fn on_missing(&mut self, event: &Event, pid: u32) -> Verdict {
        let at = event.mono.since(START);
        let absence = self.absent.get(&pid).copied();
        must!(self, I14, absence.is_some(), "nobody expects {pid}: {event:?}");
        let Absence { life, since, missing_at, found_at } = absence.unwrap();
        must!(self, I14, missing_at.is_none(), "{pid} is missing twice, first at {missing_at:?}: {event:?}");
        let life_of = &self.truth.lives[life];
        let is_found = found_at.is_some_and(|found| (life_of.born..life_of.died).contains(&found));
        must!(self, I14, is_found, "{pid} was not found alive: {event:?}");
        let threshold = self.threshold_low(pid, since, self.now);
        let sighted = self.longest_sight(since, at);
        must!(
            self,
            I14,
            sighted + ERROR >= threshold,
            "{pid} was given {sighted} ns since {since} to beat: {event:?}"
        );
        let until = (since + threshold).saturating_sub(ERROR);
        let beats = self.sendings_within(pid, 0, until).chain(self.messages_within(pid, 0, until));
        let mut beats = beats.filter(|index| {
            let sending = &self.truth.sendings[*index];
            let is_known = matches!(self.fates[*index], Fate::Queued | Fate::Read);
            is_known && sending.worth == Worth::Sure && sending.life == life
        });
        let beat = beats.next().map(|index| self.truth.sendings[index]);
        drop(beats);
        must!(self, I14, beat.is_none(), "{pid} has beaten: {beat:?}, {event:?}");
        self.absent.get_mut(&pid).unwrap().missing_at = Some(at);
        self.told.get_mut(&pid).unwrap().history.push((self.now, event.kind.name(), None));
        Ok(())
    }

    /// An exit of an agent that this observer never saw.
    pub(super) fn on_missing_exit(&mut self, event: &Event, while_away: bool) -> Verdict {
        let pid = event.pid().unwrap();
        let absence = self.absent.remove(&pid);
        let missing_at = absence.and_then(|absence| absence.missing_at);
        must!(self, I14, missing_at.is_some(), "{pid} was not missing: {event:?}");
        let (absence, missing_at) = (absence.unwrap(), missing_at.unwrap());
        let died = self.truth.lives[absence.life].died;
        must!(self, I14, died <= self.now, "{pid} lives: {event:?}");
        let of = self.successors.iter().rfind(|successor| successor.at == absence.since).unwrap();
        let is_of_gap = missing_at < of.ended_at && (of.ended_at..of.at).contains(&died);
        let is_unknown = self.setting.lookup_fails > 0;
        must!(self, I14, while_away || !is_of_gap || is_unknown, "{pid} died at {died}: {event:?}");
        must!(self, I14, !while_away || missing_at < of.ended_at, "{pid} was found alive: {event:?}");
        self.told.get_mut(&pid).unwrap().history.push((self.now, event.kind.name(), None));
        Ok(())
    }

    /// Who lives and does not beat is missing in time, and not for longer than it lives.
    pub(super) fn check_absent(&self, pid: u32) -> Verdict {
        let Some(absence) = self.absent.get(&pid) else { return Ok(()) };
        let life = &self.truth.lives[absence.life];
        let was_turned_away = self.was_turned_away(pid, absence.since, self.now);
        if self.may_have_beaten(pid) || was_turned_away || life.forges_from.is_some() {
            return Ok(());
        }
        let sighted = self.now.saturating_sub(self.disturbed_until().max(absence.since));
        let failing = if self.setting.lookup_fails > 0 { 2 * ASKED } else { 0 };
        let answered = ASKED + failing + self.slack();
        if absence.missing_at.is_none() {
            let is_owed = life.died > self.now && sighted > self.threshold_max() + answered;
            must!(self, I14, !is_owed, "{pid} lives, does not beat, and is not missing: {absence:?}");
        } else if life.died <= self.now {
            let is_owed = sighted.min(self.now - life.died) > answered;
            must!(self, I14, !is_owed, "{pid} died at {} and is missing still: {absence:?}", life.died);
        }
        Ok(())
    }

    /// Whether the observer, or one before whom it adopted, may know a frame of this pid.
    pub(super) fn may_have_beaten(&self, pid: u32) -> bool {
        let is_there = |index: usize| matches!(self.fates[index], Fate::Queued | Fate::Read | Fate::Lost);
        self.sendings_within(pid, 0, self.now).chain(self.messages_within(pid, 0, self.now)).any(is_there)
    }

    /// The longest time in which no shard was blind.
    fn longest_sight(&self, from: u64, to: u64) -> u64 {
        let windows = self.shards.iter().enumerate().flat_map(|(shard, of)| {
            let pause = longest_pause_ns(&self.setting, self.lane_of(shard)) + 2 * MS;
            let pauses = of.pauses.iter().copied().filter(move |(from, to)| to - from > pause);
            let full = of.full.iter().copied().chain(of.full_since.map(|since| (since, u64::MAX)));
            let grace = of.grace.iter().map(|at| (*at, *at));
            pauses.chain(full.filter(|(from, _)| *from + ERROR < to)).chain(grace)
        });
        let mut windows: Vec<_> = windows.filter(|(begin, end)| *end > from && *begin < to).collect();
        windows.sort_unstable();
        let (mut longest, mut since) = (0, from);
        for (begin, end) in windows {
            longest = longest.max(begin.saturating_sub(since));
            since = since.max(end);
        }
        longest.max(to.saturating_sub(since))
    }

    /// Until when a thread did not run, or a shard was blind.
    fn disturbed_until(&self) -> u64 {
        let of_shards = self.shards.iter().flat_map(|of| {
            let windows = of.still.iter().chain(&of.pauses).chain(&of.full).copied();
            let full = of.full_since.map(|_| (0, u64::MAX));
            windows
                .chain(full)
                .chain(of.seemed_full_at.map(|at| (0, at)))
                .chain(of.grace.iter().map(|at| (0, *at)))
        });
        let windows = of_shards.chain(self.still.iter().flatten().copied());
        windows.filter(|(from, to)| to - from > DISTURBED).map(|(_, to)| to.min(self.now)).max().unwrap_or(0)
    }
}
