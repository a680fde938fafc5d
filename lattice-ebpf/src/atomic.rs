//! Atomic addition. `core` offers none for the BPF target, which has no compare-and-swap before its third version; the instruction
//! itself is there.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds one, and returns what was there before.
///
/// # Safety
/// `value` must point to an aligned element of a map.
#[inline(always)]
pub(crate) unsafe fn fetch_increment(value: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1) }
}
