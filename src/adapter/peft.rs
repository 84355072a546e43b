//! An adapter on a decoder: put on, counted, switched off for a while, merged, taken off.

use super::config::{Bias, LoraConfig};
use super::lora::{LoraLayer, merge_into};
use super::target::{is_named, targets};
use crate::error::{Error, Result};
use crate::model::projection::Slot;
use crate::model::{Decoder, Family};
use crate::nn::Parameter;
use crate::random::Random;
use std::collections::HashMap;
use std::sync::Arc;

/// A LoRA adapter that sits on a decoder.
pub struct Adapter {
    config: LoraConfig,
    /// The base model's.
    family: Family,
    /// Module name and its layer, in the model's order.
    layers: Vec<(String, Arc<LoraLayer>)>,
    /// Names of slots (Hugging Face parameter names) that hold a trained copy: biases, and modules to save.
    copies: Vec<(String, Parameter)>,
}

/// A parameter with its PEFT name.
pub type Named = (String, Parameter);

impl Adapter {
    /// Freezes the decoder and puts a fresh adapter on it.
    ///
    /// # Errors
    /// The configuration is out of range or matches no module.
    pub fn attach(decoder: &Decoder, config: LoraConfig, random: &mut Random) -> Result<Self> {
        config.validate()?;
        let projections = decoder.projections();
        let names: Vec<&str> = projections.iter().map(|(name, _)| name.as_str()).collect();
        let family = decoder.config().family;
        let chosen = targets(&config, &names, family.traits().lora_targets)?;
        let device = decoder.device();
        let mut layers = Vec::new();
        for (name, projection) in projections.iter().filter(|(n, _)| chosen.contains(&n.as_str())) {
            let (rank, scaling) = config.rank_and_scaling(name);
            let strength = (scaling, config.lora_dropout);
            let init = &config.init_lora_weights;
            let layer = LoraLayer::new(projection.features(), rank, strength, init, random, &device)?;
            layers.push((name.clone(), Arc::new(layer)));
        }
        let copies = copied_slots(decoder, &config, &layers)?;
        let adapter = Self { config, family, layers, copies };
        for (_, parameter) in decoder.named_parameters() {
            parameter.set_requires_grad(false);
        }
        adapter.enable(decoder);
        Ok(adapter)
    }

    /// The configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The family of the model that the adapter is for.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The layers under their modules' names.
    pub fn layers(&self) -> &[(String, Arc<LoraLayer>)] {
        &self.layers
    }

    /// Trained copies of base parameters under their Hugging Face names.
    pub fn copies(&self) -> &[Named] {
        &self.copies
    }

    /// Makes the adapter's own parameters trainable, or freezes them.
    pub fn set_trainable(&self, trainable: bool) {
        for (_, parameter) in self.own_parameters() {
            parameter.set_requires_grad(trainable);
        }
    }

    /// What the adapter itself trains, under PEFT's names.
    pub fn own_parameters(&self) -> Vec<Named> {
        let layers = self.layers.iter().flat_map(|(name, layer)| {
            let at = format!("base_model.model.{name}");
            [(format!("{at}.lora_A.default.weight"), layer.a.clone()), (format!("{at}.lora_B.default.weight"), layer.b.clone())]
        });
        layers.chain(self.copies.iter().map(|(name, p)| (self.peft_name(name, true), p.clone()))).collect()
    }

    /// PEFT's name of a base parameter; of its trained copy with `copy`.
    fn peft_name(&self, name: &str, copy: bool) -> String {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let saved = self.config.modules_to_save.iter().flatten().any(|wanted| is_named(module, wanted));
        let adapted = self.layers.iter().any(|(layer, _)| layer == module);
        match (saved, adapted) {
            (true, _) if copy => format!("base_model.model.{module}.modules_to_save.default.{kind}"),
            (true, _) => format!("base_model.model.{module}.original_module.{kind}"),
            (false, true) => format!("base_model.model.{module}.base_layer.{kind}"),
            (false, false) => format!("base_model.model.{name}"),
        }
    }

    /// Every parameter under PEFT's names, in PEFT's order.
    pub fn named_parameters(&self, decoder: &Decoder) -> Vec<Named> {
        let copies: HashMap<&str, &Parameter> = self.copies.iter().map(|(n, p)| (n.as_str(), p)).collect();
        let layers: HashMap<&str, &Arc<LoraLayer>> = self.layers.iter().map(|(n, l)| (n.as_str(), l)).collect();
        let mut named = Vec::new();
        let slots = decoder.slots();
        for (index, (name, slot)) in slots.iter().enumerate() {
            let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
            match copies.get(name.as_str()) {
                // A trained bias takes the base's place; a module to save stands beside the original.
                Some(copy) if kind == "bias" && !self.peft_name(name, true).contains("modules_to_save") => {
                    named.push((self.peft_name(name, true), (*copy).clone()));
                }
                Some(copy) => {
                    named.push((self.peft_name(name, false), slot.base().clone()));
                    named.push((self.peft_name(name, true), (*copy).clone()));
                }
                None => named.push((self.peft_name(name, false), slot.base().clone())),
            }
            // A module's adapter follows its last parameter.
            let next_is_same = slots.get(index + 1).is_some_and(|(n, _)| n.rsplit_once('.').is_some_and(|(m, _)| m == module));
            if let Some(layer) = layers.get(module).filter(|_| !next_is_same) {
                named.push((format!("base_model.model.{module}.lora_A.default.weight"), layer.a.clone()));
                named.push((format!("base_model.model.{module}.lora_B.default.weight"), layer.b.clone()));
            }
        }
        if let Some(layer) = layers.get("lm_head").filter(|_| decoder.tied()) {
            named.push(("base_model.model.lm_head.lora_A.default.weight".into(), layer.a.clone()));
            named.push(("base_model.model.lm_head.lora_B.default.weight".into(), layer.b.clone()));
        }
        named
    }

    /// Trainable and all parameters, as PEFT counts them: a matrix that is shared counts once, a trained copy of a module in
    /// full, a trained bias in the place of its base.
    pub fn count(&self, decoder: &Decoder) -> (usize, usize) {
        let mut seen = std::collections::HashSet::new();
        let unique: Vec<Parameter> =
            self.named_parameters(decoder).into_iter().map(|(_, p)| p).filter(|p| seen.insert(p.key())).collect();
        let sum = |wanted: &dyn Fn(&&Parameter) -> bool| unique.iter().filter(wanted).map(Parameter::elem_count).sum();
        (sum(&|p| p.requires_grad()), sum(&|_| true))
    }

    /// Switches the adapter on.
    pub fn enable(&self, decoder: &Decoder) {
        let projections: HashMap<String, _> = decoder.projections().into_iter().collect();
        for (name, layer) in &self.layers {
            if let Some(projection) = projections.get(name) {
                projection.set_delta(Some(layer.clone()));
            }
        }
        with_slots(decoder, &self.copies, |slot, copy| slot.replace(Some(copy.clone())));
    }

    /// Switches the adapter off: the decoder computes what the base computes, bit for bit.
    pub fn disable(&self, decoder: &Decoder) {
        let projections: HashMap<String, _> = decoder.projections().into_iter().collect();
        for (name, _) in &self.layers {
            if let Some(projection) = projections.get(name) {
                projection.set_delta(None);
            }
        }
        with_slots(decoder, &self.copies, |slot, _| slot.replace(None));
    }

    /// Adds the adapter's change to the base's weights and takes the adapter off.
    ///
    /// # Errors
    /// A merged weight would not be finite; nothing is changed then. An adapter on a head that shares the embedding's matrix.
    pub fn merge(&self, decoder: &Decoder) -> Result<()> {
        if decoder.tied() && self.layers.iter().any(|(name, _)| name == "lm_head") {
            return Err(Error::argument(
                "the adapter on lm_head cannot be merged: this model's head shares its matrix with the embedding, \
                 which would change too; use unload(), or save the adapter",
            ));
        }
        let untied = self.copies.iter().any(|(name, _)| decoder.config().tie_word_embeddings && name == "lm_head.weight");
        if untied {
            return Err(Error::argument(
                "the trained lm_head cannot be merged: this model's head shares its matrix with the embedding; \
                 use unload(), or save the adapter",
            ));
        }
        let projections: HashMap<String, _> = decoder.projections().into_iter().collect();
        for (_, layer) in &self.layers {
            let change = layer.weight_change()?;
            if !change.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(Error::Training("the adapter holds values that are not finite; nothing was merged".into()));
            }
        }
        for (name, layer) in &self.layers {
            if let Some(projection) = projections.get(name) {
                merge_into(projection.weight.base(), &layer.weight_change()?)?;
            }
        }
        self.disable(decoder);
        let slots: HashMap<String, &Slot> = decoder.slots().into_iter().collect();
        for (name, copy) in &self.copies {
            if let Some(slot) = slots.get(name) {
                slot.base().set(&copy.value())?;
            }
        }
        Ok(())
    }

    /// The line that PEFT's `print_trainable_parameters` prints.
    pub fn describe_trainable(&self, decoder: &Decoder) -> String {
        let (trainable, all) = self.count(decoder);
        describe_trainable(trainable, all)
    }
}

/// "trainable params: 921,600 || all params: 135,436,608 || trainable%: 0.6805".
pub fn describe_trainable(trainable: usize, all: usize) -> String {
    let share = if all == 0 { 0.0 } else { 100.0 * trainable as f64 / all as f64 };
    format!("trainable params: {} || all params: {} || trainable%: {share:.4}", grouped(trainable), grouped(all))
}

/// A number with commas between groups of three digits.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn with_slots<T>(decoder: &Decoder, copies: &[Named], change: impl Fn(&Slot, &Parameter) -> T) {
    // Before the head is untied it is not among the slots: look it up among the projections.
    let projections = decoder.projections();
    let slots: HashMap<String, &Slot> =
        decoder.slots().into_iter().chain(projections.iter().map(|(name, p)| (format!("{name}.weight"), &p.weight))).collect();
    for (name, copy) in copies {
        if let Some(slot) = slots.get(name) {
            change(slot, copy);
        }
    }
}

/// Trained copies of the biases and modules that the configuration names.
fn copied_slots(decoder: &Decoder, config: &LoraConfig, layers: &[(String, Arc<LoraLayer>)]) -> Result<Vec<Named>> {
    let projections = decoder.projections();
    let mut slots = decoder.slots();
    if decoder.tied() {
        slots.extend(projections.iter().filter(|(n, _)| n == "lm_head").map(|(n, p)| (format!("{n}.weight"), &p.weight)));
    }
    let saved: Vec<&String> = config.modules_to_save.iter().flatten().collect();
    for wanted in &saved {
        let exists = slots.iter().any(|(n, _)| n.rsplit_once('.').is_some_and(|(m, _)| is_named(m, wanted)));
        if !exists {
            return Err(Error::argument(format!("modules_to_save: no module of this model is named \"{wanted}\"")));
        }
    }
    let mut copies = Vec::new();
    for (name, slot) in slots {
        let (module, kind) = name.rsplit_once('.').unwrap_or((&name, ""));
        let adapted = layers.iter().any(|(layer, _)| layer == module);
        let bias = match config.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => adapted,
        };
        if saved.iter().any(|wanted| is_named(module, wanted)) || (kind == "bias" && bias) {
            copies.push((name, Parameter::new(&slot.base().value().copy()?)?));
        }
    }
    Ok(copies)
}
