//! The script's modules: the layers of [`crate::nn`], sequences of them, and a user's own: a map of children and a closure.
//!
//! A module is a shared handle that scripts never change in place, so that a closure may use a module while one of its methods runs.

use super::error::{IntoScript, ScriptResult};
use super::tensor::TensorValue;
use super::tensor_data::read_data;
use crate::error::{Error, Result};
use crate::nn::losses::{self, Reduction};
use crate::nn::module::prefixed;
use crate::nn::{self, Parameter};
use candle_core::Tensor;
use rhai::{Array, Dynamic, FnPtr, ImmutableString, Map, NativeCallContext};
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

/// A module as scripts hold it.
#[derive(Clone)]
pub struct ModuleValue(Rc<Node>);

struct Node {
    kind: Kind,
    training: Cell<bool>,
}

/// What a module does.
pub enum Kind {
    /// A layer of the library.
    Layer(Box<dyn nn::Module>),
    /// The mean squared error.
    SquaredError(Reduction),
    /// The cross entropy, the class that it ignores, the share of the targets that is spread over all classes, and how much each class
    /// counts.
    CrossEntropy(Reduction, i64, f64, Option<Tensor>),
    /// Modules that run one after the other.
    Sequential(Vec<ModuleValue>),
    /// A user's module.
    User {
        /// Modules, tensors, arrays of them, and plain values.
        children: Map,
        /// Called with the module and the arguments of `forward`.
        forward: FnPtr,
    },
}

impl fmt::Debug for ModuleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl ModuleValue {
    /// A module in training mode.
    pub fn new(kind: Kind) -> Self {
        Self(Rc::new(Node { kind, training: Cell::new(true) }))
    }

    /// A layer of the library in training mode.
    pub fn layer(layer: impl nn::Module + 'static) -> Self {
        Self::new(Kind::Layer(Box::new(layer)))
    }

    /// The parameters with their names, in the order of registration; a user's children come in the alphabetical order of their
    /// names, because a Rhai map keeps no other.
    pub fn named_parameters(&self) -> Vec<(String, Parameter)> {
        match &self.0.kind {
            Kind::Layer(layer) => layer.named_parameters(),
            Kind::SquaredError(_) | Kind::CrossEntropy(..) => Vec::new(),
            Kind::Sequential(layers) => distinct(numbered(layers, Self::named_parameters)),
            Kind::User { children, .. } => {
                distinct(children.iter().flat_map(|(name, child)| value_parameters(name, child)).collect())
            }
        }
    }

    /// The parameters under the names of a state dict: a layer that stands twice in a sequence has its own there each time, as in PyTorch.
    pub fn state_parameters(&self) -> Vec<(String, Parameter)> {
        match &self.0.kind {
            Kind::Sequential(layers) => numbered(layers, Self::state_parameters),
            _ => self.named_parameters(),
        }
    }

    /// Whether the module is in training mode.
    pub fn training(&self) -> bool {
        self.0.training.get()
    }

    /// Switches this module and all below it between training and evaluation.
    pub fn set_training(&self, training: bool) {
        self.0.training.set(training);
        match &self.0.kind {
            Kind::Layer(layer) => layer.set_training(training),
            Kind::SquaredError(_) | Kind::CrossEntropy(..) => {}
            Kind::Sequential(layers) => layers.iter().for_each(|layer| layer.set_training(training)),
            Kind::User { children, .. } => children.values().for_each(|child| each_module(child, &|m| m.set_training(training))),
        }
    }

    /// A child, or a parameter of a layer, by name.
    pub fn child(&self, name: &str) -> Result<Dynamic> {
        let found = match &self.0.kind {
            Kind::User { children, .. } => children.get(name).cloned(),
            Kind::Sequential(layers) => name.parse().ok().and_then(|at: usize| layers.get(at).cloned()).map(Dynamic::from),
            _ => {
                let own = self.named_parameters().into_iter().find(|(own, _)| own == name);
                own.map(|(_, parameter)| Dynamic::from(TensorValue::from_parameter(parameter)))
            }
        };
        found.ok_or_else(|| {
            let names: Vec<String> = match &self.0.kind {
                Kind::User { children, .. } => children.keys().map(ToString::to_string).collect(),
                Kind::Sequential(layers) => (0..layers.len()).map(|at| at.to_string()).collect(),
                _ => self.named_parameters().into_iter().map(|(name, _)| name).collect(),
            };
            Error::argument(format!("this module has no child \"{name}\"; it has {}", names.join(", ")))
        })
    }

    /// What `module.name = value` does: nothing where the value is the one that is there, which `m.weight -= ..` has changed in place and which
    /// every line with `m.child.property = ..` hands back; anything else would be lost, and is refused.
    pub fn set_child(&self, name: &str, value: &Dynamic) -> Result<()> {
        if name == "training" {
            return Err(Error::argument("training is switched with .train() and .eval()"));
        }
        let own = self.child(name)?;
        if unchanged(&own, value) {
            return Ok(());
        }
        if own.is::<TensorValue>() && value.is::<TensorValue>() {
            return Err(Error::argument(format!(
                "\"{name}\" of a module is not replaced by another tensor; change it in place, inside no_grad: \
                 no_grad(|| {{ module.{name} -= 0.1 * module.{name}.grad; }}), or set it with load_state_dict"
            )));
        }
        Err(Error::argument(format!("\"{name}\" of a module cannot be replaced or changed; build the module with it")))
    }

    /// A layer of a sequence, negative from the end.
    pub fn layer_at(&self, at: i64) -> Result<ModuleValue> {
        let Kind::Sequential(layers) = &self.0.kind else {
            return Err(Error::argument("only nn::Sequential is indexed by number; use the child's name"));
        };
        let size = layers.len() as i64;
        let place = if at < 0 { at + size } else { at };
        let layer = usize::try_from(place).ok().and_then(|place| layers.get(place));
        layer.cloned().ok_or_else(|| Error::argument(format!("index {at} is out of range for {size} layers")))
    }

    /// Runs the module on the arguments of `forward`.
    pub fn forward(&self, call: &NativeCallContext, mut arguments: Vec<Dynamic>) -> ScriptResult<Dynamic> {
        let output = match (&self.0.kind, arguments.as_slice()) {
            (Kind::User { forward, .. }, _) => {
                arguments.insert(0, Dynamic::from(self.clone()));
                return forward.call_raw(call, None, arguments);
            }
            (Kind::Sequential(layers), [input]) => {
                return layers.iter().try_fold(input.clone(), |x, layer| layer.forward(call, vec![x]));
            }
            (Kind::Layer(layer), [input]) => {
                let session = super::context::context(call)?;
                let input = tensor_argument(input).script()?;
                layer.forward(&input, &mut session.random.borrow_mut())
            }
            (Kind::SquaredError(reduction), [input, target]) => {
                tensor_argument(input).and_then(|input| losses::mse_loss(&input, &tensor_argument(target)?, *reduction))
            }
            (Kind::CrossEntropy(reduction, ignored, smoothing, weight), [logits, targets]) => {
                tensor_argument(logits).and_then(|logits| {
                    let targets = tensor_argument(targets)?;
                    losses::weighted_cross_entropy(&logits, &targets, *ignored, *reduction, *smoothing, weight.as_ref())
                })
            }
            (Kind::SquaredError(_) | Kind::CrossEntropy(..), _) => {
                return Err(format!("the forward of a loss takes 2 tensors, got {} arguments", arguments.len()).into());
            }
            _ => return Err(format!("the forward of a layer takes 1 tensor, got {} arguments", arguments.len()).into()),
        };
        output.map(|tensor| Dynamic::from(TensorValue::new(tensor))).script()
    }
}

/// A tensor from a forward's argument: a tensor, or numbers and arrays of them.
fn tensor_argument(value: &Dynamic) -> Result<Tensor> {
    match value.read_lock::<TensorValue>() {
        Some(tensor) => Ok(tensor.input()),
        None => read_data(value),
    }
}

/// What the layers of a sequence have, with their numbers in front of the names.
fn numbered(layers: &[ModuleValue], of: fn(&ModuleValue) -> Vec<(String, Parameter)>) -> Vec<(String, Parameter)> {
    layers.iter().enumerate().flat_map(|(at, layer)| prefixed(&at.to_string(), of(layer))).collect()
}

/// Shared by two modules, it is one parameter under its first name, as in PyTorch.
fn distinct(named: Vec<(String, Parameter)>) -> Vec<(String, Parameter)> {
    let mut found: Vec<(String, Parameter)> = Vec::with_capacity(named.len());
    for (name, parameter) in named {
        if !found.iter().any(|(_, known)| known.same(&parameter)) {
            found.push((name, parameter));
        }
    }
    found
}

fn value_parameters(name: &str, value: &Dynamic) -> Vec<(String, Parameter)> {
    if let Some(module) = value.read_lock::<ModuleValue>() {
        prefixed(name, module.named_parameters())
    } else if let Some(tensor) = value.read_lock::<TensorValue>() {
        tensor.leaf.iter().map(|parameter| (name.to_string(), parameter.clone())).collect()
    } else if let Some(items) = value.read_lock::<Array>() {
        items.iter().enumerate().flat_map(|(at, item)| value_parameters(&format!("{name}.{at}"), item)).collect()
    } else if let Some(items) = value.read_lock::<Map>() {
        items.iter().flat_map(|(key, item)| value_parameters(&format!("{name}.{key}"), item)).collect()
    } else {
        Vec::new()
    }
}

/// Whether two values are one and the same: for modules and tensors what they share, for lists each of their elements.
fn unchanged(own: &Dynamic, value: &Dynamic) -> bool {
    if let (Some(own), Some(value)) = (own.read_lock::<TensorValue>(), value.read_lock::<TensorValue>()) {
        return match (&own.leaf, &value.leaf) {
            (Some(own), Some(value)) => own.same(value),
            (None, None) => own.tensor.id() == value.tensor.id(),
            _ => false,
        };
    }
    if let (Some(own), Some(value)) = (own.read_lock::<ModuleValue>(), value.read_lock::<ModuleValue>()) {
        return Rc::ptr_eq(&own.0, &value.0);
    }
    if let (Some(own), Some(value)) = (own.read_lock::<Array>(), value.read_lock::<Array>()) {
        return own.len() == value.len() && own.iter().zip(value.iter()).all(|(own, value)| unchanged(own, value));
    }
    if let (Some(own), Some(value)) = (own.read_lock::<Map>(), value.read_lock::<Map>()) {
        return own.len() == value.len()
            && own.iter().all(|(name, own)| value.get(name).is_some_and(|value| unchanged(own, value)));
    }
    match (own.as_int(), own.as_float(), own.as_bool(), own.read_lock::<ImmutableString>()) {
        (Ok(own), ..) => value.as_int().is_ok_and(|value| value == own),
        (_, Ok(own), ..) => value.as_float().is_ok_and(|value| value.to_bits() == own.to_bits()),
        (_, _, Ok(own), _) => value.as_bool().is_ok_and(|value| value == own),
        (.., Some(own)) => value.read_lock::<ImmutableString>().is_some_and(|value| *value == *own),
        // Handles such as models are shared: what changed in one has changed in the other.
        _ => own.type_id() == value.type_id(),
    }
}

fn each_module(value: &Dynamic, work: &dyn Fn(&ModuleValue)) {
    if let Some(module) = value.read_lock::<ModuleValue>() {
        work(&module);
    } else if let Some(items) = value.read_lock::<Array>() {
        items.iter().for_each(|item| each_module(item, work));
    } else if let Some(items) = value.read_lock::<Map>() {
        items.values().for_each(|item| each_module(item, work));
    }
}

impl fmt::Display for ModuleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children = |f: &mut fmt::Formatter<'_>, name: &str, children: Vec<(String, ModuleValue)>| {
            writeln!(f, "{name}(")?;
            for (name, child) in children {
                writeln!(f, "  ({name}): {}", child.to_string().replace('\n', "\n  "))?;
            }
            f.write_str(")")
        };
        match &self.0.kind {
            Kind::Layer(layer) => f.write_str(&layer.describe()),
            Kind::SquaredError(_) => f.write_str("MSELoss()"),
            Kind::CrossEntropy(..) => f.write_str("CrossEntropyLoss()"),
            Kind::Sequential(layers) => {
                children(f, "Sequential", layers.iter().enumerate().map(|(at, layer)| (at.to_string(), layer.clone())).collect())
            }
            Kind::User { children: map, .. } => {
                let modules =
                    map.iter().filter_map(|(name, child)| Some((name.to_string(), child.read_lock::<ModuleValue>()?.clone())));
                children(f, "Module", modules.collect())
            }
        }
    }
}
