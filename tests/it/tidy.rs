//! Rules of the tree that the compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

// --- rules of the sources -------------------------------------------------------------------------

/// Pure rules: every instant is an argument, every effect is returned. Each entry stands for all paths that
/// begin with it.
const PURE: [&str; 6] = [
    "src/wire.rs",
    "src/notify/message",
    "src/notify/daemon",
    "src/rules/",
    "src/shard/tracker",
    "src/history/rings",
];

/// Names that read a clock or do output wherever they stand in code.
const IMPURE: [&str; 7] =
    ["Instant", "SystemTime", "SystemClock", "Clock", "clock_gettime", "println", "eprintln"];
/// Modules that do, if they are imported or named in a path; a variable may have such a name. What follows
/// `io` decides about it.
const IMPURE_MODULES: [&str; 9] = ["fs", "net", "os", "env", "process", "thread", "libc", "rustix", "sys"];
/// The exception: it prefetches memory, and has no effect on results.
const HARMLESS: &str = "use crate::sys::memory::prefetch;";
/// Items of `std::io` that neither read nor write.
const PLAIN_IO: [&str; 3] = ["Error", "ErrorKind", "Result"];

#[test]
fn every_source_file_says_what_it_is() {
    let mut findings = String::new();
    for file in sources() {
        if !file.text.starts_with("//! ") {
            let _ = writeln!(findings, "{}: does not begin with a `//!` line", file.path);
        }
    }
    assert_none(&findings);
}

/// Folders whose files run on a thread of the fleet: each file names its thread, or the folder's `mod.rs`
/// does for all.
const ON_THREADS: [&str; 11] = [
    "aggregator",
    "fleet",
    "history",
    "http",
    "lane",
    "process",
    "rundir",
    "shard",
    "sinks",
    "table",
    "view",
];

#[test]
fn what_runs_on_a_thread_says_on_which() {
    let sources = sources();
    let says = |file: &File| {
        let head = file.text.lines().take_while(|line| line.starts_with("//!"));
        head.flat_map(|line| line.split_whitespace()).any(|word| word == "Thread:" || word == "Threads:")
    };
    let mut findings = String::new();
    for folder in ON_THREADS {
        let root = format!("src/{folder}/mod.rs");
        let is_said = sources.iter().find(|file| file.path == root).map(says);
        assert!(is_said.is_some(), "there is no {root}: has it moved?");
        let within = |file: &&File| file.path.starts_with(&format!("src/{folder}/"));
        for file in sources.iter().filter(within).filter(|file| is_said != Some(true) && !says(file)) {
            let _ = writeln!(findings, "{}: neither it nor {root} has a line `Thread:`", file.path);
        }
    }
    assert_none(&findings);
}

#[test]
fn unsafe_code_is_in_sys_only() {
    let mut findings = String::new();
    for file in sources().iter().filter(|file| !file.path.starts_with("src/sys/")) {
        for (number, line) in code(&file.text) {
            if words(&line).any(|word| word == "unsafe") {
                let _ = writeln!(findings, "{}:{number}: unsafe outside src/sys", file.path);
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn pure_rules_read_no_clock_and_do_no_input_or_output() {
    let mut findings = String::new();
    let sources = sources();
    // Tests are exempt, in the file or in a `_tests.rs` beside it.
    let is_twin = |file: &File| file.path.ends_with("_tests.rs");
    let pure = |file: &&File| PURE.iter().any(|prefix| file.path.starts_with(prefix)) && !is_twin(file);
    assert!(sources.iter().any(|file| pure(&file)), "none of {PURE:?} exists: has it moved?");
    for file in sources.iter().filter(pure) {
        let rules = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code(rules) {
            if let Some(word) = impure(&line) {
                let _ = writeln!(findings, "{}:{number}: `{word}` in a pure rule", file.path);
            }
        }
    }
    assert_none(&findings);
}

fn impure(line: &str) -> Option<&str> {
    if line.trim() == HARMLESS {
        return None;
    }
    let imports = line.trim_start().starts_with("use ");
    let in_path = |word: &str| {
        let end = word.as_ptr() as usize - line.as_ptr() as usize + word.len();
        line[end..].starts_with("::")
    };
    let reaches_out =
        |word: &&str| IMPURE.contains(word) || IMPURE_MODULES.contains(word) && (imports || in_path(word));
    if let Some(word) = words(line).find(reaches_out) {
        return Some(word);
    }
    let mut from_io = words(line).skip_while(|word| *word != "io");
    let io = from_io.next().filter(|io| imports || in_path(io))?;
    match from_io.next() {
        // `use std::io;` alone does nothing.
        None => None,
        Some(next) if PLAIN_IO.contains(&next) => None,
        Some(_) => Some(io),
    }
}

/// A test that starts the program by another way may read the configuration of the machine it runs on.
#[test]
fn tests_start_the_program_by_one_way() {
    let variable = concat!("CARGO_BIN_", "EXE_varta-fleet");
    let named =
        files().into_iter().filter(|file| file.path.starts_with("tests/") && file.text.contains(variable));
    let named: Vec<String> = named.map(|file| file.path).collect();
    assert_eq!(named, ["tests/it/common/mod.rs"], "start it by `program` or `program_by` in tests/it/common");
}

#[test]
fn nothing_is_left_for_later() {
    // Concatenated, so that this file does not match.
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
        concat!("dbg", "!("),
    ];
    let mut findings = String::new();
    for file in files() {
        for (number, line) in numbered(&file.text) {
            for marker in markers.iter().filter(|marker| line.contains(**marker)) {
                let _ = writeln!(findings, "{}:{number}: {marker}", file.path);
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn no_code_is_commented_out() {
    let mut findings = String::new();
    for file in files().iter().filter(|file| file.path.ends_with(".rs")) {
        for (number, line) in numbered(&file.text) {
            if looks_commented_out(line) {
                let _ = writeln!(findings, "{}:{number}: {}", file.path, line.trim());
            }
        }
    }
    assert_none(&findings);
}

/// A plain comment (not documentation, which may show code) that reads as a statement or an item.
fn looks_commented_out(line: &str) -> bool {
    let Some(comment) = line.trim_start().strip_prefix("//") else { return false };
    if comment.starts_with(['/', '!']) {
        return false;
    }
    let comment = comment.trim();
    let statement = comment.ends_with(';') && comment.contains(['(', '=', ':']);
    let block = comment.ends_with('{') || comment == "}" || comment == "});";
    let item = ["let ", "use ", "fn ", "pub ", "mod ", "impl ", "#["]
        .iter()
        .any(|start| comment.starts_with(start) && comment.ends_with([';', '{', '}', ']', ',']));
    statement || block || item
}

// --- rules of everything else ---------------------------------------------------------------------

#[test]
fn no_path_of_a_developers_machine_is_written_down() {
    // Home directories and the path of this clone. Concatenated, so that this file does not match.
    let mut places = vec![
        concat!("/ho", "me/").to_owned(),
        concat!("/Us", "ers/").to_owned(),
        concat!("/ro", "ot/").to_owned(),
    ];
    let here = env!("CARGO_MANIFEST_DIR");
    if Path::new(here).components().count() > 2 {
        places.push(here.to_owned());
    }
    let mut findings = String::new();
    for file in files() {
        for (number, line) in numbered(&file.text) {
            for place in places.iter().filter(|place| line.contains(place.as_str())) {
                let _ = writeln!(findings, "{}:{number}: {place}", file.path);
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn scripts_are_executable_and_explain_themselves() {
    let mut findings = String::new();
    let scripts: Vec<_> = files()
        .into_iter()
        .filter(|file| file.path.starts_with("scripts/") && file.text.starts_with("#!"))
        // Only dpkg runs these.
        .filter(|file| !file.path.starts_with("scripts/deploy/debian/"))
        .collect();
    assert!(!scripts.is_empty(), "there is no script: have they moved?");
    for file in scripts {
        let path = root().join(&file.path);
        let mode = fs::metadata(&path).expect("listed a moment ago").permissions().mode();
        if mode & 0o111 == 0 {
            let _ = writeln!(findings, "{}: not executable", file.path);
            continue;
        }
        let output = Command::new(&path).arg("--help").output().expect("run a script");
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        if !output.status.success() || !text.starts_with("usage: ") {
            let _ = writeln!(findings, "{}: --help gives no usage: {output:?}", file.path);
        }
        if file.text.contains("bash\n") && !file.text.contains("\nset -euo pipefail\n") {
            let _ = writeln!(findings, "{}: runs on after a failed command", file.path);
        }
    }
    assert_none(&findings);
}

#[test]
fn relative_links_of_the_documents_lead_somewhere() {
    let mut findings = String::new();
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        let directory = root().join(&file.path).parent().expect("a file is in a directory").to_owned();
        for target in links(&file.text) {
            let target = target.split('#').next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !directory.join(target).exists() {
                let _ = writeln!(findings, "{}: {target} does not exist", file.path);
            }
        }
    }
    assert_none(&findings);
}

/// The targets of `[text](target)` and `[name]: target`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let named = text
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: "))
        .map(|(_, target)| target.trim());
    inline.chain(named)
}

// --- the rules themselves -------------------------------------------------------------------------

/// A rule that finds nothing might be unable to find anything.
#[test]
fn the_rules_find_what_they_look_for() {
    let text = "let a = 1; // unsafe\n/* unsafe\nunsafe */ let b = \"unsafe \\\" unsafe\";\n\
                let c = r#\"unsafe\"#; let d = '\"'; unsafe { e() }\nlet f: &'static str;\n";
    let found: Vec<_> = code(text)
        .filter(|(_, line)| words(line).any(|word| word == "unsafe"))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(found, [4]);

    for line in [
        "let now = Instant::now();",
        "use std::{collections::HashMap, fs};",
        "let x = std::io::stdin();",
        "rustix::time::clock_gettime(id)",
        "use std::io::Read;",
        "use crate::sys::mmsg;",
    ] {
        assert!(impure(line).is_some(), "{line}");
    }
    for line in
        ["use std::io;", "fn f() -> io::Result<()>", "use std::fmt;", "let process = io + fs;", HARMLESS]
    {
        assert_eq!(impure(line), None, "{line}");
    }

    for line in ["    // let x = 3;", "// foo(bar);", "// } else {", "//use std::fmt;", "// }"] {
        assert!(looks_commented_out(line), "{line}");
    }
    for line in ["// Same cost; the table is full.", "/// let x = 3;", "// use what is there", "x(); // y"] {
        assert!(!looks_commented_out(line), "{line}");
    }

    let text = "[a](b.md#c) ![d](e.png \"f\")\n[g]: h.md\n";
    assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c", "e.png", "h.md"]);
}

// --- imports --------------------------------------------------------------------------------------

/// Forbidden imports, by the beginnings of paths: from, to and why.
const FORBIDDEN: [(&str, &str, &str); 14] = [
    ("src/sys/", "src/", "system calls know nothing of what they are for"),
    ("src/rules/", "src/sys/", "the rules are pure"),
    ("src/wire.rs", "src/sys/", "the decoder is pure"),
    ("src/shard/", "src/aggregator/", "a shard knows only its lanes"),
    ("src/lane/", "src/shard/", "a lane knows neither of its ends"),
    ("src/lane/", "src/aggregator/", "a lane knows neither of its ends"),
    ("src/table/", "src/lane/", "the table is what lanes carry news of"),
    ("src/rundir/", "src/aggregator/", "who is told of its files is not for it to know"),
    ("src/config/", "src/rundir/dir.rs", "a plan is made before there is a directory"),
    ("src/view/", "src/http/", "what readers see does not depend on how they ask"),
    ("src/api/", "src/http/", "what is answered is the same for both ends"),
    ("src/aggregator/", "src/http/", "who asks is none of its business"),
    ("src/", "src/fleet/", "the wiring is above everything that it wires"),
    ("src/", "src/lab/", "a release has nothing of what tests and benches need"),
];
/// Imports that are allowed although the table forbids them.
const ALLOWED: [(&str, &str); 7] = [
    ("src/sys/", "src/sys/"),
    ("src/sys/", "src/time.rs"),
    ("src/fleet/", "src/fleet/"),
    ("src/lib.rs", "src/fleet/"),
    ("src/lab/", "src/lab/"),
    ("src/lab/", "src/fleet/"),
    ("src/lib.rs", "src/lab/"),
];

#[test]
fn files_import_each_other_in_no_circle() {
    let imports = imports(&sources());
    let mut findings = String::new();
    for circle in circles(&imports) {
        let _ = writeln!(findings, "a circle of {} files:", circle.len());
        for file in &circle {
            let within: Vec<&str> =
                imports[*file].iter().map(String::as_str).filter(|to| circle.contains(to)).collect();
            let _ = writeln!(findings, "  {file} imports {}", within.join(", "));
        }
    }
    assert_none(&findings);
}

#[test]
fn imports_lead_down() {
    let mut findings = String::new();
    for (from, to) in imports(&sources()).iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)))
    {
        let begins = |(one, other): (&str, &str)| from.starts_with(one) && to.starts_with(other);
        let is_allowed = ALLOWED.into_iter().any(begins);
        for (_, _, why) in FORBIDDEN.into_iter().filter(|(one, other, _)| !is_allowed && begins((one, other)))
        {
            let _ = writeln!(findings, "{from} imports {to}: {why}");
        }
    }
    assert_none(&findings);
}

#[test]
fn the_reader_of_imports_finds_them() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let files = [
        file("src/lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod w;\npub use a::X;"),
        file(
            "src/a.rs",
            "use crate::{b::{self, c::Y}};\n// use crate::w;\n#[cfg(test)]\nmod tests {\n use crate::w;\n}",
        ),
        file("src/b/mod.rs", "pub mod c;"),
        file("src/b/c.rs", "use super::super::a;\nfn f() { super::g(); }"),
        file("src/w.rs", "use crate::a;"),
        file("src/bin/varta-fleet/main.rs", "mod e;"),
        file("src/bin/varta-fleet/e.rs", "use varta_fleet::b;\nuse crate::e;"),
    ];
    let imports = imports(&files);
    let of = |path: &str| imports[path].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("src/lib.rs"), ["src/a.rs"]);
    assert_eq!(of("src/a.rs"), ["src/b/c.rs", "src/b/mod.rs"]);
    assert_eq!(of("src/b/c.rs"), ["src/a.rs", "src/b/mod.rs"]);
    assert_eq!(of("src/bin/varta-fleet/e.rs"), [""; 0]);
    assert!(!imports.contains_key("src/w.rs"), "it is for tests alone");
    assert_eq!(circles(&imports), [["src/a.rs", "src/b/c.rs"]]);
}

type Imports = BTreeMap<String, BTreeSet<String>>;

/// The files whose items each source file names, by `use` or by a path; imports of tests do not count.
fn imports(files: &[File]) -> Imports {
    let mut found = Imports::new();
    for root in ["src/bin/varta-fleet/", "src/"] {
        let modules: BTreeMap<Vec<String>, &File> = files
            .iter()
            .filter(|file| {
                file.path.starts_with(root) && (root != "src/" || !file.path.starts_with("src/bin/"))
            })
            .map(|file| (module_of(&file.path[root.len()..]), file))
            .collect();
        let for_tests: BTreeSet<Vec<String>> =
            modules.iter().flat_map(|(module, file)| test_modules(module, &file.text)).collect();
        let is_for_tests =
            |module: &[String]| (1..=module.len()).any(|end| for_tests.contains(&module[..end]));
        for (module, file) in modules.iter().filter(|(module, _)| !is_for_tests(module)) {
            let named =
                paths(&product(&file.text)).into_iter().filter_map(|path| resolve(&path, module, &modules));
            let named =
                named.filter(|to| to != module && !is_for_tests(to)).map(|to| modules[&to].path.clone());
            found.insert(file.path.clone(), named.collect());
        }
    }
    found
}

/// The module of a file, from its path below the root.
fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// A file without its tests, comments and literals.
fn product(text: &str) -> String {
    let lines: Vec<String> = code(text).map(|(_, line)| line).collect();
    let tests = lines.windows(2).position(|two| {
        two[0].trim() == "#[cfg(test)]" && two[1].trim_start().starts_with("mod ") && two[1].ends_with('{')
    });
    lines[..tests.unwrap_or(lines.len())].join("\n")
}

/// The modules that are declared for tests only.
fn test_modules(module: &[String], text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut is_for_tests = false;
    for (_, line) in code(text) {
        let line = line.trim();
        if line.starts_with("#[") {
            is_for_tests |= line.starts_with("#[cfg(") && words(line).any(|word| word == "test");
        } else if !line.is_empty() {
            let name = line.trim_end_matches(';').rsplit(' ').next().unwrap_or_default();
            if is_for_tests && line.ends_with(';') && words(line).any(|word| word == "mod") {
                found.push([module, &[name.to_owned()]].concat());
            }
            is_for_tests = false;
        }
    }
    found
}

/// Every path that is imported or begins with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        if let Some((before, path)) = statement.rsplit_once("use ")
            && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            expand(&path.split_whitespace().collect::<Vec<_>>().join(" "), "", &mut found);
        }
    }
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let is_whole =
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = &code[at..end.map_or(code.len(), |end| at + end)];
            // The path of an import's group, which is expanded above, ends with a colon.
            if is_whole && !path.ends_with(':') {
                found.push(path.to_owned());
            }
        }
    }
    found
}

/// The paths in the tree of an import.
fn expand(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return found.push(format!("{prefix}{path}"));
    };
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut from) = (0, 0);
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[from..at], &prefix, found);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        expand(&inner[from..], &prefix, found);
    }
}

/// The innermost module that a path in `here` names; `None` if it is in another crate.
fn resolve(path: &str, here: &[String], modules: &BTreeMap<Vec<String>, &File>) -> Option<Vec<String>> {
    let mut parts = path.split("::").map(str::trim).filter(|part| !part.is_empty()).peekable();
    let mut at = match *parts.peek()? {
        "crate" => Vec::new(),
        "self" | "super" => here.to_vec(),
        first if modules.contains_key(&[here, &[first.to_owned()]].concat()) => here.to_vec(),
        _ => return None,
    };
    let mut is_leading = true;
    for part in parts {
        match part {
            "crate" | "self" => {}
            "super" if is_leading => drop(at.pop()),
            name => {
                is_leading = false;
                at.push(name.to_owned());
                if !modules.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
        }
    }
    modules.contains_key(&at).then_some(at)
}

/// The sets of files that all import each other, directly or not.
fn circles(imports: &Imports) -> Vec<Vec<&str>> {
    fn reach<'a>(imports: &'a Imports, from: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            next.extend(imports[file].iter().map(String::as_str).filter(|to| reached.insert(*to)));
        }
        reached
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (file.as_str(), reach(imports, file))).collect();
    let mut found: Vec<Vec<&str>> = Vec::new();
    for (file, to) in &reached {
        let circle: Vec<&str> = to.iter().copied().filter(|other| reached[other].contains(file)).collect();
        if circle.len() > 1 && circle.contains(file) && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

// --- recipes --------------------------------------------------------------------------------------

/// What of each sort there is, by a piece of its code: it stands in no file but those that the recipe names.
const ADDED: [(&str, &str); 5] = [
    ("a metric", "\"varta_"),
    ("a sink of events", "fn write_line("),
    ("an input", " Transport for "),
    ("an event kind", "enum EventKind "),
    ("a count to an answer", "pub stalls_refuted: "),
];

/// A row of the table of recipes.
struct Recipe {
    add: String,
    /// Files and folders.
    places: Vec<String>,
    /// What is written as `this` in `that/file`.
    anchors: Vec<(String, String)>,
    /// Whatever else it names: it is in one of the files.
    others: Vec<String>,
}

fn recipes() -> Vec<Recipe> {
    const PAGE: &str = "src/guide/architecture.md";
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let (_, table) = page.split_once("\n## Add something\n").expect("it has recipes");
    table.lines().filter(|line| line.starts_with("| a")).map(recipe).collect()
}

fn recipe(row: &str) -> Recipe {
    let add = row.trim_start_matches("| ").split(" | ").next().unwrap_or_default().to_owned();
    let quoted: Vec<&str> = row.split('`').collect();
    let code = || (1..quoted.len()).step_by(2);
    let is_place = |word: &str| word.starts_with("src/") || word.starts_with("tests/");
    // Who checks it is in the last cell.
    let is_to_do =
        |at: &usize| quoted[..*at].iter().map(|text| text.matches(" | ").count()).sum::<usize>() < 2;
    let is_in = |at: &usize| quoted[at + 1] == " in " && quoted.get(at + 2).is_some_and(|to| is_place(to));
    Recipe {
        add,
        places: code().map(|at| quoted[at].to_owned()).filter(|word| is_place(word)).collect(),
        anchors: code().filter(is_in).map(|at| (quoted[at].to_owned(), quoted[at + 2].to_owned())).collect(),
        others: code()
            .filter(|at| is_to_do(at) && !is_in(at) && !is_place(quoted[*at]))
            .map(|at| quoted[at].to_owned())
            .collect(),
    }
}

#[test]
fn recipes_name_what_is_there() {
    let recipes = recipes();
    assert!(recipes.len() > ADDED.len(), "only {} recipes were found", recipes.len());
    let mut findings = String::new();
    for Recipe { add, places, anchors, others } in &recipes {
        for place in places.iter().filter(|place| !root().join(place).exists()) {
            let _ = writeln!(findings, "{add}: {place} does not exist");
        }
        for (anchor, place) in anchors {
            let text = fs::read_to_string(root().join(place)).unwrap_or_default();
            if !words(&text).any(|word| word == anchor) {
                let _ = writeln!(findings, "{add}: there is no {anchor} in {place}");
            }
        }
        let texts: Vec<String> =
            places.iter().map(|place| fs::read_to_string(root().join(place)).unwrap_or_default()).collect();
        for other in
            others.iter().filter(|other| !texts.iter().any(|text| words(text).any(|word| word == **other)))
        {
            let _ = writeln!(findings, "{add}: there is no {other} in any of {places:?}");
        }
        if anchors.is_empty() {
            let _ = writeln!(findings, "{add}: the recipe names nothing in a file");
        }
    }
    assert_none(&findings);
}

#[test]
fn what_was_added_is_where_the_recipes_say() {
    let (recipes, sources) = (recipes(), sources());
    let recipe = |add: &str| recipes.iter().find(|recipe| recipe.add == add);
    let places = |add: &str| &recipe(add).unwrap_or_else(|| panic!("no recipe says how to add {add}")).places;
    let mut findings = String::new();
    for (add, code) in ADDED {
        let is_for_tests = |path: &str| path.starts_with("src/lab/") || path.ends_with("_tests.rs");
        let has = |file: &&File| file.text.contains(code) && !is_for_tests(&file.path);
        let found: Vec<&str> = sources.iter().filter(has).map(|file| file.path.as_str()).collect();
        assert!(!found.is_empty(), "no file has {code:?}");
        for path in found {
            if !places(add).iter().any(|place| path.starts_with(place.as_str())) {
                let _ = writeln!(findings, "{path} has {code:?}: the recipe to add {add} does not say so");
            }
        }
    }
    let of_keys = places("a configuration key");
    let texts: Vec<&str> =
        sources.iter().filter(|file| of_keys.contains(&file.path)).map(|file| file.text.as_str()).collect();
    for key in varta_fleet::config::KEYS {
        let field = key.name.replace('-', "_");
        if !texts.iter().any(|text| words(text).any(|word| word == field)) {
            let _ = writeln!(findings, "{} is in none of {of_keys:?}", key.name);
        }
    }
    assert_none(&findings);
}

#[test]
fn a_recipe_is_read_as_it_is_meant() {
    let Recipe { add, places, anchors, others } = recipe(
        "| a door | Add `D` to `HINGES` in `src/a.rs`, `x` to `src/b` and `y` to it, in `src/c.rs`. | `t` |",
    );
    assert_eq!(add, "a door");
    assert_eq!(places, ["src/a.rs", "src/b", "src/c.rs"]);
    assert_eq!(anchors, [("HINGES".to_owned(), "src/a.rs".to_owned())]);
    assert_eq!(others, ["D", "x", "y"]);
}

// --- reading the tree -----------------------------------------------------------------------------

struct File {
    /// Relative to the root of the project.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<File> {
    files().into_iter().filter(|file| file.path.starts_with("src/") && file.path.ends_with(".rs")).collect()
}

/// Every text file of the project, except the lock file and the files of git, cargo and editors.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("read a directory of the project") {
            let path: PathBuf = entry.expect("read a directory of the project").path();
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            let kept_by_tools = name.starts_with('.') && !name.starts_with(".ci");
            if kept_by_tools || name.starts_with("target") || name == "Cargo.lock" || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: name, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The lines of a Rust file without comments and the contents of literals.
fn code(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if next == '"' {
            string(rest)
        } else if next == 'r' && !bare.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            raw_string(rest)
        } else if next == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            bare.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            // Keeps line numbers.
            bare.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    let lines: Vec<String> = bare.lines().map(str::to_owned).collect();
    (1..).zip(lines)
}

/// Length in bytes of the string literal at the start of `rest`.
fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length in bytes of the raw string literal at the start of `rest`; 0 if there is none.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

/// Length in bytes of the character literal at the start of `rest`; 0 if it is a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, c))) => {
            let from = at + c.len_utf8();
            rest[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn assert_none(findings: &str) {
    assert!(findings.is_empty(), "\n{findings}");
}
