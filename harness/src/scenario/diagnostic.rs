//! Errors of a scenario file, shown with file, line and caret.

use std::fmt;
use std::path::Path;

/// Everything that is wrong with one scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    text: String,
}

impl Diagnostics {
    /// An error of the file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, message: &str) -> Self {
        Self { text: format!("error: {}: {message}", file.display()) }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Diagnostics {}
