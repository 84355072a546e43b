//! The files that `load_dataset` reads: paths and patterns of a script, the files of a folder, those of a data set of the hub.

use super::context::Context;
use super::error::{IntoScript, ScriptResult};
use crate::data::FileFormat;
use crate::data::hub::HubDataset;
use crate::data::repository::{NoChoice, choose};
use crate::files::names_below;
use rhai::{Array, Dynamic, ImmutableString, Map};
use std::path::{Path, PathBuf};

/// Files of one format, on this machine or still at the hub.
pub struct Files {
    /// What they are.
    pub format: FileFormat,
    place: Place,
}

enum Place {
    Local(Vec<PathBuf>),
    Hub(HubDataset, Vec<String>),
}

impl Files {
    /// One file.
    pub fn one(format: FileFormat, path: PathBuf) -> Self {
        Self { format, place: Place::Local(vec![path]) }
    }

    /// The files that a script names: a path, a pattern, or an array of these.
    ///
    /// # Errors
    /// Something else, an empty array, or a pattern that no file fits.
    pub fn local(session: &Context, format: FileFormat, files: &Dynamic) -> ScriptResult<Self> {
        let text = |value: &Dynamic| match value.read_lock::<ImmutableString>() {
            Some(path) => expanded(session, path.as_str()),
            None => Err(format!(
                "data_files must be a path, an array of paths or a map of splits to paths, not {}",
                value.type_name()
            )
            .into()),
        };
        let paths = match files.read_lock::<Array>() {
            Some(items) if items.is_empty() => return Err("data_files is an empty array: give at least one path".into()),
            Some(items) => items.iter().map(text).collect::<ScriptResult<Vec<_>>>()?.concat(),
            None => text(files)?,
        };
        Ok(Self { format, place: Place::Local(paths) })
    }

    /// The paths; files of the hub are downloaded now.
    ///
    /// # Errors
    /// A file cannot be fetched; Ctrl-C.
    pub fn paths(&self, session: &Context) -> ScriptResult<Vec<PathBuf>> {
        match &self.place {
            Place::Local(paths) => Ok(paths.clone()),
            Place::Hub(data, files) => data.download(files, &session.control).script(),
        }
    }
}

/// The files that a pattern fits, sorted by name; a path without `*`, `?` or `[` is itself.
fn expanded(session: &Context, pattern: &str) -> ScriptResult<Vec<PathBuf>> {
    let path = session.input_path(pattern);
    if path.exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![path]);
    }
    // As other paths: below `--out` where something is there, else as it is.
    for root in [session.output_path(pattern), PathBuf::from(pattern)] {
        let found = glob::glob(&root.to_string_lossy()).map_err(|e| format!("data_files: \"{pattern}\" is no pattern: {e}"))?;
        let mut paths: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
        if !paths.is_empty() {
            paths.sort();
            return Ok(paths);
        }
    }
    Err(format!("data_files: no file fits \"{pattern}\"; `*` stands for a part of a name, `**` for folders").into())
}

/// The splits of a script's map.
///
/// # Errors
/// As [`Files::local`].
pub fn file_splits(session: &Context, format: FileFormat, splits: &Map) -> ScriptResult<Vec<(String, Files)>> {
    splits.iter().map(|(name, files)| Ok((name.to_string(), Files::local(session, format, files)?))).collect()
}

/// The splits in a folder.
///
/// # Errors
/// It has no data files, or not those of this configuration.
pub fn folder_splits(folder: &Path, configuration: Option<&str>) -> ScriptResult<Vec<(String, Files)>> {
    let mut names = Vec::new();
    names_below(folder, &mut names);
    let chosen = choose(&names, configuration).map_err(|why| match why {
        NoChoice::Reason(reason) => format!("{}: {reason}", folder.display()),
        NoChoice::NoData => {
            let found = if names.is_empty() { "nothing".to_string() } else { names.join(", ") };
            format!("{} has no Parquet, JSON, CSV or text files, only {found}", folder.display())
        }
    })?;
    let local = |files: Vec<String>| Place::Local(files.iter().map(|name| folder.join(name)).collect());
    let splits = chosen.splits.into_iter();
    Ok(splits.map(|(name, files)| (name, Files { format: chosen.format, place: local(files) })).collect())
}

/// The splits of a data set of the hub.
///
/// # Errors
/// As [`HubDataset::find`].
pub fn hub_splits(
    name: &str,
    revision: Option<&str>,
    configuration: Option<&str>,
    session: &Context,
) -> ScriptResult<Vec<(String, Files)>> {
    let data = HubDataset::find(name, revision, configuration, &session.control).script()?;
    let (format, splits) = (data.chosen.format, data.chosen.splits.clone());
    Ok(splits.into_iter().map(|(name, files)| (name, Files { format, place: Place::Hub(data.clone(), files) })).collect())
}
