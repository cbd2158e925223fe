//! Requests to reload the configuration: the program that embeds the fleet does it, as only it knows where the
//! configuration comes from.
//!
//! Thread: http. Blocks: never; waits for the program between its other tasks.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Server;
use super::response::Response;
use crate::api::Reload;

/// The path of such requests.
pub const PATH: &str = "/-/reload";
/// How long the program may take: somewhat less than the patience of `varta-fleet reload`.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Why a reload changed nothing.
#[derive(Debug)]
pub struct NotReloaded {
    /// The configuration is refused; otherwise a thread did not take it.
    pub is_refused: bool,
    /// What, where, why, and what to do.
    pub error: String,
}

/// A request to reload, and the way of its answer.
#[derive(Debug)]
pub struct Requested(oneshot::Sender<Result<Reload, NotReloaded>>);

impl Requested {
    /// Answers it. Does nothing if the client no longer waits.
    pub fn answer(self, done: Result<Reload, NotReloaded>) {
        let _ = self.0.send(done);
    }
}

type Handler = Box<dyn Fn(Requested) + Send>;

/// Who reloads.
#[derive(Default)]
pub struct Reloader(Mutex<Option<Handler>>);

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").field(&self.0.lock().is_some()).finish()
    }
}

impl Reloader {
    /// Hands requests to `handler` from now on.
    pub fn set(&self, handler: Handler) {
        *self.0.lock() = Some(handler);
    }

    /// Hands on a request; false if nobody takes it.
    fn ask(&self, request: Requested) -> bool {
        match &*self.0.lock() {
            Some(handler) => {
                handler(request);
                true
            }
            None => false,
        }
    }
}

impl Server {
    /// Has the program reload, and tells the client what came of it.
    pub(super) async fn reload(self: &Rc<Self>) -> Response {
        let (answer, answered) = oneshot::channel();
        if !self.sources.reloader.ask(Requested(answer)) {
            let told = "the program that runs this observer does not reload on request; restart it";
            return Response::refused(StatusCode::NOT_IMPLEMENTED, told);
        }
        match timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(Ok(done))) => Response::json(&done),
            Ok(Ok(Err(NotReloaded { is_refused, error }))) => {
                let code = if is_refused {
                    StatusCode::UNPROCESSABLE_ENTITY
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                Response::refused(code, &error)
            }
            Ok(Err(_)) => {
                let told = "the observer stops, or gave no answer; ask again, or see its messages";
                Response::refused(StatusCode::SERVICE_UNAVAILABLE, told)
            }
            Err(_) => {
                let told = "not known yet: the observer takes long to reload; its `reload` event will tell";
                Response::refused(StatusCode::GATEWAY_TIMEOUT, told)
            }
        }
    }
}
