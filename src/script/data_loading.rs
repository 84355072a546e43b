//! `load_dataset`, `concatenate_datasets` and `create_replay_dataset`.

use super::context::context;
use super::data::{LoadOptions, ReplayOptions, to_dataset};
use super::error::{IntoScript, ScriptResult};
use super::options::{OptionMap, options as parse};
use crate::data::{Dataset, FileFormat, ReadOptions, Split, bundled, create_replay_dataset as replay, read_files};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, ImmutableString, Map};
use std::path::PathBuf;

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<LoadOptions>(&["load_dataset"], &[("data_files", "string | array | map")])
        .options::<ReplayOptions>(&["create_replay_dataset"], &[]);
    engine.register_global_module(exported_module!(loading_functions).into());
}

fn paths(call: &NativeCallContext, files: &Dynamic) -> ScriptResult<Vec<PathBuf>> {
    let session = context(call)?;
    let text = |value: &Dynamic| match value.read_lock::<ImmutableString>() {
        Some(path) => Ok(session.input_path(path.as_str())),
        None => {
            Err(format!("data_files must be a path, an array of paths or a map of splits to paths, not {}", value.type_name())
                .into())
        }
    };
    match files.read_lock::<Array>() {
        Some(items) if items.is_empty() => Err("data_files is an empty array: give at least one path".into()),
        Some(items) => items.iter().map(text).collect(),
        None => Ok(vec![text(files)?]),
    }
}

fn load(call: &NativeCallContext, kind: &str, map: Map) -> ScriptResult<Dynamic> {
    let mut map = OptionMap::new("load_dataset", map);
    let files = map.take_any("data_files");
    let given: LoadOptions = map.parse()?;
    let split = given.split.as_deref().map(Split::parse).transpose().script()?;
    let cut = |data: Dataset| match &split {
        Some(split) => split.apply(&data).script(),
        None => Ok(data),
    };
    let Some(format) = FileFormat::from_name(kind) else {
        if let Some(data) = bundled::load(kind).script()? {
            if files.is_some() {
                return Err(
                    format!("\"{kind}\" is bundled and takes no data_files; own files: load_dataset(\"json\", ..)").into()
                );
            }
            return Ok(Dynamic::from(cut(data)?));
        }
        // A path in place of a format: its suffix says what it is.
        let path = context(call)?.input_path(kind);
        return match FileFormat::from_path(&path) {
            Some(format) if files.is_none() => Ok(Dynamic::from(cut(read(format, &[path], &given)?)?)),
            _ => Err(bundled::unknown(kind)).script(),
        };
    };
    let Some(files) = files else {
        return Err(
            format!("load_dataset(\"{kind}\") needs files: load_dataset(\"{kind}\", #{{ data_files: \"my.{kind}\" }})").into()
        );
    };
    let Some(splits) = files.read_lock::<Map>() else {
        return Ok(Dynamic::from(cut(read(format, &paths(call, &files)?, &given)?)?));
    };
    if let Some(wanted) = &split {
        let Some(files) = splits.get(wanted.name.as_str()) else {
            let names: Vec<_> = splits.keys().map(ToString::to_string).collect();
            return Err(format!("data_files has no split \"{}\"; it has: {}", wanted.name, names.join(", ")).into());
        };
        return Ok(Dynamic::from(cut(read(format, &paths(call, files)?, &given)?)?));
    }
    let parts = splits.iter().map(|(name, files)| Ok((name.clone(), Dynamic::from(read(format, &paths(call, files)?, &given)?))));
    Ok(Dynamic::from_map(parts.collect::<ScriptResult<Map>>()?))
}

fn read(format: FileFormat, paths: &[PathBuf], given: &LoadOptions) -> ScriptResult<Dataset> {
    let delimiter = given.delimiter_byte().script()?;
    read_files(format, paths, ReadOptions { delimiter, sample_by: given.sample_by }).script()
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod loading_functions {
    /// A data set from files or from the program itself. The first argument is "json" (JSON Lines or an array), "csv",
    /// "parquet" or "text" with `data_files` (a path, an array of paths, or a map of split names to paths, which gives a map
    /// of data sets), a path whose suffix says what it is, or a bundled name: "drug_qa", "general_qa", "general_text".
    /// Options: `split` ("train[:100]", "train[10%:20%]"), `delimiter` (CSV), `sample_by` (text: "line", "paragraph",
    /// "document").
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
        let part = |(i, value): (usize, &Dynamic)| to_dataset(value, &format!("concatenate_datasets: item {i}"));
        let parts = datasets.iter().enumerate().map(part).collect::<ScriptResult<Vec<_>>>()?;
        Ok(Dataset::concatenate(&parts))
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
