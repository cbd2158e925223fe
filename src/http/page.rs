//! The status page: its content without a script, and the script that keeps it up to date.

use std::fmt::Write as _;

use super::agents::Page;
use super::fleet::FleetAnswer;

const TEMPLATE: &str = include_str!("page.html");

/// The content security policy: the browser may run the script of the page, and send requests to us.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page as of now.
pub fn render(fleet: &FleetAnswer, stalled: &Page, nonce: &str) -> String {
    let (class, headline) = fleet.headline();
    let values = [
        ("nonce", nonce.to_owned()),
        ("class", class.to_owned()),
        ("headline", escaped(&headline)),
        ("summary", escaped(&fleet.summary())),
        (
            "problems",
            fleet.problems().iter().map(|problem| format!("<li>{}</li>", escaped(problem))).collect(),
        ),
        ("stalled", rows(stalled.rows(), &[1])),
        ("shards", rows(fleet.rows(), &[11])),
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
