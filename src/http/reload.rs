//! Requests to reload the configuration: the program that embeds the fleet does it, as only it knows where the
//! configuration comes from.
//!
//! Thread: http. Blocks: never; waits for the program between its other tasks.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

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

    /// Has the configuration reloaded, and waits for what comes of it. `None`: nobody takes requests.
    pub async fn ask(&self) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        match &*self.0.lock() {
            Some(handler) => handler(Requested(answer)),
            None => return None,
        }
        Some(match timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(done)) => Outcome::Answered(done),
            Ok(Err(_)) => Outcome::Dropped,
            Err(_) => Outcome::Late,
        })
    }
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The program answered.
    Answered(Result<Reload, NotReloaded>),
    /// The program ended, or dropped the request.
    Dropped,
    /// There was no answer in time.
    Late,
}
