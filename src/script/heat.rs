//! Heat maps: values by row and column, values of a model's parameters by layer, and how far its weights have moved.

use super::convert::to_number;
use super::display;
use super::error::ScriptResult;
use super::model::ModelValue;
use super::module::ModuleValue;
use super::options::{OptionMap, Validate};
use super::show_values::FigureOptions;
use super::tensor::TensorValue;
use crate::script::registry::Registry;
use crate::show::{Figure, Heat, Plot};
use candle_core::{DType, Tensor};
use rhai::plugin::*;
use rhai::{Array, Map};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Options of `heatmap` and `by_layer` beside those of every figure.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeatOptions {
    /// Shown above the figure.
    pub title: String,
    /// Name of the horizontal axis.
    pub xlabel: String,
    /// Name and unit of the values.
    pub ylabel: String,
    /// Colours by order of magnitude.
    pub log: bool,
}

impl Validate for HeatOptions {}

impl HeatOptions {
    fn figure(self, heat: Heat) -> Figure {
        let options = FigureOptions { title: self.title, xlabel: self.xlabel, ylabel: self.ylabel, ylim: None };
        options.apply(Figure::new(Plot::Heat(Heat { logarithmic: self.log, ..heat })))
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<HeatOptions>(&["heatmap"], &[("columns", "array")]).options::<HeatOptions>(&["by_layer"], &[]);
    engine.register_global_module(exported_module!(heat_functions).into());
}

/// What a parameter is called without its layer, and the layer: ("self_attn.q_proj", 3) of
/// "model.layers.3.self_attn.q_proj.weight"; without a number where it is in no layer.
fn place_of(name: &str) -> (String, Option<usize>) {
    let parts: Vec<&str> = name.split('.').collect();
    let layer = parts.iter().position(|part| part.parse::<usize>().is_ok());
    let (after, number) = match layer {
        Some(at) => (at + 1, parts[at].parse().ok()),
        None => (0, None),
    };
    let mut kept: Vec<&str> = parts[after..].iter().copied().filter(|part| *part != "model").collect();
    if kept.len() > 1 && kept.last() == Some(&"weight") {
        kept.pop();
    }
    (kept.join("."), number)
}

/// Values by parameter as rows of layers, in the order of a forward pass as far as names tell it; what is in no layer has the
/// column before them.
fn heat_by_layer(values: &[(String, f64)]) -> Heat {
    let placed: Vec<_> = values.iter().map(|(name, value)| (place_of(name), *value)).collect();
    let layers = placed.iter().filter_map(|((_, layer), _)| *layer).max().map_or(0, |last| last + 1);
    let outside = placed.iter().any(|((_, layer), _)| layer.is_none());
    let first = usize::from(outside);
    let mut columns: Vec<String> = (0..layers).map(|layer| layer.to_string()).collect();
    if outside {
        columns.insert(0, if layers == 0 { String::new() } else { "–".into() });
    }
    let mut rows: BTreeMap<(usize, String), Vec<f64>> = BTreeMap::new();
    for ((name, layer), value) in placed {
        let cells = rows.entry((order_of(&name), name)).or_insert_with(|| vec![f64::NAN; columns.len()]);
        cells[layer.map_or(0, |layer| layer + first)] = value;
    }
    let (names, values) = rows.into_iter().map(|((_, name), cells)| (name, cells)).unzip();
    Heat { rows: names, columns, values, logarithmic: false }
}

fn order_of(name: &str) -> usize {
    let order = [
        "embed",
        "wte",
        "wpe",
        "input_layernorm",
        "ln_1",
        "q_proj",
        "k_proj",
        "v_proj",
        "qkv_proj",
        "c_attn",
        "o_proj",
        "attn",
        "post_attention",
        "ln_2",
        "gate_proj",
        "up_proj",
        "down_proj",
        "mlp",
        "norm",
        "lm_head",
    ];
    order.iter().position(|part| name.contains(part)).unwrap_or(order.len())
}

/// The parameters of a model, a network or a state dict, by name.
fn parameters_of(value: &Dynamic, which: &str) -> ScriptResult<BTreeMap<String, Tensor>> {
    if let Some(model) = value.read_lock::<ModelValue>() {
        return Ok(model.named_parameters().into_iter().map(|(name, parameter)| (name, parameter.value())).collect());
    }
    if let Some(module) = value.read_lock::<ModuleValue>() {
        return Ok(module.named_parameters().into_iter().map(|(name, parameter)| (name, parameter.value())).collect());
    }
    let wrong = || format!("weight_drift: {which} must be a model or what its state_dict() gave");
    let map = value.read_lock::<Map>().ok_or_else(|| format!("{}, but it is of type {}", wrong(), value.type_name()))?;
    map.iter()
        .map(|(name, tensor)| match tensor.read_lock::<TensorValue>() {
            Some(tensor) => Ok((name.to_string(), tensor.value())),
            None => Err(format!("{}, but its `{name}` is no tensor", wrong()).into()),
        })
        .collect()
}

/// The norm of the change as a share of the norm before; of what was 0 the norm of the change.
fn relative_change(before: &Tensor, after: &Tensor) -> candle_core::Result<f64> {
    let norm = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
    let change = norm(&(after.to_dtype(DType::F32)? - before.to_dtype(DType::F32)?)?)?.sqrt();
    let size = norm(before)?.sqrt();
    Ok(if size > 0.0 { change / size } else { change })
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod heat_functions {
    /// A heat map: a map of row names to arrays of numbers, or an array of such arrays. Options: `columns` (their names), `log`
    /// (false; true colours by order of magnitude), `title`, `xlabel`, `ylabel` (name and unit of the values).
    ///
    /// ```rhai
    /// let p = heatmap(#{ q_proj: [0.01, 0.02], v_proj: [0.03, 0.05] }, #{ xlabel: "layer", ylabel: "change" });
    /// p.svg().contains("q_proj") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn heatmap(values: Dynamic, options: Map) -> ScriptResult<Figure> {
        let mut given = OptionMap::new("heatmap", options);
        let columns: Option<Array> = given.take_optional("columns", "an array of names")?;
        let rows: Vec<(String, Dynamic)> = if let Some(map) = values.read_lock::<Map>() {
            map.iter().map(|(name, row)| (name.to_string(), row.clone())).collect()
        } else if let Some(items) = values.read_lock::<Array>() {
            items.iter().enumerate().map(|(i, row)| (i.to_string(), row.clone())).collect()
        } else {
            let kind = values.type_name();
            return Err(format!("heatmap takes a map of names to arrays of numbers, or an array of arrays, not {kind}").into());
        };
        let mut heat = Heat { rows: Vec::new(), columns: Vec::new(), values: Vec::new(), logarithmic: false };
        for (name, row) in rows {
            let Some(cells) = row.read_lock::<Array>().map(|cells| cells.iter().map(to_number).collect::<Vec<_>>()) else {
                return Err(
                    format!("heatmap: row {name} must be an array of numbers, but it is of type {}", row.type_name()).into()
                );
            };
            heat.rows.push(name);
            heat.values.push(cells.into_iter().map(|cell| cell.unwrap_or(f64::NAN)).collect());
        }
        let most = heat.values.iter().map(Vec::len).max().unwrap_or(0);
        heat.columns = match columns {
            Some(names) if names.len() != most => {
                return Err(format!("heatmap: columns names {} columns, but there are {most}", names.len()).into());
            }
            Some(names) => names.iter().map(display::text).collect(),
            None => (0..most).map(|i| i.to_string()).collect(),
        };
        Ok(given.parse::<HeatOptions>()?.figure(heat))
    }

    #[rhai_fn(name = "heatmap", return_raw)]
    pub fn heatmap_default(values: Dynamic) -> ScriptResult<Figure> {
        heatmap(values, Map::new())
    }

    /// A heat map of one number a parameter, by layer: what `weight_drift` or `ewc.fisher()` gave. Options: `log`, `title`, `xlabel`,
    /// `ylabel` (name and unit of the values).
    ///
    /// ```rhai
    /// let p = by_layer(#{ "model.layers.0.self_attn.q_proj.weight": 0.1, "model.layers.1.self_attn.q_proj.weight": 0.2 });
    /// p.svg().contains("self_attn.q_proj") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn by_layer(values: Map, options: Map) -> ScriptResult<Figure> {
        let given: HeatOptions = super::super::options::options("by_layer", options)?;
        let number = |(name, value): (&rhai::Identifier, &Dynamic)| -> ScriptResult<(String, f64)> {
            let number = to_number(value);
            Ok((name.to_string(), number.ok_or_else(|| format!("by_layer: the value of `{name}` must be a number"))?))
        };
        let values = values.iter().map(number).collect::<ScriptResult<Vec<_>>>()?;
        let xlabel = if given.xlabel.is_empty() { "layer".into() } else { given.xlabel.clone() };
        Ok(HeatOptions { xlabel, ..given }.figure(heat_by_layer(&values)))
    }

    #[rhai_fn(name = "by_layer", return_raw)]
    pub fn by_layer_default(values: Map) -> ScriptResult<Figure> {
        by_layer(values, Map::new())
    }

    /// How far weights have moved: for every parameter the norm of its change as a share of its norm before. Both are models or state
    /// dicts; of a model that is trained further keep `state_dict()`. Adapters are merged first to be seen in the weights.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let before = model.state_dict();
    /// // ... training ...
    /// weight_drift(before, model)["model.norm.weight"] // => 0.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn weight_drift(before: Dynamic, after: Dynamic) -> ScriptResult<Map> {
        let (before, after) = (parameters_of(&before, "the first argument")?, parameters_of(&after, "the second argument")?);
        let mut drift = Map::new();
        for (name, old) in &before {
            let Some(new) = after.get(name) else { continue };
            if old.dims() != new.dims() {
                let (was, is) = (old.dims(), new.dims());
                return Err(format!("weight_drift: `{name}` had the shape {was:?} and now has {is:?}").into());
            }
            let change = relative_change(old, new).map_err(|error| format!("weight_drift: {name}: {error}"))?;
            drift.insert(name.as_str().into(), change.into());
        }
        if drift.is_empty() {
            return Err("weight_drift: the two have no parameter of the same name".into());
        }
        Ok(drift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_a_row_and_a_layer() {
        assert_eq!(place_of("model.layers.3.self_attn.q_proj.weight"), ("self_attn.q_proj".into(), Some(3)));
        assert_eq!(place_of("model.embed_tokens.weight"), ("embed_tokens".into(), None));
        assert_eq!(place_of("transformer.h.11.attn.c_attn.bias"), ("attn.c_attn.bias".into(), Some(11)));
        assert_eq!(place_of("weight"), ("weight".into(), None));
        let values: Vec<(String, f64)> = [
            ("model.layers.0.mlp.up_proj.weight", 1.0),
            ("model.layers.1.mlp.up_proj.weight", 2.0),
            ("model.layers.1.self_attn.q_proj.weight", 3.0),
            ("model.embed_tokens.weight", 4.0),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .into();
        let heat = heat_by_layer(&values);
        assert_eq!(heat.rows, ["embed_tokens", "self_attn.q_proj", "mlp.up_proj"]);
        assert_eq!(heat.columns, ["–", "0", "1"]);
        assert_eq!(heat.values[0][0], 4.0);
        assert!(heat.values[1][1].is_nan() && heat.values[1][2] == 3.0);
        assert_eq!(heat.values[2][1..], [1.0, 2.0]);
    }

    #[test]
    fn drift_is_relative() {
        let cpu = &candle_core::Device::Cpu;
        let (a, b) = (Tensor::new(&[3f32, 4.0], cpu).unwrap(), Tensor::new(&[3f32, 4.5], cpu).unwrap());
        assert!((relative_change(&a, &b).unwrap() - 0.1).abs() < 1e-7);
        let zero = a.zeros_like().unwrap();
        assert!((relative_change(&zero, &a).unwrap() - 5.0).abs() < 1e-6);
    }
}
