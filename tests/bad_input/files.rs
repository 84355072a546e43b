//! Places that cannot be written, and what is no plain file.

use super::{Place, with_model};

#[test]
fn places_that_cannot_be_written() {
    let place = Place::new();
    place.write("plain", "a file");
    let cases = [
        "model.save_pretrained(\"plain/sub\");",
        "model.save_pretrained(\"plain\");",
        "get_peft_model(model, LoraConfig()).save_pretrained(\"plain/sub\");",
        "model.save_pretrained(\"plain/a/b/c\");",
        "save_json(#{ a: 1 }, \"plain/x.json\");",
        "report(#{ a: 1 }, \"plain/x.html\");",
        "plot([1, 2]).save(\"plain/x.svg\");",
        "Dataset::from_list(rows).to_json(\"plain/x.jsonl\");",
        "AutoTokenizer::from_pretrained(\"tiny-random\").save_pretrained(\"plain/sub\");",
        "Trainer(#{ model: model, train_dataset: rows, args: TrainingArguments(#{ output_dir: \"plain/out\", max_steps: 1, save_steps: 1 }) }).train();",
    ];
    for case in cases {
        place.fails(&with_model(case), &["cannot create the folder plain", "plain is not a folder", "script.rhai:3:"]);
    }
    assert_eq!(std::fs::read_to_string(place.path().join("plain")).unwrap(), "a file");
    std::fs::create_dir(place.path().join("folder")).unwrap();
    place.fails("save_json(1, \"folder\");", &["cannot write folder", "it is a folder"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_or_pipe_is_written_to_and_never_replaced_by_a_file() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new();
    // A disk that is full; through a link, so that a mistake in the program under test cannot replace the device itself.
    let link = place.path().join("full.json");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    place.fails("save_json([1, 2, 3], \"full.json\");", &["cannot write full.json", "No space left on device"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let pipe = place.path().join("pipe.json");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    place.works("save_json([1], \"pipe.json\");");
    assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap(), "[\n  1\n]\n");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_stays_a_link() {
    let place = Place::new();
    place.write("real.json", "0");
    let link = place.path().join("link.json");
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    place.works("save_json(5, \"link.json\");");
    assert_eq!(std::fs::read_to_string(place.path().join("real.json")).unwrap(), "5\n");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

/// Python's json module writes numbers that JSON has not.
#[test]
fn numbers_of_pythons_json_are_named() {
    let place = Place::new();
    for (text, words) in [
        ("{\"loss\": NaN}", ["numbers.json:1:10", "NaN, which Python writes"]),
        ("[1.5,\n -Infinity]", ["numbers.json:2:3", "Infinity, which Python writes"]),
    ] {
        place.write("numbers.json", text);
        place.fails("load_json(\"numbers.json\");", &words);
    }
    place.fails("Dataset::from_list([#{ loss: 0.0 / 0.0 }]);", &["row.loss is NaN", "give () or a string instead"]);
}

#[test]
fn what_json_cannot_hold_is_refused_or_warned_of() {
    let place = Place::new();
    place.write("old.json", "[]");
    place.fails("save_json(#{ a: [1, |x| x] }, \"old.json\");", &["value.a[1] is a function", "script.rhai:1:1"]);
    let stream = "Dataset::from_list([#{ n: 1 }]).to_iterable_dataset()";
    place.fails(&format!("save_json([{stream}], \"old.json\");"), &["value[0] is a stream", "to_list()"]);
    assert_eq!(std::fs::read_to_string(place.path().join("old.json")).unwrap(), "[]");
    let output = place.run(
        "save_json(#{ loss: [1.5, 0.0 / 0.0], t: tensor([1.0, -1.0]).log() }, \"nan.json\"); print(load_json(\"nan.json\"));",
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "#{ loss: [1.5, ()], t: [0.0, ()] }\n");
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warned.contains("nan.json: value.loss[1] is nan, and 1 more such numbers"), "{warned}");
}
