//! Weights in the Hugging Face layout: `model.safetensors`, or shards with `model.safetensors.index.json`.
//!
//! The files are memory-mapped; a tensor is copied once, from the map into the variable that is trained.

use super::config::read_json;
use super::convert;
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::ops::quantised::Quantised;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor, Var};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a folder or of one safetensors file, by name.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// Whether a folder has weights in the Hugging Face layout, or says where they are.
pub fn has_weights(folder: &Path) -> bool {
    folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
}

impl Weights {
    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// No weights there, a shard is missing, or a file is cut short or damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_as(folder, SINGLE, INDEX)
    }

    /// Opens weights that are in the file `single` of a folder, or in shards that the file `index` lists.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(folder: &Path, single: &str, index_name: &str) -> Result<Self> {
        let path = folder.join(single);
        if path.is_file() {
            return Self::open_file(&path);
        }
        let index = folder.join(index_name);
        if !index.is_file() {
            return Err(Error::Missing(format!(
                "{} has neither {single} nor {index_name}{}",
                folder.display(),
                other_formats(folder)
            )));
        }
        let json = read_json(&index)?;
        let Some(map) = json.get("weight_map").and_then(|map| map.as_object()) else {
            return Err(Error::format(&index, "field weight_map: expected an object from tensor names to file names"));
        };
        let mut shards = BTreeMap::new();
        for (tensor, file) in map {
            match file.as_str() {
                // A name, not a path: an index must not reach outside its folder.
                Some(file) if !file.is_empty() && !file.contains(['/', '\\']) => {
                    shards.entry(file).or_insert_with(Vec::new).push(tensor);
                }
                _ => return Err(Error::format(&index, format!("tensor {tensor}: {file} is not a file name"))),
            }
        }
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for (file, tensors) in shards {
            let path = folder.join(file);
            if !path.is_file() {
                return Err(Error::format(
                    &index,
                    format!("names the shard {file}, which is not in the folder; download it again"),
                ));
            }
            weights.add(&path)?;
            if let Some(absent) = tensors.into_iter().find(|name| !weights.tensors.contains_key(*name)) {
                return Err(Error::format(
                    &path,
                    format!("tensor {absent} is missing, although {index_name} says it is in this file"),
                ));
            }
        }
        Ok(weights)
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// It is unreadable, cut short or damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        weights.add(path)?;
        Ok(weights)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let map = map_file(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| Error::format(path, damage(&e, map.len())))?;
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data + start,
                end: data + end,
            };
            if let Some(twice) = self.tensors.insert(name.clone(), entry) {
                let (other, _) = &self.files[twice.file];
                return Err(Error::format(path, format!("tensor {name} is also in {}", other.display())));
            }
        }
        self.files.push((path.to_path_buf(), map));
        Ok(())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape and dtype.
    ///
    /// # Errors
    /// No such tensor, or a dtype that weights are not computed in.
    pub fn shape_dtype(&self, name: &str) -> Result<(Vec<usize>, DType)> {
        let entry = self.entry(name)?;
        Ok((entry.shape.clone(), self.dtype(name, entry)?))
    }

    /// Loads a tensor as a candle variable; `dtype: None` keeps the file's.
    ///
    /// # Errors
    /// No such tensor, or its dtype cannot be converted.
    pub fn load(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Var> {
        let entry = self.entry(name)?;
        let from = self.dtype(name, entry)?;
        let map = &self.files[entry.file].1;
        let bytes = &map[entry.start..entry.end];
        // One call instead of a page fault every few kilobytes; where the system cannot, the faults do the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::PopulateRead, entry.start, bytes.len());
        let variable = convert::variable(bytes, from, &entry.shape, dtype.unwrap_or(from), device)?;
        forget_pages(map, entry.start, entry.end);
        Ok(variable)
    }

    /// A matrix, quantised to `blocks` while it is read; `None` for vectors, and for rows that are no whole number of blocks.
    ///
    /// # Errors
    /// No such tensor, or its dtype cannot be converted.
    pub fn quantised(&self, name: &str, blocks: GgmlDType) -> Result<Option<Quantised>> {
        let entry = self.entry(name)?;
        let from = self.dtype(name, entry)?;
        let &[rows, columns] = entry.shape.as_slice() else { return Ok(None) };
        if !columns.is_multiple_of(blocks.block_size()) {
            return Ok(None);
        }
        let map = &self.files[entry.file].1;
        let length = columns * from.size_in_bytes();
        let bytes = &map[entry.start..entry.end];
        let row = |row: usize, out: &mut [f32]| convert::widen(&bytes[row * length..(row + 1) * length], from, out);
        let quantised = Quantised::quantise(blocks, (rows, columns), row)?;
        forget_pages(map, entry.start, entry.end);
        Ok(Some(quantised))
    }

    /// Whether two tensors are the same, bit for bit.
    ///
    /// # Errors
    /// No such tensor.
    pub fn same(&self, a: &str, b: &str) -> Result<bool> {
        let (a, b) = (self.entry(a)?, self.entry(b)?);
        let (map_a, map_b) = (&self.files[a.file].1, &self.files[b.file].1);
        let same = a.dtype == b.dtype && a.shape == b.shape && map_a[a.start..a.end] == map_b[b.start..b.end];
        forget_pages(map_a, a.start, a.end);
        forget_pages(map_b, b.start, b.end);
        Ok(same)
    }

    /// The file that a tensor is in, for messages.
    pub fn file_of(&self, name: &str) -> &Path {
        let file = self.tensors.get(name).map_or(0, |entry| entry.file);
        self.files.get(file).map_or(Path::new(""), |(path, _)| path)
    }

    /// The bytes of all files together.
    pub fn size_in_bytes(&self) -> u64 {
        self.files.iter().map(|(_, map)| map.len() as u64).sum()
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            let files: Vec<_> = self.files.iter().map(|(path, _)| path.display().to_string()).collect();
            Error::Missing(format!("tensor {name} is not in {}{}", files.join(", "), closest(name, self.tensors.keys())))
        })
    }

    fn dtype(&self, name: &str, entry: &Entry) -> Result<DType> {
        match entry.dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F16 => Ok(DType::F16),
            other => Err(Error::format(
                &self.files[entry.file].0,
                format!("tensor {name}: dtype {other:?} is not supported; expected F32, BF16 or F16"),
            )),
        }
    }
}

/// Takes the pages of a part of a mapped file out of this process's memory; they are read again if they are asked for again.
/// Without it a model's file and its copy would both count as used while it is loaded.
pub(super) fn forget_pages(map: &Mmap, start: usize, end: usize) {
    #[cfg(unix)]
    {
        // SAFETY: the map is a read-only view of a file: pages that are dropped come back from the file unchanged. It only
        // saves memory, so that it does not matter whether the system does it.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end.saturating_sub(start)) };
    }
    #[cfg(not(unix))]
    let _ = (map, start, end);
}

/// Maps a file into memory.
pub(super) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    // SAFETY: the map is only read. Files of ours are replaced by renaming, never changed in place; another program that
    // shortens the file while it is mapped is the risk that every reader of mapped weights takes.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}

/// ", did you mean NAME?" where a name is close enough to be meant.
pub(super) fn closest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> String {
    let best = names.map(|other| (strsim::levenshtein(name, other), other)).min();
    match best {
        Some((distance, other)) if distance <= 8 => format!("; the closest name there is {other}"),
        _ => String::new(),
    }
}

fn damage(error: &safetensors::SafeTensorError, len: usize) -> String {
    use safetensors::SafeTensorError as E;
    let what = match error {
        E::HeaderTooSmall | E::InvalidHeaderLength | E::MetadataIncompleteBuffer => {
            format!("the file is cut short or has bytes too many ({len} bytes do not fit its header)")
        }
        E::HeaderTooLarge | E::InvalidHeader(_) | E::InvalidHeaderDeserialization(_) => {
            format!("not a safetensors file, or its header is damaged ({error})")
        }
        other => format!("damaged ({other})"),
    };
    format!("{what}; download or copy it again")
}

fn other_formats(folder: &Path) -> String {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt") || name.ends_with(".gguf")).then_some(name)
    });
    match found {
        Some(name) if name.ends_with(".gguf") => format!("; to load {name}, give the path of that file"),
        Some(name) => {
            format!("; {name} is PyTorch's own format: convert it, in Python save_pretrained(folder, safe_serialization=True)")
        }
        None => String::new(),
    }
}

/// What can be written to a safetensors file.
pub trait Saved {
    /// The shape.
    fn dims(&self) -> Vec<usize>;
    /// The dtype that is written.
    fn dtype(&self) -> DType;
    /// The elements, asked for when they are written and dropped after.
    fn tensor(&self) -> Tensor;
}

impl Saved for Tensor {
    fn dims(&self) -> Vec<usize> {
        Tensor::dims(self).to_vec()
    }
    fn dtype(&self) -> DType {
        Tensor::dtype(self)
    }
    fn tensor(&self) -> Tensor {
        self.clone()
    }
}

/// Quantised parameters are written dequantised, in f32.
impl Saved for Parameter {
    fn dims(&self) -> Vec<usize> {
        Parameter::dims(self)
    }
    fn dtype(&self) -> DType {
        Parameter::dtype(self)
    }
    fn tensor(&self) -> Tensor {
        self.value()
    }
}

/// A parameter in the orientation that files have.
#[derive(Debug)]
pub struct Stored {
    /// The parameter.
    pub parameter: Parameter,
    /// Whether files hold the matrix the other way round.
    pub transposed: bool,
}

impl Saved for Stored {
    fn dims(&self) -> Vec<usize> {
        let mut dims = self.parameter.dims();
        if self.transposed {
            dims.reverse();
        }
        dims
    }
    fn dtype(&self) -> DType {
        self.parameter.dtype()
    }
    fn tensor(&self) -> Tensor {
        let value = self.parameter.value();
        // A vector, which has no other way round, stays.
        if self.transposed { value.t().unwrap_or(value) } else { value }
    }
}

/// Writes tensors to a safetensors file, whole or not at all; `format: pt` is added to the metadata, as PyTorch's readers expect.
///
/// Tensors are ordered as the safetensors library orders them (wider dtypes first, then by name), one tensor in memory at a time.
///
/// # Errors
/// Two tensors of one name, a dtype that safetensors lacks, or the file cannot be written.
pub fn save_safetensors<T: Saved>(path: &Path, tensors: &[(String, T)], metadata: &[(String, String)]) -> Result<()> {
    let mut order: Vec<&(String, T)> = tensors.iter().collect();
    order.sort_by(|(a, x), (b, y)| y.dtype().size_in_bytes().cmp(&x.dtype().size_in_bytes()).then(a.cmp(b)));
    let mut header = serde_json::Map::new();
    let mut extra: serde_json::Map<_, _> = metadata.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    extra.entry("format").or_insert_with(|| "pt".into());
    header.insert("__metadata__".into(), extra.into());
    let mut offset = 0;
    for (name, tensor) in &order {
        let dtype = match tensor.dtype() {
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
            DType::F64 => "F64",
            DType::I64 => "I64",
            DType::U32 => "U32",
            DType::U8 => "U8",
            other => return Err(Error::argument(format!("tensor {name}: cannot save dtype {other:?}"))),
        };
        let end = offset + tensor.dims().iter().product::<usize>() * tensor.dtype().size_in_bytes();
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [offset, end] });
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::argument(format!("two tensors are named {name}")));
        }
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Readers map the file: the data starts aligned.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    write_whole(path, |out| {
        let io = |e| Error::io("write", path, e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        out.write_all(header.as_bytes()).map_err(io)?;
        order.iter().try_for_each(|(_, tensor)| write_tensor(out, &tensor.tensor(), path))
    })
}

fn write_tensor(out: &mut dyn Write, tensor: &Tensor, path: &Path) -> Result<()> {
    let flat = tensor.detach().to_device(&Device::Cpu)?.flatten_all()?;
    macro_rules! write_as {
        ($type:ty) => {{
            for chunk in flat.to_vec1::<$type>()?.chunks(convert::CHUNK) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
                out.write_all(&bytes).map_err(|e| Error::io("write", path, e))?;
            }
        }};
    }
    match tensor.dtype() {
        DType::F32 => write_as!(f32),
        DType::BF16 => write_as!(half::bf16),
        DType::F16 => write_as!(half::f16),
        DType::F64 => write_as!(f64),
        DType::I64 => write_as!(i64),
        DType::U32 => write_as!(u32),
        _ => write_as!(u8),
    }
    Ok(())
}
