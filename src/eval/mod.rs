//! Scoring models and saying how sure a score is.

pub mod statistics;
pub mod answers;
