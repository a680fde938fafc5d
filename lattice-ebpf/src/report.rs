//! The record of a decision that an event is owed for.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str,
};
use lattice_common::{
    abi::{DigestWords, ExecRecord, RECORD_NAME_BYTES, counter, record_kind},
    verdict::{Decision, Role},
};

use crate::{
    atomic::fetch_increment,
    caller::{Caller, current},
    count::count,
    kernel::{Pointer, parent_pid},
    maps::{EVENTS, SEQUENCE},
};

/// What the record needs besides the caller.
pub(crate) struct Report<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) decision: Decision,
    pub(crate) hook: u32,
    pub(crate) role: Role,
    pub(crate) flags: u32,
    pub(crate) signal_result: i32,
    pub(crate) entry: u32,
    pub(crate) digest: DigestWords,
    /// Address of the path as passed; null where the hook has none.
    pub(crate) name: Pointer,
    pub(crate) file: FileFacts,
}

/// What the record says of the file.
#[derive(Clone, Copy)]
pub(crate) struct FileFacts {
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    pub(crate) device: u32,
    pub(crate) file_system: u32,
}

/// `resolve_path` writes the path into RECORD_PATH_BYTES and returns its length with the terminating zero, or a negative errno.
///
/// Gives the event its sequence number and hands it to the agent. A full ring buffer leaves a gap in the sequence, which the agent
/// reports; the verdict stands either way.
#[inline(always)]
pub(crate) fn report(report: &Report<'_>, resolve_path: impl FnOnce(*mut u8) -> i64) {
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the element is aligned and lives as long as the map.
    let sequence = unsafe { fetch_increment(sequence) } + 1;
    let Some(mut slot) = EVENTS.reserve::<ExecRecord>(0) else {
        count(counter::RING_FULL);
        return;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: `record` points to room for an ExecRecord that is ours until it is submitted; every field is written through it, and
    // the helpers write no more than the sizes given.
    unsafe {
        (*record).kind = record_kind::EXEC;
        (*record).hook = report.hook;
        (*record).sequence = sequence;
        (*record).time_boot_nanos = bpf_ktime_get_boot_ns();
        (*record).cgroup_id = bpf_get_current_cgroup_id();
        (*record).inode = report.file.inode;
        (*record).size_bytes = report.file.size_bytes;
        (*record).digest = report.digest;
        (*record).generation = report.caller.generation;
        (*record).device = report.file.device;
        (*record).file_system = report.file.file_system;
        (*record).membership = report.caller.membership.0;
        (*record).mode = report.caller.mode.0;
        (*record).effect = report.decision.effect.0;
        (*record).reason = report.decision.reason.0;
        (*record).role = report.role.0;
        (*record).origin = report.caller.origin.0;
        (*record).flags = report.flags;
        (*record).signal_result = report.signal_result;
        (*record).container = report.caller.container;
        (*record).epoch = report.caller.epoch;
        (*record).policy = report.caller.policy;
        (*record).entry = report.entry;
        (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*record).parent_pid = parent_pid(current().cast());
        let user = bpf_get_current_uid_gid();
        (*record).uid = user as u32;
        (*record).gid = (user >> 32) as u32;
        bpf_get_current_comm((&raw mut (*record).comm).cast(), 16);
        (*record).path_length = resolve_path((&raw mut (*record).path).cast()) as i32 - 1;
        (*record).name_length = if report.name.is_null() {
            -1
        } else {
            bpf_probe_read_kernel_str((&raw mut (*record).name).cast(), RECORD_NAME_BYTES as u32, report.name) as i32
                - 1
        };
    }
    slot.submit(0);
}
