//! Which actions and brakes are refused, with which messages, and the plans of the others.

use super::super::act::UnitVerb;
use super::super::layers::Layers;
use super::*;

/// All problems of this file.
fn told(text: &str) -> Vec<String> {
    let mut layers = Layers::default();
    layers.toml(&format!("dir = \"/tmp/varta\"\n{text}"), "f".as_ref());
    let error = layers.plan().err();
    let problems = error.iter().flat_map(|error| error.problems());
    problems.map(ToString::to_string).collect()
}

fn planned(text: &str) -> ActPlan {
    let mut layers = Layers::default();
    layers.toml(&format!("dir = \"/tmp/varta\"\n{text}"), "f".as_ref());
    let plan = layers.plan().unwrap_or_else(|error| panic!("{error}\n{text}"));
    plan.act.expect("an action")
}

const MATCH: &str = "match = { uid = 7 }\n";

/// An action that aborts, with these lines besides.
fn aborts(lines: &str) -> String {
    format!("[[action]]\nname = \"a\"\non = [\"stall\"]\nsignal = \"ABRT\"\n{MATCH}{lines}")
}

/// An action with these lines that say what it does.
fn does(lines: &str) -> String {
    format!("[[action]]\nname = \"a\"\non = [\"stall\"]\n{MATCH}{lines}")
}

#[test]
fn defaults() {
    let plan = planned(&aborts(""));
    let (second, brake) = (1_000_000_000, plan.brake);
    assert_eq!((plan.audit, plan.audit_sync, plan.spawner), (None, false, None));
    assert_eq!(plan.evidence_dir, Path::new("/tmp/varta/evidence"));
    assert_eq!((brake.running, brake.starts, brake.per_ns), (8, 20, 60 * second));
    assert_eq!((brake.percent, brake.at_least, brake.within_ns), (20, 5, 10 * second));
    assert_eq!((brake.release_ns, brake.dry_run), (Some(60 * second), false));
    let [action] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
    assert_eq!(
        (action.name.as_str(), &*action.on, &action.deed),
        ("a", &[Trigger::Stall][..], &Deed::Signal(6))
    );
    assert_eq!((action.certain, action.after_ns, action.timeout_ns), (true, 5 * second, 30 * second));
    assert_eq!((action.user, action.env.len(), action.evidence), (None, 0, true));
    let Retry { first_ns, factor_percent, max_ns, tries, reset_after_ns } = action.retry;
    assert_eq!((first_ns, factor_percent, max_ns), (10 * second, 200, 600 * second));
    assert_eq!((tries, reset_after_ns), (5, 3600 * second));
}

#[test]
fn without_an_action_nothing_is_done() {
    let mut layers = Layers::default();
    layers.toml("dir = \"/tmp/varta\"\naudit = \"/x\"\n[brake]\nrunning = 3", "f".as_ref());
    assert_eq!(layers.plan().unwrap().act, None);
}

#[test]
fn an_action_is_taken_as_it_is_written() {
    let plan = planned(
        "audit = \"/var/log/a.jsonl\"\naudit-sync = true\nevidence-dir = \"/var/e\"\nspawner = \"/run/s.sock\"\n\
         [[action]]\nname = \"restart_1\"\non = [\"exit\", { exit = { code = 3 } }, \"resume\"]\n\
         match = { comm = \"w*\", uid = \"root\", exe = \"/opt/*\", unit = \"w@?.service\" }\n\
         run = [\"/bin/true\", \"{pid}\", \"{{\"]\nuser = \"root\"\nenv = { B = \"2\", A = \"\" }\ncertain = false\n\
         evidence = false\nafter = \"0s\"\ntimeout = \"1m\"\n\
         retry = { first = \"1s\", factor = 1.5, max = \"2s\", tries = 1, reset-after = \"3s\" }\n\
         [[action]]\nname = \"b\"\non = [\"stall\"]\nany-user = true\nsignal = 9\n\
         [[action]]\nname = \"c\"\non = [\"frozen\"]\nmatch = { unit = \"w.service\" }\nsystemd = \"restart\"\n\
         [brake]\nrunning = 1\nstarts = { per = \"2m\" }\nshare = { percent = 100 }\nrelease = \"manual\"\ndry-run = true\n",
    );
    assert_eq!(plan.audit.as_deref(), Some(Path::new("/var/log/a.jsonl")));
    assert_eq!((plan.evidence_dir, plan.spawner), ("/var/e".into(), Some("/run/s.sock".into())));
    assert!(plan.audit_sync);
    let [first, second, third] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
    assert_eq!(first.on, [Trigger::Exit, Trigger::ExitCode(3), Trigger::Resume]);
    assert_eq!(first.matcher.uid, Some(0));
    assert_eq!(first.matcher.unit.as_deref(), Some("w@?.service"));
    assert_eq!(first.deed, Deed::Run(["/bin/true", "{pid}", "{{"].map(str::to_owned).to_vec()));
    assert_eq!(first.user, Some((0, 0)));
    assert_eq!(first.env, [("A", ""), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((first.certain, first.evidence, first.after_ns), (false, false, 0));
    assert_eq!((first.retry.factor_percent, first.retry.tries), (150, 1));
    assert_eq!((&second.deed, &second.matcher), (&Deed::Signal(9), &ActionMatch::default()));
    assert_eq!(third.deed, Deed::Systemd(UnitVerb::Restart));
    let Brake { running, starts, per_ns, percent, release_ns, dry_run, .. } = plan.brake;
    assert_eq!((running, starts, per_ns, percent), (1, 20, 120_000_000_000, 100));
    assert_eq!((release_ns, dry_run), (None, true));
}

/// What is wrong with an action, and what the message says. The first line of an action is line 2.
#[test]
fn bad_input_is_refused_with_what_to_write() {
    let long = format!("name = \"{}\"\non = [\"stall\"]\n{MATCH}signal = 6", "n".repeat(20));
    let many = format!("run = [\"/bin/true\", \"{}\"]", "x".repeat(16 * 1024));
    for (text, expected) in [
        // Names.
        (format!("[[action]]\n{long}"), "line 3): it has 20 bytes, and a name has 19 at most; write 1 to 19 letters"),
        ("[[action]]\nname = \"a b\"\non = [\"stall\"]\nany-user = true\nsignal = 6".into(), "it has other characters than letters"),
        ("[[action]]\non = [\"stall\"]\nany-user = true\nsignal = 6".into(), "cannot use [[action]] (f line 2): it has no name; add name = "),
        (format!("{}\n{}", aborts(""), aborts("")), "cannot use name = \"a\" (in [[action]], f line 9): action 0 has this name, too; give each"),
        (aborts("nmae = \"b\""), "there is no such key in [[action]]; did you mean name?"),
        (aborts("aftre = \"5s\""), "cannot use aftre (in [[action]], f line 7): there is no such key in [[action]]; did you mean after?"),
        (aborts("comm = \"x\""), "comm belongs in match of [[action]]"),
        (aborts("tries = 3"), "tries belongs in retry of [[action]]"),
        (aborts("dry-run = true"), "dry-run belongs in [brake]"),
        (aborts("retry = { trys = 3 }"), "there is no such key in retry of [[action]]; did you mean tries?"),
        // Triggers.
        ("[[action]]\nname = \"a\"\non = []\nany-user = true\nsignal = 6".into(), "nothing starts it: it has no on; write on = [\"stall\"]"),
        ("[[action]]\nname = \"a\"\nany-user = true\nsignal = 6".into(), "nothing starts it: it has no on; "),
        ("[[action]]\nname = \"a\"\non = [\"stal\"]\nany-user = true\nsignal = 6".into(), "cannot use on = [\"stal\"] (in [[action]], f line 4): there is no trigger \"stal\"; did you mean \"stall\"?"),
        ("[[action]]\nname = \"a\"\non = \"stall\"\nany-user = true\nsignal = 6".into(), "it is a string; write a list of \"stall\""),
        ("[[action]]\nname = \"a\"\non = [7]\nany-user = true\nsignal = 6".into(), "there is no such trigger in it; write a list of \"stall\""),
        ("[[action]]\nname = \"a\"\non = [{ exit = { code = 256 } }]\nany-user = true\nrun = [\"/bin/true\"]".into(), "no process exits with such a code; write { exit = "),
        ("[[action]]\nname = \"a\"\non = [{ exit = { signal = 65 } }]\nany-user = true\nrun = [\"/bin/true\"]".into(), "there is no such signal; "),
        // Times and tries.
        (aborts("timeout = \"0s\""), "cannot use timeout = \"0s\" (in [[action]], f line 7): it is shorter than 100ms; write a duration from 100ms to 24h"),
        (aborts("after = \"25h\""), "it is longer than 24h"),
        (aborts("after = 5"), "it has no unit; write \"5s\""),
        (aborts("retry = { tries = 0 }"), "cannot use tries = 0 (in [[action]], f line 7): it would never be tried; write a whole number from 1 to 1000"),
        (aborts("retry = { tries = 1001 }"), "it is more than 1000"),
        (aborts("retry = { tries = -1 }"), "write a whole number from 1 to 1000"),
        (aborts("retry = { factor = 0.99 }"), "each wait would be shorter than the one before; write a number from 1 to 100"),
        (aborts("retry = { factor = 100.01 }"), "it is more than 100; write a number from 1"),
        (aborts("retry = { factor = -1 }"), "it is out of range; write a number from 1"),
        (aborts("retry = { factor = nan }"), "it is out of range; write a number from 1"),
        (aborts("retry = { factor = \"2\" }"), "it is a string; write a number from 1"),
        (aborts("retry = { first = \"0s\" }"), "it is shorter than 100ms"),
        (aborts("retry = { first = \"11m\" }"), "cannot use first = \"11m\" (in [[action]], f line 7): the first wait, 11m, is longer than the longest, 10m"),
        (aborts("retry = { max = \"5s\" }"), "cannot use max = \"5s\" (in [[action]], f line 7): the first wait, 10s, is longer"),
        (aborts("retry = { reset-after = \"10m\" }"), "so they would never be used up; write a reset-after that is longer than max"),
        (aborts("retry = { max = \"2h\" }"), "cannot use max = \"2h\" (in [[action]], f line 7): after 1h without an attempt"),
        (aborts("retry = 5"), "it is an integer; write what to say of attempts, such as { first = "),
        // What it does.
        (does(""), "cannot use [[action]] (f line 2): it does nothing: it has neither run, nor signal, nor systemd; add one of run = "),
        (aborts("run = [\"/bin/true\"]"), "cannot use signal = \"ABRT\" (in [[action]], f line 5): the action has run, too, and does one thing only; leave out signal or run"),
        (does("run = []"), "cannot use run = [] (in [[action]], f line 6): it names no program; write the absolute path"),
        (does("run = \"/bin/true\""), "it is a string; write the absolute path of a program and its arguments"),
        (does("run = [\"/bin/true\", 7]"), "it holds an integer; write the absolute path of a program"),
        (does("run = [\"true\", \"{pid}\"]"), "the program \"true\" is not an absolute path, and none is searched for; write its path from / on"),
        (does("run = [\"\"]"), "the program \"\" is not an absolute path"),
        (does("run = [\"/opt/{comm}\"]"), "the path of the program has a brace, and must not depend on a process; use placeholders in its arguments"),
        (does("run = [\"/bin/true\", \"--pid={pidd}\"]"), "of argument 1, \"--pid={pidd}\": there is no placeholder {pidd}; did you mean {pid}?"),
        (does("run = [\"/bin/true\", \"x\", \"a { b\"]"), "of argument 2, \"a { b\": a single { in it neither begins nor ends a placeholder; write {{ for a {"),
        (does("run = [\"/bin/true\", \"pid}\"]"), "a single } in it"),
        (does("run = [\"/bin/true\", \"a\\nb\"]"), "the argument 1 has a newline in it; take it out"),
        (does("run = [\"/bin/true\", \"a\\u0000b\"]"), "the argument 1 has a NUL in it; take it out"),
        (does("run = [\"/bin/tr\\u0000ue\"]"), "the program has a NUL in it"),
        (does(&many), "arguments and env together have 16395 bytes, and 16384 are the most; put what is long into a file"),
        (does("signal = \"SIGABORT\""), "cannot use signal = \"SIGABORT\" (in [[action]], f line 6): there is no such signal; did you mean SIGABRT?"),
        (does("signal = \"NOTHING\""), "there is no such signal; write a name that kill -l lists, such as SIGABRT, or its number"),
        (does("signal = 0"), "there is no such signal; write its name, or a number from 1 to 64"),
        (does("signal = 65"), "there is no such signal; "),
        (does("signal = true"), "it is a boolean; write the name of a signal"),
        (does("systemd = \"reboot\""), "there is no such value; write \"restart\", \"kill\" or \"stop\""),
        (does("systemd = \"restart\""), "cannot use systemd = \"restart\" (in [[action]], f line 6): its match does not say for which units; add unit"),
        ("[[action]]\nname = \"a\"\non = [\"exit\"]\nany-user = true\nsignal = 6".into(), "cannot use signal = 6 (in [[action]], f line 6): after an exit there is no process left"),
        ("[[action]]\nname = \"a\"\non = [{ exit = { code = 1 } }, \"stall\"]\nmatch = { unit = \"a.service\" }\nsystemd = \"stop\"".into(), "after an exit there is no process left"),
        (aborts("user = \"root\""), "the action runs no program that it would be for; leave it out"),
        (aborts("env = { A = \"b\" }"), "the action runs no program that it would be for; leave it out"),
        (does("run = [\"/bin/true\"]\nuser = \"no such user\""), "there is no such user on this host; write the name or number of a user"),
        (does("run = [\"/bin/true\"]\nuser = 4294967295"), "there is no such user on this host"),
        (does("run = [\"/bin/true\"]\nuser = -1"), "there is no such user on this host"),
        (does("run = [\"/bin/true\"]\nenv = { \"A=B\" = \"\" }"), "the name \"A=B\" has other characters than letters, digits and _; write names and values"),
        (does("run = [\"/bin/true\"]\nenv = { \"\" = \"\" }"), "a name in it is empty"),
        (does("run = [\"/bin/true\"]\nenv = { A = \"\\u0000\" }"), "A has a NUL in it, and no environment can"),
        (does("run = [\"/bin/true\"]\nenv = { A = 7 }"), "it holds an integer; write names and texts"),
        // A date is a table, to serde.
        (does("run = [\"/bin/true\"]\nenv = 1979-05-27"), "has other characters than letters, digits and _"),
        // Matches.
        ("[[action]]\nname = \"a\"\non = [\"stall\"]\nsignal = 6".into(), "cannot use [[action]] (f line 2): it is for every process of every user; add uid, exe or unit to its match, or write any-user"),
        ("[[action]]\nname = \"a\"\non = [\"stall\"]\nsignal = 6\nmatch = { comm = \"w*\" }".into(), "cannot use match = { comm = \"w*\" } (in [[action]], f line 6): anybody can give a process that name; add uid"),
        (aborts("").replace("uid = 7", "unit = \"\""), "cannot use unit = \"\" (in [[action]], f line 6): it is empty and matches nothing; write the name of a unit"),
        (aborts("").replace("uid = 7", "unit = \"sshd\""), "the names of units end in .service or .scope, so it matches nothing"),
        (aborts("").replace("uid = 7", "unit = \"a b;.service\""), "it has a character that no name of a unit has"),
        (aborts("").replace("uid = 7", "unit = \"a\\n.service\""), "it has a character that no name of a unit has"),
        (aborts("").replace("uid = 7", "exe = \"bin/x\""), "exe is an absolute path, so it matches nothing"),
        (aborts("").replace("uid = 7", "uid = 7, comm = \"sixteen-bytes-xx\""), "it is longer than 15 bytes"),
        (aborts("").replace("uid = 7", "uid = \"no such user\""), "there is no such user on this host"),
        (aborts("").replace("uid = 7", "cgruop = \"x\""), "there is no such key in match of [[action]]; did you mean cgroup?"),
        (aborts("").replace("uid = 7", "cgroup = \"/a/*\""), "cannot use match = { cgroup = \"/a/*\" } (in [[action]], f line 6): whoever was given a control group names those below it; add uid, exe or unit"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = \"\""), "cannot use cgroup = \"\" (in [[action]], f line 6): the path of a group begins with /, so it matches nothing; begin it with /"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = \"web.service\""), "the path of a group begins with /, so it matches nothing"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = \"/sys/fs/cgroup/a\""), "the path of a group begins below the mount, so it matches nothing; write the rest of it"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = \"/a\\nb\""), "it has a newline, which no path of a group has; take it out"),
        (does("run = [\"/bin/true\"]").replace("uid = 7", "uid = 7, cgroup = \"/a\"").replace("\"stall\"", "\"stall\", \"exit\""), "the group of a process that is gone is not known, and exit is among its triggers; match by unit there"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = \"/a\"").replace("\"stall\"", "\"terminal\""), "and terminal is among its triggers"),
        (aborts("").replace("uid = 7", "uid = 7, cgroup = 7"), "it is an integer; write a pattern in quotes"),
        (does("systemd = \"stop\"").replace("uid = 7", "unit = \"user@1000.service\""), "scopes and the managers of users are never acted upon; name a service"),
        (does("systemd = \"stop\"").replace("uid = 7", "unit = \"w@*.socket\""), "the names of units end in .service or .scope, so it matches nothing"),
        (does("systemd = \"stop\"").replace("uid = 7", "unit = \"*.scope\""), "never acted upon"),
        (aborts("").replace("uid = 7", "unit = \"*.slice\""), "the names of units end in .service or .scope, so it matches nothing"),
        // The brake.
        ("[brake]\nrunning = 0".into(), "cannot use running = 0 (in [brake], f line 3): no action could ever run; write a whole number from 1 to 1000"),
        ("[brake]\nrunning = 1001".into(), "it is more than 1000"),
        ("[brake]\nstarts = { count = 0 }".into(), "no action could ever start; write a whole number from 1 to 10000"),
        ("[brake]\nstarts = { per = \"0s\" }".into(), "it is shorter than 1s"),
        ("[brake]\nstarts = 20".into(), "it is an integer; write a number and a time, such as { count = 20, per"),
        ("[brake]\nshare = { percent = 0 }".into(), "cannot use percent = 0 (in [brake], f line 3): any stall would hold all actions; write a whole number from 1 to 100; 100 is never exceeded"),
        ("[brake]\nshare = { percent = 101 }".into(), "there are no more than all of them; write a whole number from 1 to 100; 100 is never exceeded"),
        ("[brake]\nshare = { at-least = 0 }".into(), "no stall is none; write a whole number from 1 to 4194304"),
        ("[brake]\nshare = { within = \"2h\" }".into(), "it is longer than 1h"),
        ("[brake]\nshare = { of = 3 }".into(), "there is no such key in share of [brake]; the keys here are percent, at-least, within"),
        ("[brake]\nrelease = \"0s\"".into(), "it is shorter than 1s"),
        ("[brake]\nrelease = \"never\"".into(), "it is not a duration; write it like 500ms, 2s or 1m30s, or \"manual\""),
        ("[brake]\nrelease = 60".into(), "write a duration, such as \"1m\", or \"manual\""),
        ("[brake]\ndry-rnu = true".into(), "there is no such key in [brake]; did you mean dry-run?"),
        ("[[brake]]\nrunning = 3".into(), "it is an array; write a table, headed [brake]"),
        // Files.
        ("audit = \"\"".into(), "cannot use audit = \"\" (f line 2): it is empty; write a path, or leave it out"),
        ("audit = \"-\"".into(), "standard output does not outlive a crash; name a file of its own"),
        ("audit = \"/tmp/varta/lock\"".into(), "it is the observer's own lock; name another file"),
        ("audit = \"/tmp/x/\"".into(), "a path ends in the name of a file"),
        ("events = \"/x/e\"\naudit = \"/x/e\"".into(), "cannot use audit = \"/x/e\" (f line 3): the events are written there; name a file of its own"),
        ("evidence-dir = \"/tmp/varta\"".into(), "it is the runtime directory itself"),
        ("spawner = \"/run/\"".into(), "a socket's path ends in the name of a file"),
        ("spawner = \"/tmp/varta/control.sock\"".into(), "it is the observer's own control socket"),
    ] {
        let told = told(&text);
        assert!(told.len() == 1 && told[0].contains(expected), "{text}\n{expected}\n{told:#?}");
    }
    let long = format!("spawner = \"/{}\"", "s".repeat(107));
    assert!(told(&long)[0].contains("it has 108 bytes, and the kernel takes 107 at most for a socket"));
}

#[test]
fn every_problem_of_an_action_is_told_at_once() {
    let told = told(
        "[[action]]\nname = \"a b\"\non = [\"stall\"]\nmatch = { comm = \"\" }\nrun = [\"x\", \"{y}\", \"z\\n\"]\n\
         timeout = \"0s\"\nretry = { tries = 0, factor = 0.5 }\nenv = { \"=\" = \"\" }\n[brake]\nrunning = 0\n",
    );
    assert_eq!(told.len(), 11, "{told:#?}");
}

#[test]
fn what_follows_from_an_unreadable_value_is_not_told() {
    for text in [
        aborts("").replace("\"ABRT\"", "\"FOO\""),
        does("run = 7\nuser = \"root\""),
        aborts("").replace("\"stall\"", "\"stal\""),
        aborts("").replace("uid = 7", "uid = \"no such user\""),
        aborts("retry = { max = 5 }"),
    ] {
        assert_eq!(told(&text).len(), 1, "{text}");
    }
}

#[test]
fn there_are_a_hundred_actions_at_most() {
    let named = |count: usize| -> String {
        (0..count).map(|i| aborts("").replace("\"a\"", &format!("\"a{i}\""))).collect()
    };
    assert_eq!(planned(&named(ACTIONS_MAX)).actions.len(), ACTIONS_MAX);
    let told = told(&named(ACTIONS_MAX + 1));
    assert!(told.len() == 1 && told[0].contains("there are more than 100 actions"), "{told:?}");
}
