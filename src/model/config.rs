//! A model's `config.json`: the llama family's fields, checked, with transformers' defaults.
//!
//! Whatever would change the numbers and is not supported is refused by name: a model that loads is computed right.
//! The file's JSON is kept, so that saving a model writes back what was read.

pub use super::rope::RopeScaling;
use crate::error::{Error, Result};
use crate::files::read_text;
use candle_core::DType;
use serde_json::{Map, Value};
use std::path::Path;

/// What is known of a model's architecture before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// "llama" or "mistral".
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// The longest context.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// How many positions a query sees, itself included (mistral); `None`: all before it.
    pub sliding_window: Option<usize>,
    /// Start of text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a generation; from `generation_config.json` where that has them.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// The dtype that the file names ("torch_dtype" or "dtype").
    pub dtype: Option<DType>,
    /// `config.json` as it was read.
    pub raw: Value,
    /// `generation_config.json` as it was read, where there is one.
    pub raw_generation: Option<Value>,
}

impl ModelConfig {
    /// Reads `config.json` (and `generation_config.json`, where present) of a folder.
    ///
    /// # Errors
    /// No such file, not JSON (with line and column), a field missing, of the wrong kind or not supported.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(Error::Missing(format!(
                "{} has no config.json: a model folder holds config.json, *.safetensors and tokenizer.json",
                folder.display()
            )));
        }
        let mut config = Self::from_json(read_json(&path)?, &path)?;
        let generation = folder.join("generation_config.json");
        if generation.is_file() {
            config.set_generation(read_json(&generation)?, &generation)?;
        }
        Ok(config)
    }

    /// Checks a `config.json` that is already parsed; `path` is named in errors.
    ///
    /// # Errors
    /// A field is missing, of the wrong kind or not supported.
    pub fn from_json(raw: Value, path: &Path) -> Result<Self> {
        let Value::Object(map) = &raw else { return Err(Error::format(path, "expected a JSON object")) };
        let f = Fields { map, path };
        let model_type = f.text("model_type")?.unwrap_or_default();
        let mistral = match model_type.as_str() {
            "llama" => false,
            "mistral" => true,
            "" => return Err(f.wrong("model_type", "is missing; supported are \"llama\" and \"mistral\"")),
            other => {
                return Err(
                    f.wrong("model_type", format!("\"{other}\" is not supported; supported are \"llama\" and \"mistral\""))
                );
            }
        };
        f.refuse_unsupported()?;
        let hidden_size = f.size("hidden_size")?;
        let num_attention_heads = f.size("num_attention_heads")?;
        // The defaults are those of LlamaConfig and MistralConfig.
        let default_kv_heads = if mistral { 8 } else { num_attention_heads };
        let num_key_value_heads = f.optional_size("num_key_value_heads")?.unwrap_or(default_kv_heads);
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let message = format!("{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}");
            return Err(f.wrong("num_key_value_heads", message));
        }
        let head_dim = match f.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                return Err(f.wrong(
                    "hidden_size",
                    format!("{hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(f.wrong("head_dim", format!("{head_dim} is odd; rotary embeddings turn pairs")));
        }
        let max_position_embeddings = f.optional_size("max_position_embeddings")?.unwrap_or(if mistral { 131_072 } else { 2048 });
        let (rope_theta, rope_scaling) = f.rope(max_position_embeddings)?;
        let sliding_window = match map.get("sliding_window") {
            _ if !mistral => None,
            None => Some(4096),
            Some(_) => f.optional_size("sliding_window")?,
        };
        let dtype = match f.text("torch_dtype")?.or(f.text("dtype")?) {
            None => None,
            Some(name) => dtype_from_name(&name),
        };
        let config = Self {
            hidden_size,
            intermediate_size: f.size("intermediate_size")?,
            num_hidden_layers: f.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: f.size("vocab_size")?,
            rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: f.flag("tie_word_embeddings")?,
            // MistralConfig knows neither bias.
            attention_bias: !mistral && f.flag("attention_bias")?,
            mlp_bias: !mistral && f.flag("mlp_bias")?,
            sliding_window,
            bos_token_id: f.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: f.tokens("eos_token_id")?,
            pad_token_id: f.tokens("pad_token_id")?.first().copied(),
            dtype,
            model_type,
            raw: Value::Null,
            raw_generation: None,
        };
        Ok(Self { raw, ..config })
    }

    /// Takes over what a `generation_config.json` says of the special tokens.
    ///
    /// # Errors
    /// A field of the wrong kind.
    pub fn set_generation(&mut self, raw: Value, path: &Path) -> Result<()> {
        let Value::Object(map) = &raw else { return Err(Error::format(path, "expected a JSON object")) };
        let f = Fields { map, path };
        let eos = f.tokens("eos_token_id")?;
        if !eos.is_empty() {
            self.eos_token_ids = eos;
        }
        self.bos_token_id = f.tokens("bos_token_id")?.first().copied().or(self.bos_token_id);
        self.pad_token_id = f.tokens("pad_token_id")?.first().copied().or(self.pad_token_id);
        self.raw_generation = Some(raw);
        Ok(())
    }
}

/// The candle dtype for torch's name of it; `None` for those that weights are not computed in.
pub fn dtype_from_name(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "f32" | "float" => Some(DType::F32),
        "bfloat16" | "bf16" => Some(DType::BF16),
        "float16" | "f16" | "half" => Some(DType::F16),
        _ => None,
    }
}

/// Reads a JSON file.
///
/// # Errors
/// Unreadable, or not JSON: the message gives line and column.
pub fn read_json(path: &Path) -> Result<Value> {
    parse_json(&read_text(path)?, path)
}

fn parse_json(text: &str, path: &Path) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("not valid JSON: {e}")))
}

/// Typed access to a JSON object's fields; null counts as absent.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, message: impl AsRef<str>) -> Error {
        Error::format(self.path, format!("field {key}: {}", message.as_ref()))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // A bound that no model reaches keeps products of two sizes within 64 bits.
        match value.as_u64().filter(|&n| n > 0 && n <= 1 << 31) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(self.wrong(key, format!("expected a whole number above 0, found {value}"))),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Ok(Some(x)),
            None => Err(self.wrong(key, format!("expected a number above 0, found {value}"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, format!("expected true or false, found {other}"))),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, format!("expected a string, found {other}"))),
        }
    }

    /// A token id or an array of them.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
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

    fn refuse_unsupported(&self) -> Result<()> {
        match self.text("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(self.wrong("hidden_act", format!("\"{other}\" is not supported, only \"silu\""))),
        }
        if self.get("quantization_config").is_some() {
            let message = "weights quantised by other tools are not supported; use the unquantised model or a GGUF file";
            return Err(self.wrong("quantization_config", message));
        }
        for (key, neutral) in [("partial_rotary_factor", 1.0), ("attention_dropout", 0.0)] {
            if let Some(value) = self.get(key)
                && value.as_f64() != Some(neutral)
            {
                return Err(self.wrong(key, format!("{value} is not supported, only {neutral:?}")));
            }
        }
        Ok(())
    }

    /// `rope_theta` and `rope_scaling` at the top, or transformers 5's `rope_parameters`, which has both.
    fn rope(&self, max_position_embeddings: usize) -> Result<(f64, RopeScaling)> {
        let top_theta = self.number("rope_theta")?;
        let (key, value) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(value), _) => ("rope_parameters", value),
            (None, Some(value)) => ("rope_scaling", value),
            (None, None) => return Ok((top_theta.unwrap_or(10_000.0), RopeScaling::Default)),
        };
        let Value::Object(map) = value else { return Err(self.wrong(key, format!("expected an object, found {value}"))) };
        let inner = Fields { map, path: self.path };
        let within = |error: Error| match error {
            Error::Format { path, message } => Error::Format { path, message: format!("in {key}: {message}") },
            other => other,
        };
        let read = || -> Result<(f64, RopeScaling)> {
            inner.refuse_unsupported()?;
            let needed = |name: &str| inner.number(name)?.ok_or_else(|| inner.wrong(name, "is missing"));
            let theta = inner.number("rope_theta")?.or(top_theta).unwrap_or(10_000.0);
            let kind = inner.text("rope_type")?.or(inner.text("type")?).unwrap_or_else(|| "default".into());
            let scaling = match kind.as_str() {
                "default" => RopeScaling::Default,
                "linear" => RopeScaling::Linear { factor: needed("factor")? },
                "llama3" => RopeScaling::Llama3 {
                    factor: needed("factor")?,
                    low_freq_factor: needed("low_freq_factor")?,
                    high_freq_factor: needed("high_freq_factor")?,
                    original_max_position_embeddings: inner
                        .number("original_max_position_embeddings")?
                        .unwrap_or(max_position_embeddings as f64),
                },
                other => {
                    let message = format!("\"{other}\" is not supported; supported are \"default\", \"linear\" and \"llama3\"");
                    return Err(inner.wrong("rope_type", message));
                }
            };
            Ok((theta, scaling))
        };
        read().map_err(within)
    }
}
