//! What a value of the language looks like: one text for terminals and `print`, one JSON value for `--json` and files.
//!
//! Plain values are handled here; a binding makes its own types known with [`register`].

use rhai::{Dynamic, FnPtr, Identifier};
use serde_json::Value;
use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Reads one face off a value.
type Face<R> = Rc<dyn Fn(&Dynamic) -> R>;

/// The faces of one type.
#[derive(Clone)]
struct Faces {
    text: Face<String>,
    json: Face<Value>,
    html: Option<Face<String>>,
}

thread_local! {
    // A table of functions, the same for every engine of the thread that owns the values.
    static REGISTRY: RefCell<HashMap<TypeId, Faces>> = RefCell::new(HashMap::new());
}

/// Makes a type known: its text and its JSON value. Registering again replaces.
pub fn register<T: Clone + 'static>(text: impl Fn(&T) -> String + 'static, json: impl Fn(&T) -> Value + 'static) {
    insert::<T>(Faces { text: reader(text), json: reader(json), html: None });
}

/// As [`register`], with an HTML face for notebooks (which may hold inline SVG).
pub fn register_with_html<T: Clone + 'static>(
    text: impl Fn(&T) -> String + 'static,
    json: impl Fn(&T) -> Value + 'static,
    html: impl Fn(&T) -> String + 'static,
) {
    insert::<T>(Faces { text: reader(text), json: reader(json), html: Some(reader(html)) });
}

fn insert<T: 'static>(faces: Faces) {
    REGISTRY.with(|registry| registry.borrow_mut().insert(TypeId::of::<T>(), faces));
}

fn reader<T: Clone + 'static, R: Default + 'static>(read: impl Fn(&T) -> R + 'static) -> Face<R> {
    Rc::new(move |value: &Dynamic| value.read_lock::<T>().map(|value| read(&value)).unwrap_or_default())
}

fn faces(value: &Dynamic) -> Option<Faces> {
    REGISTRY.with(|registry| registry.borrow().get(&value.type_id()).cloned())
}

/// The text of a value as `print` shows it: a string as it is, floats as Python writes them.
pub fn text(value: &Dynamic) -> String {
    match value.as_immutable_string_ref() {
        Ok(string) => string.to_string(),
        Err(_) => nested(value, false),
    }
}

/// The text of a value as [`text`], but strings in quotes.
pub fn repr(value: &Dynamic) -> String {
    nested(value, false)
}

/// The text of a value as a REPL and a notebook show a result: as [`repr`], but of lists and maps that hold many values in all the first
/// and last items and the number of those between.
pub fn brief(value: &Dynamic) -> String {
    nested(value, values(value, MOST_VALUES + 1) > MOST_VALUES)
}

/// The most values that lists and maps are shown whole with, and the items at either end of longer ones, as NumPy has it.
pub const MOST_VALUES: usize = 1000;
const EDGE: usize = 3;

/// How many values lists and maps hold in all, counted up to `most`.
fn values(value: &Dynamic, most: usize) -> usize {
    let add = |count: usize, item: &Dynamic| if count < most { count + values(item, most - count) } else { count };
    if let Ok(items) = value.as_array_ref() {
        return items.iter().fold(0, add).max(1);
    }
    value.as_map_ref().map_or(1, |map| map.values().fold(0, add).max(1))
}

/// The texts of items behind each other; `brief` those of the first and last alone.
fn joined<T>(items: impl ExactSizeIterator<Item = T>, brief: bool, text: impl Fn(T) -> String) -> String {
    let count = items.len();
    let left = if brief { count.saturating_sub(2 * EDGE) } else { 0 };
    let mut texts = Vec::new();
    for (i, item) in items.enumerate() {
        if left == 0 || i < EDGE || i >= count - EDGE {
            texts.push(text(item));
        } else if i == EDGE {
            texts.push(format!("... {left} more ..."));
        }
    }
    texts.join(", ")
}

/// The HTML of a value, where its type has one.
pub fn html(value: &Dynamic) -> Option<String> {
    faces(value).and_then(|faces| faces.html.map(|html| html(value)))
}

/// The text of a value inside an array or a map: strings in quotes.
fn nested(value: &Dynamic, brief: bool) -> String {
    if let Ok(string) = value.as_immutable_string_ref() {
        return Value::String(string.to_string()).to_string();
    }
    if let Ok(number) = value.as_float() {
        return float(number);
    }
    if let Ok(items) = value.as_array_ref() {
        return format!("[{}]", joined(items.iter(), brief, |item| nested(item, brief)));
    }
    if let Ok(map) = value.as_map_ref() {
        if map.is_empty() {
            return "#{}".into();
        }
        let entry = |(name, value): (&Identifier, &Dynamic)| format!("{}: {}", key(name), nested(value, brief));
        return format!("#{{ {} }}", joined(map.iter(), brief, entry));
    }
    if let Some(function) = value.read_lock::<FnPtr>() {
        return if function.is_anonymous() { "closure".into() } else { format!("function {}", function.fn_name()) };
    }
    if value.is_unit() {
        return "()".into();
    }
    match faces(value) {
        Some(faces) => (faces.text)(value),
        None => value.to_string(),
    }
}

fn key(name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if plain && !name.starts_with(|c: char| c.is_ascii_digit()) { name.to_string() } else { Value::from(name).to_string() }
}

/// A float as Python's `repr` writes it: the shortest text that reads back as the same number.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// The JSON value of anything: arrays and maps by their items, own types as registered, functions by their text; a number
/// that JSON cannot hold (NaN, infinite) becomes a string, so that it is not silently lost.
pub fn json(value: &Dynamic) -> Value {
    if let Some(faces) = faces(value) {
        return (faces.json)(value);
    }
    if value.is_unit() {
        Value::Null
    } else if let Ok(flag) = value.as_bool() {
        flag.into()
    } else if let Ok(number) = value.as_int() {
        number.into()
    } else if let Ok(number) = value.as_float() {
        serde_json::Number::from_f64(number).map_or_else(|| float(number).into(), Value::Number)
    } else if let Ok(string) = value.as_immutable_string_ref() {
        string.as_str().into()
    } else if let Ok(items) = value.as_array_ref() {
        items.iter().map(json).collect()
    } else if let Ok(map) = value.as_map_ref() {
        Value::Object(map.iter().map(|(key, value)| (key.to_string(), json(value))).collect())
    } else if let Ok(blob) = value.as_blob_ref() {
        blob.iter().copied().collect()
    } else {
        text(value).into()
    }
}

/// A script value from JSON; whole numbers that fit become integers.
pub fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(string) => string.clone().into(),
        Value::Array(items) => Dynamic::from_array(items.iter().map(from_json).collect()),
        Value::Object(map) => Dynamic::from_map(map.iter().map(|(key, value)| (key.as_str().into(), from_json(value))).collect()),
    }
}

/// A value for an error message: its text, cut short, with its type where the text does not show it.
pub fn describe(value: &Dynamic) -> String {
    let mut shown = nested(value, false);
    if shown.chars().count() > 60 {
        shown = shown.chars().take(57).chain("...".chars()).collect();
    }
    match value.type_name() {
        "f64" => format!("{shown} (a float)"),
        "i64" => format!("{shown} (an integer)"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (2e-5, "2e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn long_lists_are_shown_by_their_ends() {
        let list = |count: i64| Dynamic::from_array((0..count).map(Dynamic::from).collect());
        assert_eq!(brief(&list(1000)), repr(&list(1000)));
        assert_eq!(brief(&list(1001)), "[0, 1, 2, ... 995 more ..., 998, 999, 1000]");
        let rows = Dynamic::from_array(vec![list(101); 10]);
        assert!(brief(&rows).starts_with("[[0, 1, 2, ... 95 more ..., 98, 99, 100], [0"), "{}", brief(&rows));
        assert!(brief(&rows).contains("100], ... 4 more ..., [0"), "{}", brief(&rows));
        let map = (0..2000i64).map(|i| (format!("k{i:04}").into(), Dynamic::from(i))).collect();
        assert_eq!(
            brief(&Dynamic::from_map(map)),
            "#{ k0000: 0, k0001: 1, k0002: 2, ... 1994 more ..., k1997: 1997, k1998: 1998, k1999: 1999 }"
        );
        assert_eq!(text(&list(1001)).matches(',').count(), 1000);
    }

    #[test]
    fn own_types_have_the_faces_they_were_given() {
        #[derive(Clone)]
        struct Thing(i64);
        register::<Thing>(|t| format!("Thing({})", t.0), |t| t.0.into());
        let array = Dynamic::from_array(vec![Dynamic::from(Thing(3)), Dynamic::UNIT, Dynamic::from("a\"b")]);
        assert_eq!(text(&array), r#"[Thing(3), (), "a\"b"]"#);
        assert_eq!(json(&array), serde_json::json!([3, null, "a\"b"]));
        assert_eq!(from_json(&json(&array)).to_string(), "[3, (), \"a\\\"b\"]");
    }
}
