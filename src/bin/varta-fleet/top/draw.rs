//! Draws the model on a screen of any size.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};
use varta_fleet::Shown;
use varta_fleet::api::{Agent, AgentState, Fleet, Level};
use varta_fleet::event::Event;
use varta_fleet::wire::Status;

use super::model::Model;
use crate::words::{amount, comm, line, time};

const KEYS: &str = " q quit  s sort  / name  f freeze  arrows scroll  ? help";
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Most rows of shards; further shards are added up.
const SHARDS: usize = 8;
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEAD: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws the whole screen.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let shards = model.curves().len().clamp(1, SHARDS + 1);
    let rows = u16::try_from(shards).unwrap_or(u16::MAX);
    let [top, of_shards, of_agents, of_events, keys] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(rows + 1),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(summary(model)), top);
    frame.render_widget(Paragraph::new(shard_lines(model, of_shards.width)), of_shards);
    frame.render_widget(Paragraph::new(agent_lines(model, of_agents)), of_agents);
    frame.render_widget(Paragraph::new(event_lines(model, of_events)), of_events);
    frame.render_widget(Paragraph::new(key_line(model)), keys);
    if model.is_helping() {
        help(frame);
    }
}

fn summary(model: &Model) -> Vec<Line<'static>> {
    let frozen = if model.is_frozen() { Span::styled("  FROZEN", alarm()) } else { Span::raw("") };
    let Some(fleet) = model.fleet() else {
        let waiting = model.trouble().unwrap_or("waiting for the fleet's first answer").to_owned();
        return vec![Line::styled(waiting, BOLD)];
    };
    let headline = fleet.headline_now();
    let style = match headline.level {
        Level::Ok => Style::new().fg(Color::Green).patch(BOLD),
        Level::Warning => Style::new().fg(Color::Yellow).patch(BOLD),
        Level::Critical => alarm(),
    };
    let first = Line::from(vec![Span::styled(format!("{}.", headline.text), style), frozen]);
    let rates: u64 = model.curves().iter().filter_map(|curves| curves.beats.back()).sum();
    let lost: u64 = model.curves().iter().map(|curves| curves.lost).sum();
    let refused: u64 = model.curves().iter().map(|curves| curves.refused).sum();
    let second = format!(
        "{} beats/s  {} lost/s  {} refused/s  {} of {} agents  {}",
        amount(rates),
        amount(lost),
        amount(refused),
        fleet.up + fleet.stalled,
        fleet.agents_max,
        Shown(&fleet.dir),
    );
    vec![first, Line::raw(second), trouble(model, fleet)]
}

/// The most pressing problem.
fn trouble(model: &Model, fleet: &Fleet) -> Line<'static> {
    if let Some(trouble) = model.trouble() {
        return Line::styled(format!("! {}", Shown(trouble)), alarm());
    }
    let more = match fleet.problems.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more, see status)", n - 1),
    };
    fleet.problems.first().map_or_else(Line::default, |problem| {
        Line::styled(format!("! {}{more}", Shown(problem)), Style::new().fg(Color::Yellow))
    })
}

fn shard_lines(model: &Model, width: u16) -> Vec<Line<'static>> {
    // The width left by the numbers is used by two curves.
    let curve = usize::from(width.saturating_sub(58) / 2).clamp(8, 60);
    let head = format!(
        "{:<5}{:>8}{:>8} {:>8} {:<curve$} {:>8} {:<curve$} {:>7} {:>7}",
        "shard", "up", "stalled", "beats/s", "", "queue", "", "lost", "refused"
    );
    let mut lines = vec![headed(head, width)];
    let Some(fleet) = model.fleet() else { return lines };
    for (shard, curves) in fleet.shards.iter().zip(model.curves()).take(SHARDS) {
        let last = |curve: &VecDeque<u64>| curve.back().copied().unwrap_or(0);
        let text = format!(
            "{:<5}{:>8}{:>8} {:>8} {:<curve$} {:>8} {:<curve$} {:>7} {:>7}",
            shard.shard,
            shard.up,
            shard.stalled,
            amount(last(&curves.beats)),
            bars(&curves.beats, curve),
            time(last(&curves.queue_ns)),
            bars(&curves.queue_ns, curve),
            amount(shard.lost),
            amount(shard.refused()),
        );
        let style = match (shard.is_alive, shard.is_blind) {
            (false, _) => alarm(),
            (true, true) => Style::new().fg(Color::Yellow),
            (true, false) => Style::new(),
        };
        lines.push(Line::styled(text, style));
    }
    let left = fleet.shards.len().saturating_sub(SHARDS);
    if left > 0 {
        lines.push(Line::styled(format!("and {left} shards more, see status"), DIM));
    }
    lines
}

/// The end of a curve, scaled so that its highest value fills a line.
fn bars(curve: &VecDeque<u64>, width: usize) -> String {
    let shown: Vec<u64> = curve.iter().rev().take(width).rev().copied().collect();
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: u64| {
        let step = u128::from(value) * 7 / u128::from(most);
        BARS[usize::try_from(step).unwrap_or(7).min(7)]
    };
    let drawn: String = shown.into_iter().map(bar).collect();
    format!("{drawn:>width$}")
}

fn agent_lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let name = if model.filter().is_empty() { "name".to_owned() } else { format!("*{}*", model.filter()) };
    let sorted = |column: &'static str| {
        if column == model.sort() { format!("{column}↓") } else { column.to_owned() }
    };
    let [silent, beats, lost, stalls] = ["silent", "beats", "lost", "stalls"].map(sorted);
    let head = format!(
        "{:>7}  {name:<15} {:>5}  {:<7} {silent:>8} {:>8} {beats:>6} {lost:>6} {stalls:>7}   status",
        "pid", "shard", "state", "of"
    );
    let room = usize::from(area.height).saturating_sub(1);
    let mut lines = vec![headed(head, area.width)];
    if model.agents().is_empty() && model.fleet().is_some() {
        lines.push(Line::styled("nobody", DIM));
    }
    let is_more = model.agents().len() > room;
    let shown = if is_more { room.saturating_sub(1) } else { room };
    lines.extend(model.agents().iter().take(shown).map(agent_line));
    if is_more {
        lines.push(Line::styled(format!("        of {}", model.total()), DIM));
    }
    lines
}

fn agent_line(agent: &Agent) -> Line<'static> {
    let text = format!(
        "{:>7}  {:<15} {:>5}  {:<7} {:>8} {:>8} {:>6} {:>6} {:>7}   {}",
        agent.pid,
        comm(agent),
        agent.shard,
        agent.state.as_str(),
        time(agent.silent_ns),
        time(agent.threshold_ns),
        amount(agent.beats),
        amount(agent.lost),
        agent.stalls,
        match agent.status {
            Status::Ok => "",
            status => status.as_str(),
        }
    );
    let style = match agent.state {
        AgentState::Stalled => alarm(),
        _ if agent.silent_ns > agent.threshold_ns / 3 * 2 => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    Line::styled(text, style)
}

fn event_lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let room = usize::from(area.height).saturating_sub(1);
    let mut lines = vec![headed("events".to_owned(), area.width)];
    let hidden = model.events().len().saturating_sub(room);
    lines.extend(model.events().iter().skip(hidden).map(event_line));
    lines
}

fn event_line(event: &Event) -> Line<'static> {
    let style = match event.kind.name() {
        "stall" | "terminal" | "io" | "full" => alarm(),
        "blind" | "frozen" | "lost" | "auth" | "decode" | "flood" | "churn" => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    Line::styled(line(event), style)
}

fn key_line(model: &Model) -> Line<'static> {
    match model.typed() {
        Some(typed) => Line::styled(format!(" name has: {typed}_   Enter takes it, Esc forgets it"), BOLD),
        None => Line::styled(KEYS, DIM),
    }
}

fn headed(text: String, width: u16) -> Line<'static> {
    let width = usize::from(width);
    Line::styled(format!("{text:<width$}"), HEAD)
}

const fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn help(frame: &mut Frame<'_>) {
    const TEXT: [&str; 12] = [
        " q, Ctrl-C     quit",
        " s             sort agents: silent, lost, stalls, beats",
        " /             show only agents whose name has this in it",
        " Esc           show all again",
        " f, space      freeze; again: go on",
        " up, down      scroll agents",
        " ?             this",
        "",
        " queue: what 99 % of the beats of the last second waited",
        " yellow: silent for two thirds of the threshold; a blind shard",
        " red: stalled, or a shard is dead",
        " why: varta-fleet explain PID",
    ];
    let (width, height) = (66.min(frame.area().width), 12.min(frame.area().height));
    let area =
        Rect { x: (frame.area().width - width) / 2, y: (frame.area().height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = TEXT.iter().map(|text| headed((*text).to_owned(), width)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;
    use varta_fleet::api::{Page, Shard};

    use super::super::model::Update;
    use super::*;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(model, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
    }

    fn model(shards: u16) -> Model {
        let mut model = Model::default();
        for second in 1..=3_u64 {
            let shard = |shard| Shard {
                shard,
                up: 2000,
                stalled: 1,
                beats: second * second * 1000,
                is_alive: true,
                ..Shard::default()
            };
            let fleet = Fleet {
                pid: 1,
                mono_ns: second * 1_000_000_000,
                is_healthy: true,
                agents_max: 131_072,
                up: 2000 * u64::from(shards),
                stalled: shards.into(),
                dir: "/run/varta".to_owned(),
                shards: (0..shards).map(shard).collect(),
                ..Fleet::default()
            };
            let agent = Agent {
                pid: 4_194_304,
                comm: Some("fifteen-letters".to_owned()),
                state: AgentState::Stalled,
                silent_ns: 12_000_000_000,
                threshold_ns: 2_000_000_000,
                beats: 1_234_567,
                ..Agent::default()
            };
            let page = Page { agents: vec![agent; 50], total: 50, ..Page::default() };
            model.take(Update::Seen(Box::new(fleet), page));
        }
        model
    }

    #[test]
    fn everything_has_its_place_at_80x24() {
        let screen = drawn(&model(2), 80, 24);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "2 of 4002 agents are stalled.");
        assert!(lines[1].starts_with("10.0k beats/s  0 lost/s"), "{screen}");
        assert!(lines[4].starts_with("0        2000       1    5.00k"), "{screen}");
        assert!(lines[4].contains('█'), "{screen}");
        assert!(
            screen.contains("4194304  fifteen-letters     0  stalled   12.0 s   2.00 s  1.23M"),
            "{screen}"
        );
        assert!(screen.contains("        of 50"), "{screen}");
        assert!(lines[23].contains("q quit"), "{screen}");
    }

    #[test]
    fn no_size_and_no_number_of_shards_breaks_it() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            for shards in [0, 1, 8, 9, 64] {
                let mut model = model(shards);
                drawn(&model, width, height);
                model.press(KeyCode::Char('?'));
                model.press(KeyCode::Char('/'));
                drawn(&model, width, height);
            }
        }
    }

    #[test]
    fn a_fleet_that_is_gone_is_said_to_be() {
        let mut model = model(1);
        model.take(Update::Trouble("no fleet is running at /run/varta".to_owned()));
        assert!(drawn(&model, 80, 24).contains("! no fleet is running"));
        let mut empty = Model::default();
        assert!(drawn(&empty, 80, 24).contains("waiting for the fleet"));
        empty.take(Update::Trouble("no fleet".to_owned()));
        assert!(drawn(&empty, 80, 24).starts_with("no fleet"));
    }
}
