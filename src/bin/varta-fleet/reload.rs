//! `reload`: has a running observer read its configuration again; and what `run` does then.

use std::io::{self, Write};

use varta_fleet::api::Reload;
use varta_fleet::{Fleet, Json, ReloadError, Reloaded, Shown};

use crate::client::FleetArgs;
use crate::config::ConfigArgs;
use crate::exit::{CliError, Exit, counted};
use crate::service::Service;
use crate::stderr;

/// Arguments of `reload`.
#[derive(clap::Args, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Has the observer reload, and prints what changed.
pub fn reload(args: &ReloadArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    let done: Reload = client.post("/-/reload")?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Json(&done))?;
    } else {
        lines(&done).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(Exit::Clean)
}

/// Puts the configuration in force as it is now in its file; flags and environment are those of the start. Prints
/// what came of it.
pub fn put_in_force(
    fleet: &Fleet,
    config: &ConfigArgs,
    service: &mut Service,
) -> Result<Reloaded, ReloadError> {
    service.reloading();
    let done = fleet.reload(config.plan());
    service.reloaded();
    match &done {
        Ok(done) => {
            let done = Reload::from(done);
            lines(&done).iter().for_each(|line| stderr::info(&format!("reload: {line}")));
        }
        Err(error) => {
            stderr::error(&format!("{error}\nnothing is changed: the configuration before stays in force"));
        }
    }
    done
}

/// What came of a reload, in words.
fn lines(done: &Reload) -> Vec<String> {
    let mut lines: Vec<String> = done.changed.iter().map(|change| Shown(change).to_string()).collect();
    if lines.is_empty() {
        lines.push("nothing changed".to_owned());
    }
    lines.extend(done.restart.iter().map(|change| format!("needs a restart: {}", Shown(change))));
    if !done.late_shards.is_empty() {
        let shards: Vec<String> = done.late_shards.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "warning: {} made no turn for two seconds, and takes this in its next one: {}",
            counted(done.late_shards.len() as u64, "shard"),
            shards.join(", ")
        ));
    }
    lines.extend(done.warnings.iter().map(|warning| format!("warning: {}", Shown(warning))));
    lines
}
