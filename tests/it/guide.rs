//! README and guide are true: their commands run, links lead somewhere, tables agree with the program.
//!
//! Before a shell block stands a comment that the rendered page does not show: `run`, or `not run:` and why.
//! The blocks of a page run as one script, in an empty directory, with this program first on PATH and in
//! namespaces of their own: the script has the network, `/run` and the processes to itself, and what it
//! leaves behind ends with it. `file NAME` first saves the following block under that name. What stands in a block that is
//! marked `printed`, these commands print, numbers aside.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::packages::{deb, packages};
use crate::common::{PROGRAM, Rig, needs_root, python};
use varta_fleet::event::EventKind;

/// Seconds that a page may take: ten times what it takes on an idle machine.
const PATIENCE: &str = "120";

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
struct Block<'a> {
    line: usize,
    language: &'a str,
    /// The comment in the line before it.
    mark: Option<&'a str>,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and every page of the guide, with their paths from the root.
fn pages() -> Vec<(String, String)> {
    let guide = fs::read_dir(root().join("src/guide")).expect("the guide");
    let names = guide.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut paths: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("src/guide/{name}")).collect();
    assert!(paths.len() >= 10, "{paths:?}");
    paths.push("README.md".to_owned());
    paths.sort();
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).expect("a page");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn page(path: &str) -> String {
    pages().into_iter().find(|(known, _)| known == path).unwrap_or_else(|| panic!("no {path}")).1
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let (mut before, mut indent) = ("", None);
    for (line, content) in (1..).zip(text.lines()) {
        let bare = content.trim_start();
        match (indent, bare.strip_prefix("```")) {
            (None, Some(language)) => {
                let mark = before.trim().strip_prefix("<!-- ").and_then(|mark| mark.strip_suffix(" -->"));
                blocks.push(Block { line, language, mark, text: String::new() });
                indent = Some(content.len() - bare.len());
            }
            (Some(_), Some("")) => indent = None,
            (Some(indent), _) => {
                let block = blocks.last_mut().expect("it began");
                block.text.push_str(content.get(indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
        before = content;
    }
    assert!(indent.is_none(), "a block does not end");
    blocks
}

// --- commands -------------------------------------------------------------------------------------

#[test]
fn every_shell_block_runs_or_says_why_not() {
    let mut findings = String::new();
    for (path, text) in pages() {
        for block in blocks(&text) {
            let is_shell = ["sh", "bash", "shell", "console"].contains(&block.language);
            let is_marked = match block.mark {
                Some("run") => is_shell,
                Some("printed") => block.language == "text",
                Some(mark) => match mark.split_once(' ') {
                    Some(("not", reason)) => reason.strip_prefix("run: ").is_some_and(|why| why.len() > 10),
                    Some(("file", _)) => true,
                    _ => false,
                },
                None => !is_shell,
            };
            if !is_marked {
                let _ = writeln!(findings, "{path}:{}: {} {:?}", block.line, block.language, block.mark);
            }
            if block.language.is_empty() {
                let _ = writeln!(findings, "{path}:{}: a block without a language", block.line);
            }
        }
    }
    assert!(findings.is_empty(), "\n{findings}");
}

/// Sets the loopback interface up: SIOCSIFFLAGS with IFF_UP.
const LOOPBACK: &str = "import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'lo', 1))";

/// Runs the marked blocks of a page one after the other, then `proof`.
fn run(path: &str, proof: &str) {
    needs_root("it runs the commands of a page in namespaces of their own");
    let directory = tempfile::tempdir().expect("a directory");
    let text = page(path);
    // The script's own network, queue limit, runtime directories and processes.
    let mut script = format!("mount -t tmpfs tmpfs /run\npython3 -c \"{LOOPBACK}\"\nset -eux\n");
    let mut count = 0;
    for block in blocks(&text) {
        match block.mark {
            Some("run") => {
                script.push_str(&block.text);
                count += 1;
            }
            Some(mark) => {
                if let Some(name) = mark.strip_prefix("file ") {
                    fs::write(directory.path().join(name), block.text).expect("write a file of the page");
                }
            }
            None => {}
        }
    }
    assert!(count > 0, "{path} has no block to run");
    script.push_str(proof);
    let program = Path::new(PROGRAM);
    let mut paths: Vec<PathBuf> = vec![program.parent().expect("in a directory").to_owned()];
    paths.extend(Path::new(&python()).parent().map(Path::to_owned));
    paths.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("timeout");
    command.args(["--kill-after", "1", PATIENCE, "unshare"]);
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", &script]).current_dir(directory.path()).stdin(Stdio::null());
    command.env("PATH", env::join_paths(paths).expect("paths")).env_remove("VARTA_DIR");
    command.env("VARTA_CONFIG", "/dev/null");
    // To a file: a process that outlives the script would hold a pipe open.
    let log = directory.path().join(".log");
    let written = fs::File::create(&log).expect("a log");
    command.stdout(written.try_clone().expect("its copy")).stderr(written);
    let status = command.status().expect("timeout is there: it is in coreutils");
    let said = fs::read_to_string(&log).expect("its log");
    assert!(status.success(), "{path}: {status}\n{said}");
    let printed: Vec<String> = said.lines().map(in_general).collect();
    for block in blocks(&text).iter().filter(|block| block.mark == Some("printed")) {
        for line in block.text.lines() {
            assert!(printed.contains(&in_general(line)), "{path}:{}: {line:?} is not in\n{said}", block.line);
        }
    }
}

/// A line without what differs from run to run: numbers, and how wide they are.
fn in_general(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let mut general = String::new();
        for c in word.chars() {
            let c = if c.is_ascii_digit() { '#' } else { c };
            // `0.5` is a number as `12` is.
            if c != '#' && !(c == '.' && general.ends_with('#')) || !general.ends_with('#') {
                general.push(c);
            }
        }
        general
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn lines_are_compared_without_numbers() {
    for (line, general) in [
        ("  3313 load-007  held", "# load-# held"),
        ("for 3.08 s: 12 of 30", "for # s: # of #"),
        ("a.b", "a.b"),
    ] {
        assert_eq!(in_general(line), general);
    }
}

#[test]
fn commands_of_the_readme_run() {
    // Fleet and load start side by side; `proof` waits until all agents beat.
    run("README.md", "until varta-fleet status --json | jq --exit-status '.up == 300'; do sleep 0.1; done");
}

#[test]
fn commands_of_operate_run() {
    run("src/guide/operate.md", "");
}

/// In a system of their own: they install the package.
#[test]
fn commands_of_install_run() {
    let rig = Rig::bare(packages());
    let page = page("src/guide/install.md");
    let mut script = format!(
        "set -eux\nmkdir -p guide/target/package\ncd guide\ncp {} target/package\n",
        deb(env!("CARGO_PKG_VERSION"))
    );
    for block in blocks(&page) {
        match block.mark {
            Some("run") => script.push_str(&block.text),
            Some(mark) => {
                if let Some(name) = mark.strip_prefix("file ") {
                    let _ = write!(script, "cat > {name} << 'EOF'\n{}EOF\n", block.text);
                }
            }
            None => {}
        }
    }
    let python = python();
    let directory = python.parent().expect("in a directory").display();
    rig.run(&format!("export PATH={directory}:$PATH\ncd /tmp\n{script}"));
}

#[test]
fn commands_of_act_run() {
    run("src/guide/act.md", "");
}

#[test]
fn commands_of_agents_run() {
    run("src/guide/agents.md", "");
}

#[test]
fn commands_of_events_run() {
    run("src/guide/events.md", "");
}

#[test]
fn commands_of_restart_run() {
    run("src/guide/restart.md", "");
}

#[test]
fn commands_of_verdicts_run() {
    run("src/guide/verdicts.md", "");
}

/// What is copied from the page is what the tests of `scripts/agents` run.
#[test]
fn the_page_of_agents_shows_each_of_them_as_it_is() {
    let page = page("src/guide/agents.md");
    let blocks = blocks(&page);
    let files = fs::read_dir(root().join("scripts/agents")).expect("the agents");
    let names = files.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut count = 0;
    for name in names.filter(|name| name != "varta.h") {
        let mark = format!("file {name}");
        let block = blocks.iter().find(|block| block.mark == Some(&mark));
        let shown = &block.unwrap_or_else(|| panic!("{name} is not on the page")).text;
        let file = fs::read_to_string(root().join("scripts/agents").join(&name)).expect("it was listed");
        assert!(*shown == file, "{name} is not what the page shows");
        count += 1;
    }
    assert!(count >= 7, "{count}");
}

/// Every page with commands has a test above.
#[test]
fn no_page_with_commands_is_forgotten() {
    let source = include_str!("guide.rs");
    for (path, text) in pages() {
        if blocks(&text).iter().any(|block| block.mark == Some("run")) {
            let is_run = [format!("run(\"{path}\", "), format!("page(\"{path}\")")];
            let is_run = is_run.iter().any(|call| source.contains(call));
            assert!(is_run, "nothing runs the commands of {path}");
        }
    }
}

// --- links ----------------------------------------------------------------------------------------

/// Targets of `[text](target)` and `[name]: target` outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            targets.extend(line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()));
            targets.extend(line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, to)| to));
        }
    }
    targets
}

/// Names that `[text][name]` refers to.
fn references(text: &str) -> Vec<&str> {
    let names = text.split("][").skip(1).filter_map(|rest| rest.split(']').next());
    names.filter(|name| name.chars().all(char::is_alphabetic)).collect()
}

/// The anchor that a forge makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_to_a_file_and_heading() {
    let mut findings = String::new();
    for (path, text) in pages() {
        let directory = root().join(&path).parent().expect("a directory").to_owned();
        for target in links(&text) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) =
                target.split_once('#').map_or((target, None), |(file, at)| (file, Some(at)));
            let to = if file.is_empty() { root().join(&path) } else { directory.join(file) };
            let has = |heading: &str| {
                let text = fs::read_to_string(&to).unwrap_or_default();
                text.lines().any(|line| {
                    line.starts_with('#') && anchor(line.trim_start_matches(['#', ' '])) == heading
                })
            };
            if !to.exists() || heading.is_some_and(|heading| !has(heading)) {
                let _ = writeln!(findings, "{path}: {target} leads nowhere");
            }
        }
        for name in references(&text) {
            if !text.contains(&format!("\n[{name}]: {name}.md")) {
                let _ = writeln!(findings, "{path}: [{name}] is not defined at its end");
            }
        }
    }
    assert!(findings.is_empty(), "\n{findings}");
}

/// Files that a page names without a link must exist, too.
#[test]
fn every_file_that_is_named_exists() {
    let mut findings = String::new();
    let mut count = 0;
    for (path, text) in pages() {
        for name in text.split('`').skip(1).step_by(2) {
            let is_ours = ["src/", "tests/", "scripts/", "benches/"].iter().any(|top| name.starts_with(top));
            if !is_ours || name.contains([' ', '\n']) {
                continue;
            }
            count += 1;
            if !root().join(name).exists() {
                let _ = writeln!(findings, "{path}: {name} does not exist");
            }
        }
    }
    assert!(count > 20, "only {count} files were found");
    assert!(findings.is_empty(), "\n{findings}");
}

/// Rustdoc shows only the pages that the module includes.
#[test]
fn every_page_is_in_the_module_and_in_the_index() {
    let module = fs::read_to_string(root().join("src/guide/mod.rs")).expect("the module");
    let index = page("src/guide/index.md");
    for (path, _) in pages() {
        let Some(name) = path.strip_prefix("src/guide/").filter(|name| *name != "index.md") else { continue };
        let topic = name.trim_end_matches(".md");
        assert!(module.contains(&format!("\"{name}\" {topic}\n")), "{name} is not in the module");
        assert!(module.contains(&format!("[{topic}]: crate::guide::{topic}\\n")), "no link leads to {topic}");
        assert!(index.contains(&format!("]({name})")), "{name} is not in the index");
    }
}

// --- tables ---------------------------------------------------------------------------------------

#[test]
fn the_page_of_events_says_of_each_kind_what_the_program_says() {
    let page = page("src/guide/events.md");
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| `")).take(EventKind::MEANINGS.len()).collect();
    let expected: Vec<String> =
        EventKind::MEANINGS.iter().map(|(kind, meaning)| format!("| `{kind}` | {meaning} |")).collect();
    assert_eq!(rows, expected);
}

// --- the readers themselves -----------------------------------------------------------------------

#[test]
fn blocks_and_links_are_read_as_they_are_meant() {
    let text = "<!-- run -->\n```sh\na\n```\n\n   ```toml\n   [b]\n   ```\n[c](d.md#e) [f][g]\n[g]: h.md\n";
    let block = |line, language, mark, text: &str| Block { line, language, mark, text: text.to_owned() };
    assert_eq!(blocks(text), [block(2, "sh", Some("run"), "a\n"), block(6, "toml", None, "[b]\n")]);
    assert_eq!(links(text), ["d.md#e", "h.md"]);
    assert_eq!(references(text), ["g"]);
    assert_eq!(anchor("The six columns, 0.2"), "the-six-columns-02");
}
