//! Changing a parameter's elements on the CPU where they lie: those of f32 directly, bf16 and f16 through an f32 copy.

use candle_core::{CpuStorage, InplaceOp1, Layout};
use half::{bf16, f16};
use std::cell::RefCell;

/// A candle in-place operation made from a closure over contiguous f32 elements.
pub(super) struct InPlace<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InPlace<F> {
    pub(super) fn new(update: F) -> Self {
        Self(RefCell::new(update))
    }
}

impl<F: FnMut(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "update in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("only f32 values can be updated in place") };
        (self.0.borrow_mut())(&mut values[contiguous(layout)?]);
        Ok(())
    }
}

/// The same for bf16 and f16, through an f32 master copy.
pub(super) struct HalfInPlace<'a, F>(RefCell<(&'a mut [f32], F)>);

impl<'a, F: FnMut(&mut [f32])> HalfInPlace<'a, F> {
    pub(super) fn new(master: &'a mut [f32], update: F) -> Self {
        Self(RefCell::new((master, update)))
    }
}

impl<F: FnMut(&mut [f32])> InplaceOp1 for HalfInPlace<'_, F> {
    fn name(&self) -> &'static str {
        "update through a master copy"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (master, update) = &mut *self.0.borrow_mut();
        let range = contiguous(layout)?;
        if range.len() != master.len() {
            candle_core::bail!("a master copy of {} elements for a parameter of {}", master.len(), range.len())
        }
        match storage {
            CpuStorage::BF16(values) => through_master(&mut values[range], master, update, bf16::from_f32, bf16::to_f32),
            CpuStorage::F16(values) => through_master(&mut values[range], master, update, f16::from_f32, f16::to_f32),
            _ => candle_core::bail!("only bf16 and f16 values have a master copy"),
        }
        Ok(())
    }
}

fn through_master<T: Copy + PartialEq>(
    values: &mut [T],
    master: &mut [f32],
    update: &mut impl FnMut(&mut [f32]),
    narrow: impl Fn(f32) -> T,
    widen: impl Fn(T) -> f32,
) {
    for (exact, value) in master.iter_mut().zip(values.iter()) {
        if narrow(*exact) != *value {
            *exact = widen(*value);
        }
    }
    update(master);
    for (value, exact) in values.iter_mut().zip(master.iter()) {
        *value = narrow(*exact);
    }
}

fn contiguous(layout: &Layout) -> candle_core::Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("only contiguous values can be updated in place"),
    }
}
