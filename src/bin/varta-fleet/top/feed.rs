//! The events that are shown: what belongs together is one line. Time is what the events say.

use std::collections::{BTreeMap, VecDeque};

use varta_fleet::Shown;
use varta_fleet::event::{ActionName, ActionPhase, ActionWhy, BlindPhase, Event, EventKind, ExitHow};
use varta_fleet::time::WallNs;

use crate::accounts::Users;
use crate::words::{self, amount, ending, line, time, time_of_day};

/// Lines kept.
const KEPT: usize = 200;
/// Events of a kind that are no further apart than this are one line.
const TOGETHER_NS: u64 = 1_000_000_000;
/// Blindness and floods that are no further apart than this are one line.
const TROUBLE_NS: u64 = 10_000_000_000;
/// Lines between two events that are one line.
const BETWEEN: usize = 4;
/// Pids named of many.
const NAMED: usize = 3;

/// One line.
#[derive(Clone, Debug)]
pub struct Entry {
    what: What,
    first: Event,
    last: Event,
}

#[derive(Clone, Debug)]
enum What {
    /// One event.
    One,
    /// Many agents to which the same happened, their names, and the longest silence.
    Many { agents: u64, pids: Vec<u32>, names: Names, silent_ns: u64 },
    /// Shards that were blind, and users that flooded them.
    Trouble { blind: BTreeMap<u16, Blindness>, floods: BTreeMap<Option<u32>, u64> },
}

#[derive(Clone, Copy, Debug, Default)]
struct Blindness {
    times: u64,
    for_ns: u64,
    is_blind: bool,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As usual.
    Usual,
    /// Somebody should look.
    Warning,
    /// Somebody has to act.
    Critical,
}

/// The last lines, the latest last.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    entries: VecDeque<Entry>,
    /// Events taken so far.
    taken: u64,
    /// Numbers and times of the last events: after a reconnect they are received again.
    known: VecDeque<(u64, WallNs)>,
}

impl Feed {
    /// Adds an event, which is no line of its own if it belongs to one of the last.
    pub fn take(&mut self, event: Event) {
        if event.seq > 0 {
            let name = (event.seq, event.wall);
            if self.known.contains(&name) {
                return;
            }
            self.known.push_back(name);
            if self.known.len() > KEPT {
                self.known.pop_front();
            }
        }
        self.taken += 1;
        let found = self.entries.iter().rev().take(BETWEEN).position(|entry| entry.is_of(&event));
        let entry = match found {
            Some(back) => {
                let at = self.entries.len() - 1 - back;
                self.entries.remove(at).map(|entry| entry.with(event))
            }
            None => Some(Entry::new(event)),
        };
        self.entries.extend(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// Events taken so far.
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The lines, oldest first.
    pub const fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }
}

const fn is_trouble(event: &Event) -> bool {
    matches!(event.kind, EventKind::Blind { .. } | EventKind::Flood { .. })
}

/// What many have in common to which it happens at once: how they ended, or what became of which action.
type Wave = (Option<ExitHow>, Option<(ActionName, ActionPhase, Option<ActionWhy>, i32)>);

/// `None`: it happens to one alone.
const fn wave(event: &Event) -> Option<Wave> {
    match event.kind {
        EventKind::Up
        | EventKind::Stall { .. }
        | EventKind::Resume { .. }
        | EventKind::Standstill { .. }
        | EventKind::Advance { .. }
        | EventKind::Phase { .. }
        | EventKind::Missing { .. } => Some((None, None)),
        EventKind::Exit { how, .. } => Some((how, None)),
        EventKind::Action { action, phase, why, how, errno, .. } => {
            Some((how, Some((action, phase, why, errno))))
        }
        _ => None,
    }
}

impl Entry {
    fn new(event: Event) -> Self {
        let mut entry = Self { what: What::One, first: event, last: event };
        if is_trouble(&event) {
            entry.what = What::Trouble { blind: BTreeMap::new(), floods: BTreeMap::new() };
            entry.add(&event);
        }
        entry
    }

    fn is_of(&self, event: &Event) -> bool {
        let gap_ns = event.mono.0.abs_diff(self.last.mono.0);
        if is_trouble(event) {
            return is_trouble(&self.last) && gap_ns <= TROUBLE_NS;
        }
        let is_same_kind = self.last.kind.name() == event.kind.name();
        is_same_kind && gap_ns <= TOGETHER_NS && wave(event).is_some() && wave(event) == wave(&self.last)
    }

    fn with(mut self, event: Event) -> Self {
        if matches!(self.what, What::One) {
            self.what = What::Many { agents: 0, pids: Vec::new(), names: Names::default(), silent_ns: 0 };
            let first = self.first;
            self.add(&first);
        }
        self.add(&event);
        self.last = event;
        self
    }

    fn add(&mut self, event: &Event) {
        match &mut self.what {
            What::One => {}
            What::Many { agents, pids, names, silent_ns } => {
                *agents += 1;
                let comm = match event.kind {
                    EventKind::Missing { comm, .. } => comm,
                    _ => event.agent.map(|agent| agent.about.comm).unwrap_or_default(),
                };
                names.add(comm.as_str());
                if pids.len() < NAMED {
                    pids.extend(event.pid());
                }
                if let EventKind::Stall { silent_ns: ns, .. }
                | EventKind::Resume { silent_ns: ns, .. }
                | EventKind::Standstill { still_ns: ns, .. }
                | EventKind::Advance { still_ns: ns, .. } = event.kind
                {
                    *silent_ns = ns.max(*silent_ns);
                }
            }
            What::Trouble { blind, floods } => match event.kind {
                EventKind::Blind { phase, .. } => {
                    let blindness = blind.entry(event.shard.unwrap_or(0)).or_default();
                    match phase {
                        BlindPhase::Begin => {
                            blindness.times += 1;
                            blindness.is_blind = true;
                        }
                        BlindPhase::End { for_ns } => {
                            // The begin may have been before the first event that was shown.
                            blindness.times = blindness.times.max(1);
                            blindness.for_ns += for_ns;
                            blindness.is_blind = false;
                        }
                    }
                }
                EventKind::Flood { uid, frames, .. } => *floods.entry(uid).or_default() += frames,
                _ => {}
            },
        }
    }

    /// The line.
    pub fn text(&self, users: &Users) -> String {
        let (kind, text) = match &self.what {
            What::One => return line(&self.first),
            What::Many { agents, pids, names, silent_ns } => {
                let who = format!("{agents} {}", names.words());
                let more = if *agents > pids.len() as u64 { ", …" } else { "" };
                let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let what = happened(&self.last, *silent_ns);
                let within = match self.within_ns() {
                    0 => String::new(),
                    ns => format!(", within {}", time(ns)),
                };
                let colon = if matches!(self.last.kind, EventKind::Action { .. }) { ":" } else { "" };
                let text = format!("{who}{colon} {what}{within}: {pids}{more}");
                (self.last.kind.name(), text)
            }
            What::Trouble { blind, floods } => {
                let kind = if floods.is_empty() { "blind" } else { "flood" };
                (kind, trouble(blind, floods, users))
            }
        };
        format!("{:<12}  {kind:<8} {text}", time_of_day(self.last.wall))
    }

    const fn within_ns(&self) -> u64 {
        self.last.mono.0.abs_diff(self.first.mono.0)
    }

    /// How much it matters.
    pub fn weight(&self) -> Weight {
        if self.last.kind.is_death() {
            return Weight::Critical;
        }
        match self.last.kind.name() {
            "stall" | "standstill" | "terminal" | "io" | "full" => Weight::Critical,
            "blind" | "frozen" | "lost" | "auth" | "decode" | "flood" | "churn" | "missing" | "brake"
            | "action" => Weight::Warning,
            _ => Weight::Usual,
        }
    }
}

/// What happened to many, of which this is the last.
fn happened(event: &Event, silent_ns: u64) -> String {
    match event.kind {
        EventKind::Stall { .. } => format!("silent for {}", time(silent_ns)),
        EventKind::Resume { .. } => format!("back after {}", time(silent_ns)),
        EventKind::Standstill { .. } => format!("beat, but stand still for {}", time(silent_ns)),
        EventKind::Advance { .. } => format!("stand still no more, after {}", time(silent_ns)),
        EventKind::Exit { how, .. } => ending(how),
        EventKind::Action { action, phase, why, how, errno, .. } => {
            // Each has its own.
            let (attempt, child, evidence) = (0, 0, 0);
            words::action(&EventKind::Action { action, phase, why, attempt, child, how, errno, evidence })
        }
        EventKind::Missing { .. } => "live, but do not beat to this observer".to_owned(),
        _ => "beat".to_owned(),
    }
}

/// What the names of many agents have in common.
#[derive(Clone, Debug, Default)]
struct Names {
    common: String,
    are_known: bool,
    are_same: bool,
}

impl Names {
    fn add(&mut self, name: &str) {
        match (name.is_empty(), self.are_known) {
            (true, _) => {}
            (false, false) => *self = Self { common: name.to_owned(), are_known: true, are_same: true },
            (false, true) => {
                self.are_same &= self.common == name;
                let same = self.common.chars().zip(name.chars()).take_while(|(one, other)| one == other);
                self.common = same.map(|(c, _)| c).collect();
            }
        }
    }

    /// `worker`, `load-*`, or `agents` if that says nothing.
    fn words(&self) -> String {
        // Numbers that happen to begin alike say nothing.
        let common = self.common.trim_end_matches(|c: char| c.is_ascii_digit());
        match common.len() {
            _ if self.are_same => Shown(&self.common).to_string(),
            0..3 => "agents".to_owned(),
            _ => format!("{}*", Shown(common)),
        }
    }
}

fn trouble(blind: &BTreeMap<u16, Blindness>, floods: &BTreeMap<Option<u32>, u64>, users: &Users) -> String {
    let mut said: Vec<String> = floods
        .iter()
        .map(|(uid, frames)| {
            let user = uid.map_or_else(|| "many users".to_owned(), |uid| users.name(uid));
            format!("{user} sent {} frames", amount(*frames))
        })
        .collect();
    if !blind.is_empty() {
        let shards: Vec<String> = blind.keys().map(u16::to_string).collect();
        let plural = if shards.len() == 1 { "" } else { "s" };
        let times: u64 = blind.values().map(|one| one.times).sum();
        let for_ns = blind.values().map(|one| one.for_ns).sum();
        let total = if for_ns > 0 { format!(" for {}", time(for_ns)) } else { String::new() };
        let now = if blind.values().any(|one| one.is_blind) { " and now" } else { "" };
        let times = if times > 1 { format!(", {times} times") } else { String::new() };
        said.push(format!("shard{plural} {} blind{total}{now}{times}", shards.join(", ")));
    }
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, ms: u64, shard: u16, kind: &str) -> Event {
        named(seq, ms, shard, kind, "")
    }

    fn named(seq: u64, ms: u64, shard: u16, kind: &str, comm: &str) -> Event {
        let agent = if [BLIND, SEES, FLOOD].contains(&kind) {
            String::new()
        } else {
            let comm = if comm.is_empty() { String::new() } else { format!(r#""comm":"{comm}","#) };
            format!(r#""pid":{},"session":1,"nonce":9,"status":"ok","payload":0,{comm}"#, 100 + seq)
        };
        let mono = ms * 1_000_000;
        let json = format!(
            r#"{{"v":1,"seq":{seq},"ts":"2026-03-01T12:00:00.{:03}000000Z","mono_ns":{mono},"shard":{shard},{agent}{kind}}}"#,
            ms % 1000
        );
        serde_json::from_str(&json).unwrap()
    }

    fn lines(events: &[Event]) -> Vec<String> {
        let mut feed = Feed::default();
        events.iter().for_each(|event| feed.take(*event));
        assert_eq!(feed.taken(), events.len() as u64);
        feed.entries().iter().map(|entry| entry.text(&Users::default())).collect()
    }

    /// Who was killed out of memory, or panicked, did not end well.
    #[test]
    fn deaths_of_every_kind_matter() {
        let weight = |kind: &str| {
            let mut feed = Feed::default();
            feed.take(event(1, 0, 0, kind));
            feed.entries()[0].weight()
        };
        let oom = r#""kind":"exit","silent_ns":1,"signal":9,"oom":true"#;
        let panicked = r#""kind":"exit","silent_ns":1,"code":null,"panicked":true"#;
        for kind in [KILLED, oom, panicked, r#""kind":"exit","silent_ns":1,"code":3"#] {
            assert_eq!(weight(kind), Weight::Critical, "{kind}");
        }
        for kind in [ENDED, r#""kind":"exit","silent_ns":1,"signal":15"#] {
            assert_eq!(weight(kind), Weight::Usual, "{kind}");
        }
    }

    const STALL: &str = r#""kind":"stall","silent_ns":2000000000,"last_nonce":9,"certain":true,"blind_ns":0"#;
    const KILLED: &str = r#""kind":"exit","silent_ns":1,"signal":9"#;
    const ENDED: &str = r#""kind":"exit","silent_ns":1,"code":0"#;
    const UP: &str = r#""kind":"up""#;
    const BLIND: &str = r#""kind":"blind","phase":"begin","why":"full""#;
    const SEES: &str = r#""kind":"blind","phase":"end","why":"full","for_ns":250000000"#;
    const FLOOD: &str =
        r#""kind":"flood","why":"full","uid":1000,"frames":5000,"refused":0,"for_ns":1000000000"#;

    #[test]
    fn what_happens_to_many_at_once_is_one_line() {
        let mut events: Vec<Event> = (0..30).map(|n| event(1 + n, 100 + n, 0, STALL)).collect();
        assert_eq!(
            lines(&events),
            ["12:00:00.129  stall    30 agents silent for 2.00 s, within 29.0 ms: 101, 102, 103, …"]
        );
        events.extend([event(31, 200, 0, KILLED), event(32, 210, 0, ENDED), event(33, 220, 0, KILLED)]);
        let shown = lines(&events);
        assert_eq!(
            shown[1..],
            [
                "12:00:00.210  exit     pid 132 shard 0: ended cleanly, code 0",
                "12:00:00.220  exit     2 agents ended by signal 9, within 20.0 ms: 131, 133"
            ]
        );
        let missing = |seq: u64| -> Event {
            let json = format!(
                r#"{{"v":1,"seq":{seq},"ts":"2026-03-01T12:00:00Z","mono_ns":{seq},"kind":"missing","pid":{seq},"uid":0,"comm":"worker"}}"#
            );
            serde_json::from_str(&json).unwrap()
        };
        let told = lines(&[missing(1), missing(2)]);
        assert!(
            told.len() == 1 && told[0].contains("2 worker live, but do not beat to this observer"),
            "{told:?}"
        );
        let apart = [event(1, 0, 0, UP), event(2, 1001, 0, UP)];
        assert_eq!(lines(&apart).len(), 2, "a second later it is another wave");
    }

    #[test]
    fn many_go_by_what_their_names_have_in_common() {
        let of = |names: &[&str]| {
            let events: Vec<Event> =
                (1..).zip(names).map(|(seq, name)| named(seq, seq, 0, KILLED, name)).collect();
            let shown = lines(&events);
            assert_eq!(shown.len(), 1, "{shown:?}");
            shown[0][23..].split(" ended").next().unwrap().to_owned()
        };
        assert_eq!(of(&["worker", "", "worker"]), "3 worker");
        assert_eq!(of(&["load-000", "load-001"]), "2 load-*");
        assert_eq!(of(&["load", "load-001"]), "2 load*");
        assert_eq!(of(&["abc", "abd", "xyz"]), "3 agents");
        assert_eq!(of(&["日本", "日本"]), "2 日本");
    }

    #[test]
    fn a_flood_is_one_line_that_names_who() {
        let mut events = Vec::new();
        for n in 0..50 {
            let begin = n * 1000;
            let shard = u16::from(n % 2 == 0);
            events.push(event(4 * n + 1, begin, shard, BLIND));
            events.push(event(4 * n + 2, begin + 250, shard, SEES));
            events.push(event(4 * n + 3, begin + 300, shard, FLOOD));
            events.push(event(4 * n + 4, begin + 400, 0, UP));
        }
        let shown = lines(&events);
        let trouble: Vec<&String> = shown.iter().filter(|line| line.contains("frames")).collect();
        let expected = "flood    1000 sent 250k frames; shards 0, 1 blind for 12.5 s, 50 times";
        assert!(trouble.len() == 1 && trouble[0].ends_with(expected), "{shown:#?}");
        assert_eq!(
            lines(&[event(1, 0, 3, BLIND)]),
            ["12:00:00.000  blind    shard 3 blind and now"],
            "it has not ended"
        );
    }

    #[test]
    fn an_event_that_is_received_again_is_shown_once_whatever_the_clock_did() {
        let mut feed = Feed::default();
        let events = [event(7, 500, 0, UP), event(8, 501, 0, ENDED)];
        events.iter().chain(&events).for_each(|event| feed.take(*event));
        assert_eq!((feed.taken(), feed.entries().len()), (2, 2));
        // Another observer, after the clock was set back.
        feed.take(event(1, 400, 0, ENDED));
        assert_eq!(feed.taken(), 3);
    }

    #[test]
    fn a_wave_of_one_step_of_an_action_is_one_line() {
        let step = |seq: u64, more: &str| {
            let kind = format!(r#""kind":"action","action":"restart",{more}"#);
            named(seq, seq, 0, &kind, &format!("load-00{seq}"))
        };
        let started =
            |seq: u64| step(seq, &format!(r#""phase":"started","attempt":1,"child":{}"#, 900 + seq));
        let failed = |seq: u64, code: u8| {
            step(seq, &format!(r#""phase":"failed","why":"status","attempt":1,"child":9,"code":{code}"#))
        };
        let lines = lines(&[started(1), started(2), started(3), failed(4, 7), failed(5, 7), failed(6, 8)]);
        assert_eq!(
            lines,
            [
                "12:00:00.003  action   3 load-*: action restart started, within 2.00 ms: 101, 102, 103",
                "12:00:00.005  action   2 load-*: action restart failed: its program ended with code 7, within 1.00 ms: 104, 105",
                "12:00:00.006  action   pid 106 (load-006) shard 0: action restart failed: its program ended with code 8",
            ]
        );
    }
}
