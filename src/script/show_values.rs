//! Script values as figures, tables and pages.

use super::convert::to_number;
use super::display::{from_json, json};
use super::error::ScriptResult;
use super::options::Validate;
use super::tensor_data::kind;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::show::report::blocks_of;
use crate::show::{BarSeries, Block, Figure, Plot, Point, Report, Section, Series, Table, is_number, number, reading_order};
use rhai::{Array, Dynamic, ImmutableString, Map};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rows of a data set that a table shows unless told otherwise.
const DATASET_ROWS: usize = 20;

/// Options of `plot`, `scatter`, `bars` and `history`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FigureOptions {
    /// Shown above the figure.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub xlabel: String,
    /// Name and unit of the vertical axis.
    pub ylabel: String,
    /// Lowest and highest value shown.
    pub ylim: Option<(f64, f64)>,
}

impl FigureOptions {
    /// The figure with these options.
    pub fn apply(self, figure: Figure) -> Figure {
        Figure { title: self.title, xlabel: self.xlabel, ylabel: self.ylabel, ylim: self.ylim, ..figure }
    }
}

impl Validate for FigureOptions {
    fn validate(&self) -> Result<()> {
        match self.ylim {
            Some((low, high)) if low >= high => {
                Err(Error::argument(format!("ylim is [low, high] with low below high, but it is [{low}, {high}]")))
            }
            _ => Ok(()),
        }
    }
}

/// Options of `table`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableOptions {
    /// Which columns, in this order; default: all.
    pub columns: Option<Vec<String>>,
    /// Shown above the table.
    pub title: String,
    /// At most so many rows; default: all, of a data set 20.
    pub max_rows: Option<usize>,
}

impl Validate for TableOptions {}

/// The points of `scatter`.
pub(super) fn points_of(items: &[Dynamic]) -> ScriptResult<Vec<Point>> {
    let point = |(i, item): (usize, &Dynamic)| {
        let Some(map) = item.read_lock::<Map>() else {
            return Err(format!("scatter: point {i} must be a map with label, x and y, but it is of type {}", kind(item)).into());
        };
        let known = ["label", "x", "y", "x_low", "x_high", "y_low", "y_high"];
        if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("scatter: point {i} has the key `{key}`; a point has {}", known.join(", ")).into());
        }
        let number = |key: &str| -> ScriptResult<Option<f64>> {
            match map.get(key).filter(|value| !value.is_unit()) {
                None => Ok(None),
                Some(value) => {
                    to_number(value).map(Some).ok_or_else(|| format!("scatter: point {i}: {key} must be a number").into())
                }
            }
        };
        let needed =
            |key: &str| -> ScriptResult<f64> { number(key)?.ok_or_else(|| format!("scatter: point {i} lacks {key}").into()) };
        let interval = |low: &str, high: &str, middle: f64| -> ScriptResult<Option<(f64, f64)>> {
            Ok(match (number(low)?, number(high)?) {
                (None, None) => None,
                (low, high) => Some((low.unwrap_or(middle), high.unwrap_or(middle))),
            })
        };
        let (x, y): (f64, f64) = (needed("x")?, needed("y")?);
        let label = map.get("label").map_or(String::new(), ToString::to_string);
        Ok(Point { label, x, y, x_interval: interval("x_low", "x_high", x)?, y_interval: interval("y_low", "y_high", y)? })
    };
    items.iter().enumerate().map(point).collect()
}

/// The bars of `bars`; `wanted` is the option `series`.
pub(super) fn bars_of(value: &Dynamic, wanted: Option<&Dynamic>) -> ScriptResult<Plot> {
    let shapes = "bars takes a map of names to numbers, a map of names to maps of numbers, or an array of maps with a label";
    let rows: Vec<(String, serde_json::Map<String, Value>)> = match json(value) {
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| match value {
                Value::Object(fields) => Ok((name, fields)),
                plain if !(plain.is_null() || is_number(&plain)) => Err(format!("{shapes}, but {name} is {plain}").into()),
                plain => Ok((name, serde_json::Map::from_iter([("value".to_string(), plain)]))),
            })
            .collect::<ScriptResult<_>>()?,
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::Object(mut fields) => {
                    let label = fields.shift_remove("label").or_else(|| fields.shift_remove("name"));
                    Ok((label.map_or_else(|| i.to_string(), |label| number::value(&label)), fields))
                }
                _ => Err(format!("{shapes}, but item {i} is not a map").into()),
            })
            .collect::<ScriptResult<_>>()?,
        _ => return Err(format!("{shapes}, not a value of type {}", kind(value)).into()),
    };
    let names: Vec<String> = match wanted {
        Some(wanted) => match wanted.read_lock::<Array>() {
            Some(names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                let mut known: Vec<&str> = rows.iter().flat_map(|(_, fields)| fields.keys()).map(String::as_str).collect();
                known.sort_unstable();
                known.dedup();
                if let Some(name) = names.iter().find(|name| !rows.is_empty() && !known.contains(&name.as_str())) {
                    return Err(format!("bars: no bar is called \"{name}\"; series can be: {}", known.join(", ")).into());
                }
                names
            }
            None => return Err("bars: series must be an array of names".into()),
        },
        None => {
            let mut names: Vec<String> = Vec::new();
            for (key, _) in rows.iter().flat_map(|(_, fields)| fields).filter(|(_, value)| value.is_number()) {
                let limit = ["low", "high"].iter().any(|end| key == end || key.ends_with(&format!("_{end}")));
                if !limit && !names.contains(key) {
                    names.push(key.clone());
                }
            }
            // Script maps are sorted by name, which would put "after" before "before".
            names.sort_by_key(|name| reading_order(name));
            names
        }
    };
    let series = names.into_iter().map(|name| {
        let pick = |fields: &serde_json::Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_f64);
        let limit = |fields: &serde_json::Map<String, Value>, end: &str| {
            pick(fields, &format!("{name}_{end}")).or_else(|| if name == "value" { pick(fields, end) } else { None })
        };
        let values = rows.iter().map(|(_, fields)| pick(fields, &name).unwrap_or(f64::NAN)).collect();
        let intervals = rows.iter().map(|(_, fields)| limit(fields, "low").zip(limit(fields, "high"))).collect();
        BarSeries { values, intervals, name }
    });
    let series: Vec<BarSeries> = series.collect();
    Ok(Plot::Bars { categories: rows.into_iter().map(|(name, _)| name).collect(), series })
}

/// The table of an array of maps, a data set or a map of maps.
pub(super) fn table_of(value: &Dynamic, given: TableOptions) -> ScriptResult<Table> {
    if let Some(data) = value.read_lock::<Dataset>() {
        check_columns(&data, &given)?;
        return Ok(table_of_dataset(&data, given));
    }
    if value.is_array() {
        // Through JSON, so that a closure or a model in a row is shown as its text.
        let data = super::data::to_dataset(&from_json(&json(value)), "table: rows")?;
        check_columns(&data, &given)?;
        let (chosen, max_rows) = (given.columns.is_some(), given.max_rows.or(Some(data.len())));
        let table = table_of_dataset(&data, TableOptions { max_rows, ..given });
        return Ok(if chosen { table } else { table.in_reading_order() });
    }
    if value.read_lock::<Map>().is_some_and(|map| map.is_empty()) {
        return Ok(Table { title: given.title, ..Table::default() });
    }
    match blocks_of(&json(value)).into_iter().next() {
        Some(Block::Table(table)) => Ok(Table { title: given.title, ..table }),
        _ => Err(format!("table takes an array of maps, a Dataset or a map, not a value of type {}", kind(value)).into()),
    }
}

fn check_columns(data: &Dataset, given: &TableOptions) -> ScriptResult<()> {
    let columns = data.columns();
    match given.columns.iter().flatten().find(|name| !data.is_empty() && !columns.contains(name)) {
        None => Ok(()),
        Some(missing) => Err(format!("table: no row has the column `{missing}`; the columns are: {}", columns.join(", ")).into()),
    }
}

/// The first rows of a data set.
pub(crate) fn table_of_dataset(data: &Dataset, given: TableOptions) -> Table {
    let rows = given.max_rows.unwrap_or(DATASET_ROWS).min(data.len());
    let note = if rows < data.len() { format!("{rows} of {} rows", data.len()) } else { String::new() };
    // A row that cannot be read any more is said so where it is asked for by itself.
    let shown: Vec<_> = data.iter().take(rows).map_while(Result::ok).collect();
    Table { title: given.title, note, ..Table::from_records(shown.iter().map(AsRef::as_ref), given.columns) }
}

/// The lines of a training run: those of `wanted`, or loss and eval_loss.
pub(crate) fn history_of(result: &Map, wanted: Option<&str>) -> ScriptResult<Vec<Series>> {
    let Some(log) = result.get("log_history").and_then(|log| log.read_lock::<Array>()) else {
        return Err("history takes what trainer.train() returns: a map with log_history".into());
    };
    let names = wanted.map_or(vec!["loss", "eval_loss"], |name| vec![name]);
    let mut keys = std::collections::BTreeSet::new();
    let mut lines: Vec<Series> = names.iter().map(|name| Series { name: (*name).into(), x: vec![], y: vec![] }).collect();
    for (i, entry) in log.iter().enumerate() {
        let Some(entry) = entry.read_lock::<Map>() else { continue };
        let step = entry.get("step").and_then(to_number).unwrap_or(i as f64);
        keys.extend(entry.keys().map(ToString::to_string));
        for line in &mut lines {
            if let Some(value) = entry.get(line.name.as_str()).and_then(to_number) {
                line.x.push(step);
                line.y.push(value);
            }
        }
    }
    lines.retain(|line| !line.y.is_empty());
    if log.is_empty() {
        let advice = "the training ended before its first entry; lower TrainingArguments' logging_steps";
        return Err(format!("history: log_history is empty: {advice}").into());
    }
    if lines.is_empty() {
        let keys: Vec<String> = keys.into_iter().collect();
        return Err(format!("history: no entry of log_history has {}; it has: {}", names.join(" or "), keys.join(", ")).into());
    }
    Ok(lines)
}

/// The learning rate of a training run as a figure for under its loss; nothing where it was always the same.
pub(crate) fn learning_rate_of(result: &Map) -> Option<Figure> {
    let lines = history_of(result, Some("learning_rate")).ok()?;
    let rates = lines.iter().flat_map(|line| line.y.iter().copied());
    let (low, high) = number::range(rates)?;
    let varied = lines.first().is_some_and(|line| line.y.iter().any(|rate| *rate != line.y[0]));
    let lines = lines.into_iter().map(|line| Series { name: String::new(), ..line }).collect();
    let figure = Figure::new(Plot::Lines(lines));
    (varied && high > low).then(|| Figure { xlabel: "optimiser step".into(), ylabel: "learning rate".into(), ..figure })
}

/// The page of `report`.
pub(super) fn report_of(results: &Dynamic) -> ScriptResult<Report> {
    let Some(map) = results.read_lock::<Map>() else {
        return Ok(Report { sections: vec![Section::new("", blocks(results)?)], ..Report::new("Results") });
    };
    let mut report = Report::new(map.get("title").map_or("Results".to_string(), ToString::to_string));
    for (key, value) in map.iter() {
        match key.as_str() {
            "title" => {}
            "text" | "intro" => report.intro = value.to_string(),
            "facts" => match value.read_lock::<Map>() {
                Some(facts) => {
                    for (name, fact) in facts.iter() {
                        report.facts.push((name.to_string(), number::value(&json(fact))));
                    }
                }
                None => return Err("report: facts must be a map of names to values".into()),
            },
            "sections" => {}
            _ if is_plain(value) => report.facts.push((key.to_string(), number::value(&json(value)))),
            _ => report.sections.push(Section::new(key.as_str(), blocks(value)?)),
        }
    }
    report.facts.sort_by_key(|(name, _)| reading_order(name));
    if let Some(value) = map.get("sections") {
        let Some(items) = value.read_lock::<Array>() else {
            return Err("report: sections must be an array of maps with heading, text, table, figure".into());
        };
        let mut sections = items.iter().map(section).collect::<ScriptResult<Vec<_>>>()?;
        sections.append(&mut report.sections);
        report.sections = sections;
    }
    Ok(report)
}

fn is_plain(value: &Dynamic) -> bool {
    let long = value.read_lock::<ImmutableString>().is_some_and(|text| text.len() > 60);
    !long && (value.is_string() || value.is_bool() || value.is_unit() || to_number(value).is_some())
}

fn section(value: &Dynamic) -> ScriptResult<Section> {
    let Some(map) = value.read_lock::<Map>() else {
        return Ok(Section::new("", blocks(value)?));
    };
    let mut made = Section::new(map.get("heading").map_or(String::new(), ToString::to_string), vec![]);
    for key in ["text", "figure", "table", "content", "code"] {
        let Some(value) = map.get(key).filter(|value| !value.is_unit()) else { continue };
        if key == "code" {
            made.blocks.push(Block::Preformatted(value.to_string()));
        } else {
            made.blocks.extend(blocks(value)?);
        }
    }
    // What is under other names is shown rather than lost.
    for (key, value) in
        map.iter().filter(|(key, _)| !["heading", "text", "figure", "table", "content", "code"].contains(&key.as_str()))
    {
        if !value.is_unit() {
            made.blocks.push(Block::Text(key.to_string()));
            made.blocks.extend(blocks(value)?);
        }
    }
    Ok(made)
}

/// Anything as blocks: shown values as they are, arrays that hold some one after the other, data as tables and texts.
fn blocks(value: &Dynamic) -> ScriptResult<Vec<Block>> {
    if let Some(figure) = value.read_lock::<Figure>() {
        return Ok(vec![Block::Figure(figure.clone())]);
    }
    if let Some(table) = value.read_lock::<Table>() {
        return Ok(vec![Block::Table(table.clone())]);
    }
    if let Some(known) = value.read_lock::<Map>().and_then(|map| super::result::known(&map)) {
        return Ok(known);
    }
    if value.is::<Dataset>() {
        return Ok(vec![Block::Table(table_of(value, TableOptions::default())?)]);
    }
    let shown = |item: &Dynamic| item.is::<Figure>() || item.is::<Table>() || item.is::<Dataset>();
    if let Some(items) = value.read_lock::<Array>()
        && items.iter().any(|item| shown(item) || item.is_string())
    {
        return Ok(items.iter().map(blocks).collect::<ScriptResult<Vec<_>>>()?.into_iter().flatten().collect());
    }
    if let Some(map) = value.read_lock::<Map>()
        && map.values().any(shown)
    {
        let named = |(key, item): (&rhai::Identifier, &Dynamic)| {
            Ok(std::iter::once(Block::Text(key.to_string())).chain(blocks(item)?).collect::<Vec<_>>())
        };
        return Ok(map.iter().map(named).collect::<ScriptResult<Vec<_>>>()?.into_iter().flatten().collect());
    }
    Ok(blocks_of(&json(value)))
}
