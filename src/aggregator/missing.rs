//! Agents of an observer before this one, of which nothing could be adopted: each is missed that lives and does not
//! beat. Its client may never reconnect, and nobody else would notice.
//!
//! Whether a process lives is asked on this thread, of a few in each turn.

use super::*;

/// Processes asked about in a turn: a question takes about ten microseconds.
const ASKED_PER_TURN: usize = 256;
/// How often to ask whether a missing process still lives; with many, longer by this much for each.
const ASK_EVERY_NS: u64 = SECOND_NS;
const ASK_APART_NS: u64 = 150_000;

impl Aggregator {
    /// Begins to expect the agents of the roster, each within its threshold.
    pub(super) fn expect_agents(&mut self) {
        let agents = mem::take(&mut self.roster.agents).into_iter().map(|expected| {
            let program = Program { comm: Some(expected.comm.clone()), exe: None };
            let class = self.policy.class_of(expected.uid, &program);
            (self.started + self.policy.classes.threshold_ns(class), expected)
        });
        let mut agents: Vec<_> = agents.collect();
        agents.sort_by_key(|(by, _)| *by);
        self.expected = agents.into();
    }

    /// Reports expected agents that live and did not beat in time, and the exits of those. True: there is more.
    pub(super) fn look_for_missing(&mut self) -> bool {
        let mut left = ASKED_PER_TURN;
        while let Some(by) = self.expected.front().map(|(by, _)| *by).filter(|by| *by <= self.now) {
            if let Some(until) = self.excused_until(by) {
                self.excused_until = until;
                break;
            }
            if left == 0 {
                return true;
            }
            self.commit_if_much();
            let Some((_, expected)) = self.expected.pop_front() else { break };
            if self.place_of_pid(expected.pid).is_some() {
                continue;
            }
            left -= 1;
            if (self.roster.lives)(&expected) {
                let Expected { pid, uid, .. } = expected;
                let comm = (&*expected.comm).into();
                self.report(None, None, self.now, EventKind::Missing { pid, uid, comm });
                self.await_missing(expected);
            }
        }
        while let Some((_, expected)) = self.missing.pop_front_if(|(at, _)| *at <= self.now) {
            if self.place_of_pid(expected.pid).is_some() {
                continue;
            }
            if left == 0 {
                self.missing.push_front((self.now, expected));
                return true;
            }
            left -= 1;
            if (self.roster.lives)(&expected) {
                self.await_missing(expected);
                continue;
            }
            let silent_ns = self.now.since(self.started);
            let kind = EventKind::Exit { silent_ns, how: None, while_away: false };
            let agent = Agent {
                pid: expected.pid,
                ns_pid: None,
                session: 0,
                nonce: 0,
                status: Status::Ok,
                payload: 0,
            };
            self.report(None, Some(agent), self.now, kind);
        }
        false
    }

    fn await_missing(&mut self, expected: Expected) {
        let every = ASK_EVERY_NS.max(self.missing.len() as u64 * ASK_APART_NS);
        self.missing.push_back((self.now + every, expected));
    }

    /// Until when an agent that should have beaten `by` then is excused: a shard has not read what arrived until
    /// then, or was blind.
    fn excused_until(&mut self, by: MonoNs) -> Option<MonoNs> {
        if self.is_awaited(by, |_| true) {
            self.kick_all();
            return Some(self.now + CONFIRM_NS);
        }
        let largest = self.policy.classes.threshold_ns(self.policy.classes.unknown());
        let blind_ends = self.shards.iter().map(|view| MonoNs(view.port.counters.last_blind_end.get()));
        let sighted = blind_ends.max().filter(|end| *end > self.started).map(|end| end + largest)?;
        (sighted > self.now).then_some(sighted)
    }

    /// When to look for missing agents next.
    pub(super) fn missing_due(&self) -> Option<MonoNs> {
        let expected = self.expected.front().map(|(by, _)| self.excused_until.max(*by));
        let due = [expected, self.missing.front().map(|(at, _)| *at)];
        due.into_iter().flatten().min()
    }
}
