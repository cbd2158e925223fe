//! `spawner`: starts the children of actions. The observer starts it by itself, or it is a service of its own.

use std::path::PathBuf;

use varta_fleet::{Reason, Shown, serve_spawner, serve_spawner_at};

use crate::accounts::Users;
use crate::exit::{CliError, Exit};

/// Arguments of `spawner`.
#[derive(Debug, clap::Args)]
pub struct SpawnerArgs {
    /// Listen at this path instead of serving the observer that started this
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// A user whose observer may connect, beside root and the user that this runs as
    #[arg(long, value_name = "NAME", requires = "listen")]
    observer: Option<String>,
}

/// Serves until the observer hangs up, or for ever.
pub fn spawner(args: &SpawnerArgs) -> Result<Exit, CliError> {
    let Some(path) = &args.listen else {
        serve_spawner().map_err(|error| {
            CliError::new(Exit::Runtime, format!("cannot serve as spawner: {}", Reason(&error)))
        })?;
        return Ok(Exit::Clean);
    };
    let uid = args.observer.as_deref().map(uid_of).transpose()?;
    let failed = |error: &std::io::Error| {
        let exit = match error.kind() {
            std::io::ErrorKind::AddrInUse => Exit::Unavailable,
            std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Runtime,
        };
        let path = Shown(path.display());
        CliError::new(exit, format!("cannot serve as spawner at {path}: {}", Reason(error)))
    };
    serve_spawner_at(path, uid).map_err(|error| failed(&error))?;
    Ok(Exit::Clean)
}

fn uid_of(name: &str) -> Result<u32, CliError> {
    let unknown =
        || format!("there is no user {} in /etc/passwd; write a name that is, or a number", Shown(name));
    Users::of_host().uid(name).ok_or_else(|| CliError::new(Exit::Config, unknown()))
}
