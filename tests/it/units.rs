//! Metrics by unit: more units than have series, of a user and of the host, and units that are configured.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{
    Agent, AgentOptions, Cgroup, Observer, Options, SOON, needs_root, program, signal, wait_for,
};

/// Units that have series.
const UNITS: usize = 256;
/// The user with too many units: more than there is room for.
const USER: u32 = 1000;
const OF_USER: usize = 262;
const OF_HOST: usize = 40;

/// Units as a service manager makes them, each with one agent.
struct Units {
    parents: Vec<Agent>,
    groups: Vec<Cgroup>,
}

impl Units {
    /// Starts an agent in each of so many new units, and returns their pids.
    fn add(&mut self, observer: &Observer, name: &str, count: usize, uid: Option<u32>) -> Vec<u32> {
        let options = AgentOptions { uid, period: Duration::from_millis(500), ..AgentOptions::default() };
        let mut parent = Agent::start_with(observer, options);
        // What it is looked up in is where it stays counted.
        let path = format!("/api/v1/agents/{}", parent.pid());
        wait_for("it to be looked up", || observer.get(&path).json()["exe"].is_string().then_some(()));
        let mut pids = Vec::new();
        for number in 0..count {
            let name = format!("{}{name}-{number}.scope", prefix());
            let group = Cgroup::new(&name, "freezer", ["cgroup.events", "freezer.state"]);
            group.add(parent.pid());
            pids.extend(parent.spawn_children(1));
            group.give_back(parent.pid());
            self.groups.push(group);
        }
        self.parents.push(parent);
        pids
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        // Its children end with a parent.
        self.parents.clear();
        for group in &self.groups {
            wait_for("its processes to be gone", || group.remove());
        }
    }
}

/// What the names of the units of this run begin with.
fn prefix() -> String {
    format!("varta-fleet-test-units-{}-", std::process::id())
}

/// One scrape.
struct Scrape(String);

impl Scrape {
    fn of(observer: &Observer) -> Self {
        Self(observer.get("/metrics").text().to_owned())
    }

    fn samples(&self, family: &str) -> impl Iterator<Item = (&str, u64)> {
        let start = format!("{family}{{");
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(&start)?.rsplit_once("} ")?;
            Some((labels, value.parse().expect("a count")))
        })
    }

    /// The sum of all series of a family.
    fn sum(&self, family: &str) -> u64 {
        self.samples(family).map(|(_, value)| value).sum()
    }

    /// What each unit has.
    fn by_unit(&self, family: &str) -> BTreeMap<&str, u64> {
        let mut units = BTreeMap::new();
        for (labels, value) in self.samples(family) {
            let rest = labels.strip_prefix("unit=\"").expect("the first label");
            *units.entry(rest.split('"').next().expect("its value")).or_default() += value;
        }
        units
    }

    /// How many agents of units with this in their names are not counted with the others.
    fn own(&self, part: &str) -> u64 {
        let units = self.by_unit("varta_unit_agents");
        units.iter().filter(|(unit, _)| unit.contains(part)).map(|(_, agents)| agents).sum()
    }

    /// At most 256 units and `other`, whose sums are what the fleet counts.
    fn is_bounded_and_adds_up(&self) {
        for (of_units, of_fleet) in [
            ("varta_unit_agents", "varta_agents"),
            ("varta_unit_stalls_total", "varta_stalls_total"),
            ("varta_unit_deaths_total", "varta_deaths_total"),
        ] {
            let units = self.by_unit(of_units);
            assert!(units.len() <= UNITS + 1 && units.contains_key("other"), "{of_units}: {}", units.len());
            assert_eq!(units.values().sum::<u64>(), self.sum(of_fleet), "{of_units}");
        }
        assert!(self.0.len() < 256 * 1024, "{} bytes", self.0.len());
    }
}

#[test]
fn a_user_with_hundreds_of_units_leaves_series_to_the_host_and_the_scrape_is_bounded() {
    needs_root("it makes control groups and becomes another user");
    let config = "mode = \"0666\"\n".to_owned();
    let mut observer =
        Observer::start(Options { threshold: Duration::from_secs(5), config, ..Options::default() });
    let mut units = Units { parents: Vec::new(), groups: Vec::new() };
    let of_user = units.add(&observer, "user", OF_USER, Some(USER));
    let all_of_user = format!("{}user", prefix());
    let scrape = wait_for("the units of the user", || {
        Some(Scrape::of(&observer)).filter(|scrape| scrape.own(&all_of_user) >= UNITS as u64 - 1)
    });
    scrape.is_bounded_and_adds_up();
    let of_host = units.add(&observer, "host", OF_HOST, None);
    let all_of_host = format!("{}host", prefix());
    let scrape = wait_for("the units of the host", || {
        Some(Scrape::of(&observer)).filter(|scrape| scrape.own(&all_of_host) == OF_HOST as u64)
    });
    scrape.is_bounded_and_adds_up();

    signal(of_host[0], Signal::STOP);
    signal(of_user[0], Signal::STOP);
    for pid in [of_host[0], of_user[0]] {
        observer.expect("stall", pid, SOON);
    }
    for pid in of_host[..8].iter().chain(&of_user[..8]) {
        signal(*pid, Signal::KILL);
    }
    let scrape = wait_for("the deaths", || {
        Some(Scrape::of(&observer)).filter(|scrape| scrape.sum("varta_deaths_total") == 16)
    });
    scrape.is_bounded_and_adds_up();
    let deaths = scrape.by_unit("varta_unit_deaths_total");
    let of_host = deaths.iter().filter(|(unit, _)| unit.contains(&all_of_host)).map(|(_, deaths)| deaths);
    assert_eq!(of_host.sum::<u64>(), 8);

    // Units that are configured while all places are taken have one, whoever they are of.
    let file = observer.place().base().join("varta.toml");
    let chosen = format!("{all_of_user}-25*.scope");
    fs::write(&file, format!("mode = \"0666\"\n[metrics]\nunits = [{chosen:?}]\n")).expect("write it");
    let reload = || {
        let output = program().args(["reload", "--dir"]).arg(observer.dir()).output().expect("run it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(reload(), format!("metrics.units: none -> [{chosen:?}]\n"));
    let all_chosen = format!("{all_of_user}-25");
    // 250 to 259, and 25, whose agent may be counted with the others.
    let scrape = wait_for("the units that are configured", || {
        Some(Scrape::of(&observer)).filter(|scrape| scrape.own(&all_chosen) == 11)
    });
    scrape.is_bounded_and_adds_up();
    drop(units);
    observer.stop();
}
