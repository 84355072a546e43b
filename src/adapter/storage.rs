//! Adapters on disk, in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`, or its shards.

use super::config::{InitLoraWeights, LoraConfig};
use super::handle::AttachOptions;
use super::peft::{Adapter, Own};
pub use super::storage_config::{SavedConfig, read as read_config};
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::weights::{Saved, Stored, Weights, save_safetensors};
use crate::nn::Parameter;
use crate::random::Random;
use candle_core::{DType, Device, Tensor};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const FILE: &str = "adapter_model.safetensors";
const INDEX: &str = "adapter_model.safetensors.index.json";

/// Writes an adapter so that PEFT loads it.
///
/// # Errors
/// The folder cannot be written; no half-written file is left.
pub fn save(adapter: &Adapter, folder: &Path, base_model: &str) -> Result<()> {
    let tensors: Vec<_> = adapter.own().into_iter().map(stored).collect();
    write(&tensors, folder)?;
    super::storage_config::write(adapter, adapter.config(), folder, base_model)
}

/// A parameter as a file has it, under its name there.
fn stored(own: Own) -> (String, Stored) {
    (own.file_name, Stored { parameter: own.parameter, transposed: own.transposed })
}

fn write<T: Saved>(tensors: &[(String, T)], folder: &Path) -> Result<()> {
    save_safetensors(&folder.join(FILE), tensors, &[("format".into(), "pt".into())])
}

/// Writes an adapter that starts as a part of the weight (PiSSA, OLoRA) as a plain one of twice the rank for the untouched base: what
/// was learned is `B A - B0 A0 = [B, -B0] [A; A0]`. A0 and B0 are those that the adapter holds, or those of the adapter in `initial`,
/// which was saved before it was trained. All else that the adapter trains is written as it is.
///
/// # Errors
/// There is nothing that the adapter started as, what is in `initial` has other shapes, it is a DoRA adapter, or a folder cannot be read or
/// written.
pub fn save_converted(adapter: &Adapter, folder: &Path, base_model: &str, initial: Option<&Path>) -> Result<()> {
    if adapter.config().use_dora {
        return Err(Error::Argument(format!(
            "the adapter \"{}\" is a DoRA adapter, whose magnitudes belong to its own A and B: save it without convert_to_lora",
            adapter.name()
        )));
    }
    let file = initial.map(open).transpose()?;
    let mut tensors = Vec::new();
    for (module, layer) in adapter.layers() {
        let names = ["lora_A.weight", "lora_B.weight"].map(|kind| format!("base_model.model.{module}.{kind}"));
        let started = match (&file, &layer.taken) {
            (Some(file), _) => {
                let read = |name: &str, own: &Parameter| -> Result<Tensor> {
                    let (shape, _) = file.shape_dtype(name)?;
                    if shape != own.dims() {
                        let message = format!(
                            "tensor \"{name}\" has shape {shape:?}, and the adapter's own has {:?}: it did not start as this",
                            own.dims()
                        );
                        return Err(Error::format(file.file_of(name), message));
                    }
                    Ok(file.load(name, Some(DType::F32), &own.device())?.as_detached_tensor())
                };
                Some((read(&names[0], &layer.a)?, read(&names[1], &layer.b)?))
            }
            (None, Some((a, b))) => Some((a.value(), b.value())),
            (None, None) => None,
        };
        let Some((a, b)) = started else {
            return Err(Error::Argument(format!(
                "the adapter \"{}\" was not made with init_lora_weights \"pissa\" or \"olora\": it is a plain LoRA already, \
                 or give path_initial_model_for_weight_conversion",
                adapter.name()
            )));
        };
        let [name_a, name_b] = names;
        tensors.push((name_a, Tensor::cat(&[&layer.a.value().to_dtype(DType::F32)?, &a], 0)?));
        tensors.push((name_b, Tensor::cat(&[&layer.b.value().to_dtype(DType::F32)?, &b.neg()?], 1)?));
    }
    if let Some((module, layer)) = adapter.embedding() {
        // It started as a plain one; the rank is now twice its own here too.
        for (kind, value, dim) in [("A", layer.a.value(), 0usize), ("B", layer.b.value(), 1)] {
            let name = format!("base_model.model.{module}.lora_embedding_{kind}");
            tensors.push((name, Tensor::cat(&[&value, &value.zeros_like()?], dim)?));
        }
    }
    let names: HashSet<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let rest = adapter.own().into_iter().map(stored).filter(|(name, _)| !names.contains(name));
    tensors.extend(rest.map(|(name, stored)| (name, stored.tensor())));
    write(&tensors, folder)?;
    let own = adapter.config().clone();
    // The scale stays: alpha / r, or alpha / sqrt(r).
    let factor = if own.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    let config = LoraConfig {
        init_lora_weights: InitLoraWeights::Default(true),
        r: 2 * own.r,
        lora_alpha: factor * own.lora_alpha,
        rank_pattern: own.rank_pattern.into_iter().map(|(key, rank)| (key, 2 * rank)).collect(),
        alpha_pattern: own.alpha_pattern.into_iter().map(|(key, alpha)| (key, factor * alpha)).collect(),
        ..own
    };
    super::storage_config::write(adapter, &config, folder, base_model)
}

/// Opens the weights of a saved adapter.
fn open(folder: &Path) -> Result<Weights> {
    if folder.join("adapter_model.bin").is_file() && !folder.join(FILE).is_file() && !folder.join(INDEX).is_file() {
        return Err(Error::format(
            folder.join("adapter_model.bin"),
            "is a pickle file, which can run any code when it is read and is therefore not; convert it in Python: \
             safetensors.torch.save_file(torch.load(\"adapter_model.bin\", weights_only=True), \"adapter_model.safetensors\")",
        ));
    }
    Weights::open_as(folder, FILE, INDEX)
}

/// Puts a saved adapter on a decoder, as its only one. With `trainable` false its parameters are frozen.
///
/// # Errors
/// As [`read`].
pub fn load(decoder: &Decoder, folder: &Path, trainable: bool) -> Result<Adapter> {
    let options = AttachOptions { trainable, ..AttachOptions::default() };
    let (adapter, _) = read(decoder, folder, &options, None)?;
    decoder.named_parameters().iter().for_each(|(_, parameter)| parameter.set_requires_grad(false));
    adapter.enable(decoder);
    Ok(adapter)
}

/// A saved adapter for a decoder, on which it does not sit yet; and a warning, where the adapter says that it is for a model of another name
/// than `model`.
///
/// # Errors
/// A file is missing or damaged, a tensor is missing, left over, or has a shape that belongs to another base model. The
/// decoder is left as it was.
pub fn read(decoder: &Decoder, folder: &Path, options: &AttachOptions, model: Option<&str>) -> Result<(Adapter, Option<String>)> {
    let SavedConfig { mut config, base_model } = read_config(folder)?;
    // The file has all values, and only what an adapter took from the base has to be found again.
    if !config.init_lora_weights.start()?.takes_weight_apart() {
        config.init_lora_weights = InitLoraWeights::Default(true);
    }
    let family = decoder.config().family.traits().model_type;
    let this = model.map_or_else(|| format!("a {family} model"), |name| format!("\"{name}\", a {family} model"));
    let made_for = base_model.as_deref().filter(|name| !name.is_empty());
    let both = made_for.map_or(String::new(), |name| format!("; it was made for \"{name}\", and this model is {this}"));
    let file = open(folder)?;
    let with_both = |error: Error| match error {
        Error::Argument(message) => Error::format(folder.join("adapter_config.json"), format!("{message}{both}")),
        other => other,
    };
    let adapter = Adapter::new(decoder, &options.name, config, options.autocast, &mut Random::new(0)).map_err(with_both)?;
    check_bases(decoder, &adapter, &file, &folder.join(FILE), &both)?;
    fill(&adapter, &file, &folder.join(FILE), &both)?;
    adapter.set_trainable(options.trainable);
    let last = |name: &str| PathBuf::from(name).file_name().map(|name| name.to_string_lossy().to_lowercase());
    let warning = match (made_for, model) {
        (Some(made_for), Some(model)) if last(made_for) != last(model) => Some(format!(
            "{}: the adapter was made for \"{made_for}\", and this model is {this}; the shapes fit, but the numbers may not",
            folder.display()
        )),
        _ => None,
    };
    Ok((adapter, warning))
}

/// Puts the values of a saved adapter into one that sits on a model.
///
/// # Errors
/// As [`read`].
pub fn restore(adapter: &Adapter, folder: &Path) -> Result<()> {
    fill(adapter, &open(folder)?, &folder.join(FILE), "")
}

/// PEFT's names of the embedding's and the head's own matrices, which it writes beside an adapter on them.
fn base_names(adapter: &Adapter) -> Vec<(&str, String)> {
    let embedding = adapter.embedding().map(|(module, _)| *module);
    let head = adapter.layers().iter().map(|(module, _)| module.as_str()).find(|module| *module == "lm_head");
    embedding.into_iter().chain(head).map(|module| (module, format!("base_model.model.{module}.base_layer.weight"))).collect()
}

/// Fails where a file has another embedding or head than the base: PEFT would put it in the base's place.
fn check_bases(decoder: &Decoder, adapter: &Adapter, file: &Weights, path: &Path, both: &str) -> Result<()> {
    for (module, name) in base_names(adapter) {
        let base = if module == "lm_head" { decoder.head().weight.base() } else { decoder.embedding().base() };
        if !file.contains(&name) || base.quantised().is_some() {
            continue;
        }
        let (shape, _) = file.shape_dtype(&name)?;
        let same = shape == base.dims() && {
            let stored = file.load(&name, Some(base.dtype()), &base.device())?;
            let apart = (stored.as_tensor().to_dtype(DType::F32)? - base.value().to_dtype(DType::F32)?)?;
            apart.abs()?.sum_all()?.to_scalar::<f32>()? == 0.0
        };
        if !same {
            let what = if module == "lm_head" { "head" } else { "embedding" };
            return Err(Error::format(path, format!("was made with another {what} than this model's{both}")));
        }
    }
    Ok(())
}

fn fill(adapter: &Adapter, file: &Weights, path: &Path, both: &str) -> Result<()> {
    let own: Vec<(String, Stored)> = adapter.own().into_iter().map(stored).collect();
    let bases = base_names(adapter);
    let known: HashSet<&str> =
        own.iter().map(|(name, _)| name).chain(bases.iter().map(|(_, name)| name)).map(String::as_str).collect();
    if let Some(extra) = file.names().into_iter().find(|name| !known.contains(name)) {
        return Err(Error::format(
            path,
            format!(
                "has a tensor \"{extra}\" that this model and adapter_config.json have no place for; \
                 is it for another base model?{both}"
            ),
        ));
    }
    // All are looked at before one is changed.
    for (name, stored) in &own {
        if !file.contains(name) {
            return Err(Error::format(path, format!("lacks the tensor \"{name}\" that adapter_config.json asks for{both}")));
        }
        let (shape, _) = file.shape_dtype(name)?;
        if shape != stored.dims() {
            return Err(Error::format(
                path,
                format!(
                    "tensor \"{name}\" has shape {shape:?}; this model needs {:?}: it is for another base model{both}",
                    stored.dims()
                ),
            ));
        }
    }
    for (name, Stored { parameter, transposed }) in &own {
        let value = file.load(name, Some(DType::F32), &Device::Cpu)?.as_detached_tensor();
        parameter.set(&if *transposed { value.t()?.contiguous()? } else { value })?;
    }
    Ok(())
}
