//! `events`: past and new events of a fleet.

use std::io::{self, IsTerminal, Write};

use varta_fleet::Shown;
use varta_fleet::event::Event;

use crate::client::{FleetArgs, parameter};
use crate::exit::{CliError, Exit};
use crate::words::line;

/// Arguments of `events`.
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Go on with new events until the fleet stops
    #[arg(long, short)]
    follow: bool,
    /// Only these kinds, such as stall,resume,exit
    #[arg(long, value_name = "KIND,…")]
    kind: Option<String>,
    /// Only events of this process, also frames of it that were refused
    #[arg(long)]
    pid: Option<u32>,
    /// Only events of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Only events after the one of this number; 0 for all that are kept [default with --follow: new events]
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Output format: words, or jsonl as in the event log [default: words on a terminal, else jsonl]
    #[arg(long, value_parser = ["words", "jsonl"])]
    format: Option<String>,
}

/// Prints the events.
pub fn events(args: &EventsArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    let query = [
        parameter("kind", args.kind.as_ref()),
        parameter("pid", args.pid),
        parameter("shard", args.shard),
        parameter("after", args.after),
        parameter("follow", Some(args.follow)),
    ];
    let query: Vec<String> = query.into_iter().flatten().collect();
    let mut events = client.events(&query.join("&"))?;
    let mut out = io::stdout().lock();
    let is_words = match args.format.as_deref() {
        Some(format) => format == "words",
        None => out.is_terminal(),
    };
    while let Some(text) = events.next()? {
        if is_words {
            // An observer of another version may report events that this version does not know.
            match serde_json::from_str::<Event>(&text) {
                Ok(event) => writeln!(out, "{}", line(&event))?,
                Err(_) => writeln!(out, "{}", Shown(&text))?,
            }
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()?;
    }
    Ok(Exit::Clean)
}
