//! The content of `top`, and what keys do to it. No terminal, no clock.

use std::collections::VecDeque;

use ratatui::crossterm::event::KeyCode;
use varta_fleet::api::{Agent, Fleet, Page, Shard};
use varta_fleet::event::Event;

/// Length of the curves, in seconds.
pub const CURVE: usize = 60;
/// Events kept.
const EVENTS: usize = 200;
const SORTS: [&str; 4] = ["silent", "lost", "stalls", "beats"];

/// News for the model.
#[derive(Debug)]
pub enum Update {
    /// The answer of the fleet.
    Seen(Box<Fleet>, Page),
    /// The fleet did not answer.
    Trouble(String),
    /// The fleet reported this event.
    Told(Event),
}

/// Everything that is drawn.
#[derive(Debug, Default)]
pub struct Model {
    fleet: Option<Fleet>,
    curves: Vec<Curves>,
    page: Page,
    events: VecDeque<Event>,
    trouble: Option<String>,
    sort: usize,
    filter: String,
    is_typing: bool,
    is_frozen: bool,
    is_helping: bool,
    /// First agent shown.
    first: usize,
}

/// The last minute of one shard; the latest second is last.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// Beats a second.
    pub beats: VecDeque<u64>,
    /// The 99 % quantile of the queue time in that second, ns.
    pub queue_ns: VecDeque<u64>,
    /// Refused datagrams a second.
    pub refused: u64,
    /// Beats lost a second.
    pub lost: u64,
}

impl Model {
    /// Applies an update, unless the screen is frozen.
    pub fn take(&mut self, update: Update) {
        if self.is_frozen {
            return;
        }
        match update {
            Update::Seen(fleet, page) => {
                self.trouble = None;
                self.draw_on(&fleet);
                self.fleet = Some(*fleet);
                self.page = page;
                self.first = self.first.min(self.page.agents.len().saturating_sub(1));
            }
            Update::Trouble(why) => self.trouble = Some(why),
            // Received again after a reconnect.
            Update::Told(event)
                if self.events.iter().any(|known| (known.seq, known.wall) == (event.seq, event.wall)) => {}
            Update::Told(event) => {
                self.events.push_back(event);
                if self.events.len() > EVENTS {
                    self.events.pop_front();
                }
            }
        }
    }

    /// Extends the curves by the difference to the previous answer.
    fn draw_on(&mut self, fleet: &Fleet) {
        let before =
            self.fleet.as_ref().filter(|before| before.pid == fleet.pid && before.mono_ns < fleet.mono_ns);
        let Some(before) = before.filter(|before| before.shards.len() == fleet.shards.len()) else {
            self.curves = vec![Curves::default(); fleet.shards.len()];
            return;
        };
        let gap_ns = fleet.mono_ns - before.mono_ns;
        for (curves, (now, then)) in self.curves.iter_mut().zip(fleet.shards.iter().zip(&before.shards)) {
            let rate = |of: fn(&Shard) -> u64| per_second(of(now).saturating_sub(of(then)), gap_ns);
            push(&mut curves.beats, rate(|shard| shard.beats));
            curves.refused = rate(Shard::refused);
            curves.lost = rate(|shard| shard.lost);
            push(&mut curves.queue_ns, now.latencies.queue_ns.bound_since(&then.latencies.queue_ns, 990));
        }
    }

    /// Handles a key; false ends `top`.
    pub fn press(&mut self, key: KeyCode) -> bool {
        if self.is_typing {
            match key {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(c) if self.filter.len() < 15 => self.filter.push(c),
                _ => {}
            }
            return true;
        }
        match key {
            KeyCode::Char('q') => return false,
            KeyCode::Esc if self.is_helping => self.is_helping = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') => {
                self.sort = (self.sort + 1) % SORTS.len();
                self.first = 0;
            }
            KeyCode::Char('f' | ' ') => self.is_frozen = !self.is_frozen,
            KeyCode::Char('/') => {
                self.is_typing = true;
                self.filter.clear();
            }
            KeyCode::Char('?' | 'h') => self.is_helping = !self.is_helping,
            KeyCode::Down | KeyCode::Char('j') => {
                self.first = (self.first + 1).min(self.page.agents.len().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
        true
    }

    /// The last answer.
    pub const fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_ref()
    }

    /// One per shard.
    pub fn curves(&self) -> &[Curves] {
        &self.curves
    }

    /// The agents shown, from the first on.
    pub fn agents(&self) -> &[Agent] {
        self.page.agents.get(self.first..).unwrap_or_default()
    }

    /// The number of agents.
    pub const fn total(&self) -> u64 {
        self.page.total
    }

    /// The last events, oldest first.
    pub const fn events(&self) -> &VecDeque<Event> {
        &self.events
    }

    /// Why the fleet does not answer.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The sort key of agents.
    pub const fn sort(&self) -> &'static str {
        SORTS[self.sort]
    }

    /// The text that names must contain.
    pub fn filter(&self) -> &str {
        if self.is_typing { "" } else { &self.filter }
    }

    /// The text being typed.
    pub fn typed(&self) -> Option<&str> {
        self.is_typing.then_some(&*self.filter)
    }

    /// Whether the screen is frozen.
    pub const fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Whether the help is shown.
    pub const fn is_helping(&self) -> bool {
        self.is_helping
    }
}

fn push(curve: &mut VecDeque<u64>, value: u64) {
    curve.push_back(value);
    if curve.len() > CURVE {
        curve.pop_front();
    }
}

fn per_second(count: u64, gap_ns: u64) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / u128::from(gap_ns.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(mono_ns: u64, beats: u64) -> Box<Fleet> {
        let shard = Shard { beats, ..Shard::default() };
        Box::new(Fleet { pid: 1, mono_ns, shards: vec![shard], ..Fleet::default() })
    }

    #[test]
    fn rates_are_of_the_time_between_two_answers() {
        let mut model = Model::default();
        model.take(Update::Seen(fleet(1_000_000_000, 100), Page::default()));
        assert!(model.curves()[0].beats.is_empty(), "one answer says nothing of a rate");
        model.take(Update::Seen(fleet(3_000_000_000, 700), Page::default()));
        assert_eq!(model.curves()[0].beats, [300]);
        // Another observer: its counts begin at 0.
        let mut other = fleet(4_000_000_000, 5);
        other.pid = 2;
        model.take(Update::Seen(other, Page::default()));
        assert!(model.curves()[0].beats.is_empty());
    }

    #[test]
    fn keys_sort_filter_freeze_and_quit() {
        let mut model = Model::default();
        assert_eq!(model.sort(), "silent");
        assert!(model.press(KeyCode::Char('s')));
        assert_eq!(model.sort(), "lost");
        for key in ['/', 'q', 'x'] {
            assert!(model.press(KeyCode::Char(key)), "q is a letter while one types");
        }
        assert_eq!((model.typed(), model.filter()), (Some("qx"), ""));
        model.press(KeyCode::Enter);
        assert_eq!((model.typed(), model.filter()), (None, "qx"));
        model.press(KeyCode::Esc);
        assert_eq!(model.filter(), "");
        model.press(KeyCode::Char(' '));
        model.take(Update::Trouble("gone".to_owned()));
        assert!(model.is_frozen() && model.trouble().is_none());
        model.press(KeyCode::Char('f'));
        model.take(Update::Trouble("gone".to_owned()));
        assert_eq!(model.trouble(), Some("gone"));
        assert!(!model.press(KeyCode::Char('q')));
    }
}
