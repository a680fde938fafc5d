//! The maps that both tiers have. Sizes are the defaults; the agent sets them before load.

use aya_ebpf::{
    bindings::{bpf_map_type, task_struct},
    helpers::generated::bpf_task_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use lattice_common::{
    abi::{
        AppletKey, CgroupEntry, Container, DigestWords, EntryKey, EntryRule, Namespace, NodeConfig, PathKey, Policy,
        SizeKey, Started, TaskState, counter,
    },
    repeat::{Repeat, RepeatKey},
};

#[map]
pub(crate) static NODE: Array<NodeConfig> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static CGROUPS: HashMap<u64, CgroupEntry> = HashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static CONTAINERS: Array<Container> = Array::with_max_entries(2048, 0);
#[map]
pub(crate) static STARTED: Array<Started> = Array::with_max_entries(2048, 0);
#[map]
pub(crate) static POLICIES: Array<Policy> = Array::with_max_entries(10_240, 0);
#[map]
pub(crate) static NAMESPACES: Array<Namespace> = Array::with_max_entries(2048, 0);
#[map]
pub(crate) static ENTRIES: HashMap<EntryKey, EntryRule> = HashMap::with_max_entries(32_768, 0);
#[map]
pub(crate) static SIZES: HashMap<SizeKey, u32> = HashMap::with_max_entries(16_384, 0);
#[map]
pub(crate) static PATHS: HashMap<PathKey, EntryRule> = HashMap::with_max_entries(1024, 0);
#[map]
pub(crate) static APPLETS: HashMap<AppletKey, EntryRule> = HashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static DENYLIST: HashMap<DigestWords, u32> = HashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::SLOTS, 0);
#[map]
pub(crate) static SEQUENCE: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
pub(crate) static WINDOW: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static REPEATS: HashMap<RepeatKey, Repeat> = HashMap::with_max_entries(2048, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[btf_map]
pub(crate) static TASKS: TaskStorage<TaskState> = TaskStorage::new();

/// `BPF_F_MMAPABLE`: the agent numbers the events that it makes itself by the same word.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, which local storage demands.
const NO_PREALLOC: usize = 1;
/// `BPF_LOCAL_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// A task storage map; aya-ebpf 0.2 has none (<https://github.com/aya-rs/aya/issues/203>). The fields are the BTF form of its
/// definition, read by the loader and never by the program.
#[repr(C)]
pub(crate) struct TaskStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC],
}

// SAFETY: the pointers are placeholders that nobody dereferences.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub(crate) const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    #[inline(always)]
    fn pointer(&self, task: *mut task_struct, flags: u64) -> *mut T {
        // SAFETY: the map is a task storage map; the task is a trusted pointer of the hook or of bpf_get_current_task_btf.
        unsafe {
            bpf_task_storage_get(
                core::ptr::from_ref(self).cast_mut().cast(),
                task,
                core::ptr::null_mut(),
                flags,
            )
            .cast()
        }
    }

    /// The task's value, if it has one.
    #[inline(always)]
    pub(crate) fn get(&self, task: *mut task_struct) -> Option<&mut T> {
        // SAFETY: the helper returns null or a value that lives as long as the task. Only the task's own exec and its parent's fork
        // write it, one after the other.
        unsafe { self.pointer(task, 0).as_mut() }
    }

    /// The task's value, made of zeros where there was none; `None` where the kernel had no memory.
    #[inline(always)]
    pub(crate) fn get_or_create(&self, task: *mut task_struct) -> Option<&mut T> {
        // SAFETY: as in `get`.
        unsafe { self.pointer(task, CREATE).as_mut() }
    }
}
