//! What an option struct's fields are: their types, found by letting its `Deserialize` ask for them, and the values of its `Default`.

use super::super::display::float;
use super::fields::field_names;
use serde::Serialize;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// An option of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionInfo {
    /// The key.
    pub name: String,
    /// Its type in words: "float", "array", or the words it may be: `"none" | "all"`.
    pub kind: String,
    /// The value where the key is not given, as scripts write it; empty where there is none.
    pub default: String,
}

impl OptionInfo {
    /// The words that the option may be, where it is one of a few.
    pub fn choices(&self) -> impl Iterator<Item = &str> {
        self.kind.split(" | ").filter_map(|word| word.strip_prefix('"')?.strip_suffix('"'))
    }

    /// "float = 5e-05", or the type alone.
    pub fn summary(&self) -> String {
        match (self.kind.as_str(), self.default.as_str()) {
            (kind, "") => kind.to_string(),
            ("", default) => format!("= {default}"),
            (kind, default) => format!("{kind} = {default}"),
        }
    }
}

/// The options of a struct, in the order of its declaration.
pub fn describe<T: DeserializeOwned + Serialize + Default>() -> Vec<OptionInfo> {
    let defaults = serde_json::to_value(T::default()).unwrap_or_default();
    let describe = |name: &&'static str| {
        let mut kind = String::new();
        // The probe always ends in an error: it only waits for the moment in which the field asks for a type.
        let _ = T::deserialize(OneField { name, kind: &mut kind });
        OptionInfo { name: name.to_string(), kind, default: defaults.get(name).map_or(String::new(), written) }
    };
    field_names::<T>().iter().map(describe).collect()
}

/// A value as scripts write it. Nothing is no default to be shown.
fn written(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or(f64::NAN)),
        Value::Object(map) if map.is_empty() => "#{}".into(),
        other => other.to_string(),
    }
}

/// A map with one key.
struct OneField<'a> {
    name: &'static str,
    kind: &'a mut String,
}

impl<'de> Deserializer<'de> for OneField<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(OneEntry { name: Some(self.name), kind: self.kind })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct OneEntry<'a> {
    name: Option<&'static str>,
    kind: &'a mut String,
}

impl<'de> MapAccess<'de> for OneEntry<'_> {
    type Error = de::value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        self.name.take().map(|name| seed.deserialize(BorrowedStrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        seed.deserialize(TypeProbe { kind: self.kind })
    }
}

/// Notes which type is asked for.
struct TypeProbe<'a> {
    kind: &'a mut String,
}

impl TypeProbe<'_> {
    fn note<T>(self, kind: &str) -> Result<T, de::value::Error> {
        *self.kind = kind.to_string();
        Err(de::Error::custom("probe"))
    }
}

macro_rules! note {
    ($($method:ident => $kind:literal),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            self.note($kind)
        })*
    };
}

impl<'de> Deserializer<'de> for TypeProbe<'_> {
    type Error = de::value::Error;

    note! {
        // Asked for by types that take several kinds of value.
        deserialize_any => "",
        deserialize_bool => "bool",
        deserialize_i8 => "int", deserialize_i16 => "int", deserialize_i32 => "int", deserialize_i64 => "int",
        deserialize_i128 => "int",
        deserialize_u8 => "int", deserialize_u16 => "int", deserialize_u32 => "int", deserialize_u64 => "int",
        deserialize_u128 => "int",
        deserialize_f32 => "float", deserialize_f64 => "float",
        deserialize_char => "string", deserialize_str => "string", deserialize_string => "string",
        deserialize_bytes => "blob", deserialize_byte_buf => "blob",
        deserialize_unit => "()", deserialize_seq => "array", deserialize_map => "map",
        deserialize_identifier => "string", deserialize_ignored_any => "",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Self::Error> {
        self.note("()")
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Self::Error> {
        self.note("array")
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, _: V) -> Result<V::Value, Self::Error> {
        self.note("array")
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.note("map")
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        let words: Vec<String> = variants.iter().map(|word| format!("\"{word}\"")).collect();
        self.note(&words.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Plain,
        OddOne,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        rate: f64,
        steps: Option<u64>,
        kind: Kind,
        names: Vec<String>,
        keep: bool,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { rate: 5e-5, steps: None, kind: Kind::Plain, names: vec!["a".into()], keep: true }
        }
    }

    #[test]
    fn fields_have_types_and_defaults() {
        let shown: Vec<String> = describe::<Sample>().iter().map(|o| format!("{}: {}", o.name, o.summary())).collect();
        assert_eq!(
            shown,
            [
                "rate: float = 5e-05",
                "steps: int",
                "kind: \"plain\" | \"odd_one\" = \"plain\"",
                "names: array = [\"a\"]",
                "keep: bool = true"
            ]
        );
        let kind = &describe::<Sample>()[2];
        assert_eq!(kind.choices().collect::<Vec<_>>(), ["plain", "odd_one"]);
    }
}
