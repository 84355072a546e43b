//! Adding adapters' changes to the weights: for good, or as a stand-in that can be taken away again.

use super::lora::LoraLayer;
use super::peft::Adapter;
use super::set::{install, projections};
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::projection::Slot;
use crate::nn::Parameter;
use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Adds the changes of adapters, one after the other, to the base's weights, in f32 and rounded once to the weight's dtype, and takes the
/// adapters off. A quantised weight becomes f32 by it.
///
/// # Errors
/// A merged weight would not be finite, an adapter sits on a head that shares the embedding's matrix, or a layer's own bias has no bias
/// to be added to; nothing is changed then.
pub fn merge(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    let untied = |name: &str| decoder.config().tie_word_embeddings && (name == "lm_head" || name == "lm_head.weight");
    let names = |adapter: &Adapter| -> Vec<String> {
        adapter.layers().iter().map(|(name, _)| name).chain(adapter.copies().iter().map(|(name, _)| name)).cloned().collect()
    };
    if adapters.iter().flat_map(|adapter| names(adapter)).any(|name| untied(&name)) {
        return Err(Error::argument(
            "what the adapter has of lm_head cannot be merged: this model's head shares its matrix with the embedding, \
             which would change too; use unload(), or save the adapter",
        ));
    }
    if decoder.config().tie_word_embeddings && adapters.iter().any(|adapter| adapter.embedding().is_some()) {
        return Err(Error::argument(
            "the adapter on the embedding cannot be merged: this model's head shares its matrix, and would change too; \
             use unload(), or save the adapter",
        ));
    }
    check(adapters, decoder)?;
    merge_rows(adapters, decoder)?;
    let projections = projections(decoder);
    for (module, layers) in by_module(adapters) {
        let Some(projection) = projections.get(module) else { continue };
        let weight = projection.weight.base();
        weight.set(&merged(weight, &layers)?)?;
        if let (Some(added), Some(bias)) = (own_biases(&layers)?, &projection.bias) {
            bias.base().set(&(bias.current().value().to_dtype(DType::F32)? + added)?)?;
        }
    }
    install(&[], decoder);
    let slots: HashMap<String, &Slot> = decoder.slots().into_iter().collect();
    for (name, copy) in adapters.iter().flat_map(|adapter| adapter.copies()) {
        // A bias that was also added to holds both already.
        let added =
            |module: &str| by_module(adapters).iter().any(|(m, layers)| *m == module && layers.iter().any(|l| l.bias.is_some()));
        if let Some(slot) = slots.get(name).filter(|_| !name.strip_suffix(".bias").is_some_and(added)) {
            slot.base().set(&copy.value())?;
        }
    }
    Ok(())
}

/// Merges what adapters change of the embedding's and the head's rows.
fn merge_rows(adapters: &[&Adapter], decoder: &Decoder) -> Result<()> {
    let embedding = decoder.embedding().base();
    for (_, layer) in adapters.iter().filter_map(|adapter| adapter.embedding()) {
        embedding.set(&(embedding.value().to_dtype(DType::F32)? + layer.weight_change()?)?)?;
    }
    for (module, rows) in adapters.iter().flat_map(|adapter| adapter.tokens()) {
        let weight = if module == "lm_head" { decoder.head().weight.base() } else { embedding };
        weight.set(&rows.merged(&weight.value())?)?;
    }
    Ok(())
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
        let sum = merged(projection.weight.base(), &layers)?;
        if !sum.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(Error::Training("merging the adapter gives weights that are not finite; nothing was merged".into()));
        }
    }
    Ok(())
}
