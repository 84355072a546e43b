//! Against forgetting: `EWCRegularizer`, and the loaders and matchers that measuring it needs.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::context::context;
use super::data_stream::to_rows;
use super::display;
use super::error::{IntoScript, ScriptResult, into_words};
use super::model::ModelValue;
use super::options::{OptionMap, Validate, options};
use super::tensor::TensorValue;
use crate::data::{DataLoader, Encoding};
use crate::error::{Error, Result};
use crate::forgetting::{Estimator, Ewc};
use crate::model::Tokenizer;
use crate::random::Random;
use crate::script::registry::Registry;
use crate::train::Regularizer;
use rhai::plugin::*;
use rhai::{Array, FnPtr, Map};
use serde::{Deserialize, Serialize};
use std::any::TypeId;
use std::cell::RefCell;
use std::rc::Rc;

/// The regulariser as scripts hold it.
#[derive(Clone)]
pub struct EwcValue(pub Rc<RefCell<Ewc>>);

/// Borrowed anew for every call: a callback of the training may estimate the Fisher information again, or set the importance.
impl Regularizer for EwcValue {
    fn check_model(&self, model: &ModelValue) -> Result<()> {
        self.0.borrow().check_model(model)
    }

    fn penalty(&self) -> Result<candle_core::Tensor> {
        self.0.borrow().penalty()
    }

    fn add_penalty(&self) -> Result<f64> {
        self.0.borrow().add_penalty()
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct EwcOptions {
    importance: f64,
}

impl Default for EwcOptions {
    fn default() -> Self {
        Self { importance: 5000.0 }
    }
}

impl Validate for EwcOptions {}

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct FisherOptions {
    num_batches: usize,
    estimator: Estimator,
}

impl Default for FisherOptions {
    fn default() -> Self {
        Self { num_batches: 100, estimator: Estimator::Empirical }
    }
}

impl Validate for FisherOptions {}

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct LoaderOptions {
    batch_size: usize,
    shuffle: bool,
    seed: Option<u64>,
    max_length: Option<usize>,
    drop_last: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { batch_size: 1, shuffle: false, seed: None, max_length: None, drop_last: false }
    }
}

impl Validate for LoaderOptions {
    fn validate(&self) -> Result<()> {
        let bad = [("batch_size", Some(self.batch_size)), ("max_length", self.max_length)];
        match bad.iter().find(|(_, v)| *v == Some(0)) {
            Some((field, _)) => Err(Error::argument(format!("{field} must be at least 1, got 0"))),
            None => Ok(()),
        }
    }
}

#[export_module]
mod functions {
    /// Whether a reply contains an answer as whole words or numbers, ignoring case: "105" is not in "1050", and 5 is not in -5.
    ///
    /// ```rhai
    /// answer_matches("It is 105.", "105") // => true
    /// answer_matches("It is 1050.", "105") // => false
    /// ```
    pub fn answer_matches(text: &str, answer: &str) -> bool {
        crate::eval::answers::answer_matches(text, answer)
    }

    /// Rows of a data set as batches of tokens. Options: `tokenizer` (required), `batch_size` (1), `shuffle` (false), `seed` (default: the
    /// session's next random number), `max_length`, `drop_last` (false). The rows may be a stream, which has an order of its own. Each
    /// batch is a map with `input_ids`, `attention_mask` and `labels`, arrays of rows padded on the right. With `shuffle` every `for` loop
    /// over the loader has another order.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// let loader = DataLoader([#{ text: "on the hill" }, #{ text: "on" }], #{ tokenizer: tokenizer, batch_size: 2 });
    /// let lengths = [];
    /// for batch in loader { lengths.push(batch.input_ids.len()); }
    /// loader.len() // => 1
    /// ```
    #[rhai_fn(name = "DataLoader", return_raw)]
    pub fn data_loader(call: NativeCallContext, rows: Dynamic, given: Map) -> ScriptResult<DataLoader> {
        let session = context(&call)?;
        let rows = to_rows(&rows, "DataLoader: the data")?;
        let mut given = OptionMap::new("DataLoader", given);
        let tokenizer = given.take::<Tokenizer>("tokenizer", "a tokenizer")?;
        let parsed: LoaderOptions = given.parse()?;
        let encoding = Encoding { max_length: parsed.max_length, ..Encoding::default() };
        let (rows, warning) = rows.tokenized(&tokenizer, encoding, &session.control).script()?;
        warning.into_iter().for_each(|warning| session.control.warn(warning));
        let mut loader = DataLoader::new(rows, parsed.batch_size, tokenizer.pad_id()).script()?;
        loader.shuffle = parsed.shuffle;
        loader.drop_last = parsed.drop_last;
        loader.seed = match parsed.seed {
            Some(seed) => seed,
            None if parsed.shuffle => u64::from(session.random.borrow_mut().next_u32()),
            None => 0,
        };
        Ok(loader)
    }

    /// Number of batches.
    #[rhai_fn(name = "len", return_raw)]
    pub fn loader_len(loader: DataLoader) -> ScriptResult<i64> {
        let batches = loader.batches().ok_or("the rows are a stream, and how many batches they make is not known")?;
        Ok(batches as i64)
    }

    /// Elastic weight consolidation: remembers where a model's trainable parameters are now and, once `update_fisher` has estimated
    /// how important each is, penalises moving the important ones. Option: `importance` (5000; there is no factor 1/2 beside it).
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// EWCRegularizer(model, #{ importance: 100.0 }).importance // => 100.0
    /// ```
    #[rhai_fn(name = "EWCRegularizer", return_raw)]
    pub fn ewc_with(model: ModelValue, given: Map) -> ScriptResult<EwcValue> {
        let given: EwcOptions = options("EWCRegularizer", given)?;
        Ok(EwcValue(Rc::new(RefCell::new(Ewc::new(&model, given.importance).script()?))))
    }

    #[rhai_fn(name = "EWCRegularizer", return_raw)]
    pub fn ewc(model: ModelValue) -> ScriptResult<EwcValue> {
        ewc_with(model, Map::new())
    }

    /// The factor on the penalty.
    ///
    /// ```rhai
    /// EWCRegularizer(AutoModelForCausalLM::from_pretrained("tiny-random")).importance // => 5000.0
    /// ```
    #[rhai_fn(get = "importance", pure)]
    pub fn importance(ewc: &mut EwcValue) -> f64 {
        ewc.0.borrow().importance
    }

    /// Sets the factor on the penalty; the Fisher information stays.
    #[rhai_fn(set = "importance", pure, return_raw)]
    pub fn set_importance(ewc: &mut EwcValue, importance: Dynamic) -> ScriptResult<()> {
        let importance = super::super::tensor_data::number(&importance).script()?;
        let mut ewc = ewc.0.try_borrow_mut().map_err(|_| "importance: the regularizer is being used by the caller")?;
        ewc.set_importance(importance).script()
    }

    /// Estimates the Fisher information from a loader's batches. Options: `num_batches` (100, at most) and `estimator`: "empirical" (one
    /// sequence at a time, the default), "sample" (the same with labels drawn from the model) or "lesson" (exactly as the lesson's
    /// class computes it, with a warning that says what is wrong with it). Gives the number of sequences seen.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// let loader = DataLoader([#{ text: "on the hill" }, #{ text: "in the hall" }], #{ tokenizer: tokenizer });
    /// EWCRegularizer(model).update_fisher(model, loader, #{ num_batches: 2 }) // => 2
    /// ```
    #[rhai_fn(return_raw)]
    pub fn update_fisher(
        call: NativeCallContext,
        ewc: EwcValue,
        model: ModelValue,
        loader: DataLoader,
        given: Map,
    ) -> ScriptResult<i64> {
        let session = context(&call)?;
        let given: FisherOptions = options("update_fisher", given)?;
        // Of its own: the closures of a stream that the loader reads may draw from the session's meanwhile.
        let seed = if given.estimator == Estimator::Sample { session.random.borrow_mut().next_u32() } else { 0 };
        let random = &mut Random::new(u64::from(seed));
        let mut ewc = ewc.0.try_borrow_mut().map_err(|_| "update_fisher: the regularizer is being used by the caller")?;
        let seen = ewc.update_fisher(&model, &loader, given.num_batches, given.estimator, random, &session.control);
        Ok(seen.script()? as i64)
    }

    #[rhai_fn(name = "update_fisher", return_raw)]
    pub fn update_fisher_plain(
        call: NativeCallContext,
        ewc: EwcValue,
        model: ModelValue,
        loader: DataLoader,
    ) -> ScriptResult<i64> {
        update_fisher(call, ewc, model, loader, Map::new())
    }

    /// The penalty `importance * sum F (p - p0)^2` as a tensor with gradient, to be added to the task's loss.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// let ewc = EWCRegularizer(model);
    /// ewc.update_fisher(model, DataLoader([#{ text: "on the hill" }], #{ tokenizer: tokenizer }));
    /// let total = model.forward([1, 2, 3], #{ labels: [1, 2, 3] }).loss + ewc.ewc_loss(model);
    /// total.backward();
    /// ewc.ewc_loss(model).item() // => 0.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn ewc_loss(ewc: EwcValue, model: ModelValue) -> ScriptResult<TensorValue> {
        Ok(TensorValue::new(ewc.0.borrow().loss(&model).script()?))
    }

    /// The Fisher information of a parameter, in its shape; without a name, a map from each parameter's name to its mean.
    ///
    /// ```rhai
    /// let ewc = EWCRegularizer(AutoModelForCausalLM::from_pretrained("tiny-random"));
    /// ewc.fisher("model.norm.weight").shape // => [32]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn fisher(ewc: EwcValue, name: &str) -> ScriptResult<TensorValue> {
        let tensor = ewc.0.borrow().fisher(name).script()?;
        let tensor = tensor.ok_or_else(|| format!("fisher: no anchored parameter is named \"{name}\""))?;
        Ok(TensorValue::new(tensor))
    }

    #[rhai_fn(name = "fisher")]
    pub fn fisher_means(ewc: EwcValue) -> Map {
        ewc.0.borrow().summary().into_iter().map(|(name, mean)| (name.into(), mean.into())).collect()
    }

    /// For `run_forgetting_checklist`: what a closure gives. What the engine says of a mistake in it is thrown in words.
    #[rhai_fn(name = "_called", return_raw)]
    pub fn called(call: NativeCallContext, function: Dynamic, argument: Dynamic) -> ScriptResult<Dynamic> {
        let Some(closure) = function.read_lock::<FnPtr>().map(|closure| closure.clone()) else {
            return Err(format!("expected a function, but it is {}", display::describe(&function)).into());
        };
        closure.call_within_context::<Dynamic>(&call, (argument,)).map_err(|error| into_words(error, call.engine()))
    }
}

/// A batch as a map of arrays of rows.
fn batch_map(batch: &crate::data::Batch) -> Map {
    let rows = |values: Vec<i64>| -> Dynamic {
        let rows = values.chunks(batch.seq).map(|row| Dynamic::from(row.iter().map(|v| Dynamic::from(*v)).collect::<Array>()));
        rows.collect::<Array>().into()
    };
    let wide = |values: &[u32]| values.iter().map(|v| i64::from(*v)).collect();
    let mut map = Map::new();
    map.insert("input_ids".into(), rows(wide(&batch.input_ids)));
    map.insert("attention_mask".into(), rows(wide(&batch.attention_mask)));
    map.insert("labels".into(), rows(batch.labels.clone()));
    map
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<EwcOptions>(&["EWCRegularizer"], &[])
        .options::<FisherOptions>(&["update_fisher"], &[])
        .options::<LoaderOptions>(&["DataLoader"], &[("tokenizer", "Tokenizer")]);
    engine.register_type_with_name::<EwcValue>("EWCRegularizer");
    engine.register_type_with_name::<DataLoader>("DataLoader");
    let mut module = exported_module!(functions);
    module.set_iter_result(TypeId::of::<DataLoader>(), |value: Dynamic| {
        let batches = value.cast::<DataLoader>().next_epoch();
        Box::new(batches.map(|batch| batch.script().map(|batch| Dynamic::from_map(batch_map(&batch)))))
    });
    engine.register_global_module(module.into());
    display::register::<EwcValue>(
        |e| format!("EWCRegularizer(importance: {})", e.0.borrow().importance),
        |_| serde_json::Value::Null,
    );
    display::register::<DataLoader>(
        |l| l.batches().map_or("DataLoader(stream)".to_string(), |batches| format!("DataLoader({batches} batches)")),
        |l| serde_json::json!({ "batches": l.batches() }),
    );
}
