//! What is reported while a shard is stuck: exits and stalls of other shards do not wait for it.

use super::*;
use crate::lane::vigil::STUCK_NS;

#[test]
fn fault_81_while_one_shard_is_stuck_exits_of_others_are_told_at_once_and_no_stall_is_certain() {
    let mut world = World::new(2);
    world.is_watching = true;
    for pid in [7, 8] {
        world.born(pid);
        world.beats(0, pid, 1..2);
    }
    world.asleep = vec![1];
    let mut nonce = 2;
    // They beat until the shard is known to be stuck.
    while world.now().since(MonoNs(world.ports[1].counters.turned_at.get())) < STUCK_NS + 500 * MS {
        for pid in [7, 8] {
            world.beats(0, pid, nonce..nonce + 1);
        }
        nonce += 1;
    }
    assert!(!world.ports[1].is_alive());
    world.processes.remove(&7);
    world.run(10 * STEP);
    assert_eq!(world.kinds(7).last(), Some(&"exit"), "{:?}", world.kinds(7));
    world.run(THRESHOLD + 100 * MS);
    let EventKind::Stall { certain, .. } = world.last("stall").kind else { unreachable!("it was asked for") };
    assert_eq!(world.kinds(8).last(), Some(&"stall"));
    assert!(!certain, "it may beat there");
}
