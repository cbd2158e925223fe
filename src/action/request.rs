//! What operators and the configuration ask of the thread that acts.

use serde::Serialize;

use super::brake::{Engaged, Scope};
use super::desk::Listed;
use super::hold::{Hold, HoldOf};
use crate::config::act::ActPlan;
use crate::event::ActionName;

/// Takes the answer to a request.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// A request of an operator.
pub enum Request {
    /// The configuration has other actions, or none any more.
    Replace(Box<ActPlan>),
    /// Open the audit file anew.
    Reopen,
    /// What is open.
    List(Reply<Listing>),
    /// What is open for one agent, and which holds are for it.
    Of(Whose, Reply<(Vec<Listed>, Vec<Hold>)>),
    /// Hold actions, for so long, ns; who asks, and what for.
    Hold(HoldOf, u64, String, Asker, Reply<Answer>),
    /// End the holds of these.
    Unhold(HoldOf, Asker, Reply<Answer>),
    /// Engage or release the brake.
    Brake(bool, Asker, Reply<Answer>),
    /// Start this action for this process.
    Now(u32, String, Asker, Reply<Answer>),
}

/// An agent, as far as holds tell agents apart.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    /// Its process id.
    pub pid: u32,
    /// Its unit.
    pub unit: Option<String>,
    /// Its name.
    pub comm: String,
}

/// What came of a request: a sentence, or why it was refused.
pub type Answer = Result<String, String>;

/// Who asked: the peer of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Asker {
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
}

/// What is open, held and braked.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The actions, in their order.
    pub actions: Vec<ActionName>,
    /// Open cases, oldest first; at most [`LISTED_MAX`].
    pub cases: Vec<Listed>,
    /// Open cases, listed or not.
    pub total: usize,
    /// Holds of operators.
    pub holds: Vec<Hold>,
    /// Brakes that hold.
    pub brakes: Vec<(Scope, Engaged)>,
    /// Whether a spawner is there.
    pub has_spawner: bool,
    /// Nothing is started: `dry-run`.
    pub is_dry_run: bool,
}

/// Most cases of a listing.
pub const LISTED_MAX: usize = 10_000;
