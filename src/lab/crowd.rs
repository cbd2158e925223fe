//! Who the agents are of which a host has no processes.

use std::ops::Range;

use crate::event::ProcessState;
use crate::process::procfs::Program;

/// What the units do.
const TASKS: [&str; 20] = [
    "api", "auth", "billing", "cache", "checkout", "cron", "encoder", "export", "feed", "geo", "import",
    "index", "mailer", "match", "media", "notify", "proxy", "render", "search", "worker",
];
/// Each team runs each task in a unit of its own, as a user of its own.
const TEAMS: [&str; 10] =
    ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "jade"];
/// The user of the first team.
const FIRST_USER: u32 = 1000;

/// The agents, by their pids. The units have pids in a row, and are from very small to very large.
#[derive(Clone, Debug)]
pub struct Crowd {
    pub pids: Range<u32>,
}

impl Crowd {
    /// The number of the unit: each has more agents than the one before.
    fn unit(&self, pid: u32) -> usize {
        let (at, all) = (pid.saturating_sub(self.pids.start), self.pids.len().max(1));
        let units = TASKS.len() * TEAMS.len();
        (units.pow(2) * at as usize / all).isqrt().min(units - 1)
    }

    /// The user of a process.
    pub fn user(&self, pid: u32) -> u32 {
        (FIRST_USER..).nth(self.unit(pid) % TEAMS.len()).unwrap_or(FIRST_USER)
    }

    /// What a process runs.
    pub fn program(&self, pid: u32) -> Program {
        let unit = self.unit(pid);
        let (task, team) = (TASKS[unit / TEAMS.len()], TEAMS[unit % TEAMS.len()]);
        Program {
            comm: Some(format!("{task}-{}", pid % 64)),
            exe: Some(format!("/usr/bin/{task}")),
            unit: Some(format!("{team}-{task}.service")),
            state: Some(ProcessState::Sleeping),
            start: Some(u64::from(pid)),
            ..Program::default()
        }
    }
}
