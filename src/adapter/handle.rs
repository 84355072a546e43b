//! A model together with the adapter that may sit on it: what trainers, regularisers and scripts are given.

use super::peft::{Adapter, describe_trainable};
use super::{LoraConfig, storage};
use crate::error::{Error, Result};
use crate::model::lm::LanguageModel;
use crate::nn::Parameter;
use crate::random::Random;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

/// What is said of a model whose weights are quantised where it would have to be trained in full.
const QUANTISED: &str = "cannot train a quantised weight; put an adapter on it with get_peft_model, or load the model with \
                         dtype \"f32\" or \"bf16\" to train it in full";

/// A language model and its adapter, shared by all clones.
#[derive(Clone)]
pub struct ModelHandle {
    model: Rc<LanguageModel>,
    adapter: Rc<RefCell<Option<Adapter>>>,
}

impl ModelHandle {
    /// A handle on a model without an adapter.
    pub fn new(model: LanguageModel) -> Self {
        Self { model: Rc::new(model), adapter: Rc::default() }
    }

    /// The language model.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// Whether an adapter sits on the model.
    pub fn has_adapter(&self) -> bool {
        self.adapter.borrow().is_some()
    }

    /// Runs `work` on the adapter.
    ///
    /// # Errors
    /// There is none.
    pub fn with_adapter<T>(&self, work: impl FnOnce(&Adapter) -> Result<T>) -> Result<T> {
        match &*self.adapter.borrow() {
            Some(adapter) => work(adapter),
            None => Err(Error::argument("this model has no adapter; put one on with get_peft_model(model, config)")),
        }
    }

    /// Freezes the model and puts a fresh LoRA adapter on it.
    ///
    /// # Errors
    /// There already is an adapter, or the configuration does not fit.
    pub fn attach(&self, config: LoraConfig, random: &mut Random) -> Result<()> {
        self.refuse_second()?;
        *self.adapter.borrow_mut() = Some(Adapter::attach(self.model.decoder(), config, random)?);
        Ok(())
    }

    /// Puts a saved adapter on the model.
    ///
    /// # Errors
    /// There already is an adapter, or the files do not fit.
    pub fn load_adapter(&self, folder: &Path, trainable: bool) -> Result<()> {
        self.refuse_second()?;
        *self.adapter.borrow_mut() = Some(storage::load(self.model.decoder(), folder, trainable)?);
        Ok(())
    }

    fn refuse_second(&self) -> Result<()> {
        if self.has_adapter() {
            return Err(Error::argument(
                "this model already has an adapter; take it off with unload() or merge_and_unload() first",
            ));
        }
        Ok(())
    }

    /// Adds the adapter's change to the weights. A quantised weight becomes f32 by it: rounding the sum to blocks again would lose
    /// what was learned.
    ///
    /// # Errors
    /// There is no adapter, or it cannot be merged; it stays on then.
    pub fn merge_and_unload(&self) -> Result<()> {
        self.with_adapter(|adapter| adapter.merge(self.model.decoder()))?;
        *self.adapter.borrow_mut() = None;
        Ok(())
    }

    /// Takes the adapter off: the model is the base again, bit for bit.
    ///
    /// # Errors
    /// There is no adapter.
    pub fn unload(&self) -> Result<()> {
        self.with_adapter(|adapter| {
            adapter.disable(self.model.decoder());
            Ok(())
        })?;
        *self.adapter.borrow_mut() = None;
        Ok(())
    }

    /// Runs `work` with the adapter switched off.
    ///
    /// # Errors
    /// There is no adapter, or `work` failed.
    pub fn without_adapter<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.with_adapter(|adapter| {
            adapter.disable(self.model.decoder());
            Ok(())
        })?;
        let result = work();
        self.with_adapter(|adapter| {
            adapter.enable(self.model.decoder());
            Ok(())
        })?;
        result
    }

    /// Every parameter; under PEFT's names where there is an adapter.
    pub fn named_parameters(&self) -> Vec<(String, Parameter)> {
        match &*self.adapter.borrow() {
            Some(adapter) => adapter.named_parameters(self.model.decoder()),
            None => self.model.named_parameters(),
        }
    }

    /// The parameters that training changes.
    pub fn trainable_parameters(&self) -> Vec<(String, Parameter)> {
        self.named_parameters().into_iter().filter(|(_, p)| p.requires_grad()).collect()
    }

    /// The parameters that training changes, of which there must be some.
    ///
    /// # Errors
    /// There is none; the message says how to get some.
    pub fn some_trainable_parameters(&self) -> Result<Vec<(String, Parameter)>> {
        let trainable = self.trainable_parameters();
        match trainable.is_empty() {
            false => Ok(trainable),
            true if self.model.is_quantised() && !self.has_adapter() => Err(Error::argument(QUANTISED)),
            true => Err(Error::argument(
                "no parameter of the model requires a gradient; free some with model.requires_grad(true), \
                 or load the adapter with is_trainable: true",
            )),
        }
    }

    /// Frees or freezes all parameters of the adapter where there is one, else of the model.
    ///
    /// # Errors
    /// Weights that are quantised cannot be freed; nothing is changed then.
    pub fn set_requires_grad(&self, wanted: bool) -> Result<()> {
        if let Some(adapter) = &*self.adapter.borrow() {
            adapter.set_trainable(wanted);
            return Ok(());
        }
        if wanted && self.model.is_quantised() {
            return Err(Error::argument(QUANTISED));
        }
        self.model.named_parameters().iter().for_each(|(_, p)| p.set_requires_grad(wanted));
        Ok(())
    }

    /// The bytes that the parameters take; a shared matrix counts once.
    pub fn size_in_bytes(&self) -> usize {
        let mut seen = std::collections::HashSet::new();
        self.named_parameters().iter().filter(|(_, p)| seen.insert(p.key())).map(|(_, p)| p.size_in_bytes()).sum()
    }

    /// Trainable and all parameters; a shared matrix counts once.
    pub fn count(&self) -> (usize, usize) {
        let mut seen = std::collections::HashSet::new();
        let named = self.named_parameters();
        let unique: Vec<_> = named.iter().map(|(_, p)| p).filter(|p| seen.insert(p.key())).collect();
        let trainable = unique.iter().filter(|p| p.requires_grad()).map(|p| p.elem_count()).sum();
        (trainable, unique.iter().map(|p| p.elem_count()).sum())
    }

    /// The line that PEFT's `print_trainable_parameters` prints.
    pub fn describe_trainable(&self) -> String {
        let (trainable, all) = self.count();
        describe_trainable(trainable, all)
    }

    /// Saves the adapter where there is one, else the whole model.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        match &*self.adapter.borrow() {
            Some(adapter) => storage::save(adapter, folder, self.model.name()),
            None => self.model.save_pretrained(folder),
        }
    }
}

impl std::fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (trainable, all) = self.count();
        let held = if self.model.is_quantised() { format!(", {}", self.model.dtype_name()) } else { String::new() };
        write!(f, "{}({all} parameters, {trainable} trainable{held})", self.model.name())
    }
}
