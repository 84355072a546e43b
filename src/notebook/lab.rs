//! A session of the language inside a program in Rust.

use super::progress::Progress;
use super::{failure, in_evcxr};
use crate::adapter::ModelHandle;
use crate::control::Control;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::Tokenizer;
use crate::script::context::Canvas;
use crate::script::tensor::TensorValue;
use crate::session::faces::Faces;
use crate::session::{Builder, Session};
use crate::show::{Figure, Table};
use candle_core::Tensor;
use rhai::{Array, Dynamic};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A session of the language whose variables a program in Rust can read and set.
///
/// ```
/// use ftrepl::prelude::*;
/// let mut lab = Lab::new()?;
/// lab.set("x", Tensor::new(&[1f32, 2.0], &candle_core::Device::Cpu)?);
/// assert_eq!(lab.run("x.sum()").text(), "tensor(3.)");
/// let x: Tensor = lab.get("x")?;
/// assert_eq!(x.dims(), [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lab {
    // Behind a table of functions: evcxr links this library into every cell anew, and the session's code must stay that of the cell
    // which made it, with its statics.
    core: Box<dyn Core>,
}

/// What a [`Lab`] asks of its session.
trait Core {
    fn run(&mut self, code: &str) -> std::result::Result<Faces, String>;
    fn get(&self, name: &str) -> Option<Dynamic>;
    fn set(&mut self, name: &str, value: Dynamic);
    fn fail(&self, report: &str) -> !;
}

/// The last value of a run, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    pub(super) faces: Faces,
}

/// A script's error in words, with the line and a caret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LabError(pub String);

impl Shown {
    /// The text that a terminal shows; empty where there is nothing to show.
    pub fn text(&self) -> &str {
        &self.faces.text
    }
}

/// A Rust type that a variable of the language can be read as.
pub trait FromScript: Sized {
    /// What the type is called in errors.
    const NAME: &'static str;

    /// The value, if it is of this type.
    fn from_script(value: &Dynamic) -> Option<Self>;
}

macro_rules! readable {
    ($($kind:ty, $name:literal, $read:expr;)*) => {
        $(impl FromScript for $kind {
            const NAME: &'static str = $name;

            fn from_script(value: &Dynamic) -> Option<Self> {
                let read: fn(&Dynamic) -> Option<Self> = $read;
                read(value)
            }
        })*
    };
}

readable! {
    Tensor, "a tensor", |value| value.read_lock::<TensorValue>().map(|tensor| tensor.value());
    ModelHandle, "a model", |value| value.read_lock::<ModelHandle>().map(|model| model.clone());
    Tokenizer, "a tokenizer", |value| value.read_lock::<Tokenizer>().map(|tokenizer| tokenizer.clone());
    Dataset, "a data set", |value| value.read_lock::<Dataset>().map(|data| data.clone());
    Figure, "a figure", |value| value.read_lock::<Figure>().map(|figure| figure.clone());
    Table, "a table", |value| value.read_lock::<Table>().map(|table| table.clone());
    f64, "a number", crate::script::convert::to_number;
    f32, "a number", |value| crate::script::convert::to_number(value).map(|number| number as f32);
    i64, "an integer", |value| value.as_int().ok();
    i32, "an integer of 32 bits", |value| value.as_int().ok().and_then(|number| number.try_into().ok());
    usize, "an integer of at least 0", |value| value.as_int().ok().and_then(|number| number.try_into().ok());
    bool, "true or false", |value| value.as_bool().ok();
    String, "a string", |value| value.as_immutable_string_ref().ok().map(|text| text.to_string());
    serde_json::Value, "a plain value", |value| crate::script::convert::to_json(value).ok();
    Dynamic, "a value", |value| Some(value.clone());
}

impl<T: FromScript> FromScript for Vec<T> {
    const NAME: &'static str = "an array whose items are all of the wanted type";

    fn from_script(value: &Dynamic) -> Option<Self> {
        value.read_lock::<Array>()?.iter().map(T::from_script).collect()
    }
}

/// A Rust value that a variable of the language can be set to.
pub trait IntoScript {
    /// The value as scripts see it.
    fn into_script(self) -> Dynamic;
}

macro_rules! writable {
    ($($kind:ty, $write:expr;)*) => {
        $(impl IntoScript for $kind {
            fn into_script(self) -> Dynamic {
                let write: fn(Self) -> Dynamic = $write;
                write(self)
            }
        })*
    };
}

writable! {
    Tensor, |tensor| Dynamic::from(TensorValue { tensor: tensor.detach(), leaf: None });
    ModelHandle, Dynamic::from;
    Tokenizer, Dynamic::from;
    Dataset, Dynamic::from;
    Figure, Dynamic::from;
    Table, Dynamic::from;
    f64, Dynamic::from;
    f32, |number| Dynamic::from(f64::from(number));
    i64, Dynamic::from;
    i32, |number| Dynamic::from(i64::from(number));
    usize, |number| Dynamic::from(i64::try_from(number).unwrap_or(i64::MAX));
    bool, Dynamic::from;
    String, Dynamic::from;
    &str, |text| Dynamic::from(text.to_string());
    serde_json::Value, |value| crate::script::display::from_json(&value);
    Dynamic, |value| value;
}

impl<T: IntoScript> IntoScript for Vec<T> {
    fn into_script(self) -> Dynamic {
        Dynamic::from_array(self.into_iter().map(T::into_script).collect())
    }
}

/// Keeps what a script shows in the middle: evcxr shows one value a cell, so that the last of them becomes the cell's where it has
/// none of its own; those before are printed.
#[derive(Debug, Clone, Default)]
struct Kept(Rc<RefCell<Option<Faces>>>);

impl Kept {
    /// What waits; this waits from now on.
    fn replace(&self, faces: Option<Faces>) -> Option<Faces> {
        std::mem::replace(&mut *self.0.borrow_mut(), faces)
    }
}

impl Canvas for Kept {
    fn show(&self, value: &Dynamic) {
        if let Some(before) = self.replace(Some(Faces::of(value))) {
            println!("{}", before.text);
        }
    }

    fn clear(&self, _: bool) {
        self.replace(None);
    }
}

struct InProcess {
    session: Session,
    kept: Kept,
}

impl Core for InProcess {
    fn run(&mut self, code: &str) -> std::result::Result<Faces, String> {
        match self.session.eval_line(code) {
            Ok(value) => {
                let muted = value.is_unit() || self.session.is_muted(code);
                let faces = match (muted, self.kept.replace(None)) {
                    (true, kept) => kept.unwrap_or_default(),
                    (false, kept) => {
                        if let Some(kept) = kept {
                            println!("{}", kept.text);
                        }
                        Faces::of(&value)
                    }
                };
                if !value.is_unit() {
                    self.session.set("ans", value);
                }
                Ok(faces)
            }
            Err(error) => {
                if let Some(kept) = self.kept.replace(None) {
                    println!("{}", kept.text);
                }
                Err(self.session.report(&error, &self.session.line_name(), false))
            }
        }
    }

    fn get(&self, name: &str) -> Option<Dynamic> {
        self.session.scope().get(name).map(|value| value.flatten_clone())
    }

    fn set(&mut self, name: &str, value: Dynamic) {
        self.session.set(name, value);
    }

    fn fail(&self, report: &str) -> ! {
        failure::fail(report)
    }
}

impl Lab {
    /// A lab on the best device of this machine, with progress on standard output.
    ///
    /// # Errors
    /// There is no device.
    pub fn new() -> Result<Self> {
        Self::with(Session::builder())
    }

    /// A lab with these settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn with(builder: Builder) -> Result<Self> {
        Self::made(builder, in_evcxr())
    }

    fn made(builder: Builder, notebook: bool) -> Result<Self> {
        crate::autograd::buffer::keep_freed_memory();
        // This thread computes as one of the pool's. It fails where the pool is in use already, which then works as well.
        let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
        let control = Control::new(Arc::default(), Arc::new(Progress::new()));
        let kept = Kept::default();
        let builder = builder.control(control);
        let session = if notebook { builder.canvas(kept.clone()) } else { builder }.build()?;
        Ok(Self { core: Box::new(InProcess { session, kept }) })
    }

    /// Runs code of the language; variables and functions stay for the next.
    ///
    /// An error of the script ends the cell: evcxr shows it as failed, and all variables stay. Outside evcxr it is a panic;
    /// [`Lab::try_run`] gives it back instead.
    pub fn run(&mut self, code: &str) -> Shown {
        match self.core.run(code) {
            Ok(faces) => Shown { faces },
            Err(report) => self.core.fail(&report),
        }
    }

    /// As [`Lab::run`], for programs that handle the error. In evcxr a cell that ends with `?` counts as done all the same.
    ///
    /// # Errors
    /// The script's error in words.
    pub fn try_run(&mut self, code: &str) -> std::result::Result<Shown, LabError> {
        self.core.run(code).map(|faces| Shown { faces }).map_err(LabError)
    }

    /// A variable's value.
    ///
    /// # Errors
    /// There is no such variable, or it is of another type.
    pub fn get<T: FromScript>(&self, name: &str) -> Result<T> {
        let Some(value) = self.core.get(name) else {
            return Err(Error::argument(format!("the lab has no variable `{name}`")));
        };
        T::from_script(&value).ok_or_else(|| {
            Error::argument(format!("the variable `{name}` is not {}, but of type {}", T::NAME, value.type_name()))
        })
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl IntoScript) {
        self.core.set(name, value.into_script());
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if in_evcxr() { "Lab of a notebook" } else { "Lab" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn values_cross_over_and_back() {
        let mut lab = Lab::with(Session::builder().device("cpu")).unwrap();
        lab.set("w", Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap());
        lab.set("name", "x");
        lab.set("rows", serde_json::json!([{ "a": 1 }]));
        lab.run("let twice = w * 2; let n = rows[0].a; let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");");
        assert_eq!(lab.get::<Tensor>("twice").unwrap().to_vec1::<f32>().unwrap(), [2.0, 4.0]);
        assert_eq!(lab.get::<i64>("n").unwrap(), 1);
        assert_eq!(lab.get::<f64>("n").unwrap(), 1.0);
        assert_eq!((lab.get::<usize>("n").unwrap(), lab.get::<i32>("n").unwrap(), lab.get::<f32>("n").unwrap()), (1, 1, 1.0));
        lab.set("losses", vec![vec![2.5f32, 1.5], vec![]]);
        lab.set("count", 3);
        lab.run("let longer = losses.map(|row| row.len()); longer.push(count); let names = [\"a\", \"b\"]; let below = -1;");
        assert_eq!(lab.get::<Vec<usize>>("longer").unwrap(), [2, 0, 3]);
        assert_eq!(lab.get::<Vec<Vec<f64>>>("losses").unwrap(), [vec![2.5, 1.5], vec![]]);
        assert_eq!(lab.get::<Vec<String>>("names").unwrap(), ["a", "b"]);
        assert!(lab.get::<Vec<f64>>("names").unwrap_err().to_string().contains("is not an array whose items are all"));
        assert!(lab.get::<usize>("below").unwrap_err().to_string().contains("is not an integer of at least 0"));
        assert_eq!(lab.get::<String>("name").unwrap(), "x");
        let model: ModelHandle = lab.get("model").unwrap();
        lab.set("again", model);
        assert_eq!(lab.run("again.num_parameters()").text(), "28192");
        assert!(lab.get::<Tensor>("name").unwrap_err().to_string().contains("is not a tensor"));
        assert!(lab.get::<i64>("gone").unwrap_err().to_string().contains("no variable `gone`"));
    }

    #[test]
    fn errors_are_told_and_nothing_is_lost() {
        let mut lab = Lab::with(Session::builder().device("cpu")).unwrap();
        assert_eq!(lab.run("let x = 1;").text(), "");
        let error = lab.try_run("foo(x)").unwrap_err();
        assert!(error.to_string().contains("no function is called `foo`"), "{error}");
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.run("foo(x)")));
        assert!(caught.is_err());
        assert_eq!(lab.run("x + 1").text(), "2");
        // Of what is shown in the middle of a notebook's cell the last is the cell's.
        let mut lab = Lab::made(Session::builder().device("cpu"), true).unwrap();
        let shown = lab.run("print(plot([1, 2])); print(table([#{ a: 1 }]));");
        assert!(shown.faces.html.is_some_and(|html| html.contains("<table>")));
        assert_eq!(lab.run("let x = 1;").text(), "");
    }
}
