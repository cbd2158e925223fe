//! Agents counted by what they have in common, from the same scan as the list of agents.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::agents::{Row, View};
use super::sources::Sources;
use crate::api::{AgentState, Group, GroupBy, Groups};
use crate::event::{About, Comm};
use crate::label::Label;
use crate::time::MonoNs;
use crate::view::dead::Dead;

/// Groups listed.
const LISTED: usize = 1000;
/// Rows counted before other tasks of this thread run.
const CHUNK: usize = 4096;

/// What the agents of one group have in common: small, so that no text is copied for each agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The unit.
    Unit(Option<Label>),
    /// The name of the process.
    Comm(Comm),
    /// The user or the shard.
    Number(u32),
}

impl Key {
    const fn of(by: GroupBy, about: &About, uid: u32, shard: u16) -> Self {
        match by {
            GroupBy::Unit => Self::Unit(about.unit),
            GroupBy::Comm => Self::Comm(about.comm),
            GroupBy::Uid => Self::Number(uid),
            GroupBy::Shard => Self::Number(shard as u32),
        }
    }

    /// What they have in common in words; `None` if that is not known.
    pub fn name(self) -> Option<String> {
        match self {
            Self::Unit(unit) => unit.and_then(Label::text).map(String::from),
            Self::Comm(comm) => (!comm.is_empty()).then(|| comm.as_str().to_owned()),
            Self::Number(u32::MAX) => None,
            Self::Number(number) => Some(number.to_string()),
        }
    }
}

/// The groups of agents in the order in which they are met. Instances of one program or template are one group: their
/// names differ in numbers only.
#[derive(Debug, Default)]
pub struct Places {
    by_key: HashMap<Key, usize>,
    by_stem: HashMap<Option<String>, usize>,
    names: Vec<Option<String>>,
}

impl Places {
    /// The group that this is of, a new one at the end if there was none. Cost: one lookup, unless the key is new.
    pub fn of<'a, G: Default>(&mut self, key: Key, groups: &'a mut Vec<G>) -> &'a mut G {
        let Self { by_key, by_stem, names } = self;
        let place = *by_key.entry(key).or_insert_with(|| {
            let name = key.name();
            let alike = match key {
                Key::Number(_) => name.clone(),
                Key::Unit(_) | Key::Comm(_) => name.as_deref().map(stem),
            };
            let place = *by_stem.entry(alike.clone()).or_insert(names.len());
            match names.get_mut(place) {
                Some(known) => *known = alike,
                // Alone, it has its own name.
                None => {
                    names.push(name);
                    groups.push(G::default());
                }
            }
            place
        });
        &mut groups[place]
    }

    /// What the agents of each group have in common, a pattern if their names differ; `None` if that is not known.
    pub fn into_names(self) -> Vec<Option<String>> {
        self.names
    }
}

/// The name with a `*` for each number and for the instance of a unit: as a pattern it matches the names that differ
/// only in those.
fn stem(name: &str) -> String {
    let mut stem = String::with_capacity(name.len());
    let mut add = |text: &str| {
        for c in text.chars() {
            match c {
                '0'..='9' if stem.ends_with('*') => {}
                '0'..='9' => stem.push('*'),
                c => stem.push(c),
            }
        }
    };
    let of_template = name
        .split_once('@')
        .and_then(|(template, instance)| instance.rsplit_once('.').map(|(_, kind)| (template, kind)));
    match of_template {
        Some((template, kind)) => {
            add(template);
            add("@*.");
            add(kind);
        }
        None => add(name),
    }
    stem
}

/// The groups of all agents. Cost: one lookup of a name for each agent; lets other tasks run meanwhile.
pub async fn groups(by: GroupBy, view: &View, dead: Vec<(About, u16)>, sources: &Sources) -> Groups {
    let (mut places, mut groups) = (Places::default(), Vec::<Group>::new());
    for rows in view.rows().chunks(CHUNK) {
        for row in rows {
            count(places.of(key(by, row, sources), &mut groups), row);
        }
        tokio::task::yield_now().await;
    }
    for (about, shard) in &dead {
        // No user has this number.
        let key = Key::of(by, about, about.uid.unwrap_or(u32::MAX), *shard);
        places.of(key, &mut groups).died += 1;
    }
    let total = groups.len() as u64;
    for (group, name) in groups.iter_mut().zip(places.into_names()) {
        group.name = name;
    }
    groups.sort_by(|one, other| {
        let rank = |group: &Group| (Reverse(group.stalled), Reverse(group.died));
        rank(one).cmp(&rank(other)).then_with(|| natural(&one.name, &other.name))
    });
    let mut rest: Option<Group> = None;
    for group in groups.drain(LISTED.min(groups.len())..) {
        rest.get_or_insert_default().add(&group);
    }
    Groups { by, groups, rest, total, as_of: view.as_of() }
}

/// The agents that died in the last minute, as far as they are kept: who, and on which shard.
pub fn died(dead: &Dead, now: MonoNs) -> Vec<(About, u16)> {
    dead.of_last_minute(now).map(|dead| (dead.about(), dead.event.shard.unwrap_or(0))).collect()
}

/// The group of an agent.
pub fn key(by: GroupBy, row: &Row, sources: &Sources) -> Key {
    let about = match by {
        GroupBy::Unit | GroupBy::Comm => sources.names.about(row.holder()),
        GroupBy::Uid | GroupBy::Shard => About::UNKNOWN,
    };
    Key::of(by, &about, row.hot.uid(), row.shard)
}

const fn count(group: &mut Group, row: &Row) {
    group.agents += 1;
    match row.state() {
        AgentState::Stalled => group.stalled += 1,
        AgentState::Frozen => group.frozen += 1,
        AgentState::Standstill => group.standstill += 1,
        AgentState::Waiting => group.waiting += 1,
        AgentState::Up | AgentState::Exited | AgentState::Refused => group.up += 1,
    }
}

/// Numbers first and by value, then texts, and last agents without a name. A total order: names are chosen by agents, and
/// a sort may panic at any other.
pub fn natural(one: &Option<String>, other: &Option<String>) -> std::cmp::Ordering {
    let rank = |name: &Option<String>| {
        let text = name.as_deref().unwrap_or_default();
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        (name.is_none(), !is_number, if is_number { text.len() } else { 0 })
    };
    rank(one).cmp(&rank(other)).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::standin::sources;
    use crate::process::procfs::Program;
    use crate::table::slot::{Account, Hot, State};

    fn counted(by: GroupBy, rows: Vec<Row>, dead: Vec<(About, u16)>) -> Groups {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(groups(by, &View::sample(rows), dead, &sources(2)))
    }

    fn of_user(pid: u32, uid: u32, state: State) -> Row {
        let row = Row::sample(0, pid, state);
        Row { hot: Hot { account: Account::new(uid, 1), ..row.hot }, ..row }
    }

    #[test]
    fn however_many_groups_there_are_the_worst_are_listed_and_no_agent_is_left_out() {
        let rows = (1..=10_000).map(|pid| of_user(pid, 20_000 - pid, State::Up)).collect::<Vec<_>>();
        let worst = [of_user(10_001, 7, State::Stalled), of_user(10_002, 7, State::Up)];
        let died = vec![(About { uid: Some(9), ..About::UNKNOWN }, 0)];
        let Groups { groups, rest, total, .. } = counted(GroupBy::Uid, [&rows[..], &worst].concat(), died);
        assert_eq!((groups.len(), total), (LISTED, 10_002));
        let first =
            |at: usize| (groups[at].name.as_deref(), groups[at].agents, groups[at].stalled, groups[at].died);
        assert_eq!([first(0), first(1)], [(Some("7"), 2, 1, 0), (Some("9"), 0, 0, 1)]);
        assert_eq!(groups[2].name.as_deref(), Some("10000"), "numbers by value");
        let listed: u64 = groups.iter().map(|group| group.agents).sum();
        assert_eq!(listed + rest.unwrap().agents, 10_002);
    }

    proptest::proptest! {
        #[test]
        fn names_have_one_order(names in proptest::collection::vec(proptest::option::of("[019a]{0,2}"), 10)) {
            use std::cmp::Ordering::Less;
            for (one, two) in names.iter().flat_map(|one| names.iter().map(move |two| (one, two))) {
                proptest::prop_assert_eq!(natural(one, two), natural(two, one).reverse());
                for three in names.iter().filter(|three| natural(two, three) == Less) {
                    let is_less = natural(one, two) != Less || natural(one, three) == Less;
                    proptest::prop_assert!(is_less, "{:?} < {:?} < {:?}", one, two, three);
                }
            }
        }
    }

    #[test]
    fn names_that_differ_in_numbers_have_one_stem() {
        let names = [
            ("load-017", "load-*"),
            ("kworker/0:1", "kworker/*:*"),
            ("a@7.b@x.service", "a@*.service"),
            ("web1@x.service", "web*@*.service"),
        ];
        for (name, expected) in names {
            assert_eq!(stem(name), expected);
            assert!(crate::pattern::Pattern::new(expected).matches(name), "{name}");
        }
        assert_eq!(stem("sshd"), "sshd");
    }

    #[test]
    fn instances_are_one_group_and_one_alone_has_its_name_and_the_dead_are_with_their_kin() {
        let sources = sources(1);
        let names = ["worker-17", "worker-18", "api-1", "python3"];
        let rows = (1..).zip(names).map(|(pid, comm)| {
            let row = Row { generation: pid, slot: pid, ..Row::sample(0, pid, State::Up) };
            let program = Program { comm: Some(comm.to_owned()), ..Program::default() };
            sources.names.put(row.holder(), &program, None, 0);
            row
        });
        let view = View::sample(rows.collect());
        let died = vec![(About { comm: Comm::from("api-2"), ..About::UNKNOWN }, 0)];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Groups { groups, total, .. } = runtime.block_on(groups(GroupBy::Comm, &view, died, &sources));
        let said: Vec<_> =
            groups.iter().map(|group| (group.name.as_deref(), group.agents, group.died)).collect();
        assert_eq!(said, [(Some("api-*"), 1, 1), (Some("python3"), 1, 0), (Some("worker-*"), 2, 0)]);
        assert_eq!(total, 3);
    }

    #[test]
    fn agents_of_units_whose_names_were_freed_are_a_group_with_those_of_none() {
        let about = |unit| (About { unit, ..About::UNKNOWN }, 0);
        let dead = [None, Some(Label::freed()), Some(Label::freed())].map(about);
        let Groups { groups, total, .. } = counted(GroupBy::Unit, Vec::new(), dead.to_vec());
        assert_eq!((groups, total), (vec![Group { died: 3, ..Group::default() }], 1));
    }

    #[test]
    fn agents_without_a_unit_are_a_group_of_their_own() {
        let rows = vec![of_user(1, 0, State::Waiting), of_user(2, 0, State::Up)];
        let Groups { groups, rest, .. } = counted(GroupBy::Unit, rows, Vec::new());
        let only = Group { name: None, agents: 2, up: 1, waiting: 1, ..Group::default() };
        assert_eq!((groups, rest), (vec![only], None));
    }
}
