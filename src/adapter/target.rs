//! Which modules a LoRA configuration means.

use super::config::{LoraConfig, OneOrMore, TargetModules};
use crate::error::{Error, Result};
use regex::Regex;

/// The modules among `names` that get an adapter, in their order; `default` are those of a configuration that names none.
///
/// # Errors
/// Nothing matches, a name is not there, or a pattern is no regular expression.
pub fn targets<'a>(config: &LoraConfig, names: &[&'a str], default: &[&str]) -> Result<Vec<&'a str>> {
    let default = TargetModules::Names(default.iter().map(|name| (*name).into()).collect());
    let wanted = config.target_modules.as_ref().unwrap_or(&default);
    let included = matcher("target_modules", wanted)?;
    let excluded = config.exclude_modules.as_ref().map(|modules| matcher("exclude_modules", modules)).transpose()?;
    let lists: &[String] = config.layers_pattern.as_ref().map_or(&[], OneOrMore::as_slice);
    let layers: &[usize] = config.layers_to_transform.as_ref().map_or(&[], OneOrMore::as_slice);
    // A module that is named in full is meant whatever block it is in.
    let in_full = |name: &str| matches!(wanted, TargetModules::Names(wanted) if wanted.iter().any(|wanted| wanted == name));
    let in_block =
        |name: &str| layers.is_empty() || in_full(name) || block_index(name, lists).is_some_and(|index| layers.contains(&index));
    // What is trained in full gets no adapter, as in PEFT.
    let left_out = |name: &str| is_saved(config, name) || excluded.as_ref().is_some_and(|excluded| excluded(name));
    let found: Vec<&str> = names.iter().copied().filter(|name| included(name) && in_block(name) && !left_out(name)).collect();
    if found.is_empty() {
        let mut kinds: Vec<&str> = names.iter().map(|n| n.rsplit('.').next().unwrap_or(n)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let wanted = serde_json::to_string(wanted).unwrap_or_default();
        let others = [
            ("modules_to_save", config.modules_to_save.is_some()),
            ("exclude_modules", config.exclude_modules.is_some()),
            ("layers_to_transform", !layers.is_empty()),
        ];
        let others: Vec<&str> = others.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect();
        return Err(Error::Argument(format!(
            "target_modules {wanted} match no module of this model{}; there are {} (or use \"all-linear\")",
            if others.is_empty() { String::new() } else { format!(" after {}", others.join(" and ")) },
            kinds.join(", ")
        )));
    }
    if let TargetModules::Names(wanted) = wanted {
        // PEFT lets a misspelt name pass when another one matches; the adapter is then smaller than asked for.
        if let Some(missing) = wanted.iter().find(|w| !names.iter().any(|n| is_named(n, w))) {
            return Err(Error::Argument(format!("target_modules: no module of this model is named \"{missing}\"")));
        }
    }
    Ok(found)
}

/// Whether the adapter has a trained copy of a module in full. A name of `modules_to_save` is any ending, as in PEFT: "norm" means
/// `input_layernorm` as well.
pub fn is_saved(config: &LoraConfig, module: &str) -> bool {
    config.modules_to_save.iter().flatten().any(|wanted| module.ends_with(wanted.as_str()))
}

/// Whether a module's name is `wanted`, or ends with it after a point.
pub fn is_named(module: &str, wanted: &str) -> bool {
    module == wanted || module.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('.'))
}

/// Says of a module's name whether it is meant.
type Matcher = Box<dyn Fn(&str) -> bool>;

/// What the modules that `field` has match.
fn matcher(field: &str, modules: &TargetModules) -> Result<Matcher> {
    Ok(match modules.clone() {
        TargetModules::Names(names) => Box::new(move |module| names.iter().any(|n| is_named(module, n))),
        TargetModules::Pattern(p) if p == "all-linear" => Box::new(|module| module != "lm_head"),
        TargetModules::Pattern(pattern) => {
            let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
                Error::Argument(format!("{field}: \"{pattern}\" is no regular expression that can be used here: {e}"))
            })?;
            Box::new(move |module| regex.is_match(module))
        }
    })
}

/// The number of the block that a module is in: the first number in its name that stands between two other parts, as PEFT finds it;
/// behind one of `lists`, if there are any.
fn block_index(module: &str, lists: &[String]) -> Option<usize> {
    let parts: Vec<&str> = module.split('.').collect();
    let counts = |list: &str| lists.is_empty() || lists.iter().any(|wanted| wanted == list);
    (2..parts.len().saturating_sub(1)).filter(|place| counts(parts[place - 1])).find_map(|place| parts[place].parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "lm_head",
        "xq_proj",
    ];
    const DEFAULT: &[&str] = &["q_proj", "v_proj"];

    fn config(target_modules: serde_json::Value) -> LoraConfig {
        serde_json::from_value(serde_json::json!({ "target_modules": target_modules })).unwrap()
    }

    #[test]
    fn names_match_whole_parts() {
        assert_eq!(targets(&config(serde_json::json!(["q_proj"])), &NAMES, DEFAULT).unwrap(), NAMES[..2]);
    }

    #[test]
    fn patterns_match_the_whole_name_and_all_linear_leaves_the_head_out() {
        assert_eq!(targets(&config(".*layers\\.1\\..*".into()), &NAMES, DEFAULT).unwrap(), NAMES[1..3]);
        assert!(!targets(&config("all-linear".into()), &NAMES, DEFAULT).unwrap().contains(&"lm_head"));
    }

    #[test]
    fn blocks_are_numbered_whatever_their_list_is_called() {
        assert_eq!(block_index("model.layers.11.self_attn.q_proj", &[]), Some(11));
        assert_eq!(block_index("transformer.h.2.attn.c_attn", &[]), Some(2));
        assert_eq!(block_index("transformer.h.2.attn.c_attn", &["layers".into(), "h".into()]), Some(2));
        assert_eq!(block_index("transformer.h.2.attn.c_attn", &["layers".into()]), None);
        assert_eq!(block_index("model.layers.1.experts.3.up_proj", &[]), Some(1));
        assert_eq!(block_index("lm_head", &[]), None);
    }

    #[test]
    fn blocks_are_chosen_of_names_that_are_not_in_full() {
        let chosen = |layers: serde_json::Value| {
            let names = ["model.layers.0.self_attn.q_proj", "up_proj", "q_proj"];
            let config = serde_json::json!({ "target_modules": names, "layers_to_transform": layers });
            targets(&serde_json::from_value(config).unwrap(), &NAMES, DEFAULT).unwrap()
        };
        assert_eq!(chosen(serde_json::json!([1])), NAMES[..3]);
        assert_eq!(chosen(serde_json::json!(0)), NAMES[..1]);
        assert_eq!(chosen(serde_json::json!([])), NAMES[..3]);
    }

    #[test]
    fn what_is_trained_in_full_gets_no_adapter() {
        let mut config = config(serde_json::json!(["q_proj", "lm_head"]));
        config.modules_to_save = Some(vec!["head".into()]);
        assert_eq!(targets(&config, &NAMES, DEFAULT).unwrap(), NAMES[..2]);
        config.target_modules = Some(TargetModules::Names(vec!["lm_head".into()]));
        let error = targets(&config, &NAMES, DEFAULT).unwrap_err().to_string();
        assert!(error.contains("modules_to_save"), "{error}");
    }

    #[test]
    fn what_matches_nothing_is_refused_with_what_there_is() {
        let error = targets(&config(serde_json::json!(["c_attn"])), &NAMES, DEFAULT).unwrap_err().to_string();
        assert!(error.contains("c_attn") && error.contains("up_proj") && !error.contains("after"), "{error}");
        let mut beyond = config(serde_json::json!(["q_proj"]));
        beyond.layers_to_transform = Some(OneOrMore::One(9));
        let error = targets(&beyond, &NAMES, DEFAULT).unwrap_err().to_string();
        assert!(error.contains("of this model after layers_to_transform"), "{error}");
        let error = targets(&config(serde_json::json!(["q_proj", "vproj"])), &NAMES, DEFAULT).unwrap_err().to_string();
        assert!(error.contains("vproj"), "{error}");
        let mut config = config(serde_json::json!(["q_proj"]));
        config.exclude_modules = Some(TargetModules::Pattern("(?!q).*".into()));
        let error = targets(&config, &NAMES, DEFAULT).unwrap_err().to_string();
        assert!(error.starts_with("exclude_modules"), "{error}");
    }
}
