//! Numbers, times and events in plain words.

use std::io;

use varta_fleet::api::Agent;
use varta_fleet::config::KeySet;
use varta_fleet::event::{
    ActionPhase, ActionWhy, AdvanceWhy, BlindPhase, BlindWhy, BrakePhase, BrakeScope, DaemonPhase, Event,
    EventKind, ExitHow, FrozenPhase, Origin, ReloadOutcome, RestartWhy, SessionWhy, StallPhase,
};
use varta_fleet::label::Label;
use varta_fleet::priority::Standing;
use varta_fleet::time::WallNs;
use varta_fleet::{Reason, Shown};

use crate::clock;
use crate::exit::counted;

/// A time with three digits and its unit: `12.3 ms`, `2.00 s`, `1h 05m`.
pub fn time(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", digits(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{} ms", digits(ns, 1_000_000)),
        _ if seconds < 60 => format!("{} s", digits(ns, 1_000_000_000)),
        _ if seconds < 3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Who can beat if the sockets admit only their own user.
pub fn only_ours_beat() -> String {
    match rustix::process::geteuid().as_raw() {
        0 => "only root can beat".to_owned(),
        uid => format!("only user {uid}, who runs this, and root can beat"),
    }
}

/// Where a raised priority does not take effect on the whole host, and what to do about it.
pub fn confined(standing: &Standing) -> Option<(String, String)> {
    let among = match standing {
        Standing::Session => "processes of the same session (autogroup)".to_owned(),
        Standing::Group { path } => format!("processes of the control group {}", Shown(path)),
        _ => return None,
    };
    Some((
        format!("the priority of its threads counts only among {among}: on a busy host beats may be refused"),
        "CPUWeight=10000 in the unit of the observer raises the whole group".to_owned(),
    ))
}

/// A number with at most three digits and its magnitude: `999`, `1.20k`, `34.5M`.
pub fn amount(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{}k", digits(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}M", digits(n, 1_000_000)),
        _ => format!("{}G", digits(n, 1_000_000_000)),
    }
}

/// Three digits of a quotient.
fn digits(amount: u64, of: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = amount as f64 / of as f64;
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// The name of a process, which the process chose itself.
pub fn comm(agent: &Agent) -> String {
    agent.comm.as_ref().map_or_else(|| "?".to_owned(), |comm| Shown(comm).to_string())
}

/// The text of an event, after its time and kind.
pub fn event(event: &Event) -> String {
    let mut said = Vec::new();
    if let Some(pid) = event.pid() {
        said.push(format!("pid {pid}"));
    }
    if let Some(about) = event.agent.map(|agent| agent.about)
        && !about.comm.is_empty()
    {
        said.push(format!("({})", Shown(about.comm.as_str())));
    }
    if let Some(shard) = event.shard {
        said.push(format!("shard {shard}"));
    }
    let subject = said.join(" ");
    let what = predicate(event);
    match (subject.is_empty(), what.is_empty()) {
        (true, _) => what,
        (false, true) => subject,
        (false, false) => format!("{subject}: {what}"),
    }
}

fn predicate(event: &Event) -> String {
    let said_of_itself = event.agent.map(|agent| (agent.status.as_str(), agent.payload));
    let (status, payload) = said_of_itself.unwrap_or(("?", 0));
    let is_daemon = event.agent.is_some_and(|agent| agent.origin == Origin::Notify);
    match event.kind {
        EventKind::Up if is_daemon => "speaks sd_notify".to_owned(),
        EventKind::Up => format!("beats, status {status}"),
        EventKind::Stall { silent_ns, certain, blind_ns, process, used_cpu, phase, .. } => {
            let process =
                process.map(|process| format!(", process {}", process.as_str())).unwrap_or_default();
            let cpu = match used_cpu {
                Some(true) => ", used CPU",
                Some(false) => ", used no CPU",
                None => "",
            };
            let in_phase = match phase {
                Some(StallPhase::Start) => " at its start",
                Some(StallPhase::Payload) => " in the phase that its payload says",
                _ => "",
            };
            let certainty = if certain { "" } else { ", not certain" };
            let blind = Some(blind_ns).filter(|ns| *ns > 0);
            let blind = blind.map(|ns| format!(", blind for {}", time(ns))).unwrap_or_default();
            let what = match phase {
                Some(StallPhase::Stopping) => "stops, and has not ended after",
                _ => "silent for",
            };
            format!("{what} {}{in_phase}{process}{cpu}{certainty}{blind}", time(silent_ns))
        }
        EventKind::Resume { silent_ns, lost, .. } => {
            let lost = Some(lost).filter(|lost| *lost > 0);
            let lost = lost.map(|lost| format!(", {} lost", counted(lost, "beat"))).unwrap_or_default();
            format!("back after {}{lost}", time(silent_ns))
        }
        EventKind::Frozen { phase: FrozenPhase::Begin } => {
            "silent because its control group is frozen, which is not a stall".to_owned()
        }
        EventKind::Phase { phase } => match phase {
            DaemonPhase::Starting => "starts",
            DaemonPhase::Up => "is ready",
            DaemonPhase::Reloading => "reloads",
            DaemonPhase::Stopping => "stops",
            _ => "is in another phase",
        }
        .to_owned(),
        EventKind::Standstill { still_ns, certain } => {
            let certainty = if certain { "" } else { ", not certain" };
            let at = if is_daemon {
                "with the same status line".to_owned()
            } else {
                format!("at payload {payload}")
            };
            format!("beats, but stands still {at} for {}{certainty}", time(still_ns))
        }
        EventKind::Advance { still_ns, why } => {
            let why = match why {
                AdvanceWhy::Payload | AdvanceWhy::Status => "",
                AdvanceWhy::Idle => ": it has nothing to do",
                AdvanceWhy::Session => ": another session began",
                AdvanceWhy::Rule => ": no rule asks for progress any more",
            };
            format!("stands still no more, after {}{why}", time(still_ns))
        }
        EventKind::Frozen { phase: FrozenPhase::End } => "is no longer frozen, or beats".to_owned(),
        EventKind::Exit { how, while_away: false, .. } => ending(how),
        EventKind::Exit { how, while_away: true, .. } => {
            format!("{} while no observer ran", ending(how))
        }
        EventKind::Terminal { coalesced: 0 | 1 } => {
            format!("panicked or died of an exception, payload {payload}")
        }
        EventKind::Terminal { coalesced } => {
            format!("panicked or died of an exception {coalesced} times, first with payload {payload}")
        }
        EventKind::Status { coalesced: 0 | 1 } => format!("reports {status}"),
        EventKind::Status { coalesced } => format!("reports {status}, after {coalesced} changes"),
        EventKind::Session { why, coalesced } => {
            let began = match why {
                SessionWhy::NewProcess => "the pid belongs to another process now",
                SessionWhy::Exec => "it executed another program",
                SessionWhy::Version => "it uses another wire version",
                SessionWhy::Uid => "it runs as another user",
                SessionWhy::Nonce => "it beats on another connection",
            };
            match coalesced {
                0 | 1 => began.to_owned(),
                times => format!("{began}, the last of {times} changes"),
            }
        }
        EventKind::Mixed => "its streams alternate, lost beats are no longer counted".to_owned(),
        EventKind::Decode { error, .. } => format!("refused, {}", error.reason()),
        EventKind::Auth { claimed, attested, uid } => {
            format!("pid {attested} (uid {uid}) claimed to be pid {claimed}")
        }
        EventKind::Blind { phase: BlindPhase::Begin, why: BlindWhy::Full } => {
            "cannot see: its queue is full".to_owned()
        }
        EventKind::Blind { phase: BlindPhase::Begin, why: BlindWhy::Paused } => {
            "cannot see: it was paused".to_owned()
        }
        EventKind::Blind { phase: BlindPhase::Begin, why: BlindWhy::Restart } => {
            "cannot see: no observer ran".to_owned()
        }
        EventKind::Blind { phase: BlindPhase::End { for_ns }, .. } => {
            format!("sees again, was blind for {}", time(for_ns))
        }
        EventKind::Full { refused, .. } => format!("no room, {} refused", counted(refused, "frame")),
        EventKind::Flood { uid, frames, for_ns, .. } => {
            format!("{} sent {} in {}", user(uid), counted(frames, "frame"), time(for_ns))
        }
        EventKind::Churn { uid, ups, exits, terminals, for_ns, .. } => {
            let came = counted(ups.into(), "agent");
            let ended = format!("{exits} ended, {terminals} panicked");
            format!("{}: {came} came, {ended} in {}", user(uid), time(for_ns))
        }
        EventKind::Moved { from } => format!("moved here from shard {from}"),
        EventKind::Io { place, errno } => format!("{}: {}", place.as_str(), place.reason(errno)),
        EventKind::Start { shards } => format!("observing with {}", counted(shards.into(), "shard")),
        EventKind::Missing { uid, comm, .. } => {
            format!("{} (uid {uid}) lives, but does not beat to this observer", Shown(comm.as_str()))
        }
        EventKind::Restart { why, adopted, gone, gap_ns, .. } => {
            let before = match why {
                RestartWhy::Planned => "stopped",
                RestartWhy::Crash => "crashed",
            };
            let agents = counted(adopted.into(), "agent");
            let gap = time(gap_ns);
            format!(
                "continues for an observer that {before} {gap} before, with {agents}, {gone} of them gone"
            )
        }
        EventKind::Reload { outcome: ReloadOutcome::Refused, .. } => {
            "the new configuration is refused, the one before stays in force".to_owned()
        }
        EventKind::Reload { changed, restart, .. } => reload(changed, restart),
        EventKind::Action { .. } => action(&event.kind),
        EventKind::Brake { phase, scope, uid, unit, stalls, agents, by_hand } => {
            let of = match scope {
                BrakeScope::Fleet => "all agents".to_owned(),
                BrakeScope::Uid => user(uid),
                BrakeScope::Unit => {
                    let name = unit.and_then(Label::text);
                    name.map_or_else(|| "a unit".to_owned(), |name| Shown(&*name).to_string())
                }
            };
            let stalled = format!("{stalls} of {} stalled at once", counted(agents.into(), "agent"));
            match (phase, by_hand) {
                (BrakePhase::Engaged, false) => format!("actions for {of} are held: {stalled}"),
                (BrakePhase::Engaged, true) => format!("an operator holds actions for {of}"),
                (BrakePhase::Released, false) => {
                    format!("actions for {of} are no longer held: none of them stalled for a while")
                }
                (BrakePhase::Released, true) => {
                    format!("actions for {of} are no longer held: an operator released them")
                }
            }
        }
        EventKind::Lost { from_seq, to_seq } => {
            format!("events {from_seq} to {to_seq} are no longer in the history")
        }
        _ => String::new(),
    }
}

/// How far an action is; empty for other kinds.
pub fn action(kind: &EventKind) -> String {
    let EventKind::Action { action, phase, why, attempt, child, how, errno, evidence } = *kind else {
        return String::new();
    };
    let action = action.as_str();
    let attempt = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    let because = why.map(|why| format!(": {}", reason(why))).unwrap_or_default();
    match phase {
        ActionPhase::Due => format!("action {action} is due{attempt}"),
        ActionPhase::Held => format!("action {action} is held{attempt}{because}"),
        ActionPhase::Started => {
            let process = if child > 0 { format!(" as process {child}") } else { String::new() };
            let evidence = if evidence > 0 { format!(", evidence {evidence}") } else { String::new() };
            format!("action {action} started{process}{attempt}{evidence}")
        }
        ActionPhase::Ended => format!("action {action} succeeded{attempt}"),
        ActionPhase::Failed => {
            let how = match (how, why) {
                // A killed program ended by the signal that killed it.
                (Some(how), Some(ActionWhy::Status)) => format!(": its program {}", ending(Some(how))),
                _ if errno != 0 => {
                    let errno = io::Error::from_raw_os_error(errno);
                    format!("{because}: {}", Reason(&errno))
                }
                _ => because,
            };
            format!("action {action} failed{attempt}{how}")
        }
        ActionPhase::Cancelled => format!("action {action} is not needed any more{because}"),
        ActionPhase::Refused => format!("action {action} is refused{because}"),
    }
}

/// The same for its word in the event schema; one that this version does not know is shown as it is.
pub fn reason_of(word: &str) -> String {
    let known = ActionWhy::ALL.into_iter().find(|why| why.as_str() == word);
    known.map_or_else(|| Shown(word).to_string(), |why| reason(why).to_owned())
}

/// Why an action is held, failed, cancelled or refused.
const fn reason(why: ActionWhy) -> &'static str {
    match why {
        ActionWhy::Brake => "a brake is engaged",
        ActionWhy::Hand => "an operator holds it",
        ActionWhy::DryRun => "dry-run is set",
        ActionWhy::Blind => "the observer is blind",
        ActionWhy::Running => "as many run as may",
        ActionWhy::Starts => "as many were started lately as may be",
        ActionWhy::Backoff => "it was tried a short time ago",
        ActionWhy::Spawner => "there is no spawner at the moment",
        ActionWhy::Tries => "it was tried as often as it may be",
        ActionWhy::Queue => "too many actions wait",
        ActionWhy::Text => "a text it needs is not known or not safe",
        ActionWhy::Protected => "the process is protected",
        ActionWhy::Unit => "the unit may not be acted upon",
        ActionWhy::Resumed => "the agent beats again",
        ActionWhy::Gone => "the process is gone",
        ActionWhy::Removed => "the configuration has it no more",
        ActionWhy::Stopped => "the observer stops",
        ActionWhy::Start => "it could not be started",
        ActionWhy::Status => "it ended with a failure",
        ActionWhy::Timeout => "it took too long and was killed",
        ActionWhy::Lost => "the spawner ended",
    }
}

/// What a reload changed, and what it did not.
fn reload(changed: KeySet, restart: KeySet) -> String {
    let list = |keys: KeySet| keys.names().collect::<Vec<_>>().join(", ");
    let changed = if changed.is_empty() { "nothing".to_owned() } else { list(changed) };
    let restart =
        if restart.is_empty() { String::new() } else { format!("; {} needs a restart", list(restart)) };
    format!("the configuration was read again, {changed} changed{restart}")
}

/// The user of datagrams or agents; several users without a row of their own are shown together.
fn user(uid: Option<u32>) -> String {
    uid.map_or("many users".to_owned(), |uid| format!("uid {uid}"))
}

/// How a process exited.
pub fn ending(how: Option<ExitHow>) -> String {
    match how {
        Some(ExitHow::Signal(signal)) => format!("ended by signal {signal}"),
        Some(ExitHow::OutOfMemory) => "ended by signal 9, out of memory".to_owned(),
        Some(ExitHow::Code(0)) => "ended cleanly, code 0".to_owned(),
        Some(ExitHow::Code(code)) => format!("ended with code {code}"),
        None => "ended, cause unknown".to_owned(),
    }
}

/// One event on a line: time of day, kind, text.
pub fn line(event: &Event) -> String {
    with_time(time_of_day(event.wall), 12, event)
}

/// The same with the date.
pub fn dated_line(event: &Event) -> String {
    let dated = if event.wall == WallNs(0) { String::new() } else { clock::date_time(event.wall) };
    with_time(dated, 23, event)
}

fn with_time(time: String, width: usize, event: &Event) -> String {
    format!("{time:<width$}  {:<8} {}", event.kind.name(), self::event(event)).trim_end().to_owned()
}

/// The time of day of an event.
pub fn time_of_day(wall: WallNs) -> String {
    // `lost` events have no time.
    if wall == WallNs(0) { String::new() } else { clock::time_of_day(wall) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_have_three_digits() {
        let times = [
            0,
            999,
            1_000,
            12_345,
            999_999,
            1_230_000,
            2_000_000_000,
            65_000_000_000,
            3_900_000_000_000,
            100_000_000_000_000,
        ];
        let shown = times.map(time);
        assert_eq!(
            shown,
            [
                "0 ns", "999 ns", "1.00 us", "12.3 us", "1000 us", "1.23 ms", "2.00 s", "1m 05s", "1h 05m",
                "1d 03h"
            ]
        );
        assert_eq!(
            [0, 999, 1_200, 34_500_000, 2_000_000_000].map(amount),
            ["0", "999", "1.20k", "34.5M", "2.00G"]
        );
    }

    fn told(json: &str) -> String {
        line(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn events_are_sentences() {
        let common = r#""v":1,"seq":4,"ts":"2026-03-01T12:00:00.123456789Z","mono_ns":1,"shard":1"#;
        let agent = r#""pid":4711,"session":1,"nonce":9,"status":"ok","payload":0"#;
        let cases = [
            (r#""kind":"up""#, "up       pid 4711 shard 1: beats, status ok"),
            (
                r#""kind":"stall","silent_ns":2000000000,"last_nonce":9,"certain":false,"blind_ns":5000000"#,
                "stall    pid 4711 shard 1: silent for 2.00 s, not certain, blind for 5.00 ms",
            ),
            (
                r#""kind":"resume","silent_ns":2500000000,"lost":3"#,
                "resume   pid 4711 shard 1: back after 2.50 s, 3 beats lost",
            ),
            (r#""kind":"exit","silent_ns":1,"signal":9"#, "exit     pid 4711 shard 1: ended by signal 9"),
            (r#""kind":"exit","silent_ns":1,"code":null"#, "exit     pid 4711 shard 1: ended, cause unknown"),
            (r#""kind":"status","coalesced":4"#, "status   pid 4711 shard 1: reports ok, after 4 changes"),
            (
                r#""kind":"churn","uid":7,"ups":1,"exits":2,"terminals":3,"changes":4,"for_ns":1000000000"#,
                "churn    pid 4711 shard 1: uid 7: 1 agent came, 2 ended, 3 panicked in 1.00 s",
            ),
            (
                r#""kind":"action","action":"restart","phase":"started","attempt":2,"child":4712,"evidence":9"#,
                "action   pid 4711 shard 1: action restart started as process 4712 (attempt 2), evidence 9",
            ),
            (
                r#""kind":"action","action":"restart","phase":"held","why":"brake""#,
                "action   pid 4711 shard 1: action restart is held: a brake is engaged",
            ),
            (
                r#""kind":"action","action":"restart","phase":"ended","attempt":1,"child":4712,"code":0"#,
                "action   pid 4711 shard 1: action restart succeeded",
            ),
            (
                r#""kind":"action","action":"restart","phase":"failed","why":"status","attempt":3,"code":7"#,
                "action   pid 4711 shard 1: action restart failed (attempt 3): its program ended with code 7",
            ),
            (
                r#""kind":"action","action":"restart","phase":"failed","why":"timeout","attempt":1,"signal":9"#,
                "action   pid 4711 shard 1: action restart failed: it took too long and was killed",
            ),
            (
                r#""kind":"action","action":"restart","phase":"failed","why":"start","attempt":1,"errno":2"#,
                "action   pid 4711 shard 1: action restart failed: it could not be started: no such file or directory",
            ),
            (
                r#""kind":"action","action":"restart","phase":"cancelled","why":"resumed""#,
                "action   pid 4711 shard 1: action restart is not needed any more: the agent beats again",
            ),
            (r#""kind":"moved","from":0"#, "moved    pid 4711 shard 1: moved here from shard 0"),
        ];
        for (kind, expected) in cases {
            let told = told(&format!("{{{common},{agent},{kind}}}"));
            assert_eq!(told, format!("12:00:00.123  {expected}"));
        }
        let refused = told(&format!(r#"{{{common},"pid":815,"kind":"decode","error":"bad_crc"}}"#));
        assert_eq!(refused, "12:00:00.123  decode   pid 815 shard 1: refused, bad_crc");
        let brakes = [
            (
                r#""phase":"engaged","scope":"uid","uid":7,"stalls":12,"agents":30,"by_hand":false"#,
                "brake    actions for uid 7 are held: 12 of 30 agents stalled at once",
            ),
            (
                r#""phase":"released","scope":"fleet","stalls":12,"agents":30,"by_hand":true"#,
                "brake    actions for all agents are no longer held: an operator released them",
            ),
        ];
        for (brake, expected) in brakes {
            let common = common.replace(r#","shard":1"#, "");
            assert_eq!(
                told(&format!(r#"{{{common},"kind":"brake",{brake}}}"#)),
                format!("12:00:00.123  {expected}")
            );
        }
        let lost = told(r#"{"v":1,"kind":"lost","from_seq":5,"to_seq":9}"#);
        assert_eq!(lost.trim_start(), "lost     events 5 to 9 are no longer in the history");
    }
}
