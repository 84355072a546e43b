use super::*;
use rhai::{Engine, EvalAltResult};
use serde::Deserialize;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Bias {
    None,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    r: usize,
    learning_rate: f64,
    betas: (f64, f64),
    bias: Bias,
    names: Option<Vec<String>>,
    flag: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { r: 8, learning_rate: 1e-3, betas: (0.9, 0.999), bias: Bias::None, names: None, flag: false }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<()> {
        if self.r == 0 { Err(Error::argument("r must be 1 or more, given 0")) } else { Ok(()) }
    }
}

fn parse(code: &str) -> std::result::Result<Config, String> {
    let map = Engine::new().eval_expression::<Map>(code).unwrap();
    options::<Config>("LoraConfig", map).map_err(|e| match *e {
        EvalAltResult::ErrorRuntime(text, _) => text.to_string(),
        other => other.to_string(),
    })
}

#[test]
fn an_integer_is_a_float_and_a_missing_key_its_default() {
    let config = parse("#{ learning_rate: 1, bias: \"all\", names: [\"a\"], betas: [0, 0.5] }").unwrap();
    assert_eq!((config.learning_rate, config.r, config.betas), (1.0, 8, (0.0, 0.5)));
    assert_eq!(config.bias, Bias::All);
    assert!(!config.flag);
    assert_eq!(config.names, Some(vec!["a".to_string()]));
}

#[test]
fn refusals_name_the_field_what_was_given_and_what_is_allowed() {
    for (code, words) in [
        ("#{ r: 16.0 }", vec!["LoraConfig", "\"r\"", "an integer", "16.0"]),
        ("#{ r: -1 }", vec!["\"r\"", "0 or more", "-1"]),
        ("#{ r: 0 }", vec!["LoraConfig", "r must be 1 or more"]),
        ("#{ learning_rate: \"fast\" }", vec!["\"learning_rate\"", "a number", "\"fast\""]),
        ("#{ learning_rate: 0.0/0.0 }", vec!["\"learning_rate\"", "finite", "nan"]),
        ("#{ bias: \"some\" }", vec!["\"bias\"", "\"none\", \"all\"", "\"some\""]),
        ("#{ betas: [0.9] }", vec!["\"betas\"", "array of 2"]),
        ("#{ names: [1] }", vec!["names[0]", "a string", "1"]),
        ("#{ flag: 1 }", vec!["\"flag\"", "true or false", "1"]),
        (
            "#{ learning_rte: 1 }",
            vec!["\"learning_rte\"", "did you mean \"learning_rate\"?", "r, learning_rate, betas, bias, names, flag"],
        ),
    ] {
        let message = parse(code).unwrap_err();
        for word in words {
            assert!(message.contains(word), "{code}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn taken_keys_are_valid_keys() {
    let mut map = Map::new();
    map.insert("modle".into(), Dynamic::ONE);
    let mut given = OptionMap::new("Trainer", map.clone());
    assert!(given.take_any("model").is_none());
    let message = given.parse::<Config>().unwrap_err().to_string();
    assert!(message.contains("did you mean \"model\"?"), "{message}");
    let error = take::<String>("Trainer", &mut map, "modle", "a model").unwrap_err().to_string();
    assert!(error.contains("must be a model, given 1"), "{error}");
}

#[test]
fn field_names_are_found_without_a_value() {
    assert_eq!(field_names::<Config>(), ["r", "learning_rate", "betas", "bias", "names", "flag"]);
}
