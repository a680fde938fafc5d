//! Equal refusals, counted rather than told one by one; see [`lattice_common::repeat`].
//!
//! Nothing here is part of a verdict: it is asked after the decision was carried out, and only whether a record is owed.

use aya_ebpf::macros::btf_map;
use lattice_common::repeat::{Repeat, RepeatKey, TOLD_PER_CONTAINER, TOLD_PER_FILE};

use crate::{
    atomic::fetch_increment,
    caller::current,
    kernel::boot_nanos,
    maps::{REPEATS, TaskStorage, WINDOW},
};

/// `BPF_NOEXIST`: what another CPU has just made stays.
const ONLY_NEW: u64 = 1;

/// The window that is counted in.
#[inline(always)]
pub(crate) fn window() -> u64 {
    WINDOW.get(0).copied().unwrap_or(0)
}

/// What makes refusals equal, the element as it is to begin, and the key of what the container was told of. In task storage: too large for
/// the stack, and Linux 6.1 takes keys from map values but not from a function's arguments.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) key: RepeatKey,
    container: RepeatKey,
    pub(crate) fresh: Repeat,
}

#[btf_map]
static REPEAT_SCRATCH: TaskStorage<Scratch> = TaskStorage::new();

/// The current task's, made of zeros where there was none; `None` where the kernel had no memory.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    REPEAT_SCRATCH.get_or_create(current())
}

/// Counts the refusal that the scratch describes. A global BPF function, verified once. Returns 0 where it is owed a record, 1 where it was
/// counted instead.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lattice_repeat() -> u32 {
    let Some(scratch) = REPEAT_SCRATCH.get(current()) else {
        return 0;
    };
    let is_new = match REPEATS.get_ptr_mut(&scratch.key) {
        // SAFETY: the element is aligned; it is removed by the agent alone, a window after it was written last.
        Some(repeat) if unsafe { fetch_increment(&raw mut (*repeat).told) } >= TOLD_PER_FILE => return add(repeat),
        Some(_) => false,
        None => true,
    };
    // A flood of different files must not fill the map: what the container may be told of is looked at first.
    scratch.container.cgroup_id = scratch.key.cgroup_id;
    scratch.container.window = scratch.key.window;
    scratch.container.container = scratch.key.container;
    scratch.container.epoch = scratch.key.epoch;
    scratch.container.judgement = 0;
    scratch.container.standing = 0;
    match REPEATS.get_ptr_mut(&scratch.container) {
        // SAFETY: as above.
        Some(told) if unsafe { fetch_increment(&raw mut (*told).told) } >= TOLD_PER_CONTAINER => {
            // Together, by judgement.
            scratch.container.judgement = scratch.key.judgement;
            scratch.container.standing = scratch.key.standing;
            if REPEATS.get_ptr_mut(&scratch.container).is_none() {
                let _ = REPEATS.insert(&scratch.container, &scratch.fresh, ONLY_NEW);
            }
            return REPEATS.get_ptr_mut(&scratch.container).map_or(0, add);
        }
        Some(_) => {}
        // Where it cannot be made nobody counts what the container was told of, and all of it is told.
        None => drop(REPEATS.insert(&scratch.container, &scratch.fresh, ONLY_NEW)),
    }
    if is_new {
        // Where the map is full, or another CPU was first, this one has a record too.
        let _ = REPEATS.insert(&scratch.key, &scratch.fresh, ONLY_NEW);
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
pub(crate) extern "C" fn lattice_told(sequence: u64) -> u32 {
    if let Some(scratch) = REPEAT_SCRATCH.get(current())
        && let Some(repeat) = REPEATS.get_ptr_mut(&scratch.key)
    {
        // SAFETY: as in `lattice_repeat`.
        unsafe {
            if (*repeat).first_sequence == 0 {
                (*repeat).first_sequence = sequence;
            }
        }
    }
    0
}
