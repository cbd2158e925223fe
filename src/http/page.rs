//! The status page: its content without a script, and the script that keeps it up to date.

use std::fmt::Write as _;

use crate::api::{Fleet, Level, Page};
use crate::view::text::rounded;

const TEMPLATE: &str = include_str!("page.html");

/// The content security policy: the browser may run the script of the page, and send requests to us.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page as of now.
pub fn render(fleet: &Fleet, stalled: &Page, nonce: &str) -> String {
    let values = [
        ("nonce", nonce.to_owned()),
        ("class", class(fleet.headline.level).to_owned()),
        ("headline", escaped(&fleet.headline.text)),
        ("summary", escaped(&summary(fleet))),
        ("problems", fleet.problems.iter().map(|problem| format!("<li>{}</li>", escaped(problem))).collect()),
        ("stalled", rows(agent_rows(stalled), &[1])),
        ("shards", rows(shard_rows(fleet), &[11])),
        ("version", escaped(env!("CARGO_PKG_VERSION"))),
    ];
    let mut page = String::with_capacity(TEMPLATE.len() + 4096);
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

/// The class of the headline: `good`, `old` or `bad`.
const fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "good",
        Level::Warning => "old",
        Level::Critical => "bad",
    }
}

/// The line below the headline.
fn summary(fleet: &Fleet) -> String {
    let threshold = rounded(fleet.threshold_ns);
    format!(
        "{} shards · a silence of {threshold} is a stall · since {} · {}",
        fleet.shards.len(),
        fleet.started,
        fleet.dir
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
        let comm = agent.comm.clone().unwrap_or_else(|| "?".to_owned());
        vec![
            agent.pid.to_string(),
            comm,
            agent.shard.to_string(),
            agent.uid.to_string(),
            rounded(agent.silent_ns),
            rounded(agent.threshold_ns),
            agent.beats.to_string(),
            agent.lost.to_string(),
        ]
    });
    let nobody = page.agents.is_empty().then(|| vec![String::new(), "nobody".to_owned()]);
    rows.chain(nobody)
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

fn escaped(text: &str) -> String {
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
        let known = ["nonce", "class", "headline", "summary", "problems", "stalled", "shards", "version"];
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
        let elsewhere = TEMPLATE.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
        assert!(!TEMPLATE.contains("innerHTML") && !TEMPLATE.contains("eval("));
        assert!(!TEMPLATE.contains(" style="), "the policy refuses it");
    }
}
