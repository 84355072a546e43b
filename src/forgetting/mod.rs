//! Against forgetting: elastic weight consolidation. (Replay is a matter of data, see [`crate::data::replay`].)

pub mod ewc;
pub mod fisher;
mod penalty;

pub use ewc::Ewc;
pub use fisher::Estimator;
