//! A model's `config.json`: the fields of every family, checked, with transformers' defaults.
//!
//! Whatever would change the numbers and is not supported is refused by name: a model that loads is computed right.
//! The file's JSON is kept, so that saving a model writes back what was read.

use super::config_fields::{Fields, RopeDefaults};
use super::config_known as known;
use super::family::{Family, Part};
pub use super::rope::{Rope, RopeScaling};
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::ops::gated::Activation;
use crate::ops::norm::NormKind;
use candle_core::DType;
use serde_json::Value;
use std::path::Path;

/// No model has more layers: what is made for each of them must not take all memory because a file is damaged.
const MOST_LAYERS: usize = 10_000;

/// What is known of a model's architecture before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, which says what parts a block has and how they are called.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
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
    /// What norms compute.
    pub norm: NormKind,
    /// Added to the mean square, or the variance, in norms.
    pub norm_eps: f64,
    /// The function inside the MLP.
    pub activation: Activation,
    /// The rotary embeddings that layers use; none where positions have an embedding of their own.
    pub ropes: Vec<Rope>,
    /// What differs from layer to layer.
    pub layers: Vec<LayerConfig>,
    /// The longest context.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v projections have biases.
    pub query_key_value_bias: bool,
    /// Whether attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether q and k norms take all heads together, not each by itself.
    pub norm_of_all_heads: bool,
    /// Bound on attention's scores.
    pub attention_softcap: Option<f64>,
    /// Bound on the logits.
    pub logit_softcap: Option<f64>,
    /// Factors that families have at several places; 1 where they have none.
    pub scales: Scales,
    /// Probabilities of dropout in training.
    pub dropout: Dropout,
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

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Which of the model's rotary embeddings; none: positions do not turn queries and keys.
    pub rope: Option<usize>,
    /// How many positions a query sees, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// Factor on attention's scores.
    pub attention_scale: f64,
}

/// Constant factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// On embedded tokens.
    pub embedding: f64,
    /// Whether that factor is rounded to the embedding's dtype first, as Gemma does.
    pub rounded: bool,
    /// On what attention and MLP add to the residual stream.
    pub residual: f64,
    /// On the logits.
    pub logits: f64,
}

/// Probabilities of dropout in training.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dropout {
    /// Of embedded tokens.
    pub embedding: f64,
    /// Of what attention and MLP add.
    pub residual: f64,
    /// Of attention's weights.
    pub attention: f64,
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
        let raw = known::text_model(raw);
        let Value::Object(map) = &raw else { return Err(Error::format(path, "expected a JSON object")) };
        let f = Fields { map, path };
        let supported = || Family::model_types().iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let family = match f.text("model_type")? {
            None => return Err(f.wrong("model_type", format!("is missing; supported are {}", supported()))),
            Some(name) => Family::of_model_type(&name)
                .ok_or_else(|| f.wrong("model_type", format!("\"{name}\" is not supported; supported are {}", supported())))?,
        };
        known::refuse_unknown(&f, family)?;
        let config = read(&f, family)?;
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

    /// `model_type` of config.json.
    pub fn model_type(&self) -> &'static str {
        self.family.traits().model_type
    }

    /// The token whose row of the embedding is not trained, `padding_idx` of transformers' `nn.Embedding`: `pad_token_id` of config.json,
    /// whatever generation_config.json says, or transformers' default for the family.
    pub fn embedding_padding(&self) -> Option<u32> {
        let default = match self.family {
            Family::Gpt2 => return None,
            Family::Gemma | Family::Gemma2 | Family::Gemma3 => Some(0),
            Family::Olmo2 => Some(1),
            Family::Phi3 => Some(32_000),
            Family::SmolLm3 => Some(128_004),
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Granite => None,
        };
        let given = self.raw.get("pad_token_id").map_or(default, Value::as_i64)?;
        let rows = self.vocab_size as i64;
        // PyTorch counts from the end as Python does: the -1 of old files is the last row.
        let row = if given < 0 { given + rows } else { given };
        u32::try_from(row).ok().filter(|_| row < rows)
    }

    /// The window of the layers that have one.
    pub fn sliding_window(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.window)
    }
}

/// Everything but the JSON itself.
fn read(f: &Fields<'_>, family: Family) -> Result<ModelConfig> {
    use Family::{Gemma, Gemma2, Gemma3, Gpt2, Granite, Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLm3};
    let gemma = matches!(family, Gemma | Gemma2 | Gemma3);
    // GPT-2's configuration has names of its own.
    let named = |name: &'static str, of_gpt2: &'static str| if family == Gpt2 { of_gpt2 } else { name };
    // Published Gemma 3 files leave out what equals these.
    let size = |name: &'static str, of_gpt2: &'static str, of_gemma3: usize| match f.optional_size(named(name, of_gpt2))? {
        None if family == Gemma3 => Ok(of_gemma3),
        None => f.size(named(name, of_gpt2)),
        Some(size) => Ok(size),
    };
    let hidden_size = size("hidden_size", "n_embd", 2304)?;
    let num_hidden_layers = size("num_hidden_layers", "n_layer", 26)?;
    if num_hidden_layers > MOST_LAYERS {
        let message = format!("expected at most {MOST_LAYERS}, found {num_hidden_layers}");
        return Err(f.wrong(named("num_hidden_layers", "n_layer"), message));
    }
    let num_attention_heads = size("num_attention_heads", "n_head", 8)?;
    let intermediate_size = match (family, f.optional_size(named("intermediate_size", "n_inner"))?) {
        (_, Some(size)) => size,
        (Gpt2, None) => 4 * hidden_size,
        (_, None) => f.size("intermediate_size")?,
    };
    let default_kv_heads = match family {
        // Null says as many as query heads; a file that says nothing means the family's default.
        _ if f.map.contains_key("num_key_value_heads") => num_attention_heads,
        Mistral => 8,
        Gemma => 16,
        Gemma2 | Gemma3 | SmolLm3 => 4,
        _ => num_attention_heads,
    };
    let num_key_value_heads = f.optional_size("num_key_value_heads")?.unwrap_or(default_kv_heads);
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let message = format!("{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}");
        return Err(f.wrong("num_key_value_heads", message));
    }
    let head_dim = match (f.optional_size("head_dim")?, family) {
        (Some(head_dim), _) => head_dim,
        (None, Gemma | Gemma2 | Gemma3) => 256,
        (None, Qwen3) => 128,
        (None, _) if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
        (None, _) => {
            return Err(f.wrong(
                named("hidden_size", "n_embd"),
                format!("{hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"),
            ));
        }
    };
    if family != Gpt2 && !head_dim.is_multiple_of(2) {
        return Err(f.wrong("head_dim", format!("{head_dim} is odd; rotary embeddings turn pairs")));
    }
    let default_context = match family {
        Mistral | Gemma3 => 131_072,
        Phi3 => 4096,
        Gemma | Gemma2 => 8192,
        Qwen2 | Qwen3 | SmolLm3 => 32_768,
        Gpt2 => 1024,
        Llama | Olmo2 | Granite => 2048,
    };
    let max_position_embeddings = f.optional_size(named("max_position_embeddings", "n_positions"))?.unwrap_or(default_context);
    let rope_theta = match family {
        SmolLm3 => 2e6,
        Gemma3 => 1e6,
        _ => 1e4,
    };
    let defaults = RopeDefaults { theta: rope_theta, head_dim, max_position_embeddings, phi3: family == Phi3 };
    let ropes = match family {
        Gpt2 => Vec::new(),
        Gemma3 => global_and_local_ropes(f, &defaults)?,
        _ => vec![f.rope(&defaults)?],
    };
    let attention_bias = f.flag("attention_bias")?;
    let layers = (0..num_hidden_layers).map(|_| LayerConfig {
        rope: (family != Gpt2).then_some(0),
        window: None,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
    });
    let mut config = ModelConfig {
        family,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: size("vocab_size", "vocab_size", 262_208)?,
        norm: match family {
            Gpt2 => NormKind::Layer,
            Gemma | Gemma2 | Gemma3 => NormKind::RmsPlusOne,
            _ => NormKind::Rms,
        },
        norm_eps: {
            let default = if matches!(family, Phi3 | Olmo2 | Gpt2) { 1e-5 } else { 1e-6 };
            f.number(named("rms_norm_eps", "layer_norm_epsilon"))?.unwrap_or(default)
        },
        activation: activation(f, family)?,
        ropes,
        layers: layers.collect(),
        max_position_embeddings,
        tie_word_embeddings: { f.optional_flag("tie_word_embeddings")?.unwrap_or(gemma || matches!(family, SmolLm3 | Gpt2)) },
        query_key_value_bias: matches!(family, Qwen2 | Gpt2) || (!matches!(family, Mistral | Phi3) && attention_bias),
        output_bias: family == Gpt2 || (!matches!(family, Mistral | Phi3 | Qwen2) && attention_bias),
        mlp_bias: family == Gpt2 || f.flag("mlp_bias")?,
        norm_of_all_heads: family == Olmo2,
        attention_softcap: softcap(f, "attn_logit_softcapping", family, 50.0)?,
        logit_softcap: softcap(f, "final_logit_softcapping", family, 30.0)?,
        scales: Scales {
            embedding: if gemma { (hidden_size as f64).sqrt() } else { f.number("embedding_multiplier")?.unwrap_or(1.0) },
            rounded: gemma,
            residual: f.number("residual_multiplier")?.unwrap_or(1.0),
            logits: 1.0 / f.number("logits_scaling")?.unwrap_or(1.0),
        },
        dropout: {
            let default = if family == Gpt2 { 0.1 } else { 0.0 };
            Dropout {
                // Phi-3's files have it, and no model drops by it.
                embedding: if family == Gpt2 { f.probability("embd_pdrop", default)? } else { 0.0 },
                residual: f.probability("resid_pdrop", default)?,
                attention: f.probability(named("attention_dropout", "attn_pdrop"), default)?,
            }
        },
        bos_token_id: f.tokens("bos_token_id")?.first().copied(),
        eos_token_ids: f.tokens("eos_token_id")?,
        pad_token_id: f.tokens("pad_token_id")?.first().copied(),
        dtype: f.dtype()?,
        raw: Value::Null,
        raw_generation: None,
    };
    set_layers(&mut config, f)?;
    Ok(config)
}

/// Fills in what differs from layer to layer.
fn set_layers(config: &mut ModelConfig, f: &Fields<'_>) -> Result<()> {
    let family = config.family;
    let count = config.num_hidden_layers;
    // Null is no window; a file that says nothing means the family's default.
    let window = || match f.map.contains_key("sliding_window") {
        true => f.optional_size("sliding_window"),
        false => Ok(if matches!(family, Family::Phi3 | Family::SmolLm3) { None } else { Some(4096) }),
    };
    let used = match family {
        Family::Mistral | Family::Phi3 | Family::Gemma2 | Family::Gemma3 => window()?,
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 if f.flag("use_sliding_window")? => window()?,
        _ => None,
    };
    if used.is_none() && matches!(family, Family::Gemma2 | Family::Gemma3) {
        return Err(f.wrong("sliding_window", "is null; this family's layers need a window"));
    }
    let without_rope = match family {
        Family::SmolLm3 => {
            let interval = f.optional_size("no_rope_layer_interval")?.unwrap_or(4);
            let flags = f.by_layer("no_rope_layers", count, "0 or 1", |v| v.as_u64().filter(|n| *n < 2))?;
            (0..count).map(|i| flags.as_ref().map_or((i + 1).is_multiple_of(interval), |flags| flags[i] == 0)).collect()
        }
        _ => vec![false; count],
    };
    let kinds = f.by_layer("layer_types", count, "\"full_attention\" or \"sliding_attention\"", |v| match v.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    })?;
    let pattern = f.optional_size("sliding_window_pattern")?.unwrap_or(6);
    let full_below = f.optional_count("max_window_layers")?.unwrap_or(28);
    let slides = |i: usize| match family {
        Family::Mistral | Family::Phi3 => true,
        _ if kinds.is_some() => kinds.as_ref().is_some_and(|kinds| kinds[i]),
        Family::Qwen2 | Family::Qwen3 => i >= full_below,
        Family::SmolLm3 => without_rope[i],
        Family::Gemma2 => !(i + 1).is_multiple_of(2),
        Family::Gemma3 => !(i + 1).is_multiple_of(pattern),
        _ => false,
    };
    let scale = match family {
        Family::Gemma2 | Family::Gemma3 => Some(f.number("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5)),
        Family::Granite => Some(f.number("attention_multiplier")?.unwrap_or(1.0)),
        Family::Gpt2 if !f.optional_flag("scale_attn_weights")?.unwrap_or(true) => Some(1.0),
        _ => None,
    };
    let by_depth = family == Family::Gpt2 && f.flag("scale_attn_by_inverse_layer_idx")?;
    for (i, layer) in config.layers.iter_mut().enumerate() {
        layer.window = used.filter(|_| slides(i));
        if without_rope[i] {
            layer.rope = None;
        } else if family == Family::Gemma3 && slides(i) {
            layer.rope = Some(1);
        }
        layer.attention_scale = scale.unwrap_or(layer.attention_scale) / if by_depth { (i + 1) as f64 } else { 1.0 };
    }
    for (i, (said, layer)) in kinds.iter().flatten().zip(&config.layers).enumerate() {
        let message = match (*said, layer.window) {
            (true, None) => format!("layer {i} is \"sliding_attention\", which this model has no window for"),
            (false, Some(window)) => {
                format!("layer {i} is \"full_attention\", but this family has the window of {window} in every layer")
            }
            _ => continue,
        };
        return Err(f.wrong("layer_types", message));
    }
    Ok(())
}

/// Gemma 3's two: of the layers that see all, and of those with a window.
fn global_and_local_ropes(f: &Fields<'_>, defaults: &RopeDefaults) -> Result<Vec<Rope>> {
    let local_defaults = RopeDefaults { theta: 1e4, ..*defaults };
    let local_theta = f.number("rope_local_base_freq")?;
    if let Some(Value::Object(both)) = f.get("rope_parameters")
        && (both.contains_key("full_attention") || both.contains_key("sliding_attention"))
    {
        let part = |key: &str, theta, defaults: &RopeDefaults| f.rope_at("rope_parameters", both.get(key), theta, defaults);
        let global = part("full_attention", f.number("rope_theta")?, defaults)?;
        f.refuse_other_scaling(&global, defaults)?;
        return Ok(vec![global, part("sliding_attention", local_theta, &local_defaults)?]);
    }
    Ok(vec![f.rope(defaults)?, f.rope_at("rope_parameters", None, local_theta, &local_defaults)?])
}

/// The function inside the MLP.
fn activation(f: &Fields<'_>, family: Family) -> Result<Activation> {
    let (key, default) = match family {
        Family::Gpt2 => ("activation_function", "gelu_new"),
        Family::Gemma2 | Family::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        Family::Gemma => ("hidden_act", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    let name = f.text(key)?;
    match name.as_deref().unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        // Gemma's first files say gelu and mean its approximation.
        "gelu" if family == Family::Gemma => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => {
            let known = "\"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\" and \"relu\"";
            Err(f.wrong(key, format!("\"{other}\" is not supported; supported are {known}")))
        }
    }
}

/// A soft cap; absent is Gemma 2's default, null is none.
fn softcap(f: &Fields<'_>, key: &str, family: Family, default: f64) -> Result<Option<f64>> {
    if family == Family::Gemma2 && !f.map.contains_key(key) {
        return Ok(Some(default));
    }
    f.number(key)
}

impl Family {
    /// Whether the MLP multiplies its activated half by another.
    pub fn gated(self) -> bool {
        self.has(Part::Gate) || self.has(Part::GateUp)
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
