//! Adding adapters' changes to the weights: for good, or as a stand-in that can be taken away again.

use super::embedding::config_embedding;
use super::lora::LoraLayer;
use super::peft::Adapter;
use super::set::{install, projections};
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::projection::Slot;
use crate::nn::Parameter;
use candle_core::{DType, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Adds the changes of adapters, one after the other, to the base's weights, in f32 and rounded once to the weight's dtype, and takes the
/// adapters off. A quantised weight becomes f32 by it.
///
/// # Errors
/// A merged weight would not be finite, an adapter has something of a head or an embedding that share one matrix, or a layer's own bias has
/// no bias to be added to; nothing is changed then.
pub fn merge(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    if decoder.config().tie_word_embeddings {
        refuse_shared(adapters, decoder)?;
    }
    check(adapters, decoder)?;
    check_rows(adapters, decoder)?;
    let projections = projections(decoder);
    // What holds its copy and its change already.
    let mut done: HashSet<String> = HashSet::new();
    done.extend(merge_rows(adapters, decoder)?);
    for (module, layers) in by_module(adapters) {
        let Some(projection) = projections.get(module) else { continue };
        projection.weight.base().set(&merged(&projection.weight.current(), &layers)?)?;
        done.insert(format!("{module}.weight"));
        if let (Some(added), Some(bias)) = (own_biases(&layers)?, &projection.bias) {
            bias.base().set(&(bias.current().value().to_dtype(DType::F32)? + added)?)?;
            done.insert(format!("{module}.bias"));
        }
    }
    let slots: HashMap<String, &Slot> = decoder.slots().into_iter().collect();
    for copy in adapters.iter().flat_map(|adapter| adapter.copies()).filter(|copy| !done.contains(&copy.name)) {
        if let Some(slot) = slots.get(&copy.name) {
            slot.base().set(&copy.parameter.value())?;
        }
    }
    install(&[], decoder);
    Ok(())
}

/// Fails where a matrix that embedding and head share would have to become two.
fn refuse_shared(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    let embedding = config_embedding(decoder);
    let copied = |adapter: &Adapter, module: &str| adapter.copies().iter().any(|copy| copy.name == format!("{module}.weight"));
    for adapter in adapters {
        // Rows of the embedding are the head's as well.
        if adapter.adapts("lm_head") || copied(adapter, "lm_head") || adapter.has_rows("lm_head") {
            return Err(Error::argument(
                "what the adapter has of lm_head cannot be merged: this model's head shares its matrix with the embedding, \
                 which would change too; use unload(), or save the adapter",
            ));
        }
        if adapter.adapts(embedding) || copied(adapter, embedding) {
            return Err(Error::argument(
                "what the adapter has of the embedding cannot be merged: this model's head shares its matrix, and would change too; \
                 use unload(), or save the adapter",
            ));
        }
    }
    Ok(())
}

/// Merges what adapters change of the embedding's and the head's rows. Returns the embedding's name where a low-rank change, and with it a
/// copy, was merged.
fn merge_rows(adapters: &[&Adapter], decoder: &Decoder) -> Result<Option<String>> {
    let embedding = decoder.embedding();
    let mut changed = None;
    for (module, layer) in adapters.iter().filter_map(|adapter| adapter.embedding()) {
        let before = if changed.is_none() { embedding.current() } else { embedding.base().clone() };
        embedding.base().set(&(before.value().to_dtype(DType::F32)? + layer.weight_change()?)?)?;
        changed = Some(format!("{module}.weight"));
    }
    for (module, rows) in adapters.iter().flat_map(|adapter| adapter.tokens()) {
        let weight = if module == "lm_head" { decoder.head().weight.base() } else { embedding.base() };
        weight.set(&rows.merged(&weight.value())?)?;
    }
    Ok(changed)
}

/// Puts merged weights in the place of the base's, and switches the adapters' own computation off: the same numbers, sooner. Installing
/// the adapters anew takes them away again.
///
/// # Errors
/// As [`merge`]; nothing is changed then.
pub fn merge_for_a_while(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    check(adapters, decoder)?;
    let projections = projections(decoder);
    // Head and embedding, whose rows may be changed one by one, stay as they are.
    for (module, layers) in by_module(adapters).into_iter().filter(|(module, _)| *module != "lm_head") {
        let Some(projection) = projections.get(module) else { continue };
        let weight = projection.weight.current();
        let sum = merged(&weight, &layers)?;
        let frozen = |value: &Tensor| -> Result<Parameter> {
            let parameter = Parameter::new(value)?;
            parameter.set_requires_grad(false);
            Ok(parameter)
        };
        if let (Some(added), Some(bias)) = (own_biases(&layers)?, &projection.bias) {
            bias.replace(Some(frozen(&(bias.current().value().to_dtype(DType::F32)? + added)?)?));
        }
        projection.weight.replace(Some(frozen(&sum.to_dtype(weight.dtype())?)?));
        projection.set_deltas(Vec::new());
    }
    Ok(())
}

type Layers<'a> = Vec<&'a Arc<LoraLayer>>;

/// The layers by the module that they change, in the adapters' order.
fn by_module<'a>(adapters: &[&'a Adapter]) -> Vec<(&'a str, Layers<'a>)> {
    let mut found: Vec<(&str, Layers<'_>)> = Vec::new();
    for (module, layer) in adapters.iter().flat_map(|adapter| adapter.layers()) {
        match found.iter_mut().find(|(name, _)| name == module) {
            Some((_, layers)) => layers.push(layer),
            None => found.push((module, vec![layer])),
        }
    }
    found
}

/// A weight with all of its changes, in f32.
fn merged(weight: &Parameter, layers: &[&Arc<LoraLayer>]) -> Result<Tensor> {
    layers.iter().try_fold(weight.value().to_dtype(DType::F32)?, |sum, layer| layer.merged(weight, &sum))
}

/// What the layers' own biases add.
fn own_biases(layers: &[&Arc<LoraLayer>]) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for layer in layers {
        let Some(bias) = &layer.bias else { continue };
        let scaled = (bias.value().to_dtype(DType::F32)? * layer.scaling)?;
        sum = Some(match sum {
            Some(sum) => (sum + scaled)?,
            None => scaled,
        });
    }
    Ok(sum)
}

/// Fails where something could not be merged.
fn check(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    let projections = projections(decoder);
    for (module, layers) in by_module(adapters) {
        let Some(projection) = projections.get(module) else { continue };
        if layers.iter().any(|layer| layer.bias.is_some()) && projection.bias.is_none() {
            return Err(Error::Argument(format!(
                "the adapter's bias (lora_bias) cannot be merged: {module} has no bias in this model; use unload(), or save the adapter"
            )));
        }
        let weight = projection.weight.current();
        refuse_infinite(&merged(&weight, &layers)?, weight.dtype())?;
    }
    Ok(())
}

/// The same of the rows of embedding and head.
fn check_rows(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    let words = decoder.embedding().current();
    let mut sum: Option<Tensor> = None;
    for (_, layer) in adapters.iter().filter_map(|adapter| adapter.embedding()) {
        let before = match sum {
            Some(sum) => sum,
            None => words.value().to_dtype(DType::F32)?,
        };
        sum = Some((before + layer.weight_change()?)?);
    }
    if let Some(sum) = sum {
        refuse_infinite(&sum, words.dtype())?;
    }
    let rows = adapters.iter().flat_map(|adapter| adapter.tokens());
    rows.map(|(_, rows)| rows.rows.value()).try_for_each(|rows| refuse_infinite(&rows, words.dtype()))
}

/// Fails where merged values would not be finite as a weight holds them: f16 ends at 65504.
fn refuse_infinite(merged: &Tensor, held: DType) -> Result<()> {
    let sum = merged.to_dtype(held)?.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
    match sum.is_finite() {
        true => Ok(()),
        false => Err(Error::Training("merging the adapter gives weights that are not finite; nothing was merged".into())),
    }
}
