//! `varta-fleet demo` must work, show what it promises, and leave nothing behind.

use crate::common::program;

#[test]
fn the_demo_shows_what_it_promises_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("tempdir");
    let output = program().arg("demo").env("TMPDIR", temporary.path()).output().expect("run the demo");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    for kind in ["stall ", "resume ", "auth ", "terminal ", "exit "] {
        let told = text.lines().filter(|line| line.contains(&format!("    {kind}"))).count();
        assert_eq!(told, if kind == "exit " { 2 } else { 1 }, "{kind}: {text}");
    }
    assert!(text.contains("1 of them forged and told as such"), "{text}");
    assert!(text.contains("1 true stall, 0 false ones"), "{text}");
    assert!(text.contains("next, a fleet of your own: varta-fleet run"), "{text}");
    let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("list").collect();
    assert!(left.is_empty(), "{left:?}");
}
