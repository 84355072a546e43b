//! Every function of the language has documentation with an example, and every example gives what it promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::script::display;
use ftrepl::script::docs::{Example, Kind, Reference};
use ftrepl::session::Session;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

fn reference() -> Reference {
    Session::builder().device("cpu").build().unwrap().reference()
}

#[test]
fn every_function_has_documentation_and_an_example() {
    let mut offenders = Vec::new();
    // How a value prints is shown in every example that has a result.
    let printing = ["to_debug", "to_string"];
    for entry in reference().entries().iter().filter(|entry| entry.ours && !printing.contains(&entry.name.as_str())) {
        let shown: Vec<String> = entry.signatures.iter().map(|signature| signature.show(&entry.name, entry.kind)).collect();
        match entry.kind {
            Kind::Operator => {}
            // A property is shown in the examples of what makes its type.
            Kind::Property if entry.docs.is_empty() => offenders.push(format!("no documentation: {}", shown.join(", "))),
            Kind::Property => {}
            Kind::Function if entry.docs.is_empty() => offenders.push(format!("no documentation: {}", shown.join(", "))),
            Kind::Function if entry.examples().is_empty() => offenders.push(format!("no ```rhai example: {}", shown.join(", "))),
            Kind::Function => {}
        }
    }
    assert!(offenders.is_empty(), "{} functions:\n{}", offenders.len(), offenders.join("\n"));
}

#[test]
fn every_example_gives_what_it_promises() {
    let mut failures = Vec::new();
    for entry in reference().entries().iter().filter(|entry| entry.ours) {
        for example in entry.examples() {
            if let Err(failure) = try_example(&example) {
                failures.push(format!("---- {}\n{}{failure}", entry.name, example.code));
            }
        }
    }
    assert!(failures.is_empty(), "{} examples fail:\n{}", failures.len(), failures.join("\n"));
}

/// Runs the pieces of an example one after the other and compares each promised value with the value or what was printed.
fn try_example(example: &Example) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let printed = Rc::new(RefCell::new(Vec::new()));
    let sink = printed.clone();
    let mut session = Session::builder()
        .device("cpu")
        .out(folder.path())
        .output(move |text| sink.borrow_mut().push(text.to_string()))
        .build()
        .unwrap();
    if !example.run {
        return session.engine().compile(&example.code).map(|_| ()).map_err(|error| format!("does not parse: {error}"));
    }
    for (code, promised) in example.steps() {
        printed.borrow_mut().clear();
        let value = session.eval_line(&code).map_err(|error| session.report(&error, &session.line_name(), false))?;
        let Some(promised) = promised else { continue };
        let printed = printed.borrow().join("\n");
        let given = if printed.is_empty() { display::text(&value) } else { printed };
        // A text may be promised as it is printed or in quotes, as the REPL shows it.
        if given.trim() != promised && display::repr(&value) != promised {
            return Err(format!("promised {promised}, gave {given}"));
        }
    }
    Ok(())
}

#[test]
fn the_pages_of_the_reference_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let pages = ftrepl::script::docs::sections::pages(&reference());
    let stale = |(name, text): &&(String, String)| std::fs::read_to_string(folder.join(name)).is_ok_and(|kept| kept == *text);
    let old: Vec<&str> = pages.iter().filter(|page| !stale(page)).map(|(name, _)| name.as_str()).collect();
    assert!(old.is_empty(), "run `ftrepl doc --format markdown` in the root of the repository; not current: {}", old.join(", "));
    let known: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "docs/reference/{name} belongs to no chapter");
    }
    // Every function stands in one of them.
    for entry in ftrepl::script::docs::render::listed(&reference()) {
        let heading = format!("### {}\n", entry.name);
        let places = pages.iter().filter(|(_, text)| text.contains(&heading)).count();
        assert!(places >= 1, "{} is in {places} pages", entry.name);
    }
}

/// A call with an unknown option for every function that takes options.
const WITH_UNKNOWN: &[(&str, &str)] = &[
    ("tensor", "tensor(1.0, #{ zz: 1 })"),
    ("zeros", "zeros([2], #{ zz: 1 })"),
    ("ones", "ones([2], #{ zz: 1 })"),
    ("rand", "rand([2], #{ zz: 1 })"),
    ("randn", "randn([2], #{ zz: 1 })"),
    ("full", "full([2], 1.0, #{ zz: 1 })"),
    ("arange", "arange(2, #{ zz: 1 })"),
    ("zeros_like", "zeros_like(zeros([2]), #{ zz: 1 })"),
    ("ones_like", "ones_like(zeros([2]), #{ zz: 1 })"),
    ("full_like", "full_like(zeros([2]), 1.0, #{ zz: 1 })"),
    ("rand_like", "rand_like(zeros([2]), #{ zz: 1 })"),
    ("randn_like", "randn_like(zeros([2]), #{ zz: 1 })"),
    ("eye", "eye(2, #{ zz: 1 })"),
    ("randint", "randint(0, 2, [2], #{ zz: 1 })"),
    ("tril", "zeros([2, 2]).tril(#{ zz: 1 })"),
    ("triu", "zeros([2, 2]).triu(#{ zz: 1 })"),
    ("norm", "zeros([2]).norm(#{ zz: 1 })"),
    ("gelu", "gelu(zeros([2]), #{ zz: 1 })"),
    ("allclose", "zeros([2]).allclose(zeros([2]), #{ zz: 1 })"),
    ("isclose", "zeros([2]).isclose(zeros([2]), #{ zz: 1 })"),
    ("is_close", "zeros([2]).is_close(zeros([2]), #{ zz: 1 })"),
    ("sum", "zeros([2]).sum(#{ zz: 1 })"),
    ("mean", "zeros([2]).mean(#{ zz: 1 })"),
    ("var", "zeros([2]).var(#{ zz: 1 })"),
    ("std", "zeros([2]).std(#{ zz: 1 })"),
    ("max", "zeros([2]).max(#{ zz: 1 })"),
    ("min", "zeros([2]).min(#{ zz: 1 })"),
    ("argmax", "zeros([2]).argmax(#{ zz: 1 })"),
    ("argmin", "zeros([2]).argmin(#{ zz: 1 })"),
    ("softmax", "zeros([2]).softmax(#{ zz: 1 })"),
    ("log_softmax", "zeros([2]).log_softmax(#{ zz: 1 })"),
    ("cat", "cat([zeros([2])], #{ zz: 1 })"),
    ("stack", "stack([zeros([2])], #{ zz: 1 })"),
    ("clamp", "zeros([2]).clamp(#{ zz: 1 })"),
    ("clip", "zeros([2]).clip(#{ zz: 1 })"),
    ("backward", "tensor(1.0, #{ requires_grad: true }).backward(#{ zz: 1 })"),
    ("zero_grad", "optim::SGD(nn::Linear(1, 1).parameters()).zero_grad(#{ zz: 1 })"),
    ("clip_grad_norm", "clip_grad_norm([], 1.0, #{ zz: 1 })"),
    ("clip_grad_norm_", "clip_grad_norm_([], 1.0, #{ zz: 1 })"),
    ("mse_loss", "mse_loss(zeros([2]), zeros([2]), #{ zz: 1 })"),
    ("cross_entropy", "cross_entropy(zeros([1, 2]), tensor([0]), #{ zz: 1 })"),
    ("nn::Linear", "nn::Linear(1, 1, #{ zz: 1 })"),
    ("nn::LayerNorm", "nn::LayerNorm(1, #{ zz: 1 })"),
    ("nn::RMSNorm", "nn::RMSNorm(1, #{ zz: 1 })"),
    ("nn::MSELoss", "nn::MSELoss(#{ zz: 1 })"),
    ("nn::CrossEntropyLoss", "nn::CrossEntropyLoss(#{ zz: 1 })"),
    ("optim::SGD", "optim::SGD(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::Adam", "optim::Adam(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::AdamW", "optim::AdamW(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::AdamW8bit", "optim::AdamW8bit(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::Adafactor", "optim::Adafactor(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::Lion", "optim::Lion(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::Muon", "optim::Muon(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::AdamWScheduleFree", "optim::AdamWScheduleFree(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("optim::ScheduleFreeAdamW", "optim::ScheduleFreeAdamW(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("EMA", "EMA(nn::Linear(1, 1).parameters(), #{ zz: 1 })"),
    ("get_scheduler", "get_scheduler(\"linear\", optim::SGD(nn::Linear(1, 1).parameters(), #{ lr: 0.1 }), #{ zz: 1 })"),
    ("AutoModelForCausalLM::from_pretrained", "AutoModelForCausalLM::from_pretrained(\"tiny-random\", #{ zz: 1 })"),
    ("model_info", "model_info(\"tiny-random\", #{ zz: 1 })"),
    ("generate", "MODEL.generate(\"a\", #{ zz: 1 })"),
    ("pipeline", "pipeline(\"text-generation\", #{ model: MODEL, zz: 1 })"),
    ("save_gguf", "MODEL.save_gguf(\"x.gguf\", #{ zz: 1 })"),
    ("forward", "MODEL.forward([1, 2], #{ zz: 1 })"),
    ("num_parameters", "MODEL.num_parameters(#{ zz: 1 })"),
    ("encode", "TOKENIZER.encode(\"a\", #{ zz: 1 })"),
    ("decode", "TOKENIZER.decode([5], #{ zz: 1 })"),
    ("batch_decode", "TOKENIZER.batch_decode([[5]], #{ zz: 1 })"),
    ("apply_chat_template", "TOKENIZER.apply_chat_template([], #{ zz: 1 })"),
    ("LoraConfig", "LoraConfig(#{ zz: 1 })"),
    ("get_peft_model", "get_peft_model(MODEL, LoraConfig(), #{ zz: 1 })"),
    ("add_adapter", "MODEL.add_adapter(\"a\", LoraConfig(), #{ zz: 1 })"),
    ("load_adapter", "MODEL.load_adapter(\"none\", \"a\", #{ zz: 1 })"),
    ("add_weighted_adapter", "MODEL.add_weighted_adapter([\"a\"], [1.0], \"b\", #{ zz: 1 })"),
    ("create_loraplus_optimizer", "create_loraplus_optimizer(MODEL, #{ zz: 1 })"),
    ("save_pretrained", "MODEL.save_pretrained(\"none\", #{ zz: 1 })"),
    ("PeftModel::from_pretrained", "PeftModel::from_pretrained(MODEL, \"none\", #{ zz: 1 })"),
    ("TrainingArguments", "TrainingArguments(#{ zz: 1 })"),
    ("Trainer", "Trainer(#{ model: MODEL, train_dataset: [#{ text: \"a\" }], zz: 1 })"),
    ("train", "Trainer(#{ model: MODEL, train_dataset: [#{ text: \"a\" }] }).train(#{ zz: 1 })"),
    ("map", "load_dataset(\"drug_qa\").map(|row| row, #{ zz: 1 })"),
    ("filter", "load_dataset(\"drug_qa\").filter(|row| true, #{ zz: 1 })"),
    ("interleave_datasets", "interleave_datasets([load_dataset(\"drug_qa\")], #{ zz: 1 })"),
    ("shuffle", "load_dataset(\"drug_qa\").shuffle(#{ zz: 1 })"),
    ("train_test_split", "load_dataset(\"drug_qa\").train_test_split(#{ zz: 1 })"),
    ("sort", "load_dataset(\"drug_qa\").sort(\"id\", #{ zz: 1 })"),
    ("shard", "load_dataset(\"drug_qa\").shard(#{ zz: 1 })"),
    ("describe", "load_dataset(\"drug_qa\").describe(TOKENIZER, #{ zz: 1 })"),
    ("load_dataset", "load_dataset(\"drug_qa\", #{ zz: 1 })"),
    ("create_replay_dataset", "create_replay_dataset(load_dataset(\"drug_qa\"), load_dataset(\"general_text\"), #{ zz: 1 })"),
    ("DataLoader", "DataLoader([#{ text: \"a\" }], #{ tokenizer: TOKENIZER, zz: 1 })"),
    ("EWCRegularizer", "EWCRegularizer(MODEL, #{ zz: 1 })"),
    (
        "update_fisher",
        "let e = EWCRegularizer(MODEL); e.update_fisher(MODEL, DataLoader([#{ text: \"a\" }], #{ tokenizer: TOKENIZER }), #{ zz: 1 })",
    ),
    ("evaluate_general_qa", "evaluate_general_qa(MODEL, load_dataset(\"general_qa\"), #{ zz: 1 })"),
    ("compare_forgetting", "compare_forgetting(#{}, #{}, #{ zz: 1 })"),
    ("plot", "plot([1, 2], #{ zz: 1 })"),
    ("scatter", "scatter([#{ x: 1, y: 1 }], #{ zz: 1 })"),
    ("bars", "bars(#{ a: 1 }, #{ zz: 1 })"),
    ("history", "history(#{ log_history: [#{ step: 1, loss: 1.0 }] }, #{ zz: 1 })"),
    ("table", "table([#{ a: 1 }], #{ zz: 1 })"),
    ("heatmap", "heatmap([[1, 2]], #{ zz: 1 })"),
    ("by_layer", "by_layer(#{ a: 1 }, #{ zz: 1 })"),
];

#[test]
fn the_options_that_help_lists_are_those_that_functions_take() {
    let mut session = Session::builder().device("cpu").build().unwrap();
    let described: Vec<String> = session.options().functions().map(str::to_string).collect();
    let untried: Vec<&String> = described.iter().filter(|name| !WITH_UNKNOWN.iter().any(|(tried, _)| tried == name)).collect();
    assert!(untried.is_empty(), "{untried:?}");
    let mut wrong = Vec::new();
    for (name, code) in WITH_UNKNOWN {
        let code = code
            .replace("MODEL", "AutoModelForCausalLM::from_pretrained(\"tiny-random\")")
            .replace("TOKENIZER", "AutoTokenizer::from_pretrained(\"tiny-random\")");
        let error = session.eval_line(&code).expect_err(&code);
        let text = session.report(&error, &session.line_name(), false);
        let list = text.split_once("valid options: ").or_else(|| text.split_once("the options are "));
        let Some((_, list)) = list else {
            wrong.push(format!("{name}: {text}"));
            continue;
        };
        let mut taken: Vec<&str> = list.lines().next().unwrap().split(", ").map(str::trim).collect();
        let described = session.options().of(name).unwrap_or_default();
        let mut listed: Vec<&str> = described.iter().map(|option| option.name.as_str()).collect();
        taken.sort_unstable();
        listed.sort_unstable();
        if taken != listed {
            wrong.push(format!("{name}\n  takes {taken:?}\n  lists {listed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_function_that_takes_a_map_of_options_says_which() {
    let session = Session::builder().device("cpu").build().unwrap();
    let known: Vec<&str> = session.options().functions().collect();
    let mut silent = Vec::new();
    for entry in reference().entries().iter().filter(|entry| entry.ours && entry.kind == Kind::Function) {
        let takes = entry.signatures.iter().any(|signature| {
            let last = signature.parameters.last();
            last.is_some_and(|(name, kind)| kind == "map" && matches!(name.as_str(), "given" | "options" | "options_"))
        });
        if takes && !known.contains(&entry.name.as_str()) {
            silent.push(entry.name.clone());
        }
    }
    assert!(silent.is_empty(), "{silent:?}");
}
