//! An adapter for a decoder: made, named, filled.

use super::config::{Bias, LoraConfig, Start, TargetModules};
use super::embedding::{EmbeddingLayer, TokenRows, config_embedding, token_rows};
use super::lora::{LayerOptions, LoraLayer};
use super::set;
use super::target::{is_saved, targets};
use crate::error::{Error, Result};
use crate::model::{Decoder, Family};
use crate::nn::Parameter;
use crate::random::Random;
use candle_core::DType;
use std::collections::HashSet;
use std::sync::Arc;

/// The name of an adapter that was given none.
pub const DEFAULT: &str = "default";

/// A LoRA adapter of a decoder.
pub struct Adapter {
    name: String,
    config: LoraConfig,
    /// The base model's.
    family: Family,
    /// Module name and its layer, in the model's order.
    layers: Vec<(String, Arc<LoraLayer>)>,
    /// The layer on the embedding, under the embedding's name.
    embedding: Option<(&'static str, Arc<EmbeddingLayer>)>,
    /// Trained rows of the embedding and the head, under their names.
    tokens: Vec<(String, Arc<TokenRows>)>,
    /// Trained copies of biases, and of modules to save.
    copies: Vec<TrainedCopy>,
}

/// A parameter with its PEFT name.
pub type Named = (String, Parameter);

/// A copy of a base parameter that is trained in its place.
pub struct TrainedCopy {
    /// The base parameter's Hugging Face name.
    pub name: String,
    /// The copy.
    pub parameter: Parameter,
    /// Whether files hold the matrix the other way round, as GPT-2's.
    pub transposed: bool,
}

/// A parameter that the adapter trains.
pub struct Own {
    /// PEFT's name of it in a model.
    pub name: String,
    /// PEFT's name of it in a file, which the adapter's name is no part of.
    pub file_name: String,
    /// The parameter.
    pub parameter: Parameter,
    /// Whether files hold the matrix the other way round.
    pub transposed: bool,
}

impl Adapter {
    /// A fresh adapter under this name, which does not sit on the decoder yet. With `autocast` its layers' parameters are f32 whatever the
    /// base's are; without, they have the base's dtype where that is a float. What it has of the embedding is always f32, and trained
    /// copies have the base's dtype, as in PEFT.
    ///
    /// # Errors
    /// The configuration is out of range or matches no module.
    pub fn new(decoder: &Decoder, name: &str, config: LoraConfig, autocast: bool, random: &mut Random) -> Result<Self> {
        config.validate()?;
        let projections = decoder.projections();
        let mut names: Vec<&str> = projections.iter().map(|(name, _)| name.as_str()).collect();
        let embedding = config_embedding(decoder);
        // An embedding is no linear layer.
        if config.target_modules != Some(TargetModules::Pattern("all-linear".into())) {
            names.push(embedding);
        }
        let family = decoder.config().family;
        let chosen = targets(&config, &names, family.traits().lora_targets)?;
        let start = config.init_lora_weights.start()?;
        // The embedding is the model's first module, and PEFT draws its random numbers in that order.
        let on_embedding = match chosen.contains(&embedding) {
            true if config.use_dora || config.lora_bias => {
                return Err(Error::Argument(format!("use_dora and lora_bias are not supported on the embedding, {embedding}")));
            }
            true => {
                let (rank, scaling) = config.rank_and_scaling(embedding);
                let layer = EmbeddingLayer::new(decoder.embedding().base(), rank, scaling, start != Start::Random, random)?;
                Some((embedding, Arc::new(layer)))
            }
            false => None,
        };
        let mut layers = Vec::new();
        for (module, projection) in projections.iter().filter(|(n, _)| chosen.contains(&n.as_str())) {
            let (rank, scaling) = config.rank_and_scaling(module);
            let weight = projection.weight.base();
            let dtype = if autocast { DType::F32 } else { weight.dtype() };
            let (dropout, dora, bias) = (config.lora_dropout, config.use_dora, config.lora_bias);
            let options = LayerOptions { rank, scaling, dropout, start, dora, bias, dtype };
            let named = |e| Error::Argument(format!("{module}: {e}"));
            layers.push((module.clone(), Arc::new(LoraLayer::new(weight, options, random).map_err(named)?)));
        }
        let tokens = token_rows(decoder, &config, &chosen)?.into_iter().map(|(module, rows)| (module, Arc::new(rows))).collect();
        let copies = copied_slots(decoder, &config, &layers)?;
        let adapter = Self { name: name.into(), config, family, layers, embedding: on_embedding, tokens, copies };
        refuse_tying(&adapter, decoder)?;
        Ok(adapter)
    }

    /// Freezes the decoder and puts a fresh adapter on it, as its only one.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn attach(decoder: &Decoder, config: LoraConfig, random: &mut Random) -> Result<Self> {
        let adapter = Self::new(decoder, DEFAULT, config, true, random)?;
        for (_, parameter) in decoder.named_parameters() {
            parameter.set_requires_grad(false);
        }
        adapter.enable(decoder);
        Ok(adapter)
    }

    /// The adapter of these layers, without trained copies.
    pub(super) fn of_layers(name: &str, config: LoraConfig, family: Family, layers: Vec<(String, Arc<LoraLayer>)>) -> Self {
        Self { name: name.into(), config, family, layers, embedding: None, tokens: Vec::new(), copies: Vec::new() }
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
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

    /// The layer on the embedding, under the embedding's name.
    pub fn embedding(&self) -> Option<&(&'static str, Arc<EmbeddingLayer>)> {
        self.embedding.as_ref()
    }

    /// Trained rows of the embedding and the head, under their names.
    pub fn tokens(&self) -> &[(String, Arc<TokenRows>)] {
        &self.tokens
    }

    /// Trained copies of base parameters.
    pub fn copies(&self) -> &[TrainedCopy] {
        &self.copies
    }

    /// Makes the adapter's own parameters trainable, or freezes them.
    pub fn set_trainable(&self, trainable: bool) {
        self.own().iter().for_each(|own| own.parameter.set_requires_grad(trainable));
    }

    /// What the adapter itself trains.
    pub fn own(&self) -> Vec<Own> {
        let layers = self.layers.iter().flat_map(|(module, layer)| {
            let at = format!("base_model.model.{module}");
            let own = |(name, file_name, parameter): (String, &str, &Parameter)| Own {
                name: format!("{at}.{name}"),
                file_name: format!("{at}.{file_name}"),
                parameter: parameter.clone(),
                transposed: false,
            };
            layer.parameters(&self.name).into_iter().map(own).collect::<Vec<_>>()
        });
        let copies = self.copies.iter().map(|TrainedCopy { name, parameter, transposed }| {
            let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
            let file_name = if self.saves(module) { format!("base_model.model.{name}") } else { self.bias_name(name) };
            let saved = format!("base_model.model.{module}.modules_to_save.{}.{kind}", self.name);
            let name = if self.saves(module) { saved } else { file_name.clone() };
            Own { name, file_name, parameter: parameter.clone(), transposed: *transposed }
        });
        self.own_rows().into_iter().chain(layers).chain(copies).collect()
    }

    /// What the adapter trains of the embedding and of single rows.
    fn own_rows(&self) -> Vec<Own> {
        let own = |module: &str, kind: &str, parameter: &Parameter| {
            let file_name = format!("base_model.model.{module}.{kind}");
            Own { name: format!("{file_name}.{}", self.name), file_name, parameter: parameter.clone(), transposed: false }
        };
        let embedding = self
            .embedding
            .iter()
            .flat_map(|(module, layer)| [own(module, "lora_embedding_A", &layer.a), own(module, "lora_embedding_B", &layer.b)]);
        let rows =
            |(module, tokens): &(String, Arc<TokenRows>)| own(module, "token_adapter.trainable_tokens_delta", &tokens.rows);
        embedding.chain(self.tokens.iter().map(rows)).collect()
    }

    /// What the adapter itself trains, under PEFT's names.
    pub fn own_parameters(&self) -> Vec<Named> {
        self.own().into_iter().map(|own| (own.name, own.parameter)).collect()
    }

    /// Whether the adapter has a trained copy of this module in full.
    pub(super) fn saves(&self, module: &str) -> bool {
        is_saved(&self.config, module)
    }

    /// Whether the adapter trains rows of this module.
    pub(super) fn has_rows(&self, module: &str) -> bool {
        self.tokens.iter().any(|(name, _)| name == module)
    }

    /// Whether the adapter has a layer on this module.
    pub(super) fn adapts(&self, module: &str) -> bool {
        self.layers.iter().any(|(layer, _)| layer == module) || self.embedding.as_ref().is_some_and(|(name, _)| *name == module)
    }

    /// PEFT's name of a trained bias, which takes the base's place.
    fn bias_name(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((module, kind)) if self.adapts(module) => format!("base_model.model.{module}.base_layer.{kind}"),
            _ => format!("base_model.model.{name}"),
        }
    }

    /// Every parameter under PEFT's names, in PEFT's order, where this is the only adapter.
    pub fn named_parameters(&self, decoder: &Decoder) -> Vec<Named> {
        set::named_parameters(&[self], decoder)
    }

    /// Trainable and all parameters, as PEFT counts them: a matrix that is shared counts once, a trained copy of a module in
    /// full, a trained bias in the place of its base.
    pub fn count(&self, decoder: &Decoder) -> (usize, usize) {
        count(&self.named_parameters(decoder))
    }

    /// Switches the adapter on, as the only one.
    pub fn enable(&self, decoder: &Decoder) {
        set::install(&[self], decoder);
    }

    /// Switches all adapters off: the decoder computes what the base computes, bit for bit.
    pub fn disable(&self, decoder: &Decoder) {
        set::install(&[], decoder);
    }

    /// Adds the adapter's change to the base's weights and takes the adapter off.
    ///
    /// # Errors
    /// A merged weight would not be finite, or a change has no place in the weights; nothing is changed then.
    pub fn merge(&self, decoder: &Decoder) -> Result<()> {
        super::merge::merge(&[self], decoder)
    }

    /// The line that PEFT's `print_trainable_parameters` prints.
    pub fn describe_trainable(&self, decoder: &Decoder) -> String {
        let (trainable, all) = self.count(decoder);
        describe_trainable(trainable, all)
    }
}

/// Trainable and all elements of parameters; one that is there twice counts once.
pub(super) fn count(named: &[Named]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let unique: Vec<&Parameter> = named.iter().map(|(_, p)| p).filter(|p| seen.insert(p.key())).collect();
    let trainable = unique.iter().filter(|p| p.requires_grad()).map(|p| p.elem_count()).sum();
    (trainable, unique.iter().map(|p| p.elem_count()).sum())
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

/// Fails where `ensure_weight_tying` asks for a change that an embedding and a head with one matrix share, and which they would not.
fn refuse_tying(adapter: &Adapter, decoder: &Decoder) -> Result<()> {
    if !adapter.config.ensure_weight_tying || !decoder.config().tie_word_embeddings {
        return Ok(());
    }
    let embedding = config_embedding(decoder);
    if let Some(module) = [embedding, "lm_head"].into_iter().find(|module| adapter.adapts(module) || adapter.saves(module)) {
        return Err(Error::Argument(format!(
            "ensure_weight_tying: the adapter changes {module}, and {embedding} and lm_head, which share one matrix in this \
             model, cannot be changed as one; set it to false (a change of one is then none of the other), or train rows of both \
             with trainable_token_indices; what PEFT has trained so can be merged there, and loaded as a model"
        )));
    }
    if adapter.has_rows("lm_head") {
        return Err(Error::Argument(format!(
            "ensure_weight_tying: trainable_token_indices has tokens for lm_head that are not those for {embedding}, with which \
             it shares one matrix in this model; name them for {embedding} alone, which lm_head follows, or set \
             ensure_weight_tying to false"
        )));
    }
    Ok(())
}

/// Trained copies of the biases and modules that the configuration names.
fn copied_slots(decoder: &Decoder, config: &LoraConfig, layers: &[(String, Arc<LoraLayer>)]) -> Result<Vec<TrainedCopy>> {
    let projections = decoder.projections();
    let mut slots = decoder.slots();
    if decoder.tied() {
        slots.extend(projections.iter().filter(|(n, _)| n == "lm_head").map(|(n, p)| (format!("{n}.weight"), &p.weight)));
    }
    let modules = || slots.iter().filter_map(|(name, _)| name.rsplit_once('.')).map(|(module, _)| module);
    for wanted in config.modules_to_save.iter().flatten() {
        // PEFT would save all that such a module holds.
        let holds = |module: &str| module.match_indices('.').any(|(end, _)| module[..end].ends_with(wanted.as_str()));
        if !wanted.is_empty() && modules().any(holds) {
            return Err(Error::argument(format!(
                "modules_to_save: \"{wanted}\" holds other modules; name each of these instead"
            )));
        }
        if wanted.is_empty() || !modules().any(|module| module.ends_with(wanted.as_str())) {
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
        if is_saved(config, module) || (kind == "bias" && bias) {
            let parameter = Parameter::new(&slot.base().value().copy()?)?;
            copies.push(TrainedCopy { name, parameter, transposed: slot.transposed() });
        }
    }
    Ok(copies)
}
