//! For notebooks in Rust, with evcxr: a [`Lab`] that runs cells of the language, and faces for the library's types.
//!
//! ```text
//! :dep ftrepl = { path = "..", default-features = false }
//! use ftrepl::prelude::*;
//! let mut lab = Lab::new()?;
//! lab.run(r#"let w = randn([2, 3]); w"#)
//! ```

mod display;
mod failure;
mod lab;
mod progress;

pub use display::EvcxrDisplay;
pub use lab::{FromScript, IntoScript, Lab, LabError, Shown};

/// Whether this process runs the cells of evcxr.
fn in_evcxr() -> bool {
    std::env::var_os("EVCXR_IS_RUNTIME").is_some()
}
