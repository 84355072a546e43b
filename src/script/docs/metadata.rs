//! From the JSON that Rhai writes about its functions to the [`Reference`].

use super::{Entry, Kind, Reference, Signature};
use crate::script::names::pretty_type;
use rhai::{Engine, FuncMetadata};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ModuleData {
    modules: BTreeMap<String, ModuleData>,
    custom_types: Vec<TypeData>,
    functions: Vec<FunctionData>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TypeData {
    type_name: String,
    display_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct FunctionData {
    full_hash: u64,
    access: String,
    is_anonymous: bool,
    name: String,
    num_params: usize,
    params: Vec<ParameterData>,
    return_type: String,
    doc_comments: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ParameterData {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl From<&FuncMetadata> for FunctionData {
    /// As Rhai's JSON has it, of a native function.
    fn from(metadata: &FuncMetadata) -> Self {
        let known = |text: &str| Some(text.trim()).filter(|text| !["", "?", "_"].contains(text)).map(str::to_string);
        let parameter = |described: &str| {
            let (name, kind) = described.split_once(':').unwrap_or((described, ""));
            ParameterData { name: known(name), kind: known(kind) }
        };
        Self {
            full_hash: metadata.hash,
            name: metadata.name.to_string(),
            num_params: metadata.num_params,
            params: metadata.params_info.iter().map(|described| parameter(described)).collect(),
            return_type: metadata.return_type.to_string(),
            doc_comments: metadata.comments.iter().map(|comment| comment.to_string()).collect(),
            ..Self::default()
        }
    }
}

pub(super) type Types = HashMap<String, String, ahash::RandomState>;

pub(super) fn read(engine: &Engine) -> Reference {
    let ours: ModuleData = serde_json::from_str(&engine.gen_fn_metadata_to_json(false).unwrap_or_default()).unwrap_or_default();
    let names: HashSet<(&str, u64), ahash::RandomState> =
        ours.functions.iter().map(|own| (own.name.as_str(), own.full_hash)).collect();
    let names = &names;
    // Rhai's own are most of them. Not by JSON: completion waits for this.
    let standard = engine.collect_fn_metadata(
        None,
        |function| {
            let metadata = function.metadata;
            let ours = !function.namespace.is_empty() || names.contains(&(metadata.name.as_str(), metadata.hash));
            (!ours).then(|| FunctionData::from(metadata))
        },
        true,
    );
    let mut types = Types::default();
    gather_types(&ours, &mut types);
    let mut entries = BTreeMap::new();
    gather(&ours, "", &types, &mut entries);
    standard.iter().for_each(|function| add(function, "", false, &types, &mut entries));
    Reference { entries: entries.into_values().map(in_order).collect(), types }
}

/// Rhai lists overloads in no order. Those with few parameters come first, and what refers to another description comes behind it.
fn in_order(mut entry: Entry) -> Entry {
    entry.signatures.sort_by_cached_key(|signature| {
        let types: Vec<String> = signature.parameters.iter().map(|(_, kind)| kind.clone()).collect();
        // Tensors and models before numbers and texts: they are what the language is about.
        let plain = types.first().is_some_and(|kind| kind.starts_with(char::is_lowercase));
        (types.len(), plain, types)
    });
    entry.docs.sort_by_cached_key(|doc| {
        let refers = ["The same", "As "].iter().any(|start| doc.starts_with(start));
        (refers, std::cmp::Reverse(doc.len()), doc.clone())
    });
    entry
}

fn gather_types(module: &ModuleData, types: &mut Types) {
    for data in &module.custom_types {
        let short = data.type_name.rsplit("::").next().unwrap_or(&data.type_name).to_string();
        types.insert(data.type_name.clone(), data.display_name.clone());
        types.insert(short, data.display_name.clone());
    }
    for inner in module.modules.values() {
        gather_types(inner, types);
    }
}

type Entries = BTreeMap<(String, Kind), Entry>;

fn gather(module: &ModuleData, path: &str, types: &Types, entries: &mut Entries) {
    module.functions.iter().for_each(|function| add(function, path, true, types, entries));
    for (name, inner) in &module.modules {
        let path = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
        gather(inner, &path, types, entries);
    }
}

fn add(function: &FunctionData, path: &str, ours: bool, types: &Types, entries: &mut Entries) {
    // Names with an underscore in front are for the functions that are written in the language.
    let hidden = function.name.starts_with("anon$") || function.name.starts_with('_');
    if function.is_anonymous || function.access == "private" || hidden {
        return;
    }
    let (name, kind) = match function.name.split_once('$') {
        // A property is documented by its getter.
        Some(("get", name)) => (name, Kind::Property),
        Some(("index", rest)) if rest.starts_with("get") => ("[]", Kind::Operator),
        Some(_) => return,
        // How scripts write it; see `script::names`.
        None if function.name == "eval_mode" => ("eval", Kind::Function),
        None => (function.name.as_str(), Kind::Function),
    };
    let identifier = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let kind = if identifier { kind } else { Kind::Operator };
    let full = if path.is_empty() || kind != Kind::Function { name.to_string() } else { format!("{path}::{name}") };
    let entry = entries.entry((full.clone(), kind)).or_insert_with(|| Entry {
        name: full,
        kind,
        signatures: Vec::new(),
        docs: Vec::new(),
        ours,
    });
    let signature = signature(function, types);
    if !entry.signatures.contains(&signature) {
        entry.signatures.push(signature);
    }
    // What the language defines again has its own description, not Rhai's.
    let doc = doc(&function.doc_comments);
    if !doc.is_empty() && ours == entry.ours && !entry.docs.contains(&doc) {
        entry.docs.push(doc);
    }
}

fn signature(function: &FunctionData, types: &Types) -> Signature {
    let custom = |name: &str| types.get(name).cloned();
    let script = function.kind == "script";
    let described = function.params.iter().enumerate().map(|(index, parameter)| {
        let name = parameter.name.clone().unwrap_or_else(|| format!("arg{}", index + 1));
        // A function written in the language takes anything; saying "any" of each parameter would only be noise.
        let kind = if script { String::new() } else { pretty_type(parameter.kind.as_deref().unwrap_or(""), &custom) };
        (name, kind)
    });
    let mut parameters: Vec<_> = described.filter(|(_, kind)| kind != "NativeCallContext").collect();
    // Bare closures carry no description, only a count.
    for index in parameters.len()..function.num_params {
        parameters.push((format!("arg{}", index + 1), "any".into()));
    }
    parameters.truncate(function.num_params);
    let returns =
        if script || function.return_type.is_empty() { String::new() } else { pretty_type(&function.return_type, &custom) };
    Signature { parameters, returns }
}

/// The text of doc comments without their markers.
fn doc(comments: &[String]) -> String {
    let mut lines = Vec::new();
    for comment in comments {
        for line in comment.lines() {
            let line = line.trim_start();
            let text = line.strip_prefix("///").or_else(|| line.strip_prefix("/**")).unwrap_or(line).trim_end_matches("*/");
            lines.push(text.strip_prefix(' ').unwrap_or(text).trim_end().to_string());
        }
    }
    lines.join("\n").trim().to_string()
}
