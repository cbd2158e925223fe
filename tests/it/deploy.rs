//! What is shipped for operation: rules that fire, a runbook entry for each alert, and two alerts from real
//! agents to a real Prometheus. The dashboard has [tests of its own](crate::dashboard).

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::common::prometheus::{Prometheus, alerts, shipped, text_of};
use crate::common::{Agent, AgentOptions, Observer, Options, SOON};

/// Where the package installs the runbook.
const RUNBOOK: &str = "/usr/share/doc/varta-fleet/RUNBOOK.md";

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

#[test]
fn rules_fire_where_they_have_to_and_nowhere_else() {
    assert_well(&promtool(&["check", "rules", "rules.yml", "runbook.yml"], b""));
    assert_well(&promtool(&["test", "rules", "rules_test.yml"], b""));
    assert_well(&promtool(&["check", "config", "--syntax-only", "scrape.yml"], b""));
    let tests = text_of("prometheus/rules_test.yml");
    for alert in alerts() {
        for how in ["fires", "stays quiet"] {
            assert!(tests.contains(&format!("- name: {alert} {how}\n")), "no test that {alert} {how}");
        }
    }
}

#[test]
fn every_alert_has_its_page_of_the_runbook() {
    let runbook = text_of("prometheus/RUNBOOK.md");
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, alerts());
    let rules = text_of("prometheus/rules.yml");
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

/// Links of alerts have the section in small letters, as forges make anchors; those of the dashboard have its name.
#[test]
fn the_page_of_the_runbook_has_the_anchors_that_alerts_and_dashboard_link_to() {
    let observer = Observer::start(Options::default());
    let page = observer.get("/runbook");
    observer.stop();
    for alert in alerts() {
        for anchor in [alert.to_lowercase(), alert] {
            assert!(page.text().contains(&format!(" id=\"{anchor}\"")), "{anchor}");
        }
    }
    assert!(text_of("grafana/varta-fleet.json").contains("${runbook}#${__data.fields.Alert}"));
    assert!(text_of("prometheus/runbook.yml").contains("url: http://127.0.0.1:9464/runbook\n"));
}

#[test]
fn metrics_are_well_formed() {
    let observer = Observer::start(Options::default());
    assert_well(&promtool(&["check", "metrics"], observer.get("/metrics").text().as_bytes()));
    observer.stop();
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
