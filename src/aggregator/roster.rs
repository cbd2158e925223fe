//! Agents of an observer before this one that were not adopted from it: each is missed that lives and does not beat.
//! Its client may never reconnect, and nobody else would notice.
//!
//! An expected agent that has not beaten in time is asked about: if it lives, it is reported as missing, and asked
//! about again and again, until it beats or its exit is reported.

use super::*;

/// How often to ask whether a missing agent still lives; with many, longer by this much for each.
const ASK_EVERY_NS: u64 = SECOND_NS;
const ASK_APART_NS: u64 = 150_000;

impl Aggregator {
    /// Begins to expect the agents of the roster, each within its threshold after the start.
    pub(super) fn expect_agents(&mut self, roster: Arc<[Absent]>) {
        debug_assert!(roster.is_sorted_by(|one, next| one.expected.pid < next.expected.pid));
        self.missing.roster = Arc::clone(&roster);
        self.missing.are_recalled();
        for absent in &*roster {
            if self.place_of_pid(absent.expected.pid).is_some() {
                absent.end();
            }
        }
        let due = roster.iter().map(|absent| match absent.is_missing() {
            true => self.now,
            false => self.expected_by(absent.expected.uid, absent.expected.comm.as_str()),
        });
        self.missing.due = due.zip(0..).collect();
    }

    fn expected_by(&self, uid: u32, comm: &str) -> MonoNs {
        if planted!(MissesAtOnce) {
            return self.started;
        }
        let program = Program { comm: Some(comm.to_owned()), ..Program::default() };
        // Nothing is known of the phase that it is in.
        self.started + self.policy.classes.longest_ns(self.policy.class_of(uid, &program))
    }

    /// Asks about those who are due.
    pub(super) fn ask_about_missing(&mut self) {
        while let Some((by, index)) = self.missing.next().filter(|(by, _)| *by <= self.now) {
            if let Some(until) = self.excused_until(by) {
                self.missing.excused_until = until;
                return;
            }
            self.missing.due.pop_first();
            let absent = &self.missing.roster[index];
            if absent.is_over() && !planted!(MissesWhoBeats) {
                continue;
            }
            self.inquiries.lookups.ask(Question::of_expected(&absent.expected));
            self.missing.asked.insert(absent.expected.pid, index);
        }
    }

    /// Takes the answer: whether it lives.
    pub(super) fn asked_if_lives(&mut self, pid: u32, life: Life) {
        let Some(index) = self.missing.asked.remove(&pid) else { return };
        let roster = Arc::clone(&self.missing.roster);
        let absent = &roster[index];
        if absent.is_over() && !planted!(MissesWhoBeats) {
            return;
        }
        if life != Life::Gone {
            absent.set_found();
        }
        let ask_again = self.now + ASK_EVERY_NS.max(self.missing.due.len() as u64 * ASK_APART_NS);
        let next = match life {
            Life::Gone => {
                // Otherwise it exited before it was missed: the observer before may have said so.
                if absent.is_missing() {
                    let silent_ns = self.now.since(self.started);
                    let kind = EventKind::Exit {
                        silent_ns,
                        how: None,
                        // It beat to another observer only.
                        lived_ns: 0,
                        panicked: false,
                        while_away: !absent.was_found(),
                    };
                    let (nonce, status, payload) = (0, Status::Ok, 0);
                    let Expected { uid, comm, .. } = absent.expected;
                    let about = About { uid: Some(uid), comm, ..About::UNKNOWN };
                    let agent = Agent {
                        pid,
                        ns_pid: None,
                        session: 0,
                        nonce,
                        status,
                        origin: Origin::Vlp,
                        payload,
                        about,
                    };
                    self.report(None, Some(agent), self.now, kind);
                }
                return absent.end();
            }
            Life::Lives(comm) if !absent.is_missing() && !self.is_refused(pid) && !planted!(MissesNobody) => {
                let uid = absent.expected.uid;
                let by = self.expected_by(uid, &comm);
                if by <= self.now {
                    if !planted!(MissesTwice) {
                        absent.set_missing();
                    }
                    self.report(None, None, self.now, EventKind::Missing { pid, uid, comm: (&*comm).into() });
                }
                by.max(ask_again)
            }
            Life::Lives(_) | Life::Unknown => ask_again,
        };
        self.missing.due.insert((next, index));
    }

    /// Whether it beats, and a limit of ours refuses that.
    fn is_refused(&self, pid: u32) -> bool {
        // A frame that arrived before the start was in the queue of a shard that this observer reads.
        self.shards.iter().any(|view| view.port.turned_away.last(pid).is_some())
    }

    /// Until when an agent that should have beaten `by` then is excused: a shard has not read what arrived until
    /// then, or was blind.
    fn excused_until(&mut self, by: MonoNs) -> Option<MonoNs> {
        if self.is_awaited(by, |_| true) {
            self.kick_all();
            return Some(self.now + CONFIRM_NS);
        }
        // A stuck shard may hold its beats.
        if self.is_unseen(by, |_| true) {
            return Some(self.now + ASK_EVERY_NS);
        }
        let largest = self.policy.classes.longest_ns(self.policy.classes.unknown());
        let blind_ends = self.shards.iter().map(|view| MonoNs(view.port.counters.last_blind_end.get()));
        let sighted = blind_ends.max().filter(|end| *end > self.started).map(|end| end + largest)?;
        (sighted > self.now).then_some(sighted)
    }
}
