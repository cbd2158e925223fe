//! `exec`: starts a program that is an agent from its first instant. `beat`: one beat from a script.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::Duration;

use varta_fleet::config::read_duration;
use varta_fleet::{Launch, LaunchError, Manifest, Reason, Shown, beat_for, launch, quoted, shard_for, unfit};

use crate::client::FleetArgs;
use crate::exit::{CliError, Exit};
use crate::{route, stderr};

/// Arguments of `exec`.
#[derive(clap::Args, Debug)]
pub struct ExecArgs {
    /// Silence that is a stall, from the start on. Without it, silence means nothing until the program beats by itself
    #[arg(long, value_name = "DURATION", value_parser = read_threshold)]
    threshold: Option<Duration>,
    /// Name of this instance [default: the file name of the program]
    #[arg(long, value_parser = read_text)]
    name: Option<String>,
    #[command(flatten)]
    fleet: FleetArgs,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// Arguments of `beat`.
#[derive(clap::Args, Debug)]
pub struct BeatArgs {
    /// Name of the instance
    #[arg(long, value_parser = read_text)]
    name: Option<String>,
    /// One line that says what it does
    #[arg(long, value_name = "TEXT", value_parser = read_text)]
    status: Option<String>,
    /// Process id of the agent [default: the parent of this process, which calls it]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    pid: Option<u32>,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Becomes the program; returns only if that fails.
pub fn exec(args: &ExecArgs) -> Result<Exit, CliError> {
    let program = args.command.first().map(|program| quoted(program)).unwrap_or_default();
    let failed = format!("cannot start {program}");
    let dir = std::path::absolute(args.fleet.dir()?).map_err(|error| unusable(&failed, &error))?;
    let sockets = sockets(&failed, &dir)?;
    if let Some(manager) = manager(&sockets) {
        return Err(CliError::new(
            Exit::Config,
            format!(
                "{failed}: NOTIFY_SOCKET is {}: the service manager that set it would hear nothing of the program any \
                 more; unset it if nobody listens there (env -u NOTIFY_SOCKET varta-fleet exec …)",
                Shown(manager.display())
            ),
        ));
    }
    let socket = socket(&sockets, std::process::id());
    route::hears_us(socket)?;
    let launched = Launch {
        command: &args.command,
        socket,
        dir: &dir,
        threshold: args.threshold,
        name: args.name.as_deref(),
    };
    let error = launch(&launched, |trouble| {
        stderr::warn(&format!("the observer does not know of {program} yet: {trouble}"));
        stderr::flush();
    });
    Err(error.into())
}

/// Sends one beat.
pub fn beat(args: &BeatArgs) -> Result<Exit, CliError> {
    let pid = args.pid.unwrap_or_else(parent_id);
    let failed = format!("cannot beat for process {pid}");
    let dir = std::path::absolute(args.fleet.dir()?).map_err(|error| unusable(&failed, &error))?;
    let sockets = sockets(&failed, &dir)?;
    let socket = socket(&sockets, pid);
    route::hears_us(socket)?;
    beat_for(pid, socket, args.name.as_deref(), args.status.as_deref())?;
    Ok(Exit::Clean)
}

/// The sockets for daemons of the observer that runs in `dir`. `failed`: what cannot be done without.
fn sockets(failed: &str, dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let manifest = Manifest::read(dir).map_err(|error| route::unread(failed, dir, &error))?;
    if manifest.notify.is_empty() {
        return Err(CliError::new(
            Exit::Unavailable,
            format!(
                "{failed}: the observer in {} has no socket for daemons; write [notify] into its configuration, \
                 see varta-fleet.toml(5), and restart it",
                Shown(dir.display())
            ),
        ));
    }
    Ok(manifest.notify)
}

/// That of the process with this pid, so that all its messages are on one.
fn socket(sockets: &[PathBuf], pid: u32) -> &Path {
    &sockets[shard_for(pid, u32::try_from(sockets.len()).unwrap_or(1)) as usize]
}

/// Where the service manager that started this process listens, if it does and is not the observer itself.
fn manager(sockets: &[PathBuf]) -> Option<PathBuf> {
    let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()).map(PathBuf::from)?;
    if sockets.contains(&address) { None } else { Some(address) }
}

fn unusable(failed: &str, error: &io::Error) -> CliError {
    CliError::new(
        Exit::Runtime,
        format!(
            "{failed}: the working directory is unknown: {}; name an absolute path with --dir",
            Reason(error)
        ),
    )
}

fn read_threshold(text: &str) -> Result<Duration, String> {
    let threshold = read_duration(text)?;
    if threshold < Duration::from_millis(1) {
        return Err("shorter than 1ms; write a longer one".to_owned());
    }
    Ok(threshold)
}

fn read_text(text: &str) -> Result<String, String> {
    unfit(text).map_or_else(|| Ok(text.to_owned()), |why| Err(why.to_owned()))
}

impl From<LaunchError> for CliError {
    fn from(error: LaunchError) -> Self {
        let exit = match &error {
            LaunchError::NotFound { .. } => Exit::NotFound,
            LaunchError::NotExecutable { .. } => Exit::NotExecutable,
            LaunchError::NotForOthers { .. } => Exit::Permission,
            LaunchError::Unheard { .. } => Exit::Unavailable,
            _ => Exit::Runtime,
        };
        Self::new(exit, error.to_string())
    }
}
