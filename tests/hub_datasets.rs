//! Data sets of a hub, which is a small server here. One test: it sets the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod warnings;

use ftrepl::script::display;
use ftrepl::session::Session;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use warnings::Warnings;

/// Files by "org/name@revision/path".
type Files = BTreeMap<String, Vec<u8>>;

/// A server that answers as the hub does: its files and the requests that it has had.
#[derive(Clone)]
struct Hub {
    files: Arc<Mutex<Files>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Gives also its address.
    fn serve(files: Files) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Self { files: Arc::new(Mutex::new(files)), requests: Arc::default() };
        let served = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let hub = served.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &hub.files, &hub.requests));
            }
        });
        (hub, format!("http://{address}"))
    }

    fn put(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(name.to_string(), content.into());
    }

    /// Requests for what has this in its path.
    fn fetched(&self, part: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }
}

fn hash(value: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The commit of "org/name@revision/", which changes with its files.
fn commit(files: &Files, revision: &str) -> String {
    hash(files.iter().filter(|(name, _)| name.starts_with(revision)).collect::<Vec<_>>())
}

/// "org/name@revision/" of a file's name.
fn revision(file: &str) -> &str {
    const CONVERTED: &str = "@refs/convert/parquet/";
    let end = file.find(CONVERTED).map(|at| at + CONVERTED.len());
    let end = end.or_else(|| file.match_indices('/').nth(1).map(|(at, _)| at + 1));
    &file[..end.unwrap()]
}

fn answer(mut stream: TcpStream, files: &Mutex<Files>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().replace("%2F", "/");
    let path = path.replace("%20", " ").replace("%23", "#");
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_string));
    let private = path.contains("org/private") && header("authorization: ").as_deref() != Some("bearer secret");
    seen.lock().unwrap().push(path.clone());
    // /api/datasets/org/name/revision/main and /datasets/org/name/resolve/main/file
    let listed = path.strip_prefix("/api/datasets/").map(|rest| rest.replacen("/revision/", "@", 1) + "/");
    let listed =
        listed.map(|prefix| if prefix.contains('@') { prefix } else { prefix.trim_end_matches('/').to_string() + "@main/" });
    let file = path.strip_prefix("/datasets/").map(|rest| rest.replacen("/resolve/", "@", 1));
    let files = files.lock().unwrap().clone();
    let (status, extra, body) = match (listed, file.and_then(|file| files.get_key_value(&file))) {
        _ if private => ("401 Unauthorized", String::new(), Vec::new()),
        (Some(prefix), _) if files.keys().any(|name| name.starts_with(&prefix)) => {
            let names = files.keys().filter_map(|name| name.strip_prefix(&prefix));
            let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
            (
                "200 OK",
                String::new(),
                serde_json::json!({ "sha": commit(&files, &prefix), "siblings": siblings }).to_string().into_bytes(),
            )
        }
        (_, Some((file, bytes))) => {
            let range =
                header("range: bytes=").and_then(|range| range.split_once('-').map(|(a, b)| (a.to_string(), b.to_string())));
            let (start, end) = range.unwrap_or(("0".into(), String::new()));
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
            let extra = format!(
                "ETag: \"{}\"\r\nX-Repo-Commit: {}\r\nContent-Range: bytes {start}-{}/{}\r\n",
                hash(bytes),
                commit(&files, revision(file)),
                end - 1,
                bytes.len()
            );
            ("206 Partial Content", extra, bytes[start..end].to_vec())
        }
        _ => ("404 Not Found", String::new(), Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn parquet(texts: &[&str]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type("message rows { required binary text (UTF8); }").unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn set(key: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: this process runs one test, and no other thread reads the environment while it does this.
    unsafe { std::env::set_var(key, value) }
}

/// The value or the error as text, and the warnings.
fn eval_warned(code: &str) -> (String, String) {
    let (warnings, control) = Warnings::with_control();
    let mut session = Session::builder().device("cpu").control(control).output(|_| {}).build().unwrap();
    let text = match session.run_script(code, "test") {
        Ok(value) => display::text(&value),
        Err(error) => error.to_string(),
    };
    (text, warnings.all().join("\n"))
}

fn eval(code: &str) -> String {
    eval_warned(code).0
}

#[track_caller]
fn says(code: &str, words: &[&str]) {
    let got = eval(code);
    assert!(words.iter().all(|word| got.contains(word)), "{code}: {got}\nlacks one of {words:?}");
}

const CARD: &str = "---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path:
    - parts/b.jsonl
    - \"parts/a-*.jsonl\"
  - split: held_out
    path: other/**
- config_name: socratic  # with semicolons
  data_dir: socratic
  sep: ';'
  skiprows: 1
- config_name: wrong
  data_files:
  - {split: train, path: [absent/*.jsonl]}
  - {split: test, path: parts/c.jsonl}
---
# A data set
";

fn put_cards(hub: &Hub) {
    let row = |text: &str| format!("{{\"text\": \"{text}\"}}\n");
    hub.put("org/cards@main/README.md", CARD);
    for (name, text) in [("parts/a-1", "a1"), ("parts/a-2", "a2"), ("parts/b", "b"), ("parts/c", "c"), ("other/deep/x", "x")] {
        hub.put(&format!("org/cards@main/{name}.jsonl"), row(text));
    }
    hub.put("org/cards@main/socratic/train.csv", "text;n\nwhy;1\n");
    hub.put("org/cards@main/socratic/test.csv", "text;n\nhow;2\n");
    hub.put("org/unread@main/README.md", "---\nconfigs:\n- config_name: *x\n---\n");
    hub.put("org/unread@main/train.jsonl", row("x"));
    hub.put("org/named@main/README.md", "---\nlicense: mit\n---\n");
    hub.put("org/named@main/train.jsonl", row("x"));
    let pictures = "---\nconfigs:\n- config_name: other\n- config_name: pictures\n  default: true\n  data_files: x.zip\n---\n";
    hub.put("org/pictures@main/README.md", pictures);
    hub.put("org/pictures@main/x.zip", "PK");
    for name in ["other", "pictures"] {
        hub.put(&format!("org/pictures@refs/convert/parquet/{name}/partial-train/0000.parquet"), parquet(&[name]));
    }
}

/// What the header of README.md says goes before the files' names.
fn cards_are_read() {
    let load = |options: &str| format!("load_dataset(\"org/cards\", #{{ {options} }})");
    assert_eq!(eval(&format!("{}.column(\"text\")", load("split: \"train\""))), r#"["b", "a1", "a2"]"#);
    assert_eq!(eval("let ds = load_dataset(\"org/cards\"); [ds.train.len(), ds.held_out[0].text]"), r#"[3, "x"]"#);
    let (row, warnings) = eval_warned(&format!("{}[0]", load("name: \"socratic\", split: \"test\"")));
    assert_eq!(row, r##"#{ n: 2, text: "how" }"##);
    assert!(warnings.contains("README.md of org/cards says skiprows"), "{warnings}");
    let streamed = load("name: \"socratic\", split: \"train\", streaming: true");
    assert_eq!(eval(&format!("{streamed}.to_list()[0].n")), "1");
    // What the script says goes before the card.
    let commas = load("name: \"socratic\", split: \"train\", delimiter: \",\"");
    assert_eq!(eval(&format!("{commas}.column_names")), r#"["text;n"]"#);
    assert_eq!(eval(&format!("{}[0].text", load("name: \"wrong\", split: \"test\""))), "c");
    says(&load("name: \"wrong\", split: \"train\""), &["no file fits absent/*.jsonl"]);
    says(&load("name: \"none\""), &["no configuration \"none\"", "main, socratic, wrong"]);
    says(&load("split: \"test\""), &["no split \"test\"", "train, held_out"]);
    says("load_dataset(\"org/unread\")", &["org/unread", "README.md: line 3", "anchors", "data_files"]);
    says("load_dataset(\"org/named\", #{ name: \"x\" })", &["no configuration \"x\""]);
    // Of other files the hub has a copy, of the configuration that the card prefers.
    let (text, warnings) = eval_warned("load_dataset(\"org/pictures\", #{ split: \"train\" })[0].text");
    assert_eq!(text, "pictures");
    assert!(warnings.contains("only the first part of train"), "{warnings}");
}

/// A stream fetches a file when it comes to it, and a new commit is noticed.
fn files_are_fetched_when_they_are_needed(hub: &Hub) {
    let part = |i: usize| format!("org/lazy@main/data/train-0000{i}-of-00002.parquet");
    hub.put(&part(0), parquet(&["one", "two"]));
    hub.put(&part(1), parquet(&["three"]));
    let (first, second) = ("lazy/resolve/main/data/train-00000", "lazy/resolve/main/data/train-00001");
    let stream = "load_dataset(\"org/lazy\", #{ split: \"train\", streaming: true })";
    assert_eq!(eval(&format!("{stream}.take(1).to_list()[0].text")), "one");
    assert!(hub.fetched(first) > 0);
    assert_eq!(hub.fetched(second), 0);
    assert_eq!(eval(&format!("{stream}.to_list().len()")), "3");
    let before = (hub.fetched(first), hub.fetched(second));
    assert_eq!(eval(&format!("{stream}.to_list().len()")), "3");
    assert_eq!((hub.fetched(first), hub.fetched(second)), before);

    hub.put(&part(0), parquet(&["new"]));
    let all = "load_dataset(\"org/lazy\", #{ split: \"train\" }).column(\"text\")";
    assert_eq!(eval(all), r#"["new", "three"]"#);
    // Of what is the same only the head is asked for.
    assert_eq!(hub.fetched(second), before.1 + 1);
}

#[test]
fn data_sets_are_fetched() {
    let home = tempfile::tempdir().unwrap();
    let mut files = Files::new();
    let mut put = |name: &str, content: Vec<u8>| drop(files.insert(name.to_string(), content));
    put("org/shards@main/README.md", b"about".to_vec());
    put("org/shards@main/data/train-00000-of-00002.parquet", parquet(&["one", "two"]));
    put("org/shards@main/data/train-00001-of-00002.parquet", parquet(&["three"]));
    put("org/shards@main/data/test-00000-of-00001.parquet", parquet(&["four"]));
    put("org/shards@v2/train.jsonl", b"{\"text\": \"second version\"}\n".to_vec());
    put("org/several@main/easy/train.jsonl", b"{\"text\": \"easy\"}\n".to_vec());
    put("org/several@main/hard/train.jsonl", b"{\"text\": \"hard\"}\n".to_vec());
    put("org/script@main/script.py", b"no data".to_vec());
    put("org/script@refs/convert/parquet/default/train/0000.parquet", parquet(&["converted"]));
    // There splits may have any name.
    put("org/script@refs/convert/parquet/default/train_gen/0000.parquet", parquet(&["generated"]));
    put("org/script@v2/script.py", b"no data".to_vec());
    put("org/odd@main/of mine/train #1.jsonl", b"{\"text\": \"oddly named\"}\n".to_vec());
    put("org/nothing@main/weights.bin", b"no data".to_vec());
    put("org/private@main/train.csv", b"text\nhidden\n".to_vec());
    let (hub, address) = Hub::serve(files);
    put_cards(&hub);
    set("HF_HOME", home.path());
    set("HF_ENDPOINT", &address);
    set("HF_HUB_OFFLINE", "1");
    let error = eval("load_dataset(\"org/shards\", #{ split: \"train\" })");
    assert!(error.contains("data set org/shards") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    set("HF_HUB_OFFLINE", "0");

    let train = "load_dataset(\"org/shards\", #{ split: \"train\" }).column(\"text\")";
    assert_eq!(eval(train), r#"["one", "two", "three"]"#);
    // Only what was asked for was fetched, and it is fetched once.
    assert_eq!(hub.fetched("test-00000"), 0);
    let before = hub.fetched("train-00000");
    assert_eq!(eval("load_dataset(\"org/shards\", #{ split: \"train[1:]\", streaming: false }).len()"), "2");
    assert_eq!(hub.fetched("train-00000"), before);
    assert_eq!(eval("let ds = load_dataset(\"org/shards\"); [ds.train.len(), ds.test[0].text]"), r#"[3, "four"]"#);
    assert_eq!(eval("load_dataset(\"org/shards\", #{ split: \"train\", streaming: true }).take(1).to_list()[0].text"), "one");
    assert_eq!(eval("load_dataset(\"org/shards\", #{ revision: \"v2\", split: \"train\" })[0].text"), "second version");
    assert_eq!(eval("load_dataset(\"org/several\", #{ name: \"hard\", split: \"train\" })[0].text"), "hard");
    assert_eq!(eval("load_dataset(\"org/script\", #{ split: \"train\" })[0].text"), "converted");
    assert_eq!(eval("load_dataset(\"org/script\", #{ split: \"train_gen\" })[0].text"), "generated");
    let odd = "load_dataset(\"org/odd\", #{ split: \"train\" })[0].text";
    assert_eq!(eval(odd), "oddly named");
    let before = hub.fetched("train #1");
    assert_eq!(eval(odd), "oddly named");
    assert_eq!(hub.fetched("train #1"), before);
    for (code, words) in [
        ("load_dataset(\"org/script@v2\")", vec!["org/script@v2", "no Parquet, JSON, CSV or text files"]),
        ("load_dataset(\"org/absent.csv\")", vec!["there is no file org/absent.csv", "no repository org/absent.csv"]),
        ("load_dataset(\"org/several\")", vec!["several configurations: easy, hard", "name: \"easy\""]),
        ("load_dataset(\"org/several\", #{ name: \"x\" })", vec!["no configuration \"x\"", "easy, hard"]),
        ("load_dataset(\"org/shards\", #{ split: \"dev\" })", vec!["no split \"dev\"", "train, test"]),
        ("load_dataset(\"org/nothing\")", vec!["no Parquet, JSON, CSV or text files", "weights.bin", "refs/convert/parquet"]),
        ("load_dataset(\"org/absent\")", vec!["no repository org/absent"]),
        ("load_dataset(\"org/private\")", vec!["denied", "HF_TOKEN"]),
    ] {
        says(code, &words);
    }
    cards_are_read();
    files_are_fetched_when_they_are_needed(&hub);
    set("HF_TOKEN", "secret");
    assert_eq!(eval("load_dataset(\"org/private\", #{ split: \"train\" })[0].text"), "hidden");

    // From the cache, where nobody answers and where nobody is asked.
    set("HF_HUB_OFFLINE", "1");
    assert_eq!(eval(train), r#"["one", "two", "three"]"#);
    assert_eq!(eval("load_dataset(\"org/script\", #{ split: \"train\" })[0].text"), "converted");
    assert_eq!(eval(odd), "oddly named");
    assert_eq!(eval("load_dataset(\"org/cards\", #{ split: \"train\" }).column(\"text\")"), r#"["b", "a1", "a2"]"#);
    says("load_dataset(\"org/named\")", &["cache has only README.md", "the hub does not answer"]);
    // Of what was fetched in part only the whole would do.
    let kept = format!("{}/hub/datasets--org--lazy/snapshots/*/data/train-00001*", home.path().display());
    glob::glob(&kept).unwrap().for_each(|path| std::fs::remove_file(path.unwrap()).unwrap());
    says("load_dataset(\"org/lazy\", #{ split: \"train\" })", &["lacks data/train-00001-of-00002", "the hub does not answer"]);
}
