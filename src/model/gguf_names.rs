//! llama.cpp's names of architectures and tensors (`gguf-py/gguf/constants.py`, `tensor_mapping.py`).

use super::family::{Family, Part};

/// `general.architecture` of a family's GGUF files. Mistral's are llama's.
pub(super) fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::SmolLm3 => "smollm3",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3",
        Family::Phi3 => "phi3",
        Family::Olmo2 => "olmo2",
        Family::Granite => "granite",
        Family::Gpt2 => "gpt2",
    }
}

/// The family of an architecture.
pub(super) fn family(name: &str) -> Option<Family> {
    Family::all().find(|family| architecture(*family) == name)
}

/// Every architecture that there is a family for.
pub(super) fn architectures() -> Vec<&'static str> {
    let mut all: Vec<_> = Family::all().map(architecture).collect();
    all.dedup();
    all
}

/// The name of a block's part.
fn part_name(part: Part) -> &'static str {
    match part {
        Part::Query => "attn_q",
        Part::Key => "attn_k",
        Part::Value => "attn_v",
        Part::QueryKeyValue => "attn_qkv",
        Part::Output => "attn_output",
        Part::QueryNorm => "attn_q_norm",
        Part::KeyNorm => "attn_k_norm",
        Part::Gate => "ffn_gate",
        Part::Up | Part::GateUp => "ffn_up",
        Part::Down => "ffn_down",
        Part::InputNorm => "attn_norm",
        Part::AttentionNorm => "post_attention_norm",
        Part::InnerNorm => "ffn_norm",
        Part::OutputNorm => "post_ffw_norm",
    }
}

/// A module's name in a GGUF file, and its Hugging Face name, of all but the blocks'.
fn outer(family: Family) -> Vec<(&'static str, &'static str)> {
    let names = family.traits().names;
    let positions = names.positions.map(|positions| ("position_embd", positions));
    let fixed = [("token_embd", names.embedding), ("output_norm", names.norm), ("output", "lm_head")];
    fixed.into_iter().chain(positions).collect()
}

/// Whether a tensor is no parameter of the language model: rotary factors, which the configuration is made of, and what sees images.
pub(super) fn is_no_parameter(name: &str) -> bool {
    let rotary = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];
    rotary.contains(&name) || name.starts_with("v.") || name.starts_with("mm.")
}

/// The Hugging Face name of a tensor in a GGUF file; `None` for those that are no parameters (`rope_freqs.weight`).
pub(super) fn hf_name(family: Family, name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    if let Some((_, hf)) = outer(family).into_iter().find(|(gguf, _)| *gguf == module) {
        return Some(format!("{hf}.{kind}"));
    }
    let (block, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let names = family.traits().names;
    let (_, part) = names.parts.iter().find(|(part, _)| part_name(*part) == module)?;
    Some(format!("{}.{block}.{part}.{kind}", names.blocks))
}

/// The name in a GGUF file of a tensor with this Hugging Face name.
pub(super) fn gguf_name(family: Family, name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    if let Some((gguf, _)) = outer(family).into_iter().find(|(_, hf)| *hf == module) {
        return Some(format!("{gguf}.{kind}"));
    }
    let names = family.traits().names;
    let (block, module) = module.strip_prefix(names.blocks)?.strip_prefix('.')?.split_once('.')?;
    let (part, _) = names.parts.iter().find(|(_, name)| *name == module)?;
    Some(format!("blk.{block}.{}.{kind}", part_name(*part)))
}

/// Whether llama.cpp keeps the rows of q and k in the order of interleaved rotary embeddings.
pub(super) fn is_permuted(family: Family, hf_name: &str) -> bool {
    let interleaved = matches!(family, Family::Llama | Family::Mistral | Family::SmolLm3 | Family::Granite);
    interleaved && (hf_name.contains(".q_proj.") || hf_name.contains(".k_proj."))
}

/// What llama.cpp has added to a tensor: Gemma's norms hold `1 + w` there.
pub(super) fn added(family: Family, hf_name: &str) -> f32 {
    let gemma = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
    if gemma && hf_name.ends_with("norm.weight") { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for family in Family::all() {
            let names = family.traits().names;
            let inner = names.parts.iter().map(|(_, part)| format!("{}.11.{part}.weight", names.blocks));
            for name in inner.chain([format!("{}.weight", names.embedding), "lm_head.weight".into()]) {
                let gguf = gguf_name(family, &name).unwrap();
                assert_eq!(hf_name(family, &gguf).as_ref(), Some(&name), "{family:?} {gguf}");
            }
        }
        assert_eq!(gguf_name(Family::Gpt2, "transformer.h.3.mlp.c_fc.bias").as_deref(), Some("blk.3.ffn_up.bias"));
        assert_eq!(hf_name(Family::Llama, "rope_freqs.weight"), None);
        assert_eq!(family("llama"), Some(Family::Llama));
    }
}
