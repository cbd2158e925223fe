//! A shard that panics at one datagram loses that datagram and no other of its batch.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::config::classes::Classes;
use crate::lab::replay::{Replay, Script};
use crate::lane::kick::Kick;
use crate::shard::front::Limits;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::datagram::Datagram;
use crate::table::{Header, create};
use crate::time::{ManualClock, MonoNs};
use crate::wire::{Frame, Status, Version};

const MS: u64 = 1_000_000;
const T: u64 = 600 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);

/// Panics at one datagram.
struct Poisoned {
    inner: Replay,
    index: Cell<Option<usize>>,
}

impl Transport for Poisoned {
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()> {
        self.inner.wait(for_datagrams, now, until)
    }
    fn receive(&mut self) -> io::Result<usize> {
        self.inner.receive()
    }
    fn datagram(&self, index: usize) -> Datagram<'_> {
        if self.index.get() == Some(index) {
            self.index.set(None);
            panic!("a test asked for this panic");
        }
        self.inner.datagram(index)
    }
    fn sender(&self, index: usize) -> Option<u32> {
        self.inner.sender(index)
    }
    fn batch_max(&self) -> usize {
        self.inner.batch_max()
    }
    fn queue_limit(&self) -> u32 {
        self.inner.queue_limit()
    }
}

/// A shard whose agents have sent one beat each; reading the datagram of index `poisoned` panics.
fn shard(agents: u32, poisoned: usize) -> (Shard<Poisoned, ManualClock>, ManualClock) {
    let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
    let script = Script::new(&clock, 512);
    let header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
    let (writer, table) = create(16, header).unwrap();
    let port = Arc::new(Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap());
    let uids = UidAccounts::new(Arc::clone(&port.uids), None);
    let tracker = Tracker::new(writer, Classes::single(T), 10 * MS, Admission::new(16).unwrap(), uids, START);
    let transport = Poisoned { inner: script.transport(), index: Cell::new(Some(poisoned)) };
    let limits = Limits { threshold_min_ns: T, tick_ns: 10 * MS };
    let front = Front::new(transport, clock.clone(), tracker, limits, None);
    for pid in 101..=100 + agents {
        let frame =
            Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 1, nonce: 1, payload: 0 };
        script.send(START, &frame, pid);
    }
    clock.advance(MS);
    (Shard::new(front, port, Arc::default(), 0), clock)
}

fn panics(shard: &mut Shard<Poisoned, ManualClock>) -> bool {
    catch_unwind(AssertUnwindSafe(|| shard.turn())).is_err()
}

#[test]
fn fault_30_what_was_received_with_a_datagram_that_makes_it_panic_is_not_lost() {
    let (mut shard, _) = shard(5, 2);
    let port = Arc::clone(&shard.port);
    assert!(panics(&mut shard));
    assert_eq!(port.counters.beats.get(), 2);
    shard.recover();
    shard.turn().unwrap();
    assert_eq!(port.counters.beats.get(), 4, "all but the one");
    let tracked: Vec<u32> = (0..4).map(|slot| port.table.read_hot(slot).unwrap().pid).collect();
    assert_eq!(tracked, [101, 102, 104, 105]);
}

#[test]
fn a_batch_that_was_interrupted_does_not_vouch_for_the_time_since() {
    let (mut shard, clock) = shard(1, 0);
    assert!(panics(&mut shard));
    clock.advance(50 * MS);
    shard.recover();
    let batch = shard.in_hand.unwrap();
    shard.take(&batch);
    assert!(shard.front.sight.watermark() <= START + MS, "what came in the 50 ms was not seen");
}

#[test]
fn what_was_counted_before_a_panic_stays_counted() {
    let (mut shard, clock) = shard(2, 9);
    let port = Arc::clone(&shard.port);
    shard.turn().unwrap();
    // A gap this long is a pause.
    clock.advance(2 * T);
    shard.turn().unwrap();
    // It ends once the queue was seen empty after it.
    clock.advance(20 * MS);
    shard.turn().unwrap();
    let before = port.counters.blind_ns.get();
    assert!(before > T, "{before}");
    shard.recover();
    shard.turn().unwrap();
    assert!(port.counters.blind_ns.get() >= before, "{} after {before}", port.counters.blind_ns.get());
}
