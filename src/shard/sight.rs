//! What a shard has seen and when it could not see: the watermark, pauses, a full queue.
//!
//! In: the instants of each wait and receive call, the arrivals of frames. Out: [`rules::Sight`] for
//! judgements, and the blind windows to tell. Thread: shard. Allocates: at start only. Time is an
//! argument.

use std::collections::VecDeque;

use crate::event::BlindWhy;
use crate::lane::blind::{BlindNews, Window};
use crate::rules;
use crate::time::MonoNs;

/// A gap this short is never a pause, whatever the threshold.
const PAUSE_MIN_NS: u64 = 100_000_000;
/// Blind windows that ended within one turn and wait to be told; more merge into the last.
const FINISHED_MAX: usize = 8;
/// Pause windows remembered until the queue was seen empty after them; more merge into the last.
const WINDOWS_MAX: usize = 32;

/// Receive calls remembered until the queue is seen empty, whatever the queue may hold: as many as 4 million datagrams
/// take, 1 MiB.
const CALLS_MAX: usize = 1 << 16;

/// A blind window as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blindness {
    /// The window, as far as it is known to reach.
    pub window: Window,
    /// What blinded the shard.
    pub why: BlindWhy,
    /// The end of the last pause in it.
    pub paused_until: Option<MonoNs>,
    /// Its begin was told already.
    pub is_begin_told: bool,
}

/// Why the shard waited, and what should have ended the wait.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The shard was awake until here, so nothing before this ends the wait late.
    from: MonoNs,
    /// The earliest of its own timeout and a kick.
    should_end: MonoNs,
    /// A datagram would have ended it, too.
    is_for_datagrams: bool,
}

/// One receive call since the queue was seen empty last.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// The number of its first datagram, counted from the begin of sight.
    first: u64,
    /// Its datagrams had left the queue by then.
    left_by: MonoNs,
}

/// One shard's sight.
#[derive(Clone, Debug)]
pub struct Sight {
    places: u64,
    pause_ns: u64,
    tick_ns: u64,
    watermark: MonoNs,
    wait: Option<Wait>,
    /// The last instant at which the shard was known to run.
    awake_at: MonoNs,
    t_pre: MonoNs,
    received_at: MonoNs,
    is_first_frame_due: bool,
    /// Datagrams taken, in all and until the queue was seen empty last.
    taken: u64,
    taken_when_empty: u64,
    /// The calls that took the last `places` datagrams, or all since the queue was empty. Oldest first.
    calls: VecDeque<Call>,
    full_until: MonoNs,
    /// Pause windows that frames still queued may have arrived in, oldest first.
    windows: [Window; WINDOWS_MAX],
    windows_len: usize,
    /// Length of all pause windows no longer remembered one by one.
    paused_ns: u64,
    last_blind_end: MonoNs,
    /// The blind window that may still grow.
    blindness: Option<Blindness>,
    /// Windows that cannot grow any more, oldest first, and are not told yet.
    finished: [Option<Blindness>; FINISHED_MAX],
    /// The last windows told, for the blind part of a silence.
    recent: [Window; WINDOWS_MAX],
    recent_next: usize,
    blind_total_ns: u64,
}

impl Sight {
    /// The sight of a shard whose socket holds `queue_limit` + 1 datagrams and yields `batch_max` of them a
    /// call, judging nothing shorter than `threshold_ns` (the smallest threshold there is), from `now` on.
    ///
    /// All time before `now` counts as one pause: whoever beat before, into the queue or to a thread that
    /// this one takes over from, is owed a whole threshold of sight.
    pub fn new(queue_limit: u32, batch_max: usize, threshold_ns: u64, tick_ns: u64, now: MonoNs) -> Self {
        let places = u64::from(queue_limit) + 1;
        // All but the last call before the queue is seen empty are of `batch_max`.
        let calls_max = (usize::try_from(places).unwrap_or(usize::MAX) / batch_max.max(1) + 3).min(CALLS_MAX);
        let mut windows = [Window::default(); WINDOWS_MAX];
        windows[0].end = now;
        Self {
            places,
            pause_ns: PAUSE_MIN_NS.max(threshold_ns / 4),
            tick_ns,
            watermark: now,
            wait: None,
            awake_at: now,
            t_pre: now,
            received_at: now,
            is_first_frame_due: false,
            taken: 0,
            taken_when_empty: 0,
            calls: VecDeque::with_capacity(calls_max),
            full_until: now,
            windows,
            windows_len: 1,
            paused_ns: 0,
            last_blind_end: now,
            blindness: None,
            finished: [None; FINISHED_MAX],
            recent: [Window::default(); WINDOWS_MAX],
            recent_next: 0,
            blind_total_ns: 0,
        }
    }

    /// The shard is about to wait, until `timeout_at` at the latest.
    ///
    /// After a receive call that failed the wait before it goes on: nothing was seen in between.
    pub fn begin_wait(&mut self, timeout_at: MonoNs, is_for_datagrams: bool) {
        if self.wait.is_none() {
            self.wait = Some(Wait { from: self.awake_at, should_end: timeout_at, is_for_datagrams });
        }
    }

    /// The wait was ended by a kick that another thread gave at `kicked_at`.
    pub fn kicked(&mut self, kicked_at: MonoNs) {
        if let Some(wait) = &mut self.wait {
            wait.should_end = wait.should_end.min(kicked_at);
        }
    }

    /// The shard is about to call receive, at `t_pre`.
    #[inline]
    pub fn begin_receive(&mut self, t_pre: MonoNs) {
        self.is_first_frame_due = self.wait.is_some();
        if self.is_first_frame_due {
            self.awake_at = self.awake_at.max(t_pre);
        } else {
            self.ran(t_pre);
        }
        self.t_pre = t_pre;
    }

    /// The present call returned by `at`: its datagrams arrived before. To be called before them.
    #[inline]
    pub fn received(&mut self, at: MonoNs) {
        let left_by = at.max(self.t_pre);
        let is_room = self.calls.len() < CALLS_MAX;
        match self.calls.back_mut().filter(|_| !is_room) {
            // As one call with the last, which makes a window longer and never shorter.
            Some(last) => last.left_by = left_by,
            None => self.calls.push_back(Call { first: self.taken, left_by }),
        }
        if self.is_first_frame_due {
            // What there is to say of the wait comes first.
            self.received_at = at;
        } else {
            self.ran(at);
        }
    }

    /// A datagram of the present call arrived at `arrival` (the earliest instant that can be true).
    ///
    /// To be called for every datagram, refused ones included, before [`Sight::paused_before`].
    #[inline]
    pub fn on_datagram(&mut self, arrival: MonoNs) {
        if self.is_first_frame_due {
            self.end_wait(Some(arrival));
        }
        self.taken += 1;
        if self.taken - self.taken_when_empty >= self.places {
            self.look_for_room(arrival);
        }
        self.watermark = self.watermark.max(arrival);
    }

    /// The datagrams of the present call were taken by `now`; `is_queue_empty` if it found less than it
    /// had room for.
    #[inline]
    pub fn end_receive(&mut self, is_queue_empty: bool, now: MonoNs) {
        if self.is_first_frame_due {
            self.end_wait(None);
        }
        if is_queue_empty {
            self.taken_when_empty = self.taken;
            self.calls.clear();
            self.watermark = self.watermark.max(self.t_pre);
            self.forget_windows();
        }
        self.ran(now);
    }

    /// How long the shard had been paused in all before `instant`, ns.
    #[inline]
    pub fn paused_before(&self, instant: MonoNs) -> u64 {
        if self.windows_len == 0 {
            return self.paused_ns;
        }
        let windows = &self.windows[..self.windows_len];
        self.paused_ns + windows.iter().map(|window| window.length_before(instant)).sum::<u64>()
    }

    /// What rules need to judge.
    #[inline]
    pub fn view(&self) -> rules::Sight {
        rules::Sight {
            watermark: self.watermark,
            paused_before: self.paused_before(self.watermark),
            last_blind_end: self.last_blind_end,
        }
    }

    /// Takes over from a thread that had processed everything up to `watermark` and was blind for so long.
    pub fn go_on_from(&mut self, watermark: MonoNs, blind_total_ns: u64) {
        self.watermark = watermark;
        self.blind_total_ns = blind_total_ns;
    }

    /// The instant up to which everything that arrived has been processed. Never goes back.
    #[inline]
    pub const fn watermark(&self) -> MonoNs {
        self.watermark
    }

    /// Whether there is a blind window that may still grow.
    pub const fn is_blind(&self) -> bool {
        self.blindness.is_some()
    }

    /// End of the last blind window that began before the watermark; it may lie after that. The begin of
    /// sight if there was none.
    pub const fn last_blind_end(&self) -> MonoNs {
        self.last_blind_end
    }

    /// Length of all blind windows ended so far, ns.
    pub const fn blind_total_ns(&self) -> u64 {
        self.blind_total_ns
    }

    /// How much of the silence since `last_arrival` the shard was blind, ns. Exact for the last 32 windows.
    pub fn blind_since(&self, last_arrival: MonoNs) -> u64 {
        let within = |window: &Window| window.end.since(window.start.max(last_arrival));
        let ended: u64 = self.recent.iter().map(within).sum();
        ended + self.blindness.map_or(0, |blindness| within(&blindness.window))
    }

    /// What there is to tell of blindness, one at a time. A window that ended is told once nothing can
    /// merge with it any more: a tick later.
    pub fn take_news(&mut self) -> Option<BlindNews> {
        if let Some(blindness) = &mut self.blindness
            && self.watermark >= blindness.window.end + self.tick_ns
        {
            self.finish();
        }
        if let Some(Blindness { window, why, is_begin_told, .. }) = self.finished[0] {
            self.finished.copy_within(1.., 0);
            self.finished[FINISHED_MAX - 1] = None;
            return Some(if is_begin_told {
                BlindNews::Ended(window, why)
            } else {
                BlindNews::Both(window, why)
            });
        }
        let blindness = self.blindness.as_mut()?;
        // A pause is noticed at its end, so begin and end are told together. The full queue that it left
        // behind is gone within a tick, or it is news.
        let is_aftermath =
            blindness.paused_until.is_some_and(|end| blindness.window.end < end + self.tick_ns);
        if blindness.is_begin_told || is_aftermath {
            return None;
        }
        blindness.is_begin_told = true;
        Some(BlindNews::Began(blindness.window, blindness.why))
    }

    /// The present window cannot grow any more.
    fn finish(&mut self) {
        let Some(blindness) = self.blindness.take() else { return };
        self.recent[self.recent_next] = blindness.window;
        self.recent_next = (self.recent_next + 1) % WINDOWS_MAX;
        self.blind_total_ns += blindness.window.length();
        match self.finished.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(blindness),
            None => {
                if let Some(last) = &mut self.finished[FINISHED_MAX - 1] {
                    last.window.end = blindness.window.end;
                }
            }
        }
    }

    /// When [`Sight::take_news`] will have something to say without any further input.
    pub fn news_due(&self) -> Option<MonoNs> {
        self.blindness.map(|blindness| blindness.window.end + self.tick_ns)
    }

    /// The first receive call after a wait found its oldest frame, or none: was the wait longer than
    /// anything that should have ended it? Waiting for nothing is not a pause.
    fn end_wait(&mut self, oldest: Option<MonoNs>) {
        self.is_first_frame_due = false;
        let Some(wait) = self.wait.take() else { return };
        let should_end = match oldest {
            Some(arrival) if wait.is_for_datagrams => wait.should_end.min(arrival),
            _ => wait.should_end,
        };
        let should_end = should_end.max(wait.from);
        if self.t_pre.since(should_end) > self.pause_ns {
            self.paused(Window { start: should_end, end: self.t_pre });
        }
        self.ran(self.received_at);
    }

    /// The shard runs at `at` and has not slept since it was known to run before.
    #[inline]
    fn ran(&mut self, at: MonoNs) {
        if at.since(self.awake_at) > self.pause_ns {
            self.paused(Window { start: self.awake_at, end: at });
        }
        self.awake_at = self.awake_at.max(at);
    }

    #[cold]
    fn paused(&mut self, window: Window) {
        if self.windows_len == WINDOWS_MAX {
            // Older frames than these windows cannot be queued in numbers that matter; the total stays true.
            self.paused_ns += self.windows[0].length();
            self.windows.copy_within(1.., 0);
            self.windows_len -= 1;
        }
        // Windows never overlap, else a time would be taken off twice.
        let start = match self.windows_len.checked_sub(1) {
            Some(last) => window.start.max(self.windows[last].end),
            None => window.start,
        };
        self.windows[self.windows_len] = Window { start, end: window.end };
        self.windows_len += 1;
        self.last_blind_end = self.last_blind_end.max(window.end);
        match &mut self.blindness {
            Some(blindness) if window.start <= blindness.window.end + self.tick_ns => {
                blindness.why = BlindWhy::Paused;
                blindness.paused_until = Some(window.end);
                if !blindness.is_begin_told {
                    blindness.window.start = blindness.window.start.min(window.start);
                }
                blindness.window.end = blindness.window.end.max(window.end);
            }
            _ => {
                self.finish();
                self.blindness = Some(Blindness {
                    window,
                    why: BlindWhy::Paused,
                    paused_until: Some(window.end),
                    is_begin_told: false,
                });
            }
        }
    }

    /// Was the queue full when the last datagram taken arrived, at `arrival`?
    ///
    /// The queue has `places`. If the datagram `places` - 1 before this one was still in it, this one took the
    /// last place, and the kernel refused all others until that one left. When in its call it left nobody knows:
    /// by the call's end, so a window may seem longer by a part of one call, and never shorter.
    fn look_for_room(&mut self, arrival: MonoNs) {
        let Some(number) = self.taken.checked_sub(self.places) else { return };
        while self.calls.get(1).is_some_and(|next| next.first <= number) {
            self.calls.pop_front();
        }
        let Some(call) = self.calls.front().filter(|call| call.first <= number) else { return };
        // Those that one call took leave the same end.
        if call.left_by >= arrival && call.left_by > self.full_until {
            self.full_until = call.left_by;
            self.full(Window { start: arrival, end: call.left_by });
        }
    }

    #[cold]
    fn full(&mut self, window: Window) {
        self.last_blind_end = self.last_blind_end.max(window.end);
        match &mut self.blindness {
            Some(blindness) if window.start <= blindness.window.end + self.tick_ns => {
                blindness.window.end = blindness.window.end.max(window.end);
            }
            _ => {
                self.finish();
                self.blindness =
                    Some(Blindness { window, why: BlindWhy::Full, paused_until: None, is_begin_told: false });
            }
        }
    }

    /// The queue was seen empty after `t_pre`: what is read from here on arrived later than that.
    #[inline]
    fn forget_windows(&mut self) {
        if self.windows_len == 0 {
            return;
        }
        let windows = &self.windows[..self.windows_len];
        let over = windows.iter().take_while(|window| window.end <= self.t_pre).count();
        self.paused_ns += windows[..over].iter().map(|window| window.length()).sum::<u64>();
        self.windows.copy_within(over.., 0);
        self.windows_len -= over;
    }
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
