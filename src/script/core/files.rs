//! `save_json` and `load_json`.

use crate::error::Error;
use crate::script::context::context;
use crate::script::display;
use crate::script::error::{IntoScript, ScriptResult};
use crate::script::registry::Registry;
use rhai::plugin::*;

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// Writes a value to a file as JSON, whole or not at all. A relative path is taken from the folder given with `--out`.
    ///
    /// ```rhai
    /// save_json(#{ accuracy: 0.9 }, "result.json");
    /// load_json("result.json") // => #{ accuracy: 0.9 }
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save_json(call: NativeCallContext, value: Dynamic, path: &str) -> ScriptResult<()> {
        let path = context(&call)?.output_path(path);
        let mut text = serde_json::to_string_pretty(&display::json(&value)).map_err(|e| format!("save_json: {e}"))?;
        text.push('\n');
        crate::files::write_text(&path, &text).script()
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
