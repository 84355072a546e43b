//! The bundled data sets: sizes, ids, shapes, no row twice, and no general question among the rows for replay and Fisher.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::data::{Dataset, bundled};
use ftrepl::eval::answers::answer_matches;
use std::collections::{HashMap, HashSet};

fn load(name: &str) -> Dataset {
    bundled::load(name).unwrap().unwrap()
}

fn texts(data: &Dataset, column: &str) -> Vec<String> {
    data.column(column).unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

/// Lower-case words, so that punctuation hides no repetition.
fn words(text: &str) -> Vec<String> {
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(String::from).collect()
}

fn unique(data: &Dataset, column: &str) {
    let mut seen = HashSet::new();
    for text in texts(data, column) {
        assert!(seen.insert(words(&text)), "{column}: {text} stands there twice");
    }
}

#[test]
fn general_qa_has_enough_rows_of_every_category_with_ids_of_their_own() {
    let data = load("general_qa");
    assert!(data.len() >= 360);
    unique(&data, "id");
    unique(&data, "question");
    let mut categories: HashMap<String, usize> = HashMap::new();
    texts(&data, "category").into_iter().for_each(|c| *categories.entry(c).or_default() += 1);
    for category in ["geography", "math", "literature", "science", "history", "reasoning"] {
        assert!(categories[category] >= 50, "{category}");
    }
    for (question, answer) in texts(&data, "question").iter().zip(texts(&data, "correct_answer")) {
        assert!(!answer_matches(question, &answer), "{question} gives its own answer away");
    }
}

#[test]
fn drug_qa_has_four_rows_a_medicine_whose_answers_hold_their_keys_and_no_dose() {
    let data = load("drug_qa");
    assert!(data.len() >= 250);
    unique(&data, "id");
    unique(&data, "question");
    let mut kinds: HashMap<String, HashSet<String>> = HashMap::new();
    for row in data.iter().map(Result::unwrap) {
        let field = |name: &str| row[name].as_str().unwrap().to_string();
        assert!(kinds.entry(field("drug")).or_default().insert(field("category")), "{}", field("id"));
        assert!(field("answer").to_lowercase().contains(&field("correct_answer").to_lowercase()), "{}", field("id"));
        assert!(!answer_matches(&field("paraphrase"), &field("correct_answer")), "{}", field("id"));
        assert_ne!(words(&field("question")), words(&field("paraphrase")), "{}", field("id"));
        assert_eq!(field("text"), format!("Q: {}\nA: {}", field("question"), field("answer")));
        let dosing = ["mg", "mcg", "ml", "daily", "twice"];
        assert!(words(&field("answer")).iter().all(|w| !dosing.contains(&w.as_str())), "{}", field("id"));
    }
    assert!(kinds.values().all(|k| k.len() == 4));
}

#[test]
fn general_text_is_no_preparation_for_the_general_questions() {
    let data = load("general_text");
    assert!(data.len() >= 300);
    unique(&data, "id");
    unique(&data, "instruction");
    let instructions: Vec<HashSet<String>> = texts(&data, "instruction").iter().map(|t| words(t).into_iter().collect()).collect();
    for question in texts(&load("general_qa"), "question") {
        let question: HashSet<String> = words(&question).into_iter().collect();
        for instruction in &instructions {
            let shared = question.intersection(instruction).count() as f64;
            let all = question.union(instruction).count() as f64;
            assert!(shared / all < 0.8, "{question:?} and {instruction:?} ask the same");
        }
    }
}
