//! The language's own basics: what Python has built in and scripts of the lesson need.

mod files;
mod lists;
mod numbers;
mod process;
mod strings;
mod values;

pub use process::resident_memory;

use rhai::Engine;

/// Registers the basics.
pub fn register(engine: &mut Engine) {
    values::register(engine);
    numbers::register(engine);
    strings::register(engine);
    lists::register(engine);
    files::register(engine);
    process::register(engine);
}
