//! Equal refusals, counted rather than told one by one; see [`lattice_common::repeat`].
//!
//! Nothing here is part of a verdict: it is asked after the decision was carried out, and only whether a record is owed.

use lattice_common::repeat::{Repeat, RepeatKey, TOLD_PER_CONTAINER, TOLD_PER_FILE};

use crate::{
    atomic::fetch_increment,
    kernel::boot_nanos,
    maps::{REPEATS, WINDOW},
};

/// `BPF_NOEXIST`: what another CPU has just made stays.
const ONLY_NEW: u64 = 1;

/// The window that is counted in.
#[inline(always)]
pub(crate) fn window() -> u64 {
    WINDOW.get(0).copied().unwrap_or(0)
}

/// Counts a refusal. A global BPF function, verified once. Returns 0 where it is owed a record, 1 where it was counted instead.
///
/// `fresh` is the element as it is to begin, for a key that has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lattice_repeat(key: *const RepeatKey, fresh: *const Repeat) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let (Some(key), Some(fresh)) = (unsafe { key.as_ref() }, unsafe { fresh.as_ref() }) else {
        return 0;
    };
    let is_new = match REPEATS.get_ptr_mut(key) {
        // SAFETY: the element is aligned; it is removed by the agent alone, a window after it was written last.
        Some(repeat) if unsafe { fetch_increment(&raw mut (*repeat).told) } >= TOLD_PER_FILE => return add(repeat),
        Some(_) => false,
        None => true,
    };
    // A flood of different files must not fill the map: what the container may be told of is looked at first.
    let mut container = RepeatKey {
        inode: 0,
        device: 0,
        judgement: 0,
        standing: 0,
        ..*key
    };
    match REPEATS.get_ptr_mut(&container) {
        // SAFETY: as above.
        Some(told) if unsafe { fetch_increment(&raw mut (*told).told) } >= TOLD_PER_CONTAINER => {
            // Together, by judgement.
            container.judgement = key.judgement;
            container.standing = key.standing;
            if REPEATS.get_ptr_mut(&container).is_none() {
                let _ = REPEATS.insert(&container, fresh, ONLY_NEW);
            }
            return REPEATS.get_ptr_mut(&container).map_or(0, add);
        }
        Some(_) => {}
        // Where it cannot be made nobody counts what the container was told of, and all of it is told.
        None => drop(REPEATS.insert(&container, fresh, ONLY_NEW)),
    }
    if is_new {
        // Where the map is full, or another CPU was first, this one has a record too.
        let _ = REPEATS.insert(key, fresh, ONLY_NEW);
    }
    0
}

#[inline(always)]
fn add(repeat: *mut Repeat) -> u32 {
    let now = boot_nanos();
    // SAFETY: as in `lattice_repeat`.
    unsafe {
        if fetch_increment(&raw mut (*repeat).count) == 0 {
            (*repeat).first_boot_nanos = now;
        }
        (*repeat).last_boot_nanos = now;
    }
    1
}

/// Notes the record that the first of equal refusals has. A global BPF function, verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lattice_told(key: *const RepeatKey, sequence: u64) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    if let Some(repeat) = REPEATS.get_ptr_mut(key) {
        // SAFETY: as in `lattice_repeat`.
        unsafe {
            if (*repeat).first_sequence == 0 {
                (*repeat).first_sequence = sequence;
            }
        }
    }
    0
}
