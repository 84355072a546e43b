//! Finding functions by what one wants to do: by the words of their names and documentation, and by words that people use for
//! the same thing elsewhere.

use super::{Entry, Kind, Reference};
use std::collections::BTreeSet;

/// Words and the names that are meant by them.
const TERMS: &[(&str, &[&str])] = &[
    ("adapter", &["LoraConfig", "get_peft_model", "PeftModel::from_pretrained"]),
    ("lora", &["LoraConfig", "get_peft_model", "merge_and_unload"]),
    ("qlora", &["AutoModelForCausalLM::from_pretrained", "get_peft_model"]),
    ("peft", &["get_peft_model", "PeftModel::from_pretrained", "LoraConfig"]),
    ("finetune", &["Trainer", "TrainingArguments", "get_peft_model"]),
    ("fine-tune", &["Trainer", "TrainingArguments", "get_peft_model"]),
    ("train", &["Trainer", "TrainingArguments", "train"]),
    ("forgetting", &["evaluate_general_qa", "compare_forgetting", "run_forgetting_checklist", "EWCRegularizer"]),
    ("ewc", &["EWCRegularizer", "update_fisher", "ewc_loss"]),
    ("fisher", &["update_fisher", "EWCRegularizer"]),
    ("regularization", &["EWCRegularizer", "TrainingArguments"]),
    ("replay", &["create_replay_dataset", "concatenate_datasets"]),
    ("rehearsal", &["create_replay_dataset"]),
    ("benchmark", &["evaluate_general_qa", "perplexity"]),
    ("evaluate", &["evaluate_general_qa", "perplexity", "completion_loss", "run_forgetting_checklist"]),
    ("significance", &["compare_forgetting", "mcnemar", "wilson_interval", "holm"]),
    ("learning rate", &["TrainingArguments", "get_scheduler"]),
    ("schedule", &["get_scheduler", "TrainingArguments"]),
    ("optimizer", &["optim::AdamW", "optim::SGD", "optim::Lion", "optim::Muon", "optim::Adafactor", "optim::AdamWScheduleFree"]),
    ("adam", &["optim::AdamW", "optim::Adam", "optim::AdamW8bit"]),
    ("8bit", &["optim::AdamW8bit"]),
    ("bitsandbytes", &["optim::AdamW8bit"]),
    ("schedule free", &["optim::AdamWScheduleFree"]),
    ("average", &["EMA", "mean"]),
    ("plateau", &["get_scheduler"]),
    ("load", &["AutoModelForCausalLM::from_pretrained", "load_dataset", "load_json"]),
    ("save", &["save_pretrained", "save", "save_json"]),
    ("chat", &["generate", "apply_chat_template"]),
    ("generate", &["generate", "pipeline"]),
    ("inference", &["generate", "pipeline", "forward"]),
    ("tokenize", &["AutoTokenizer::from_pretrained", "encode", "decode"]),
    ("data", &["load_dataset", "Dataset::from_list", "DataLoader"]),
    ("stream", &["load_dataset", "to_iterable_dataset"]),
    ("large file", &["load_dataset", "to_iterable_dataset"]),
    ("hub", &["load_dataset", "AutoModelForCausalLM::from_pretrained"]),
    ("alpaca", &["load_dataset", "Trainer"]),
    ("sharegpt", &["load_dataset", "Trainer"]),
    ("length", &["describe"]),
    ("truncate", &["describe"]),
    ("duplicate", &["describe", "unique"]),
    ("chart", &["plot", "scatter", "bars", "history"]),
    ("graph", &["plot", "history"]),
    ("seed", &["manual_seed"]),
    ("random", &["manual_seed", "rand", "randn"]),
    ("gradient", &["backward", "no_grad", "clip_grad_norm"]),
    ("freeze", &["requires_grad", "get_peft_model"]),
    ("quantize", &["AutoModelForCausalLM::from_pretrained"]),
    ("loss", &["cross_entropy", "mse_loss", "completion_loss", "perplexity"]),
];

/// How many names are shown with one that does not exist, or beside another.
const MOST: usize = 6;

/// The entries that a search means, best first.
pub fn search<'a>(reference: &'a Reference, query: &str) -> Vec<&'a Entry> {
    let query = query.trim().to_lowercase();
    if query.is_empty() {
        return Vec::new();
    }
    let words: Vec<&str> = query.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect();
    let meant: BTreeSet<&str> = TERMS
        .iter()
        .filter(|(term, _)| query.contains(term) || words.iter().any(|word| word.len() >= 4 && term.starts_with(word)))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let score = |entry: &&'a Entry| -> Option<(u32, &'a Entry)> {
        let name = entry.name.to_lowercase();
        let short = entry.short_name().to_lowercase();
        let docs = entry.docs.join("\n").to_lowercase();
        let mut score = 0;
        for word in &words {
            score += match () {
                () if short == *word || name == *word => 40,
                () if name.split(['_', ':']).any(|part| part == *word) => 12,
                () if word.len() >= 5 && name.contains(word) => 8,
                () if contains_word(&docs, word) => 3,
                () => 0,
            };
        }
        if meant.contains(entry.name.as_str()) {
            score += 30;
        }
        (score > 0).then_some((score, *entry))
    };
    let ours = reference.entries().iter().filter(|entry| entry.ours && entry.kind != Kind::Operator);
    let mut found: Vec<(u32, &Entry)> = ours.collect::<Vec<_>>().iter().filter_map(score).collect();
    found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
    found.into_iter().map(|(_, entry)| entry).collect()
}

fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && !inside(after)
    })
}

/// The names that belong to an entry: those its documentation and examples mention, and those that are searched for together with it.
pub fn see_also(reference: &Reference, entry: &Entry) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let known = reference.entries().iter().any(|other| other.ours && other.kind != Kind::Operator && other.name == name);
        if known && name != entry.name && !found.iter().any(|other| other == name) {
            found.push(name.to_string());
        }
    };
    for (_, names) in TERMS.iter().filter(|(_, names)| names.contains(&entry.name.as_str())) {
        names.iter().for_each(|name| add(name));
    }
    for doc in &entry.docs {
        for name in mentioned(doc) {
            // Helpers that stand in every other example say nothing.
            if !["print", "len", "map", "filter", "push", "keys", "tensor", "time", "to_string", "item"].contains(&name) {
                add(name);
            }
        }
    }
    found.truncate(MOST);
    found
}

/// Every name in a text, with its module.
fn mentioned(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .map(|name| name.trim_matches(':'))
        .filter(|name| name.len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    #[test]
    fn functions_are_found_by_what_one_wants() {
        let reference = Session::builder().device("cpu").build().unwrap().reference();
        let names = |query: &str| search(&reference, query).iter().take(5).map(|entry| entry.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("lora")[0], "LoraConfig");
        assert!(names("rehearsal").contains(&"create_replay_dataset".to_string()));
        assert!(names("learning rate").contains(&"TrainingArguments".to_string()));
        assert!(names("draw a chart").contains(&"plot".to_string()));
        assert!(names("zzzz").is_empty());
    }

    #[test]
    fn every_search_term_leads_somewhere() {
        let reference = Session::builder().device("cpu").build().unwrap().reference();
        for name in TERMS.iter().flat_map(|(_, names)| names.iter()) {
            assert!(reference.entries().iter().any(|entry| entry.name == *name), "{name}");
        }
        let lora = reference.find("LoraConfig")[0];
        assert!(see_also(&reference, lora).contains(&"get_peft_model".to_string()));
    }
}
