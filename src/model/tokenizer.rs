//! Text to token ids and back: Hugging Face's tokenizers with the special tokens and the chat template that belong to a model.

use super::chat_template::{ChatTemplate, span_of_turn};
use super::config::read_json;
use super::gguf;
use super::gguf_metadata::Metadata;
use super::gguf_tokenizer;
use crate::error::{Error, Result};
use crate::files::{read_text, write_text};
use candle_core::quantized::gguf_file;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model's tokenizer; clones share it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// `tokenizer_config.json`, or what stands for it.
    config: Map<String, Value>,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    pad: Option<SpecialToken>,
    /// Whether the post-processor puts the start of text before every text.
    adds_bos: bool,
    chat_template: Option<ChatTemplate>,
    path: PathBuf,
}

/// A token with a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its text, as "<|im_end|>".
    pub content: String,
    /// Its id.
    pub id: u32,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.0.path.display(), self.vocab_size())
    }
}

impl Tokenizer {
    /// Opens the tokenizer of a folder in the Hugging Face layout, or the one inside a `.gguf` file.
    ///
    /// # Errors
    /// No tokenizer there, or one that is damaged or not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { Self::from_folder(path) } else { Self::from_gguf(&gguf::read_metadata(path)?, path) }
    }

    /// Opens `tokenizer.json` with `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where present.
    ///
    /// # Errors
    /// No `tokenizer.json`, or a file that is damaged.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            let looked = "tokenizer.json (with tokenizer_config.json, special_tokens_map.json and chat_template.jinja, if the model has them)";
            return Err(Error::Missing(format!("{} has no tokenizer; looked for {looked}", folder.display())));
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let tokenizer = parse(&bytes, &path)?;
        let object = |name: &str| -> Result<Map<String, Value>> {
            let path = folder.join(name);
            match path.is_file().then(|| read_json(&path)).transpose()? {
                None => Ok(Map::new()),
                Some(Value::Object(map)) => Ok(map),
                Some(_) => Err(Error::format(&path, "expected a JSON object")),
            }
        };
        let mut config = object("tokenizer_config.json")?;
        // What only the map names is kept with the rest, so that a saved tokenizer has it too.
        for (key, token) in object("special_tokens_map.json")? {
            if content(&token).is_some() && config.get(&key).and_then(content).is_none() {
                config.insert(key, token);
            }
        }
        // Where neither file names a token, the model's configuration may give its id.
        let model = object("config.json")?;
        let special = |role: &str| {
            let key = format!("{role}_token");
            let named = config.get(&key).and_then(content);
            let id = || model.get(&format!("{key}_id")).and_then(|id| id.get(0).unwrap_or(id).as_u64());
            named.or_else(|| tokenizer.id_to_token(u32::try_from(id()?).ok()?))
        };
        let roles = [special("bos"), special("eos"), special("pad")];
        let jinja = folder.join("chat_template.jinja");
        let template = if jinja.is_file() { Some((read_text(&jinja)?, jinja)) } else { None };
        let template = match template {
            Some(found) => Some(found),
            None => template_in(&config).map(|source| (source, folder.join("tokenizer_config.json"))),
        };
        Self::new(tokenizer, config, roles, template, &path)
    }

    /// Builds the tokenizer from the metadata of a GGUF file.
    ///
    /// # Errors
    /// The file has none, or one of a kind that is not supported.
    pub fn from_gguf(metadata: &HashMap<String, gguf_file::Value>, path: &Path) -> Result<Self> {
        let metadata = Metadata { map: metadata, path };
        let tokenizer = gguf_tokenizer::tokenizer(metadata)?;
        let count = metadata.texts("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len());
        let special = |role: &str| -> Result<Option<String>> {
            let id = metadata.token(role, count)?;
            Ok(id.and_then(|id| tokenizer.id_to_token(u32::try_from(id).ok()?)))
        };
        let roles = [special("bos")?, special("eos")?, special("padding")?];
        let mut config = Map::new();
        for (role, token) in
            ["bos_token", "eos_token", "pad_token", "unk_token"].into_iter().zip(roles.iter().chain([&special("unknown")?]))
        {
            if let Some(token) = token {
                config.insert(role.into(), token.clone().into());
            }
        }
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        let template = metadata.text("tokenizer.chat_template")?.map(|source| (source.to_string(), path.to_path_buf()));
        Self::new(tokenizer, config, roles, template, path)
    }

    fn new(
        tokenizer: tokenizers::Tokenizer,
        config: Map<String, Value>,
        roles: [Option<String>; 3],
        template: Option<(String, PathBuf)>,
        path: &Path,
    ) -> Result<Self> {
        let [bos, eos, pad] = roles.map(|token| {
            let content = token?;
            tokenizer.token_to_id(&content).map(|id| SpecialToken { content, id })
        });
        let chat_template = match template {
            None => None,
            Some((source, file)) => {
                let named = |key: &str| config.get(key).and_then(content);
                let mut variables: Vec<(String, String)> = Vec::new();
                for (key, token) in [("bos_token", &bos), ("eos_token", &eos), ("pad_token", &pad)] {
                    variables.extend(token.as_ref().map(|token| (key.to_string(), token.content.clone())));
                }
                variables.extend(named("unk_token").map(|token| ("unk_token".to_string(), token)));
                Some(ChatTemplate::new(&source, &file, variables)?)
            }
        };
        let empty = tokenizer.encode_fast("", true).ok();
        let adds_bos =
            bos.as_ref().is_some_and(|bos: &SpecialToken| empty.is_some_and(|empty| empty.get_ids().first() == Some(&bos.id)));
        Ok(Self(Arc::new(Inner { tokenizer, config, bos, eos, pad, adds_bos, chat_template, path: path.to_path_buf() })))
    }

    /// The ids of a text. With `add_special_tokens`, start and end of text are added as the tokenizer's post-processor says; a
    /// start of text that the text already begins with is not doubled.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.0.tokenizer.encode_fast(text, add_special_tokens).map_err(|e| self.failed("encode", &e))?;
        Ok(self.without_second_bos(text, encoding.get_ids(), add_special_tokens))
    }

    /// The ids of many texts, in parallel.
    ///
    /// # Errors
    /// The tokenizer cannot represent one of the texts.
    pub fn encode_batch(&self, texts: &[&str], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        let encodings =
            self.0.tokenizer.encode_batch_fast(texts.to_vec(), add_special_tokens).map_err(|e| self.failed("encode", &e))?;
        Ok(texts
            .iter()
            .zip(encodings)
            .map(|(text, encoding)| self.without_second_bos(text, encoding.get_ids(), add_special_tokens))
            .collect())
    }

    fn without_second_bos(&self, text: &str, ids: &[u32], add_special_tokens: bool) -> Vec<u32> {
        match &self.0.bos {
            // Not every tokenizer looks for the token in texts: there its letters are a text like any other.
            Some(bos) if add_special_tokens && self.0.adds_bos && text.starts_with(&bos.content) => match ids {
                [_, rest @ ..] if rest.first() == Some(&bos.id) => rest.to_vec(),
                _ => ids.to_vec(),
            },
            _ => ids.to_vec(),
        }
    }

    /// The ids of a text without special tokens added, each with the byte range of the text that it stands for.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoding = self.0.tokenizer.encode(text, false).map_err(|e| self.failed("encode", &e))?;
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(start, end))| (id, start..end)).collect())
    }

    /// The tokens of a text as the vocabulary spells them ("Ġhello").
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<String>> {
        let encoding = self.0.tokenizer.encode(text, false).map_err(|e| self.failed("encode", &e))?;
        Ok(encoding.get_tokens().to_vec())
    }

    /// The text of ids; transformers' `decode` keeps special tokens unless told to skip them.
    ///
    /// # Errors
    /// An id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if let Some(unknown) = ids.iter().find(|&&id| self.0.tokenizer.id_to_token(id).is_none()) {
            return Err(Error::argument(format!("token id {unknown} is not in the vocabulary of {} tokens", self.vocab_size())));
        }
        self.0.tokenizer.decode(ids, skip_special_tokens).map_err(|e| self.failed("decode", &e))
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// The token of an id as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.tokenizer.id_to_token(id)
    }

    /// Start of text.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.0.bos.as_ref()
    }

    /// End of text, or of a turn in instruct models.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.0.eos.as_ref()
    }

    /// Padding.
    pub fn pad(&self) -> Option<&SpecialToken> {
        self.0.pad.as_ref()
    }

    /// What to fill short rows of a batch with: the padding token, else the end of text, else 0. It is masked everywhere.
    pub fn pad_id(&self) -> u32 {
        self.pad().or(self.eos()).map_or(0, |token| token.id)
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }

    /// The chat template.
    ///
    /// # Errors
    /// The model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.0.chat_template.as_ref().ok_or_else(|| {
            Error::Missing(format!(
                "the model at {} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): it is not \
                 an instruct model; give it plain text",
                self.0.path.display()
            ))
        })
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.0.chat_template.is_some()
    }

    /// The conversation as the model was trained to read it; each message is an object with `role` and `content`.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the messages.
    pub fn apply_chat_template(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String> {
        self.chat_template()?.render(messages, add_generation_prompt)
    }

    /// The ids of a conversation; no start of text is added beyond the template's own.
    ///
    /// # Errors
    /// As [`Self::apply_chat_template`].
    pub fn encode_chat(&self, messages: &[Value], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.encode(&self.apply_chat_template(messages, add_generation_prompt)?, false)
    }

    /// The ids of a conversation and, for each, whether the assistant wrote it: the content of its turns and the token that
    /// ends them, which a model has to learn, not what the template puts around them.
    ///
    /// # Errors
    /// As [`Self::apply_chat_template`]; or the template changes a turn so that it cannot be found in the whole.
    pub fn encode_chat_with_mask(&self, messages: &[Value]) -> Result<(Vec<u32>, Vec<bool>)> {
        let template = self.chat_template()?;
        let full = template.render(messages, false)?;
        let mut spans = Vec::new();
        let mut cursor = 0;
        for (i, message) in messages.iter().enumerate() {
            if message.get("role").and_then(Value::as_str) == Some("assistant") {
                let span = span_of_turn(template, messages, i, &full, cursor)?;
                cursor = span.end;
                spans.push(span);
            }
        }
        let tokens = self.encode_with_offsets(&full)?;
        // A token that begins before the turn and reaches into it is the template's.
        let written =
            |token: &std::ops::Range<usize>| spans.iter().any(|span| span.contains(&token.start) && token.end <= span.end);
        let mask = tokens.iter().map(|(_, range)| written(range)).collect();
        Ok((tokens.into_iter().map(|(id, _)| id).collect(), mask))
    }

    /// What `tokenizer.json` holds.
    ///
    /// # Errors
    /// The tokenizer cannot be expressed.
    pub fn to_json(&self) -> Result<Value> {
        let text = self.0.tokenizer.to_string(false).map_err(|e| self.failed("save", &e))?;
        serde_json::from_str(&text).map_err(|e| Error::argument(format!("the tokenizer {}: {e}", self.0.path.display())))
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` into a folder, for transformers to load.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let json = self.0.tokenizer.to_string(true).map_err(|e| self.failed("save", &e))?;
        write_text(&folder.join("tokenizer.json"), &json)?;
        let mut config = self.0.config.clone();
        // transformers reads the template from its own file.
        config.remove("chat_template");
        write_text(&folder.join("tokenizer_config.json"), &format!("{:#}\n", Value::Object(config)))?;
        match &self.0.chat_template {
            Some(template) => write_text(&folder.join("chat_template.jinja"), template.source()),
            None => Ok(()),
        }
    }

    fn failed(&self, action: &str, error: &tokenizers::Error) -> Error {
        Error::argument(format!("the tokenizer {} cannot {action}: {error}", self.0.path.display()))
    }
}

fn parse(json: &[u8], path: &Path) -> Result<tokenizers::Tokenizer> {
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(json)
        .map_err(|e| Error::format(path, format!("not a tokenizer that can be read: {e}")))?;
    // As transformers does: what a file says of truncation and padding holds only for those who ask for it.
    tokenizer.with_truncation(None).map_err(|e| Error::format(path, e.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// A token in the JSON files: a string, or an object with its content.
fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// A string, or a list of named templates, of which "default" is meant.
fn template_in(config: &Map<String, Value>) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let default = json!("default");
            let found = list.iter().find(|entry| entry.get("name") == Some(&default)).or_else(|| list.first());
            found?.get("template")?.as_str().map(str::to_string)
        }
        _ => None,
    }
}
