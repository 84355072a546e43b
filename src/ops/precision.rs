//! How exactly matrices of f32 are multiplied: PyTorch's `torch.set_float32_matmul_precision`, under the same names.
//!
//! "highest" multiplies in f32. "high" and "medium" allow rounding both operands of a product first, where the machine has an
//! instruction that is faster for it: "high" to TF32 (10 bits after the leading one; cards), "medium" also to bf16 (7 bits; cards,
//! and processors with bf16 instructions). Sums are taken in f32 always, and what is stored stays f32. A machine without such
//! instructions computes the same for all three.

use std::sync::atomic::{AtomicU8, Ordering};

/// What a product of matrices in f32 may do with its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum MatmulPrecision {
    /// Nothing.
    #[default]
    Highest,
    /// Round them to TF32.
    High,
    /// Round them to bf16.
    Medium,
}

impl MatmulPrecision {
    const ALL: [Self; 3] = [Self::Highest, Self::High, Self::Medium];

    /// PyTorch's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Highest => "highest",
            Self::High => "high",
            Self::Medium => "medium",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }
}

static PRECISION: AtomicU8 = AtomicU8::new(0);

/// What products may do at present, in the whole process.
pub fn float32_matmul_precision() -> MatmulPrecision {
    MatmulPrecision::ALL[usize::from(PRECISION.load(Ordering::Relaxed)).min(2)]
}

/// Sets what products may do from now on, in the whole process.
pub fn set_float32_matmul_precision(precision: MatmulPrecision) {
    PRECISION.store(precision as u8, Ordering::Relaxed);
    // Of products that are candle's own.
    #[cfg(feature = "cuda")]
    candle_core::cuda::set_gemm_reduced_precision_f32(precision != MatmulPrecision::Highest);
}

/// Sets what was set before when it goes.
#[must_use]
pub(crate) struct Allowed(MatmulPrecision);

impl Drop for Allowed {
    fn drop(&mut self) {
        set_float32_matmul_precision(self.0);
    }
}

/// Allows products so much, or what is allowed already if that is more, until the result goes.
pub(crate) fn allow(precision: MatmulPrecision) -> Allowed {
    let before = float32_matmul_precision();
    set_float32_matmul_precision(precision.max(before));
    Allowed(before)
}

/// Whether operands may be rounded to bf16.
pub(super) fn may_round() -> bool {
    float32_matmul_precision() == MatmulPrecision::Medium
}
