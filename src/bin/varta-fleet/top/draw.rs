//! Draws the model on a screen of any size.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use varta_fleet::Shown;
use varta_fleet::api::{Agent, AgentState, DeadAgent, Group, GroupBy, Level, Shard};
use varta_fleet::wire::Status;

use super::columns::{Column, choose, fit, width_of, wrap};
use super::curves::{Series, bars};
use super::feed::Weight;
use super::model::{Filter, Key, List, Model, Room, View};
use crate::accounts::Users;
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
    let shards = if area.height >= SHARDS_FROM && model.help().is_none() && model.pane().is_none() {
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
    let is_open = model.help().is_some() || model.pane().is_some();
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
    if let Some(first) = model.help() {
        let lines = HELP.iter().map(|line| (*line).to_owned()).collect();
        draw_text("keys", lines, first, frame, list_area, &mut drawn);
    } else if let Some(pane) = model.pane() {
        let width = usize::from(area.width);
        let asking = || vec!["asking...".to_owned()];
        let lines = pane.text.as_deref().map_or_else(asking, |text| explained(text, width));
        draw_text(&format!("explain {}", pane.pid), lines, pane.first, frame, list_area, &mut drawn);
    } else {
        draw_list(model, frame, list_area, &mut drawn);
        frame.render_widget(Paragraph::new(event_lines(model, event_area)), event_area);
    }
    if model.silence().is_some() {
        let rest = Rect { y: fleet_area.y, height: key_area.y.saturating_sub(fleet_area.y), ..area };
        frame.buffer_mut().set_style(rest, GREY);
    }
    frame.render_widget(Paragraph::new(top), top_area);
    frame.render_widget(Paragraph::new(key_line(model, key_area.width, drawn.room.rows)), key_area);
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
            (format!("{}.", Shown(&headline.text)), style)
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
        // The number of the headline: those of the last second are told by the curve alone.
        let latest = match series {
            Series::Died => Some(fleet.died.agents),
            Series::Up | Series::Stalled | Series::Beats => screen.curves.latest(series),
        };
        let value = latest.map_or_else(|| "?".to_owned(), amount);
        let style = match (series, latest) {
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
    // A head without a row says nothing.
    let room = usize::from(area.height.saturating_sub(18) / 2).clamp(2, SHARDS);
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
        lines.push(Line::styled(format!("{left} shards more: varta-fleet status"), DIM));
    }
    lines
}

/// What is listed, unless it is all agents.
fn filter_line(model: &Model, width: u16) -> Option<Line<'static>> {
    if model.help().is_some() || model.pane().is_some() {
        return None;
    }
    let filter = model.filter().words();
    let rest = if filter.is_empty() { String::new() } else { format!(", only {filter}") };
    let total = model.total();
    let (text, back) = match model.list().view() {
        View::Agents if filter.is_empty() => return None,
        View::Agents => {
            let back = if model.is_of_group() { "Esc goes back" } else { "Esc shows all" };
            (format!("only {filter}: {}", counted(total, "agent")), back)
        }
        View::Groups(by) => {
            (format!("{} by {}", counted(total, "group"), group_head(by)), "Enter lists its agents")
        }
        View::Dead => {
            (format!("the last {} that died{rest}", counted(total, "agent")), "Esc shows the living")
        }
    };
    let text = parts(&text, &[back.to_owned()], width.into());
    Some(Line::styled(fit(&text, width.into(), false), WARNING.patch(BOLD)))
}

/// A table of rows of one kind.
struct Table<'a, T, const N: usize> {
    /// From left to right.
    columns: &'a [Column<T>; N],
    /// From the most important on: what does not fit is left out from the end.
    importance: [usize; N],
    /// The sort key, and its mark.
    sorted: Option<(&'static str, &'static str)>,
    style: fn(&T) -> Style,
    rows: &'a [T],
}

const AGENTS: [Column<Agent>; 12] = [
    number::<Agent>("pid", 7, |agent, _| agent.pid.to_string()).sorts(),
    text("name", 15, 32, |agent, _| comm(agent)),
    text("state", 7, 10, |agent, _| agent.state.as_str().to_owned()),
    number::<Agent>("silent", 8, |agent, _| time(agent.silent_ns)).sorts(),
    number("of", 8, |agent, _| time(agent.threshold_ns)),
    text("user", 8, 8, |agent, users| users.name(agent.uid)),
    number::<Agent>("stalls", 7, |agent, _| agent.stalls.to_string()).sorts(),
    number::<Agent>("lost", 5, |agent, _| amount(agent.lost)).sorts(),
    text("unit", 12, 32, |agent, _| known(agent.unit.as_ref())),
    number::<Agent>("beats", 6, |agent, _| amount(agent.beats)).sorts(),
    number("shard", 5, |agent, _| agent.shard.to_string()),
    text("status", 8, 8, |agent, _| match agent.status {
        Status::Ok => String::new(),
        status => status.as_str().to_owned(),
    }),
];

const GROUPS: [Column<Group>; 8] = [
    text("group", 20, 48, |group, _| {
        group.name.as_ref().map_or_else(|| "(none)".to_owned(), |name| Shown(name).to_string())
    }),
    number("agents", 7, |group, _| group.agents.to_string()),
    number("up", 7, |group, _| group.up.to_string()),
    number("stalled", 7, |group, _| group.stalled.to_string()),
    number("died", 7, |group, _| group.died.to_string()),
    number("frozen", 7, |group, _| group.frozen.to_string()),
    number("standstill", 10, |group, _| group.standstill.to_string()),
    number("waiting", 7, |group, _| group.waiting.to_string()),
];

/// One that died, and how long ago that was, ns.
struct DeadRow<'a> {
    agent: &'a DeadAgent,
    ago_ns: u64,
}

/// Columns of a row that borrows, which a constant cannot have.
fn dead_columns<'a>() -> [Column<DeadRow<'a>>; 8] {
    [
        number("pid", 7, |row: &DeadRow<'a>, _| row.agent.pid.to_string()),
        text("name", 15, 32, |row: &DeadRow<'a>, _| known(row.agent.comm.as_ref())),
        text("died of", 15, 15, |row: &DeadRow<'a>, _| row.agent.death.clone()),
        number("ago", 8, |row: &DeadRow<'a>, _| time(row.ago_ns)),
        number("lived", 8, |row: &DeadRow<'a>, _| time(row.agent.lived_ns)),
        number("before", 6, |row: &DeadRow<'a>, _| row.agent.deaths_before.to_string()),
        text("unit", 12, 32, |row: &DeadRow<'a>, _| known(row.agent.unit.as_ref())),
        text("user", 8, 8, |row: &DeadRow<'a>, users: &Users| {
            row.agent.uid.map_or_else(|| "-".to_owned(), |uid| users.name(uid))
        }),
    ]
}

fn known(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| Shown(text).to_string())
}

type Cell<T> = fn(&T, &Users) -> String;

const fn number<T>(head: &'static str, width: usize, cell: Cell<T>) -> Column<T> {
    Column { head, sort: None, width, most: width, is_right: true, cell }
}

const fn text<T>(head: &'static str, width: usize, most: usize, cell: Cell<T>) -> Column<T> {
    Column { head, sort: None, width, most, is_right: false, cell }
}

fn draw_list(model: &Model, frame: &mut Frame<'_>, area: Rect, drawn: &mut Drawn) {
    match model.list() {
        List::Agents(agents) => {
            let arrow = if model.is_ascending() { "↑" } else { "↓" };
            let table = Table {
                columns: &AGENTS,
                importance: std::array::from_fn(|at| at),
                sorted: Some((model.sort(), arrow)),
                style: agent_style,
                rows: agents,
            };
            draw_table(&table, model, frame, area, drawn);
        }
        List::Groups(_, groups) => {
            let table = Table {
                columns: &GROUPS,
                importance: [0, 1, 3, 4, 2, 5, 6, 7],
                sorted: None,
                style: group_style,
                rows: groups,
            };
            draw_table(&table, model, frame, area, drawn);
        }
        List::Dead(dead, as_of) => {
            let row = |agent| DeadRow { agent, ago_ns: as_of.saturating_sub(agent.mono_ns) };
            let rows: Vec<DeadRow<'_>> = dead.iter().map(row).collect();
            let table = Table {
                columns: &dead_columns(),
                importance: std::array::from_fn(|at| at),
                sorted: None,
                style: |_| Style::new(),
                rows: &rows,
            };
            draw_table(&table, model, frame, area, drawn);
        }
    }
}

fn draw_table<T, const N: usize>(
    table: &Table<'_, T, N>,
    model: &Model,
    frame: &mut Frame<'_>,
    area: Rect,
    drawn: &mut Drawn,
) {
    let width = usize::from(area.width);
    let room = usize::from(area.height).saturating_sub(1);
    let shown = || (model.first()..).zip(table.rows.iter().skip(model.first()).take(room));
    let is_sorted = |column: &Column<T>| table.sorted.is_some_and(|(key, _)| column.sort == Some(key));
    let kept = table.columns.iter().position(is_sorted);
    let chosen = choose(table.columns, &table.importance, kept, width, |column| {
        shown().map(|(_, row)| width_of(&(column.cell)(row, model.users()))).max().unwrap_or(0)
    });
    let mut head = String::new();
    for (at, width) in &chosen.shown {
        let column = &table.columns[*at];
        let mark = table.sorted.filter(|_| is_sorted(column)).map_or("", |(_, mark)| mark);
        let x = area.x + u16::try_from(width_of(&head)).unwrap_or(u16::MAX);
        if let Some(key) = column.sort {
            let width = u16::try_from(*width).unwrap_or(u16::MAX);
            drawn.heads.push((Rect { x, width, height: 1, ..area }, key));
        }
        let name = match (model.list(), column.head) {
            (List::Groups(by, _), "group") => group_head(*by),
            (_, name) => name,
        };
        head += &fit(&format!("{name}{mark}"), *width, column.is_right);
        head.push(' ');
    }
    if chosen.hidden > 0 {
        head = fit(&head, width.saturating_sub(3), false) + &format!("+{:<2}", chosen.hidden);
    }
    let mut lines = vec![headed(head.trim_end().to_owned(), area.width)];
    if table.rows.is_empty() {
        lines.extend(nobody(model).into_iter().flat_map(|text| {
            wrap(&text, width, "  ").into_iter().map(|line| Line::styled(line, DIM)).collect::<Vec<_>>()
        }));
    }
    for (at, row) in shown() {
        let cells = chosen.shown.iter().map(|(at, width)| {
            let column = &table.columns[*at];
            fit(&(column.cell)(row, model.users()), *width, column.is_right)
        });
        let text = cells.collect::<Vec<_>>().join(" ");
        let style = (table.style)(row);
        let is_selected = model.selected().is_some_and(|key| model.list().key(at).as_ref() == Some(key));
        let style = if is_selected { style.patch(SELECTED) } else { style };
        lines.push(Line::styled(fit(&text, width, false), style));
    }
    drawn.room.rows = room;
    drawn.rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    frame.render_widget(Paragraph::new(lines), area);
}

const fn group_head(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Unit => "unit",
        GroupBy::Comm => "name",
        GroupBy::Uid => "uid",
        GroupBy::Shard => "shard",
    }
}

/// Which rows are shown; and the pid of a selected agent that is none of them, wherever it is now.
fn position(model: &Model, room: usize) -> String {
    let (first, len) = (model.first(), model.list().len());
    let place = match len {
        0 => String::new(),
        _ => format!("{}-{} of {} ", first + 1, (first + room).min(len), model.total()),
    };
    match model.selected() {
        Some(Key::Pid(pid) | Key::Dead(pid, _)) if !model.is_selection_listed() => {
            let what = if model.is_gone() { "is not in the list" } else { "is further down" };
            format!("{pid} {what}  {place}")
        }
        _ if model.total() > room as u64 => place,
        _ => String::new(),
    }
}

/// What an empty list means, and what to do.
fn nobody(model: &Model) -> Vec<String> {
    let screen = model.screen();
    match (&screen.refused, &screen.fleet) {
        (Some(why), _) => vec![Shown(why).to_string()],
        (None, None) => Vec::new(),
        (None, Some(_)) if screen.is_asked => vec!["asking...".to_owned()],
        (None, Some(_)) if model.filter() != Filter::default() => {
            vec!["nobody; Esc shows all again".to_owned()]
        }
        (None, Some(_)) if model.list().view() == View::Dead => {
            vec!["nobody died since the observer started; a stop on request is no death".to_owned()]
        }
        (None, Some(fleet)) => vec![
            "nobody: no agent beats to this observer".to_owned(),
            format!("try: varta-fleet load --agents 20 --dir {}", Shown(&fleet.dir)),
        ],
    }
}

fn agent_style(agent: &Agent) -> Style {
    match agent.state {
        AgentState::Stalled | AgentState::Standstill => ALARM,
        AgentState::Frozen => WARNING,
        _ if agent.silent_ns > agent.threshold_ns / 3 * 2 => WARNING,
        _ => Style::new(),
    }
}

const fn group_style(group: &Group) -> Style {
    match (group.stalled, group.died) {
        (0, 0) => Style::new(),
        (0, _) => WARNING,
        _ => ALARM,
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

/// A text in place of the list, from a line on.
fn draw_text(
    title: &str,
    lines: Vec<String>,
    first: usize,
    frame: &mut Frame<'_>,
    area: Rect,
    drawn: &mut Drawn,
) {
    let room = usize::from(area.height).saturating_sub(1);
    drawn.room.text = room;
    drawn.room.lines = lines.len();
    let first = first.min(lines.len().saturating_sub(room));
    let title = if lines.len() > room {
        let last = (first + room).min(lines.len());
        format!("{title}  lines {} to {last} of {}", first + 1, lines.len())
    } else {
        title.to_owned()
    };
    let shown = lines.into_iter().skip(first).take(room);
    let shown = shown.map(|line| Line::raw(fit(&line, area.width.into(), false)));
    let lines: Vec<Line<'_>> = std::iter::once(headed(title, area.width)).chain(shown).collect();
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
    const LIST: [(&str, &str); 12] = [
        ("q", "quit"),
        ("Enter", "explain"),
        ("/", "name"),
        ("s", "sort"),
        ("g", "groups"),
        ("d", "dead"),
        ("f", "freeze"),
        ("t", "state"),
        ("r", "reverse"),
        ("u", "user"),
        ("U", "unit"),
        ("p", "pid"),
    ];
    const GROUPS: [(&str, &str); 5] =
        [("q", "quit"), ("Enter", "agents"), ("g", "by what"), ("Esc", "back"), ("f", "freeze")];
    const DEAD: [(&str, &str); 7] = [
        ("q", "quit"),
        ("Enter", "explain"),
        ("Esc", "back"),
        ("/", "name"),
        ("f", "freeze"),
        ("u", "user"),
        ("U", "unit"),
    ];
    const PANE: [(&str, &str); 4] =
        [("q", "quit"), ("Esc", "back"), ("arrows PgUp PgDn", "scroll"), ("f", "freeze")];
    let is_open = model.help().is_some() || model.pane().is_some();
    let keys: &[(&str, &str)] = match model.list().view() {
        _ if is_open => &PANE,
        View::Agents => &LIST,
        View::Groups(_) => &GROUPS,
        View::Dead => &DEAD,
    };
    let last = ("?", "help");
    let place = if is_open { String::new() } else { position(model, room) };
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

/// What `?` shows: no line is wider than 60 cells.
const HELP: [&str; 28] = [
    "q, Ctrl-C   quit",
    "arrows PgUp PgDn Home End   select; Esc selects none",
    "Enter       explain the selected agent; Esc goes back",
    "s S, < >    sort by the next key, by the one before",
    "r           reverse the order",
    "/  U        only agents with this in their name, their unit;",
    "            =NAME: only those of this very name",
    "u  p        only those of a user; only this pid",
    "t           one state, such as stalled or standstill",
    "Esc         all agents again",
    "g           count agents by unit, name, user, shard; Enter",
    "            lists those of a group, Esc goes back",
    "d           the last 1000 that died, and of what",
    "f, space    freeze; again: go on, with what came meanwhile",
    "mouse       the wheel scrolls, a click selects or sorts, two",
    "            explain; with Shift the terminal selects text",
    "",
    "silent      time since the last beat; of: what is a stall",
    "queue       how long 99 % of the last second's beats waited",
    "curves      each character is the worst of its seconds",
    "+2          two columns do not fit. The last go first, but",
    "            for the sort key: pid name state silent of user",
    "            stalls lost unit beats shard status",
    "yellow      silent for two thirds of its threshold; frozen",
    "            by its control group; a shard that cannot see",
    "red         stalled or died; a shard that is dead",
    "grey        as it was when the observer last answered",
    "?           this; arrows scroll it",
];

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
