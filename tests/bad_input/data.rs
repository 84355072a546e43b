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
