//! The matrix unit of recent processors (AMX): eight tile registers of 16 rows by 64 bytes, and one instruction that multiplies two
//! tiles of bf16 and adds the result to a tile of f32.
//!
//! Linux lets a process use it only after it has asked. `FTREPL_AMX=off` leaves it unused, as on machines without it.

use crate::ops::vector::has_avx512;
use std::arch::asm;
use std::sync::OnceLock;

/// Whether the unit, and the instructions that prepare its operands, may be used.
pub(in crate::ops) fn has_matrix_unit() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        has_avx512()
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && std::env::var("FTREPL_AMX").map_or(true, |v| v != "off")
            && is_there()
            && is_permitted()
    })
}

/// Whether the processor has tiles and multiplies bf16 with them: bits of leaf 7 (Intel, Software Developer's Manual, volume 2, CPUID).
fn is_there() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    std::arch::x86_64::__cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks the kernel for the tiles' state (Linux, Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: a system call that takes two numbers and no address.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The registers' layout while it lives: all eight are 16 rows of 64 bytes. Afterwards the unit is as at the start, so that a change of
/// threads has no tiles to save.
pub(super) struct Tiles(());

#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// # Safety
    /// [`has_matrix_unit`] must have said so.
    pub(super) unsafe fn lay_out() -> Self {
        let mut layout = Layout { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        layout.row_bytes[..8].fill(64);
        layout.rows[..8].fill(16);
        // SAFETY: the instruction reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const layout, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever made this has the unit.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
