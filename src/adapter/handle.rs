//! A model together with the adapters that may sit on it: what trainers, regularisers and scripts are given.

use super::combine::{CombineOptions, combine};
use super::merge::{merge, merge_for_a_while};
use super::peft::{Adapter, DEFAULT, count, describe_trainable};
use super::set::{AdapterSet, install};
use super::{LoraConfig, storage};
use crate::error::{Error, Result};
use crate::model::lm::LanguageModel;
use crate::nn::Parameter;
use crate::random::Random;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is said of a model whose weights are quantised where it would have to be trained in full.
const QUANTISED: &str = "cannot train a quantised weight; put an adapter on it with get_peft_model, or load the model with \
                         dtype \"f32\" or \"bf16\" to train it in full";

/// A language model and its adapters, shared by all clones.
#[derive(Clone)]
pub struct ModelHandle {
    model: Rc<LanguageModel>,
    adapters: Rc<RefCell<AdapterSet>>,
}

/// How an adapter is put on a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachOptions {
    /// The adapter's name. Default "default".
    pub name: String,
    /// Whether a loaded adapter can be trained further. Default false.
    pub trainable: bool,
    /// Keep the adapter in f32 where the base is bf16 or f16. Default true.
    pub autocast: bool,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { name: DEFAULT.into(), trainable: false, autocast: true }
    }
}

/// What is saved of a model with adapters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SaveOptions {
    /// The adapters to save; default: all.
    pub selected_adapters: Option<Vec<String>>,
    /// Write adapters that started as a part of the weight as plain ones of twice the rank.
    pub convert_to_lora: bool,
    /// The same, with the start read from this folder.
    pub path_initial_model_for_weight_conversion: Option<PathBuf>,
}

impl ModelHandle {
    /// A handle on a model without an adapter.
    pub fn new(model: LanguageModel) -> Self {
        Self { model: Rc::new(model), adapters: Rc::default() }
    }

    /// The language model.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// Whether an adapter sits on the model.
    pub fn has_adapter(&self) -> bool {
        !self.adapters.borrow().is_empty()
    }

    /// Names of the adapters, in the order in which they came.
    pub fn adapter_names(&self) -> Vec<String> {
        self.adapters.borrow().all().iter().map(|adapter| adapter.name().to_string()).collect()
    }

    /// Names of the adapters that act.
    pub fn active_adapters(&self) -> Vec<String> {
        self.adapters.borrow().active_names().to_vec()
    }

    /// Runs `work` on the first adapter that acts.
    ///
    /// # Errors
    /// There is none.
    pub fn with_adapter<T>(&self, work: impl FnOnce(&Adapter) -> Result<T>) -> Result<T> {
        match self.adapters.borrow().active().first() {
            Some(adapter) => work(adapter),
            None => Err(no_adapter()),
        }
    }

    /// Freezes the model and puts a fresh LoRA adapter on it, under the name "default".
    ///
    /// # Errors
    /// There already is an adapter, or the configuration does not fit.
    pub fn attach(&self, config: LoraConfig, random: &mut Random) -> Result<()> {
        self.attach_as(config, &AttachOptions::default(), random)
    }

    /// The same under a name.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_as(&self, config: LoraConfig, options: &AttachOptions, random: &mut Random) -> Result<()> {
        self.refuse_second()?;
        self.add_adapter(config, options, random)
    }

    /// Adds a fresh adapter beside those there are; it acts only if it is the first one.
    ///
    /// # Errors
    /// The name is taken, or the configuration does not fit.
    pub fn add_adapter(&self, config: LoraConfig, options: &AttachOptions, random: &mut Random) -> Result<()> {
        let mut adapters = self.free()?;
        adapters.refuse_name(&options.name)?;
        let decoder = self.model.decoder();
        adapters.add(Adapter::new(decoder, &options.name, config, options.autocast, random)?, decoder)
    }

    /// Puts a saved adapter on a model that has none, under the name "default".
    ///
    /// # Errors
    /// There already is an adapter, or the files do not fit.
    pub fn load_adapter(&self, folder: &Path, trainable: bool) -> Result<()> {
        self.refuse_second()?;
        self.load_adapter_as(folder, &AttachOptions { trainable, ..AttachOptions::default() }).map(|_| ())
    }

    /// Adds a saved adapter; it acts only if it is the first one. Returns a warning where the adapter was made for a model of another name.
    ///
    /// # Errors
    /// The name is taken, or the files do not fit.
    pub fn load_adapter_as(&self, folder: &Path, options: &AttachOptions) -> Result<Option<String>> {
        let mut adapters = self.free()?;
        adapters.refuse_name(&options.name)?;
        let decoder = self.model.decoder();
        let (adapter, warning) = storage::read(decoder, folder, options, Some(self.model.name()))?;
        adapters.add(adapter, decoder)?;
        Ok(warning)
    }

    /// Fails where there already is an adapter.
    ///
    /// # Errors
    /// As said.
    pub fn refuse_second(&self) -> Result<()> {
        if self.has_adapter() {
            return Err(Error::argument(
                "this model already has an adapter; take it off with unload() or merge_and_unload() first, or put another one \
                 beside it with add_adapter or load_adapter",
            ));
        }
        Ok(())
    }

    /// Lets these adapters act, and no others: they can be trained then, and the others cannot. Where the adapters are switched off for a
    /// while, these act after it.
    ///
    /// # Errors
    /// A name is not known, or two of them cannot act together.
    pub fn set_adapter(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Err(Error::argument("set_adapter needs the name of an adapter; disable_adapter runs without any"));
        }
        self.some()?.activate(names, self.model.decoder())
    }

    /// Takes one adapter off; where it was the only one that acts, the first of the others does.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn delete_adapter(&self, name: &str) -> Result<()> {
        self.some()?.delete(name, self.model.decoder())
    }

    /// Adds a new adapter that is the weighted sum of others; it does not act yet.
    ///
    /// # Errors
    /// A name is not known or taken, or the adapters cannot be added.
    pub fn add_weighted_adapter(
        &self,
        names: &[String],
        weights: &[f64],
        name: &str,
        options: &CombineOptions,
        random: &mut Random,
    ) -> Result<()> {
        let mut adapters = self.some()?;
        adapters.refuse_name(name)?;
        if names.len() != weights.len() {
            return Err(Error::Argument(format!(
                "add_weighted_adapter needs as many weights as adapters, got {} and {}",
                weights.len(),
                names.len()
            )));
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::Argument(format!("add_weighted_adapter: weights must be finite numbers, got {weight}")));
        }
        let chosen = names.iter().zip(weights).map(|(name, weight)| Ok((adapters.get(name)?, *weight)));
        let chosen = chosen.collect::<Result<Vec<_>>>()?;
        let decoder = self.model.decoder();
        let combined = combine(&chosen, name, options, decoder, random)?;
        adapters.add(combined, decoder)
    }

    /// The adapters, to be changed; not while their changes are held by the weights.
    fn free(&self) -> Result<std::cell::RefMut<'_, AdapterSet>> {
        let adapters = self.adapters.borrow_mut();
        match adapters.merged {
            true => Err(Error::argument("the adapter is merged into the weights; call unmerge_adapter() first")),
            false => Ok(adapters),
        }
    }

    /// The same where there is at least one.
    fn some(&self) -> Result<std::cell::RefMut<'_, AdapterSet>> {
        let adapters = self.free()?;
        if adapters.is_empty() { Err(no_adapter()) } else { Ok(adapters) }
    }

    /// Lets the weights hold the changes of the adapters that act, for faster generation. The base's own weights are kept beside.
    ///
    /// # Errors
    /// There is no adapter, it is merged already, or it cannot be.
    pub fn merge_adapter(&self) -> Result<()> {
        let mut adapters = self.some()?;
        // Those that are switched off are merged when they are switched on.
        if !adapters.switched_off {
            merge_for_a_while(&adapters.active(), self.model.decoder())?;
        }
        adapters.merged = true;
        Ok(())
    }

    /// Takes back what [`Self::merge_adapter`] did, bit for bit.
    ///
    /// # Errors
    /// Nothing is merged.
    pub fn unmerge_adapter(&self) -> Result<()> {
        let mut adapters = self.adapters.borrow_mut();
        if !adapters.merged {
            return Err(Error::argument("no adapter is merged; merge_adapter() does it"));
        }
        adapters.merged = false;
        adapters.install(self.model.decoder());
        Ok(())
    }

    /// Adds the changes of the adapters that act to the weights for good, and takes all adapters off. A quantised weight becomes f32 by it:
    /// rounding the sum to blocks again would lose what was learned.
    ///
    /// # Errors
    /// There is no adapter, or it cannot be merged; it stays on then.
    pub fn merge_and_unload(&self) -> Result<()> {
        self.forget_merged();
        let mut adapters = self.some()?;
        let decoder = self.model.decoder();
        // Merging starts from trained copies, which are not there while the adapters are switched off.
        install(&adapters.active(), decoder);
        merge(&adapters.active(), decoder).inspect_err(|_| adapters.install(decoder))?;
        adapters.clear();
        Ok(())
    }

    /// Takes the adapters off: the model is the base again, bit for bit.
    ///
    /// # Errors
    /// There is no adapter.
    pub fn unload(&self) -> Result<()> {
        self.forget_merged();
        let mut adapters = self.some()?;
        install(&[], self.model.decoder());
        adapters.clear();
        Ok(())
    }

    fn forget_merged(&self) {
        let mut adapters = self.adapters.borrow_mut();
        // Where merging fails they are not merged any more.
        if std::mem::take(&mut adapters.merged) {
            adapters.install(self.model.decoder());
        }
    }

    /// Runs `work` with the adapters switched off, whatever it does with them: which of them act is seen after it.
    ///
    /// # Errors
    /// There is no adapter, or `work` failed.
    pub fn without_adapter<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if !self.has_adapter() {
            return Err(no_adapter().into());
        }
        if std::mem::replace(&mut self.adapters.borrow_mut().switched_off, true) {
            // Part of such work already, whose end switches them on.
            return work();
        }
        install(&[], self.model.decoder());
        let result = work();
        let mut adapters = self.adapters.borrow_mut();
        adapters.switched_off = false;
        adapters.install(self.model.decoder());
        if std::mem::take(&mut adapters.merged) {
            merge_for_a_while(&adapters.active(), self.model.decoder())?;
            adapters.merged = true;
        }
        result
    }

    /// Every parameter; under PEFT's names where there is an adapter.
    pub fn named_parameters(&self) -> Vec<(String, Parameter)> {
        let adapters = self.adapters.borrow();
        match adapters.is_empty() {
            false => adapters.named_parameters(self.model.decoder()),
            true => self.model.named_parameters(),
        }
    }

    /// The parameters that training changes.
    pub fn trainable_parameters(&self) -> Vec<(String, Parameter)> {
        self.named_parameters().into_iter().filter(|(_, p)| p.requires_grad()).collect()
    }

    /// The parameters that training changes, of which there must be some.
    ///
    /// # Errors
    /// There is none, and the message says how to get some; or the adapter is merged.
    pub fn some_trainable_parameters(&self) -> Result<Vec<(String, Parameter)>> {
        drop(self.free()?);
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

    /// Frees or freezes all parameters of the adapters that act where there are any, else of the model.
    ///
    /// # Errors
    /// Weights that are quantised cannot be freed; nothing is changed then.
    pub fn set_requires_grad(&self, wanted: bool) -> Result<()> {
        let adapters = self.adapters.borrow();
        if !adapters.is_empty() {
            adapters.active().iter().for_each(|adapter| adapter.set_trainable(wanted));
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
        count(&self.named_parameters())
    }

    /// The line that PEFT's `print_trainable_parameters` prints.
    pub fn describe_trainable(&self) -> String {
        let (trainable, all) = self.count();
        describe_trainable(trainable, all)
    }

    /// Saves the adapters where there are any, else the whole model.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        match self.has_adapter() {
            true => self.save_adapters(folder, &SaveOptions::default()),
            false => self.model.save_pretrained(folder),
        }
    }

    /// Saves adapters as PEFT does: the one named "default" in the folder, others in a folder within it.
    ///
    /// # Errors
    /// There is no adapter, a name is not known, or a folder cannot be written.
    pub fn save_adapters(&self, folder: &Path, options: &SaveOptions) -> Result<()> {
        let adapters = self.adapters.borrow();
        if adapters.is_empty() {
            return Err(no_adapter());
        }
        let chosen: Vec<&Adapter> = match &options.selected_adapters {
            Some(names) => names.iter().map(|name| adapters.get(name)).collect::<Result<_>>()?,
            None => adapters.all().iter().collect(),
        };
        let initial = options.path_initial_model_for_weight_conversion.as_deref();
        for adapter in chosen {
            let (folder, base) = (folder_of(adapter.name(), folder), self.model.name());
            match options.convert_to_lora || initial.is_some() {
                true => storage::save_converted(adapter, &folder, base, initial)?,
                false => storage::save(adapter, &folder, base)?,
            }
        }
        Ok(())
    }

    /// Puts the values that [`Self::save_pretrained`] wrote into the adapters.
    ///
    /// # Errors
    /// A file is missing, or belongs to another adapter.
    pub fn restore_adapters(&self, folder: &Path) -> Result<()> {
        self.adapters.borrow().all().iter().try_for_each(|adapter| storage::restore(adapter, &folder_of(adapter.name(), folder)))
    }
}

/// Where an adapter is within the folder of a model's adapters.
fn folder_of(name: &str, folder: &Path) -> PathBuf {
    if name == DEFAULT { folder.to_path_buf() } else { folder.join(name) }
}

fn no_adapter() -> Error {
    Error::argument("this model has no adapter; put one on with get_peft_model(model, config)")
}

impl std::fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (trainable, all) = self.count();
        let held = if self.model.is_quantised() { format!(", {}", self.model.dtype_name()) } else { String::new() };
        write!(f, "{}({all} parameters, {trainable} trainable{held})", self.model.name())
    }
}
