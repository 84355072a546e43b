//! The `split` of `load_dataset`: a name and a part of the rows, as in `train[:100]`, `test[10%:20%]`.

use super::{Dataset, IterableDataset};
use crate::error::{Error, Result};

/// A named split and which of its rows are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The name: "train", "test".
    pub name: String,
    start: Option<Bound>,
    end: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    value: i64,
    percent: bool,
}

impl Split {
    /// Reads `name`, `name[start:end]`; a bound is a row (negative: from the end), a percentage or left out.
    ///
    /// # Errors
    /// The text is not of this form.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            let forms = "a name, or a name with a part of the rows: train, train[:100], train[10:20], train[-50:], train[:10%]";
            Error::argument(format!("split \"{text}\" is not understood; it is {forms}"))
        };
        let (name, range) = match text.split_once('[') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or_else(wrong)?)),
            None => (text, None),
        };
        let name = name.trim().to_string();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
            return Err(wrong());
        }
        let Some(range) = range else { return Ok(Self { name, start: None, end: None }) };
        let (start, end) = range.split_once(':').ok_or_else(wrong)?;
        let bound = |text: &str| -> Result<Option<Bound>> {
            let text = text.trim();
            if text.is_empty() {
                return Ok(None);
            }
            let (number, percent) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
            let value: i64 = number.trim().parse().map_err(|_| wrong())?;
            if percent && !(-100..=100).contains(&value) { Err(wrong()) } else { Ok(Some(Bound { value, percent })) }
        };
        Ok(Self { name, start: bound(start)?, end: bound(end)? })
    }

    /// The wanted rows; bounds beyond the end are cut off, as Python's slices do.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn apply(&self, data: &Dataset) -> Result<Dataset> {
        let n = data.len();
        let resolve = |bound: Bound| {
            // Half a row is rounded as Python rounds it, to the even number, so that the parts are those of `datasets`.
            let share = || (bound.value as f64 * n as f64 / 100.0).round_ties_even() as i64;
            let offset = if bound.percent { share() } else { bound.value };
            let position = if offset < 0 { n as i64 + offset } else { offset };
            position.clamp(0, n as i64) as usize
        };
        let start = self.start.map_or(0, resolve);
        let end = self.end.map_or(n, resolve);
        if start >= end && n > 0 {
            return Err(Error::argument(format!("split \"{}\" selects no rows: {start} to {end} of {n} rows", self.name)));
        }
        data.slice(start, end)
    }

    /// The wanted rows of a stream.
    ///
    /// # Errors
    /// A bound is a percentage or counts from the end, which needs the number of rows.
    pub fn apply_to_stream(&self, stream: &IterableDataset) -> Result<IterableDataset> {
        let resolve = |bound: Option<Bound>| match bound {
            None => Ok(None),
            Some(Bound { value, percent: false }) if value >= 0 => Ok(Some(usize::try_from(value).unwrap_or(usize::MAX))),
            Some(_) => Err(Error::argument(format!(
                "split \"{}\": a percentage, or a bound from the end, needs the number of rows, which a stream does not know; \
                 give numbers of rows, as in train[:1000]",
                self.name
            ))),
        };
        let (start, end) = (resolve(self.start)?, resolve(self.end)?);
        let cut = end.map_or_else(|| stream.clone(), |end| stream.take(end));
        Ok(start.map_or(cut.clone(), |start| cut.skip(start)))
    }
}
