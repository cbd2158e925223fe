//! `completions`: made from the definitions of the flags. Hidden commands are left out, and bash, zsh and fish
//! complete pids and names of actions, too.

use std::fmt::Write as _;
use std::io::{self, Write as _};

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
    let script = String::from_utf8_lossy(&text);
    let text = match args.shell {
        Shell::Bash => for_bash(&script),
        Shell::Zsh => for_zsh(&script),
        Shell::Fish => for_fish(&script, &command),
        _ => script.into_owned(),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Clean)
}

/// The name under which the script for bash is made.
const BASH_NAME: &str = "vartafleet";

fn for_bash(script: &str) -> String {
    let script = script.replace(&format!("-F _{BASH_NAME} "), "-F _vartafleet_or_pids ");
    let script = script.replace(&format!("default {BASH_NAME}\n"), "default varta-fleet\n");
    format!("{IN_BASH}\n{script}")
}

/// Completes pids of agents and names of actions, of the fleet that the line names. Bash makes three words of `--dir=X`.
const IN_BASH: &str = r#"_vartafleet_or_pids() {
    local at flag what="" fleet=() plain=()
    for (( at = 1; at < COMP_CWORD; at++ )); do
        flag=${COMP_WORDS[at]}
        case "$flag" in
            --json|-h|--help) ;;
            -*)
                [[ ${COMP_WORDS[at + 1]} == = ]] && (( at++ ))
                (( at++ ))
                [[ $flag != --dir && $flag != --config ]] || fleet+=("$flag" "${COMP_WORDS[at]}")
                ;;
            *) plain+=("$flag") ;;
        esac
    done
    if [[ $2 != -* && ( $3 != [=-]* || $3 == --pid || $3 == --json ) ]]; then
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

fn for_zsh(script: &str) -> String {
    // The functions within see the whole line only here.
    let of_all = "_varta-fleet() {\n";
    let script = script.replacen(
        of_all,
        &format!("{IN_ZSH}{of_all}    local -a typed; typed=(\"${{words[@]}}\")\n"),
        1,
    );
    script
        .replace(" -- Process id of the agent:_default", " -- Process id of the agent:_varta-fleet_pids")
        .replace(":PID:_default", ":PID:_varta-fleet_pids")
        .replace(" -- Name of the action:_default", " -- Name of the action:_varta-fleet_action-names")
}

/// The same. Words are taken as they are, so that nothing in them is run.
const IN_ZSH: &str = r#"_varta-fleet_ask() {
    local at
    local -a line fleet found
    line=("${(Q)typed[@]}")
    line=("${line[@]/#\~\//$HOME/}")
    for (( at = 2; at < $#line; at++ )); do
        case $line[at] in
            (--dir|--config) fleet+=("$line[at]" "$line[at + 1]"); (( at++ )) ;;
            (--dir=*|--config=*) fleet+=("$line[at]") ;;
        esac
    done
    found=(${(f)"$("$line[1]" $1 "${fleet[@]}" -- "$PREFIX" 2>/dev/null)"})
    compadd "${@:2}" -V $1 -a found
}
_varta-fleet_pids() { _varta-fleet_ask pids "$@" }
_varta-fleet_action-names() { _varta-fleet_ask action-names "$@" }

"#;

fn for_fish(script: &str, command: &clap::Command) -> String {
    let line = |line: &str| {
        if line.contains(" -l pid ") && line.ends_with(" -r") {
            format!("{line} -f -k -a \"(__fish_varta_fleet_ask pids)\"\n")
        } else {
            format!("{line}\n")
        }
    };
    let mut script: String = script.lines().map(line).collect();
    // The script that is made offers no values of arguments that are no flags.
    for path in [&["completions"][..], &["act", "brake"]] {
        let (what, values) = (path.join(" "), values(command, path).join(" "));
        let _ = writeln!(
            script,
            "complete -c varta-fleet -n \"__fish_varta_fleet_is '{what}'\" -f -a \"{values}\""
        );
    }
    format!("{IN_FISH}{script}")
}

/// The values that the argument of a subcommand takes.
fn values(command: &clap::Command, path: &[&str]) -> Vec<String> {
    let of = path.iter().try_fold(command, |command, name| command.find_subcommand(name));
    let argument = of.and_then(|command| command.get_positionals().next());
    let values = argument.map(clap::Arg::get_possible_values).unwrap_or_default();
    values.iter().map(|value| value.get_name().to_owned()).collect()
}

/// The same.
const IN_FISH: &str = r#"# The words that are neither flags nor their values.
function __fish_varta_fleet_plain
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --json -h --help '--*=*'
            case '-*'
                set -q words[2]; and set -e words[2]
            case '*'
                echo $words[1]
        end
        set -e words[1]
    end
end

function __fish_varta_fleet_is
    set -l plain (__fish_varta_fleet_plain)
    test "$plain" = $argv[1]
end

function __fish_varta_fleet_wants
    set -l plain (__fish_varta_fleet_plain)
    switch "$plain"
        case explain 'act hold' 'act unhold' 'act now'
            test $argv[1] = pids
        case 'act now *'
            test $argv[1] = action-names -a (count $plain) -eq 3
        case '*'
            return 1
    end
end

# Asks the fleet that the line names.
function __fish_varta_fleet_ask
    set -l words (commandline -opc | string replace -r '^~/' "$HOME/")
    set -l program $words[1]
    set -l fleet
    while set -q words[2]
        set -e words[1]
        switch $words[1]
            case --dir --config
                set -q words[2]; and set -a fleet $words[1..2]
            case '--dir=*' '--config=*'
                set -a fleet $words[1]
        end
    end
    $program $argv[1] $fleet -- (commandline -ct) 2>/dev/null
end

complete -c varta-fleet -n "__fish_varta_fleet_wants pids" -f -k -a "(__fish_varta_fleet_ask pids)"
complete -c varta-fleet -n "__fish_varta_fleet_wants action-names" -f -k -a "(__fish_varta_fleet_ask action-names)"

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
