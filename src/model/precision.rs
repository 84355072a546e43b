//! What a model's weights are held in: the dtypes that `from_pretrained` takes.

use super::config::dtype_from_name;
use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// How the weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As the file has them; the quantised tensors of a GGUF file become f32.
    #[default]
    Stored,
    /// All in one dtype.
    Float(DType),
    /// Frozen, with matrices in 4 bits: those that a GGUF file stores quantised as they are, others quantised to Q4_0. Norms,
    /// biases and matrices whose rows are no whole number of blocks stay floats.
    FourBit,
    /// The same in 8 bits, Q8_0.
    EightBit,
}

impl Precision {
    /// What is meant by "auto", a dtype's name, "q4" or "q8".
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Stored),
            "q4" => Some(Self::FourBit),
            "q8" => Some(Self::EightBit),
            name => dtype_from_name(name).map(Self::Float),
        }
    }

    /// Its name, as [`Self::from_name`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "auto",
            Self::Float(dtype) => dtype.as_str(),
            Self::FourBit => "q4",
            Self::EightBit => "q8",
        }
    }

    /// What unquantised matrices are quantised to.
    pub fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::FourBit => Some(GgmlDType::Q4_0),
            Self::EightBit => Some(GgmlDType::Q8_0),
            Self::Stored | Self::Float(_) => None,
        }
    }
}

impl From<Option<DType>> for Precision {
    /// A dtype; `None` keeps the file's.
    fn from(dtype: Option<DType>) -> Self {
        dtype.map_or(Self::Stored, Self::Float)
    }
}
