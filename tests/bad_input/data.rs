//! Files of data and rows to train on.

use super::{Place, with_model};

#[test]
fn data_files_that_are_malformed() {
    let place = Place::new();
    let json = "load_dataset(\"json\", #{ data_files: \"x.jsonl\" });";
    place.write("x.jsonl", "{\"text\": \"a\"}\n{\"text\":\n{\"text\": \"c\"}\n");
    place.fails(json, &["x.jsonl", "line 2", "one JSON object a line"]);
    place.write("x.jsonl", "{\"text\": \"a\"}\n[1, 2]\n");
    place.fails(json, &["x.jsonl", "line 2", "an array"]);
    place.write("x.jsonl", b"{\"text\": \"\xff\"}\n");
    place.fails(json, &["x.jsonl", "UTF-8"]);
    place.write("x.jsonl", "");
    place.fails(json, &["x.jsonl", "no rows"]);
    let csv = "load_dataset(\"csv\", #{ data_files: \"x.csv\" });";
    place.write("x.csv", "a,b\n1,2\n1,2,3\n");
    place.fails(csv, &["x.csv", "line 3", "3 fields", "header names 2"]);
    place.fails("load_dataset(\"json\", #{ data_files: \"absent.jsonl\" });", &["absent.jsonl", "No such file"]);
    place.write("x.parquet", "PAR1 but not really");
    place.fails("load_dataset(\"parquet\", #{ data_files: \"x.parquet\" });", &["x.parquet"]);
    place.write("x.jsonl.gz", "not compressed");
    place.fails("load_dataset(\"x.jsonl.gz\");", &["x.jsonl.gz", "gzip"]);
    place.write("x.json", "[{\"a\": 1},\n {\"a\": }]");
    place.fails("load_dataset(\"x.json\");", &["x.json", "line 2, column 8", "JSON array of objects", "script.rhai:1:"]);
    let stream = "for row in load_dataset(\"x.json\", #{ streaming: true }) { print(row.a); }";
    place.fails(stream, &["x.json", "line 2, column 8"]);
    place.fails("load_dataset(\"json\", #{ data_files: \"*.jsn\" });", &["no file fits \"*.jsn\""]);
    place.fails("load_dataset(\"json\", #{ data_files: \"[\" });", &["no pattern"]);
    place.fails("load_dataset(\"drug_qa\", #{ format: \"alpca\" });", &["\"format\"", "\"alpaca\"", "alpca"]);
    place.fails("load_dataset(\"drug_qa\", #{ columns: [\"a\"] });", &["columns must be a map"]);
    place.fails("load_dataset(\"org/absent\");", &["org/absent", "HF_HUB_OFFLINE"]);
    std::fs::create_dir(place.path().join("nothing")).unwrap();
    place.fails("load_dataset(\"nothing\");", &["nothing has no Parquet", "only nothing"]);
    place.write("x.json", "{\"a\": 1,}");
    place.fails("load_json(\"x.json\");", &["x.json:1:9", "not valid JSON"]);
}

#[test]
fn rows_that_training_cannot_take() {
    let place = Place::new();
    let train = |rows: &str| with_model(&format!("Trainer(#{{ model: model, train_dataset: {rows} }}).train();"));
    place.fails(&train("[]"), &["training needs rows", "empty"]);
    let shape = "[#{ text: \"a\" }, #{ question: \"b\", answer: \"c\" }]";
    place.fails(&train(shape), &["row 1", "answer, question", "{prompt, completion}", ".map("]);
    place.fails(&train("[#{ text: \"a\" }, #{ text: 5 }]"), &["row 1", "`text` must be a string"]);
    place.fails(&train("[#{ text: \"a\" }, 7]"), &["row 1", "must be a map"]);
    place.fails(&train("[#{ messages: [#{ role: \"user\" }] }]"), &["row 0", "message 0", "content"]);
    place.fails(&train("[#{ text: \"\" }]"), &["no", "token to learn from", "answers are empty"]);
    place.fails(&train("\"x.jsonl\""), &["train_dataset"]);
    place.write("mixed.jsonl", "{\"text\": \"a\"}\n{\"question\": \"a\"}\n");
    place.fails(&train("load_dataset(\"mixed.jsonl\")"), &["row 1 (mixed.jsonl, line 2) has the fields question", "columns:"]);
    let stream = "load_dataset(\"mixed.jsonl\", #{ streaming: true })";
    place.fails(&train(stream), &["stream", "max_steps"]);
    let steps =
        format!("Trainer(#{{ model: model, train_dataset: {stream}, args: TrainingArguments(#{{ max_steps: 1 }}) }}).train();");
    place.fails(&with_model(&steps), &["row 1 (mixed.jsonl, line 2)"]);
    place.fails(&with_model("Trainer(#{ model: model });"), &["train_dataset", "missing"]);
    place.fails("Trainer(#{ model: 5, train_dataset: [] });", &["Trainer", "\"model\" must be a model", "5"]);
}

#[test]
fn rows_in_a_field_of_a_json_file() {
    let place = Place::new();
    place.write("squad.json", "{\n  \"version\": 1,\n  \"data\": [{\"n\": 1}, {\"n\": 2}],\n  \"mixed\": [{\"n\": 1}, 2]\n}\n");
    let load = |options: &str| format!("print(load_dataset(\"json\", #{{ data_files: \"squad.json\", {options} }})");
    assert_eq!(place.works(&format!("{}.column(\"n\"));", load("field: \"data\""))), "[1, 2]\n");
    assert_eq!(place.works(&format!("{}.to_list().len());", load("field: \"data\", streaming: true"))), "2\n");
    let cases: &[(&str, &[&str])] = &[
        ("field: \"rows\"", &["squad.json", "there is no field \"rows\"; there are: version, data, mixed"]),
        ("field: \"version\"", &["the field \"version\" is a number, but it must be an array of objects"]),
        ("field: \"mixed\"", &["item 1 of the field \"mixed\" is a number, but every row must be an object"]),
        ("", &["several lines", "the option field"]),
    ];
    for (options, words) in cases {
        place.fails(&format!("{});", load(options)), words);
    }
    place.write("squad.json", "{\"data\": [{\"n\": 1},]}");
    place.fails(
        &format!("{});", load("field: \"data\"")),
        &["line 1, column 20", "expected one JSON object with the field \"data\""],
    );
}

#[test]
fn the_training_part_of_a_split_has_a_size_too() {
    let place = Place::new();
    let ds = "let ds = load_dataset(\"general_text\").select(0..10);\n";
    let sizes =
        |options: &str| format!("{ds}let p = ds.train_test_split(#{{ {options} }}); print([p.train.len(), p.test.len()]);");
    for (options, expected) in [
        ("train_size: 0.75", "[7, 3]\n"),
        ("train_size: 6", "[6, 4]\n"),
        ("train_size: 4, test_size: 3", "[4, 3]\n"),
        ("train_size: 0.55, test_size: 0.15", "[5, 2]\n"),
        ("shuffle: false", "[7, 3]\n"),
    ] {
        assert_eq!(place.works(&sizes(options)), expected, "{options}");
    }
    let ordered = "let p = ds.train_test_split(#{ train_size: 2, test_size: 1, shuffle: false }); print(p.test[0] == ds[2]);";
    assert_eq!(place.works(&format!("{ds}{ordered}")), "true\n");
    for (options, words) in [
        ("train_size: 10", "10 rows for training and 0 for the test: the data set has 10 rows"),
        ("train_size: 8, test_size: 0.5", "8 rows for training and 5 for the test"),
        ("train_size: 1.5", "train_size is 1.5: a fraction lies between 0 and 1"),
        ("train_size: -3", "train_size is -3"),
    ] {
        place.fails(&sizes(options), &[words]);
    }
}

#[test]
fn a_stream_numbers_the_rows_for_its_functions() {
    let place = Place::new();
    let stream = "let s = Dataset::from_list([#{ n: 5 }, #{ n: 6 }, #{ n: 7 }, #{ n: 8 }]).to_iterable_dataset();\n\
        let t = s.filter(|row, i| i != 1, #{ with_indices: true }).map(|row, i| #{ n: row.n * 10 + i }, #{ with_indices: true });\n";
    // Every pass counts from 0.
    let code = format!("{stream}for i in 0..2 {{ print(t.to_list().map(|row| row.n)); }}");
    assert_eq!(place.works(&code), "[50, 71, 82]\n[50, 71, 82]\n");
    place.fails(
        &format!("{stream}s.map(|row| row, #{{ with_indices: true }}).to_list();"),
        &["map: row 0", "must take 2 argument(s)"],
    );
    place.fails(&format!("{stream}s.filter(|row| true, #{{ with_indicies: true }});"), &["did you mean \"with_indices\"?"]);
}
