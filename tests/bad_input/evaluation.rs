//! Questions, results and comparisons that are not as they should be.

use super::{Place, with_model};

/// Numbers where texts are meant come from files; several right answers are an array.
#[test]
fn answers_and_categories_may_be_numbers_and_several() {
    let place = Place::new();
    let script = with_model(
        "let options = #{ max_new_tokens: 4 };
        let numbers = [#{ question: 7, correct_answer: 105, category: 2026 }, #{ question: \"on\", correct_answer: 10.5, category: \"x\" }];
        let first = evaluate_general_qa(model, numbers, options);
        print([first.total, first.by_category.keys(), first.items[0].category, first.items[0].correct_answer]);
        let said = first.items[1].answer;
        let several = [
            #{ question: \"on\", correct_answer: [\"no such text\", said], category: \"x\" },
            #{ question: \"on\", correct_answer: \"no such text\", alternatives: said, category: \"x\" },
            #{ question: \"on\", correct_answer: \"no such text\", alternatives: [1234567, said], category: \"x\" },
            #{ question: \"on\", correct_answer: \"no such text\", alternatives: (), category: \"x\" },
        ];
        print(evaluate_general_qa(model, several, options).items.map(|item| item.is_correct));",
    );
    assert_eq!(place.works(&script), "[2, [\"2026\", \"x\"], \"2026\", 105]\n[true, true, true, false]\n");
}

#[test]
fn questions_that_cannot_be_asked() {
    let place = Place::new();
    let ask = |model: &str, tests: &str| with_model(&format!("evaluate_general_qa({model}, {tests});"));
    let question = |fields: &str| format!("[#{{ question: \"q\", {fields} }}]");
    place.fails(&ask("model", "[\"what\"]"), &["question 0 must be a map", "of type string"]);
    place.fails(&ask("model", "#{ question: \"q\" }"), &["the questions must be an array of maps or a Dataset", "of type map"]);
    place.fails(
        &ask("5", &question("correct_answer: \"a\", category: \"c\"")),
        &["model must be a model or the name of one", "i64"],
    );
    place.fails(&ask("model", &question("correct_answer: (), category: \"c\"")), &["question 0 has no correct_answer"]);
    place.fails(
        &ask("model", &question("correct_answer: [true], category: \"c\"")),
        &["correct_answer of question 0 must be a text"],
    );
    place.fails(&ask("model", &question("correct_answer: \"a\", category: ()")), &["category of question 0 must be a text"]);
}

#[test]
fn what_is_no_result_cannot_be_compared() {
    let place = Place::new();
    let compare = |before: &str, after: &str| format!("compare_forgetting({before}, {after});");
    let result = "#{ overall_accuracy: 0.5, by_category: #{} }";
    place.fails(
        &compare("\"before.json\"", result),
        &["before must be a result of evaluate_general_qa", "load_json", "of type string"],
    );
    place.fails(&compare(result, "#{}"), &["after lacks overall_accuracy"]);
    place.fails(&compare("#{ overall_accuracy: 0.5 }", result), &["before lacks by_category"]);
    place.fails(
        &compare(result, "#{ overall_accuracy: \"0.5\", by_category: #{} }"),
        &["overall_accuracy of after must be a number"],
    );
    let threshold = format!("compare_forgetting({result}, {result}, #{{ threshold: 0.0 / 0.0 }});");
    place.fails(&threshold, &["threshold must lie between 0 and 1", "nan"]);
}

/// What is neither rows nor numbers is named as in the language, not by its place in our source.
#[test]
fn types_are_named_as_users_know_them() {
    let place = Place::new();
    place.fails("Dataset::from_list([tensor(1.0)]);", &["row 0 must be a map", "of type Tensor"]);
    place.fails(&with_model("create_replay_dataset(rows, tensor([1.0]));"), &["general_data must be", "of type Tensor"]);
    place.fails("holm([0.5, tensor(0.5)]);", &["item 1 must be a number", "of type Tensor"]);
}
