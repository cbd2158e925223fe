//! The thread that acts: hears the events, lets the [`Desk`] decide, verifies whom a start is for, and orders it from the
//! spawner.
//!
//! In: events, requests of operators, reports of the spawner. Out: orders, events of actions by way of the aggregator,
//! lines of the audit file, counts. Thread: act. Blocks: in its wait, the audit file, and 0.1 s for an answer of the
//! aggregator. Nobody waits for it but an operator's request.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::Subject;
use super::audit::{Acted, Audit, Before};
use super::brake::{Census, Engaged, News, Scope};
use super::desk::{Desk, Hold, HoldOf, Listed, Output, Step, Ticket};
use super::template::arguments;
use super::verify::{Protected, verify};
use crate::aggregator;
use crate::aggregator::present::Present;
use crate::config::act::{ActPlan, Deed};
use crate::event::{ActionName, ActionPhase, ActionWhy, BrakePhase, BrakeScope, Event, EventKind, ExitHow};
use crate::label::Label;
use crate::lane::kick::Kick;
use crate::lane::{Doorbell, Port};
use crate::message::Reason;
use crate::process::names::Names;
use crate::spawner::client::{How, Spawner};
use crate::spawner::protocol::{self, Order, Report};
use crate::sys::clock::SystemClock;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::health::{ActTroubles, Lifeline, Vitals};

/// How long the aggregator may take to answer about one agent; it answers between two turns.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// After a restart, how long and how often to look for stalls of before.
const RESUME_NS: u64 = 30_000_000_000;
const RESUME_EVERY_NS: u64 = 250_000_000;
/// The longest time that is told apart: a day.
const TOOK_MAX_NS: u64 = 86_400_000_000_000;
/// How old a census may be.
const CENSUS_NS: u64 = 1_000_000_000;
/// How often the spawner is looked after, at least.
const LOOK_AFTER_NS: u64 = 1_000_000_000;
/// How long there may be no spawner until that is a problem: one is started anew a second after it ended.
const NO_SPAWNER_NS: u64 = 3_000_000_000;
/// Most brakes that are told with the state of the fleet.
const BRAKES_TOLD: usize = 100;

/// What surrounds the thread.
#[derive(Debug)]
pub struct Surroundings {
    /// To the aggregator, and its bell.
    pub aggregator: (Sender<aggregator::Request>, Arc<Doorbell>),
    /// The slots.
    pub ports: Arc<[Arc<Port>]>,
    /// Who the processes are.
    pub names: Arc<Names>,
    /// The run of the observer.
    pub run: u64,
}

impl Surroundings {
    fn ask(&self, request: aggregator::Request) {
        let (requests, doorbell) = &self.aggregator;
        let _ = requests.send(request);
        doorbell.ring();
    }

    /// The agent with this pid, if there is one.
    ///
    /// # Errors
    /// No answer in time: the aggregator is busy, or parked while another observer may take over.
    fn present(&self, pid: u32) -> Result<Option<Present>, Late> {
        asked(ANSWER_WITHIN, |to| self.ask(aggregator::Request::Present(pid, to))).ok_or(Late)
    }

    /// Every agent whose stall was reported and lasts.
    ///
    /// # Errors
    /// No answer in time.
    fn stalled(&self) -> Result<Vec<Present>, Late> {
        asked(ANSWER_WITHIN, |to| self.ask(aggregator::Request::Stalled(to))).ok_or(Late)
    }
}

/// Takes the answer to a request.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// A request of an operator.
pub enum Request {
    /// The configuration has other actions.
    Replace(Box<ActPlan>),
    /// The configuration has no actions any more.
    Remove,
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

/// Counts of the thread, for metrics.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Steps, by action and phase.
    pub steps: BTreeMap<(ActionName, ActionPhase), u64>,
    /// How long each took that ended, from its order, ns.
    pub took_ns: Histogram<u64>,
    /// By outcome: how often evidence was written, was unavailable.
    pub evidence: [u64; 2],
    /// Due and held.
    pub waiting: u64,
    /// Children.
    pub running: u64,
    /// Agents that an operator holds actions for.
    pub held_agents: u64,
    /// Brakes that hold, by scope.
    pub brakes: [u64; 3],
    /// The most important of them, that of all agents first, then those with most stalls.
    pub engaged: Vec<(Scope, Engaged)>,
    /// How often a spawner was started anew or connected to again.
    pub spawner_restarts: u64,
    /// Whether one is there.
    pub has_spawner: bool,
    /// Lines that the audit file did not take.
    pub audit_lost: u64,
    /// Why it did not take the last one; empty: it did.
    pub audit_trouble: String,
}

/// The running thread, for those who ask it.
#[derive(Clone, Debug)]
pub struct Act {
    requests: Sender<Request>,
    bell: Arc<Kick>,
    counts: Arc<Mutex<Counts>>,
    evidence_dir: Arc<Mutex<PathBuf>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            steps: BTreeMap::new(),
            took_ns: Histogram::new_with_max(TOOK_MAX_NS, 2)
                .unwrap_or_else(|_| unreachable!("the bounds are valid")),
            evidence: [0; 2],
            waiting: 0,
            running: 0,
            held_agents: 0,
            brakes: [0; 3],
            engaged: Vec::new(),
            spawner_restarts: 0,
            has_spawner: false,
            audit_lost: 0,
            audit_trouble: String::new(),
        }
    }
}

impl Counts {
    /// Each action has a count of each phase from the first on.
    fn of(plan: &ActPlan) -> Self {
        let mut counts = Self::default();
        counts.know(plan);
        counts
    }

    fn know(&mut self, plan: &ActPlan) {
        for action in &plan.actions {
            for phase in ActionPhase::ALL {
                self.steps.entry((action.name, phase)).or_default();
            }
        }
    }
}

impl Act {
    /// Starts the thread. It ends when the sender of the events is gone, and drops its lifeline. Ring `bell` after
    /// each event.
    ///
    /// # Errors
    /// The kernel's: no thread, or the audit file cannot be opened.
    pub fn spawn(
        plan: ActPlan,
        surroundings: Surroundings,
        events: Receiver<Event>,
        bell: Arc<Kick>,
        lifeline: Lifeline,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let audit = plan.audit.clone().map(|path| Audit::open(path, plan.audit_sync)).transpose()?;
        let (audit, before) = audit.unzip();
        let (requests, asked) = unbounded();
        let counts = Arc::new(Mutex::new(Counts::of(&plan)));
        let evidence_dir = Arc::new(Mutex::new(plan.evidence_dir.clone()));
        let act = Self {
            requests,
            bell: Arc::clone(&bell),
            counts: Arc::clone(&counts),
            evidence_dir: Arc::clone(&evidence_dir),
        };
        let how = how_of(&plan);
        let census = Counted {
            ports: Arc::clone(&surroundings.ports),
            names: Arc::clone(&surroundings.names),
            last: RefCell::default(),
            at: Cell::default(),
        };
        let worker = Worker {
            desk: Desk::new(plan.actions.clone(), plan.brake),
            plan,
            spawner: Spawner::new(how),
            surroundings,
            census,
            audit,
            acted: HashSet::new(),
            resuming: None,
            begun: HashMap::new(),
            counts,
            last_evidence: 0,
            vitals: Arc::clone(lifeline.vitals()),
            gone_since: None,
            evidence_dir,
        };
        let body = move || {
            let _lifeline = lifeline;
            worker.run(&events, &asked, &bell, before.unwrap_or_default());
        };
        let thread = thread::Builder::new().name("varta-act".into()).spawn(body)?;
        Ok((act, thread))
    }

    /// Sends a request. Never blocks.
    pub fn ask(&self, request: Request) {
        let _ = self.requests.send(request);
        self.bell.kick();
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// The file of evidence with this number.
    pub fn evidence_file(&self, number: u32) -> PathBuf {
        evidence_path(&self.evidence_dir.lock(), number)
    }

    /// The most important brakes that hold.
    pub fn engaged(&self) -> Vec<(Scope, Engaged)> {
        self.counts.lock().engaged.clone()
    }
}

fn how_of(plan: &ActPlan) -> How {
    plan.spawner.clone().map_or(How::Own, How::Socket)
}

/// How many agents there are, counted when somebody asks, at most once in [`CENSUS_NS`].
#[derive(Debug)]
struct Counted {
    ports: Arc<[Arc<Port>]>,
    names: Arc<Names>,
    last: RefCell<HashMap<Scope, u32>>,
    at: Cell<Option<MonoNs>>,
}

impl Census for Counted {
    fn agents(&self, scope: Scope) -> u32 {
        let now = SystemClock.mono();
        if self.at.get().is_none_or(|at| now.since(at) > CENSUS_NS) {
            self.at.set(Some(now));
            self.count();
        }
        self.last.borrow().get(&scope).copied().unwrap_or(0)
    }
}

impl Counted {
    fn count(&self) {
        let mut last = self.last.borrow_mut();
        last.clear();
        for (shard, port) in (0..).zip(&*self.ports) {
            for slot in 0..port.table.used() {
                let Ok(hot) = port.table.read_hot(slot) else { continue };
                if !matches!(hot.state, State::Up | State::Stalled) {
                    continue;
                }
                let generation = port.table.generation(slot);
                let unit = self.names.unit(Holder { place: Place { shard, slot }, generation });
                for scope in [Some(Scope::Fleet), Some(Scope::Uid(hot.uid())), unit.map(Scope::Unit)]
                    .into_iter()
                    .flatten()
                {
                    *last.entry(scope).or_default() += 1;
                }
            }
        }
    }
}

struct Worker {
    desk: Desk,
    plan: ActPlan,
    spawner: Spawner,
    surroundings: Surroundings,
    census: Counted,
    audit: Option<Audit>,
    /// Stalls that something was started for before this observer began.
    acted: HashSet<Acted>,
    /// Until when to look for stalls of before that nothing was done about.
    resuming: Option<MonoNs>,
    /// Starts that have not ended, by case.
    begun: HashMap<u64, Begun>,
    counts: Arc<Mutex<Counts>>,
    last_evidence: u32,
    vitals: Arc<Vitals>,
    /// Since when there has been no spawner.
    gone_since: Option<MonoNs>,
    /// Where files of evidence are, for those who ask.
    evidence_dir: Arc<Mutex<PathBuf>>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: MonoNs,
    evidence: u32,
    action: ActionName,
    subject: Subject,
}

/// The aggregator gave no answer in time.
#[derive(Debug)]
struct Late;

/// Why nothing is ordered.
enum NotOrdered {
    /// It is not to be started.
    Never(ActionPhase, ActionWhy),
    /// That is not known yet.
    NotYet,
}

/// A line of the audit file.
#[derive(Serialize)]
struct AuditLine<'a> {
    ts: WallNs,
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    phase: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_since_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Asker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl<'a> AuditLine<'a> {
    fn new(run: u64, phase: &'a str) -> Self {
        Self {
            ts: SystemClock.wall(),
            run: format!("{run:x}"),
            action: None,
            phase,
            why: None,
            pid: None,
            session: None,
            uid: None,
            comm: None,
            unit: None,
            silent_since_ns: None,
            attempt: None,
            child: None,
            code: None,
            signal: None,
            arguments: None,
            output: None,
            output_bytes: None,
            by: None,
            text: None,
        }
    }

    fn of(self, subject: &'a Subject) -> Self {
        let about = &subject.agent.about;
        Self {
            pid: Some(subject.agent.pid),
            session: Some(subject.agent.session),
            uid: about.uid,
            comm: Some(about.comm.as_str()).filter(|comm| !comm.is_empty()),
            unit: about.unit.and_then(Label::text).map(String::from),
            silent_since_ns: Some(silent_since(subject)),
            ..self
        }
    }
}

/// The last beat before the silence.
fn silent_since(subject: &Subject) -> u64 {
    subject.since.0.saturating_sub(subject.silent_ns)
}

impl Worker {
    fn run(mut self, events: &Receiver<Event>, asked: &Receiver<Request>, bell: &Kick, before: Before) {
        if before.cut > 0 {
            let text = format!("a half-written line of {} bytes was removed", before.cut);
            self.record(AuditLine { text: Some(&text), ..AuditLine::new(self.surroundings.run, "repaired") });
        }
        self.acted = before.acted;
        loop {
            bell.consume();
            let now = SystemClock.mono();
            let is_over = self.hear(events, now);
            while let Ok(request) = asked.try_recv() {
                self.answer(request, now);
            }
            self.resume(now);
            self.look_after(now);
            let next = self.work(now);
            self.publish(now);
            if is_over {
                return;
            }
            let at_most = if self.resuming.is_some() { RESUME_EVERY_NS } else { LOOK_AFTER_NS };
            let next = next.unwrap_or(MonoNs(u64::MAX)).min(now + at_most);
            self.wait(bell, next.since(SystemClock.mono()));
        }
    }

    /// Takes up stalls that an observer before this one reported and did nothing about. Who the agents are is looked up
    /// anew after a restart, so those that nothing is known of are looked at again.
    fn resume(&mut self, now: MonoNs) {
        let Some(until) = self.resuming else { return };
        let Ok(stalled) = self.surroundings.stalled() else { return };
        let mut is_all = true;
        for present in stalled {
            let stall = (self.surroundings.run, present.agent.session, present.last_arrival.0);
            if self.acted.contains(&stall) {
                continue;
            }
            if present.agent.about.comm.is_empty() && now < until {
                is_all = false;
                continue;
            }
            self.acted.insert(stall);
            let silent_ns = now.since(present.last_arrival);
            let kind = EventKind::Stall {
                silent_ns,
                last_nonce: present.agent.nonce,
                certain: present.is_certain,
                blind_ns: 0,
                process: None,
                used_cpu: None,
                coalesced: 1,
            };
            let (shard, agent) = (Some(present.shard), Some(present.agent));
            let event = Event { seq: 0, again: true, wall: WallNs(0), mono: now, shard, agent, kind };
            self.desk.event(&event, &self.census, now);
        }
        if is_all {
            self.resuming = None;
        }
    }

    /// Takes all events that wait. True: there will be no more.
    fn hear(&mut self, events: &Receiver<Event>, now: MonoNs) -> bool {
        loop {
            match events.try_recv() {
                Ok(event) if self.is_acted(&event) => {}
                // Without the record of what was started, a stall of before may have been acted upon.
                Ok(Event { kind: EventKind::Restart { .. }, .. }) if self.audit.is_some() => {
                    self.resuming = Some(now + RESUME_NS);
                }
                Ok(event) => self.desk.event(&event, &self.census, now),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    self.desk.stop();
                    return true;
                }
            }
        }
    }

    /// Whether it is a stall that is reported again, and something was started for it before.
    fn is_acted(&self, event: &Event) -> bool {
        let Some(subject) = Subject::of(event).filter(|_| event.again) else { return false };
        let stall = (self.surroundings.run, subject.agent.session, silent_since(&subject));
        matches!(event.kind, EventKind::Stall { .. }) && self.acted.contains(&stall)
    }

    /// Keeps a spawner, and hears it.
    fn look_after(&mut self, now: MonoNs) {
        self.spawner.keep(now);
        while let Some(report) = self.spawner.take() {
            match report {
                Ok(report) => self.reported(report, now),
                Err(_) => {
                    self.begun.clear();
                    self.desk.lost(now);
                }
            }
        }
        self.desk.set_spawner(self.spawner.is_there());
    }

    fn reported(&mut self, report: Report, now: MonoNs) {
        match report {
            Report::Hello { .. } => {}
            Report::Evidence { id, is_written, .. } => {
                self.counts.lock().evidence[usize::from(!is_written)] += 1;
                if let Some(begun) = self.begun.get_mut(&id).filter(|_| !is_written) {
                    begun.evidence = 0;
                }
            }
            Report::Started { id, child } => self.desk.started(id, child.unwrap_or(0)),
            Report::NotStarted { id, errno, why } => {
                self.record_of(
                    id,
                    AuditLine { text: Some(&why), ..AuditLine::new(self.surroundings.run, "not-started") },
                );
                self.begun.remove(&id);
                self.desk.failed(id, errno, now);
            }
            Report::Ended { id, code, signal, timed_out, output, output_bytes } => {
                if output_bytes > 0 {
                    let line = AuditLine::new(self.surroundings.run, "output");
                    let output = Some(&*output);
                    self.record_of(id, AuditLine { output, output_bytes: Some(output_bytes), ..line });
                }
                if let Some(begun) = self.begun.remove(&id) {
                    self.counts.lock().took_ns.saturating_record(now.since(begun.at));
                }
                let how = code.map(ExitHow::Code).or(signal.map(ExitHow::Signal));
                self.desk.ended(id, how, timed_out, now);
            }
        }
    }

    /// Does what the desk wants, until it wants nothing more.
    fn work(&mut self, now: MonoNs) -> Option<MonoNs> {
        loop {
            let (outputs, next) = self.desk.step(now);
            if outputs.is_empty() {
                return next;
            }
            for output in outputs {
                match output {
                    Output::Report(step) => self.report(&step, None),
                    Output::Brake(news) => self.report_brake(&news, None),
                    Output::Start(ticket) => self.start(&ticket, now),
                }
            }
        }
    }

    fn start(&mut self, ticket: &Ticket, now: MonoNs) {
        match self.order(ticket) {
            Ok((action, order, pidfd, evidence)) => {
                // Before the order: after a crash in between, nothing is started twice.
                self.record_start(ticket, action, &order);
                match self.spawner.order(&order, pidfd.as_ref().map(AsFd::as_fd)) {
                    Ok(()) => {
                        let begun = Begun { at: now, evidence, action, subject: ticket.subject };
                        self.begun.insert(ticket.id, begun);
                    }
                    Err(_) => self.desk.not_taken(ticket.id),
                }
            }
            Err(NotOrdered::Never(phase, why)) => self.desk.not_started(ticket.id, phase, why),
            Err(NotOrdered::NotYet) => self.desk.put_back(ticket.id),
        }
    }

    fn order(&mut self, ticket: &Ticket) -> Result<(ActionName, Order, Option<OwnedFd>, u32), NotOrdered> {
        let Some(action) = self.plan.actions.get(ticket.action).cloned() else {
            return Err(NotOrdered::Never(ActionPhase::Cancelled, ActionWhy::Removed));
        };
        let subject = &ticket.subject;
        let refused = |why| NotOrdered::Never(ActionPhase::Refused, why);
        let deed = match &action.deed {
            Deed::Run(templates) => {
                protocol::Deed::Run(arguments(templates, action.name, subject).map_err(refused)?)
            }
            Deed::Signal(signal) => protocol::Deed::Signal(*signal),
            Deed::Systemd(verb) => {
                let unit = action.matcher.unit.clone().ok_or(refused(ActionWhy::Unit))?;
                protocol::Deed::Systemd { verb: verb.as_str().to_owned(), unit }
            }
        };
        let is_process_needed = !matches!(deed, protocol::Deed::Run(_));
        let present = self.surroundings.present(subject.agent.pid).map_err(|Late| NotOrdered::NotYet)?;
        let pidfd = verify(ticket, present.as_ref(), &Protected::here(), is_process_needed)
            .map_err(|(phase, why)| NotOrdered::Never(phase, why))?;
        let evidence = if action.evidence && pidfd.is_some() { self.next_evidence() } else { 0 };
        let order = Order::Start {
            id: ticket.id,
            pid: subject.agent.pid,
            deed,
            timeout_ns: action.timeout_ns,
            user: action.user,
            env: action.env,
            evidence: (evidence > 0)
                .then(|| evidence_path(&self.plan.evidence_dir, evidence).to_string_lossy().into_owned()),
        };
        Ok((action.name, order, pidfd, evidence))
    }

    /// The number of the next file of evidence: seconds since 1970, or the next free number.
    fn next_evidence(&mut self) -> u32 {
        let seconds = u32::try_from(SystemClock.wall().0 / 1_000_000_000).unwrap_or(0);
        self.last_evidence = seconds.max(self.last_evidence + 1);
        self.last_evidence
    }

    fn record_start(&mut self, ticket: &Ticket, action: ActionName, order: &Order) {
        let Order::Start { deed, .. } = order else { return };
        let arguments = match deed {
            protocol::Deed::Run(arguments) => arguments.clone(),
            protocol::Deed::Signal(signal) => vec![format!("signal {signal}")],
            protocol::Deed::Systemd { verb, unit } => vec![format!("systemd {verb} {unit}")],
        };
        let line = AuditLine {
            action: Some(action.as_str()),
            attempt: Some(ticket.attempt),
            arguments: Some(&arguments),
            ..AuditLine::new(self.surroundings.run, "starting").of(&ticket.subject)
        };
        self.record(line);
    }

    fn report(&mut self, step: &Step, by: Option<Asker>) {
        let Step { id, subject, action, phase, why, attempt, child, how, errno } = *step;
        let evidence =
            self.begun.get(&id).filter(|_| phase == ActionPhase::Started).map_or(0, |begun| begun.evidence);
        let kind = EventKind::Action { action, phase, why, attempt, child, how, errno, evidence };
        self.surroundings.ask(aggregator::Request::Report(Some(subject.shard), Some(subject.agent), kind));
        *self.counts.lock().steps.entry((action, phase)).or_default() += 1;
        let line = AuditLine {
            action: Some(action.as_str()),
            why: why.map(ActionWhy::as_str),
            attempt: Some(attempt).filter(|attempt| *attempt > 0),
            child: Some(child).filter(|child| *child > 0),
            code: how.and_then(ExitHow::code),
            signal: how.and_then(ExitHow::signal),
            by,
            ..AuditLine::new(self.surroundings.run, phase.as_str()).of(&subject)
        };
        self.record(line);
    }

    fn report_brake(&mut self, news: &News, by: Option<Asker>) {
        let (scope, uid, unit) = match news.scope {
            Scope::Fleet => (BrakeScope::Fleet, None, None),
            Scope::Uid(uid) => (BrakeScope::Uid, Some(uid), None),
            Scope::Unit(unit) => (BrakeScope::Unit, None, Some(unit)),
        };
        let phase = if news.is_engaged { BrakePhase::Engaged } else { BrakePhase::Released };
        let (stalls, agents) = (news.engaged.stalls, news.engaged.agents);
        let kind = EventKind::Brake { phase, scope, uid, unit, stalls, agents, by_hand: news.by_hand };
        self.surroundings.ask(aggregator::Request::Report(None, None, kind));
        let text = format!("{} {}: {stalls} of {agents} agents stalled", scope.as_str(), phase.as_str());
        let line = AuditLine {
            uid,
            unit: unit.and_then(Label::text).map(String::from),
            by,
            text: Some(&text),
            ..AuditLine::new(self.surroundings.run, "brake")
        };
        self.record(line);
    }

    /// A line about what was started for a case.
    fn record_of(&mut self, id: u64, line: AuditLine<'_>) {
        let Some(Begun { action, subject, .. }) = self.begun.get(&id).copied() else {
            return self.record(line);
        };
        self.record(AuditLine { action: Some(action.as_str()), ..line.of(&subject) });
    }

    fn record(&mut self, line: AuditLine<'_>) {
        let Some(audit) = &mut self.audit else { return };
        let trouble = audit.write(&line).err().map(|error| Reason(&error).to_string());
        let mut counts = self.counts.lock();
        (counts.audit_lost, counts.audit_trouble) = (audit.lost, trouble.unwrap_or_default());
    }

    fn answer(&mut self, request: Request, now: MonoNs) {
        match request {
            Request::Replace(plan) => self.replace(*plan),
            Request::Remove => self.replace(ActPlan { actions: Vec::new(), ..self.plan.clone() }),
            Request::Reopen => self.audit.iter_mut().for_each(Audit::reopen),
            Request::List(to) => to(self.list()),
            Request::Of(Whose { pid, unit, comm }, to) => {
                let holds = self.desk.holds().iter();
                let holds = holds.filter(|hold| hold.of.is_for(pid, unit.as_deref(), &comm)).cloned();
                to((self.desk.list_of(pid).collect(), holds.collect()));
            }
            Request::Hold(of, for_ns, text, by, to) => {
                self.record_request("hold", &format!("{}: {text}", words_of(&of)), by);
                let held = self.desk.hold_by_hand(of, now + for_ns, text);
                to(held.map(|id| format!("held, as number {id}")).map_err(str::to_owned));
            }
            Request::Unhold(of, by, to) => {
                self.record_request("unhold", &words_of(&of), by);
                let ended = self.desk.unhold(|hold| words_of(&hold.of) == words_of(&of));
                to(match ended {
                    0 => Err("there is no such hold".to_owned()),
                    ended => Ok(format!("{ended} ended")),
                });
            }
            Request::Brake(is_engaged, by, to) => {
                let word = if is_engaged { "engage" } else { "release" };
                self.record_request("brake", word, by);
                let has_changed = self.desk.brake_by_hand(is_engaged, &self.census, now);
                let said = match (is_engaged, has_changed) {
                    (true, true) => "the brake is engaged: nothing is started until it is released by hand",
                    (true, false) => "the brake was engaged by hand already",
                    (false, true) => "the brake is released: what is still so is acted upon",
                    (false, false) => "no brake was engaged",
                };
                to(Ok(said.to_owned()));
            }
            Request::Now(pid, name, by, to) => {
                self.record_request("now", &format!("{name} for {pid}"), by);
                to(self.now(pid, &name, now));
            }
        }
    }

    fn now(&mut self, pid: u32, name: &str, now: MonoNs) -> Answer {
        let present =
            self.surroundings.present(pid).map_err(|Late| "the aggregator is busy: ask again".to_owned())?;
        let Some(present) = present else {
            return Err(format!("no agent has pid {pid}; `varta-fleet agents` lists them"));
        };
        let silent_ns = now.since(present.last_arrival);
        let subject = Subject { shard: present.shard, agent: present.agent, silent_ns, since: now };
        self.desk.by_hand(name, subject, now).map_err(str::to_owned)?;
        Ok(format!("{name} is due for {pid}; `varta-fleet act list` shows what becomes of it"))
    }

    fn record_request(&mut self, phase: &str, text: &str, by: Asker) {
        let line =
            AuditLine { by: Some(by), text: Some(text), ..AuditLine::new(self.surroundings.run, phase) };
        self.record(line);
    }

    fn replace(&mut self, plan: ActPlan) {
        self.desk.replace(plan.actions.clone(), plan.brake);
        self.counts.lock().know(&plan);
        self.evidence_dir.lock().clone_from(&plan.evidence_dir);
        self.plan = plan;
    }

    fn list(&self) -> Listing {
        Listing {
            actions: self.plan.actions.iter().map(|action| action.name).collect(),
            cases: self.desk.list().take(LISTED_MAX).collect(),
            total: self.desk.list().count(),
            holds: self.desk.holds().to_vec(),
            brakes: self.engaged(),
            has_spawner: self.spawner.is_there(),
            is_dry_run: self.plan.brake.dry_run,
        }
    }

    /// Brakes that hold, the most important first.
    fn engaged(&self) -> Vec<(Scope, Engaged)> {
        let mut engaged: Vec<(Scope, Engaged)> = self.desk.brakes().engaged().collect();
        engaged.sort_by_key(|(scope, brake)| (*scope != Scope::Fleet, Reverse(brake.stalls), brake.since));
        engaged
    }

    fn publish(&mut self, now: MonoNs) {
        let has_spawner = self.spawner.is_there();
        self.gone_since = if has_spawner { None } else { self.gone_since.or(Some(now)) };
        let is_gone = self.gone_since.is_some_and(|since| now.since(since) > NO_SPAWNER_NS);
        let mut engaged = self.engaged();
        let mut counts = self.counts.lock();
        counts.waiting = self.desk.waiting() as u64;
        counts.running = self.desk.running().into();
        counts.held_agents = self.desk.held_agents() as u64;
        counts.spawner_restarts = self.spawner.restarts();
        counts.has_spawner = has_spawner;
        counts.brakes = [0; 3];
        for (scope, _) in &engaged {
            counts.brakes[match scope {
                Scope::Fleet => 0,
                Scope::Uid(_) => 1,
                Scope::Unit(_) => 2,
            }] += 1;
        }
        engaged.truncate(BRAKES_TOLD);
        counts.engaged = engaged;
        *self.vitals.act.lock() = ActTroubles {
            has_no_spawner: is_gone && !self.plan.actions.is_empty(),
            audit: counts.audit_trouble.clone(),
        };
    }

    fn wait(&self, bell: &Kick, for_ns: u64) {
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        let spawner = self.spawner.fd();
        fds.extend(spawner.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec {
            tv_sec: i64::try_from(for_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (for_ns % 1_000_000_000) as _,
        };
        let _ = poll(&mut fds, Some(&timeout));
    }
}

/// Whom a hold is for, as the command line writes it.
pub fn words_of(of: &HoldOf) -> String {
    match of {
        HoldOf::Pid(pid) => format!("pid {pid}"),
        HoldOf::Unit(pattern, _) => format!("unit {pattern}"),
        HoldOf::Comm(pattern, _) => format!("comm {pattern}"),
    }
}

fn evidence_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("evidence-{number}.json"))
}

/// Asks, and waits for the answer for at most this long.
pub fn asked<T>(within: Duration, ask: impl FnOnce(Sender<T>)) -> Option<T> {
    let (to, answer) = bounded(1);
    ask(to);
    answer.recv_timeout(within).ok()
}
