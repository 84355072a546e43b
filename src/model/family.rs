//! The families of models: how they are called, and how their parts are called in Hugging Face checkpoints.
//!
//! A family is a row here, a mapping of its configuration ([`super::config`]) and golden numbers; docs/families.md says how to add one.

/// A family of models, by the architecture that transformers has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3.3, SmolLM, SmolLM2, TinyLlama, and all that share the architecture.
    Llama,
    /// Mistral 7B and its kin.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// SmolLM3.
    SmolLm3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text.
    Gemma3,
    /// Phi-3, Phi-3.5 and Phi-4.
    Phi3,
    /// OLMo 2.
    Olmo2,
    /// Granite 3.
    Granite,
    /// GPT-2.
    Gpt2,
}

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A projection to queries.
    Query,
    /// To keys.
    Key,
    /// To values.
    Value,
    /// To all three, side by side.
    QueryKeyValue,
    /// From attention's output to the hidden size.
    Output,
    /// The norm of the queries.
    QueryNorm,
    /// The norm of the keys.
    KeyNorm,
    /// To the activated half of the inner size.
    Gate,
    /// To the half that it multiplies; to all of the inner size where nothing is multiplied.
    Up,
    /// To both halves, side by side.
    GateUp,
    /// From the inner size to the hidden size.
    Down,
    /// The norm before attention.
    InputNorm,
    /// The norm of what attention adds.
    AttentionNorm,
    /// The norm before the inner layers.
    InnerNorm,
    /// The norm of what the inner layers add.
    OutputNorm,
}

/// The names of a family's modules.
#[derive(Debug)]
pub struct Names {
    /// The first part of every name but the head's.
    pub base: &'static str,
    /// The embedding of tokens.
    pub embedding: &'static str,
    /// The embedding of positions, where there is one.
    pub positions: Option<&'static str>,
    /// The list of blocks.
    pub blocks: &'static str,
    /// A block's parts, in the order in which PyTorch lists their parameters.
    pub parts: &'static [(Part, &'static str)],
    /// The norm after the blocks.
    pub norm: &'static str,
}

/// What is fixed for a family.
#[derive(Debug)]
pub struct Traits {
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// transformers' class.
    pub architecture: &'static str,
    /// The modules' names.
    pub names: &'static Names,
    /// Whether weights are stored `[inputs, outputs]` (transformers' Conv1D).
    pub transposed: bool,
    /// The modules that are adapted where a configuration names none: those that PEFT takes, and what matches them in families that it
    /// has none for.
    pub lora_targets: &'static [&'static str],
}

use Part::*;

const fn llama_like(parts: &'static [(Part, &'static str)]) -> Names {
    let (base, embedding, blocks, norm) = ("model", "model.embed_tokens", "model.layers", "model.norm");
    Names { base, embedding, positions: None, blocks, parts, norm }
}

/// Projections of their own, with what comes after those of attention, and what comes last.
macro_rules! projections {
    ([$($after_attention:tt)*] $($last:tt)*) => {
        &[
            (Query, "self_attn.q_proj"),
            (Key, "self_attn.k_proj"),
            (Value, "self_attn.v_proj"),
            (Output, "self_attn.o_proj"),
            $($after_attention)*
            (Gate, "mlp.gate_proj"),
            (Up, "mlp.up_proj"),
            (Down, "mlp.down_proj"),
            $($last)*
        ]
    };
}

static LLAMA: Names = llama_like(projections!([](InputNorm, "input_layernorm"), (InnerNorm, "post_attention_layernorm"),));

static QWEN3: Names = llama_like(projections!(
    [(QueryNorm, "self_attn.q_norm"), (KeyNorm, "self_attn.k_norm"),](InputNorm, "input_layernorm"),
    (InnerNorm, "post_attention_layernorm"),
));

static GEMMA2: Names = llama_like(projections!(
    [](InputNorm, "input_layernorm"),
    (AttentionNorm, "post_attention_layernorm"),
    (InnerNorm, "pre_feedforward_layernorm"),
    (OutputNorm, "post_feedforward_layernorm"),
));

static GEMMA3: Names = llama_like(projections!(
    [(QueryNorm, "self_attn.q_norm"), (KeyNorm, "self_attn.k_norm"),](InputNorm, "input_layernorm"),
    (AttentionNorm, "post_attention_layernorm"),
    (InnerNorm, "pre_feedforward_layernorm"),
    (OutputNorm, "post_feedforward_layernorm"),
));

static PHI3: Names = llama_like(&[
    (Output, "self_attn.o_proj"),
    (QueryKeyValue, "self_attn.qkv_proj"),
    (GateUp, "mlp.gate_up_proj"),
    (Down, "mlp.down_proj"),
    (InputNorm, "input_layernorm"),
    (InnerNorm, "post_attention_layernorm"),
]);

static OLMO2: Names = llama_like(projections!(
    [(QueryNorm, "self_attn.q_norm"), (KeyNorm, "self_attn.k_norm"),](AttentionNorm, "post_attention_layernorm"),
    (OutputNorm, "post_feedforward_layernorm"),
));

static GPT2: Names = Names {
    base: "transformer",
    embedding: "transformer.wte",
    positions: Some("transformer.wpe"),
    blocks: "transformer.h",
    parts: &[
        (InputNorm, "ln_1"),
        (QueryKeyValue, "attn.c_attn"),
        (Output, "attn.c_proj"),
        (InnerNorm, "ln_2"),
        (Up, "mlp.c_fc"),
        (Down, "mlp.c_proj"),
    ],
    norm: "transformer.ln_f",
};

const QV: &[&str] = &["q_proj", "v_proj"];

const fn row(model_type: &'static str, architecture: &'static str, names: &'static Names) -> Traits {
    Traits { model_type, architecture, names, transposed: false, lora_targets: QV }
}

/// The traits, in the order of [`Family`].
static TABLE: [(Family, Traits); 12] = [
    (Family::Llama, row("llama", "LlamaForCausalLM", &LLAMA)),
    (Family::Mistral, row("mistral", "MistralForCausalLM", &LLAMA)),
    (Family::Qwen2, row("qwen2", "Qwen2ForCausalLM", &LLAMA)),
    (Family::Qwen3, row("qwen3", "Qwen3ForCausalLM", &QWEN3)),
    (Family::SmolLm3, row("smollm3", "SmolLM3ForCausalLM", &LLAMA)),
    (Family::Gemma, row("gemma", "GemmaForCausalLM", &LLAMA)),
    (Family::Gemma2, row("gemma2", "Gemma2ForCausalLM", &GEMMA2)),
    (Family::Gemma3, row("gemma3_text", "Gemma3ForCausalLM", &GEMMA3)),
    (Family::Phi3, Traits { lora_targets: &["qkv_proj"], ..row("phi3", "Phi3ForCausalLM", &PHI3) }),
    (Family::Olmo2, row("olmo2", "Olmo2ForCausalLM", &OLMO2)),
    (Family::Granite, row("granite", "GraniteForCausalLM", &LLAMA)),
    (Family::Gpt2, Traits { transposed: true, lora_targets: &["c_attn"], ..row("gpt2", "GPT2LMHeadModel", &GPT2) }),
];

impl Family {
    /// The family of a `model_type`.
    pub fn of_model_type(model_type: &str) -> Option<Self> {
        TABLE.iter().find(|(_, traits)| traits.model_type == model_type).map(|(family, _)| *family)
    }

    /// Every family, in the table's order.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(family, _)| *family)
    }

    /// Every `model_type` that there is a family for.
    pub fn model_types() -> Vec<&'static str> {
        TABLE.iter().map(|(_, traits)| traits.model_type).collect()
    }

    /// What is fixed for the family.
    pub fn traits(self) -> &'static Traits {
        &TABLE[self as usize].1
    }

    /// Whether a block has this part.
    pub fn has(self, part: Part) -> bool {
        self.name(part).is_some()
    }

    /// The name of a block's part.
    pub fn name(self, part: Part) -> Option<&'static str> {
        self.traits().names.parts.iter().find(|(p, _)| *p == part).map(|(_, name)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_families_order() {
        for (place, (family, traits)) in TABLE.iter().enumerate() {
            assert_eq!(*family as usize, place);
            assert_eq!(Family::of_model_type(traits.model_type), Some(*family));
            assert!(family.has(Part::Output) && family.has(Part::Down), "{family:?}");
            assert!(traits.names.embedding.starts_with(traits.names.base), "{family:?}");
        }
        assert_eq!(Family::Phi3.name(Part::QueryKeyValue), Some("self_attn.qkv_proj"));
    }
}
