//! What a worker prints, within bounded memory: lines of limited length, and the last few of them.
//!
//! A worker may flood its output, print bytes that are no text, or never end a line. None of that may cost more memory than
//! the limits here.

use std::collections::VecDeque;
use std::io::{self, Read};

/// A line longer than this is cut, bytes.
pub const LINE_LIMIT: usize = 1 << 20;
/// How many lines of the tail are kept.
pub const TAIL_LINES: usize = 40;
/// A line of the tail is cut to this, bytes.
pub const TAIL_WIDTH: usize = 400;

/// Cuts a byte stream into lines. `\n` and `\r` both end a line, so that progress bars are lines too.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes the next bytes and hands every line that they complete to `each`, without its end, empty lines left out.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.keep(&rest[..end]);
            if let Some(line) = self.take() {
                each(line);
            }
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// The line that the end of the stream ends.
    pub fn finish(&mut self) -> Option<String> {
        self.take()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_LIMIT - self.line.len();
        self.cut |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take(&mut self) -> Option<String> {
        let cut = std::mem::take(&mut self.cut);
        if self.line.is_empty() {
            return None;
        }
        let mut text = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        // A flood without line ends must not keep its megabyte for the rest of the round.
        self.line.shrink_to(8192);
        if cut {
            text.push_str(" … (line cut)");
        }
        Some(text)
    }
}

/// Reads a stream to its end and hands its lines to `each`, which says whether to go on.
///
/// # Errors
/// When the stream cannot be read; an interrupted read is repeated.
pub fn read_lines(mut stream: impl Read, mut each: impl FnMut(String) -> bool) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    let mut going = true;
    while going {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => lines.push(&buffer[..count], |line| going &= each(line)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if going && let Some(line) = lines.finish() {
        each(line);
    }
    Ok(())
}

/// The last lines of what a worker printed.
#[derive(Debug, Default, Clone)]
pub struct Tail {
    lines: VecDeque<String>,
    dropped: u64,
    last_error: Option<String>,
}

impl Tail {
    /// Keeps one more line and forgets the oldest beyond [`TAIL_LINES`].
    pub fn push(&mut self, line: &str) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        let mut end = line.len().min(TAIL_WIDTH);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        // Control characters of a user's program must not reach a terminal or an XML file through us.
        let mut kept: String = line[..end].chars().map(|c| if c.is_control() && c != '\t' { '�' } else { c }).collect();
        if end < line.len() {
            kept.push('…');
        }
        self.lines.push_back(kept);
    }

    /// Keeps a line of standard error: where a program says why it ends, whatever else it prints at that moment.
    pub fn push_error(&mut self, line: &str) {
        self.push(line);
        if !line.trim().is_empty() {
            self.last_error = self.last_line().map(ToOwned::to_owned);
        }
    }

    /// What a program said last: the last line of standard error that is not blank, else of standard output.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.last_error.as_deref().or_else(|| self.last_line())
    }

    fn last_line(&self) -> Option<&str> {
        self.lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty())
    }

    /// The kept lines, oldest first, led by a line that says how many were left out.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.dropped > 0 {
            lines.push(format!("… {} earlier lines left out", self.dropped));
        }
        lines.extend(self.lines);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line| found.push(line));
        }
        found.extend(lines.finish());
        found
    }

    #[test]
    fn lines_end_with_either_end_and_survive_any_chunking() {
        assert_eq!(lines_of(&[b"one\ntw", b"o\r\n", b"three"]), ["one", "two", "three"]);
        assert_eq!(lines_of(&[b"10%\r20%\r"]), ["10%", "20%"]);
        assert_eq!(lines_of(&[b"\xff\xfe\n"]), ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_whole() {
        let flood = vec![b'x'; LINE_LIMIT + 10];
        let lines = lines_of(&[&flood, b"yyy\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), LINE_LIMIT + " … (line cut)".len());
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn the_tail_is_bounded_and_says_what_it_left_out() {
        let mut tail = Tail::default();
        for number in 0..TAIL_LINES + 3 {
            tail.push(&format!("line {number}"));
        }
        tail.push(&"é".repeat(TAIL_WIDTH));
        tail.push("\u{1b}[31mred");
        tail.push("  ");
        assert_eq!(tail.last(), Some("\u{fffd}[31mred"));
        tail.push_error("Traceback");
        tail.push("goodbye");
        assert_eq!(tail.last(), Some("Traceback"));
        let lines = tail.into_lines();
        assert_eq!(lines.len(), TAIL_LINES + 1);
        assert_eq!(lines[0], "… 8 earlier lines left out");
        assert!(lines.iter().all(|line| line.len() <= TAIL_WIDTH + 3), "{lines:?}");
    }
}
