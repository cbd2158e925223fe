//! Tests of the drawing.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use varta_fleet::api::{Fleet, Shard};

use super::super::model::Update;
use super::*;

const SIZES: [(u16, u16); 3] = [(60, 15), (80, 24), (150, 40)];

fn buffer(model: &mut Model, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut drawn = Drawn::default();
    terminal.draw(|frame| drawn = draw(model, frame)).unwrap();
    model.set_room(drawn.room);
    terminal.backend().buffer().clone()
}

fn drawn(model: &mut Model, width: u16, height: u16) -> String {
    let buffer = buffer(model, width, height);
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn agent(pid: u32) -> Agent {
    Agent {
        pid,
        comm: Some("fifteen-letters".to_owned()),
        state: AgentState::Stalled,
        silent_ns: 12_000_000_000,
        threshold_ns: 2_000_000_000,
        beats: 1_234_567,
        uid: 4_294_967_294,
        ..Agent::default()
    }
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
        model.take(Update::Seen(Box::new(fleet)));
        model.take(Update::Listed(List::Agents((0..50).map(|n| agent(4_194_304 - n)).collect()), 4000));
    }
    model
}

#[test]
fn everything_has_its_place_at_every_size() {
    for (width, height) in SIZES {
        let screen = drawn(&mut model(2), width, height);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "2 of 4002 agents are stalled.");
        assert!(lines[1].starts_with("fleet, last 3 s  4002 of 131072 agents  0 lost/s"), "{screen}");
        assert!(
            lines[2].starts_with("up       4.00k  ") && lines[2].contains("█ stalled      2 "),
            "{screen}"
        );
        assert!(lines[3].starts_with("died/min     0 ") && lines[3].contains("beats/s  10.0k"), "{screen}");
        let head = if height >= SHARDS_FROM { 7 } else { 4 };
        if height >= SHARDS_FROM {
            assert!(lines[5].starts_with("0        2000       1    5.00k"), "{screen}");
        }
        let begin = "    pid name            state    silent↓       of";
        assert!(lines[head].starts_with(begin), "{screen}");
        assert!(lines[head + 1].starts_with("4194304 fifteen-letters stalled   12.0 s   2.00 s"), "{screen}");
        let last = lines[usize::from(height) - 1];
        assert!(last.starts_with(" q quit  Enter explain") && last.contains("? help"), "{screen}");
        assert!(last.contains(" of 4000"), "{screen}");
        assert!(lines.contains(&"events"), "{screen}");
        assert!(lines.iter().all(|line| width_of(line) <= width.into()), "{screen}");
    }
}

#[test]
fn columns_that_do_not_fit_are_counted_and_the_sort_key_stays() {
    let mut model = model(2);
    let head = |model: &mut Model, width, height| {
        let screen = drawn(model, width, height);
        screen.lines().find(|line| line.contains("    pid")).unwrap().to_owned()
    };
    assert_eq!(head(&mut model, 60, 15), "    pid name            state    silent↓       of        +7");
    assert!(head(&mut model, 80, 24).ends_with("user      stalls  lost     +4"));
    assert!(head(&mut model, 150, 40).ends_with("stalls  lost unit          beats shard status"));
    model.sort_by("beats");
    assert_eq!(head(&mut model, 60, 15), "    pid name            state     silent       of beats↓ +6");
    model.sort_by("beats");
    assert!(head(&mut model, 150, 40).contains(" beats↑ "));
}

#[test]
fn no_size_and_no_number_of_shards_breaks_it() {
    for (width, height) in [(1, 1), (2, 9), (20, 5), (40, 11), (60, 15), (80, 24), (300, 100)] {
        for shards in [0, 1, 8, 9, 64] {
            let mut model = model(shards);
            for key in [KeyCode::Down, KeyCode::Enter, KeyCode::Char('f'), KeyCode::Char('?')] {
                model.press(key);
                drawn(&mut model, width, height);
            }
            model.take(Update::Explained(4_194_304, "a word\n\nan event\n".repeat(20)));
            for key in
                [KeyCode::Char('?'), KeyCode::End, KeyCode::Esc, KeyCode::Char('/'), KeyCode::Char('x')]
            {
                model.press(key);
                drawn(&mut model, width, height);
            }
        }
    }
}

#[test]
fn shards_in_trouble_are_shown_before_those_that_are_well() {
    let mut model = model(64);
    let mut fleet = model.screen().fleet.clone().unwrap();
    fleet.mono_ns += 1;
    fleet.shards[50].is_alive = false;
    model.take(Update::Seen(Box::new(fleet)));
    let screen = drawn(&mut model, 80, 24);
    assert!(screen.contains("\n50       2000       1"), "{screen}");
    assert!(screen.contains("\n62 shards more: varta-fleet status\n"), "{screen}");
}

#[test]
fn the_head_of_the_shards_never_stands_alone() {
    for height in [20, 24, 40] {
        let both = drawn(&mut model(2), 80, height);
        assert!(
            both.contains("\n0        2000       1") && both.contains("\n1        2000       1"),
            "{both}"
        );
        let many = drawn(&mut model(9), 80, height);
        assert!(many.contains("\n0        2000       1") && many.contains(" shards more: "), "{many}");
    }
}

#[test]
fn a_fleet_that_is_gone_is_said_to_be_and_all_else_is_grey() {
    for (width, height) in SIZES {
        let mut model = model(2);
        model.set_now(Duration::from_secs(65));
        model.take(Update::Trouble("no fleet is running at /run/varta".to_owned()));
        let screen = drawn(&mut model, width, height);
        assert!(screen.starts_with("NO ANSWER for 1m 05s.\n! no fleet is running"), "{screen}");
        let buffer = buffer(&mut model, width, height);
        for y in 2..height - 1 {
            for x in 0..width {
                assert_eq!(buffer[(x, y)].fg, Color::DarkGray, "{x} {y}:\n{screen}");
                assert!(!buffer[(x, y)].modifier.contains(Modifier::REVERSED));
            }
        }
    }
    let mut model = model(1);
    model.set_now(Duration::from_secs(4));
    let screen = drawn(&mut model, 80, 24);
    assert!(screen.starts_with("NO ANSWER for 4 s.\n! /run/varta accepts queries"), "{screen}");
    let mut empty = Model::default();
    assert!(drawn(&mut empty, 80, 24).contains("waiting for the fleet"));
    empty.take(Update::Trouble("no fleet".to_owned()));
    assert!(drawn(&mut empty, 80, 24).starts_with("no fleet"));
}

#[test]
fn a_filter_and_a_frozen_screen_are_said_in_words() {
    let mut model = model(2);
    for key in "/let".chars() {
        model.press(KeyCode::Char(key));
    }
    let screen = drawn(&mut model, 80, 24);
    assert!(screen.contains("only name has let: 4000 agents  Esc shows all"), "{screen}");
    assert!(screen.contains(" name has (=NAME: is): let_   Enter takes it, Esc leaves it"), "{screen}");
    model.press(KeyCode::Enter);
    model.press(KeyCode::Char('f'));
    let json = r#"{"v":1,"seq":9,"ts":"2026-03-01T12:00:00Z","mono_ns":1,"kind":"start","shards":1}"#;
    model.take(Update::Told(serde_json::from_str(json).unwrap()));
    let screen = drawn(&mut model, 60, 15);
    assert!(screen.starts_with(" FROZEN, 1 new, f goes on\n2 of 4002"), "{screen}");
    assert!(!screen.contains("observing with"), "{screen}");
    model.press(KeyCode::Char('f'));
    assert!(drawn(&mut model, 60, 15).contains("observing with"));
}

#[test]
fn names_are_shown_escaped_and_cut_within_their_column() {
    let mut model = model(1);
    let names = (1..32).map(char::from).chain(['\u{7f}', '\u{9b}', '\u{202e}', '日']);
    let named = names.zip(1..).map(|(c, pid)| Agent { comm: Some(c.to_string().repeat(15)), ..agent(pid) });
    let agents: Vec<Agent> = named.collect();
    let total = agents.len() as u64;
    model.take(Update::Listed(List::Agents(agents), total));
    for (width, height) in [(60, 60), (80, 60), (200, 60)] {
        let screen = drawn(&mut model, width, height);
        let of_agents: Vec<&str> = screen.lines().filter(|line| line.contains(" stalled   12.0 s")).collect();
        assert_eq!(of_agents.len(), 35, "{screen}");
        assert!(
            screen.contains("\\u{1b}") && !screen.contains(|c: char| c.is_control() && c != '\n'),
            "{screen}"
        );
    }
}

#[test]
fn an_empty_list_says_what_to_do() {
    let mut model = model(1);
    model.take(Update::Listed(List::default(), 0));
    assert!(drawn(&mut model, 80, 24).contains("try: varta-fleet load --agents 20 --dir /run/varta"));
    model.press(KeyCode::Char('t'));
    assert!(drawn(&mut model, 80, 24).contains("nobody; Esc shows all again"));
    model.take(Update::Refused("there is no user x".to_owned()));
    assert!(drawn(&mut model, 80, 24).contains("there is no user x"));
}

#[test]
fn the_mouse_points_at_what_is_drawn() {
    let mut model = model(2);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut drawn = Drawn::default();
    terminal.draw(|frame| drawn = draw(&model, frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row: String = (0..80).map(|x| buffer[(x, drawn.rows.y)].symbol()).collect();
    assert!(row.starts_with("4194304 "), "{row}");
    assert_eq!(drawn.room.rows, usize::from(drawn.rows.height));
    for (area, key) in &drawn.heads {
        let head: String = (area.x..area.right()).map(|x| buffer[(x, area.y)].symbol()).collect();
        assert!(head.trim().starts_with(key), "{head}");
    }
    model.set_room(drawn.room);
    model.click(2);
    assert_eq!(model.selected(), Some(&Key::Pid(4_194_302)));
}

#[test]
fn an_explanation_is_broken_for_the_width_and_its_events_keep_their_lines() {
    let text =
        "It beats\nwell and has done so for a long time now.\n\n12:00  up  pid 1\n12:01  exit  pid 1\n";
    assert_eq!(
        explained(text, 30),
        [
            "It beats well and has done so",
            "for a long time now.",
            "",
            "12:00  up  pid 1",
            "12:01  exit  pid 1"
        ]
    );
}

#[test]
fn groups_and_the_dead_have_tables_of_their_own() {
    for (width, height) in SIZES {
        let mut model = model(2);
        model.press(KeyCode::Char('g'));
        assert!(drawn(&mut model, width, height).contains("asking..."));
        let group = |name: Option<&str>, died| Group {
            name: name.map(str::to_owned),
            agents: 12,
            up: 10,
            stalled: 2,
            died,
            ..Group::default()
        };
        let long = "a-unit-\u{1b}".repeat(40);
        let groups = vec![group(Some("worker.service"), 3), group(None, 0), group(Some(&long), 0)];
        model.take(Update::Listed(List::Groups(GroupBy::Unit, groups), 3));
        let screen = drawn(&mut model, width, height);
        assert!(screen.contains("3 groups by unit  Enter lists its agents"), "{screen}");
        assert!(screen.contains("unit ") && screen.contains("  agents      up stalled    died"), "{screen}");
        assert!(
            screen.contains("\nworker.service ") && screen.contains("      12      10       2       3"),
            "{screen}"
        );
        assert!(screen.lines().all(|line| width_of(line) <= width.into()), "{screen}");

        model.press(KeyCode::Char('d'));
        let dead = DeadAgent {
            pid: 4711,
            comm: Some("worker".to_owned()),
            unit: Some("worker.service".to_owned()),
            death: "exit status 255".to_owned(),
            mono_ns: 1_000_000_000,
            lived_ns: 61_000_000_000,
            deaths_before: 3,
            ..DeadAgent::default()
        };
        model.take(Update::Listed(List::Dead(vec![dead], 4_000_000_000), 1));
        let screen = drawn(&mut model, width, height);
        assert!(screen.contains("the last 1 agent that died  Esc shows the living"), "{screen}");
        assert!(screen.contains("   4711 worker          exit status 255   3.00 s"), "{screen}");
    }
}

#[test]
fn the_help_fits_every_width_and_scrolls_on_a_low_screen() {
    assert!(HELP.iter().all(|line| width_of(line) <= 60));
    let mut model = model(2);
    model.press(KeyCode::Char('?'));
    let screen = drawn(&mut model, 60, 15);
    assert!(screen.contains("\nkeys  lines 1 to 9 of 28\nq, Ctrl-C   quit\n"), "{screen}");
    model.press(KeyCode::End);
    assert!(drawn(&mut model, 60, 15).contains("\n?           this; arrows scroll it\n"));
}
