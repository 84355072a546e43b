//! A language model as users hold it: decoder, tokenizer, where it came from.

use super::decoder::{Decoder, negative_log_likelihood};
use super::generate::{Generation, check_prompts, generate};
use super::projection::Slot;
use super::sampling::Sampling;
use super::weights::{Stored, save_safetensors};
use super::{Precision, Source, Tokenizer, memory};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::Parameter;
use candle_core::{DType, Device};
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A causal language model with its tokenizer.
pub struct LanguageModel {
    decoder: Decoder,
    /// The name that the user gave.
    name: String,
    /// The folder or GGUF file.
    path: PathBuf,
    tokenizer: OnceCell<Tokenizer>,
    training: Cell<bool>,
}

/// Options of `generate`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// At most this many new tokens. Default 50.
    pub max_new_tokens: usize,
    /// Sample instead of taking the most likely token. Default false.
    pub do_sample: bool,
    /// Divides the logits when sampling; 0 means greedy. Default 1.
    pub temperature: f64,
    /// Sample among this many of the most likely tokens; 0 for all. Default 50.
    pub top_k: usize,
    /// Sample among the most likely tokens that together have this probability. Default 1.
    pub top_p: f64,
    /// Sample among the tokens that are at least this many times as likely as the most likely one. Default 0: all.
    pub min_p: f64,
    /// Above 1 makes repetitions less likely. Default 1.
    pub repetition_penalty: f64,
    /// No sequence of this many tokens comes twice, the prompt's included. Default 0: any may.
    pub no_repeat_ngram_size: usize,
    /// At least this many new tokens, where no stop text comes before. Default 0.
    pub min_new_tokens: usize,
    /// How many texts each prompt gets, one behind the other; above 1 with `do_sample`. Default 1.
    pub num_return_sequences: usize,
    /// Texts that end the generation; the result ends before them.
    pub stop: Vec<String>,
    /// Put the prompt through the chat template as a user's message. Default false.
    pub chat: bool,
    /// The system message with `chat`; default: the template's own.
    pub system: Option<String>,
    /// What the chat template is told beside the messages with `chat`, such as `enable_thinking`. Default: nothing.
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// Seed of the sampling; default: the session's next random number.
    pub seed: Option<u64>,
    /// Prompts computed at the same time. Default 32.
    pub batch_size: usize,
    /// At most this many tokens are guessed from what a single text repeats, which changes its speed and nothing else; 0: none.
    /// Default: as many as cost little.
    pub prompt_lookup_num_tokens: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let sampling = Sampling::default();
        Self {
            max_new_tokens: 50,
            do_sample: sampling.do_sample,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            no_repeat_ngram_size: sampling.no_repeat_ngram_size,
            min_new_tokens: sampling.min_new_tokens,
            num_return_sequences: 1,
            stop: Vec::new(),
            chat: false,
            system: None,
            chat_template_kwargs: serde_json::Map::new(),
            seed: None,
            batch_size: 32,
            prompt_lookup_num_tokens: None,
        }
    }
}

impl GenerateOptions {
    /// Checks every option's range.
    ///
    /// # Errors
    /// Names the option, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(format!("generate: {message}")));
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return refuse(format!("temperature must be a finite number of at least 0, got {}", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse(format!("top_p must be above 0 and at most 1, got {}", self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse(format!("min_p must be between 0 and 1, got {}", self.min_p));
        }
        if !self.repetition_penalty.is_finite() || self.repetition_penalty <= 0.0 {
            return refuse(format!("repetition_penalty must be above 0, got {}", self.repetition_penalty));
        }
        if self.min_new_tokens > self.max_new_tokens {
            let (least, most) = (self.min_new_tokens, self.max_new_tokens);
            return refuse(format!("min_new_tokens must be at most max_new_tokens, which is {most}, got {least}"));
        }
        if self.num_return_sequences == 0 {
            return refuse("num_return_sequences must be at least 1, got 0".into());
        }
        if self.num_return_sequences > 1 && !self.samples() {
            return refuse(format!(
                "num_return_sequences must be 1 without sampling, which gives the same text every time, got {}; set do_sample: true",
                self.num_return_sequences
            ));
        }
        if self.batch_size == 0 {
            return refuse("batch_size must be at least 1, got 0".into());
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("a stop string is empty: it would end every text at once".into());
        }
        Ok(())
    }

    /// Whether tokens are drawn; else the most likely one is taken.
    fn samples(&self) -> bool {
        self.do_sample && self.temperature > 0.0
    }

    /// What to say of options that are not heeded beside the others.
    pub fn warning(&self) -> Option<String> {
        let default = Self::default();
        // A temperature of 0 is another way to ask for the most likely token.
        let given = [
            ("temperature", self.temperature != default.temperature && self.temperature != 0.0),
            ("top_k", self.top_k != default.top_k),
            ("top_p", self.top_p != default.top_p),
            ("min_p", self.min_p != default.min_p),
        ];
        let unheeded: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        let mut parts = Vec::new();
        if !self.do_sample && !unheeded.is_empty() {
            let names = unheeded.join(", ");
            parts.push(format!("generate takes the most likely token and does not heed {names}; set do_sample: true"));
        }
        let of_chats = [("system", self.system.is_some()), ("chat_template_kwargs", !self.chat_template_kwargs.is_empty())];
        if let Some((name, _)) = of_chats.iter().find(|(_, given)| *given && !self.chat) {
            parts.push(format!("generate does not heed {name}, which is for chats; set chat: true"));
        }
        if parts.is_empty() { None } else { Some(parts.join(". ")) }
    }
}

impl LanguageModel {
    /// Loads a model from a folder in the Hugging Face layout or a GGUF file. A dtype of `None` keeps the file's; see [`Precision`]
    /// for quantised weights.
    ///
    /// # Errors
    /// A file is missing, damaged, or holds a kind of model that is not supported; the weights do not fit into memory.
    pub fn load(name: &str, path: &Path, precision: impl Into<Precision>, device: &Device) -> Result<Self> {
        let (source, precision) = (Source::open(path)?, precision.into());
        memory::check_load(name, &source, precision, device)?;
        let decoder = Decoder::load(&source, precision, device)?;
        Ok(Self {
            decoder,
            name: name.to_string(),
            path: path.to_path_buf(),
            tokenizer: OnceCell::new(),
            training: Cell::new(false),
        })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The name under which it was loaded.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tokenizer, opened at its first use.
    ///
    /// # Errors
    /// There is none beside the weights, or it is damaged.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let opened = Tokenizer::open(&self.path)?;
        Ok(self.tokenizer.get_or_init(|| opened))
    }

    /// Whether dropout is on in `forward`.
    pub fn training(&self) -> bool {
        self.training.get()
    }

    /// Switches dropout in `forward` on or off.
    pub fn set_training(&self, training: bool) {
        self.training.set(training);
    }

    /// Every parameter under its Hugging Face name.
    pub fn named_parameters(&self) -> Vec<(String, Parameter)> {
        self.decoder.named_parameters()
    }

    /// Whether weights are held quantised.
    pub fn is_quantised(&self) -> bool {
        self.named_parameters().iter().any(|(_, p)| p.quantised().is_some())
    }

    /// What most of the weights are held in: "f32", "bf16"; of quantised ones the bits alone, "q4", as `from_pretrained` takes it.
    pub fn dtype_name(&self) -> String {
        let mut elements: BTreeMap<String, usize> = BTreeMap::new();
        for (_, parameter) in self.named_parameters() {
            let name = parameter.dtype_name();
            let bits = name.split('_').next().filter(|_| parameter.quantised().is_some()).unwrap_or(&name).to_string();
            *elements.entry(bits).or_default() += parameter.elem_count();
        }
        elements.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name).unwrap_or_default()
    }

    /// A prompt's tokens, through the chat template where the options say so. Special tokens are never doubled: the template
    /// writes its own.
    ///
    /// # Errors
    /// No tokenizer or chat template, or the template does not have a variable that is given.
    pub fn prompt_ids(&self, prompt: &str, options: &GenerateOptions) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        if !options.chat {
            return tokenizer.encode(prompt, true);
        }
        let system = options.system.as_ref().map(|text| serde_json::json!({ "role": "system", "content": text }));
        let user = serde_json::json!({ "role": "user", "content": prompt });
        let messages: Vec<_> = system.into_iter().chain([user]).collect();
        tokenizer.encode(&tokenizer.chat_template()?.render_with(&messages, true, &options.chat_template_kwargs)?, false)
    }

    /// Continues every prompt; the results are the new texts alone, `num_return_sequences` of each prompt one behind the other.
    ///
    /// # Errors
    /// Options out of range, an empty or too long prompt, Ctrl-C.
    pub fn generate(&self, prompts: &[String], options: &GenerateOptions, control: &Control) -> Result<Vec<String>> {
        options.validate()?;
        let tokenizer = self.tokenizer()?;
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|prompt| self.prompt_ids(prompt, options)).collect::<Result<_>>()?;
        check_prompts(&self.decoder, &prompts)?;
        let prompts: Vec<Vec<u32>> =
            prompts.into_iter().flat_map(|prompt| std::iter::repeat_n(prompt, options.num_return_sequences)).collect();
        let mut stop_tokens = self.stop_tokens()?;
        // A special token never shows in the text, in which stop strings are looked for.
        let special = |text: &String| -> Result<Option<u32>> {
            let Some(id) = tokenizer.token_to_id(text) else { return Ok(None) };
            let (with, without) = (tokenizer.decode(&[id], false)?, tokenizer.decode(&[id], true)?);
            Ok((without.is_empty() && !with.is_empty()).then_some(id))
        };
        for text in &options.stop {
            stop_tokens.extend(special(text)?);
        }
        let generation = Generation {
            max_new_tokens: options.max_new_tokens,
            sampling: Sampling {
                do_sample: options.do_sample,
                temperature: options.temperature,
                top_k: options.top_k,
                top_p: options.top_p,
                min_p: options.min_p,
                repetition_penalty: options.repetition_penalty,
                no_repeat_ngram_size: options.no_repeat_ngram_size,
                min_new_tokens: options.min_new_tokens,
            },
            stop_tokens,
            batch_size: options.batch_size,
            seed: options.seed.unwrap_or(0),
            prompt_lookup_num_tokens: options.prompt_lookup_num_tokens,
        };
        let stops = |text: &str| options.stop.iter().filter_map(|s| text.find(s.as_str())).min();
        // The rows of many models' embeddings are rounded up beyond the vocabulary: such a token is no text, as in transformers.
        let text_of = |new: &[u32]| {
            let known: Vec<u32> = new.iter().copied().filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
            tokenizer.decode(&known, true)
        };
        let stop = |new: &[u32]| !options.stop.is_empty() && text_of(new).is_ok_and(|text| stops(&text).is_some());
        let tokens = generate(&self.decoder, &prompts, &generation, control, &stop)?;
        tokens
            .iter()
            .map(|new| {
                let text = text_of(new)?;
                Ok(match stops(&text) {
                    Some(end) => text[..end].to_string(),
                    None => text,
                })
            })
            .collect()
    }

    /// The tokens that end a text: the configuration's, else the tokenizer's.
    fn stop_tokens(&self) -> Result<Vec<u32>> {
        let configured = &self.decoder.config().eos_token_ids;
        if !configured.is_empty() {
            return Ok(configured.clone());
        }
        Ok(self.tokenizer()?.eos().map(|t| t.id).into_iter().collect())
    }

    /// Mean negative log-likelihood of the texts' tokens, in nats a token, and the number of tokens it is the mean of.
    ///
    /// # Errors
    /// No text has two tokens, or Ctrl-C.
    pub fn perplexity(&self, texts: &[String], control: &Control) -> Result<(f64, usize)> {
        let tokenizer = self.tokenizer()?;
        let rows: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t, true)).collect::<Result<_>>()?;
        let context = self.decoder.config().max_position_embeddings;
        if let Some((index, row)) = rows.iter().enumerate().find(|(_, row)| row.len() > context) {
            control.warn(format!(
                "perplexity: text {index} has {} tokens, more than the model's context of {context}; what stands beyond it counts, but the \
                 model has never seen places so far on. Cut long texts into pieces",
                row.len()
            ));
        }
        self.negative_log_likelihood(&rows, control)
    }

    /// As [`Self::perplexity`], of token sequences.
    ///
    /// # Errors
    /// As [`Self::perplexity`].
    pub fn negative_log_likelihood(&self, rows: &[Vec<u32>], control: &Control) -> Result<(f64, usize)> {
        let (mut sum, mut count) = (0.0, 0);
        for rows in rows.chunks(16) {
            control.check()?;
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).filter(|r| !r.is_empty()).collect();
            let (nll, tokens) = negative_log_likelihood(&self.decoder, &rows)?;
            sum += nll;
            count += tokens;
        }
        if count == 0 {
            return Err(Error::argument("perplexity needs at least one text of two tokens or more"));
        }
        Ok((sum / count as f64, count))
    }

    /// Writes the model in the Hugging Face layout: configuration, weights, tokenizer. Quantised weights are written dequantised, in
    /// f32, one at a time.
    ///
    /// # Errors
    /// The folder cannot be written; no half-written file is left. The model's own tokenizer is damaged or of a kind that is not
    /// supported: all but it is written then.
    pub fn save_pretrained(&self, folder: &Path) -> Result<()> {
        let config = self.decoder.config();
        let slots = self.decoder.slots();
        let stored = |slot: &Slot| Stored { parameter: slot.current(), transposed: slot.transposed() };
        let tensors: Vec<_> = slots.iter().map(|(name, slot)| (name.clone(), stored(slot))).collect();
        save_safetensors(&folder.join("model.safetensors"), &tensors, &[("format".into(), "pt".into())])?;
        let mut raw = config.raw.clone();
        if let (Some(fields), Some((_, first))) = (raw.as_object_mut(), tensors.first()) {
            let dtype = match first.parameter.dtype() {
                DType::BF16 => "bfloat16",
                DType::F16 => "float16",
                _ => "float32",
            };
            fields.remove("dtype");
            fields.insert("torch_dtype".into(), dtype.into());
            // What a replaced head changed.
            fields.insert("tie_word_embeddings".into(), self.decoder.tied().into());
        }
        let text = |value| serde_json::to_string_pretty(value).map(|t| t + "\n").map_err(|e| Error::argument(e.to_string()));
        files::write_text(&folder.join("config.json"), &text(&raw)?)?;
        if let Some(generation) = &config.raw_generation {
            files::write_text(&folder.join("generation_config.json"), &text(generation)?)?;
        }
        match self.tokenizer() {
            Ok(tokenizer) => tokenizer.save(folder),
            // A model without a tokenizer is still a model.
            Err(Error::Missing(_)) => Ok(()),
            Err(error) => Err(Error::argument(format!("the model's tokenizer cannot be saved with it: {error}"))),
        }
    }
}

impl crate::data::TextTokenizer for Tokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        Tokenizer::encode(self, text, add_special_tokens)
    }

    fn eos_id(&self) -> Option<u32> {
        self.eos().map(|t| t.id)
    }

    fn chat(&self, messages: &[crate::data::Message]) -> Result<(Vec<u32>, Vec<bool>)> {
        let messages: Vec<_> = messages.iter().map(|m| serde_json::json!({ "role": m.role, "content": m.content })).collect();
        self.encode_chat_with_mask(&messages)
    }
}
