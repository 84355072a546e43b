//! The chapters of the reference, and which entry stands in which: by its module, by the type that it belongs to or gives, by its name.

use super::{Entry, Reference, render};

/// A chapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// The name of its file.
    pub slug: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is in it.
    pub about: &'static str,
    modules: &'static [&'static str],
    /// Types whose properties and methods, and makers, belong here.
    types: &'static [&'static str],
    names: &'static [&'static str],
}

/// The chapters in reading order; what fits in none is in the last.
pub const SECTIONS: &[Section] = &[
    Section {
        slug: "tensors",
        title: "Tensors and autograd",
        about: "Making tensors, computing with them, gradients.",
        modules: &[],
        types: &["Tensor"],
        names: &["no_grad", "manual_seed"],
    },
    Section {
        slug: "nn",
        title: "Layers and modules",
        about: "The layers of `torch.nn`, and modules of one's own.",
        modules: &["nn"],
        types: &["Module"],
        names: &[],
    },
    Section {
        slug: "optim",
        title: "Optimisers and schedules",
        about: "What changes the parameters, and how fast; averages of weights.",
        modules: &["optim"],
        types: &["Optimizer", "Scheduler", "EMA"],
        names: &["get_scheduler", "clip_grad_norm", "clip_grad_norm_", "EMA"],
    },
    Section {
        slug: "models",
        title: "Language models and tokenizers",
        about: "Loading, running, generating, saving.",
        modules: &["AutoModelForCausalLM", "AutoTokenizer"],
        types: &["Tokenizer", "CausalLMOutput"],
        names: &["pipeline", "model_info", "state_dict", "load_state_dict"],
    },
    Section {
        slug: "adapters",
        title: "Adapters",
        about: "LoRA, with PEFT's names and files.",
        modules: &["PeftModel"],
        types: &["LoraConfig"],
        names: &[
            "get_peft_model",
            "print_trainable_parameters",
            "merge_and_unload",
            "unload",
            "disable_adapter",
            "has_adapter",
            "add_adapter",
            "load_adapter",
            "set_adapter",
            "delete_adapter",
            "active_adapters",
            "adapter_names",
            "add_weighted_adapter",
            "merge_adapter",
            "unmerge_adapter",
            "create_loraplus_optimizer",
        ],
    },
    Section {
        slug: "training",
        title: "Training",
        about: "The Trainer and its arguments.",
        modules: &[],
        types: &["Trainer", "TrainingArguments"],
        names: &[],
    },
    Section {
        slug: "data",
        title: "Data",
        about: "Data sets: reading, changing, mixing, batching.",
        modules: &["Dataset"],
        types: &["Dataset", "IterableDataset", "DataLoader"],
        names: &["load_dataset"],
    },
    Section {
        slug: "forgetting",
        title: "Forgetting: measuring and mitigating",
        about: "What a model knows before and after, how sure the difference is, and how to keep it small.",
        modules: &[],
        types: &["EWCRegularizer"],
        names: &[
            "evaluate_general_qa",
            "compare_forgetting",
            "run_forgetting_checklist",
            "answer_matches",
            "items_in_order",
            "completion_loss",
            "perplexity",
            "create_replay_dataset",
            "paired_difference",
            "mcnemar",
            "holm",
            "wilson_interval",
        ],
    },
    Section {
        slug: "showing",
        title: "Showing",
        about: "Tables, figures, pages.",
        modules: &[],
        types: &["Figure", "Table"],
        names: &["report", "rule"],
    },
    Section {
        slug: "basics",
        title: "Basics",
        about: "What Python has built in: numbers, texts, lists, files, the process.",
        modules: &[],
        types: &[],
        names: &[],
    },
];

/// The chapter of an entry.
pub fn section_of(entry: &Entry) -> &'static Section {
    let last = &SECTIONS[SECTIONS.len() - 1];
    if let Some((module, _)) = entry.name.split_once("::") {
        return SECTIONS.iter().find(|section| section.modules.contains(&module)).unwrap_or(last);
    }
    if let Some(section) = SECTIONS.iter().find(|section| section.names.contains(&entry.name.as_str())) {
        return section;
    }
    let Some(signature) = entry.signatures.first() else { return last };
    let first = signature.parameters.first().map(|(_, kind)| kind.as_str()).unwrap_or_default();
    let of_type = |kind: &str| SECTIONS.iter().find(|section| section.types.contains(&kind));
    // A model's methods stand with the models, except those of adapters, which are listed by name.
    let of_model = |kind: &str| SECTIONS.iter().find(|section| kind == "Model" && section.slug == "models");
    of_type(first).or_else(|| of_model(first)).or_else(|| of_type(&signature.returns)).unwrap_or(last)
}

/// The pages of the reference: names of files and their texts; the first is the index.
pub fn pages(reference: &Reference) -> Vec<(String, String)> {
    let listed = render::listed(reference);
    let mut index = String::from(
        "# Reference\n\nEvery function of the language, made by `ftrepl doc --format markdown` from the documentation in the \
         sources. In the REPL: `?NAME`, and `help(\"words\")` to search.\n",
    );
    let mut pages = Vec::new();
    for section in SECTIONS {
        let entries: Vec<&Entry> = listed.iter().copied().filter(|entry| section_of(entry) == section).collect();
        let page = format!("# {}\n\n{}\n\n{}\n", section.title, section.about, render::markdown(&entries));
        index += &format!("\n## [{}]({}.md)\n\n{}\n\n", section.title, section.slug, section.about);
        for entry in &entries {
            let first = entry.summary();
            let shown = entry.shown_name();
            index += &format!("- [`{shown}`]({}.md#{}): {first}\n", section.slug, anchor(&entry.name));
        }
        pages.push((format!("{}.md", section.slug), page));
    }
    pages.insert(0, ("README.md".into(), index));
    pages
}

/// How GitHub names a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
