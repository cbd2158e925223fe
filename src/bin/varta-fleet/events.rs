//! `events`: past and new events of a fleet.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::Path;

use varta_fleet::api::{EventLog, FirstKept, Fleet};
use varta_fleet::event::filter::{Filter, Pattern};
use varta_fleet::event::{Event, EventKind};
use varta_fleet::time::WallNs;
use varta_fleet::{Reason, Shown};

use crate::client::{FleetArgs, parameter};
use crate::clock::{self, ZoneArgs, date_time};
use crate::exit::{CliError, Exit};
use crate::log::Log;
use crate::stderr;
use crate::words::dated_line;

/// Arguments of `events`.
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Go on with new events until the fleet stops
    #[arg(long, short)]
    follow: bool,
    /// Only events since then, also from the event log: 10m, 14:05, "2026-11-30 14:05" or 2026-11-30T14:05:06Z
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    since: Option<String>,
    /// Only events before then
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<String>,
    /// Only these kinds, such as stall,resume,exit
    #[arg(long, value_name = "KIND,…")]
    kind: Option<String>,
    /// Only events of this process, also frames of it that were refused
    #[arg(long)]
    pid: Option<u32>,
    /// Only events of processes with this name; * and ? stand for any characters
    #[arg(long, value_name = "PATTERN")]
    comm: Option<String>,
    /// Only events of processes of this unit of systemd; * and ? stand for any characters
    #[arg(long, value_name = "PATTERN")]
    unit: Option<String>,
    /// Only events of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Only events after the one of this number; 0 for all that are kept [default with --follow: new events]
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Output format: words, or jsonl as in the event log [default: words on a terminal, else jsonl]
    #[arg(long, value_parser = ["words", "jsonl"])]
    format: Option<String>,
    #[command(flatten)]
    zone: ZoneArgs,
}

/// Prints the events.
pub fn events(args: &EventsArgs) -> Result<Exit, CliError> {
    args.zone.apply();
    let filter = filter(args, clock::now())?;
    let client = args.fleet.client()?;
    let mut printer = Printer::new(args.format.as_deref());
    // Those that are older than what the observer keeps come from the event log.
    let after = match filter.since {
        Some(since) => {
            let fleet: Fleet = client.get("/api/v1/fleet")?;
            let kept = fleet.events_kept.filter(|kept| kept.ts > since);
            kept.map(|kept| earlier(since, kept, fleet.event_log.as_ref(), &filter, &mut printer))
                .transpose()?
                .flatten()
        }
        None => args.after,
    };
    let query = [
        parameter("kind", args.kind.as_ref()),
        parameter("pid", args.pid),
        parameter("shard", args.shard),
        parameter("comm", args.comm.as_ref()),
        parameter("unit", args.unit.as_ref()),
        parameter("since", filter.since.map(seconds)),
        parameter("until", filter.until.map(seconds)),
        parameter("after", after),
        parameter("follow", Some(args.follow)),
    ];
    let query: Vec<String> = query.into_iter().flatten().collect();
    let mut events = client.events(&query.join("&"))?;
    while let Some(text) = events.next()? {
        // An observer of another version may report events that this version does not know.
        printer.print(&text, serde_json::from_str::<Event>(&text).ok().as_ref())?;
        printer.out.flush()?;
    }
    Ok(Exit::Clean)
}

/// What is wanted, if it is read now.
fn filter(args: &EventsArgs, now: WallNs) -> Result<Filter, CliError> {
    let refused = |flag: &str, text: &str, why: String| {
        CliError::new(Exit::Usage, format!("cannot use --{flag} {}: {why}", Shown(text)))
    };
    let time = |flag: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| clock::parse(text, now).map_err(|why| refused(flag, text, why))).transpose()
    };
    let (since, until) = (time("since", &args.since)?, time("until", &args.until)?);
    let kinds: Vec<String> = args.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect();
    if let (Some(since), Some(text)) = (since, &args.since) {
        if since > now {
            let why = format!(
                "{} is in the future, it is {} now; write a time that has passed",
                date_time(since),
                date_time(now)
            );
            return Err(refused("since", text, why));
        }
        if let (Some(until), Some(text)) = (until.filter(|until| *until < since), &args.until) {
            let why = format!(
                "{} is before --since, which is {}; swap the two",
                date_time(until),
                date_time(since)
            );
            return Err(refused("until", text, why));
        }
        // The event log is read before the observer is asked, which would refuse others.
        if let Some(unknown) = kinds.iter().find(|kind| !EventKind::NAMES.contains(&kind.as_str())) {
            let why = format!("there is no kind {:?}; write some of {}", unknown, EventKind::NAMES.join(","));
            return Err(refused("kind", &kinds.join(","), why));
        }
    }
    let pattern = |text: &Option<String>| text.as_deref().map(Pattern::new);
    let (comm, unit) = (pattern(&args.comm), pattern(&args.unit));
    Ok(Filter { kinds, pid: args.pid, shard: args.shard, comm, unit, since, until })
}

/// Prints the events before the first that is kept, as far as the event log has them. Returns the number after which the
/// observer is to go on; `None` if all it has is to be shown, and what is missing of that.
fn earlier(
    since: WallNs,
    kept: FirstKept,
    log: Option<&EventLog>,
    filter: &Filter,
    printer: &mut Printer,
) -> Result<Option<u64>, CliError> {
    let missing = |until: WallNs, why: String| {
        stderr::warn(&format!("events before {} are missing: {why}", date_time(until)));
        Ok(None)
    };
    let Some(EventLog { path, format }) = log else {
        // Before the first event there was no other, unless of an observer that left nothing.
        return match kept.seq {
            0 | 1 => Ok(None),
            _ => missing(
                kept.ts,
                "the observer keeps no more, and writes no event log; name a file with `events`".to_owned(),
            ),
        };
    };
    let path_shown = Shown(path);
    if format != "jsonl" {
        let why = format!(
            "the observer keeps no more, and its event log {path_shown} is {format}, which has no dates; read that"
        );
        return missing(kept.ts, why);
    }
    let unreadable = |error: &io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as root or as the user of the observer",
            io::ErrorKind::NotFound => "is it in another mount namespace, or was it removed?",
            _ => "see the key `events`",
        };
        format!("cannot read the event log {path_shown}: {}; {advice}", Reason(error))
    };
    let log = match Log::open(Path::new(path), since) {
        Ok(log) => log,
        Err(error) => return missing(kept.ts, unreadable(&error)),
    };
    if let Some(begins) = log.begins {
        let compressed = log
            .compressed
            .as_deref()
            .map(|path| format!("; {} is older, and compressed: see zcat(1)", Shown(path.display())));
        let compressed = compressed.unwrap_or_default();
        missing(begins, format!("the event log {path_shown} begins then{compressed}"))?;
    }
    let read = log.each_before((kept.ts, kept.seq), filter, |text, event| {
        printer.print(text, Some(event)).map_err(Stopped::Output)
    });
    printer.out.flush()?;
    match read {
        Ok(()) => Ok(Some(kept.seq.saturating_sub(1))),
        Err(Stopped::Output(error)) => Err(error),
        Err(Stopped::Log(error)) => missing(kept.ts, unreadable(&error)),
    }
}

/// Why not all of the event log was printed.
enum Stopped {
    Log(io::Error),
    Output(CliError),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

/// As the observer reads a time.
fn seconds(wall: WallNs) -> String {
    format!("{}.{:09}", wall.0 / 1_000_000_000, wall.0 % 1_000_000_000)
}

struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    is_words: bool,
}

impl Printer {
    fn new(format: Option<&str>) -> Self {
        let out = io::stdout().lock();
        let is_words = format.map_or_else(|| out.is_terminal(), |format| format == "words");
        Self { out: BufWriter::new(out), is_words }
    }

    /// Prints an event and its line in the log.
    fn print(&mut self, text: &str, event: Option<&Event>) -> Result<(), CliError> {
        match event {
            _ if !self.is_words => writeln!(self.out, "{text}")?,
            Some(event) => writeln!(self.out, "{}", dated_line(event))?,
            None => writeln!(self.out, "{}", Shown(text))?,
        }
        Ok(())
    }
}
