//! Which files of a repository or a folder are its data set: the rules of `datasets`, by the files' names.
//!
//! Parquet goes before JSON, CSV and text. A folder other than `data` that is not named like a split is a configuration. The split
//! shows in a name such as `train-00000-of-00002.parquet`, or in a word of the path: train; validation, valid, val, dev; test, eval.

use super::FileFormat;
use std::collections::BTreeMap;
use std::path::Path;

/// Words in a path and the splits that they stand for.
const WORDS: &[(&str, &str)] = &[
    ("train", "train"),
    ("training", "train"),
    ("validation", "validation"),
    ("valid", "validation"),
    ("val", "validation"),
    ("dev", "validation"),
    ("test", "test"),
    ("testing", "test"),
    ("eval", "test"),
    ("evaluation", "test"),
];

/// Files that describe a repository and are no data of it.
const DESCRIPTIONS: &[&str] = &["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"];

/// The files of a data set by split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// What all files are.
    pub format: FileFormat,
    /// Names of splits and their files, in order.
    pub splits: Vec<(String, Vec<String>)>,
}

/// Why no files were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoChoice {
    /// No file is data.
    NoData,
    /// The reason in words.
    Reason(String),
}

/// The data files among these, of one configuration.
///
/// # Errors
/// There are none, several configurations and none is named, or not the one that is named.
pub fn choose(names: &[String], configuration: Option<&str>) -> Result<Chosen, NoChoice> {
    let of = |name: &&String| {
        let last = name.rsplit('/').next().unwrap_or(name);
        let hidden = name.split('/').any(|part| part.starts_with('.'));
        let described = DESCRIPTIONS.contains(&last) || last.to_ascii_lowercase().ends_with(".md");
        let licence = last.to_ascii_lowercase().starts_with("license") || last == "requirements.txt";
        if hidden || described || licence { None } else { FileFormat::from_path(Path::new(last)) }
    };
    let formats = [FileFormat::Parquet, FileFormat::Json, FileFormat::Csv, FileFormat::Text];
    let format =
        formats.into_iter().find(|wanted| names.iter().any(|name| of(&name) == Some(*wanted))).ok_or(NoChoice::NoData)?;
    let mut files: Vec<&String> = names.iter().filter(|name| of(name) == Some(format)).collect();
    files.sort();
    let files = of_configuration(files, configuration)?;
    let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in &files {
        if let Some(split) = split_of(name) {
            splits.entry(split).or_default().push((*name).clone());
        }
    }
    if splits.is_empty() {
        splits.insert("train".into(), files.into_iter().cloned().collect());
    }
    let rank = |name: &str| ["train", "validation", "test"].iter().position(|known| *known == name).unwrap_or(3);
    let mut splits: Vec<_> = splits.into_iter().collect();
    splits.sort_by_key(|(name, _)| rank(name));
    Ok(Chosen { format, splits })
}

fn of_configuration<'a>(files: Vec<&'a String>, wanted: Option<&str>) -> Result<Vec<&'a String>, NoChoice> {
    let mut groups: BTreeMap<Option<&str>, Vec<&'a String>> = BTreeMap::new();
    for name in files {
        groups.entry(configuration_of(name)).or_default().push(name);
    }
    let names: Vec<&str> = groups.keys().filter_map(|name| *name).collect();
    let list = if names.is_empty() { "none has a name".to_string() } else { names.join(", ") };
    let key = match wanted {
        Some(wanted) if names.contains(&wanted) => Some(wanted),
        Some("default") if groups.contains_key(&None) => None,
        Some(wanted) => {
            return Err(NoChoice::Reason(format!("there is no configuration \"{wanted}\"; there are: {list}")));
        }
        None if groups.contains_key(&None) => None,
        None if names.contains(&"default") => Some("default"),
        None if names.len() == 1 => names.first().copied(),
        None => {
            let example = names.first().copied().unwrap_or_default();
            return Err(NoChoice::Reason(format!(
                "there are several configurations: {list}; choose one: load_dataset(\"...\", #{{ name: \"{example}\" }})"
            )));
        }
    };
    Ok(groups.remove(&key).unwrap_or_default())
}

/// The folder that a configuration is named by.
fn configuration_of(name: &str) -> Option<&str> {
    let mut folders = name.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev();
    folders.find(|folder| *folder != "data" && word_of(folder).is_none())
}

fn split_of(name: &str) -> Option<String> {
    let mut parts = name.rsplit('/');
    let file = parts.next().unwrap_or(name);
    if let Some((split, rest)) = file.split_once('-')
        && rest.contains("-of-")
    {
        return Some(split.to_string());
    }
    let stem = file.split('.').next().unwrap_or(file);
    std::iter::once(stem).chain(parts).find_map(word_of).map(str::to_string)
}

/// The split that a word of this text stands for.
fn word_of(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter_map(|word| WORDS.iter().find(|(known, _)| *known == word)).map(|(_, split)| *split).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], configuration: Option<&str>) -> Result<Vec<(String, usize)>, NoChoice> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        choose(&names, configuration).map(|c| c.splits.into_iter().map(|(split, files)| (split, files.len())).collect())
    }

    fn splits(pairs: &[(&str, usize)]) -> Result<Vec<(String, usize)>, NoChoice> {
        Ok(pairs.iter().map(|(name, count)| (name.to_string(), *count)).collect())
    }

    #[test]
    fn splits_show_in_names() {
        let shards = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ];
        assert_eq!(chosen(&shards, None), splits(&[("train", 2), ("test", 1)]));
        assert_eq!(chosen(&["data/train_sft-00000-of-00001.parquet"], None), splits(&[("train_sft", 1)]));
        assert_eq!(chosen(&["dev.jsonl", "my_train.jsonl.gz", "notes.txt"], None), splits(&[("train", 1), ("validation", 1)]));
        assert_eq!(chosen(&["train/0.csv", "test/0.csv"], None), splits(&[("train", 1), ("test", 1)]));
        assert_eq!(chosen(&["alpaca_data.json", "dataset_infos.json", ".gitattributes"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["README.md", "LICENSE.txt", "load.py"], None), Err(NoChoice::NoData));
    }

    #[test]
    fn configurations_are_folders() {
        let names = [
            "main/train-00000-of-00001.parquet",
            "socratic/train-00000-of-00001.parquet",
            "socratic/test-00000-of-00001.parquet",
        ];
        assert_eq!(chosen(&names, Some("socratic")), splits(&[("train", 1), ("test", 1)]));
        let several = chosen(&names, None);
        assert!(matches!(&several, Err(NoChoice::Reason(text)) if text.contains("main, socratic")), "{several:?}");
        let absent = chosen(&names, Some("other"));
        assert!(matches!(&absent, Err(NoChoice::Reason(text)) if text.contains("no configuration \"other\"")), "{absent:?}");
        assert_eq!(chosen(&["default/train/0000.parquet", "x/train/0000.parquet"], None), splits(&[("train", 1)]));
    }
}
