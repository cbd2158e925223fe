//! Metrics, API and status page, over `control.sock` and, if configured, TCP.
//!
//! In: requests; events of its own subscription; slots, counters and tallies that other threads publish. Out:
//! responses. Thread: http, one, with a runtime of its own. Blocks: in its runtime. It never waits for a shard,
//! nor a shard for it; the aggregator copies its counts for this thread between two turns.
//!
//! Each client is limited: connections (the one idle longest makes room), bytes of a request, time to send a
//! request, time to read a response. Long work yields between pieces.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::action::request::Asker;
use crate::aggregator::fanout::EVENTS_SLACK;
use crate::aggregator::fanout::Subscriber;
use crate::config::plan::{CONTROL_MAX, HttpPlan, Plan, TCP_MAX};
use crate::event::Event;
use crate::message::Reason;
use crate::view::dead::Dead;
use crate::view::health::FleetThread;
use crate::view::tally::Reader;

mod act;
mod agents;
mod budget;
mod cells;
mod dead;
mod detail;
mod events;
mod fleet;
mod groups;
mod history;
pub mod metrics;
mod page;
mod query;
mod reload;
mod resources;
mod response;
mod ring;
mod runbook;
mod series;
mod sources;
mod token;
pub mod traffic;

use agents::Views;
use budget::Budget;
#[cfg(feature = "bench")]
pub use cells::Drawn;
pub use reload::{NotReloaded, Reloader, Requested};
use ring::Ring;
pub use sources::{Sources, Terms, TermsInForce};
use token::Token;
pub use token::{TokenError, TokenFile};
use traffic::{Connections, Entry, Traffic};

/// How long a client may take to send a request, from its connection or the end of the previous response.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may leave a response unread.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 8 * 1024;
const BUFFER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// How long responses in progress may take at a stop.
const WIND_UP: Duration = Duration::from_millis(300);
/// How often the token file is checked: a new token is in force within two seconds.
const TOKEN_EVERY: Duration = Duration::from_secs(1);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Events taken before other tasks of this thread run.
const EVENTS_PER_TURN: usize = 1024;

/// The thread.
#[derive(Debug)]
pub struct Http {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// The queue of events, and the signal that some have arrived.
#[derive(Debug)]
pub struct Heard {
    events: Receiver<Event>,
    rung: Arc<Notify>,
}

impl Heard {
    /// Also returns the subscriber that fills it. The queue has room for a stall of every agent, as that of
    /// the event output.
    pub fn subscribe(plan: &Plan) -> (Self, Subscriber) {
        let (mut subscriber, events) = Subscriber::new(Reader::Http, plan.agents_max as usize + EVENTS_SLACK);
        let rung = Arc::new(Notify::new());
        let bell = Arc::clone(&rung);
        subscriber.wake = Some(Box::new(move || bell.notify_one()));
        (Self { events, rung }, subscriber)
    }
}

/// Bound sockets, not served yet.
#[derive(Debug)]
pub struct Listeners {
    control: UnixListener,
    tcp: Option<TcpListener>,
    token: Option<TokenFile>,
}

impl Listeners {
    /// Serves on `tcp`, if it was passed to this process; else binds the TCP listener, if configured. Reads the
    /// token. May block on the disk.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn open(control: UnixListener, tcp: Option<TcpListener>, plan: &HttpPlan) -> Result<Self, HttpError> {
        let token = plan.token_file.as_deref().map(TokenFile::open).transpose()?;
        if let Some(tcp) = &tcp {
            judge_passed(tcp, plan)?;
        }
        let tcp = match tcp {
            Some(tcp) => Some(tcp),
            None => plan.listen.map(bind).transpose()?,
        };
        Ok(Self { control, tcp, token })
    }

    /// The token of the TCP clients, taken out.
    pub const fn take_token(&mut self) -> Option<TokenFile> {
        self.token.take()
    }

    /// The TCP listener.
    pub fn tcp(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.as_ref().map(AsFd::as_fd)
    }

    /// The address of the TCP listener.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

/// Why HTTP requests cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be bound.
    #[error("cannot serve http on {address}: {}; {}", Reason(source), advice(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A passed listener may not be served like that.
    #[error("cannot serve http on {address}, the socket that was passed as http: {why}")]
    Passed {
        /// Its address.
        address: SocketAddr,
        /// What is wrong with it, and what to do.
        why: String,
    },
}

/// Applies the rules of `http.listen` to a listener that was passed.
fn judge_passed(listener: &TcpListener, plan: &HttpPlan) -> Result<(), HttpError> {
    let Ok(address) = listener.local_addr() else { return Ok(()) };
    let why = match plan.listen {
        Some(listen) if listen != address => {
            format!("http.listen is {listen}; write the same address in both, or leave out http.listen")
        }
        _ if plan.token_file.is_none() && !address.ip().is_loopback() => {
            "everybody in the network could ask; name a token-file, or listen on 127.0.0.1".to_owned()
        }
        _ => return Ok(()),
    };
    Err(HttpError::Passed { address, why })
}

/// Checks whether requests can be answered as configured. Binds the address for a moment and reads the token
/// file.
///
/// # Errors
/// The first problem found; `AddrInUse` if another process serves there.
pub fn inspect(plan: &HttpPlan) -> Result<(), HttpError> {
    plan.token_file.as_deref().map(Token::read).transpose()?;
    plan.listen.map(bind).transpose()?;
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| HttpError::Bind { address, source })
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program serves there; stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this host has no such address; choose one that `ip addr` lists",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose another address or port",
    }
}

impl HttpError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Bind { source, .. } => source.kind(),
            Self::Token(error) => error.kind(),
            Self::Passed { .. } => io::ErrorKind::InvalidInput,
        }
    }
}

/// State shared by the tasks of this thread.
struct Server {
    sources: Arc<Sources>,
    token: Arc<Mutex<Option<TokenFile>>>,
    ring: RefCell<Ring>,
    dead: RefCell<Dead>,
    /// More events have arrived, or no more will.
    news: Notify,
    /// The fleet stops.
    is_over: Cell<bool>,
    /// Distinguishes the event ids of this run from those of other runs; an observer that goes on for another
    /// goes on with its run.
    run: String,
    views: Views,
    budget: Budget,
    traffic: RefCell<Traffic>,
    control: Rc<Connections>,
    tcp: Rc<Connections>,
}

/// How a client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through a socket file that only our user and root may use, unless the configuration lets others in.
    Control {
        /// The client is root or our user.
        is_ours: bool,
        /// Its user and process.
        peer: Asker,
    },
    /// From this host, or from anywhere with a token.
    Tcp,
}

impl Http {
    /// Starts the thread. `token`: what TCP clients must send, if anything; it may be replaced meanwhile.
    ///
    /// # Errors
    /// The kernel's, if it grants no thread or descriptor.
    pub fn spawn(
        sources: Sources,
        listeners: Listeners,
        token: Arc<Mutex<Option<TokenFile>>>,
        heard: Heard,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let lifeline = sources.vitals.of(FleetThread::Http);
        let thread = thread::Builder::new().name("varta-http".into()).spawn(move || {
            let _lifeline = lifeline;
            let serving = serve(Arc::new(sources), listeners, token, heard, stopped);
            LocalSet::new().block_on(&runtime, serving);
        })?;
        Ok(Self { thread, stop })
    }

    /// Sends the remaining events and closes every connection, within a third of a second. Call it once the
    /// aggregator has stopped or is given up.
    pub fn end(self) -> JoinHandle<()> {
        let _ = self.stop.send(true);
        self.thread
    }
}

async fn serve(
    sources: Arc<Sources>,
    listeners: Listeners,
    token: Arc<Mutex<Option<TokenFile>>>,
    Heard { events, rung }: Heard,
    mut stopped: watch::Receiver<bool>,
) {
    let server = Rc::new(Server {
        run: format!("{:x}", sources.run),
        sources,
        token,
        ring: RefCell::default(),
        dead: RefCell::default(),
        news: Notify::new(),
        is_over: Cell::new(false),
        views: Views::default(),
        budget: Budget::default(),
        traffic: RefCell::default(),
        control: Connections::new(CONTROL_MAX),
        tcp: Connections::new(TCP_MAX),
    });
    if listeners.tcp.is_some() {
        spawn_local(renew_token(Rc::clone(&server)));
    }
    let hearing = spawn_local(hear(Rc::clone(&server), events, Arc::clone(&rung)));
    // Cannot fail: both are non-blocking, in a runtime with I/O.
    if let Ok(control) = tokio::net::UnixListener::from_std(listeners.control) {
        let server = Rc::clone(&server);
        spawn_local(async move {
            let accept = async || {
                let (stream, _) = control.accept().await?;
                let ours = [0, rustix::process::geteuid().as_raw()];
                // Who cannot be told is not let in: user 0 would be the wrong guess.
                let peer = stream.peer_cred()?;
                let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
                let peer = Asker { uid: peer.uid(), pid };
                Ok((stream, Way::Control { is_ours: ours.contains(&peer.uid), peer }))
            };
            server.welcome(Rc::clone(&server.control), accept).await;
        });
    }
    if let Some(tcp) = listeners.tcp.and_then(|tcp| tokio::net::TcpListener::from_std(tcp).ok()) {
        let server = Rc::clone(&server);
        spawn_local(async move {
            let accept = async || {
                let (stream, _) = tcp.accept().await?;
                // Responses are written whole; waiting for more data only delays them.
                let _ = stream.set_nodelay(true);
                Ok((stream, Way::Tcp))
            };
            server.welcome(Rc::clone(&server.tcp), accept).await;
        });
    }
    // Also ends when the fleet is dropped without a stop.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
    server.is_over.set(true);
    rung.notify_one();
    let _ = hearing.await;
    server.news.notify_waiters();
    let wind_up = async {
        server.control.wind_up().await;
        server.tcp.wind_up().await;
    };
    let _ = timeout(WIND_UP, wind_up).await;
}

/// Follows changes of the token file, forever.
async fn renew_token(server: Rc<Server>) {
    loop {
        sleep(TOKEN_EVERY).await;
        let renewed = server.token.lock().as_mut().and_then(TokenFile::look_again);
        if let Some(renewed) = renewed {
            *server.sources.vitals.token_trouble.lock() = renewed.err().map(|error| error.to_string());
        }
    }
}

/// Fills the ring. Ends when the fleet stops and no event is left.
async fn hear(server: Rc<Server>, events: Receiver<Event>, rung: Arc<Notify>) {
    loop {
        let mut heard = 0;
        let ended = loop {
            match events.try_recv() {
                Ok(event) => {
                    server.dead.borrow_mut().push(&event);
                    server.ring.borrow_mut().push(event);
                }
                Err(TryRecvError::Disconnected) => break true,
                Err(TryRecvError::Empty) => break server.is_over.get(),
            }
            heard += 1;
            if heard % EVENTS_PER_TURN == 0 {
                server.news.notify_waiters();
                yield_now().await;
            }
        };
        if heard > 0 {
            server.news.notify_waiters();
        }
        if ended {
            return;
        }
        rung.notified().await;
    }
}

/// The status with which hyper answered a malformed request.
fn code_of(error: &hyper::Error) -> Option<hyper::StatusCode> {
    if error.is_parse_too_large() {
        Some(hyper::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else if error.is_parse() {
        Some(hyper::StatusCode::BAD_REQUEST)
    } else {
        error.is_timeout().then_some(hyper::StatusCode::REQUEST_TIMEOUT)
    }
}

impl Server {
    /// Accepts connections, forever.
    async fn welcome<S>(
        self: &Rc<Self>,
        connections: Rc<Connections>,
        accept: impl AsyncFn() -> io::Result<(S, Way)>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        loop {
            match accept().await {
                Ok((stream, way)) => self.let_in(way, &connections, stream).await,
                // Perhaps no descriptor is left, so one connection has to go. Or the client hung up.
                Err(_) => {
                    connections.evict_idle();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn let_in<S>(self: &Rc<Self>, way: Way, connections: &Rc<Connections>, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Some((entry, has_evicted)) = connections.enter(Instant::now()) else {
            self.traffic.borrow_mut().count(hyper::StatusCode::SERVICE_UNAVAILABLE);
            let _ = timeout(ACCEPT_PAUSE, stream.write_all(response::TOO_MANY)).await;
            return;
        };
        self.traffic.borrow_mut().evicted += u64::from(has_evicted);
        let entry = Rc::new(entry);
        let task = spawn_local(Rc::clone(self).converse(way, Rc::clone(&entry), stream));
        entry.is_served_by(task.abort_handle());
    }

    /// One connection, from its first request to its last.
    async fn converse<S>(self: Rc<Self>, way: Way, entry: Rc<Entry>, stream: S)
    where
        S: AsyncRead + AsyncWrite + 'static,
    {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(TAKEN_WITHIN));
        let answering = service_fn(|request| {
            let (server, busy) = (Rc::clone(&self), entry.begin());
            async move { Ok::<_, std::convert::Infallible>(server.answer(way, &request, busy).await) }
        });
        let ended = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_WITHIN)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(Box::pin(stream)), answering)
            .await;
        // The client caused the error and knows it. Only a response that the library sent is counted here.
        if let Some(code) = ended.err().as_ref().and_then(code_of) {
            self.traffic.borrow_mut().count(code);
        }
    }

    fn traffic(&self) -> Traffic {
        let connections = (self.control.len() + self.tcp.len()) as u64;
        Traffic { connections, ..*self.traffic.borrow() }
    }
}
