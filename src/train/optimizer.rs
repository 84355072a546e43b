//! Which optimiser trains, by transformers' names, and with which options: those of `TrainingArguments`, and `optim_args` on top.

use super::arguments::TrainingArguments;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::optim::{
    Adafactor, AdafactorOptions, Adam, AdamW8bit, AdamW8bitOptions, AdamWOptions, AdamWScheduleFree, AdjustLr, Lion, LionOptions,
    LoraPlusOptions, Muon, MuonOptions, Optimizer, ParamGroup, ScheduleFreeOptions, Sgd, SgdOptions, is_layer_norm,
};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Which optimiser trains. Paged variants are about a GPU's memory: their numbers are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW.
    #[default]
    #[serde(alias = "adamw_torch_fused", alias = "adamw", alias = "paged_adamw_32bit")]
    AdamwTorch,
    /// Stochastic gradient descent, without momentum unless `optim_args` says so.
    Sgd,
    /// Adafactor with the given learning rate: `scale_parameter` and `relative_step` are off.
    Adafactor,
    /// Lion, with `adam_beta1` and `adam_beta2` as its betas.
    #[serde(rename = "lion_32bit", alias = "lion", alias = "paged_lion_32bit")]
    Lion32bit,
    /// AdamW with moments in 8 bits; those of embeddings keep 32, as in transformers.
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit", alias = "paged_adamw_8bit")]
    Adamw8bit,
    /// AdamW that averages the weights instead of lowering the learning rate.
    ScheduleFreeAdamw,
    /// Muon for the hidden matrices, AdamW for the rest.
    Muon,
}

impl OptimizerKind {
    /// Its name.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_string)).unwrap_or_default()
    }
}

/// Options of the optimiser beside those that `TrainingArguments` has: a map, or transformers' text "a=1,b=2".
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OptimizerArguments(pub Map<String, Value>);

impl<'de> Deserialize<'de> for OptimizerArguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self::default()),
            Value::Object(map) => Ok(Self(map)),
            Value::String(text) => parse(&text).map(Self).map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("must be a map or a text such as \"momentum=0.9\", given {other}"))),
        }
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let entry = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            format!("must be a text such as \"momentum=0.9,nesterov=true\" or a map, but \"{pair}\" has no \"=\"")
        })?;
        let (key, value) = (key.trim(), value.trim());
        // Numbers and true, false as Python or JSON writes them; everything else is a word.
        let value = serde_json::from_str(&value.to_lowercase()).unwrap_or_else(|_| Value::String(value.to_string()));
        Ok((key.to_string(), value))
    };
    pairs.map(entry).collect()
}

/// An optimiser's options, complete.
enum Chosen {
    Adamw(AdamWOptions),
    Sgd(SgdOptions),
    Adafactor(AdafactorOptions),
    Lion(LionOptions),
    Adamw8bit(AdamW8bitOptions),
    ScheduleFree(ScheduleFreeOptions),
    Muon(MuonOptions),
}

/// The options that the arguments come to, in a run with this many steps of warm-up.
fn choose(args: &TrainingArguments, warmup: u64) -> Result<Chosen> {
    let (lr, weight_decay, eps) = (args.learning_rate, args.weight_decay, args.adam_epsilon);
    let betas = [args.adam_beta1, args.adam_beta2];
    let given = &args.optim_args.0;
    match args.optim {
        OptimizerKind::AdamwTorch => {
            let options = with(AdamWOptions { lr, betas, eps, weight_decay, ..AdamWOptions::default() }, given)?;
            options.validate().map(|()| Chosen::Adamw(options))
        }
        OptimizerKind::Sgd => {
            let options = with(SgdOptions { lr, weight_decay, ..SgdOptions::default() }, given)?;
            options.validate().map(|()| Chosen::Sgd(options))
        }
        OptimizerKind::Adafactor => {
            let fixed = AdafactorOptions {
                lr: Some(lr),
                weight_decay,
                scale_parameter: false,
                relative_step: false,
                ..AdafactorOptions::default()
            };
            let options = with(fixed, given)?;
            options.validate().map(|()| Chosen::Adafactor(options))
        }
        OptimizerKind::Lion32bit => {
            let options = with(LionOptions { lr, betas, weight_decay }, given)?;
            options.validate().map(|()| Chosen::Lion(options))
        }
        OptimizerKind::Adamw8bit => {
            let options = with(AdamW8bitOptions { lr, betas, eps, weight_decay, ..AdamW8bitOptions::default() }, given)?;
            options.validate().map(|()| Chosen::Adamw8bit(options))
        }
        OptimizerKind::ScheduleFreeAdamw => {
            let own =
                ScheduleFreeOptions { lr, betas, eps, weight_decay, warmup_steps: warmup, ..ScheduleFreeOptions::default() };
            let options = with(own, given)?;
            options.validate().map(|()| Chosen::ScheduleFree(options))
        }
        OptimizerKind::Muon => {
            // One learning rate serves the whole model only where Muon's updates are as large as AdamW's.
            let own = MuonOptions {
                lr,
                weight_decay,
                adjust_lr_fn: AdjustLr::MatchRmsAdamw,
                adamw_betas: betas,
                adamw_eps: eps,
                ..MuonOptions::default()
            };
            let options = with(own, given)?;
            options.validate().map(|()| Chosen::Muon(options))
        }
    }
    .map_err(|error| Error::Argument(format!("TrainingArguments: {error}")))
}

/// Options with those of `optim_args` written over them.
fn with<T: Serialize + DeserializeOwned>(options: T, given: &Map<String, Value>) -> Result<T> {
    let refuse = |message: String| Error::Argument(format!("TrainingArguments: optim_args: {message}"));
    let mut all = match serde_json::to_value(&options) {
        Ok(Value::Object(all)) => all,
        _ => return Ok(options),
    };
    for (key, value) in given {
        match key.as_str() {
            "lr" => return Err(refuse("the learning rate is given as learning_rate".into())),
            "weight_decay" => return Err(refuse("weight_decay is given as TrainingArguments' own".into())),
            _ => all.insert(key.clone(), value.clone()),
        };
    }
    serde_path_to_error::deserialize(Value::Object(all)).map_err(|error| match error.path().to_string().as_str() {
        "." => refuse(error.into_inner().to_string()),
        path => refuse(format!("\"{path}\": {}", error.inner())),
    })
}

/// Checks `optim_args`.
///
/// # Errors
/// Names the option, what was given and what is allowed.
pub(super) fn check(args: &TrainingArguments) -> Result<()> {
    choose(args, 0).map(|_| ())
}

/// The optimiser of a run over these parameters.
///
/// # Errors
/// As [`check`], or nothing to train.
pub(super) fn build(args: &TrainingArguments, trainable: &[(String, Parameter)], warmup: u64) -> Result<Box<dyn Optimizer>> {
    let all = || groups(trainable, args);
    Ok(match choose(args, warmup)? {
        Chosen::Adamw(options) => Box::new(Adam::adamw(all(), options)?),
        Chosen::Sgd(options) => Box::new(Sgd::new(all(), options)?),
        Chosen::Adafactor(options) => Box::new(Adafactor::new(all(), options)?),
        Chosen::Lion(options) => Box::new(Lion::new(all(), options)?),
        Chosen::Adamw8bit(options) => {
            let groups = groups_with_some_marked(trainable, args, is_embedding, |group| group.wide_moments = true);
            Box::new(AdamW8bit::new(groups, options)?)
        }
        Chosen::ScheduleFree(options) => Box::new(AdamWScheduleFree::new(all(), options)?),
        Chosen::Muon(options) => {
            let outer = |name: &str| !is_hidden(name);
            let groups = groups_with_some_marked(trainable, args, outer, |group| group.use_muon = Some(false));
            Box::new(Muon::new(groups, options)?)
        }
    })
}

impl Chosen {
    /// Floats that it keeps for a parameter of this name.
    fn kept(&self, name: &str, parameter: &Parameter) -> f64 {
        let (dims, elements) = (parameter.dims(), parameter.elem_count() as f64);
        match self {
            Self::Adamw(_) | Self::ScheduleFree(_) => 2.0 * elements,
            Self::Sgd(options) if options.momentum == 0.0 => 0.0,
            Self::Sgd(_) | Self::Lion(_) => elements,
            Self::Adafactor(options) => {
                let momentum = if options.beta1.is_some() { elements } else { 0.0 };
                momentum + averages_of_squares(&dims)
            }
            Self::Adamw8bit(options) => {
                options.moments_size(parameter.elem_count(), is_embedding(name)) as f64 / size_of::<f32>() as f64
            }
            Self::Muon(_) if is_hidden(name) && dims.len() == 2 => elements,
            Self::Muon(_) => 2.0 * elements,
        }
    }
}

/// Floats that Adafactor keeps of the squares of a gradient of this shape: by row and by column, or of each element of a vector.
fn averages_of_squares(dims: &[usize]) -> f64 {
    let count = match dims {
        [leading @ .., rows, columns] => leading.iter().product::<usize>() * (rows + columns),
        vector => vector.iter().product(),
    };
    count as f64
}

/// Floats that the optimiser keeps for each trained element, on average: for what memory a training needs.
pub(super) fn kept_floats(args: &TrainingArguments, trainable: &[(String, Parameter)]) -> Result<f64> {
    let chosen = choose(args, 0)?;
    let kept: f64 = trainable.iter().map(|(name, parameter)| chosen.kept(name, parameter)).sum();
    let elements: usize = trainable.iter().map(|(_, parameter)| parameter.elem_count()).sum();
    Ok(kept / elements.max(1) as f64)
}

/// The groups of these parameters; those whose names are wanted are in groups of their own, which are marked.
fn groups_with_some_marked(
    trainable: &[(String, Parameter)],
    args: &TrainingArguments,
    wanted: fn(&str) -> bool,
    mark: fn(&mut ParamGroup),
) -> Vec<ParamGroup> {
    let (some, other): (Vec<_>, Vec<_>) = trainable.iter().cloned().partition(|(name, _)| wanted(name));
    let mut marked = groups(&some, args);
    marked.iter_mut().for_each(mark);
    let mut all = groups(&other, args);
    all.append(&mut marked);
    all
}

/// Weight decay is for matrices: biases and norms are left out, as transformers does. With LoRA+, its groups.
fn groups(trainable: &[(String, Parameter)], args: &TrainingArguments) -> Vec<ParamGroup> {
    if let Some(loraplus_lr_ratio) = args.loraplus_lr_ratio {
        let options = LoraPlusOptions {
            lr: args.learning_rate,
            loraplus_lr_ratio,
            loraplus_lr_embedding: args.loraplus_lr_embedding,
            loraplus_weight_decay: args.weight_decay,
            ..LoraPlusOptions::default()
        };
        return options.groups(trainable);
    }
    let (decayed, plain): (Vec<_>, Vec<_>) = trainable.iter().cloned().partition(|(name, _)| decays(name));
    let group = |named: Vec<(String, Parameter)>, decay| {
        ParamGroup::new(named.into_iter().map(|(_, p)| p).collect()).with_weight_decay(decay)
    };
    vec![group(decayed, args.weight_decay), group(plain, 0.0)]
}

/// Whether transformers' Trainer decays a parameter of this name.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let norm_part = name.split('.').any(|part| part == "norm" || part.ends_with("_norm"));
    !(name.contains("bias") || name.contains("layernorm") || name.contains("rmsnorm") || norm_part || is_layer_norm(&name))
}

/// Whether this is the name of an embedding's matrix or of a trained copy of it, not of an adapter on it.
fn is_embedding(name: &str) -> bool {
    let embedding = name.split('.').any(|part| part == "wte" || part == "wpe" || part.contains("embed"));
    embedding && name.ends_with("weight") && !name.contains("lora_")
}

/// Whether a matrix of this name is inside the network: neither an embedding nor the head, which have a row a token of the vocabulary.
fn is_hidden(name: &str) -> bool {
    !name.split('.').any(|part| part == "lm_head" || part == "wte" || part == "wpe" || part.contains("embed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn args(optim: &str, optim_args: Value) -> Result<TrainingArguments, String> {
        let made: TrainingArguments = serde_json::from_value(serde_json::json!({ "optim": optim, "optim_args": optim_args }))
            .map_err(|error| error.to_string())?;
        made.validate().map(|()| made).map_err(|error| error.to_string())
    }

    #[test]
    fn optimisers_have_transformers_names() {
        for (name, kind) in [
            ("adamw_torch_fused", OptimizerKind::AdamwTorch),
            ("lion", OptimizerKind::Lion32bit),
            ("lion_32bit", OptimizerKind::Lion32bit),
            ("paged_adamw_8bit", OptimizerKind::Adamw8bit),
            ("adamw_bnb_8bit", OptimizerKind::Adamw8bit),
            ("schedule_free_adamw", OptimizerKind::ScheduleFreeAdamw),
            ("muon", OptimizerKind::Muon),
            ("adafactor", OptimizerKind::Adafactor),
        ] {
            assert_eq!(args(name, Value::Null).unwrap().optim, kind);
        }
    }

    #[test]
    fn optimiser_arguments_are_a_map_or_a_text() {
        let text = args("sgd", "momentum=0.9, nesterov=True".into()).unwrap();
        let map = args("sgd", serde_json::json!({ "momentum": 0.9, "nesterov": true })).unwrap();
        assert_eq!(text, map);
        let Chosen::Sgd(options) = choose(&text, 0).unwrap() else { panic!("SGD was chosen") };
        assert_eq!((options.momentum, options.nesterov, options.lr), (0.9, true, 5e-5));
        let Chosen::Muon(options) = choose(&args("muon", "adjust_lr_fn=original".into()).unwrap(), 0).unwrap() else {
            panic!("Muon was chosen")
        };
        assert_eq!(options.adjust_lr_fn, AdjustLr::Original);
        // What a checkpoint keeps reads back the same.
        assert_eq!(serde_json::from_value::<TrainingArguments>(serde_json::to_value(&map).unwrap()).unwrap(), map);
        for (optim, given, words) in [
            ("sgd", Value::from("momentum"), "no \"=\""),
            ("sgd", "momentun=0.9".into(), "unknown field `momentun`, expected one of `lr`, `momentum`"),
            ("sgd", "momentum=fast".into(), "\"momentum\""),
            ("sgd", "nesterov=true".into(), "momentum above 0"),
            ("sgd", "lr=1".into(), "learning_rate"),
            ("adafactor", "relative_step=true".into(), "relative_step"),
            ("sgd", 3.into(), "must be a map or a text"),
        ] {
            let error = args(optim, given).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn embeddings_and_the_head_are_not_hidden() {
        for name in ["model.embed_tokens.weight", "lm_head.weight", "base_model.model.lm_head.weight", "transformer.wte.weight"] {
            assert!(!is_hidden(name), "{name}");
        }
        assert!(is_hidden("model.layers.0.self_attn.q_proj.weight"));
        for name in [
            "model.embed_tokens.weight",
            "transformer.wpe.weight",
            "base_model.model.model.embed_tokens.modules_to_save.default.weight",
        ] {
            assert!(is_embedding(name), "{name}");
        }
        for name in ["lm_head.weight", "base_model.model.model.embed_tokens.lora_embedding_A.default", "model.norm.weight"] {
            assert!(!is_embedding(name), "{name}");
        }
    }

    #[test]
    fn the_memory_of_an_optimiser_is_that_of_its_state() {
        let parameter = |name: &str, dims: &[usize]| {
            let values = vec![0.5; dims.iter().product()];
            (name.to_string(), Parameter::from_vec(values, dims, &Device::Cpu).unwrap())
        };
        let trainable = [
            parameter("model.embed_tokens.weight", &[30, 200]),
            parameter("model.layers.0.mlp.up_proj.weight", &[60, 100]),
            parameter("model.layers.0.self_attn.k_proj.weight", &[10, 100]),
            parameter("model.norm.weight", &[100]),
        ];
        for (_, parameter) in &trainable {
            parameter.accumulate(&Tensor::ones(parameter.dims(), DType::F32, &Device::Cpu).unwrap()).unwrap();
        }
        for (optim, given) in [
            ("adamw_torch", ""),
            ("sgd", ""),
            ("sgd", "momentum=0.9"),
            ("adafactor", ""),
            ("adafactor", "beta1=0.9"),
            ("lion", ""),
            ("schedule_free_adamw", ""),
            ("muon", ""),
            ("adamw_8bit", ""),
            ("adamw_8bit", "min_8bit_size=500"),
            ("adamw_8bit", "min_8bit_size=100000"),
        ] {
            let args = args(optim, given.into()).unwrap();
            let mut optimizer = build(&args, &trainable, 0).unwrap();
            optimizer.train_mode().unwrap();
            optimizer.step().unwrap();
            let state = optimizer.state_dict().unwrap();
            let of_parameters = state.iter().filter(|(name, _)| name.starts_with("state.") && !name.ends_with(".step"));
            let bytes: usize = of_parameters.map(|(_, tensor)| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum();
            let elements: usize = trainable.iter().map(|(_, parameter)| parameter.elem_count()).sum();
            let kept = kept_floats(&args, &trainable).unwrap() * (size_of::<f32>() * elements) as f64;
            assert!((kept - bytes as f64).abs() < 0.5, "{optim} {given}: {kept} bytes, but the state has {bytes}");
        }
    }
}
