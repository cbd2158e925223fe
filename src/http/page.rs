//! The status page: its content without a script, and the script that keeps it up to date.

use std::fmt::Write as _;

use crate::api::{Fleet, Level, Page};
use crate::message::{Shown, quoted};
use crate::view::text::rounded;

const TEMPLATE: &str = include_str!("page.html");
/// The look of the page, and of those beside it.
pub const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The content security policy: the browser may run the script of the page, and send requests to us.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page as of now.
pub fn render(fleet: &Fleet, stalled: &Page, nonce: &str) -> String {
    let exits: u64 = fleet.shards.iter().map(|shard| shard.exits).sum();
    let had_agents = fleet.up + fleet.stalled + exits > 0;
    let values = [
        ("nonce", nonce.to_owned()),
        ("css", STYLE.to_owned()),
        ("js", SCRIPT.to_owned()),
        ("class", class(fleet.headline.level).to_owned()),
        ("headline", escaped(&fleet.headline.text)),
        ("summary", escaped(&summary(fleet))),
        ("ask", fleet.headline.runbook.as_deref().map(what_to_do).unwrap_or_default()),
        ("problems", fleet.problems.iter().map(|problem| format!("<li>{}</li>", escaped(problem))).collect()),
        ("up", fleet.up.to_string()),
        ("stalled_count", fleet.stalled.to_string()),
        ("died", fleet.died.agents.to_string()),
        ("empty", if had_agents { "gone" } else { "" }.to_owned()),
        (
            "try",
            escaped(&format!("varta-fleet load --agents 12 --for 1m --dir {}", quoted(fleet.dir.as_ref()))),
        ),
        ("python", escaped(&python(&fleet.dir))),
        ("stalled", rows(agent_rows(stalled), &[0])),
        ("observer", escaped(&format!("{} shards · {}", fleet.shards.len(), fleet.dir))),
        ("shards", rows(shard_rows(fleet), &[0, 11])),
        ("dashboard", fleet.dashboard.as_deref().map(dashboard).unwrap_or_default()),
        ("version", escaped(env!("CARGO_PKG_VERSION"))),
    ];
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + SCRIPT.len() + 4096);
    let mut rest = TEMPLATE;
    // Replaced in one pass, so that a process name is never taken for a placeholder.
    while let Some((before, name, after)) = next_place(rest) {
        page.push_str(before);
        page.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value));
        rest = after;
    }
    page.push_str(rest);
    page
}

/// The class of the headline: `good`, `warn` or `bad`.
const fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "good",
        Level::Warning => "warn",
        Level::Critical => "bad",
    }
}

/// The line below the headline.
fn summary(fleet: &Fleet) -> String {
    format!("A silence of {} is a stall · observing since {}", rounded(fleet.threshold_ns), fleet.started)
}

/// The way to a section of the runbook.
fn what_to_do(section: &str) -> String {
    format!("<a href=\"/runbook#{}\">What to do</a>", escaped(&section.to_lowercase()))
}

/// The link to the dashboard, behind another link.
fn dashboard(url: &str) -> String {
    format!(" · <a id=\"dashboard\" href=\"{}\" rel=\"noopener\">Dashboard</a>", escaped(url))
}

/// A program that beats, to paste into a shell.
fn python(dir: &str) -> String {
    format!(
        "python3 - <<'END'
import time, varta
agent = varta.Varta.connect({:?})
agent.set_reconnect_after(1)
while True:
    agent.beat(varta.Status.OK)
    time.sleep(0.5)
END",
        format!("{dir}/varta.sock")
    )
}

/// The table of shards.
fn shard_rows(fleet: &Fleet) -> impl Iterator<Item = Vec<String>> {
    fleet.shards.iter().map(|shard| {
        let state = match (shard.is_alive, shard.is_blind, shard.is_reachable) {
            (false, ..) => "dead",
            (true, true, _) => "blind",
            (true, false, false) => "not reachable",
            (true, false, true) => "sees",
        };
        let counts = [shard.shard.into(), shard.up, shard.stalled];
        let mut cells: Vec<String> = counts.iter().map(u64::to_string).collect();
        cells.push("–".to_owned());
        cells.extend([shard.beats, shard.lost, shard.refused()].iter().map(u64::to_string));
        let waited = shard.latencies.queue_ns.quantiles.p99;
        cells.extend([waited, shard.tick_age_ns, shard.blind_ns].map(rounded));
        cells.extend([shard.queue_limit.to_string(), state.to_owned()]);
        cells
    })
}

/// The table of agents.
fn agent_rows(page: &Page) -> impl Iterator<Item = Vec<String>> {
    let rows = page.agents.iter().map(|agent| {
        vec![
            agent.comm.as_ref().map_or_else(|| "?".to_owned(), |comm| Shown(comm).to_string()),
            agent.pid.to_string(),
            rounded(agent.silent_ns),
            rounded(agent.threshold_ns),
            agent.uid.to_string(),
            agent.shard.to_string(),
            agent.lost.to_string(),
        ]
    });
    rows.chain(page.agents.is_empty().then(|| vec!["None".to_owned()]))
}

fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name, after))
}

/// Rows of a table; the columns in `left` hold words.
fn rows(rows: impl Iterator<Item = Vec<String>>, left: &[usize]) -> String {
    let mut html = String::new();
    for cells in rows {
        html.push_str("<tr>");
        for (column, cell) in cells.iter().enumerate() {
            let class = if left.contains(&column) { " class=\"l\"" } else { "" };
            let _ = write!(html, "<td{class}>{}</td>", escaped(cell));
        }
        html.push_str("</tr>");
    }
    html
}

/// The text as HTML.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[test]
    fn what_a_process_calls_itself_stays_text() {
        let row = vec!["1".to_owned(), "<script>alert('x')</script>".to_owned(), "{{nonce}}".to_owned()];
        assert_eq!(
            rows([row].into_iter(), &[1]),
            "<tr><td>1</td><td class=\"l\">&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;</td><td>{{nonce}}</td></tr>"
        );
    }

    #[test]
    fn every_place_of_the_template_is_known() {
        let known = [
            "nonce",
            "css",
            "js",
            "class",
            "headline",
            "summary",
            "ask",
            "problems",
            "up",
            "stalled_count",
            "died",
            "empty",
            "try",
            "python",
            "stalled",
            "observer",
            "shards",
            "dashboard",
            "version",
        ];
        let (mut rest, mut found) = (TEMPLATE, Vec::new());
        while let Some((_, name, after)) = next_place(rest) {
            assert!(known.contains(&name), "{name}");
            found.push(name);
            rest = after;
        }
        assert!(known.iter().all(|name| found.contains(name)), "{found:?}");
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        let page = [TEMPLATE, STYLE, SCRIPT].concat();
        let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
        for forbidden in
            ["http://", "https://", "url(", "@import", "import(", "innerHTML", "outerHTML", "eval("]
        {
            assert!(!elsewhere.contains(forbidden), "{forbidden}");
        }
        assert!(!TEMPLATE.contains(" style=") && !TEMPLATE.contains(" onclick="), "the policy refuses it");
        assert!(!SCRIPT.contains("setAttribute(\"style\""), "the policy refuses it");
        assert!(!SCRIPT.contains("</script"), "it would end there");
    }

    /// A kind that the script does not listen to looks like an event that was missed, again and again.
    #[test]
    fn every_kind_of_event_is_listened_to() {
        let (_, rest) = SCRIPT.split_once("const KINDS = [").unwrap();
        let (kinds, _) = rest.split_once(']').unwrap();
        let mut kinds: Vec<&str> = kinds.split(',').map(|kind| kind.trim().trim_matches('"')).collect();
        let all = EventKind::MEANINGS.into_iter().map(|(name, _)| name);
        let mut names: Vec<&str> = all.filter(|name| *name != "beat").collect();
        kinds.sort_unstable();
        names.sort_unstable();
        assert_eq!(kinds, names);
    }

    #[test]
    fn lines_to_paste_hold_any_directory() {
        let fleet = Fleet { dir: "/run/it's <b>".to_owned(), ..Fleet::default() };
        let page = render(&fleet, &Page::default(), "n");
        let line =
            "varta-fleet load --agents 12 --for 1m --dir &#39;/run/it&#39;\\&#39;&#39;s &lt;b&gt;&#39;";
        assert!(page.contains(line));
        assert!(page.contains("Varta.connect(&quot;/run/it&#39;s &lt;b&gt;/varta.sock&quot;)"));
    }

    #[test]
    fn the_dashboard_is_a_link_if_there_is_one() {
        let page = |dashboard: Option<&str>| {
            let fleet = Fleet { dashboard: dashboard.map(str::to_owned), ..Fleet::default() };
            render(&fleet, &Page::default(), "n")
        };
        assert!(!page(None).contains("Dashboard") && !page(None).contains("id=\"dashboard\""));
        let with = page(Some("https://grafana.example/d/varta-fleet?var-a=1&var-b=2"));
        let link = " · <a id=\"dashboard\" href=\"https://grafana.example/d/varta-fleet?var-a=1&amp;var-b=2\" \
                    rel=\"noopener\">Dashboard</a> ·";
        assert!(with.contains(link));
        // The configuration refuses this one.
        let hostile = page(Some("https://x/\"><script>alert('x')</script>{{nonce}}"));
        assert!(hostile.contains(
            "href=\"https://x/&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;{{nonce}}\""
        ));
    }

    #[test]
    fn the_page_is_small() {
        let page = render(&Fleet::default(), &Page::default(), "n");
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zipped, page.as_bytes()).unwrap();
        let bytes = zipped.finish().unwrap().len();
        assert!(bytes < 60 * 1024, "{bytes} bytes");
    }

    /// A name that is declared twice is an error of syntax: the browser would run nothing at all.
    #[test]
    fn the_script_declares_each_name_once() {
        let mut names = std::collections::BTreeSet::new();
        for line in SCRIPT.lines() {
            let declared = ["const ", "let ", "function ", "async function "];
            let Some(rest) = declared.iter().find_map(|word| line.strip_prefix(word)) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            assert!(name.is_empty() || names.insert(name), "{name} is declared twice");
        }
        assert!(names.len() > 50, "{names:?}");
    }
}
