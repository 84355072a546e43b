//! Scoring models and saying how sure a score is.

pub mod answers;
pub mod statistics;
