//! What a result looks like where a person reads it: rows as tables, a training run with its loss curve, a comparison with its
//! verdict in front, a model as a tree. Anything else is shown as `print` shows it.

use super::convert::to_number;
use super::display::{MOST_VALUES, brief, json};
use super::model::ModelValue;
use super::model_tree::tree;
use super::module::ModuleValue;
use super::show_values::{TableOptions, history_of, learning_rate_of, table_of_dataset};
use super::tensor::TensorValue;
use crate::adapter::peft::grouped;
use crate::data::Dataset;
use crate::eval::statistics::wilson_interval;
use crate::nn::Parameter;
use crate::show::{BarSeries, Block, Figure, Plot, Table, Tone};
use rhai::{Array, Dynamic, Map};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

/// Rows that a table shows unless more are asked for.
const MOST_ROWS: usize = 20;
/// Longest text of a cell that holds something nested.
const LONGEST_CELL: usize = 160;

/// A result's blocks, or nothing where its plain text is the best face.
pub fn blocks(value: &Dynamic) -> Option<Vec<Block>> {
    if let Some(model) = value.read_lock::<ModelValue>() {
        return Some(vec![Block::Preformatted(tree(model.model().name(), &model.named_parameters()))]);
    }
    if let Some(module) = value.read_lock::<ModuleValue>() {
        let parameters = module.named_parameters();
        let text = module.to_string();
        return (!parameters.is_empty()).then(|| vec![Block::Preformatted(tree(&text, &parameters))]);
    }
    if let Some(table) = value.read_lock::<Table>() {
        return Some(vec![Block::Table(table.clone())]);
    }
    if let Some(figure) = value.read_lock::<Figure>() {
        return Some(vec![Block::Figure(figure.clone())]);
    }
    if let Some(map) = value.read_lock::<Map>() {
        let known = known(&map);
        if known.is_some() {
            return known;
        }
    }
    tabular(value, MOST_ROWS).map(|table| vec![Block::Table(table)])
}

/// What one of the language's functions gave, by what it holds: a training, a comparison, an evaluation, a checklist,
/// a description of a data set.
pub fn known(map: &Map) -> Option<Vec<Block>> {
    let measured = || evaluation(map).or_else(|| checklist(map)).or_else(|| super::data_describe::description(map));
    training(map).or_else(|| comparison(map)).or_else(|| super::model_info::blocks(map)).or_else(measured)
}

/// A value as a table with at most so many rows: records, a data set, a map with more than one key.
pub fn tabular(value: &Dynamic, rows: usize) -> Option<Table> {
    if let Some(table) = value.read_lock::<Table>() {
        return Some(table.clone());
    }
    if let Some(data) = value.read_lock::<Dataset>() {
        return Some(table_of_dataset(&data, TableOptions { max_rows: Some(rows), ..TableOptions::default() }));
    }
    if let Some(items) = value.read_lock::<Array>() {
        return records(&items, rows);
    }
    let map = value.read_lock::<Map>()?;
    if map.len() < 2 {
        return None;
    }
    let mut table = Table::new(["", "value"]);
    if map.values().all(|value| value.is_map()) {
        let named = map.iter().map(|(name, inner)| {
            let mut row = Map::from([("".into(), name.to_string().into())]);
            row.extend(inner.read_lock::<Map>().map(|inner| inner.clone()).unwrap_or_default());
            Dynamic::from_map(row)
        });
        return records(&named.collect::<Array>(), rows);
    }
    // As of any long list, the first and the last.
    let left = if rows < map.len() && map.len() > MOST_VALUES { map.len().saturating_sub(2 * (rows / 2)) } else { 0 };
    for (i, (name, value)) in map.iter().enumerate() {
        if left == 0 || i < rows / 2 || i >= map.len() - rows / 2 {
            table.push(vec![Value::String(name.to_string()), cell(value)]);
        } else if i == rows / 2 {
            table.push(vec![Value::String("...".into()), Value::String(format!("{left} more"))]);
            table.note = format!("{} of {} keys", map.len() - left, map.len());
        }
    }
    Some(table)
}

/// The table of an array of maps.
fn records(items: &[Dynamic], rows: usize) -> Option<Table> {
    if items.is_empty() || !items.iter().all(|item| item.is_map()) {
        return None;
    }
    let row = |item: &Dynamic| -> serde_json::Map<String, Value> {
        let map = item.read_lock::<Map>();
        map.iter().flat_map(|map| map.iter()).map(|(key, value)| (key.to_string(), cell(value))).collect()
    };
    let shown: Vec<_> = items.iter().take(rows).map(row).collect();
    let note = if shown.len() < items.len() { format!("{} of {} rows", shown.len(), items.len()) } else { String::new() };
    let mut table = Table::from_records(&shown, None).in_reading_order();
    // What a record is called comes first.
    if let Some(at) = table.columns.iter().position(String::is_empty) {
        table.columns.swap(0, at);
        table.rows.iter_mut().for_each(|row| row.swap(0, at));
    }
    table.note = note;
    Some(table)
}

/// A value in a cell: numbers stay numbers, what is nested is cut short.
fn cell(value: &Dynamic) -> Value {
    if value.is_unit() {
        return Value::Null;
    }
    if to_number(value).is_some() || value.is_bool() || value.is_string() {
        return json(value);
    }
    let text = brief(value).replace('\n', " ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Value::String(crate::show::shorten(&text, LONGEST_CELL))
}

pub(super) fn number(map: &Map, key: &str) -> Option<f64> {
    map.get(key).and_then(to_number)
}

/// What `trainer.train()` gives: a line of numbers and the loss curve.
fn training(map: &Map) -> Option<Vec<Block>> {
    let (loss, steps) = (number(map, "train_loss")?, number(map, "steps")?);
    let mut facts = vec![format!("train_loss {loss:.4}"), format!("{steps} steps")];
    if let (Some(tokens), Some(seconds)) = (number(map, "tokens"), number(map, "seconds")) {
        facts.push(format!("{} tokens in {seconds:.1} s", grouped(tokens as usize)));
    }
    if let Some(speed) = number(map, "tokens_per_second") {
        facts.push(format!("{speed:.0} tokens/s"));
    }
    let mut blocks = vec![Block::Text(facts.join(", "))];
    let lines = history_of(map, None).unwrap_or_default();
    if lines.iter().any(|line| line.y.len() > 1) {
        let figure = Figure::new(Plot::Lines(lines));
        let figure = Figure { xlabel: "optimiser step".into(), ylabel: "loss [nats per token]".into(), ..figure };
        blocks.push(Block::Figure(match learning_rate_of(map) {
            Some(rate) => figure.above(rate),
            None => figure,
        }));
    }
    Some(blocks)
}

/// What `compare_forgetting` gives: the verdict, how sure it is, and the drop by category.
fn comparison(map: &Map) -> Option<Vec<Block>> {
    let forgot = map.get("catastrophic_forgetting_detected")?.as_bool().ok()?;
    let drop = number(map, "accuracy_drop")?;
    let share = |key: &str| number(map, key).map_or("?".into(), |share| format!("{:.1} %", share * 100.0));
    let mut sure = String::new();
    if let (Some(low), Some(high)) = (number(map, "ci_low"), number(map, "ci_high")) {
        sure = format!(", 95 % interval {:.1} to {:.1}", low * 100.0, high * 100.0);
    }
    if let Some(p) = number(map, "p_value") {
        sure += &if p < 0.001 { ", p < 0.001".to_string() } else { format!(", p = {p:.3}") };
    }
    if let Some(n) = number(map, "n") {
        sure += &format!(", n = {n}");
    }
    // Below the threshold, but not by chance: worth a second look.
    let significant = number(map, "p_value").is_some_and(|p| p < 0.05) && drop > 0.0;
    let (words, tone) = match (forgot, significant) {
        (true, _) => ("forgetting detected", Tone::Bad),
        (false, true) => ("a drop below the threshold, but no accident", Tone::Open),
        (false, false) => ("no forgetting detected", Tone::Good),
    };
    let scores = format!(
        "{} before, {} after: a drop of {:.1} points{sure}",
        share("overall_accuracy_before"),
        share("overall_accuracy_after"),
        drop * 100.0
    );
    let mut blocks = vec![Block::Verdict(words.into(), tone), Block::Text(scores)];
    if let Some(by) = map.get("by_category").and_then(|by| by.read_lock::<Map>()).filter(|by| !by.is_empty()) {
        blocks.push(Block::Figure(before_and_after(&by)));
    } else if let Some(drops) =
        map.get("category_drops").and_then(|drops| drops.read_lock::<Map>()).filter(|drops| !drops.is_empty())
    {
        let mut table = Table::new(["category", "drop"]);
        let mut rows: Vec<_> = drops.iter().map(|(name, drop)| (name.to_string(), to_number(drop).unwrap_or(f64::NAN))).collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        rows.into_iter().for_each(|(name, drop)| table.push(vec![name.into(), drop.into()]));
        blocks.push(Block::Table(table));
    }
    blocks.extend(map.get("recommendation").map(|text| Block::Text(text.to_string())));
    Some(blocks)
}

/// The accuracy of every category, before and after, the largest drop first.
fn before_and_after(by: &Map) -> Figure {
    let of = |value: &Dynamic, key: &str| value.read_lock::<Map>().and_then(|both| number(&both, key)).unwrap_or(f64::NAN);
    let mut rows: Vec<(String, f64, f64)> =
        by.iter().map(|(name, both)| (name.to_string(), 100.0 * of(both, "before"), 100.0 * of(both, "after"))).collect();
    rows.sort_by(|a, b| (b.1 - b.2).total_cmp(&(a.1 - a.2)));
    let series = |name: &str, values: Vec<f64>| BarSeries { name: name.into(), intervals: vec![None; values.len()], values };
    let plot = Plot::Bars {
        categories: rows.iter().map(|row| row.0.clone()).collect(),
        series: vec![
            series("before", rows.iter().map(|row| row.1).collect()),
            series("after", rows.iter().map(|row| row.2).collect()),
        ],
    };
    Figure { xlabel: "right answers [%]".into(), ..Figure::new(plot) }
}

/// What `evaluate_general_qa` gives: the score with its interval, and by category.
fn evaluation(map: &Map) -> Option<Vec<Block>> {
    let (correct, total, accuracy) = (number(map, "correct")?, number(map, "total")?, number(map, "overall_accuracy")?);
    let interval = wilson_interval(correct as u64, total as u64, 0.95)
        .map(|interval| format!(", 95 % interval {:.1} to {:.1}", interval.low * 100.0, interval.high * 100.0))
        .unwrap_or_default();
    let mut blocks = vec![Block::Text(format!("{:.1} % right ({correct} of {total}){interval}", accuracy * 100.0))];
    let by_category = map.get("by_category").filter(|by| by.is_map())?;
    let wanted: BTreeSet<&str> = ["category", "correct", "total", "accuracy"].into();
    let rows: Array = by_category
        .read_lock::<Map>()?
        .iter()
        .map(|(name, inner)| {
            let mut row = inner.read_lock::<Map>().map(|inner| inner.clone()).unwrap_or_default();
            row.insert("category".into(), name.to_string().into());
            row.retain(|key, _| wanted.contains(key.as_str()));
            Dynamic::from_map(row)
        })
        .collect();
    blocks.extend(records(&rows, usize::MAX).map(Block::Table));
    Some(blocks)
}

/// What `run_forgetting_checklist` gives.
fn checklist(map: &Map) -> Option<Vec<Block>> {
    let (passed, failed) = (number(map, "passed")?, number(map, "failed")?);
    let failures = map.get("failures")?.read_lock::<Array>()?;
    let critical = failures.iter().any(|failure| {
        failure.read_lock::<Map>().is_some_and(|failure| failure.get("severity").is_some_and(|s| s.to_string() == "critical"))
    });
    let tone = match (failed == 0.0, critical) {
        (true, _) => Tone::Good,
        (_, true) => Tone::Bad,
        _ => Tone::Open,
    };
    let mut blocks = vec![Block::Verdict(format!("{passed} of {} checks passed", passed + failed), tone)];
    blocks.extend(records(&failures, usize::MAX).map(Block::Table));
    Some(blocks)
}

/// A value's shape and the bytes that it holds, as far as is known: for lists of variables.
pub fn extent(value: &Dynamic) -> (String, Option<usize>) {
    if let Some(tensor) = value.read_lock::<TensorValue>() {
        let bytes = match &tensor.leaf {
            Some(parameter) => parameter.size_in_bytes(),
            None => tensor.tensor.elem_count() * tensor.tensor.dtype().size_in_bytes(),
        };
        return (format!("{:?}", tensor.tensor.dims()), Some(bytes));
    }
    if let Some(model) = value.read_lock::<ModelValue>() {
        return (format!("{} parameters", grouped(model.count().1)), Some(model.size_in_bytes()));
    }
    if let Some(module) = value.read_lock::<ModuleValue>() {
        let parameters = module.named_parameters();
        let count: usize = parameters.iter().map(|(_, p)| p.elem_count()).sum();
        return (format!("{} parameters", grouped(count)), Some(parameters.iter().map(|(_, p)| p.size_in_bytes()).sum()));
    }
    if let Some(data) = value.read_lock::<Dataset>() {
        return (format!("{} rows", data.len()), None);
    }
    if let Some(items) = value.read_lock::<Array>() {
        return (format!("[{}]", items.len()), Some(held(value)));
    }
    if let Some(map) = value.read_lock::<Map>() {
        return (format!("{} keys", map.len()), Some(held(value)));
    }
    (String::new(), Some(held(value)))
}

/// The bytes that values hold together; parameters that several of them share count once.
pub fn bytes_of_all(values: impl IntoIterator<Item = Dynamic>) -> usize {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for value in values {
        let parameters: Vec<Parameter> = if let Some(model) = value.read_lock::<ModelValue>() {
            model.named_parameters().into_iter().map(|(_, parameter)| parameter).collect()
        } else if let Some(module) = value.read_lock::<ModuleValue>() {
            module.named_parameters().into_iter().map(|(_, parameter)| parameter).collect()
        } else {
            bytes += extent(&value).1.unwrap_or(0);
            continue;
        };
        bytes += parameters.iter().filter(|p| seen.insert(p.key())).map(Parameter::size_in_bytes).sum::<usize>();
    }
    bytes
}

/// Bytes of plain values; of large arrays by their first elements.
fn held(value: &Dynamic) -> usize {
    let own = std::mem::size_of::<Dynamic>();
    if let Ok(text) = value.as_immutable_string_ref() {
        return own + text.len();
    }
    if let Some(items) = value.read_lock::<Array>() {
        let first: Vec<usize> = items.iter().take(100).map(held).collect();
        let mean = first.iter().sum::<usize>() / first.len().max(1);
        return own + mean * items.len();
    }
    if let Some(map) = value.read_lock::<Map>() {
        return own + map.iter().map(|(key, value)| key.len() + held(value)).sum::<usize>();
    }
    match extent_of_handle(value) {
        Some(bytes) => own + bytes,
        None => own,
    }
}

fn extent_of_handle(value: &Dynamic) -> Option<usize> {
    let handle = value.is::<TensorValue>() || value.is::<ModelValue>() || value.is::<ModuleValue>();
    handle.then(|| extent(value).1).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    fn shown(code: &str) -> String {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let value = session.eval_line(code).unwrap();
        let blocks = blocks(&value).unwrap_or_default();
        blocks.iter().map(|block| block.text(80, false)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn results_are_shown_by_what_they_are() {
        let training = shown(
            "#{ train_loss: 2.5, steps: 2, tokens: 1234, seconds: 2.0, tokens_per_second: 617.0,
                log_history: [#{ step: 1, loss: 3.0 }, #{ step: 2, loss: 2.0 }] }",
        );
        assert!(training.starts_with("train_loss 2.5000, 2 steps, 1,234 tokens in 2.0 s, 617 tokens/s"), "{training}");
        assert!(training.contains("optimiser step"), "{training}");
        let verdict = shown(
            "compare_forgetting(#{ overall_accuracy: 0.8, by_category: #{ math: #{ accuracy: 0.9 } } },
                #{ overall_accuracy: 0.5, by_category: #{ math: #{ accuracy: 0.4 } } })",
        );
        assert!(verdict.starts_with("forgetting detected\n80.0 % before, 50.0 % after: a drop of 30.0 points"), "{verdict}");
        assert!(verdict.contains("math"), "{verdict}");
        let check = shown("run_forgetting_checklist(|prompt| \"Paris, Rome and Berlin are 10 sunny cities.\")");
        assert!(check.starts_with("3 of 4 checks passed"), "{check}");
        let described = shown(
            "Dataset::from_list([#{ text: \"on the hill\" }, #{ text: \"on\" }])
                .describe(AutoTokenizer::from_pretrained(\"tiny-random\"), #{ max_length: 4 })",
        );
        assert!(described.starts_with("2 rows, format text, 0 duplicates\ncolumns: text (string)\n"), "{described}");
        assert!(described.contains("max_length 4 cuts 1 rows") && described.contains("rows by tokens"), "{described}");
        let rows = shown("[#{ name: \"a\", score: 0.5 }, #{ name: \"b\", score: 1.0 }]");
        assert!(rows.contains("│ name") && rows.contains("┆   0.5 │"), "{rows}");
        assert!(shown("#{ b: 2, a: [1, 2] }").contains("[1, 2]"));
        assert_eq!(shown("[1, 2, 3]"), "");
        assert!(
            shown("AutoModelForCausalLM::from_pretrained(\"tiny-random\")").starts_with("tiny-random: 28,192 train\n└─ model")
        );
    }

    #[test]
    fn extents_are_known() {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let mut of = |code: &str| extent(&session.eval_line(code).unwrap());
        assert_eq!(of("zeros([2, 3])"), ("[2, 3]".to_string(), Some(24)));
        assert_eq!(of("[1, 2, 3]").0, "[3]");
        assert!(of("AutoModelForCausalLM::from_pretrained(\"tiny-random\")").1.unwrap() >= 28192 * 4);
        let model = session.eval_line("AutoModelForCausalLM::from_pretrained(\"tiny-random\")").unwrap();
        assert_eq!(bytes_of_all([model.clone(), model.clone()]), bytes_of_all([model]));
    }
}
