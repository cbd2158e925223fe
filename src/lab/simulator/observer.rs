//! One observer of a world, on memory and sockets that outlive it: made as `fleet` makes a real one, from what its
//! predecessor left.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::aggregator::fanout::Subscriber;
use crate::aggregator::policy::Policy;
use crate::aggregator::{Aggregator, Inquiries, Request};
use crate::config::classes::Classes;
use crate::event::Event;
use crate::fleet::{Agents, FLEET, Inherited, Left, Predecessor, table_name, told_name};
use crate::journal::{Adoption, Estate, Identity, Journal};
use crate::lab::replay::{MessageReplay, Replay, Script};
use crate::lab::simulator::story::{Notify, Setting};
use crate::lab::simulator::truth::UID;
use crate::lane::kick::Kick;
use crate::lane::{Doorbell, Port};
use crate::notify::daemon::Terms;
use crate::process::lookup::Lookups;
use crate::process::names::Names;
use crate::process::question::{Finding, Question};
use crate::process::watch::{Order, Watch};
use crate::shard::Shard;
use crate::shard::front::{Front, Limits};
use crate::shard::input::Transport;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::table::adopt::Legacy;
use crate::table::{Header, Table, TableWriter, create};
use crate::time::{ManualClock, MonoNs};
use crate::view::copies::Copies;
use crate::view::tally::Reader;

/// Room of the event output for what is repeated to it.
const REPEATED_MAX: usize = 1 << 15;

/// The place where an observer runs, as it marks its memory.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    pub boot_id: u128,
    pub pid_namespace: u64,
}

/// The pids of all processes, as the aggregator finds them when it starts.
pub type Living = Arc<Mutex<HashSet<u32>>>;

/// Descriptors of memory by name, as a service manager keeps them.
pub type Store = Vec<(String, OwnedFd)>;

/// A running shard and its port.
pub type OneShard = (AnyShard, Arc<Port>);

/// A shard of frames or of daemons.
#[derive(Debug)]
pub enum AnyShard {
    Frames(Shard<Replay, ManualClock>),
    /// With the list of what it let go.
    Messages(Shard<MessageReplay, ManualClock>, LetGo),
}

type LetGo = Rc<RefCell<Vec<(usize, bool)>>>;

impl AnyShard {
    pub fn turn(&mut self) -> io::Result<()> {
        match self {
            Self::Frames(shard) => shard.turn(),
            Self::Messages(shard, let_go) => {
                let_go.borrow_mut().clear();
                shard.turn()
            }
        }
    }

    pub fn finish(self) {
        match self {
            Self::Frames(shard) => shard.finish(),
            Self::Messages(shard, _) => shard.finish(),
        }
    }

    pub fn recover(&mut self) {
        match self {
            Self::Frames(shard) => shard.recover(),
            Self::Messages(shard, _) => shard.recover(),
        }
    }

    pub fn next_wait(&self) -> Option<(MonoNs, bool)> {
        match self {
            Self::Frames(shard) => shard.next_wait(),
            Self::Messages(shard, _) => shard.next_wait(),
        }
    }
}

/// An observer without its shards.
pub struct Observer {
    pub aggregator: Aggregator,
    pub journal: Arc<Journal>,
    pub doorbell: Arc<Doorbell>,
    pub admission: Arc<Admission>,
    /// What the event output gets.
    pub log: Receiver<Event>,
    pub slow: Receiver<Event>,
    pub beats: Option<Receiver<Event>>,
    pub questions: [Receiver<Question>; 2],
    pub orders: [Receiver<Order>; 2],
    pub findings: Sender<Finding>,
    pub requests: Sender<Request>,
    pub names: Arc<Names>,
    /// What writes the roster.
    pub agents: Agents,
    /// What a successor gets.
    pub store: Store,
}

/// An observer that has not started, and what became of what its predecessor left.
pub struct Made {
    pub observer: Observer,
    pub shards: Vec<OneShard>,
    /// Whether it goes on for its predecessor; else why not, if there was one.
    pub adopted: Result<bool, String>,
}

impl Observer {
    /// An observer of these sockets.
    pub fn make(
        setting: &Setting,
        policy: Policy,
        here: Here,
        store: &Store,
        sockets: &[(&ManualClock, &Script)],
        (now, living): (MonoNs, &Living),
        agents: usize,
    ) -> Made {
        let Here { boot_id, pid_namespace } = here;
        let header = |shard| Header { boot_id, pid_namespace, shard, shards: setting.sockets() };
        let headers: Vec<Header> = (0..setting.sockets()).map(header).collect();
        let mut inherited: Inherited =
            store.iter().map(|(name, fd)| (name.clone(), copy_of(fd.as_fd()))).collect();
        let ahead = setting.agents_max;
        let left = Left::find(&mut inherited, &headers);
        let taken =
            left.and_then(|left| left.map(|left| left.adopt(setting.agents_max, ahead, now)).transpose());
        let adopted = taken.as_ref().map(Option::is_some).map_err(ToString::to_string);
        let predecessor = taken.unwrap_or_default();
        let adoption = predecessor.as_ref().map(|predecessor| {
            let living = Arc::clone(living);
            let exists = move |pid| living.lock().expect("no thread of its own").contains(&pid);
            Adoption { exists: Box::new(exists), ..predecessor.adoption(now) }
        });
        let memory: Option<(Vec<_>, _)> = predecessor.map(|predecessor| {
            let Predecessor { journal, shards, .. } = predecessor;
            (shards.into_iter().map(|shard| shard.expect("its shards are as many")).collect(), journal)
        });
        let (tables, estate) = match memory {
            Some((of_shards, journal)) => {
                let parts = of_shards.into_iter().map(|of| ((of.writer, of.table, Some(of.legacy)), of.kept));
                let (tables, kept): (Vec<_>, Vec<_>) = parts.unzip();
                (tables, Estate { journal, kept, adoption })
            }
            None => {
                let table = |header: &Header| create(setting.agents_max, *header).expect("memory");
                let tables = headers.iter().map(table).map(|(writer, table)| (writer, table, None));
                let identity = Identity { boot_id, pid_namespace, fleet: now.0 };
                let capacities = headers.iter().map(|_| setting.agents_max);
                (tables.collect(), Estate::create(&identity, now.0, now, capacities).expect("memory"))
            }
        };
        let mut of_store = vec![(FLEET.to_owned(), copy_of(estate.journal.memfd()))];
        for (shard, ((_, table, _), kept)) in tables.iter().zip(&estate.kept).enumerate() {
            of_store.push((table_name(shard), copy_of(table.memfd())));
            of_store.push((told_name(shard), copy_of(kept.memfd())));
        }
        let classes = policy.classes.clone();
        let (doorbell, admission) = (Arc::default(), Admission::new(setting.agents_max).expect("memory"));
        let shards: Vec<OneShard> = (0..)
            .zip(tables.into_iter().zip(sockets))
            .map(|(number, (table, socket))| {
                let notify = setting.notify.filter(|_| setting.is_of_daemons(number));
                one_shard((setting, notify), &classes, (&doorbell, &admission), *socket, table, now)
            })
            .collect();
        let is_adopting = adopted == Ok(true);
        let observer =
            Self::on(setting, policy, &shards, estate, (doorbell, admission), (agents, is_adopting));
        Made { observer: Self { store: of_store, ..observer }, shards, adopted }
    }

    fn on(
        setting: &Setting,
        policy: Policy,
        shards: &[OneShard],
        estate: Estate,
        (doorbell, admission): (Arc<Doorbell>, Arc<Admission>),
        (agents, is_adopting): (usize, bool),
    ) -> Self {
        let ports: Vec<Arc<Port>> = shards.iter().map(|(_, port)| Arc::clone(port)).collect();
        let (lookups, questions) = Lookups::detached();
        let (watch, orders) = Watch::detached(Arc::new(Kick::new().expect("a descriptor")));
        let (finder, findings) = unbounded();
        let (requests, requests_of) = unbounded();
        let subscribe = |reader: Reader, room: usize, wants_beats: bool| {
            let (mut subscriber, events) = Subscriber::new(reader, room);
            subscriber.wants_beats = wants_beats;
            requests.send(Request::Subscribe(subscriber)).expect("its receiver is here");
            events
        };
        // Room for all events of one turn.
        let room = 4096 + 16 * agents;
        let log = subscribe(Reader::Log, room + REPEATED_MAX, false);
        let slow = subscribe(Reader::Subscriber, setting.slow_room, false);
        let beats = setting.with_beats.then(|| subscribe(Reader::Subscriber, 2 * room, true));
        let (_copies, asked) = Copies::new(shards.len(), Arc::default());
        let names = Arc::new(Names::new(shards.len()));
        let inquiries = Inquiries { lookups, watch, findings, names: Arc::clone(&names) };
        let journal = Arc::clone(&estate.journal);
        let doorbell_of = Arc::clone(&doorbell);
        let mut aggregator =
            Aggregator::new(&ports, policy, inquiries, requests_of, doorbell_of, asked, estate);
        if let Some(max) = setting.in_flight_max {
            aggregator.limit_in_flight(max);
        }
        let agents = Agents::new(ports.into(), requests.clone(), Arc::clone(&doorbell), is_adopting);
        Self {
            agents,
            aggregator,
            journal,
            doorbell,
            admission,
            log,
            slow,
            beats,
            questions,
            orders,
            findings: finder,
            requests,
            names,
            store: Store::new(),
        }
    }
}

fn one_shard(
    (setting, notify): (&Setting, Option<Notify>),
    classes: &Classes,
    (doorbell, admission): (&Arc<Doorbell>, &Arc<Admission>),
    (clock, script): (&ManualClock, &Script),
    (writer, table, legacy): (TableWriter, Table, Option<Legacy>),
    now: MonoNs,
) -> OneShard {
    let kick = Arc::new(Kick::new().expect("a descriptor"));
    let mut port = Port::with_reports(table, kick, setting.with_beats, setting.report_words).expect("memory");
    if let Some(Notify { min, max, stop }) = notify {
        let terms = Terms {
            threshold_ns: max,
            threshold_min_ns: min,
            threshold_max_ns: max,
            start_ns: None,
            stop_ns: stop,
        };
        port = port.of_daemons(terms).expect("memory");
    }
    let port = Arc::new(port.with_turned_away(admission.turned_away()));
    let uids = UidAccounts::new(Arc::clone(&port.uids), None);
    let smallest = notify.map_or(u64::MAX, |notify| notify.min);
    let threshold_min_ns = classes.smallest_ns().min(smallest);
    let limits = Limits { threshold_min_ns, tick_ns: setting.tick };
    let (classes, tick, admission) = (classes.clone(), setting.tick, Arc::clone(admission));
    let tracker = Tracker::new(writer, classes, tick, admission, uids, now);
    let shard = if let Some(daemons) = &port.daemons {
        let let_go = LetGo::default();
        let transport = MessageReplay { inner: script.transport(), let_go: Rc::clone(&let_go) };
        let tracker = tracker.of_daemons(Arc::clone(daemons));
        let front = front(transport, clock.clone(), tracker, limits, legacy.as_ref());
        let shard = Shard::new(front, Arc::clone(&port), Arc::clone(doorbell), setting.max_delay);
        AnyShard::Messages(shard, let_go)
    } else {
        let front = front(script.transport(), clock.clone(), tracker, limits, legacy.as_ref());
        AnyShard::Frames(Shard::new(front, Arc::clone(&port), Arc::clone(doorbell), setting.max_delay))
    };
    (shard, port)
}

fn front<T: Transport>(
    transport: T,
    clock: ManualClock,
    tracker: Tracker,
    limits: Limits,
    legacy: Option<&Legacy>,
) -> Front<T, ManualClock> {
    let allowed = Some(&[UID][..]);
    match legacy {
        None => Front::new(transport, clock, tracker, limits, allowed),
        Some(legacy) => {
            Front::adopted(transport, clock, tracker.go_on_after(legacy), limits, allowed, legacy)
        }
    }
}

/// The name of a process of this class.
pub fn comm(class: u8) -> String {
    if class == 0 { "agent".to_owned() } else { format!("class-{class}") }
}

fn copy_of(fd: BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().expect("a descriptor")
}
