//! Work that cannot fit is refused before it begins, with the arithmetic and with what would fit.

use super::{Estimate, Outline, Plan, Trained, TrainingWork, Work, estimate};
use crate::error::{Error, Result};
use crate::machine::{available_memory, checks_memory, readable_size};
use crate::model::precision::Precision;
use crate::model::source::Source;
use candle_core::{DType, Device};

/// How to do it all the same.
const ALL_THE_SAME: &str = "FTREPL_MEMORY_CHECK=off tries it all the same";

/// The dtypes that a model can be loaded in, the widest first.
const PRECISIONS: [(&str, Precision); 4] = [
    ("f32", Precision::Float(DType::F32)),
    ("bf16", Precision::Float(DType::BF16)),
    ("q8", Precision::EightBit),
    ("q4", Precision::FourBit),
];

/// Refuses to load weights that are more than the memory that the device has left, where that is known.
///
/// # Errors
/// They do not fit; the message says what each dtype needs. A variable that says how much may be used cannot be read.
pub fn check_load(name: &str, source: &Source, precision: Precision, device: &Device) -> Result<()> {
    if !checks_memory()? {
        return Ok(());
    }
    let available = if device.is_cpu() { available_memory()? } else { crate::device::memory(device).map(|(free, _)| free) };
    let Some(available) = available else { return Ok(()) };
    let weights =
        |precision| -> Result<u64> { Ok(Outline::new(source.config(), Some(source), precision, &Trained::Nothing)?.weights()) };
    let needed = weights(precision)?;
    if needed <= available {
        return Ok(());
    }
    let mut others = Vec::new();
    for (dtype, other) in PRECISIONS {
        let bytes = weights(other)?;
        if bytes < needed {
            others.push(format!("\"{dtype}\" needs {}", readable_size(bytes)));
        }
    }
    let held = match precision {
        Precision::Stored => String::new(),
        Precision::Float(dtype) => format!(" in {}", dtype.as_str()),
        Precision::FourBit => " in 4 bits".into(),
        Precision::EightBit => " in 8 bits".into(),
    };
    let smaller = if others.is_empty() { String::new() } else { format!("; dtype: {}", others.join(", ")) };
    Err(Error::Memory(format!(
        "model {name} needs {} for its weights{held}; {} are available{smaller}. {ALL_THE_SAME}",
        readable_size(needed),
        readable_size(available)
    )))
}

/// Refuses a training of a loaded model that takes more than the memory that is left.
///
/// # Errors
/// It does not fit; the message says what takes how much, and what lowers it. Otherwise as [`check_load`].
pub fn check_training(outline: &Outline<'_>, plan: &Plan) -> Result<()> {
    if !checks_memory()? {
        return Ok(());
    }
    let Some(available) = available_memory()? else { return Ok(()) };
    let estimated = estimate(outline, plan);
    let needed = estimated.beside_the_model();
    if needed <= available {
        return Ok(());
    }
    let model = ["program", "tokenizer", "weights", "adapter"];
    let mut parts = estimated.parts();
    parts.retain(|(name, _)| !model.contains(name));
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let parts: Vec<String> = parts.iter().map(|(name, bytes)| format!("{name} {}", readable_size(*bytes))).collect();
    let ways: Vec<String> =
        ways(outline, plan, needed).into_iter().map(|(way, bytes)| format!("{way}: {}", readable_size(bytes))).collect();
    let ways = if ways.is_empty() { String::new() } else { format!(". Less would be needed with {}", ways.join("; ")) };
    Err(Error::Memory(format!(
        "this training needs {} beside the model ({}); {} are available{ways}. {ALL_THE_SAME}",
        readable_size(needed),
        parts.join(", "),
        readable_size(available)
    )))
}

/// What lowers the need, each by itself.
fn ways(outline: &Outline<'_>, plan: &Plan, needed: u64) -> Vec<(String, u64)> {
    let Work::Training(work) = plan.work else { return Vec::new() };
    let of = |outline: &Outline<'_>, plan: &Plan| estimate(outline, plan).beside_the_model();
    let mut ways = Vec::new();
    if !work.checkpointing {
        let work = Work::Training(TrainingWork { checkpointing: true, ..work });
        ways.push(("gradient_checkpointing: true".to_string(), of(outline, &Plan { work, ..plan.clone() })));
    }
    let longest = plan.lengths.iter().copied().max().unwrap_or(0);
    if plan.lengths.len() > 1 {
        ways.push(("per_device_train_batch_size: 1".into(), of(outline, &Plan { lengths: vec![longest], ..plan.clone() })));
    }
    if longest > 1 {
        let half = longest / 2;
        let lengths = plan.lengths.iter().map(|length| half.min(*length)).collect();
        ways.push((format!("max_length: {half}"), of(outline, &Plan { lengths, ..plan.clone() })));
    }
    if outline.adapters.is_empty()
        && let Ok(lora) = with_adapter(outline)
    {
        let bytes = of(&lora, plan) + estimate(&lora, plan).adapter;
        ways.push(("LoRA, on a model that may be loaded with dtype \"q4\"".into(), bytes));
    }
    ways.retain(|(_, bytes)| *bytes < needed);
    ways
}

/// The same model with an adapter of rank 16 instead of all weights trained.
fn with_adapter<'a>(outline: &Outline<'a>) -> Result<Outline<'a>> {
    let trained = Trained::Adapter { rank: 16, targets: Vec::new() };
    Outline::new(outline.config, None, Precision::Float(DType::F32), &trained)
}

impl Estimate {
    /// Whether it fits into so many bytes; unknown where these are.
    pub fn fits(&self, available: Option<u64>) -> Option<bool> {
        available.map(|available| self.total() <= available)
    }
}
