//! `run`: observes the fleet until told to stop.

use varta_fleet::plan::Plan;

use crate::exit::{CliError, Exit};

/// What only the command line of `run` says.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct RunOptions {
    /// Print one line `ready shards=N dir=…` once every shard receives
    #[arg(long)]
    pub print_ready: bool,
}

/// Runs the plan until a signal ends it.
pub fn run(plan: Plan, options: RunOptions) -> Result<Exit, CliError> {
    let _ = (plan, options.print_ready);
    Err(CliError::new(
        Exit::Runtime,
        "cannot run: this version does not observe yet; use check and route meanwhile",
    ))
}
