//! What concerns a whole shard and not one agent: blindness, refused frames, full tables, failing sockets,
//! and the reports of its batches.

use super::*;
use crate::event::{BlindWhy, FloodWhy, ShareSpent};
use crate::lane::uids::UidCounts;

/// What it takes to name the user that floods a shard: the counts of earlier looks.
#[derive(Debug, Default)]
pub(super) struct FloodWatch {
    /// Counts of the look before the last one, which was at least a second before it.
    base: Counts,
    /// Counts of the last look.
    last: Counts,
    /// The queue was full since the last flood was reported.
    was_full: bool,
    /// The queue is full.
    is_full: bool,
    over_budget_reported: u64,
    reported_at: Option<MonoNs>,
}

#[derive(Debug, Default)]
struct Counts {
    /// `None`: not looked at yet.
    at: Option<MonoNs>,
    uids: Vec<UidCounts>,
}

impl Counts {
    /// What was counted from here to `now`, by user.
    fn until(&self, now: &[UidCounts]) -> impl Iterator<Item = UidCounts> {
        now.iter().map(|now| {
            let then = self.uids.iter().find(|then| then.uid == now.uid).copied().unwrap_or_default();
            UidCounts {
                frames: now.frames.saturating_sub(then.frames),
                refused: now.refused.saturating_sub(then.refused),
                over_budget: now.over_budget.saturating_sub(then.over_budget),
                ..*now
            }
        })
    }
}

impl Aggregator {
    pub(super) fn take_blindness(&mut self, shard: u16) {
        while let Some(news) = self.view(shard).port.blind.pop() {
            let (window, why, is_begin, is_end) = match news {
                BlindNews::Began(window, why) => (window, why, true, false),
                BlindNews::Ended(window, why) => (window, why, false, true),
                BlindNews::Both(window, why) => (window, why, true, true),
            };
            let flood = &mut self.view(shard).flood;
            if why == BlindWhy::Full {
                flood.was_full |= is_begin;
                flood.is_full = !is_end;
            }
            if is_begin {
                let kind = EventKind::Blind { phase: BlindPhase::Begin, why };
                self.report(Some(shard), None, window.start, kind);
            }
            if is_end {
                let phase = BlindPhase::End { for_ns: window.end.since(window.start) };
                self.report(Some(shard), None, window.end, EventKind::Blind { phase, why });
            }
        }
    }

    pub(super) fn take_samples(&mut self, shard: u16) {
        while let Some(sample) = self.view(shard).port.samples.pop() {
            match sample.what {
                SampleOf::Decode(error) => {
                    let kind = EventKind::Decode { attested: sample.attested, error };
                    self.report(Some(shard), None, sample.arrival, kind);
                }
                SampleOf::Forged(claimed) => {
                    self.report_auth(shard, sample.arrival, claimed, sample.attested, sample.uid);
                }
            }
        }
    }

    pub(super) fn take_beats(&mut self, shard: u16) {
        let port = Arc::clone(&self.view(shard).port);
        let Some(beats) = &port.beats else { return };
        for _ in 0..beats.len() {
            let Some(note) = beats.pop() else { return };
            let place = self.place_of_pid(note.pid);
            let session = place.map_or(Session::default(), |place| self.session(place));
            let agent = Agent {
                pid: note.pid,
                ns_pid: (note.frame_pid != note.pid).then_some(note.frame_pid),
                session: session.number,
                nonce: note.nonce,
                status: note.status,
                origin: Origin::Vlp,
                payload: note.payload,
                about: About::UNKNOWN,
            };
            let kind = EventKind::Beat;
            let (wall, mono) = (self.wall, note.arrival);
            self.fanout.report_beat(Event {
                seq: 0,
                again: false,
                wall,
                mono,
                shard: Some(shard),
                agent: Some(agent),
                kind,
            });
        }
    }

    /// Reports what only counters show: a full table, a failing socket, a panic.
    pub(super) fn take_troubles(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let counters = &view.port.counters;
        let refused = counters.refused(Refusal::TableFull);
        let (reported_at, reported) = view.full_reported;
        let io_errors = counters.io_errors.get();
        let errno = i32::try_from(counters.io_errno.get()).unwrap_or(0);
        let is_full_due = refused > reported && reported_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let is_io_due = io_errors != view.io_errors_reported
            && view.io_reported_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let panics = counters.panics.get();
        let share_refused = view.port.uids.share_refused.get();
        let share_uid = u32::try_from(view.port.uids.share_refused_uid.get()).unwrap_or(0);
        // The shard counts these before it counts all refusals: report no more of them than of all.
        let of_share = (share_refused - view.share_reported).min(refused - reported);
        let is_panic_due = panics != view.panics_reported;
        if is_full_due {
            view.full_reported = (Some(now), refused);
            view.share_reported += of_share;
            let share = (of_share > 0).then_some(ShareSpent { uid: share_uid, refused: of_share });
            self.report(Some(shard), None, now, EventKind::Full { refused: refused - reported, share });
            self.hurry_polled();
        }
        if is_io_due {
            let view = self.view(shard);
            (view.io_errors_reported, view.io_reported_at) = (io_errors, Some(now));
            self.report(Some(shard), None, now, EventKind::Io { place: IoPlace::Receive, errno });
        }
        if is_panic_due {
            self.view(shard).panics_reported = panics;
            self.report(Some(shard), None, now, EventKind::Io { place: IoPlace::Shard, errno: 0 });
        }
        self.watch_over(shard);
    }

    /// Keeps memory ready for new agents, so that the shard never waits for it. If the kernel refuses, that
    /// is reported as a full table, and the aggregator asks again a second later.
    pub(super) fn grant_memory(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let used = u32::try_from(view.port.counters.slots_used.get()).unwrap_or(u32::MAX);
        if now < view.grant_again_at {
            return;
        }
        let granted = view.port.table.grant_ahead(used);
        // Without memory for it, nothing of a slot outlives this process; its agent is observed all the same.
        let kept = view.kept.grant_ahead(view.port.table.granted(), 0);
        if granted.is_err() || kept.is_err() {
            view.grant_again_at = now + SECOND_NS;
        }
    }

    /// Only the aggregator can report a stuck shard.
    fn watch_over(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let counters = &view.port.counters;
        let is_running = counters.health() == ShardHealth::Alive;
        let is_stuck = view.vigil.look(MonoNs(counters.turned_at.get()), now) && is_running;
        if view.port.is_stuck.swap(is_stuck, Ordering::Relaxed) != is_stuck && is_stuck {
            self.report(Some(shard), None, now, EventKind::Io { place: IoPlace::ShardStuck, errno: 0 });
        }
        self.take_flood(shard);
    }

    /// Reports the user that filled the queue or overran the budget. Looks at the counts once a second, to
    /// have something to compare with.
    fn take_flood(&mut self, shard: u16) {
        let now = self.now;
        let ShardView { flood, port, .. } = &mut self.shards[usize::from(shard)];
        let FloodWatch { base, last, was_full, is_full, over_budget_reported, reported_at } = flood;
        let over_budget = port.counters.refused(Refusal::Budget);
        let is_flooded = *was_full || *is_full || over_budget > *over_budget_reported;
        let is_due = reported_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let is_look_due = last.at.is_none_or(|at| now.since(at) >= SECOND_NS);
        if !(is_look_due || is_flooded && is_due) {
            return;
        }
        let Ok(uids) = port.uids.read() else { return };
        let is_over_budget = over_budget > *over_budget_reported;
        let since = *base.at.get_or_insert(now);
        let measure = |counts: &UidCounts| if is_over_budget { counts.over_budget } else { counts.frames };
        let most = base.until(&uids).max_by_key(measure).filter(|counts| measure(counts) > 0);
        let mut reported = None;
        if let Some(most) = most.filter(|_| is_flooded && is_due) {
            (*was_full, *over_budget_reported, *reported_at) = (false, over_budget, Some(now));
            let why = if is_over_budget { FloodWhy::Budget } else { FloodWhy::Full };
            let UidCounts { uid, frames, refused, .. } = most;
            reported = Some(EventKind::Flood { why, uid, frames, refused, for_ns: now.since(since) });
        }
        if is_look_due {
            let seen = Counts { at: Some(now), uids };
            *base = mem::replace(last, seen);
            base.at = base.at.or(Some(now));
        }
        if let Some(kind) = reported {
            self.report(Some(shard), None, now, kind);
        }
    }

    pub(super) fn report_of_files(&mut self, shard: Option<u16>, errno: i32) {
        let tally = &mut self.tally;
        let place = match shard {
            Some(shard) => {
                tally.shards[usize::from(shard)].is_unreachable = errno != 0;
                IoPlace::Socket
            }
            None => {
                tally.is_unlisted = errno != 0;
                IoPlace::Directory
            }
        };
        self.report(shard, None, self.now, EventKind::Io { place, errno });
    }

    /// Room is needed: polls the stalled agents at once, to find those that are gone.
    pub(super) fn hurry_polled(&mut self) {
        for (at, ..) in &mut self.polled {
            *at = (*at).min(self.now);
        }
    }

    /// Takes the reports of batches. True if there were any, so that there will be more.
    pub(super) fn take_reports(&mut self) -> bool {
        let mut samples = [0; SAMPLES_MAX];
        let tally = &mut self.tally;
        let mut is_any = false;
        for (view, tally) in self.shards.iter().zip(&mut tally.shards) {
            let histograms = &mut tally.histograms;
            for _ in 0..REPORTS_PER_TURN {
                let Some(report) = view.port.reports.pop(&mut samples) else { break };
                is_any = true;
                histograms.batch_frames.saturating_record(u64::from(report.frames));
                histograms
                    .decode_ns
                    .saturating_record_n(u64::from(report.decode_ns), u64::from(report.frames));
                for sample in report.queue_ns {
                    histograms.queue_ns.saturating_record(u64::from(*sample));
                }
            }
        }
        is_any
    }

    pub(super) fn publish(&mut self) {
        let tally = &mut self.tally;
        tally.events = self.fanout.last_seq();
        tally.events_dropped = self.fanout.dropped();
        tally.beats_untold = self.fanout.beats_dropped();
        self.asked.answer(&self.tally, self.now);
    }
}
