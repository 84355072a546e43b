//! The tokenizers of GGUF files: whose ids they give, and what is refused.

use super::{golden, message, write_gguf};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;
use ftrepl::control::Control;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::gguf_write::{GgufDtype, save_gguf};
use ftrepl::model::hub::Cache;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Source, Tokenizer, config::read_json};
use serde_json::json;

/// A tokenizer's metadata that cannot be meant.
#[test]
fn tokenizers_that_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    let text = |text: &str| Meta::String(text.into());
    let texts = |texts: [&str; 4]| Meta::Array(texts.map(text).to_vec());
    let kinds = |kinds: &[i32]| Meta::Array(kinds.iter().map(|kind| Meta::I32(*kind)).collect());
    let usual = [
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(["<unk>", "<s>", "</s>", "a"])),
        ("tokenizer.ggml.scores", Meta::Array([0.0, 0.0, 0.0, -1.0].map(Meta::F32).to_vec())),
        ("tokenizer.ggml.token_type", kinds(&[2, 3, 3, 1])),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
    ];
    let open = |change: &[(&'static str, Meta)]| {
        let kept = usual.iter().filter(|(key, _)| !change.iter().any(|(changed, _)| changed == key));
        let all: Vec<(&str, Meta)> = kept.chain(change).cloned().collect();
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &all);
        Tokenizer::open(&path)
    };
    assert_eq!(open(&[]).unwrap().bos().unwrap().id, 1);
    let pairs = |merge: &str| {
        let pre = ("tokenizer.ggml.pre", text("gpt-2"));
        vec![("tokenizer.ggml.model", text("gpt2")), pre, ("tokenizer.ggml.merges", Meta::Array(vec![text(merge)]))]
    };
    for (change, said) in [
        (vec![("tokenizer.ggml.tokens", texts(["<unk>", "<s>", "a", "a"]))], "tokens 2 and 3 are the same"),
        (vec![("tokenizer.ggml.tokens", Meta::Array(vec![Meta::U32(1)]))], "tokens: expected an array of texts"),
        (vec![("tokenizer.ggml.token_type", kinds(&[2, 3, 3]))], "has 3 kinds for 4 tokens"),
        (vec![("tokenizer.ggml.token_type", kinds(&[2, 3, 3, 7]))], "there is no kind 7"),
        (vec![("tokenizer.ggml.token_type", kinds(&[2, 3, 3, -1]))], "whole numbers of at least 0"),
        (vec![("tokenizer.ggml.token_type", text("normal"))], "expected an array of whole numbers"),
        (
            vec![("tokenizer.ggml.scores", Meta::Array(vec![Meta::F32(f32::NAN); 4]))],
            "scores: expected an array of 32-bit floats",
        ),
        (vec![("tokenizer.ggml.bos_token_id", Meta::U32(4))], "bos_token_id: 4 is none of the vocabulary's 4 tokens"),
        (vec![("tokenizer.ggml.add_bos_token", Meta::U8(0))], "add_bos_token: expected true or false, found 0"),
        (vec![("tokenizer.chat_template", Meta::U32(1))], "chat_template: expected a text"),
        (pairs("ab"), "\"ab\" is no pair of tokens"),
        (pairs("a b"), "out of vocabulary"),
    ] {
        let found = message(open(&change));
        assert!(found.contains("model.gguf") && found.contains(said), "{found}\nlacks {said}");
    }
}

/// A file that does not tell its tokens' kinds apart has none that is looked for in texts: there the letters of the start of text
/// are a text, before which the start is not left out.
#[test]
fn letters_of_the_start_of_text_that_are_a_text_keep_their_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "s", "<", ">"].map(|token| Meta::String(token.into()));
    let encode = |kinds: Option<[i32; 7]>| {
        let mut metadata = vec![
            ("tokenizer.ggml.model", Meta::String("llama".into())),
            ("tokenizer.ggml.tokens", Meta::Array(tokens.to_vec())),
            ("tokenizer.ggml.scores", Meta::Array(vec![Meta::F32(0.0); 7])),
            ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ];
        metadata.extend(kinds.map(|kinds| ("tokenizer.ggml.token_type", Meta::Array(kinds.map(Meta::I32).to_vec()))));
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &metadata);
        let tokenizer = Tokenizer::open(&path).unwrap();
        let batch = tokenizer.encode_batch(&["<s> s"], true).unwrap();
        assert_eq!(batch[0], tokenizer.encode("<s> s", true).unwrap());
        batch[0].clone()
    };
    assert_eq!(encode(None), [1, 3, 5, 4, 6, 3, 4]);
    assert_eq!(encode(Some([2, 3, 3, 1, 1, 1, 1])), [1, 3, 3, 4]);
}

/// A folder without its tokenizer, which nobody was told of, would be found out too late.
#[test]
fn a_tokenizer_that_cannot_be_saved_with_its_model_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, saved) = (folder.path().join("model.gguf"), folder.path().join("saved"));
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    let save = |metadata: &[(&str, Meta)]| {
        write_gguf(&path, &hf, GgmlDType::F32, vec![], metadata);
        LanguageModel::load("llama", &path, None, &Device::Cpu).unwrap().save_pretrained(&saved)
    };
    save(&[]).unwrap();
    std::fs::remove_dir_all(&saved).unwrap();
    let found = message(save(&[("tokenizer.ggml.model", Meta::String("bert".into()))]));
    for words in ["the model's tokenizer cannot be saved with it", "\"bert\" is not supported"] {
        assert!(found.contains(words), "{found}\nlacks {words}");
    }
    // What can be saved is.
    assert_eq!(Source::open(&saved).unwrap().names(), hf.names());
}

/// llama.cpp adds the start and the end of a text and nothing else.
#[test]
fn tokenizers_that_add_other_tokens_to_texts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = Cache::at(folder.path()).resolve("tiny-random", &Control::default()).unwrap().path;
    let (path, written) = (source.join("tokenizer.json"), folder.path().join("model.gguf"));
    let mut changed = read_json(&path).unwrap();
    let mut save = |added: &str, id: u32| {
        let text = |which: &str| json!({ "Sequence": { "id": which, "type_id": 0 } });
        changed["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": added, "type_id": 0 } }, text("A")],
            "pair": [text("A"), text("B")],
            "special_tokens": { added: { "id": added, "ids": [id], "tokens": [added] } },
        });
        std::fs::write(&path, changed.to_string()).unwrap();
        let model = LanguageModel::load("tiny", &source, None, &Device::Cpu).unwrap();
        save_gguf(&model, &written, GgufDtype::from_name("f32").unwrap())
    };
    let found = message(save("<|endoftext|>", 0));
    assert!(found.contains("it adds other tokens to a text than its start and its end"), "{found}");
    assert!(!written.exists());
    save("<|im_start|>", 1).unwrap();
    assert_eq!(Tokenizer::open(&written).unwrap().encode("a", true).unwrap()[0], 1);
}

/// The ids of rows of text, each with those that Python gives.
fn check_ids(tokenizer: &Tokenizer, file: &str) {
    let json = read_json(&golden(file)).unwrap();
    let rows: Vec<(String, Vec<u32>)> = serde_json::from_value(json["rows"].clone()).unwrap();
    assert!(rows.len() > 490, "{file} has only {} rows", rows.len());
    for (text, mut ids) in rows {
        // A start of text that is written out is not doubled.
        if ids.len() > 1 && ids[0] == ids[1] && (text.starts_with("<bos>") || text.starts_with("<s>")) {
            ids.remove(0);
        }
        assert_eq!(tokenizer.encode(&text, true).unwrap(), ids, "{file}: {text:?}");
    }
}

/// A tokenizer that sentencepiece trained, with Llama 2's settings, against sentencepiece itself.
#[test]
fn a_sentencepiece_tokenizer_gives_sentencepieces_ids() {
    // A file without tensors holds a tokenizer all the same.
    let tokenizer = Tokenizer::open(&golden("gguf/sentencepiece.gguf")).unwrap();
    check_ids(&tokenizer, "gguf/sentencepiece.json");
    // Decoding gives the text back, without the space that only the pieces have.
    for text in ["Hello, world!", " leading", "naïve 日本 😀", "tab\tand\nline"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}

/// Phi-3's special tokens take the white space after them: the ids are llama.cpp's.
#[test]
fn a_tokenizer_of_phi3_gives_llama_cpps_ids() {
    check_ids(&Tokenizer::open(&golden("gguf/phi3.gguf")).unwrap(), "gguf/phi3.json");
}

/// Gemma 3 270M, from the Python packages: ids of 500 strings, and 40 greedy tokens, as transformers has them from the same file.
#[test]
fn gemma3_from_the_python_packages() {
    let files = Cache::from_env().unwrap().from_wheel("gemma3-270m", &Control::default()).unwrap();
    let model = LanguageModel::load("gemma3-270m", &files.path, None, &Device::Cpu).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    check_ids(tokenizer, "gguf/gemma3.json");
    let json = read_json(&golden("gguf/gemma3.json")).unwrap();
    for row in json["greedy"].as_array().unwrap() {
        let prompt = row["prompt"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(row["new_ids"].clone()).unwrap();
        assert_eq!(expected.len(), 40);
        let generation = Generation {
            max_new_tokens: 40,
            sampling: Sampling::default(),
            stop_tokens: vec![],
            batch_size: 1,
            seed: 0,
            prompt_lookup_num_tokens: None,
        };
        let prompts = [tokenizer.encode(prompt, true).unwrap()];
        let found = generate(model.decoder(), &prompts, &generation, &Control::default(), &|_| false).unwrap();
        assert_eq!(found[0], expected, "{prompt}");
    }
}
