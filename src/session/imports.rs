//! Scripts that import scripts: each is read once, from its place beside the script that asks for it, and its text is kept for the
//! errors that point into it.

use super::parseable;
use rhai::{
    AST, Engine, EvalAltResult, Expr, FnAccess, GlobalRuntimeState, Module, ModuleResolver, Position, Scope, Shared, Stmt,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The scripts that a session has imported.
#[derive(Debug, Default)]
pub(super) struct Imported {
    modules: RefCell<HashMap<PathBuf, Shared<Module>>>,
    /// The texts that were read since they were last taken, by the names that errors call them.
    texts: RefCell<Vec<(String, String)>>,
    /// The names that imported scripts give to what they import, and how its functions are called.
    inner: RefCell<BTreeMap<String, Vec<String>>>,
    /// Those that are being run for what they define: one of them again is a circle.
    running: RefCell<Vec<PathBuf>>,
}

impl Imported {
    /// The texts that were read since the last call, each with its name.
    pub(super) fn take_texts(&self) -> Vec<(String, String)> {
        self.texts.take()
    }

    /// The names of scripts inside of imported ones, as found since the last call.
    pub(super) fn take_inner(&self) -> BTreeMap<String, Vec<String>> {
        self.inner.take()
    }

    /// Forgets what was imported: it is read again.
    pub(super) fn forget(&self) {
        self.modules.borrow_mut().clear();
    }

    /// How the functions of a script are called that the script `source` imported from `path`.
    pub(super) fn functions(&self, source: &str, path: &str) -> Option<Vec<String>> {
        let modules = self.modules.borrow();
        let functions = modules.get(&identity(&place(Some(source), path)))?.iter_script_fn_info();
        let public = functions.filter(|(_, access, name, ..)| *access == FnAccess::Public && !name.starts_with("anon$"));
        let shown = public.map(|(.., function)| {
            let parameters: Vec<&str> = function.params.iter().map(|name| name.as_str()).collect();
            format!("{}({})", function.name, parameters.join(", "))
        });
        Some(shown.collect())
    }
}

/// Finds the scripts of `import` statements for an engine.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Rc<Imported>);

impl ModuleResolver for Resolver {
    fn resolve(
        &self,
        engine: &Engine,
        source: Option<&str>,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let mut global = engine.new_global_runtime_state();
        global.source = source.map(Into::into);
        self.resolve_raw(engine, &mut global, &mut Scope::new(), path, position)
    }

    fn resolve_raw(
        &self,
        engine: &Engine,
        global: &mut GlobalRuntimeState,
        scope: &mut Scope<'_>,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let file = place(global.source(), path);
        let identity = identity(&file);
        if let Some(module) = self.0.modules.borrow().get(&identity) {
            return Ok(module.clone());
        }
        let name = file.display().to_string();
        let failed = |message: String| Box::new(EvalAltResult::ErrorRuntime(message.into(), position));
        if self.0.running.borrow().contains(&identity) {
            return Err(failed(format!(
                "{name} imports itself, through what it imports\nhelp: what both scripts need goes into a third one"
            )));
        }
        let text = crate::files::read_text(&file).map_err(|error| {
            failed(format!("cannot import \"{path}\": {error}\nhelp: a path starts at the folder of the script that imports"))
        })?;
        self.0.texts.borrow_mut().push((name.clone(), super::without_mark(&text).to_string()));
        let inside = |error: Box<EvalAltResult>| Box::new(EvalAltResult::ErrorInModule(name.clone(), error, position));
        let mut script = engine.compile(parseable(&text)).map_err(|error| inside(error.into()))?;
        script.set_source(name.as_str());
        self.0.running.borrow_mut().push(identity.clone());
        let module = Module::eval_ast_as_new_raw(engine, scope, global, &script);
        self.0.running.borrow_mut().pop();
        for (path, name_inside, _) in of_script(&script) {
            if let Some(functions) = path.and_then(|path| self.0.functions(&name, path)) {
                self.0.inner.borrow_mut().insert(name_inside.to_string(), functions);
            }
        }
        let module = Shared::new(module.map_err(inside)?);
        self.0.modules.borrow_mut().insert(identity, module.clone());
        Ok(module)
    }
}

/// Where the script lies that `source` calls `path`.
fn place(source: Option<&str>, path: &str) -> PathBuf {
    let mut file = PathBuf::from(path);
    if file.extension().is_none_or(|extension| extension != "rhai") {
        file.as_mut_os_string().push(".rhai");
    }
    match source.and_then(|source| Path::new(source).parent()) {
        Some(folder) => folder.join(file),
        None => file,
    }
}

/// One name for a file, however it is reached.
fn identity(file: &Path) -> PathBuf {
    std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf())
}

/// The `import` statements of a script: the path where it is a plain text, the name, and where the statement stands.
pub(super) fn of_script(script: &AST) -> impl Iterator<Item = (Option<&str>, &str, Position)> {
    script.statements().iter().filter_map(|statement| match statement {
        Stmt::Import(import, position) if !import.1.name.is_empty() => {
            let path = match &import.0 {
                Expr::StringConstant(path, _) => Some(path.as_str()),
                _ => None,
            };
            Some((path, import.1.name.as_str(), *position))
        }
        _ => None,
    })
}

/// The `import` statements alone, for the inputs that follow: Rhai forgets them after each evaluation. Their paths no longer depend on
/// where the script `name` lies, since what follows lies elsewhere.
pub(super) fn again(script: &AST, source: &str, name: &str) -> String {
    let folder = Path::new(name).parent().filter(|folder| !folder.as_os_str().is_empty());
    let again = of_script(script).filter_map(|(path, module, position)| match (path, folder) {
        (Some(path), Some(folder)) => {
            let path = std::path::absolute(folder.join(path)).ok()?;
            Some(import(&path.to_string_lossy(), module))
        }
        (Some(path), None) => Some(import(path, module)),
        (None, _) => Some(format!("{};\n", from(source, position)?.split(';').next()?)),
    });
    again.collect()
}

fn import(path: &str, module: &str) -> String {
    format!("import \"{}\" as {module};\n", path.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The text from a position on.
fn from(source: &str, position: Position) -> Option<&str> {
    let before = position.line()?.checked_sub(1)?;
    let start: usize = source.split_inclusive('\n').take(before).map(str::len).sum();
    let line = source.get(start..)?;
    let (at, _) = line.char_indices().nth(position.position()?.checked_sub(1)?)?;
    line.get(at..)
}
