//! What Python users write by habit, and how it is written here.

/// Help for a Python word that was taken for a variable.
pub(super) fn word(name: &str) -> Option<String> {
    let here = match name {
        "True" => "true",
        "False" => "false",
        "None" => "()",
        "self" => "this",
        _ => return None,
    };
    Some(format!("help: Python's `{name}` is written `{here}`"))
}

/// Help for a value given to a name that was never declared.
pub(super) fn assignment(line: &str, at: usize, name: &str) -> Option<String> {
    let rest = line.get(at..)?.strip_prefix(name)?.trim_start();
    let assigns = rest.starts_with('=') && !rest.starts_with("==");
    assigns.then(|| format!("help: a new variable is declared: `let {name} = ..`"))
}

/// Help for a line that does not parse; `at` is the byte where the parser stopped.
pub(super) fn syntax(line: &str, at: usize) -> Option<String> {
    let before = line.get(..at)?.trim_end();
    let here = line.get(at..)?.trim_start();
    let starts = line.trim_start();
    let help = if starts.starts_with("def ") {
        "a function is written `fn name(x) { .. }`"
    } else if here.starts_with('\'') || before.ends_with('\'') {
        "text goes between double quotes: \"text\"; single quotes hold one character"
    } else if here.starts_with('=') && !here.starts_with("==") && before.rfind('(') > before.rfind(')') {
        "arguments have no names; options go into a map at the end: `f(x, #{ name: value })`"
    } else if here.starts_with('"') && before.ends_with('f') {
        "values are put into text between backticks: `the loss is ${loss}`"
    } else if here.starts_with(',') && before.rfind('(') > before.rfind(')') && !before.contains("fn ") {
        "several values in one go into an array: `[1, 2]`"
    } else if here.starts_with(':') && before.rfind('[') > before.rfind(']') {
        "a part is taken with `items.extract(0..2)`, of a string with `text.sub_string(0..2)`"
    } else if starts.starts_with("elif ") {
        "`elif` is written `else if`"
    } else if starts.starts_with("import ") || starts.starts_with("from ") {
        "everything is built in; `import \"file\" as name;` is for scripts of your own"
    } else if here.starts_with(':') && ["if ", "for ", "while ", "else", "elif "].iter().any(|word| starts.starts_with(word)) {
        "a block goes between braces: `if x { .. }`"
    } else {
        match here.split(|c: char| !c.is_alphanumeric()).next() {
            Some("and") => "`and` is written `&&`",
            Some("or") => "`or` is written `||`",
            Some("not") => "`not x` is written `!x`",
            Some("if") if before.contains('=') => "a choice of values is written `if x { a } else { b }`",
            Some("for") if before.contains('[') => "a new array is made with `items.map(|x| ..)`",
            _ if before.ends_with(" not") || before == "not" => "`not x` is written `!x`",
            _ if before.split_whitespace().last() == Some("lambda") => "a closure is written `|x| ..`",
            _ => return None,
        }
    };
    Some(format!("help: {help}"))
}
