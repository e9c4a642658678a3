//! The exit codes of every command: a published contract. A regression never exits 0.

use std::process::ExitCode;

/// How a command ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nothing to report.
    Good,
    /// A bug in stepwatch.
    Bug,
    /// Usage, scenario, run folder or named baseline wrong.
    Usage,
    /// Cells failed or are missing, or were skipped though the baseline has them; or what was measured could not be stored.
    CellsFailed,
    /// Numbers are wrong, whatever the speed.
    NumbersWrong,
    /// A regression, or a gating claim refuted.
    Regression,
    /// A baseline was asked for, and a gated cell could not be judged against it.
    Blind,
    /// No usable device.
    NoDevice,
    /// Ended by Ctrl-C.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl Exit {
    /// Every exit, for tables in help and documentation.
    pub const ALL: [Self; 10] = [
        Self::Good,
        Self::Bug,
        Self::Usage,
        Self::CellsFailed,
        Self::NumbersWrong,
        Self::Regression,
        Self::Blind,
        Self::NoDevice,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::CellsFailed => 3,
            Self::NumbersWrong => 4,
            Self::Regression => 5,
            Self::Blind => 6,
            Self::NoDevice => 7,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// The exit that a conclusion asked for; a code that is none of ours is a bug.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code).unwrap_or(Self::Bug)
    }

    /// The one that is told where several hold, as with several scenarios in one call: signals, then 7, 2, 1 at once, else
    /// the first of 4, 5, 3, 6.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Terminated => 9,
            Self::Interrupted => 8,
            Self::NoDevice => 7,
            Self::Usage => 6,
            Self::Bug => 5,
            Self::NumbersWrong => 4,
            Self::Regression => 3,
            Self::CellsFailed => 2,
            Self::Blind => 1,
            Self::Good => 0,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_pinned_and_read_back() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 130, 143]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(i32::from(exit.code())), exit);
        }
        assert_eq!(Exit::from_code(99), Exit::Bug);
    }

    #[test]
    fn precedence_is_that_of_the_contract() {
        let order = [Exit::Good, Exit::Blind, Exit::CellsFailed, Exit::Regression, Exit::NumbersWrong];
        let order = [&order[..], &[Exit::Bug, Exit::Usage, Exit::NoDevice]].concat();
        for pair in order.windows(2) {
            assert_eq!(pair[0].worst(pair[1]), pair[1]);
            assert_eq!(pair[1].worst(pair[0]), pair[1]);
        }
    }
}
