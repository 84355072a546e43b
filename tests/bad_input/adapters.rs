//! Adapters that fit neither their files nor the model.

use super::{Place, with_model};

#[test]
fn adapters_that_do_not_fit() {
    let place = Place::new();
    let peft = |config: &str| with_model(&format!("get_peft_model(model, LoraConfig(#{{ {config} }}));"));
    place.fails(&peft("target_modules: [\"query\"]"), &["\"query\"", "match no module", "q_proj", "all-linear"]);
    place.fails(&peft("target_modules: []"), &["match no module", "q_proj"]);
    place.fails(&peft("target_modules: \"(q_proj\""), &["\"(q_proj\"", "regular expression", "unclosed group"]);
    place.fails(&peft("layers_to_transform: [7]"), &["7"]);
    let twice = format!("{}get_peft_model(model, LoraConfig());", peft("r: 4"));
    place.fails(&twice, &["already has an adapter", "unload()", "merge_and_unload()"]);
    let ewc = format!("{}EWCRegularizer(model);", peft("r: 4"));
    place.fails(&ewc, &["EWCRegularizer", "LoRA adapter", "frozen", "full fine-tuning"]);
    // Adapters whose files do not go together, or with this model.
    place.works(&format!("{}model.save_pretrained(\"adapter\");", peft("r: 4, target_modules: [\"gate_proj\"]")));
    place.works(&format!("{}model.save_pretrained(\"deep\");", peft("r: 4, layers_to_transform: [1]")));
    place.model("other");
    let config = place.path().join("adapter/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("gate_proj", "down_proj")).unwrap();
    let load = |name: &str| with_model(&format!("PeftModel::from_pretrained(model, \"{name}\");"));
    place
        .fails(&load("adapter"), &["adapter_model.safetensors", "gate_proj.lora_A", "adapter_config.json", "another base model"]);
    std::fs::write(&config, text.replace("\"r\": 4", "\"r\": 2")).unwrap();
    place.fails(&load("adapter"), &["adapter_model.safetensors", "gate_proj.lora_A", "[4, 32]", "[2, 32]", "another base model"]);
    place.fails(&load("other"), &["other has no adapter_config.json", "adapter_model.safetensors"]);
    place.fails(&load("absent"), &["absent has no adapter_config.json"]);
    place.fails(&with_model("model.unload();"), &["no adapter"]);
    // What PEFT trained on another model, which has as many blocks and other widths.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/adapter/adapter");
    place.fails(&load(golden), &["adapter_model.safetensors", "another base model"]);
}

#[test]
fn a_model_that_an_adapter_was_refused_for_is_as_before() {
    let place = Place::new();
    let script = with_model(
        "let before = model.forward([1, 2, 3]).logits;
        try { get_peft_model(model, LoraConfig(#{ target_modules: [\"query\"] })); } catch { print(\"refused\"); }
        print([model.has_adapter, model.forward([1, 2, 3]).logits == before, model.num_parameters(#{ only_trainable: true }) > 0]);",
    );
    assert_eq!(place.works(&script), "refused\n[false, true, true]\n");
}
