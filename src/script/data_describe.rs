//! `describe`: what a data set holds, and how it is shown.

use super::context::context;
use super::data_options::DescribeOptions;
use super::display::from_json;
use super::error::{IntoScript, ScriptResult};
use super::options::options as parse;
use super::result::number;
use crate::adapter::peft::grouped;
use crate::data::Dataset;
use crate::data::describe::describe as look;
use crate::model::Tokenizer;
use crate::script::registry::Registry;
use crate::show::{BarSeries, Block, Figure, Plot, Table};
use rhai::plugin::*;
use rhai::{Array, Map};
use serde_json::Value;

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<DescribeOptions>(&["describe"], &[]);
    engine.register_global_module(exported_module!(describe_functions).into());
}

fn described(
    call: &NativeCallContext,
    data: &Dataset,
    tokenizer: Option<&Tokenizer>,
    max_length: Option<usize>,
) -> ScriptResult<Map> {
    let tokenizer = tokenizer.map(|tokenizer| tokenizer as &dyn crate::data::TextTokenizer);
    let found = look(data, tokenizer, max_length, &context(call)?.control).script()?;
    let value = from_json(&serde_json::to_value(&found).unwrap_or_default());
    Ok(value.try_cast::<Map>().unwrap_or_default())
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod describe_functions {
    /// What a data set holds, as a map that is shown as a table with a histogram: `rows`, `formats` (rows of each), `columns`,
    /// `duplicates` (rows that are the same as an earlier one), `characters` and, with a tokenizer, `tokens`. Both have `min`, `median`,
    /// `mean`, `p95`, `max`, `total` and `histogram`; `tokens` also `target` (tokens that carry loss) and what `max_length` would cut:
    /// `truncated_rows`, `truncated_tokens`, `truncated_target`, and `without_target`, the rows that are left without a token to learn.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ prompt: "on the", completion: " hill" }, #{ prompt: "in the tall", completion: " hall" }]);
    /// let about = ds.describe(AutoTokenizer::from_pretrained("tiny-random"), #{ max_length: 6 });
    /// [about.rows, about.formats.prompt_completion, about.tokens.max, about.tokens.truncated_rows] // => [2, 2, 9, 1]
    /// ```
    #[rhai_fn(global, name = "describe", return_raw, pure)]
    pub fn describe_with(
        call: NativeCallContext,
        dataset: &mut Dataset,
        tokenizer: Tokenizer,
        options: Map,
    ) -> ScriptResult<Map> {
        let given: DescribeOptions = parse("describe", options)?;
        described(&call, dataset, Some(&tokenizer), given.max_length)
    }

    #[rhai_fn(global, name = "describe", return_raw, pure)]
    pub fn describe_tokens(call: NativeCallContext, dataset: &mut Dataset, tokenizer: Tokenizer) -> ScriptResult<Map> {
        described(&call, dataset, Some(&tokenizer), None)
    }

    #[rhai_fn(global, return_raw, pure)]
    pub fn describe(call: NativeCallContext, dataset: &mut Dataset) -> ScriptResult<Map> {
        described(&call, dataset, None, None)
    }
}

/// What `describe` gives, as blocks: a line, a table of the columns, the lengths, and their histogram.
pub(super) fn description(map: &Map) -> Option<Vec<Block>> {
    let rows = number(map, "rows")?;
    let (formats, duplicates) = (map.get("formats")?.read_lock::<Map>()?, number(map, "duplicates")?);
    let columns = map.get("columns")?.read_lock::<Map>()?;
    let counted = |count: f64| grouped(count as usize);
    let mut summary = vec![format!("{} rows", counted(rows))];
    match formats.len() {
        1 => summary.extend(formats.keys().map(|name| format!("format {name}"))),
        _ => summary.extend(formats.iter().map(|(name, rows)| format!("{rows} {name}"))),
    }
    summary.push(format!("{} duplicates", counted(duplicates)));
    let names: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
    let mut blocks = vec![Block::Text(summary.join(", ")), Block::Text(format!("columns: {}", names.join(", ")))];
    let mut table = Table::new(["a row's", "min", "median", "mean", "p95", "max", "total"]);
    for name in ["characters", "tokens"] {
        let Some(lengths) = map.get(name).and_then(|lengths| lengths.read_lock::<Map>()) else { continue };
        let cell = |key: &str| number(&lengths, key).map_or(Value::Null, |n| ((n * 10.0).round() / 10.0).into());
        let numbers = ["min", "median", "mean", "p95", "max", "total"].map(cell);
        table.push(std::iter::once(name.into()).chain(numbers).collect());
    }
    blocks.push(Block::Table(table));
    let tokens = map.get("tokens").and_then(|tokens| tokens.read_lock::<Map>());
    if let Some(tokens) = &tokens {
        let count = |key: &str| number(tokens, key).map_or_else(|| "?".to_string(), counted);
        let mut text = format!("{} of {} tokens are learned", count("target"), count("total"));
        if let Some(limit) = number(tokens, "max_length") {
            text += &format!(
                "; max_length {limit} cuts {} rows by {} tokens, {} of them to learn",
                count("truncated_rows"),
                count("truncated_tokens"),
                count("truncated_target")
            );
        }
        if number(tokens, "without_target").is_some_and(|rows| rows > 0.0) {
            text += &format!("; {} rows have no token to learn from", count("without_target"));
        }
        blocks.push(Block::Text(text));
    }
    let shown = if tokens.is_some() { "tokens" } else { "characters" };
    let lengths = map.get(shown)?.read_lock::<Map>()?;
    let bars = lengths.get("histogram")?.read_lock::<Array>()?;
    if bars.len() > 1 {
        blocks.push(Block::Figure(histogram(&bars, shown)));
    }
    Some(blocks)
}

fn histogram(bars: &[Dynamic], unit: &str) -> Figure {
    let (mut categories, mut values) = (Vec::new(), Vec::new());
    for bar in bars {
        let Some(bar) = bar.read_lock::<Map>() else { continue };
        let of = |key: &str| number(&bar, key).unwrap_or(0.0);
        categories.push(if of("from") == of("to") { of("from").to_string() } else { format!("{}-{}", of("from"), of("to")) });
        values.push(of("rows"));
    }
    let series = vec![BarSeries { name: String::new(), intervals: vec![None; values.len()], values }];
    let figure = Figure::new(Plot::Bars { categories, series });
    Figure { title: format!("rows by {unit}"), xlabel: "rows".into(), ..figure }
}
