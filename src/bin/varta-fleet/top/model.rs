//! The content of `top`, and what keys do to it. No terminal, no clock: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::KeyCode;
use varta_fleet::Shown;
use varta_fleet::api::{Agent, AgentState, Fleet, Shard};
use varta_fleet::event::Event;

use super::curves::{Curves, per_second};
use super::feed::Feed;
use super::users::Users;

/// Length of the curves of shards, in seconds.
const CURVE: usize = 60;
/// Agents that are asked for at least, and in steps of how many more.
const STEP: usize = 500;
/// Without an answer for this long, there is none.
const PATIENCE: Duration = Duration::from_secs(3);
/// Two clicks that are no further apart than this are one double click.
const DOUBLE_CLICK: Duration = Duration::from_millis(500);
/// Rows that a turn of the wheel moves.
const WHEEL: usize = 3;
/// Longest filter: a cell more than anything that is filtered by.
const TYPED_MAX: usize = 256;
/// Sort keys of agents, in the words of the API.
pub const SORTS: [&str; 5] = ["silent", "stalls", "lost", "beats", "pid"];
/// States to filter by, in the order in which a key walks them.
const STATES: [AgentState; 4] =
    [AgentState::Stalled, AgentState::Frozen, AgentState::Up, AgentState::Waiting];

/// News for the model.
#[derive(Debug)]
pub enum Update {
    /// The state of the fleet.
    Seen(Box<Fleet>),
    /// The agents that were asked for, and how many there are of them.
    Listed(Vec<Agent>, u64),
    /// The fleet does not list what was asked for, and why.
    Refused(String),
    /// What `explain` says of a pid.
    Explained(u32, String),
    /// The fleet did not answer.
    Trouble(String),
    /// The fleet reported this event.
    Told(Event),
}

/// Which agents are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<AgentState>,
    /// Of this user, by name or number.
    pub user: String,
    /// With this in the name.
    pub name: String,
    /// With this pid.
    pub pid: String,
}

impl Filter {
    /// What it takes, in words; empty if it takes everything.
    pub fn words(&self) -> String {
        let quoted = |what: &str, text: &str| (!text.is_empty()).then(|| format!("{what} {}", Shown(text)));
        let said = [
            self.state.map(|state| format!("state {}", state.as_str())),
            quoted("name has", &self.name),
            quoted("user", &self.user),
            quoted("pid", &self.pid),
        ];
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn field(&mut self, field: Field) -> &mut String {
        match field {
            Field::Name => &mut self.name,
            Field::User => &mut self.user,
            Field::Pid => &mut self.pid,
        }
    }
}

/// What the operator types a filter for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A part of the name.
    Name,
    /// A user.
    User,
    /// A pid.
    Pid,
}

impl Field {
    /// The question to the operator.
    pub const fn prompt(self) -> &'static str {
        match self {
            Self::Name => "name has",
            Self::User => "user (name or number)",
            Self::Pid => "pid",
        }
    }

    /// Whether each letter filters at once; a part of the others would name another.
    const fn is_partial(self) -> bool {
        matches!(self, Self::Name)
    }
}

/// What the observer told.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    /// The last answer.
    pub fleet: Option<Fleet>,
    /// The fleet over time.
    pub curves: Curves,
    /// One per shard.
    pub shards: Vec<ShardCurves>,
    /// The agents, in order.
    pub agents: Vec<Agent>,
    /// How many there are; not all of them may be asked for.
    pub total: u64,
    /// Why there are none.
    pub refused: Option<String>,
    /// The events.
    pub feed: Feed,
}

/// The last minute of one shard; the latest second is last.
#[derive(Clone, Debug, Default)]
pub struct ShardCurves {
    /// Beats a second.
    pub beats: VecDeque<Option<u64>>,
    /// The 99 % quantile of the queue time in that second, ns.
    pub queue_ns: VecDeque<Option<u64>>,
    /// Refused datagrams a second.
    pub refused: u64,
    /// Beats lost a second.
    pub lost: u64,
}

/// The explanation of one agent.
#[derive(Clone, Debug)]
pub struct Pane {
    /// Of which.
    pub pid: u32,
    /// The text, once it came.
    pub text: Option<String>,
    /// First line shown.
    pub first: usize,
}

/// How much of it there was room for, at the last drawing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Agents.
    pub agents: usize,
    /// Lines of the pane.
    pub pane: usize,
    /// Lines that the explanation has.
    pub lines: usize,
}

/// What to ask the fleet for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The sort key.
    pub sort: &'static str,
    /// The smallest first.
    pub is_ascending: bool,
    /// Which agents.
    pub filter: Filter,
    /// How many of them.
    pub agents: usize,
    /// Which one to explain.
    pub explain: Option<u32>,
}

/// Everything that is drawn.
#[derive(Debug, Default)]
pub struct Model {
    users: Users,
    now: Duration,
    answered: Option<Duration>,
    trouble: Option<String>,
    live: Screen,
    frozen: Option<Screen>,
    sort: usize,
    is_reversed: bool,
    filter: Filter,
    typed: Option<(Field, String)>,
    is_helping: bool,
    pane: Option<Pane>,
    selected: Option<u32>,
    /// Row of the selected agent, or where it was.
    at: usize,
    /// First row shown.
    first: usize,
    /// Select the last agent once all are there.
    is_to_end: bool,
    room: Room,
    clicked: Option<(u32, Duration)>,
}

impl Model {
    /// Nothing is known yet. `users`: their names.
    pub fn new(users: Users) -> Self {
        Self { users, ..Self::default() }
    }

    /// Sets the time, since any instant.
    pub const fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Sets how much there is room for.
    pub const fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// Applies an update. While the screen is frozen it shows nothing of it.
    pub fn take(&mut self, update: Update) {
        if !matches!(update, Update::Trouble(_) | Update::Told(_)) {
            self.answered = Some(self.now);
            self.trouble = None;
        }
        match update {
            Update::Seen(fleet) => self.live.see(*fleet),
            Update::Listed(agents, total) => {
                self.live.agents = agents;
                self.live.total = total;
                self.live.refused = None;
                if self.frozen.is_none() {
                    self.find_selected();
                }
            }
            Update::Refused(why) => {
                self.live.agents.clear();
                self.live.total = 0;
                self.live.refused = Some(why);
            }
            Update::Explained(pid, text) => {
                if let Some(pane) = self.pane.as_mut().filter(|pane| pane.pid == pid) {
                    pane.text = Some(text);
                }
            }
            Update::Trouble(why) => self.trouble = Some(why),
            Update::Told(event) => self.live.feed.take(event),
        }
    }

    /// Keeps the selection on its agent after the list was sorted anew, and in sight if it was.
    fn find_selected(&mut self) {
        let len = self.agents().len();
        let last = len.saturating_sub(1);
        if self.is_to_end && len as u64 >= self.live.total {
            self.is_to_end = false;
            self.select(last);
            return;
        }
        let was_in_sight = (self.first..self.first + self.room.agents.max(1)).contains(&self.at);
        let found = self.selected.and_then(|pid| self.agents().iter().position(|agent| agent.pid == pid));
        if let Some(at) = found {
            self.at = at;
            if was_in_sight {
                self.show_selected();
            }
        }
        self.at = self.at.min(last);
        self.first = self.first.min(last);
    }

    fn select(&mut self, at: usize) {
        self.at = at.min(self.agents().len().saturating_sub(1));
        self.selected = self.agents().get(self.at).map(|agent| agent.pid);
        self.show_selected();
    }

    fn show_selected(&mut self) {
        let room = self.room.agents.max(1);
        self.first = self.first.min(self.at).max((self.at + 1).saturating_sub(room));
    }

    /// Handles a key; false ends `top`.
    pub fn press(&mut self, key: KeyCode) -> bool {
        if self.typed.is_some() {
            self.edit(key);
            return true;
        }
        match key {
            KeyCode::Char('q') => return false,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.is_helping = !self.is_helping,
            KeyCode::Esc if self.is_helping => self.is_helping = false,
            KeyCode::Char('f' | ' ') => self.freeze_or_thaw(),
            _ if self.pane.is_some() => self.press_in_pane(key),
            _ => self.press_in_list(key),
        }
        true
    }

    fn edit(&mut self, key: KeyCode) {
        let Some((field, text)) = &mut self.typed else { return };
        match key {
            KeyCode::Enter => {
                let (field, text) = (*field, std::mem::take(text));
                *self.filter.field(field) = text;
                self.typed = None;
                self.begin_anew();
            }
            KeyCode::Esc => {
                self.typed = None;
                self.begin_anew();
            }
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(c) if *field == Field::Pid && !c.is_ascii_digit() => {}
            KeyCode::Char(c) if text.len() + c.len_utf8() <= TYPED_MAX => text.push(c),
            _ => {}
        }
    }

    fn freeze_or_thaw(&mut self) {
        if self.frozen.take().is_some() {
            self.find_selected();
        } else {
            self.frozen = Some(self.live.clone());
        }
    }

    fn press_in_pane(&mut self, key: KeyCode) {
        let page = self.room.pane.max(2) - 1;
        let end = self.room.lines.saturating_sub(self.room.pane);
        let Some(pane) = &mut self.pane else { return };
        pane.first = match key {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Left => {
                self.pane = None;
                return;
            }
            KeyCode::Down | KeyCode::Char('j') => pane.first + 1,
            KeyCode::Up | KeyCode::Char('k') => pane.first.saturating_sub(1),
            KeyCode::PageDown => pane.first + page,
            KeyCode::PageUp => pane.first.saturating_sub(page),
            KeyCode::Home => 0,
            KeyCode::End => end,
            _ => pane.first,
        }
        .min(end);
    }

    fn press_in_list(&mut self, key: KeyCode) {
        let page = self.room.agents.max(2) - 1;
        match key {
            KeyCode::Esc if self.filter != Filter::default() => {
                self.filter = Filter::default();
                self.begin_anew();
            }
            KeyCode::Esc => {
                self.selected = None;
                self.at = 0;
                self.first = 0;
            }
            KeyCode::Char('s' | '>') => self.sort_by(SORTS[(self.sort + 1) % SORTS.len()]),
            KeyCode::Char('S' | '<') => self.sort_by(SORTS[(self.sort + SORTS.len() - 1) % SORTS.len()]),
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                self.begin_anew();
            }
            KeyCode::Char('t') => {
                let at = STATES.iter().position(|state| self.filter.state == Some(*state));
                self.filter.state = STATES.get(at.map_or(0, |at| at + 1)).copied();
                self.begin_anew();
            }
            KeyCode::Char('/' | 'n') => self.ask_for(Field::Name),
            KeyCode::Char('u') => self.ask_for(Field::User),
            KeyCode::Char('p') => self.ask_for(Field::Pid),
            KeyCode::Enter | KeyCode::Right => self.open(),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown => self.move_by(isize::try_from(page).unwrap_or(isize::MAX)),
            KeyCode::PageUp => self.move_by(-isize::try_from(page).unwrap_or(isize::MAX)),
            KeyCode::Home => {
                self.is_to_end = false;
                self.first = 0;
                self.select(0);
            }
            KeyCode::End => {
                self.is_to_end = (self.agents().len() as u64) < self.total() && !self.is_frozen();
                self.select(usize::MAX);
            }
            _ => {}
        }
    }

    fn ask_for(&mut self, field: Field) {
        self.typed = Some((field, String::new()));
    }

    /// What is selected remains, wherever it is in the new list.
    fn begin_anew(&mut self) {
        self.first = 0;
        self.is_to_end = false;
        if self.selected.is_none() {
            self.at = 0;
        }
    }

    fn move_by(&mut self, rows: isize) {
        self.is_to_end = false;
        let is_first = self.selected.is_none();
        self.select(if is_first { self.first } else { self.at.saturating_add_signed(rows) });
    }

    fn open(&mut self) {
        if !self.agents().iter().any(|agent| Some(agent.pid) == self.selected) {
            self.select(self.at.max(self.first));
        }
        self.pane = self.selected.map(|pid| Pane { pid, text: None, first: 0 });
    }

    /// Sorts by this key; by the key that is sorted by, in the other direction.
    pub fn sort_by(&mut self, key: &str) {
        let Some(at) = SORTS.iter().position(|sort| *sort == key) else { return };
        self.is_reversed = at == self.sort && !self.is_reversed;
        self.sort = at;
        self.begin_anew();
    }

    /// The wheel was turned, away from the operator or not.
    pub fn turn_wheel(&mut self, is_down: bool) {
        if self.pane.is_some() {
            let key = if is_down { KeyCode::Down } else { KeyCode::Up };
            (0..WHEEL).for_each(|_| self.press_in_pane(key));
            return;
        }
        let end = self.agents().len().saturating_sub(self.room.agents);
        self.first = if is_down { self.first + WHEEL } else { self.first.saturating_sub(WHEEL) }.min(end);
    }

    /// A row of the list was clicked; twice opens it.
    pub fn click(&mut self, row: usize) {
        let Some(pid) = self.agents().get(self.first + row).map(|agent| agent.pid) else { return };
        let before = self.clicked.replace((pid, self.now));
        let is_double =
            before.is_some_and(|(other, then)| other == pid && self.now.saturating_sub(then) <= DOUBLE_CLICK);
        self.select(self.first + row);
        if is_double {
            self.clicked = None;
            self.open();
        }
    }

    /// What to ask the fleet for.
    pub fn wish(&self) -> Wish {
        let rows = self.first.max(self.at) + 2 * self.room.agents;
        let agents = if self.is_to_end { usize::MAX } else { (rows / STEP + 1) * STEP };
        Wish {
            sort: self.sort(),
            is_ascending: self.is_ascending(),
            filter: self.filter(),
            agents,
            explain: self.pane.as_ref().map(|pane| pane.pid),
        }
    }

    /// Names of users.
    pub const fn users(&self) -> &Users {
        &self.users
    }

    /// What is shown.
    pub fn screen(&self) -> &Screen {
        self.frozen.as_ref().unwrap_or(&self.live)
    }

    /// All agents that are there.
    pub fn agents(&self) -> &[Agent] {
        &self.screen().agents
    }

    /// The number of agents, of which not all may be there.
    pub fn total(&self) -> u64 {
        self.screen().total
    }

    /// The first row shown.
    pub const fn first(&self) -> usize {
        self.first
    }

    /// The selected agent.
    pub const fn selected(&self) -> Option<u32> {
        self.selected
    }

    /// The explanation that is open.
    pub const fn pane(&self) -> Option<&Pane> {
        self.pane.as_ref()
    }

    /// For how long the fleet has not answered, if that is too long.
    pub fn silence(&self) -> Option<Duration> {
        let silence = self.now.saturating_sub(self.answered.unwrap_or_default());
        let is_silent = self.trouble.is_some() || self.answered.is_some() && silence >= PATIENCE;
        is_silent.then_some(silence)
    }

    /// Why the fleet does not answer, if that is known.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The sort key of agents.
    pub const fn sort(&self) -> &'static str {
        SORTS[self.sort]
    }

    /// Whether the smallest comes first.
    pub fn is_ascending(&self) -> bool {
        (self.sort() == "pid") != self.is_reversed
    }

    /// Which agents are listed. A name filters while it is typed.
    pub fn filter(&self) -> Filter {
        let mut filter = self.filter.clone();
        if let Some((field, text)) = self.typed.as_ref().filter(|(field, _)| field.is_partial()) {
            filter.field(*field).clone_from(text);
        }
        filter
    }

    /// What is being typed, and for which filter.
    pub fn typed(&self) -> Option<(Field, &str)> {
        self.typed.as_ref().map(|(field, text)| (*field, text.as_str()))
    }

    /// Whether the screen is frozen.
    pub const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Events that came since the screen was frozen.
    pub fn held(&self) -> u64 {
        self.live.feed.taken() - self.screen().feed.taken()
    }

    /// Whether the help is shown.
    pub const fn is_helping(&self) -> bool {
        self.is_helping
    }
}

impl Screen {
    fn see(&mut self, fleet: Fleet) {
        self.curves.take(&fleet);
        self.draw_on(&fleet);
        self.fleet = Some(fleet);
    }

    /// Extends the curves of shards by the difference to the previous answer.
    fn draw_on(&mut self, fleet: &Fleet) {
        let before =
            self.fleet.as_ref().filter(|before| before.pid == fleet.pid && before.mono_ns < fleet.mono_ns);
        let Some(before) = before.filter(|before| before.shards.len() == fleet.shards.len()) else {
            self.shards = vec![ShardCurves::default(); fleet.shards.len()];
            return;
        };
        let gap_ns = fleet.mono_ns - before.mono_ns;
        for (curves, (now, then)) in self.shards.iter_mut().zip(fleet.shards.iter().zip(&before.shards)) {
            let rate = |of: fn(&Shard) -> u64| per_second(of(now).saturating_sub(of(then)), gap_ns);
            push(&mut curves.beats, rate(|shard| shard.beats));
            curves.refused = rate(Shard::refused);
            curves.lost = rate(|shard| shard.lost);
            push(&mut curves.queue_ns, now.latencies.queue_ns.bound_since(&then.latencies.queue_ns, 990));
        }
    }
}

fn push(curve: &mut VecDeque<Option<u64>>, value: u64) {
    curve.push_back(Some(value));
    if curve.len() > CURVE {
        curve.pop_front();
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
