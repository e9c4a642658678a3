//! What a user sees while a sweep runs: on a terminal a moving line with the time left, above it the latest cells with their
//! rounds, speed, clock and power; one plain line per worker elsewhere. All on stderr, for the eye alone: no figure comes from here.

mod left;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use stepwatch_record::name::Names;
use stepwatch_record::run::{End, RoundRecord, Sample};
use stepwatch_record::{Cell, CellId};

use self::left::{Kind, TimeLeft};
use crate::clocks;

/// The progress of one sweep.
pub struct Progress {
    how: How,
    total: u64,
    done: u64,
    time: TimeLeft,
    names: Names,
    cell: String,
    doing: Doing,
    rate: String,
    /// Rounds that each cell is to have.
    rounds: u32,
    /// Cells that had a round, the latest last.
    rows: Vec<Row>,
}

/// One cell as the table above the moving line shows it.
struct Row {
    cell: String,
    /// Its rounds in order, a character each.
    rounds: String,
    /// The latest round's speed and what the GPU did.
    figures: String,
}

/// What a worker does for its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Settles its plan and checks its numbers.
    Prepare,
    /// Finds what the GPU sustains.
    Ceilings,
    /// One of so many rounds, from 1.
    Round(u32, u32),
    /// Times its ops one by one.
    Profile,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("prepare"),
            Self::Ceilings => f.write_str("ceilings of the GPU"),
            Self::Round(round, of) => write!(f, "round {round} of {of}"),
            Self::Profile => f.write_str("profile"),
        }
    }
}

/// The table above the moving line has at most so many rows.
const MOST_ROWS: usize = 10;

enum How {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    /// A bar on a terminal, lines elsewhere; failures only when `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let how = if quiet {
            How::Quiet
        } else if io::stderr().is_terminal() && !dumb {
            How::Bar(bar())
        } else {
            How::Lines
        };
        Self {
            how,
            total: 0,
            done: 0,
            time: TimeLeft::default(),
            names: Names::default(),
            cell: String::new(),
            doing: Doing::Prepare,
            rate: String::new(),
            rounds: 0,
            rows: Vec::new(),
        }
    }

    /// The cells that are run, how many rounds each is to have, and what one is guessed to take, seconds.
    #[must_use]
    pub fn of(mut self, cells: &[Cell], rounds: u32, guess: f64) -> Self {
        self.names = Names::of(cells);
        self.rounds = rounds;
        self.time = TimeLeft::of(cells.iter().map(|cell| cell.id.clone()).collect(), rounds, guess);
        self
    }

    /// How many workers are to run now: `prepare`, rounds, profiles.
    pub fn begin(&mut self, counts: &[u64; 3]) {
        self.total = counts.iter().sum();
        self.done = 0;
        self.time.begin(counts);
        if let How::Bar(bar) = &self.how {
            bar.set_length(self.total);
        }
    }

    /// A worker starts.
    pub fn start(&mut self, cell: &CellId, doing: Doing) {
        self.cell = self.names.get(cell).to_owned();
        self.doing = doing;
        self.rate.clear();
        if let How::Bar(bar) = &self.how {
            bar.set_message(format!("{} · {doing}{}", self.cell, self.left()));
        }
    }

    /// How far its round is.
    pub fn steps(&mut self, warmup: u64, measured: u32, wanted: u32) {
        if let How::Bar(bar) = &self.how {
            let steps = if measured == 0 { format!("warm-up {warmup}") } else { format!("sample {measured}/{wanted}") };
            let now = clocks::latest().map_or_else(String::new, |now| gpu(now.sm_clock_hz, now.power_w));
            bar.set_message(format!("{} · {} · {steps}{now}{}", self.cell, self.doing, self.left()));
        }
    }

    /// How fast the round was, to show with its end: display only, no figure is taken from here.
    pub fn rate(&mut self, record: &RoundRecord, samples: &[Sample]) {
        let times: Vec<u64> = samples.iter().filter(|sample| sample.measured).map(|sample| sample.gpu_ns).collect();
        let total: u64 = times.iter().sum();
        #[allow(clippy::cast_precision_loss)]
        if total > 0 && record.tokens > 0 {
            let rate = record.tokens as f64 * times.len() as f64 / (total as f64 / 1e9);
            self.rate = format!(" · {} tokens/s", grouped(rate));
        }
        let last = samples.iter().rev().find(|sample| sample.measured);
        self.rate.push_str(&last.map_or_else(String::new, |last| gpu(last.sm_clock_hz, last.power_w)));
    }

    /// The worker ended.
    pub fn end(&mut self, record: &RoundRecord) {
        self.done += 1;
        let kind = match self.doing {
            Doing::Prepare | Doing::Ceilings => Kind::Prepare,
            Doing::Round(..) => Kind::Round,
            Doing::Profile => Kind::Profile,
        };
        self.time.ran(kind, &record.cell, record.wall_seconds);
        let line = match &record.end {
            End::Completed => format!("{}{} · {:.1} s", record.end.word(), self.rate, record.wall_seconds),
            end => format!("{}: {}", end.word(), end.reason()),
        };
        let line = format!("{} · {} · {line}", self.cell, self.doing);
        let bad = record.end != End::Completed;
        if record.round.is_some() {
            self.row(bad);
        }
        match &self.how {
            How::Quiet if bad => plain(&line),
            How::Quiet => {}
            How::Lines => plain(&format!("[{}/{}] {line}{}", self.done, self.total, self.left())),
            How::Bar(bar) => {
                if bad {
                    bar.suspend(|| plain(&line));
                }
                bar.set_position(self.done);
                bar.set_prefix(self.table());
            }
        }
        if let [.., last] = record.output_tail.as_slice()
            && last.starts_with("stepwatch: ")
        {
            self.note(&format!("{} · {}", self.cell, last.trim_start_matches("stepwatch: ")));
        }
    }

    /// Notes how a round of the cell at hand ended, and moves the cell to the end of the table.
    fn row(&mut self, bad: bool) {
        let at = self.rows.iter().position(|row| row.cell == self.cell);
        let mut row = at.map_or_else(
            || Row { cell: self.cell.clone(), rounds: String::new(), figures: String::new() },
            |at| self.rows.remove(at),
        );
        row.rounds.push(if bad { '✕' } else { '●' });
        if !bad {
            self.rate.clone_into(&mut row.figures);
        }
        self.rows.push(row);
    }

    /// The latest rows, aligned, each with a line end.
    fn table(&self) -> String {
        let rows = &self.rows[self.rows.len().saturating_sub(MOST_ROWS)..];
        let width = rows.iter().map(|row| row.cell.chars().count()).max().unwrap_or(0);
        let line = |row: &Row| {
            let waiting = (self.rounds as usize).saturating_sub(row.rounds.chars().count());
            let (cell, waiting) = (&row.cell, "○".repeat(waiting));
            format!("{cell:width$}  {}{waiting}{}\n", row.rounds, row.figures)
        };
        rows.iter().map(line).collect()
    }

    /// A worker that need not run, for a reason told before.
    pub fn pass_over(&mut self) {
        self.done += 1;
        self.time.pass_over();
        if let How::Bar(bar) = &self.how {
            bar.set_position(self.done);
        }
    }

    /// Says something without breaking the bar.
    pub fn note(&self, text: &str) {
        match &self.how {
            How::Bar(bar) => bar.suspend(|| plain(text)),
            How::Lines | How::Quiet => plain(text),
        }
    }

    /// Takes the moving line away.
    pub fn finish(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
    }

    /// The time left, once there is something to go by.
    fn left(&self) -> String {
        let text = |seconds| format!(" · {} left", HumanDuration(Duration::from_secs_f64(seconds)));
        self.time.seconds().map_or_else(String::new, text)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{prefix}{bar:24} {pos}/{len} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

fn plain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// ` · 1.71 GHz · 689 W`; what is not known is left out.
fn gpu(sm_clock_hz: f64, power_w: f64) -> String {
    let mut text = String::new();
    if sm_clock_hz > 0.0 {
        text.push_str(&format!(" · {:.2} GHz", sm_clock_hz / 1e9));
    }
    if power_w > 0.0 {
        text.push_str(&format!(" · {power_w:.0} W"));
    }
    text
}

/// A number to three digits or more, thousands apart.
fn grouped(number: f64) -> String {
    if number < 1000.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(12.34, "12.3"), (999.0, "999.0"), (1234.0, "1 234"), (123_456_789.4, "123 456 789")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn what_the_gpu_does_is_shown_where_it_is_known() {
        assert_eq!(gpu(1.712e9, 688.6), " · 1.71 GHz · 689 W");
        assert_eq!(gpu(f64::NAN, 0.0), "");
    }

    #[test]
    fn the_table_shows_the_latest_cells_with_the_rounds_that_they_had() {
        let mut progress = Progress::new(true).of(&[], 3, 1.0);
        for cell in 0..12 {
            progress.cell = format!("m/{cell}");
            progress.rate = format!(" · {cell} tokens/s");
            progress.row(false);
        }
        progress.cell = "m/10".into();
        progress.rate = " · broken".into();
        progress.row(true);
        let table = progress.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), MOST_ROWS, "{table}");
        assert_eq!(lines[9], "m/10  ●✕○ · 10 tokens/s");
        assert_eq!(lines[8], "m/11  ●○○ · 11 tokens/s");
        assert_eq!(lines[0], "m/2   ●○○ · 2 tokens/s");
    }
}
