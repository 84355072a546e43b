//! Data sets as users of `datasets`, TRL and axolotl have them: formats of rows, files of all kinds, streams, columns, `describe`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::control::Control;
use ftrepl::data::*;
use ftrepl::script::display;
use ftrepl::session::Session;
use proptest::prelude::*;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// The value or the error as text.
fn eval_in(folder: &Path, code: &str) -> String {
    let mut session = Session::builder().out(folder).device("cpu").output(|_| {}).build().unwrap();
    match session.run_script(code, "test") {
        Ok(value) => display::text(&value),
        Err(error) => error.to_string(),
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn eval(&self, code: &str) -> String {
        eval_in(self.0.path(), code)
    }

    #[track_caller]
    fn gives(&self, code: &str, expected: &str) {
        assert_eq!(self.eval(code), expected, "{code}");
    }

    #[track_caller]
    fn says(&self, code: &str, words: &[&str]) {
        let got = self.eval(code);
        for word in words {
            assert!(got.contains(word), "{code}: {got}\nlacks {word:?}");
        }
    }
}

/// Bytes as tokens; 257 ends a text. A conversation is its contents one after the other.
struct Bytes;

impl TextTokenizer for Bytes {
    fn encode(&self, text: &str, _: bool) -> ftrepl::Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn eos_id(&self) -> Option<u32> {
        Some(257)
    }
    fn chat(&self, messages: &[Message]) -> ftrepl::Result<(Vec<u32>, Vec<bool>)> {
        let turns = messages.iter().flat_map(|m| m.content.bytes().map(|b| (u32::from(b), m.role == "assistant")));
        Ok(turns.unzip())
    }
}

/// The bytes of a row that are learned, as text.
fn learned(row: serde_json::Value) -> String {
    match tokenize(row.as_object().unwrap(), &0, &Bytes, Encoding { add_eos: false, ..Encoding::default() }) {
        Ok(row) => row.labels.iter().filter_map(|label| u8::try_from(*label).ok()).map(char::from).collect(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_format_is_learned_where_it_should_be() {
    assert_eq!(learned(json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})), "b");
    let tools = json!({"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "t"}, {"from": "gpt", "value": "b"}]});
    assert_eq!(learned(tools.clone()), "b");
    let Example::Messages(messages) = Example::from_row(tools.as_object().unwrap(), None, &0).unwrap() else { panic!() };
    assert_eq!(messages.iter().map(|m| m.role.as_str()).collect::<Vec<_>>(), ["system", "user", "tool", "assistant"]);
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    // An assistant's turn in the prompt is given and not learned.
    let prompt = [message("user", "a"), message("assistant", "b"), message("user", "c")];
    assert_eq!(learned(json!({"prompt": prompt, "completion": [message("assistant", "d")]})), "d");
    assert_eq!(
        learned(json!({"messages": [message("user", "a"), {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]})),
        "b"
    );
    assert_eq!(learned(json!({"messages": [{"role": "assistant", "content": "b", "weight": 1, "tool_calls": []}]})), "b");
    assert_eq!(learned(json!({"prompt": "a", "completion": "b"})), "b");
    assert_eq!(learned(json!({"instruction": "a", "output": "b"})), "b");
    for (row, words) in [
        (json!({"prompt": "a", "completion": [message("assistant", "b")]}), "must both be strings or both lists"),
        (json!({"conversations": [{"from": "nobody", "value": "a"}]}), "message 0 is from \"nobody\", but known are human"),
        (json!({"conversations": []}), "`conversations` is empty"),
        (json!({"conversations": [{"from": "human"}]}), "lacks from or value"),
        (json!({"messages": "a"}), "`messages` is not an array"),
        // What is not heeded would silently not be learned, or be learned though it should not.
        (
            json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]}),
            "message 0 has `tool_calls`, which would not be learned",
        ),
        (
            json!({"messages": [message("user", "a"), {"role": "assistant", "content": "b", "weight": 0}]}),
            "message 1 has the `weight` 0",
        ),
        (json!({"conversations": [{"from": "gpt", "value": "b", "weight": 0}]}), "message 0 has the `weight` 0"),
        (json!({"conversations": [{"from": "gpt", "value": "b", "tool_calls": [{"name": "f"}]}]}), "message 0 has `tool_calls`"),
    ] {
        let got = learned(row.clone());
        assert!(got.contains(words), "{row}: {got}");
    }
}

#[test]
fn formats_are_named_or_found() {
    let folder = Folder::new();
    folder.write(
        "qa.jsonl",
        "{\"question\": \"a\", \"answer\": \"b\", \"text\": \"c\"}\n\n{\"question\": \"d\", \"answer\": null}\n",
    );
    let load = |options: &str| format!("load_dataset(\"qa.jsonl\", #{{ {options} }})");
    let columns = "columns: #{ prompt: \"question\", completion: \"answer\" }";
    folder.gives(&format!("{}.column_names", load(columns)), r#"["prompt", "completion", "text"]"#);
    folder.gives(&format!("{}.format", load(&format!("{columns}, format: \"auto\""))), "prompt_completion");
    folder.gives(&format!("{}.format", load("")), "()");
    folder.gives(&format!("{}.shuffle(#{{ seed: 1 }}).select(0..1).format", load("format: \"text\"")), "text");
    folder.gives(&format!("{}.map(|row| row).format", load("format: \"text\"")), "()");
    folder.says(
        &load("format: \"alpaca\""),
        &["needs the column `instruction`", "question, answer, text", "\"sharegpt\" (conversations"],
    );
    folder.says(&load("format: \"alpca\""), &["format", "\"alpaca\"", "alpca"]);
    folder.says(&load("columns: #{ prompt: \"q\" }"), &["no column `q`", "question, answer, text"]);
    folder.says(&load("columns: #{ text: \"question\" }"), &["two columns would be called `text`"]);
    folder
        .says("load_dataset(\"general_qa\", #{ format: \"auto\" })", &["cannot be told", "correct_answer", "prompt, completion"]);
    // A row of another kind is named by number, file and line.
    let train = |data: &str| {
        format!(
            "let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");
            Trainer(#{{ model: model, train_dataset: {data}, args: TrainingArguments(#{{ max_steps: 1 }}) }}).train()"
        )
    };
    folder.says(&train(&load("format: \"text\"")), &["row 1 (", "qa.jsonl, line 3) has the fields question, answer", "\"text\""]);
    let streamed = load(&format!("{columns}, streaming: true, format: \"auto\""));
    folder.says(&train(&streamed), &["row 1 (", "qa.jsonl, line 3)", "\"prompt_completion\""]);
}

#[test]
fn files_and_patterns() {
    let folder = Folder::new();
    let lines = |name: &str| format!("{{\"text\": \"{name} 1\"}}\n{{\"text\": \"{name} 2\"}}\n");
    for name in ["a", "b"] {
        folder.write(&format!("parts/{name}.jsonl"), lines(name));
    }
    folder.write("parts/note.txt", "not this");
    let all = r#"["a 1", "a 2", "b 1", "b 2"]"#;
    folder.gives("load_dataset(\"json\", #{ data_files: \"parts/*.jsonl\" }).column(\"text\")", all);
    folder.gives(
        "load_dataset(\"json\", #{ data_files: #{ test: [\"parts/[ab].jsonl\"] }, split: \"test\" }).column(\"text\")",
        all,
    );
    folder.says("load_dataset(\"json\", #{ data_files: \"parts/*.json\" })", &["no file fits", "parts/*.json"]);
    for (name, content) in [("z.jsonl.gz", lines("z")), ("z.json.gz", "[{\"text\": \"z 1\"},\n {\"text\": \"z 2\"}]".into())] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content.as_bytes()).unwrap();
        folder.write(name, encoder.finish().unwrap());
        folder.gives(&format!("load_dataset(\"{name}\").column(\"text\")"), r#"["z 1", "z 2"]"#);
        folder.gives(&format!("load_dataset(\"json\", #{{ data_files: \"{name}\", streaming: true }}).to_list().len()"), "2");
    }
    folder.write("set/train.csv", "text\none\n");
    folder.write("set/test.csv", "text\ntwo\n");
    folder.gives("load_dataset(\"set\").test.column(\"text\")", r#"["two"]"#);
    folder.gives("load_dataset(\"set\", #{ split: \"train\" }).len()", "1");
    folder.says("load_dataset(\"set\", #{ split: \"dev\" })", &["no split \"dev\"", "train, test"]);
    for (content, words) in [
        ("[{\"a\": 1},\n]", "line 2, column 1: a comma is followed by the end"),
        ("[{\"a\": 1}\n{\"a\": 2}]", "line 2, column 1: expected `,` or `]`, but found `{`"),
        ("[{\"a\": 1}", "the file ends before the array does"),
        ("[{\"a\": 1}, 7]", "item 1 of the array is a number"),
        ("[{\"a\": 1}] 7", "followed by something else"),
        ("[{\"a\": 1}, {\"a\": x}]", "line 1, column 18"),
        ("[]", "holds no rows"),
    ] {
        folder.write("bad.json", content);
        folder.says("load_dataset(\"bad.json\")", &["bad.json", words]);
        folder.says("load_dataset(\"bad.json\", #{ streaming: true }).to_list()", &["bad.json", words]);
    }
    folder.write("t.txt", "one\r\n\r\ntwo\nthree\n\n\n");
    let text = |by: &str| format!("load_dataset(\"t.txt\", #{{ sample_by: \"{by}\" }}).column(\"text\")");
    folder.gives(&text("line"), r#"["one", "two", "three"]"#);
    folder.gives(&text("paragraph"), r#"["one", "two\nthree"]"#);
    folder.gives(&text("document"), r#"["one\n\ntwo\nthree\n\n\n"]"#);
}

#[test]
fn a_large_file_is_the_same_data_set_as_a_small_one() {
    let folder = Folder::new();
    let line = |i: usize| format!("{{\"n\": {i}, \"text\": \"{}\"}}\n", "x".repeat(1000 + i % 7));
    // More than the 8 MB from which on a file is indexed, with a blank line, and more than the 32 MB that copies keep in memory.
    let text: String = (0..40_000).map(|i| if i == 5 { format!("\n{}", line(i)) } else { line(i) }).collect();
    folder.write("large.jsonl", &text);
    let ds = "let ds = load_dataset(\"large.jsonl\");";
    folder.gives(&format!("{ds} [ds.len(), ds[0].n, ds[5].n, ds[-1].n, ds.columns]"), r#"[40000, 0, 5, 39999, ["n", "text"]]"#);
    let small = "let rows = []; for n in 0..40000 { rows.push(#{ n: n }); } let small = Dataset::from_list(rows);";
    let order = "ds.shuffle(#{ seed: 3 }).take(50).column(\"n\")";
    folder.gives(&format!("{ds} {small} {order} == {}", order.replace("ds.", "small.")), "true");
    folder.gives(&format!("{ds} let sum = 0; for row in ds {{ sum += row.n; }} sum"), &(0..40_000).sum::<usize>().to_string());
    folder.gives(
        &format!("{ds} let m = ds.map(|row| #{{ n: row.n + 1, text: row.text }}); [m.len(), m[-1].n, m.columns]"),
        r#"[40000, 40000, ["n", "text"]]"#,
    );
    folder.gives(&format!("{ds} ds.train_test_split(#{{ test_size: 10, shuffle: false }}).test.column(\"n\").len()"), "10");
    folder.says(&format!("{ds} ds.take(7).map(|row| if row.n == 6 {{ throw \"no\" }} else {{ row }})"), &["no"]);
    folder.gives(&format!("{ds} concatenate_datasets([ds, ds.take(2)])[40001].n"), "1");
    let data = read_files(FileFormat::Json, &[folder.0.path().join("large.jsonl")], &ReadOptions::default()).unwrap();
    assert_eq!(data.origin(6).unwrap().1, Some(8), "the blank line counts");
    // What is wrong far behind is said when the file is loaded, as in a small file.
    folder.write("large.jsonl", text + "{\"n\": oops}\n");
    folder.says(ds, &["large.jsonl: line 40002, column 7", "one JSON object a line"]);
}

#[test]
fn streams() {
    let folder = Folder::new();
    let rows: String = (0..10).map(|i| format!("{{\"n\": {i}}}\n")).collect();
    folder.write("n.jsonl", rows);
    let stream = "fn double(row) { #{ n: row.n * 2 } }
        let s = load_dataset(\"json\", #{ data_files: \"n.jsonl\", streaming: true });";
    let list = |code: &str| format!("{stream} {code}.to_list().map(|row| row.n)");
    folder.gives(&list("s.filter(|row| row.n % 2 == 0).map(|row| double(row))"), "[0, 4, 8, 12, 16]");
    folder.gives(&list("s.skip(3).take(2)"), "[3, 4]");
    folder.gives(&list("load_dataset(\"n.jsonl\", #{ streaming: true, split: \"train[2:4]\" })"), "[2, 3]");
    folder.gives(&format!("{stream} let by = 3; let out = []; for row in s.map(|row| #{{ n: row.n * by }}) {{ if row.n > 6 {{ break; }} out.push(row.n); }} out"), "[0, 3, 6]");
    let shuffled = list("s.shuffle(#{ seed: 1, buffer_size: 4 })");
    let got = folder.eval(&shuffled);
    assert_eq!(got, folder.eval(&shuffled));
    assert_ne!(got, "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
    folder.gives(
        &format!(
            "{} .sum()",
            shuffled.replace(".map(|row| row.n)", ".map(|row| row.n).reduce(|a, b| (if a == () { 0 } else { a }) + b)")
        )
        .replace(" .sum()", ""),
        "45",
    );
    folder.gives(&format!("{stream} [s.column_names, s.rename_column(\"n\", \"m\").column_names]"), r#"[["n"], ["m"]]"#);
    folder.says(&list("s.map(|row| 1)"), &["map: row 0 (", "n.jsonl, line 1)", "must return a map"]);
    folder.says(&list("s.map(|row| row.n.nope())"), &["map: row 0 (", "nope"]);
    folder.says(&list("s.filter(|row| row.n)"), &["filter: row 0", "true or false"]);
    folder.says(&format!("{stream} s.take(-1)"), &["at least 0", "-1"]);
    folder.says("load_dataset(\"n.jsonl\", #{ streaming: true, split: \"train[:10%]\" })", &["number of rows", "stream"]);
    folder.says("load_dataset(\"json\", #{ data_files: \"absent.jsonl\", streaming: true })", &["absent.jsonl"]);
    folder.says("Dataset::from_list([#{ n: 1 }]).shuffle(#{ buffer_size: 3 })", &["buffer_size belongs to a stream"]);
    folder.gives(&format!("{stream} let seen = []; for batch in DataLoader(s.map(|row| #{{ text: \"a\" }}), #{{ tokenizer: AutoTokenizer::from_pretrained(\"tiny-random\"), batch_size: 4 }}) {{ seen.push(batch.input_ids.len()); }} seen"), "[4, 4, 2]");
}

#[test]
fn a_stream_trains_as_its_rows_do() {
    let folder = Folder::new();
    folder.write("t.jsonl", (0..6).map(|i| format!("{{\"text\": \"on the hill {i}\"}}\n")).collect::<String>());
    let train = |data: &str, args: &str| {
        format!(
            "manual_seed(1);
            let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");
            let args = TrainingArguments(#{{ per_device_train_batch_size: 2, logging_steps: 1, {args} }});
            let r = Trainer(#{{ model: model, train_dataset: {data}, args: args }}).train();
            [r.steps, r.log_history.map(|entry| [entry.epoch, entry.loss])]"
        )
    };
    let stream = "load_dataset(\"t.jsonl\", #{ streaming: true })";
    folder.says(&train(stream, ""), &["stream", "max_steps"]);
    // More steps than one pass has: it starts again.
    let long = folder.eval(&train(stream, "max_steps: 4"));
    assert!(long.starts_with("[4, [[0.25, "), "{long}");
    let packed = folder.eval(&train(stream, "max_steps: 2, packing: true, max_length: 64"));
    assert!(packed.starts_with("[2, "), "{packed}");
    // A stream of known length needs no max_steps, and one in the trainer's order gives the trainer's numbers.
    let order = ftrepl::data::loader::shuffled_order(6, 42, 0);
    let known = format!("load_dataset(\"t.jsonl\").select({order:?}).to_iterable_dataset()");
    assert_eq!(
        folder.eval(&train(&known, "num_train_epochs: 1")),
        folder.eval(&train("load_dataset(\"t.jsonl\")", "num_train_epochs: 1"))
    );
    folder.says(&train(&format!("{stream}.filter(|row| false)"), "max_steps: 1"), &["gives no rows"]);
}

#[test]
fn columns_sorting_and_shards() {
    let folder = Folder::new();
    let ds = "let ds = Dataset::from_list([#{ a: 2, b: \"y\" }, #{ a: 1, b: \"x\" }, #{ a: (), b: \"x\" }]);";
    folder.gives(&format!("{ds} ds.sort(\"a\").column(\"a\")"), "[1, 2, ()]");
    folder.gives(&format!("{ds} ds.sort(\"b\", #{{ reverse: true }}).column(\"b\")"), r#"["y", "x", "x"]"#);
    folder.gives(&format!("{ds} [ds.unique(\"b\"), ds.features]"), r##"[["y", "x"], #{ a: "int64", b: "string" }]"##);
    folder.gives(&format!("{ds} ds.rename_columns(#{{ a: \"b\", b: \"a\" }})[0]"), r##"#{ a: "y", b: 2 }"##);
    folder.gives(&format!("{ds} [0, 1].map(|i| ds.shard(#{{ num_shards: 2, index: i }}).len())"), "[2, 1]");
    folder.gives(&format!("{ds} [ds.shape, ds.num_columns]"), "[[3, 2], 2]");
    folder.gives(&format!("{ds} ds.map(|row, i| #{{ n: i }}, #{{ with_indices: true }}).column(\"n\")"), "[0, 1, 2]");
    folder.gives(&format!("{ds} ds.filter(|row, i| i != 1, #{{ with_indices: true }}).column(\"a\")"), "[2, ()]");
    folder.gives(&format!("{ds} let none = ds.filter(|row| false); [none.columns, none.column(\"a\")]"), r#"[["a", "b"], []]"#);
    folder.gives(&format!("{ds} ds.take(1).map(|row| #{{ a: row.a.to_float() }})[0]"), "#{ a: 2.0 }");
    // Integers beyond the script's keep their last digit.
    folder.write("ids.jsonl", "{\"id\":18446744073709551615}\n{\"id\":18446744073709551614}\n");
    folder.eval("load_dataset(\"ids.jsonl\").sort(\"id\").map(|row| row).to_json(\"sorted.jsonl\")");
    let sorted = std::fs::read_to_string(folder.0.path().join("sorted.jsonl")).unwrap();
    assert_eq!(sorted, "{\"id\":18446744073709551614}\n{\"id\":18446744073709551615}\n");
    for (code, words) in [
        ("ds.rename_column(\"c\", \"d\")", "no column `c`"),
        ("ds.rename_column(\"a\", \"b\")", "two columns would be called `b`"),
        ("ds.remove_columns([\"a\", \"z\"])", "the column `z`"),
        ("ds.select_columns(3)", "array of names"),
        ("ds.add_column(\"a\", [1, 2, 3])", "a column `a` already"),
        ("ds.add_column(\"c\", [1])", "1 values for 3 rows"),
        ("ds.sort(\"z\")", "the column `z`"),
        ("Dataset::from_list([#{ a: [1] }]).sort(\"a\")", "an array"),
        ("Dataset::from_list([#{ a: 1 }, #{ a: \"x\" }]).sort(\"a\")", "several kinds"),
        ("ds.shard(#{ num_shards: 2, index: 2 })", "no part 2"),
        ("ds.shard(#{ num_shards: 0 })", "num_shards"),
        ("Dataset::from_list([]).to_csv(\"x.csv\")", "empty"),
    ] {
        folder.says(&format!("{ds} {code}"), &[words]);
    }
}

/// Any value that Parquet keeps: no list or map without a value, and no null in a list, which the reader gives back as null too.
fn parquet_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        "[a-zü]{0,5}".prop_map(|text| json!(text)),
        any::<bool>().prop_map(|b| json!(b))
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| json!(items)),
            (inner.clone(), inner).prop_map(|(a, b)| json!({ "a": a, "b": b })),
        ]
    })
}

/// A value of the same shape with other leaves, some of them null, and lists of other lengths.
fn reshaped(value: &serde_json::Value, seed: usize) -> serde_json::Value {
    match value {
        _ if seed % 5 == 4 => json!(null),
        serde_json::Value::Number(_) => json!(seed),
        serde_json::Value::Array(items) => {
            let first = items.first().map(|item| reshaped(item, seed / 2));
            json!(std::iter::repeat_n(first, seed % 3).flatten().collect::<Vec<_>>())
        }
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), reshaped(value, seed / 3))).collect()
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parquet_files_give_back_the_rows(value in parquet_value(), seeds in prop::collection::vec(0usize..1000, 1..6)) {
        // Lists of one kind: a value of several kinds is written as text, which is another test.
        let same = reshaped(&reshaped(&value, 0), 1);
        let values: Vec<_> = std::iter::once(same.clone()).chain(seeds.iter().map(|seed| reshaped(&same, *seed))).collect();
        let rows: Vec<Row> = values.iter().map(|value| Row::from_iter([("v".to_string(), value.clone()), ("n".to_string(), json!(1))])).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        Dataset::from_list(rows.clone()).to_parquet(&path).unwrap();
        let read = read_files(FileFormat::Parquet, &[path], &ReadOptions::default()).unwrap();
        let read: Vec<Row> = read.iter().map(|row| (*row.unwrap()).clone()).collect();
        prop_assert_eq!(read, rows);
    }
}

#[test]
fn values_of_several_kinds_are_text_in_parquet() {
    let folder = Folder::new();
    let code = "Dataset::from_list([#{ a: 1, b: 1, c: (), d: #{} }, #{ a: \"x\", b: 2.5, c: (), d: #{} }, #{ a: [1] }]).to_parquet(\"x.parquet\");
        load_dataset(\"x.parquet\").to_list()";
    folder.gives(
        code,
        r##"[#{ a: "1", b: 1.0, c: (), d: "{}" }, #{ a: "x", b: 2.5, c: (), d: "{}" }, #{ a: "[1]", b: (), c: (), d: () }]"##,
    );
    folder.says("Dataset::from_list([#{}]).to_parquet(\"x.parquet\")", &["no fields"]);
    folder.says("Dataset::from_list([]).to_parquet(\"x.parquet\")", &["empty"]);
}

#[test]
fn what_a_data_set_holds() {
    let folder = Folder::new();
    let code = "let ds = Dataset::from_list([#{ text: \"abc\" }, #{ text: \"abc\" }, #{ prompt: \"ab\", completion: \"\" }]);
        let tokenizer = AutoTokenizer::from_pretrained(\"tiny-random\");";
    folder.gives(
        &format!("{code} let d = ds.describe(); [d.rows, d.duplicates, d.formats, d.characters.total, d.contains(\"tokens\")]"),
        "[3, 1, #{ prompt_completion: 1, text: 2 }, 8, false]",
    );
    let tokens = "t.min, t.max, t.total, t.target, t.truncated_rows, t.truncated_tokens, t.without_target";
    let got = folder.eval(&format!("{code} let t = ds.describe(tokenizer, #{{ max_length: 2 }}).tokens; [{tokens}]"));
    // Three letters and the end; two letters and the end: the limit leaves one target each of the first two and none of the last.
    assert_eq!(got, "[3, 4, 11, 7, 3, 5, 1]");
    folder.says(&format!("{code} ds.describe(tokenizer, #{{ max_length: 0 }})"), &["max_length", "at least 1"]);
    folder.says(
        "Dataset::from_list([#{ q: 1 }]).describe(AutoTokenizer::from_pretrained(\"tiny-random\"))",
        &["row 0 has the fields q"],
    );
    folder.gives("Dataset::from_list([]).describe().rows", "0");
    let mut session = Session::builder().out(folder.0.path()).device("cpu").output(|_| {}).build().unwrap();
    let empty = session.run_script("Dataset::from_list([]).describe()", "test").unwrap();
    let shown = format!("{:?}", ftrepl::script::result::blocks(&empty).unwrap());
    assert!(shown.contains("0 rows, 0 duplicates"), "{shown}");
}

#[test]
fn rows_tokenised_on_demand_are_those_that_are_kept() {
    let rows = (0..50).map(|i| Row::from_iter([("text".to_string(), format!("row {i}").into())])).collect();
    let data = Dataset::from_list(rows);
    let encoding = Encoding { max_length: Some(5), ..Encoding::default() };
    let kept = TokenRows::of_dataset(&data, std::rc::Rc::new(Bytes), encoding, &Control::default()).unwrap();
    let (some, warning) = TokenRows::keeping(20, &data, std::rc::Rc::new(Bytes), encoding, &Control::default()).unwrap();
    assert!(warning.unwrap().contains("(of the first 5 rows of 50)"));
    let all = |rows: &TokenRows| rows.pass(0).map(|row| row.unwrap().into_owned()).collect::<Vec<_>>();
    assert_eq!(all(&kept.0), all(&some));
    assert_eq!(kept.0.get(7).unwrap(), some.get(7).unwrap());
    assert_eq!(some.lengths(&Control::default()).unwrap().len(), 50);
    assert!(some.get(50).is_err() && kept.0.get(50).is_err());
}

/// Pieces of files, right and wrong.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "{\"a\": 1}",
    "{\"a\": \"x\"}",
    "{\"a\": [1, null]}",
    "{}",
    "\n",
    "\r\n",
    "\n\n",
    " ",
    "a,b",
    "1,2",
    "\"1\n2\",3",
    "null",
    "7",
    "PAR1",
    "\u{feff}",
    "ü",
    "\\u00",
    "\0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a file holds, reading it gives rows or an error that names the file, and a stream of it gives the same.
    #[test]
    fn no_file_breaks_a_reader(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12),
        broken in prop::option::of(any::<u8>()),
        name in prop::sample::select(&["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x.parquet", "x.jsonl.gz", "x.csv.gz"][..]),
        packed in any::<bool>(),
        sample_by in prop::sample::select(vec![read::SampleBy::Line, read::SampleBy::Paragraph, read::SampleBy::Document]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let mut bytes = pieces.concat().into_bytes();
        bytes.extend(broken);
        if packed && name.ends_with(".gz") {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            bytes = encoder.finish().unwrap();
        }
        std::fs::write(&path, bytes).unwrap();
        let format = FileFormat::from_path(&path).unwrap();
        let options = ReadOptions { sample_by, ..ReadOptions::default() };
        let whole = read_files(format, std::slice::from_ref(&path), &options)
            .and_then(|data| data.iter().map(|row| row.map(|row| (*row).clone())).collect::<Result<Vec<_>, _>>());
        let stream = IterableDataset::of_files(format, vec![path.clone()], options).unwrap();
        let streamed: Result<Vec<_>, _> = stream.rows(0).map(|found| found.map(|found| found.row)).collect();
        match (whole, streamed) {
            (Ok(whole), Ok(streamed)) => prop_assert_eq!(whole, streamed),
            (Err(whole), Err(streamed)) => {
                prop_assert_eq!(whole.to_string(), streamed.to_string());
                prop_assert!(whole.to_string().contains(name), "{whole}");
            }
            (whole, streamed) => prop_assert!(false, "{whole:?} {streamed:?}"),
        }
    }
}
