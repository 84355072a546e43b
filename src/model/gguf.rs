//! GGUF files: metadata to [`ModelConfig`], tensors dequantised under their Hugging Face names.
//!
//! llama.cpp stores the rows of llama's q and k in the order of interleaved rotary embeddings, and Gemma's norms with 1 added; here
//! both are undone while loading, so that everything above sees one layout.

use super::config::ModelConfig;
use super::convert::Float;
use super::gguf_header::{self, extent};
use super::gguf_names;
use super::weights::{closest, forget_pages, map_file};
use crate::error::{Error, Result};
use crate::ops::quantised::{Decode, Quantised, decode_of};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Var};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// An opened GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: HashMap<String, Value>,
    config: ModelConfig,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    dtype: GgmlDType,
    shape: Vec<usize>,
    start: usize,
    end: usize,
    /// For q and k: the width of a head, within which rows are to be un-permuted.
    head_dim: Option<usize>,
    /// What is to be taken away from every element.
    added: f32,
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf").field("path", &self.path).field("tensors", &self.tensors.len()).finish()
    }
}

/// A file's metadata alone: a file that holds only a vocabulary has no more, and one of an architecture that is not known has it too.
///
/// # Errors
/// As [`Gguf::open`], but for what its architecture and its tensors must be.
pub fn read_metadata(path: &Path) -> Result<HashMap<String, Value>> {
    Ok(gguf_header::read(&map_file(path)?, path)?.metadata)
}

impl Gguf {
    /// Opens a GGUF file and checks it.
    ///
    /// # Errors
    /// Not a GGUF file, cut short or damaged, or of an architecture or with tensors that are not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let content = gguf_header::read(&map, path)?;
        let config = super::gguf_config::model_config(&content, &map, path)?;
        let computed: HashSet<String> = config.parameter_shapes().into_iter().map(|parameter| parameter.name).collect();
        let mut tensors = BTreeMap::new();
        for (name, info) in &content.tensor_infos {
            let hf_name = match gguf_names::hf_name(config.family, name).filter(|hf_name| computed.contains(hf_name)) {
                Some(hf_name) => hf_name,
                None if gguf_names::is_no_parameter(name) => continue,
                // Another model than the file's would be computed.
                None => {
                    let architecture = gguf_names::architecture(config.family);
                    let message = format!("tensor {name} is not supported: models of the kind \"{architecture}\" have none here");
                    return Err(Error::format(path, message));
                }
            };
            let shape = info.shape.dims().to_vec();
            let (start, end) = extent(&content, name, map.len()).map_err(|message| Error::format(path, message))?;
            let permuted = gguf_names::is_permuted(config.family, &hf_name);
            if permuted && !shape.first().is_some_and(|rows| rows.is_multiple_of(config.head_dim)) {
                return Err(Error::format(
                    path,
                    format!("tensor {name}: shape {shape:?} is no multiple of head_dim {}", config.head_dim),
                ));
            }
            let head_dim = permuted.then_some(config.head_dim);
            let added = gguf_names::added(config.family, &hf_name);
            tensors.insert(hf_name, Entry { dtype: info.ggml_dtype, shape, start, end, head_dim, added });
        }
        Ok(Self { path: path.to_path_buf(), map, metadata: content.metadata, config, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration made from the metadata.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The file's metadata; the tokenizer and the chat template are in there.
    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.metadata
    }

    /// The Hugging Face names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape, and the dtype it is loaded in by default: F32 for quantised tensors, else the file's.
    ///
    /// # Errors
    /// No such tensor.
    pub fn shape_dtype(&self, name: &str) -> Result<(Vec<usize>, DType)> {
        let entry = self.entry(name)?;
        let dtype = match entry.dtype {
            GgmlDType::F16 => DType::F16,
            GgmlDType::BF16 => DType::BF16,
            _ => DType::F32,
        };
        Ok((entry.shape.clone(), dtype))
    }

    /// How a tensor is stored.
    ///
    /// # Errors
    /// No such tensor.
    pub fn stored_dtype(&self, name: &str) -> Result<GgmlDType> {
        Ok(self.entry(name)?.dtype)
    }

    /// Loads a tensor, dequantised, as a candle variable.
    ///
    /// # Errors
    /// No such tensor, or a dtype other than F32, BF16 and F16 is asked for.
    pub fn load(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Var> {
        let default = self.shape_dtype(name)?.1;
        let entry = self.entry(name)?;
        match dtype.unwrap_or(default) {
            DType::F32 => self.dequantised::<f32>(entry, device),
            DType::BF16 => self.dequantised::<bf16>(entry, device),
            DType::F16 => self.dequantised::<f16>(entry, device),
            other => Err(Error::argument(format!("cannot load {name} as {other:?}; use \"f32\", \"bf16\" or \"f16\""))),
        }
    }

    /// A matrix as quantised blocks with its rows in the Hugging Face order: as it is stored where that is quantised, else quantised
    /// to `blocks`. `None` for vectors, and for floats whose rows are no whole number of blocks.
    ///
    /// # Errors
    /// No such tensor, or a kind of block that is not supported.
    pub fn quantised(&self, name: &str, blocks: GgmlDType) -> Result<Option<Quantised>> {
        let entry = self.entry(name)?;
        let &[rows, columns] = entry.shape.as_slice() else { return Ok(None) };
        let bytes = &self.map[entry.start..entry.end];
        // Quantisation blocks lie within rows, so that rows can be moved as they are.
        let length = bytes.len() / rows.max(1);
        let row = |row: usize| &bytes[entry.stored_row(row) * length..][..length];
        let made = match entry.dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                if !columns.is_multiple_of(blocks.block_size()) {
                    return Ok(None);
                }
                let decode = self.decode(entry)?;
                Quantised::quantise(blocks, (rows, columns), |index, out| decode(row(index), out))
            }
            stored => Quantised::from_blocks(stored, (rows, columns), row),
        };
        forget_pages(&self.map, entry.start, entry.end);
        made.map(Some).map_err(|error| Error::format(&self.path, format!("tensor {name}: {error}")))
    }

    fn dequantised<T: Float>(&self, entry: &Entry, device: &Device) -> Result<Var> {
        let bytes = &self.map[entry.start..entry.end];
        let values = entry.read::<T>(bytes, self.decode(entry)?);
        forget_pages(&self.map, entry.start, entry.end);
        Ok(Var::from_vec(values, entry.shape.as_slice(), device)?)
    }

    fn decode(&self, entry: &Entry) -> Result<Decode> {
        decode_of(entry.dtype)
            .ok_or_else(|| Error::format(&self.path, format!("tensors stored as {:?} are not supported", entry.dtype)))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            Error::Missing(format!("tensor {name} is not in {}{}", self.path.display(), closest(name, self.tensors.keys())))
        })
    }
}

impl Entry {
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The row of the file that holds row `row` of the Hugging Face order: there a head's first half turns with its second
    /// half, in the file even rows turn with odd ones.
    fn stored_row(&self, row: usize) -> usize {
        let Some(head_dim) = self.head_dim else { return row };
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * pair + half
    }

    /// The elements in the Hugging Face order.
    fn read<T: Float>(&self, bytes: &[u8], decode: Decode) -> Vec<T> {
        if let &[count] = self.shape.as_slice() {
            // The blocks of a vector go over many of what are rows of a matrix.
            let mut stored = vec![0f32; count];
            decode(bytes, &mut stored);
            return (0..count).map(|row| T::narrow(stored[self.stored_row(row)] - self.added)).collect();
        }
        let rows = self.rows();
        let columns: usize = self.shape.iter().skip(1).product();
        let length = bytes.len() / rows.max(1);
        let mut values = crate::autograd::buffer::zeroed::<T>(rows * columns);
        if values.is_empty() {
            return values;
        }
        values.par_chunks_mut(columns).with_min_len((super::convert::CHUNK / columns).max(1)).enumerate().for_each_init(
            || vec![0f32; columns],
            |buffer, (row, out)| {
                decode(&bytes[self.stored_row(row) * length..][..length], buffer);
                out.iter_mut().zip(buffer.iter()).for_each(|(out, &value)| *out = T::narrow(value - self.added));
            },
        );
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use candle_core::quantized::QTensor;

    #[test]
    fn vectors_in_blocks_are_read_block_by_block() {
        let numbers = Tensor::arange(0f32, 64f32, &Device::Cpu).unwrap();
        let stored = QTensor::quantize(&numbers, GgmlDType::Q8_0).unwrap();
        let bytes = stored.data().unwrap();
        let expected: Vec<f32> = stored.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
        let entry =
            |head_dim, added| Entry { dtype: GgmlDType::Q8_0, shape: vec![64], start: 0, end: bytes.len(), head_dim, added };
        let decode = decode_of(GgmlDType::Q8_0).unwrap();
        let found = entry(None, 1.0).read::<f32>(&bytes, decode);
        assert_eq!(found, expected.iter().map(|value| value - 1.0).collect::<Vec<_>>());
        let turned = entry(Some(4), 0.0).read::<f32>(&bytes, decode);
        assert_eq!(turned[..4], [expected[0], expected[2], expected[1], expected[3]]);
    }
}
