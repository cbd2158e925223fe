//! The status page in a browser.

use std::path::Path;
use std::process::Command;

use crate::common::{Agent, AgentOptions, Observer, Options, SOON};

#[test]
fn a_browser_shows_the_fleet_as_it_is_with_and_without_scripts() {
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let mut observer = Observer::start(Options { arguments, ..Options::default() });
    let agents = Agent::start_many(&observer, (0..12).map(|_| AgentOptions::default()));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let output = Command::new(crate::common::python())
        .arg(tests.join("browser/page.py"))
        .arg(format!("http://{}/", observer.http_address()))
        .arg(agents[0].pid().to_string())
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("page"))
        .output()
        .expect("run Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\nis everything set up? scripts/check --setup");
    observer.stop();
}
