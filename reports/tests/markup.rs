//! The page is valid HTML as far as can be told without a browser: every element that needs an end has one in its place, ids
//! are unique, no attribute stands twice, and every link within the page leads somewhere.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::collections::BTreeSet;

use stepwatch_reports::{View, example, html};

/// Elements without an end.
const VOID: [&str; 7] = ["meta", "br", "input", "hr", "wbr", "col", "link"];
/// Elements whose end may be left out, each with the beginnings and ends that imply it.
const IMPLIED: [(&str, &[&str]); 9] = [
    ("li", &["li", "/ul", "/ol"]),
    ("dt", &["dt", "dd", "/dl"]),
    ("dd", &["dt", "dd", "/dl"]),
    ("td", &["td", "th", "tr", "tbody", "/tr", "/tbody", "/thead", "/table"]),
    ("th", &["td", "th", "tr", "tbody", "/tr", "/tbody", "/thead", "/table"]),
    ("tr", &["tr", "tbody", "/tbody", "/thead", "/table"]),
    ("thead", &["tbody", "/table"]),
    ("tbody", &["tbody", "/table"]),
    ("option", &["option", "/select"]),
];

fn check(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let (mut ids, mut links) = (BTreeSet::new(), Vec::new());
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('!') {
            rest = after;
            continue;
        }
        let end = end_of_tag(rest);
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        let name = tag.split([' ', '\n', '/']).find(|part| !part.is_empty()).unwrap();
        let token = if tag.starts_with('/') { &tag[..=name.len()] } else { name };
        while let Some((_, by)) = open.last().and_then(|last| IMPLIED.iter().find(|(implied, _)| implied == last)) {
            if token.starts_with('/') && open.last() == Some(&name) || !by.contains(&token) {
                break;
            }
            open.pop();
        }
        rest = after;
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element, near {:.80}", after);
            continue;
        }
        attributes(tag, &mut ids, &mut links);
        if matches!(name, "script" | "style") {
            let close = format!("</{name}>");
            rest = &rest[rest.find(&close).unwrap_or_else(|| panic!("<{name}> never ends")) + close.len()..];
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new(), "left open");
    for link in links {
        assert!(ids.contains(link), "#{link} leads nowhere");
    }
}

/// Where a tag ends: quoted values may hold what would end it.
fn end_of_tag(text: &str) -> usize {
    let mut quoted = false;
    let is_end = |(_, c): &(usize, char)| {
        quoted ^= *c == '"';
        *c == '>' && !quoted
    };
    text.char_indices().find(is_end).map_or_else(|| panic!("a tag never ends: {text:.80}"), |(at, _)| at)
}

fn attributes<'a>(tag: &'a str, ids: &mut BTreeSet<&'a str>, links: &mut Vec<&'a str>) {
    let mut seen = BTreeSet::new();
    let mut rest = tag.find(' ').map_or("", |at| &tag[at + 1..]);
    while let Some(equals) = rest.find('=') {
        let name = rest[..equals].rsplit(' ').next().unwrap();
        assert!(seen.insert(name), "{name} stands twice in <{tag}>");
        rest = &rest[equals + 1..];
        let value = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap(),
            None => rest.split(' ').next().unwrap(),
        };
        rest = &rest[value.len() + 2 * usize::from(rest.starts_with('"'))..];
        match name {
            "id" => assert!(ids.insert(value), "the id {value} stands twice"),
            "href" => links.push(value.strip_prefix('#').unwrap_or_else(|| panic!("{value} leads out of the page"))),
            _ => {}
        }
    }
}

#[test]
fn every_example_is_valid_markup() {
    for inputs in [
        example::study(),
        example::first_on_cpu(),
        example::hostile(),
        example::unfinished(),
        example::sized(120, 3, 5),
    ] {
        let (run, summary, conclusion) = &inputs;
        check(&html::render(&View::new(run, summary, conclusion)).unwrap());
        let told = Some(example::latest_changes(&inputs));
        let conclusion = &stepwatch_record::comparison::Conclusion { latest_changes: told, ..conclusion.clone() };
        let view = View::new(run, summary, conclusion);
        check(&html::render(&view).unwrap());
        let history = example::nights(&inputs, 40);
        check(&html::render(&view.with_history(&history, run, conclusion)).unwrap());
    }
}

#[test]
fn what_is_not_valid_is_found() {
    for wrong in
        ["<p><b></p></b>", "<p>", "<p id=\"a\"></p><p id=\"a\"></p>", "<a href=\"#x\">x</a>", "<i class=a class=b></i>"]
    {
        assert!(std::panic::catch_unwind(|| check(wrong)).is_err(), "{wrong} passed");
    }
    check("<ul><li>a<li>b</ul><table><tr><td>1<td>2<tr><td>3</table><br><dl><dt>a<dd>b</dl>");
}
