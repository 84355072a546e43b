//! Several adapters on one decoder: which of them act, and under which names PEFT lists what a model with them has.

use super::embedding::{TokenRows, config_embedding};
use super::peft::{Adapter, Named};
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::projection::{Delta, Projection, RowDelta, Slot};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The adapters of a decoder.
#[derive(Default)]
pub struct AdapterSet {
    adapters: Vec<Adapter>,
    /// Names of those that act, in their order.
    active: Vec<String>,
    /// Whether the weights in use hold the active ones' changes.
    pub(super) merged: bool,
    /// Whether work goes on for which they are switched off.
    pub(super) switched_off: bool,
}

impl AdapterSet {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// All of them, in the order in which they came.
    pub fn all(&self) -> &[Adapter] {
        &self.adapters
    }

    /// Names of those that act.
    pub fn active_names(&self) -> &[String] {
        &self.active
    }

    /// Those that act.
    pub fn active(&self) -> Vec<&Adapter> {
        self.active.iter().filter_map(|name| self.find(name)).collect()
    }

    fn find(&self, name: &str) -> Option<&Adapter> {
        self.adapters.iter().find(|adapter| adapter.name() == name)
    }

    /// The adapter with this name.
    ///
    /// # Errors
    /// There is none; the message names those there are.
    pub fn get(&self, name: &str) -> Result<&Adapter> {
        self.find(name).ok_or_else(|| {
            let names: Vec<&str> = self.adapters.iter().map(Adapter::name).collect();
            Error::Argument(format!("there is no adapter \"{name}\"; there are: {}", names.join(", ")))
        })
    }

    /// Adds an adapter; the first one acts at once. The base is frozen.
    ///
    /// # Errors
    /// Another one has its name, or both train the base's biases.
    pub fn add(&mut self, adapter: Adapter, decoder: &Decoder) -> Result<()> {
        self.refuse_name(adapter.name())?;
        let trains_biases = |adapter: &Adapter| adapter.config().bias != super::Bias::None;
        if trains_biases(&adapter) && self.adapters.iter().any(trains_biases) {
            return Err(Error::argument("only one adapter of a model can train its biases; give the others bias: \"none\""));
        }
        if self.adapters.is_empty() {
            decoder.named_parameters().iter().for_each(|(_, parameter)| parameter.set_requires_grad(false));
            self.active = vec![adapter.name().to_string()];
        } else {
            adapter.set_trainable(false);
        }
        self.adapters.push(adapter);
        self.install(decoder);
        Ok(())
    }

    /// Fails where the name is taken or cannot be one.
    ///
    /// # Errors
    /// As said.
    pub fn refuse_name(&self, name: &str) -> Result<()> {
        if self.find(name).is_some() {
            return Err(Error::Argument(format!(
                "there already is an adapter \"{name}\"; choose another name, or delete_adapter it"
            )));
        }
        // It becomes a part of parameters' names, and a folder's name.
        if name.is_empty() || name.contains(['.', '/', '\\']) || name.contains("lora_") {
            return Err(Error::Argument(format!(
                "\"{name}\" cannot be an adapter's name: it must not be empty nor contain '.', '/', '\\' or \"lora_\""
            )));
        }
        Ok(())
    }

    /// Lets these adapters act, and no others; they can be trained then, and the others cannot.
    ///
    /// # Errors
    /// A name is not known, or two of them cannot act together; nothing is changed then.
    pub fn activate(&mut self, names: &[String], decoder: &Decoder) -> Result<()> {
        let chosen = names.iter().map(|name| self.get(name)).collect::<Result<Vec<_>>>()?;
        check_together(&chosen)?;
        for adapter in &self.adapters {
            adapter.set_trainable(names.iter().any(|name| name == adapter.name()));
        }
        self.active = names.to_vec();
        self.install(decoder);
        Ok(())
    }

    /// Takes an adapter off.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn delete(&mut self, name: &str, decoder: &Decoder) -> Result<()> {
        self.get(name)?;
        self.active.retain(|active| active != name);
        self.adapters.retain(|adapter| adapter.name() != name);
        if self.active.is_empty()
            && let Some(first) = self.adapters.first()
        {
            first.set_trainable(true);
            self.active = vec![first.name().to_string()];
        }
        self.install(decoder);
        Ok(())
    }

    /// Takes all of them off; what goes on without them still does.
    pub(super) fn clear(&mut self) {
        *self = Self { switched_off: self.switched_off, ..Self::default() };
    }

    /// Puts those that act on the decoder; none while they are switched off.
    pub fn install(&self, decoder: &Decoder) {
        let acting = if self.switched_off { Vec::new() } else { self.active() };
        install(&acting, decoder);
    }

    /// Every parameter under PEFT's names, in PEFT's order.
    pub fn named_parameters(&self, decoder: &Decoder) -> Vec<Named> {
        named_parameters(&self.adapters.iter().collect::<Vec<_>>(), decoder)
    }
}

/// Fails where two adapters change the same place in ways that cannot be added.
fn check_together(adapters: &[&Adapter]) -> Result<()> {
    let names: HashSet<&str> = adapters.iter().map(|adapter| adapter.name()).collect();
    if names.len() < adapters.len() {
        return Err(Error::argument("an adapter is named twice"));
    }
    for (place, adapter) in adapters.iter().enumerate() {
        for other in &adapters[..place] {
            let refuse = |what: &str, why: &str| {
                let (a, b) = (other.name(), adapter.name());
                Err(Error::Argument(format!("the adapters \"{a}\" and \"{b}\" cannot act together: {why} {what}")))
            };
            if let Some(copy) = adapter.copies().iter().find(|copy| other.copies().iter().any(|beside| beside.name == copy.name))
            {
                return refuse(&copy.name, "both have a trained copy of");
            }
            let both = |module: &str| other.has_rows(module);
            if let Some((module, _)) = adapter.tokens().iter().find(|(module, _)| both(module)) {
                return refuse(module, "both train rows of");
            }
            let copied = |rows: &Adapter, copies: &Adapter| {
                rows.tokens().iter().map(|(module, _)| module.clone()).find(|module| copies.saves(module))
            };
            if let Some(module) = copied(adapter, other).or_else(|| copied(other, adapter)) {
                return refuse(&module, "one has a trained copy, and the other rows of");
            }
            for (module, layer) in adapter.layers() {
                let Some((_, beside)) = other.layers().iter().find(|(name, _)| name == module) else { continue };
                if layer.magnitude.is_some() || beside.magnitude.is_some() {
                    return refuse(module, "one of them is a DoRA adapter, which scales what the other adds to");
                }
                if layer.taken.is_some() && beside.taken.is_some() {
                    return refuse(module, "each starts as a part (PiSSA or OLoRA) of the whole");
                }
            }
        }
    }
    Ok(())
}

/// Every place that can hold a stand-in, by its Hugging Face name.
fn places(decoder: &Decoder) -> HashMap<String, &Slot> {
    // A head that shares the embedding's matrix is not among the slots.
    let heads = decoder.projections().into_iter().map(|(name, projection)| (format!("{name}.weight"), &projection.weight));
    decoder.slots().into_iter().chain(heads).collect()
}

/// Puts these adapters on a decoder, in the place of all others; none gives the base, bit for bit.
pub fn install(adapters: &[&Adapter], decoder: &Decoder) {
    for (_, slot) in places(decoder) {
        slot.replace(None);
    }
    for (name, projection) in decoder.projections() {
        let layers = adapters.iter().flat_map(|adapter| adapter.layers()).filter(|(module, _)| *module == name);
        projection.set_deltas(layers.map(|(_, layer)| -> Arc<dyn Delta> { layer.clone() }).collect());
    }
    install_rows(adapters, decoder);
    let places = places(decoder);
    for copy in adapters.iter().flat_map(|adapter| adapter.copies()) {
        if let Some(slot) = places.get(&copy.name) {
            slot.replace(Some(copy.parameter.clone()));
        }
    }
}

/// Puts what adapters change of rows on the embedding and the head.
fn install_rows(adapters: &[&Adapter], decoder: &Decoder) {
    let embedding = config_embedding(decoder);
    let mut of_embedding: Vec<Arc<dyn RowDelta>> = Vec::new();
    // The layers come first: rows that are trained as they are stand in for whatever they were.
    of_embedding.extend(adapters.iter().filter_map(|a| a.embedding()).map(|(_, layer)| -> Arc<dyn RowDelta> { layer.clone() }));
    let rows = || adapters.iter().flat_map(|adapter| adapter.tokens());
    let in_embedding = |(module, _): &&(String, Arc<TokenRows>)| module == embedding;
    of_embedding.extend(rows().filter(in_embedding).map(|(_, rows)| -> Arc<dyn RowDelta> { rows.clone() }));
    decoder.set_row_deltas(of_embedding);
    // A head that shares the embedding's matrix has the same rows, unless it has rows of its own.
    let copied = adapters.iter().flat_map(|adapter| adapter.copies()).any(|copy| copy.name == "lm_head.weight");
    let own = copied || rows().any(|(module, _)| module == "lm_head");
    let wanted = if !own && decoder.tied() { embedding } else { "lm_head" };
    for (_, rows) in rows().filter(|(module, _)| module == wanted) {
        decoder.head().add_delta(rows.clone());
    }
}

/// The projections of a decoder by their names.
pub(super) fn projections(decoder: &Decoder) -> HashMap<String, &Projection> {
    decoder.projections().into_iter().collect()
}

/// Every parameter of a decoder with these adapters, under PEFT's names and in PEFT's order.
pub fn named_parameters(adapters: &[&Adapter], decoder: &Decoder) -> Vec<Named> {
    let mut named = Vec::new();
    let mut slots = decoder.slots();
    // A head that shares the embedding's matrix has none of its own, also while an adapter's copy of one of them acts.
    if decoder.config().tie_word_embeddings {
        slots.retain(|(name, _)| name != "lm_head.weight");
    }
    let mut heads = decoder.projections().into_iter().filter(|(name, _)| name == "lm_head");
    // A shared head is listed only for what adapters have of it.
    let shared = heads.next().filter(|_| slots.iter().all(|(name, _)| name != "lm_head.weight"));
    let last = slots.len();
    slots.extend(shared.map(|(name, head)| (format!("{name}.weight"), &head.weight)));
    let own: Vec<Vec<Named>> = adapters.iter().map(|adapter| adapter.own_parameters()).collect();
    for (index, (name, slot)) in slots.iter().enumerate() {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let saved = adapters.iter().any(|adapter| adapter.saves(module) || adapter.has_rows(module));
        let adapted = adapters.iter().any(|adapter| adapter.adapts(module));
        if index < last {
            let base = match (saved, adapted) {
                (true, _) => format!("base_model.model.{module}.original_module.{kind}"),
                (false, true) => format!("base_model.model.{module}.base_layer.{kind}"),
                (false, false) => format!("base_model.model.{name}"),
            };
            // A trained bias takes the base's place; a module to save stands beside the original.
            let bias = adapters.iter().filter(|a| !a.saves(module)).flat_map(|a| a.copies()).find(|copy| copy.name == *name);
            named.push((base, bias.map_or_else(|| slot.base().clone(), |copy| copy.parameter.clone())));
        }
        // What adapters have of a module follows its last parameter.
        let next_is_same = slots.get(index + 1).is_some_and(|(n, _)| n.rsplit_once('.').is_some_and(|(m, _)| m == module));
        if !next_is_same {
            named.extend(beside(adapters, &own, module));
        }
    }
    named
}

/// What adapters, whose parameters are `own`, have of a module: each kind of parameter for all adapters, as PyTorch lists dictionaries of
/// modules.
fn beside(adapters: &[&Adapter], own: &[Vec<Named>], module: &str) -> Vec<Named> {
    let at = format!("base_model.model.{module}.");
    let mut found: Vec<Named> = Vec::new();
    for (adapter, own) in adapters.iter().zip(own) {
        let saved = [format!("{at}modules_to_save.{}.", adapter.name()), format!("{at}token_adapter.")];
        found.extend(own.iter().filter(|(name, _)| saved.iter().any(|start| name.starts_with(start))).cloned());
    }
    let mut layers: Vec<Named> = Vec::new();
    let start = format!("{at}lora_");
    for own in own {
        layers.extend(own.iter().filter(|(name, _)| name.starts_with(&start)).cloned());
    }
    // Kinds in PEFT's order; adapters stay in theirs.
    let kind = |name: &str| name[at.len()..].split('.').next().map(str::to_string);
    let order = ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"];
    layers.sort_by_key(|(name, _)| kind(name).and_then(|kind| order.iter().position(|known| *known == kind)));
    found.extend(layers);
    found
}
