//! What systemd is asked about the unit of a process, over D-Bus.
//!
//! In: a process, a pattern, and what is to be done to its unit. Out: [`Answer`]s. Thread: one of its own, in a
//! supervisor, which ends with the process: a D-Bus that does not answer holds up nobody. Blocks: on D-Bus, for ever.
//!
//! Which unit a process belongs to is what systemd says, never what a control group is named: who has groups of his own
//! names them as he likes.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use futures_util::StreamExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{
    Connection, DynamicType, Fd, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, fdo,
};

use crate::config::act::UnitVerb;
use crate::message::{Reason, Shown};
use crate::pattern::Pattern;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Where systemd shows that it runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The units of observer and spawner, as they are shipped.
const SHIPPED: &str = "varta-fleet*";

/// What is asked for.
pub struct Request {
    /// The process whose unit it is about.
    pub pid: u32,
    /// Of that process.
    pub pidfd: OwnedFd,
    /// What is done to the unit.
    pub verb: UnitVerb,
    /// The name that the unit must have.
    pub pattern: String,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// systemd is given the order.
    Begun,
    /// It is done, or failed: why.
    Done(Result<(), String>),
    /// systemd is given no order.
    Refused(Refusal),
}

/// Why systemd is given no order.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kernel's error number, or the closest to it.
    pub errno: i32,
    /// In words.
    pub why: String,
}

impl Refusal {
    fn new(errno: i32, why: impl Into<String>) -> Self {
        Self { errno, why: why.into() }
    }
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Self {
        Self::new(libc::EIO, format!("systemd cannot be asked: {}", words(&error)))
    }
}

/// A request under way.
pub struct Asking {
    answers: Receiver<Answer>,
    /// Ready when there is an answer.
    wake: PipeReader,
    /// Who sets it first decides whether systemd is given the order.
    is_decided: Arc<AtomicBool>,
}

impl Asking {
    /// # Errors
    /// There is no room for a thread or a pipe.
    pub fn start(request: Request) -> io::Result<Self> {
        let (sender, answers) = channel();
        let (wake, waker) = io::pipe()?;
        rustix::io::ioctl_fionbio(&wake, true)?;
        let is_decided = Arc::new(AtomicBool::new(false));
        let teller = Teller { sender, waker, is_decided: Arc::clone(&is_decided) };
        thread::Builder::new().name("varta-systemd".to_owned()).spawn(move || {
            let asked = zbus::block_on(ask(&request, &teller));
            teller.tell(asked.map_or_else(Answer::Refused, Answer::Done));
        })?;
        Ok(Self { answers, wake, is_decided })
    }

    /// The next answer, if there is one.
    pub fn answer(&mut self) -> Option<Answer> {
        // Ignored: it only wakes, and the answers say what happened.
        let _ = io::Read::read(&mut self.wake, &mut [0; 8]);
        self.answers.try_recv().ok()
    }

    /// Keeps systemd from being given the order. Returns whether it has not been before.
    pub fn call_off(&self) -> bool {
        !self.is_decided.swap(true, Ordering::AcqRel)
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

struct Teller {
    sender: Sender<Answer>,
    waker: PipeWriter,
    is_decided: Arc<AtomicBool>,
}

impl Teller {
    fn tell(&self, answer: Answer) {
        // Ignored: without a supervisor nobody wants to know.
        let _ = self.sender.send(answer);
        let _ = io::Write::write(&mut &self.waker, b"x");
    }

    /// Right before the order is given.
    fn begin(&self) -> Result<(), Refusal> {
        if self.is_decided.swap(true, Ordering::AcqRel) {
            return Err(Refusal::new(libc::ECANCELED, "it was cancelled"));
        }
        self.tell(Answer::Begun);
        Ok(())
    }
}

async fn ask(request: &Request, teller: &Teller) -> Result<Result<(), String>, Refusal> {
    let systemd = Systemd::connect().await?;
    let own = systemd.own_unit().await?;
    let unit = systemd.unit_of(request).await?;
    refuse(&unit, own.as_deref(), &request.pattern)?;
    let mut jobs = systemd.jobs_of(&unit).await?;
    // What was found so far is of a process that has not been reaped since.
    lives(request)?;
    teller.begin()?;
    let asked = match request.verb {
        UnitVerb::Restart => systemd.manager("RestartUnit", &(&*unit, "replace")).await,
        UnitVerb::Stop => systemd.manager("StopUnit", &(&*unit, "replace")).await,
        UnitVerb::Kill => systemd.manager("KillUnit", &(&*unit, "all", libc::SIGKILL)).await,
    };
    Ok(match asked {
        Err(error) => Err(format!("systemd refuses to {} {unit}: {}", request.verb.as_str(), words(&error))),
        Ok(_) if request.verb == UnitVerb::Kill => Ok(()),
        Ok(job) => wait_for(&job, &mut jobs, &unit).await,
    })
}

/// Waits until the job that this reply names is over.
async fn wait_for(reply: &Message, jobs: &mut MessageStream, unit: &str) -> Result<(), String> {
    let unreadable = |error: zbus::Error| format!("cannot read what systemd says: {}", words(&error));
    let job: OwnedObjectPath = reply.body().deserialize().map_err(unreadable)?;
    loop {
        let removed = match jobs.next().await {
            None => return Err(format!("systemd hung up before the job of {unit} was over")),
            Some(removed) => removed.map_err(unreadable)?,
        };
        // Everybody may send such a signal.
        if removed.header().sender() != reply.header().sender() {
            continue;
        }
        let body = removed.body();
        let Ok((_, path, _, result)) = body.deserialize::<(u32, OwnedObjectPath, String, String)>() else {
            continue;
        };
        if path == job {
            return match result.as_str() {
                "done" => Ok(()),
                other => Err(format!("the job of {unit} ended: {other}; systemctl status {unit} says more")),
            };
        }
    }
}

struct Systemd {
    bus: Connection,
}

impl Systemd {
    async fn connect() -> Result<Self, Refusal> {
        let error = match Builder::system().build().await {
            Ok(bus) => return Self::subscribed(bus).await,
            Err(error) => error,
        };
        if !Path::new(BOOTED).is_dir() {
            return Err(Refusal::new(libc::ENOENT, format!("there is no systemd here, no {BOOTED}")));
        }
        let why = format!("the system bus, by which systemd is asked, cannot be reached: {}", words(&error));
        Err(Refusal::new(libc::ECONNREFUSED, why))
    }

    /// Else it tells nobody of jobs.
    async fn subscribed(bus: Connection) -> Result<Self, Refusal> {
        let systemd = Self { bus };
        systemd.manager("Subscribe", &()).await?;
        Ok(systemd)
    }

    async fn manager(&self, method: &str, body: &(impl Serialize + DynamicType)) -> zbus::Result<Message> {
        self.bus.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body).await
    }

    /// The unit of this process.
    async fn own_unit(&self) -> Result<Option<String>, Refusal> {
        match self.manager("GetUnitByPID", &0_u32).await {
            Ok(reply) => Ok(Some(self.name_of(&reply).await?)),
            Err(error) if is_named(&error, "NoUnitForPID") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn unit_of(&self, request: &Request) -> Result<String, Refusal> {
        lives(request)?;
        let found = match self.manager("GetUnitByPIDFD", &Fd::from(request.pidfd.as_fd())).await {
            Ok(reply) => {
                let (_, name, _): (OwnedObjectPath, String, Vec<u8>) = reply.body().deserialize()?;
                Ok(name)
            }
            // Before systemd 253, by the number, which is the same process before and after.
            Err(zbus::Error::FDO(error))
                if matches!(*error, fdo::Error::UnknownMethod(_) | fdo::Error::AccessDenied(_)) =>
            {
                self.counts_alike().await?;
                match self.manager("GetUnitByPID", &request.pid).await {
                    Ok(reply) => Ok(self.name_of(&reply).await?),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        lives(request)?;
        found.map_err(|error| match is_named(&error, "NoUnitForPID") {
            true => Refusal::new(libc::ENOENT, format!("process {} is in no unit", request.pid)),
            false => error.into(),
        })
    }

    /// Whether a number means the same process to systemd as here: not from within a container.
    async fn counts_alike(&self) -> Result<(), Refusal> {
        let own = std::process::id();
        let name = self.bus.unique_name().map_or("", |name| name.as_str());
        let is_alike = self.pid_of(SYSTEMD).await? == 1 && self.pid_of(name).await? == own;
        let why =
            "systemd counts processes otherwise than this namespace does, and is too old for a pidfd (253)";
        is_alike.then_some(()).ok_or_else(|| Refusal::new(libc::ESRCH, why))
    }

    async fn pid_of(&self, name: &str) -> zbus::Result<u32> {
        let method = "GetConnectionUnixProcessID";
        self.bus.call_method(Some(BUS), BUS_PATH, Some(BUS), method, &name).await?.body().deserialize()
    }

    /// The name of the unit that a reply refers to, by which it is known first.
    async fn name_of(&self, reply: &Message) -> zbus::Result<String> {
        let path: OwnedObjectPath = reply.body().deserialize()?;
        let property = self.bus.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &(UNIT, "Id"));
        let name: OwnedVariant = property.await?.body().deserialize()?;
        String::try_from(name)
    }

    /// The jobs of a unit that end from now on.
    async fn jobs_of(&self, unit: &str) -> zbus::Result<MessageStream> {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(MANAGER).member("JobRemoved");
        let rule = rule.path(MANAGER_PATH).sender(SYSTEMD).arg(2, unit);
        MessageStream::for_match_rule(rule.build()?, &self.bus, None).await
    }
}

fn is_named(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(it, ..) if it.strip_prefix(SYSTEMD) == Some(&format!(".{name}")))
}

/// What an answer that is an error says.
fn words(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => Shown(text).to_string(),
        zbus::Error::InputOutput(error) => Reason(error).to_string(),
        error => Shown(error).to_string(),
    }
}

/// That the process has not ended, so that its number is no other's.
fn lives(request: &Request) -> Result<(), Refusal> {
    let mut polled = [PollFd::new(&request.pidfd, PollFlags::IN)];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(0) => Ok(()),
        _ => Err(Refusal::new(libc::ESRCH, format!("process {} has ended meanwhile", request.pid))),
    }
}

/// Refuses what is no service that the action names, and what would end us or all that a user runs.
fn refuse(unit: &str, own: Option<&str>, pattern: &str) -> Result<(), Refusal> {
    let refused = |why: &str| Err(Refusal::new(libc::EPERM, format!("process is of {}, {why}", Shown(unit))));
    if !unit.ends_with(".service") {
        return refused("which is no service");
    }
    if Pattern::new("user@*").matches(unit) {
        return refused("the service manager of a user, which names its own units");
    }
    if Pattern::new(SHIPPED).matches(unit) || own.is_some_and(|own| template_of(own) == template_of(unit)) {
        return refused("which is that of the observer or of its spawner");
    }
    if !Pattern::new(pattern).matches(unit) {
        return refused(&format!("which {} does not match", Shown(pattern)));
    }
    Ok(())
}

/// The name without the instance.
fn template_of(unit: &str) -> &str {
    unit.split_once('@').map_or(unit, |(template, _)| template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_that_the_action_names_is_acted_upon() {
        let refused = |unit: &str, pattern: &str| refuse(unit, Some("own@1.service"), pattern).err();
        for unit in ["beater@1.service", "beater@.service", "own.service", "ownother@1.service"] {
            assert_eq!(refused(unit, "*"), None, "{unit}");
        }
        for (unit, why) in [
            ("system.slice", "no service"),
            ("init.scope", "no service"),
            ("session-1.scope", "no service"),
            ("dbus.socket", "no service"),
            ("user@1000.service", "of a user"),
            ("own@1.service", "of its spawner"),
            ("own@2.service", "of its spawner"),
            ("varta-fleet.service", "of its spawner"),
            ("varta-fleet-act.service", "of its spawner"),
            ("varta-fleet@2.service", "of its spawner"),
        ] {
            let Some(Refusal { errno, why: said }) = refused(unit, "*") else { panic!("{unit}") };
            assert!(errno == libc::EPERM && said.contains(why) && said.contains(unit), "{said}");
        }
        assert_eq!(refused("beater@1.service", "beater@?.service"), None);
        for pattern in ["beater@?", "beater.service", "beater@??.service", ""] {
            let said = refused("beater@1.service", pattern).map(|refusal| refusal.why);
            assert!(said.is_some_and(|said| said.contains("does not match")), "{pattern}");
        }
    }

    #[test]
    fn a_unit_without_instances_is_only_itself() {
        assert_eq!(refuse("a@1.service", Some("a.service"), "*"), Ok(()));
        assert!(refuse("a.service", Some("a.service"), "*").is_err());
        assert_eq!(refuse("a.service", None, "*"), Ok(()));
    }
}
