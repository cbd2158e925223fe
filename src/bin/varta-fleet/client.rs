//! Queries a running fleet over its control socket.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use varta_fleet::{Reason, Shown};

use crate::access;
use crate::config::FileArgs;
use crate::exit::{CliError, Exit};
use crate::stderr;

/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long [`await_fleet`] waits.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// Which fleet to ask.
#[derive(clap::Args, Clone, Debug)]
pub struct FleetArgs {
    /// Runtime directory of the fleet [default: that of the configuration]
    #[arg(long, env = "VARTA_DIR", hide_env_values = true, global = true)]
    dir: Option<PathBuf>,
    /// Where else it may be named.
    #[command(flatten)]
    file: FileArgs,
}

/// A fleet that can be queried. Each query is a connection of its own.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

/// Events as they are reported.
#[derive(Debug)]
pub struct Events<'a> {
    client: &'a Client,
    body: Incoming,
    _connection: JoinHandle<Result<(), hyper::Error>>,
    text: String,
}

/// Repeats `ask` for up to ten seconds until a fleet answers in `dir`: a fleet that the previous shell line started
/// in the background needs a moment.
pub fn await_fleet<T>(dir: &Path, mut ask: impl FnMut() -> Result<T, CliError>) -> Result<T, CliError> {
    let deadline = Instant::now() + ARRIVAL;
    let mut is_said = false;
    loop {
        match ask() {
            Err(error) if error.exit() == Exit::Unavailable && Instant::now() < deadline => {
                if !mem::replace(&mut is_said, true) {
                    let dir = Shown(dir.display());
                    let seconds = ARRIVAL.as_secs();
                    stderr::info(&format!(
                        "no fleet is running in {dir} yet; waiting up to {seconds} s for one"
                    ));
                }
                thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

impl FleetArgs {
    /// The runtime directory: named, else as in the configuration, of which nothing else is checked.
    pub fn dir(&self) -> Result<PathBuf, CliError> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(self.file.layers().dir()?),
        }
    }

    /// A client of the fleet. The first query shows whether the fleet runs.
    pub fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.dir()?)
    }
}

impl Client {
    /// A client of the fleet in this directory.
    pub fn new(dir: &Path) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            CliError::new(
                Exit::Runtime,
                format!("cannot wait for answers: {}; raise the limit of open files", Reason(&error)),
            )
        })?;
        Ok(Self { socket: dir.join("control.sock"), runtime })
    }

    /// The answer of the fleet to a path.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(path, &self.text(path)?)
    }

    /// Has the fleet do what the path says, and returns its answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(path, &self.answer(Method::POST, path)?)
    }

    /// Parses an answer.
    pub fn read<T: DeserializeOwned>(&self, path: &str, text: &[u8]) -> Result<T, CliError> {
        serde_json::from_slice(text).map_err(|error| {
            CliError::new(
                Exit::Runtime,
                format!("cannot parse the answer to {path}: {error}; is the observer of the same version?"),
            )
        })
    }

    /// The same, unparsed.
    pub fn text(&self, path: &str) -> Result<Bytes, CliError> {
        self.answer(Method::GET, path)
    }

    fn answer(&self, method: Method, path: &str) -> Result<Bytes, CliError> {
        self.runtime.block_on(async {
            let asked = timeout(PATIENCE, async {
                let (response, _connection) = self.ask(method, path).await?;
                let status = response.status();
                let body =
                    response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
                Ok::<_, CliError>((status, body))
            });
            let (status, body) = asked.await.map_err(|_| self.silent())??;
            if status == StatusCode::OK { Ok(body) } else { Err(refused(status, &body)) }
        })
    }

    /// New events, or those that the query selects.
    pub fn events(&self, query: &str) -> Result<Events<'_>, CliError> {
        let path = format!("/api/v1/events?{query}");
        let (response, connection) = self.runtime.block_on(async {
            timeout(PATIENCE, self.ask(Method::GET, &path)).await.map_err(|_| self.silent())?
        })?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = self.runtime.block_on(response.into_body().collect());
            return Err(refused(status, &body.map_err(|error| self.broken(&error))?.to_bytes()));
        }
        Ok(Events { client: self, body: response.into_body(), _connection: connection, text: String::new() })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(Response<Incoming>, JoinHandle<Result<(), hyper::Error>>), CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| {
            CliError::new(
                Exit::Usage,
                format!("cannot ask for {}: {error}; write it without such characters", Shown(path)),
            )
        })?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response, connection))
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        let socket = Shown(self.socket.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => access::denied(
                &format!("cannot ask the fleet at {socket}"),
                &self.socket,
                ["control-mode", "control-group"],
            ),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CliError::new(
                Exit::Unavailable,
                format!(
                    "no fleet is running at {socket}; start one (varta-fleet run), or name its directory with --dir"
                ),
            ),
            _ => CliError::new(
                Exit::Unavailable,
                format!("cannot ask the fleet at {socket}: {}; is it its runtime directory?", Reason(error)),
            ),
        }
    }

    fn broken(&self, error: &hyper::Error) -> CliError {
        let socket = Shown(self.socket.display());
        let message = format!("the fleet at {socket} closed the connection: {error}; did it stop?");
        CliError::new(Exit::Unavailable, message)
    }

    fn silent(&self) -> CliError {
        let socket = Shown(self.socket.display());
        let message =
            format!("the fleet at {socket} did not answer within {PATIENCE:?}; is its host overloaded?");
        CliError::new(Exit::Unavailable, message)
    }
}

impl Events<'_> {
    /// The next event as its line in the log; waits for it. `None` when the fleet stopped.
    pub fn next(&mut self) -> Result<Option<String>, CliError> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            let frame = self.client.runtime.block_on(self.body.frame());
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.text.push_str(&String::from_utf8_lossy(&data));
                }
                // The connection broke without an end, as in a crash.
                Some(Err(error)) => return Err(self.client.broken(&error)),
            }
        }
    }

    /// The data of the first complete event.
    fn take(&mut self) -> Option<String> {
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                return Some(data.to_owned());
            }
        }
        None
    }
}

/// The error of the fleet, which already follows our grammar.
fn refused(status: StatusCode, body: &[u8]) -> CliError {
    #[derive(serde::Deserialize)]
    struct Refused {
        error: String,
    }
    let message = serde_json::from_slice::<Refused>(body).map_or_else(
        |_| "the fleet refused to answer without a reason; see its log".to_owned(),
        |refused| Shown(refused.error).to_string(),
    );
    let exit = match status {
        StatusCode::UNPROCESSABLE_ENTITY => Exit::Config,
        StatusCode::FORBIDDEN => Exit::Permission,
        _ => Exit::Runtime,
    };
    CliError::new(exit, message)
}

/// One parameter of a query, if it has a value.
pub fn parameter(name: &str, value: Option<impl ToString>) -> Option<String> {
    let value = value?.to_string();
    Some(form_urlencoded::Serializer::new(String::new()).append_pair(name, &value).finish())
}
