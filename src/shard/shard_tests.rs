//! A whole shard with its port, on a socket that fails.

use super::*;
use crate::config::classes::Classes;
use crate::lab::replay::{Replay, Script};
use crate::lane::kick::Kick;
use crate::shard::front::Limits;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::table::{Header, create};
use crate::time::ManualClock;
use crate::wire::{Frame, Status, Version};

const MS: u64 = 1_000_000;
const TICK: u64 = 10 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };

fn frame(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: nonce, nonce, payload: 0 }
}

struct Fixture {
    script: Script,
    clock: ManualClock,
    port: Arc<Port>,
    shard: Shard<Replay, ManualClock>,
}

impl Fixture {
    fn new(slots: u32, threshold: u64) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let script = Script::new(&clock, 512);
        let (writer, table) = create(slots, HEADER).unwrap();
        let port = Arc::new(Port::new(table, Arc::new(Kick::new().unwrap()), true).unwrap());
        let uids = UidAccounts::new(Arc::clone(&port.uids), None);
        let admission = Admission::new(slots).unwrap();
        let tracker = Tracker::new(writer, Classes::single(threshold), TICK, admission, uids, START);
        let limits = Limits { threshold_min_ns: threshold, tick_ns: TICK };
        let front = Front::new(script.transport(), clock.clone(), tracker, limits, None);
        script.kick_through(Arc::clone(&port));
        let shard = Shard::new(front, Arc::clone(&port), Arc::new(Doorbell::default()), MS);
        Self { script, clock, port, shard }
    }
}

#[test]
fn errors_of_the_socket_that_pass_end_nothing_and_conclude_nothing() {
    let Fixture { script, clock, port, mut shard } = Fixture::new(10, 600 * MS);
    script.send(START, &frame(100, 1), 100);
    shard.turn().unwrap();
    let before = port.counters.watermark();
    clock.advance(50 * MS);
    script.send(clock.mono(), &frame(100, 2), 100);
    script.fail(libc::ENOMEM);
    shard.turn().unwrap();
    assert_eq!(port.counters.watermark(), before, "nothing was seen");
    shard.turn().unwrap();
    assert_eq!((port.counters.frames.get(), port.counters.io_errors.get()), (2, 1));
    script.fail(libc::EBADF);
    let ended = (0..10).any(|_| shard.turn().is_err());
    assert!(ended, "a socket that is gone ends the shard");
}

/// A pending release of an exited agent depends on the failing receive call; the shard still sleeps between
/// attempts.
#[test]
fn fault_81_while_receiving_fails_the_shard_pauses_whatever_else_there_is_to_do() {
    let Fixture { script, clock, port, mut shard } = Fixture::new(10, 600 * MS);
    script.send(START, &frame(100, 1), 100);
    shard.turn().unwrap();
    clock.advance(50 * MS);
    let generation = port.table.generation(0);
    let as_of = crate::lane::Instruction { as_of: clock.mono(), ..Default::default() };
    port.inbox.post(0, generation, instruction::RELEASE, as_of);
    script.fail(libc::ENOMEM);
    shard.turn().unwrap();
    assert!(shard.deferred.is_some(), "it was not seen that nothing came");
    let Some((until, false)) = shard.next_wait() else { panic!("it would try again at once") };
    assert!(until > clock.mono());
    shard.turn().unwrap();
    shard.turn().unwrap();
    assert!(shard.deferred.is_none());
    assert_eq!(port.table.read_hot(0).unwrap().pid, 0, "it is released");
}
