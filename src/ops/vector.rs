//! Vector registers of f32: which the processor has, and one set of names for those of 8 and of 16 lanes.
//!
//! They are found at run time. `FTREPL_SIMD=off` leaves them unused, as on machines without; `avx2` uses those of 8 lanes only,
//! `avx512` the widest there are, which is the default.

use std::sync::OnceLock;

/// What a processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Whatever the compiler may assume of every processor.
    Portable,
    /// AVX2, FMA and F16C: 16 registers of 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F besides: 32 registers of 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best of this processor that may be used.
    pub(super) fn best() -> Self {
        static FOUND: OnceLock<Level> = OnceLock::new();
        *FOUND.get_or_init(|| match std::env::var("FTREPL_SIMD").as_deref() {
            Ok("off") => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Ok("avx2") => Self::found().min(Self::Avx2),
            _ => Self::found(),
        })
    }

    fn found() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return if is_x86_feature_detected!("avx512f") { Self::Avx512 } else { Self::Avx2 };
        }
        Self::Portable
    }

    /// All that this processor has and that may be used.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let all = [Self::Portable, Self::Avx2, Self::Avx512];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [Self::Portable];
        all.into_iter().filter(|level| *level <= Self::best()).collect()
    }
}

/// Whether there are vector registers for which there are kernels.
pub(super) fn has_vectors() -> bool {
    Level::best() > Level::Portable
}

/// Whether AVX-512 may be used.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    Level::best() == Level::Avx512
}

#[cfg(target_arch = "x86_64")]
pub(super) use registers::{V8, V16, Vector};

#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::x86_64::*;

    /// A register of f32. Every function is inlined into the one that uses it, which must be compiled for the instructions.
    ///
    /// # Safety
    /// For all functions: the processor has the instructions, and addresses hold what is read or written; under a mask, its lanes.
    pub(in crate::ops) trait Vector: Copy {
        /// How many numbers it holds.
        const LANES: usize;
        /// Some of the lanes.
        type Mask: Copy;

        unsafe fn zero() -> Self;
        unsafe fn load(from: *const f32) -> Self;
        unsafe fn store(self, to: *mut f32);
        /// The same number in every lane.
        unsafe fn splat(from: *const f32) -> Self;
        /// `self * factor + sum`, rounded once.
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
        /// The sum of all lanes.
        unsafe fn sum(self) -> f32;
        /// The first lanes, so many, or all where there are fewer.
        unsafe fn first(count: usize) -> Self::Mask;
        /// Zeros in the other lanes.
        unsafe fn load_some(mask: Self::Mask, from: *const f32) -> Self;
        unsafe fn store_some(self, mask: Self::Mask, to: *mut f32);
    }

    /// 16 lanes: AVX-512F.
    #[derive(Clone, Copy)]
    pub(in crate::ops) struct V16(pub(in crate::ops) __m512);

    /// 8 lanes: AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in crate::ops) struct V8(__m256);

    macro_rules! functions {
        ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty { $body:expr })*) => {
            // SAFETY: passed on from the caller, as the trait says.
            $(#[inline(always)] unsafe fn $name($($argument: $type),*) -> $result { unsafe { $body } })*
        };
    }

    impl Vector for V16 {
        const LANES: usize = 16;
        type Mask = __mmask16;

        functions! {
            fn zero() -> Self { Self(_mm512_setzero_ps()) }
            fn load(from: *const f32) -> Self { Self(_mm512_loadu_ps(from)) }
            fn splat(from: *const f32) -> Self { Self(_mm512_set1_ps(*from)) }
            fn load_some(mask: __mmask16, from: *const f32) -> Self { Self(_mm512_maskz_loadu_ps(mask, from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn first(count: usize) -> __mmask16 {
            ((1u32 << count.min(16)) - 1) as __mmask16
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, sum.0)) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }

        #[inline(always)]
        unsafe fn store_some(self, mask: __mmask16, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to, mask, self.0) }
        }
    }

    impl Vector for V8 {
        const LANES: usize = 8;
        type Mask = __m256i;

        functions! {
            fn zero() -> Self { Self(_mm256_setzero_ps()) }
            fn load(from: *const f32) -> Self { Self(_mm256_loadu_ps(from)) }
            fn splat(from: *const f32) -> Self { Self(_mm256_broadcast_ss(&*from)) }
            fn first(count: usize) -> __m256i {
                _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
            }
            fn load_some(mask: __m256i, from: *const f32) -> Self { Self(_mm256_maskload_ps(from, mask)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, sum.0)) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe {
                let halves = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let quarters = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
                _mm_cvtss_f32(_mm_add_ss(quarters, _mm_shuffle_ps::<1>(quarters, quarters)))
            }
        }

        #[inline(always)]
        unsafe fn store_some(self, mask: __m256i, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_maskstore_ps(to, mask, self.0) }
        }
    }
}

/// A register of 16 lanes without any instruction, so that kernels can be tested in AVX-512's sizes on every processor.
#[cfg(all(test, target_arch = "x86_64"))]
#[derive(Clone, Copy)]
pub(super) struct Lanes16([f32; 16]);

#[cfg(all(test, target_arch = "x86_64"))]
impl Vector for Lanes16 {
    const LANES: usize = 16;
    /// How many of the first lanes.
    type Mask = usize;

    unsafe fn zero() -> Self {
        Self([0.0; 16])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the trait says, here and below.
        unsafe { Self(from.cast::<[f32; 16]>().read_unaligned()) }
    }

    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }

    unsafe fn splat(from: *const f32) -> Self {
        unsafe { Self([*from; 16]) }
    }

    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], sum.0[i])))
    }

    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    unsafe fn first(count: usize) -> usize {
        count.min(16)
    }

    unsafe fn load_some(mask: usize, from: *const f32) -> Self {
        unsafe { Self(std::array::from_fn(|i| if i < mask { *from.add(i) } else { 0.0 })) }
    }

    unsafe fn store_some(self, mask: usize, to: *mut f32) {
        (0..mask).for_each(|i| unsafe { *to.add(i) = self.0[i] });
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Every function does what the one without instructions does, lane by lane.
    unsafe fn same<A: Vector, B: Vector>() {
        let values: Vec<f32> = (0..16).map(|i| 1.0 + i as f32).collect();
        let stored = |write: &dyn Fn(*mut f32)| {
            let mut out = [-1f32; 16];
            write(out.as_mut_ptr());
            out
        };
        // SAFETY: the caller has the instructions; 16 lanes are there at most.
        unsafe {
            let (a, b, lanes) = (A::load(values.as_ptr()), B::load(values.as_ptr()), A::LANES);
            let pairs = [
                (stored(&|to| A::zero().store(to)), stored(&|to| B::zero().store(to))),
                (stored(&|to| a.store(to)), stored(&|to| b.store(to))),
                (stored(&|to| A::splat(&values[3]).store(to)), stored(&|to| B::splat(&values[3]).store(to))),
                (
                    stored(&|to| a.multiply_add(a, A::splat(&0.5)).store(to)),
                    stored(&|to| b.multiply_add(b, B::splat(&0.5)).store(to)),
                ),
            ];
            pairs.iter().for_each(|(a, b)| assert_eq!(a[..lanes], b[..lanes]));
            assert_eq!(a.sum(), values[..lanes].iter().sum::<f32>());
            for count in 0..=lanes + 1 {
                let (some_a, some_b) =
                    (A::load_some(A::first(count), values.as_ptr()), B::load_some(B::first(count), values.as_ptr()));
                assert_eq!(stored(&|to| some_a.store(to))[..lanes], stored(&|to| some_b.store(to))[..lanes], "{count}");
                let (a, b) = (stored(&|to| a.store_some(A::first(count), to)), stored(&|to| b.store_some(B::first(count), to)));
                assert_eq!((a[..lanes].to_vec(), &a[lanes..]), (b[..lanes].to_vec(), &[-1f32; 16][lanes..]), "{count}");
            }
        }
    }

    #[test]
    fn registers_do_the_same_as_plain_lanes() {
        // SAFETY: each only where its instructions are.
        unsafe {
            same::<Lanes16, Lanes16>();
            if has_vectors() {
                same::<V8, Lanes16>();
            }
            if has_avx512() {
                same::<V16, Lanes16>();
            }
        }
    }
}
