//! Makes text that somebody else wrote harmless to show: no control characters, no hidden direction changes, bounded
//! length. Escaping for a particular format is that format's own business.

/// The longest single text shown; what is longer is cut with `…`.
const LONGEST: usize = 4000;

/// One line: control characters (NUL and ESC among them) and invisible direction marks become `�`, line breaks and tabs
/// become spaces.
#[must_use]
pub fn line(text: &str) -> String {
    shown(text, |c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
}

/// Several lines: as [`line()`], with line breaks and tabs kept.
#[must_use]
pub fn lines(text: &str) -> String {
    shown(&text.replace("\r\n", "\n"), |c| c)
}

fn shown(text: &str, spaces: impl Fn(char) -> char) -> String {
    let mut result: String = text
        .chars()
        .take(LONGEST)
        .map(|c| match spaces(c) {
            c @ ('\n' | '\t') => c,
            c if c.is_control() || hides(c) => '\u{fffd}',
            c => c,
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        result.push('…');
    }
    result
}

/// Marks that reorder or hide what follows, and code points that XML does not allow.
fn hides(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
}

/// One shell word: as it is if it needs no quotes, else in single quotes.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown_as_a_mark() {
        let cases = [
            ("a\0b", "a\u{fffd}b"),
            ("\u{1b}[31mred", "\u{fffd}[31mred"),
            ("two\nlines\tand", "two lines and"),
            ("evil\u{202e}txt", "evil\u{fffd}txt"),
            ("<script>alert(1)</script> 🚀", "<script>alert(1)</script> 🚀"),
        ];
        for (text, shown) in cases {
            assert_eq!(line(text), shown);
        }
        assert_eq!(lines("a\r\nb\u{7}"), "a\nb\u{fffd}");
        assert_eq!(line(&"x".repeat(5000)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("scenarios/a.toml"), "scenarios/a.toml");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("$(rm)"), "'$(rm)'");
        assert_eq!(shell_word(""), "''");
    }
}
