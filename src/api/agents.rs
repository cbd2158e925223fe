//! Agents: a page of them, and one with its history.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::act::AgentAct;
use crate::event::{DaemonPhase, Event, Origin};
use crate::notify::daemon::ThresholdOf;
use crate::table::turned_away::TurnedAwayFor;
use crate::wire::{Status, Version};

/// A page of agents: `/api/v1/agents`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Page {
    /// Each is consistent in itself; they are not of the same instant.
    pub agents: Vec<Agent>,
    /// Cursor of the next page; `None`: this is the last page.
    pub next: Option<String>,
    /// Agents on all pages.
    pub total: u64,
    /// When each shard was read, `CLOCK_MONOTONIC`, ns: at most half a second ago, five seconds in a fleet of more than
    /// 20 000 agents. Silences are as of then.
    pub as_of: Vec<u64>,
}

/// One agent, in the words of the event schema.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Agent {
    /// Process id as the observer sees it.
    pub pid: u32,
    /// Process id inside the agent's own pid namespace, where that differs and is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// The shard that receives its beats.
    pub shard: u16,
    /// Number of its session in this run, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
    /// Its state.
    pub state: AgentState,
    /// Nonce of its last frame.
    pub nonce: u64,
    /// Status of its last frame.
    pub status: Status,
    /// Payload of its last frame.
    pub payload: u64,
    /// The user attested with its first frame.
    pub uid: u32,
    /// Its name when it was looked up; a process can choose it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its unit of the service manager when it was looked up, if it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The number of its container when it was looked up, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// In which language it beats.
    pub origin: Origin,
    /// What it said of itself, if it is a daemon that sends messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<DaemonSays>,
    /// The wire version it speaks; means nothing for a daemon.
    pub wire: Version,
    /// Accepted frames on this shard.
    pub beats: u64,
    /// Beats lost before the shard, a lower bound.
    pub lost: u64,
    /// Stalls judged.
    pub stalls: u32,
    /// Silences that ended.
    pub resumes: u32,
    /// Time since its last beat.
    pub silent_ns: u64,
    /// The silence that is a stall for it.
    pub threshold_ns: u64,
    /// The phase that this holds in, if it is longer than the threshold of its rule: `start` or `payload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Arrival of its first beat, `CLOCK_MONOTONIC`.
    pub first_ns: u64,
    /// Arrival of its last beat, `CLOCK_MONOTONIC`.
    pub last_ns: u64,
}

/// What a daemon said of itself by the protocol of sd_notify(3).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct DaemonSays {
    /// How far it has come; `None`: it has not said, or the observer may have missed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<DaemonPhase>,
    /// Its `STATUS=`, as sent: any characters but line ends. Empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Its `X_VARTA_NAME=`, as sent. Empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it beats, and does not stop: no silence of another one is a stall.
    pub beats: bool,
    /// Where its threshold comes from.
    pub threshold_of: ThresholdOf,
    /// Its `ERRNO=`: why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<u16>,
    /// Its `EXIT_STATUS=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u8>,
}

/// The state of an agent.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AgentState {
    /// It beats, or its threshold has not passed.
    #[default]
    Up,
    /// Its silence reached its threshold.
    Stalled,
    /// Its silence reached its threshold, and its control group is frozen.
    Frozen,
    /// It beats, and its rule says that it does not advance.
    Standstill,
    /// It has sent crash reports only.
    Waiting,
    /// It is no longer tracked.
    Exited,
    /// It was never admitted.
    Refused,
}

impl AgentState {
    /// The states of tracked agents.
    pub const TRACKED: [Self; 5] = [Self::Up, Self::Stalled, Self::Frozen, Self::Standstill, Self::Waiting];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stalled => "stalled",
            Self::Frozen => "frozen",
            Self::Standstill => "standstill",
            Self::Waiting => "waiting",
            Self::Exited => "exited",
            Self::Refused => "refused",
        }
    }
}

/// One agent and its history, or an exited agent: `/api/v1/agents/{pid}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// A tracked agent.
    Tracked(Box<Tracked>),
    /// An agent that is not tracked.
    Exited(Exited),
}

impl<'de> Deserialize<'de> for Detail {
    /// The state decides. A field that cannot be read makes no tracked agent an exited one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let answer = Value::deserialize(deserializer)?;
        let is_tracked = !matches!(answer["state"].as_str(), Some("exited" | "refused"));
        let detail = if is_tracked {
            Tracked::deserialize(answer).map(|tracked| Self::Tracked(Box::new(tracked)))
        } else {
            Exited::deserialize(answer).map(Self::Exited)
        };
        detail.map_err(D::Error::custom)
    }
}

/// An agent that is tracked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Tracked {
    /// As in a page.
    #[serde(flatten)]
    pub agent: Agent,
    /// When it was read, `CLOCK_MONOTONIC`.
    pub as_of: u64,
    /// Its pid does not hash to this shard.
    pub off_hash: bool,
    /// Mean time from beat to beat; from the third beat on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_ns: Option<u64>,
    /// Index of the rule that gives its threshold; `None`: the default applies.
    pub rule: Option<usize>,
    /// Crash reports.
    pub terminals: u32,
    /// Streams or versions alternate: loss is not counted.
    pub mixed: bool,
    /// Path of its program when it was looked up, as it sees files itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its program could not be read when it was looked up: any rule by program may match it.
    pub program_unreadable: bool,
    /// Blindness of its shard.
    pub blind: Blind,
    /// The last stall that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall: Option<Stall>,
    /// The last silence that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Its last valid frame that a limit refused, if there was one since its first beat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What is done about it; `None`: no action is configured, or it is not known at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<AgentAct>,
    /// Its events.
    #[serde(flatten)]
    pub past: Past,
}

/// An exited agent and its history, or a process that was never admitted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Exited {
    /// Process id.
    pub pid: u32,
    /// Exited or never admitted.
    pub state: AgentState,
    /// Its last valid frame that a limit refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What is done about it; `None`: no action is configured, or it is not known at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<AgentAct>,
    /// Its events.
    #[serde(flatten)]
    pub past: Past,
}

/// Blindness of a shard.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Blind {
    /// It is blind now.
    pub is_blind: bool,
    /// Total length of the windows that ended.
    pub total_ns: u64,
    /// End of the last of them, `CLOCK_MONOTONIC`; 0: none.
    pub last_end_ns: u64,
}

/// The last stall that was judged.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Stall {
    /// When it was judged, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Length of the silence then.
    pub silent_ns: u64,
    /// How much of the silence the shard was blind.
    pub blind_ns: u64,
    /// The shard had seen for a whole threshold.
    pub certain: bool,
    /// Nonce before the silence.
    pub last_nonce: u64,
}

/// The last silence that ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Resume {
    /// Arrival of the beat that ended it, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Length of the silence.
    pub silent_ns: u64,
    /// Beats lost in it.
    pub lost: u64,
}

/// The last valid frame of a pid that a limit refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its arrival, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Time since then.
    pub ago_ns: u64,
    /// Why.
    pub why: TurnedAwayFor,
}

/// Events of one pid: the latest 200, or those before the requested number.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Past {
    /// Oldest first. A reader leaves out events of a kind that its version does not know.
    #[serde(deserialize_with = "known_events")]
    pub history: Vec<Event>,
    /// The value of `before` that requests the events before these, if there are any.
    pub history_next: Option<u64>,
    /// Number of the oldest event in the history; it has every later one.
    pub history_from_seq: u64,
}

fn known_events<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Event>, D::Error> {
    let events = Vec::<Value>::deserialize(deserializer)?;
    Ok(events.into_iter().filter_map(|event| Event::deserialize(event).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ActCase;
    use crate::json::Json;
    use crate::lab::samples::{one_of_each, up};

    fn read_back(detail: &Detail) -> Detail {
        serde_json::from_slice(&Json(detail).to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn an_agent_is_read_back_as_it_was_written() {
        let scant = Tracked::default();
        let past =
            Past { history: vec![up(7), one_of_each()[3]], history_next: Some(7), history_from_seq: 5 };
        let agent = Agent {
            pid: 4711,
            ns_pid: Some(7),
            session: Some(3),
            state: AgentState::Frozen,
            nonce: u64::MAX,
            status: Status::Degraded,
            comm: Some("a\u{1b}[2Jb".to_owned()),
            wire: Version::V01,
            ..Agent::default()
        };
        let refused = Refused { at_ns: 1, ago_ns: 2, why: TurnedAwayFor::Table };
        let whole = Tracked {
            agent,
            period_ns: Some(1),
            rule: Some(0),
            stall: Some(Stall { certain: true, ..Stall::default() }),
            resume: Some(Resume::default()),
            refused: Some(refused),
            act: Some(AgentAct {
                evidence: Some("/run/varta/evidence/evidence-1.json".to_owned()),
                ..AgentAct::default()
            }),
            past: past.clone(),
            ..scant.clone()
        };
        let act = Some(AgentAct { cases: vec![ActCase::default()], ..AgentAct::default() });
        let exited = Exited { pid: 7, state: AgentState::Refused, refused: Some(refused), act, past };
        let tracked = [scant, whole].map(|tracked| Detail::Tracked(Box::new(tracked)));
        for detail in tracked.into_iter().chain([Detail::Exited(exited)]) {
            assert_eq!(read_back(&detail), detail);
        }
    }

    #[test]
    fn the_answer_of_another_version_is_read_for_what_it_has() {
        let read = |answer: &str| serde_json::from_str::<Detail>(answer);
        // Older: no `program_unreadable`, and more; newer: a field and an event that are not known here.
        let up = serde_json::to_string(&up(7)).unwrap();
        let unknown = up.replace("\"up\"", "\"levitates\"");
        let answer = format!(r#"{{"pid":7,"state":"up","shard":1,"new":{{}},"history":[{unknown},{up}]}}"#);
        let Detail::Tracked(tracked) = read(&answer).unwrap() else { panic!("it is tracked") };
        assert_eq!((tracked.agent.pid, tracked.agent.shard, tracked.past.history.len()), (7, 1, 1));
        // What cannot be read is an error, not an exit.
        let error = read(r#"{"pid":7,"state":"up","wire":"0.3"}"#).unwrap_err();
        assert!(error.to_string().contains("0.3"), "{error}");
    }

    #[test]
    fn a_word_is_the_same_in_json_and_in_queries() {
        for state in AgentState::TRACKED.into_iter().chain([AgentState::Exited, AgentState::Refused]) {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for why in TurnedAwayFor::ALL {
            assert_eq!(serde_json::to_value(why).unwrap(), why.as_str());
        }
        for (version, word) in [(Version::V01, "0.1"), (Version::V02, "0.2")] {
            assert_eq!((serde_json::to_value(version).unwrap(), version.as_str()), (word.into(), word));
        }
        for status in [Status::Ok, Status::Degraded, Status::Critical, Status::Stall] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
