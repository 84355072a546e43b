//! Cells that begin with `%%rust`: compiled and run through evcxr, in a process of their own.
//!
//! `%%rust -i x,w -o y` hands the session's variables `x` and `w` to the cell and takes `y` back, as `%%R` does in IPython. Plain
//! values cross as JSON, tensors as safetensors files; in the cell a tensor is a `Tensor { shape, data }`.

use super::Sender;
use crate::script::convert::to_json;
use crate::script::display;
use crate::script::tensor::TensorValue;
use crate::session::Session;
use candle_core::{DType, Device, Tensor};
use evcxr::{CommandContext, Error, EvalContextOutputs};
use jupyter_protocol::{Media, MediaType, ReplyError};
use rhai::Dynamic;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a cell's results are marked with.
const RETURNED: &str = "application/x-ftrepl.";
/// How often it is looked whether the cell shall stop.
const POLL: Duration = Duration::from_millis(50);

/// What every cell knows: how values come and go. The names that are not meant for users begin with `ftrepl_`.
const PRELUDE: &str = r##"
:dep serde = { version = "1", features = ["derive"] }
:dep serde_json = "1"
:dep safetensors = "0.8"

/// A tensor of the session: its shape and its values, row by row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensor { pub shape: Vec<usize>, pub data: Vec<f32> }

impl Tensor {
    pub fn ftrepl_read(path: &str) -> Self {
        let bytes = std::fs::read(path).expect("a tensor's file");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let view = file.tensor("tensor").expect("the tensor");
        let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Self { shape: view.shape().to_vec(), data }
    }
}

impl serde::Serialize for Tensor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error, SerializeMap};
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let bytes: Vec<u8> = self.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, self.shape.clone(), &bytes).map_err(S::Error::custom)?;
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ftrepl-{}-{number}.safetensors", std::process::id()));
        safetensors::serialize_to_file([("tensor", view)], None, &path).map_err(S::Error::custom)?;
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("ftrepl.safetensors", &path)?;
        map.end()
    }
}

pub fn ftrepl_give<T: serde::Serialize>(name: &str, value: &T) {
    let text = serde_json::to_string(value).expect("a value that JSON can hold");
    println!("EVCXR_BEGIN_CONTENT application/x-ftrepl.{name}\n{text}\nEVCXR_END_CONTENT");
}
"##;

/// The first line of a cell and what is under it.
#[derive(Debug, PartialEq)]
struct Cell<'a> {
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
    code: &'a str,
}

/// evcxr, once it has been asked.
pub(super) struct RustCells {
    context: CommandContext,
    folder: tempfile::TempDir,
}

fn failure(message: impl Into<String>) -> ReplyError {
    let evalue = message.into();
    ReplyError { ename: "Error".into(), traceback: evalue.lines().map(str::to_string).collect(), evalue }
}

fn parse(cell: &str) -> Result<Cell<'_>, ReplyError> {
    let (line, code) = cell.split_once('\n').unwrap_or((cell, ""));
    let mut words = line.split_whitespace().skip(1);
    let mut parsed = Cell { inputs: Vec::new(), outputs: Vec::new(), code };
    while let Some(word) = words.next() {
        let names = match word {
            "-i" => &mut parsed.inputs,
            "-o" => &mut parsed.outputs,
            other => return Err(failure(format!("%%rust takes -i NAMES and -o NAMES, not {other}"))),
        };
        let given = words.next().ok_or_else(|| failure(format!("%%rust: {word} needs names, such as {word} x,y")))?;
        names.extend(given.split(',').filter(|name| !name.is_empty()));
    }
    Ok(parsed)
}

fn words_of(error: &Error) -> String {
    match error {
        Error::CompilationErrors(errors) => errors.iter().map(|e| e.rendered()).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    }
}

impl RustCells {
    /// Starts evcxr; what cells print goes where the session's `print` goes.
    pub(super) fn new(outgoing: &Sender) -> Result<Self, ReplyError> {
        let cannot = |what: String| failure(format!("cells of Rust cannot be run: {what}"));
        let (mut context, outputs) = CommandContext::new().map_err(|e| cannot(words_of(&e)))?;
        let EvalContextOutputs { stdout, stderr } = outputs;
        let (printed, told) = (outgoing.clone(), outgoing.clone());
        std::thread::spawn(move || stdout.iter().for_each(|line| printed.print(&line)));
        std::thread::spawn(move || stderr.iter().for_each(|line| told.tell(&line)));
        context.execute(PRELUDE).map_err(|e| cannot(words_of(&e)))?;
        let folder = tempfile::tempdir().map_err(|e| cannot(e.to_string()))?;
        Ok(Self { context, folder })
    }

    /// Runs a cell.
    pub(super) fn run(&mut self, cell: &str, session: &mut Session) -> Result<Option<Media>, ReplyError> {
        let Cell { inputs, outputs, code } = parse(cell)?;
        let mut program = String::new();
        for name in inputs {
            let value = session.scope().get(name).ok_or_else(|| failure(format!("%%rust: there is no variable `{name}`")))?;
            program += &self.input(name, &value.flatten_clone())?;
        }
        program += code;
        for name in &outputs {
            program += &format!("\nftrepl_give(\"{name}\", &{name});");
        }
        let found = self.execute(&program, &session.control().flag())?;
        let mut shown = Vec::new();
        for (kind, content) in found {
            match kind.strip_prefix(RETURNED) {
                Some(name) => session.set(name, value_of(&content)?),
                None if kind == "text/html" => shown.push(MediaType::Html(content)),
                None if kind == "image/svg+xml" => shown.push(MediaType::Svg(content)),
                None if kind == "text/plain" => shown.push(MediaType::Plain(content)),
                None => {}
            }
        }
        Ok((!shown.is_empty()).then(|| Media::new(shown)))
    }

    /// The line that declares a variable of the session in the cell.
    fn input(&self, name: &str, value: &Dynamic) -> Result<String, ReplyError> {
        if let Some(tensor) = value.read_lock::<TensorValue>() {
            let path = self.folder.path().join(format!("{name}.safetensors"));
            write_tensor(&tensor.value(), &path).map_err(|e| failure(format!("%%rust: {name}: {e}")))?;
            return Ok(format!("let {name}: Tensor = Tensor::ftrepl_read({:?});\n", path.display().to_string()));
        }
        let plain = to_json(value).map_err(|e| failure(format!("%%rust: {name} cannot cross to Rust: {e}")))?;
        Ok(match &plain {
            Value::Bool(flag) => format!("let {name}: bool = {flag};\n"),
            Value::Number(number) if number.is_i64() => format!("let {name}: i64 = {number};\n"),
            Value::Number(number) => format!("let {name}: f64 = {:?};\n", number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => format!("let {name}: String = {text:?}.to_string();\n"),
            other => {
                let text = other.to_string();
                format!("let {name}: serde_json::Value = serde_json::from_str({text:?}).expect(\"JSON\");\n")
            }
        })
    }

    /// Compiles and runs; the flag ends the process of the cells.
    fn execute(&mut self, program: &str, interrupt: &Arc<AtomicBool>) -> Result<HashMap<String, String>, ReplyError> {
        let process = self.context.process_handle();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let flag = interrupt.clone();
        let watch = std::thread::spawn(move || {
            while is_done.recv_timeout(POLL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                if flag.load(Ordering::Relaxed) {
                    let _ = process.lock().unwrap_or_else(|e| e.into_inner()).kill();
                    break;
                }
            }
        });
        let outcome = self.context.execute(program);
        drop(done);
        let _ = watch.join();
        if interrupt.load(Ordering::Relaxed) {
            let evalue = "interrupted; the variables of Rust are lost, those of the session are kept".to_string();
            return Err(ReplyError { ename: "Interrupted".into(), traceback: vec![evalue.clone()], evalue });
        }
        outcome.map(|outputs| outputs.content_by_mime_type).map_err(|e| failure(words_of(&e)))
    }
}

fn write_tensor(tensor: &Tensor, path: &Path) -> candle_core::Result<()> {
    let plain = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    candle_core::safetensors::save(&HashMap::from([("tensor", plain)]), path)
}

/// A value that a cell gave back.
fn value_of(text: &str) -> Result<Dynamic, ReplyError> {
    let value: Value = serde_json::from_str(text).map_err(|e| failure(format!("%%rust: {e}")))?;
    let Some(path) = value.get("ftrepl.safetensors").and_then(Value::as_str) else { return Ok(display::from_json(&value)) };
    let read = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| failure(format!("%%rust: {path}: {e}")))?;
    let _ = std::fs::remove_file(path);
    let tensor = read.get("tensor").ok_or_else(|| failure(format!("%%rust: {path} holds no tensor")))?;
    Ok(Dynamic::from(TensorValue::new(tensor.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_what_crosses() {
        assert_eq!(
            parse("%%rust -i x,w -o y\nlet y = x;").unwrap(),
            Cell { inputs: vec!["x", "w"], outputs: vec!["y"], code: "let y = x;" }
        );
        assert_eq!(parse("%%rust").unwrap(), Cell { inputs: vec![], outputs: vec![], code: "" });
        assert!(parse("%%rust --in x").unwrap_err().evalue.contains("-i NAMES"));
        assert!(parse("%%rust -i").unwrap_err().evalue.contains("needs names"));
    }
}
