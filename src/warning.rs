//! Problems in spite of which a fleet runs.

use std::path::PathBuf;

use crate::message::Shown;

/// A problem in spite of which the fleet runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A thread runs at ordinary priority.
    #[error(
        "cannot raise the priority of {thread}: {why}; under load beats may be refused by the kernel; \
         grant CAP_SYS_NICE or set LimitNICE=-20"
    )]
    Priority {
        /// Which threads.
        thread: &'static str,
        /// The kernel's reason.
        why: String,
    },
    /// A shard is not pinned to its core.
    #[error("cannot pin shard {shard} to core {core}: this process may not use it; it runs unpinned")]
    Pinning {
        /// Index of the shard.
        shard: usize,
        /// The core.
        core: usize,
    },
    /// More sockets of shards were passed than shards are configured. All of them are observed.
    #[error(
        "the service manager passed {names}, and shards = {configured}: this observer runs {shards} shards, so \
         that the agents there are observed; write shards = {shards}, or disable the sockets that are too many"
    )]
    SurplusShards {
        /// The configured number.
        configured: usize,
        /// What was passed beyond it.
        names: String,
        /// How many run.
        shards: usize,
    },
    /// The observer that was taken over has more shards than are configured. All of them are observed.
    #[error(
        "the observer before has {names}, and shards = {configured}: this one runs {shards} shards, so that the agents \
         there are observed; write shards = {shards}, or stop it and start it again to be rid of them"
    )]
    TakenOverShards {
        /// The configured number.
        configured: usize,
        /// What there is beyond it.
        names: String,
        /// How many run.
        shards: usize,
    },
    /// What was passed is no socket and has a name that this version does not know.
    #[error(
        "the service manager passed {names}, which this version does not know, and does not use: a later version may \
         have kept it; if none did, remove what else passes it"
    )]
    UnknownStored {
        /// The names.
        names: String,
    },
    /// Sockets or tables of daemons were passed, and no such sockets are configured.
    #[error(
        "{names} was left by the observer before, and [notify] has no such socket: its daemons are not observed any more; \
         write [notify] with as many sockets to observe them again"
    )]
    NotifyOff {
        /// The names.
        names: String,
    },
    /// Some sockets of shards were passed, others not. These were bound here.
    #[error(
        "the service manager did not pass {names}: bound here instead, so beats are refused there while the observer \
         is stopped; enable their .socket units, too"
    )]
    MissingShards {
        /// What was not passed.
        names: String,
    },
    /// There is no socket or thread for successors.
    #[error("no other observer can take over from this one (run --takeover): {why}")]
    NoTakeover {
        /// The reason.
        why: String,
    },
    /// What was queued in a passed socket before the start has no sender.
    #[error(
        "shard-{shard} was passed without PassCredentials=yes: beats queued before this start are refused as \
         unattested; set PassCredentials=yes in its .socket unit"
    )]
    UnattestedQueue {
        /// Index of the shard.
        shard: usize,
    },
    /// What was queued in a passed socket before the start has no stamp.
    #[error(
        "shard-{shard} was passed without Timestamping=ns: beats queued before this start count as sent at the \
         start, so a stall that began before it is reported later; set Timestamping=ns in its .socket unit"
    )]
    UnstampedQueue {
        /// Index of the shard.
        shard: usize,
    },
    /// A file by which agents find the fleet was removed or replaced. It has been restored.
    #[error("{} had been removed or replaced, and is in place again; find out what removes it", Shown(path.display()))]
    PutBack {
        /// The file, or the runtime directory.
        path: PathBuf,
    },
    /// As `PutBack`, but the file could not be restored.
    #[error("agents that start now do not find {}: {why}", Shown(path.display()))]
    Unreachable {
        /// The file, or the runtime directory.
        path: PathBuf,
        /// What is in the way, and what to do.
        why: String,
    },
    /// The HTTP thread panicked. Agents are still observed.
    #[error(
        "the HTTP thread panicked: metrics, API and page are no longer served, agents are still observed; \
         restart the observer when convenient, and report the panic above"
    )]
    Unanswered,
    /// recvmmsg(2) is not permitted to this process.
    #[error(
        "a filter (seccomp) refuses recvmmsg to this process: each datagram takes a call of its own, which costs \
         more CPU under load; allow it (SystemCallFilter=@system-service, or the runtime's profile)"
    )]
    OneByOne,
    /// What an observer before this one left cannot be adopted.
    #[error(
        "cannot go on where the observer before ended: {why}; this one starts anew, and reports agents that \
         beat as up"
    )]
    StartsAnew {
        /// What is wrong with it.
        why: String,
    },
    /// The history that an observer before this one left cannot be used. Nothing else depends on it.
    #[error(
        "cannot use the history that the observer before left: {why}; the plots of this one begin now; agents are \
         observed as ever"
    )]
    NoHistory {
        /// What is wrong with it.
        why: String,
    },
    /// The list of agents of an observer before this one cannot be read.
    #[error(
        "cannot read the list of agents that the observer before left (roster): {why}; agents that no longer beat are \
         not missed"
    )]
    NoRoster {
        /// What is wrong with it.
        why: String,
    },
    /// The list of agents cannot be written.
    #[error(
        "cannot write the list of agents to {}: {why}; a start that has to begin anew does not miss them; free space \
         or correct the permissions", Shown(path.display())
    )]
    RosterUnwritten {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        why: String,
    },
    /// The observer before this one tracked more agents than this one may.
    #[error(
        "{agents} agents of the observer before are still observed, and agents-max = {agents_max}: no agent is admitted \
         before fewer are left; raise agents-max"
    )]
    MoreAgents {
        /// How many.
        agents: u32,
        /// The configured number.
        agents_max: u32,
    },
    /// The observer runs inside a pid namespace.
    #[error(
        "this observer runs inside a pid namespace: agents outside it cannot be attested and are \
         refused as unattested; run the observer on the host to observe them"
    )]
    PidNamespace,
    /// Lookups cannot work: /proc numbers processes differently, or is missing.
    #[error(
        "/proc is missing or belongs to another pid namespace: no agent can be looked up, so the largest threshold \
         among the rules that may match applies, containers' own pids stay unknown and forged pids are not \
         detected; mount a proc of this namespace (unshare --mount-proc)"
    )]
    ForeignProcfs,
    /// Lookups of other users' processes cannot work.
    #[error(
        "/proc hides other users' processes: their agents cannot be looked up, so the largest \
         threshold among the rules that may match applies to them, and forged pids are not detected; mount it \
         without hidepid (ProtectProc=default), or run the observer as root"
    )]
    HiddenProcfs,
    /// A rule needs what may not be read of other users' processes.
    #[error(
        "without CAP_SYS_PTRACE the programs of other users' processes cannot be read: where a rule matches by exe, \
         the largest threshold among those that may match applies to them; grant it, match by comm or uid, or run \
         the observer as root"
    )]
    UnreadablePrograms,
}
