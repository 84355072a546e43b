//! Data sets: making, reading, cutting and mixing them.

use super::context::context;
use super::convert::{from_row, to_json, to_row};
use super::display::{self, from_json};
use super::error::{IntoScript, ScriptResult, called_for, positioned};
use super::options::options as parse;
use super::show_values::TableOptions;
use super::tensor_data::kind;
use crate::data::{Dataset, Row, RowWriter};
use crate::random::Random;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr, INT, Map, Module};
use serde_json::Value;
use std::any::TypeId;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

pub use super::data_options::{EachRowOptions, InterleaveOptions, LoadOptions, ReplayOptions, ShuffleOptions, SplitOptions};

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<ShuffleOptions>(&["shuffle"], &[])
        .options::<EachRowOptions>(&["map", "filter"], &[])
        .options::<SplitOptions>(
            &["train_test_split"],
            // Fractions or numbers of rows.
            &[("test_size", "float | int = 0.25"), ("train_size", "float | int")],
        );
    engine.register_type_with_name::<Dataset>("Dataset");
    display::register_with_html::<Dataset>(
        Dataset::to_string,
        |data| data.iter().map_while(|row| row.ok().map(|row| Value::Object((*row).clone()))).collect(),
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

/// Rows of a map of columns.
///
/// # Errors
/// A column is no array, has not as many values as the others, or holds what is not data.
fn dataset_from_columns(columns: &Map) -> ScriptResult<Dataset> {
    let mut rows: Vec<Row> = Vec::new();
    for (i, (name, column)) in columns.iter().enumerate() {
        let Some(values) = column.read_lock::<Array>() else {
            let what = "must be an array with a value for every row";
            return Err(format!("column `{name}` {what}, but it is of type {}", kind(column)).into());
        };
        if i == 0 {
            rows.resize_with(values.len(), Row::new);
        }
        if values.len() != rows.len() {
            let counts = format!("{} values, but the columns before it have {}", values.len(), rows.len());
            return Err(format!("column `{name}` has {counts}; there must be one a row").into());
        }
        for (number, (row, value)) in rows.iter_mut().zip(values.iter()).enumerate() {
            let value = to_json(value).map_err(|e| format!("column `{name}`, row {number}: {}", inner_message(&e)))?;
            row.insert(name.to_string(), value);
        }
    }
    Ok(Dataset::from_list(rows))
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

/// What a closure returns for every row of a data set; where it fails, the message says for which row.
fn for_each_row(
    call: &NativeCallContext,
    dataset: &Dataset,
    (function, closure): (&str, &FnPtr),
    options: &EachRowOptions,
    mut take: impl FnMut(usize, &Row, Dynamic) -> ScriptResult<()>,
) -> ScriptResult<()> {
    let session = context(call)?;
    for (i, row) in dataset.iter().enumerate() {
        session.control.check().script()?;
        let row = row.script()?;
        let answer: ScriptResult<Dynamic> = match options.with_indices {
            true => closure.call_within_context(call, (from_row(&row), i as INT)),
            false => closure.call_within_context(call, (from_row(&row),)),
        };
        let answer =
            answer.map_err(|error| called_for(&format!("{function}: row {}", dataset.place(i)), error, call.engine()))?;
        take(i, &row, answer)?;
    }
    Ok(())
}

/// What a closure made of a row, which must be a map; `place` is what messages call the row.
pub(super) fn made_row(made: &Dynamic, like: &Row, place: &dyn Display) -> ScriptResult<Row> {
    match made.read_lock::<Map>() {
        Some(map) => ordered_row(&map, like).map_err(|e| format!("{place}: {}", inner_message(&e)).into()),
        None => Err(format!("{place} became a value of type {}; the closure must return a map", kind(made)).into()),
    }
}

/// A closure's map as a row, with the fields of the old row first and in their order, since script maps are sorted by name.
fn ordered_row(map: &Map, like: &Row) -> ScriptResult<Row> {
    let mut fields = to_row(map)?;
    let same = |(key, value): (String, Value)| match like.get(&key) {
        // An integer beyond the script's reaches the closure as the nearest float; what comes back unchanged is the integer again.
        Some(Value::Number(old)) if !old.is_i64() && old.is_u64() && value.is_f64() && value.as_f64() == old.as_f64() => {
            (key, Value::Number(old.clone()))
        }
        _ => (key, value),
    };
    let mut row: Row = like.keys().filter_map(|key| fields.remove_entry(key)).map(same).collect();
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

    /// A data set of these columns: a map of field names to arrays with a value for every row.
    ///
    /// ```rhai
    /// Dataset::from_dict(#{ a: [1, 2], b: ["x", "y"] })[1] // => #{ a: 2, b: "y" }
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_dict(call: NativeCallContext, columns: Map) -> ScriptResult<Dataset> {
        positioned(&call, dataset_from_columns(&columns))
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
        let index = |item: &Dynamic| {
            item.as_int().map_err(|_| format!("select takes row numbers, but one is of type {}", kind(item)).into())
        };
        dataset.select(indices.iter().map(index).collect::<ScriptResult<Vec<_>>>()?).script()
    }

    /// Splits the rows into `train` and `test` after shuffling. Options: `test_size` (a fraction, or a number of rows; 0.25),
    /// `train_size` (the same; what `test_size` leaves), `seed` (the session's), `shuffle` (true; false keeps the order, and the test
    /// rows are those behind the training rows).
    ///
    /// ```rhai
    /// let ds = load_dataset("general_text").select(0..10);
    /// let parts = ds.train_test_split(#{ test_size: 0.2, seed: 42 });
    /// [parts.train.len(), parts.test.len()] // => [8, 2]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn train_test_split(call: NativeCallContext, dataset: &mut Dataset, options: Map) -> ScriptResult<Map> {
        let given: SplitOptions = parse("train_test_split", options)?;
        let (train, test) = given.sizes().script()?;
        let (train, test) = match (given.shuffle, given.seed) {
            (false, _) => dataset.split(train, test, None),
            (true, Some(seed)) => dataset.split(train, test, Some(&mut Random::new(seed))),
            (true, None) => dataset.split(train, test, Some(&mut context(&call)?.random.borrow_mut())),
        }
        .script()?;
        Ok(Map::from_iter([("train".into(), Dynamic::from(train)), ("test".into(), Dynamic::from(test))]))
    }

    #[rhai_fn(global, name = "train_test_split", return_raw, pure)]
    pub fn train_test_split_default(call: NativeCallContext, dataset: &mut Dataset) -> ScriptResult<Map> {
        train_test_split(call, dataset, Map::new())
    }

    /// A data set of what the closure makes of each row. It must return a map; as in `datasets`, fields that it does not
    /// return are gone only if it returns a new map: change and return `row` to keep them. With `#{ with_indices: true }` the
    /// closure also gets the row's number, counted from 0.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ q: "2 + 2?", a: "4" }]);
    /// ds.map(|row| #{ prompt: row.q, completion: row.a })[0] // => #{ completion: "4", prompt: "2 + 2?" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn map(call: NativeCallContext, dataset: &mut Dataset, change: FnPtr) -> ScriptResult<Dataset> {
        map_with(call, dataset, change, Map::new())
    }

    #[rhai_fn(global, name = "map", return_raw, pure)]
    pub fn map_with(call: NativeCallContext, dataset: &mut Dataset, change: FnPtr, options: Map) -> ScriptResult<Dataset> {
        let given: EachRowOptions = parse("map", options)?;
        let (data, mut rows): (&Dataset, _) = (dataset, RowWriter::new(context(&call)?.control.clone()));
        for_each_row(&call, data, ("map", &change), &given, |i, row, made| {
            rows.push(made_row(&made, row, &format_args!("map: row {}", data.place(i)))?).script()
        })?;
        rows.finish().script()
    }

    /// The rows for which the closure returns true. With `#{ with_indices: true }` the closure also gets the row's number, counted
    /// from 0.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 1 }, #{ n: 2 }, #{ n: 3 }]);
    /// ds.filter(|row| row.n > 1).column("n") // => [2, 3]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn filter(call: NativeCallContext, dataset: &mut Dataset, keep: FnPtr) -> ScriptResult<Dataset> {
        filter_with(call, dataset, keep, Map::new())
    }

    #[rhai_fn(global, name = "filter", return_raw, pure)]
    pub fn filter_with(call: NativeCallContext, dataset: &mut Dataset, keep: FnPtr, options: Map) -> ScriptResult<Dataset> {
        let given: EachRowOptions = parse("filter", options)?;
        let (data, mut kept): (&Dataset, _) = (dataset, Vec::new());
        for_each_row(&call, data, ("filter", &keep), &given, |i, _, answer| {
            match answer.as_bool() {
                Ok(true) => kept.push(i as i64),
                Ok(false) => {}
                Err(_) => {
                    let got = format!("for row {} it returned {}", data.place(i), kind(&answer));
                    return Err(format!("filter: the closure must return true or false, but {got}").into());
                }
            }
            Ok(())
        })?;
        data.select(kept).script()
    }

    /// Writes the rows as JSON Lines, compressed where the name ends in `.gz`. The file appears whole or not at all; a relative path
    /// is below `--out`.
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
