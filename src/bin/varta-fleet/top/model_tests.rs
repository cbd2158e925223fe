//! Tests of the model.

use super::*;

fn fleet(mono_ns: u64, beats: u64) -> Update {
    let shard = Shard { beats, ..Shard::default() };
    Update::Seen(Box::new(Fleet { pid: 1, mono_ns, shards: vec![shard], ..Fleet::default() }))
}

fn listed(pids: impl IntoIterator<Item = u32>) -> Update {
    let agents: Vec<Agent> = pids.into_iter().map(|pid| Agent { pid, ..Agent::default() }).collect();
    let total = agents.len() as u64;
    Update::Listed(List::Agents(agents), total)
}

fn event(seq: u64) -> Update {
    let json =
        format!(r#"{{"v":1,"seq":{seq},"ts":"2026-03-01T12:00:00Z","mono_ns":1,"kind":"start","shards":1}}"#);
    Update::Told(serde_json::from_str(&json).unwrap())
}

fn press(model: &mut Model, keys: &[KeyCode]) {
    for key in keys {
        assert!(model.press(*key), "{key:?}");
    }
}

fn type_in(model: &mut Model, text: &str) {
    text.chars().for_each(|c| press(model, &[KeyCode::Char(c)]));
}

/// A model with room for ten agents, of which there are `1..=len`.
fn with(len: u32) -> Model {
    let mut model = Model::default();
    model.set_room(Room { rows: 10, text: 10, lines: 25 });
    model.take(listed(1..=len));
    model
}

/// The pid that is selected.
fn selected(model: &Model) -> Option<u32> {
    match model.selected()? {
        Key::Pid(pid) | Key::Dead(pid, _) => Some(*pid),
        Key::Group(_) => None,
    }
}

#[test]
fn rates_are_of_the_time_between_two_answers() {
    let mut model = Model::default();
    model.take(fleet(1_000_000_000, 100));
    assert!(model.screen().shards[0].beats.is_empty(), "one answer says nothing of a rate");
    model.take(fleet(3_000_000_000, 700));
    assert_eq!(model.screen().shards[0].beats, [Some(300)]);
    // Another observer: its counts begin at 0.
    model.take(Update::Seen(Box::new(Fleet { pid: 2, mono_ns: 4_000_000_000, ..Fleet::default() })));
    assert!(model.screen().shards.is_empty());
}

#[test]
fn keys_sort_reverse_and_filter() {
    let mut model = with(3);
    assert_eq!((model.sort(), model.is_ascending()), ("silent", false));
    type_in(&mut model, "s");
    assert_eq!(model.wish().sort, "stalls");
    type_in(&mut model, "r");
    assert!(model.wish().is_ascending);
    type_in(&mut model, "SS");
    assert_eq!(
        (model.sort(), model.is_ascending()),
        ("pid", true),
        "another key begins in its own direction"
    );
    type_in(&mut model, "r");
    assert!(!model.is_ascending());
    model.sort_by("beats");
    assert_eq!((model.sort(), model.is_ascending()), ("beats", false));
    model.sort_by("beats");
    assert!(model.is_ascending(), "the same heading again");

    type_in(&mut model, "/qx");
    assert_eq!(model.typed(), Some((Field::Name, "qx")), "q is a letter while one types");
    assert_eq!(model.wish().filter.name, "qx", "a name filters while it is typed");
    press(&mut model, &[KeyCode::Enter]);
    type_in(&mut model, "uroot");
    assert_eq!(model.wish().filter.user, "", "a part of a user is another user");
    press(&mut model, &[KeyCode::Enter]);
    type_in(&mut model, "pa4x2");
    press(&mut model, &[KeyCode::Enter]);
    type_in(&mut model, "t");
    assert_eq!(model.filter().words(), "state stalled, name has qx, user root, pid 42");
    type_in(&mut model, "/zzz");
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(model.filter().name, "qx", "what was typed is left, not what was there");
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!((model.filter(), model.filter().words().as_str()), (Filter::default(), ""));
    type_in(&mut model, "ttttt");
    assert_eq!(model.filter().state, Some(AgentState::Waiting));
    type_in(&mut model, "t");
    assert_eq!(model.filter().state, None);
    assert!(!model.press(KeyCode::Char('q')));
}

#[test]
fn a_filter_is_shown_escaped_and_bounded() {
    let mut model = with(1);
    type_in(&mut model, "/a\u{1b}[2J");
    for _ in 0..1000 {
        press(&mut model, &[KeyCode::Char('é')]);
    }
    let words = model.filter().words();
    assert!(words.starts_with("name has a\\u{1b}[2Jé") && model.filter().name.len() <= TYPED_MAX, "{words}");
}

#[test]
fn the_selection_keeps_its_agent_when_the_list_is_sorted_anew() {
    let mut model = with(100);
    press(&mut model, &[KeyCode::Down]);
    assert_eq!((selected(&model), model.first()), (Some(1), 0), "the first key selects the first row");
    press(&mut model, &[KeyCode::Down, KeyCode::Down]);
    model.take(listed((1..=100).rev()));
    assert_eq!((selected(&model), model.first()), (Some(3), 88), "it was in sight, and is");
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(selected(&model), Some(2));
    // Scrolled away from it, the list stays where it is.
    (0..4).for_each(|_| model.turn_wheel(false));
    assert_eq!(model.first(), 77);
    model.take(listed(1..=100));
    assert_eq!((selected(&model), model.first()), (Some(2), 77));
    // It is gone: keys go on from where it was.
    model.take(listed(3..=100));
    assert_eq!(selected(&model), Some(2));
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(selected(&model), Some(5));
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!((selected(&model), model.first()), (None, 0));
    model.take(listed([]));
    press(&mut model, &[KeyCode::Down, KeyCode::PageUp, KeyCode::End, KeyCode::Enter]);
    assert!(model.selected().is_none() && model.pane().is_none());
}

#[test]
fn pages_and_the_end_are_reached_and_more_agents_asked_for() {
    let mut model = with(500);
    press(&mut model, &[KeyCode::Home, KeyCode::PageDown]);
    assert_eq!((selected(&model), model.first()), (Some(10), 0));
    press(&mut model, &[KeyCode::PageDown]);
    assert_eq!((selected(&model), model.first()), (Some(19), 9));
    press(&mut model, &[KeyCode::PageUp, KeyCode::PageUp, KeyCode::PageUp]);
    assert_eq!((selected(&model), model.first()), (Some(1), 0));
    assert_eq!(model.wish().rows, 500);
    press(&mut model, &[KeyCode::End]);
    assert_eq!((selected(&model), model.first()), (Some(500), 490));
    assert_eq!(model.wish().rows, 1000, "there may be more behind them");

    let some = |len: u32| {
        let agents = (1..=len).map(|pid| Agent { pid, ..Agent::default() }).collect();
        Update::Listed(List::Agents(agents), 4000)
    };
    model.take(some(1000));
    press(&mut model, &[KeyCode::End]);
    assert_eq!(model.wish().rows, usize::MAX, "all, to show the last");
    model.take(some(1000));
    assert_eq!(selected(&model), Some(1000), "they are not there yet");
    model.take(some(4000));
    assert_eq!((selected(&model), model.first()), (Some(4000), 3990));
    assert_eq!(model.wish().rows, usize::MAX);
    // The selection moves up and down in the order: no other number of agents is asked for each time.
    model.take(Update::Listed(
        List::Agents((1..=4000).rev().map(|pid| Agent { pid, ..Agent::default() }).collect()),
        4000,
    ));
    assert_eq!((selected(&model), model.first(), model.wish().rows), (Some(4000), 0, usize::MAX));
    press(&mut model, &[KeyCode::Home]);
    assert_eq!(model.wish().rows, 500);
}

#[test]
fn a_selection_that_is_further_down_is_looked_for_and_one_that_is_gone_is_not() {
    let mut model = with(500);
    let some = |pids: std::ops::RangeInclusive<u32>, total| {
        Update::Listed(List::Agents(pids.map(|pid| Agent { pid, ..Agent::default() }).collect()), total)
    };
    press(&mut model, &[KeyCode::Down]);
    model.take(some(2..=501, 4000));
    assert!(!model.is_gone() && model.wish().rows == usize::MAX);
    model.take(some(2..=4000, 3999));
    assert!(model.is_gone() && selected(&model) == Some(1));
    model.take(some(1..=4000, 4000));
    assert!(!model.is_gone());
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!((selected(&model), model.wish().rows), (None, 500));
}

#[test]
fn the_wheel_scrolls_a_click_selects_and_two_open() {
    let mut model = with(100);
    model.turn_wheel(true);
    assert_eq!((model.first(), selected(&model)), (3, None));
    model.set_now(Duration::from_secs(1));
    model.click(4);
    assert_eq!(selected(&model), Some(8));
    model.set_now(Duration::from_millis(1600));
    model.click(4);
    assert!(model.pane().is_none(), "too late to be a double click");
    model.set_now(Duration::from_millis(1900));
    model.click(5);
    assert!(model.pane().is_none(), "another row");
    model.click(5);
    assert_eq!(model.pane().map(|pane| pane.pid), Some(9));
    model.turn_wheel(true);
    assert_eq!(model.pane().map(|pane| pane.first), Some(3), "the wheel scrolls what is open");
    press(&mut model, &[KeyCode::Esc]);
    (0..100).for_each(|_| model.turn_wheel(true));
    assert_eq!(model.first(), 90);
    model.click(50);
    assert_eq!(selected(&model), Some(9), "nobody is there");
}

#[test]
fn an_agent_is_explained_scrolled_and_left() {
    let mut model = with(20);
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!((model.wish().explain, selected(&model)), (Some(1), Some(1)));
    model.take(Update::Explained(2, "of another".to_owned()));
    assert!(model.pane().is_some_and(|pane| pane.text.is_none()));
    model.take(Update::Explained(1, "it beats".to_owned()));
    assert_eq!(model.pane().and_then(|pane| pane.text.as_deref()), Some("it beats"));
    let first = |model: &Model| model.pane().map(|pane| pane.first);
    for (key, line) in [
        (KeyCode::Down, 1),
        (KeyCode::PageDown, 10),
        (KeyCode::PageDown, 15),
        (KeyCode::Up, 14),
        (KeyCode::Home, 0),
        (KeyCode::Up, 0),
        (KeyCode::End, 15),
        (KeyCode::PageUp, 6),
    ] {
        press(&mut model, &[key]);
        assert_eq!(first(&model), Some(line), "{key:?}");
    }
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!((model.wish().explain, selected(&model)), (None, Some(1)), "back, where it was");
}

#[test]
fn nothing_is_lost_while_the_screen_is_frozen() {
    let mut model = with(3);
    model.take(event(1));
    type_in(&mut model, "f");
    for seq in 2..=5 {
        model.take(event(seq));
    }
    model.take(listed([7]));
    model.take(fleet(1_000_000_000, 1));
    assert!(model.is_frozen() && model.screen().fleet.is_none());
    assert_eq!((model.held(), model.list().len(), model.screen().feed.taken()), (4, 3, 1));
    type_in(&mut model, "f");
    assert_eq!((model.held(), model.list().len(), model.screen().feed.taken()), (0, 1, 5));
    assert!(model.screen().fleet.is_some());
}

#[test]
fn an_observer_that_does_not_answer_is_told_from_one_that_does() {
    let at = |model: &mut Model, seconds| model.set_now(Duration::from_secs(seconds));
    let mut model = Model::default();
    at(&mut model, 2);
    assert_eq!(model.silence(), None, "it was not asked yet");
    model.take(fleet(1_000_000_000, 1));
    at(&mut model, 4);
    assert_eq!(model.silence(), None);
    model.take(event(1));
    at(&mut model, 5);
    assert_eq!(model.silence(), Some(Duration::from_secs(3)), "a stream that goes on is no answer");
    model.take(Update::Refused("there is no such user".to_owned()));
    assert_eq!(model.silence(), None, "a refusal is an answer");
    model.take(Update::Trouble("no fleet is running".to_owned()));
    at(&mut model, 6);
    assert_eq!(
        (model.silence(), model.trouble()),
        (Some(Duration::from_secs(1)), Some("no fleet is running"))
    );
    model.take(fleet(2_000_000_000, 1));
    assert_eq!((model.silence(), model.trouble()), (None, None));
}

#[test]
fn groups_are_opened_and_left() {
    let mut model = with(3);
    type_in(&mut model, "g");
    assert_eq!(model.wish().view, View::Groups(GroupBy::Unit));
    assert!(model.screen().is_asked && model.list().len() == 0);
    model.take(listed([1]));
    assert!(model.screen().is_asked, "an answer that comes late is not of this view");
    type_in(&mut model, "ggg");
    assert_eq!(model.wish().view, View::Groups(GroupBy::Shard));
    type_in(&mut model, "g");
    assert_eq!(model.wish().view, View::Agents);
    type_in(&mut model, "gg");
    let group = |name: Option<&str>| Group { name: name.map(str::to_owned), ..Group::default() };
    let groups = || List::Groups(GroupBy::Comm, vec![group(None), group(Some("worker"))]);
    model.take(Update::Listed(groups(), 2));
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!(model.wish().view, View::Groups(GroupBy::Comm), "those without a name cannot be asked for");
    press(&mut model, &[KeyCode::Down]);
    type_in(&mut model, "s/tpx");
    assert_eq!((model.sort(), model.typed()), ("silent", None), "keys of another view do nothing");
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!((model.wish().view, model.filter().words().as_str()), (View::Agents, "name is worker"));
    assert!(!model.list().view().eq(&View::Groups(GroupBy::Comm)) && model.pane().is_none());
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!((model.wish().view, model.filter()), (View::Groups(GroupBy::Comm), Filter::default()));
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(model.wish().view, View::Agents);
    for (by, words) in [(GroupBy::Unit, "unit is 7"), (GroupBy::Uid, "user 7"), (GroupBy::Shard, "shard 7")] {
        let mut model = with(1);
        while model.wish().view != View::Groups(by) {
            type_in(&mut model, "g");
        }
        model.take(Update::Listed(List::Groups(by, vec![group(Some("7"))]), 1));
        press(&mut model, &[KeyCode::Enter]);
        assert_eq!(model.filter().words(), words);
    }
}

#[test]
fn the_dead_are_listed_filtered_and_explained() {
    let mut model = with(3);
    type_in(&mut model, "t/work");
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!(model.filter().words(), "state stalled, name has work");
    type_in(&mut model, "d");
    assert_eq!((model.wish().view, model.filter().words().as_str()), (View::Dead, "name has work"));
    let dead = |session| DeadAgent { pid: 7, session, ..DeadAgent::default() };
    model.take(Update::Listed(List::Dead(vec![dead(2), dead(1)], 0), 2));
    press(&mut model, &[KeyCode::Down, KeyCode::Down]);
    assert_eq!(model.selected(), Some(&Key::Dead(7, 1)), "one pid may die twice");
    model.take(Update::Listed(List::Dead(vec![dead(3), dead(2), dead(1)], 0), 3));
    assert_eq!((model.selected(), model.at), (Some(&Key::Dead(7, 1)), 2));
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!(model.wish().explain, Some(7));
    press(&mut model, &[KeyCode::Esc, KeyCode::Esc]);
    assert_eq!(
        (model.wish().view, model.filter().words().as_str()),
        (View::Agents, "state stalled, name has work")
    );
}

#[test]
fn the_help_is_scrolled_and_what_was_open_is_still_there() {
    let mut model = with(3);
    press(&mut model, &[KeyCode::Enter]);
    type_in(&mut model, "?");
    press(&mut model, &[KeyCode::End]);
    assert_eq!(model.help(), Some(15));
    press(&mut model, &[KeyCode::Esc]);
    assert!(model.help().is_none() && model.pane().is_some());
    type_in(&mut model, "??");
    assert!(model.help().is_none());
}

#[test]
fn what_is_asked_for_anew_is_not_frozen() {
    for key in ["s", "r", "t", "g", "d"] {
        let mut model = with(3);
        type_in(&mut model, "f");
        assert!(model.is_frozen());
        type_in(&mut model, key);
        assert!(!model.is_frozen(), "{key}");
    }
}
