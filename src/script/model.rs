//! Language models: loading, `forward`, `generate`, pipelines, perplexity.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::callable::callable;
use super::context::context;
use super::display;
use super::display::from_json;
use super::error::{IntoScript, ScriptResult, positioned};
use super::model_forward::{ForwardOutput, forward};
use super::module_methods::{tensor_map, tensors_of};
use super::options::{OptionMap, Validate, options};
use super::tensor::TensorValue;
use crate::adapter::ModelHandle;
use crate::error::{Error, Result};
use crate::model::lm::{GenerateOptions, LanguageModel};
use crate::model::{Precision, hub};
use crate::nn::module::{load_state_dict, state_dict};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr, Map};
use serde::{Deserialize, Serialize};

/// A language model, with its adapter if there is one, as scripts hold it.
pub type ModelValue = ModelHandle;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct LoadOptions {
    dtype: Option<String>,
    torch_dtype: Option<String>,
    device: Option<String>,
    device_map: Option<String>,
}

impl Validate for LoadOptions {}

impl Validate for GenerateOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

/// Loads a model by name; see `AutoModelForCausalLM::from_pretrained`.
fn load(call: &NativeCallContext, name: &str, given: LoadOptions) -> ScriptResult<ModelValue> {
    let session = context(call)?;
    let precision = match given.dtype.or(given.torch_dtype).as_deref() {
        None => Precision::default(),
        Some(name) => Precision::from_name(name).ok_or_else(|| {
            format!("from_pretrained: dtype must be \"auto\", \"f32\", \"bf16\", \"f16\", \"q4\" or \"q8\", but it is \"{name}\"")
        })?,
    };
    let device = match given.device.or(given.device_map).as_deref() {
        None | Some("auto") => session.device(),
        Some(name) => crate::device::parse(name).script()?,
    };
    // What a script saved under `--out` is found there again.
    let path = session.input_path(name);
    let place = if path.exists() { path.to_string_lossy() } else { name.into() };
    let files = hub::resolve(&place, &session.control).script()?;
    Ok(ModelHandle::new(LanguageModel::load(name, &files.path, precision, &device).script()?))
}

/// Texts from an array of strings, one string, or the `text` column of a data set.
pub(super) fn texts_of(value: &Dynamic, what: &str) -> ScriptResult<Vec<String>> {
    if let Some(data) = value.read_lock::<crate::data::Dataset>() {
        let texts = data.column("text").script()?;
        return Ok(texts.iter().map(|t| t.as_str().unwrap_or_default().to_string()).collect());
    }
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        return Ok(vec![text.to_string()]);
    }
    let wrong = || format!("{what} must be a string, an array of strings or a Dataset with a text column").into();
    let items = value.read_lock::<Array>().ok_or_else(wrong)?;
    items.iter().map(|item| item.clone().into_string().map_err(|_| wrong())).collect()
}

/// Takes the prompts' continuations from the model.
fn generate(
    call: &NativeCallContext,
    model: &ModelValue,
    prompts: &[String],
    mut given: GenerateOptions,
) -> ScriptResult<Vec<String>> {
    let session = context(call)?;
    if let Some(warning) = given.warning() {
        session.warn_once(warning);
    }
    if given.seed.is_none() && given.do_sample {
        given.seed = Some(u64::from(session.random.borrow_mut().next_u32()));
    }
    model.model().generate(prompts, &given, &session.control).script()
}

#[export_module]
mod auto_model {
    /// Loads a causal language model: a folder in the Hugging Face layout, a `.gguf` file, a name from `ftrepl model list`, or a hub
    /// id `org/name[@revision]`. It is fetched if this machine does not have it. Options: `device`, and `dtype`: "auto" (the
    /// default: the file's), "f32", "bf16", "f16", or "q4" and "q8", which hold the weights quantised and frozen, to be trained through
    /// an adapter (QLoRA): what a GGUF file stores quantised is kept as it is, other matrices are quantised to Q4_0 or Q8_0.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.config.num_hidden_layers // => 2
    /// let base = AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: "q4" });
    /// get_peft_model(base, LoraConfig(#{ r: 4 })).num_parameters(#{ only_trainable: true }) // => 896
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_pretrained(call: NativeCallContext, name: &str) -> ScriptResult<ModelValue> {
        positioned(&call, load(&call, name, LoadOptions::default()))
    }

    #[rhai_fn(name = "from_pretrained", return_raw)]
    pub fn from_pretrained_with(call: NativeCallContext, name: &str, given: Map) -> ScriptResult<ModelValue> {
        positioned(&call, options("from_pretrained", given).and_then(|given| load(&call, name, given)))
    }
}

#[export_module]
mod methods {
    /// Runs the model on token ids: an array, or an array of arrays. The output's `logits` are [batch, seq, vocab].
    /// Options: `labels` (then the output has `loss`, computed as transformers does: shifted inside, -100 ignored),
    /// `attention_mask` (0 where a token is padding) and `position_ids` (from 0 in each row, where nothing is given).
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let ids = [5, 6, 7];
    /// let out = model.forward(ids, #{ labels: ids });
    /// [out.logits.shape, out.loss.shape] // => [[1, 3, 300], []]
    /// ```
    #[rhai_fn(name = "forward", return_raw)]
    pub fn forward_plain(call: NativeCallContext, model: ModelValue, ids: Dynamic) -> ScriptResult<ForwardOutput> {
        forward(&call, &model, &ids, Map::new())
    }

    #[rhai_fn(name = "forward", return_raw)]
    pub fn forward_with(call: NativeCallContext, model: ModelValue, ids: Dynamic, given: Map) -> ScriptResult<ForwardOutput> {
        forward(&call, &model, &ids, given)
    }

    /// Logits of a forward pass, [batch, seq, vocab]; zero where the attention mask is 0.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.forward([[1, 2], [3, 4]]).logits.shape // => [2, 2, 300]
    /// ```
    #[rhai_fn(get = "logits", pure, return_raw)]
    pub fn logits(output: &mut ForwardOutput) -> ScriptResult<TensorValue> {
        output.logits()
    }

    /// Loss of a forward pass with labels: mean negative log-likelihood in nats a token, a scalar with gradient; `()` without labels.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.forward([1, 2, 3]).loss // => ()
    /// ```
    #[rhai_fn(get = "loss", pure)]
    pub fn loss(output: &mut ForwardOutput) -> Dynamic {
        output.loss()
    }

    /// Continues a prompt, or every prompt of an array at once; gives the new text alone. Options: `max_new_tokens` (50), `do_sample`
    /// (false), `temperature` (1), `top_k` (50), `top_p` (1), `min_p` (0), `repetition_penalty` (1), `no_repeat_ngram_size` (0),
    /// `min_new_tokens` (0), `num_return_sequences` (1; above, a prompt's texts come one behind the other in an array), `stop` (array
    /// of strings), `chat` (false; true puts the prompt through the chat template), `system`, `chat_template_kwargs` (a map such as
    /// `#{ enable_thinking: false }`), `seed`, `batch_size` (32),
    /// `prompt_lookup_num_tokens` (how many tokens are guessed from what a single text repeats, for speed alone; 0: none).
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let text = model.generate("Once", #{ max_new_tokens: 5 });
    /// model.generate(["Once", "Twice"], #{ max_new_tokens: 5 })[0] == text // => true
    /// ```
    #[rhai_fn(name = "generate", return_raw)]
    pub fn generate_plain(call: NativeCallContext, model: ModelValue, prompt: Dynamic) -> ScriptResult<Dynamic> {
        generate_with(call, model, prompt, Map::new())
    }

    #[rhai_fn(name = "generate", return_raw)]
    pub fn generate_with(call: NativeCallContext, model: ModelValue, prompt: Dynamic, given: Map) -> ScriptResult<Dynamic> {
        let prompts = texts_of(&prompt, "generate: the prompt")?;
        let mut given = OptionMap::new("generate", given);
        // Python users write a single stop string too.
        let stop = given.take_any("stop");
        let mut parsed: GenerateOptions = given.parse()?;
        if let Some(stop) = stop {
            parsed.stop = texts_of(&stop, "generate: stop")?;
        }
        let single = prompt.is_string() && parsed.num_return_sequences == 1;
        let mut texts = generate(&call, &model, &prompts, parsed)?;
        if single {
            return Ok(texts.pop().unwrap_or_default().into());
        }
        Ok(texts.into_iter().map(Dynamic::from).collect::<Array>().into())
    }

    /// Frees (true) or freezes (false) all parameters of the model, or of its adapter where it has one. The weights of a model that
    /// was loaded with dtype "q4" or "q8" stay frozen: freeing them is an error.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.requires_grad(false);
    /// model.parameters().filter(|p| p.requires_grad).len() // => 0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn requires_grad(model: ModelValue, wanted: bool) -> ScriptResult<ModelValue> {
        model.set_requires_grad(wanted).script()?;
        Ok(model)
    }

    /// Number of parameters; a matrix that is shared counts once. `only_trainable: true` counts those that require a gradient.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.num_parameters() == model.num_parameters(#{ only_trainable: true }) // => true
    /// ```
    pub fn num_parameters(model: ModelValue) -> i64 {
        model.count().1 as i64
    }

    #[rhai_fn(name = "num_parameters", return_raw)]
    pub fn num_parameters_with(model: ModelValue, given: Map) -> ScriptResult<i64> {
        let mut given = OptionMap::new("num_parameters", given);
        let trainable = given.take_optional::<bool>("only_trainable", "true or false")?.unwrap_or(false);
        given.finish()?;
        let (some, all) = model.count();
        Ok(if trainable { some } else { all } as i64)
    }

    /// The bytes that the parameters take in memory, as transformers gives them; a matrix that is shared counts once.
    ///
    /// ```rhai
    /// let bytes = |dtype| AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: dtype }).get_memory_footprint();
    /// bytes.call("q4") * 6 < bytes.call("f32") // => true
    /// ```
    pub fn get_memory_footprint(model: ModelValue) -> i64 {
        model.size_in_bytes() as i64
    }

    /// The model's `config.json` as a map.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").config.model_type // => "llama"
    /// ```
    #[rhai_fn(get = "config", pure)]
    pub fn config(model: &mut ModelValue) -> Dynamic {
        from_json(&model.model().decoder().config().raw)
    }

    /// The dtype of the model's weights: of most of them, where they differ. Of quantised weights the bits, such as "q4"; each
    /// parameter tells its own kind of blocks.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: "bf16" }).dtype // => "bf16"
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random", #{ dtype: "q4" });
    /// [model.dtype, model.parameters()[0].dtype] // => ["q4", "q4_0"]
    /// ```
    #[rhai_fn(get = "dtype", pure)]
    pub fn dtype(model: &mut ModelValue) -> String {
        model.model().dtype_name()
    }

    /// Where the model is: "cpu", "cuda:0".
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random", #{ device: "cpu" }).device // => "cpu"
    /// ```
    #[rhai_fn(get = "device", pure)]
    pub fn device(model: &mut ModelValue) -> String {
        crate::device::name(&model.model().decoder().device())
    }

    /// Training mode: dropout is on in `forward`.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").train();
    /// ```
    pub fn train(model: ModelValue) -> ModelValue {
        model.model().set_training(true);
        model
    }

    /// Evaluation mode: dropout is off in `forward`. Scripts write `model.eval()`.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").eval();
    /// ```
    pub fn eval_mode(model: ModelValue) -> ModelValue {
        model.model().set_training(false);
        model
    }

    /// All parameters, in PyTorch's order.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").parameters()[0].shape // => [300, 32]
    /// ```
    pub fn parameters(model: ModelValue) -> Array {
        let named = model.named_parameters().into_iter();
        named.map(|(_, p)| Dynamic::from(TensorValue::from_parameter(p))).collect()
    }

    /// Map from a parameter's name to the parameter; with an adapter the names are PEFT's.
    ///
    /// ```rhai
    /// let named = AutoModelForCausalLM::from_pretrained("tiny-random").named_parameters();
    /// named["model.norm.weight"].requires_grad // => true
    /// ```
    pub fn named_parameters(model: ModelValue) -> Map {
        let named = model.named_parameters().into_iter();
        named.map(|(name, p)| (name.into(), Dynamic::from(TensorValue::from_parameter(p)))).collect()
    }

    /// Copies of all parameters' values by name; training does not change them.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.state_dict()["model.norm.weight"].shape // => [32]
    /// ```
    #[rhai_fn(name = "state_dict", return_raw)]
    pub fn model_state_dict(model: ModelValue) -> ScriptResult<Map> {
        state_dict(&model.named_parameters()).map(tensor_map).script()
    }

    /// Sets all parameters from a state dict; names and shapes must fit, or nothing is changed.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let start = model.state_dict();
    /// Trainer(#{ model: model, args: TrainingArguments(#{ max_steps: 2 }), train_dataset: [#{ text: "on the hill" }] }).train();
    /// model.load_state_dict(start);
    /// model.state_dict()["model.norm.weight"].to_list() == start["model.norm.weight"].to_list() // => true
    /// ```
    #[rhai_fn(name = "load_state_dict", return_raw)]
    pub fn load_model_state_dict(model: ModelValue, state: Map) -> ScriptResult<()> {
        let state = tensors_of("load_state_dict", &state).script()?;
        load_state_dict(&model.named_parameters(), &state).script()
    }

    /// Forgets all gradients.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").zero_grad();
    /// ```
    pub fn zero_grad(model: ModelValue) {
        model.named_parameters().iter().for_each(|(_, p)| p.zero_grad());
    }
}

#[export_module]
mod functions {
    /// Mean negative log-likelihood of texts under a model. `texts` is a string, an array of strings, or a Dataset with a `text`
    /// column. The result holds `nll` (nats a token), `ppl` (its exponential) and `tokens`.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// perplexity(model, ["on the hill"]).tokens // => 4
    /// ```
    #[rhai_fn(return_raw)]
    pub fn perplexity(call: NativeCallContext, model: ModelValue, texts: Dynamic) -> ScriptResult<Map> {
        let texts = texts_of(&texts, "perplexity: texts")?;
        let (nll, tokens) = model.model().perplexity(&texts, &context(&call)?.control).script()?;
        Ok(likelihood(nll, tokens))
    }

    /// A function that does a task with a model. The only task is "text-generation": `generator.call(prompt, #{..})` gives an array
    /// with a map whose `generated_text` is the prompt and the new text, as in transformers. Options: `model` (required; a model or
    /// a name) and those of `generate`, which a call can override.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let generator = pipeline("text-generation", #{ model: model, max_new_tokens: 5 });
    /// generator.call("Once", #{ do_sample: false })[0].generated_text.starts_with("Once") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn pipeline(call: NativeCallContext, task: &str, given: Map) -> ScriptResult<FnPtr> {
        if task != "text-generation" {
            return Err(format!("pipeline: the task must be \"text-generation\", but it is \"{task}\"").into());
        }
        let mut defaults = given;
        let model = match defaults.remove("model") {
            Some(value) if value.is_string() => load(&call, &value.into_string().unwrap_or_default(), LoadOptions::default())?,
            Some(value) => value.try_cast::<ModelValue>().ok_or("pipeline: model must be a model or the name of one")?,
            None => return Err("pipeline: the option model is missing; give a model or the name of one".into()),
        };
        let mut checked = OptionMap::new("pipeline", defaults.clone());
        // Taken out above; named where an unknown option is refused.
        let _ = checked.take_any("model");
        let _: GenerateOptions = checked.parse()?;
        callable("text_generation", move |call, arguments| {
            let mut given = defaults.clone();
            match arguments {
                [_] => {}
                [_, extra] => {
                    let extra = extra.read_lock::<Map>().ok_or("a pipeline is called with a prompt and a map of options")?;
                    given.extend(extra.clone());
                }
                _ => return Err("a pipeline is called with a prompt and, if wanted, a map of options".into()),
            }
            let single = arguments[0].is_string();
            let prompts = texts_of(arguments[0], "the pipeline's prompt")?;
            let given: GenerateOptions = options("pipeline", given)?;
            let count = given.num_return_sequences;
            let texts = generate(&call, &model, &prompts, given)?;
            let results = prompts.iter().zip(texts.chunks(count)).map(|(prompt, texts)| {
                let result = |text: &String| {
                    let mut result = Map::new();
                    result.insert("generated_text".into(), format!("{prompt}{text}").into());
                    Dynamic::from(result)
                };
                Dynamic::from(texts.iter().map(result).collect::<Array>())
            });
            let mut results: Array = results.collect();
            Ok(if single { results.remove(0) } else { results.into() })
        })
    }

    /// Mean negative log-likelihood of what a model would be trained on: of rows with `prompt` and `completion` the completion
    /// alone, of chats the assistant's turns, of texts every token. `rows` is an array of maps or a Dataset. The result holds `nll`
    /// (nats a token), `ppl` and `tokens`.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// completion_loss(model, [#{ prompt: "on the", completion: " hill" }]).tokens // => 4
    /// ```
    #[rhai_fn(return_raw)]
    pub fn completion_loss(call: NativeCallContext, model: ModelValue, rows: Dynamic) -> ScriptResult<Map> {
        let control = &context(&call)?.control;
        let data = crate::script::data::to_dataset(&rows, "completion_loss: rows")?;
        let (nll, tokens) = (|| -> Result<(f64, usize)> {
            let tokenizer = model.model().tokenizer()?;
            let rows = crate::data::tokenize_dataset(&data, tokenizer, crate::data::Encoding::default(), control)?;
            crate::train::trainer::mean_loss(model.model().decoder(), &rows.rows, control)
        })()
        .script()?;
        Ok(likelihood(nll, tokens))
    }
}

fn likelihood(nll: f64, tokens: usize) -> Map {
    let mut result = Map::new();
    result.insert("nll".into(), nll.into());
    result.insert("ppl".into(), nll.exp().into());
    result.insert("tokens".into(), (tokens as i64).into());
    result
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<LoadOptions>(
            &["AutoModelForCausalLM::from_pretrained"],
            &[("dtype", r#""auto" | "f32" | "bf16" | "f16" | "q4" | "q8" = "auto""#), ("device", r#"string = "auto""#)],
        )
        .options::<GenerateOptions>(&["generate"], &[("stop", "array | string")])
        .options::<GenerateOptions>(&["pipeline"], &[("model", "Model | string")])
        .options_by_hand("forward", &[("labels", "array"), ("attention_mask", "array"), ("position_ids", "array")])
        .options_by_hand("num_parameters", &[("only_trainable", "bool = false")]);
    engine.register_type_with_name::<ModelValue>("Model");
    engine.register_type_with_name::<ForwardOutput>("CausalLMOutput");
    engine.register_static_module("AutoModelForCausalLM", exported_module!(auto_model).into());
    engine.register_global_module(exported_module!(methods).into());
    engine.register_global_module(exported_module!(functions).into());
    display::register::<ModelValue>(|m| format!("{m:?}"), |m| serde_json::json!({ "model": m.model().name() }));
    display::register::<ForwardOutput>(|_| "CausalLMOutput".into(), |_| serde_json::Value::Null);
}

impl From<Error> for Box<EvalAltResult> {
    fn from(error: Error) -> Self {
        match Err::<(), _>(error).script() {
            Err(error) => error,
            Ok(()) => "no error".into(),
        }
    }
}
