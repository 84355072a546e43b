//! What every layer has: a forward pass, named parameters, and the state dict built on them.

use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::files;
use crate::random::Random;
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A layer of a network, as `torch.nn.Module`.
pub trait Module {
    /// The layer's output. `random` is drawn from by layers that need it (dropout in training).
    ///
    /// # Errors
    /// The input does not fit the layer; the message names both shapes.
    fn forward(&self, input: &Tensor, random: &mut Random) -> Result<Tensor>;

    /// The parameters with their names ("weight", "0.bias"), in the order PyTorch registers them.
    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        Vec::new()
    }

    /// Switches between training and evaluation; only layers that differ (dropout) heed it.
    fn set_training(&self, training: bool) {
        let _ = training;
    }

    /// The layer as PyTorch prints it: "Linear(in_features=10, out_features=20, bias=true)".
    fn describe(&self) -> String;
}

/// Layers that are run one after the other: `torch.nn.Sequential`.
pub struct Sequential {
    layers: Vec<Box<dyn Module>>,
}

impl Sequential {
    /// The layers in the order in which they run.
    pub fn new(layers: Vec<Box<dyn Module>>) -> Self {
        Self { layers }
    }
}

impl Module for Sequential {
    fn forward(&self, input: &Tensor, random: &mut Random) -> Result<Tensor> {
        self.layers.iter().try_fold(input.clone(), |x, layer| layer.forward(&x, random))
    }

    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        let numbered = self.layers.iter().enumerate();
        numbered.flat_map(|(at, layer)| prefixed(&at.to_string(), layer.named_parameters())).collect()
    }

    fn set_training(&self, training: bool) {
        self.layers.iter().for_each(|layer| layer.set_training(training));
    }

    fn describe(&self) -> String {
        let lines: String =
            self.layers.iter().enumerate().map(|(at, layer)| format!("\n  ({at}): {}", layer.describe())).collect();
        format!("Sequential({lines}\n)")
    }
}

/// The parameters of a child, their names prefixed with the child's: "shared.weight".
pub fn prefixed(prefix: &str, parameters: Vec<(String, Parameter)>) -> Vec<(String, Parameter)> {
    parameters.into_iter().map(|(name, parameter)| (format!("{prefix}.{name}"), parameter)).collect()
}

/// The values by name, as copies that later training does not change.
///
/// # Errors
/// Out of memory.
pub fn state_dict(parameters: &[(String, Parameter)]) -> Result<BTreeMap<String, Tensor>> {
    parameters.iter().map(|(name, parameter)| Ok((name.clone(), parameter.value().copy()?))).collect()
}

/// Sets the values by name; nothing is changed unless everything fits.
///
/// # Errors
/// Missing or unexpected names, or other shapes; all of them are listed.
pub fn load_state_dict(parameters: &[(String, Parameter)], state: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut problems = Vec::new();
    let missing: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).filter(|name| !state.contains_key(*name)).collect();
    if !missing.is_empty() {
        problems.push(format!("missing keys: {}", missing.join(", ")));
    }
    let known = |name: &String| parameters.iter().any(|(own, _)| own == name);
    let unexpected: Vec<&str> = state.keys().filter(|name| !known(name)).map(String::as_str).collect();
    if !unexpected.is_empty() {
        problems.push(format!("unexpected keys: {}", unexpected.join(", ")));
    }
    for (name, parameter) in parameters {
        if let Some(value) = state.get(name)
            && value.dims() != parameter.dims()
        {
            problems.push(format!("{name} has shape {:?} in the state dict, {:?} in the module", value.dims(), parameter.dims()));
        }
    }
    if !problems.is_empty() {
        return Err(Error::argument(format!("load_state_dict: {}", problems.join("; "))));
    }
    parameters.iter().try_for_each(|(name, parameter)| match state.get(name) {
        Some(value) => parameter.set(value),
        None => Ok(()),
    })
}

/// Writes named tensors as safetensors, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn save_tensors(tensors: &BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
    let dense = tensors.iter().map(|(name, tensor)| Ok((name.as_str(), tensor.to_device(&Device::Cpu)?.contiguous()?)));
    let dense: Vec<(&str, Tensor)> = dense.collect::<Result<_>>()?;
    let views = dense.iter().map(|(name, tensor)| (*name, tensor));
    let bytes =
        safetensors::serialize(views, None).map_err(|e| Error::format(path, format!("cannot be written as safetensors: {e}")))?;
    files::write_whole(path, |out| out.write_all(&bytes).map_err(|e| Error::io("write", path, e)))
}

/// Reads all tensors of a safetensors file.
///
/// # Errors
/// The file is missing, or is not safetensors.
pub fn load_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| Error::format(path, format!("is not a safetensors file: {}", Error::from(e))))?;
    Ok(tensors.into_iter().collect())
}
