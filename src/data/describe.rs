//! What a data set holds: rows, format, columns, how long rows are and what a limit would cut off. Rows are looked at one at a time.

use super::{Dataset, Encoding, RowFormat, TextTokenizer, columns, tokenize};
use crate::control::Control;
use crate::error::Result;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bars of a histogram.
const BARS: usize = 12;
/// Rows between two reports of progress.
const OFTEN: usize = 256;

/// What a data set holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Number of rows.
    pub rows: usize,
    /// Rows of every format, by its name; "unknown" for those that training cannot take.
    pub formats: BTreeMap<String, usize>,
    /// The kind of every column by its first value.
    pub columns: serde_json::Map<String, serde_json::Value>,
    /// Rows that are the same as an earlier one.
    pub duplicates: usize,
    /// Characters of all texts of a row.
    pub characters: Lengths,
    /// Tokens of a row, before it is cut; only with a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

/// Tokens of the rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokens {
    /// Tokens of a row.
    #[serde(flatten)]
    pub lengths: Lengths,
    /// Tokens that carry loss, of all rows, before they are cut.
    pub target: usize,
    /// Rows are cut to so many tokens.
    pub max_length: Option<usize>,
    /// Rows that are cut.
    pub truncated_rows: usize,
    /// Tokens that are cut off.
    pub truncated_tokens: usize,
    /// Tokens that carry loss and are cut off.
    pub truncated_target: usize,
    /// Rows that have no token to learn from, after they are cut.
    pub without_target: usize,
}

/// How long rows are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// Half of the rows are at most as long.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// 95 % of the rows are at most as long.
    pub p95: usize,
    /// The longest.
    pub max: usize,
    /// Of all rows together.
    pub total: usize,
    /// Rows by length.
    pub histogram: Vec<Bar>,
}

/// The rows whose length lies in a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The least length.
    pub from: usize,
    /// The largest length.
    pub to: usize,
    /// Rows.
    pub rows: usize,
}

impl Lengths {
    /// Of these lengths, one a row; all 0 where there are none.
    pub fn of(mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        let at = |index: usize| lengths.get(index).map_or(0, |length| *length as usize);
        let (count, total) = (lengths.len(), lengths.iter().map(|length| *length as usize).sum::<usize>());
        let (min, max) = (at(0), at(count.saturating_sub(1)));
        Self {
            min,
            median: (at(count.saturating_sub(1) / 2) + at(count / 2)) as f64 / if count == 0 { 1.0 } else { 2.0 },
            mean: total as f64 / count.max(1) as f64,
            // The nearest rank.
            p95: at((0.95 * count as f64).ceil() as usize - usize::from(count > 0)),
            max,
            total,
            histogram: histogram(&lengths, min, max),
        }
    }
}

/// Bars of one round width over sorted lengths.
fn histogram(sorted: &[u32], min: usize, max: usize) -> Vec<Bar> {
    if sorted.is_empty() {
        return Vec::new();
    }
    let least = (max - min + 1).div_ceil(BARS);
    let power = 10_usize.pow(least.ilog10());
    let width = [1, 2, 5, 10].into_iter().map(|step| step * power).find(|width| *width >= least).unwrap_or(least);
    let below = |limit: usize| sorted.partition_point(|length| (*length as usize) < limit);
    let bars = (min / width..=max / width).map(|bar| {
        let (from, end) = (bar * width, (bar + 1) * width);
        Bar { from, to: end - 1, rows: below(end) - below(from) }
    });
    bars.collect()
}

/// Looks at every row.
///
/// # Errors
/// A row cannot be read, or with a tokenizer not be tokenised; Ctrl-C.
pub fn describe(
    data: &Dataset,
    tokenizer: Option<&dyn TextTokenizer>,
    max_length: Option<usize>,
    control: &Control,
) -> Result<Description> {
    let whole = Encoding { format: data.format(), ..Encoding::default() };
    let mut formats: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut seen, mut characters, mut lengths) = (HashSet::new(), Vec::new(), Vec::new());
    let mut tokens = Tokens {
        lengths: Lengths::of(Vec::new()),
        target: 0,
        max_length,
        truncated_rows: 0,
        truncated_tokens: 0,
        truncated_target: 0,
        without_target: 0,
    };
    for (number, row) in data.iter().enumerate() {
        if number % OFTEN == 0 {
            control.check()?;
            control.progress("describe", number as u64, data.len() as u64, "rows", String::new());
        }
        let row = row?;
        let mut hasher = DefaultHasher::new();
        let length = row.values().map(text_length).sum::<usize>();
        serde_json::Value::Object((*row).clone()).to_string().hash(&mut hasher);
        seen.insert(hasher.finish());
        characters.push(u32::try_from(length).unwrap_or(u32::MAX));
        let format = data.format().filter(|format| format.fits(&row)).or_else(|| RowFormat::of_row(&row));
        *formats.entry(format.map_or("unknown", RowFormat::name)).or_default() += 1;
        let Some(tokenizer) = tokenizer else { continue };
        let encoded = tokenize(&row, &data.place(number), tokenizer, whole)?;
        let all = encoded.targets();
        let length = encoded.input_ids.len();
        let cut = encoded.cut(max_length);
        lengths.push(u32::try_from(length).unwrap_or(u32::MAX));
        tokens.target += all;
        tokens.truncated_rows += usize::from(cut.truncated);
        tokens.truncated_tokens += length - cut.input_ids.len();
        tokens.truncated_target += all - cut.targets();
        tokens.without_target += usize::from(cut.targets() == 0);
    }
    // A task without rows would never be finished.
    if !data.is_empty() {
        control.progress("describe", data.len() as u64, data.len() as u64, "rows", String::new());
    }
    tokens.lengths = Lengths::of(lengths);
    Ok(Description {
        rows: data.len(),
        formats: formats.into_iter().map(|(name, rows)| (name.to_string(), rows)).collect(),
        columns: columns::kinds(data)?.into_iter().map(|(name, kind)| (name, kind.into())).collect(),
        duplicates: data.len() - seen.len(),
        characters: Lengths::of(characters),
        tokens: tokenizer.is_some().then_some(tokens),
    })
}

/// Characters of the texts in a value.
fn text_length(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.chars().count(),
        serde_json::Value::Array(items) => items.iter().map(text_length).sum(),
        serde_json::Value::Object(fields) => fields.values().map(text_length).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted() {
        let lengths = Lengths::of((1..=100).collect());
        assert_eq!((lengths.min, lengths.median, lengths.mean, lengths.p95, lengths.max), (1, 50.5, 50.5, 95, 100));
        assert_eq!(lengths.histogram.len(), 11);
        assert_eq!(lengths.histogram[1], Bar { from: 10, to: 19, rows: 10 });
        assert_eq!(lengths.histogram.iter().map(|bar| bar.rows).sum::<usize>(), 100);
        let one = Lengths::of(vec![7]);
        assert_eq!((one.median, one.p95, one.histogram), (7.0, 7, vec![Bar { from: 7, to: 7, rows: 1 }]));
        let none = Lengths::of(vec![]);
        assert_eq!((none.median, none.p95, none.histogram.len()), (0.0, 0, 0));
    }
}
