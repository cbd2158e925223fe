//! Which events a reader wants.

use super::{Event, EventKind};
pub use crate::pattern::Pattern;
use crate::time::WallNs;

/// What an event has to be for a reader to want it. By default, each is wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these kinds; empty: all.
    pub kinds: Vec<String>,
    /// Only events that concern this process, also refusals of datagrams that it sent.
    pub pid: Option<u32>,
    /// Only events of this shard.
    pub shard: Option<u16>,
    /// Only events of processes with such a name.
    pub comm: Option<Pattern>,
    /// Only events of processes of such a unit.
    pub unit: Option<Pattern>,
    /// Only events that were reported at this time or later.
    pub since: Option<WallNs>,
    /// Only events that were reported before this time.
    pub until: Option<WallNs>,
}

impl Filter {
    /// Whether the event is wanted. What is not known of a process matches no pattern.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let about = event.agent.map(|agent| agent.about);
        let comm = match &event.kind {
            EventKind::Missing { comm, .. } => Some(comm.as_str()),
            _ => about.as_ref().map(|about| about.comm.as_str()),
        };
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == event.kind.name()))
            && self.pid.is_none_or(|pid| event.concerns(pid))
            && self.shard.is_none_or(|shard| event.shard == Some(shard))
            && Pattern::takes(self.comm.as_ref(), || comm)
            && Pattern::takes(self.unit.as_ref(), || about?.unit?.text())
            && self.is_in_time(event.wall)
    }

    /// Whether an event that was reported then is wanted.
    #[must_use]
    pub fn is_in_time(&self, wall: WallNs) -> bool {
        self.since.is_none_or(|since| wall >= since) && self.until.is_none_or(|until| wall < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, Agent};
    use crate::label::Label;
    use crate::time::MonoNs;
    use crate::wire::Status;

    #[test]
    fn an_event_is_wanted_if_all_of_it_is() {
        let about = About { comm: "worker".into(), unit: Label::of("a@1.service", 0), ..About::UNKNOWN };
        let agent = Agent {
            pid: 7,
            ns_pid: None,
            session: 1,
            nonce: 1,
            status: Status::Ok,
            origin: crate::event::Origin::Vlp,
            payload: 0,
            about,
        };
        let event = Event {
            seq: 1,
            again: false,
            wall: WallNs(100),
            mono: MonoNs(1),
            shard: Some(3),
            agent: Some(agent),
            kind: EventKind::Up,
        };
        let pattern = |text: &str| Some(Pattern::new(text));
        let all = Filter {
            kinds: vec!["stall".to_owned(), "up".to_owned()],
            pid: Some(7),
            shard: Some(3),
            comm: pattern("work*"),
            unit: pattern("a@?.service"),
            since: Some(WallNs(100)),
            until: Some(WallNs(101)),
        };
        assert!(all.wants(&event) && Filter::default().wants(&event));
        for other in [
            Filter { kinds: vec!["stall".to_owned()], ..Filter::default() },
            Filter { pid: Some(8), ..Filter::default() },
            Filter { shard: Some(0), ..Filter::default() },
            Filter { comm: pattern("w"), ..Filter::default() },
            Filter { unit: pattern("b*"), ..Filter::default() },
            Filter { since: Some(WallNs(101)), ..Filter::default() },
            Filter { until: Some(WallNs(100)), ..Filter::default() },
        ] {
            assert!(!other.wants(&event), "{other:?}");
        }
        let freed = About { unit: Some(Label::freed()), ..about };
        let freed = Event { agent: Some(Agent { about: freed, ..agent }), ..event };
        assert!(!Filter { unit: pattern("*"), ..Filter::default() }.wants(&freed), "its unit has no name");
        let nobody = Event { agent: None, ..event };
        assert!(!Filter { comm: pattern("*"), ..Filter::default() }.wants(&nobody), "it has no name");
        let missing = EventKind::Missing { pid: 9, uid: 0, comm: "lost".into() };
        let filter = Filter { comm: pattern("lo*"), pid: Some(9), ..Filter::default() };
        assert!(filter.wants(&Event { kind: missing, ..nobody }));
    }
}
