//! Files as other programs write them, files that are damaged or of another kind, and functions that fail on a row.

use super::Place;
use std::io::Write;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_other_programs_write_is_read() {
    let place = Place::new();
    let prints = |code: &str, expected: &str| assert_eq!(place.works(&format!("print({code});")).trim_end(), expected, "{code}");
    // pandas writes its index into a column without a name.
    place.write("pandas.csv", ",text,\n0,a,\n1,b,\n");
    prints("load_dataset(\"pandas.csv\").column_names", r#"["Unnamed: 0", "text", "Unnamed: 2"]"#);
    prints("load_dataset(\"pandas.csv\").column(\"Unnamed: 0\")", "[0, 1]");
    place.write("blanks.csv", "a, b, c\n 1, 2.5, x\n3 , 4,   \n");
    prints("load_dataset(\"blanks.csv\").to_list()", r##"[#{ a: 1, b: 2.5, c: " x" }, #{ a: 3, b: 4.0, c: "   " }]"##);
    place.write("mark.json", "\u{feff}{\"a\": 1}");
    prints("load_json(\"mark.json\").a", "1");
    // What is written by a name is read by it.
    for (method, name) in [("to_csv", "x.tsv"), ("to_csv", "x.csv.gz"), ("to_csv", "x.tsv.gz"), ("to_json", "x.jsonl.gz")] {
        place.works(&format!("Dataset::from_list([#{{ a: 1, b: \"x\" }}]).{method}(\"{name}\");"));
        prints(&format!("load_dataset(\"{name}\").to_list()"), r##"[#{ a: 1, b: "x" }]"##);
    }
    place.write("packed.jsonl", gzip("{\"a\": 1}\n{\"a\": 2}\n"));
    prints("load_dataset(\"packed.jsonl\").column(\"a\")", "[1, 2]");
    place.write("parts/a.jsonl", "{\"a\": 1}\n");
    place.write("parts/more/b.jsonl", "{\"a\": 2}\n");
    prints("load_dataset(\"json\", #{ data_files: \"parts/**\" }).column(\"a\")", "[1, 2]");
    let splits = "data_files: #{ train: \"parts/a.jsonl\", test: \"parts/more/b.jsonl\" }, split: \"test + train[:1]\"";
    prints(&format!("load_dataset(\"json\", #{{ {splits} }}).column(\"a\")"), "[2, 1]");
    place.write("tables/train.csv", "a\n1\n");
    place.write("tables/meta.json", "{\"about\": 1}");
    prints("load_dataset(\"tables\").train.column(\"a\")", "[1]");
}

#[test]
fn files_of_another_kind_are_named() {
    let place = Place::new();
    for (bytes, words) in [
        (&b"PK\x03\x04rest"[..], "a zip archive"),
        (&b"\x28\xb5\x2f\xfdrest"[..], "compressed with Zstandard"),
        (&b"\xff\xfea\0,\0b\0\n\0"[..], "UTF-16 text; save the file as UTF-8"),
    ] {
        for name in ["x.csv", "x.jsonl", "x.json", "x.txt"] {
            place.write(name, bytes);
            place.fails(&format!("load_dataset(\"{name}\");"), &[&format!("{name}: the file is "), words]);
        }
    }
    place.write("cut.csv.gz", &gzip("a,b\n1,2\n3,4\n")[..20]);
    place.fails("load_dataset(\"cut.csv.gz\");", &["cannot read cut.csv.gz: "]);
    place.write("x.csv", "a,b\n1,2\n");
    place.fails("load_dataset(\"x.csv\", #{ split: \"train+test\" });", &["no split \"test\"; it has: train"]);
    place.fails("load_dataset(\"x.csv\", #{ split: \"train+train\", streaming: true });", &["a stream is of one split"]);
    place.fails(
        "load_dataset(\"csv\", #{ data_files: \"x.csv\", delimiter: \"\\\"\" });",
        &["delimiter", "no quote or line break"],
    );
    for (text, words) in [
        ("{\"a\": 1}\n{\"a\": NaN}\n", "line 2, column 7: NaN is no number of JSON; write null"),
        ("{\"a\": -Infinity}\n", "line 1, column 8: Infinity is no number of JSON"),
        ("{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n", "the first JSON object goes over several lines"),
        ("{\"a\": 1}{\"a\": 2}\n", "line 1, column 9: trailing characters"),
    ] {
        place.write("x.jsonl", text);
        place.fails("load_dataset(\"x.jsonl\");", &["x.jsonl: ", words]);
    }
    place.fails("load_dataset(\"x.csv\", #{ columns: #{ x: \"a\", y: \"a\" } });", &["`a` would be called both `x` and `y`"]);
    place.write("rows.jsonl", "{\"a\": 1}\n{\"a\": 2}\n");
    place.fails("load_json(\"rows.jsonl\");", &["rows.jsonl:2:1: not valid JSON: another value follows", "load_dataset"]);
    place.write("mixed/train.csv", "a\n1\n");
    place.write("mixed/test.jsonl", "{\"a\": 1}\n");
    place.fails("load_dataset(\"mixed\");", &["mixed: train.csv and test.jsonl are of different formats", "data_files"]);
}

#[test]
fn damaged_parquet_files_are_errors() {
    let place = Place::new();
    let rows = "let rows = []; for i in 0..12 { rows.push(#{ a: `w${i % 3}`, n: i, l: [i] }); }";
    place.works(&format!("{rows} Dataset::from_list(rows).to_parquet(\"x.parquet\");"));
    let whole = std::fs::read(place.path().join("x.parquet")).unwrap();
    let mut count = 0;
    for at in 4..whole.len() - 8 {
        for byte in [0x00, 0xff, whole[at] ^ 0x01] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            place.write(&format!("{count}.parquet"), damaged);
            count += 1;
        }
    }
    let read = "try { load_dataset(`${i}.parquet`).to_list(); } catch (e) { if !`${e}`.contains(`${i}.parquet`) { print(e); } }";
    assert_eq!(place.works(&format!("for i in 0..{count} {{ {read} }}")), "");
}

#[test]
fn functions_that_fail_say_on_which_row() {
    let place = Place::new();
    place.write("x.jsonl", "{\"a\": 1}\n\n{\"a\": 0}\n");
    let load = "let ds = load_dataset(\"x.jsonl\");\n";
    for (code, function) in [("ds.map(|row| #{ b: 1 / row.a });", "map"), ("ds.filter(|row| 1 / row.a > 0);", "filter")] {
        let row = format!("{function}: row 1 (x.jsonl, line 3): Division by zero");
        place.fails(&format!("{load}{code}"), &[&row, "script.rhai:2:"]);
    }
    place.fails(&format!("{load}ds.map(|row| row.a);"), &["map: row 0 (x.jsonl, line 1) became a value of type"]);
    place.fails(&format!("{load}ds.filter(|row| row.a);"), &["for row 0 (x.jsonl, line 1) it returned"]);
    place.fails(&format!("{load}ds.map(|row| row, #{{ batched: true }});"), &["map", "batched", "with_indices"]);
    let stream = "ds.to_iterable_dataset().select_columns([\"a\", \"z\"]);";
    place.fails(&format!("{load}{stream}"), &["no column `z`; its columns are: a"]);
    place.fails(&format!("{load}ds.map(|row| Dataset::from_list([]));"), &["map: row 0", "became a value of type Dataset;"]);
    place.fails(
        &format!("{load}ds.map(|row| #{{ a: Dataset::from_list([]) }});"),
        &["row.a is of type Dataset, which is not data"],
    );
    place.fails(&format!("{load}ds.filter(|row| Dataset::from_list([]));"), &["it returned Dataset"]);
    let mix = |options: &str| format!("interleave_datasets([[#{{ a: 1 }}], [#{{ a: 2 }}]], #{{ {options} }});");
    place.fails(&mix("probabilities: [0.5, 0.4]"), &["interleave_datasets", "must sum to 1", "0.9"]);
    place.fails(&mix("probabilities: [1.0]"), &["1 probabilities for 2 data sets"]);
    let never = "probabilities: [1, 0], stopping_strategy: \"all_exhausted\"";
    place.fails(&mix(never), &["data set 1 has the probability 0"]);
    place.fails(&mix("stopping_strategy: \"both\""), &["stopping_strategy", "all_exhausted", "both"]);
    place.fails("interleave_datasets([[#{ a: 1 }], []]);", &["data set 1 has no rows"]);
    place.fails("interleave_datasets([]);", &["at least one data set"]);
    place.fails("Dataset::from_dict(#{ a: [1], b: [1, 2] });", &["column `b` has 2 values", "have 1", "script.rhai:1:"]);
    place.fails("Dataset::from_dict(#{ a: 1 });", &["column `a` must be an array"]);
    // What a script throws and is no text is what it catches.
    let thrown = "try { ds.map(|row| { throw #{ code: row.a }; }); } catch (e) { print(e.code); }";
    assert_eq!(place.works(&format!("{load}{thrown}")), "1\n");
}
