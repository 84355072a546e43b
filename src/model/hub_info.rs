//! What is known of the models on this machine and in the catalogue, without fetching anything.

use super::catalogue::{CATALOGUE, Entry, EntrySource, find};
use super::hub::{Cache, ModelFiles};
use super::report::Opened;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A line of [`Cache::list`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelSummary {
    /// The name to load it by.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Bytes to download.
    pub size: u64,
    /// SPDX identifier.
    pub license: String,
    /// Whether this machine has it.
    pub present: bool,
}

/// What [`Cache::info`] says of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name that was asked for.
    pub name: String,
    /// Its files here; none where it has not been pulled.
    pub files: Option<ModelFiles>,
    /// The class in transformers, as "llama".
    pub architecture: Option<String>,
    /// Number of parameters; a tied head counts once.
    pub parameters: Option<usize>,
    /// What the weights are stored in, as "BF16" or "Q4_1".
    pub stored_as: Option<String>,
    /// Each file's name and size in bytes.
    pub sizes: Vec<(String, u64)>,
    /// SPDX identifier, where known.
    pub license: Option<String>,
    /// One sentence, where known.
    pub description: Option<String>,
}

impl Cache {
    /// The catalogue.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn list(&self) -> Result<Vec<ModelSummary>> {
        let line = |entry: &Entry| {
            Ok(ModelSummary {
                name: entry.name.into(),
                description: entry.description.into(),
                size: entry.size,
                license: entry.license.into(),
                // What is made here needs no fetching.
                present: entry.sources.contains(&EntrySource::Synthesised) || self.present(entry)?.is_some(),
            })
        };
        CATALOGUE.iter().map(line).collect()
    }

    /// What is known of a model; fetches nothing.
    ///
    /// # Errors
    /// No such model, or its files are damaged.
    pub fn info(&self, name: &str) -> Result<ModelInfo> {
        let entry = find(name);
        let mut info = ModelInfo {
            name: name.into(),
            files: self.find_present(name)?,
            architecture: None,
            parameters: None,
            stored_as: None,
            sizes: Vec::new(),
            license: entry.map(|entry| entry.license.into()),
            description: entry.map(|entry| entry.description.into()),
        };
        let Some(files) = &info.files else { return Ok(info) };
        let opened = Opened::at(&files.path)?;
        info.architecture = Some(opened.config().model_type().to_string());
        if let Opened::Whole(source) = &opened {
            info.parameters = Some(source.num_parameters()?);
            info.stored_as = Some(source.stored_as()?);
        }
        info.sizes = sizes(&files.path)?;
        Ok(info)
    }
}

fn sizes(path: &Path) -> Result<Vec<(String, u64)>> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Not the entry's own metadata: files of the hub's cache are links.
    let size = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len()).map_err(|e| Error::io("read", path, e));
    if path.is_file() {
        return Ok(vec![(name(path), size(path)?)]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|path| Ok((name(path), size(path)?))).collect()
}
