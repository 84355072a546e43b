//! The columns of data sets, and what is done by one of them.

use super::context::context;
use super::convert::to_json;
use super::data_options::{ShardOptions, SortOptions};
use super::data_stream::names;
use super::display::from_json;
use super::error::{IntoScript, ScriptResult};
use super::options::options as parse;
use super::tensor_data::kind;
use crate::data::{ColumnChange, Dataset, columns};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, INT, ImmutableString, Map};

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<SortOptions>(&["sort"], &[]).options::<ShardOptions>(&["shard"], &[]);
    engine.register_global_module(exported_module!(column_functions).into());
}

/// Pairs of old and new names from a map of old to new.
fn pairs(names: &Map, function: &str) -> ScriptResult<Vec<(String, String)>> {
    let pair = |(old, new): (&rhai::Identifier, &Dynamic)| match new.read_lock::<ImmutableString>() {
        Some(new) => Ok((old.to_string(), new.to_string())),
        None => Err(format!("{function}: the new name of `{old}` must be a string, but it is of type {}", kind(new)).into()),
    };
    names.iter().map(pair).collect()
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod column_functions {
    /// The field names, in the order in which the rows first name them.
    #[rhai_fn(global, get = "column_names", pure)]
    pub fn column_names(dataset: &mut Dataset) -> Array {
        dataset.columns().into_iter().map(Dynamic::from).collect()
    }

    /// Number of columns.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1, b: 2 }]).num_columns // => 2
    /// ```
    #[rhai_fn(global, get = "num_columns", pure)]
    pub fn num_columns(dataset: &mut Dataset) -> INT {
        dataset.columns().len() as INT
    }

    /// The numbers of rows and columns.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1, b: 2 }]).shape // => [1, 2]
    /// ```
    #[rhai_fn(global, get = "shape", pure)]
    pub fn shape(dataset: &mut Dataset) -> Array {
        vec![Dynamic::from(dataset.len() as INT), Dynamic::from(dataset.columns().len() as INT)]
    }

    /// The kind of every column by its first value: "string", "int64", "float64", "bool", "list", "struct".
    #[rhai_fn(global, get = "features", return_raw, pure)]
    pub fn features(dataset: &mut Dataset) -> ScriptResult<Map> {
        Ok(columns::kinds(dataset).script()?.into_iter().map(|(name, kind)| (name.into(), kind.into())).collect())
    }

    /// What the rows are for training: "alpaca", "sharegpt", "messages", "prompt_completion" or "text"; `()` where each row is what
    /// its own fields say.
    #[rhai_fn(global, get = "format", pure)]
    pub fn format(dataset: &mut Dataset) -> Dynamic {
        dataset.format().map_or(Dynamic::UNIT, |format| format.name().into())
    }

    /// The rows with a column under another name.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ question: "2 + 2?" }]);
    /// ds.rename_column("question", "prompt").column_names // => ["prompt"]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn rename_column(dataset: &mut Dataset, old: &str, new: &str) -> ScriptResult<Dataset> {
        let change = ColumnChange::rename(&dataset.columns(), vec![(old.to_string(), new.to_string())]).script()?;
        Ok(dataset.with_columns(change))
    }

    /// The rows with columns under other names: a map of old names to new ones.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ q: "2 + 2?", a: "4" }]);
    /// ds.rename_columns(#{ q: "prompt", a: "completion" })[0] // => #{ completion: "4", prompt: "2 + 2?" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn rename_columns(dataset: &mut Dataset, names: Map) -> ScriptResult<Dataset> {
        let change = ColumnChange::rename(&dataset.columns(), pairs(&names, "rename_columns")?).script()?;
        Ok(dataset.with_columns(change))
    }

    /// The rows without a column, or without those of an array of names.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1, b: 2, c: 3 }]).remove_columns(["a", "c"]).column_names // => ["b"]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn remove_columns(dataset: &mut Dataset, columns: Dynamic) -> ScriptResult<Dataset> {
        let columns = names(&columns, "remove_columns")?;
        dataset.check_columns(columns.iter().map(String::as_str)).script()?;
        Ok(dataset.with_columns(ColumnChange::Remove(columns)))
    }

    /// The rows with only these columns, in this order: a name or an array of names.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1, b: 2, c: 3 }]).select_columns(["c", "a"]).column_names // => ["c", "a"]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn select_columns(dataset: &mut Dataset, columns: Dynamic) -> ScriptResult<Dataset> {
        let columns = names(&columns, "select_columns")?;
        dataset.check_columns(columns.iter().map(String::as_str)).script()?;
        Ok(dataset.with_columns(ColumnChange::Select(columns)))
    }

    /// The rows with a further column: its name and an array with a value for every row.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: 1 }, #{ a: 2 }]).add_column("b", ["x", "y"])[1] // => #{ a: 2, b: "y" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn add_column(dataset: &mut Dataset, name: &str, values: Array) -> ScriptResult<Dataset> {
        let values = values.iter().map(to_json).collect::<ScriptResult<Vec<_>>>()?;
        dataset.add_column(name, values).script()
    }

    /// The rows in the order of a column: numbers by size, texts by their characters; rows without a value come last, and rows of
    /// one value keep their order. With `#{ reverse: true }` the largest comes first.
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 2 }, #{ n: 3 }, #{ n: 1 }]);
    /// [ds.sort("n").column("n"), ds.sort("n", #{ reverse: true }).column("n")] // => [[1, 2, 3], [3, 2, 1]]
    /// ```
    #[rhai_fn(global, name = "sort", return_raw, pure)]
    pub fn sort_with(dataset: &mut Dataset, column: &str, options: Map) -> ScriptResult<Dataset> {
        let given: SortOptions = parse("sort", options)?;
        dataset.sort(column, given.reverse).script()
    }

    #[rhai_fn(global, return_raw, pure)]
    pub fn sort(dataset: &mut Dataset, column: &str) -> ScriptResult<Dataset> {
        dataset.sort(column, false).script()
    }

    /// The different values of a column, in the order in which they first come.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ a: "x" }, #{ a: "y" }, #{ a: "x" }]).unique("a") // => ["x", "y"]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn unique(dataset: &mut Dataset, column: &str) -> ScriptResult<Array> {
        Ok(dataset.unique(column).script()?.iter().map(from_json).collect())
    }

    /// One of several parts of about the same size. Options: `num_shards` (how many parts), `index` (which, counted from 0),
    /// `contiguous` (true: a stretch of the rows; false: every `num_shards`-th row).
    ///
    /// ```rhai
    /// let ds = Dataset::from_list([#{ n: 0 }, #{ n: 1 }, #{ n: 2 }]);
    /// let one = ds.shard(#{ num_shards: 2, index: 0 }).column("n");
    /// [one, ds.shard(#{ num_shards: 2, index: 0, contiguous: false }).column("n")] // => [[0, 1], [0, 2]]
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn shard(dataset: &mut Dataset, options: Map) -> ScriptResult<Dataset> {
        let given: ShardOptions = parse("shard", options)?;
        dataset.shard(given.num_shards, given.index, given.contiguous).script()
    }

    /// Writes the rows as CSV with a header line; a list or a map is written as JSON. Fields have commas between them, in a `.tsv` file
    /// tabs; a name that ends in `.gz` is that of a compressed file. The file appears whole or not at all; a relative path is below
    /// `--out`.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ text: "one, two", n: 1 }]).to_csv("rows.csv");
    /// load_dataset("csv", #{ data_files: "rows.csv" })[0] // => #{ n: 1, text: "one, two" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn to_csv(call: NativeCallContext, dataset: &mut Dataset, path: &str) -> ScriptResult<()> {
        dataset.to_csv(&context(&call)?.output_path(path)).script()
    }

    /// Writes the rows as a Parquet file. Lists and maps keep their shape; a column whose values have no kind in common is written as
    /// text. The file appears whole or not at all; a relative path is below `--out`.
    ///
    /// ```rhai
    /// Dataset::from_list([#{ text: "one", ids: [1, 2] }]).to_parquet("rows.parquet");
    /// load_dataset("parquet", #{ data_files: "rows.parquet" })[0] // => #{ ids: [1, 2], text: "one" }
    /// ```
    #[rhai_fn(global, return_raw, pure)]
    pub fn to_parquet(call: NativeCallContext, dataset: &mut Dataset, path: &str) -> ScriptResult<()> {
        dataset.to_parquet(&context(&call)?.output_path(path)).script()
    }
}
