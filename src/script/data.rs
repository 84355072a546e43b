//! Data sets: making, reading, cutting and mixing them.

use super::context::context;
use super::convert::{from_row, to_row};
use super::display::{self, from_json};
use super::error::{IntoScript, ScriptResult, positioned};
use super::options::options as parse;
use super::show_values::TableOptions;
use super::tensor_data::kind;
use crate::data::{Dataset, Row, RowWriter};
use crate::random::Random;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr, INT, Map, Module};
use std::any::TypeId;
use std::ops::{Range, RangeInclusive};

pub use super::data_options::{LoadOptions, ReplayOptions, ShuffleOptions, SplitOptions};

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<ShuffleOptions>(&["shuffle"], &[]).options::<SplitOptions>(
        &["train_test_split"],
        // A fraction or a number of rows.
        &[("test_size", "float | int = 0.25")],
    );
    engine.register_type_with_name::<Dataset>("Dataset");
    display::register_with_html::<Dataset>(
        Dataset::to_string,
        |data| data.iter().map_while(|row| row.ok().map(|row| serde_json::Value::Object((*row).clone()))).collect(),
        |data| super::show_values::table_of_dataset(data, TableOptions::default()).html(),
    );
    engine.register_static_module("Dataset", exported_module!(dataset_constructors).into());
    let mut module: Module = exported_module!(dataset_functions);
    module.set_iter_result(TypeId::of::<Dataset>(), |value: Dynamic| {
        let data = value.cast::<Dataset>();
        Box::new((0..data.len()).map(move |i| data.row(i).script().map(|row| Dynamic::from_map(from_row(&row)))))
    });
    engine.register_global_module(module.into());
    super::data_columns::register(engine);
    super::data_stream::register(engine);
    super::data_describe::register(engine);
    super::data_loading::register(engine);
}

/// Rows of an array of maps.
///
/// # Errors
/// An item is not a map, or holds what is not data.
pub fn dataset_from_array(items: &[Dynamic]) -> ScriptResult<Dataset> {
    let row = |(i, item): (usize, &Dynamic)| match item.read_lock::<Map>() {
        Some(map) => to_row(&map).map_err(|e| format!("row {i}: {}", inner_message(&e)).into()),
        None => {
            let message = format!("row {i} must be a map such as #{{ text: \"..\" }}, but it is of type {}", kind(item));
            Err(message.into())
        }
    };
    Ok(Dataset::from_list(items.iter().enumerate().map(row).collect::<ScriptResult<_>>()?))
}

/// A data set, or an array of maps as one; `what` names the argument.
///
/// # Errors
/// Neither of the two.
pub fn to_dataset(value: &Dynamic, what: &str) -> ScriptResult<Dataset> {
    if let Some(data) = value.read_lock::<Dataset>() {
        return Ok(data.clone());
    }
    match value.read_lock::<Array>() {
        Some(items) => dataset_from_array(&items),
        None => Err(format!("{what} must be a Dataset or an array of maps, but it is of type {}", kind(value)).into()),
    }
}

/// An error's own words, without the "Runtime error" that the engine adds around them.
pub(super) fn inner_message(error: &EvalAltResult) -> String {
    match error {
        EvalAltResult::ErrorRuntime(message, _) => message.to_string(),
        other => other.to_string(),
    }
}

/// What a closure made of a row, which must be a map; `place` is what messages call the row.
pub(super) fn made_row(made: &Dynamic, like: &Row, place: &str) -> ScriptResult<Row> {
    match made.read_lock::<Map>() {
        Some(map) => ordered_row(&map, like).map_err(|e| format!("{place}: {}", inner_message(&e)).into()),
        None => Err(format!("{place} became a value of type {}; the closure must return a map", kind(made)).into()),
    }
}

/// A closure's map as a row, with the fields of the old row first and in their order, since script maps are sorted by name.
fn ordered_row(map: &Map, like: &Row) -> ScriptResult<Row> {
    let mut fields = to_row(map)?;
    let mut row: Row = like.keys().filter_map(|key| fields.remove_entry(key)).collect();
    row.extend(fields);
    Ok(row)
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod dataset_constructors {
    /// A data set of these rows, each a map of field names to values.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ text: "one" }, #{ text: "two" }]);
    /// ds.len() // => 2
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_list(call: NativeCallContext, rows: Array) -> ScriptResult<Dataset> {
        positioned(&call, dataset_from_array(&rows))
    }
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod dataset_functions {
    /// Number of rows.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ text: "one" }]).len() // => 1
    /// ```
    #[rhai_fn(global, pure)]
    pub fn len(dataset: &mut Dataset) -> INT {
        dataset.len() as INT
    }

    /// Number of rows.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ text: "one" }]).num_rows // => 1
    /// ```
    #[rhai_fn(global, get = "num_rows", pure)]
    pub fn num_rows(dataset: &mut Dataset) -> INT {
        dataset.len() as INT
    }

    /// The field names, in the order in which the rows first name them.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1 }, #{ a: 2, b: 3 }]).columns // => ["a", "b"]
    /// ```
    #[rhai_fn(global, get = "columns", pure)]
    pub fn columns(dataset: &mut Dataset) -> Array {
        dataset.columns().into_iter().map(Dynamic::from).collect()
    }

    /// One field of every row, as an array; `()` where a row lacks it.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1 }, #{ a: 2 }]).column("a") // => [1, 2]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn column(dataset: &mut Dataset, name: &str) -> ScriptResult<Array> {
        Ok(dataset.column(name).script()?.iter().map(from_json).collect())
    }

    /// Row `index` as a map; a negative index counts from the end. With a name: that column.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ text: "one" }, #{ text: "two" }]);
    /// [ds[0].text, ds[-1].text] // => ["one", "two"]
    /// ```
    #[rhai_fn(global, index_get, return_raw, pure)]
    pub fn get_row(dataset: &mut Dataset, index: INT) -> ScriptResult<Map> {
        Ok(from_row(&*dataset.get(index).script()?))
    }

    #[rhai_fn(global, index_get, return_raw, pure)]
    pub fn get_column(dataset: &mut Dataset, name: &str) -> ScriptResult<Array> {
        column(dataset, name)
    }

    /// All rows as an array of maps.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1 }]).to_list() // => [#{ a: 1 }]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn to_list(dataset: &mut Dataset) -> ScriptResult<Array> {
        dataset.iter().map(|row| row.script().map(|row| Dynamic::from_map(from_row(&row)))).collect()
    }

    /// The rows in random order, that of `torch.randperm`; `#{ seed: 42 }` makes it the same order every time, otherwise the session's
    /// seed decides. A stream is shuffled as it comes, with `buffer_size` (1000) rows at hand: each time one of them is given out at
    /// random (`torch.randint`) and the next row takes its place; every epoch has an order of its own.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// ds.shuffle(#{ seed: 42 }).len() // => 3
    /// ```
    #[rhai_fn(global, name = "shuffle", return_raw, pure)]
    pub fn shuffle_with(call: NativeCallContext, dataset: &mut Dataset, options: Map) -> ScriptResult<Dataset> {
        let given: ShuffleOptions = parse("shuffle", options)?;
        if given.buffer_size.is_some() {
            return Err("shuffle: buffer_size belongs to a stream; a data set is shuffled in full".into());
        }
        match given.seed {
            Some(seed) => Ok(dataset.shuffle(&mut Random::new(seed))),
            None => shuffle(call, dataset),
        }
    }

    #[rhai_fn(global, return_raw, pure)]
    pub fn shuffle(call: NativeCallContext, dataset: &mut Dataset) -> ScriptResult<Dataset> {
        Ok(dataset.shuffle(&mut context(&call)?.random.borrow_mut()))
    }

    /// The rows of a range, or at the positions of an array.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// [ds.select(0..2).column("n"), ds.select([2, 0]).column("n")] // => [[1, 2], [3, 1]]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn select(dataset: &mut Dataset, range: Range<INT>) -> ScriptResult<Dataset> {
        dataset.select(range).script()
    }

    #[rhai_fn(global, name = "select", return_raw, pure)]
    pub fn select_inclusive(dataset: &mut Dataset, range: RangeInclusive<INT>) -> ScriptResult<Dataset> {
        dataset.select(range).script()
    }

    #[rhai_fn(global, name = "select", return_raw, pure)]
    pub fn select_indices(dataset: &mut Dataset, indices: Array) -> ScriptResult<Dataset> {
        let index =
            |item: &Dynamic| item.as_int().map_err(|kind| format!("select takes row numbers, but one is of type {kind}").into());
        dataset.select(indices.iter().map(index).collect::<ScriptResult<Vec<_>>>()?).script()
    }

    /// Splits the rows into `train` and `test` after shuffling. Options: `test_size` (a fraction, or a number of rows; 0.25),
    /// `seed` (the session's), `shuffle` (true; false keeps the order, and the last rows are the test part).
    ///
    /// ```rhai
    /// let ds = load_dataset("general_text").select(0..10);
    /// let parts = ds.train_test_split(#{ test_size: 0.2, seed: 42 });
    /// [parts.train.len(), parts.test.len()] // => [8, 2]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn train_test_split(call: NativeCallContext, dataset: &mut Dataset, options: Map) -> ScriptResult<Map> {
        let given: SplitOptions = parse("train_test_split", options)?;
        let size = given.size().script()?;
        let (train, test) = match (given.shuffle, given.seed) {
            (false, _) => dataset.train_test_split(size, None),
            (true, Some(seed)) => dataset.train_test_split(size, Some(&mut Random::new(seed))),
            (true, None) => dataset.train_test_split(size, Some(&mut context(&call)?.random.borrow_mut())),
        }
        .script()?;
        Ok(Map::from_iter([("train".into(), Dynamic::from(train)), ("test".into(), Dynamic::from(test))]))
    }

    #[rhai_fn(global, name = "train_test_split", return_raw, pure)]
    pub fn train_test_split_default(call: NativeCallContext, dataset: &mut Dataset) -> ScriptResult<Map> {
        train_test_split(call, dataset, Map::new())
    }

    /// A data set of what the closure makes of each row. It must return a map; as in `datasets`, fields that it does not
    /// return are gone only if it returns a new map: change and return `row` to keep them.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ q: "2 + 2?", a: "4" }]);
    /// ds.map(|row| #{ prompt: row.q, completion: row.a })[0] // => #{ completion: "4", prompt: "2 + 2?" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn map(call: NativeCallContext, dataset: &mut Dataset, change: FnPtr) -> ScriptResult<Dataset> {
        let session = context(&call)?;
        let mut rows = RowWriter::new(session.control.clone());
        for (i, row) in dataset.iter().enumerate() {
            session.control.check().script()?;
            let row = row.script()?;
            let made: Dynamic = change.call_within_context(&call, (from_row(&row),))?;
            rows.push(made_row(&made, &row, &format!("map: row {i}"))?).script()?;
        }
        rows.finish().script()
    }

    /// The rows for which the closure returns true.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// ds.filter(|row| row.n > 1).column("n") // => [2, 3]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn filter(call: NativeCallContext, dataset: &mut Dataset, keep: FnPtr) -> ScriptResult<Dataset> {
        let session = context(&call)?;
        let mut kept = Vec::new();
        for (i, row) in dataset.iter().enumerate() {
            session.control.check().script()?;
            let answer: Dynamic = keep.call_within_context(&call, (from_row(&*row.script()?),))?;
            match answer.as_bool() {
                Ok(true) => kept.push(i as i64),
                Ok(false) => {}
                Err(kind) => {
                    return Err(
                        format!("filter: the closure must return true or false, but for row {i} it returned {kind}").into()
                    );
                }
            }
        }
        dataset.select(kept).script()
    }

    /// Writes the rows as JSON Lines. The file appears whole or not at all; a relative path is below `--out`.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ text: "one" }]).to_json("rows.jsonl");
    /// load_dataset("json", #{ data_files: "rows.jsonl" })[0].text // => "one"
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn to_json(call: NativeCallContext, dataset: &mut Dataset, path: &str) -> ScriptResult<()> {
        dataset.to_json(&context(&call)?.output_path(path)).script()
    }
}
