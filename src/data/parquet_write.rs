//! Data sets to Parquet: the schema is what the rows hold, and every value is taken apart into columns, with the levels of the
//! format (Melnik et al. 2010, "Dremel"): how much of a value's path is there, and which list it goes on with.

use super::{Dataset, Row};
use crate::error::{Error, Result};
use crate::files::write_whole;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Rows that are taken apart at a time.
const GROUP: usize = 10_000;

/// What a field holds in all rows.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Nothing,
    Bool,
    Integer,
    Float,
    Text,
    List(Box<Kind>),
    Fields(Vec<(String, Kind)>),
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Array(items) => Self::List(Box::new(items.iter().fold(Self::Nothing, |kind, item| kind.with(Self::of(item))))),
            Value::Object(fields) => Self::of_row(fields),
        }
    }

    fn of_row(row: &Row) -> Self {
        Self::Fields(row.iter().map(|(name, value)| (name.clone(), Self::of(value))).collect())
    }

    /// The kind that holds both; values that have none in common are written as text.
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, kind) | (kind, Self::Nothing) => kind,
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Self::Float,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.with(*b))),
            (Self::Fields(mut fields), Self::Fields(others)) => {
                for (name, kind) in others {
                    match fields.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = std::mem::replace(known, Self::Nothing).with(kind),
                        None => fields.push((name, kind)),
                    }
                }
                Self::Fields(fields)
            }
            (a, b) if a == b => a,
            _ => Self::Text,
        }
    }

    /// Parquet has no group without fields: such a map is written as text, as is what is null everywhere.
    fn writable(self) -> Self {
        match self {
            Self::Nothing => Self::Text,
            Self::Fields(fields) if fields.is_empty() => Self::Text,
            Self::Fields(fields) => Self::Fields(fields.into_iter().map(|(name, kind)| (name, kind.writable())).collect()),
            Self::List(item) => Self::List(Box::new(item.writable())),
            plain => plain,
        }
    }

    fn schema(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let plain = |physical, logical| {
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build()
        };
        let optional = |fields| Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL).with_fields(fields);
        let built = match self {
            Self::Bool => plain(Physical::BOOLEAN, None),
            Self::Integer => plain(Physical::INT64, None),
            Self::Float => plain(Physical::DOUBLE, None),
            Self::Text | Self::Nothing => plain(Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::List(item) => {
                let items = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
                let list = items.with_fields(vec![item.schema("element")?]).build()?;
                optional(vec![Arc::new(list)]).with_logical_type(Some(LogicalType::List)).build()
            }
            Self::Fields(fields) => {
                let fields = fields.iter().map(|(name, kind)| kind.schema(name)).collect::<Result<Vec<_>, _>>()?;
                optional(fields).build()
            }
        };
        built.map(Arc::new)
    }
}

/// The values of one column with their levels.
#[derive(Debug, Default)]
struct Leaf {
    values: Vec<Value>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

/// Where in a value's path a walk is.
#[derive(Clone, Copy)]
struct Level {
    definition: i16,
    /// What is written as repetition with the next value.
    repetition: i16,
    /// Lists above.
    lists: i16,
}

/// Takes a value apart into the leaves of its kind, from the first one on; gives the number of leaves.
fn take_apart(kind: &Kind, value: Option<&Value>, at: Level, leaves: &mut [Leaf]) -> usize {
    let value = value.filter(|value| !value.is_null());
    match kind {
        Kind::Fields(fields) => {
            let inner = Level { definition: at.definition + i16::from(value.is_some()), ..at };
            let mut used = 0;
            for (name, kind) in fields {
                used += take_apart(kind, value.and_then(|value| value.get(name)), inner, &mut leaves[used..]);
            }
            used
        }
        Kind::List(item) => match value.and_then(Value::as_array) {
            Some(items) if !items.is_empty() => {
                let mut used = 0;
                for (i, value) in items.iter().enumerate() {
                    let repetition = if i == 0 { at.repetition } else { at.lists + 1 };
                    let inner = Level { definition: at.definition + 2, repetition, lists: at.lists + 1 };
                    used = take_apart(item, Some(value), inner, leaves);
                }
                used
            }
            found => {
                let inner = Level { definition: at.definition + i16::from(found.is_some()), lists: at.lists + 1, ..at };
                take_apart_nothing(item, inner, leaves)
            }
        },
        _ => {
            let leaf = &mut leaves[0];
            leaf.repetition.push(at.repetition);
            leaf.definition.push(at.definition + i16::from(value.is_some()));
            leaf.values.extend(value.cloned());
            1
        }
    }
}

/// Every leaf below learns that there is nothing.
fn take_apart_nothing(kind: &Kind, at: Level, leaves: &mut [Leaf]) -> usize {
    match kind {
        Kind::Fields(fields) => fields.iter().fold(0, |used, (_, kind)| used + take_apart_nothing(kind, at, &mut leaves[used..])),
        Kind::List(item) => take_apart_nothing(item, at, leaves),
        _ => {
            leaves[0].repetition.push(at.repetition);
            leaves[0].definition.push(at.definition);
            1
        }
    }
}

fn leaves_of(kind: &Kind, found: &mut Vec<Kind>) {
    match kind {
        Kind::Fields(fields) => fields.iter().for_each(|(_, kind)| leaves_of(kind, found)),
        Kind::List(item) => leaves_of(item, found),
        plain => found.push(plain.clone()),
    }
}

fn write_leaf(writer: &mut SerializedColumnWriter<'_>, kind: &Kind, leaf: &Leaf) -> Result<(), ParquetError> {
    let levels = (Some(leaf.definition.as_slice()), Some(leaf.repetition.as_slice()));
    match kind {
        Kind::Bool => {
            let values: Vec<bool> = leaf.values.iter().map(|value| value.as_bool().unwrap_or_default()).collect();
            writer.typed::<BoolType>().write_batch(&values, levels.0, levels.1)?;
        }
        Kind::Integer => {
            let values: Vec<i64> = leaf.values.iter().map(|value| value.as_i64().unwrap_or_default()).collect();
            writer.typed::<Int64Type>().write_batch(&values, levels.0, levels.1)?;
        }
        Kind::Float => {
            let values: Vec<f64> = leaf.values.iter().map(|value| value.as_f64().unwrap_or_default()).collect();
            writer.typed::<DoubleType>().write_batch(&values, levels.0, levels.1)?;
        }
        _ => {
            let text = |value: &Value| match value {
                Value::String(text) => ByteArray::from(text.as_str()),
                other => ByteArray::from(other.to_string().as_str()),
            };
            let values: Vec<ByteArray> = leaf.values.iter().map(text).collect();
            writer.typed::<ByteArrayType>().write_batch(&values, levels.0, levels.1)?;
        }
    }
    Ok(())
}

impl Dataset {
    /// Writes Parquet, compressed with Snappy. Lists and maps keep their shape; a column with values that have no kind in common is
    /// written as text.
    ///
    /// # Errors
    /// There are no columns, the file cannot be written, or a row cannot be read.
    pub fn to_parquet(&self, path: &Path) -> Result<()> {
        let mut kind = Kind::Fields(Vec::new());
        for row in self.non_empty("to_parquet")?.iter() {
            kind = kind.with(Kind::of_row(&*row?));
        }
        let Kind::Fields(fields) = kind.clone() else { return Ok(()) };
        if fields.is_empty() {
            return Err(Error::argument("to_parquet needs columns, but the rows have no fields"));
        }
        let fields: Vec<(String, Kind)> = fields.into_iter().map(|(name, kind)| (name, kind.writable())).collect();
        let fault = |e: ParquetError| Error::format(path, format!("cannot be written as Parquet: {e}"));
        let columns = fields.iter().map(|(name, kind)| kind.schema(name)).collect::<Result<Vec<_>, _>>().map_err(fault)?;
        let schema = Type::group_type_builder("schema").with_fields(columns).build().map_err(fault)?;
        let mut kinds = Vec::new();
        fields.iter().for_each(|(_, kind)| leaves_of(kind, &mut kinds));
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        // The writer wants a file of its own, which may be moved to another thread.
        let temporary = |e| Error::io("write a temporary file in", std::env::temp_dir(), e);
        let mut file = tempfile::tempfile().map_err(temporary)?;
        let buffered = std::io::BufWriter::new(file.try_clone().map_err(temporary)?);
        let mut writer = SerializedFileWriter::new(buffered, Arc::new(schema), Arc::new(properties)).map_err(fault)?;
        for start in (0..self.len()).step_by(GROUP) {
            let mut leaves: Vec<Leaf> = kinds.iter().map(|_| Leaf::default()).collect();
            for index in start..self.len().min(start + GROUP) {
                let (row, mut used) = (self.row(index)?, 0);
                for (name, kind) in &fields {
                    let at = Level { definition: 0, repetition: 0, lists: 0 };
                    used += take_apart(kind, row.get(name), at, &mut leaves[used..]);
                }
            }
            let mut group = writer.next_row_group().map_err(fault)?;
            for (kind, leaf) in kinds.iter().zip(&leaves) {
                if let Some(mut column) = group.next_column().map_err(fault)? {
                    write_leaf(&mut column, kind, leaf).map_err(fault)?;
                    column.close().map_err(fault)?;
                }
            }
            group.close().map_err(fault)?;
        }
        writer.close().map_err(fault)?;
        file.seek(SeekFrom::Start(0)).map_err(temporary)?;
        write_whole(path, |out| std::io::copy(&mut file, out).map(|_| ()).map_err(|e| Error::io("write", path, e)))
    }
}
