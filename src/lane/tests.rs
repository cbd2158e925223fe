//! What crosses between threads, in every interleaving of two threads.

use std::sync::atomic::Ordering;

use super::doorbell::Tickless;
use super::inbox::{Inbox, Instruction, Taken, instruction};
use super::index::IndexLane;
use super::report::{self, Report, ReportLane};
use crate::table::word::Word;
use crate::time::MonoNs;

fn instruction(as_of: u64) -> Instruction {
    Instruction { as_of: MonoNs(as_of), ..Instruction::default() }
}

#[test]
fn an_instruction_is_about_one_holder_and_the_last_one_counts() {
    let inbox = Inbox::new(2).unwrap();
    inbox.post(1, 5, instruction::RELEASE, instruction(10));
    inbox.post(1, 7, instruction::CLASS, instruction(0));
    let taken = inbox.take().unwrap();
    assert_eq!((taken.slot, taken.bits), (1, instruction::CLASS), "what was said of 5 does not hit 7");
    assert!(taken.is_about(7) && taken.is_about(7 | 1 << 24) && !taken.is_about(5));
    assert_eq!(inbox.take(), None);
}

#[test]
fn gone_overrides_gone_if_silent_and_not_the_other_way_round() {
    let silent = instruction::RELEASE | instruction::IF_SILENT;
    for (said, means) in [
        (&[silent][..], silent),
        (&[silent, instruction::RELEASE], instruction::RELEASE),
        (&[instruction::RELEASE, silent], instruction::RELEASE),
        (&[instruction::CLASS, silent], instruction::CLASS | silent),
        (&[silent, silent], silent),
    ] {
        let inbox = Inbox::new(1).unwrap();
        for bits in said {
            inbox.post(0, 1, *bits, instruction(10));
        }
        assert_eq!(inbox.take().unwrap().bits, means, "{said:?}");
    }
}
fn words<W: Word>(n: usize, zero: W::Value) -> Box<[W]> {
    (0..n).map(|_| W::new(zero)).collect()
}

/// Explores every interleaving with at most three preemptions.
fn model(interleaved: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(interleaved);
}

/// The shard gives the slot from its first holder to a second while instructions about both are in flight: each
/// applies only to its holder.
#[test]
fn loom_an_instruction_is_whole_and_hits_only_the_holder_it_is_about() {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, AtomicU64};
    type Modelled = Inbox<AtomicU32, AtomicU64, Box<[AtomicU32]>, Box<[AtomicU64]>>;

    /// The shard's state, from the instructions it took.
    struct Shard {
        generation: u32,
        class: Option<u8>,
        inner_pid: Option<u32>,
    }
    impl Shard {
        fn take(&mut self, inbox: &Modelled, generation: &AtomicU32) {
            while let Some(taken) = inbox.take() {
                if !taken.is_about(self.generation) {
                    continue;
                }
                let Taken { bits, instruction, .. } = taken;
                if bits & instruction::RELEASE != 0 {
                    assert_eq!((self.generation, instruction.as_of), (1, MonoNs(10)), "{taken:?}");
                    self.generation = 2;
                    generation.store(2, Ordering::Release);
                    self.class = None;
                    continue;
                }
                if bits & instruction::CLASS != 0 {
                    assert_eq!(instruction.class, [3, 5][self.generation as usize - 1], "{taken:?}");
                    self.class = Some(instruction.class);
                }
                assert!(bits & instruction::FORGED == 0 || self.generation == 1, "{taken:?}");
                if bits & instruction::INNER_PID != 0 {
                    assert_eq!((self.generation, instruction.inner_pid), (2, 9), "{taken:?}");
                    self.inner_pid = Some(9);
                }
            }
        }
    }

    model(|| {
        let lane = IndexLane::new(words(1, 0), words(1, 0));
        let inbox: Arc<Modelled> = Arc::new(Inbox { lane, values: words(2, 0) });
        let generation = Arc::new(AtomicU32::new(1));
        let shard = {
            let (inbox, generation) = (Arc::clone(&inbox), Arc::clone(&generation));
            loom::thread::spawn(move || {
                let mut shard = Shard { generation: 1, class: None, inner_pid: None };
                shard.take(&inbox, &generation);
                shard.take(&inbox, &generation);
                shard
            })
        };
        inbox.post(0, 1, instruction::CLASS, Instruction { class: 3, ..Instruction::default() });
        inbox.post(0, 1, instruction::RELEASE, instruction(10));
        // Too late: the slot is free, or its second holder has it.
        inbox.post(0, 1, instruction::FORGED, Instruction::default());
        // The slot itself shows its holder.
        let is_second = generation.load(Ordering::Acquire) == 2;
        if is_second {
            let about_second = Instruction { class: 5, inner_pid: 9, ..Instruction::default() };
            inbox.post(0, 2, instruction::CLASS | instruction::INNER_PID, about_second);
        }
        let mut shard = shard.join().expect("shard");
        shard.take(&inbox, &generation);
        assert_eq!(shard.generation, 2, "the release came");
        if is_second {
            assert_eq!((shard.class, shard.inner_pid), (Some(5), Some(9)), "the last word came");
        }
    });
}

/// loom reports a deadlock if the aggregator sleeps while a report is queued.
#[test]
fn loom_nobody_sleeps_on_a_report() {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    type Modelled = ReportLane<AtomicU32, Box<[AtomicU32]>>;

    model(|| {
        let lanes: [Arc<Modelled>; 2] = std::array::from_fn(|_| Arc::new(ReportLane::new(words(8, 0))));
        let tickless = Arc::new(Tickless::<AtomicU32>::default());
        let aggregator = loom::thread::current();
        for lane in &lanes {
            let (lane, tickless, aggregator) = (Arc::clone(lane), Arc::clone(&tickless), aggregator.clone());
            loom::thread::spawn(move || {
                assert!(lane.push(&Report { frames: 1, decode_ns: 1, queue_ns: &[] }));
                if tickless.is_to_be_rung() {
                    aggregator.unpark();
                }
            });
        }
        let mut samples = [0; report::SAMPLES_MAX];
        let mut taken = 0;
        loop {
            tickless.end();
            for lane in &lanes {
                taken += usize::from(lane.pop(&mut samples).is_some());
            }
            if taken == lanes.len() {
                break;
            }
            tickless.begin();
            if lanes.iter().all(|lane| lane.is_empty()) {
                loom::thread::park();
            }
        }
    });
}

/// A stop in order: the shard reports its last facts and is joined, and only then is the aggregator stopped.
#[test]
fn fault_34_loom_what_a_shard_says_last_is_told_before_the_stop() {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU32};
    type Facts = IndexLane<AtomicU32, Box<[AtomicU32]>>;

    model(|| {
        let facts: Arc<Facts> = Arc::new(IndexLane::new(words(2, 0), words(2, 0)));
        let is_shard_stopping = Arc::new(AtomicBool::new(false));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let shard = {
            let (facts, is_stopping) = (Arc::clone(&facts), Arc::clone(&is_shard_stopping));
            loom::thread::spawn(move || {
                facts.push(0, 1);
                while !is_stopping.load(Ordering::Acquire) {
                    loom::thread::yield_now();
                }
                facts.push(1, 1);
            })
        };
        let aggregator = {
            let (facts, is_stopping) = (Arc::clone(&facts), Arc::clone(&is_stopping));
            loom::thread::spawn(move || {
                let mut told = 0;
                loop {
                    // Requests before facts: everything that preceded the stop is there to take.
                    let is_last = is_stopping.load(Ordering::Acquire);
                    while facts.pop().is_some() {
                        told += 1;
                    }
                    if is_last {
                        return told;
                    }
                    loom::thread::yield_now();
                }
            })
        };
        is_shard_stopping.store(true, Ordering::Release);
        shard.join().expect("shard");
        is_stopping.store(true, Ordering::Release);
        assert_eq!(aggregator.join().expect("aggregator"), 2);
    });
}
