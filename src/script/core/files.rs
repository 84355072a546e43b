//! `save_json` and `load_json`.

use crate::data::IterableDataset;
use crate::error::Error;
use crate::script::context::context;
use crate::script::display;
use crate::script::error::{IntoScript, ScriptResult};
use crate::script::registry::Registry;
use crate::script::tensor::TensorValue;
use crate::script::tensor_data;
use rhai::FnPtr;
use rhai::plugin::*;
use serde_json::Value;

/// The JSON of a value for a file. `place` says where in the whole it is; the places of numbers that JSON does not have are added to
/// `lost`.
///
/// # Errors
/// A function or a stream, of which a file would hold but the name.
fn for_file(value: &Dynamic, place: &dyn Fn() -> String, lost: &mut Vec<String>) -> ScriptResult<Value> {
    if let Ok(number) = value.as_float()
        && !number.is_finite()
    {
        lost.push(format!("{} is {}", place(), display::float(number)));
        return Ok(Value::Null);
    }
    if let Ok(items) = value.as_array_ref() {
        let one = |(i, item): (usize, &Dynamic)| for_file(item, &|| format!("{}[{i}]", place()), lost);
        return items.iter().enumerate().map(one).collect();
    }
    if let Ok(map) = value.as_map_ref() {
        let one = |(key, item): (&rhai::Identifier, &Dynamic)| {
            Ok((key.to_string(), for_file(item, &|| format!("{}.{key}", place()), lost)?))
        };
        return Ok(Value::Object(map.iter().map(one).collect::<ScriptResult<_>>()?));
    }
    if let Some(tensor) = value.read_lock::<TensorValue>() {
        return for_file(&tensor_data::list(&tensor.value()).script()?, place, lost);
    }
    if value.is::<FnPtr>() {
        return Err(format!("save_json: {} is a function, which JSON cannot hold; leave it out", place()).into());
    }
    if value.is::<IterableDataset>() {
        let advice = "its rows are read when they are asked for; save its to_list(), or write a Dataset with to_json";
        return Err(format!("save_json: {} is a stream, which JSON cannot hold: {advice}", place()).into());
    }
    Ok(display::json(value))
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// Writes a value to a file as JSON, whole or not at all. A relative path is taken from the folder given with `--out`. JSON has
    /// neither NaN nor infinite numbers: they are written as null, with a warning. A function or a stream is refused.
    ///
    /// ```rhai
    /// save_json(#{ accuracy: 0.9 }, "result.json");
    /// load_json("result.json") // => #{ accuracy: 0.9 }
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save_json(call: NativeCallContext, value: Dynamic, path: &str) -> ScriptResult<()> {
        let session = context(&call)?;
        let path = session.output_path(path);
        let mut lost = Vec::new();
        let json = for_file(&value, &|| "value".into(), &mut lost)?;
        let mut text = serde_json::to_string_pretty(&json).map_err(|e| format!("save_json: {e}"))?;
        text.push('\n');
        crate::files::write_text(&path, &text).script()?;
        if let Some(first) = lost.first() {
            let more = if lost.len() > 1 { format!(", and {} more such numbers", lost.len() - 1) } else { String::new() };
            let what = "JSON has no such number, null is written in its place";
            session.control.warn(format!("save_json: {}: {first}{more}: {what}", path.display()));
        }
        Ok(())
    }

    /// Reads a JSON file. A relative path is looked for in the folder given with `--out`, then in the working folder.
    ///
    /// ```rhai
    /// save_json([1, 2.5, "x"], "list.json");
    /// load_json("list.json")[1] // => 2.5
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load_json(call: NativeCallContext, path: &str) -> ScriptResult<Dynamic> {
        let path = context(&call)?.input_path(path);
        let text = crate::files::read_text(&path).script()?;
        // Some programs write a byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|e| {
                // serde_json ends its message with the place; the place goes in front, as in a compiler's message.
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or(&message);
                let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or_default();
                let here = line.get(e.column().saturating_sub(1)..).unwrap_or_default();
                let message = match ["NaN", "Infinity", "-Infinity"].iter().find(|word| here.starts_with(**word)) {
                    Some(word) => format!("{word}, which Python writes, is not in JSON; write null or a string there"),
                    None if message == "trailing characters" => {
                        "another value follows; rows, one a line, are read with load_dataset".into()
                    }
                    None => message.to_string(),
                };
                Error::Format {
                    path: format!("{}:{}:{}", path.display(), e.line(), e.column()).into(),
                    message: format!("not valid JSON: {message}"),
                }
            })
            .script()?;
        Ok(display::from_json(&value))
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
