//! Data sets of a hub, which is a small server here. One test: it sets the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::script::display;
use ftrepl::session::Session;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Files by "org/name@revision/path".
type Files = BTreeMap<String, Vec<u8>>;

/// Answers as the hub does; gives its address and the requests that it has had.
fn serve(files: Files) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (files, requests) = (Arc::new(files), Arc::new(Mutex::new(Vec::new())));
    let seen = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (files, seen) = (files.clone(), seen.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &files, &seen));
        }
    });
    (format!("http://{address}"), requests)
}

fn answer(mut stream: TcpStream, files: &Files, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().replace("%2F", "/");
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_string));
    let private = path.contains("org/private") && header("authorization: ").as_deref() != Some("bearer secret");
    seen.lock().unwrap().push(path.clone());
    // /api/datasets/org/name/revision/main and /datasets/org/name/resolve/main/file
    let listed = path.strip_prefix("/api/datasets/").map(|rest| rest.replacen("/revision/", "@", 1) + "/");
    let listed =
        listed.map(|prefix| if prefix.contains('@') { prefix } else { prefix.trim_end_matches('/').to_string() + "@main/" });
    let file = path.strip_prefix("/datasets/").map(|rest| rest.replacen("/resolve/", "@", 1));
    let (status, extra, body) = match (listed, file.and_then(|file| files.get(&file))) {
        _ if private => ("401 Unauthorized", String::new(), Vec::new()),
        (Some(prefix), _) if files.keys().any(|name| name.starts_with(&prefix)) => {
            let names = files.keys().filter_map(|name| name.strip_prefix(&prefix));
            let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
            ("200 OK", String::new(), serde_json::json!({ "sha": "abc", "siblings": siblings }).to_string().into_bytes())
        }
        (_, Some(bytes)) => {
            let range =
                header("range: bytes=").and_then(|range| range.split_once('-').map(|(a, b)| (a.to_string(), b.to_string())));
            let (start, end) = range.unwrap_or(("0".into(), String::new()));
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
            let commit = if path.contains("refs/convert") { "def" } else { "abc" };
            let extra = format!(
                "ETag: \"{}-{}\"\r\nX-Repo-Commit: {commit}\r\nContent-Range: bytes {start}-{}/{}\r\n",
                path.len(),
                bytes.len(),
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

fn eval(code: &str) -> String {
    let mut session = Session::builder().device("cpu").output(|_| {}).build().unwrap();
    match session.run_script(code, "test") {
        Ok(value) => display::text(&value),
        Err(error) => error.to_string(),
    }
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
    put("org/nothing@main/weights.bin", b"no data".to_vec());
    put("org/private@main/train.csv", b"text\nhidden\n".to_vec());
    let (address, requests) = serve(files);
    set("HF_HOME", home.path());
    set("HF_ENDPOINT", &address);
    set("HF_HUB_OFFLINE", "1");
    let error = eval("load_dataset(\"org/shards\", #{ split: \"train\" })");
    assert!(error.contains("data set org/shards") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    set("HF_HUB_OFFLINE", "0");

    let train = "load_dataset(\"org/shards\", #{ split: \"train\" }).column(\"text\")";
    assert_eq!(eval(train), r#"["one", "two", "three"]"#);
    // Only what was asked for was fetched, and it is fetched once.
    let fetched = |part: &str| requests.lock().unwrap().iter().filter(|path| path.contains(part)).count();
    assert_eq!(fetched("test-00000"), 0);
    let before = fetched("train-00000");
    assert_eq!(eval("load_dataset(\"org/shards\", #{ split: \"train[1:]\", streaming: false }).len()"), "2");
    assert_eq!(fetched("train-00000"), before);
    assert_eq!(eval("let ds = load_dataset(\"org/shards\"); [ds.train.len(), ds.test[0].text]"), r#"[3, "four"]"#);
    assert_eq!(eval("load_dataset(\"org/shards\", #{ split: \"train\", streaming: true }).take(1).to_list()[0].text"), "one");
    assert_eq!(eval("load_dataset(\"org/shards\", #{ revision: \"v2\", split: \"train\" })[0].text"), "second version");
    assert_eq!(eval("load_dataset(\"org/several\", #{ name: \"hard\", split: \"train\" })[0].text"), "hard");
    assert_eq!(eval("load_dataset(\"org/script\", #{ split: \"train\" })[0].text"), "converted");
    for (code, words) in [
        ("load_dataset(\"org/several\")", vec!["several configurations: easy, hard", "name: \"easy\""]),
        ("load_dataset(\"org/several\", #{ name: \"x\" })", vec!["no configuration \"x\"", "easy, hard"]),
        ("load_dataset(\"org/shards\", #{ split: \"dev\" })", vec!["no split \"dev\"", "train, test"]),
        ("load_dataset(\"org/nothing\")", vec!["no Parquet, JSON, CSV or text files", "weights.bin", "refs/convert/parquet"]),
        ("load_dataset(\"org/absent\")", vec!["no repository org/absent"]),
        ("load_dataset(\"org/private\")", vec!["denied", "HF_TOKEN"]),
    ] {
        let error = eval(code);
        assert!(words.iter().all(|word| error.contains(word)), "{code}: {error}");
    }
    set("HF_TOKEN", "secret");
    assert_eq!(eval("load_dataset(\"org/private\", #{ split: \"train\" })[0].text"), "hidden");

    // From the cache, where nobody answers and where nobody is asked.
    set("HF_HUB_OFFLINE", "1");
    assert_eq!(eval(train), r#"["one", "two", "three"]"#);
    assert_eq!(eval("load_dataset(\"org/script\", #{ split: \"train\" })[0].text"), "converted");
}
