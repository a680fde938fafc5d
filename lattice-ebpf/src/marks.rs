//! Membership that sticks: forks inherit the mark, and who enters a container's cgroup is marked at the door.

use aya_ebpf::{bindings::task_struct, macros::btf_tracepoint, programs::BtfTracePointContext};
use lattice_common::abi::{
    CGROUP_LEVELS, CgroupEntry, CgroupRecord, NO_SET, TaskState, cgroup_kind, counter, record_kind,
};

use crate::{
    count::count,
    kernel::{CSS_SET_DFL_CGRP, Cgroup, Pointer, TASK_STRUCT_CGROUPS, TASK_STRUCT_GROUP_LEADER, probe},
    maps::{CGROUPS, EVENTS, NODE, TASKS},
};

/// `sched_process_fork(parent, child)`: before the child's first instruction.
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn lattice_fork(context: BtfTracePointContext) -> i32 {
    let parent: *mut task_struct = context.arg(0);
    let child: *mut task_struct = context.arg(1);
    if let Some(state) = mark_of(parent) {
        let inherited = TaskState {
            container: state.container,
            epoch: state.epoch,
            origin: state.origin,
            stage: 0,
            interpreter_inode: 0,
            judged: 0,
            arguments: 0,
            session: state.session,
            told_anonymous: state.told_anonymous,
            applet_set: NO_SET,
            applet_entry: 0,
        };
        match TASKS.get_or_create(child) {
            Some(state) => *state = inherited,
            // The child is still found by its cgroup, as one that has entered.
            None => count(counter::MARK_FAILED),
        }
        return 0;
    }
    // `CLONE_INTO_CGROUP`: it was born elsewhere than its parent lives, and entered nowhere.
    let set: u64 = probe(child.cast_const().cast(), TASK_STRUCT_CGROUPS.load());
    if set != probe::<u64>(parent.cast_const().cast(), TASK_STRUCT_CGROUPS.load()) {
        let cgroup = Cgroup(probe::<u64>(set as Pointer, CSS_SET_DFL_CGRP.load()) as Pointer);
        if let Some(entry) = container_above(cgroup) {
            enter(child, entry);
        }
    }
    0
}

/// The mark of a task, else of its thread group's leader: of a process that ran before the agent came only that one is marked.
#[inline(always)]
pub(crate) fn mark_of(task: *mut task_struct) -> Option<TaskState> {
    if let Some(state) = TASKS.get(task)
        && state.epoch != 0
    {
        return Some(*state);
    }
    // SAFETY: the task is trusted; the field is read at its own offset, so that the verifier keeps its type. Volatile keeps it one load.
    let leader = unsafe {
        task.cast_const()
            .byte_add(TASK_STRUCT_GROUP_LEADER.load() as usize)
            .cast::<*mut task_struct>()
            .read_volatile()
    };
    if leader == task {
        return None;
    }
    TASKS.get(leader).filter(|state| state.epoch != 0).copied()
}

/// Marks a task that enters a container's cgroup. A member stays a member of the container that it was first in.
#[inline(always)]
fn enter(task: *mut task_struct, entry: CgroupEntry) {
    match TASKS.get_or_create(task) {
        Some(state) if state.epoch == 0 || state.origin == 0 => {
            state.container = entry.index;
            state.epoch = entry.epoch;
            state.origin = 0;
            state.session = 0;
        }
        Some(_) => {}
        None => count(counter::MARK_FAILED),
    }
}

/// `cgroup_attach_task(dst_cgrp, path, task, threadgroup)`.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub(crate) fn lattice_attach(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup(context.arg::<Pointer>(0));
    let task: *mut task_struct = context.arg(2);
    if !cgroup.is_v2() {
        return 0;
    }
    if let Some(entry) = container_above(cgroup) {
        enter(task, entry);
    }
    0
}

/// The topmost container at or above a cgroup.
#[inline(always)]
fn container_above(cgroup: Cgroup) -> Option<CgroupEntry> {
    let mut level = 1;
    while level <= CGROUP_LEVELS {
        let id = cgroup.ancestor_id(level)?;
        // SAFETY: the value is copied at once.
        if let Some(entry) = unsafe { CGROUPS.get(&id) }
            && entry.kind == cgroup_kind::CONTAINER
        {
            return Some(*entry);
        }
        level += 1;
    }
    None
}

/// `cgroup_mkdir(cgrp, path)`: tells the agent at once, so that the maps are filled before the runtime starts the container.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub(crate) fn lattice_cgroup_made(context: BtfTracePointContext) -> i32 {
    announce(&context, 1)
}

/// `cgroup_rmdir(cgrp, path)`.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub(crate) fn lattice_cgroup_removed(context: BtfTracePointContext) -> i32 {
    announce(&context, 2)
}

#[inline(always)]
fn announce(context: &BtfTracePointContext, change: u32) -> i32 {
    let cgroup = Cgroup(context.arg::<Pointer>(0));
    let wanted = NODE.get(0).is_some_and(|node| node.announce_cgroups == 1);
    if !wanted || !cgroup.is_v2() {
        return 0;
    }
    let record = CgroupRecord {
        kind: record_kind::CGROUP,
        change,
        cgroup_id: cgroup.id(),
    };
    // Where the ring buffer is full the agent's periodic look at the cgroup tree finds it.
    if EVENTS.output::<CgroupRecord>(&record, 0).is_err() {
        count(counter::RING_FULL);
    }
    0
}
