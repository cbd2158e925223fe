//! `completions`: made from the definitions of the flags. Hidden commands are left out, and bash completes pids and names of
//! actions, too.

use std::io::{self, Write};

use clap_complete::Shell;
use varta_fleet::Shown;
use varta_fleet::api::{Act, Page};

use crate::client::{FleetArgs, parameter};

use crate::exit::{CliError, Exit};

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints the completion script.
pub fn completions(args: &CompletionsArgs, command: &clap::Command) -> Result<Exit, CliError> {
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = clap::Command::new("varta-fleet")
        .disable_help_subcommand(true)
        .args(command.get_arguments().cloned())
        .subcommands(visible);
    // The script for bash looks for subcommands under another name if there is a dash in that of the program.
    let name = if args.shell == Shell::Bash { BASH_NAME } else { "varta-fleet" };
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    if args.shell == Shell::Bash {
        let script = String::from_utf8_lossy(&text);
        let script = script.replace(&format!("-F _{BASH_NAME} "), "-F _vartafleet_or_pids ");
        let script = script.replace(&format!("default {BASH_NAME}\n"), "default varta-fleet\n");
        text = format!("{PIDS}\n{script}").into_bytes();
    }
    io::stdout().lock().write_all(&text)?;
    Ok(Exit::Clean)
}

/// The name under which the script for bash is made.
const BASH_NAME: &str = "vartafleet";

/// Completes pids of agents and names of actions, of the fleet that the line names.
const PIDS: &str = r#"_vartafleet_or_pids() {
    local at what="" fleet=() plain=()
    for (( at = 1; at < COMP_CWORD; at++ )); do
        case "${COMP_WORDS[at]}" in
            --dir|--config) fleet+=("${COMP_WORDS[at]}" "${COMP_WORDS[++at]}") ;;
            -*) ;;
            *) plain+=("${COMP_WORDS[at]}") ;;
        esac
    done
    if [[ $2 != -* && $3 != --dir && $3 != --config ]]; then
        case "$3 ${plain[*]}" in
            "--pid "*|*" explain"|*" act hold"|*" act unhold"|*" act now") what=pids ;;
            *" act now "*) if (( ${#plain[@]} == 3 )); then what=action-names; fi ;;
        esac
    fi
    if [[ -n $what && $COMP_CWORD -gt 1 ]]; then
        COMPREPLY=( $("$1" $what "${fleet[@]}" "$2" 2>/dev/null) )
        return 0
    fi
    _vartafleet "$@"
}
"#;

/// Most pids to choose from.
const PIDS_MAX: usize = 100;
/// Most pages of agents that are searched: somebody waits for the answer.
const PAGES: usize = 8;

/// Arguments of `pids`.
#[derive(clap::Args, Debug)]
pub struct PidsArgs {
    /// How they begin
    #[arg(default_value = "")]
    begin: String,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Prints the pids of agents that begin so, the longest silence first.
pub fn pids(args: &PidsArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    let (mut pids, mut after) = (Vec::new(), None);
    for _ in 0..PAGES {
        let query = ["sort=silent&limit=10000".to_owned()].into_iter().chain(parameter("after", after));
        let page: Page = client.get(&format!("/api/v1/agents?{}", query.collect::<Vec<_>>().join("&")))?;
        let found = page.agents.iter().map(|agent| agent.pid.to_string());
        pids.extend(found.filter(|pid| pid.starts_with(&args.begin)));
        after = page.next;
        if after.is_none() || pids.len() >= PIDS_MAX {
            break;
        }
    }
    pids.truncate(PIDS_MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    pids.iter().try_for_each(|pid| writeln!(out, "{pid}"))?;
    out.flush()?;
    Ok(Exit::Clean)
}

/// Arguments of `action-names`.
#[derive(clap::Args, Debug)]
pub struct ActionNamesArgs {
    /// How they begin
    #[arg(default_value = "")]
    begin: String,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Prints the names of actions that begin so.
pub fn action_names(args: &ActionNamesArgs) -> Result<Exit, CliError> {
    let act: Act = args.fleet.client()?.get("/api/v1/act")?;
    let mut out = io::stdout().lock();
    let found = act.actions.iter().filter(|name| name.starts_with(&args.begin));
    found.into_iter().try_for_each(|name| writeln!(out, "{}", Shown(name)))?;
    Ok(Exit::Clean)
}
