//! Streams: data sets whose rows are read as they are asked for, by a loop, a loader or a training.

use super::context::{Context, context};
use super::convert::from_row;
use super::data::{inner_message, made_row, to_dataset};
use super::data_options::{EachRowOptions, ShuffleOptions};
use super::display;
use super::error::{IntoScript, ScriptResult, into_library};
use super::options::options as parse;
use super::tensor_data::kind;
use crate::control::Control;
use crate::data::{ColumnChange, Dataset, Encoding, IterableDataset, Row, TokenRows};
use crate::error::{Error, Result};
use crate::model::Tokenizer;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr, INT, Map, Module};
use std::any::TypeId;
use std::fmt::Display;
use std::rc::Rc;

/// Rows that a shuffle of a stream has at hand unless told otherwise, as in `datasets`.
const BUFFER: usize = 1000;

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_type_with_name::<IterableDataset>("IterableDataset");
    display::register::<IterableDataset>(IterableDataset::to_string, |stream| stream.to_string().into());
    let mut module: Module = exported_module!(stream_functions);
    module.set_iter_result(TypeId::of::<IterableDataset>(), |value: Dynamic| {
        let rows = value.cast::<IterableDataset>().rows(0);
        Box::new(rows.map(|found| found.script().map(|found| Dynamic::from_map(from_row(&found.row)))))
    });
    engine.register_global_module(module.into());
}

/// What training and loaders take rows from.
#[derive(Clone)]
pub enum Rows {
    /// A data set.
    Whole(Dataset),
    /// A stream.
    Stream(IterableDataset),
}

/// A data set, an array of maps as one, or a stream; `what` names the argument.
///
/// # Errors
/// None of these.
pub fn to_rows(value: &Dynamic, what: &str) -> ScriptResult<Rows> {
    match value.read_lock::<IterableDataset>() {
        Some(stream) => Ok(Rows::Stream(stream.clone())),
        None => to_dataset(value, what).map(Rows::Whole),
    }
}

impl Rows {
    /// Refuses a data set without rows; a stream shows whether it has some only when it is read.
    ///
    /// # Errors
    /// The data set is empty.
    pub fn check_not_empty(&self, purpose: &str) -> Result<()> {
        match self {
            Self::Whole(data) => data.non_empty(purpose).map(|_| ()),
            Self::Stream(_) => Ok(()),
        }
    }

    /// The rows as training takes them, and what the user should know of them.
    ///
    /// # Errors
    /// As [`TokenRows::of_dataset`].
    pub fn tokenized(&self, tokenizer: &Tokenizer, encoding: Encoding, control: &Control) -> Result<(TokenRows, Option<String>)> {
        let tokenizer = Rc::new(tokenizer.clone());
        match self {
            Self::Whole(data) => TokenRows::of_dataset(data, tokenizer, encoding, control),
            Self::Stream(stream) => Ok((TokenRows::of_stream(stream.clone(), tokenizer, encoding), None)),
        }
    }
}

impl Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(data) => write!(f, "{} rows", data.len()),
            Self::Stream(stream) => write!(f, "{stream}"),
        }
    }
}

/// A script's function with what it needs to be called when the call that brought it is over.
struct Later {
    session: Rc<Context>,
    #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
    call: rhai::NativeCallContextStore,
    function: FnPtr,
    options: EachRowOptions,
}

impl Later {
    fn new(call: &NativeCallContext, function: FnPtr, options: EachRowOptions) -> ScriptResult<Self> {
        #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
        Ok(Self { session: context(call)?, call: call.store_data(), function, options })
    }

    fn call(&self, number: usize, row: &Row) -> Result<Dynamic> {
        self.session.control.check()?;
        let engine = self.session.engine()?;
        #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
        let call = self.call.create_context(&engine);
        let answer = match self.options.with_indices {
            true => self.function.call_within_context::<Dynamic>(&call, (from_row(row), number as INT)),
            false => self.function.call_within_context::<Dynamic>(&call, (from_row(row),)),
        };
        answer.map_err(|error| into_library("the function failed", &error, &engine))
    }
}

/// Names from a string or an array of strings.
pub(super) fn names(value: &Dynamic, function: &str) -> ScriptResult<Vec<String>> {
    let wrong = || format!("{function} takes the name of a column or an array of names").into();
    match value.read_lock::<Array>() {
        Some(items) => items.iter().map(|item| item.clone().into_string().map_err(|_| wrong())).collect(),
        None => value.clone().into_string().map(|name| vec![name]).map_err(|_| wrong()),
    }
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod stream_functions {
    /// The rows of a data set as a stream, whose `map` and `filter` run as rows are asked for.
    ///
    /// ```rhai
    /// let stream = Dataset::from_list([#{ n: 1 }, #{ n: 2 }]).to_iterable_dataset();
    /// let sum = 0;
    /// for row in stream.map(|row| #{ n: row.n * 10 }) { sum += row.n; }
    /// sum // => 30
    /// ```
    #[rhai_fn(global, pure)]
    pub fn to_iterable_dataset(dataset: &mut Dataset) -> IterableDataset {
        IterableDataset::of_dataset(dataset.clone())
    }

    /// A stream of what the closure makes of each row, when it is asked for. With `#{ with_indices: true }` the closure also gets the
    /// row's number among those that reach it, counted from 0.
    ///
    /// ```rhai
    /// let stream = Dataset::from_list([#{ q: "2 + 2?", a: "4" }]).to_iterable_dataset();
    /// stream.map(|row| #{ prompt: row.q, completion: row.a }).to_list() // => [#{ completion: "4", prompt: "2 + 2?" }]
    /// ```
    #[rhai_fn(global, name = "map", return_raw, pure)]
    pub fn map_stream(call: NativeCallContext, stream: &mut IterableDataset, change: FnPtr) -> ScriptResult<IterableDataset> {
        map_stream_with(call, stream, change, Map::new())
    }

    #[rhai_fn(global, name = "map", return_raw, pure)]
    pub fn map_stream_with(
        call: NativeCallContext,
        stream: &mut IterableDataset,
        change: FnPtr,
        options: Map,
    ) -> ScriptResult<IterableDataset> {
        let later = Later::new(&call, change, parse("map", options)?)?;
        Ok(stream.map(Rc::new(move |number, row| {
            let made = later.call(number, row)?;
            made_row(&made, row, &"it").map_err(|e| Error::Callback(inner_message(&e)))
        })))
    }

    /// A stream of the rows for which the closure returns true. With `#{ with_indices: true }` the closure also gets the row's number
    /// among those that reach it, counted from 0.
    ///
    /// ```rhai
    /// let stream = Dataset::from_list([#{ n: 1 }, #{ n: 2 }]).to_iterable_dataset();
    /// stream.filter(|row| row.n > 1).to_list() // => [#{ n: 2 }]
    /// ```
    #[rhai_fn(global, name = "filter", return_raw, pure)]
    pub fn filter_stream(call: NativeCallContext, stream: &mut IterableDataset, keep: FnPtr) -> ScriptResult<IterableDataset> {
        filter_stream_with(call, stream, keep, Map::new())
    }

    #[rhai_fn(global, name = "filter", return_raw, pure)]
    pub fn filter_stream_with(
        call: NativeCallContext,
        stream: &mut IterableDataset,
        keep: FnPtr,
        options: Map,
    ) -> ScriptResult<IterableDataset> {
        let later = Later::new(&call, keep, parse("filter", options)?)?;
        Ok(stream.filter(Rc::new(move |number, row| {
            let answer = later.call(number, row)?;
            answer
                .as_bool()
                .map_err(|_| Error::Callback(format!("the closure must return true or false, but it returned {}", kind(&answer))))
        })))
    }

    #[rhai_fn(global, name = "shuffle", return_raw, pure)]
    pub fn shuffle_stream_with(
        call: NativeCallContext,
        stream: &mut IterableDataset,
        options: Map,
    ) -> ScriptResult<IterableDataset> {
        let given: ShuffleOptions = parse("shuffle", options)?;
        let seed = match given.seed {
            Some(seed) => seed,
            None => u64::from(context(&call)?.random.borrow_mut().next_u32()),
        };
        Ok(stream.shuffle(seed, given.buffer_size.unwrap_or(BUFFER)))
    }

    #[rhai_fn(global, name = "shuffle", return_raw, pure)]
    pub fn shuffle_stream(call: NativeCallContext, stream: &mut IterableDataset) -> ScriptResult<IterableDataset> {
        shuffle_stream_with(call, stream, Map::new())
    }

    /// The first `count` rows; all where there are fewer.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// [ds.take(2).column("n"), ds.to_iterable_dataset().take(1).to_list().len()] // => [[1, 2], 1]
    /// ```
    #[rhai_fn(global, name = "take", return_raw, pure)]
    pub fn take_stream(stream: &mut IterableDataset, count: INT) -> ScriptResult<IterableDataset> {
        Ok(stream.take(rows(count, "take")?))
    }

    #[rhai_fn(global, name = "take", return_raw, pure)]
    pub fn take(dataset: &mut Dataset, count: INT) -> ScriptResult<Dataset> {
        dataset.slice(0, rows(count, "take")?.min(dataset.len())).script()
    }

    /// The rows after the first `count`; none where there are fewer.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// [ds.skip(2).column("n"), ds.to_iterable_dataset().skip(1).to_list().len()] // => [[3], 2]
    /// ```
    #[rhai_fn(global, name = "skip", return_raw, pure)]
    pub fn skip_stream(stream: &mut IterableDataset, count: INT) -> ScriptResult<IterableDataset> {
        Ok(stream.skip(rows(count, "skip")?))
    }

    #[rhai_fn(global, name = "skip", return_raw, pure)]
    pub fn skip(dataset: &mut Dataset, count: INT) -> ScriptResult<Dataset> {
        dataset.slice(rows(count, "skip")?.min(dataset.len()), dataset.len()).script()
    }

    #[rhai_fn(global, name = "to_list", return_raw, pure)]
    pub fn list_of_stream(stream: &mut IterableDataset) -> ScriptResult<Array> {
        stream.rows(0).map(|found| found.script().map(|found| Dynamic::from_map(from_row(&found.row)))).collect()
    }

    #[rhai_fn(global, name = "rename_column", return_raw, pure)]
    pub fn rename_column_of_stream(stream: &mut IterableDataset, old: &str, new: &str) -> ScriptResult<IterableDataset> {
        let pairs = vec![(old.to_string(), new.to_string())];
        let change = ColumnChange::rename(&stream.columns().script()?, pairs).script()?;
        Ok(stream.with_columns(change))
    }

    #[rhai_fn(global, name = "remove_columns", return_raw, pure)]
    pub fn remove_columns_of_stream(stream: &mut IterableDataset, columns: Dynamic) -> ScriptResult<IterableDataset> {
        Ok(stream.with_columns(ColumnChange::Remove(names(&columns, "remove_columns")?)))
    }

    #[rhai_fn(global, name = "select_columns", return_raw, pure)]
    pub fn select_columns_of_stream(stream: &mut IterableDataset, columns: Dynamic) -> ScriptResult<IterableDataset> {
        let (chosen, there) = (names(&columns, "select_columns")?, stream.columns().script()?);
        match chosen.iter().find(|name| !there.contains(name)) {
            None => Ok(stream.with_columns(ColumnChange::Select(chosen))),
            Some(name) => Err(format!("the first row has no column `{name}`; its columns are: {}", there.join(", ")).into()),
        }
    }

    /// The field names of the first row.
    #[rhai_fn(global, get = "column_names", return_raw, pure)]
    pub fn column_names_of_stream(stream: &mut IterableDataset) -> ScriptResult<Array> {
        Ok(stream.columns().script()?.into_iter().map(Dynamic::from).collect())
    }

    /// What the rows are for training: "alpaca", "sharegpt", "messages", "prompt_completion" or "text"; `()` where each row is what
    /// its own fields say.
    #[rhai_fn(global, get = "format", pure)]
    pub fn format_of_stream(stream: &mut IterableDataset) -> Dynamic {
        stream.format().map_or(Dynamic::UNIT, |format| format.name().into())
    }
}

fn rows(count: INT, function: &str) -> ScriptResult<usize> {
    usize::try_from(count).map_err(|_| format!("{function} takes a number of rows of at least 0, but it is {count}").into())
}
