//! What is shipped for operation: rules that fire, a runbook entry for each alert, a dashboard of metrics
//! that exist, and two alerts from real agents to a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::http::Connection;
use crate::common::{Agent, AgentOptions, Observer, Options, SOON};

/// Where the package installs the runbook.
const RUNBOOK: &str = "/usr/share/doc/varta-fleet/RUNBOOK.md";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn promtool(arguments: &[&str], input: &[u8]) -> Output {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .current_dir(shipped("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: scripts/check --setup installs it");
    tool.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    tool.wait_with_output().expect("it ends")
}

fn assert_well(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The names of all alerts in the rules, in order.
fn alerts() -> Vec<String> {
    let rules = read("prometheus/rules.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() >= 10, "{names:?}");
    names
}

#[test]
fn rules_fire_where_they_have_to_and_nowhere_else() {
    assert_well(&promtool(&["check", "rules", "rules.yml", "runbook.yml"], b""));
    assert_well(&promtool(&["test", "rules", "rules_test.yml"], b""));
    assert_well(&promtool(&["check", "config", "--syntax-only", "scrape.yml"], b""));
    let tests = read("prometheus/rules_test.yml");
    for alert in alerts() {
        for how in ["fires", "stays quiet"] {
            assert!(tests.contains(&format!("- name: {alert} {how}\n")), "no test that {alert} {how}");
        }
    }
}

#[test]
fn every_alert_has_its_page_of_the_runbook() {
    let runbook = read("prometheus/RUNBOOK.md");
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, alerts());
    let rules = read("prometheus/rules.yml");
    for what in ["severity: ", "summary: ", "description: ", "runbook_url: "] {
        assert_eq!(rules.matches(what).count(), alerts().len(), "{what}");
    }
    let urls: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    for (url, alert) in urls.iter().zip(alerts()) {
        let end = format!("{{{{ else }}}}file://{RUNBOOK}{{{{ end }}}}#{}'", alert.to_lowercase());
        assert!(url.ends_with(&end), "{alert}: {url}");
    }
    let package = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).expect("read it");
    let directory = RUNBOOK.trim_start_matches('/').trim_end_matches("RUNBOOK.md");
    let asset = format!(r#"["scripts/deploy/prometheus/RUNBOOK.md", "{directory}", "644"]"#);
    assert!(package.contains(&asset), "the package does not install {RUNBOOK}");
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
fn what_rules_and_dashboard_ask_for_exists_and_is_well_formed() {
    let observer = Observer::start(Options::default());
    let answer = observer.get("/metrics");
    assert_well(&promtool(&["check", "metrics"], answer.text().as_bytes()));
    let samples = answer.text().lines().filter(|line| !line.starts_with('#'));
    let exist: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    for name in ["prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/varta-fleet.json"] {
        let asked = metrics_in(&read(name));
        assert!(asked.len() > 10, "{name}: {asked:?}");
        let missing: Vec<&String> = asked.iter().filter(|metric| !exist.contains(metric.as_str())).collect();
        assert!(missing.is_empty(), "{name} asks for {missing:?}");
    }
    observer.stop();
}

#[test]
fn panels_of_the_dashboard_have_their_own_places() {
    let dashboard: Value = serde_json::from_str(&read("grafana/varta-fleet.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another's");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|of| panel["gridPos"][of].as_u64().expect("a place"));
        assert!(x + w <= 24, "{title} is too wide");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on another panel at {place:?}");
        }
        if panel["type"] != "row" {
            assert!(!panel["targets"].as_array().expect("targets").is_empty(), "{title}");
        }
    }
}

/// A Prometheus of the test's own; ends on drop.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Scrapes every second, with the shipped rules, their `for` shortened to two seconds.
    fn start(dir: &Path, observer: &Observer) -> Self {
        let rules: String = read("prometheus/rules.yml")
            .lines()
            .map(|line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        fs::write(dir.join("rules.yml"), rules).expect("write the rules");
        let config = read("prometheus/scrape.yml")
            .replace("15s", "1s")
            .replace("127.0.0.1:9464 #", &format!("{} #", observer.http_address()));
        fs::write(dir.join("prometheus.yml"), config).expect("write the configuration");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .spawn()
            .expect("prometheus is missing: scripts/check --setup installs it");
        let mut prometheus = Self { child, port };
        prometheus.wait_for("Prometheus", |prometheus| prometheus.get("/-/ready").is_some().then_some(()));
        prometheus
    }

    fn get(&self, path: &str) -> Option<String> {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let address = ([127, 0, 0, 1], self.port).into();
        let answer = Connection::tcp(address).get(path, &["Connection: close"]);
        (answer.code == 200).then(|| answer.text().to_owned())
    }

    /// The state of an alert, `pending` or `firing`; `None` if neither.
    fn state_of(&self, alert: &str) -> Option<String> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/alerts")?).ok()?;
        let alerts = answer["data"]["alerts"].as_array()?.iter();
        let mut states = alerts
            .filter(|found| found["labels"]["alertname"] == alert)
            .filter_map(|found| found["state"].as_str().map(str::to_owned));
        states.next()
    }

    fn wait_for<R>(&mut self, what: &str, found: impl Fn(&Self) -> Option<R>) -> R {
        let until = Instant::now() + 6 * SOON;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("Prometheus ended: {status}");
            }
            assert!(Instant::now() < until, "no {what}; alerts: {:?}", self.get("/api/v1/alerts"));
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn expect(&mut self, alert: &str, state: Option<&str>) {
        let what = format!("{alert} {state:?}");
        self.wait_for(&what, |prometheus| (prometheus.state_of(alert).as_deref() == state).then_some(()));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stall_wave_and_the_end_of_the_observer_fire_end_to_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let mut observer = Observer::start(Options { arguments, ..Options::default() });
    let agents = Agent::start_many(&observer, (0..20).map(|_| AgentOptions::default()));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let mut prometheus = Prometheus::start(dir.path(), &observer);
    let scraped = r#"/api/v1/query?query=sum(varta_agents%7Bjob%3D%22varta-fleet%22%7D)"#;
    prometheus
        .wait_for("scrape", |prometheus| prometheus.get(scraped).filter(|answer| answer.contains("\"20\"]")));
    prometheus.expect("VartaStallWave", None);
    for agent in &agents[..5] {
        agent.signal(Signal::STOP);
    }
    prometheus.expect("VartaStallWave", Some("firing"));
    prometheus.expect("VartaObserverDown", None);
    for agent in &agents[..5] {
        agent.signal(Signal::CONT);
    }
    prometheus.expect("VartaStallWave", None);
    let _place = observer.kill();
    prometheus.expect("VartaObserverDown", Some("firing"));
}
