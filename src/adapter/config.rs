//! `LoraConfig`: PEFT's names, defaults and meanings.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// No weight has a shorter side: what is made for every rank must not take all memory because of a slip.
pub(super) const MOST_RANK: usize = 1 << 16;

/// Which modules get an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be an array of module names, a regular expression or \"all-linear\"")]
pub enum TargetModules {
    /// Names; a module is meant when its name is one of these or ends with `.` and one of these.
    Names(Vec<String>),
    /// A regular expression for the whole name, or "all-linear": every linear layer but the head.
    Pattern(String),
}

/// Which biases are trained beside the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None of them.
    #[default]
    None,
    /// All biases of the model.
    All,
    /// The biases of the modules that have an adapter.
    LoraOnly,
}

/// How the adapter's matrices start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be true, false or a name")]
pub enum InitLoraWeights {
    /// `true`: A as PyTorch's linear layer, B zero, so that training starts from the base model. `false`: both random.
    Default(bool),
    /// The name of one of the other [`Start`]s.
    Named(String),
}

/// How the adapter's matrices start, by the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A as PyTorch's linear layer, B zero.
    Zero,
    /// Both random.
    Random,
    /// A normal with standard deviation 1 / r, B zero.
    Gaussian,
    /// Both random, from the odd and the even rows of one orthogonal matrix, so that `B A = 0`.
    Orthogonal,
    /// The largest singular values of the weight with their vectors (Meng et al. 2024, arXiv 2404.02948); approximated with so many
    /// iterations where a number is given.
    Pissa(Option<usize>),
    /// The first columns of the weight's Q and rows of its R (Büyükakyüz 2024, arXiv 2406.01775).
    Olora,
}

impl Start {
    /// Whether the adapter starts as a part of the weight, which the base is then without.
    pub fn takes_weight_apart(self) -> bool {
        matches!(self, Self::Pissa(_) | Self::Olora)
    }
}

impl InitLoraWeights {
    /// What the name means.
    ///
    /// # Errors
    /// There is no such name.
    pub fn start(&self) -> Result<Start> {
        Ok(match self {
            Self::Default(true) => Start::Zero,
            Self::Default(false) => Start::Random,
            Self::Named(name) => match (name.as_str(), name.strip_prefix("pissa_niter_").map(str::parse::<usize>)) {
                ("gaussian", _) => Start::Gaussian,
                ("orthogonal", _) => Start::Orthogonal,
                ("olora", _) => Start::Olora,
                ("pissa", _) => Start::Pissa(None),
                (_, Some(Ok(iterations))) => Start::Pissa(Some(iterations)),
                _ => {
                    return Err(Error::Argument(format!(
                        "LoraConfig: init_lora_weights must be true, false, \"gaussian\", \"orthogonal\", \"pissa\", \
                         \"pissa_niter_N\" with a number N, or \"olora\"; got \"{name}\""
                    )));
                }
            },
        })
    }
}

/// One value, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be one value or an array of them")]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// Several.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// Tokens whose rows are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be an array of token ids, or a map from modules to such arrays")]
pub enum TokenIndices {
    /// Of the embedding; a head that shares its matrix follows.
    OfEmbedding(Vec<u32>),
    /// By the names of modules: the embedding, lm_head.
    ByModule(BTreeMap<String, Vec<u32>>),
}

/// Options of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685): `y = W x + scaling * B A dropout(x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// What the model is for; only "CAUSAL_LM".
    pub task_type: Option<String>,
    /// Rank of the change: rows of A and columns of B. Default 8; more learns more and costs more.
    pub r: usize,
    /// The change is scaled by `lora_alpha / r`. Default 8; twice the rank is a common choice.
    pub lora_alpha: f64,
    /// Modules to adapt. Default: q_proj and v_proj.
    pub target_modules: Option<TargetModules>,
    /// Modules that names in `target_modules` match and that are left alone all the same.
    pub exclude_modules: Option<TargetModules>,
    /// Probability of dropping an input of the adapter while training. Default 0.
    pub lora_dropout: f64,
    /// Biases to train: "none" (default), "all", "lora_only".
    pub bias: Bias,
    /// Scale by `lora_alpha / sqrt(r)` instead (Kalajdzievski 2023, arXiv 2312.03732): for high ranks.
    pub use_rslora: bool,
    /// Modules that get a trained copy in full and no adapter, by the ending of their name, for example lm_head; "norm" means
    /// input_layernorm as well.
    pub modules_to_save: Option<Vec<String>>,
    /// `true` (default): the model starts unchanged; `false`: both matrices random; "gaussian"; "orthogonal"; "pissa", "pissa_niter_N" or
    /// "olora": the adapter starts as the weight's main part, which the base does without while the adapter sits on it.
    pub init_lora_weights: InitLoraWeights,
    /// Blocks to adapt, by index: one or an array. Default: all. Modules that target_modules names in full are adapted all the same.
    pub layers_to_transform: Option<OneOrMore<usize>>,
    /// What the list of blocks is called in the modules' names, for `layers_to_transform`; default: whatever it is called.
    pub layers_pattern: Option<OneOrMore<String>>,
    /// Other ranks for modules whose name matches a pattern.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for modules whose name matches a pattern.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Learn the length of every row of the weight apart from its direction (DoRA, Liu et al. 2024, arXiv 2402.09353): often better at low
    /// ranks, and slower. Default false.
    pub use_dora: bool,
    /// Give B a bias of its own, scaled like the product; for adapters made from full fine-tuning. Default false.
    pub lora_bias: bool,
    /// How the base's weights are stored, which its family says: accepted for PEFT's sake, and without effect.
    pub fan_in_fan_out: bool,
    /// Tokens whose rows in the embedding are trained as they are, beside the adapter: ids, or a map from "embed_tokens" and "lm_head" to
    /// ids. For new tokens, at a small cost.
    pub trainable_token_indices: Option<TokenIndices>,
    /// Change an embedding and a head that share one matrix as one. Default false. Rows of tokens that only the embedding is given, or both
    /// alike, always are; other changes of the two are refused with it.
    pub ensure_weight_tying: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            task_type: None,
            r: 8,
            lora_alpha: 8.0,
            target_modules: None,
            exclude_modules: None,
            lora_dropout: 0.0,
            bias: Bias::None,
            use_rslora: false,
            modules_to_save: None,
            init_lora_weights: InitLoraWeights::Default(true),
            layers_to_transform: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_pattern: None,
            use_dora: false,
            lora_bias: false,
            fan_in_fan_out: false,
            trainable_token_indices: None,
            ensure_weight_tying: false,
        }
    }
}

impl LoraConfig {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(format!("LoraConfig: {message}")));
        if self.r == 0 || self.rank_pattern.values().any(|r| *r == 0) {
            return refuse("r must be at least 1, got 0".into());
        }
        let ranks = || self.rank_pattern.values().chain([&self.r]);
        if let Some(rank) = ranks().find(|rank| **rank > MOST_RANK) {
            return refuse(format!("r must be at most {MOST_RANK}, got {rank}"));
        }
        if !self.lora_alpha.is_finite() || self.lora_alpha <= 0.0 {
            return refuse(format!("lora_alpha must be a finite number above 0, got {}", self.lora_alpha));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return refuse(format!("lora_dropout must be at least 0 and below 1, got {}", self.lora_dropout));
        }
        if let Some(task) = self.task_type.as_deref().filter(|t| *t != "CAUSAL_LM") {
            return refuse(format!("task_type \"{task}\" is not supported; only \"CAUSAL_LM\" is"));
        }
        let start = self.init_lora_weights.start()?;
        for (field, pattern) in self.patterns() {
            // What Python's regular expressions have and these do not (looking ahead and back) would otherwise count for nothing.
            if let Err(error) = pattern_of(pattern) {
                return refuse(format!("{field}: \"{pattern}\" is no regular expression that can be used here: {error}"));
            }
        }
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|(_, alpha)| !alpha.is_finite() || **alpha <= 0.0) {
            return refuse(format!("alpha_pattern: \"{pattern}\" must have a finite number above 0, got {alpha}"));
        }
        if self.layers_pattern.as_ref().is_some_and(|lists| !lists.as_slice().is_empty()) && self.layers_to_transform.is_none() {
            return refuse("layers_pattern says where the numbers of layers_to_transform are, which is not given".into());
        }
        if let (Some(TargetModules::Pattern(pattern)), Some(_)) = (&self.target_modules, &self.layers_to_transform)
            && pattern != "all-linear"
        {
            return refuse(
                "layers_to_transform does not go with a regular expression in target_modules: say the blocks in it".into(),
            );
        }
        if self.exclude_modules == Some(TargetModules::Pattern("all-linear".into())) {
            return refuse("exclude_modules must be names or a regular expression, not \"all-linear\"".into());
        }
        if self.lora_bias && self.use_dora {
            return refuse("lora_bias and use_dora exclude each other".into());
        }
        if self.lora_bias && !matches!(self.init_lora_weights, InitLoraWeights::Default(_)) {
            return refuse("lora_bias goes with init_lora_weights true or false only".into());
        }
        if self.use_dora && start.takes_weight_apart() {
            return refuse(
                "use_dora needs the whole weight; it does not go with init_lora_weights \"pissa\" or \"olora\"".into(),
            );
        }
        if start == Start::Orthogonal && ranks().any(|r| r % 2 != 0) {
            return refuse("init_lora_weights \"orthogonal\" needs an even r".into());
        }
        Ok(())
    }

    /// The keys of `rank_pattern` and `alpha_pattern`, with the field's name.
    fn patterns(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let ranks = self.rank_pattern.keys().map(|key| ("rank_pattern", key));
        ranks.chain(self.alpha_pattern.keys().map(|key| ("alpha_pattern", key)))
    }

    /// Rank and scaling factor of the module with this name.
    pub fn rank_and_scaling(&self, module: &str) -> (usize, f64) {
        let rank = pattern_value(&self.rank_pattern, module).unwrap_or(self.r);
        let alpha = pattern_value(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / divisor)
    }
}

/// What matches the end of a module's name, as PEFT matches: `(.*\.)?(pattern)$`.
fn pattern_of(pattern: &str) -> std::result::Result<regex::Regex, regex::Error> {
    regex::Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
}

/// The value of the first pattern that matches the end of a module's name.
fn pattern_value<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let matches = |pattern: &str| pattern_of(pattern).is_ok_and(|regex| regex.is_match(module));
    patterns.iter().find(|(pattern, _)| matches(pattern)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_change_rank_and_scaling_of_what_they_match() {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            rank_pattern: [("down_proj".to_string(), 2)].into(),
            alpha_pattern: [("layers.0.self_attn.q_proj".to_string(), 16.0)].into(),
            ..LoraConfig::default()
        };
        assert_eq!(config.rank_and_scaling("model.layers.1.mlp.down_proj"), (2, 4.0));
        assert_eq!(config.rank_and_scaling("model.layers.0.self_attn.q_proj"), (4, 4.0));
        assert_eq!(config.rank_and_scaling("model.layers.1.self_attn.q_proj"), (4, 2.0));
        let stabilised = LoraConfig { use_rslora: true, ..config };
        assert_eq!(stabilised.rank_and_scaling("model.layers.1.self_attn.q_proj"), (4, 4.0));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let bad = LoraConfig { lora_dropout: 1.0, ..LoraConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("lora_dropout"));
        let bad = LoraConfig { r: 0, ..LoraConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("r must be"));
        for bad in [
            LoraConfig { r: usize::MAX, ..LoraConfig::default() },
            LoraConfig { rank_pattern: [("q_proj".to_string(), usize::MAX)].into(), ..LoraConfig::default() },
        ] {
            assert!(bad.validate().unwrap_err().to_string().contains("r must be at most"));
        }
        let all = Some(TargetModules::Pattern("all-linear".into()));
        let bad = LoraConfig { exclude_modules: all, ..LoraConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("exclude_modules"));
        let bad = LoraConfig { alpha_pattern: [("q_proj".to_string(), -1.0)].into(), ..LoraConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("alpha_pattern"));
    }

    #[test]
    fn patterns_that_would_count_for_nothing_are_refused() {
        // Valid in Python, where the file may come from.
        let pattern = || r"(?!model\.layers\.0).*q_proj".to_string();
        for bad in [
            LoraConfig { rank_pattern: [(pattern(), 4)].into(), ..LoraConfig::default() },
            LoraConfig { alpha_pattern: [(pattern(), 4.0)].into(), ..LoraConfig::default() },
            LoraConfig { alpha_pattern: [("(".to_string(), 4.0)].into(), ..LoraConfig::default() },
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains("_pattern") && error.contains("regular expression"), "{error}");
        }
    }

    #[test]
    fn blocks_beside_a_regular_expression_are_refused_as_in_peft() {
        let config = |target_modules: &str| LoraConfig {
            target_modules: Some(TargetModules::Pattern(target_modules.into())),
            layers_to_transform: Some(OneOrMore::One(1)),
            ..LoraConfig::default()
        };
        assert!(config(".*q_proj").validate().unwrap_err().to_string().contains("layers_to_transform"));
        config("all-linear").validate().unwrap();
    }
}
