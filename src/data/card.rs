//! What a data set's card, the header of its README.md, says of its files: the list `configs`, as the hub and `datasets` read it.

use super::yaml::value_of;
use serde_json::{Map, Value};

/// What a configuration may say that does not change how its rows are read, beside what is read here.
const WITHOUT_EFFECT: &[&str] = &["features", "description", "version", "drop_labels", "drop_metadata"];

/// A part of a repository that is a data set of its own, as the card describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The name that `load_dataset` takes.
    pub name: String,
    /// Whether it is taken where none is named.
    pub default: bool,
    /// The folder in which its files lie, with a slash at the end; empty for the repository itself.
    pub folder: String,
    /// Splits and the paths and patterns of their files; none: as the files' names say.
    pub splits: Option<Vec<(String, Vec<String>)>>,
    /// What separates CSV fields.
    pub delimiter: Option<u8>,
    /// What else it says about how files are read, which is not heeded.
    pub unheeded: Vec<String>,
}

/// The configurations that a README.md lists; none where it has no header or lists none.
///
/// # Errors
/// The header cannot be read, or a configuration is not as it should be; the message names the line or the configuration.
pub fn configurations(readme: &str) -> Result<Vec<Configuration>, String> {
    let items = match value_of(&header(readme), "configs")? {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err("`configs` is not a list".into()),
    };
    let found = items.iter().map(configuration).collect::<Result<Vec<_>, _>>()?;
    match found.iter().enumerate().find(|(i, one)| found[..*i].iter().any(|other| other.name == one.name)) {
        Some((_, twice)) => Err(format!("the configuration \"{}\" is listed twice", twice.name)),
        None => Ok(found),
    }
}

/// The configuration that is meant: the one of this name, or the default, or the only one. Nothing where the card lists none.
///
/// # Errors
/// There is no such configuration, or none is named where there are several and no default.
pub fn pick<'a>(card: &'a [Configuration], wanted: Option<&str>) -> Result<Option<&'a Configuration>, String> {
    let names: Vec<&str> = card.iter().map(|one| one.name.as_str()).collect();
    let defaults: Vec<&Configuration> = card.iter().filter(|one| one.default || one.name == "default").collect();
    match (wanted, card, defaults.as_slice()) {
        (_, [], _) => Ok(None),
        (Some(wanted), ..) => match card.iter().find(|one| one.name == wanted) {
            Some(found) => Ok(Some(found)),
            None => Err(absent(wanted, &names)),
        },
        (None, [only], _) => Ok(Some(only)),
        (None, _, [only]) => Ok(Some(*only)),
        (None, ..) => Err(several(&names)),
    }
}

/// That there is no configuration of this name.
pub(super) fn absent(wanted: &str, names: &[&str]) -> String {
    let list = if names.is_empty() { "none has a name".to_string() } else { names.join(", ") };
    format!("there is no configuration \"{wanted}\"; there are: {list}")
}

/// That one must be named.
pub(super) fn several(names: &[&str]) -> String {
    let example = names.first().copied().unwrap_or_default();
    let list = names.join(", ");
    format!("there are several configurations: {list}; choose one: load_dataset(\"...\", #{{ name: \"{example}\" }})")
}

/// The lines between the first two that are `---`, with their numbers.
fn header(readme: &str) -> Vec<(usize, &str)> {
    let text = readme.strip_prefix('\u{feff}').unwrap_or(readme);
    let mut lines = (1..).zip(text.lines()).skip_while(|(_, line)| line.trim().is_empty());
    let fence = |line: &str| line.trim_end() == "---";
    if !lines.next().is_some_and(|(_, line)| fence(line)) {
        return Vec::new();
    }
    let mut header = Vec::new();
    for (number, line) in lines {
        if fence(line) {
            return header;
        }
        header.push((number, line));
    }
    Vec::new()
}

fn configuration(item: &Value) -> Result<Configuration, String> {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    let (Some(fields), Some(name)) = (item.as_object(), text("config_name")) else {
        return Err(format!("every item of `configs` needs a `config_name`, but one is {item}"));
    };
    let wrong = |what: &str| format!("configuration \"{name}\": {what}");
    let folder = match text("data_dir").map(inside) {
        None => String::new(),
        Some(Some(folder)) if folder.is_empty() || folder == "." => String::new(),
        Some(Some(folder)) => format!("{}/", folder.trim_end_matches('/')),
        Some(None) => return Err(wrong("`data_dir` is not a folder of the repository")),
    };
    let splits = match item.get("data_files") {
        None | Some(Value::Null) => None,
        Some(files) => Some(splits(files).map_err(|what| wrong(&what))?),
    };
    let separator = text("delimiter").or(text("sep"));
    let delimiter = separator.and_then(|separator| match separator.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    });
    // What YAML 1.1 takes for true.
    let default = text("default").is_some_and(|value| ["true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes)));
    let unheeded = unheeded(fields, delimiter.is_some());
    Ok(Configuration { name: name.to_string(), default, folder, splits, delimiter, unheeded })
}

fn unheeded(fields: &Map<String, Value>, separated: bool) -> Vec<String> {
    let heeded = |key: &str| match key {
        "config_name" | "data_dir" | "data_files" | "default" => true,
        "delimiter" | "sep" => separated,
        key => WITHOUT_EFFECT.contains(&key),
    };
    fields.keys().filter(|key| !heeded(key)).cloned().collect()
}

/// `data_files`: a path, a list of paths, both of which are the split `train`, or a list of splits with one or several paths.
fn splits(files: &Value) -> Result<Vec<(String, Vec<String>)>, String> {
    let wrong = || format!("`data_files` must be a path, a list of paths or a list of {{split, path}}, but it is {files}");
    let path = |path: &Value| {
        let path = path.as_str().ok_or_else(wrong)?;
        inside(path).map(str::to_string).ok_or_else(|| format!("\"{path}\" is no file of the repository"))
    };
    let paths = |value: &Value| match value {
        Value::Array(paths) if !paths.is_empty() => paths.iter().map(path).collect::<Result<Vec<_>, _>>(),
        one => path(one).map(|path| vec![path]),
    };
    let items = match files {
        Value::Array(items) if items.iter().any(Value::is_object) => items,
        one => return Ok(vec![("train".to_string(), paths(one)?)]),
    };
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    for item in items {
        let (Some(split), Some(path)) = (item.get("split").and_then(Value::as_str), item.get("path")) else {
            return Err(wrong());
        };
        if splits.iter().any(|(known, _)| known == split) {
            return Err(format!("`data_files` names the split \"{split}\" twice"));
        }
        splits.push((split.to_string(), paths(path)?));
    }
    Ok(splits)
}

/// A path of the repository without the dot in front; nothing for one that leads out of it.
fn inside(path: &str) -> Option<&str> {
    let path = path.trim_start_matches("./");
    let out = path.starts_with('/') || path.contains("://") || path.split('/').any(|part| part == "..");
    (!out).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(card: &[Configuration]) -> Vec<&str> {
        card.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn a_card_lists_configurations_with_their_files() {
        let plain = "- config_name: plain\n  data_files: a.csv\n  sep: \"\\t\"\n  skiprows: 1\n";
        let files = "  data_files:\n  - split: train\n    path:\n    - ./x.csv\n    - y/*\n  - split: test\n    path: z.csv\n";
        let two = format!("- config_name: two\n  default: yes\n  data_dir: ./two/\n{files}- config_name: names\n");
        let card = configurations(&format!("\u{feff}---\nlicense: mit\nconfigs:\n{plain}{two}---\n# configs:\n")).unwrap();
        assert_eq!(names(&card), ["plain", "two", "names"]);
        let split = |name: &str, paths: &[&str]| (name.to_string(), paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(card[0].splits, Some(vec![split("train", &["a.csv"])]));
        assert_eq!((card[0].delimiter, card[0].unheeded.as_slice()), (Some(b'\t'), ["skiprows".to_string()].as_slice()));
        assert_eq!(card[1].splits, Some(vec![split("train", &["x.csv", "y/*"]), split("test", &["z.csv"])]));
        assert_eq!((card[1].folder.as_str(), card[1].default, &card[2].splits), ("two/", true, &None));
        assert_eq!(pick(&card, None).unwrap().map(|one| one.name.as_str()), Some("two"));
        assert_eq!(pick(&card, Some("names")).unwrap().map(|one| one.name.as_str()), Some("names"));
        assert!(pick(&card, Some("other")).unwrap_err().contains("there are: plain, two, names"));
        let quoted = "---\n\"license\": mit\n\"configs\":\n- \"config_name\": plain\n  'data_files': a.csv\n---\n";
        let card = configurations(quoted).unwrap();
        assert_eq!((names(&card), &card[0].splits), (vec!["plain"], &Some(vec![split("train", &["a.csv"])])));
        for without in
            ["", "# configs:", "---\nconfigs:\n- config_name: x\n", "---\nlicense: mit\n---\nconfigs: 1", "---\nconfigs:\n---"]
        {
            assert_eq!(configurations(without), Ok(Vec::new()), "{without}");
        }
    }

    #[test]
    fn which_configuration_is_meant() {
        let card = |names: &[&str]| {
            let items: String = names.iter().map(|name| format!("- config_name: {name}\n")).collect();
            configurations(&format!("---\nconfigs:\n{items}---\n")).unwrap()
        };
        let picked = |names: &[&str]| pick(&card(names), None).map(|one| one.map(|one| one.name.clone()));
        assert_eq!(picked(&["only"]), Ok(Some("only".to_string())));
        assert_eq!(picked(&["a", "default"]), Ok(Some("default".to_string())));
        assert_eq!(pick(&[], None), Ok(None));
        assert!(picked(&["a", "b"]).unwrap_err().contains("several configurations: a, b; choose one"));
    }

    #[test]
    fn what_is_wrong_with_a_card_is_said() {
        for (configs, words) in [
            ("configs: x", "`configs` is not a list"),
            ("configs:\n- data_files: a.csv", "needs a `config_name`"),
            ("configs:\n- config_name: a\n- config_name: a", "\"a\" is listed twice"),
            ("configs:\n- config_name: a\n  data_files:\n  - split: train", "configuration \"a\": `data_files` must be a path"),
            ("configs:\n- config_name: a\n  data_files: []", "`data_files` must be a path"),
            ("configs:\n- config_name: a\n  data_files: ../x.csv", "\"../x.csv\" is no file of the repository"),
            ("configs:\n- config_name: a\n  data_files: https://x/y.csv", "is no file of the repository"),
            ("configs:\n- config_name: a\n  data_dir: /x", "`data_dir` is not a folder of the repository"),
            ("configs:\n- config_name: &x a", "line 3: expected a value without anchors"),
            (
                "configs:\n- config_name: a\n  data_files:\n  - {split: t, path: x}\n  - {split: t, path: y}",
                "names the split \"t\" twice",
            ),
        ] {
            let error = configurations(&format!("---\n{configs}\n---\n")).unwrap_err();
            assert!(error.contains(words), "{configs}: {error}");
        }
    }
}
