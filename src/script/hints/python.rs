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

/// What is said of Python's imports.
const BUILT_IN: &str = "everything is built in; `import \"file\" as name;` is for scripts of your own";

/// Help for a value given to a name that was never declared.
pub(super) fn assignment(line: &str, at: usize, name: &str) -> Option<String> {
    if line.trim_start().starts_with("import ") {
        return Some(format!("help: {BUILT_IN}"));
    }
    let rest = line.get(at..)?.strip_prefix(name)?.trim_start();
    let assigns = rest.trim_start_matches(['+', '-', '*', '/']).starts_with('=') && !rest.starts_with("==");
    assigns.then(|| format!("help: a new variable is declared: `let {name} = ..`"))
}

/// Help for a line that does not parse; `at` is the byte where the parser stopped.
pub(super) fn syntax(line: &str, at: usize) -> Option<String> {
    let before = line.get(..at)?.trim_end();
    let here = line.get(at..)?.trim_start();
    let starts = line.trim_start();
    if let Some(help) = line.get(at..)?.chars().next().and_then(foreign) {
        return Some(help);
    }
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
    } else if here.starts_with('#') && !here.starts_with("#{") {
        "a comment is written `// ..`"
    } else if here.starts_with('?') && here.contains(':') {
        "a choice of values is written `if x { a } else { b }`"
    } else if here.starts_with(':') && starts.starts_with("let ") && !before.contains('=') {
        "a variable has no type of its own: `let name = ..`"
    } else if starts.starts_with("elif ") {
        "`elif` is written `else if`"
    } else if starts.starts_with("import ") || starts.starts_with("from ") {
        BUILT_IN
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

/// Help for a letter that the language does not know, as texts from a browser bring them along.
fn foreign(letter: char) -> Option<String> {
    let help = match letter {
        _ if letter.is_ascii() => return None,
        '“' | '”' | '„' | '‟' | '«' | '»' | '‘' | '’' => {
            "text goes between plain double quotes: \"text\"".to_string()
        }
        '−' | '–' | '—' => "the minus sign is a plain `-`".to_string(),
        _ if letter.is_alphabetic() => {
            "a name is made of the letters a to z, digits and `_`; others belong into text".to_string()
        }
        _ if letter.is_whitespace() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}') => {
            format!("an invisible character, U+{:04X}, stands here; a plain space does not hurt", u32::from(letter))
        }
        _ => return None,
    };
    Some(format!("help: {help}"))
}
