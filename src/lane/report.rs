//! One report per batch, from a shard to the aggregator. If the lane is full the report is dropped and
//! counted: reports are statistics, never facts.
//!
//! One producer, one consumer, wait-free on both sides. A report takes 3 words and one per sample.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;

use crate::table::word::Word;

/// Most queue-latency samples of one report.
pub const SAMPLES_MAX: usize = 64;
const HEAD_WORDS: u32 = 3;

/// Statistics of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// Datagrams in it.
    pub frames: u32,
    /// Time to decode and track one of them, ns: the batch's time divided by its frames.
    pub decode_ns: u32,
    /// Time from arrival in the kernel's queue to being read, ns, of up to 64 of them.
    pub queue_ns: &'a [u32],
}

/// The queue; `S` holds its words.
#[derive(Debug)]
pub struct ReportLane<W: Word<Value = u32>, S: Deref<Target = [W]>> {
    ring: S,
    head: CachePadded<W>,
    tail: CachePadded<W>,
}

impl<W: Word<Value = u32>, S: Deref<Target = [W]>> ReportLane<W, S> {
    /// A lane of as many words as `ring` has, a power of two.
    pub fn new(ring: S) -> Self {
        assert!(ring.len().is_power_of_two(), "a ring's length must be a power of two");
        Self { ring, head: CachePadded::new(W::new(0)), tail: CachePadded::new(W::new(0)) }
    }

    /// Queues a report. Producer only. False if there was no room: the report is dropped.
    #[inline]
    pub fn push(&self, report: &Report<'_>) -> bool {
        let samples = &report.queue_ns[..report.queue_ns.len().min(SAMPLES_MAX)];
        let count = u32::try_from(samples.len()).unwrap_or(0);
        let tail = self.tail.load(Ordering::Relaxed);
        let used = tail.wrapping_sub(self.head.load(Ordering::Acquire));
        if used as usize + (HEAD_WORDS + count) as usize > self.ring.len() {
            return false;
        }
        let head = [count, report.frames, report.decode_ns];
        let mut at = tail;
        for word in head.iter().chain(samples) {
            self.place(at).store(*word, Ordering::Relaxed);
            at = at.wrapping_add(1);
        }
        self.tail.store(at, Ordering::Release);
        true
    }

    /// Takes the next report and writes its samples to `samples`. Consumer only.
    #[inline]
    pub fn pop<'a>(&self, samples: &'a mut [u32; SAMPLES_MAX]) -> Option<Report<'a>> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let word = |offset: u32| self.place(head.wrapping_add(offset)).load(Ordering::Relaxed);
        let count = (word(0) as usize).min(SAMPLES_MAX);
        let (frames, decode_ns) = (word(1), word(2));
        let mut at = HEAD_WORDS;
        for sample in &mut samples[..count] {
            *sample = word(at);
            at += 1;
        }
        self.head.store(head.wrapping_add(at), Ordering::Release);
        Some(Report { frames, decode_ns, queue_ns: &samples[..count] })
    }

    /// Whether at least half of the words are in use. A hint.
    #[inline]
    pub fn is_half_full(&self) -> bool {
        let used = self.tail.load(Ordering::Relaxed).wrapping_sub(self.head.load(Ordering::Relaxed));
        used as usize * 2 >= self.ring.len()
    }

    /// Whether nothing is queued. Exact for the consumer, a hint for other threads.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == self.tail.load(Ordering::Acquire)
    }

    #[inline]
    fn place(&self, count: u32) -> &W {
        &self.ring[count as usize & (self.ring.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<W: Word<Value = u32>>(n: usize) -> Box<[W]> {
        (0..n).map(|_| W::new(0)).collect()
    }

    #[test]
    fn reports_come_out_as_they_went_in_and_a_full_lane_refuses() {
        use std::sync::atomic::AtomicU32;
        let lane = ReportLane::<AtomicU32, _>::new(words(16));
        let mut samples = [0; SAMPLES_MAX];
        for round in 0..50 {
            let queue_ns: Vec<u32> = (0..round % 7).map(|n| n * 100 + round).collect();
            let report = Report { frames: round, decode_ns: 30, queue_ns: &queue_ns };
            assert!(lane.push(&report));
            let second = lane.push(&report);
            assert_eq!(second, 2 * (3 + queue_ns.len()) <= 16);
            assert_eq!(lane.pop(&mut samples), Some(report));
            if second {
                assert_eq!(lane.pop(&mut samples), Some(report));
            }
            assert_eq!(lane.pop(&mut samples), None);
        }
    }

    #[test]
    fn more_samples_than_fit_a_report_are_cut() {
        use std::sync::atomic::AtomicU32;
        let lane = ReportLane::<AtomicU32, _>::new(words(128));
        let many = [5; 100];
        assert!(lane.push(&Report { frames: 100, decode_ns: 1, queue_ns: &many }));
        let mut samples = [0; SAMPLES_MAX];
        let report = lane.pop(&mut samples).expect("queued");
        assert_eq!((report.frames, report.queue_ns.len()), (100, SAMPLES_MAX));
    }

    #[test]
    fn fault_33_loom_a_report_is_whole_or_not_there() {
        use loom::sync::Arc;
        use loom::sync::atomic::AtomicU32;

        fn look(lane: &ReportLane<AtomicU32, Box<[AtomicU32]>>) -> u32 {
            let mut samples = [0; SAMPLES_MAX];
            let mut popped = 0;
            while let Some(report) = lane.pop(&mut samples) {
                assert_eq!(report.frames, report.decode_ns);
                assert_eq!(report.queue_ns, [report.frames]);
                popped += 1;
            }
            popped
        }

        // A thread that writes a word it also reads must run first: loom forgets earlier readers of a word
        // when its writer reads it before writing, and would explore a single interleaving.
        loom::model(|| {
            let lane = Arc::new(ReportLane::<AtomicU32, _>::new(words(8)));
            let consumer = {
                let lane = Arc::clone(&lane);
                loom::thread::spawn(move || look(&lane))
            };
            let mut pushed = 0;
            for n in 1..=3 {
                pushed += u32::from(lane.push(&Report { frames: n, decode_ns: n, queue_ns: &[n] }));
            }
            let popped = consumer.join().expect("consumer") + look(&lane);
            assert_eq!(popped, pushed, "every report that was taken comes out");
        });
    }
}
