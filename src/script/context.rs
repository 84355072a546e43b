//! What the language's functions share: device, random source, interrupt and progress, the script's arguments.

use super::error::ScriptResult;
use super::registry::OptionCatalogue;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::random::Random;
use candle_core::Device;
use rhai::{Dynamic, Engine, NativeCallContext};
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The state behind the functions of one session; reached from a function through [`context`].
#[derive(Debug)]
pub struct Context {
    /// Interrupt flag and progress.
    pub control: Control,
    /// The options of the functions that take some.
    pub options: OptionCatalogue,
    device: RefCell<Device>,
    /// The session's one random source; `manual_seed` restarts it.
    pub random: RefCell<Random>,
    /// `--set KEY=VALUE`, read by `param(key, default)`.
    pub parameters: BTreeMap<String, String>,
    /// The keys that the script has asked for.
    pub asked: RefCell<BTreeSet<String>>,
    /// Words after `--`, read as `args`.
    pub arguments: Vec<String>,
    /// `--out`: where scripts put their files.
    pub out: PathBuf,
    /// Makes a second engine that knows the language and this context.
    pub second: Second,
    /// A front that shows values in a way of its own in the middle of a script; elsewhere they are printed as text.
    pub canvas: Option<Rc<dyn Canvas>>,
    /// The warnings that one telling is enough for.
    told: RefCell<BTreeSet<String>>,
}

/// How the second engine is made, and the engine.
#[derive(Default)]
pub struct Second {
    /// Set once by the session.
    pub make: OnceCell<Box<dyn Fn() -> Result<Engine>>>,
    made: OnceCell<Rc<Engine>>,
}

impl std::fmt::Debug for Second {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.made.get().is_some() { "Second(made)" } else { "Second" })
    }
}

/// A place for values with faces: a notebook's cell.
pub trait Canvas: std::fmt::Debug {
    /// Shows a value in its best face.
    fn show(&self, value: &Dynamic);
    /// Takes away what the running input has shown, with `wait` only when the next thing is shown.
    fn clear(&self, wait: bool);
}

impl Context {
    /// A context that creates tensors on `device`, with a random source that starts at `seed` and no arguments.
    pub fn new(control: Control, options: OptionCatalogue, device: Device, seed: u64) -> Self {
        Self {
            control,
            options,
            device: RefCell::new(device),
            random: RefCell::new(Random::new(seed)),
            parameters: BTreeMap::new(),
            asked: RefCell::default(),
            arguments: Vec::new(),
            out: PathBuf::from("."),
            second: Second::default(),
            canvas: None,
            told: RefCell::default(),
        }
    }

    /// Warns, but of the same only once in a session: of options that a loop gives again and again.
    pub fn warn_once(&self, message: String) {
        if !self.told.borrow().contains(&message) {
            self.control.warn(&message);
            self.told.borrow_mut().insert(message);
        }
    }

    /// An engine for a script's functions that are called when no call from the script is at hand: those of a stream, whose rows are
    /// made while a `for` loop asks for them. Made when it is first needed.
    ///
    /// # Errors
    /// The session has none, or it cannot be made.
    pub fn engine(&self) -> Result<Rc<Engine>> {
        if let Some(engine) = self.second.made.get() {
            return Ok(engine.clone());
        }
        let make = self.second.make.get().ok_or_else(|| Error::argument("this engine has no session"))?;
        let engine = Rc::new(make()?);
        Ok(self.second.made.get_or_init(|| engine).clone())
    }

    /// Where models and tensors are created.
    pub fn device(&self) -> Device {
        self.device.borrow().clone()
    }

    /// From now on models and tensors are created there.
    pub fn set_device(&self, device: Device) {
        *self.device.borrow_mut() = device;
    }

    /// Where a script's file goes: a relative path is taken from the folder given with `--out`.
    pub fn output_path(&self, path: impl AsRef<Path>) -> PathBuf {
        // Joining to "." would only make messages longer.
        if self.out.as_os_str() == "." { path.as_ref().to_path_buf() } else { self.out.join(path) }
    }

    /// Where a script's file is read from: the folder given with `--out` if it is there, else the path as it is.
    pub fn input_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let written = self.output_path(path.as_ref());
        if written.exists() { written } else { path.as_ref().to_path_buf() }
    }
}

/// A [`Context`] as the engine's tag carries it.
#[derive(Debug, Clone)]
pub struct SharedContext(pub Rc<Context>);

/// The context of the session in which a function was called.
///
/// # Errors
/// The engine was not made by [`crate::session`].
pub fn context(call: &NativeCallContext) -> ScriptResult<Rc<Context>> {
    call.tag()
        .and_then(|tag: &Dynamic| tag.clone().try_cast::<SharedContext>())
        .map(|shared| shared.0)
        .ok_or_else(|| "this engine has no session".into())
}

/// Prints a text where the session's `print` goes; a table or a report of a function that is called for what it shows.
///
/// # Errors
/// The output is gone.
pub fn print(call: &NativeCallContext, text: impl Into<String>) -> ScriptResult<()> {
    call.call_native_fn::<Dynamic>("print", (text.into(),)).map(|_| ())
}
