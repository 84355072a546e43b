//! Training: `TrainingArguments`, its review, `Trainer`.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::context::context;
use super::data_stream::{Rows, to_rows};
use super::display;
use super::display::from_json;
use super::error::{IntoScript, ScriptResult, into_library};
use super::forgetting::EwcValue;
use super::model::ModelValue;
use super::options::{OptionMap, Validate, options};
use crate::data::{Encoding, TokenRows};
use crate::error::{Error, Result};
use crate::model::Tokenizer;
use crate::script::registry::Registry;
use crate::train::arguments::Method;
use crate::train::{Progress, Regularizer, StepState, Trainer, TrainingArguments, checkpoint};
use rhai::plugin::*;
use rhai::{Array, FnPtr, Map};
use std::cell::RefCell;
use std::rc::Rc;

impl Validate for TrainingArguments {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

/// A trainer as scripts hold it.
#[derive(Clone)]
pub struct TrainerValue {
    model: ModelValue,
    args: TrainingArguments,
    train: Rows,
    eval: Option<Rows>,
    tokenizer: Option<Tokenizer>,
    regularizer: Option<EwcValue>,
    callbacks: Vec<FnPtr>,
    /// How far the last training came, whatever its end; of one trainer, however often a script copies it.
    progress: Rc<RefCell<Progress>>,
}

impl TrainerValue {
    /// Runs `work` on the library's trainer, with the data tokenised.
    fn with<T>(&self, call: &NativeCallContext, work: impl FnOnce(&Trainer<'_>) -> ScriptResult<T>) -> ScriptResult<T> {
        let session = context(call)?;
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => tokenizer,
            None => self.model.model().tokenizer().script()?,
        };
        let longest = self.model.model().decoder().config().max_position_embeddings;
        let limit = self.args.longest_row(longest);
        let encoding = Encoding { max_length: Some(limit), ..Encoding::default() };
        let encode = |rows: &Rows, name: &str| -> Result<TokenRows> {
            let (rows, warning) = rows.tokenized(tokenizer, encoding, &session.control)?;
            warning.into_iter().for_each(|warning| session.control.warn(format!("{name}: {warning}")));
            Ok(rows)
        };
        let train = encode(&self.train, "train_dataset").script()?;
        // Without rows there is nothing to evaluate on, which is said only where somebody wants to.
        let eval = self.eval.as_ref().filter(|rows| rows.check_not_empty("evaluation").is_ok());
        let eval = eval.map(|rows| encode(rows, "eval_dataset")).transpose().map_err(|error| match error {
            Error::Argument(message) => Error::Argument(format!("eval_dataset: {message}")),
            other => other,
        });
        let eval = eval.script()?.unwrap_or_default();
        let args = TrainingArguments { output_dir: session.output_path(&self.args.output_dir), ..self.args.clone() };
        work(&Trainer {
            model: self.model.clone(),
            args,
            train,
            eval,
            regularizer: self.regularizer.as_ref().map(|ewc| ewc as &dyn Regularizer),
        })
    }
}

/// What a callback gets.
fn state_map(state: &StepState) -> Map {
    let mut map = Map::new();
    map.insert("step".into(), (state.step as i64).into());
    map.insert("total_steps".into(), (state.total_steps as i64).into());
    map.insert("epoch".into(), state.epoch.into());
    map.insert("loss".into(), state.loss.into());
    map.insert("grad_norm".into(), state.grad_norm.into());
    map.insert("learning_rate".into(), state.learning_rate.into());
    map.insert("tokens".into(), (state.tokens as i64).into());
    map.insert("eval_loss".into(), state.eval_loss.map_or(Dynamic::UNIT, Dynamic::from));
    map
}

#[export_module]
mod functions {
    /// Options of a training run, with transformers' names and defaults: `output_dir`, `num_train_epochs` (3), `max_steps` (-1),
    /// `learning_rate` (5e-5), `per_device_train_batch_size` (8), `gradient_accumulation_steps` (1), `warmup_ratio` (0), `warmup_steps` (0),
    /// `lr_scheduler_type` ("linear"), `lr_scheduler_kwargs` (#{}), `weight_decay` (0), `max_grad_norm` (1), `optim` ("adamw_torch"),
    /// `optim_args` (a map, or a text such as "momentum=0.9"), `ema_decay` (0), `seed` (42),
    /// `data_seed`, `logging_strategy` ("steps"), `logging_steps` (10), `logging_first_step` (false), `save_strategy` ("steps"; "epoch" or
    /// "no"), `save_steps` (0: no checkpoints), `save_total_limit`, `eval_strategy` ("no"), `eval_steps` (100), `load_best_model_at_end`
    /// (false), `metric_for_best_model` ("loss"), `greater_is_better` (false), `early_stopping_patience`, `early_stopping_threshold` (0),
    /// `label_smoothing_factor` (0), `dataloader_drop_last` (false),
    /// `gradient_checkpointing` (false), `bf16` and `tf32` (false: products in f32; see `set_float32_matmul_precision`),
    /// `max_length` (the model's context), `packing` (false), `adam_beta1`, `adam_beta2`, `adam_epsilon`.
    /// `logging_steps`, `eval_steps` and `save_steps` below 1 are shares of all steps. With `load_best_model_at_end` the model has after
    /// training the weights of the checkpoint with the lowest loss on `eval_dataset`, for which `save_strategy` must be `eval_strategy`, and
    /// `save_steps` a multiple of `eval_steps`; `save_total_limit` then keeps it. `early_stopping_patience` ends a training after so many
    /// evaluations in a row that were not better than the best before them by more than `early_stopping_threshold`, as EarlyStoppingCallback.
    /// `label_smoothing_factor` is the share of every target that the loss spreads evenly over the vocabulary, in training and evaluation;
    /// `dataloader_drop_last` leaves out a last batch that is not full, in both.
    /// For LoRA+ there are `loraplus_lr_ratio` (B's learning rate as a multiple of A's) and `loraplus_lr_embedding` (1e-6).
    /// With `packing: true` short rows are laid together into rows of up to `max_length` tokens, which must then be given: a step has
    /// few, full rows, and no row sees another. Steps and `per_device_train_batch_size` then count packed rows.
    ///
    /// `optim` is "adamw_torch", "sgd", "adafactor", "lion_32bit", "adamw_8bit", "schedule_free_adamw" or "muon", or another name of
    /// transformers for one of these. "lion_32bit" takes its betas from `adam_beta1` and `adam_beta2`; "adafactor" uses `learning_rate`
    /// (scale_parameter and relative_step are off); "adamw_8bit" keeps 32 bits for embeddings; "schedule_free_adamw" wants
    /// `lr_scheduler_type: "constant"` and leaves the averaged weights in the model; "muon" trains embeddings, head and vectors by AdamW, and
    /// has adjust_lr_fn "match_rms_adamw", so that one `learning_rate` serves both. `lr_scheduler_type` is any of `get_scheduler`;
    /// "reduce_lr_on_plateau" follows the loss on `eval_dataset`, which `eval_strategy` "steps" or "epoch" has computed every `eval_steps`
    /// steps or every epoch, and after the last step. With `ema_decay` above 0 evaluation, and the model after training, have a moving
    /// average of the weights; checkpoints keep both.
    ///
    /// ```rhai
    /// let args = TrainingArguments(#{ num_train_epochs: 3, learning_rate: 2e-5, lr_scheduler_type: "cosine" });
    /// args.learning_rate // => 2e-05
    /// ```
    #[rhai_fn(name = "TrainingArguments", return_raw)]
    pub fn training_arguments(given: Map) -> ScriptResult<TrainingArguments> {
        options("TrainingArguments", given)
    }

    #[rhai_fn(name = "TrainingArguments")]
    pub fn training_arguments_default() -> TrainingArguments {
        TrainingArguments::default()
    }

    #[rhai_fn(index_get, pure, return_raw)]
    pub fn argument(args: &mut TrainingArguments, name: &str) -> ScriptResult<Dynamic> {
        let fields = serde_json::to_value(&*args).unwrap_or_default();
        let value = fields.get(name).ok_or_else(|| format!("TrainingArguments has no field `{name}`"))?;
        Ok(from_json(value))
    }

    /// The lesson's rules of thumb as advice: an array of maps with `field`, `value`, `advice`, empty where none is broken. The method
    /// is "full", "lora" or "qlora".
    ///
    /// ```rhai
    /// let risky = TrainingArguments(#{ num_train_epochs: 10, learning_rate: 5e-5, per_device_train_batch_size: 1 });
    /// risky.review("full").map(|a| a.field) // => ["learning_rate", "num_train_epochs", "warmup_ratio", "per_device_train_batch_size"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn review(args: TrainingArguments, method: &str) -> ScriptResult<Array> {
        let method: Method = serde_json::from_value(method.into())
            .map_err(|_| format!("review: the method must be \"full\", \"lora\" or \"qlora\", but it is \"{method}\""))?;
        let advice = args.review(method);
        Ok(advice.iter().map(|a| from_json(&serde_json::to_value(a).unwrap_or_default())).collect())
    }

    /// Trains a model on a data set. Options: `model` and `train_dataset` (required; rows as in the section on data, rows of `input_ids`
    /// with `labels` where they are tokens already, or a stream of rows, which needs `max_steps` in the arguments where nobody knows how
    /// many they are), `args`
    /// (TrainingArguments), `eval_dataset`, `regularizer` (an EWCRegularizer), `callbacks` (functions of a state map, called after every
    /// step; one that gives `false` ends the training), `processing_class` (a tokenizer; default the model's). A callback's map has
    /// `step`, `total_steps`, `epoch`, `loss`, `grad_norm`, `learning_rate`, `tokens`, and `eval_loss`, which is `()` but after an
    /// evaluation: enough to stop early, or to keep the `state_dict()` of the best model.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let data = Dataset::from_list([#{ text: "on the hill" }, #{ text: "in the hall" }]);
    /// let args = TrainingArguments(#{ max_steps: 2, per_device_train_batch_size: 2 });
    /// let trainer = Trainer(#{ model: model, args: args, train_dataset: data });
    /// trainer.train().steps // => 2
    /// ```
    #[rhai_fn(name = "Trainer", return_raw)]
    pub fn trainer(given: Map) -> ScriptResult<TrainerValue> {
        let mut given = OptionMap::new("Trainer", given);
        let model = given.take::<ModelValue>("model", "a model")?;
        let args = given.take_optional::<TrainingArguments>("args", "TrainingArguments")?.unwrap_or_default();
        let train = given.take_any("train_dataset").ok_or("Trainer: the option train_dataset is missing")?;
        let train = to_rows(&train, "Trainer: train_dataset")?;
        let eval = given.take_any("eval_dataset").map(|e| to_rows(&e, "Trainer: eval_dataset")).transpose()?;
        let regularizer = given.take_optional::<EwcValue>("regularizer", "an EWCRegularizer")?;
        let tokenizer = given.take_optional::<Tokenizer>("tokenizer", "a tokenizer")?;
        let processing = given.take_optional::<Tokenizer>("processing_class", "a tokenizer")?;
        let callbacks = given.take_optional::<Array>("callbacks", "an array of functions")?.unwrap_or_default();
        given.finish()?;
        let callbacks = callbacks.into_iter().map(|c| {
            c.try_cast::<FnPtr>()
                .ok_or_else(|| "Trainer: callbacks must be an array of functions, such as [|state| print(state.loss)]".into())
        });
        let callbacks = callbacks.collect::<ScriptResult<_>>()?;
        train.check_not_empty("training").script()?;
        let (tokenizer, progress) = (processing.or(tokenizer), Rc::default());
        Ok(TrainerValue { model, args, train, eval, tokenizer, regularizer, callbacks, progress })
    }

    /// Trains. The result holds `train_loss`, `steps`, `tokens`, `tokens_per_second`, `seconds` and `log_history`, and where evaluations are
    /// compared (`load_best_model_at_end`, `metric_for_best_model`, `early_stopping_patience`) `best_metric`, `best_step` and, where it was
    /// saved, `best_model_checkpoint`. What a training that failed has logged is in `trainer.state`. With
    /// `#{ resume_from_checkpoint: true }` (or a folder) it continues from the newest checkpoint as if it had never stopped.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let args = TrainingArguments(#{ max_steps: 3, logging_steps: 1, learning_rate: 0.01 });
    /// let result = Trainer(#{ model: model, args: args, train_dataset: [#{ text: "on the hill" }] }).train();
    /// result.log_history[2].loss < result.log_history[0].loss // => true
    /// ```
    #[rhai_fn(name = "train", return_raw)]
    pub fn train(call: NativeCallContext, trainer: TrainerValue) -> ScriptResult<Dynamic> {
        train_with(call, trainer, Map::new())
    }

    #[rhai_fn(name = "train", return_raw)]
    pub fn train_with(call: NativeCallContext, trainer: TrainerValue, given: Map) -> ScriptResult<Dynamic> {
        let mut given = OptionMap::new("train", given);
        let resume = given.take_any("resume_from_checkpoint");
        given.finish()?;
        let session = context(&call)?;
        let folder = match resume {
            None => None,
            Some(flag) if flag.is_bool() => {
                let root = session.output_path(&trainer.args.output_dir);
                if flag.as_bool().unwrap_or(false) { Some(checkpoint::latest(&root).script()?) } else { None }
            }
            Some(path) if path.is_string() => Some(session.input_path(path.into_string().unwrap_or_default())),
            Some(_) => return Err("train: resume_from_checkpoint must be true, false or a folder".into()),
        };
        let result = trainer.with(&call, |library| {
            let mut callback = |state: &StepState| -> Result<bool> {
                for function in &trainer.callbacks {
                    let answer = function.call_within_context::<Dynamic>(&call, (state_map(state),)).map_err(|error| {
                        let what = format!("a callback failed in step {} of the training", state.step);
                        into_library(&what, &error, call.engine())
                    })?;
                    if answer.as_bool() == Ok(false) {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            let listens = !trainer.callbacks.is_empty();
            // A copy: a callback may look at the state meanwhile.
            let mut progress = trainer.progress.borrow().clone();
            let outcome =
                library.train_into(&session.control, folder.as_deref(), listens.then_some(&mut callback as _), &mut progress);
            *trainer.progress.borrow_mut() = progress;
            outcome.script()
        })?;
        Ok(from_json(&serde_json::to_value(&result).unwrap_or_default()))
    }

    /// The loss on the evaluation set, or on other rows: a map with `eval_loss` and `perplexity`, both of the smoothed loss where
    /// `label_smoothing_factor` is above 0.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let rows = [#{ text: "on the hill" }];
    /// Trainer(#{ model: model, train_dataset: rows, eval_dataset: rows }).evaluate().eval_loss > 1.0 // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn evaluate(call: NativeCallContext, trainer: TrainerValue) -> ScriptResult<Map> {
        let session = context(&call)?;
        let loss = trainer.with(&call, |library| library.evaluate(&session.control).script())?;
        let mut map = Map::new();
        map.insert("eval_loss".into(), loss.into());
        map.insert("perplexity".into(), loss.exp().into());
        Ok(map)
    }

    #[rhai_fn(name = "evaluate", return_raw)]
    pub fn evaluate_on(call: NativeCallContext, trainer: TrainerValue, eval_dataset: Dynamic) -> ScriptResult<Map> {
        let eval = Some(to_rows(&eval_dataset, "evaluate: eval_dataset")?);
        evaluate(call, TrainerValue { eval, ..trainer })
    }

    /// The model that is trained.
    #[rhai_fn(get = "model", pure)]
    pub fn model_of_trainer(trainer: &mut TrainerValue) -> ModelValue {
        trainer.model.clone()
    }

    /// How far the last `train()` came, also where it failed or was interrupted: a map of `global_step`, `epoch`, `log_history`,
    /// `best_metric`, `best_global_step` and `best_model_checkpoint`. The last three are `()` where evaluations are not compared; before
    /// the first training the step is 0.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let rows = [#{ text: "on the hill" }];
    /// let fails = |state| if state.step == 2 { throw "enough" };
    /// let args = TrainingArguments(#{ max_steps: 4, logging_steps: 1 });
    /// let trainer = Trainer(#{ model: model, train_dataset: rows, args: args, callbacks: [fails] });
    /// try { trainer.train(); } catch { }
    /// [trainer.state.global_step, trainer.state.log_history.len()] // => [2, 2]
    /// ```
    #[rhai_fn(get = "state", pure)]
    pub fn state_of_trainer(trainer: &mut TrainerValue) -> Map {
        let progress = trainer.progress.borrow();
        let mut map = Map::new();
        map.insert("global_step".into(), (progress.step as i64).into());
        map.insert("epoch".into(), progress.epoch.into());
        map.insert("log_history".into(), from_json(&serde_json::to_value(&progress.log_history).unwrap_or_default()));
        map.insert("best_metric".into(), progress.best_metric.map_or(Dynamic::UNIT, Dynamic::from));
        map.insert("best_global_step".into(), progress.best_global_step.map_or(Dynamic::UNIT, |step| (step as i64).into()));
        map.insert("best_model_checkpoint".into(), progress.best_model_checkpoint.clone().map_or(Dynamic::UNIT, Dynamic::from));
        map
    }

    /// The trainer's arguments.
    #[rhai_fn(get = "args", pure)]
    pub fn arguments_of_trainer(trainer: &mut TrainerValue) -> TrainingArguments {
        trainer.args.clone()
    }

    /// Saves the trained model, or its adapter, into a folder.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// Trainer(#{ model: model, train_dataset: [#{ text: "on the hill" }] }).save_model("trained");
    /// AutoModelForCausalLM::from_pretrained("trained").config.hidden_size // => 32
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save_model(call: NativeCallContext, trainer: TrainerValue, folder: &str) -> ScriptResult<()> {
        trainer.model.save_pretrained(&context(&call)?.output_path(folder)).script()
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<TrainingArguments>(&["TrainingArguments"], &[])
        .options_by_hand(
            "Trainer",
            &[
                ("model", "Model"),
                ("args", "TrainingArguments"),
                ("train_dataset", "Dataset | IterableDataset | array"),
                ("eval_dataset", "Dataset | IterableDataset | array"),
                ("regularizer", "EWCRegularizer"),
                ("tokenizer", "Tokenizer"),
                ("processing_class", "Tokenizer"),
                ("callbacks", "array"),
            ],
        )
        .options_by_hand("train", &[("resume_from_checkpoint", "bool | string = false")]);
    engine.register_type_with_name::<TrainingArguments>("TrainingArguments");
    engine.register_type_with_name::<TrainerValue>("Trainer");
    engine.register_global_module(exported_module!(functions).into());
    let json = |a: &TrainingArguments| serde_json::to_value(a).unwrap_or_default();
    display::register::<TrainingArguments>(move |a| format!("TrainingArguments({})", json(a)), json);
    display::register::<TrainerValue>(|t| format!("Trainer({:?}, {})", t.model, t.train), |_| serde_json::Value::Null);
}
