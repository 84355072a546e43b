//! `tiny-random`: a llama with random weights, byte-level tokenizer and ChatML template, so that examples and tests of everything
//! that takes a model run at once and without a network. It answers nonsense.

use super::config::read_json;
use super::gguf_tokenizer::{AddedToken, PreTokenizer, byte_level_bpe};
use super::weights::save_safetensors;
use crate::error::Result;
use crate::files::write_text;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 64;
const LAYERS: usize = 2;
const KV_WIDTH: usize = 16;
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Pairs of tokens that are merged, in the vocabulary's spelling, in which Ġ is a space.
const MERGES: [&str; 41] = [
    "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "e n", "o r", "Ġ w", "Ġ c", "i s", "e s", "i t",
    "n d", "Ġ b", "o u", "Ġ f", "in g", "Ġ p", "a n", "a l", "Ġ o", "e d", "Ġa nd", "Ġt o", "Ġo f", "Ġ in", "Ġ d", "Ġ h", "Ġ m",
    "a r", "l l", "s t", "u s", "u r", "Ġ is", "o m",
];
const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Whether the folder holds the model as this version makes it.
pub(super) fn is_current(folder: &Path) -> bool {
    folder.join("model.safetensors").is_file()
        && folder.join("tokenizer.json").is_file()
        && read_json(&folder.join("config.json")).is_ok_and(|found| found == config())
}

/// Writes the model into a folder.
pub(super) fn write(folder: &Path) -> Result<()> {
    save_safetensors(&folder.join("model.safetensors"), &weights()?, &[])?;
    let json = |name: &str, value: &Value| write_text(&folder.join(name), &format!("{value:#}\n"));
    json("tokenizer.json", &tokenizer())?;
    json(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIALS[1], "eos_token": SPECIALS[2], "pad_token": SPECIALS[0],
            "unk_token": SPECIALS[0], "model_max_length": 2048,
        }),
    )?;
    write_text(&folder.join("chat_template.jinja"), TEMPLATE)?;
    json("generation_config.json", &json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0 }))?;
    json("config.json", &config())
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "dtype": "float32", "eos_token_id": 2, "head_dim": 8, "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE, "max_position_embeddings": 2048, "mlp_bias": false, "num_attention_heads": 4,
        "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" }, "tie_word_embeddings": true, "use_cache": true,
        "vocab_size": vocabulary().len(),
    })
}

fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = SPECIALS.map(String::from).to_vec();
    tokens.extend((0..=255).map(|byte| byte_token(byte).to_string()));
    for merge in MERGES {
        let token = merge.replace(' ', "");
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

/// GPT-2's spelling of a byte: itself where it is printable, else a character above 255 in the order of the bytes.
fn byte_token(byte: u8) -> char {
    let printable = |b: &u8| matches!(*b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(b)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

fn tokenizer() -> Value {
    let tokens = vocabulary();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let added: Vec<AddedToken> = SPECIALS
        .iter()
        .zip(0..)
        .map(|(content, id)| AddedToken { id, content: content.to_string(), special: true, rstrip: false })
        .collect();
    byte_level_bpe(&tokens, &MERGES, &added, PreTokenizer::Smollm, None, None).into_json()
}

fn weights() -> Result<Vec<(String, Tensor)>> {
    let mut normal = Normal(0x5EED);
    // Wider than a model's usual start, so that the best token is well ahead of the next and no rounding changes it.
    let mut matrix = |name: String, rows: usize, columns: usize| -> Result<(String, Tensor)> {
        let values: Vec<f32> = (0..rows * columns).map(|_| normal.next() * 0.2).collect();
        Ok((name, Tensor::from_vec(values, (rows, columns), &Device::Cpu)?))
    };
    let ones =
        |name: String| -> Result<(String, Tensor)> { Ok((name, Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu)?)) };
    let mut tensors =
        vec![matrix("model.embed_tokens.weight".into(), vocabulary().len(), HIDDEN)?, ones("model.norm.weight".into())?];
    for layer in 0..LAYERS {
        let shapes = [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV_WIDTH, HIDDEN),
            ("self_attn.v_proj", KV_WIDTH, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ];
        for (module, rows, columns) in shapes {
            tensors.push(matrix(format!("model.layers.{layer}.{module}.weight"), rows, columns)?);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(ones(format!("model.layers.{layer}.{norm}.weight"))?);
        }
    }
    Ok(tensors)
}

/// Normal numbers from a generator of its own (SplitMix64 and Box-Muller): this model must not change when the session's does.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f32 {
        let (a, b) = (1.0 - self.uniform(), self.uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}
