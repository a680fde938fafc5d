//! Who is calling: the container of the current task, by its mark, else by its cgroups.

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
};
use lattice_common::{
    abi::{CGROUP_LEVELS, CgroupEntry, NO_CONTAINER, TaskState, cgroup_kind, effective_mode, fail_action},
    verdict::{FailAction, Membership, Mode, Origin},
};

use crate::maps::{CGROUPS, CONTAINERS, NAMESPACES, NODE, POLICIES, STARTED, TASKS};

/// The current task and what holds for it.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) task: *mut task_struct,
    pub(crate) membership: Membership,
    /// Entered from outside and has not started a program of the container yet.
    pub(crate) entering: bool,
    pub(crate) origin: Origin,
    pub(crate) mode: Mode,
    /// Meaning of the failure that `membership` stands for; `unresolved` for a member.
    pub(crate) fail: FailAction,
    pub(crate) container: u32,
    pub(crate) epoch: u32,
    pub(crate) root_device: u32,
    pub(crate) policy: u32,
    pub(crate) set: u32,
    /// `policy_flag` bits.
    pub(crate) flags: u32,
    pub(crate) generation: u64,
}

/// The current task.
#[inline(always)]
pub(crate) fn current() -> *mut task_struct {
    // SAFETY: takes nothing, always succeeds.
    unsafe { bpf_get_current_task_btf() }
}

impl Caller {
    /// The current task's standing; `None` for the host's own processes.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let task = current();
        if let Some(state) = TASKS.get(task)
            && state.epoch != 0
        {
            return Some(Self::of_container(task, state.container, state.epoch, Origin(state.origin)));
        }
        let found = cgroup_of_current();
        if found.kind == 0 {
            return None;
        }
        Some(match found.kind {
            cgroup_kind::CONTAINER => Self::of_container(task, found.index, found.epoch, Origin(0)),
            cgroup_kind::POD => {
                let mode = effective_mode(namespace_mode(found.index), Mode::ENFORCE.0);
                Self::without_container(task, Membership::PENDING, mode, fail_action(found.pending))
            }
            _ => Self::unknown(task),
        })
    }

    #[inline(always)]
    fn unknown(task: *mut task_struct) -> Self {
        let fail = NODE.get(0).map_or(FailAction::CLOSED, |node| fail_action(node.unknown));
        Self::without_container(task, Membership::UNKNOWN, Mode::ENFORCE, fail)
    }

    #[inline(always)]
    fn without_container(task: *mut task_struct, membership: Membership, mode: Mode, fail: FailAction) -> Self {
        Self {
            task,
            membership,
            entering: true,
            origin: Origin::UNKNOWN,
            mode,
            fail,
            container: NO_CONTAINER,
            epoch: 0,
            root_device: 0,
            policy: 0,
            set: 0,
            flags: 0,
            generation: 0,
        }
    }

    /// `origin` 0: the task has entered and not yet started a program.
    #[inline(always)]
    fn of_container(task: *mut task_struct, index: u32, epoch: u32, origin: Origin) -> Self {
        let Some(container) = CONTAINERS.get(index) else { return Self::unknown(task) };
        // The container is gone and its slot given away: what is left of it is nobody's.
        if container.epoch != epoch {
            return Self::unknown(task);
        }
        let entering = origin.0 == 0;
        let origin = match origin.0 {
            0 if STARTED.get(index).is_some_and(|started| *started != epoch) => Origin::INIT,
            0 => Origin::EXEC_SESSION,
            _ => origin,
        };
        let mut caller = Self {
            task,
            membership: Membership::MISSING_POLICY,
            entering,
            origin,
            mode: effective_mode(namespace_mode(container.namespace), Mode::ENFORCE.0),
            fail: fail_action(container.missing),
            container: index,
            epoch,
            root_device: container.root_device,
            policy: container.policy,
            set: 0,
            flags: 0,
            generation: 0,
        };
        if container.policy != 0
            && let Some(policy) = POLICIES.get(container.policy)
        {
            caller.membership = Membership::MEMBER;
            caller.mode = effective_mode(namespace_mode(container.namespace), policy.mode);
            caller.fail = fail_action(policy.unresolved);
            caller.set = policy.set;
            caller.flags = policy.flags;
            caller.generation = policy.generation;
        }
        caller
    }

    /// Marks the task as the container's: it stays so wherever its cgroup moves, and so do its children.
    ///
    /// Returns whether the mark could be made.
    #[inline(always)]
    pub(crate) fn mark(&self) -> bool {
        if self.container == NO_CONTAINER {
            return true;
        }
        let Some(state) = TASKS.get_or_create(self.task) else { return false };
        if state.epoch != self.epoch || state.origin == 0 {
            *state = TaskState {
                container: self.container,
                epoch: self.epoch,
                origin: self.origin.0,
                stage: state.stage,
                interpreter_inode: 0,
                judged: state.judged,
                reserved: 0,
            };
            if self.origin == Origin::INIT
                && let Some(started) = STARTED.get_ptr_mut(self.container)
            {
                // SAFETY: the element lives as long as the map; the store is one aligned word.
                unsafe { started.write_volatile(self.epoch) };
            }
        }
        true
    }
}

/// The namespace's override; 0 where there is none.
#[inline(always)]
fn namespace_mode(namespace: u32) -> u32 {
    NAMESPACES.get(namespace).map_or(0, |namespace| namespace.mode)
}

/// What the agent knows of the current task's cgroups: the topmost container, else the deepest pod or managed root. From the top by
/// absolute level, so that cgroups nested below a container evade nothing.
///
/// Kind 0 where nothing is known. Not an `Option`: LLVM leaves the payload of `None` undefined and may spill it, which the verifier
/// refuses.
#[inline(always)]
fn cgroup_of_current() -> CgroupEntry {
    let mut nearest = CgroupEntry { kind: 0, index: 0, epoch: 0, pending: 0 };
    let mut level = 1;
    while level <= CGROUP_LEVELS {
        // SAFETY: takes any level; returns 0 below the task's cgroup.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is copied at once; an element that is replaced meanwhile is one or the other.
        if let Some(entry) = unsafe { CGROUPS.get(&id) } {
            nearest = *entry;
            if entry.kind == cgroup_kind::CONTAINER {
                break;
            }
        }
        level += 1;
    }
    nearest
}
