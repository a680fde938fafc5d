//! The processes above the caller, from the kernel: right also for those that are older than the agent, and for those that are gone
//! by the time it looks.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use lattice_common::abi::{ANCESTOR_NAME_BYTES, ExecRecord, RECORD_ANCESTORS};

use crate::{
    caller::current,
    kernel::{
        DENTRY_D_NAME, FILE_F_PATH, MM_STRUCT_EXE_FILE, PATH_DENTRY, Pointer, TASK_STRUCT_GROUP_LEADER, TASK_STRUCT_MM,
        TASK_STRUCT_REAL_PARENT, TASK_STRUCT_START_BOOTTIME, TASK_STRUCT_TGID, probe,
    },
};

/// The main thread of a task's process.
#[inline(always)]
fn leader(task: Pointer) -> Pointer {
    probe::<u64>(task, TASK_STRUCT_GROUP_LEADER.load()) as Pointer
}

/// The main thread of the parent process.
#[inline(always)]
fn parent(task: Pointer) -> Pointer {
    leader(probe::<u64>(task, TASK_STRUCT_REAL_PARENT.load()) as Pointer)
}

/// Fills in the parent, the caller's start and its ancestors, up to process 1 or the record's end. A global BPF function, verified
/// once. A task that ends meanwhile reads as zeros or as what it was: its memory stays until the programs have ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lattice_ancestors(record: *mut ExecRecord) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let Some(record) = (unsafe { record.as_mut() }) else {
        return 0;
    };
    let mut task = leader(current().cast_const().cast());
    record.start_boot_nanos = probe(task, TASK_STRUCT_START_BOOTTIME.load());
    let mut count = 0;
    while count < RECORD_ANCESTORS {
        task = parent(task);
        let pid: u32 = probe(task, TASK_STRUCT_TGID.load());
        if pid == 0 {
            break;
        }
        if count == 0 {
            record.parent_pid = pid;
        }
        let ancestor = &raw mut record.ancestors[count];
        let memory = probe::<u64>(task, TASK_STRUCT_MM.load()) as Pointer;
        let file = probe::<u64>(memory, MM_STRUCT_EXE_FILE.load()) as Pointer;
        let dentry = probe::<u64>(file, FILE_F_PATH.load() + PATH_DENTRY.load()) as Pointer;
        let name = probe::<u64>(dentry, DENTRY_D_NAME.load()) as Pointer;
        // SAFETY: the element lies in the record; the helper writes no more than the size given, and fails on an address that is not
        // mapped.
        unsafe {
            (*ancestor).start_boot_nanos = probe(task, TASK_STRUCT_START_BOOTTIME.load());
            (*ancestor).pid = pid;
            let length =
                bpf_probe_read_kernel_str((&raw mut (*ancestor).name).cast(), ANCESTOR_NAME_BYTES as u32, name);
            (*ancestor).name_length = if length > 0 { length as u32 - 1 } else { 0 };
        }
        count += 1;
        if pid == 1 {
            break;
        }
    }
    record.ancestor_count = count as u32;
    0
}
