//! Adapters as scripts use them, through the real binary.

use std::process::{Command, Stdio};

const MODEL: &str = "manual_seed(0);
let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");
let base = model.forward([5, 6, 7]).logits;
";

/// What a script prints that starts with tiny-random and its logits.
#[track_caller]
fn printed(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("script.rhai"), format!("{MODEL}{script}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    command.current_dir(folder.path()).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    let output = command.args(["run", "script.rhai"]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_adapter_chosen_while_none_acts_acts_afterwards() {
    let script = "
        let adapted = get_peft_model(model, LoraConfig(#{ r: 4, init_lora_weights: false }));
        model.add_adapter(\"other\", LoraConfig(#{ r: 4, init_lora_weights: false }));
        let within = model.disable_adapter(|| { adapted.set_adapter(\"other\"); adapted.forward([5, 6, 7]).logits });
        print([within == base, model.active_adapters, model.forward([5, 6, 7]).logits == base]);";
    assert_eq!(printed(script), "[true, [\"other\"], false]\n");
}

#[test]
fn an_option_that_has_nothing_to_tie_is_accepted() {
    let script = "
        get_peft_model(model, LoraConfig(#{ r: 4, ensure_weight_tying: true }));
        print(model.has_adapter);";
    assert_eq!(printed(script), "true\n");
}

#[test]
fn logits_in_training_are_those_that_the_loss_is_of() {
    let script = "
        get_peft_model(
            model,
            LoraConfig(#{ r: 4, target_modules: [\"lm_head\"], lora_dropout: 0.5, init_lora_weights: false })
        );
        model.train();
        let out = model.forward([5, 6, 7, 8], #{ labels: [5, 6, 7, 8] });
        let logits = out.logits;
        let of_logits = cross_entropy(logits[0], tensor([6, 7, 8, -100]));
        let again = model.forward([5, 6, 7, 8]).logits;
        model.eval();
        let without = model.forward([5, 6, 7, 8]).logits;
        print([out.loss.allclose(of_logits, #{ atol: 0.0001 }), out.logits == logits, again == logits, without == logits]);";
    assert_eq!(printed(script), "[true, true, false, false]\n");
}

#[test]
fn logits_are_of_the_adapters_that_acted_in_the_pass() {
    let script = "
        get_peft_model(model, LoraConfig(#{ r: 4, target_modules: [\"lm_head\"], init_lora_weights: false }));
        let without = model.disable_adapter(|| model.forward([5, 6, 7]));
        let adapted = model.forward([5, 6, 7]);
        let logits = adapted.logits;
        model.unload();
        print([without.logits == base, logits == base, adapted.logits == logits]);";
    assert_eq!(printed(script), "[true, false, true]\n");
}

/// A closure has a model in common with the script around it; its properties are read as those of a constant.
#[test]
fn properties_of_constants_and_of_captured_models_can_be_read() {
    let script = "
        get_peft_model(model, LoraConfig(#{ r: 4 }));
        model.disable_adapter(|| model.forward([5]));
        const OUTPUT = model.forward([5, 6, 7], #{ labels: [5, 6, 7] });
        const CONFIG = LoraConfig(#{ r: 3 });
        const ARGS = TrainingArguments(#{ learning_rate: 0.5 });
        const EWC = EWCRegularizer(AutoModelForCausalLM::from_pretrained(\"tiny-random\"), #{ importance: 2.0 });
        print([model.has_adapter, model.active_adapters, model.adapter_names, model.dtype, model.device, model.config.model_type]);
        print([OUTPUT.loss.item() > 0.0, OUTPUT.logits.shape[1], CONFIG.r, ARGS.learning_rate, EWC.importance]);";
    assert_eq!(printed(script), "[true, [\"default\"], [\"default\"], \"f32\", \"cpu\", \"llama\"]\n[true, 3, 3, 0.5, 2.0]\n");
}

/// As by PyTorch's `padding_idx`, which PEFT hands on: tiny-random's token of padding is 0.
#[test]
fn what_an_adapter_has_for_the_token_of_padding_is_not_trained() {
    let script = "
        let adapter = LoraConfig(#{ r: 4, target_modules: [\"embed_tokens\"], init_lora_weights: false });
        let adapted = get_peft_model(model, adapter);
        model.forward([5, 0, 7, 6], #{ labels: [5, 0, 7, 6] }).loss.backward();
        let named = adapted.named_parameters();
        let prefix = \"base_model.model.model.embed_tokens.lora_embedding_\";
        let columns = named[prefix + \"A.default\"].grad.abs().sum(0).to_list();
        print([columns[0], columns[5] > 0.0, columns[7] > 0.0, named[prefix + \"B.default\"].grad.abs().sum().item() > 0.0]);";
    assert_eq!(printed(script), "[0.0, true, true, true]\n");
}
