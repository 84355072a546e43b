//! Options of a training and its callbacks through scripts: when it logs, saves and evaluates, and what a callback may do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

/// Two steps an epoch.
const START: &str = r#"
    let model = AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: "f32" });
    let rows = [#{ text: "on the hill" }, #{ text: "in the hall" }, #{ text: "at the sea" }, #{ text: "by the well" }];
    let train = |options, callbacks| {
        let args = #{ num_train_epochs: 3, per_device_train_batch_size: 2, learning_rate: 0.01 } + options;
        let trainer = Trainer(#{
            model: model, args: TrainingArguments(args), train_dataset: rows, eval_dataset: rows, callbacks: callbacks
        });
        trainer.train()
    };
"#;

/// A working folder in which scripts run.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, script: &str) -> (bool, String, String) {
        std::fs::write(self.0.path().join("script.rhai"), format!("{START}{script}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
        command.current_dir(self.0.path()).env("HF_HUB_OFFLINE", "1");
        let output = command.args(["run", "script.rhai"]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    fn prints(&self, script: &str, expected: &str) -> String {
        let (done, printed, said) = self.run(script);
        assert!(done, "{script}\n{said}");
        assert_eq!(printed.trim_end(), expected, "{script}\n{said}");
        said
    }
}

#[test]
fn logs_and_checkpoints_by_epoch_as_in_transformers() {
    let place = Place::new();
    let steps = "|result| result.log_history.map(|entry| entry.step)";
    place.prints(
        &format!(
            r#"let steps = {steps};
            print(steps.call(train.call(#{{ logging_strategy: "epoch" }}, [])));
            print(steps.call(train.call(#{{ logging_strategy: "no" }}, [])));
            print(steps.call(train.call(#{{ logging_steps: 4, logging_first_step: true }}, [])));
            print(steps.call(train.call(#{{ logging_steps: 4 }}, [])));"#
        ),
        "[2, 4, 6]\n[]\n[1, 4, 6]\n[4, 6]",
    );
    let saved = |name: &str| {
        let folder = std::fs::read_dir(place.0.path().join(name));
        let mut names: Vec<String> =
            folder.map_or(vec![], |all| all.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect());
        names.sort();
        names
    };
    place.prints(r#"train.call(#{ save_strategy: "epoch", output_dir: "a" }, []);"#, "");
    assert_eq!(saved("a"), ["checkpoint-2", "checkpoint-4", "checkpoint-6"]);
    place.prints(r#"train.call(#{ save_strategy: "no", save_steps: 1, output_dir: "b" }, []);"#, "");
    assert!(saved("b").is_empty());
}

#[test]
fn a_callback_sees_the_evaluation_after_its_step_alone() {
    let script = r#"
        let seen = [];
        let result = train.call(#{ eval_strategy: "epoch" }, [|state| { seen.push(state.eval_loss); state.step < 4 }]);
        let evaluated = result.log_history.filter(|entry| "eval_loss" in entry).map(|entry| entry.eval_loss);
        print([seen[0] == (), seen[2] == (), [seen[1], seen[3]] == evaluated, seen.len()]);"#;
    Place::new().prints(script, "[true, true, true, 4]");
}

#[test]
fn what_a_callback_freezes_stays_as_it_is_and_the_rest_goes_on() {
    let place = Place::new();
    let script = r#"
        let norm = model.named_parameters()["model.norm.weight"];
        let words = model.named_parameters()["model.embed_tokens.weight"];
        let kept = #{};
        let result = train.call(#{}, [|state| {
            if state.step == 2 {
                norm.requires_grad = false;
                kept.norm = norm.to_list();
                kept.words = words.to_list();
            }
        }]);
        print([result.steps, norm.to_list() == kept.norm, words.to_list() == kept.words]);"#;
    place.prints(script, "[6, true, false]");
    let (done, _, said) = place.run("train.call(#{}, [|state| { model.requires_grad(false); true }]);");
    assert!(!done && said.contains("step 2: no parameter requires a gradient any more"), "{said}");
    assert!(!said.contains("lower learning_rate"), "{said}");
}

#[test]
fn a_checkpoint_of_a_finished_run_says_that_nothing_is_left() {
    let place = Place::new();
    let options = r#"#{ num_train_epochs: 1, per_device_train_batch_size: 2, save_steps: 1 }"#;
    let script = format!(
        "let trainer = Trainer(#{{ model: model, args: TrainingArguments({options}), train_dataset: rows }});
        trainer.train();
        print([trainer.args.save_steps, trainer.model.dtype, trainer.train(#{{ resume_from_checkpoint: true }}).tokens]);"
    );
    let said = place.prints(&script, "[1, \"f32\", 0]");
    assert!(said.contains("of step 2 of 2: nothing is left to train"), "{said}");
}

#[test]
fn what_is_wrong_with_the_evaluation_set_is_said_of_it() {
    let place = Place::new();
    let trainer = |rows: &str, rest: &str| {
        format!(
            "Trainer(#{{ model: model, args: TrainingArguments(#{{ max_steps: 1, max_length: 4 }}), train_dataset: [#{{ text: \"on\" }}], eval_dataset: {rows} }}){rest};"
        )
    };
    let (done, _, said) = place.run(&trainer("[]", ".evaluate()"));
    assert!(!done && said.contains("no eval_dataset") && !said.contains("training needs rows"), "{said}");
    let (done, _, said) = place.run(&trainer("[#{ text: \"\" }]", ".train()"));
    assert!(!done && said.contains("eval_dataset: none of the 1 rows"), "{said}");
    let (done, _, said) = place.run(&trainer("rows", ".train()"));
    assert!(done && said.contains("eval_dataset: ") && said.contains("cut to max_length 4"), "{said}");
    assert!(!said.contains("train_dataset: "), "{said}");
}

/// It would pull the other model, which never moves, and the training would go on without any pull.
#[test]
fn a_regularizer_of_another_model_is_refused() {
    let script = r#"
        let ewc = EWCRegularizer(model, #{ importance: 10.0 });
        ewc.update_fisher(model, DataLoader(rows, #{ tokenizer: AutoTokenizer::from_pretrained("tiny-random"), batch_size: 2 }));
        let trained = |model| {
            let args = TrainingArguments(#{ max_steps: 2 });
            Trainer(#{ model: model, args: args, train_dataset: rows, regularizer: ewc }).train().steps
        };
        print(trained.call(model));
        for other in [AutoModelForCausalLM::from_pretrained("tiny-random"), get_peft_model(
            AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 2 }))] {
            try { print(trained.call(other)); } catch (error) { print(error.to_string().contains("belongs to another model")); }
        }"#;
    Place::new().prints(script, "2\ntrue\ntrue");
}

#[test]
fn a_trainer_evaluates_on_other_rows() {
    let script = r#"
        let trainer = Trainer(#{ model: model, train_dataset: rows, eval_dataset: rows });
        let other = [#{ text: "on the hill" }];
        let alone = Trainer(#{ model: model, train_dataset: rows, eval_dataset: other }).evaluate();
        print([trainer.evaluate(other) == alone, trainer.evaluate() == alone, trainer.evaluate(rows) == trainer.evaluate()]);"#;
    let place = Place::new();
    place.prints(script, "[true, false, true]");
    let (done, _, said) = place.run("Trainer(#{ model: model, train_dataset: rows }).evaluate(5);");
    assert!(!done && said.contains("evaluate: eval_dataset"), "{said}");
}

#[test]
fn a_folder_of_checkpoints_and_a_log_without_entries_are_explained() {
    let place = Place::new();
    place.prints("train.call(#{ save_steps: 2, output_dir: \"runs\" }, []);", "");
    let resume = "Trainer(#{ model: model, train_dataset: rows }).train(#{ resume_from_checkpoint: \"runs\" });";
    let (done, _, said) = place.run(resume);
    assert!(!done && said.contains("the newest one in it is runs/checkpoint-6"), "{said}");
    let (done, _, said) = place.run("history(train.call(#{}, [|state| false]));");
    assert!(!done && said.contains("log_history is empty") && said.contains("logging_steps"), "{said}");
}

#[test]
fn rows_that_are_tokens_already_train_as_their_text_does() {
    let script = r#"
        let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
        let loss = |rows| {
            let model = AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: "f32" });
            let args = TrainingArguments(#{ max_steps: 3, per_device_train_batch_size: 2, learning_rate: 0.01 });
            Trainer(#{ model: model, args: args, train_dataset: rows }).train().train_loss
        };
        let answers = [#{ prompt: "on the", completion: " hill" }, #{ prompt: "in", completion: " the hall" }];
        let ready = answers.map(|row| {
            let prompt = tokenizer.encode(row.prompt);
            let answer = tokenizer.encode(row.completion) + [tokenizer.eos_token_id];
            let padding = [tokenizer.pad_token_id, tokenizer.pad_token_id];
            #{
                input_ids: prompt + answer + padding,
                labels: prompt.map(|id| -100) + answer + padding,
                attention_mask: (prompt + answer).map(|id| 1) + [0, 0],
            }
        });
        let texts = rows.map(|row| #{ input_ids: tokenizer.encode(row.text) + [tokenizer.eos_token_id] });
        print([loss.call(answers) == loss.call(ready), loss.call(rows) == loss.call(texts)]);"#;
    let place = Place::new();
    place.prints(script, "[true, true]");
    for (row, words) in [
        ("#{ input_ids: [1, 2], labels: [1] }", "`labels` has 1 entries, but `input_ids` has 2"),
        ("#{ input_ids: [1, -2] }", "-2 in `input_ids` is no token id"),
        ("#{ input_ids: [1, 0.5] }", "`input_ids` must be an array of integers"),
        ("#{ input_ids: [1], attention_mask: [0] }", "no token that counts"),
    ] {
        let (done, _, said) = place.run(&format!("Trainer(#{{ model: model, train_dataset: [{row}] }}).train();"));
        assert!(!done && said.contains("row 0: ") && said.contains(words), "{row}: {said}");
    }
}
