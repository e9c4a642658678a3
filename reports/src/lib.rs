//! Renders what was recorded and concluded: HTML, markdown, text, CSV, JUnit and JSON, all from one [`view::View`].
//!
//! This crate may scale, round, order and count; it never computes a statistic. What it shows it got as a record
//! ([`stepwatch_record::Run`]), as figures ([`stepwatch_record::figure::Summary`]) and as a conclusion
//! ([`stepwatch_record::comparison::Conclusion`]). It reads no file, clock or environment: equal input, equal bytes.

pub mod chart;
pub mod clean;
pub mod csv;
#[doc(hidden)]
pub mod example;
pub mod format;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod text;
pub mod view;

pub use view::View;

/// A report could not be written. None of these depends on what a user wrote; each is a bug in this crate.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A template and the view do not fit each other.
    #[error("the report's template does not render: {0}; this is a bug, please report it")]
    Template(#[from] tera::Error),
    /// The CSV writer failed.
    #[error("the CSV export failed: {0}; this is a bug, please report it")]
    Csv(String),
    /// The JUnit writer failed.
    #[error("the JUnit export failed: {0}; this is a bug, please report it")]
    Junit(#[from] quick_junit::SerializeError),
    /// The JSON writer failed.
    #[error("the JSON export failed: {0}; this is a bug, please report it")]
    Json(#[from] serde_json::Error),
}
