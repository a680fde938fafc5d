//! Who is calling: the container of the current task, by its mark, else by its cgroups.

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task_btf},
};
use lattice_common::{
    abi::{CGROUP_LEVELS, NO_CONTAINER, NO_SET, TaskState, cgroup_kind, effective_mode, fail_action, failure_mode},
    verdict::{FailAction, Membership, Mode, Origin},
};

use crate::kernel::{Root, mount_namespace};
use crate::maps::{CGROUPS, CONTAINERS, NAMESPACES, NODE, POLICIES, STARTED, TASKS};

/// The current task's standing. Plain words: it is filled by a global BPF function, after which the verifier takes every field for
/// unknown and follows one path instead of one for each way to get here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) generation: u64,
    pub(crate) membership: Membership,
    /// 1: entered from outside and has not started a program of the container yet.
    pub(crate) entering: u32,
    pub(crate) origin: Origin,
    pub(crate) mode: Mode,
    /// Meaning of the failure that `membership` stands for; `unresolved` for a member.
    pub(crate) fail: FailAction,
    pub(crate) container: u32,
    pub(crate) epoch: u32,
    pub(crate) root_device: u32,
    /// `s_dev` of the root file system that the container was given: as the agent found it, else as its first program had it. 0 where
    /// neither is known.
    pub(crate) own_device: u32,
    pub(crate) policy: u32,
    pub(crate) set: u32,
    /// `policy_flag` bits.
    pub(crate) flags: u32,
    /// `container_flag` bits.
    pub(crate) container_flags: u32,
    pub(crate) reserved: u32,
}

/// The current task.
#[inline(always)]
pub(crate) fn current() -> *mut task_struct {
    // SAFETY: takes nothing, always succeeds.
    unsafe { bpf_get_current_task_btf() }
}

/// Thread group id of the current task.
#[inline(always)]
pub(crate) fn current_pid() -> u32 {
    // SAFETY: takes nothing, always succeeds.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// A global BPF function, verified once. Returns 0 for the host's own processes, else 1 with `caller` filled.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_caller(caller: *mut Caller) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let Some(caller) = (unsafe { caller.as_mut() }) else {
        return 0;
    };
    if let Some(state) = TASKS.get(current())
        && state.epoch != 0
    {
        caller.of_container(state.container, state.epoch, Origin(state.origin));
        return 1;
    }
    let found = CgroupFound(lattice_cgroup_of_current());
    match found.kind() {
        0 => return 0,
        cgroup_kind::CONTAINER => caller.of_container(found.index(), found.epoch(), Origin(0)),
        cgroup_kind::POD => {
            caller.membership = Membership::PENDING;
            caller.mode = failure_mode(namespace_mode(found.index()), found.pending());
            caller.fail = fail_action(found.pending());
        }
        _ => caller.unknown(),
    }
    1
}

impl Caller {
    /// The current task's standing; `None` for the host's own processes.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let mut caller = Self::UNKNOWN;
        if lattice_caller(&raw mut caller) == 0 {
            None
        } else {
            Some(caller)
        }
    }

    /// Of a task in no container that is known: refused.
    pub(crate) const UNKNOWN: Self = Self {
        generation: 0,
        membership: Membership::UNKNOWN,
        entering: 1,
        origin: Origin::UNKNOWN,
        mode: Mode::ENFORCE,
        fail: FailAction::CLOSED,
        container: NO_CONTAINER,
        epoch: 0,
        root_device: 0,
        own_device: 0,
        policy: 0,
        set: 0,
        flags: 0,
        container_flags: 0,
        reserved: 0,
    };

    #[inline(always)]
    fn unknown(&mut self) {
        self.membership = Membership::UNKNOWN;
        self.fail = NODE.get(0).map_or(FailAction::CLOSED, |node| fail_action(node.unknown));
    }

    /// `origin` 0: the task has entered and not yet started a program.
    #[inline(always)]
    fn of_container(&mut self, index: u32, epoch: u32, origin: Origin) {
        self.entering = u32::from(origin.0 == 0);
        let Some(container) = CONTAINERS.get(index) else {
            return self.unknown();
        };
        // The container is gone and its slot given away: what is left of it is nobody's.
        if container.epoch != epoch {
            return self.unknown();
        }
        let started = STARTED.get(index).copied().unwrap_or_default();
        let has_started = started.epoch == epoch;
        self.origin = match origin.0 {
            0 if has_started => Origin::EXEC_SESSION,
            0 => Origin::INIT,
            _ => origin,
        };
        self.own_device = if container.root_device != 0 {
            container.root_device
        } else if has_started {
            started.root_device
        } else {
            // The first program is about to start where the runtime has put it.
            Root::of(current().cast_const().cast()).device()
        };
        let namespace_mode = namespace_mode(container.namespace);
        self.membership = Membership::MISSING_POLICY;
        self.mode = failure_mode(namespace_mode, container.missing);
        self.fail = fail_action(container.missing);
        self.container = index;
        self.epoch = epoch;
        self.root_device = container.root_device;
        self.policy = container.policy;
        self.container_flags = container.flags;
        if container.policy != 0
            && let Some(policy) = POLICIES.get(container.policy)
        {
            self.membership = Membership::MEMBER;
            self.mode = effective_mode(namespace_mode, policy.mode);
            self.fail = fail_action(policy.unresolved);
            self.set = policy.set;
            self.flags = policy.flags;
            self.generation = policy.generation;
        }
    }

    /// Marks the task as the container's: it stays so wherever its cgroup moves, and so do its children.
    ///
    /// Returns whether the mark could be made.
    #[inline(always)]
    pub(crate) fn mark(&self) -> bool {
        if self.container == NO_CONTAINER {
            return true;
        }
        let Some(state) = TASKS.get_or_create(current()) else {
            return false;
        };
        if state.epoch != self.epoch || state.origin == 0 {
            *state = TaskState {
                container: self.container,
                epoch: self.epoch,
                origin: self.origin.0,
                stage: state.stage,
                interpreter_inode: 0,
                judged: state.judged,
                arguments: state.arguments,
                session: if self.origin == Origin::EXEC_SESSION {
                    current_pid()
                } else {
                    0
                },
                told_anonymous: 0,
                applet_set: NO_SET,
                applet_entry: 0,
            };
            if self.origin == Origin::INIT
                && let Some(started) = STARTED.get_ptr_mut(self.container)
            {
                let task = current().cast_const().cast();
                let root = Root::of(task);
                // SAFETY: the element lives as long as the map; the stores are aligned words. The epoch last: who finds it finds the
                // rest.
                unsafe {
                    (&raw mut (*started).root_device).write_volatile(root.device());
                    (&raw mut (*started).root_inode).write_volatile(root.inode());
                    (&raw mut (*started).mount_namespace).write_volatile(mount_namespace(task));
                    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Release);
                    (&raw mut (*started).epoch).write_volatile(self.epoch);
                }
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

/// A [`CgroupEntry`](lattice_common::abi::CgroupEntry) in one register.
#[derive(Clone, Copy)]
struct CgroupFound(u64);

impl CgroupFound {
    const fn new(kind: u32, pending: u32, index: u32, epoch: u32) -> Self {
        Self(
            (kind & 0xf) as u64
                | ((pending & 0xf) as u64) << 4
                | ((index & 0xff_ffff) as u64) << 8
                | (epoch as u64) << 32,
        )
    }

    const fn kind(self) -> u32 {
        (self.0 & 0xf) as u32
    }

    const fn pending(self) -> u32 {
        (self.0 >> 4 & 0xf) as u32
    }

    const fn index(self) -> u32 {
        (self.0 >> 8 & 0xff_ffff) as u32
    }

    const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What the agent knows of the current task's cgroups: the topmost container, else the deepest pod or managed root; 0 where nothing is
/// known. From the top by absolute level, so that cgroups nested below a container evade nothing. A global BPF function, verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_cgroup_of_current() -> u64 {
    let mut nearest = 0;
    let mut level = 1;
    while level <= CGROUP_LEVELS {
        // SAFETY: takes any level; returns 0 below the task's cgroup.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is copied at once; an element that is replaced meanwhile is one or the other.
        if let Some(entry) = unsafe { CGROUPS.get(&id) } {
            nearest = CgroupFound::new(entry.kind, entry.pending, entry.index, entry.epoch).0;
            if entry.kind == cgroup_kind::CONTAINER {
                break;
            }
        }
        level += 1;
    }
    nearest
}
