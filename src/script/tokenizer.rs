//! `AutoTokenizer::from_pretrained` and what a tokenizer does: text to token ids, ids to text, conversations to prompts.

use super::context::context;
use super::display;
use super::error::{IntoScript, ScriptResult, positioned};
use super::options::{Validate, options};
use super::tensor::TensorValue;
use crate::error::{Error, Result};
use crate::model::tokenizer::SpecialToken;
use crate::model::{Tokenizer, hub};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Map};
use serde::{Deserialize, Serialize};
use serde_json::{Map as JsonMap, Value, json};

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct EncodeOptions {
    add_special_tokens: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special_tokens: true }
    }
}

impl Validate for EncodeOptions {}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct DecodeOptions {
    skip_special_tokens: bool,
}

impl Validate for DecodeOptions {}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct ChatOptions {
    add_generation_prompt: bool,
    tokenize: bool,
    /// End with what the last message says, for the model to go on with it.
    continue_final_message: bool,
    /// Whether a model that can reason first is asked to; templates of Qwen3, SmolLM3 and others have it.
    enable_thinking: Option<bool>,
    /// Other variables of the template.
    chat_template_kwargs: JsonMap<String, Value>,
}

impl Validate for ChatOptions {
    fn validate(&self) -> Result<()> {
        if self.continue_final_message && self.add_generation_prompt {
            return Err(Error::argument(
                "continue_final_message goes on with the last message and add_generation_prompt begins another: give one of them",
            ));
        }
        Ok(())
    }
}

#[export_module]
#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
mod auto_tokenizer {
    /// Loads the tokenizer of a model: a folder in the Hugging Face layout, a `.gguf` file, a name from `ftrepl model list`, or a hub
    /// id `org/name[@revision]`. The model is fetched if this machine does not have it.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// tokenizer.vocab_size // => 300
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_pretrained(call: NativeCallContext, name: &str) -> ScriptResult<Tokenizer> {
        let open = || {
            // What a script saved under `--out` is found there again.
            let path = context(&call)?.input_path(name);
            let name = if path.exists() { path.to_string_lossy() } else { name.into() };
            let files = hub::resolve(&name, &context(&call)?.control).script()?;
            Tokenizer::open(&files.path).script()
        };
        positioned(&call, open())
    }
}

#[export_module]
#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
mod methods {
    /// The token ids of a text. With `add_special_tokens` (the default) start and end of text are added where the model's tokenizer
    /// says so; a start of text that the text already begins with is not doubled.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// tokenizer.encode("on the hill") // => [264, 265, 291, 108, 294]
    /// tokenizer.encode("on", #{ add_special_tokens: false }) // => [264]
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn encode(tokenizer: &mut Tokenizer, text: &str) -> ScriptResult<Array> {
        encode_with(tokenizer, text, Map::new())
    }

    #[rhai_fn(name = "encode", return_raw, pure)]
    pub fn encode_with(tokenizer: &mut Tokenizer, text: &str, options_: Map) -> ScriptResult<Array> {
        let given: EncodeOptions = options("encode", options_)?;
        Ok(array(&tokenizer.encode(text, given.add_special_tokens).script()?))
    }

    /// The tokens of a text as the vocabulary spells them; `Ġ` stands for a space before a word.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// tokenizer.tokenize("on the hill 42") // => ["on", "Ġthe", "Ġh", "i", "ll", "Ġ", "4", "2"]
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn tokenize(tokenizer: &mut Tokenizer, text: &str) -> ScriptResult<Array> {
        Ok(tokenizer.tokenize(text).script()?.into_iter().map(Dynamic::from).collect())
    }

    /// The text of token ids. Special tokens such as `<|im_end|>` stay in the text unless `skip_special_tokens` is true.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// let ids = tokenizer.encode("hello<|im_end|>");
    /// tokenizer.decode(ids) // => "hello<|im_end|>"
    /// tokenizer.decode(ids, #{ skip_special_tokens: true }) // => "hello"
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn decode(tokenizer: &mut Tokenizer, ids: Array) -> ScriptResult<String> {
        decode_with(tokenizer, ids, Map::new())
    }

    #[rhai_fn(name = "decode", return_raw, pure)]
    pub fn decode_with(tokenizer: &mut Tokenizer, ids: Array, options_: Map) -> ScriptResult<String> {
        let given: DecodeOptions = options("decode", options_)?;
        let id = |(i, value): (usize, &Dynamic)| {
            let id = value.as_int().ok().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| format!("decode: element {i} of the ids must be a token id, found {}", display::describe(value)))
        };
        let ids = ids.iter().enumerate().map(id).collect::<Result<Vec<u32>, String>>()?;
        tokenizer.decode(&ids, given.skip_special_tokens).script()
    }

    #[rhai_fn(name = "decode", return_raw, pure)]
    pub fn decode_one(tokenizer: &mut Tokenizer, id: i64) -> ScriptResult<String> {
        decode_with(tokenizer, vec![id.into()], Map::new())
    }

    #[rhai_fn(name = "decode", return_raw, pure)]
    pub fn decode_tensor(tokenizer: &mut Tokenizer, ids: TensorValue) -> ScriptResult<String> {
        decode_tensor_with(tokenizer, ids, Map::new())
    }

    #[rhai_fn(name = "decode", return_raw, pure)]
    pub fn decode_tensor_with(tokenizer: &mut Tokenizer, ids: TensorValue, options_: Map) -> ScriptResult<String> {
        let ids = ids.value();
        if ids.rank() > 1 || ids.dtype().is_float() {
            let (dims, dtype) = (ids.dims(), ids.dtype().as_str());
            return Err(format!("decode: the ids must be whole numbers in one row, but the tensor is {dims:?} of {dtype}").into());
        }
        let read = || -> Result<Vec<i64>> { Ok(ids.flatten_all()?.to_dtype(candle_core::DType::I64)?.to_vec1()?) };
        decode_with(tokenizer, read().script()?.into_iter().map(Dynamic::from).collect(), options_)
    }

    /// The text of each row of token ids, as `decode` gives it.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").batch_decode([[264, 265], [264]]) // => ["on the", "on"]
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn batch_decode(tokenizer: &mut Tokenizer, rows: Array) -> ScriptResult<Array> {
        batch_decode_with(tokenizer, rows, Map::new())
    }

    #[rhai_fn(name = "batch_decode", return_raw, pure)]
    pub fn batch_decode_with(tokenizer: &mut Tokenizer, rows: Array, options_: Map) -> ScriptResult<Array> {
        let mut texts = Array::new();
        for (i, row) in rows.into_iter().enumerate() {
            let found = display::describe(&row);
            let ids =
                row.into_array().map_err(|_| format!("batch_decode: row {i} must be an array of token ids, found {found}"))?;
            texts.push(decode_with(tokenizer, ids, options_.clone())?.into());
        }
        Ok(texts)
    }

    /// The conversation as the model was trained to read it: a string, or with `tokenize` its token ids. `add_generation_prompt` ends it
    /// with the start of the assistant's turn, `continue_final_message` with the last message's words, for the model to go on with.
    /// `enable_thinking` and, for other variables of the template, the map `chat_template_kwargs` are handed to the template. Each message
    /// is `#{ role: "system" | "user" | "assistant", content: ".." }`.
    ///
    /// ```rhai
    /// let tokenizer = AutoTokenizer::from_pretrained("tiny-random");
    /// let messages = [#{ role: "user", content: "Hi" }];
    /// tokenizer.apply_chat_template(messages, #{ add_generation_prompt: true })
    /// // => "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    /// tokenizer.apply_chat_template(messages, #{ tokenize: true })[0] // => 1
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn apply_chat_template(tokenizer: &mut Tokenizer, messages: Array) -> ScriptResult<Dynamic> {
        apply_chat_template_with(tokenizer, messages, Map::new())
    }

    #[rhai_fn(name = "apply_chat_template", return_raw, pure)]
    pub fn apply_chat_template_with(tokenizer: &mut Tokenizer, messages: Array, options_: Map) -> ScriptResult<Dynamic> {
        let given: ChatOptions = options("apply_chat_template", options_)?;
        let messages: Vec<Value> = messages.iter().map(display::json).collect();
        let mut variables = given.chat_template_kwargs;
        if let Some(thinking) = given.enable_thinking {
            variables.insert("enable_thinking".into(), thinking.into());
        }
        let template = tokenizer.chat_template().script()?;
        let text = match given.continue_final_message {
            true => template.render_to_continue(&messages, &variables).script()?,
            false => template.render_with(&messages, given.add_generation_prompt, &variables).script()?,
        };
        if given.tokenize {
            return Ok(Dynamic::from_array(array(&tokenizer.encode(&text, false).script()?)));
        }
        Ok(text.into())
    }

    /// The id of a token as the vocabulary spells it; `()` where there is no such token.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").convert_tokens_to_ids("Ġthe") // => 265
    /// ```
    #[rhai_fn(pure)]
    pub fn convert_tokens_to_ids(tokenizer: &mut Tokenizer, token: &str) -> Dynamic {
        tokenizer.token_to_id(token).map_or(Dynamic::UNIT, |id| i64::from(id).into())
    }

    #[rhai_fn(name = "convert_tokens_to_ids", return_raw, pure)]
    pub fn convert_all_tokens(tokenizer: &mut Tokenizer, tokens: Array) -> ScriptResult<Array> {
        let id = |token: Dynamic| -> ScriptResult<Dynamic> {
            let found = display::describe(&token);
            let token = token.into_string().map_err(|_| format!("convert_tokens_to_ids: a token is a string, found {found}"))?;
            Ok(convert_tokens_to_ids(tokenizer, &token))
        };
        tokens.into_iter().map(id).collect()
    }

    /// The token of an id as the vocabulary spells it; `()` where there is no such id.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").convert_ids_to_tokens(265) // => "Ġthe"
    /// ```
    #[rhai_fn(pure)]
    pub fn convert_ids_to_tokens(tokenizer: &mut Tokenizer, id: i64) -> Dynamic {
        u32::try_from(id).ok().and_then(|id| tokenizer.id_to_token(id)).map_or(Dynamic::UNIT, Dynamic::from)
    }

    #[rhai_fn(name = "convert_ids_to_tokens", return_raw, pure)]
    pub fn convert_all_ids(tokenizer: &mut Tokenizer, ids: Array) -> ScriptResult<Array> {
        let token = |id: Dynamic| -> ScriptResult<Dynamic> {
            let found = display::describe(&id);
            let id = id.as_int().map_err(|_| format!("convert_ids_to_tokens: an id is an integer, found {found}"))?;
            Ok(convert_ids_to_tokens(tokenizer, id))
        };
        ids.into_iter().map(token).collect()
    }

    /// Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into a folder, for transformers to load. A relative path is
    /// taken from the folder given with `--out`.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").save_pretrained("saved-tokenizer");
    /// AutoTokenizer::from_pretrained("saved-tokenizer").vocab_size // => 300
    /// ```
    #[rhai_fn(return_raw, pure)]
    pub fn save_pretrained(call: NativeCallContext, tokenizer: &mut Tokenizer, folder: &str) -> ScriptResult<()> {
        tokenizer.save(&context(&call)?.output_path(folder)).script()
    }

    /// The token that ends a text, or a turn in chat models; `()` where the model has none.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").eos_token // => "<|im_end|>"
    /// ```
    #[rhai_fn(get = "eos_token", pure)]
    pub fn eos_token(tokenizer: &mut Tokenizer) -> Dynamic {
        content(tokenizer.eos())
    }

    /// The id of `eos_token`.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").eos_token_id // => 2
    /// ```
    #[rhai_fn(get = "eos_token_id", pure)]
    pub fn eos_token_id(tokenizer: &mut Tokenizer) -> Dynamic {
        id(tokenizer.eos())
    }

    /// The token that starts a text; `()` where the model has none.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").bos_token // => "<|im_start|>"
    /// ```
    #[rhai_fn(get = "bos_token", pure)]
    pub fn bos_token(tokenizer: &mut Tokenizer) -> Dynamic {
        content(tokenizer.bos())
    }

    /// The id of `bos_token`.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").bos_token_id // => 1
    /// ```
    #[rhai_fn(get = "bos_token_id", pure)]
    pub fn bos_token_id(tokenizer: &mut Tokenizer) -> Dynamic {
        id(tokenizer.bos())
    }

    /// The token that fills short rows of a batch; `()` where the model has none.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").pad_token // => "<|endoftext|>"
    /// ```
    #[rhai_fn(get = "pad_token", pure)]
    pub fn pad_token(tokenizer: &mut Tokenizer) -> Dynamic {
        content(tokenizer.pad())
    }

    /// The id of `pad_token`.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").pad_token_id // => 0
    /// ```
    #[rhai_fn(get = "pad_token_id", pure)]
    pub fn pad_token_id(tokenizer: &mut Tokenizer) -> Dynamic {
        id(tokenizer.pad())
    }

    /// The number of tokens, special ones included.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").vocab_size // => 300
    /// ```
    #[rhai_fn(get = "vocab_size", pure)]
    pub fn vocab_size(tokenizer: &mut Tokenizer) -> i64 {
        tokenizer.vocab_size() as i64
    }
}

fn array(ids: &[u32]) -> Array {
    ids.iter().map(|&id| i64::from(id).into()).collect()
}

fn content(token: Option<&SpecialToken>) -> Dynamic {
    token.map_or(Dynamic::UNIT, |token| token.content.clone().into())
}

fn id(token: Option<&SpecialToken>) -> Dynamic {
    token.map_or(Dynamic::UNIT, |token| i64::from(token.id).into())
}

/// Registers the tokenizer.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<EncodeOptions>(&["encode"], &[])
        .options::<DecodeOptions>(&["decode", "batch_decode"], &[])
        .options::<ChatOptions>(&["apply_chat_template"], &[]);
    engine.register_type_with_name::<Tokenizer>("Tokenizer");
    engine.register_static_module("AutoTokenizer", exported_module!(auto_tokenizer).into());
    engine.register_global_module(exported_module!(methods).into());
    display::register::<Tokenizer>(
        |tokenizer| format!("Tokenizer({} tokens)", tokenizer.vocab_size()),
        |tokenizer| json!({ "vocab_size": tokenizer.vocab_size() }),
    );
}
