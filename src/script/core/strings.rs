//! Python's string methods that the lesson uses; each returns a new value and leaves the string as it is, but for `replace` and `trim`: Rhai's
//! change the string and gave nothing, so that `let name = text.replace(..)` was empty. They do both.

use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, ImmutableString};

/// Letters that are a capital and a small letter in one ("ǅ"): upper case as far as titles go.
fn title_case_letter(letter: char) -> bool {
    matches!(letter, '\u{1C5}' | '\u{1C8}' | '\u{1CB}' | '\u{1F2}' | '\u{1FBC}' | '\u{1FCC}' | '\u{1FFC}'
        | '\u{1F88}'..='\u{1F8F}' | '\u{1F98}'..='\u{1F9F}' | '\u{1FA8}'..='\u{1FAF}')
}

/// Python's `str.istitle`: capitals only after uncased characters, small letters only after cased ones, at least one of them.
fn is_title(text: &str) -> bool {
    let mut cased = false;
    let mut previous_cased = false;
    for letter in text.chars() {
        if letter.is_uppercase() || title_case_letter(letter) {
            if previous_cased {
                return false;
            }
            previous_cased = true;
            cased = true;
        } else if letter.is_lowercase() {
            if !previous_cased {
                return false;
            }
            cased = true;
        } else {
            previous_cased = false;
        }
    }
    cased
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// The words of a string, split at any whitespace.
    ///
    /// ```rhai
    /// "  one two\nthree ".split() // => ["one", "two", "three"]
    /// ```
    #[rhai_fn(name = "split")]
    pub fn split(text: &str) -> Array {
        text.split_whitespace().map(|word| word.to_string().into()).collect()
    }

    /// The string without whitespace at both ends.
    ///
    /// ```rhai
    /// "  text \n".strip() // => text
    /// ```
    pub fn strip(text: &str) -> ImmutableString {
        text.trim().into()
    }

    /// Takes whitespace off both ends of a string, which changes, and gives it; `strip` leaves the string as it is.
    ///
    /// ```rhai
    /// "  text \n".trim() // => text
    /// ```
    pub fn trim(text: &mut ImmutableString) -> ImmutableString {
        *text = text.trim().into();
        text.clone()
    }

    /// Puts one text in the place of another wherever that stands in a string, which changes, and gives it.
    ///
    /// ```rhai
    /// let folder = "runs/lora/1".replace("/", "-");
    /// folder // => runs-lora-1
    /// ```
    #[rhai_fn(name = "replace")]
    pub fn replace(text: &mut ImmutableString, from: &str, to: &str) -> ImmutableString {
        *text = text.replace(from, to).into();
        text.clone()
    }

    #[rhai_fn(name = "replace")]
    pub fn replace_with_character(text: &mut ImmutableString, from: &str, to: char) -> ImmutableString {
        replace(text, from, to.encode_utf8(&mut [0; 4]))
    }

    #[rhai_fn(name = "replace")]
    pub fn replace_character(text: &mut ImmutableString, from: char, to: &str) -> ImmutableString {
        replace(text, from.encode_utf8(&mut [0; 4]), to)
    }

    #[rhai_fn(name = "replace")]
    pub fn replace_character_with_character(text: &mut ImmutableString, from: char, to: char) -> ImmutableString {
        replace(text, from.encode_utf8(&mut [0; 4]), to.encode_utf8(&mut [0; 4]))
    }

    /// The string in small letters.
    ///
    /// ```rhai
    /// "Paris".lower() // => paris
    /// ```
    pub fn lower(text: &str) -> ImmutableString {
        text.to_lowercase().into()
    }

    /// The string in capitals.
    ///
    /// ```rhai
    /// "Paris".upper() // => PARIS
    /// ```
    pub fn upper(text: &str) -> ImmutableString {
        text.to_uppercase().into()
    }

    /// Whether the string starts with another.
    ///
    /// ```rhai
    /// "banana".startswith("ban") // => true
    /// ```
    pub fn startswith(text: &str, prefix: &str) -> bool {
        text.starts_with(prefix)
    }

    /// Whether the string ends with another.
    ///
    /// ```rhai
    /// "Hello.".endswith(".") // => true
    /// ```
    pub fn endswith(text: &str, suffix: &str) -> bool {
        text.ends_with(suffix)
    }

    /// Whether every word starts with a capital and goes on in small letters, exactly as Python's `str.istitle`.
    ///
    /// ```rhai
    /// ["A Title", "Not a Title", "123"].map(|s| s.istitle()) // => [true, false, false]
    /// ```
    pub fn istitle(text: &str) -> bool {
        is_title(text)
    }

    /// Joins the items of an array with a separator between them.
    ///
    /// ```rhai
    /// ["a", "b", 3].join(", ") // => a, b, 3
    /// ```
    #[rhai_fn(name = "join", pure)]
    pub fn join_array(items: &mut Array, separator: &str) -> ImmutableString {
        items.iter().map(crate::script::display::text).collect::<Vec<_>>().join(separator).into()
    }

    /// Joins the items of an array with this string between them, as Python's `", ".join(items)`.
    ///
    /// ```rhai
    /// ", ".join(["a", "b"]) // => a, b
    /// ```
    #[rhai_fn(name = "join")]
    pub fn join_string(separator: &str, items: Array) -> ImmutableString {
        items.iter().map(crate::script::display::text).collect::<Vec<_>>().join(separator).into()
    }

    /// The string repeated, as Python's `"=" * 60`.
    ///
    /// ```rhai
    /// "=" * 5 // => =====
    /// ```
    #[rhai_fn(name = "*")]
    pub fn repeat(text: &str, times: i64) -> ImmutableString {
        text.repeat(usize::try_from(times).unwrap_or(0).min(1_000_000)).into()
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_pythons() {
        // Each answer is that of Python 3's str.istitle.
        for (text, answer) in [
            ("Hello World", true),
            ("Hello world", false),
            ("HELLO", false),
            ("", false),
            ("1", false),
            ("It'S", true),
            ("It's", false),
            ("A1b", false),
            ("A1B", true),
            ("Ça Va", true),
            ("ǅabc", true),
        ] {
            assert_eq!(is_title(text), answer, "{text}");
        }
    }
}
