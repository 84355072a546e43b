//! serde from script values, with the language's own rules: an integer is a float where a float is meant, a float is never an
//! integer, no number is NaN or infinite, and every refusal says what was given and what is allowed.

use crate::script::display;
use rhai::Dynamic;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Why a map does not fit an option struct.
#[derive(Debug)]
pub enum DeserializeError {
    /// A key that the struct does not have.
    Unknown { key: String, valid: Vec<&'static str> },
    /// A key that the struct needs.
    Missing(&'static str),
    /// Anything else, worded to follow the name of the field.
    Message(String),
}

impl std::fmt::Display for DeserializeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { key, .. } => write!(f, "unknown option \"{key}\""),
            Self::Missing(key) => write!(f, "option \"{key}\" is required"),
            Self::Message(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for DeserializeError {}

impl de::Error for DeserializeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::Unknown { key: field.to_string(), valid: expected.to_vec() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::Message(format!("must be one of {}, given \"{variant}\"", quoted(expected)))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Message(format!("must be {expected}, given {unexpected}"))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Message(format!("must be {expected}, given {unexpected}"))
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::Message(format!("must be {expected}, given {length} values"))
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// A script value that serde reads from.
pub struct Source(Dynamic);

impl Source {
    /// Reads from this value, which may be shared with a closure.
    pub fn new(value: Dynamic) -> Self {
        Self(value.flatten())
    }

    fn refuse<T>(&self, allowed: &str) -> Result<T, DeserializeError> {
        Err(DeserializeError::Message(format!("must be {allowed}, given {}", display::describe(&self.0))))
    }

    fn integer(&self, low: i64, high: i64) -> Result<i64, DeserializeError> {
        let allowed = match (low, high) {
            (0, i64::MAX) => "an integer, 0 or more".to_string(),
            (i64::MIN, i64::MAX) => "an integer".to_string(),
            _ => format!("an integer from {low} to {high}"),
        };
        match self.0.as_int() {
            Ok(value) if (low..=high).contains(&value) => Ok(value),
            _ => self.refuse(&allowed),
        }
    }

    fn float(&self) -> Result<f64, DeserializeError> {
        let value = match (self.0.as_float(), self.0.as_int()) {
            (Ok(value), _) => value,
            (_, Ok(value)) => value as f64,
            _ => return self.refuse("a number"),
        };
        if value.is_finite() { Ok(value) } else { self.refuse("a finite number") }
    }
}

impl<'de> IntoDeserializer<'de, DeserializeError> for Source {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// One integer method of the deserializer: the range is that of the Rust type, as far as a script's 64-bit integer reaches.
macro_rules! integers {
    ($($method:ident $low:expr, $high:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
            visitor.visit_i64(self.integer($low, $high)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Source {
    type Error = DeserializeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        let value = self.0;
        if value.is_unit() {
            visitor.visit_unit()
        } else if let Ok(flag) = value.as_bool() {
            visitor.visit_bool(flag)
        } else if let Ok(number) = value.as_int() {
            visitor.visit_i64(number)
        } else if value.is_float() {
            visitor.visit_f64(Self(value).float()?)
        } else if let Ok(letter) = value.as_char() {
            visitor.visit_string(letter.to_string())
        } else if value.is_string() {
            visitor.visit_string(value.into_string().unwrap_or_default())
        } else if value.is_array() {
            let items = value.into_array().unwrap_or_default();
            visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self::new)))
        } else if value.is_map() {
            let map = value.try_cast::<rhai::Map>().unwrap_or_default();
            visitor.visit_map(MapDeserializer::new(map.into_iter().map(|(key, value)| (key.to_string(), Self::new(value)))))
        } else {
            Self(value).refuse("data (a number, string, array or map)")
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        match self.0.as_bool() {
            Ok(flag) => visitor.visit_bool(flag),
            Err(_) => self.refuse("true or false"),
        }
    }

    integers! {
        deserialize_i8 i8::MIN.into(), i8::MAX.into();
        deserialize_i16 i16::MIN.into(), i16::MAX.into();
        deserialize_i32 i32::MIN.into(), i32::MAX.into();
        deserialize_i64 i64::MIN, i64::MAX;
        deserialize_u8 0, u8::MAX.into();
        deserialize_u16 0, u16::MAX.into();
        deserialize_u32 0, u32::MAX.into();
        deserialize_u64 0, i64::MAX;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        match self.0.is_string() || self.0.is_char() {
            true => self.deserialize_any(visitor),
            false => self.refuse("a string"),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if self.0.is_array() { self.deserialize_any(visitor) } else { self.refuse("an array") }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, DeserializeError> {
        let given = self.0.as_array_ref().map(|items| items.len()).ok();
        if given == Some(length) { self.deserialize_any(visitor) } else { self.refuse(&format!("an array of {length} values")) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if self.0.is_map() { self.deserialize_any(visitor) } else { self.refuse("a map") }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeserializeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if self.0.is_unit() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeserializeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeserializeError> {
        match self.0.as_immutable_string_ref() {
            Ok(name) => visitor.visit_enum(Word(name.to_string())),
            Err(_) => self.refuse(&format!("one of {}", quoted(variants))),
        }
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any }
}

/// The name of an enum's variant; only variants without content can be written in a script.
struct Word(String);

impl<'de> EnumAccess<'de> for Word {
    type Error = DeserializeError;
    type Variant = Self;

    fn variant_seed<V: de::DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeserializeError> {
        let value = seed.deserialize(self.0.clone().into_deserializer())?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Word {
    type Error = DeserializeError;

    fn unit_variant(self) -> Result<(), DeserializeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, DeserializeError> {
        Err(de::Error::custom(format!("\"{}\" cannot be given as a word", self.0)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DeserializeError> {
        Err(de::Error::custom(format!("\"{}\" cannot be given as a word", self.0)))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, DeserializeError> {
        Err(de::Error::custom(format!("\"{}\" cannot be given as a word", self.0)))
    }
}
