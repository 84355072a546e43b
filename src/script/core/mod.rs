//! The language's own basics: what Python has built in and scripts of the lesson need.

mod choosing;
mod comparison;
mod files;
mod lists;
mod numbers;
mod process;
mod sorting;
mod strings;
mod values;

use crate::script::registry::Registry;

/// Registers the basics.
pub fn register(engine: &mut Registry<'_>) {
    values::register(engine);
    comparison::register(engine);
    numbers::register(engine);
    strings::register(engine);
    lists::register(engine);
    sorting::register(engine);
    choosing::register(engine);
    files::register(engine);
    process::register(engine);
}
