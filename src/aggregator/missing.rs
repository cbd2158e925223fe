//! Agents of an observer before this one, of which nothing could be adopted: each is missed that lives and does not
//! beat. Its client may never reconnect, and nobody else would notice.
//!
//! An expected agent that has not beaten in time is asked about: if it lives, it is reported as missing, and asked
//! about again and again, until it beats or its exit is reported.

use super::*;

/// Questions about them that may wait for an answer: the lookup thread has other work.
const ASKED_MAX: usize = 256;
/// How often to ask whether a missing agent still lives; with many, longer by this much for each.
const ASK_EVERY_NS: u64 = SECOND_NS;
const ASK_APART_NS: u64 = 150_000;

/// The agents of the roster that have not beaten.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Each under when to ask about it next, and its pid.
    due: BTreeMap<(MonoNs, u32), Expected>,
    /// All of them are excused until then.
    excused_until: MonoNs,
    /// Those asked about.
    asked: HashMap<u32, Expected>,
    /// Those reported as missing.
    reported: HashSet<u32>,
}

impl Aggregator {
    /// Begins to expect the agents of the roster, each within its threshold.
    pub(super) fn expect_agents(&mut self, roster: Vec<Expected>) {
        for expected in roster {
            let program = Program { comm: Some(expected.comm.clone()), exe: None };
            let class = self.policy.class_of(expected.uid, &program);
            let by = self.started + self.policy.classes.threshold_ns(class);
            self.missing.due.insert((by, expected.pid), expected);
        }
    }

    /// Asks about those who are due.
    pub(super) fn ask_about_missing(&mut self) {
        while self.missing.asked.len() < ASKED_MAX {
            let Some((by, _)) = self.missing.due.keys().next().copied().filter(|(by, _)| *by <= self.now)
            else {
                return;
            };
            if let Some(until) = self.excused_until(by) {
                self.missing.excused_until = until;
                return;
            }
            let Some((_, expected)) = self.missing.due.pop_first() else { return };
            if self.place_of_pid(expected.pid).is_some() {
                self.missing.reported.remove(&expected.pid);
                continue;
            }
            self.inquiries.lookups.ask(Question::of_expected(&expected));
            self.missing.asked.insert(expected.pid, expected);
        }
    }

    /// Takes the answer: whether it lives; `None`: that cannot be found out.
    pub(super) fn asked_if_lives(&mut self, pid: u32, lives: Option<bool>) {
        let Some(expected) = self.missing.asked.remove(&pid) else { return };
        let is_reported = self.missing.reported.contains(&pid);
        if self.place_of_pid(pid).is_some() {
            self.missing.reported.remove(&pid);
            return;
        }
        match lives {
            Some(false) if is_reported => {
                self.missing.reported.remove(&pid);
                let silent_ns = self.now.since(self.started);
                let kind = EventKind::Exit { silent_ns, how: None, while_away: false };
                let (nonce, status, payload) = (0, Status::Ok, 0);
                let agent = Agent { pid, ns_pid: None, session: 0, nonce, status, payload };
                self.report(None, Some(agent), self.now, kind);
            }
            // It exited before it was missed: the observer before may have said so.
            Some(false) => {}
            Some(true) | None => {
                if lives == Some(true) && !is_reported {
                    self.missing.reported.insert(pid);
                    let comm = (&*expected.comm).into();
                    self.report(None, None, self.now, EventKind::Missing { pid, uid: expected.uid, comm });
                }
                let every = ASK_EVERY_NS.max(self.missing.due.len() as u64 * ASK_APART_NS);
                self.missing.due.insert((self.now + every, pid), expected);
            }
        }
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

    /// When to ask about missing agents next.
    pub(super) fn missing_due(&self) -> Option<MonoNs> {
        if self.missing.asked.len() >= ASKED_MAX {
            // An answer rings.
            return None;
        }
        self.missing.due.first_key_value().map(|((by, _), _)| self.missing.excused_until.max(*by))
    }
}
