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
