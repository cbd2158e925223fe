//! What observer and spawner say to each other: one JSON object a message, on a socket that keeps messages apart
//! (`SOCK_SEQPACKET`).
//!
//! With an order about a process comes its pidfd. Neither side trusts the other's messages to be whole or in order: what
//! cannot be read is an error, and the connection ends.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::act::UnitVerb;
use crate::sys::child::SIGNAL_MAX;

/// The version of these messages; another one is refused.
pub const VERSION: u32 = 1;
/// The longest message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// What is kept of the output of a child, bytes, before it is escaped.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// From the observer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Collect evidence, if asked, then do it.
    Start {
        /// Number of the order: answers repeat it.
        id: u64,
        /// The process it is about.
        pid: u32,
        /// What to do.
        deed: Deed,
        /// How long it may take, ns.
        timeout_ns: u64,
        /// User and group it runs as; `None`: those of the spawner.
        user: Option<(u32, u32)>,
        /// Its whole environment.
        env: Vec<(String, String)>,
        /// The file to be written with what was found about the process before; `None`: look for nothing.
        evidence: Option<String>,
    },
    /// End it: SIGTERM, and 5 s later SIGKILL.
    Cancel {
        /// Number of the order.
        id: u64,
    },
}

/// What to do.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Run this program with these arguments.
    Run(Vec<String>),
    /// Send this signal through the pidfd that comes with the order.
    Signal(u8),
    /// Have the service manager do this to the unit of the process behind the pidfd, if its name matches.
    Systemd {
        /// `restart`, `kill` or `stop`.
        verb: String,
        /// The pattern that the name of the unit must match.
        unit: String,
    },
}

/// From the spawner.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// The first message.
    Hello {
        /// Its [`VERSION`].
        version: u32,
    },
    /// Evidence was collected, or not.
    Evidence {
        /// Number of the order.
        id: u64,
        /// Whether the file is written.
        is_written: bool,
        /// Why not, in words.
        why: Option<String>,
    },
    /// It was started.
    Started {
        /// Number of the order.
        id: u64,
        /// The process that does it; `None`: the spawner did it itself.
        child: Option<u32>,
    },
    /// It could not be started.
    NotStarted {
        /// Number of the order.
        id: u64,
        /// The kernel's error number; 0: there is none.
        errno: i32,
        /// Why, in words.
        why: String,
    },
    /// It ended.
    Ended {
        /// Number of the order.
        id: u64,
        /// Its exit status.
        code: Option<u8>,
        /// The signal that ended it.
        signal: Option<u8>,
        /// It took too long and was killed.
        timed_out: bool,
        /// The first [`OUTPUT_BYTES_MAX`] of what it wrote, with replacement characters for what is no UTF-8. Less if that
        /// makes the message too long, as of much that is not text.
        output: String,
        /// How much it wrote, bytes.
        output_bytes: u64,
    },
}

impl Order {
    /// As a message. `None`: too long for one.
    pub fn encode(&self) -> Option<Vec<u8>> {
        encode(self)
    }

    /// # Errors
    /// What is wrong with the message, in words.
    pub fn decode(message: &[u8]) -> Result<Self, String> {
        decode(message)
    }

    /// Why it cannot be carried out, whoever it is about. `None`: it may be.
    pub fn fault(&self) -> Option<&'static str> {
        let Self::Start { deed, env, .. } = self else { return None };
        let is_clean = |text: &String| !text.contains('\0');
        let is_name = |name: &String| !name.is_empty() && !name.contains('=') && is_clean(name);
        match deed {
            Deed::Run(words) if !words.first().is_some_and(|program| program.starts_with('/')) => {
                Some("the program has no absolute path")
            }
            Deed::Run(words) if !words.iter().all(is_clean) => Some("an argument holds a NUL"),
            Deed::Run(_) if !env.iter().all(|(name, value)| is_name(name) && is_clean(value)) => {
                Some("a variable of the environment has no name, or holds a NUL")
            }
            Deed::Signal(number) if *number == 0 || *number > SIGNAL_MAX => Some("there is no such signal"),
            Deed::Systemd { verb, .. } if UnitVerb::of(verb).is_none() => {
                Some("systemd is only asked to restart, to kill and to stop")
            }
            _ => None,
        }
    }
}

impl Report {
    /// As a message, for which the output of a child is shortened.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let Self::Ended { output, .. } = self else { return encode(self) };
        let mut shortened = self.clone();
        if let Self::Ended { output: kept, .. } = &mut shortened {
            *kept = fitting(output).to_owned();
        }
        encode(&shortened)
    }

    /// # Errors
    /// What is wrong with the message, in words.
    pub fn decode(message: &[u8]) -> Result<Self, String> {
        decode(message)
    }
}

/// The beginning of a text that leaves room in a message once it is escaped.
fn fitting(text: &str) -> &str {
    const REST: usize = 1024;
    let mut left = MESSAGE_BYTES_MAX - REST;
    let end = text.char_indices().find(|(_, c)| {
        let bytes = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..='\x1f' => 6,
            _ => c.len_utf8(),
        };
        let has_room = left >= bytes;
        left = left.saturating_sub(bytes);
        !has_room
    });
    end.map_or(text, |(end, _)| &text[..end])
}

fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(message).ok().filter(|bytes| bytes.len() <= MESSAGE_BYTES_MAX)
}

fn decode<M: DeserializeOwned>(message: &[u8]) -> Result<M, String> {
    serde_json::from_slice(message).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn any_order() -> impl Strategy<Value = Order> {
        let deed = prop_oneof![
            vec(any::<String>(), 0..5).prop_map(Deed::Run),
            any::<u8>().prop_map(Deed::Signal),
            any::<(String, String)>().prop_map(|(verb, unit)| Deed::Systemd { verb, unit }),
        ];
        let env = vec(any::<(String, String)>(), 0..4);
        let start = (any::<(u64, u32)>(), deed, any::<u64>(), option::of(any::<(u32, u32)>()), env);
        let start = (start, option::of(any::<String>())).prop_map(
            |((ids, deed, timeout_ns, user, env), evidence)| {
                let (id, pid) = ids;
                Order::Start { id, pid, deed, timeout_ns, user, env, evidence }
            },
        );
        prop_oneof![4 => start, 1 => any::<u64>().prop_map(|id| Order::Cancel { id })]
    }

    fn any_report() -> impl Strategy<Value = Report> {
        let how = (option::of(any::<u8>()), option::of(any::<u8>()), any::<bool>());
        let ended = (any::<u64>(), how, any::<(String, u64)>());
        prop_oneof![
            any::<u32>().prop_map(|version| Report::Hello { version }),
            any::<(u64, bool)>().prop_flat_map(|(id, is_written)| {
                option::of(any::<String>()).prop_map(move |why| Report::Evidence { id, is_written, why })
            }),
            (any::<u64>(), option::of(any::<u32>())).prop_map(|(id, child)| Report::Started { id, child }),
            any::<(u64, i32, String)>().prop_map(|(id, errno, why)| Report::NotStarted { id, errno, why }),
            ended.prop_map(|(id, (code, signal, timed_out), (output, output_bytes))| {
                Report::Ended { id, code, signal, timed_out, output, output_bytes }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(order in any_order(), report in any_report()) {
            prop_assert_eq!(Order::decode(&order.encode().unwrap()), Ok(order));
            prop_assert_eq!(Report::decode(&report.encode().unwrap()), Ok(report));
        }

        /// However long it is: what is kept is its beginning.
        #[test]
        fn output_of_any_kind_fits(piece in any::<String>(), count in 1..20_000_usize) {
            let output: String = piece.repeat(count).chars().take(OUTPUT_BYTES_MAX).collect();
            let ended = |output: String| {
                Report::Ended { id: u64::MAX, code: None, signal: Some(9), timed_out: false, output, output_bytes: u64::MAX }
            };
            let message = ended(output.clone()).encode().unwrap();
            let Ok(Report::Ended { output: kept, .. }) = Report::decode(&message) else { panic!("{message:?}") };
            prop_assert!(output.starts_with(&kept));
            prop_assert!(kept == output || message.len() > MESSAGE_BYTES_MAX - 2048, "{} bytes", message.len());
        }

        #[test]
        fn nonsense_is_refused_without_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = (Order::decode(&bytes), Report::decode(&bytes));
        }
    }

    #[test]
    fn what_cannot_be_carried_out_is_known_before() {
        let start =
            |deed, env| Order::Start { id: 1, pid: 1, deed, timeout_ns: 1, user: None, env, evidence: None };
        let run = |words: &[&str]| Deed::Run(words.iter().map(|word| (*word).to_owned()).collect());
        let systemd = |verb: &str| Deed::Systemd { verb: verb.to_owned(), unit: "*".to_owned() };
        let variable = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (deed, env) in [
            (run(&[]), Vec::new()),
            (run(&["true"]), Vec::new()),
            (run(&["/bin/true", "a\0"]), Vec::new()),
            (run(&["/bin/true"]), variable("", "x")),
            (run(&["/bin/true"]), variable("a=b", "x")),
            (run(&["/bin/true"]), variable("a", "\0")),
            (Deed::Signal(0), Vec::new()),
            (Deed::Signal(65), Vec::new()),
            (systemd("reload"), Vec::new()),
        ] {
            let order = start(deed, env);
            assert!(order.fault().is_some(), "{order:?}");
        }
        for order in [
            start(run(&["/bin/true", "", "é=\n"]), variable("A", "b=c\n")),
            start(Deed::Signal(64), Vec::new()),
            start(systemd("restart"), Vec::new()),
            Order::Cancel { id: 1 },
        ] {
            assert_eq!(order.fault(), None, "{order:?}");
        }
    }
}
