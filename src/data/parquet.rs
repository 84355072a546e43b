//! Parquet files through the record API: one row at a time, nested fields included.

use super::Row;
use super::read::{FileRow, FileRows};
use crate::error::{Error, Result};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::Value;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

/// Days from 1970 that the calendar reaches in both directions, about 260,000 years: beyond them the reader's text of a date panics.
const DAYS: u64 = 95_000_000;
const MILLISECONDS: u64 = DAYS * 86_400_000;

pub(super) fn rows(path: &Path) -> Result<FileRows> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let owned = path.to_path_buf();
    let fault = move |e: parquet::errors::ParquetError| {
        Error::format(&owned, format!("not readable as Parquet: {e}. Compressions read: none, snappy, gzip, zstd"))
    };
    let reader = guarded(path, || SerializedFileReader::new(file))?.map_err(&fault)?;
    let mut columns = reader.metadata().file_metadata().schema_descr().columns().iter();
    if let Some(column) = columns.find(|column| column.converted_type() == ConvertedType::INTERVAL) {
        // The record reader would panic.
        let message =
            format!("column `{}` holds intervals of time, which are not read; write it as text", column.path().string());
        return Err(Error::format(path, message));
    }
    // The record reader gives nanoseconds, which pandas writes, as plain numbers, and other times as times.
    let nanoseconds = |kind: &LogicalType| matches!(kind, LogicalType::Timestamp(time) if time.unit == TimeUnit::NANOS);
    let schema = reader.metadata().file_metadata().schema();
    let in_nanoseconds = guarded(path, || {
        let fields =
            schema.get_fields().iter().filter(|field| field.get_basic_info().logical_type_ref().is_some_and(nanoseconds));
        fields.map(|field| field.name().to_string()).collect::<Vec<String>>()
    })?;
    let mut rows = guarded(path, || RowIter::from_file_into(Box::new(reader)))?;
    let (path, mut failed) = (path.to_path_buf(), false);
    Ok(Box::new(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let named = |(name, field): (&String, &Field)| match field {
            Field::Long(time) if in_nanoseconds.contains(name) => {
                (name.clone(), value(&Field::TimestampMicros(time.div_euclid(1000))))
            }
            field => (name.clone(), value(field)),
        };
        let fields = |row: parquet::record::Row| row.get_column_iter().map(named).collect::<Row>();
        let row = match guarded(&path, || rows.next().map(|row| row.map(fields))) {
            Ok(row) => row?.map_err(&fault),
            Err(damaged) => Err(damaged),
        };
        failed = row.is_err();
        Some(row.map(|row| FileRow { row, line: 0 }))
    })))
}

thread_local! {
    /// Whether this thread is in the reader, whose panics are told as errors.
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// What a step of the reader gives. On some damaged files it panics, which is an error here and prints nothing.
fn guarded<T>(path: &Path, step: impl FnOnce() -> T) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !READING.get() {
                others(panic);
            }
        }));
    });
    READING.set(true);
    let given = catch_unwind(AssertUnwindSafe(step));
    READING.set(false);
    given.map_err(|_| Error::format(path, "not readable as Parquet: the file is damaged; write it again, or fetch it again"))
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => Value::Bool(*v),
        Field::Byte(v) => Value::from(*v),
        Field::Short(v) => Value::from(*v),
        Field::Int(v) => Value::from(*v),
        Field::Long(v) => Value::from(*v),
        Field::UByte(v) => Value::from(*v),
        Field::UShort(v) => Value::from(*v),
        Field::UInt(v) => Value::from(*v),
        Field::ULong(v) => Value::from(*v),
        Field::Float16(v) => Value::from(v.to_f32()),
        Field::Float(v) => Value::from(*v),
        Field::Double(v) => Value::from(*v),
        Field::Str(v) => Value::String(v.clone()),
        Field::Bytes(v) => Value::String(String::from_utf8_lossy(v.data()).into_owned()),
        Field::Group(group) => Value::Object(group.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => {
            let key = |field: &Field| match value(field) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(k, v)| (key(k), value(v))).collect())
        }
        Field::Date(days) if u64::from(days.unsigned_abs()) > DAYS => Value::from(*days),
        Field::TimestampMillis(time) if time.unsigned_abs() > MILLISECONDS => Value::from(*time),
        Field::TimestampMicros(time) if time.unsigned_abs() > MILLISECONDS * 1000 => Value::from(*time),
        // Other dates, times and decimals have no JSON form; their text is what people read.
        other => Value::String(other.to_string()),
    }
}
