//! `top`: a live view of a fleet on a whole terminal.
//!
//! Two threads query the fleet: one once a second, one for events. This one draws what they received and
//! reads keys. If the fleet goes away, the screen shows it and the queries are repeated.

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{
    self, DisableMouseCapture, EnableMouseCapture, Event as Input, KeyCode, KeyEventKind, KeyModifiers,
    MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::crossterm::execute;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use varta_fleet::Reason;

use crate::accounts::Users;
use crate::client::{FleetArgs, await_fleet};
use crate::clock::ZoneArgs;
use crate::exit::{CliError, Exit};
use draw::Drawn;
use model::{Model, Update, Wish};

mod ask;
mod columns;
mod curves;
mod draw;
mod feed;
mod model;

/// Longest time until a key is noticed.
const TICK: Duration = Duration::from_millis(100);
/// The drawing thread runs ten times a second; after this long without a turn it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of `top`.
#[derive(clap::Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    zone: ZoneArgs,
}

/// Shows the fleet until the user quits.
pub fn top(args: &TopArgs) -> Result<Exit, CliError> {
    args.zone.apply();
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "top draws on a terminal, and this is none; use status --json for programs";
        return Err(CliError::new(Exit::Usage, message));
    }
    // Query once before taking the screen, so that the error for a mistyped directory stays readable.
    let client = args.fleet.client()?;
    await_fleet(&args.fleet.dir()?, || client.text("/api/v1/fleet"))?;
    let life = Arc::new(Life::default());
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&life.is_over))
            .map_err(|error| failed("handle signals", &error))?;
    }
    let (updates, received) = mpsc::channel();
    let (wishes, wished) = mpsc::channel();
    let (asking, following) = (args.fleet.client()?, args.fleet.client()?);
    let users = Users::of_host();
    let model = Model::new(users.clone());
    let teller = updates.clone();
    let watched = Arc::clone(&life);
    thread::spawn(move || watched.watch());
    thread::spawn(move || ask::ask(&asking, &users, &wished, &updates));
    thread::spawn(move || ask::follow(&following, &teller));
    let shown =
        take_terminal().and_then(|mut terminal| show(&mut terminal, model, &received, &wishes, &life));
    restore();
    shown.map_err(|error| failed("draw on this terminal", &error))?;
    Ok(Exit::Clean)
}

/// Takes the whole terminal and its mouse. Both are given back if anything panics.
fn take_terminal() -> io::Result<DefaultTerminal> {
    let terminal = ratatui::try_init()?;
    let restoring = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        restore();
        restoring(panic);
    }));
    execute!(io::stdout(), EnableMouseCapture)?;
    Ok(terminal)
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
                restore();
                std::process::exit(if self.is_over.load(Ordering::Relaxed) { 0 } else { 1 });
            }
            turns = now;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    received: &Receiver<Update>,
    wishes: &Sender<Wish>,
    life: &Life,
) -> io::Result<()> {
    let start = Instant::now();
    let mut wish = Wish::default();
    let mut drawn = Drawn::default();
    let mut silence = None;
    let mut is_new = true;
    while !life.is_over.load(Ordering::Relaxed) {
        life.turns.fetch_add(1, Ordering::Relaxed);
        model.set_now(start.elapsed());
        for update in received.try_iter() {
            model.take(update);
            is_new = true;
        }
        let seconds = model.silence().map(|silence| silence.as_secs());
        if is_new || seconds != silence {
            terminal.draw(|frame| drawn = draw::draw(&model, frame))?;
            model.set_room(drawn.room);
            silence = seconds;
            is_new = false;
        }
        if model.wish() != wish {
            wish = model.wish();
            let _ = wishes.send(wish.clone());
        }
        let until = Instant::now() + TICK;
        while event::poll(until.saturating_duration_since(Instant::now()))? {
            let input = event::read()?;
            is_new = true;
            match input {
                Input::Key(key) if key.kind == KeyEventKind::Release => continue,
                Input::Key(key) => {
                    let is_interrupt =
                        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if is_interrupt || !model.press(key.code) {
                        return Ok(());
                    }
                }
                Input::Mouse(mouse) => point(&mut model, &drawn, mouse),
                _ => {}
            }
            break;
        }
    }
    Ok(())
}

/// Handles the mouse.
fn point(model: &mut Model, drawn: &Drawn, mouse: MouseEvent) {
    let at = (mouse.column, mouse.row).into();
    match mouse.kind {
        MouseEventKind::ScrollDown => model.turn_wheel(true),
        MouseEventKind::ScrollUp => model.turn_wheel(false),
        MouseEventKind::Down(MouseButton::Left) if drawn.rows.contains(at) => {
            model.click(usize::from(mouse.row - drawn.rows.y));
        }
        MouseEventKind::Down(MouseButton::Left) => {
            if let Some((_, key)) = drawn.heads.iter().find(|(area, _)| area.contains(at)) {
                model.sort_by(key);
            }
        }
        _ => {}
    }
}

/// Gives the terminal back.
fn restore() {
    // Ignored: the terminal may be gone.
    let _ = execute!(io::stdout(), DisableMouseCapture);
    ratatui::restore();
}
