//! Placeholders in the arguments of a program that an action runs: `{pid}` stands for the process id.
//!
//! Pure: a text is divided, nothing is looked up.

use super::values::Refused;

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The process id.
    Pid,
    /// The process id in the agent's own namespace.
    NsPid,
    /// The user id.
    Uid,
    /// The session.
    Session,
    /// The shard.
    Shard,
    /// The last status.
    Status,
    /// How long it has been silent, ms.
    SilentMs,
    /// The name of the action.
    Name,
    /// The name of the process.
    Comm,
    /// The path of its program.
    Exe,
    /// Its unit.
    Unit,
    /// Its container.
    Container,
}

impl Placeholder {
    /// Every placeholder by its name.
    pub const ALL: [(&str, Self); 12] = [
        ("pid", Self::Pid),
        ("ns_pid", Self::NsPid),
        ("uid", Self::Uid),
        ("session", Self::Session),
        ("shard", Self::Shard),
        ("status", Self::Status),
        ("silent_ms", Self::SilentMs),
        ("name", Self::Name),
        ("comm", Self::Comm),
        ("exe", Self::Exe),
        ("unit", Self::Unit),
        ("container", Self::Container),
    ];
}

/// A part of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// This text.
    Text(&'a str),
    /// The value of this placeholder.
    Value(Placeholder),
}

/// The parts of an argument, in their order. `{{` and `}}` are braces.
pub fn pieces(argument: &str) -> Result<Vec<Piece<'_>>, Refused> {
    let mut pieces = Vec::new();
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        rest = if from.starts_with("{{") || from.starts_with("}}") {
            pieces.push(Piece::Text(&from[..1]));
            &from[2..]
        } else {
            let (name, after) = named(from)?;
            pieces.push(Piece::Value(name));
            after
        };
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// The placeholder that the text begins with, and what comes after it.
fn named(text: &str) -> Result<(Placeholder, &str), Refused> {
    let within = text.strip_prefix('{').and_then(|text| text.split_once('}'));
    let Some((name, after)) = within.filter(|(name, _)| !name.contains('{')) else {
        let brace = &text[..1];
        return Err(Refused::new(
            format!("a single {brace} in it neither begins nor ends a placeholder"),
            format!("write {brace}{brace} for a {brace}"),
        ));
    };
    if let Some((_, known)) = Placeholder::ALL.iter().find(|(known, _)| *known == name) {
        return Ok((*known, after));
    }
    let near = Placeholder::ALL.map(|(known, _)| (strsim::damerau_levenshtein(name, known), known));
    let fix = match near.iter().min() {
        Some((distance, nearest)) if *distance <= 1 + name.len() / 3 => {
            format!("did you mean {{{nearest}}}?")
        }
        _ => {
            let names = Placeholder::ALL.map(|(known, _)| format!("{{{known}}}"));
            format!("write one of {}, or {{{{ and }}}} for braces", names.join(" "))
        }
    };
    Err(Refused::new(format!("there is no placeholder {{{name}}}"), fix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_argument_is_text_and_values() {
        use Piece::{Text, Value};
        for (argument, expected) in [
            ("", vec![]),
            ("--all", vec![Text("--all")]),
            ("{pid}", vec![Value(Placeholder::Pid)]),
            (
                "--pid={pid},{unit}!",
                vec![Text("--pid="), Value(Placeholder::Pid), Text(","), Value(Placeholder::Unit), Text("!")],
            ),
            ("{{pid}}", vec![Text("{"), Text("pid"), Text("}")]),
            ("{{{pid}}}", vec![Text("{"), Value(Placeholder::Pid), Text("}")]),
            ("é{ns_pid}é", vec![Text("é"), Value(Placeholder::NsPid), Text("é")]),
        ] {
            assert_eq!(pieces(argument), Ok(expected), "{argument}");
        }
        for (name, placeholder) in Placeholder::ALL {
            assert_eq!(pieces(&format!("{{{name}}}")), Ok(vec![Value(placeholder)]));
        }
    }

    #[test]
    fn what_is_no_placeholder_is_refused_with_what_to_write() {
        for (argument, told) in [
            ("{pidd}", "there is no placeholder {pidd}; did you mean {pid}?"),
            ("{PID}", "there is no placeholder {PID}; write one of {pid} {ns_pid} {uid}"),
            ("{}", "there is no placeholder {}; "),
            ("{ pid }", "there is no placeholder { pid }; "),
            ("{nothing_like_it}", "or {{ and }} for braces"),
            ("{pid", "a single { in it neither begins nor ends a placeholder; write {{ for a {"),
            ("pid}", "a single } in it neither begins nor ends a placeholder; write }} for a }"),
            ("{", "a single {"),
            ("}", "a single }"),
            ("{a{pid}", "a single {"),
            ("{{{", "a single {"),
            ("{pid}}", "a single }"),
        ] {
            let refused = pieces(argument).unwrap_err().to_string();
            assert!(refused.contains(told), "{argument}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn any_text_without_braces_stays_as_it_is(text in "[^{}]{0,20}", other in "\\PC{0,20}") {
            let doubled = other.replace('{', "{{").replace('}', "}}");
            for (argument, meant) in [(&text, &text), (&doubled, &other)] {
                let texts = pieces(argument).unwrap().into_iter().map(|piece| match piece {
                    Piece::Text(text) => text,
                    Piece::Value(_) => "",
                });
                prop_assert_eq!(&texts.collect::<String>(), meant);
            }
            let _ = pieces(&other);
        }
    }
}
