//! A Prometheus that scrapes an observer as the shipped configuration says, and what is shipped with it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Connection;
use super::{Observer, SOON};

/// The path of a file that is shipped for operation.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(name)
}

/// Its text.
pub fn text_of(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of all alerts in the rules, in order.
pub fn alerts() -> Vec<String> {
    let rules = text_of("prometheus/rules.yml");
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() >= 10, "{names:?}");
    names
}

/// A Prometheus of the test's own; ends on drop.
pub struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Scrapes every second, with the shipped rules, their `for` shortened to two seconds.
    pub fn start(dir: &Path, observer: &Observer) -> Self {
        let rules: String = text_of("prometheus/rules.yml")
            .lines()
            .map(|line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        fs::write(dir.join("rules.yml"), rules).expect("write the rules");
        fs::write(dir.join("runbook.yml"), text_of("prometheus/runbook.yml")).expect("write where it is");
        let config = text_of("prometheus/scrape.yml")
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

    /// The body of the answer; `None` if it is no good one.
    pub fn get(&self, path: &str) -> Option<String> {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let address = ([127, 0, 0, 1], self.port).into();
        let answer = Connection::tcp(address).get(path, &["Connection: close"]);
        (answer.code == 200).then(|| answer.text().to_owned())
    }

    /// The state of an alert, `pending` or `firing`; `None` if neither.
    pub fn state_of(&self, alert: &str) -> Option<String> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/alerts")?).ok()?;
        let alerts = answer["data"]["alerts"].as_array()?.iter();
        let mut states = alerts
            .filter(|found| found["labels"]["alertname"] == alert)
            .filter_map(|found| found["state"].as_str().map(str::to_owned));
        states.next()
    }

    /// Asks until it is found.
    pub fn wait_for<R>(&mut self, what: &str, found: impl Fn(&Self) -> Option<R>) -> R {
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

    /// Asks until all are answered, for a while; returns those that are not.
    pub fn unanswered<Q>(&mut self, mut queries: Vec<Q>, is_answered: impl Fn(&Self, &Q) -> bool) -> Vec<Q> {
        let until = Instant::now() + SOON;
        loop {
            queries.retain(|query| !is_answered(self, query));
            if queries.is_empty() || Instant::now() > until {
                return queries;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the alert is in this state.
    pub fn expect(&mut self, alert: &str, state: Option<&str>) {
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
