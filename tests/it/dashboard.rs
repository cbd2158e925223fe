//! The dashboard for Grafana: every query returns data from a Prometheus that scrapes a real fleet, every panel
//! says what it shows, and every metric is on it, in a rule, or left out on purpose.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::prometheus::{Prometheus, alerts, text_of};
use crate::common::{ACTS, Agent, AgentOptions, Freezer, Observer, Options, Place, SOON, wait_for, wire};

const FILE: &str = "grafana/varta-fleet.json";

/// Metrics that neither the dashboard shows nor a rule asks for, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("varta_frames", "the sum of beats and refused frames"),
    ("varta_receive_calls", "the batches say it"),
    ("varta_agents_off_hash", "agents that chose their shard: no trouble"),
    ("varta_slot_reads_busy", "for the developers of the table"),
    ("varta_config_last_reload_success_timestamp_seconds", "the reload event has it"),
    ("varta_http_connections_evicted", "clients that reconnect at once"),
    ("process_virtual_memory_bytes", "reserved, not used"),
    ("varta_notify_messages", "how daemons say that they are: no trouble"),
    ("varta_notify_one_shots", "scripts, which are no agents"),
    ("varta_notify_fds", "strangers' descriptors, which cost no shard anything"),
    ("varta_notify_assignments_refused", "explain shows what a daemon has instead"),
    ("varta_evidence", "what was found is in its file, and why not in the audit file"),
];

/// Queries whose greatest value must exceed 0 after a stall, deaths, a stop and a forged frame.
const HAPPENED: &[&str] = &[
    "Stalled now",
    "Died within 5 minutes",
    "Crash loops",
    "Alerts that fire",
    "Observers: Stalled",
    "Stalls and resumes, a minute: stalled",
    "Stalls and resumes, a minute: resumed",
    "Deaths, a minute, by how",
    "Stops on request, a minute",
    "Units: Stalled",
    "Stalls, a minute, by unit",
    "Stalls are late by",
    "Actions, a minute, by outcome",
    "Frames refused a second, by reason: {{reason}}",
];

/// Queries without a result in a fleet in which nothing of the kind happens; whether they can have one is for
/// a test of the metric itself.
const MAY_BE_EMPTY: &[&str] = &["Frames refused a second, by reason: table_full, by a user's share"];

fn dashboard() -> Value {
    serde_json::from_str(&text_of(FILE)).expect("JSON")
}

fn list(of: &Value) -> &[Value] {
    of.as_array().expect("a list")
}

fn text(of: &Value) -> &str {
    of.as_str().unwrap_or_else(|| panic!("no text: {of}"))
}

/// All panels, also those of collapsed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    for panel in list(&dashboard["panels"]) {
        all.push(panel);
        if panel["type"] == "row" {
            all.extend(list(&panel["panels"]));
        }
    }
    all
}

/// The metrics `varta_*` and `process_*` that a text mentions.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.starts_with("varta_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_exists_and_is_shown_or_left_out_on_purpose() {
    let observer = Observer::start(Options { config: ACTS.to_owned(), ..Options::default() });
    let answer = observer.get("/metrics");
    observer.stop();
    let samples = answer.text().lines().filter(|line| !line.starts_with('#'));
    let mut exist: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let rules = [text_of("prometheus/rules.yml"), text_of("prometheus/runbook.yml")].concat();
    exist.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")));
    let mut asked = BTreeSet::new();
    for (file, least) in [
        ("prometheus/rules.yml", 20),
        ("prometheus/rules_test.yml", 20),
        (FILE, 30),
        ("prometheus/RUNBOOK.md", 0),
    ] {
        let of = metrics_in(&text_of(file));
        assert!(of.len() >= least, "{file}: {of:?}");
        let missing: Vec<&String> = of.iter().filter(|metric| !exist.contains(metric.as_str())).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
        if [FILE, "prometheus/rules.yml"].contains(&file) {
            asked.extend(of);
        }
    }
    let families = answer.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut unseen: BTreeSet<&str> = BTreeSet::new();
    for family in families {
        let is_asked = asked.iter().any(|metric| {
            let of_histogram = ["_bucket", "_sum", "_count"].map(|part| metric.strip_suffix(part));
            metric == family || of_histogram.contains(&Some(family))
        });
        if !is_asked {
            unseen.insert(family.strip_suffix("_total").unwrap_or(family));
        }
    }
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(family, _)| *family).collect();
    assert_eq!(unseen, left_out, "put a new metric on the dashboard, in a rule, or here with the reason");
}

#[test]
fn panels_have_their_own_places_and_say_what_they_show() {
    let dashboard = dashboard();
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another's");
        assert!(titles.insert(title), "{title} is there twice");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|of| panel["gridPos"][of].as_u64().expect("a place"));
        assert!(x + w <= 24, "{title} is too wide");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on another panel at {place:?}");
        }
        if panel["type"] != "row" {
            let description = text(&panel["description"]);
            assert!(description.contains("Normal: "), "{title} does not say what is normal: {description}");
            assert!(!list(&panel["targets"]).is_empty(), "{title}");
        }
    }
    let height = 1 + taken.iter().map(|(_, y)| y).max().expect("panels");
    assert_eq!(taken.iter().filter(|(x, _)| *x == 0).count() as u64, height, "no gap on the left");
}

#[test]
fn it_names_only_alerts_that_exist_and_no_data_source_of_its_own() {
    let text = text_of(FILE);
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let named: BTreeSet<&str> = words.filter(|word| word.len() > 5 && word.starts_with("Varta")).collect();
    assert!(named.len() > 10, "{named:?}");
    let alerts: BTreeSet<String> = alerts().into_iter().collect();
    let unknown: Vec<&&str> = named.iter().filter(|name| !alerts.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let sources: BTreeSet<&str> =
        text.split("\"uid\": \"").skip(1).map(|rest| &rest[..rest.find('"').expect("its end")]).collect();
    assert_eq!(sources, BTreeSet::from(["${datasource}", "varta-fleet"]));
}

/// A query of the dashboard, its variables filled in.
#[derive(Debug)]
struct Asked {
    /// The title of its panel and the legend of its line, if the panel has several.
    of: String,
    path: String,
}

fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    let written = |byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(written).collect()
}

fn filled(text: &str) -> String {
    let filled =
        text.replace("$__rate_interval", "10s").replace("$job", "varta-fleet").replace("$instance", ".*");
    assert!(!filled.contains('$'), "what is to be filled in? {filled}");
    filled
}

impl Asked {
    fn now(of: String, query: &str) -> Self {
        Self { of, path: format!("/api/v1/query?query={}", encoded(&filled(query))) }
    }

    /// Of the ten minutes until now, second by second.
    fn over_time(of: String, query: &str) -> Self {
        let query = format!("({})[10m:1s]", filled(query));
        Self { of, path: format!("/api/v1/query?query={}", encoded(&query)) }
    }

    /// The greatest number in the answer; `None` if there is no answer yet or no number in it.
    fn greatest(&self, prometheus: &Prometheus) -> Option<f64> {
        let answer: Value = serde_json::from_str(&prometheus.get(&self.path)?).expect("JSON");
        let results = list(&answer["data"]["result"]).iter();
        let samples = results.flat_map(|of| match &of["values"] {
            Value::Array(values) => values.clone(),
            _ => vec![of["value"].clone()],
        });
        let numbers = samples.map(|sample| text(&sample[1]).parse::<f64>().expect("a number"));
        numbers.filter(|number| number.is_finite()).reduce(f64::max)
    }

    /// Whether it is a query of the panel, or the line, of this name.
    fn is_of(&self, name: &str) -> bool {
        self.of.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
    }

    fn is_answered(&self, prometheus: &Prometheus) -> bool {
        let has_happened = HAPPENED.iter().any(|name| self.is_of(name));
        self.greatest(prometheus).is_some_and(|number| number > 0.0 || !has_happened)
    }
}

/// Those of all panels and annotations.
fn queries(dashboard: &Value) -> Vec<Asked> {
    let mut asked = Vec::new();
    for panel in panels(dashboard).into_iter().filter(|panel| panel["type"] != "row") {
        let targets = list(&panel["targets"]);
        for target in targets {
            let of = if targets.len() == 1 {
                text(&panel["title"]).to_owned()
            } else {
                format!("{}: {}", text(&panel["title"]), text(&target["legendFormat"]))
            };
            let query = text(&target["expr"]);
            asked.push(if target["instant"] == true {
                Asked::now(of, query)
            } else {
                Asked::over_time(of, query)
            });
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        asked.push(Asked::over_time(format!("annotation {}", annotation["name"]), text(&annotation["expr"])));
    }
    asked
}

#[test]
fn every_query_returns_what_happened_to_a_real_fleet() {
    let dashboard = dashboard();
    let directory = tempfile::tempdir().expect("a directory");
    let start = |place, address: &str| {
        let arguments = vec!["--http".to_owned(), address.to_owned()];
        Observer::start_in(place, Options { arguments, config: ACTS.to_owned(), ..Options::default() })
    };
    let first = start(Place::new(), "127.0.0.1:0");
    let address = first.http_address().to_string();
    let mut prometheus = Prometheus::start(directory.path(), &first);
    let count = |prometheus: &Prometheus, query: &str| Asked::now(String::new(), query).greatest(prometheus);
    prometheus.wait_for("scrape", |prometheus| count(prometheus, "varta_build_info"));
    let mut observer = start(first.kill(), &address);

    let mut agents = Agent::start_many(&observer, (0..12).map(|_| AgentOptions::default()));
    prometheus.wait_for("scrape of twelve agents", |prometheus| {
        count(prometheus, "sum(varta_agents)").filter(|agents| *agents >= 12.0)
    });
    let victim = agents[1].pid();
    assert!(agents[0].send(&wire::frame(victim, 1_000_000)), "the forged frame");
    observer.expect_kind("auth", SOON);
    // Now it is known whose the pid is.
    assert!(agents[0].send(&wire::frame(victim, 1_000_001)), "the second one");
    let _unit = Freezer::around(agents[2].pid());
    for agent in &agents[..3] {
        agent.signal(Signal::STOP);
    }
    for agent in &agents[..3] {
        observer.expect("stall", agent.pid(), SOON);
    }
    prometheus.expect("VartaStallWave", Some("firing"));
    agents[0].signal(Signal::CONT);
    observer.expect("resume", agents[0].pid(), SOON);
    for agent in &agents[3..10] {
        agent.signal(Signal::KILL);
    }
    agents[10].signal(Signal::TERM);
    for agent in &agents[3..=10] {
        observer.expect("exit", agent.pid(), SOON);
    }
    // One program that dies and is started again.
    for _ in 0..5 {
        let agent = Agent::start_with(&observer, AgentOptions::default());
        observer.expect("up", agent.pid(), SOON);
        let path = format!("/api/v1/agents/{}", agent.pid());
        wait_for("its program", || observer.get(&path).json()["exe"].as_str().map(drop));
        agent.signal(Signal::KILL);
        observer.expect("exit", agent.pid(), SOON);
    }
    for alert in ["VartaExitWave", "VartaCrashLoop", "VartaAgentsDropped"] {
        prometheus.expect(alert, Some("firing"));
    }

    let all = queries(&dashboard);
    assert!(all.len() > 50, "{}", all.len());
    for title in HAPPENED.iter().chain(MAY_BE_EMPTY) {
        assert!(all.iter().any(|asked| asked.is_of(title)), "no query is called {title}");
    }
    let asked = all.into_iter().filter(|asked| !MAY_BE_EMPTY.contains(&asked.of.as_str())).collect();
    let unanswered = prometheus.unanswered(asked, |prometheus, asked| asked.is_answered(prometheus));
    assert!(unanswered.is_empty(), "no data of {unanswered:#?}");

    let url = text_of("prometheus/runbook.yml");
    let url = url.lines().find_map(|line| line.trim().strip_prefix("url: ")).expect("a URL");
    let fired: Value =
        serde_json::from_str(&prometheus.get("/api/v1/alerts").expect("alerts")).expect("JSON");
    for alert in list(&fired["data"]["alerts"]) {
        let section = text(&alert["labels"]["alertname"]).to_lowercase();
        assert_eq!(alert["annotations"]["runbook_url"], format!("{url}#{section}"));
    }
    let expected = [
        ("job", "varta-fleet"),
        ("instance", address.as_str()),
        ("page", address.as_str()),
        ("runbook", url),
    ];
    let variables = list(&dashboard["templating"]["list"]).iter();
    let variables: Vec<&Value> = variables.filter(|variable| variable["type"] == "query").collect();
    assert_eq!(variables.len(), expected.len());
    for (variable, (name, value)) in variables.into_iter().zip(expected) {
        assert_eq!(variable["name"], name);
        let query = text(&variable["query"]["query"]);
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inner.and_then(|inner| inner.rsplit_once(", ")).expect("series and label");
        let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(&filled(series)));
        let values: Value = serde_json::from_str(&prometheus.get(&path).expect("values")).expect("JSON");
        assert_eq!(values["data"], serde_json::json!([value]), "variable {name}");
    }
}
