//! `man`: the manual pages, made from the tables of flags, configuration and events.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use varta_fleet::config::{KEYS, Key, TABLES};
use varta_fleet::event::EventKind;
use varta_fleet::{Reason, Shown};

use crate::exit::{CliError, EXIT_CODES, Exit};

const CONFIG_PAGE: &str = "varta-fleet.toml";
const EVENTS_PAGE: &str = "varta-fleet-events";

const PRECEDENCE: &str = "\
A setting comes from its flag, else from its environment variable, else from this file, else it is the default. An \
empty variable counts as unset. Unknown keys and misspelt variables are errors; `varta-fleet check` \
reports every mistake at once. Durations are written `500ms`, `2s` or `1m30s`. `none` switches off what another layer \
switched on.";

const PATTERNS: &str = "\
In patterns `*` stands for any characters, also `/` and none at all, and `?` for one. The first rule that matches an \
agent gives it its threshold; all that a rule's `match` names must hold.";

const PLACEHOLDERS: &str = "\
In the arguments of the program that an action runs stand `{pid}`, `{ns_pid}`, `{uid}`, `{session}`, `{shard}`, \
`{status}`, `{silent_ms}`, `{name}` (of the action), `{comm}`, `{exe}`, `{unit}` and `{container}` for values of the agent, \
`{{` and `}}` for braces. A text that could be taken for something else, because it begins with - or has other characters \
than a path or a name needs, refuses the action. No shell is run.";

const TRUST: &str = "\
A file that has actions or a brake belongs to root or the observer's user, others may not write it, it is a regular file, \
and no symlink is in its path as it is named. The program of an action is a regular file that the user it runs as may \
execute. It, every directory above it and every symlink to it belong to root or that user, and others may not write them; \
a directory that others may write must be sticky. Else the configuration is refused, or, if that changed later, the \
start.";

const SCHEMA: &str = "\
One JSON object a line, version 1 of the schema. Every line has `v` (1), `ts` (when it was reported, by the wall clock), \
`mono_ns` (when it happened, by the monotonic clock) and `kind`; all but beats have `seq`, which has no gaps. Where \
they apply follow `shard`, `pid` (in the observer's pid namespace), `ns_pid` (in the agent's own), `session`, and of the \
last accepted frame `nonce`, `status` and `payload`; then what the kind adds. `coalesced` says how many an event stands \
for, where it is more than one. The line of `lost` has `v`, `kind`, `from_seq` and `to_seq` alone.";

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Write every page below this directory, in man1, man5 and man7, instead of printing the main page
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the main page, or writes all pages of the whole command line.
pub fn man(args: &ManArgs, mut all: clap::Command) -> Result<Exit, CliError> {
    all.build();
    match &args.dir {
        Some(dir) => pages(&all)?.iter().try_for_each(|page| page.write_below(dir))?,
        None => io::stdout().lock().write_all(main_page(&all)?.text.as_bytes())?,
    }
    Ok(Exit::Clean)
}

/// A page in man(7) format.
struct Page {
    name: String,
    section: u8,
    text: String,
}

impl Page {
    /// An empty page with its head.
    fn new(name: &str, section: u8, about: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(".TH {} {section} \"\" \"varta\\-fleet {version}\"\n", escaped(name));
        let mut page = Self { name: name.to_owned(), section, text: head };
        page.heading("NAME");
        page.line(&format!("{} \\- {}", escaped(name), escaped(about)));
        page
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn heading(&mut self, heading: &str) {
        let _ = writeln!(self.text, ".SH \"{}\"", escaped(heading));
    }

    fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.text, ".PP\n{}", marked(text));
    }

    /// An item and its description.
    fn item(&mut self, name: &str, lines: &[String]) {
        let lines: Vec<String> = lines.iter().map(|line| marked(line)).collect();
        let _ = writeln!(self.text, ".TP\n\\fB{}\\fR\n{}", escaped(name), lines.join("\n.br\n"));
    }

    /// The text after the help of a command: one section per list, and one for the rest. `macro_name`: the
    /// macro of their headings.
    fn notes<'a>(&mut self, parts: impl Iterator<Item = &'a str>, macro_name: &str) {
        for part in parts {
            let Some((heading, list)) = part.split_once(":\n") else {
                let _ = writeln!(self.text, ".{macro_name} NOTES\n{}", marked(&part.replace('\n', " ")));
                continue;
            };
            let heading = match heading {
                "Exit codes" => "EXIT STATUS".to_owned(),
                other => other.to_uppercase(),
            };
            let _ = writeln!(self.text, ".{macro_name} \"{heading}\"\n.nf");
            list.lines().for_each(|line| self.line(&escaped(line.strip_prefix("  ").unwrap_or(line))));
            self.line(".fi");
        }
    }

    /// What a command has of commands of its own, each with its synopsis, description and options. `before`: what stands
    /// before their names.
    fn parts(&mut self, command: &clap::Command, before: &str) -> io::Result<()> {
        let is_own = |part: &&clap::Command| !part.is_hide_set() && part.get_name() != "help";
        for part in command.get_subcommands().filter(is_own) {
            self.heading(&format!("{before}{}", part.get_name()).to_uppercase());
            // Those are said once, for the whole command.
            let is_said = |arg: &clap::Arg| ["dir", "help"].contains(&arg.get_id().as_str());
            let man = Man::new(part.clone().mut_args(|arg| if is_said(&arg) { arg.hide(true) } else { arg }));
            let section = rendered(|text| {
                man.render_synopsis_section(text)?;
                man.render_description_section(text)?;
                man.render_options_section(text)
            })?;
            self.text.push_str(&section.replace(".SH ", ".SS "));
        }
        Ok(())
    }

    fn see_also(&mut self, pages: &[(&str, u8)]) {
        self.heading("SEE ALSO");
        let listed: Vec<String> =
            pages.iter().map(|(name, section)| format!("\\fB{}\\fR({section})", escaped(name))).collect();
        self.line(&listed.join(", "));
    }

    fn write_below(&self, dir: &Path) -> Result<(), CliError> {
        let dir = dir.join(format!("man{}", self.section));
        let path = dir.join(format!("{}.{}", self.name, self.section));
        fs::create_dir_all(&dir).and_then(|()| fs::write(&path, &self.text)).map_err(|error| {
            let exit = match error.kind() {
                io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::Runtime,
            };
            let message = format!(
                "cannot write {}: {}; name a directory that this user may write",
                Shown(path.display()),
                Reason(&error)
            );
            CliError::new(exit, message)
        })
    }
}

fn pages(all: &clap::Command) -> io::Result<Vec<Page>> {
    let mut pages = vec![main_page(all)?, config_page(), events_page()];
    for command in all.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push(command_page(command)?);
    }
    Ok(pages)
}

fn after_help(command: &clap::Command) -> String {
    command.get_after_help().map(ToString::to_string).unwrap_or_default()
}

/// The output of clap, limited to characters that every troff reads.
fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).replace('…', "..."))
}

/// One page with every command.
fn main_page(all: &clap::Command) -> io::Result<Page> {
    let about = all.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = Page::new("varta-fleet", 1, &about);
    let main = Man::new(all.clone());
    page.text.push_str(&rendered(|text| {
        main.render_synopsis_section(text)?;
        main.render_description_section(text)
    })?);
    for command in all.get_subcommands().filter(|command| !command.is_hide_set()) {
        page.heading(&command.get_name().to_uppercase());
        let man = Man::new(command.clone());
        let section = rendered(|text| {
            man.render_description_section(text)?;
            man.render_options_section(text)
        })?;
        // Its sections become subsections.
        page.text.push_str(&section.replace(".SH ", ".SS "));
        page.parts(command, &format!("{} ", command.get_name()))?;
        // The exit codes are the same for all commands, and are listed at the end.
        let notes = after_help(command);
        page.notes(notes.split("\n\n").filter(|part| *part != EXIT_CODES && !part.is_empty()), "SS");
    }
    page.notes(after_help(all).split("\n\n"), "SH");
    page.see_also(&[(CONFIG_PAGE, 5), (EVENTS_PAGE, 7)]);
    Ok(page)
}

fn command_page(command: &clap::Command) -> io::Result<Page> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = Page::new(&format!("varta-fleet-{}", command.get_name()), 1, &about);
    let man = Man::new(command.clone());
    page.text.push_str(&rendered(|text| {
        man.render_synopsis_section(text)?;
        man.render_description_section(text)?;
        man.render_options_section(text)
    })?);
    page.parts(command, "")?;
    page.notes(after_help(command).split("\n\n").filter(|part| !part.is_empty()), "SH");
    page.see_also(&[("varta-fleet", 1), (CONFIG_PAGE, 5), (EVENTS_PAGE, 7)]);
    Ok(page)
}

fn config_page() -> Page {
    let mut page = Page::new(CONFIG_PAGE, 5, "configuration of varta-fleet");
    page.heading("DESCRIPTION");
    page.paragraph(
        "A file in TOML: `/etc/varta-fleet.toml` if it is there, or the one that `--config FILE` or the environment \
         variable `VARTA_CONFIG` names. `varta-fleet config` shows what is in effect, with the origin of each line.",
    );
    page.paragraph(PRECEDENCE);
    page.heading("KEYS");
    let is_table = |key: &Key| TABLES.iter().any(|(heading, _)| heading.trim_matches(['[', ']']) == key.name);
    for key in KEYS.iter().filter(|key| !is_table(key)) {
        page.item(key.name, &explained(key));
    }
    for (heading, keys) in TABLES {
        page.heading(heading);
        for key in *keys {
            page.item(key.name, &explained(key));
        }
    }
    page.heading("PATTERNS");
    page.paragraph(PATTERNS);
    page.heading("PLACEHOLDERS");
    page.paragraph(PLACEHOLDERS);
    page.heading("FILES THAT MAY ACT");
    page.paragraph(TRUST);
    page.see_also(&[("varta-fleet", 1), ("varta-fleet-run", 1), ("varta-fleet-check", 1)]);
    page
}

fn explained(key: &Key) -> Vec<String> {
    let mut lines = vec![format!("{}.", key.help_with_default()), format!("Takes {}.", key.takes)];
    if key.is_settable() {
        lines.push(format!("Flag `--{}`, variable `{}`.", key.name, key.variable));
    }
    lines
}

fn events_page() -> Page {
    let mut page = Page::new(EVENTS_PAGE, 7, "events of varta-fleet");
    page.heading("DESCRIPTION");
    page.paragraph("An event is one fact about one agent, a shard or the fleet.");
    page.paragraph(SCHEMA);
    page.heading("KINDS");
    for (kind, meaning) in EventKind::MEANINGS {
        page.item(kind, &[meaning.to_owned()]);
    }
    page.see_also(&[("varta-fleet", 1), ("varta-fleet-events", 1), ("varta-fleet-run", 1)]);
    page
}

/// Escapes text for roff.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    if text.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '"' => out.push_str("\\(dq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '…' => out.push_str("..."),
            c => out.push(c),
        }
    }
    out
}

/// The same, with the text between backquotes in bold.
fn marked(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if at % 2 == 0 {
            out.push_str(&part);
        } else {
            let _ = write!(out, "\\fB{part}\\fR");
        }
    }
    out
}
