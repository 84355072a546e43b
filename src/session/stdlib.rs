//! The functions that are written in the language itself: `stdlib/*.rhai`, embedded, compiled once a session.

use crate::script::error::ScriptResult;
use crate::script::registry::OptionCatalogue;
use rhai::{AST, Dynamic, Engine, Module, Scope, Shared};

/// Names and sources of the files, in the order in which they are run.
pub const FILES: &[(&str, &str)] = &[
    ("stdlib/text.rhai", include_str!("../../stdlib/text.rhai")),
    ("stdlib/options.rhai", include_str!("../../stdlib/options.rhai")),
    ("stdlib/evaluation.rhai", include_str!("../../stdlib/evaluation.rhai")),
    ("stdlib/checklist.rhai", include_str!("../../stdlib/checklist.rhai")),
];

/// Says which options the functions take that check theirs with `with_defaults`.
pub(super) fn add_options(catalogue: &mut OptionCatalogue) {
    catalogue.add(
        "evaluate_general_qa",
        &[
            ("max_new_tokens", "int = 50"),
            ("chat", "bool = false"),
            ("match", r#""substring" | "answer" = "substring""#),
            ("batch_size", "int = 64"),
        ],
    );
    catalogue.add("compare_forgetting", &[("threshold", "float = 0.1")]);
}

/// The source of an embedded file.
pub fn source(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, source)| *source)
}

/// Compiles the files into the engine. Their functions are found after those of the user's scripts, and so can be replaced;
/// their constants are visible to scripts and inside every function. Gives the constants.
///
/// # Errors
/// A file does not compile or its constants cannot be computed: a mistake in the build, not the user's.
pub fn load(engine: &mut Engine) -> ScriptResult<Vec<(String, Dynamic)>> {
    let mut constants = Vec::new();
    for (name, source) in FILES {
        constants.extend(load_source(engine, name, source)?);
    }
    Ok(constants)
}

pub(super) fn load_source(engine: &mut Engine, name: &str, source: &str) -> ScriptResult<Vec<(String, Dynamic)>> {
    let mut ast: AST = engine.compile(source)?;
    ast.set_source(name);
    let mut scope = Scope::new();
    engine.run_ast_with_scope(&mut scope, &ast)?;
    // A module's variables are those that have an export name; every constant of the file gets its own.
    let names: Vec<String> = scope.iter().map(|(name, ..)| name.to_string()).collect();
    for name in &names {
        scope.set_alias(name, name.as_str());
    }
    ast.clear_statements();
    let module = Module::eval_ast_as_new(scope, &ast, engine)?;
    // As the module has them, their closures know where their functions are.
    let constants = names.into_iter().filter_map(|name| module.get_var(&name).map(|value| (name, value))).collect();
    engine.register_global_module(Shared::new(module));
    Ok(constants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("stdlib");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().to_string();
            if name.ends_with(".rhai") {
                assert!(source(&format!("stdlib/{name}")).is_some(), "add {name} to FILES in src/session/stdlib.rs");
            }
        }
    }

    #[test]
    fn constants_and_their_closures_reach_scripts_and_functions() {
        let mut engine = Engine::new();
        let library = "const LIST = [#{ name: \"long\", check: |text| text.len > 3 }];\n\
                       fn run(text) { let found = []; for item in LIST { if item.check.call(text) { found.push(item.name); } } found }\n\
                       fn one() { 1 }\nfn two() { one() + one() }";
        load_source(&mut engine, "stdlib/x.rhai", library).unwrap();
        engine.register_fn("native", |call: rhai::NativeCallContext, list: rhai::Array| -> ScriptResult<bool> {
            let check = list[0].as_map_ref().map_err(|_| "no map")?["check"].clone().cast::<rhai::FnPtr>();
            check.call_within_context::<bool>(&call, ("abcdef",))
        });
        let code =
            "fn inside() { LIST.len } [run(\"abcd\"), run(\"a\"), inside(), LIST[0].check.call(\"abcd\"), native(LIST), two()]";
        let result = engine.eval::<rhai::Array>(code).unwrap();
        assert_eq!(format!("{result:?}"), r#"[["long"], [], 1, true, true, 2]"#);
        assert_eq!(engine.eval::<i64>("fn run(text) { 7 } run(1)").unwrap(), 7, "a script's function goes first");
    }
}
