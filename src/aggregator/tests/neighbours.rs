//! What is reported of users that take more than their share.

use super::*;
use crate::event::{FloodWhy, ShareSpent};
use crate::lab::replay::{Act, Recorded};
use crate::sys::datagram::Credentials;

const MS: u64 = 1_000_000;
const FLOODER: u32 = 666;
const FLOODERS_UID: u32 = 1001;

/// Shard, reason, user, frames and refusals of a flood.
type Record = (Option<u16>, FloodWhy, Option<u32>, u64, u64);

impl World {
    /// Sends `count` datagrams of another user at once.
    pub(super) fn flood(&mut self, shard: usize, count: usize) {
        for nonce in 0..count {
            let mut datagram = Recorded::frame(&beat(FLOODER, nonce as u64), FLOODER);
            datagram.credentials = Some(Credentials { pid: FLOODER, uid: FLOODERS_UID });
            self.scripts[shard].at(self.now(), Act::Send(datagram));
        }
    }

    fn floods(&self) -> Vec<Record> {
        let reported = self.reported.iter().filter_map(|event| match event.kind {
            EventKind::Flood { why, uid, frames, refused, for_ns } => {
                assert!(for_ns <= 2_100 * MS, "{event:?}");
                Some((event.shard, why, uid, frames, refused))
            }
            _ => None,
        });
        reported.collect()
    }
}

#[test]
fn who_filled_the_queue_is_named_however_much_others_sent_before() {
    let mut world = World::new(2);
    for pid in [7, FLOODER] {
        world.born(pid);
    }
    // An honest user has sent more in all.
    for round in 0..60 {
        (1..100).for_each(|nonce| world.send(1, 7, &beat(7, round * 100 + nonce)));
        world.run(100 * MS);
    }
    assert_eq!(world.floods(), []);
    world.flood(1, 5_000);
    world.run(100 * MS);
    let floods = world.floods();
    let [(Some(1), FloodWhy::Full, Some(FLOODERS_UID), frames, 0)] = floods[..] else { panic!("{floods:?}") };
    assert!((4_000..=5_000).contains(&frames), "{frames}");
    world.run(5_000 * MS);
    assert_eq!(world.floods().len(), 1, "it is over");
    assert_eq!(world.count("stall"), 2, "both stopped; that is all there is to say");
}

#[test]
fn a_flood_is_told_once_a_second_while_it_lasts_and_on_its_shard_only() {
    let mut world = World::with_limits(2, 64, Vec::new(), None, Some(100));
    for pid in [7, FLOODER] {
        world.born(pid);
    }
    let mut nonce = 0;
    for _ in 0..50 {
        nonce += 1;
        world.send(0, 7, &beat(7, nonce));
        world.flood(1, 30);
        world.run(100 * MS);
    }
    let floods = world.floods();
    assert!((4..=6).contains(&floods.len()), "{floods:?}");
    for (shard, why, uid, frames, refused) in &floods {
        assert_eq!((*shard, *why, *uid), (Some(1), FloodWhy::Budget, Some(FLOODERS_UID)), "{floods:?}");
        assert!(*refused > 0 && refused <= frames && *frames <= 700, "{floods:?}");
    }
    assert_eq!(world.kinds(7), ["up"], "the other shard's agents notice nothing");
    let counters = &world.ports[1].counters;
    let refused = counters.refused(Refusal::Budget);
    let counts = world.ports[1].uids.read().unwrap();
    let of_flooder = counts.iter().find(|counts| counts.uid == Some(FLOODERS_UID)).unwrap();
    assert_eq!((of_flooder.frames, of_flooder.refused, of_flooder.over_budget), (1_500, refused, refused));
}

#[test]
fn a_user_that_has_its_share_is_named_at_most_once_a_second() {
    let mut world = World::with_limits(2, 64, Vec::new(), Some(2), None);
    for pid in 100..110 {
        world.born(pid);
    }
    for nonce in 1..30 {
        for pid in 100..110 {
            world.send(0, pid, &beat(pid, nonce));
        }
        world.run(100 * MS);
    }
    let full: Vec<_> = world.reported.iter().filter(|event| event.kind.name() == "full").collect();
    assert!((2..=4).contains(&full.len()), "{full:?}");
    for event in &full {
        let EventKind::Full { refused, share: Some(ShareSpent { uid: 1000, refused: of_share }) } =
            event.kind
        else {
            panic!("{event:?}")
        };
        assert_eq!(refused, of_share);
    }
    assert_eq!(world.count("up"), 2);
    assert_eq!(world.agents(), (2, 0));
}

#[test]
fn a_full_table_names_nobody() {
    let mut world = World::with_limits(1, 2, Vec::new(), Some(2), None);
    for pid in 100..104 {
        world.born(pid);
        world.send(0, pid, &beat(pid, 1));
    }
    world.run(100 * MS);
    assert_eq!(world.last("full").kind, EventKind::Full { refused: 2, share: None });
}

/// The table is full, and the agent has one of its two places.
#[test]
fn fault_52_an_agent_that_moves_needs_no_second_place() {
    let mut world = World::with_limits(2, 2, Vec::new(), Some(2), None);
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    for nonce in 1..20 {
        world.send(0, 8, &beat(8, nonce));
        world.beats(usize::from(nonce >= 4), 7, nonce..nonce + 1);
    }
    assert_eq!(world.kinds(7), ["up", "moved"]);
    assert_eq!((world.count("full"), world.admission.tracked()), (0, 2));
}

/// Another shard refused the frame, and the silence ended before it was reported.
#[test]
fn fault_66_a_silence_in_which_a_frame_was_refused_is_no_stall_for_three_thresholds() {
    let mut world = World::with_limits(2, 64, Vec::new(), None, Some(40));
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    world.beats(0, 7, 1..5);
    world.asleep = vec![1];
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD / 2);
    (1..=50).for_each(|nonce| world.send(1, 8, &beat(8, nonce)));
    world.send(1, 7, &beat(7, 5));
    world.run(THRESHOLD);
    world.beats(0, 7, 6..8);
    world.asleep.clear();
    world.run(20 * MS);
    world.is_aggregator_asleep = false;
    world.beats(0, 7, 8..10);
    assert!(world.ports[1].turned_away.last(7).is_some());
    assert_eq!(world.kinds(7), ["up"], "{:?}", world.reported);
}

/// The shard that it left judges before the other one has read the frames that it refuses.
#[test]
fn fault_66_who_was_turned_away_by_another_shard_is_not_condemned_for_certain() {
    let mut world = World::with_limits(2, 64, Vec::new(), None, Some(40));
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    world.beats(0, 7, 1..5);
    world.asleep = vec![1];
    (1..=50).for_each(|nonce| world.send(1, 8, &beat(8, nonce)));
    let is_stalled = |world: &World| world.ports[0].table.read(0).unwrap().0.state == State::Stalled;
    for nonce in 5.. {
        // Another process of its user takes the budget there.
        (0..3).for_each(|_| world.send(1, 8, &beat(8, 100 + nonce)));
        if nonce % 10 == 0 {
            world.send(1, 7, &beat(7, nonce));
        }
        world.run(5 * MS);
        if is_stalled(&world) {
            break;
        }
    }
    assert_eq!(world.count("stall"), 0, "it waits for the other shard's word");
    world.asleep.clear();
    world.run(5_000 * MS);
    assert!(world.ports[1].turned_away.last(7).is_some());
    let of_7 = world.reported.iter().find(|event| {
        event.agent.is_some_and(|agent| agent.pid == 7) && matches!(event.kind, EventKind::Stall { .. })
    });
    let EventKind::Stall { certain, silent_ns, .. } = of_7.expect("a stall").kind else { unreachable!() };
    assert!(!certain, "{:?}", world.reported);
    assert!(silent_ns >= 3 * THRESHOLD, "{silent_ns}: it is evidence, however late we read it");
}
