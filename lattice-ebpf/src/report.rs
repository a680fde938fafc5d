//! The record of a decision that an event is owed for.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_uid_gid, bpf_probe_read_kernel_str,
};
use lattice_common::{
    abi::{DigestWords, ExecRecord, NO_CONTAINER, RECORD_NAME_BYTES, counter, record_kind},
    repeat::Judgement,
    verdict::{Decision, Role},
};

use crate::{
    ancestors::lattice_ancestors,
    arguments::{Place, lattice_arguments},
    atomic::fetch_increment,
    caller::{Caller, current, current_pid},
    count::count,
    kernel::{Pointer, boot_nanos},
    maps::{EVENTS, SEQUENCE, TASKS},
    repeats::{Scratch, lattice_repeat, lattice_told, scratch, window},
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
    /// Where the arguments are, as [`lattice_arguments`] takes it.
    pub(crate) arguments: Place,
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

impl Report<'_> {
    #[inline(always)]
    fn fill(&self, scratch: &mut Scratch) {
        let Scratch { key, fresh, .. } = scratch;
        let caller = self.caller;
        let (judgement, standing) = Judgement {
            reason: self.decision.reason,
            effect: self.decision.effect,
            mode: caller.mode,
            role: self.role,
            origin: caller.origin,
            membership: caller.membership,
            hook: self.hook,
        }
        .pack();
        key.inode = self.file.inode;
        key.cgroup_id = if caller.container == NO_CONTAINER {
            // SAFETY: takes nothing, always succeeds.
            unsafe { bpf_get_current_cgroup_id() }
        } else {
            0
        };
        key.window = window();
        key.device = self.file.device;
        key.container = caller.container;
        key.epoch = caller.epoch;
        key.judgement = judgement;
        key.standing = standing;
        key.reserved = 0;
        // All else stays the zeros that the storage was made of.
        fresh.told = 1;
        fresh.generation = caller.generation;
        fresh.size_bytes = self.file.size_bytes;
        fresh.digest = self.digest;
        fresh.policy = caller.policy;
        fresh.entry = self.entry;
        fresh.flags = self.flags;
        fresh.file_system = self.file.file_system;
    }

    /// Whether the refusal was counted as one of many, so that no record is owed.
    #[inline(always)]
    fn is_counted(&self) -> bool {
        // A signal that failed is the agent's to finish: it needs the record.
        if self.signal_result != 0 {
            return false;
        }
        let Some(scratch) = scratch() else { return false };
        self.fill(scratch);
        lattice_repeat() != 0
    }
}

/// `resolve_path` writes the path into RECORD_PATH_BYTES and returns its length with the terminating zero, or a negative errno.
///
/// Counts the refusal as one of many, or gives its event a sequence number and hands it to the agent. A full ring buffer leaves a gap
/// in the sequence, which the agent reports; the verdict stands either way.
#[inline(always)]
pub(crate) fn report(report: &Report<'_>, resolve_path: impl FnOnce(*mut u8) -> i64) {
    if report.is_counted() {
        return;
    }
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return;
    };
    // Room first, then the number: whoever reads the counter and then the ring's end knows that the record of every number so far lies
    // before that end, or never will, however long its writer is held up.
    let slot = EVENTS.reserve::<ExecRecord>(0);
    // SAFETY: the element is aligned and lives as long as the map.
    let sequence = unsafe { fetch_increment(sequence) } + 1;
    let Some(mut slot) = slot else {
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
        (*record).time_boot_nanos = boot_nanos();
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
        (*record).pid = current_pid();
        (*record).parent_pid = 0;
        (*record).session = TASKS.get(current()).map_or(0, |state| state.session);
        let user = bpf_get_current_uid_gid();
        (*record).uid = user as u32;
        (*record).gid = (user >> 32) as u32;
        bpf_get_current_comm((&raw mut (*record).comm).cast(), 16);
        (*record).path_length = resolve_path((&raw mut (*record).path).cast()) as i32 - 1;
        (*record).reserved = 0;
        (*record).name_length = if report.name.is_null() {
            -1
        } else {
            bpf_probe_read_kernel_str((&raw mut (*record).name).cast(), RECORD_NAME_BYTES as u32, report.name) as i32
                - 1
        };
    }
    lattice_ancestors(record);
    lattice_arguments(record, report.arguments);
    slot.submit(0);
    lattice_told(sequence);
}
