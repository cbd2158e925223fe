//! Problems reported in a file, variables and flags, with their origins.

use super::*;

fn told(text: &str) -> Vec<String> {
    let mut layers = Layers::default();
    layers.toml(text, "f.toml".as_ref());
    layers.set("dir", "/tmp/varta", Origin::Flag);
    match layers.plan() {
        Ok(_) => Vec::new(),
        Err(error) => error.problems().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text = "treshold = \"1s\"\nshards = \"4\"\ntick = 10\nagents-max = -1\n\
                [[shard]]\nmode = 660\nsokcet = \"/x\"\n[[rule]]\nthreshold = \"3s\"\n\
                [[rule]]\nmatch = { com = \"x\", uid = 1 }\nthreshold = \"1ms\"\n[htpp]\nlisten = \"x\"\n[http]\nlisten = \"x\"\n";
    let expected = [
        "cannot use treshold (f.toml line 1): there is no such key; did you mean threshold?",
        "cannot use shards = \"4\" (f.toml line 2): it is a string; write a whole number from 1 to 64",
        "cannot use tick = 10 (f.toml line 3): it has no unit; write \"10s\" or \"10ms\", in quotes",
        "cannot use agents-max = -1 (f.toml line 4): there is no such value; write a whole number from 1 to 4194304",
        "cannot use mode = 660 (in [[shard]], f.toml line 6): it is an integer; write an octal number in quotes, such as \"0660\"",
        "cannot use sokcet (in [[shard]], f.toml line 7): there is no such key in [[shard]]; did you mean socket?",
        "cannot use [[rule]] (f.toml line 8): it has no match; add match: what to match, such as { comm = \"batch-*\" }",
        "cannot use com (in [[rule]], f.toml line 11): there is no such key in match of [[rule]]; did you mean comm?",
        "cannot use htpp (f.toml line 13): there is no such key; did you mean http?",
        "cannot use listen = \"x\" (in [http], f.toml line 16): it is not an address with a port; write a numeric address and a port, such as 127.0.0.1:9464 or [::1]:9464, or none",
        "cannot use threshold = \"1ms\" (in [[rule]], f.toml line 12): it is shorter than 10ms; write a duration from 10ms to 24h",
    ];
    assert_eq!(told(text), expected);
}

#[test]
fn a_key_in_the_wrong_place_is_sent_home() {
    assert!(told("[[shard]]\nthreshold = \"1s\"")[0].contains("belongs at the top of the file"));
    assert!(told("socket = \"/x\"")[0].contains("socket belongs in [[shard]]"));
    assert!(told("uid-agent-max = 7")[0].contains("did you mean uid-agents-max?"));
    assert!(told("[[shard]]\nuid-frames-max = 7")[0].contains("belongs at the top of the file"));
}

#[test]
fn limits_are_numbers_or_none() {
    for fine in ["uid-agents-max = 7", "uid-agents-max = \"none\"", "uid-frames-max = 4294967295"] {
        assert_eq!(told(fine), Vec::<String>::new(), "{fine}");
    }
    for (bad, why) in [
        ("uid-agents-max = \"7\"", "it is neither a number nor \"none\"; write digits without quotes"),
        ("uid-agents-max = -1", "it is out of range; write a whole number from 1"),
        ("uid-frames-max = 4294967296", "it is out of range; write a whole number from 1"),
        ("uid-frames-max = true", "it is a boolean; write a whole number from 1, or \"none\""),
        ("uid-frames-max = 0", "it lets nobody beat"),
    ] {
        let told = told(bad);
        assert!(told.len() == 1 && told[0].contains(why), "{bad}: {told:?}");
    }
}

#[test]
fn what_follows_from_an_unreadable_value_is_not_told() {
    // A tick of 1s would be too long for a threshold of 1s, but the intended threshold is unknown.
    assert_eq!(told("threshold = 9\ntick = \"1s\"\nmax-delay = \"100ms\"").len(), 1);
    // A key that was removed because it cannot be read is not reported as missing.
    assert_eq!(told("[[rule]]\nmatch = { uid = 7 }\nthreshold = 1").len(), 1);
    assert_eq!(told("[[rule]]\nmatch = { com = 7 }\nthreshold = \"1s\"").len(), 1);
    assert_eq!(told("[[rule]]\nthreshold = 1").len(), 2);
    assert_eq!(told("shards = 2\n[[shard]]\nmode = 1").len(), 2);
    assert_eq!(told("shards = 2\nshard = 1").len(), 1);
}

#[test]
fn syntax_errors_have_lines_and_hide_the_rest() {
    let told = told("tick = \"1s\"\nthreshold = = 3\nshards =\n");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("cannot read f.toml line 2: "), "{told:#?}");
    assert!(told[1].starts_with("cannot read f.toml line 3: "), "{told:#?}");
}

#[test]
fn the_key_that_was_written_is_blamed() {
    let told = told("threshold = \"12ms\"");
    let [tick] = &told[..] else { panic!("{told:#?}") };
    assert!(
        tick.starts_with("cannot use threshold = \"12ms\" (f.toml line 1): a tick of 10ms is more than half"),
        "{tick}"
    );
}

#[test]
fn a_variable_that_was_meant_for_a_key_is_a_problem_and_others_are_not_ours() {
    let told = |name: &str| {
        let mut layers = Layers::default();
        layers.set("dir", "/tmp/varta", Origin::Flag);
        layers.unknown_variable(name, "7");
        layers.plan().err().map(|error| error.to_string())
    };
    for (name, fix) in [
        ("VARTA_TRESHOLD", "did you mean VARTA_THRESHOLD?"),
        ("VARTA_MAXDELAY", "did you mean VARTA_MAX_DELAY?"),
        ("VARTA_AGENT_MAX", "did you mean VARTA_AGENTS_MAX?"),
        ("VARTA_DRI", "did you mean VARTA_DIR?"),
        ("VARTA_TOKEN_FILE", "token-file belongs in the file, at [http]"),
        ("VARTA_ALLOW_UIDS", "allow-uids belongs in the file, at [[shard]]"),
        ("VARTA_CONFIGS", "did you mean VARTA_CONFIG?"),
        ("VARTA_PRINT_READY", "write --print-ready on the command line"),
    ] {
        let expected = format!("cannot use {name}=7: there is no such variable; {fix}");
        assert_eq!(told(name), Some(expected));
    }
    for name in ["VARTA_CONFIG", "VARTA_TEST_PYTHON", "VARTA_NAMESPACE_OF_AN_AGENT", "VARTA_"] {
        assert_eq!(told(name), None, "{name}");
    }
}

#[test]
fn what_a_lower_layer_switched_on_a_higher_one_switches_off() {
    for (file, key) in [("events = \"/x\"", "events"), ("[http]\nlisten = \"127.0.0.1:1\"", "http")] {
        let mut layers = Layers::default();
        layers.toml(file, "f.toml".as_ref());
        assert_ne!(*layers.config(), Config::default());
        layers.set(key, "none", Origin::Environment);
        assert_eq!(*layers.config(), Config::default(), "{key}");
    }
    for file in ["events = \"none\"", "[http]\nlisten = \"none\""] {
        let mut layers = Layers::default();
        layers.toml(file, "f.toml".as_ref());
        assert_eq!(layers.into_config().unwrap(), Config::default(), "{file}");
    }
}

#[test]
fn later_layers_win() {
    let mut layers = Layers::default();
    layers.toml("threshold = \"5s\"\ntick = \"20ms\"", "f.toml".as_ref());
    layers.set("threshold", "6s", Origin::Environment);
    layers.set("threshold", "7s", Origin::Flag);
    assert_eq!(layers.config().threshold.as_secs(), 7);
    assert_eq!(layers.origin("threshold"), Origin::Flag);
    assert_eq!(layers.origin("tick"), Origin::File { path: "f.toml".into(), line: 2 });
    assert_eq!(layers.origin("shards"), Origin::Default);
}
