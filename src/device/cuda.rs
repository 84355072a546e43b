//! The memory of a CUDA device.

use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Error, Result};

fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device of a context that lives.
    unsafe { result::device::get_default_mem_pool(device.cuda_stream().context().cu_device()) }.map_err(Error::wrap)
}

/// Leaves out the events by which cudarc orders several streams: two for every tensor, recorded and waited for wherever it is
/// used. To be called before there are tensors.
pub(super) fn without_events(device: &CudaDevice) {
    // SAFETY: a device here has one stream, which orders all; a copy from one device to another waits for what the first was given.
    unsafe { device.disable_event_tracking() };
}

/// Has freed memory kept for the next allocation: what a step frees the next one takes, and asking the driver costs a wait.
pub(super) fn keep_freed(device: &CudaDevice) -> Result<()> {
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().map_err(Error::wrap)?;
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut most = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number.
    let status = unsafe { sys::cuMemPoolSetAttribute(pool(device)?, attribute, (&raw mut most).cast()) };
    status.result().map_err(Error::wrap)
}

/// Free and total bytes; what is kept for the next allocation counts as free, and goes back to the driver.
pub(super) fn free_and_total(device: &CudaDevice) -> Result<(u64, u64)> {
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().map_err(Error::wrap)?;
    if context.has_async_alloc() {
        device.cuda_stream().synchronize().map_err(Error::wrap)?;
        // SAFETY: the pool lives as long as the device.
        unsafe { sys::cuMemPoolTrimTo(pool(device)?, 0) }.result().map_err(Error::wrap)?;
    }
    let (free, total) = context.mem_get_info().map_err(Error::wrap)?;
    Ok((free as u64, total as u64))
}

/// Bytes that tensors hold now, and the most that they held.
pub(super) fn used(device: &CudaDevice) -> Result<(u64, u64)> {
    let read = |attribute| -> Result<u64> {
        let mut value = 0u64;
        // SAFETY: the attribute is a 64-bit number.
        let status = unsafe { sys::cuMemPoolGetAttribute(pool(device)?, attribute, (&raw mut value).cast()) };
        status.result().map_err(Error::wrap)?;
        Ok(value)
    };
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_HIGH};
    Ok((read(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?, read(CU_MEMPOOL_ATTR_USED_MEM_HIGH)?))
}
