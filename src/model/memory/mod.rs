//! How much memory a model needs, known before anything is loaded: the peak of the process for a kind of work.
//!
//! With `T` tokens at once (rows times length; nothing is padded), `H` hidden, `I` inner, `V` vocabulary, `Q` and `K` the widths of
//! queries and keys, `L` blocks, and 4 bytes a float (activations, gradients and what an optimiser keeps are f32 on the CPU):
//!
//! - weights: what they are held in, 4, 2 or, quantised, 0.56 bytes (Q4_0) and 1.06 (Q8_0) a parameter
//! - activations kept by a block for its backward pass: `4 T (H + 2 Q + 2 K + heads + H + I [+ I gated])`; a norm of queries, keys or of
//!   what is added keeps its input besides (see `ops/block`)
//! - a block's own buffers in its backward pass: `4 T (3 I [+ I gated + ..] + 4 H + Q)`; they go with the block
//! - gradients: 4 bytes a trained parameter, or up to 128 tokens the factors of the product, `4 T (rows + columns)`
//! - AdamW's averages: 8 bytes a trained parameter; SGD has none; an exact copy of trained bf16 and f16 weights: 4
//! - Muon's update of a matrix, when the passes are over: `8 (rows columns + side^2)` of the largest, its shorter side squared
//! - logits: `4 V` for as many tokens at once as 64 MiB hold, in training; for every sequence's last token, twice, in generation
//! - keys and values of a generation: `8 K L` a token
//!
//! Gradients take the memory that activations leave, so that the peak has the larger of two sums: at the head all activations, the
//! logits and the head's gradient; at the first block all gradients and that block. With `gradient_checkpointing` only the blocks'
//! inputs are kept, `4 T H` each, and one block's activations.

mod check;
mod outline;
mod table;

pub use check::{check_load, check_training};
pub use outline::{Outline, OutlinedAdapter, OutlinedParameter, Stored, Trained};
pub use table::{MemoryOptions, MemoryRow, MemoryTable, memory_table};

use super::config::ModelConfig;
use super::family::Part;
use super::shapes::Place;
use crate::autograd::MOST_FACTORED_TOKENS;
use crate::ops::cross_entropy::CHUNK_ELEMENTS;
use serde::{Deserialize, Serialize};

/// Bytes of a float.
const FLOAT: u64 = 4;

/// What the program itself takes: its code in use, the script engine, threads, and what reading files leaves behind.
const PROGRAM: u64 = 25_000_000;

/// Tensors `[tokens, hidden]` around the blocks, forward and backward: embedded, its copy, normed, the gradients by these.
const STREAMS: u64 = 8;

/// More bytes than any machine has for one block. What a composition of operations keeps grows with the square of the length; it
/// is counted up to here, and sums over all blocks stay within 64 bits.
const MOST_COMPOSED: u64 = 1 << 48;

/// Of freed buffers that wait for a use, what is lost to sizes that do not fit: one part in so many.
const LOST: u64 = 8;

/// What is done with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The tokens of each sequence that is computed at the same time.
    pub lengths: Vec<usize>,
    /// What is done with them.
    pub work: Work,
}

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// Continuing texts.
    Generation,
    /// Training.
    Training(TrainingWork),
}

/// What a training does; with AdamW and nothing else unless said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingWork {
    /// Floats that the optimiser keeps for each trained element, on average: 2 for AdamW.
    pub averages: f64,
    /// Whether only blocks' inputs are kept.
    pub checkpointing: bool,
    /// Whether gradients of several batches are added up before a step.
    pub accumulates: bool,
    /// Whether the adapter drops inputs.
    pub adapter_dropout: bool,
    /// Whether the optimiser makes the updates of matrices orthogonal, as Muon does.
    pub orthogonalises: bool,
}

impl Default for TrainingWork {
    fn default() -> Self {
        Self { averages: 2.0, checkpointing: false, accumulates: false, adapter_dropout: false, orthogonalises: false }
    }
}

/// Bytes at the moment of the peak, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The program itself.
    pub program: u64,
    /// The tokenizer.
    pub tokenizer: u64,
    /// The base model's weights.
    pub weights: u64,
    /// The adapter's weights.
    pub adapter: u64,
    /// Exact copies of trained half floats.
    pub master_copies: u64,
    /// What the optimiser keeps.
    pub optimizer: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// What forward passes keep for backward ones.
    pub activations: u64,
    /// Scores of the next token.
    pub logits: u64,
    /// Keys and values of a generation.
    pub kv_cache: u64,
    /// What is needed for a moment: a block's own matrices, attention's scores, packed operands, memory between two uses.
    pub buffers: u64,
}

impl Estimate {
    /// Names and bytes of the parts that are there.
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("program", self.program),
            ("tokenizer", self.tokenizer),
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("master copies", self.master_copies),
            ("optimizer", self.optimizer),
            ("gradients", self.gradients),
            ("activations", self.activations),
            ("logits", self.logits),
            ("kv cache", self.kv_cache),
            ("buffers", self.buffers),
        ];
        all.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// All together: the peak.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// What comes on top of a loaded model with its adapter.
    pub fn beside_the_model(&self) -> u64 {
        self.total() - self.program - self.tokenizer - self.weights - self.adapter
    }
}

/// Floats a token.
struct Widths {
    hidden: u64,
    queries: u64,
    keys: u64,
    gate: u64,
    up: u64,
    /// Kept by a block for its backward pass.
    kept: u64,
    /// Of a block's own in its backward pass.
    backward: u64,
    /// Of a block's own in its forward pass.
    forward: u64,
}

impl Widths {
    fn new(c: &ModelConfig) -> Self {
        let (hidden, heads) = (c.hidden_size as u64, c.num_attention_heads as u64);
        let (queries, keys) = (heads * c.head_dim as u64, (c.num_key_value_heads * c.head_dim) as u64);
        let gate = c.intermediate_size as u64;
        let up = if c.family.gated() { gate } else { 0 };
        let if_has = |part: Part, width: u64| if c.family.has(part) { width } else { 0 };
        // Input, queries, keys, values, attention's output and its log-sum-exps, the middle, both halves; inputs of norms.
        let raw = if_has(Part::QueryNorm, queries) + if_has(Part::KeyNorm, keys);
        let raw_added = if_has(Part::AttentionNorm, hidden) + if_has(Part::OutputNorm, hidden);
        let kept = 2 * hidden + 2 * queries + 2 * keys + heads + gate + up + raw + raw_added;
        let scaled = if c.scales.residual != 1.0 && raw_added == 0 { 2 * hidden } else { raw_added };
        let joint = if_has(Part::GateUp, gate + up);
        let backward = 3 * gate + up + joint + 4 * hidden + queries + scaled;
        let forward = gate + joint + hidden;
        Self { hidden, queries, keys, gate, up, kept, backward, forward }
    }
}

/// The peak of the process.
pub fn estimate(outline: &Outline<'_>, plan: &Plan) -> Estimate {
    let base = Estimate {
        program: PROGRAM,
        tokenizer: outline.tokenizer,
        weights: outline.weights(),
        adapter: FLOAT * outline.adapter_count(),
        ..Estimate::default()
    };
    match plan.work {
        Work::Generation => generation(outline, plan, base),
        Work::Training(work) => training(outline, plan, work, base),
    }
}

fn generation(outline: &Outline<'_>, plan: &Plan, base: Estimate) -> Estimate {
    let (c, w) = (outline.config, Widths::new(outline.config));
    let tokens: u64 = plan.lengths.iter().map(|n| *n as u64).sum();
    let longest = plan.lengths.iter().copied().max().unwrap_or(0);
    // The prompts, which are all computed at once, are at most all tokens; usually half is new.
    let prompts = tokens.div_ceil(2);
    Estimate {
        kv_cache: 2 * FLOAT * w.keys * c.num_hidden_layers as u64 * tokens,
        logits: 2 * FLOAT * (c.vocab_size * plan.lengths.len()) as u64,
        activations: FLOAT * prompts * w.kept,
        buffers: FLOAT * prompts * w.forward + scratch(c, longest),
        ..base
    }
}

fn training(outline: &Outline<'_>, plan: &Plan, work: TrainingWork, base: Estimate) -> Estimate {
    let TrainingWork { averages, checkpointing, accumulates, adapter_dropout, orthogonalises } = work;
    let (c, w) = (outline.config, Widths::new(outline.config));
    let tokens: u64 = plan.lengths.iter().map(|n| *n as u64).sum();
    let longest = plan.lengths.iter().copied().max().unwrap_or(0);

    let trained = || outline.parameters.iter().filter(|parameter| parameter.trains);
    let adapter = outline.adapter_count();
    let halves: u64 = trained().filter(|parameter| parameter.half).map(OutlinedParameter::elements).sum();
    let elements: u64 = trained().map(OutlinedParameter::elements).sum::<u64>() + adapter;
    let gradient = |parameter: &OutlinedParameter| match parameter.place {
        Place::Embedding if c.tie_word_embeddings => gradient_size(&parameter.dims, 2 * tokens, tokens),
        _ => gradient_size(&parameter.dims, tokens, tokens),
    };
    let all_gradients = trained().map(gradient).sum::<u64>() + FLOAT * adapter;
    let of_head = |parameter: &&OutlinedParameter| match parameter.place {
        Place::Head => true,
        Place::Embedding => c.tie_word_embeddings,
        _ => false,
    };
    let head_gradient: u64 = trained().filter(of_head).map(gradient).sum();

    // Blocks before the first that trains keep nothing, unless what comes before them trains.
    let before_blocks = |p: &OutlinedParameter| matches!(p.place, Place::Embedding | Place::Positions);
    let in_blocks = trained().filter_map(|parameter| match parameter.place {
        Place::Block(block, _) => Some(block),
        _ => None,
    });
    let first = match trained().any(before_blocks) {
        true => Some(0),
        false => in_blocks.chain(outline.adapters.iter().filter_map(|adapter| adapter.block)).min(),
    };
    let blocks = first.map_or(0, |first| c.num_hidden_layers - first) as u64;
    let mut of_adapters = 0;
    for adapter in outline.adapters.iter().filter(|adapter| adapter.block.is_some()) {
        of_adapters += adapter.rank as u64 + if adapter_dropout { adapter.inputs as u64 } else { 0 };
    }
    let per_block = of_adapters.div_ceil(c.num_hidden_layers.max(1) as u64);
    // Of what operations made, a composition keeps the gradients too until the block is done.
    let composed = FLOAT.saturating_mul(composed(c, &w, &plan.lengths)).min(MOST_COMPOSED);
    let block = FLOAT * tokens * (w.kept + per_block) + composed;
    let working = FLOAT * tokens * (w.backward + per_block) + composed;
    let streams = STREAMS * FLOAT * tokens * w.hidden;
    let (kept, one_block) = match checkpointing {
        true => (FLOAT * tokens * w.hidden * (c.num_hidden_layers as u64 + 2), block + working),
        false => (blocks * block, working),
    };

    let vocabulary = c.vocab_size as u64;
    let at_once = match outline.adapters.iter().any(|adapter| adapter.block.is_none()) {
        // The head's adapter changes the logits, so that they all exist, and what cross-entropy makes of them.
        true => 6 * tokens,
        false => tokens.div_ceil(tokens.div_ceil((CHUNK_ELEMENTS as u64 / vocabulary).max(1)).max(1)),
    };
    let logits = FLOAT * at_once * (vocabulary + 2 * w.hidden);

    // Gradients of earlier batches are there all the time.
    let early = if accumulates { all_gradients } else { head_gradient };
    let at_head = kept + logits + early;
    let at_block = if accumulates { kept + all_gradients + one_block } else { all_gradients.max(kept) + one_block };
    let step = if orthogonalises { orthogonalisation(outline) } else { 0 };
    let (activations, gradients, logits, working) = match at_head > at_block {
        _ if all_gradients + step > at_head.max(at_block) => (0, all_gradients, 0, step),
        true => (kept, early, logits, 0),
        false if accumulates => (kept, all_gradients, 0, one_block),
        // What activations leave is used for gradients.
        false => (kept.saturating_sub(all_gradients), all_gradients, 0, one_block),
    };
    let pool = activations + gradients + logits + working;
    Estimate {
        optimizer: (averages * (FLOAT * elements) as f64).round() as u64,
        master_copies: FLOAT * halves,
        gradients,
        activations,
        logits,
        buffers: working + streams + scratch(c, longest) + pool / LOST,
        ..base
    }
}

/// The bytes of a gradient that so many tokens add to: of the factors, where `ops` keeps those (see `autograd/gradient`).
fn gradient_size(dims: &[usize], tokens: u64, factored: u64) -> u64 {
    let elements: u64 = dims.iter().map(|n| *n as u64).product();
    match *dims {
        [rows, columns] if tokens <= MOST_FACTORED_TOKENS as u64 => {
            let factors = tokens * (rows + columns) as u64;
            if elements < 2 * factors { FLOAT * elements } else { FLOAT * factored * (rows + columns) as u64 }
        }
        _ => FLOAT * elements,
    }
}

/// The bytes that Muon works in while it updates the largest matrix that it makes orthogonal (see `optim/muon`): two of the matrix's
/// size and two of its shorter side's square.
fn orthogonalisation(outline: &Outline<'_>) -> u64 {
    let in_blocks = outline.parameters.iter().filter(|p| p.trains && matches!(p.place, Place::Block(..)));
    let matrices = in_blocks.filter_map(|parameter| match parameter.dims.as_slice() {
        [rows, columns] => Some((*rows, *columns)),
        _ => None,
    });
    let adapters = outline.adapters.iter().filter(|adapter| adapter.block.is_some());
    let of_adapters = adapters.flat_map(|adapter| [(adapter.rank, adapter.inputs), (adapter.outputs, adapter.rank)]);
    let size = |(rows, columns): (usize, usize)| 2 * FLOAT * (rows * columns + rows.min(columns).pow(2)) as u64;
    matrices.chain(of_adapters).map(size).max().unwrap_or(0)
}

/// What a block keeps beyond the usual, in floats, where the base model drops something in training and is therefore computed as a
/// composition of operations: attention's scores and weights, and as much again of everything else.
fn composed(c: &ModelConfig, w: &Widths, lengths: &[usize]) -> u64 {
    if c.dropout.residual == 0.0 && c.dropout.attention == 0.0 {
        return 0;
    }
    let pairs: u64 = lengths.iter().map(|n| (n * n) as u64).sum();
    let tokens: u64 = lengths.iter().map(|n| *n as u64).sum();
    let scores = (8 * c.num_attention_heads as u64).saturating_mul(pairs);
    scores.saturating_add(tokens * (w.kept + w.backward + w.queries + w.gate + w.up))
}

/// Scores of attention for a block of queries and rows of weights that are widened or packed, for every thread.
fn scratch(c: &ModelConfig, longest: usize) -> u64 {
    const QUERIES: usize = 64;
    const ROWS: usize = 256;
    let widest = c.hidden_size.max(c.intermediate_size);
    FLOAT * (rayon::current_num_threads() * (2 * QUERIES * longest + ROWS * widest)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::precision::Precision;
    use candle_core::DType;
    use std::path::Path;

    #[test]
    fn what_muon_works_in_counts_where_the_passes_need_less() {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8,
            "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(config, Path::new("config.json")).unwrap();
        let needed = |trained: &Trained, tokens, orthogonalises| {
            let outline = Outline::new(&config, None, Precision::Float(DType::F32), trained).unwrap();
            let work = TrainingWork { averages: 1.0, orthogonalises, ..TrainingWork::default() };
            estimate(&outline, &Plan { lengths: vec![tokens], work: Work::Training(work) })
        };
        let all = Trained::All;
        let (plain, muon) = (needed(&all, 8, false), needed(&all, 8, true));
        // Two of 1536 x 512 and two of 512 x 512, where a block's backward pass takes 0.3 MB.
        assert!((8_000_000..11_000_000).contains(&(muon.total() - plain.total())), "{plain:?} {muon:?}");
        assert_eq!((plain.optimizer, plain.weights), (muon.optimizer, muon.weights));
        assert_eq!(needed(&all, 2048, true), needed(&all, 2048, false), "the passes need more");
        let adapter = Trained::Adapter { rank: 8, targets: vec!["q_proj".into()] };
        let difference = needed(&adapter, 1, true).total() - needed(&adapter, 1, false).total();
        assert!(difference < 100_000, "two of 512 x 8 are {difference}");
    }
}
