//! Pure statistics: slices of numbers in, estimates out. Nothing here may know what a cell, a round or a metric is.

mod describe;
mod discovery;
mod excess;
mod moderate;
mod runs;
mod shape;
mod student;
mod together;
mod unlike;

pub use describe::{log_mean, logs, mad, mean, median, quantile, sd};
pub use discovery::{false_discovery_rates, t_probability};
pub use excess::Explained;
pub use moderate::{Group, Spread, moderate};
pub use runs::{Between, Common, between_runs};
pub use shape::{Shape, common_shape, further};
pub use student::{interval, normal_quantile, t_quantile, welch_df};
pub use together::limit_together;
pub use unlike::share_of_level;
