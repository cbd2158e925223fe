//! What an observer before this one left in the store of the service manager, or hands over: its journal, and of each
//! shard the slot table and what was reported of it. All of it is adopted, or nothing.
//!
//! It is found first ([`Left::find`]), while that observer may still run, and adopted once it does not.
//!
//! Thread: the caller's. Costs a pass over the used slots.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::inherited::{Inherited, shard_name};
use crate::event::RestartWhy;
use crate::journal::{Adoption, Ended, Journal, KeptTable, Refused, SocketFile};
use crate::process::procfs;
use crate::table::adopt::{self, AdoptError, Legacy};
use crate::table::{Header, Table, TableWriter};
use crate::time::MonoNs;

/// The name of the journal.
pub const FLEET: &str = "fleet";

/// The name of the slot table of a shard.
pub fn table_name(shard: usize) -> String {
    format!("{}-table", shard_name(shard))
}

/// The name of what was reported of the slots of a shard.
pub fn told_name(shard: usize) -> String {
    format!("{}-told", shard_name(shard))
}

/// What was left, and not adopted yet.
pub struct Left {
    journal: Journal,
    /// By shard; `None` for one that is new.
    shards: Vec<Option<LeftOfShard>>,
}

struct LeftOfShard {
    /// Its lasting number.
    number: usize,
    table: adopt::Unadopted,
    kept: KeptTable,
}

/// What was adopted of one shard.
pub struct OfShard {
    pub writer: TableWriter,
    pub table: Table,
    pub legacy: Legacy,
    pub kept: KeptTable,
}

/// What was adopted.
pub struct Predecessor {
    pub journal: Arc<Journal>,
    pub ended: Ended,
    /// By shard; `None` for one that is new.
    pub shards: Vec<Option<OfShard>>,
}

/// Why what was left is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// The name stands for more than one descriptor, or for none, where there must be one.
    #[error("{0} was passed {1} times")]
    Count(String, usize),
    /// The journal or a table of it is not what it should be.
    #[error("{0}: {1}")]
    Memory(String, Refused),
    /// A slot table is not what it should be.
    #[error("{0}: {1}")]
    Table(String, AdoptError),
}

impl NotAdopted {
    /// The kernel's refusal, if it may go away by itself: what was left is not to blame.
    pub fn shortage(&self) -> Option<i32> {
        let error = match self {
            Self::Count(..) => return None,
            Self::Memory(_, Refused::Memory(error)) => error,
            Self::Table(_, AdoptError::Memory(error) | AdoptError::Resources(error)) => error,
            Self::Memory(..) | Self::Table(..) => return None,
        };
        const SHORTAGES: [i32; 5] = [libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOSPC];
        error.raw_os_error().filter(|errno| SHORTAGES.contains(errno))
    }
}

impl Left {
    /// Finds what was left, for a fleet with tables of these `headers`. `None`: nothing was. Looks only at what never
    /// changes.
    ///
    /// # Errors
    /// Nothing of it can be adopted.
    pub fn find(inherited: &mut Inherited, headers: &[Header]) -> Result<Option<Self>, NotAdopted> {
        let memories: Vec<_> = headers
            .iter()
            .map(|header| usize::from(header.shard))
            .map(|shard| [table_name(shard), told_name(shard)].map(|name| (inherited.take(&name), name)))
            .collect();
        let journal = inherited.take(FLEET);
        let is_nothing_left = memories.iter().flatten().all(|(fds, _)| fds.is_empty());
        if journal.is_empty() && is_nothing_left {
            return Ok(None);
        }
        let journal = the_only(journal, FLEET)?;
        let Header { boot_id, pid_namespace, .. } = headers[0];
        let journal = Journal::identify(journal, boot_id, pid_namespace)
            .map_err(|why| NotAdopted::Memory(FLEET.to_owned(), why))?;
        let identity = journal.identity();
        let shards =
            memories.into_iter().zip(headers).map(|([(table, table_name), (told, told_name)], header)| {
                if table.is_empty() && told.is_empty() {
                    return Ok(None);
                }
                let (table, told) = (the_only(table, &table_name)?, the_only(told, &told_name)?);
                let table = adopt::Unadopted::identify(table, header)
                    .map_err(|why| NotAdopted::Table(table_name, why))?;
                let kept = KeptTable::identify(told, header.shard, &identity)
                    .map_err(|why| NotAdopted::Memory(told_name, why))?;
                Ok(Some(LeftOfShard { number: header.shard.into(), table, kept }))
            });
        let shards = shards.collect::<Result<_, _>>()?;
        Ok(Some(Self { journal, shards }))
    }

    /// Its journal.
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether a table is to be made for a shard: it is new, or there are to be more agents.
    pub fn needs_memory(&self, shard: usize, agents_max: u32) -> bool {
        self.agents_max(shard) < agents_max
    }

    /// For how many agents there is a table of a shard; 0 for a new one.
    pub fn agents_max(&self, shard: usize) -> u32 {
        self.shards.get(shard).and_then(Option::as_ref).map_or(0, |of| of.table.capacity())
    }

    /// The file of the socket of the shard with this lasting number.
    pub fn socket(&self, shard: usize) -> Option<SocketFile> {
        self.journal.socket(shard)
    }

    /// Checks and adopts all of it. Nobody else writes it any more.
    ///
    /// # Errors
    /// Nothing of it can be adopted.
    pub fn adopt(self, agents_max: u32, ahead: u32, now: MonoNs) -> Result<Predecessor, NotAdopted> {
        let ended = self.journal.adopt(now).map_err(|why| NotAdopted::Memory(FLEET.to_owned(), why))?;
        let shards = self.shards.into_iter().map(|of| {
            let Some(LeftOfShard { number: shard, table, kept }) = of else { return Ok(None) };
            let (writer, table, legacy) = table
                .adopt(agents_max, ahead, now)
                .map_err(|why| NotAdopted::Table(table_name(shard), why))?;
            let kept = kept
                .adopt(table.capacity(), legacy.used)
                .map_err(|why| NotAdopted::Memory(told_name(shard), why))?;
            Ok(Some(OfShard { writer, table, legacy, kept }))
        });
        let shards = shards.collect::<Result<_, _>>()?;
        Ok(Predecessor { journal: Arc::new(self.journal), ended, shards })
    }
}

impl Predecessor {
    /// What it amounts to.
    pub fn adopted(&self, now: MonoNs) -> Adopted {
        let agents = self.shards.iter().flatten().map(|of| of.legacy.agents).sum();
        Adopted { agents, gap: Duration::from_nanos(self.gap_ns(now)) }
    }

    /// For how long nobody ran.
    fn gap_ns(&self, now: MonoNs) -> u64 {
        let alive = self.shards.iter().flatten().map(|of| of.legacy.progress.alive_at);
        now.since(alive.fold(self.ended.last_alive, MonoNs::max))
    }

    /// What the aggregator is to know of it.
    pub fn adoption(&self, now: MonoNs) -> Adoption {
        Adoption {
            why: if self.ended.is_clean { RestartWhy::Planned } else { RestartWhy::Crash },
            gap_ns: self.gap_ns(now),
            ended: self.ended,
            exists: Box::new(procfs::exists),
        }
    }
}

/// What an observer took over from one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adopted {
    /// Slots with an agent; an agent that moves between shards has two.
    pub agents: u32,
    /// How long no observer ran.
    pub gap: Duration,
}

/// A descriptor that a successor needs.
#[derive(Debug)]
pub struct ToStore {
    /// The name under which the successor is to get it; see [`Inherited`].
    pub name: String,
    /// A socket or a memfd.
    pub fd: Arc<OwnedFd>,
    /// It was not passed to this process, so a store that kept another under this name has to forget that.
    pub is_new: bool,
}

impl ToStore {
    /// A duplicate of the descriptor of a memory.
    ///
    /// # Errors
    /// The kernel's, if it grants no descriptor.
    pub(super) fn memory(name: String, memfd: BorrowedFd<'_>, is_new: bool) -> io::Result<Self> {
        Ok(Self { name, fd: Arc::new(memfd.try_clone_to_owned()?), is_new })
    }
}

pub fn the_only(fds: Vec<OwnedFd>, name: &str) -> Result<OwnedFd, NotAdopted> {
    let count = fds.len();
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => Err(NotAdopted::Count(name.to_owned(), count)),
    }
}
