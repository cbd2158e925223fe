//! The arguments of a program, with what is known of the process in the place of placeholders.
//!
//! Numbers are always safe. A text that the process or its owner could choose is used only if it cannot be taken for
//! anything else by whoever reads the arguments.

use super::Subject;
use crate::config::placeholder::{Piece, Placeholder, pieces};
use crate::event::{ActionName, ActionWhy};
use crate::label::Label;

/// The arguments for this process.
///
/// # Errors
/// [`ActionWhy::Text`]: a text is not known, or not safe.
pub fn arguments(
    templates: &[String],
    name: ActionName,
    subject: &Subject,
) -> Result<Vec<String>, ActionWhy> {
    templates.iter().map(|template| fill(template, name, subject)).collect()
}

fn fill(template: &str, name: ActionName, subject: &Subject) -> Result<String, ActionWhy> {
    let pieces = pieces(template).map_err(|_| ActionWhy::Text)?;
    let texts = pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => Ok(text.to_owned()),
        Piece::Value(placeholder) => value(placeholder, name, subject),
    });
    texts.collect()
}

fn value(placeholder: Placeholder, name: ActionName, subject: &Subject) -> Result<String, ActionWhy> {
    let agent = &subject.agent;
    let about = &agent.about;
    Ok(match placeholder {
        Placeholder::Pid => agent.pid.to_string(),
        Placeholder::NsPid => agent.ns_pid.unwrap_or(agent.pid).to_string(),
        Placeholder::Uid => about.uid.ok_or(ActionWhy::Text)?.to_string(),
        Placeholder::Session => agent.session.to_string(),
        Placeholder::Shard => subject.shard.to_string(),
        Placeholder::Status => agent.status.as_str().to_owned(),
        Placeholder::SilentMs => (subject.silent_ns / 1_000_000).to_string(),
        Placeholder::Name => name.as_str().to_owned(),
        Placeholder::Comm => safe(about.comm.as_str())?,
        Placeholder::Exe => safe_label(about.exe)?,
        Placeholder::Unit => safe_label(about.unit)?,
        Placeholder::Container => safe_label(about.container)?,
    })
}

fn safe_label(label: Option<Label>) -> Result<String, ActionWhy> {
    safe(label.and_then(Label::text).as_deref().unwrap_or_default())
}

/// The text, if it is known and cannot be taken for an option, a path elsewhere or a character of a shell.
fn safe(text: &str) -> Result<String, ActionWhy> {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | ':' | '.' | '_' | '/' | '\\' | '-');
    let is_safe =
        !text.is_empty() && !text.starts_with('-') && !text.contains("..") && text.chars().all(is_plain);
    if is_safe { Ok(text.to_owned()) } else { Err(ActionWhy::Text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, Agent, Origin};
    use crate::time::MonoNs;
    use crate::wire::Status;

    fn subject(comm: &str, unit: Option<&str>) -> Subject {
        let unit = unit.and_then(|unit| Label::of(unit, 0));
        let about = About { uid: Some(1000), comm: comm.into(), unit, ..About::UNKNOWN };
        let status = Status::Ok;
        let agent = Agent {
            pid: 4711,
            ns_pid: None,
            session: 3,
            nonce: 0,
            status,
            origin: Origin::Vlp,
            payload: 0,
            about,
        };
        Subject { shard: 2, agent, silent_ns: 2_500_000_000, since: MonoNs(0) }
    }

    fn filled(template: &str, subject: &Subject) -> Result<String, ActionWhy> {
        fill(template, ActionName::new("restart").unwrap(), subject)
    }

    #[test]
    fn placeholders_are_replaced_and_nothing_else() {
        let subject = subject("worker", Some("worker@7.service"));
        for (template, argument) in [
            ("", ""),
            ("--pid={pid}", "--pid=4711"),
            ("{pid}{ns_pid}/{shard}", "47114711/2"),
            ("{uid} {session} {status} {silent_ms}", "1000 3 ok 2500"),
            ("{name} {comm} {unit}", "restart worker worker@7.service"),
            ("{{pid}} }}{{", "{pid} }{"),
            ("$(x); `y` \"{pid}\"", "$(x); `y` \"4711\""),
        ] {
            assert_eq!(filled(template, &subject).as_deref(), Ok(argument), "{template}");
        }
        for template in ["{", "}", "{pid", "{pidd}", "{}", "{ pid }", "{exe}", "{container}"] {
            assert_eq!(filled(template, &subject), Err(ActionWhy::Text), "{template}");
        }
    }

    #[test]
    fn a_text_that_could_be_taken_for_something_else_is_refused() {
        for text in [
            "", "-rf", "a b", "a;b", "a\nb", "a$b", "a'b", "../x", "a..b", "a*b", "a|b", "\u{e4}", "a\tb",
            "{pid}",
        ] {
            let result = filled("{comm}", &subject(text, None));
            assert_eq!(result, Err(ActionWhy::Text), "{text:?}");
            let unit = filled("{unit}", &subject("x", Some(text)));
            assert_eq!(unit, Err(ActionWhy::Text), "{text:?}");
        }
        let named_like_a_placeholder = filled("{comm}-{pid}", &subject("pid", None));
        assert_eq!(named_like_a_placeholder.as_deref(), Ok("pid-4711"));
    }

    #[test]
    fn every_placeholder_is_known() {
        let mut subject = subject("worker", Some("a.service"));
        (subject.agent.about.exe, subject.agent.about.container) =
            (Label::of("/bin/x", 0), Label::of("ab12", 0));
        for (name, _) in Placeholder::ALL {
            assert!(filled(&format!("{{{name}}}"), &subject).is_ok(), "{name}");
        }
    }
}
