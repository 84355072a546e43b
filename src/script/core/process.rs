//! What a script asks of its process: parameters, time, memory, how exactly it multiplies.

use crate::machine::resident_memory;
use crate::ops::precision::{self, MatmulPrecision};
use crate::script::context::context;
use crate::script::display;
use crate::script::error::{IntoScript, ScriptResult};
use crate::script::registry::Registry;
use rhai::Map;
use rhai::plugin::*;
use std::time::{Duration, Instant};

fn parse_like(key: &str, given: &str, default: &Dynamic) -> ScriptResult<Dynamic> {
    let wrong = |what: &str| format!("--set {key}={given}: \"{key}\" must be {what}");
    if default.is_string() || default.is_unit() {
        Ok(given.to_string().into())
    } else if default.is_bool() {
        given.parse::<bool>().map(Dynamic::from).map_err(|_| wrong("true or false").into())
    } else if default.is_int() {
        given.parse::<i64>().map(Dynamic::from).map_err(|_| wrong("an integer").into())
    } else if default.is_float() {
        match given.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.into()),
            _ => Err(wrong("a number").into()),
        }
    } else {
        let kind = if default.is_array() { "a JSON array" } else { "a JSON object" };
        let value = serde_json::from_str(given).map_err(|e| format!("{}: {e}", wrong(kind)))?;
        let value = display::from_json(&value);
        if value.type_id() == default.type_id() { Ok(value) } else { Err(wrong(kind).into()) }
    }
}

/// The longest wait before the interrupt flag is looked at again, in seconds.
const LONGEST_WAIT: f64 = 0.05;

fn wait(call: &NativeCallContext, seconds: f64) -> ScriptResult<()> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(format!("sleep: the seconds must be 0 or more, given {seconds}").into());
    }
    let control = context(call)?.control.clone();
    let start = Instant::now();
    loop {
        control.check().script()?;
        let left = seconds - start.elapsed().as_secs_f64();
        if left <= 0.0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs_f64(left.min(LONGEST_WAIT)));
    }
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// The value given on the command line with `--set key=value`, parsed to the type of the default; else the default.
    ///
    /// ```rhai
    /// let steps = param("steps", 10);
    /// steps // => 10
    /// ```
    #[rhai_fn(return_raw)]
    pub fn param(call: NativeCallContext, key: &str, default: Dynamic) -> ScriptResult<Dynamic> {
        let context = context(&call)?;
        context.asked.borrow_mut().insert(key.to_string());
        match context.parameters.get(key) {
            Some(given) => parse_like(key, given, &default.flatten()),
            None => Ok(default),
        }
    }

    /// Seconds since 1970, with fractions: the difference of two calls is the time between them.
    ///
    /// ```rhai
    /// let start = time();
    /// time() - start >= 0.0 // => true
    /// ```
    pub fn time() -> f64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
    }

    /// Waits for so many seconds, as Python's `time.sleep`. Ctrl-C ends the wait and the script.
    ///
    /// ```rhai
    /// let start = time();
    /// sleep(0.01);
    /// time() - start >= 0.009 // => true
    /// ```
    #[rhai_fn(return_raw, volatile)]
    pub fn sleep(call: NativeCallContext, seconds: f64) -> ScriptResult<()> {
        wait(&call, seconds)
    }

    /// Waits for so many whole seconds.
    ///
    /// ```rhai
    /// sleep(0);
    /// ```
    #[rhai_fn(name = "sleep", return_raw, volatile)]
    pub fn sleep_whole(call: NativeCallContext, seconds: i64) -> ScriptResult<()> {
        wait(&call, seconds as f64)
    }

    /// How exactly matrices of f32 are multiplied from now on, as `torch.set_float32_matmul_precision`: "highest" (default) in f32; "high"
    /// and "medium" may round the factors first, to TF32 and to bf16, where this machine multiplies those faster. Sums and whatever is stored
    /// stay f32; training in "medium" is what `bf16: true` in TrainingArguments does. Where the machine has nothing faster, all three are the same.
    /// On a processor "medium" keeps weights that are used again and again rounded beside the others: as much memory again at most,
    /// and never more than a quarter of what is free. A rounded weight has 8 significant bits: a change of less than 1/512 of its value
    /// may not show in the loss until more such changes have come.
    ///
    /// ```rhai
    /// set_float32_matmul_precision("medium");
    /// get_float32_matmul_precision() // => "medium"
    /// set_float32_matmul_precision("highest");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn set_float32_matmul_precision(name: &str) -> ScriptResult<()> {
        let Some(wanted) = MatmulPrecision::from_name(name) else {
            return Err(
                format!("set_float32_matmul_precision: there are \"highest\", \"high\" and \"medium\", not \"{name}\"").into()
            );
        };
        precision::set_float32_matmul_precision(wanted);
        Ok(())
    }

    /// How exactly matrices of f32 are multiplied: "highest", "high" or "medium".
    ///
    /// ```rhai
    /// get_float32_matmul_precision() // => "highest"
    /// ```
    pub fn get_float32_matmul_precision() -> String {
        precision::float32_matmul_precision().name().into()
    }

    /// The memory of this process in MB (millions of bytes): `current`, and `peak` since it started. Where a session's device is a CUDA card,
    /// `device` and `device_peak` are what tensors take there.
    ///
    /// ```rhai
    /// let used = memory();
    /// used.peak >= used.current // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn memory(call: NativeCallContext) -> ScriptResult<Map> {
        let (current, peak) = resident_memory();
        let mut used = Map::from([("current".into(), current.into()), ("peak".into(), peak.max(current).into())]);
        if let Some((now, most)) = crate::device::used_memory(&context(&call)?.device()) {
            used.extend([("device".into(), now.into()), ("device_peak".into(), most.into())]);
        }
        Ok(used)
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
