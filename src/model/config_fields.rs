//! Typed access to the fields of a configuration file, with errors that name file and field.

use super::config::dtype_from_name;
use super::config_known::says_no;
use super::rope::{Rope, RopeScaling};
use crate::error::{Error, Result};
use candle_core::DType;
use serde_json::{Map, Value};
use std::path::Path;

/// What an object that describes rotary embeddings may hold; "finetuned" is a remark of the first YaRN models.
const ROPE: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "finetuned",
];

/// Typed access to a JSON object's fields; null counts as absent.
pub(super) struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub path: &'a Path,
}

/// What the rotary embeddings of a kind of layer are read with.
pub(super) struct RopeDefaults {
    pub theta: f64,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    /// Phi-3 turns a part of each head where the file says so, and called LongRoPE "su" and "yarn".
    pub phi3: bool,
}

impl Fields<'_> {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn wrong(&self, key: &str, message: impl AsRef<str>) -> Error {
        Error::format(self.path, format!("field {key}: {}", message.as_ref()))
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // A bound that no model reaches keeps products of two sizes within 64 bits.
        match value.as_u64().filter(|&n| n > 0 && n <= 1 << 31) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(self.wrong(key, format!("expected a whole number above 0, found {value}"))),
        }
    }

    /// A whole number that may be 0.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        if self.get(key).and_then(Value::as_u64) == Some(0) { Ok(Some(0)) } else { self.optional_size(key) }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Ok(Some(x)),
            None => Err(self.wrong(key, format!("expected a number above 0, found {value}"))),
        }
    }

    /// A probability of dropping something.
    pub fn probability(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_f64().filter(|x| (0.0..1.0).contains(x)) {
            Some(x) => Ok(x),
            None => Err(self.wrong(key, format!("expected a number of at least 0 and below 1, found {value}"))),
        }
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, format!("expected true or false, found {other}"))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.optional_flag(key)?.unwrap_or(false))
    }

    pub fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, format!("expected a string, found {other}"))),
        }
    }

    /// A token id or an array of them.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let one = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.wrong(key, format!("expected a token id or an array of token ids, found {value}")))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            // Old configs write -1 for "none".
            Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }

    /// An array with one entry for each of the layers, from the first.
    pub fn by_layer<T>(
        &self,
        key: &str,
        layers: usize,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(entries) = value else { return Err(self.wrong(key, format!("expected an array, found {value}"))) };
        if entries.len() < layers {
            return Err(self.wrong(key, format!("has {} entries for {layers} layers", entries.len())));
        }
        let one = |value: &Value| read(value).ok_or_else(|| self.wrong(key, format!("expected {what}, found {value}")));
        entries[..layers].iter().map(one).collect::<Result<_>>().map(Some)
    }

    /// The dtype that the file names ("dtype", or "torch_dtype" in older files).
    pub fn dtype(&self) -> Result<Option<DType>> {
        Ok(self.text("dtype")?.or(self.text("torch_dtype")?).and_then(|name| dtype_from_name(&name)))
    }

    /// The rotary embeddings: `rope_theta` and `rope_scaling` at the top, or transformers 5's `rope_parameters`, which has both.
    pub fn rope(&self, defaults: &RopeDefaults) -> Result<Rope> {
        let theta = self.number("rope_theta")?;
        match self.get("rope_parameters").filter(|value| !says_no(value)) {
            None => self.rope_at("rope_scaling", self.get("rope_scaling"), theta, defaults),
            value => {
                let rope = self.rope_at("rope_parameters", value, theta, defaults)?;
                self.refuse_other_scaling(&rope, defaults)?;
                Ok(rope)
            }
        }
    }

    /// Refuses a `rope_scaling` that is not what `rope_parameters`, which is there too, says.
    pub fn refuse_other_scaling(&self, rope: &Rope, defaults: &RopeDefaults) -> Result<()> {
        let Some(value) = self.get("rope_scaling").filter(|value| !says_no(value)) else { return Ok(()) };
        if self.rope_at("rope_scaling", Some(value), Some(rope.theta), defaults)? != *rope {
            return Err(self.wrong("rope_scaling", format!("{value} is not what rope_parameters says; remove one of the two")));
        }
        Ok(())
    }

    /// The rotary embeddings that the object under a key describes.
    pub fn rope_at(&self, key: &str, value: Option<&Value>, theta: Option<f64>, defaults: &RopeDefaults) -> Result<Rope> {
        let empty = Map::new();
        let map = match value.filter(|value| !value.is_null()) {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(other) => return Err(self.wrong(key, format!("expected an object, found {other}"))),
        };
        let inner = Fields { map, path: self.path };
        let read = || -> Result<Rope> {
            if let Some((name, value)) = map.iter().find(|(name, value)| !ROPE.contains(&name.as_str()) && !says_no(value)) {
                return Err(inner.wrong(name, format!("{value} is not supported: it may change what the model computes")));
            }
            let theta = inner.number("rope_theta")?.or(theta).unwrap_or(defaults.theta);
            let share = match inner.number("partial_rotary_factor")? {
                Some(share) => share,
                None => self.number("partial_rotary_factor")?.unwrap_or(1.0),
            };
            if share != 1.0 && !defaults.phi3 {
                return Err(inner.wrong("partial_rotary_factor", format!("{share} is not supported for this family, only 1.0")));
            }
            let dims = (defaults.head_dim as f64 * share) as usize;
            if share > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
                let message = format!("{share} of head_dim {} is no even number of dimensions", defaults.head_dim);
                return Err(inner.wrong("partial_rotary_factor", message));
            }
            let original = match self.number("original_max_position_embeddings")? {
                Some(original) => original,
                None => inner.number("original_max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings as f64),
            };
            Ok(Rope { theta, dims, scaling: inner.rope_scaling(dims, original, defaults)? })
        };
        read().map_err(|error| match error {
            Error::Format { path, message } => Error::Format { path, message: format!("in {key}: {message}") },
            other => other,
        })
    }

    fn rope_scaling(&self, dims: usize, original: f64, defaults: &RopeDefaults) -> Result<RopeScaling> {
        let needed = |name: &str| self.number(name)?.ok_or_else(|| self.wrong(name, "is missing"));
        let kind = self.text("rope_type")?.or(self.text("type")?).unwrap_or_else(|| "default".into());
        let kind = if defaults.phi3 && matches!(kind.as_str(), "su" | "yarn") { "longrope".into() } else { kind };
        if defaults.phi3 && !matches!(kind.as_str(), "default" | "longrope") {
            let message = format!("\"{kind}\" is not supported for this family, only \"default\" and \"longrope\"");
            return Err(self.wrong("rope_type", message));
        }
        let stretch = defaults.max_position_embeddings as f64 / original;
        Ok(match kind.as_str() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: needed("factor")?,
                original_max_position_embeddings: defaults.max_position_embeddings as f64,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            "yarn" => {
                let factor = self.number("factor")?.unwrap_or(stretch);
                let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let inferred = match (self.number("mscale")?, self.number("mscale_all_dim")?) {
                    (Some(m), Some(all)) => scale(m) / scale(all),
                    _ => scale(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
                    original_max_position_embeddings: original,
                    attention_factor: self.number("attention_factor")?.unwrap_or(inferred),
                    truncate: self.optional_flag("truncate")?.unwrap_or(true),
                }
            }
            "longrope" => {
                let factors = |key: &str| {
                    let positive = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
                    let numbers = self.get(key).and_then(Value::as_array).filter(|numbers| numbers.len() == dims / 2);
                    numbers.and_then(|numbers| numbers.iter().map(positive).collect()).ok_or_else(|| {
                        self.wrong(key, format!("expected an array of {} numbers above 0, one for each pair", dims / 2))
                    })
                };
                let factor = self.number("factor")?.unwrap_or(stretch);
                let inferred = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                RopeScaling::LongRope {
                    short_factor: factors("short_factor")?,
                    long_factor: factors("long_factor")?,
                    original_max_position_embeddings: original,
                    attention_factor: self.number("attention_factor")?.unwrap_or(inferred),
                }
            }
            other => {
                let known = "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" and \"longrope\"";
                return Err(self.wrong("rope_type", format!("\"{other}\" is not supported; supported are {known}")));
            }
        })
    }
}
