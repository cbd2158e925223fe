//! Draws the model on a screen of any size.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};
use varta_fleet::Shown;
use varta_fleet::api::{Agent, AgentState, Level, Shard};
use varta_fleet::wire::Status;

use super::columns::{Column, choose, fit, width_of, wrap};
use super::curves::{Series, bars};
use super::feed::Weight;
use super::model::{Filter, Model, Room};
use crate::exit::counted;
use crate::words::{amount, comm, time};

/// Most rows of shards; further shards are added up.
const SHARDS: usize = 8;
/// Height from which on there is room for shards.
const SHARDS_FROM: u16 = 20;
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD).bg(Color::DarkGray).fg(Color::White);
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const WARNING: Style = Style::new().fg(Color::Yellow);
const GREY: Style = Style::new()
    .fg(Color::DarkGray)
    .bg(Color::Reset)
    .remove_modifier(Modifier::BOLD.union(Modifier::REVERSED).union(Modifier::DIM));

/// Where it was drawn what the mouse may point at.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// The rows of agents.
    pub rows: Rect,
    /// Headings, and what each sorts by.
    pub heads: Vec<(Rect, &'static str)>,
    /// How much there was room for.
    pub room: Room,
}

/// Draws the whole screen.
pub fn draw(model: &Model, frame: &mut Frame<'_>) -> Drawn {
    let area = frame.area();
    let top = headline(model, area.width);
    let problems = problems(model, area);
    let fleet = if area.height >= 12 { fleet_lines(model, area.width) } else { Vec::new() };
    let shards = if area.height >= SHARDS_FROM && model.pane().is_none() {
        shard_lines(model, area)
    } else {
        Vec::new()
    };
    let filter = filter_line(model, area.width);
    let length = |lines: usize| Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX));
    let above = top.len() + problems.len() + fleet.len() + shards.len() + usize::from(filter.is_some());
    let below = usize::from(area.height).saturating_sub(above + 1);
    // Agents get what events leave, and three parts in five at least.
    let events = model.screen().feed.entries().len().clamp(1, (below * 2 / 5).max(2) - 1) + 1;
    let is_open = model.pane().is_some();
    let [top_area, problem_area, fleet_area, shard_area, filter_area, list_area, event_area, key_area] =
        Layout::vertical([
            length(top.len()),
            length(problems.len()),
            length(fleet.len()),
            length(shards.len()),
            length(usize::from(filter.is_some())),
            Constraint::Fill(1),
            length(if is_open { 0 } else { events }),
            Constraint::Length(1),
        ])
        .areas(area);
    let mut drawn = Drawn::default();
    frame.render_widget(Paragraph::new(problems), problem_area);
    frame.render_widget(Paragraph::new(fleet), fleet_area);
    frame.render_widget(Paragraph::new(shards), shard_area);
    frame.render_widget(Paragraph::new(filter.into_iter().collect::<Vec<_>>()), filter_area);
    if is_open {
        draw_pane(model, frame, list_area, &mut drawn);
    } else {
        draw_agents(model, frame, list_area, &mut drawn);
        frame.render_widget(Paragraph::new(event_lines(model, event_area)), event_area);
    }
    if model.silence().is_some() {
        let rest = Rect { y: fleet_area.y, height: key_area.y.saturating_sub(fleet_area.y), ..area };
        frame.buffer_mut().set_style(rest, GREY);
    }
    frame.render_widget(Paragraph::new(top), top_area);
    frame.render_widget(Paragraph::new(key_line(model, key_area.width, drawn.room.agents)), key_area);
    if model.is_helping() {
        help(frame);
    }
    drawn
}

/// The most important, in as many lines as it takes.
fn headline(model: &Model, width: u16) -> Vec<Line<'static>> {
    let (text, style) = match (model.silence(), &model.screen().fleet) {
        (Some(silence), Some(_)) => (format!("NO ANSWER for {}.", age(silence)), ALARM),
        (_, None) => (model.trouble().unwrap_or("waiting for the fleet's first answer").to_owned(), BOLD),
        (None, Some(fleet)) => {
            let headline = fleet.headline_now();
            let style = match headline.level {
                Level::Ok => Style::new().fg(Color::Green).patch(BOLD),
                Level::Warning => WARNING.patch(BOLD),
                Level::Critical => ALARM,
            };
            (format!("{}.", headline.text), style)
        }
    };
    let mut lines: Vec<Line<'static>> = wrap(&Shown(text).to_string(), width.into(), "  ")
        .into_iter()
        .take(3)
        .map(|line| Line::styled(line, style))
        .collect();
    if model.is_frozen() {
        let text = match model.held() {
            0 => " FROZEN, f goes on ".to_owned(),
            held => format!(" FROZEN, {held} new, f goes on "),
        };
        lines.insert(0, Line::styled(text, SELECTED.patch(BOLD)));
    }
    lines
}

fn age(silence: Duration) -> String {
    time(silence.as_secs().max(1) * 1_000_000_000).replace(".00", "")
}

/// The most pressing problems, or why there is no answer.
fn problems(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let cut = |text: String| fit(&text, area.width.into(), false).trim_end().to_owned();
    let Some(fleet) = &model.screen().fleet else { return Vec::new() };
    if model.silence().is_some() {
        let why = model.trouble().map_or_else(
            || format!("{} accepts queries and does not answer; is the observer stopped?", Shown(&fleet.dir)),
            |trouble| Shown(trouble).to_string(),
        );
        return wrap(&format!("! {why}"), area.width.into(), "  ")
            .into_iter()
            .take(3)
            .map(|line| Line::styled(line, ALARM))
            .collect();
    }
    let room = if area.height >= 30 { 3 } else { 1 };
    let more = fleet.problems.len().saturating_sub(room);
    let mut lines: Vec<String> =
        fleet.problems.iter().take(room).map(|problem| format!("! {}", Shown(problem))).collect();
    if let Some(last) = lines.last_mut().filter(|_| more > 0) {
        let note = format!(" (and {more} more: status)");
        *last = fit(last, usize::from(area.width).saturating_sub(width_of(&note)), false) + &note;
    }
    lines.into_iter().map(|line| Line::styled(cut(line), WARNING)).collect()
}

/// The fleet over time: a heading and four curves.
fn fleet_lines(model: &Model, width: u16) -> Vec<Line<'static>> {
    let screen = model.screen();
    let Some(fleet) = &screen.fleet else { return Vec::new() };
    let rate = |of: fn(&super::model::ShardCurves) -> u64| screen.shards.iter().map(of).sum::<u64>();
    let (lost, refused) = (rate(|shard| shard.lost), rate(|shard| shard.refused));
    let span = match screen.curves.span() as u64 {
        0 | 1 => "fleet".to_owned(),
        seconds => format!(
            "fleet, last {}",
            time(seconds * 1_000_000_000).replace(".0 s", " s").replace(".00 s", " s")
        ),
    };
    let said = [
        format!("{} of {} agents", fleet.up + fleet.stalled, fleet.agents_max),
        format!("{} lost/s", amount(lost)),
        format!("{} refused/s", amount(refused)),
        Shown(&fleet.dir).to_string(),
    ];
    let half = usize::from(width) / 2;
    let curve = |series: Series, width: usize| {
        let value = screen.curves.latest(series).map_or_else(|| "?".to_owned(), amount);
        let style = match (series, screen.curves.latest(series)) {
            (Series::Stalled | Series::Died, Some(1..)) => ALARM,
            _ => Style::new(),
        };
        let room = width.saturating_sub(16);
        [
            Span::styled(format!("{:<8}{value:>6} ", series.as_str()), style),
            Span::raw(screen.curves.drawn(series, room)),
            Span::raw(" "),
        ]
    };
    let mut lines = vec![headed(parts(&span, &said, width.into()), width)];
    for pair in Series::ALL.chunks(2) {
        let spans = pair.iter().flat_map(|series| curve(*series, half));
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    lines
}

/// As many of the parts as fit, the first ones first; `…` says that some do not.
fn parts(begin: &str, parts: &[String], width: usize) -> String {
    let mut text = begin.to_owned();
    for (at, part) in parts.iter().enumerate() {
        let more = if at + 1 < parts.len() { 3 } else { 0 };
        if width_of(&text) + 2 + width_of(part) + more > width {
            return text + "  …";
        }
        text = format!("{text}  {part}");
    }
    text
}

fn shard_lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    // The width left by the numbers is used by two curves, or by none.
    let room = usize::from(area.width.saturating_sub(58));
    let curve = if room >= 16 { (room / 2).min(60) } else { 0 };
    let screen = model.screen();
    let Some(fleet) = &screen.fleet else { return Vec::new() };
    let row = |shard: &str,
               up: &str,
               stalled: &str,
               beats: [&str; 2],
               queue: [&str; 2],
               lost: &str,
               refused: &str| {
        format!(
            "{shard:<5}{up:>8}{stalled:>8} {:>8} {:<curve$} {:>8} {:<curve$} {lost:>7} {refused:>7}",
            beats[0], beats[1], queue[0], queue[1]
        )
    };
    let head = row("shard", "up", "stalled", ["beats/s", ""], ["queue", ""], "lost", "refused");
    let mut lines = vec![headed(head, area.width)];
    let room = usize::from(area.height.saturating_sub(18) / 2).clamp(1, SHARDS);
    let is_more = fleet.shards.len() > room;
    let shown = if is_more { room - 1 } else { room };
    // Those in trouble are shown rather than those that are well.
    let mut shards: Vec<(&Shard, _)> = fleet.shards.iter().zip(&screen.shards).collect();
    shards.sort_by_key(|(shard, _)| (shard.is_alive, !shard.is_blind));
    let mut shards: Vec<_> = shards.into_iter().take(shown).collect();
    shards.sort_by_key(|(shard, _)| shard.shard);
    for (shard, curves) in shards {
        let last = |curve: &VecDeque<Option<u64>>| curve.back().copied().flatten().unwrap_or(0);
        let drawn = |curve_of: &VecDeque<Option<u64>>| {
            let values: Vec<Option<u64>> =
                curve_of.iter().skip(curve_of.len().saturating_sub(curve)).copied().collect();
            bars(&values, curve)
        };
        let text = row(
            &shard.shard.to_string(),
            &shard.up.to_string(),
            &shard.stalled.to_string(),
            [&amount(last(&curves.beats)), &drawn(&curves.beats)],
            [&time(last(&curves.queue_ns)), &drawn(&curves.queue_ns)],
            &amount(shard.lost),
            &amount(shard.refused()),
        );
        let style = match (shard.is_alive, shard.is_blind) {
            (false, _) => ALARM,
            (true, true) => WARNING,
            (true, false) => Style::new(),
        };
        lines.push(Line::styled(text, style));
    }
    if is_more {
        let left = fleet.shards.len() - shown;
        let others = if shown == 0 { "" } else { " more" };
        lines.push(Line::styled(format!("{left} shards{others}: varta-fleet status"), DIM));
    }
    lines
}

fn filter_line(model: &Model, width: u16) -> Option<Line<'static>> {
    let filter = model.filter();
    if filter == Filter::default() {
        return None;
    }
    let agents = counted(model.total(), "agent");
    let text =
        parts(&format!("only {}: {agents}", filter.words()), &["Esc shows all".to_owned()], width.into());
    Some(Line::styled(fit(&text, width.into(), false), WARNING.patch(BOLD)))
}

/// The columns of agents, from left to right.
const AGENTS: [Column<Agent>; 11] = [
    number("pid", Some("pid"), 7, |agent, _| agent.pid.to_string()),
    Column { head: "name", sort: None, width: 15, most: 32, is_right: false, cell: |agent, _| comm(agent) },
    text("state", 7, |agent, _| agent.state.as_str().to_owned()),
    number("silent", Some("silent"), 8, |agent, _| time(agent.silent_ns)),
    number("of", None, 8, |agent, _| time(agent.threshold_ns)),
    text("user", 8, |agent, users| users.name(agent.uid)),
    number("stalls", Some("stalls"), 7, |agent, _| agent.stalls.to_string()),
    number("lost", Some("lost"), 5, |agent, _| amount(agent.lost)),
    number("beats", Some("beats"), 6, |agent, _| amount(agent.beats)),
    number("shard", None, 5, |agent, _| agent.shard.to_string()),
    text("status", 8, |agent, _| match agent.status {
        Status::Ok => String::new(),
        status => status.as_str().to_owned(),
    }),
];

/// Their order of importance: what does not fit is left out from the end on.
const IMPORTANCE: [usize; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

type Cell = fn(&Agent, &super::users::Users) -> String;

const fn number(head: &'static str, sort: Option<&'static str>, width: usize, cell: Cell) -> Column<Agent> {
    Column { head, sort, width, most: width, is_right: true, cell }
}

const fn text(head: &'static str, width: usize, cell: Cell) -> Column<Agent> {
    Column { head, sort: None, width, most: width, is_right: false, cell }
}

fn draw_agents(model: &Model, frame: &mut Frame<'_>, area: Rect, drawn: &mut Drawn) {
    let width = usize::from(area.width);
    let room = usize::from(area.height).saturating_sub(1);
    let agents = model.agents();
    let shown = || agents.iter().skip(model.first()).take(room);
    let sorted = AGENTS.iter().position(|column| column.sort == Some(model.sort()));
    let chosen = choose(&AGENTS, &IMPORTANCE, sorted, width, |column| {
        shown().map(|agent| width_of(&(column.cell)(agent, model.users()))).max().unwrap_or(0)
    });
    let arrow = if model.is_ascending() { "↑" } else { "↓" };
    let mut head = String::new();
    for (at, width) in &chosen.shown {
        let column = &AGENTS[*at];
        let mark = if column.sort == Some(model.sort()) { arrow } else { "" };
        let x = area.x + u16::try_from(width_of(&head)).unwrap_or(u16::MAX);
        if let Some(key) = column.sort {
            let width = u16::try_from(*width).unwrap_or(u16::MAX);
            drawn.heads.push((Rect { x, width, height: 1, ..area }, key));
        }
        head += &fit(&format!("{}{mark}", column.head), *width, column.is_right);
        head.push(' ');
    }
    if chosen.hidden > 0 {
        head = fit(&head, width.saturating_sub(3), false) + &format!("+{:<2}", chosen.hidden);
    }
    let mut lines = vec![headed(head.trim_end().to_owned(), area.width)];
    if agents.is_empty() {
        lines.extend(nobody(model).into_iter().flat_map(|text| {
            wrap(&text, width, "  ").into_iter().map(|line| Line::styled(line, DIM)).collect::<Vec<_>>()
        }));
    }
    for agent in shown() {
        let cells = chosen.shown.iter().map(|(at, width)| {
            let column = &AGENTS[*at];
            fit(&(column.cell)(agent, model.users()), *width, column.is_right)
        });
        let text = cells.collect::<Vec<_>>().join(" ");
        let style = agent_style(agent);
        let style = if model.selected() == Some(agent.pid) { style.patch(SELECTED) } else { style };
        lines.push(Line::styled(fit(&text, width, false), style));
    }
    drawn.room.agents = room;
    drawn.rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    frame.render_widget(Paragraph::new(lines), area);
}

/// Which rows are shown; and the pid of a selected agent that is none of them, wherever it is now.
fn position(model: &Model, room: usize) -> String {
    let (first, len) = (model.first(), model.agents().len());
    let place = match len {
        0 => String::new(),
        _ => format!("{}-{} of {} ", first + 1, (first + room).min(len), model.total()),
    };
    let lost = model.selected().filter(|pid| !model.agents().iter().any(|agent| agent.pid == *pid));
    match lost {
        Some(pid) => format!("{pid} not listed  {place}"),
        None if model.total() > room as u64 => place,
        None => String::new(),
    }
}

/// What an empty list means, and what to do.
fn nobody(model: &Model) -> Vec<String> {
    let screen = model.screen();
    match (&screen.refused, &screen.fleet) {
        (Some(why), _) => vec![Shown(why).to_string()],
        (None, None) => Vec::new(),
        (None, Some(_)) if model.filter() != Filter::default() => {
            vec!["nobody; Esc shows all agents again".to_owned()]
        }
        (None, Some(fleet)) => vec![
            "nobody: no agent beats to this observer".to_owned(),
            format!("try: varta-fleet load --agents 20 --dir {}", Shown(&fleet.dir)),
        ],
    }
}

fn agent_style(agent: &Agent) -> Style {
    match agent.state {
        AgentState::Stalled => ALARM,
        AgentState::Frozen => WARNING,
        _ if agent.silent_ns > agent.threshold_ns / 3 * 2 => WARNING,
        _ => Style::new(),
    }
}

fn event_lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let room = usize::from(area.height).saturating_sub(1);
    let entries = model.screen().feed.entries();
    let mut lines = vec![headed("events".to_owned(), area.width)];
    let hidden = entries.len().saturating_sub(room);
    lines.extend(entries.iter().skip(hidden).map(|entry| {
        let style = match entry.weight() {
            Weight::Critical => ALARM,
            Weight::Warning => WARNING,
            Weight::Usual => Style::new(),
        };
        Line::styled(fit(&entry.text(model.users()), area.width.into(), false), style)
    }));
    lines
}

fn draw_pane(model: &Model, frame: &mut Frame<'_>, area: Rect, drawn: &mut Drawn) {
    let Some(pane) = model.pane() else { return };
    let width = usize::from(area.width);
    let said = pane.text.as_deref().map_or_else(Vec::new, |text| explained(text, width));
    let room = usize::from(area.height).saturating_sub(1);
    drawn.room.pane = room;
    drawn.room.lines = said.len();
    let first = pane.first.min(said.len().saturating_sub(room));
    let place = if said.len() > room {
        let last = (first + room).min(said.len());
        format!("  lines {} to {last} of {}", first + 1, said.len())
    } else {
        String::new()
    };
    let title = format!("explain {}{place}", pane.pid);
    let mut lines = vec![headed(title, area.width)];
    if pane.text.is_none() {
        lines.push(Line::styled("asking...", DIM));
    }
    lines.extend(said.into_iter().skip(first).take(room).map(Line::raw));
    frame.render_widget(Paragraph::new(lines), area);
}

/// The text of `explain` in lines of this width: the paragraph is broken anew, events keep their lines.
fn explained(text: &str, width: usize) -> Vec<String> {
    let (said, events) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines: Vec<String> =
        wrap(&Shown(said.trim_end().replace('\n', " ")).to_string(), width.min(100), "");
    if !events.is_empty() {
        lines.push(String::new());
    }
    lines.extend(events.lines().flat_map(|line| wrap(&Shown(line).to_string(), width, "    ")));
    lines
}

fn key_line(model: &Model, width: u16, room: usize) -> Line<'static> {
    if let Some((field, text)) = model.typed() {
        return Line::styled(
            format!(" {}: {}_   Enter takes it, Esc leaves it", field.prompt(), Shown(text)),
            BOLD,
        );
    }
    const LIST: [(&str, &str); 9] = [
        ("q", "quit"),
        ("Enter", "explain"),
        ("/", "name"),
        ("s", "sort"),
        ("f", "freeze"),
        ("t", "state"),
        ("r", "reverse"),
        ("u", "user"),
        ("p", "pid"),
    ];
    const PANE: [(&str, &str); 4] =
        [("q", "quit"), ("Esc", "back"), ("arrows PgUp PgDn", "scroll"), ("f", "freeze")];
    let keys: &[(&str, &str)] = if model.pane().is_some() { &PANE } else { &LIST };
    let last = ("?", "help");
    let place = if model.pane().is_some() { String::new() } else { position(model, room) };
    let mut left = usize::from(width).saturating_sub(9 + width_of(&place));
    let mut spans = Vec::new();
    let mut fitting = Vec::new();
    for (key, word) in keys {
        let needed = width_of(key) + width_of(word) + 3;
        if needed > left {
            break;
        }
        left -= needed;
        fitting.push((key, word));
    }
    for (key, word) in fitting.into_iter().chain([(&last.0, &last.1)]) {
        spans.push(Span::styled(format!(" {key}"), BOLD));
        spans.push(Span::styled(format!(" {word} "), DIM));
    }
    spans.push(Span::styled(" ".repeat(left) + &place, DIM));
    Line::from(spans)
}

fn headed(text: String, width: u16) -> Line<'static> {
    Line::styled(fit(&text, width.into(), false), HEAD)
}

fn help(frame: &mut Frame<'_>) {
    const TEXT: [&str; 24] = [
        "q, Ctrl-C      quit",
        "up down PgUp PgDn Home End   select an agent; Esc selects none",
        "Enter          explain the selected agent; Esc goes back",
        "s S, < >       sort by the next key, by the one before",
        "r              reverse the order",
        "/              only agents whose name has this in it",
        "u  p           only those of a user; only this pid",
        "t              only one state: stalled, frozen, up, waiting",
        "Esc            all agents again",
        "f, space       freeze; again: go on, with what came meanwhile",
        "mouse          wheel scrolls, click selects or sorts, double click",
        "               explains; the terminal selects text with Shift",
        "",
        "silent         time since the last beat; of: what is a stall",
        "queue          what 99 % of the beats of the last second waited",
        "curves         each character is the worst of its seconds",
        "+2             two columns do not fit. The last of these go first:",
        "               pid name state silent of user stalls lost beats",
        "               shard status; that of the sort key stays",
        "yellow         silent for two thirds of its threshold; frozen by",
        "               its control group; a shard that cannot see",
        "red            stalled or died; a shard that is dead",
        "grey           as it was when the observer last answered",
        "?              this",
    ];
    let (width, height) = (66.min(frame.area().width), 24.min(frame.area().height));
    let area =
        Rect { x: (frame.area().width - width) / 2, y: (frame.area().height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = TEXT.iter().map(|text| headed(format!(" {text}"), width)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
