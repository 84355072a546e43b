//! Which files of a repository or a folder are its data set: those that its card names, else by the files' names much as `datasets`
//! has it.
//!
//! The format is that of most files; of as many, Parquet goes before JSON and CSV, and text is last. Without a card a folder other than `data` that is not named like a split is a
//! configuration. The split shows in a name such as `data/train-00000-of-00002.parquet`, else in a word of a folder's name, else of the
//! file's: train; validation, valid, val, dev; test, eval.

use super::FileFormat;
use super::card::{Configuration, absent, pick, several};
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

/// How the pieces of a path fit those of a pattern: `*` ends at a slash, and hidden files are named in full.
const MATCHING: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The files of a data set by split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// In order.
    pub splits: Vec<SplitFiles>,
    /// What separates CSV fields, where the card says it.
    pub delimiter: Option<u8>,
    /// What the card says about how files are read that is not heeded.
    pub unheeded: Vec<String>,
}

/// The files of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitFiles {
    /// Its name.
    pub name: String,
    /// What all files are, and their names in order; or why there are none, which only matters to who wants this split.
    pub files: Result<(FileFormat, Vec<String>), String>,
}

/// Why no files were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoChoice {
    /// No file is data.
    NoData,
    /// The reason in words.
    Reason(String),
}

/// The data files among these, of one configuration of the card, which may be empty.
///
/// # Errors
/// There are none, several configurations and none is named, or not the one that is named.
pub fn choose(names: &[String], card: &[Configuration], wanted: Option<&str>) -> Result<Chosen, NoChoice> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    if let Some(configuration) = pick(card, wanted).map_err(NoChoice::Reason)? {
        return of_card(&names, configuration);
    }
    let (format, files) = best_named(&names).ok_or(NoChoice::NoData)?;
    let files = of_configuration(files, wanted, configuration_of)?;
    let splits = by_name(format, &files, "");
    let folder = files.first().and_then(|name| configuration_of(name));
    let beside: Vec<&str> = names.into_iter().filter(|name| configuration_of(name) == folder).collect();
    check_formats(format, &splits, &beside)?;
    Ok(Chosen { splits, delimiter: None, unheeded: Vec::new() })
}

/// The files among those of the branch in which the hub keeps data sets as Parquet. There every configuration is a folder with a
/// folder for every split, whatever they are called.
///
/// # Errors
/// As [`choose`].
pub fn choose_converted(names: &[String], wanted: Option<&str>) -> Result<Chosen, NoChoice> {
    let mut files: Vec<&str> = names.iter().map(String::as_str).filter(|name| converted(name).is_some()).collect();
    files.sort_unstable();
    if files.is_empty() {
        return choose(names, &[], wanted);
    }
    let files = of_configuration(files, wanted, |name| converted(name).map(|(configuration, _)| configuration))?;
    let splits = by_rule(FileFormat::Parquet, &files, "", |name| converted(name).map(|(_, split)| split));
    Ok(Chosen { splits, delimiter: None, unheeded: Vec::new() })
}

/// Configuration and split of `configuration/split/0000.parquet`. Of a large split only the first part may be there, in a folder
/// `partial-split`.
fn converted(name: &str) -> Option<(&str, &str)> {
    let (configuration, rest) = name.split_once('/')?;
    let (split, file) = rest.split_once('/')?;
    let split = split.strip_prefix("partial-").unwrap_or(split);
    (file.ends_with(".parquet") && !file.contains('/')).then_some((configuration, split))
}

fn of_card(names: &[&str], configuration: &Configuration) -> Result<Chosen, NoChoice> {
    let folder = configuration.folder.as_str();
    let inside: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(folder)).collect();
    let splits = match &configuration.splits {
        None => {
            let (format, files) = best_named(&inside).ok_or(NoChoice::NoData)?;
            let splits = by_name(format, &files, folder);
            check_formats(format, &splits, &inside)?;
            splits
        }
        Some(splits) => {
            let found: Vec<_> = splits.iter().map(|(name, patterns)| (name, of_patterns(&inside, patterns))).collect();
            if found.iter().all(|(_, files)| matches!(files, Err(Unusable::OtherKind(_)))) {
                return Err(NoChoice::NoData);
            }
            let files = |(format, files): (FileFormat, Vec<&str>)| (format, within(folder, &files));
            let named = found.into_iter().map(|(name, found)| (name.clone(), found.map(files).map_err(Unusable::reason)));
            named.map(|(name, files)| SplitFiles { name, files }).collect()
        }
    };
    Ok(Chosen { splits, delimiter: configuration.delimiter, unheeded: configuration.unheeded.clone() })
}

fn within(folder: &str, files: &[&str]) -> Vec<String> {
    files.iter().map(|file| format!("{folder}{file}")).collect()
}

/// What a file is, unless it only describes the others.
fn data_format(name: &str) -> Option<FileFormat> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hidden = name.split('/').any(|part| part.starts_with('.'));
    let described = DESCRIPTIONS.contains(&last) || last.to_ascii_lowercase().ends_with(".md");
    let beside = last.to_ascii_lowercase().starts_with("license") || last == "requirements.txt";
    let format = FileFormat::from_path(Path::new(last));
    if hidden || described || (beside && format == Some(FileFormat::Text)) { None } else { format }
}

/// The files of the format that most of them have, and their format; nothing where none has one. Text is often written beside data, so
/// it is taken only where there is nothing else.
fn best<'a>(files: impl IntoIterator<Item = (&'a str, Option<FileFormat>)>) -> Option<(FileFormat, Vec<&'a str>)> {
    let files: Vec<(&str, Option<FileFormat>)> = files.into_iter().collect();
    let count = |wanted: FileFormat| files.iter().filter(|(_, format)| *format == Some(wanted)).count();
    // Of several with as many files the last is taken.
    let most = [FileFormat::Csv, FileFormat::Json, FileFormat::Parquet].into_iter().max_by_key(|format| count(*format));
    let format = most.into_iter().chain([FileFormat::Text]).find(|format| count(*format) > 0)?;
    Some((format, files.into_iter().filter(|(_, found)| *found == Some(format)).map(|(name, _)| name).collect()))
}

/// The files of the best format by their names: that of the files whose names tell a split, where there are such.
fn best_named<'a>(names: &[&'a str]) -> Option<(FileFormat, Vec<&'a str>)> {
    let formats = || names.iter().map(|name| (*name, data_format(name)));
    let told = rule_of(names).and_then(|rule| best(formats().filter(|(name, _)| rule(name).is_some())));
    let (format, _) = told.or_else(|| best(formats()))?;
    Some((format, formats().filter(|(_, found)| *found == Some(format)).map(|(name, _)| name).collect()))
}

/// Refuses files of another format whose names tell a split that the chosen ones do not have: without them a part of the data would be
/// missing and nothing would say so.
fn check_formats(format: FileFormat, splits: &[SplitFiles], names: &[&str]) -> Result<(), NoChoice> {
    let Some(rule) = rule_of(names) else { return Ok(()) };
    let other = |name: &str| is_table(name) && data_format(name) != Some(format);
    let missing = |name: &str| rule(name).is_some_and(|split| splits.iter().all(|known| known.name != split));
    match names.iter().find(|name| other(name) && missing(name)) {
        None => Ok(()),
        Some(name) => {
            let taken = splits.iter().filter_map(|split| split.files.as_ref().ok()?.1.first()).cloned().collect::<Vec<_>>();
            Err(NoChoice::Reason(format!(
                "{name} and {} are of different formats; load each by itself with data_files",
                taken.join(", ")
            )))
        }
    }
}

/// Why the files that a card names cannot be taken.
enum Unusable {
    /// They are of a kind that is not read; the hub may have them as Parquet.
    OtherKind(String),
    /// The card is wrong.
    Fault(String),
}

impl Unusable {
    fn reason(self) -> String {
        match self {
            Self::OtherKind(reason) | Self::Fault(reason) => reason,
        }
    }
}

/// The files that patterns fit, in the patterns' order.
fn of_patterns<'a>(names: &[&'a str], patterns: &[String]) -> Result<(FileFormat, Vec<&'a str>), Unusable> {
    let mut found = Vec::new();
    for text in patterns {
        if is_pattern(text) {
            let pattern = glob::Pattern::new(text).map_err(|e| Unusable::Fault(format!("\"{text}\" is no pattern: {e}")))?;
            let fitting = names.iter().filter(|name| pattern.matches_with(name, MATCHING));
            found.extend(fitting.map(|name| (*name, data_format(name))));
        } else {
            let name = names.iter().find(|name| **name == text.as_str());
            let name = *name.ok_or_else(|| Unusable::Fault(format!("there is no file {text}, which README.md names")))?;
            // A file that is named is meant, even if it is called like one that describes the others.
            found.push((name, FileFormat::from_path(Path::new(name))));
        }
    }
    let named = patterns.join(", ");
    if found.is_empty() {
        return Err(Unusable::Fault(format!("no file fits {named}, which README.md names")));
    }
    let other_kind = || Unusable::OtherKind(format!("{named} is none of Parquet, JSON, CSV and text"));
    let chosen = best(found).ok_or_else(other_kind)?;
    match patterns.iter().find(|text| !is_pattern(text) && !chosen.1.contains(&text.as_str())) {
        Some(other) => {
            let message = format!("README.md names {other} beside files of another format, {}", chosen.1.join(", "));
            Err(Unusable::Fault(message))
        }
        None => Ok(chosen),
    }
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The splits of files, which lie in `folder`, by their names.
fn by_name(format: FileFormat, files: &[&str], folder: &str) -> Vec<SplitFiles> {
    // The first rule that tells the split of any file; files of which it does not are no part of the data set.
    for rule in RULES {
        let splits = by_rule(format, files, folder, rule);
        if !splits.is_empty() {
            return splits;
        }
    }
    vec![SplitFiles { name: "train".to_string(), files: Ok((format, within(folder, files))) }]
}

/// How a file's name tells its split; what an earlier one tells of any file goes before the others.
const RULES: [fn(&str) -> Option<&str>; 3] = [sharded, split_of_folder, split_of_file];

/// The first rule that tells the split of any of these files that is data and no plain text.
fn rule_of(names: &[&str]) -> Option<fn(&str) -> Option<&str>> {
    RULES.into_iter().find(|rule| names.iter().any(|name| is_table(name) && rule(name).is_some()))
}

/// Whether a file is data and no plain text.
fn is_table(name: &str) -> bool {
    data_format(name).is_some_and(|format| format != FileFormat::Text)
}

/// The splits of files of which a rule tells the split.
fn by_rule(format: FileFormat, files: &[&str], folder: &str, rule: impl Fn(&str) -> Option<&str>) -> Vec<SplitFiles> {
    let mut splits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in files {
        if let Some(split) = rule(name) {
            splits.entry(split).or_default().push(name);
        }
    }
    let rank = |name: &str| ["train", "validation", "test"].iter().position(|known| *known == name).unwrap_or(3);
    let one =
        |(name, files): (&str, Vec<&str>)| SplitFiles { name: name.to_string(), files: Ok((format, within(folder, &files))) };
    let mut splits: Vec<SplitFiles> = splits.into_iter().map(one).collect();
    splits.sort_by_key(|split| rank(&split.name));
    splits
}

/// The files of a configuration; `named` says which one a file is of.
fn of_configuration<'a>(
    files: Vec<&'a str>,
    wanted: Option<&str>,
    named: impl Fn(&str) -> Option<&str>,
) -> Result<Vec<&'a str>, NoChoice> {
    let mut groups: BTreeMap<Option<&str>, Vec<&'a str>> = BTreeMap::new();
    for name in files {
        groups.entry(named(name)).or_default().push(name);
    }
    let names: Vec<&str> = groups.keys().filter_map(|name| *name).collect();
    let key = match wanted {
        Some(wanted) if names.contains(&wanted) => Some(wanted),
        Some("default") if groups.contains_key(&None) => None,
        Some(wanted) => return Err(NoChoice::Reason(absent(wanted, &names))),
        None if groups.contains_key(&None) => None,
        None if names.contains(&"default") => Some("default"),
        None if names.len() == 1 => names.first().copied(),
        None => return Err(NoChoice::Reason(several(&names))),
    };
    Ok(groups.remove(&key).unwrap_or_default())
}

/// The folder that a configuration is named by.
fn configuration_of(name: &str) -> Option<&str> {
    let mut folders = name.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev();
    folders.find(|folder| *folder != "data" && word_of(folder).is_none())
}

/// The split of a part in a folder `data`: `train_sft` of `data/train_sft-00000-of-00002-1a2b.parquet`.
fn sharded(name: &str) -> Option<&str> {
    let (folder, file) = name.rsplit_once('/')?;
    let (part, count) = file.split_once("-of-")?;
    let (split, number) = part.rsplit_once('-')?;
    let numbered =
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && count.starts_with(|c: char| c.is_ascii_digit());
    let plain = !split.is_empty() && split.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    (folder.rsplit('/').next() == Some("data") && split_of_folder(name).is_none() && numbered && plain).then_some(split)
}

fn split_of_folder(name: &str) -> Option<&str> {
    name.rsplit('/').skip(1).find_map(word_of)
}

fn split_of_file(name: &str) -> Option<&str> {
    // No suffix of a data file is a split's word.
    word_of(name.rsplit('/').next().unwrap_or(name))
}

/// The split that a word of this text stands for.
fn word_of(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_alphabetic());
    words.filter_map(|word| WORDS.iter().find(|(known, _)| *known == word)).map(|(_, split)| *split).next()
}

#[cfg(test)]
mod tests {
    use super::super::card::configurations;
    use super::*;

    fn chosen(names: &[&str], configuration: Option<&str>) -> Result<Vec<(String, usize)>, NoChoice> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let count = |split: SplitFiles| (split.name, split.files.map_or(0, |(_, files)| files.len()));
        choose(&names, &[], configuration).map(|chosen| chosen.splits.into_iter().map(count).collect())
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
        assert_eq!(chosen(&["license_plates.csv", "LICENSE.txt"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["qa.train.jsonl.gz", "qa.test.jsonl.gz"], None), splits(&[("train", 1), ("test", 1)]));
    }

    #[test]
    fn the_format_is_that_of_the_files_that_are_the_data() {
        assert_eq!(chosen(&["train.csv", "test.csv", "meta.json"], None), splits(&[("train", 1), ("test", 1)]));
        assert_eq!(chosen(&["train.csv", "meta.json"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["a.csv", "b.csv", "c.json"], None), splits(&[("train", 2)]));
        assert_eq!(chosen(&["a.csv", "a.json", "a.parquet"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["data.csv", "train_notes.txt"], None), splits(&[("train", 1)]));
        let beside = ["data/train-00000-of-00001.parquet", "test_results.json"];
        assert_eq!(chosen(&beside, None), splits(&[("train", 1)]));
        let two = chosen(&["train.csv", "test.jsonl"], None);
        assert!(
            matches!(&two, Err(NoChoice::Reason(text)) if text.contains("train.csv and test.jsonl are of different formats"))
        );
    }

    #[test]
    fn a_word_ends_at_a_digit_and_folders_go_before_files() {
        assert_eq!(chosen(&["train1.csv", "train2.csv", "test1.csv"], None), splits(&[("train", 2), ("test", 1)]));
        assert_eq!(chosen(&["train/test_cases.csv", "test/x.csv"], None), splits(&[("train", 1), ("test", 1)]));
        assert_eq!(chosen(&["data/train-00000-of-00001-a09b74.parquet", "x.parquet"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["data/my-data-train-00000-of-00001.parquet"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["train/data-00000-of-00002.parquet"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["alpaca-00000-of-00001.parquet"], None), splits(&[("train", 1)]));
    }

    #[test]
    fn a_card_goes_before_the_names() {
        let names =
            ["README.md", "a/x.csv", "a/y.csv", "a/deep/z.csv", "b/train.jsonl", "b/test.jsonl", "notes.txt", "pictures.zip"]
                .map(String::from);
        let card = |files: &str| configurations(&format!("---\nconfigs:\n- config_name: c\n  {files}\n---\n")).unwrap();
        let files = |files: &str| choose(&names, &card(files), None).map(|chosen| chosen.splits);
        let split = |name: &str, format, files: &[&str]| SplitFiles {
            name: name.to_string(),
            files: Ok((format, files.iter().map(ToString::to_string).collect())),
        };
        let csv = FileFormat::Csv;
        assert_eq!(files("data_files: a/*.csv"), Ok(vec![split("train", csv, &["a/x.csv", "a/y.csv"])]));
        assert_eq!(files("data_files: a/**"), Ok(vec![split("train", csv, &["a/deep/z.csv", "a/x.csv", "a/y.csv"])]));
        assert_eq!(files("data_files: [a/y.csv, a/x.csv]"), Ok(vec![split("train", csv, &["a/y.csv", "a/x.csv"])]));
        let json = [split("train", FileFormat::Json, &["b/train.jsonl"]), split("test", FileFormat::Json, &["b/test.jsonl"])];
        assert_eq!(files("data_dir: b"), Ok(json.to_vec()));
        let two = "data_dir: a\n  data_files:\n  - split: second\n    path: y.csv\n  - split: first\n    path: '[x]*'";
        assert_eq!(files(two), Ok(vec![split("second", csv, &["a/y.csv"]), split("first", csv, &["a/x.csv"])]));
        // What is wrong with one split is for who wants it; other kinds of files may be had in another branch.
        let fault = |text: &str| files(text).unwrap()[0].files.clone().unwrap_err();
        assert!(fault("data_files: [c/*.csv, d.*]").contains("no file fits c/*.csv, d.*"));
        assert!(fault("data_files: c.csv").contains("no file c.csv"));
        assert!(fault("data_files: [a/x.csv, notes.txt]").contains("names notes.txt beside files of another format"));
        assert!(fault("data_files: 'a**'").contains("\"a**\" is no pattern"));
        assert_eq!(files("data_files: pictures.zip"), Err(NoChoice::NoData));
        assert_eq!(files("data_files: '*.zip'"), Err(NoChoice::NoData));
        assert_eq!(files("data_dir: nowhere"), Err(NoChoice::NoData));
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

    #[test]
    fn converted_data_sets_have_splits_of_any_name() {
        let chosen = |names: &[&str], configuration: Option<&str>| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let count = |split: SplitFiles| (split.name, split.files.map_or(0, |(_, files)| files.len()));
            choose_converted(&names, configuration).map(|chosen| chosen.splits.into_iter().map(count).collect::<Vec<_>>())
        };
        let names = [
            "default/train_sft/0000.parquet",
            "default/train_sft/0001.parquet",
            "default/train_gen/0000.parquet",
            "default/partial-unsupervised/0000.parquet",
            "test_set/train/0000.parquet",
        ];
        assert_eq!(chosen(&names, None), splits(&[("train_gen", 1), ("train_sft", 2), ("unsupervised", 1)]));
        assert_eq!(chosen(&names, Some("test_set")), splits(&[("train", 1)]));
        let absent = chosen(&names, Some("other"));
        assert!(matches!(&absent, Err(NoChoice::Reason(text)) if text.contains("default, test_set")), "{absent:?}");
        assert_eq!(chosen(&["default/data-train-00000-of-00001.parquet"], None), splits(&[("train", 1)]));
        assert_eq!(chosen(&["README.md"], None), Err(NoChoice::NoData));
    }
}
