//! `top`: a live view of a fleet on a whole terminal.
//!
//! Two threads query the fleet: one once a second, one for events. This one draws what they received and
//! reads keys. If the fleet goes away, the screen shows it and the queries are repeated.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use varta_fleet::Reason;
use varta_fleet::api::Fleet;

use crate::client::{Client, FleetArgs, await_fleet, parameter};
use crate::exit::{CliError, Exit};
use model::{Model, Update};

mod draw;
mod model;

/// Time between two queries.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest time until a key is noticed.
const TICK: Duration = Duration::from_millis(100);
/// Past events shown at the start.
const EVENTS: u64 = 30;
/// The drawing thread runs ten times a second; after this long without a turn it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(3);
/// Agents requested.
const AGENTS: u32 = 100;

/// Arguments of `top`.
#[derive(clap::Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Shows the fleet until the user quits.
pub fn top(args: &TopArgs) -> Result<Exit, CliError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "top draws on a terminal, and this is none; use status --json for programs";
        return Err(CliError::new(Exit::Usage, message));
    }
    // Query once before taking the screen, so that the error for a mistyped directory stays readable.
    let client = args.fleet.client()?;
    await_fleet(|| client.text("/api/v1/fleet"))?;
    let life = Arc::new(Life::default());
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&life.is_over))
            .map_err(|error| failed("handle signals", &error))?;
    }
    let (updates, received) = mpsc::channel();
    let (wishes, wished) = mpsc::channel();
    let (asking, following) = (args.fleet.client()?, args.fleet.client()?);
    let teller = updates.clone();
    let watched = Arc::clone(&life);
    thread::spawn(move || watched.watch());
    thread::spawn(move || ask(&asking, &wished, &updates));
    thread::spawn(move || follow(&following, &teller));
    // Also restores the terminal if anything below panics.
    let mut terminal = ratatui::try_init().map_err(|error| failed("take the terminal", &error))?;
    let shown = show(&mut terminal, &received, &wishes, &life);
    ratatui::restore();
    shown.map_err(|error| failed("draw", &error))?;
    Ok(Exit::Clean)
}

fn failed(what: &str, error: &io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("cannot {what}: {}; use status instead", Reason(error)))
}

/// Whether the drawing thread is to end, and whether it makes progress.
#[derive(Debug, Default)]
struct Life {
    is_over: Arc<AtomicBool>,
    turns: AtomicU64,
}

impl Life {
    /// Ends the process if drawing has stopped: reading the keys of a closed terminal never returns.
    fn watch(&self) {
        let (mut turns, mut quiet) = (0, 0);
        loop {
            thread::sleep(PATIENCE);
            let now = self.turns.load(Ordering::Relaxed);
            quiet = if now == turns { quiet + 1 } else { 0 };
            // A single quiet period may mean that the whole process was paused.
            if quiet == 2 {
                ratatui::restore();
                std::process::exit(if self.is_over.load(Ordering::Relaxed) { 0 } else { 1 });
            }
            turns = now;
        }
    }
}

/// What the query should return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wish {
    sort: &'static str,
    filter: String,
}

fn show(
    terminal: &mut DefaultTerminal,
    received: &Receiver<Update>,
    wishes: &Sender<Wish>,
    life: &Life,
) -> io::Result<()> {
    let mut model = Model::default();
    let mut wish = Wish::default();
    while !life.is_over.load(Ordering::Relaxed) {
        life.turns.fetch_add(1, Ordering::Relaxed);
        received.try_iter().for_each(|update| model.take(update));
        let wanted = Wish { sort: model.sort(), filter: model.filter().to_owned() };
        if wanted != wish {
            wish = wanted;
            let _ = wishes.send(wish.clone());
        }
        terminal.draw(|frame| draw::draw(&model, frame))?;
        let until = Instant::now() + TICK;
        while event::poll(until.saturating_duration_since(Instant::now()))? {
            let Input::Key(key) = event::read()? else { break };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let is_interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if is_interrupt || !model.press(key.code) {
                return Ok(());
            }
            break;
        }
    }
    Ok(())
}

/// Queries the fleet once a second, and at once when the wish changes.
fn ask(client: &Client, wishes: &Receiver<Wish>, updates: &Sender<Update>) {
    let mut wish = Wish { sort: "silent", filter: String::new() };
    loop {
        let update = look(client, &wish).unwrap_or_else(|error| Update::Trouble(error.to_string()));
        if updates.send(update).is_err() {
            return;
        }
        match wishes.recv_timeout(PERIOD) {
            Ok(wanted) => wish = wanted,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn look(client: &Client, wish: &Wish) -> Result<Update, CliError> {
    let fleet = client.get("/api/v1/fleet")?;
    let comm = (!wish.filter.is_empty()).then(|| format!("*{}*", wish.filter));
    let query =
        [parameter("sort", Some(wish.sort)), parameter("limit", Some(AGENTS)), parameter("comm", comm)];
    let query: Vec<String> = query.into_iter().flatten().collect();
    let page = client.get(&format!("/api/v1/agents?{}", query.join("&")))?;
    Ok(Update::Seen(Box::new(fleet), page))
}

/// Receives events, and reconnects.
fn follow(client: &Client, updates: &Sender<Update>) {
    loop {
        // Includes one screen of past events.
        let after =
            client.get::<Fleet>("/api/v1/fleet").map_or(0, |fleet| fleet.events.saturating_sub(EVENTS));
        if let Ok(mut events) = client.events(&format!("after={after}")) {
            while let Ok(Some(line)) = events.next() {
                // An observer of another version may report events that this version does not know.
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if updates.send(Update::Told(event)).is_err() {
                    return;
                }
            }
        }
        thread::sleep(PERIOD);
    }
}
