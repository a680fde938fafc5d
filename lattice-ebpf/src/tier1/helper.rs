//! What the kernel itself starts (core_pattern, modprobe, uevent_helper): the host's, unless its file is a container's.
//!
//! Who can write such a path, a privileged container for one, makes the kernel start a program that belongs to nobody: the task has no
//! mark and the host's root.

use crate::{
    caller::{Caller, current},
    kernel::{OVERLAYFS, Pointer, TASK_STRUCT_REAL_PARENT, TASK_STRUCT_TGID, mounts_of, probe},
    maps::NODE,
    trusted::File,
};

/// kthreadd: the parent of the kernel's threads, and of what its workers start.
const KTHREADD: u32 = 2;
/// `MNT_NS_INTERNAL` and other errors in place of a pointer: a file system that only the kernel has mounted.
const FIRST_ERROR: u64 = u64::MAX - 4094;

/// Whether the kernel started the current task, for a file that lies in another mount namespace than its own, or on an overlay that is not
/// the host's root.
#[inline(always)]
pub(crate) fn runs_file_of_container(file: File) -> bool {
    let task: Pointer = current().cast_const().cast();
    let parent = probe::<u64>(task, TASK_STRUCT_REAL_PARENT.load()) as Pointer;
    if probe::<u32>(parent, TASK_STRUCT_TGID.load()) != KTHREADD {
        return false;
    }
    let inode = file.inode();
    let host_root = NODE.get(0).map_or(0, |node| node.host_root_device);
    if inode.file_system() == OVERLAYFS && inode.device() != host_root {
        return true;
    }
    let namespace = file.mount_namespace();
    namespace != mounts_of(task) && namespace < FIRST_ERROR
}

/// The standing of a helper that is refused.
#[inline(always)]
pub(crate) fn standing() -> Caller {
    let mut caller = Caller::UNKNOWN;
    // It cannot be given null.
    lattice_helper_standing(&raw mut caller);
    caller
}

/// A global BPF function, for the same reason as `lattice_caller`: what is known of these fields would be a second way through the verdict
/// for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_helper_standing(caller: *mut Caller) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let Some(caller) = (unsafe { caller.as_mut() }) else {
        return 0;
    };
    caller.entering = 0;
    1
}
