//! `load_dataset`, `concatenate_datasets`, `interleave_datasets` and `create_replay_dataset`.

use super::context::context;
use super::data::{InterleaveOptions, LoadOptions, ReplayOptions, to_dataset};
use super::data_files::{Files, file_splits, folder_splits, hub_splits};
use super::data_options::NamedFormat;
use super::error::{IntoScript, ScriptResult};
use super::options::{OptionMap, options as parse};
use crate::data::read::SampleBy;
use crate::data::{
    ColumnChange, Dataset, FileFormat, IterableDataset, ReadOptions, RowFormat, Split, Turn, bundled,
    create_replay_dataset as replay, hub, interleave,
};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Map};

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<LoadOptions>(&["load_dataset"], &[("data_files", "string | array | map"), ("columns", "map")])
        .options::<InterleaveOptions>(&["interleave_datasets"], &[])
        .options::<ReplayOptions>(&["create_replay_dataset"], &[]);
    engine.register_global_module(exported_module!(loading_functions).into());
}

/// How rows become what the script gets, whatever they come from.
struct Wanted {
    options: LoadOptions,
    read: ReadOptions,
    split: Option<Split>,
    /// Pairs of old and new names.
    columns: Vec<(String, String)>,
}

impl Wanted {
    /// The rows of files as a data set or a stream.
    fn of_files(&self, files: &Files) -> ScriptResult<Dynamic> {
        match self.options.streaming {
            true => self.of_stream(files.stream(&self.read)?),
            false => self.of_dataset(files.read(&self.read)?),
        }
    }

    fn of_dataset(&self, data: Dataset) -> ScriptResult<Dynamic> {
        if self.options.streaming {
            return self.of_stream(IterableDataset::of_dataset(data));
        }
        let mut data = match &self.split {
            Some(split) => split.apply(&data).script()?,
            None => data,
        };
        if !self.columns.is_empty() {
            data = data.with_columns(ColumnChange::rename(&data.columns(), self.columns.clone()).script()?);
        }
        match self.options.format {
            None => {}
            Some(NamedFormat::Auto) => {
                let first = data.non_empty("finding the format").and_then(|data| data.row(0)).script()?;
                data = data.with_format(Some(RowFormat::detect(&first).script()?));
            }
            Some(named) => {
                let format = named.known();
                format.map_or(Ok(()), |format| format.check(&data.columns())).script()?;
                data = data.with_format(format);
            }
        }
        Ok(Dynamic::from(data))
    }

    fn of_stream(&self, stream: IterableDataset) -> ScriptResult<Dynamic> {
        let mut stream = match &self.split {
            Some(split) => split.apply_to_stream(&stream).script()?,
            None => stream,
        };
        if !self.columns.is_empty() {
            stream = stream.with_columns(ColumnChange::rename(&stream.columns().script()?, self.columns.clone()).script()?);
        }
        match self.options.format {
            None => {}
            Some(NamedFormat::Auto) => {
                let first = stream.rows(0).next().ok_or("the format cannot be told: there are no rows")?.script()?;
                stream = stream.with_format(Some(RowFormat::detect(&first.row).script()?));
            }
            Some(named) => {
                let format = named.known();
                format.map_or(Ok(()), |format| stream.columns().and_then(|columns| format.check(&columns))).script()?;
                stream = stream.with_format(format);
            }
        }
        Ok(Dynamic::from(stream))
    }

    /// Refuses what only a data set of the hub has.
    fn check_local(&self, what: &str) -> ScriptResult<()> {
        match &self.options.revision {
            Some(revision) => Err(format!("{what} is on this machine and has no revision \"{revision}\"").into()),
            None => Ok(()),
        }
    }

    /// Refuses what says how files are read, where there are none.
    fn check_bundled(&self, what: &str) -> ScriptResult<()> {
        let given = [
            ("delimiter", self.read.delimiter.is_some()),
            ("sample_by", self.read.sample_by != SampleBy::Line),
            ("field", self.read.field.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(format!("load_dataset: {option} belongs to files; \"{what}\" is bundled").into()),
            None => Ok(()),
        }
    }

    /// Refuses also what asks for one of several splits or configurations, where there is but one.
    fn check_unsplit(&self, what: &str) -> ScriptResult<()> {
        self.check_local(what)?;
        if let Some(split) = self.split.as_ref().filter(|split| split.name != "train") {
            return Err(format!("{what} has no split \"{}\"; it has: train", split.name).into());
        }
        match &self.options.name {
            Some(name) => {
                Err(format!("{what} has no configuration \"{name}\": name belongs to a folder or a data set of the hub").into())
            }
            None => Ok(()),
        }
    }

    /// The split that is wanted, or a map of all.
    fn of_splits(&self, splits: &[(String, Files)], what: &str) -> ScriptResult<Dynamic> {
        let Some(wanted) = &self.split else {
            let parts = splits.iter().map(|(name, files)| Ok((name.as_str().into(), self.of_files(files)?)));
            return Ok(Dynamic::from_map(parts.collect::<ScriptResult<Map>>()?));
        };
        match splits.iter().find(|(name, _)| *name == wanted.name) {
            Some((_, files)) => self.of_files(files),
            None => {
                let names: Vec<&str> = splits.iter().map(|(name, _)| name.as_str()).collect();
                Err(format!("{what} has no split \"{}\"; it has: {}", wanted.name, names.join(", ")).into())
            }
        }
    }
}

fn load(call: &NativeCallContext, kind: &str, map: Map) -> ScriptResult<Dynamic> {
    let split = map.get("split").and_then(|split| split.clone().into_string().ok());
    let Some(several) = split.filter(|split| split.contains('+')) else { return load_split(call, kind, map) };
    let part = |split: &str| -> ScriptResult<Dataset> {
        let mut options = map.clone();
        options.insert("split".into(), split.trim().into());
        let data = load_split(call, kind, options)?.try_cast::<Dataset>();
        data.ok_or_else(|| "load_dataset: a stream is of one split; load each by itself".into())
    };
    let parts = several.split('+').map(part).collect::<ScriptResult<Vec<_>>>()?;
    Ok(Dynamic::from(Dataset::concatenate(&parts)))
}

fn load_split(call: &NativeCallContext, kind: &str, map: Map) -> ScriptResult<Dynamic> {
    let session = context(call)?;
    let mut map = OptionMap::new("load_dataset", map);
    let files = map.take_any("data_files");
    let columns = map.take_any("columns").map(|columns| old_and_new(&columns)).transpose()?.unwrap_or_default();
    let options: LoadOptions = map.parse()?;
    let split = options.split.as_deref().map(Split::parse).transpose().script()?;
    let delimiter = options.delimiter_byte().script()?;
    let (sample_by, field) = (options.sample_by, options.field.clone());
    let read = ReadOptions { delimiter, sample_by, field, control: session.control.clone() };
    let wanted = Wanted { options, read, split, columns };
    if let Some(format) = FileFormat::from_name(kind) {
        let Some(files) = files else {
            return Err(format!(
                "load_dataset(\"{kind}\") needs files: load_dataset(\"{kind}\", #{{ data_files: \"my.{kind}\" }})"
            )
            .into());
        };
        return match files.read_lock::<Map>() {
            Some(splits) => {
                wanted.check_local("data_files")?;
                wanted.of_splits(&file_splits(&session, format, &splits)?, "data_files")
            }
            None => {
                wanted.check_unsplit("data_files")?;
                wanted.of_files(&Files::local(&session, format, &files)?)
            }
        };
    }
    if files.is_some() {
        return Err(match bundled::load(kind).script()? {
            Some(_) => format!("\"{kind}\" is bundled and takes no data_files; own files: load_dataset(\"json\", ..)").into(),
            None => format!("data_files goes with a format: load_dataset(\"json\", #{{ data_files: .. }}), not with \"{kind}\"")
                .into(),
        });
    }
    if let Some(data) = bundled::load(kind).script()? {
        wanted.check_unsplit(kind)?;
        wanted.check_bundled(kind)?;
        return wanted.of_dataset(data);
    }
    let path = session.input_path(kind);
    if path.is_dir() {
        wanted.check_local(kind)?;
        let splits = folder_splits(&path, wanted.options.name.as_deref(), &session)?;
        return wanted.of_splits(&splits, kind);
    }
    // A path in place of a format: its suffix says what it is.
    match FileFormat::from_path(&path) {
        Some(format) if path.exists() || !hub::is_hub_name(kind) => {
            wanted.check_unsplit(kind)?;
            wanted.of_files(&Files::one(format, path))
        }
        _ if hub::is_hub_name(kind) => {
            let (name, revision) = (wanted.options.name.as_deref(), wanted.options.revision.as_deref());
            let splits = hub_splits(kind, revision, name, &session)?;
            wanted.of_splits(&splits, kind)
        }
        _ => Err(bundled::unknown(kind).to_string().into()),
    }
}

/// The data sets of an array, of which each may be an array of maps.
fn parts(datasets: &Array, function: &str) -> ScriptResult<Vec<Dataset>> {
    datasets.iter().enumerate().map(|(i, value)| to_dataset(value, &format!("{function}: item {i}"))).collect()
}

/// The option `columns`, a map of new names to old ones, as pairs of an old and a new name.
fn old_and_new(columns: &Dynamic) -> ScriptResult<Vec<(String, String)>> {
    let wrong = || {
        "load_dataset: columns must be a map of the names that are wanted to those in the file: #{ prompt: \"question\" }".into()
    };
    let Some(map) = columns.read_lock::<Map>() else { return Err(wrong()) };
    map.iter().map(|(new, old)| Ok((old.clone().into_string().map_err(|_| wrong())?, new.to_string()))).collect()
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod loading_functions {
    /// A data set from files, from the hub or from the program itself. The first argument is
    /// - "json" (JSON Lines or an array), "csv", "parquet" or "text" with `data_files`: a path, a pattern such as "data/*.jsonl", an
    ///   array of these, or a map of split names to these, which gives a map of data sets. Files of gzip are decompressed; of a JSON
    ///   file that is one object, `field` names the field that holds the rows;
    /// - the path of a file whose suffix says what it is, or of a folder of such files;
    /// - a data set of the Hugging Face hub, "org/name": its Parquet, JSON, CSV or text files. Without `split` it gives a map of data
    ///   sets. `name` chooses among several configurations, `revision` a branch, tag or commit. `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`
    ///   and `HF_HUB_OFFLINE` are honoured. Files are kept in the hub's cache until they change;
    /// - a bundled name: "drug_qa", "general_qa", "general_text".
    ///
    /// Which files of a folder or a hub data set make which split is said by `configs:` in the header of its README.md, and else by
    /// their names: `train`, `validation` or `test` in a folder's or file's name. What has no splits is `train`.
    ///
    /// Options: `split` ("train[:100]", "train[10%:20%]", "train+test"), `delimiter` (CSV), `sample_by` (text: "line", "paragraph",
    /// "document"), `columns` (a map of the names that are wanted to those in the file), `format` (what training takes every row for: "alpaca",
    /// "sharegpt", "messages", "prompt_completion", "text", or "auto", that of the first row; by default each row is what its own fields
    /// say), `streaming` (true: a stream, whose rows are read as they are asked for and never held; a file of the hub is downloaded in
    /// full when the stream comes to it). Of CSV only an empty cell is null, not `NA` or `NaN`, and a column without a name is called by
    /// its place, `Unnamed: 0`, as pandas has it. Large files are not held in memory without `streaming` either, and can be shuffled in
    /// full.
    ///
    /// ```rhai
    /// let ds = load_dataset("general_qa", #{ split: "train[:3]" });
    /// ds.len() // => 3
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load_dataset(call: NativeCallContext, name: &str, options: Map) -> ScriptResult<Dynamic> {
        load(&call, name, options)
    }

    #[rhai_fn(name = "load_dataset", return_raw)]
    pub fn load_dataset_default(call: NativeCallContext, name: &str) -> ScriptResult<Dynamic> {
        load(&call, name, Map::new())
    }

    /// All rows of the first data set, then all of the next, and so on.
    ///
    /// ```rhai
    /// let a = Dataset::from_list([#{ n: 1 }]);
    /// let b = Dataset::from_list([#{ n: 2 }]);
    /// concatenate_datasets([a, b]).column("n") // => [1, 2]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn concatenate_datasets(datasets: Array) -> ScriptResult<Dataset> {
        Ok(Dataset::concatenate(&parts(&datasets, "concatenate_datasets")?))
    }

    /// Rows of several data sets in turn. Options: `probabilities` (how likely each is to give the next row, instead of in turn),
    /// `seed` (the session's), `stopping_strategy` ("first_exhausted": the mix ends when one data set has ended; "all_exhausted": when
    /// all have, and those that end earlier begin again; "all_exhausted_without_replacement": every row once). With a seed the order
    /// is that of `datasets`.
    ///
    /// ```rhai
    /// let a = Dataset::from_list([#{ n: 1 }, #{ n: 2 }]);
    /// let b = Dataset::from_list([#{ n: 10 }, #{ n: 20 }, #{ n: 30 }]);
    /// interleave_datasets([a, b]).column("n") // => [1, 10, 2, 20]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn interleave_datasets(call: NativeCallContext, datasets: Array, options: Map) -> ScriptResult<Dataset> {
        let given: InterleaveOptions = parse("interleave_datasets", options)?;
        let session = context(&call)?;
        let seed = match given.seed {
            Some(seed) => seed,
            None if given.probabilities.is_some() => u64::from(session.random.borrow_mut().next_u32()),
            None => 0,
        };
        let turn = given.probabilities.as_deref().map_or(Turn::Cycle, |probabilities| Turn::Chance { probabilities, seed });
        let parts = parts(&datasets, "interleave_datasets")?;
        interleave(&parts, turn, given.stopping_strategy, &session.control).script()
    }

    #[rhai_fn(name = "interleave_datasets", return_raw)]
    pub fn interleave_datasets_default(call: NativeCallContext, datasets: Array) -> ScriptResult<Dataset> {
        interleave_datasets(call, datasets, Map::new())
    }

    /// Mixes general rows into the rows of a narrow task, so that training rehearses what it could forget. Both are data sets
    /// or arrays of maps. Options: `replay_fraction` (0.15), `seed` (42), `of` ("domain": a fraction of the domain rows, as
    /// the lesson counts; "total": a fraction of the mixed set). Too few general rows: all are used once, with a warning.
    ///
    /// ```rhai
    /// let domain = load_dataset("general_text").select(0..20);
    /// let general = load_dataset("general_text").select(20..40);
    /// create_replay_dataset(domain, general, #{ replay_fraction: 0.15 }).len() // => 23
    /// ```
    #[rhai_fn(return_raw)]
    pub fn create_replay_dataset(
        call: NativeCallContext,
        domain_data: Dynamic,
        general_data: Dynamic,
        options: Map,
    ) -> ScriptResult<Dataset> {
        let given: ReplayOptions = parse("create_replay_dataset", options)?;
        let domain = to_dataset(&domain_data, "create_replay_dataset: domain_data")?;
        let general = to_dataset(&general_data, "create_replay_dataset: general_data")?;
        let mixed = replay(&domain, &general, given.replay_fraction, given.seed, given.of).script()?;
        if mixed.shortfall > 0 {
            let wanted = mixed.replayed + mixed.shortfall;
            let share = 100.0 * mixed.replayed as f64 / mixed.dataset.len() as f64;
            context(&call)?.control.warn(format!(
                "create_replay_dataset: {wanted} general rows wanted, but there are {}; all are used once, which makes {share:.0} % of the mix",
                mixed.replayed
            ));
        }
        Ok(mixed.dataset)
    }

    #[rhai_fn(name = "create_replay_dataset", return_raw)]
    pub fn create_replay_dataset_default(
        call: NativeCallContext,
        domain_data: Dynamic,
        general_data: Dynamic,
    ) -> ScriptResult<Dataset> {
        create_replay_dataset(call, domain_data, general_data, Map::new())
    }
}
