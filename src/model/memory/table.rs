//! The memory of every kind of work and dtype side by side.

use super::outline::{adaptable, is_target};
use super::{Estimate, Outline, Plan, Trained, TrainingWork, Work, estimate};
use crate::error::{Error, Result};
use crate::machine::{available_memory, readable_size};
use crate::model::config::ModelConfig;
use crate::model::precision::Precision;
use crate::model::source::Source;
use crate::show::Table;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tokens at once of which the bytes can be counted in 64 bits for every model that there is.
const MOST_TOKENS: usize = 1 << 28;

/// What the table is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    /// Sequences that are computed at the same time. Default 1.
    pub batch_size: usize,
    /// Tokens of each; in generation the prompt's and the new ones. Default 512.
    pub max_length: usize,
    /// The rank of LoRA. Default 16.
    pub r: usize,
    /// The ends of the names of the projections that LoRA changes, or "all-linear". Default: those that PEFT takes for the family.
    pub target_modules: Vec<String>,
    /// The only dtype that is of interest: "f32", "bf16", "f16", "q8", "q4", or "auto" for the file's. Default: each.
    pub dtype: Option<String>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { batch_size: 1, max_length: 512, r: 16, target_modules: Vec::new(), dtype: None }
    }
}

impl MemoryOptions {
    /// Checks every option's range.
    ///
    /// # Errors
    /// Names the option, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("batch_size", self.batch_size), ("max_length", self.max_length), ("r", self.r)] {
            // Beyond this nothing is a question of memory any more.
            if !(1..=1 << 24).contains(&value) {
                return Err(Error::Argument(format!("{name} must be from 1 to {}, got {value}", 1 << 24)));
            }
        }
        let tokens = self.batch_size.saturating_mul(self.max_length);
        if tokens > MOST_TOKENS {
            let message = format!("batch_size times max_length must be at most {MOST_TOKENS}, got {tokens}");
            return Err(Error::Argument(message));
        }
        self.precision().map(|_| ())
    }

    fn precision(&self) -> Result<Option<Precision>> {
        let Some(name) = &self.dtype else { return Ok(None) };
        let wrong = || {
            Error::Argument(format!("dtype must be \"auto\", \"f32\", \"bf16\", \"f16\", \"q4\" or \"q8\", but it is \"{name}\""))
        };
        Precision::from_name(name).ok_or_else(wrong).map(Some)
    }
}

/// One kind of work in one dtype.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// "inference", "LoRA", "full, AdamW".
    pub work: String,
    /// "f32", "bf16", "q8", "q4".
    pub dtype: String,
    /// Whether only the blocks' inputs are kept.
    pub gradient_checkpointing: bool,
    /// Bytes at the peak.
    pub total: u64,
    /// Whether that is available; unknown where the system does not say.
    pub fits: Option<bool>,
    /// Bytes by what they are for.
    pub parts: Estimate,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryTable {
    /// Sequences that are computed at the same time.
    pub batch_size: usize,
    /// Tokens of each.
    pub max_length: usize,
    /// The rank of LoRA.
    pub rank: usize,
    /// Parameters of the base model; a tied head counts once.
    pub parameters: u64,
    /// Parameters of LoRA.
    pub lora_parameters: u64,
    /// Bytes that are available; unknown where the system does not say.
    pub available: Option<u64>,
    /// The rows.
    pub rows: Vec<MemoryRow>,
}

const PRECISIONS: [Precision; 4] =
    [Precision::Float(DType::F32), Precision::Float(DType::BF16), Precision::EightBit, Precision::FourBit];

/// Estimates every kind of work with a model that is not loaded.
///
/// # Errors
/// Options out of range, target modules that the model does not have, files with a dtype that weights are not computed in, or a
/// variable that says how much memory may be used and cannot be read.
pub fn memory_table(config: &ModelConfig, source: Option<&Source>, options: &MemoryOptions) -> Result<MemoryTable> {
    options.validate()?;
    check_targets(config, &options.target_modules)?;
    let precisions = options.precision()?.map_or(PRECISIONS.to_vec(), |precision| vec![precision]);
    let lora = Trained::Adapter { rank: options.r, targets: options.target_modules.clone() };
    let adamw = |checkpointing| Work::Training(TrainingWork { checkpointing, ..TrainingWork::default() });
    let sgd = Work::Training(TrainingWork { averages: 0.0, ..TrainingWork::default() });
    let kinds = [
        ("inference", &Trained::Nothing, Work::Generation, false),
        ("LoRA, AdamW", &lora, adamw(false), false),
        ("LoRA, AdamW", &lora, adamw(true), true),
        ("full, AdamW", &Trained::All, adamw(false), false),
        ("full, AdamW", &Trained::All, adamw(true), true),
        ("full, SGD", &Trained::All, sgd, false),
    ];
    let available = available_memory()?;
    let lengths = vec![options.max_length; options.batch_size];
    let mut rows = Vec::new();
    for (work, trained, plan, gradient_checkpointing) in kinds {
        for precision in &precisions {
            // Quantised weights stay as they are.
            if *trained == Trained::All && precision.blocks().is_some() {
                continue;
            }
            let outline = Outline::new(config, source, *precision, trained)?;
            let parts = estimate(&outline, &Plan { lengths: lengths.clone(), work: plan });
            let (total, fits) = (parts.total(), parts.fits(available));
            rows.push(MemoryRow {
                work: work.into(),
                dtype: precision.name().into(),
                gradient_checkpointing,
                total,
                fits,
                parts,
            });
        }
    }
    let outline = Outline::new(config, source, precisions[0], &lora)?;
    Ok(MemoryTable {
        batch_size: options.batch_size,
        max_length: options.max_length,
        rank: options.r,
        parameters: outline.count(),
        lora_parameters: outline.adapter_count(),
        available,
        rows,
    })
}

/// Refuses names of which the model has no projection: left out without a word they would make the adapter smaller than was asked for.
fn check_targets(config: &ModelConfig, targets: &[String]) -> Result<()> {
    let shapes = config.parameter_shapes();
    let modules: Vec<&str> = shapes.iter().filter_map(adaptable).collect();
    let missing = |target: &&String| !modules.iter().any(|module| is_target(module, target));
    let missing: Vec<String> = targets.iter().filter(missing).map(|name| format!("\"{name}\"")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut kinds: Vec<&str> = modules.iter().map(|module| module.rsplit('.').next().unwrap_or(module)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Err(Error::Argument(format!(
        "target_modules: {} {} no projection in this model's blocks; there are {} (or \"all-linear\")",
        missing.join(", "),
        if missing.len() == 1 { "matches" } else { "match" },
        kinds.join(", ")
    )))
}

impl MemoryTable {
    /// A row a kind of work and a column a dtype; of a single dtype the parts.
    pub fn table(&self) -> Table {
        let mut dtypes: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.work == "inference") {
            dtypes.push(&row.dtype);
        }
        let mut table = match dtypes.as_slice() {
            [_] => self.parts_table(),
            _ => self.dtype_table(&dtypes),
        };
        let shape = format!("{} of {} tokens", counted(self.batch_size), self.max_length);
        let only = if let [only] = dtypes.as_slice() { format!(" in {only}") } else { String::new() };
        table.title = format!("Peak memory{only}, {shape}, LoRA of rank {}", self.rank);
        table.note = match self.available {
            Some(available) => format!("✓ fits into the {} that are available, ✗ does not", readable_size(available)),
            None => String::new(),
        };
        table
    }

    fn dtype_table(&self, dtypes: &[&str]) -> Table {
        let mut table = Table::new(["work"].iter().chain(dtypes).copied());
        for first in self.rows.iter().filter(|row| row.dtype == dtypes[0]) {
            let same = |row: &&MemoryRow, dtype: &str| {
                row.work == first.work && row.gradient_checkpointing == first.gradient_checkpointing && row.dtype == dtype
            };
            let cell =
                |dtype: &&str| self.rows.iter().find(|row| same(row, dtype)).map_or(Value::from("–"), |row| row.shown().into());
            table.push([Value::from(first.label())].into_iter().chain(dtypes.iter().map(cell)).collect());
        }
        table
    }

    /// What each kind of work needs by what it is for, the largest first.
    fn parts_table(&self) -> Table {
        let mut table = Table::new(["work", "peak", "parts"]);
        for row in &self.rows {
            let mut parts = row.parts.parts();
            parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
            let parts: Vec<String> = parts.iter().map(|(name, bytes)| format!("{name} {}", readable_size(*bytes))).collect();
            table.push(vec![row.label().into(), row.shown().into(), parts.join(", ").into()]);
        }
        table
    }
}

impl MemoryRow {
    fn label(&self) -> String {
        let checkpointing = if self.gradient_checkpointing { ", checkpointing" } else { "" };
        format!("{}{checkpointing}", self.work)
    }

    fn shown(&self) -> String {
        let mark = match self.fits {
            Some(true) => " ✓",
            Some(false) => " ✗",
            None => "",
        };
        format!("{}{mark}", readable_size(self.total))
    }
}

fn counted(rows: usize) -> String {
    if rows == 1 { "1 sequence".into() } else { format!("{rows} sequences") }
}
