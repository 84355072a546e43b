//! Small tables brought to a device: ids, targets, places.

use candle_core::{Device, Result, Shape, Tensor, WithDType};

/// A tensor of these values on a device. To a CUDA device they go through page-locked memory: a copy from ordinary memory may wait for
/// all work that the device has been given.
///
/// # Errors
/// Another number of values than the shape has, or no memory.
pub(crate) fn upload<T: WithDType>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "cuda")]
    if device.is_cuda() && !values.is_empty() && values.len() == shape.elem_count() {
        return pinned::upload(values, shape, device);
    }
    Tensor::from_slice(values, shape, device)
}

#[cfg(feature = "cuda")]
mod pinned {
    use crate::ops::gpu::cuda::{address, unwritten};
    use candle_core::cuda_backend::cudarc::driver::{CudaEvent, PinnedHostSlice, result};
    use candle_core::{CudaDevice, Device, Error, Result, Shape, Tensor, WithDType};
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    /// So many pieces of a size are in use at once; then the first is waited for.
    const PIECES: usize = 32;
    /// The smallest piece, in bytes.
    const SMALLEST: usize = 4096;

    /// Page-locked memory, and when the copy out of it has been made.
    struct Piece {
        memory: PinnedHostSlice<u8>,
        copied: Option<CudaEvent>,
    }

    #[derive(Default)]
    struct Ring {
        pieces: Vec<Piece>,
        next: usize,
    }

    /// By the device's number and the pieces' size.
    static RINGS: Mutex<Option<HashMap<(usize, usize), Ring>>> = Mutex::new(None);

    impl Ring {
        fn piece(&mut self, device: &CudaDevice, size: usize) -> Result<&mut Piece> {
            if self.pieces.len() < PIECES {
                // SAFETY: written before it is read.
                let memory = unsafe { device.cuda_stream().context().alloc_pinned::<u8>(size) }.map_err(Error::wrap)?;
                self.pieces.push(Piece { memory, copied: None });
                self.next = self.pieces.len() - 1;
            }
            let at = self.next % self.pieces.len();
            self.next = at + 1;
            let piece = &mut self.pieces[at];
            if let Some(copied) = piece.copied.take() {
                copied.synchronize().map_err(Error::wrap)?;
            }
            Ok(piece)
        }
    }

    pub(super) fn upload<T: WithDType>(values: &[T], shape: Shape, device: &Device) -> Result<Tensor> {
        let tensor = unwritten(shape, T::DTYPE, device)?;
        let (cuda, bytes) = (device.as_cuda_device()?, size_of_val(values));
        let stream = cuda.cuda_stream();
        let size = bytes.next_power_of_two().max(SMALLEST);
        let mut rings = RINGS.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.get_or_insert_default().entry((stream.context().ordinal(), size)).or_default();
        let piece = ring.piece(cuda, size)?;
        let memory = &mut piece.memory.as_mut_slice().map_err(Error::wrap)?[..bytes];
        // SAFETY: numbers without padding, read as their bytes.
        memory.copy_from_slice(unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), bytes) });
        // SAFETY: the tensor has so many bytes, and the piece is left alone until the event.
        unsafe { result::memcpy_htod_async(address(&tensor)?, memory, stream.cu_stream()) }.map_err(Error::wrap)?;
        piece.copied = Some(stream.record_event(None).map_err(Error::wrap)?);
        Ok(tensor)
    }
}
