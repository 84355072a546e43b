//! Where the sections of the language register their functions: an engine, and one module for all global functions.
//!
//! A call from native code looks a function up in every global module in turn, and with some fifty of them that took longer than
//! a small network's forward pass.

use super::options::Validate;
use super::options::describe::{OptionInfo, describe};
use rhai::{Engine, Module, Shared};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Options that a function takes out of its map by hand, with their types.
type ByHand = &'static [(&'static str, &'static str)];

/// The options of the functions that take some, by the function's name: completion, help and `ftrepl check` look here.
#[derive(Debug, Clone, Default)]
pub struct OptionCatalogue {
    functions: BTreeMap<String, Described>,
}

#[derive(Debug, Clone)]
struct Described {
    by_hand: ByHand,
    of_struct: Option<fn() -> Vec<OptionInfo>>,
}

impl OptionCatalogue {
    /// The options of a function, or nothing where it takes none or any.
    pub fn of(&self, function: &str) -> Option<Vec<OptionInfo>> {
        let found = self.functions.get(function)?;
        let by_hand = found.by_hand.iter().map(|(name, kind)| {
            let (kind, default) = kind.split_once(" = ").unwrap_or((kind, ""));
            OptionInfo { name: name.to_string(), kind: kind.into(), default: default.into() }
        });
        let mut all: Vec<OptionInfo> = by_hand.collect();
        for option in found.of_struct.map(|describe| describe()).unwrap_or_default() {
            // What is taken out by hand is described by hand too.
            if !all.iter().any(|known| known.name == option.name) {
                all.push(option);
            }
        }
        Some(all)
    }

    /// The functions that take options.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Adds a function all of whose options are described by hand: name, and "type" or "type = default".
    pub fn add(&mut self, function: &str, by_hand: ByHand) {
        self.functions.insert(function.to_string(), Described { by_hand, of_struct: None });
    }
}

/// An engine on its way to knowing the language.
pub struct Registry<'a> {
    engine: &'a mut Engine,
    globals: Module,
    options: OptionCatalogue,
}

impl<'a> Registry<'a> {
    /// Nothing registered yet.
    pub fn new(engine: &'a mut Engine) -> Self {
        Self { engine, globals: Module::new(), options: OptionCatalogue::default() }
    }

    /// Adds functions that scripts call without a prefix; those registered last win. Names of types are lost on the way: they are
    /// registered with the engine.
    pub fn register_global_module(&mut self, module: Shared<Module>) -> &mut Self {
        self.globals.combine_flatten(Shared::unwrap_or_clone(module));
        self
    }

    /// Says that these functions take the options of the struct `T`, beside those taken out of the map by hand.
    pub fn options<T: DeserializeOwned + Serialize + Default + Validate>(
        &mut self,
        functions: &[&str],
        by_hand: ByHand,
    ) -> &mut Self {
        for function in functions {
            self.options.functions.insert(function.to_string(), Described { by_hand, of_struct: Some(describe::<T>) });
        }
        self
    }

    /// Says that a function takes these options; see [`OptionCatalogue::add`].
    pub fn options_by_hand(&mut self, function: &str, by_hand: ByHand) -> &mut Self {
        self.options.add(function, by_hand);
        self
    }

    /// Hands all global functions to the engine, and the options to who wants to know them.
    pub fn finish(self) -> OptionCatalogue {
        self.engine.register_global_module(self.globals.into());
        self.options
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
