//! The language's names: which words Rhai reserves but users of PyTorch need, and how types are called in messages.

use rhai::{Engine, Token};
use std::cell::RefCell;

/// Words that Rhai keeps for later versions of itself and that scripts may use as names here.
const FREED: &[&str] = &[
    "async",
    "await",
    "case",
    "default",
    "each",
    "go",
    "goto",
    "is",
    "match",
    "module",
    "new",
    "package",
    "protected",
    "public",
    "shared",
    "spawn",
    "static",
    "super",
    "sync",
    "then",
    "thread",
    "use",
    "var",
    "with",
    "yield",
];

/// As tightly as `*`, as in Python.
const MATRIX_PRODUCT: u8 = 180;

/// Lets scripts use reserved words as names and `a @ b` as an operator, and makes `model.eval()` a method: it reaches the function
/// `eval_mode`.
pub fn free_reserved_words(engine: &mut Engine) {
    // Refused are only a precedence of 0 and signs that Rhai uses itself.
    let _ = engine.register_custom_operator("@", MATRIX_PRODUCT);
    // What the last token was decides whether `eval` is a method. One tokenizer runs at a time.
    let after_period = RefCell::new(false);
    #[allow(deprecated)] // Marked so by Rhai only to say that it may change.
    engine.on_parse_token(move |token, _, _| {
        let method = after_period.replace(matches!(token, Token::Period | Token::Elvis));
        match token {
            Token::Reserved(word) if method && word.as_str() == "eval" => Token::Identifier(Box::new("eval_mode".into())),
            Token::Reserved(word) if FREED.contains(&word.as_str()) => Token::Identifier(word),
            other => other,
        }
    });
}

/// The name of a type as users know it: `i64` is `int`, `ImmutableString` is `string`, `&mut Tensor` is `Tensor`.
///
/// `custom` maps the Rust name of a registered type to the name it was registered with.
pub fn pretty_type(rust: &str, custom: &dyn Fn(&str) -> Option<String>) -> String {
    let mut name = rust.trim();
    for prefix in ["&mut ", "&"] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    // Rhai lists what a string may be: "&str | ImmutableString | String".
    if name.contains('|') && name.split(" | ").any(|part| part == "ImmutableString") {
        return "string".into();
    }
    // A result is what it holds: errors are exceptions to a script.
    let wrappers: &[&str] = if name.contains('<') { &["ScriptResult<", "RhaiResultOf<", "Result<"] } else { &[] };
    for wrapper in wrappers {
        if let Some(inner) = name.split("::").last().filter(|_| !name.contains('<')).or(Some(name)).and_then(|n| {
            let start = n.find(wrapper)?;
            n.get(start + wrapper.len()..).and_then(|n| n.strip_suffix('>'))
        }) {
            return pretty_type(first_argument(inner), custom);
        }
    }
    if name.starts_with('(') && name != "()" {
        return name.to_string();
    }
    if let Some(known) = custom(name) {
        return known;
    }
    // Keep what is inside <..> but drop the path in front.
    let base = name.split('<').next().unwrap_or(name);
    let short = base.rsplit("::").next().unwrap_or(base).trim();
    if let Some(known) = custom(short) {
        return known;
    }
    match short {
        "i64" | "INT" | "usize" | "u32" | "i32" | "u64" => "int",
        "f64" | "FLOAT" | "f32" => "float",
        "ImmutableString" | "String" | "str" | "SmartString" => "string",
        "Array" | "Vec" => "array",
        "Map" | "BTreeMap" => "map",
        "Blob" => "blob",
        "FnPtr" | "Fn" => "function",
        // The bindings call the library's ModelHandle so.
        "ModelValue" => "Model",
        "Dynamic" | "?" | "" => "any",
        "RhaiResult" => "any",
        "ExclusiveRange" | "Range" | "InclusiveRange" | "RangeInclusive" => "range",
        other => other,
    }
    .to_string()
}

/// `A` of `A, B` at the outermost level of brackets.
fn first_argument(list: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in list.char_indices() {
        match letter {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => return &list[..at],
            _ => {}
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_short_names() {
        let custom = |name: &str| (name == "ScriptTensor").then(|| "Tensor".to_string());
        for (rust, pretty) in [
            ("&mut crate::x::ScriptTensor", "Tensor"),
            ("ScriptResult<ScriptTensor>", "Tensor"),
            ("Result<Map, Box<EvalAltResult>>", "map"),
            ("ScriptResult<()>", "()"),
            ("Array", "array"),
            ("&str", "string"),
            ("&str | ImmutableString | String", "string"),
            ("Dynamic", "any"),
            ("i64", "int"),
            ("Range<i64>", "range"),
        ] {
            assert_eq!(pretty_type(rust, &custom), pretty, "{rust}");
        }
    }

    #[test]
    fn reserved_words_are_names() {
        let mut engine = Engine::new();
        free_reserved_words(&mut engine);
        engine.register_fn("eval_mode", |x: i64| x + 1);
        let code = r#"let m = #{ shared: 1, match: "x", default: 2 }; m.shared += 1; let new = 5; [m.shared, m.match, m.default, new, new.eval()]"#;
        assert_eq!(engine.eval::<rhai::Array>(code).map(|a| format!("{a:?}")).unwrap(), r#"[2, "x", 2, 5, 6]"#);
        assert_eq!(engine.eval::<i64>("eval(\"40 + 2\")").unwrap(), 42);
        engine.register_fn("@", |a: i64, b: i64| 10 * a + b);
        assert_eq!(engine.eval::<i64>("let a = 1; a @ 2 + a * 3 @ 4").unwrap(), 46);
    }
}
