//! What is reported when nearly all of a large fleet falls silent at once, and when it comes back.

use std::collections::HashMap;

use super::*;

const SHARDS: u16 = 4;
const AGENTS: u32 = 100_000;
const FIRST_PID: u32 = 100;

/// All agents, each on the shard its pid hashes to.
fn agents() -> impl Iterator<Item = (u32, usize)> {
    (FIRST_PID..FIRST_PID + AGENTS).map(|pid| (pid, shard_for(pid, u32::from(SHARDS)) as usize))
}

impl World {
    /// A world in which all agents are up.
    fn crowded() -> Self {
        let mut world = Self::with(usize::from(SHARDS), AGENTS, Vec::new());
        agents().for_each(|(pid, _)| world.born(pid));
        // All beats are read before the first agent is due.
        world.all_beat(1);
        world.run(THRESHOLD / 2);
        assert_eq!(world.agents(), (u64::from(AGENTS), 0));
        world
    }

    fn all_beat(&mut self, nonce: u64) {
        agents().for_each(|(pid, shard)| self.send(shard, pid, &beat(pid, nonce)));
    }

    /// Every event since `from` is of this kind, one for each agent.
    fn assert_once_each(&self, from: usize, kind: &str) {
        let mut count: HashMap<u32, u32> = HashMap::new();
        for event in &self.reported[from..] {
            assert_eq!(event.kind.name(), kind, "{event:?}");
            *count.entry(event.agent.expect("an agent's").pid).or_default() += 1;
        }
        assert_eq!(count.len(), AGENTS as usize, "{kind}");
        assert_eq!(self.reported.len() - from, AGENTS as usize, "{kind}");
    }
}

#[test]
fn fault_9_a_whole_fleet_stalls_and_resumes_at_once_each_agent_once_and_for_certain() {
    let mut world = World::crowded();
    world.all_beat(2);
    world.run(THRESHOLD - 10 * MS);
    // The shards find all agents stalled before the aggregator has looked at the first.
    let before = world.reported.len();
    world.is_aggregator_asleep = true;
    world.run(100 * MS);
    world.is_aggregator_asleep = false;
    world.run(200 * MS);
    world.assert_once_each(before, "stall");
    let is_uncertain = |event: &&Event| matches!(event.kind, EventKind::Stall { certain: false, .. });
    assert_eq!(world.reported[before..].iter().filter(is_uncertain).count(), 0, "everybody could be asked");
    assert_eq!(world.agents(), (0, u64::from(AGENTS)));
    let before = world.reported.len();
    world.all_beat(3);
    world.run(400 * MS);
    world.assert_once_each(before, "resume");
    assert_eq!(world.agents(), (u64::from(AGENTS), 0));
    assert_eq!(world.aggregator.fanout.dropped(), [0; 4]);
}
