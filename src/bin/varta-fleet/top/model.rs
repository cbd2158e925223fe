//! The content of `top`, and what keys do to it. No terminal, no clock: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::KeyCode;
use varta_fleet::Shown;
use varta_fleet::api::{Agent, AgentState, DeadAgent, Fleet, Group, GroupBy, Shard};
use varta_fleet::event::Event;

use super::curves::{Curves, Second, per_second};
use super::feed::Feed;
use crate::accounts::Users;

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
const TYPED_MAX: usize = 511;
/// Sort keys of agents, in the words of the API.
pub const SORTS: [&str; 5] = ["silent", "stalls", "lost", "beats", "pid"];
/// States to filter by, in the order in which a key walks them.
const STATES: [AgentState; 5] =
    [AgentState::Stalled, AgentState::Standstill, AgentState::Frozen, AgentState::Up, AgentState::Waiting];

/// News for the model.
#[derive(Debug)]
pub enum Update {
    /// The state of the fleet.
    Seen(Box<Fleet>),
    /// What the fleet remembers of the last seconds, and in which second it was asked.
    Remembered(Vec<Second>, u64),
    /// What was asked for, and how many there are of them.
    Listed(List, u64),
    /// The fleet does not list what was asked for, and why.
    Refused(String),
    /// What `explain` says of a pid.
    Explained(u32, String),
    /// The fleet did not answer.
    Trouble(String),
    /// The fleet reported this event.
    Told(Event),
}

/// What is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Agents.
    #[default]
    Agents,
    /// Agents counted by what they have in common.
    Groups(GroupBy),
    /// The agents that died last.
    Dead,
}

/// The rows of a view, in order.
#[derive(Clone, Debug)]
pub enum List {
    /// Agents, of which not all may be there.
    Agents(Vec<Agent>),
    /// Groups.
    Groups(GroupBy, Vec<Group>),
    /// Agents that died, and when they were listed, `CLOCK_MONOTONIC`, ns.
    Dead(Vec<DeadAgent>, u64),
}

impl Default for List {
    fn default() -> Self {
        Self::Agents(Vec::new())
    }
}

/// What a selection stays on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The process of an agent.
    Pid(u32),
    /// A group.
    Group(Option<String>),
    /// The session of an agent that died.
    Dead(u32, u32),
}

impl List {
    /// Of a view, before its answer.
    const fn of(view: View) -> Self {
        match view {
            View::Agents => Self::Agents(Vec::new()),
            View::Groups(by) => Self::Groups(by, Vec::new()),
            View::Dead => Self::Dead(Vec::new(), 0),
        }
    }

    /// The view that it is of.
    pub const fn view(&self) -> View {
        match self {
            Self::Agents(_) => View::Agents,
            Self::Groups(by, _) => View::Groups(*by),
            Self::Dead(..) => View::Dead,
        }
    }

    /// Number of rows.
    pub const fn len(&self) -> usize {
        match self {
            Self::Agents(agents) => agents.len(),
            Self::Groups(_, groups) => groups.len(),
            Self::Dead(dead, _) => dead.len(),
        }
    }

    /// What a row is, if there is one.
    pub fn key(&self, row: usize) -> Option<Key> {
        match self {
            Self::Agents(agents) => agents.get(row).map(|agent| Key::Pid(agent.pid)),
            Self::Groups(_, groups) => groups.get(row).map(|group| Key::Group(group.name.clone())),
            Self::Dead(dead, _) => dead.get(row).map(|dead| Key::Dead(dead.pid, dead.session)),
        }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        (0..self.len()).find(|row| self.key(*row).as_ref() == Some(key))
    }
}

/// Which agents are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<AgentState>,
    /// Of this user, by name or number.
    pub user: String,
    /// With this in the name, or with this name if it begins with `=`.
    pub name: String,
    /// The same of the unit.
    pub unit: String,
    /// With this pid.
    pub pid: String,
    /// On this shard.
    pub shard: String,
}

impl Filter {
    /// What of it counts in a view.
    fn of(mut self, view: View) -> Self {
        match view {
            View::Agents => {}
            View::Groups(_) => self = Self::default(),
            View::Dead => {
                self.state = None;
                self.pid.clear();
            }
        }
        self
    }

    /// What it takes, in words; empty if it takes everything.
    pub fn words(&self) -> String {
        let quoted = |what: &str, text: &str| (!text.is_empty()).then(|| format!("{what} {}", Shown(text)));
        let matched = |what: &str, text: &str| match text.strip_prefix('=') {
            Some(whole) => Some(format!("{what} is {}", Shown(whole))),
            None => quoted(&format!("{what} has"), text),
        };
        let said = [
            self.state.map(|state| format!("state {}", state.as_str())),
            matched("name", &self.name),
            matched("unit", &self.unit),
            quoted("user", &self.user),
            quoted("shard", &self.shard),
            quoted("pid", &self.pid),
        ];
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn field(&mut self, field: Field) -> &mut String {
        match field {
            Field::Name => &mut self.name,
            Field::Unit => &mut self.unit,
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
    /// A part of the unit.
    Unit,
    /// A user.
    User,
    /// A pid.
    Pid,
}

impl Field {
    /// The question to the operator.
    pub const fn prompt(self) -> &'static str {
        match self {
            Self::Name => "name has (=NAME: is)",
            Self::Unit => "unit has (=UNIT: is)",
            Self::User => "user (name or number)",
            Self::Pid => "pid",
        }
    }

    /// Whether each letter filters at once; a part of the others would name another.
    const fn is_partial(self) -> bool {
        matches!(self, Self::Name | Self::Unit)
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
    /// The rows, in order.
    pub list: List,
    /// How many there are; not all of them may be asked for.
    pub total: u64,
    /// Why there are none.
    pub refused: Option<String>,
    /// The view was changed, and its rows are asked for.
    pub is_asked: bool,
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
    /// Rows of the list.
    pub rows: usize,
    /// Lines of a text that replaces it.
    pub text: usize,
    /// Lines that the text has.
    pub lines: usize,
}

/// What to ask the fleet for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Which view.
    pub view: View,
    /// The sort key of agents.
    pub sort: &'static str,
    /// The smallest first.
    pub is_ascending: bool,
    /// Which agents.
    pub filter: Filter,
    /// How many of them.
    pub rows: usize,
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
    view: View,
    /// The groups of which one was opened.
    opened_from: Option<GroupBy>,
    sort: usize,
    is_reversed: bool,
    filter: Filter,
    typed: Option<(Field, String)>,
    /// First line of the help, if it is shown.
    help: Option<usize>,
    pane: Option<Pane>,
    selected: Option<Key>,
    /// Row of what is selected, or where it was.
    at: usize,
    /// First row shown.
    first: usize,
    /// Select the last row once all are there.
    is_to_end: bool,
    /// What is selected is no longer among all rows.
    is_gone: bool,
    /// Rows to ask for. While something is selected it only grows: otherwise a selection that moves up and down would
    /// be asked for again and again.
    depth: usize,
    room: Room,
    clicked: Option<(Key, Duration)>,
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
            Update::Remembered(seconds, now) => self.live.curves.remember(&seconds, now),
            // An answer to what was asked for before the view was changed is late.
            Update::Listed(list, _) if list.view() != self.view => {}
            Update::Listed(list, total) => {
                self.live.list = list;
                self.live.total = total;
                self.live.refused = None;
                self.live.is_asked = false;
                if self.frozen.is_none() {
                    self.find_selected();
                }
            }
            Update::Refused(why) => {
                self.live.list = List::of(self.view);
                self.live.total = 0;
                self.live.refused = Some(why);
                self.live.is_asked = false;
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
        let len = self.list().len();
        let last = len.saturating_sub(1);
        if self.is_to_end && len as u64 >= self.live.total {
            self.is_to_end = false;
            self.select(last);
            return;
        }
        let was_in_sight = (self.first..self.first + self.room.rows.max(1)).contains(&self.at);
        let found = self.selected.as_ref().and_then(|key| self.list().find(key));
        match found {
            Some(at) => {
                self.at = at;
                self.is_gone = false;
                if was_in_sight {
                    self.show_selected();
                }
            }
            None => self.is_gone = len as u64 >= self.live.total,
        }
        self.at = self.at.min(last);
        self.first = self.first.min(last);
        self.deepen();
    }

    /// Asks for as many rows as are needed to show what is selected, and the next page.
    fn deepen(&mut self) {
        let is_sought = self.selected.is_some() && !self.is_gone && !self.is_selection_listed();
        let rows = self.first.max(self.at) + 2 * self.room.rows;
        let needed = if self.is_to_end || is_sought { usize::MAX } else { (rows / STEP + 1) * STEP };
        self.depth = if self.selected.is_some() { self.depth.max(needed) } else { needed };
    }

    fn select(&mut self, at: usize) {
        self.at = at.min(self.list().len().saturating_sub(1));
        self.selected = self.list().key(self.at);
        self.is_gone = false;
        self.show_selected();
        self.deepen();
    }

    fn show_selected(&mut self) {
        let room = self.room.rows.max(1);
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
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => {
                self.help = if self.help.is_some() { None } else { Some(0) };
            }
            KeyCode::Char('f' | ' ') => self.freeze_or_thaw(),
            _ if self.help.is_some() || self.pane.is_some() => self.press_in_text(key),
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

    /// Handles a key while there is a text: the help, or an explanation.
    fn press_in_text(&mut self, key: KeyCode) {
        let page = self.room.text.max(2) - 1;
        let end = self.room.lines.saturating_sub(self.room.text);
        let Some(first) = self.help.as_mut().or(self.pane.as_mut().map(|pane| &mut pane.first)) else {
            return;
        };
        *first = match key {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Left => {
                if self.help.take().is_none() {
                    self.pane = None;
                }
                return;
            }
            KeyCode::Down | KeyCode::Char('j') => *first + 1,
            KeyCode::Up | KeyCode::Char('k') => first.saturating_sub(1),
            KeyCode::PageDown => *first + page,
            KeyCode::PageUp => first.saturating_sub(page),
            KeyCode::Home => 0,
            KeyCode::End => end,
            _ => *first,
        }
        .min(end);
    }

    fn press_in_list(&mut self, key: KeyCode) {
        let page = self.room.rows.max(2) - 1;
        match key {
            KeyCode::Esc if self.view != View::Agents => self.show(View::Agents),
            KeyCode::Esc if self.filter != Filter::default() => {
                self.filter = Filter::default();
                match self.opened_from.take() {
                    Some(by) => self.show(View::Groups(by)),
                    None => self.begin_anew(),
                }
            }
            KeyCode::Esc => {
                self.selected = None;
                self.begin_anew();
            }
            KeyCode::Char('d') => {
                self.show(if self.view == View::Dead { View::Agents } else { View::Dead });
            }
            KeyCode::Char('g') => {
                let after =
                    |by: GroupBy| GroupBy::ALL.iter().position(|other| *other == by).map_or(0, |at| at + 1);
                let next = if let View::Groups(by) = self.view { after(by) } else { 0 };
                self.show(GroupBy::ALL.get(next).map_or(View::Agents, |by| View::Groups(*by)));
            }
            KeyCode::Enter | KeyCode::Right => self.open(),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown => self.move_by(isize::try_from(page).unwrap_or(isize::MAX)),
            KeyCode::PageUp => self.move_by(-isize::try_from(page).unwrap_or(isize::MAX)),
            KeyCode::Home => {
                self.is_to_end = false;
                self.first = 0;
                self.depth = 0;
                self.select(0);
            }
            KeyCode::End => {
                self.is_to_end = (self.list().len() as u64) < self.total() && !self.is_frozen();
                self.select(usize::MAX);
            }
            _ if matches!(self.view, View::Groups(_)) => {}
            KeyCode::Char('/' | 'n') => self.ask_for(Field::Name),
            KeyCode::Char('u') => self.ask_for(Field::User),
            KeyCode::Char('U') => self.ask_for(Field::Unit),
            _ if self.view == View::Dead => {}
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
            KeyCode::Char('p') => self.ask_for(Field::Pid),
            _ => {}
        }
    }

    fn ask_for(&mut self, field: Field) {
        self.typed = Some((field, String::new()));
    }

    /// Lists something else.
    fn show(&mut self, view: View) {
        self.frozen = None;
        self.view = view;
        self.selected = None;
        self.live.list = List::of(view);
        self.live.total = 0;
        self.live.refused = None;
        self.live.is_asked = true;
        self.begin_anew();
    }

    /// Asks for other rows. What is selected remains, wherever it is among them.
    fn begin_anew(&mut self) {
        if self.frozen.take().is_some() {
            self.find_selected();
        }
        self.first = 0;
        self.is_to_end = false;
        self.depth = 0;
        if self.selected.is_none() {
            self.at = 0;
        }
        self.deepen();
    }

    fn move_by(&mut self, rows: isize) {
        self.is_to_end = false;
        let is_first = self.selected.is_none();
        self.select(if is_first { self.first } else { self.at.saturating_add_signed(rows) });
    }

    /// Opens what is selected: the explanation of an agent, or the agents of a group.
    fn open(&mut self) {
        if self.selected.as_ref().is_none_or(|key| self.list().find(key).is_none()) {
            self.select(self.at.max(self.first));
        }
        match (&self.selected, self.view) {
            (Some(Key::Pid(pid) | Key::Dead(pid, _)), _) => {
                self.pane = Some(Pane { pid: *pid, text: None, first: 0 });
            }
            (Some(Key::Group(Some(name))), View::Groups(by)) => {
                let mut filter = Filter::default();
                match by {
                    GroupBy::Unit => filter.unit = format!("={name}"),
                    GroupBy::Comm => filter.name = format!("={name}"),
                    GroupBy::Uid => filter.user.clone_from(name),
                    GroupBy::Shard => filter.shard.clone_from(name),
                }
                self.filter = filter;
                self.opened_from = Some(by);
                self.show(View::Agents);
            }
            // Agents without a unit or name cannot be asked for.
            _ => {}
        }
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
        if self.help.is_some() || self.pane.is_some() {
            let key = if is_down { KeyCode::Down } else { KeyCode::Up };
            (0..WHEEL).for_each(|_| self.press_in_text(key));
            return;
        }
        let end = self.list().len().saturating_sub(self.room.rows);
        self.first = if is_down { self.first + WHEEL } else { self.first.saturating_sub(WHEEL) }.min(end);
        self.deepen();
    }

    /// A row of the list was clicked; twice opens it.
    pub fn click(&mut self, row: usize) {
        let Some(key) = self.list().key(self.first + row) else { return };
        let before = self.clicked.replace((key.clone(), self.now));
        let is_double =
            before.is_some_and(|(other, then)| other == key && self.now.saturating_sub(then) <= DOUBLE_CLICK);
        self.select(self.first + row);
        if is_double {
            self.clicked = None;
            self.open();
        }
    }

    /// What to ask the fleet for.
    pub fn wish(&self) -> Wish {
        Wish {
            view: self.view,
            sort: self.sort(),
            is_ascending: self.is_ascending(),
            filter: self.filter(),
            rows: self.depth.max(STEP),
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

    /// The rows that are there.
    pub fn list(&self) -> &List {
        &self.screen().list
    }

    /// The number of rows, of which not all may be there.
    pub fn total(&self) -> u64 {
        self.screen().total
    }

    /// The first row shown.
    pub const fn first(&self) -> usize {
        self.first
    }

    /// What is selected.
    pub const fn selected(&self) -> Option<&Key> {
        self.selected.as_ref()
    }

    /// Whether what is selected is no longer there.
    pub const fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether what is selected is among the rows.
    pub fn is_selection_listed(&self) -> bool {
        self.selected.as_ref().is_some_and(|key| self.list().find(key).is_some())
    }

    /// Whether the agents are those of a group that was opened.
    pub const fn is_of_group(&self) -> bool {
        self.opened_from.is_some()
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
        filter.of(self.view)
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

    /// The first line of the help, if it is shown.
    pub const fn help(&self) -> Option<usize> {
        self.help
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
