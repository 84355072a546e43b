//! Models as GGUF files that llama.cpp loads (ggml/docs/gguf.md, version 3).

use super::gguf_export::architecture_fields;
use super::gguf_export_tokenizer::tokenizer_fields;
use super::gguf_names::{added, gguf_name, is_permuted};
use super::lm::LanguageModel;
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::nn::Parameter;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use std::io::Write;
use std::path::Path;

/// Where tensors begin in a file: at multiples of this.
const ALIGNMENT: u64 = 32;

/// What matrices are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufDtype(GgmlDType);

impl GgufDtype {
    /// The names that scripts use.
    pub const NAMES: [&str; 9] = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k"];

    /// The dtype of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(Self(match name.to_lowercase().as_str() {
            "f32" => GgmlDType::F32,
            "f16" => GgmlDType::F16,
            "bf16" => GgmlDType::BF16,
            "q8_0" => GgmlDType::Q8_0,
            "q5_1" => GgmlDType::Q5_1,
            "q5_0" => GgmlDType::Q5_0,
            "q4_1" => GgmlDType::Q4_1,
            "q4_0" => GgmlDType::Q4_0,
            "q6_k" => GgmlDType::Q6K,
            _ => return None,
        }))
    }

    /// llama.cpp's number for a file whose matrices are mostly of this kind.
    fn file_type(self) -> u32 {
        match self.0 {
            GgmlDType::F32 => 0,
            GgmlDType::F16 => 1,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q4_1 => 3,
            GgmlDType::Q8_0 => 7,
            GgmlDType::Q5_0 => 8,
            GgmlDType::Q5_1 => 9,
            GgmlDType::Q6K => 18,
            _ => 32,
        }
    }
}

/// ggml's number of a kind of tensor.
fn kind(dtype: GgmlDType) -> u32 {
    match dtype {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q6K => 14,
        _ => 30,
    }
}

/// A value of a file's metadata.
pub(super) enum Field {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

/// Metadata in the order in which it is written.
pub(super) type Fields = Vec<(String, Field)>;

/// A tensor to be written.
struct Entry<'a> {
    name: String,
    dims: Vec<usize>,
    dtype: GgmlDType,
    /// The elements, made when they are written.
    make: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl Entry<'_> {
    fn size(&self) -> u64 {
        (self.dims.iter().product::<usize>() / self.dtype.block_size() * self.dtype.type_size()) as u64
    }
}

/// Writes a model as a GGUF file, whole or not at all, one tensor in memory at a time. Vectors are stored in f32, and so are matrices
/// whose rows are no whole number of blocks, in f16; the head, or the embedding that is the head, in no fewer than 8 bits.
///
/// # Errors
/// llama.cpp has no place for something that the model has; the tokenizer cannot be expressed; the file cannot be written.
pub fn save_gguf(model: &LanguageModel, path: &Path, dtype: GgufDtype) -> Result<()> {
    let decoder = model.decoder();
    let config = decoder.config();
    let family = config.family;
    let (mut fields, extra) = architecture_fields(config, model.name())?;
    fields.push(("general.file_type".into(), Field::U32(dtype.file_type())));
    fields.push(("general.quantization_version".into(), Field::U32(2)));
    fields.extend(tokenizer_fields(model, decoder.named_parameters()[0].1.dims()[0])?);
    let mut entries = Vec::new();
    let tied = decoder.tied();
    for (name, slot) in decoder.slots() {
        let parameter = slot.current();
        let place = gguf_name(family, &name).ok_or_else(|| Error::argument(format!("GGUF files have no place for {name}")))?;
        let head = place == "output.weight" || (tied && place == "token_embd.weight");
        let dims = parameter.dims();
        let dtype = stored_as(&dims, dtype.0, head, place == "position_embd.weight");
        let head_dim = is_permuted(family, &name).then_some(config.head_dim);
        let more = added(family, &name);
        entries.push(Entry { name: place, dims, dtype, make: Box::new(move || arranged(&parameter, head_dim, more)) });
    }
    for (name, values) in &extra {
        let make = move || Ok(Tensor::from_slice(values, values.len(), &Device::Cpu)?);
        entries.push(Entry { name: name.clone(), dims: vec![values.len()], dtype: GgmlDType::F32, make: Box::new(make) });
    }
    write_whole(path, |out| write(out, &fields, &entries, path))
}

/// What a tensor is stored in.
fn stored_as(dims: &[usize], wanted: GgmlDType, head: bool, positions: bool) -> GgmlDType {
    let &[_, columns] = dims else { return GgmlDType::F32 };
    let bits = |dtype: GgmlDType| 8 * dtype.type_size() / dtype.block_size();
    let wanted = if head && bits(wanted) < 8 { GgmlDType::Q8_0 } else { wanted };
    match wanted {
        _ if positions => GgmlDType::F32,
        wanted if columns.is_multiple_of(wanted.block_size()) => wanted,
        _ => GgmlDType::F16,
    }
}

/// A parameter's elements as llama.cpp keeps them.
fn arranged(parameter: &Parameter, head_dim: Option<usize>, more: f32) -> Result<Tensor> {
    let value = parameter.value().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let value = if more == 0.0 { value } else { (value + f64::from(more))? };
    let Some(head_dim) = head_dim else { return Ok(value) };
    // Within a head, the two halves are interleaved.
    let (rows, shape) = (value.dim(0)?, value.shape().clone());
    let split = value.reshape((rows / head_dim, 2, head_dim / 2, value.elem_count() / rows))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape(shape)?)
}

fn write(out: &mut dyn Write, fields: &Fields, entries: &[Entry<'_>], path: &Path) -> Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    header.extend((fields.len() as u64).to_le_bytes());
    for (key, field) in fields {
        put_text(&mut header, key);
        put_field(&mut header, field);
    }
    let mut offset = 0u64;
    for entry in entries {
        put_text(&mut header, &entry.name);
        header.extend((entry.dims.len() as u32).to_le_bytes());
        // The fastest dimension comes first.
        entry.dims.iter().rev().for_each(|dim| header.extend((*dim as u64).to_le_bytes()));
        header.extend(kind(entry.dtype).to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset = (offset + entry.size()).next_multiple_of(ALIGNMENT);
    }
    let io = |e| Error::io("write", path, e);
    let padding = |length: u64| vec![0u8; (length.next_multiple_of(ALIGNMENT) - length) as usize];
    out.write_all(&header).map_err(io)?;
    out.write_all(&padding(header.len() as u64)).map_err(io)?;
    for entry in entries {
        let tensor = QTensor::quantize(&(entry.make)()?.contiguous()?, entry.dtype)?;
        out.write_all(&tensor.data()?).map_err(io)?;
        out.write_all(&padding(entry.size())).map_err(io)?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value with its kind before it; of arrays also the kind of the elements, and their number.
fn put_field(out: &mut Vec<u8>, field: &Field) {
    let [u32_kind, i32_kind, f32_kind, bool_kind, text_kind, array_kind] = [4u32, 5, 6, 7, 8, 9];
    let array = |out: &mut Vec<u8>, kind: u32, length: usize| {
        out.extend(array_kind.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((length as u64).to_le_bytes());
    };
    match field {
        Field::U32(value) => {
            out.extend(u32_kind.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Field::F32(value) => {
            out.extend(f32_kind.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Field::Bool(value) => {
            out.extend(bool_kind.to_le_bytes());
            out.push(u8::from(*value));
        }
        Field::Text(text) => {
            out.extend(text_kind.to_le_bytes());
            put_text(out, text);
        }
        Field::Texts(texts) => {
            array(out, text_kind, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        Field::Floats(values) => {
            array(out, f32_kind, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Field::Integers(values) => {
            array(out, i32_kind, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}
