//! Where a model's weights come from: one interface over the Hugging Face layout and GGUF files.

use super::config::ModelConfig;
use super::decoder::stored_name;
use super::gguf::Gguf;
use super::memory::Stored;
use super::precision::Precision;
use super::weights::Weights;
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::ops::quantised::Quantised;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Var};
use std::path::Path;

/// An opened model: its configuration, and its tensors by their Hugging Face names.
#[derive(Debug)]
pub enum Source {
    /// A folder in the Hugging Face layout.
    Safetensors {
        /// `config.json`, checked.
        config: Box<ModelConfig>,
        /// The tensors.
        weights: Weights,
    },
    /// A GGUF file; tensors are dequantised when they are loaded, unless a quantised base is asked for.
    Gguf(Box<Gguf>),
}

impl Source {
    /// Opens a folder in the Hugging Face layout, or a `.gguf` file.
    ///
    /// # Errors
    /// Files are missing, damaged or of a kind that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let config = Box::new(ModelConfig::from_folder(path)?);
            let mut source = Self::Safetensors { config, weights: Weights::open(path)? };
            let own_head = source.has_head_of_its_own()?;
            if let Self::Safetensors { config, .. } = &mut source {
                config.tie_word_embeddings &= !own_head;
            }
            return Ok(source);
        }
        Ok(Self::Gguf(Box::new(Gguf::open(path)?)))
    }

    /// Whether a folder whose configuration says `tie_word_embeddings` holds a head that is not the embedding, as files of a trained
    /// head do. It is used then, as transformers 5 does.
    fn has_head_of_its_own(&self) -> Result<bool> {
        let Self::Safetensors { config, weights } = self else { return Ok(false) };
        let names = config.family.traits().names;
        let stored = |name: &str| stored_name(self, names.base, &format!("{name}.weight"));
        let (head, words) = (stored("lm_head"), stored(names.embedding));
        let both = config.tie_word_embeddings && weights.contains(&head) && weights.contains(&words);
        Ok(both && !weights.same(&head, &words)?)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Safetensors { config, .. } => config,
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Safetensors { weights, .. } => weights.names(),
            Self::Gguf(gguf) => gguf.names(),
        }
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::Safetensors { weights, .. } => weights.contains(name),
            Self::Gguf(gguf) => gguf.contains(name),
        }
    }

    /// A tensor's shape and the dtype that "auto" loads it in (F32 for quantised tensors).
    ///
    /// # Errors
    /// No such tensor, or an unsupported dtype.
    pub fn shape_dtype(&self, name: &str) -> Result<(Vec<usize>, DType)> {
        match self {
            Self::Safetensors { weights, .. } => weights.shape_dtype(name),
            Self::Gguf(gguf) => gguf.shape_dtype(name),
        }
    }

    /// Loads a tensor as a candle variable, one copy in memory; `dtype: None` ("auto") keeps the file's.
    ///
    /// # Errors
    /// No such tensor, or its dtype cannot be converted.
    pub fn load(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Var> {
        match self {
            Self::Safetensors { weights, .. } => weights.load(name, dtype, device),
            Self::Gguf(gguf) => gguf.load(name, dtype, device),
        }
    }

    /// As [`Self::load`], after checking that the file's shape is the one that the configuration asks for. With `transposed`, a
    /// folder holds the matrix the other way round; GGUF files hold all alike.
    ///
    /// # Errors
    /// As [`Self::load`]; the shapes differ.
    pub fn load_shaped(
        &self,
        name: &str,
        shape: &[usize],
        transposed: bool,
        dtype: Option<DType>,
        device: &Device,
    ) -> Result<Var> {
        self.check_shape(name, shape, transposed)?;
        let value = self.load(name, dtype, device)?;
        match self.is_turned(shape, transposed) {
            true => Ok(Var::from_tensor(&value.as_detached_tensor().t()?.contiguous()?)?),
            false => Ok(value),
        }
    }

    /// Whether a matrix of this shape is stored as its transpose.
    fn is_turned(&self, shape: &[usize], transposed: bool) -> bool {
        transposed && shape.len() == 2 && matches!(self, Self::Safetensors { .. })
    }

    /// Whether [`Self::load_shaped`] will find what it is asked for, by the file's header.
    ///
    /// # Errors
    /// No such tensor, or the shapes differ.
    pub fn check_shape(&self, name: &str, shape: &[usize], transposed: bool) -> Result<()> {
        let (found, _) = self.shape_dtype(name)?;
        let mut expected = shape.to_vec();
        if self.is_turned(shape, transposed) {
            expected.reverse();
        }
        if found != expected {
            let message = format!("tensor {name}: expected shape {expected:?} by the configuration, found {found:?}");
            return Err(Error::format(self.file_of(name), message));
        }
        Ok(())
    }

    /// Loads a tensor as a parameter: trainable, or frozen where the model is to be held quantised.
    ///
    /// # Errors
    /// As [`Self::load_shaped`]; a quantised model on another device than the CPU.
    pub fn parameter(
        &self,
        name: &str,
        shape: &[usize],
        transposed: bool,
        precision: Precision,
        device: &Device,
    ) -> Result<Parameter> {
        let Some(blocks) = precision.blocks() else {
            let dtype = if let Precision::Float(dtype) = precision { Some(dtype) } else { None };
            return Ok(Parameter::from_var(self.load_shaped(name, shape, transposed, dtype, device)?));
        };
        if !device.is_cpu() {
            return Err(Error::argument(
                "quantised weights (dtype \"q4\", \"q8\") are computed on the CPU only; use device: \"cpu\", or dtype: \"bf16\"",
            ));
        }
        let quantised = match (self, shape) {
            (Self::Safetensors { .. }, &[outputs, inputs]) if transposed && inputs.is_multiple_of(blocks.block_size()) => {
                let rows = self.load_shaped(name, shape, true, Some(DType::F32), device)?.to_vec2::<f32>()?;
                Some(Quantised::quantise(blocks, (outputs, inputs), |row, out| out.copy_from_slice(&rows[row]))?)
            }
            (Self::Safetensors { .. }, _) if transposed => None,
            (Self::Safetensors { weights, .. }, _) => {
                self.check_shape(name, shape, transposed)?;
                weights.quantised(name, blocks)?
            }
            (Self::Gguf(gguf), _) => {
                self.check_shape(name, shape, transposed)?;
                gguf.quantised(name, blocks)?
            }
        };
        if let Some(quantised) = quantised {
            return Parameter::from_quantised(quantised);
        }
        // Vectors are small, and everything multiplies by them: f32. Matrices that cannot be quantised are kept as they are.
        let dtype = if shape.len() == 1 { Some(DType::F32) } else { None };
        let parameter = Parameter::from_var(self.load_shaped(name, shape, transposed, dtype, device)?);
        parameter.set_requires_grad(false);
        Ok(parameter)
    }

    /// The file that a tensor is in, for messages.
    pub fn file_of(&self, name: &str) -> &Path {
        match self {
            Self::Safetensors { weights, .. } => weights.file_of(name),
            Self::Gguf(gguf) => gguf.path(),
        }
    }

    /// How a tensor is stored.
    ///
    /// # Errors
    /// No such tensor, or an unsupported dtype.
    pub fn stored(&self, name: &str) -> Result<Stored> {
        Ok(match self {
            Self::Safetensors { weights, .. } => Stored::Float(weights.shape_dtype(name)?.1),
            Self::Gguf(gguf) => match gguf.stored_dtype(name)? {
                GgmlDType::F32 => Stored::Float(DType::F32),
                GgmlDType::F16 => Stored::Float(DType::F16),
                GgmlDType::BF16 => Stored::Float(DType::BF16),
                blocks => Stored::Blocks(blocks),
            },
        })
    }

    /// The number of elements of all tensors together; a tied head counts once.
    ///
    /// # Errors
    /// An unsupported dtype.
    pub fn num_parameters(&self) -> Result<usize> {
        self.names().into_iter().map(|name| Ok(self.shape_dtype(name)?.0.iter().product::<usize>())).sum()
    }

    /// What most of the weights are stored in, as "BF16" or "Q4_1".
    ///
    /// # Errors
    /// An unsupported dtype.
    pub fn stored_as(&self) -> Result<String> {
        let mut elements: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
        for name in self.names() {
            let (shape, _) = self.shape_dtype(name)?;
            let stored = match self.stored(name)? {
                Stored::Float(dtype) => format!("{dtype:?}"),
                Stored::Blocks(blocks) => format!("{blocks:?}"),
            };
            *elements.entry(stored).or_default() += shape.iter().product::<usize>();
        }
        Ok(elements.into_iter().max_by_key(|(_, count)| *count).map(|(stored, _)| stored).unwrap_or_default())
    }
}
