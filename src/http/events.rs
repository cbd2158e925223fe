//! Events as server-sent events, read from the ring: a slow reader costs the others nothing and gets a report
//! of what it missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use hyper::body::{Bytes, Frame};
use tokio::time::timeout;

use super::Server;
use super::agents::{pattern, unit_pattern};
use super::query::{BadQuery, Query};
use super::ring::Step;
use crate::event::filter::Filter;
use crate::event::{Event, EventKind};
use crate::sinks::jsonl;
use crate::time::{MonoNs, WallNs};

/// After this time without events a reader gets a comment, so that either side notices a lost connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events per piece of the response.
const PIECE: usize = 256;

/// The events a client wants, and its position.
#[derive(Debug)]
pub struct Reader {
    /// The last number that was handled.
    after: u64,
    filter: Filter,
    is_following: bool,
}

impl Reader {
    /// The reader that the query asks for. `last_id` is the `Last-Event-ID` of a client that reconnects.
    ///
    /// # Errors
    /// A parameter is invalid.
    pub fn parse(query: &Query, last_id: Option<&str>, server: &Server) -> Result<Self, BadQuery> {
        query.allows(&["kind", "pid", "shard", "comm", "unit", "since", "until", "after", "follow"])?;
        let kinds: Vec<String> =
            query.text("kind").map(|kinds| kinds.split(',').map(str::to_owned).collect()).unwrap_or_default();
        if let Some(unknown) = kinds.iter().find(|kind| !EventKind::NAMES.contains(&kind.as_str())) {
            let fix = format!("write some of {}", EventKind::NAMES.join(","));
            return Err(BadQuery::new("kind", format!("there is no {unknown:?}"), fix));
        }
        let is_following = query.one_of("follow", &[("true", true), ("false", false)])?.unwrap_or(true);
        let [since, until] = [query.instant("since")?, query.instant("until")?];
        if let (Some(since), Some(until)) = (since, until)
            && until < since
        {
            return Err(BadQuery::new("until", format!("{until} is before since={since}"), "swap the two"));
        }
        let ring = server.ring.borrow();
        let after = match last_id.or(query.text("after")) {
            Some(text) => position(text, &server.run, ring.last_seq()).ok_or_else(|| {
                BadQuery::new(
                    "after",
                    format!("{text:?} is no number of an event"),
                    "write its `seq`, or 0 for all there are",
                )
            })?,
            None if is_following && since.is_none() => ring.last_seq(),
            // Gaps among them are told, unless all of that was before.
            None if since.is_some() => 0,
            None => ring.first_seq() - 1,
        };
        let number = |name, max| query.number(name, 0, max);
        Ok(Self {
            after,
            filter: Filter {
                kinds,
                pid: number("pid", u64::from(u32::MAX))?.and_then(|pid| u32::try_from(pid).ok()),
                shard: number("shard", u64::from(u16::MAX))?.and_then(|shard| u16::try_from(shard).ok()),
                comm: query.text("comm").map(pattern).transpose()?,
                unit: query.text("unit").map(unit_pattern).transpose()?,
                since,
                until,
            },
            is_following,
        })
    }

    /// Whether events between these may be of the time that is wanted. Each is `None` where there is no such event.
    fn may_want(&self, last: Option<WallNs>, next: Option<WallNs>) -> bool {
        let Filter { since, until, .. } = self.filter;
        let are_before = matches!((next, since), (Some(next), Some(since)) if next < since);
        let are_after = matches!((last, until), (Some(last), Some(until)) if last >= until);
        !are_before && !are_after
    }

    /// The next events as text; empty if there are none yet.
    fn piece(&mut self, server: &Server) -> Vec<u8> {
        let ring = server.ring.borrow();
        let mut text = Vec::new();
        let bytes_max = server.budget.share();
        for _ in 0..PIECE {
            if text.len() >= bytes_max {
                break;
            }
            match ring.next(self.after) {
                Some(Step::Event(event)) => {
                    self.after = event.seq;
                    if self.filter.wants(&event) {
                        write(&event, event.seq, &server.run, &mut text);
                    }
                }
                Some(Step::Lost(from_seq, to_seq)) => {
                    self.after = to_seq;
                    let wall_of = |step| match step {
                        Some(Step::Event(event)) => Some(event.wall),
                        Some(Step::Lost(..)) | None => None,
                    };
                    let last = from_seq.checked_sub(2).and_then(|before| wall_of(ring.next(before)));
                    if !self.may_want(last, wall_of(ring.next(to_seq))) {
                        continue;
                    }
                    let kind = EventKind::Lost { from_seq, to_seq };
                    let lost = Event {
                        seq: 0,
                        again: false,
                        wall: WallNs(0),
                        mono: MonoNs(0),
                        shard: None,
                        agent: None,
                        kind,
                    };
                    write(&lost, to_seq, &server.run, &mut text);
                }
                None => break,
            }
        }
        text
    }
}

/// The position of a number or an event id. An id of another run means the beginning of this run, and so does
/// a number that this run has not reached.
fn position(text: &str, run: &str, last_seq: u64) -> Option<u64> {
    let (of_run, number) = text.rsplit_once('-').unwrap_or((run, text));
    let number: u64 = number.parse().ok()?;
    Some(if of_run == run && number <= last_seq { number } else { 0 })
}

fn write(event: &Event, seq: u64, run: &str, text: &mut Vec<u8>) {
    text.extend_from_slice(format!("id: {run}-{seq}\nevent: {}\ndata: ", event.kind.name()).as_bytes());
    jsonl::write_line(event, text);
    text.push(b'\n');
}

/// The response, piece by piece, until the client disconnects.
pub fn stream(
    reader: Reader,
    server: Rc<Server>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + 'static {
    let first = VecDeque::from([Bytes::from_static(b": events of varta-fleet\n\n")]);
    unfold((reader, server, first), |(mut reader, server, mut ready)| async move {
        loop {
            if let Some(piece) = ready.pop_front() {
                return Some((Ok(Frame::data(piece)), (reader, server, ready)));
            }
            // Registered before the ring is read, so that no event is missed in between.
            let news = server.news.notified();
            let piece = reader.piece(&server);
            if !piece.is_empty() {
                ready.push_back(piece.into());
                continue;
            }
            if reader.after < server.ring.borrow().last_seq() {
                // No event of this piece was wanted; let other tasks run.
                tokio::task::yield_now().await;
                continue;
            }
            if !reader.is_following || server.is_over.get() {
                return None;
            }
            if timeout(KEEP_ALIVE, news).await.is_err() {
                ready.push_back(Bytes::from_static(b":\n\n"));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_run_begins_anew() {
        assert_eq!(position("7", "a", 10), Some(7));
        assert_eq!(position("a-7", "a", 10), Some(7));
        assert_eq!(position("b-7", "a", 10), Some(0), "another run");
        assert_eq!(position("a-11", "a", 10), Some(0), "not reached");
        assert_eq!(position("x", "a", 10), None);
        assert_eq!(position("-1", "a", 10), Some(0));
    }
}
