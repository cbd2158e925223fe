//! Responses to requests: access, routing and formats.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::mem;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rustix::rand::GetRandomFlags;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::act;
use super::agents::{self, Selection, View};
use super::budget::Sliced;
use super::cells::Cells;
use super::dead::{self, crash_loops};
use super::detail::{exited, past, tracked};
use super::events::{self, Reader};
use super::fleet::fleet;
use super::groups;
use super::history::Part;
use super::metrics::{Reading, openmetrics_text, prometheus_text};
use super::query::{BadQuery, Query};
use super::reload::{self, NotReloaded, Outcome};
use super::series::{NAMES, NAMES_OF_WATCH, Series, SeriesNames};
use super::traffic::Busy;
use super::{Server, Way, page, runbook};
use crate::action::request::Whose;
use crate::api::{AgentAct, FirstKept, Fleet, GroupBy, Page};
use crate::json::Json;
use crate::label::Label;
use crate::message::{Reason, Shown};
use crate::sys::clock::{SystemClock, boottime_ns};
use crate::time::Clock;

/// All paths, listed in the response to an unknown one.
const PATHS: &str = "/, /agents/PID, /runbook, /metrics, /metrics/agents, /-/healthy, /-/ready, /-/reload, /-/act/hold, /-/act/unhold, /-/act/brake, /-/act/now, /api/v1/fleet, \
     /api/v1/agents, /api/v1/agents/PID, /api/v1/agents/PID/evidence, /api/v1/cells, /api/v1/groups, /api/v1/dead, /api/v1/act, /api/v1/history, /api/v1/events, \
     /api/v1/openapi.json";
/// Most cells of a map.
const CELLS_MAX: u64 = 10_000;
/// Stalled agents shown on the page without a script.
const STALLED_SHOWN: usize = 100;
const SCHEMA: &str = include_str!("openapi.json");
/// Response if no connection is free.
pub const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\
      connection: close\r\n\r\n";
/// Shorter responses are not compressed.
const GZIP_FROM: usize = 1024;
const OPENMETRICS: &str = "application/openmetrics-text";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The body of a response; holds the mark of a response in progress.
pub struct Outgoing {
    body: Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>,
    _busy: Busy,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response before its encoding is decided.
struct Response {
    code: StatusCode,
    kind: &'static str,
    content: Content,
    headers: Vec<(HeaderName, HeaderValue)>,
}

enum Content {
    Whole(Bytes),
    Pieces(Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>),
    /// The same, but without an end.
    Endless(Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>),
}

/// A refusal as JSON.
#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
}

impl Response {
    fn new(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Self {
        Self { code, kind, content: Content::Whole(content.into()), headers: Vec::new() }
    }

    fn json(value: &impl Serialize) -> Self {
        match Json(value).to_bytes() {
            Ok(text) => Self::new(StatusCode::OK, JSON, text),
            Err(error) => {
                Self::refused(StatusCode::SERVICE_UNAVAILABLE, &format!("cannot write JSON: {error}"))
            }
        }
    }

    fn refused(code: StatusCode, error: &str) -> Self {
        let text = Json(Refused { error }).to_bytes().unwrap_or_default();
        Self::new(code, JSON, text)
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}

impl From<BadQuery> for Response {
    fn from(bad: BadQuery) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, &bad.to_string())
    }
}

/// Refuses a request to change something of a client that may only ask. `writers`: users who may do what is done about
/// agents, and nothing else.
fn may_change(way: Way, request: &Request<Incoming>, writers: &[u32]) -> Option<Response> {
    if *request.method() != Method::POST {
        let refused = Response::refused(StatusCode::METHOD_NOT_ALLOWED, "this changes something: use POST");
        return Some(refused.with(header::ALLOW, "POST"));
    }
    let told = match way {
        Way::Control { is_ours: true, .. } => return None,
        Way::Control { peer, .. } if request.uri().path().starts_with(act::PREFIX) => {
            if writers.contains(&peer.uid) {
                return None;
            }
            format!(
                "only root, the user of the observer and those in control-writers may do this; run it as one of them, \
                 or add user {} to control-writers",
                peer.uid
            )
        }
        Way::Control { .. } => {
            "only root and the user of the observer may change something; run this as one of them".to_owned()
        }
        Way::Tcp => {
            "an observer is changed only through its control.sock: varta-fleet reload, varta-fleet act"
                .to_owned()
        }
    };
    Some(Response::refused(StatusCode::FORBIDDEN, &told))
}

impl Server {
    /// Answers one request. Waits for other tasks of this thread, and at most 0.1 s for the aggregator.
    pub(super) async fn answer(
        self: Rc<Self>,
        way: Way,
        request: &Request<Incoming>,
        mut busy: Busy,
    ) -> hyper::Response<Outgoing> {
        let response = match self.admits(way, request) {
            Some(refused) => refused,
            None if request.method() == Method::POST && request.uri().path() == reload::PATH => {
                self.reload().await
            }
            None if request.method() == Method::POST => {
                self.act(way, request).await.unwrap_or_else(Self::refuse)
            }
            None => self.look_up(way, request).await.unwrap_or_else(Self::refuse),
        };
        let is_gzip = accepts(request.headers(), header::ACCEPT_ENCODING, "gzip") > 0.0;
        let (response, zipped) = self.affordable(response, is_gzip);
        self.traffic.borrow_mut().count(response.code);
        let body: Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>> = match response.content {
            Content::Whole(bytes) => Box::pin(Sliced(bytes)),
            Content::Pieces(body) => body,
            Content::Endless(body) => {
                busy.is_endless();
                body
            }
        };
        let mut outgoing = hyper::Response::new(Outgoing { body, _busy: busy });
        *outgoing.status_mut() = response.code;
        let headers = outgoing.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(response.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.extend(response.headers);
        outgoing
    }

    /// Does what an operator asks about actions.
    async fn act(&self, way: Way, request: &Request<Incoming>) -> Result<Response, BadQuery> {
        let Some(acting) = self.sources.act.lock().clone() else {
            let told = "no action is configured; see [[action]] in varta-fleet.toml(5)";
            return Ok(Response::refused(StatusCode::CONFLICT, told));
        };
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let Way::Control { peer, .. } = way else {
            return Ok(Response::refused(StatusCode::FORBIDDEN, "ask through control.sock"));
        };
        let told = |error: String| Ok(Response::refused(StatusCode::UNPROCESSABLE_ENTITY, &error));
        match act::change(&acting, request.uri().path(), &query, peer).await? {
            act::Outcome::Done(done) => Ok(Response::json(&done)),
            act::Outcome::Refused(error) => told(error),
            act::Outcome::Unknown => {
                let told = "there are /-/act/hold, /-/act/unhold, /-/act/brake and /-/act/now";
                Ok(Response::refused(StatusCode::NOT_FOUND, told))
            }
            act::Outcome::Late => Ok(Self::acts_late()),
        }
    }

    fn acts_late() -> Response {
        let told = "the thread that acts gives no answer; see /-/healthy";
        Response::refused(StatusCode::SERVICE_UNAVAILABLE, told)
    }

    /// Has the program reload, and tells the client what came of it.
    async fn reload(&self) -> Response {
        let refused = |code, told: &str| Response::refused(code, told);
        match self.sources.reloader.ask().await {
            Some(Outcome::Answered(Ok(done))) => Response::json(&done),
            Some(Outcome::Answered(Err(NotReloaded { is_refused: true, error }))) => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, &error)
            }
            Some(Outcome::Answered(Err(NotReloaded { is_refused: false, error }))) => {
                refused(StatusCode::SERVICE_UNAVAILABLE, &error)
            }
            Some(Outcome::Dropped) => {
                let told = "the observer stops, or gave no answer; ask again, or see its messages";
                refused(StatusCode::SERVICE_UNAVAILABLE, told)
            }
            Some(Outcome::Late) => {
                let told = "not known yet: the observer takes long to reload; its `reload` event will tell";
                refused(StatusCode::GATEWAY_TIMEOUT, told)
            }
            None => {
                let told = "the program that runs this observer does not reload on request; restart it";
                refused(StatusCode::NOT_IMPLEMENTED, told)
            }
        }
    }

    /// The response as it is sent, compressed or not, if the budget of waiting bytes allows it.
    fn affordable(&self, mut response: Response, is_gzip: bool) -> (Response, bool) {
        let Content::Whole(bytes) = &mut response.content else { return (response, false) };
        let is_zipped = is_gzip && bytes.len() >= GZIP_FROM;
        if is_zipped {
            *bytes = gzip(bytes);
        }
        match self.budget.hold(mem::take(bytes)) {
            Some(held) => {
                *bytes = held;
                (response, is_zipped)
            }
            None => (Self::too_much(), false),
        }
    }

    fn too_much() -> Response {
        let told =
            "too many answers wait for clients that take them slowly: ask again in a second, or for less";
        Response::refused(StatusCode::SERVICE_UNAVAILABLE, told).with(header::RETRY_AFTER, "1")
    }

    fn refuse(bad: BadQuery) -> Response {
        bad.into()
    }

    /// Refuses a request by its origin and headers, before its content is examined.
    fn admits(&self, way: Way, request: &Request<Incoming>) -> Option<Response> {
        if way == Way::Tcp {
            if let Some(file) = &*self.token.lock() {
                let given = secret(request.headers());
                if !given.is_some_and(|given| file.token().is(&given)) {
                    if let Some(response) = self.probed(request) {
                        return Some(response);
                    }
                    let told = "this observer wants a token: send Authorization: Bearer TOKEN, or the token as \
                                the password of Basic authentication";
                    let schemes =
                        "Bearer realm=\"varta-fleet\", Basic realm=\"varta-fleet\", charset=\"UTF-8\"";
                    return Some(
                        Response::refused(StatusCode::UNAUTHORIZED, told)
                            .with(header::WWW_AUTHENTICATE, schemes),
                    );
                }
            } else if !is_this_host(request.headers()) {
                // A foreign name may resolve to this host and serve a page that is open in a browser here.
                let told = "ask by an address or as localhost: without a token, other names are refused; see \
                            token-file of [http]";
                return Some(Response::refused(StatusCode::MISDIRECTED_REQUEST, told));
            }
        }
        let path = request.uri().path();
        if path == reload::PATH || path.starts_with(act::PREFIX) {
            return may_change(way, request, &self.sources.terms().writers);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let told = "nothing can be changed here: use GET or HEAD";
            let refused = Response::refused(StatusCode::METHOD_NOT_ALLOWED, told);
            return Some(refused.with(header::ALLOW, "GET, HEAD"));
        }
        if request.body().size_hint().lower() > 0 {
            return Some(Response::refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                "send no body: nothing here reads one",
            ));
        }
        None
    }

    async fn look_up(self: &Rc<Self>, way: Way, request: &Request<Incoming>) -> Result<Response, BadQuery> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let path = request.uri().path();
        match path {
            "/" => {
                query.allows(&[])?;
                Ok(self.status_page().await)
            }
            "/runbook" => {
                query.allows(&[])?;
                Ok(Self::document(runbook::render))
            }
            // Scrapers may add parameters of their own.
            "/metrics" => Ok(self.metrics(request.headers())),
            "/metrics/agents" => {
                let names =
                    query.one_of("names", &[("varta-fleet", &NAMES), ("varta-watch", &NAMES_OF_WATCH)])?;
                Ok(self.metrics_of_agents(names.unwrap_or(&NAMES)).await)
            }
            "/-/healthy" => Ok(self.healthy()),
            "/-/ready" => Ok(self.ready()),
            "/api/v1/fleet" => {
                query.allows(&[])?;
                Ok(Response::json(&self.fleet()))
            }
            "/api/v1/agents" => {
                let selection = Selection::parse(&query)?;
                Ok(Response::json(&self.page(&selection).await))
            }
            "/api/v1/cells" => {
                query.allows(&["max", "by"])?;
                let max = query.number("max", 1, CELLS_MAX)?.unwrap_or(CELLS_MAX);
                let by =
                    query.one_of("by", &GroupBy::ALL.map(|by| (by.as_str(), by)))?.unwrap_or(GroupBy::Shard);
                let view = self.view(false).await;
                let max = usize::try_from(max).unwrap_or(usize::MAX);
                Ok(Response::json(&Cells::of(&view, max, by, &self.sources).await))
            }
            "/api/v1/dead" => {
                let selection = dead::Selection::parse(&query)?;
                Ok(Response::json(&dead::answer(&self.dead.borrow(), &selection, self.sources.now())))
            }
            "/api/v1/groups" => {
                query.allows(&["by"])?;
                let by = query.one_of("by", &GroupBy::ALL.map(|by| (by.as_str(), by)))?.unwrap_or_default();
                let view = self.view(false).await;
                let died = groups::died(&self.dead.borrow(), self.sources.now());
                Ok(Response::json(&groups::groups(by, &view, died, &self.sources).await))
            }
            "/api/v1/act" => {
                query.allows(&[])?;
                let acting = self.sources.act.lock().clone();
                let listed = act::list(acting.as_ref(), self.sources.now()).await;
                Ok(listed.map_or_else(Self::acts_late, |listed| Response::json(&listed)))
            }
            "/api/v1/events" => self.events(&query, request.headers()),
            "/api/v1/history" => {
                let wall = SystemClock.wall();
                let part = Part::parse(&query, wall)?;
                Ok(part.of(&self.sources.history, boottime_ns(), wall).map_or_else(
                    |_| {
                        let told = "the history cannot be read: the thread that records it ended, or is not \
                                    scheduled; ask again, or see /-/healthy";
                        Response::refused(StatusCode::SERVICE_UNAVAILABLE, told)
                    },
                    |history| Response::json(&history),
                ))
            }
            "/api/v1/openapi.json" => Ok(Response::new(StatusCode::OK, JSON, SCHEMA)),
            _ if path.strip_prefix("/agents/").is_some_and(|pid| pid.parse::<u32>().is_ok()) => {
                query.allows(&[])?;
                Ok(self.status_page().await)
            }
            _ => match path.strip_prefix("/api/v1/agents/").map(|of| (of, of.strip_suffix("/evidence"))) {
                Some((_, Some(pid))) => {
                    query.allows(&[])?;
                    self.evidence(way, pid)
                }
                Some((pid, None)) => {
                    query.allows(&["before"])?;
                    self.agent(pid, query.number("before", 0, u64::MAX)?).await
                }
                None => {
                    let told = format!("there is no {}; there are {PATHS}", Shown(path));
                    Ok(Response::refused(StatusCode::NOT_FOUND, &told))
                }
            },
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response {
        let text = openmetrics_text(Reading::take(
            &self.sources,
            self.traffic(),
            self.crash_loops(),
            self.sources.now(),
        ));
        let wants_openmetrics = accepts(headers, header::ACCEPT, OPENMETRICS);
        // A client without preferences gets the format that every client can read.
        let is_openmetrics =
            wants_openmetrics > 0.0 && wants_openmetrics >= accepts(headers, header::ACCEPT, "text/plain");
        if is_openmetrics {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Response::new(StatusCode::OK, kind, text)
        } else {
            Response::new(StatusCode::OK, PROMETHEUS, prometheus_text(&text))
        }
    }

    /// A scan that is recent enough, or a new one.
    async fn view(self: &Rc<Self>, must_be_new: bool) -> Rc<View> {
        let server = Rc::clone(self);
        // A separate task: a client that disconnects must not end a scan that others wait for, or make it
        // start again.
        let (found, view) = oneshot::channel();
        spawn_local(async move {
            let count = |busy| server.traffic.borrow_mut().slot_reads_busy += busy;
            let view = match must_be_new {
                false => server.views.fresh(&server.sources, count).await,
                true => server.views.next(&server.sources, count).await,
            };
            let _ = found.send(view);
            server.views.forget().await;
        });
        view.await.unwrap_or_default()
    }

    async fn metrics_of_agents(self: &Rc<Self>, names: &'static SeriesNames) -> Response {
        let max = self.sources.plan.http.metrics_agents_max;
        if max == 0 {
            let told = "agents have no series of their own here; set metrics-agents-max in [http]";
            return Response::refused(StatusCode::NOT_FOUND, told);
        }
        let view = self.view(false).await;
        let series = Series::of(&view, max as usize);
        let Some(charge) = self.budget.charge(series.bytes()) else { return Self::too_much() };
        let pieces = series.pieces(names, charge).map(|piece| Ok(Frame::data(Bytes::from(piece))));
        Response {
            code: StatusCode::OK,
            kind: PROMETHEUS,
            content: Content::Pieces(Box::pin(StreamBody::new(stream::iter(pieces)))),
            headers: Vec::new(),
        }
    }

    fn healthy(&self) -> Response {
        if self.sources.vitals.threads(self.sources.now()).is_healthy() {
            return Response::new(StatusCode::OK, TEXT, "ok\n");
        }
        let told = self.fleet().problems.iter().map(|problem| format!("{problem}\n")).collect::<String>();
        Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, told)
    }

    fn ready(&self) -> Response {
        match self.is_over.get() {
            false => Response::new(StatusCode::OK, TEXT, "ready\n"),
            true => Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the observer is stopping\n"),
        }
    }

    /// Answers probes, which service managers and load balancers send without a token. They learn whether the
    /// fleet is healthy, not what is wrong.
    fn probed(&self, request: &Request<Incoming>) -> Option<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        match request.uri().path() {
            "/-/ready" => Some(self.ready()),
            "/-/healthy" if self.sources.vitals.threads(self.sources.now()).is_healthy() => {
                Some(self.healthy())
            }
            "/-/healthy" => {
                let told = "not healthy: who asks with the token is told why\n";
                Some(Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, told))
            }
            _ => None,
        }
    }

    /// How many units or programs die again and again.
    fn crash_loops(&self) -> u64 {
        self.dead.borrow().crash_loops(self.sources.now()).len() as u64
    }

    fn fleet(&self) -> Fleet {
        let now = self.sources.now();
        let ring = self.ring.borrow();
        let events_kept = ring.whole_from().map(|event| FirstKept { seq: event.seq, ts: event.wall });
        let fleet = fleet(&self.sources, crash_loops(&self.dead.borrow(), now), now, SystemClock.wall());
        Fleet { events_kept, ..fleet }
    }

    async fn status_page(self: &Rc<Self>) -> Response {
        let stalled = self.page(&Selection::stalled(STALLED_SHOWN)).await;
        Self::document(|nonce| page::render(&self.fleet(), &stalled, nonce))
    }

    /// A page with its content security policy.
    fn document(render: impl FnOnce(&str) -> String) -> Response {
        let mut random = [0; 16];
        // Without ready randomness the nonce is predictable; acceptable, as the page shows no secret.
        let _ = rustix::rand::getrandom(&mut random, GetRandomFlags::NONBLOCK);
        let nonce = BASE64.encode(random);
        let mut response = Response::new(StatusCode::OK, "text/html; charset=utf-8", render(&nonce));
        let policy = HeaderValue::try_from(page::policy(&nonce)).ok();
        response.headers.extend(policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
        response.with(header::REFERRER_POLICY, "no-referrer")
    }

    async fn page(self: &Rc<Self>, selection: &Selection) -> Page {
        let view = self.view(false).await;
        agents::page(selection, &view, &self.sources).await
    }

    async fn agent(self: &Rc<Self>, pid: &str, before: Option<u64>) -> Result<Response, BadQuery> {
        let pid = pid_of(pid)?;
        // The second scan is new: the agent may have appeared since, or moved.
        for must_be_new in [false, true] {
            let view = self.view(must_be_new).await;
            let past = |pid| past(pid, &self.ring.borrow(), before);
            let found = view.find(pid).and_then(|row| tracked(row, &self.sources, past));
            if let Some(mut detail) = found {
                let (unit, comm) = (detail.agent.unit.clone(), detail.agent.comm.clone().unwrap_or_default());
                detail.act = self.done_about(Whose { pid, unit, comm }).await;
                return Ok(Response::json(&detail));
            }
        }
        let past = past(pid, &self.ring.borrow(), before);
        if let Some(mut exited) = exited(pid, &self.sources, past, before.is_some()) {
            let about =
                exited.past.history.iter().rev().find_map(|event| event.agent).map(|agent| agent.about);
            let about = about.unwrap_or_default();
            let (unit, comm) = (about.unit.and_then(Label::text), about.comm.as_str().to_owned());
            exited.act = self.done_about(Whose { pid, unit: unit.map(String::from), comm }).await;
            return Ok(Response::json(&exited));
        }
        let told =
            format!("no agent with pid {pid} has beaten, as far as is remembered; is it the right pid?");
        Ok(Response::refused(StatusCode::NOT_FOUND, &told))
    }

    /// What is done about an agent, if there are actions, and the thread that acts answers.
    async fn done_about(&self, whose: Whose) -> Option<AgentAct> {
        let acting = self.sources.act.lock().clone()?;
        let evidence = act::evidence_of(whose.pid, &self.ring.borrow());
        act::about(&acting, whose, evidence, self.sources.now()).await
    }

    /// What was found about an agent before the last action for it.
    fn evidence(&self, way: Way, pid: &str) -> Result<Response, BadQuery> {
        if !matches!(way, Way::Control { is_ours: true, .. }) {
            let told = "evidence is only for root and the user of the observer, through control.sock: run varta-fleet \
                        explain as one of them";
            return Ok(Response::refused(StatusCode::FORBIDDEN, told));
        }
        let pid = pid_of(pid)?;
        let acting = self.sources.act.lock().clone();
        let Some((acting, number)) = acting.zip(act::evidence_of(pid, &self.ring.borrow())) else {
            let told = format!(
                "there is no evidence about pid {pid}: nothing was started for it as far as its events are kept, or \
                 without evidence"
            );
            return Ok(Response::refused(StatusCode::NOT_FOUND, &told));
        };
        let path = acting.evidence_file(number);
        let shown = Shown(path.display());
        Ok(match act::read_evidence(&path, pid) {
            Ok(evidence) => Response::json(&evidence),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let told = format!("{shown} is not there any more: only the last files of evidence are kept");
                Response::refused(StatusCode::NOT_FOUND, &told)
            }
            Err(error) => {
                let told =
                    format!("cannot read {shown}: {}; is it replaced, or the disk at fault?", Reason(&error));
                Response::refused(StatusCode::SERVICE_UNAVAILABLE, &told)
            }
        })
    }

    fn events(self: &Rc<Self>, query: &Query, headers: &HeaderMap) -> Result<Response, BadQuery> {
        let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let reader = Reader::parse(query, last_id, self)?;
        let body = StreamBody::new(events::stream(reader, Rc::clone(self)));
        Ok(Response {
            code: StatusCode::OK,
            kind: "text/event-stream",
            content: Content::Endless(Box::pin(body)),
            headers: Vec::new(),
        })
    }
}

fn pid_of(text: &str) -> Result<u32, BadQuery> {
    text.parse().map_err(|_| BadQuery::new("pid", format!("{text:?} is no process id"), "write its number"))
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

/// The weight of a value in a list of preferences, 0 to 1; 0 if it is not listed.
fn accepts(headers: &HeaderMap, name: HeaderName, what: &str) -> f32 {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let wanted = lists.flat_map(|list| list.split(',')).filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(what) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        Some(weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0)))
    });
    wanted.fold(0.0, f32::max)
}

/// The token that a client sends: a bearer token, or the password of Basic authentication.
fn secret(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = BASE64.decode(rest.trim()).ok()?;
    let colon = plain.iter().position(|byte| *byte == b':')?;
    Some(plain[colon + 1..].to_vec())
}

/// Whether the host name of the request can only mean this host: an address, or `localhost`.
fn is_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
