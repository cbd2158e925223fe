//! Resident memory of an observer for each agent.

use std::fs;
use std::time::Duration;

use crate::common::{Agent, AgentOptions, Observer, Options, wait_for};

/// Bytes that may be resident for each agent: 96 for its own data and the threads' records of it, 192 that
/// change with its state, 24 of index and queues, 8 of its seat, which counts it once however many shards it
/// beats on, 64 of what was reported of it, for a successor.
const AGENT_BYTES: u64 = 96 + 192 + 24 + 8 + 64;
/// Bytes for each of at most 65 536 agents in the list for a start that can adopt nothing: who it is, and what it takes to
/// write that.
const ROSTER_BYTES: u64 = 288;
/// Bytes of an event in the history; each agent causes one, its `up`.
const EVENT_BYTES: u64 = 112;
/// Bytes of a copy of the fleet's counts with their distributions. Each second a new one replaces it, so the
/// second measurement may include one more than the first.
const COPY_BYTES: u64 = 128 * 1024;
/// Agents started at a time. The first batch is not measured: it includes what the observer allocates once.
const AT_A_TIME: u32 = 1000;
const TIMES: u32 = 6;

/// Waits until this many processes are watched, the last step for a new agent.
fn wait_for_agents(observer: &Observer, agents: u32) {
    let descriptors = format!("/proc/{}/fd", observer.pid());
    wait_for("every agent to be watched", || {
        let links = fs::read_dir(&descriptors).expect("its descriptors");
        let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
        let watched = targets.filter(|target| target.to_string_lossy().contains("pidfd")).count();
        (watched >= agents as usize).then_some(())
    });
}

/// Waits until this many agents are in the list for a start that can adopt nothing, which is written each ten seconds:
/// what the observer needs for it is measured, too.
fn wait_for_roster(observer: &Observer, agents: u32) {
    wait_for("every agent to be listed", || {
        let text = fs::read_to_string(observer.dir().join("roster")).unwrap_or_default();
        (text.matches("\"pid\"").count() >= agents as usize).then_some(())
    });
}

/// Resident memory of the observer in bytes, without the pages of its program file, and without the ring of its
/// journal: 2 MiB, whatever the number of agents, once that many events were reported.
fn resident(observer: &Observer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", observer.pid())).expect("its status");
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let maps = fs::read_to_string(format!("/proc/{}/smaps", observer.pid())).expect("its mappings");
    let ring = maps.lines().skip_while(|line| !line.contains("/memfd:varta-fleet "));
    let ring = ring.filter_map(|line| line.strip_prefix("Rss:")).next().expect("its journal");
    let ring: u64 = ring.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib("RssAnon:") + kib("RssShmem:") - ring) * 1024
}

#[test]
fn an_agent_takes_as_little_memory_as_it_should() {
    // Each agent beats once: the report lane, which grows with further beats, is not memory of the agents.
    let (period, threshold) = (Duration::from_hours(1), Duration::from_hours(2));
    let options =
        Options { shards: 1, threshold, agents_max: 8192, queue_limit: Some(4096), ..Options::default() };
    let mut observer = Observer::start(options);
    let mut first = Agent::start_with(&observer, AgentOptions { period, ..AgentOptions::default() });
    // Have the observer allocate what does not depend on the number of agents, such as copies of its counts.
    observer.table();
    let mut sizes = Vec::new();
    for time in 1..=TIMES {
        first.spawn_children(AT_A_TIME);
        let agents = 1 + time * AT_A_TIME;
        wait_for_agents(&observer, agents);
        if time == 1 || time == TIMES {
            wait_for_roster(&observer, agents);
        }
        sizes.push(resident(&observer));
    }
    let grown = (sizes[sizes.len() - 1] - sizes[0]).saturating_sub(COPY_BYTES);
    let each = grown / u64::from((TIMES - 1) * AT_A_TIME);
    assert!(each <= AGENT_BYTES + ROSTER_BYTES + EVENT_BYTES, "{each} bytes an agent: {sizes:?}");
    // It observes the agents: the slots alone take 128 bytes each.
    assert!(each >= 128, "{each} bytes an agent: {sizes:?}");
    drop(first);
    observer.stop();
}
