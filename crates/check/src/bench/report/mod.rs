//! A run as one HTML file: pictures, tables, samples. A browser is all it needs; without scripts only sorting is missing.

mod axis;
mod bars;
mod chart;
mod compared;
mod figures;
mod intensity;
mod page;
mod points;
mod roofline;
mod samples;
mod table;
mod units;

#[cfg(test)]
mod tests;

pub use bars::svg as bars_svg;
pub use page::html;
pub use roofline::svg as roofline_svg;
