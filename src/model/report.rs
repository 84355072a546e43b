//! What is said of a model before it is loaded: where its files are, its architecture, and the memory that it needs.

use super::ModelConfig;
use super::hub::Cache;
use super::hub_info::ModelInfo;
use super::memory::{MemoryOptions, MemoryTable, memory_table};
use super::rope::RopeScaling;
use super::source::Source;
use super::weights::has_weights;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::machine::readable_size;
use crate::show::Table;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What [`Cache::report`] says of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name, files, sizes.
    #[serde(flatten)]
    pub info: ModelInfo,
    /// The architecture; none where the configuration cannot be had.
    pub config: Option<Architecture>,
    /// The memory that it needs; none where the configuration cannot be had.
    pub memory: Option<MemoryTable>,
    /// Why the configuration cannot be had.
    pub reason: Option<String>,
}

/// A model's architecture, with transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// The class in transformers.
    pub class: String,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of tokens that there are.
    pub vocab_size: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// The longest context.
    pub max_position_embeddings: usize,
    /// How many positions a query sees in the layers that have a window.
    pub sliding_window: Option<usize>,
    /// Rotary embeddings: their bases and, where frequencies are changed, by which rule.
    pub rope: Vec<String>,
}

/// A model's configuration, and its weights where they are here too.
pub(super) enum Opened {
    Whole(Box<Source>),
    Configuration(Box<ModelConfig>),
}

impl Opened {
    /// Opens a folder, which may have no weights, or a file.
    pub fn at(path: &Path) -> Result<Self> {
        if path.is_dir() && !has_weights(path) {
            return Ok(Self::Configuration(Box::new(ModelConfig::from_folder(path)?)));
        }
        Ok(Self::Whole(Box::new(Source::open(path)?)))
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Whole(source) => source.config(),
            Self::Configuration(config) => config,
        }
    }

    fn source(&self) -> Option<&Source> {
        match self {
            Self::Whole(source) => Some(source),
            Self::Configuration(_) => None,
        }
    }
}

impl Cache {
    /// What is known of a model, and the memory that it needs. Of a model that is not here config.json alone is fetched.
    ///
    /// # Errors
    /// No such model, its files are damaged, or options out of range.
    pub fn report(&self, name: &str, options: &MemoryOptions, control: &Control) -> Result<ModelReport> {
        options.validate()?;
        let mut info = self.info(name)?;
        let opened = match &info.files {
            Some(files) => Opened::at(&files.path)?,
            None => match self.fetch_config(name, control) {
                Ok(config) => Opened::Configuration(Box::new(config)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => return Ok(ModelReport { info, config: None, memory: None, reason: Some(error.to_string()) }),
            },
        };
        let config = opened.config();
        let memory = memory_table(config, opened.source(), options)?;
        info.architecture = Some(config.model_type().into());
        info.parameters = info.parameters.or(Some(memory.parameters as usize));
        Ok(ModelReport { info, config: Some(Architecture::of(config)), memory: Some(memory), reason: None })
    }
}

impl Architecture {
    /// That of a configuration.
    pub fn of(config: &ModelConfig) -> Self {
        let rule = |scaling: &RopeScaling| match scaling {
            RopeScaling::Default => String::new(),
            RopeScaling::Linear { factor } => format!(", linear {factor}"),
            RopeScaling::Dynamic { factor, .. } => format!(", dynamic {factor}"),
            RopeScaling::Llama3 { factor, .. } => format!(", llama3 {factor}"),
            RopeScaling::Yarn { factor, .. } => format!(", yarn {factor}"),
            RopeScaling::LongRope { .. } => ", longrope".into(),
        };
        Self {
            class: config.family.traits().architecture.into(),
            num_hidden_layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            tie_word_embeddings: config.tie_word_embeddings,
            max_position_embeddings: config.max_position_embeddings,
            sliding_window: config.sliding_window(),
            rope: config.ropes.iter().map(|rope| format!("base {}{}", rope.theta, rule(&rope.scaling))).collect(),
        }
    }
}

impl ModelReport {
    /// One fact a row; what is not known is left out.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let info = &self.info;
        let mut facts: Vec<(&'static str, String)> = Vec::new();
        let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
        add("description", info.description.clone());
        add("license", info.license.clone());
        add(
            "architecture",
            info.architecture.clone().map(|name| match &self.config {
                Some(config) => format!("{name} ({})", config.class),
                None => name,
            }),
        );
        if let Some(c) = &self.config {
            let window = c.sliding_window.map(|window| format!(", window {window}")).unwrap_or_default();
            let tied = if c.tie_word_embeddings { "tied to the embedding" } else { "of its own" };
            add("layers", Some(c.num_hidden_layers.to_string()));
            add("hidden", Some(format!("{}, inside the MLP {}", c.hidden_size, c.intermediate_size)));
            let heads =
                format!("{} of width {}, {} for keys and values", c.num_attention_heads, c.head_dim, c.num_key_value_heads);
            add("heads", Some(heads));
            add("vocabulary", Some(format!("{}, head {tied}", c.vocab_size)));
            add("context", Some(format!("{}{window}", c.max_position_embeddings)));
            add("rope", (!c.rope.is_empty()).then(|| c.rope.join("; ")));
        }
        add("parameters", info.parameters.map(|n| n.to_string()));
        let lora = |memory: &MemoryTable| format!("{} of rank {}", memory.lora_parameters, memory.rank);
        add("LoRA", self.memory.as_ref().map(lora));
        add("stored as", info.stored_as.clone());
        match &info.files {
            Some(files) => {
                add("path", Some(files.path.display().to_string()));
                add("from", Some(files.origin.clone()));
            }
            None => add("path", Some(format!("not on this machine; fetch it: ftrepl model pull {}", info.name))),
        }
        for (file, size) in &info.sizes {
            add("file", Some(format!("{file} ({})", readable_size(*size))));
        }
        add("memory", self.reason.as_ref().map(|reason| format!("unknown: {reason}")));
        facts
    }

    /// The facts as a table.
    pub fn facts_table(&self) -> Table {
        let mut table = Table::new(["", "value"]);
        table.title = self.info.name.clone();
        self.facts().into_iter().for_each(|(name, value)| table.push(vec![name.into(), value.into()]));
        table
    }
}
