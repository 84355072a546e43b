//! `AutoTokenizer::from_pretrained` and what a tokenizer does: text to token ids, ids to text, conversations to prompts.

use super::context::context;
use super::display;
use super::error::{IntoScript, ScriptResult, positioned};
use super::options::{Validate, options};
use crate::model::tokenizer::SpecialToken;
use crate::model::{Tokenizer, hub};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Map};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
}

impl Validate for ChatOptions {}

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

    /// The conversation as the model was trained to read it: a string, or with `tokenize` its token ids. `add_generation_prompt` ends it
    /// with the start of the assistant's turn. Each message is `#{ role: "system" | "user" | "assistant", content: ".." }`.
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
        let text = tokenizer.apply_chat_template(&messages, given.add_generation_prompt).script()?;
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

    /// The token of an id as the vocabulary spells it; `()` where there is no such id.
    ///
    /// ```rhai
    /// AutoTokenizer::from_pretrained("tiny-random").convert_ids_to_tokens(265) // => "Ġthe"
    /// ```
    #[rhai_fn(pure)]
    pub fn convert_ids_to_tokens(tokenizer: &mut Tokenizer, id: i64) -> Dynamic {
        u32::try_from(id).ok().and_then(|id| tokenizer.id_to_token(id)).map_or(Dynamic::UNIT, Dynamic::from)
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
        .options::<DecodeOptions>(&["decode"], &[])
        .options::<ChatOptions>(&["apply_chat_template"], &[]);
    engine.register_type_with_name::<Tokenizer>("Tokenizer");
    engine.register_static_module("AutoTokenizer", exported_module!(auto_tokenizer).into());
    engine.register_global_module(exported_module!(methods).into());
    display::register::<Tokenizer>(
        |tokenizer| format!("Tokenizer({} tokens)", tokenizer.vocab_size()),
        |tokenizer| json!({ "vocab_size": tokenizer.vocab_size() }),
    );
}
