//! Requests about actions: what is open, and what operators hold, brake and start by hand.
//!
//! Thread: http. Blocks: in the file system, while it reads a file of evidence; waits for the thread that acts between its
//! other tasks.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::agents;
use super::query::{BadQuery, Query};
use super::ring::Ring;
use crate::action::brake::{Engaged, Scope};
use crate::action::desk::Listed;
use crate::action::hold::{Hold, HoldOf};
use crate::action::request::{Asker, LISTED_MAX, Listing, Reply, Request, Whose};
use crate::action::thread::Act;
use crate::api;
use crate::event::EventKind;
use crate::label::Label;
use crate::pattern::Pattern;
use crate::spawner::evidence::FILE_BYTES_MAX;
use crate::time::MonoNs;

/// The paths of requests that change something.
pub const PREFIX: &str = "/-/act/";
/// How long the thread that acts may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The same for an answer that is shown among others.
const ABOUT_WITHIN: Duration = Duration::from_millis(500);
/// The longest hold: a week, ns.
const HOLD_MAX_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;
/// The longest text of an operator, bytes.
const TEXT_BYTES_MAX: usize = 200;

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It was done.
    Done(api::ActDone),
    /// It was refused.
    Refused(String),
    /// There is no such path.
    Unknown,
    /// The thread gave no answer.
    Late,
}

/// What is open; `None`: the thread gives no answer.
pub async fn list(act: Option<&Act>, now: MonoNs) -> Option<api::Act> {
    let Some(act) = act else { return Some(api::Act::default()) };
    let listing = asked(act, ANSWER_WITHIN, Request::List).await?;
    Some(described(&listing, act, now))
}

async fn asked<T: Send + 'static>(
    act: &Act,
    within: Duration,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Option<T> {
    let (to, answer) = oneshot::channel();
    act.ask(request(Box::new(move |said| drop(to.send(said)))));
    timeout(within, answer).await.ok()?.ok()
}

fn described(listing: &Listing, act: &Act, now: MonoNs) -> api::Act {
    api::Act {
        is_configured: true,
        actions: listing.actions.iter().map(|name| name.as_str().to_owned()).collect(),
        dry_run: listing.is_dry_run,
        has_spawner: listing.has_spawner,
        cases: listing.cases.iter().take(LISTED_MAX).map(|listed| case(listed, now)).collect(),
        total: listing.total as u64,
        brakes: listing.brakes.iter().map(|engaged| brake(engaged, now)).collect(),
        holds: listing.holds.iter().map(|held| hold(held, now)).collect(),
        audit_trouble: act.counts().audit_trouble,
    }
}

fn case(listed: &Listed, now: MonoNs) -> api::ActCase {
    let about = listed.subject.agent.about;
    api::ActCase {
        action: listed.action.as_str().to_owned(),
        phase: listed.phase.as_str().to_owned(),
        why: listed.why.map(|why| why.as_str().to_owned()),
        pid: listed.subject.agent.pid,
        session: listed.subject.agent.session,
        uid: about.uid,
        comm: Some(about.comm.as_str().to_owned()).filter(|comm| !comm.is_empty()),
        unit: about.unit.and_then(Label::text).map(String::from),
        attempt: listed.attempt,
        due_in_ns: listed.due_at.map(|at| at.since(now)),
    }
}

fn hold(hold: &Hold, now: MonoNs) -> api::ActHold {
    api::ActHold {
        id: hold.id,
        of: hold.of.to_string(),
        ends_in_ns: hold.until.since(now),
        text: hold.text.clone(),
    }
}

/// What is done about one agent; `None`: there are no actions, or the thread gives no answer soon. `evidence`: the number
/// of the newest file about it.
pub async fn about(act: &Act, whose: Whose, evidence: Option<u32>, now: MonoNs) -> Option<api::AgentAct> {
    let (cases, holds) = asked(act, ABOUT_WITHIN, |to| Request::Of(whose, to)).await?;
    Some(api::AgentAct {
        cases: cases.iter().map(|listed| case(listed, now)).collect(),
        holds: holds.iter().map(|held| hold(held, now)).collect(),
        evidence: evidence.map(|number| act.evidence_file(number).display().to_string()),
    })
}

/// The number of the newest file of evidence about an agent, the last with this pid, as far as its events are kept.
pub fn evidence_of(pid: u32, ring: &Ring) -> Option<u32> {
    let session = ring.latest_of_pid(pid).find_map(|event| event.agent)?.session;
    let of_it =
        ring.latest_of_pid(pid).filter(|event| event.agent.is_some_and(|agent| agent.session == session));
    of_it.into_iter().find_map(|event| match event.kind {
        EventKind::Action { evidence, .. } => Some(evidence).filter(|number| *number > 0),
        _ => None,
    })
}

/// What a file of evidence says about this process.
///
/// # Errors
/// The kernel's; `InvalidData` if it is no such file, or about another process.
pub fn read_evidence(path: &Path, pid: u32) -> io::Result<api::Evidence> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if !file.metadata()?.is_file() {
        return Err(wrong("it is no file"));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut text)?;
    let evidence: api::Evidence = serde_json::from_slice(&text)
        .map_err(|error| wrong(&format!("it is not as it was written: {error}")))?;
    if evidence.pid != pid {
        return Err(wrong(&format!("it is about pid {}", evidence.pid)));
    }
    Ok(evidence)
}

/// A brake in the words of the API.
pub fn brake((scope, engaged): &(Scope, Engaged), now: MonoNs) -> api::ActBrake {
    let (scope, uid, unit) = scope.parts();
    api::ActBrake {
        scope: scope.as_str().to_owned(),
        uid,
        unit: unit.and_then(Label::text).map(String::from),
        stalls: engaged.stalls,
        agents: engaged.agents,
        for_ns: now.since(engaged.since),
        by_hand: engaged.by_hand,
    }
}

/// Does what a path asks for.
///
/// # Errors
/// A parameter that cannot be used.
pub async fn change(act: &Act, path: &str, query: &Query, by: Asker) -> Result<Outcome, BadQuery> {
    let missing = |name, fix| move || BadQuery::new(name, "it is missing", fix);
    let answer = match path.strip_prefix(PREFIX) {
        Some("hold") => {
            query.allows(&["pid", "unit", "comm", "for_ns", "text"])?;
            let for_ns = query
                .number("for_ns", 1, HOLD_MAX_NS)?
                .ok_or_else(missing("for_ns", "say for how long, ns"))?;
            let (whom, text) = (whom(query)?, text(query)?);
            asked(act, ANSWER_WITHIN, |to| Request::Hold(whom, for_ns, text, by, to)).await
        }
        Some("unhold") => {
            query.allows(&["pid", "unit", "comm"])?;
            let whom = whom(query)?;
            asked(act, ANSWER_WITHIN, |to| Request::Unhold(whom, by, to)).await
        }
        Some("brake") => {
            query.allows(&["do"])?;
            let is_engaged = query.one_of("do", &[("engage", true), ("release", false)])?;
            let is_engaged = is_engaged.ok_or_else(missing("do", "write engage or release"))?;
            asked(act, ANSWER_WITHIN, |to| Request::Brake(is_engaged, by, to)).await
        }
        Some("now") => {
            query.allows(&["pid", "action"])?;
            let pid = pid(query)?.ok_or_else(missing("pid", "say for which process"))?;
            let action = query.text("action").unwrap_or_default().to_owned();
            asked(act, ANSWER_WITHIN, |to| Request::Now(pid, action, by, to)).await
        }
        _ => return Ok(Outcome::Unknown),
    };
    Ok(match answer {
        Some(Ok(done)) => Outcome::Done(api::ActDone { done }),
        Some(Err(refused)) => Outcome::Refused(refused),
        None => Outcome::Late,
    })
}

fn text(query: &Query) -> Result<String, BadQuery> {
    let text = query.text("text").unwrap_or_default();
    if text.len() > TEXT_BYTES_MAX {
        return Err(BadQuery::new("text", "it is too long", format!("write at most {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text.to_owned())
}

fn pid(query: &Query) -> Result<Option<u32>, BadQuery> {
    Ok(query.number("pid", 1, u32::MAX.into())?.and_then(|pid| u32::try_from(pid).ok()))
}

/// Whom it is for: exactly one of `pid`, `unit` and `comm`.
fn whom(query: &Query) -> Result<HoldOf, BadQuery> {
    let pattern = |name: &'static str, of: fn(&str) -> Result<Pattern, BadQuery>| match query.text(name) {
        None => Ok(None),
        Some("") => {
            let fix = "write a name; * and ? stand for any characters";
            Err(BadQuery::new(name, "it is empty and matches nothing", fix))
        }
        Some(text) => Ok(Some((text.to_owned(), of(text)?))),
    };
    match (pid(query)?, pattern("unit", agents::unit_pattern)?, pattern("comm", agents::pattern)?) {
        (Some(pid), None, None) => Ok(HoldOf::Pid(pid)),
        (None, Some((text, pattern)), None) => Ok(HoldOf::Unit(text, pattern)),
        (None, None, Some((text, pattern))) => Ok(HoldOf::Comm(text, pattern)),
        _ => Err(BadQuery::new("pid", "it is not clear whom it is for", "give one of pid, unit and comm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_for_a_pid_or_for_names_however_long_they_are() {
        let of = |text: &str| whom(&Query::parse(text));
        assert!(matches!(of("pid=7"), Ok(HoldOf::Pid(7))));
        assert!(matches!(of("comm=w*"), Ok(HoldOf::Comm(text, _)) if text == "w*"));
        let unit = format!("user@1000.service/{}.service", "u".repeat(247));
        assert!(matches!(of(&format!("unit={unit}")), Ok(HoldOf::Unit(text, _)) if text == unit));
        let (comm, longer) = (format!("comm={}", "c".repeat(65)), format!("unit={}", "u".repeat(512)));
        for refused in ["", "pid=0", "unit=", "comm=", "pid=1&unit=a", "unit=a&comm=a", &comm, &longer] {
            assert!(of(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_file_of_evidence_is_a_file_about_that_process() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("evidence.json"), dir.path().join("link"));
        std::fs::write(&file, "{\"pid\":7}").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_evidence(&file, 7).unwrap().pid, 7);
        for (path, pid) in [(&*file, 8), (&*link, 7), (dir.path(), 7)] {
            assert!(read_evidence(path, pid).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_text_of_an_operator_is_bounded() {
        let of = |len: usize| text(&Query::parse(&format!("text={}", "x".repeat(len))));
        assert_eq!((of(TEXT_BYTES_MAX).is_ok(), of(TEXT_BYTES_MAX + 1).is_ok()), (true, false));
    }
}
