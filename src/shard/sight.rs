//! When a shard could read its socket and when it was blind: the watermark, pauses, a full queue.
//!
//! In: the instants of each wait and receive call, the arrivals of frames. Out: [`rules::Sight`] for
//! judgements, and the blind windows to report. Thread: shard. Allocates: at start only. Time is an argument.

use std::collections::VecDeque;

use crate::event::BlindWhy;
use crate::lane::blind::{BlindNews, Window};
use crate::rules;
use crate::table::Progress;
use crate::time::MonoNs;

/// A gap up to this length is never a pause, whatever the threshold.
const PAUSE_MIN_NS: u64 = 100_000_000;
/// Blind windows that ended within one turn and are not reported yet; further ones merge into the last.
const FINISHED_MAX: usize = 8;
/// Pause windows remembered until the queue was seen empty after them. If there are more, the oldest is only
/// added to the total.
const WINDOWS_MAX: usize = 32;

/// Receive calls remembered until the queue is seen empty, whatever its limit: the calls for 4 million
/// datagrams, 1 MiB.
const CALLS_MAX: usize = 1 << 16;

/// A blind window as it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blindness {
    /// The window, as far as its end is known.
    pub window: Window,
    /// What blinded the shard.
    pub why: BlindWhy,
    /// The end of the last pause in it.
    pub paused_until: Option<MonoNs>,
    /// Its begin was already reported.
    pub is_begin_told: bool,
}

/// A wait of the shard, and what should have ended it.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The shard was awake at this instant; anything earlier cannot end the wait late.
    from: MonoNs,
    /// The earlier of its own timeout and a kick.
    should_end: MonoNs,
    /// A datagram would have ended it, too.
    is_for_datagrams: bool,
}

/// One receive call since the queue was last seen empty.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// The number of its first datagram, counted from the begin of sight.
    first: u64,
    /// Its datagrams had left the queue by then.
    left_by: MonoNs,
}

/// What one shard saw, and when it was blind.
#[derive(Clone, Debug)]
pub struct SightLog {
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
    /// Datagrams taken: in total, and until the queue was last seen empty.
    taken: u64,
    taken_when_empty: u64,
    /// The calls that took the last `places` datagrams, or all calls since the queue was empty. Oldest first.
    calls: VecDeque<Call>,
    full_until: MonoNs,
    /// Pause windows in which frames still queued may have arrived, oldest first.
    windows: [Window; WINDOWS_MAX],
    windows_len: usize,
    /// Length of all pause windows no longer kept individually.
    paused_ns: u64,
    last_blind_end: MonoNs,
    /// The blind window that may still grow.
    blindness: Option<Blindness>,
    /// Windows that cannot grow any more and are not reported yet, oldest first.
    finished: [Option<Blindness>; FINISHED_MAX],
    /// The last reported windows, for the blind part of a silence.
    recent: [Window; WINDOWS_MAX],
    recent_next: usize,
    blind_total_ns: u64,
}

impl SightLog {
    /// The sight, from `now` on, of a shard whose socket holds `queue_limit` + 1 datagrams and yields
    /// `batch_max` per call. `threshold_ns` is the smallest threshold.
    ///
    /// All time before `now` counts as one pause: an agent that beat before, into the queue or to the
    /// previous thread, gets a whole threshold of sight.
    pub fn new(queue_limit: u32, batch_max: usize, threshold_ns: u64, tick_ns: u64, now: MonoNs) -> Self {
        let places = u64::from(queue_limit) + 1;
        // All calls but the last before the queue is seen empty take `batch_max`.
        let calls_max = (usize::try_from(places).unwrap_or(usize::MAX) / batch_max.max(1) + 3).min(CALLS_MAX);
        let mut windows = [Window::default(); WINDOWS_MAX];
        windows[0].end = now;
        Self {
            places,
            pause_ns: pause_of(threshold_ns),
            tick_ns,
            // Nothing was processed yet, and others may have left older datagrams in the queue.
            watermark: MonoNs(0),
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

    /// The smallest threshold is another one from now on.
    pub fn set_threshold(&mut self, threshold_ns: u64) {
        self.pause_ns = pause_of(threshold_ns);
    }

    /// The shard is about to wait, until `timeout_at` at the latest.
    ///
    /// After a failed receive call the earlier wait continues: the queue was not read in between.
    pub fn begin_wait(&mut self, timeout_at: MonoNs, is_for_datagrams: bool) {
        if self.wait.is_none() {
            self.wait = Some(Wait { from: self.awake_at, should_end: timeout_at, is_for_datagrams });
        }
    }

    /// Another thread kicked the shard at `kicked_at` and ended the wait.
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

    /// The present call returned by `at`: its datagrams arrived before. Call this before
    /// [`SightLog::on_datagram`].
    #[inline]
    pub fn received(&mut self, at: MonoNs) {
        let left_by = at.max(self.t_pre);
        let is_room = self.calls.len() < CALLS_MAX;
        match self.calls.back_mut().filter(|_| !is_room) {
            // Merged with the last call. That can lengthen a full-queue window, never shorten it.
            Some(last) => last.left_by = left_by,
            None => self.calls.push_back(Call { first: self.taken, left_by }),
        }
        if self.is_first_frame_due {
            // The wait is evaluated first, at the first datagram or the end of the call.
            self.received_at = at;
        } else {
            self.ran(at);
        }
    }

    /// A datagram of the present call arrived at `arrival` (the earliest instant that can be true).
    ///
    /// Call this for every datagram, including refused ones, before [`SightLog::paused_before`].
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

    /// The datagrams of the present call were taken by `now`; `is_queue_empty` if the call did not fill its
    /// batch.
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

    /// Total pause time of the shard before `instant`, ns.
    #[inline]
    pub fn paused_before(&self, instant: MonoNs) -> u64 {
        if self.windows_len == 0 {
            return self.paused_ns;
        }
        let windows = &self.windows[..self.windows_len];
        self.paused_ns + windows.iter().map(|window| window.length_before(instant)).sum::<u64>()
    }

    /// The input of a judgement.
    #[inline]
    pub fn view(&self) -> rules::Sight {
        rules::Sight {
            watermark: self.watermark,
            paused_before: self.paused_before(self.watermark),
            last_blind_end: self.last_blind_end,
        }
    }

    /// Continues for a thread that had processed everything up to `watermark` and had been blind for
    /// `blind_total_ns`.
    pub fn go_on_from(&mut self, watermark: MonoNs, blind_total_ns: u64) {
        self.watermark = watermark;
        self.blind_total_ns = blind_total_ns;
    }

    /// Continues for a process that came this far; its sight ended when it last ran. Call before the first receive.
    ///
    /// The time without sight counts as one pause, from the first instant that the process before had not accounted
    /// for: an agent that was silent in it gets a whole threshold of sight from now on. The watermark is not moved: older
    /// datagrams are still queued.
    pub fn go_on_after(&mut self, before: &Progress) {
        let now = self.awake_at;
        if planted!(JudgesBeforeDraining) {
            // The next tick: no timer is earlier.
            (self.watermark, self.last_blind_end) = (now + self.tick_ns, MonoNs(0));
            return;
        }
        self.watermark = before.watermark.min(now);
        if planted!(ForgetsTheGap) {
            self.last_blind_end = MonoNs(0);
        }
        self.windows[0] = Window { start: before.paused_from.min(now), end: now };
        self.paused_ns = before.paused_ns;
        self.blindness = Some(Blindness {
            window: Window { start: before.alive_at.min(now), end: now },
            why: BlindWhy::Restart,
            paused_until: Some(now),
            is_begin_told: false,
        });
    }

    /// Length of the pauses that are not remembered one by one, and the instant up to which these are all, for a
    /// successor.
    pub fn accounted(&self) -> (u64, MonoNs) {
        let first = self.windows[..self.windows_len].first();
        (self.paused_ns, first.map_or(self.awake_at, |window| window.start))
    }

    /// The instant up to which everything that arrived has been processed. Never decreases.
    #[inline]
    pub const fn watermark(&self) -> MonoNs {
        self.watermark
    }

    /// Whether there is a blind window that may still grow.
    pub const fn is_blind(&self) -> bool {
        self.blindness.is_some()
    }

    /// End of the last blind window that began before the watermark (the end may lie after it), or the begin
    /// of sight.
    pub const fn last_blind_end(&self) -> MonoNs {
        self.last_blind_end
    }

    /// Length of all blind windows ended so far, ns.
    pub const fn blind_total_ns(&self) -> u64 {
        self.blind_total_ns
    }

    /// The time since `last_arrival` in which the shard was blind, ns. Exact for the last 32 windows.
    pub fn blind_since(&self, last_arrival: MonoNs) -> u64 {
        let within = |window: &Window| window.end.since(window.start.max(last_arrival));
        let ended: u64 = self.recent.iter().map(within).sum();
        ended + self.blindness.map_or(0, |blindness| within(&blindness.window))
    }

    /// The next blindness to report, if any. An ended window is reported once no other can merge with it: a
    /// tick later.
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
        // A pause is noticed at its end, so its begin and end are reported together. The full queue it left
        // behind is drained within a tick; otherwise it is reported.
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

    /// When [`SightLog::take_news`] will return something without any further input.
    pub fn news_due(&self) -> Option<MonoNs> {
        self.blindness.map(|blindness| blindness.window.end + self.tick_ns)
    }

    /// The first receive call after a wait found its oldest frame, or none. The wait was a pause if it lasted
    /// much longer than anything that should have ended it; a wait that nothing should have ended is not one.
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

    /// The shard runs at `at` and has not slept since it last was known to run.
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
            // Frames from before these windows are hardly still queued; the total stays exact.
            self.paused_ns += self.windows[0].length();
            self.windows.copy_within(1.., 0);
            self.windows_len -= 1;
        }
        // Windows never overlap; otherwise the same time would be subtracted twice.
        let start = match self.windows_len.checked_sub(1) {
            Some(last) => window.start.max(self.windows[last].end),
            None => window.start,
        };
        self.windows[self.windows_len] = Window { start, end: window.end };
        self.windows_len += 1;
        self.last_blind_end = self.last_blind_end.max(window.end);
        match &mut self.blindness {
            Some(blindness) if window.start <= blindness.window.end + self.tick_ns => {
                if blindness.why != BlindWhy::Restart {
                    blindness.why = BlindWhy::Paused;
                }
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

    /// Detects whether the queue was full when the last datagram arrived, at `arrival`.
    ///
    /// The queue has `places`. If the datagram `places` - 1 before this one was still queued, this one took
    /// the last place, and the kernel refused all others until that one left. The exact instant within its
    /// call is not known, so the end of the call is used: a window may be reported longer by part of one
    /// call, never shorter.
    fn look_for_room(&mut self, arrival: MonoNs) {
        let Some(number) = self.taken.checked_sub(self.places) else { return };
        while self.calls.get(1).is_some_and(|next| next.first <= number) {
            self.calls.pop_front();
        }
        let Some(call) = self.calls.front().filter(|call| call.first <= number) else { return };
        // Datagrams of one call share its end.
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

    /// The queue was seen empty after `t_pre`: datagrams read from now on arrived later.
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

/// How much later than it should end a wait must end to count as a pause, ns.
fn pause_of(threshold_ns: u64) -> u64 {
    PAUSE_MIN_NS.max(threshold_ns / 4)
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
