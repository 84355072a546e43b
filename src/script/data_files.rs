//! The files that `load_dataset` reads: paths and patterns of a script, the files of a folder, those of a data set of the hub.

use super::context::Context;
use super::error::{IntoScript, ScriptResult};
use super::tensor_data::kind;
use crate::data::card::configurations;
use crate::data::hub::{CARD, HubDataset};
use crate::data::read::SampleBy;
use crate::data::repository::{Chosen, NoChoice, choose};
use crate::data::{Dataset, FileFormat, IterableDataset, ReadOptions, read_files};
use crate::error::Error;
use crate::files::names_below;
use rhai::{Array, Dynamic, ImmutableString, Map};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Files of one format, on this machine or still at the hub.
pub struct Files {
    place: Place,
    /// What separates CSV fields unless the script says it.
    delimiter: Option<u8>,
}

enum Place {
    Local(FileFormat, Vec<PathBuf>),
    Hub(FileFormat, HubDataset, Vec<String>),
    /// There are none, for this reason.
    Nowhere(String),
}

impl Files {
    /// One file.
    pub fn one(format: FileFormat, path: PathBuf) -> Self {
        Self { place: Place::Local(format, vec![path]), delimiter: None }
    }

    /// The files that a script names: a path, a pattern, or an array of these.
    ///
    /// # Errors
    /// Something else, an empty array, or a pattern that no file fits.
    pub fn local(session: &Context, format: FileFormat, files: &Dynamic) -> ScriptResult<Self> {
        let text = |value: &Dynamic| match value.read_lock::<ImmutableString>() {
            Some(path) => expanded(session, path.as_str()),
            None => {
                Err(format!("data_files must be a path, an array of paths or a map of splits to paths, not {}", kind(value))
                    .into())
            }
        };
        let paths = match files.read_lock::<Array>() {
            Some(items) if items.is_empty() => return Err("data_files is an empty array: give at least one path".into()),
            Some(items) => items.iter().map(text).collect::<ScriptResult<Vec<_>>>()?.concat(),
            None => text(files)?,
        };
        Ok(Self { place: Place::Local(format, paths), delimiter: None })
    }

    fn of_chosen(chosen: Chosen, place: impl Fn(FileFormat, Vec<String>) -> Place) -> Vec<(String, Self)> {
        let delimiter = chosen.delimiter;
        let splits = chosen.splits.into_iter().map(|split| {
            let place = split.files.map_or_else(Place::Nowhere, |(format, files)| place(format, files));
            (split.name, Self { place, delimiter })
        });
        splits.collect()
    }

    /// How files of this format are read; refuses what belongs to another.
    fn options(&self, format: FileFormat, given: &ReadOptions) -> ScriptResult<ReadOptions> {
        if given.delimiter.is_some() && format != FileFormat::Csv {
            return Err("load_dataset: delimiter belongs to CSV files, which these are not".into());
        }
        if given.sample_by != SampleBy::Line && format != FileFormat::Text {
            return Err("load_dataset: sample_by belongs to text files, which these are not".into());
        }
        if given.field.is_some() && format != FileFormat::Json {
            return Err("load_dataset: field belongs to JSON files, which these are not".into());
        }
        Ok(ReadOptions { delimiter: given.delimiter.or(self.delimiter), ..given.clone() })
    }

    /// The rows; files of the hub are downloaded now.
    ///
    /// # Errors
    /// A file cannot be fetched or read, or an option belongs to another format; Ctrl-C.
    pub fn read(&self, options: &ReadOptions) -> ScriptResult<Dataset> {
        match &self.place {
            Place::Local(format, paths) => read_files(*format, paths, &self.options(*format, options)?).script(),
            Place::Hub(format, data, files) => {
                let options = self.options(*format, options)?;
                let paths = data.download(files, &options.control).script()?;
                read_files(*format, &paths, &options).script()
            }
            Place::Nowhere(reason) => Err(reason.as_str().into()),
        }
    }

    /// The rows as a stream; a file of the hub is downloaded when the stream comes to it.
    ///
    /// # Errors
    /// A file is missing, or an option belongs to another format.
    pub fn stream(&self, options: &ReadOptions) -> ScriptResult<IterableDataset> {
        match &self.place {
            Place::Local(format, paths) => {
                IterableDataset::of_files(*format, paths.clone(), self.options(*format, options)?).script()
            }
            Place::Hub(format, data, files) => {
                let options = self.options(*format, options)?;
                let names = files.iter().map(PathBuf::from).collect();
                let (data, files, control) = (data.clone(), files.clone(), options.control.clone());
                let fetch = move |i: usize| {
                    let path = data.download(&files[i..=i], &control)?.into_iter().next();
                    path.ok_or_else(|| Error::Missing(format!("{} cannot be fetched", files[i])))
                };
                Ok(IterableDataset::of_fetched_files(*format, names, Rc::new(fetch), options))
            }
            Place::Nowhere(reason) => Err(reason.as_str().into()),
        }
    }
}

/// The files that a pattern fits, sorted by name; a path without `*`, `?` or `[` is itself.
fn expanded(session: &Context, pattern: &str) -> ScriptResult<Vec<PathBuf>> {
    let path = session.input_path(pattern);
    if path.exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![path]);
    }
    // `**` alone at the end fits folders; what is meant is the files in them.
    let files = if pattern.ends_with("**") { format!("{pattern}/*") } else { pattern.to_string() };
    // As other paths: below `--out` where something is there, else as it is.
    for root in [session.output_path(&files), PathBuf::from(&files)] {
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

/// The splits in a folder, whose README.md may be a data set's card.
///
/// # Errors
/// It has no data files, or not those of this configuration, or its card cannot be read.
pub fn folder_splits(folder: &Path, configuration: Option<&str>, session: &Context) -> ScriptResult<Vec<(String, Files)>> {
    let mut names = Vec::new();
    names_below(folder, &mut names);
    let card = match names.iter().any(|name| name == CARD) {
        true => {
            let path = folder.join(CARD);
            let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e)).script()?;
            configurations(&String::from_utf8_lossy(&text)).map_err(|what| format!("{}: {what}", path.display()))?
        }
        false => Vec::new(),
    };
    let chosen = choose(&names, &card, configuration).map_err(|why| match why {
        NoChoice::Reason(reason) => format!("{}: {reason}", folder.display()),
        NoChoice::NoData => {
            let found = if names.is_empty() { "nothing".to_string() } else { names.join(", ") };
            format!("{} has no Parquet, JSON, CSV or text files, only {found}", folder.display())
        }
    })?;
    warn_of_unheeded(&folder.display().to_string(), &chosen, session);
    let local = |format, files: Vec<String>| Place::Local(format, files.iter().map(|name| folder.join(name)).collect());
    Ok(Files::of_chosen(chosen, local))
}

fn warn_of_unheeded(data: &str, chosen: &Chosen, session: &Context) {
    if !chosen.unheeded.is_empty() {
        let unheeded = chosen.unheeded.join(", ");
        session.control.warn(format!("load_dataset: README.md of {data} says {unheeded} about its files, which is not heeded"));
    }
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
    let found = HubDataset::find(name, revision, configuration, &session.control).map_err(|error| match error {
        // What looks like a file may be meant as one.
        Error::Missing(reason) if FileFormat::from_path(Path::new(name)).is_some() => {
            Error::Missing(format!("there is no file {name}, and as a data set: {reason}"))
        }
        other => other,
    });
    let (data, chosen) = found.script()?;
    warn_of_unheeded(name, &chosen, session);
    Ok(Files::of_chosen(chosen, |format, files| Place::Hub(format, data.clone(), files)))
}
