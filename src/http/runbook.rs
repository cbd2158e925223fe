//! The runbook of the alerts, as a page: what to do about each kind of trouble, without a network.

use super::page::{STYLE, escaped};

const TEXT: &str = include_str!("../../scripts/deploy/prometheus/RUNBOOK.md");

/// The page. Each section has its heading in small letters as its anchor, as forges make it, and the heading itself: the
/// dashboard has only the name of the alert.
pub fn render(nonce: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Runbook of varta-fleet</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n\
         <nav id=\"bar\"><a id=\"home\" href=\"/\">varta-fleet</a></nav>\n<main class=\"book\">\n{}</main>\n</body>\n</html>\n",
        blocks(TEXT)
    )
}

/// Headings, paragraphs and lists.
fn blocks(text: &str) -> String {
    let (mut html, mut block, mut is_list) = (String::new(), String::new(), false);
    for line in text.lines().chain([""]) {
        let item = line.strip_prefix("- ");
        let heading = line.strip_prefix("## ");
        let title = line.strip_prefix("# ");
        let begins = line.is_empty() || item.is_some() || heading.is_some() || title.is_some();
        if begins && !block.is_empty() {
            let tag = if is_list { "li" } else { "p" };
            html.push_str(&format!("<{tag}>{}</{tag}>\n", inline(&block)));
            block.clear();
        }
        if is_list && item.is_none() && begins {
            html.push_str("</ul>\n");
            is_list = false;
        }
        if let Some(item) = item {
            if !is_list {
                html.push_str("<ul>\n");
            }
            is_list = true;
            block.push_str(item);
        } else if let Some(heading) = heading {
            let (anchor, heading) = (escaped(&heading.to_lowercase()), escaped(heading));
            html.push_str(&format!("<h2 id=\"{anchor}\"><span id=\"{heading}\">{heading}</span></h2>\n"));
        } else if let Some(title) = title {
            html.push_str(&format!("<h1>{}</h1>\n", escaped(title)));
        } else if !line.is_empty() {
            if !block.is_empty() {
                block.push(' ');
            }
            block.push_str(line.trim());
        }
    }
    html
}

/// Code, what is important, and the text of links, which lead to files beside the runbook.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (n, part) in text.split('`').enumerate() {
        if n % 2 == 1 {
            html.push_str(&format!("<code>{}</code>", escaped(part)));
            continue;
        }
        for (n, part) in without_links(part).split("**").enumerate() {
            let part = escaped(part);
            html.push_str(&if n % 2 == 1 { format!("<b>{part}</b>") } else { part });
        }
    }
    html
}

fn without_links(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, name, after)) = rest.split_once('[').and_then(|(before, link)| {
        let (name, target) = link.split_once("](")?;
        Some((before, name, target.split_once(')')?.1))
    }) {
        plain.push_str(before);
        plain.push_str(name);
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_runbook_are_shown() {
        let text = "# Title\n\nOne [file](a.yml),\n`a <b>` and **more**.\n\n## VartaBlind\nWhat.\n- Look: x\n  y\n- Do: z\n\nEnd";
        assert_eq!(
            blocks(text),
            "<h1>Title</h1>\n<p>One file, <code>a &lt;b&gt;</code> and <b>more</b>.</p>\n\
             <h2 id=\"vartablind\"><span id=\"VartaBlind\">VartaBlind</span></h2>\n<p>What.</p>\n<ul>\n<li>Look: x y</li>\n<li>Do: z</li>\n</ul>\n<p>End</p>\n"
        );
    }

    #[test]
    fn what_the_page_links_to_has_a_section() {
        let page = render("n");
        let sources = [include_str!("page.js"), include_str!("../api/headline.rs")].concat();
        let named = sources.split('"').filter(|word| word.starts_with("Varta"));
        let mut count = 0;
        for section in named {
            assert!(page.contains(&format!("<h2 id=\"{}\">", section.to_lowercase())), "{section}");
            count += 1;
        }
        assert!(count >= 5, "{count}");
        assert!(!page.contains("**") && !page.contains("]("));
    }
}
