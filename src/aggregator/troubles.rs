//! What concerns a whole shard and not one agent: blindness, refused frames, full tables, failing sockets,
//! and the reports of its batches.

use super::*;

impl Aggregator {
    pub(super) fn take_blindness(&mut self, shard: u16) {
        while let Some(news) = self.view(shard).port.blind.pop() {
            let (window, why, is_begin, is_end) = match news {
                BlindNews::Began(window, why) => (window, why, true, false),
                BlindNews::Ended(window, why) => (window, why, false, true),
                BlindNews::Both(window, why) => (window, why, true, true),
            };
            if is_begin {
                let kind = EventKind::Blind { phase: BlindPhase::Begin, why };
                self.tell(Some(shard), None, window.start, kind);
            }
            if is_end {
                let phase = BlindPhase::End { for_ns: window.end.since(window.start) };
                self.tell(Some(shard), None, window.end, EventKind::Blind { phase, why });
            }
        }
    }

    pub(super) fn take_samples(&mut self, shard: u16) {
        while let Some(sample) = self.view(shard).port.samples.pop() {
            match sample.what {
                SampleOf::Decode(error) => {
                    let kind = EventKind::Decode { attested: sample.attested, error };
                    self.tell(Some(shard), None, sample.arrival, kind);
                }
                SampleOf::Forged(claimed) => {
                    self.tell_auth(shard, sample.arrival, claimed, sample.attested, sample.uid);
                }
            }
        }
    }

    pub(super) fn take_beats(&mut self, shard: u16) {
        let port = Arc::clone(&self.view(shard).port);
        let Some(beats) = &port.beats else { return };
        for _ in 0..beats.len() {
            let Some(note) = beats.pop() else { return };
            let place = self.places.get(&note.pid).copied();
            let told = place.map(|place| *self.told(place)).unwrap_or_default();
            let agent = Agent {
                pid: note.pid,
                ns_pid: (note.frame_pid != note.pid).then_some(note.frame_pid),
                session: told.session,
                nonce: note.nonce,
                status: note.status,
                payload: note.payload,
            };
            let kind = EventKind::Beat;
            let (wall, mono) = (self.wall, note.arrival);
            self.fanout.tell_beat(Event { seq: 0, wall, mono, shard: Some(shard), agent: Some(agent), kind });
        }
    }

    /// What only counters say: a full table, a failing socket, a dead thread.
    pub(super) fn take_troubles(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let counters = &view.port.counters;
        let refused = counters.refused(Refusal::TableFull);
        let (told_at, told) = view.full_told;
        let io_errors = counters.io_errors.get();
        let errno = i32::try_from(counters.io_errno.get()).unwrap_or(0);
        let is_full_due = refused > told && told_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let is_io_due =
            io_errors != view.io_errors_told && view.io_told_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let panics = counters.panics.get();
        let is_panic_due = panics != view.panics_told;
        if is_full_due {
            view.full_told = (Some(now), refused);
            self.tell(Some(shard), None, now, EventKind::Full { refused: refused - told });
            self.hurry_polled();
        }
        if is_io_due {
            let view = self.view(shard);
            (view.io_errors_told, view.io_told_at) = (io_errors, Some(now));
            self.tell(Some(shard), None, now, EventKind::Io { place: IoPlace::Receive, errno });
        }
        if is_panic_due {
            self.view(shard).panics_told = panics;
            self.tell(Some(shard), None, now, EventKind::Io { place: IoPlace::Shard, errno: 0 });
        }
        self.watch_over(shard);
    }

    /// Nobody but the aggregator could tell of a shard that is stuck.
    fn watch_over(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let counters = &view.port.counters;
        let is_running = counters.health() == ShardHealth::Alive;
        let is_stuck = view.vigil.look(MonoNs(counters.turned_at.get()), now) && is_running;
        if view.port.is_stuck.swap(is_stuck, Ordering::Relaxed) != is_stuck && is_stuck {
            self.tell(Some(shard), None, now, EventKind::Io { place: IoPlace::ShardStuck, errno: 0 });
        }
    }

    pub(super) fn tell_of_files(&mut self, shard: Option<u16>, errno: i32) {
        let mut tally = self.tally.lock();
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
        drop(tally);
        self.tell(shard, None, self.now, EventKind::Io { place, errno });
    }

    /// Room is needed: ask at once who of the stalled is gone.
    pub(super) fn hurry_polled(&mut self) {
        for (at, ..) in &mut self.polled {
            *at = (*at).min(self.now);
        }
    }

    /// True if there were any, so that there will be more.
    pub(super) fn take_reports(&mut self) -> bool {
        let mut samples = [0; SAMPLES_MAX];
        let mut tally = self.tally.lock();
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
        let mut tally = self.tally.lock();
        tally.events = self.fanout.last_seq();
        tally.events_dropped = self.fanout.dropped();
        tally.beats_untold = self.fanout.beats_dropped();
    }
}
