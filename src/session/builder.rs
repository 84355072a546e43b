//! How a session is set up: seed, device, threads, output, parameters.

use super::imports::{Imported, Resolver};
use super::{Session, Sources, help, stdlib};
use crate::adapter::ModelHandle;
use crate::control::{Control, Silent};
use crate::error::{Error, Result};
use crate::script::context::{Canvas, Context, SharedContext};
use crate::show::{Figure, Table};
use rhai::{AST, Dynamic, Engine, OptimizationLevel, Scope, Variant};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The settings of a [`Session`].
pub struct Builder {
    seed: u64,
    device: String,
    threads: Option<usize>,
    out: PathBuf,
    parameters: BTreeMap<String, String>,
    arguments: Vec<String>,
    control: Control,
    output: Rc<dyn Fn(&str)>,
    canvas: Option<Rc<dyn Canvas>>,
    call_levels: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            seed: 0,
            device: "auto".into(),
            threads: None,
            out: PathBuf::from("."),
            parameters: BTreeMap::new(),
            arguments: Vec::new(),
            control: Control::new(Arc::default(), Arc::new(Silent)),
            // A closed standard output is the front's matter.
            output: Rc::new(|text| drop(writeln!(std::io::stdout(), "{text}"))),
            canvas: None,
            call_levels: 64,
        }
    }
}

impl Builder {
    /// The random source starts as `torch.manual_seed(seed)`; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// "auto" (the default), "cpu", "cuda", "cuda:N" or "metal".
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.device = device.to_string();
        self
    }

    /// The number of threads of the process's pool; all cores unless set. Only the first session of a process can set it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The folder that scripts write relative paths into; the working folder unless set.
    #[must_use]
    pub fn out(mut self, out: impl Into<PathBuf>) -> Self {
        self.out = out.into();
        self
    }

    /// What `param(key, default)` finds.
    #[must_use]
    pub fn parameters(mut self, parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// What scripts see as `args`.
    #[must_use]
    pub fn arguments(mut self, arguments: Vec<String>) -> Self {
        self.arguments = arguments;
        self
    }

    /// The interrupt flag and where progress goes; silent unless set.
    #[must_use]
    pub fn control(mut self, control: Control) -> Self {
        self.control = control;
        self
    }

    /// Where `print` goes, a text at a time without its line break; standard output unless set.
    #[must_use]
    pub fn output(mut self, output: impl Fn(&str) + 'static) -> Self {
        self.output = Rc::new(output);
        self
    }

    /// Where `display(value)` shows a value; printed as text unless set.
    #[must_use]
    pub fn canvas(mut self, canvas: impl Canvas + 'static) -> Self {
        self.canvas = Some(Rc::new(canvas));
        self
    }

    /// How deep functions may call functions; 64 unless set, which a thread's usual stack of 2 MB holds.
    #[must_use]
    pub fn call_levels(mut self, levels: usize) -> Self {
        self.call_levels = levels;
        self
    }

    /// Makes the session.
    ///
    /// # Errors
    /// The device is unknown, not in this build or not in this machine; the number of threads is 0.
    pub fn build(self) -> Result<Session> {
        let device = crate::device::parse(&self.device)?;
        if let Some(threads) = self.threads {
            set_threads(threads)?;
        }
        let mut engine = Engine::new();
        let mut options = crate::script::register(&mut engine);
        stdlib::add_options(&mut options);
        let mut context = Context::new(self.control.clone(), options, device, self.seed);
        context.parameters = self.parameters;
        context.arguments = self.arguments;
        context.out = self.out;
        context.canvas = self.canvas;
        let context = Rc::new(context);
        let (output, call_levels) = (self.output, self.call_levels);
        let imported: Rc<Imported> = Rc::default();
        let globals = equip(&mut engine, &context, &imported, &output, call_levels)?;
        let (weak, shared) = (Rc::downgrade(&context), imported.clone());
        let make = move || {
            let context = weak.upgrade().ok_or_else(|| Error::argument("the session has ended"))?;
            let mut engine = Engine::new();
            crate::script::register(&mut engine);
            equip(&mut engine, &context, &shared, &output, call_levels)?;
            // Calls bring the context along; this engine lies in it and must not keep it alive.
            engine.set_default_tag(Dynamic::UNIT);
            Ok(engine)
        };
        // A context that is new has none yet.
        let _ = context.second.make.set(Box::new(make));
        Ok(Session {
            engine,
            scope: Scope::new(),
            library: AST::empty(),
            imports: AST::empty(),
            imported,
            modules: BTreeMap::new(),
            inner_modules: BTreeMap::new(),
            context,
            sources: Sources::default(),
            lines: 0,
            globals,
        })
    }
}

/// Gives an engine that knows the language what belongs to a session; gives the names of the global variables.
fn equip(
    engine: &mut Engine,
    context: &Rc<Context>,
    imported: &Rc<Imported>,
    output: &Rc<dyn Fn(&str)>,
    call_levels: usize,
) -> Result<Vec<String>> {
    help::register(engine);
    set_limits(engine, call_levels);
    crate::script::names::free_reserved_words(engine);
    engine.set_default_tag(Dynamic::from(SharedContext(context.clone())));
    engine.set_module_resolver(Resolver(imported.clone()));
    let control = context.control.clone();
    engine.on_progress(move |_| control.interrupted().then(|| Dynamic::from("interrupted")));
    let shown = Rc::new(Cell::new(false));
    if let Some(canvas) = &context.canvas {
        show_what_is_printed::<Figure>(engine, canvas, &shown);
        show_what_is_printed::<Table>(engine, canvas, &shown);
    }
    let (printed, debugged) = (output.clone(), output.clone());
    engine.on_print(move |text| {
        if !shown.take() {
            printed(text);
        }
    });
    engine.on_debug(move |text, _, position| debugged(&format!("[{position}] {text}")));
    let arguments: rhai::Array = context.arguments.iter().cloned().map(Dynamic::from).collect();
    let mut globals = BTreeMap::from([("args".to_string(), Dynamic::from(arguments))]);
    globals.extend(stdlib::load(engine).map_err(|e| Error::argument(format!("the standard library does not load: {e}")))?);
    let names = globals.keys().cloned().collect();
    resolve_variables(engine, globals);
    Ok(names)
}

/// A figure or table that is printed is shown as what it is where there is a place for it.
fn show_what_is_printed<T: Variant + Clone>(engine: &mut Engine, canvas: &Rc<dyn Canvas>, shown: &Rc<Cell<bool>>) {
    let (canvas, shown) = (canvas.clone(), shown.clone());
    engine.register_fn("print", move |value: &mut T| {
        canvas.show(&Dynamic::from(value.clone()));
        // What is returned is printed next.
        shown.set(true);
        String::new()
    });
}

/// A variable that a closure captured is locked while a method of it runs, so `model.disable_adapter(|| model.forward(x))` would
/// fail. A model is a handle: the method gets a copy of it, and nothing is locked.
///
/// A global, such as `args`, is what its name means where nothing else has it. As a constant of a module alone, a closure would not find
/// it: it looks where it was made for what it captures.
fn resolve_variables(engine: &mut Engine, globals: BTreeMap<String, Dynamic>) {
    #[allow(deprecated, reason = "marked so by Rhai only to say that it may change")]
    engine.on_var(move |name, _, context| {
        Ok(match context.scope().get(name) {
            Some(value) if value.is_shared() && value.flatten_clone().is::<ModelHandle>() => Some(value.flatten_clone()),
            None => globals.get(name).cloned(),
            Some(_) => None,
        })
    });
}

/// Rhai's limits depend on its build; ours do not.
fn set_limits(engine: &mut Engine, call_levels: usize) {
    engine.set_max_call_levels(call_levels);
    engine.set_max_expr_depths(128, 128);
    engine.set_max_operations(0);
    engine.set_max_string_size(0);
    engine.set_max_array_size(0);
    engine.set_max_map_size(0);
    engine.set_max_modules(usize::MAX);
    engine.set_max_functions(usize::MAX);
    engine.set_max_variables(usize::MAX);
    // The optimiser puts a constant's value in the place of every name like it: of a function's parameter (`args` is a global constant), and
    // of a loop's variable.
    engine.set_optimization_level(OptimizationLevel::None);
}

fn set_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(Error::argument("threads must be 1 or more, given 0"));
    }
    let already = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_err();
    if already && rayon::current_num_threads() != threads {
        return Err(Error::argument(format!(
            "the process already runs {} threads; their number can be set only at its start",
            rayon::current_num_threads()
        )));
    }
    Ok(())
}
