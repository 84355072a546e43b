//! Where the sections of the language register their functions: an engine, and one module for all global functions.
//!
//! A call from native code looks a function up in every global module in turn, and with some fifty of them that took longer than
//! a small network's forward pass.

use rhai::{Engine, Module, Shared};
use std::ops::{Deref, DerefMut};

/// An engine on its way to knowing the language.
pub struct Registry<'a> {
    engine: &'a mut Engine,
    globals: Module,
}

impl<'a> Registry<'a> {
    /// Nothing registered yet.
    pub fn new(engine: &'a mut Engine) -> Self {
        Self { engine, globals: Module::new() }
    }

    /// Adds functions that scripts call without a prefix; those registered last win. Names of types are lost on the way: they are
    /// registered with the engine.
    pub fn register_global_module(&mut self, module: Shared<Module>) -> &mut Self {
        self.globals.combine_flatten(Shared::unwrap_or_clone(module));
        self
    }

    /// Hands all global functions to the engine.
    pub fn finish(self) {
        self.engine.register_global_module(self.globals.into());
    }
}

impl Deref for Registry<'_> {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        self.engine
    }
}

impl DerefMut for Registry<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        self.engine
    }
}
