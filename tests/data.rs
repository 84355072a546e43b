//! Data sets: files in, rows out, mixing, and the way to token batches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod warnings;

use ftrepl::control::Control;
use ftrepl::data::*;
use ftrepl::script::display;
use ftrepl::session::Session;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use warnings::Warnings;

fn eval(code: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    eval_in(folder.path(), code).0
}

/// The value or the error as text, and the warnings.
fn eval_in(folder: &Path, code: &str) -> (String, Vec<String>) {
    let (warnings, control) = Warnings::with_control();
    let mut session = Session::builder().out(folder).device("cpu").control(control).output(|_| {}).build().unwrap();
    let text = match session.run_script(code, "test") {
        Ok(value) => display::text(&value),
        Err(error) => error.to_string(),
    };
    (text, warnings.all())
}

#[test]
fn rows_in_and_out() {
    let ds = "let ds = Dataset::from_list([#{a: 1, b: 2.5}, #{a: 2, b: ()}, #{a: 3, c: [1, #{x: true}]}]);";
    assert_eq!(eval(&format!("{ds} ds.len()")), "3");
    assert_eq!(eval(&format!("{ds} ds[-1].c[1].x")), "true");
    assert_eq!(eval(&format!("{ds} ds.columns")), r#"["a", "b", "c"]"#);
    assert_eq!(eval(&format!("{ds} ds.column(\"b\")")), "[2.5, (), ()]");
    assert_eq!(eval(&format!("{ds} ds[\"a\"]")), "[1, 2, 3]");
    assert_eq!(eval(&format!("{ds} let sum = 0; for row in ds {{ sum += row.a; }} sum")), "6");
    assert_eq!(eval(&format!("{ds} ds.select(1..3).len() + ds.select(0..=0).len() + ds.select([2, 0, -1]).len()")), "6");
    assert_eq!(eval(&format!("{ds} ds.map(|row| #{{ n: row.a * 2 }}).filter(|row| row.n > 2).column(\"n\")")), "[4, 6]");
    assert_eq!(eval(&format!("{ds} concatenate_datasets([ds, ds, [#{{a: 9}}]]).len()")), "7");
    assert!(eval(&format!("{ds} print(ds); `${{ds}}`")).contains("rows: 3"));
}

#[test]
fn mistakes_are_explained() {
    let ds = "let ds = Dataset::from_list([#{a: 1}, #{a: 2}]);";
    for (code, words) in [
        ("Dataset::from_list([1])", "row 0 must be a map"),
        ("Dataset::from_list([#{f: |x| x}])", "row.f"),
        ("Dataset::from_list([])[0]", "empty"),
        ("ds[2]", "has 2 rows, 0 to 1"),
        ("ds.column(\"b\")", "the columns are: a"),
        ("ds.map(|row| 1)", "row 0 became a value of type i64"),
        ("ds.filter(|row| row.a)", "must return true or false"),
        ("ds.filter(|row| row.a > nothing)", "nothing"),
        ("ds.select(0..5)", "there is no row 2"),
        ("ds.train_test_split(#{test_size: 2})", "leaves 0 for training"),
        ("ds.train_test_split(#{test_size: 1.5})", "test_size is 1.5"),
        ("ds.train_test_split(#{test_sice: 0.5})", "test_sice"),
        ("load_dataset(\"drug_quiz\")", "drug_qa"),
        ("load_dataset(\"json\")", "data_files"),
        ("load_dataset(\"csv\", #{data_files: \"nowhere.csv\"})", "nowhere.csv"),
        ("load_dataset(\"general_qa\", #{split: \"train[:\"})", "is not understood"),
        ("create_replay_dataset(Dataset::from_list([]), ds)", "empty"),
        ("create_replay_dataset(ds, ds, #{of: \"total\", replay_fraction: 1.0})", "below 1"),
        ("create_replay_dataset(ds, 7)", "general_data must be a Dataset"),
    ] {
        let got = eval(&format!("{ds} {code}"));
        assert!(got.contains(words), "{code}: {got}");
    }
}

#[test]
fn same_seed_same_order() {
    let code = "load_dataset(\"general_text\").shuffle(#{seed: 7}).column(\"id\")";
    assert_eq!(eval(code), eval(code));
    assert_ne!(eval(code), eval(&code.replace('7', "8")));
    let split = "let p = load_dataset(\"general_text\").select(0..10).train_test_split(#{test_size: 0.25, seed: 1}); \
        [p.train.len(), p.test.len(), concatenate_datasets([p.train, p.test]).len()]";
    assert_eq!(eval(split), "[7, 3, 10]");
    let kept = "load_dataset(\"general_text\").select(0..10).train_test_split(#{test_size: 4, shuffle: false}).test[0].id";
    assert_eq!(eval(kept), eval("load_dataset(\"general_text\")[6].id"));
}

#[test]
fn replay_counts_as_the_lesson_does() {
    let rows = |n: usize| Dataset::from_list((0..n).map(|i| Row::from_iter([("i".into(), i.into())])).collect());
    for (domain, general, fraction, of, replayed, shortfall) in [
        (40, 300, 0.15, FractionOf::Domain, 6, 0),
        (100, 20, 0.15, FractionOf::Domain, 15, 0),
        (100, 300, 0.29, FractionOf::Domain, 28, 0), // int(100 * 0.29) in Python, too
        (100, 10, 0.5, FractionOf::Domain, 10, 40),
        (100, 300, 0.15, FractionOf::Total, 18, 0),
        (10, 0, 0.0, FractionOf::Domain, 0, 0),
    ] {
        let mixed = create_replay_dataset(&rows(domain), &rows(general), fraction, 42, of).unwrap();
        assert_eq!((mixed.replayed, mixed.shortfall, mixed.dataset.len()), (replayed, shortfall, domain + replayed));
    }
    // Row by row as Python's random.sample and random.shuffle give it.
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/python_random.json")).unwrap();
    for (domain, general, replayed) in [(40, 300, 6), (100, 20, 15), (20, 30, 3)] {
        let both =
            &golden["seed 42"][&format!("sample(range({general}), {replayed}) then shuffle(list(range({})))", domain + replayed)];
        let fraction = replayed as f64 / domain as f64;
        let mixed = create_replay_dataset(&rows(domain), &rows(general), fraction, 42, FractionOf::Domain).unwrap();
        let got: Vec<u64> = mixed.dataset.column("i").unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
        let numbers = |list: &serde_json::Value| list.as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect::<Vec<_>>();
        let (sample, order) = (numbers(&both[0]), numbers(&both[1]));
        let want = order.iter().map(|i| if *i < domain as u64 { *i } else { sample[*i as usize - domain] });
        assert_eq!(got, want.collect::<Vec<_>>());
    }
    let code = "create_replay_dataset([#{text: \"a\"}, #{text: \"b\"}], [#{text: \"c\"}], #{replay_fraction: 1.0}).len()";
    let folder = tempfile::tempdir().unwrap();
    let (value, warnings) = eval_in(folder.path(), code);
    assert_eq!(value, "3");
    assert!(warnings[0].contains("2 general rows wanted, but there are 1"), "{warnings:?}");
}

#[test]
fn files_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let read = |code: &str| eval_in(folder.path(), code).0;
    write("a.jsonl", "\u{feff}{\"text\": \"one\"}\r\n\n{\"text\": \"two\"}\n");
    write("a.json", "[{\"text\": \"one\", \"n\": 1}, {\"text\": \"two\", \"n\": 2.0}]");
    write("a.csv", "q,n,price,code,ok\n\"What, now?\",1,2.5,007,True\nline,,3,010,false\n");
    write("a.txt", "first\nstill first\n\nsecond\n");
    assert_eq!(
        read("load_dataset(\"json\", #{data_files: [\"a.jsonl\", \"a.json\"]}).column(\"text\")"),
        r#"["one", "two", "one", "two"]"#
    );
    assert_eq!(read("load_dataset(\"a.json\")[0].n"), "1");
    assert_eq!(
        read("load_dataset(\"csv\", #{data_files: \"a.csv\"})[0]"),
        r#"#{ code: "007", n: 1, ok: true, price: 2.5, q: "What, now?" }"#
    );
    assert_eq!(read("load_dataset(\"csv\", #{data_files: \"a.csv\"})[1].n"), "()");
    assert_eq!(read("load_dataset(\"text\", #{data_files: \"a.txt\"}).len()"), "3");
    assert_eq!(read("load_dataset(\"text\", #{data_files: \"a.txt\", sample_by: \"paragraph\"})[0].text"), "first\nstill first");
    assert_eq!(read("load_dataset(\"json\", #{data_files: #{train: \"a.jsonl\", test: \"a.json\"}}).test.len()"), "2");
    assert_eq!(read("load_dataset(\"json\", #{data_files: #{train: \"a.jsonl\"}, split: \"train[:50%]\"}).len()"), "1");
    assert_eq!(read("load_dataset(\"a.json\").to_json(\"b.jsonl\"); load_dataset(\"b.jsonl\")[1].text"), "two");
    write("bad.jsonl", "{\"text\": \"one\"}\n{\"text\": two}\n");
    let error = read("load_dataset(\"bad.jsonl\")");
    assert!(error.contains("bad.jsonl: line 2, column 11"), "{error}");
    write("bad.csv", "a,b\n1,2\n1,2,3\n");
    let error = read("load_dataset(\"bad.csv\")");
    assert!(error.contains("line 3 has 3 fields, but the header names 2"), "{error}");
    write("one.json", "{\n\"text\": \"one\"\n}");
    assert!(read("load_dataset(\"one.json\")").contains("over several lines"));
    write("empty.jsonl", "\n");
    assert!(read("load_dataset(\"empty.jsonl\")").contains("holds no rows"));
    write("not.parquet", "no");
    assert!(read("load_dataset(\"not.parquet\")").contains("not readable as Parquet"));
}

#[test]
fn parquet_rows() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let schema = "message rows { required binary text (UTF8); optional int64 n; required double score; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = [ByteArray::from("one"), ByteArray::from("zwölf")];
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7], Some(&[1, 0]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[0.5, 1.5], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let (value, _) = eval_in(folder.path(), "load_dataset(\"parquet\", #{data_files: \"x.parquet\"}).to_list()");
    assert_eq!(value, r#"[#{ n: 7, score: 0.5, text: "one" }, #{ n: (), score: 1.5, text: "zwölf" }]"#);
}

/// A file with these columns, each of one value a row.
fn parquet_of_integers(path: &Path, schema: &str, columns: &[i64]) {
    use parquet::data_type::{Int32Type, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::default()).unwrap();
    if !columns.is_empty() {
        let mut group = writer.next_row_group().unwrap();
        for value in columns {
            let mut column = group.next_column().unwrap().unwrap();
            match i32::try_from(*value) {
                Ok(value) => column.typed::<Int32Type>().write_batch(&[value], None, None).unwrap(),
                Err(_) => column.typed::<Int64Type>().write_batch(&[*value], None, None).unwrap(),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_times_that_no_calendar_has_are_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let read = "load_dataset(\"x.parquet\").to_list()";
    let schema = "message rows { required int32 day (DATE); required int32 far (DATE); required int64 time (TIMESTAMP(MILLIS,true)); \
        required int64 late (TIMESTAMP(MILLIS,true)); required int64 last (TIMESTAMP(MICROS,true)); }";
    parquet_of_integers(&path, schema, &[1, i64::from(i32::MAX), 86_400_000_000, i64::MAX / 2, i64::MAX]);
    let late = i64::MAX / 2;
    let row = format!(
        "[#{{ day: \"1970-01-02\", far: {}, last: {}, late: {late}, time: \"1972-09-27 00:00:00.000 +00:00\" }}]",
        i32::MAX,
        i64::MAX
    );
    assert_eq!(eval_in(folder.path(), read).0, row);
    parquet_of_integers(&path, "message rows { required int64 pandas (TIMESTAMP(NANOS,false)); }", &[1_577_934_245_678_901_234]);
    assert_eq!(eval_in(folder.path(), read).0, "[#{ pandas: \"2020-01-02 03:04:05.678901 +00:00\" }]");
    parquet_of_integers(&path, "message rows { required fixed_len_byte_array(12) wait (INTERVAL); }", &[]);
    let error = eval_in(folder.path(), read).0;
    assert!(error.contains("x.parquet: column `wait` holds intervals"), "{error}");
}

#[test]
fn an_error_among_skipped_rows_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.jsonl"), "{\"n\": 0}\n{\"n\": oops}\n").unwrap();
    std::fs::write(folder.path().join("good.jsonl"), "{\"n\": 10}\n{\"n\": 11}\n").unwrap();
    let files = "data_files: [\"bad.jsonl\", \"good.jsonl\"], streaming: true";
    let list = |steps: &str| eval_in(folder.path(), &format!("load_dataset(\"json\", #{{ {files} }}){steps}.to_list()")).0;
    for steps in [".skip(3)", ".skip(1)", ".filter(|row| row.n > 5).skip(1)"] {
        let got = list(steps);
        assert!(got.contains("bad.jsonl: line 2, column 7"), "{steps}: {got}");
    }
    assert_eq!(list(".take(1)"), "[#{ n: 0 }]");
}

/// Lines of JSON that make a file longer than the 8 MB from which on files are indexed.
fn many_lines() -> String {
    format!("{{\"text\": \"{}\"}}\n", "x".repeat(1000)).repeat(9000)
}

#[test]
fn what_no_row_can_hold_is_told_when_a_long_file_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
    for line in [r#"{"a": "\ud800 x"}"#, "{\"a\": 1e999}", deep.as_str()] {
        std::fs::write(folder.path().join("long.jsonl"), many_lines() + line + "\n").unwrap();
        let error = eval_in(folder.path(), "load_dataset(\"long.jsonl\").len()").0;
        assert!(error.contains("long.jsonl: line 9001, column"), "{line}: {error}");
    }
    let good = r#"{"a": ["\ud83d\ude00\n", 1e300, -0.5, 18446744073709551615, true, null, {"b": {}}], "c": ""}"#;
    std::fs::write(folder.path().join("long.jsonl"), many_lines() + good + "\n").unwrap();
    assert_eq!(eval_in(folder.path(), "load_dataset(\"long.jsonl\")[-1].a[0].len()").0, "2");
    // Blanks that JSON does not know may stand behind a row, as in a short file.
    std::fs::write(folder.path().join("long.jsonl"), many_lines() + "\u{c}\n{\"a\": 1}\u{a0}\n").unwrap();
    let ends = "let ds = load_dataset(\"long.jsonl\"); [ds.len(), ds[-2].text.len(), ds[-1].a]";
    assert_eq!(eval_in(folder.path(), ends).0, "[9001, 1000, 1]");
}

#[test]
fn reading_a_long_file_can_be_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("long.jsonl"), many_lines()).unwrap();
    std::fs::write(path("x.csv"), "a,b\n1,2\n").unwrap();
    let control = Control::default();
    let options = ReadOptions { control: control.clone(), ..ReadOptions::default() };
    let data = read_files(FileFormat::Json, &[path("long.jsonl")], &options).unwrap();
    let stream = IterableDataset::of_files(FileFormat::Csv, vec![path("x.csv")], options).unwrap();
    control.flag().store(true, Ordering::Relaxed);
    assert!(matches!(data.to_json(&path("out.jsonl")), Err(ftrepl::Error::Interrupted)));
    assert!(!path("out.jsonl").exists());
    assert!(matches!(data.column("text"), Err(ftrepl::Error::Interrupted)));
    assert!(matches!(stream.rows(0).next(), Some(Err(ftrepl::Error::Interrupted))));
    control.flag().store(false, Ordering::Relaxed);
    assert_eq!(data.column("text").unwrap().len(), 9000);
}

#[test]
fn numbers_keep_their_last_digit() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "{\"x\":9.385958677423489e-21}\n{\"x\":2.3308445025757262e-7}\n{\"x\":0.1}\n";
    std::fs::write(folder.path().join("x.jsonl"), rows).unwrap();
    eval_in(folder.path(), "load_dataset(\"x.jsonl\").to_json(\"y.jsonl\")");
    assert_eq!(std::fs::read_to_string(folder.path().join("y.jsonl")).unwrap(), rows);
    // More digits than a number holds, and zeros in front, are a code and stay text.
    std::fs::write(folder.path().join("x.csv"), "id,phone,n\n12345678901234567890,+0049,1\n2,+1,-2\n").unwrap();
    assert_eq!(
        eval_in(folder.path(), "load_dataset(\"x.csv\").to_list()").0,
        r##"[#{ id: "12345678901234567890", n: 1, phone: "+0049" }, #{ id: "2", n: -2, phone: "+1" }]"##
    );
}

#[test]
fn truth_is_written_in_three_ways_and_only_empty_cells_are_null() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.csv"), "flag,score\nTRUE,1.5\n,NaN\nFalse,\n").unwrap();
    assert_eq!(
        eval_in(folder.path(), "load_dataset(\"x.csv\").to_list()").0,
        r##"[#{ flag: true, score: "1.5" }, #{ flag: (), score: "NaN" }, #{ flag: false, score: () }]"##
    );
}

#[test]
fn quotes_in_csv_must_be_closed() {
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        std::fs::write(folder.path().join("x.csv"), text).unwrap();
        eval_in(folder.path(), "load_dataset(\"x.csv\").to_list()").0
    };
    for (text, line) in [
        ("a,b\n1,\"x\n2,y\n3,z\n", 2),
        ("a,b\n\"1\n2\",3\n\"x\n2,y\n3,z\n", 4),
        ("a,\"b\n1,2\n", 1),
        ("a,b\r\n1,2\r\n3,\"x \"\" y", 3),
    ] {
        let error = read(text);
        assert!(error.contains(&format!("x.csv: line {line}: the quotes that open here are never closed")), "{text}: {error}");
    }
    assert_eq!(
        read("a,b\n\"x, \"\"q\"\"\nline\",2\n5\" pipe,\"\"\n"),
        r##"[#{ a: "x, \"q\"\nline", b: 2 }, #{ a: "5\" pipe", b: () }]"##
    );
    std::fs::write(folder.path().join("x.csv"), b"a,b\n1,\xe9\n").unwrap();
    let error = eval_in(folder.path(), "load_dataset(\"x.csv\")").0;
    assert!(error.contains("x.csv: line 2: not valid UTF-8; save the file as UTF-8"), "{error}");
}

#[test]
fn parts_of_a_split_are_those_of_datasets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("five.csv"), "n\n0\n1\n2\n3\n4\n").unwrap();
    let part =
        |split: &str| eval_in(folder.path(), &format!("load_dataset(\"five.csv\", #{{ split: \"{split}\" }}).column(\"n\")")).0;
    // As Python does, half a row goes to the even number.
    assert_eq!(part("train[:50%]"), "[0, 1]");
    assert_eq!(part("train[70%:]"), "[4]");
    assert_eq!(part("train[-30%:]"), "[3, 4]");
    assert_eq!(part("train[-2:]"), "[3, 4]");
    assert!(part("train[:10%]").contains("selects no rows"));
}

#[test]
fn what_has_one_split_and_no_configurations_refuses_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.csv"), "n\n0\n1\n").unwrap();
    for (code, words) in [
        ("load_dataset(\"x.csv\", #{ split: \"test\" })", "x.csv has no split \"test\"; it has: train"),
        ("load_dataset(\"csv\", #{ data_files: \"x.csv\", split: \"test[:1]\" })", "data_files has no split \"test\""),
        ("load_dataset(\"general_qa\", #{ split: \"test\" })", "general_qa has no split \"test\""),
        ("load_dataset(\"x.csv\", #{ name: \"y\" })", "no configuration \"y\""),
        ("load_dataset(\"x.csv\", #{ revision: \"y\" })", "no revision \"y\""),
    ] {
        let got = eval_in(folder.path(), code).0;
        assert!(got.contains(words), "{code}: {got}");
    }
    assert_eq!(
        eval_in(folder.path(), "load_dataset(\"csv\", #{ data_files: #{ test: \"x.csv\" }, split: \"test\" }).len()").0,
        "2"
    );
}

#[test]
fn options_of_other_formats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.jsonl"), "{\"n\": 1}\n").unwrap();
    std::fs::write(folder.path().join("x.csv"), "n\n1\n").unwrap();
    for (options, words) in [
        ("delimiter: \";\"", "delimiter belongs to CSV files"),
        ("sample_by: \"document\", streaming: true", "sample_by belongs to text files"),
        ("field: \"data\"", "field belongs to JSON files"),
    ] {
        let file = if options.starts_with("field") { "x.csv" } else { "x.jsonl" };
        for name in [file, "drug_qa"] {
            let words = if name == "drug_qa" { &words[..words.find(" to ").unwrap()] } else { words };
            let got = eval_in(folder.path(), &format!("load_dataset(\"{name}\", #{{ {options} }})")).0;
            assert!(got.contains(words), "{name}, {options}: {got}");
        }
    }
}

#[test]
fn the_card_of_a_folder_says_which_files_are_which() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let files = "  data_files:\n  - split: test\n    path: b/*.csv\n";
    write("set/README.md", &format!("---\nconfigs:\n- config_name: semicolons\n  sep: ;\n{files}---\n"));
    write("set/train.csv", "a;b\n1;2\n");
    write("set/b/train.csv", "a;b\n3;4\n");
    assert_eq!(eval_in(folder.path(), "load_dataset(\"set\").test.to_list()").0, "[#{ a: 3, b: 4 }]");
    write("set/README.md", "---\nconfigs: x\n---\n");
    let error = eval_in(folder.path(), "load_dataset(\"set\")").0;
    assert!(error.contains("README.md: `configs` is not a list"), "{error}");
}

/// Bytes as tokens; 256 starts, 257 ends.
struct Bytes;

impl TextTokenizer for Bytes {
    fn encode(&self, text: &str, add_special_tokens: bool) -> ftrepl::Result<Vec<u32>> {
        let start = add_special_tokens.then_some(256);
        Ok(start.into_iter().chain(text.bytes().map(u32::from)).collect())
    }
    fn eos_id(&self) -> Option<u32> {
        Some(257)
    }
    fn chat(&self, messages: &[Message]) -> ftrepl::Result<(Vec<u32>, Vec<bool>)> {
        let turns = messages.iter().flat_map(|m| m.content.bytes().map(|b| (u32::from(b), m.role == "assistant")));
        Ok(turns.unzip())
    }
}

fn encode(json: serde_json::Value, max_length: Option<usize>) -> ftrepl::Result<Encoded> {
    tokenize(json.as_object().unwrap(), &3, &Bytes, Encoding { max_length, ..Encoding::default() })
}

#[test]
fn which_tokens_carry_loss() {
    use serde_json::json;
    let row = encode(json!({"text": "ab", "instruction": "x", "output": "y"}), None).unwrap();
    assert_eq!(row.input_ids, [256, 97, 98, 257]);
    assert_eq!(row.labels, [256, 97, 98, 257]);
    let row = encode(json!({"prompt": "a", "completion": "b", "text": "x"}), None).unwrap();
    assert_eq!(row.input_ids, [256, 97, 98, 257]);
    assert_eq!(row.labels, [-100, -100, 98, 257]);
    let row =
        encode(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), None).unwrap();
    assert_eq!(row.labels, [-100, 98]);
    let row = encode(json!({"instruction": "Add.", "input": "1+1", "output": "2"}), None).unwrap();
    let prompt = "### Instruction:\nAdd.\n\n### Input:\n1+1\n\n### Response:\n".len();
    assert_eq!(row.labels.iter().filter(|l| **l == -100).count(), prompt + 1);
    assert_eq!(row.targets(), 2);
    let cut = encode(json!({"prompt": "abc", "completion": "d"}), Some(3)).unwrap();
    assert!(cut.truncated && cut.targets() == 0 && cut.input_ids.len() == 3);
    let error = encode(json!({"question": "q", "answer": "a"}), None).unwrap_err().to_string();
    assert!(error.contains("row 3 has the fields question, answer") && error.contains("{prompt, completion}"), "{error}");
    let error = encode(json!({"text": 3}), None).unwrap_err().to_string();
    assert!(error.contains("`text` must be a string"), "{error}");
    let error = encode(json!({"messages": [{"role": "user"}]}), None).unwrap_err().to_string();
    assert!(error.contains("message 0 lacks"), "{error}");
}

#[test]
fn batches_are_padded_on_the_right() {
    let rows: Vec<Encoded> = ["a", "bcd", "ef"].iter().map(|t| encode(serde_json::json!({"text": t}), None).unwrap()).collect();
    let loader = DataLoader::new(rows, 2, 0).unwrap();
    let batches: Vec<Batch> = loader.epoch(0).map(|b| b.unwrap()).collect();
    assert_eq!((batches.len(), loader.batches()), (2, Some(2)));
    assert_eq!((batches[0].batch, batches[0].seq, batches[1].batch), (2, 5, 1));
    assert_eq!(batches[0].input_ids, [256, 97, 257, 0, 0, 256, 98, 99, 100, 257]);
    assert_eq!(batches[0].attention_mask, [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(batches[0].labels, [256, 97, 257, -100, -100, 256, 98, 99, 100, 257]);
    assert_eq!((batches[0].targets(), batches[0].tokens()), (6, 8));
    let shuffled = loader.clone().shuffled(42);
    assert_eq!(shuffled.order(1), loader.clone().shuffled(43).order(0));
    let pass = |loader: &DataLoader| loader.next_epoch().map(|b| b.unwrap()).collect::<Vec<Batch>>();
    let of_epoch = |epoch| shuffled.epoch(epoch).map(|b| b.unwrap()).collect::<Vec<Batch>>();
    assert_eq!([pass(&shuffled), pass(&shuffled.clone()), pass(&shuffled)], [of_epoch(0), of_epoch(1), of_epoch(2)]);
    let mut even = loader.clone();
    even.drop_last = true;
    assert_eq!(even.epoch(0).count(), 1);
    assert_eq!(loader.epoch(0).nth(1).unwrap().unwrap(), batches[1]);
    assert!(DataLoader::new(Vec::new(), 2, 0).is_err());
}

#[test]
fn whole_data_sets() {
    let data =
        Dataset::from_list(vec![Row::from_iter([("text".into(), "a".into())]), Row::from_iter([("text".into(), "".into())])]);
    let encoding = Encoding { max_length: Some(1), add_eos: false, format: None };
    let error = tokenize_dataset(&data, &Bytes, encoding, &Control::default()).unwrap_err().to_string();
    assert!(error.contains("none of the 2 rows"), "{error}");
    let done =
        tokenize_dataset(&data, &Bytes, Encoding { max_length: Some(2), add_eos: false, format: None }, &Control::default())
            .unwrap();
    assert_eq!((done.truncated, done.without_target), (0, 1));
    assert!(done.warning(Some(2)).unwrap().contains("1 rows have no token"));
    assert!(tokenize_dataset(&Dataset::default(), &Bytes, encoding, &Control::default()).is_err());
}
