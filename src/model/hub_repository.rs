//! Models and data sets from the Hugging Face hub, kept in the hub's own cache, which Python's libraries share.
//!
//! `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.

use crate::control::Control;
use crate::error::{Error, Result};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the hub may take to answer where there is no other source.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long where another source follows.
pub(super) const HASTE: Duration = Duration::from_secs(5);

/// The small files of a model; those that are there are fetched.
const SMALL: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Says which shards there are.
const INDEX: &str = "model.safetensors.index.json";

/// "org/name" with an optional "@revision".
#[derive(Debug, Clone)]
pub(crate) struct HubId {
    repository: String,
    revision: String,
    kind: RepoType,
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

impl HubId {
    /// A model; `None` where the name cannot be a hub id.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let (organisation, model) = repository.split_once('/')?;
        let revision_ok = !revision.is_empty() && revision.split('/').all(part);
        (part(organisation) && part(model) && revision_ok).then(|| Self {
            repository: repository.into(),
            revision: revision.into(),
            kind: RepoType::Model,
        })
    }

    /// A data set; `None` where the name cannot be a hub id.
    pub(crate) fn dataset(name: &str, revision: Option<&str>) -> Option<Self> {
        let id = Self::parse(name)?;
        let id = match revision {
            Some(revision) => Self::parse(&format!("{}@{revision}", id.repository))?,
            None => id,
        };
        Some(Self { kind: RepoType::Dataset, ..id })
    }

    /// Whether it is of the branch that is meant where none is named.
    pub(crate) fn is_main(&self) -> bool {
        self.revision == "main"
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.clone(), self.kind, self.revision.clone())
    }
}

/// Why a repository could not be fetched.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The reason in words.
    Reason(String),
}

impl Failure {
    pub(crate) fn into_error(self, wrap: impl FnOnce(String) -> Error) -> Error {
        match self {
            Self::Interrupted => Error::Interrupted,
            Self::Reason(reason) => wrap(reason),
        }
    }
}

/// The folder of a repository that is in the cache in full.
pub(super) fn cached(id: &HubId) -> Option<PathBuf> {
    let (_, folder) = snapshot(id);
    let has = |name: &str| folder.join(name).exists();
    let weights =
        || has("model.safetensors") || shards(&folder.join(INDEX)).is_some_and(|all| all.iter().all(|shard| has(shard)));
    let whole = has("config.json") && has("tokenizer.json") && weights();
    whole.then_some(folder)
}

/// The commit that a revision was when it was fetched last, else the revision itself, which may be a commit; and the folder that the
/// cache has for it, if it has one.
fn snapshot(id: &HubId) -> (String, PathBuf) {
    let (cache, repo) = (Cache::from_env(), id.repo());
    let reference = cache.path().join(repo.folder_name()).join("refs").join(repo.revision());
    let commit = std::fs::read_to_string(reference).unwrap_or_else(|_| repo.revision().to_string()).trim().to_string();
    let folder = cache.repo(repo).pointer_path(&commit);
    (commit, folder)
}

/// The files that an index of weights names; none where it is no such index.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(index).ok()?).ok()?;
    index.get("weight_map")?.as_object()?.values().map(|file| file.as_str().map(str::to_string)).collect()
}

/// Why the hub did not answer in this process: where there is another source, nobody waits for it twice.
static UNREACHABLE: Mutex<Option<String>> = Mutex::new(None);

/// Fetches a model; `patience` is how long the hub may take for its first answer.
pub(super) fn fetch(id: &HubId, patience: Duration, control: &Control) -> Result<PathBuf, Failure> {
    if let Some(folder) = cached(id) {
        return Ok(folder);
    }
    let listing = list(id, patience, control)?;
    let paths = download(id, &listing.commit, &wanted(&listing.names).map_err(Failure::Reason)?, control)?;
    if let Some(index) = paths.iter().find(|path| path.ends_with(INDEX)) {
        let shards =
            shards(index).ok_or_else(|| Failure::Reason(format!("its {INDEX} does not say which files the weights are in")))?;
        if let Some(absent) = shards.iter().find(|shard| !listing.names.contains(shard)) {
            return Err(Failure::Reason(format!("its {INDEX} names {absent}, which the repository lacks")));
        }
        download(id, &listing.commit, &Vec::from_iter(shards), control)?;
    }
    cached(id).ok_or_else(|| Failure::Reason("the repository lacks config.json or tokenizer.json".into()))
}

/// What a revision of a repository holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// The names of its files.
    pub(crate) names: Vec<String>,
    /// The commit that they are of.
    pub(crate) commit: String,
    /// Whether these are the files in the cache, which may be only some of those at the hub.
    pub(crate) cached: bool,
}

/// A repository's files, as the hub has them.
pub(crate) fn list(id: &HubId, patience: Duration, control: &Control) -> Result<Listing, Failure> {
    if offline() {
        return Err(Failure::Reason("it is not in the hub's cache, and HF_HUB_OFFLINE is set".into()));
    }
    let memory = || UNREACHABLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if patience <= HASTE
        && let Some(reason) = memory().clone()
    {
        return Err(Failure::Reason(reason));
    }
    let asked = api().map_err(|error| Failure::Reason(error.to_string()))?.repo(id.repo());
    match in_background(control, Some(patience), move || asked.info())? {
        Some(Ok(info)) => {
            let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
            Ok(Listing { names, commit: info.sha, cached: false })
        }
        Some(Err(error)) => {
            let (reason, answered) = reason(&error, id);
            if !answered {
                *memory() = Some(reason.clone());
            }
            Err(Failure::Reason(reason))
        }
        None => {
            let reason = format!("the hub does not answer within {} seconds", patience.as_secs());
            *memory() = Some(reason.clone());
            Err(Failure::Reason(reason))
        }
    }
}

/// Fetches files of a repository into the cache, those that it does not have of this commit, and gives their paths there.
pub(crate) fn download(id: &HubId, commit: &str, files: &[String], control: &Control) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for (i, file) in files.iter().enumerate() {
        // What is there may be a data set's shard of an earlier run; a model comes here only when a file of it is missing.
        let kept = matches!(id.kind, RepoType::Dataset);
        let path = Cache::from_env().repo(id.repo()).pointer_path(commit).join(file);
        if kept && path.exists() {
            paths.push(path);
            continue;
        }
        let api = api().map_err(|error| Failure::Reason(error.to_string()))?;
        let label = format!("{file} ({} of {})", i + 1, files.len());
        let progress = Progress { control: control.clone(), label, done: 0, total: 0 };
        let (repo, file) = (id.repo(), file.clone());
        match in_background(control, None, move || fetch_file(&api, repo, &file, kept, progress))? {
            Some(Ok(path)) => paths.push(path),
            Some(Err(error)) => return Err(Failure::Reason(reason(&error, id).0)),
            None => return Err(Failure::Reason("the download stopped".into())),
        }
    }
    Ok(paths)
}

/// Fetches a file, unless its content came with another commit already.
fn fetch_file(api: &Api, repo: Repo, file: &str, kept: bool, progress: Progress) -> Result<PathBuf, ApiError> {
    let (asked, address) = (api.repo(repo.clone()), in_address(file));
    if kept {
        let (found, cache) = (api.metadata(&asked.url(&address))?, Cache::from_env().repo(repo));
        if cache.blob_path(found.etag()).exists() {
            return Ok(link(&cache, found.etag(), found.commit_hash(), file)?);
        }
    }
    let found = asked.download_with_progress(&address, progress)?;
    // The library calls the file as its address does.
    let Some(snapshot) = found.ancestors().nth(address.split('/').count()).filter(|_| address != file) else { return Ok(found) };
    let path = snapshot.join(file);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::rename(&found, &path)?;
    Ok(path)
}

/// A file's name as it is written in an address, where a blank or a `#` would end it.
fn in_address(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    file.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Puts a content that is in the cache under its name in a further commit, as Python's library has it.
fn link(cache: &CacheRepo, etag: &str, commit: &str, file: &str) -> std::io::Result<PathBuf> {
    let path = cache.pointer_path(commit).join(file);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if !path.exists() {
        #[cfg(unix)]
        let made = {
            // From snapshots/commit/file, so that the cache can be moved.
            let up = "../".repeat(file.split('/').count() + 1);
            std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(etag), &path)
        };
        #[cfg(not(unix))]
        let made = std::fs::hard_link(cache.blob_path(etag), &path);
        // Another process may have been faster.
        if !path.exists() {
            made?;
        }
    }
    cache.create_ref(commit)?;
    Ok(path)
}

/// A repository's files that are in the cache.
pub(crate) fn list_cached(id: &HubId) -> Listing {
    let (commit, folder) = snapshot(id);
    let mut names = Vec::new();
    crate::files::names_below(&folder, &mut names);
    Listing { names, commit, cached: true }
}

/// The folder that a repository's config.json is in, which alone is fetched.
pub(super) fn fetch_config(id: &HubId, patience: Duration, control: &Control) -> Result<PathBuf, Failure> {
    const CONFIG: &str = "config.json";
    let (_, folder) = snapshot(id);
    if folder.join(CONFIG).exists() {
        return Ok(folder);
    }
    if offline() {
        return Err(Failure::Reason("it is not in the hub's cache, and HF_HUB_OFFLINE is set".into()));
    }
    let asked = api().map_err(|error| Failure::Reason(error.to_string()))?.repo(id.repo());
    match in_background(control, Some(patience), move || asked.get(CONFIG))? {
        Some(Ok(path)) => path.parent().map(Path::to_path_buf).ok_or_else(|| Failure::Reason("it is in no folder".into())),
        Some(Err(error)) => Err(Failure::Reason(reason(&error, id).0)),
        None => Err(Failure::Reason(format!("the hub does not answer within {} seconds", patience.as_secs()))),
    }
}

pub(crate) fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

fn api() -> Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_env().with_progress(false).with_user_agent("ftrepl", env!("CARGO_PKG_VERSION"));
    if let Ok(token) = std::env::var("HF_TOKEN")
        && !token.trim().is_empty()
    {
        builder = builder.with_token(Some(token.trim().to_string()));
    }
    builder.build()
}

/// Runs `work` on a thread, so that a name server or a socket that hangs can be left behind. `None`: out of time, or the thread ended.
fn in_background<T: Send + 'static>(
    control: &Control,
    patience: Option<Duration>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, Failure> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // The receiver is gone where nobody waits any more.
        let _ = sender.send(work());
    });
    let start = Instant::now();
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Disconnected) if control.interrupted() => return Err(Failure::Interrupted),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if control.interrupted() => return Err(Failure::Interrupted),
            Err(RecvTimeoutError::Timeout) if patience.is_some_and(|patience| start.elapsed() > patience) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The files of a repository that make up the model, weights last; of shards the index, which names them.
fn wanted(names: &[String]) -> Result<Vec<String>, String> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let mut files: Vec<String> = SMALL.iter().filter(|name| has(name)).map(|name| name.to_string()).collect();
    if has("model.safetensors") {
        files.push("model.safetensors".into());
    } else if has(INDEX) {
        files.push(INDEX.into());
    } else if names.iter().any(|name| name.ends_with(".gguf")) {
        return Err("the repository has only GGUF files; download one of them and give its path".into());
    } else {
        return Err("the repository has no safetensors weights".into());
    }
    Ok(files)
}

/// The reason in words, and whether the hub answered at all.
fn reason(error: &ApiError, id: &HubId) -> (String, bool) {
    let text = error.to_string();
    let status = |code: u16| text.contains(&format!("status: {code}")) || text.contains(&format!("status code {code}"));
    if status(401) || status(403) {
        return (
            format!("access to {id} is denied (it is private or gated, or there is no such repository); set HF_TOKEN"),
            true,
        );
    }
    if status(404) {
        return (format!("there is no repository {id}, or no such revision"), true);
    }
    let answered = text.contains("http status");
    (text, answered)
}

struct Progress {
    control: Control,
    label: String,
    done: u64,
    total: u64,
}

impl hf_hub::api::Progress for Progress {
    fn init(&mut self, size: usize, _: &str) {
        self.total = size as u64;
    }

    fn update(&mut self, size: usize) {
        if self.control.interrupted() {
            // The library's download cannot be told to stop; unwinding its thread closes the file and frees its lock.
            std::panic::resume_unwind(Box::new("interrupted"));
        }
        self.done += size as u64;
        self.control.progress("download", self.done, self.total, "bytes", self.label.clone());
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::{HubId, in_address, shards, wanted};

    #[test]
    fn ids() {
        assert_eq!(HubId::parse("org/name").map(|id| id.to_string()).as_deref(), Some("org/name"));
        assert_eq!(HubId::parse("org/name@refs/pr/1").map(|id| id.revision).as_deref(), Some("refs/pr/1"));
        let data = HubId::dataset("org/name", Some("refs/convert/parquet")).map(|id| id.to_string());
        assert_eq!(data.as_deref(), Some("org/name@refs/convert/parquet"));
        for bad in ["name", "../name", "org/name/more", "org/", "/name", "org/na me", "org/name@", "org/name@../x"] {
            assert!(HubId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn shards_are_those_of_the_index_and_other_weights_are_not_wanted() {
        let names = ["README.md", "config.json", "model-00001-of-00001.safetensors", super::INDEX, "pytorch_model.bin"];
        assert_eq!(wanted(&names.map(String::from)).unwrap_or_default(), ["config.json", super::INDEX]);
        assert!(wanted(&["config.json".into()]).is_err());
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let shards_in = |text: &str| {
            std::fs::write(&path, text).unwrap();
            shards(&path).map(Vec::from_iter)
        };
        let two = r#"{"weight_map": {"a": "second.safetensors", "b": "first.safetensors", "c": "second.safetensors"}}"#;
        assert_eq!(shards_in(two), Some(vec!["first.safetensors".to_string(), "second.safetensors".to_string()]));
        assert_eq!(shards_in("{}"), None);
        assert_eq!(shards_in("<html>"), None);
    }

    #[test]
    fn names_are_written_in_addresses_as_python_quotes_them() {
        assert_eq!(in_address("data/train-00000-of-00001.parquet"), "data/train-00000-of-00001.parquet");
        assert_eq!(in_address("a b/50%#ü?.csv"), "a%20b/50%25%23%C3%BC%3F.csv");
    }
}
