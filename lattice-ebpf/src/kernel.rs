//! Reading kernel objects: fields by offsets that the agent takes from the running kernel's BTF.
//!
//! Rust emits no CO-RE relocations. Each offset is a read-only global that is frozen before the program loads, so the verifier sees
//! a constant and keeps the pointer's type: `bpf_d_path`, `bpf_ima_file_hash` and inode storage need that.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated::bpf_ktime_get_boot_ns},
};

macro_rules! globals {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        $($(#[$meta])* #[unsafe(no_mangle)] pub(crate) static $name: Global<u64> = Global::new(0);)+
    };
}

globals! {
    LINUX_BINPRM_FILE,
    LINUX_BINPRM_FILENAME,
    LINUX_BINPRM_INTERP,
    LINUX_BINPRM_BUF,
    LINUX_BINPRM_ARGC,
    LINUX_BINPRM_P,
    /// Byte that holds the bit field `is_check`.
    LINUX_BINPRM_IS_CHECK,
    /// Mask of `is_check` in that byte; 0 where the kernel has no AT_EXECVE_CHECK.
    LINUX_BINPRM_IS_CHECK_MASK,
    FILE_F_PATH,
    FILE_F_INODE,
    FILE_F_FLAGS,
    FILE_F_MODE,
    /// Where a `struct backing_file` keeps the path that the user opened; 0 where `f_path` is that one (before 6.7).
    BACKING_FILE_USER_PATH,
    INODE_I_SB,
    INODE_I_INO,
    INODE_I_SIZE,
    INODE_I_NLINK,
    INODE_I_WRITECOUNT,
    /// Size of `struct inode`: overlayfs keeps the upper dentry right behind it.
    INODE_SIZE,
    SUPER_BLOCK_S_DEV,
    SUPER_BLOCK_S_MAGIC,
    SUPER_BLOCK_S_FLAGS,
    SUPER_BLOCK_S_ROOT,
    SUPER_BLOCK_S_BDEV,
    BLOCK_DEVICE_BD_DISK,
    GENDISK_MAJOR,
    /// How far before its `vfs_inode` a `struct shmem_inode_info` keeps its seals.
    SHMEM_SEALS_BEFORE_INODE,
    DENTRY_D_INODE,
    DENTRY_D_NAME_NAME,
    TASK_STRUCT_REAL_PARENT,
    TASK_STRUCT_TGID,
    TASK_STRUCT_FS,
    TASK_STRUCT_MM,
    TASK_STRUCT_NSPROXY,
    TASK_STRUCT_GROUP_LEADER,
    TASK_STRUCT_CGROUPS,
    CSS_SET_DFL_CGRP,
    NSPROXY_MNT_NS,
    MNT_NAMESPACE_NS,
    NS_COMMON_INUM,
    TASK_STRUCT_START_BOOTTIME,
    /// `thread_info.status` in `task_struct`.
    TASK_STRUCT_STATUS,
    MM_STRUCT_SAVED_AUXV,
    MM_STRUCT_ARG_START,
    MM_STRUCT_EXE_FILE,
    VM_AREA_STRUCT_VM_FILE,
    VM_AREA_STRUCT_VM_FLAGS,
    /// Set once a private mapping has pages of its own.
    VM_AREA_STRUCT_ANON_VMA,
    FS_STRUCT_ROOT,
    PATH_DENTRY,
    PATH_MNT,
    /// Where a `struct mount` has the `struct vfsmount` that paths lead to.
    MOUNT_MNT,
    MOUNT_MNT_NS,
    DENTRY_D_SB,
    /// `d_name.name` in `dentry`.
    DENTRY_D_NAME,
    CGROUP_KN,
    CGROUP_LEVEL,
    CGROUP_ROOT,
    CGROUP_ANCESTORS,
    /// 1 where `ancestors` holds pointers (from 6.1), 0 where it holds ids.
    CGROUP_ANCESTORS_ARE_POINTERS,
    CGROUP_ROOT_HIERARCHY_ID,
    KERNFS_NODE_ID,
}

/// `s_magic` of overlayfs.
pub(crate) const OVERLAYFS: u64 = 0x794c_7630;

/// A kernel pointer whose type the verifier knows.
pub(crate) type Pointer = *const c_void;

/// Reads a field of an object that the verifier does not track; zero where the memory cannot be read.
#[inline(always)]
pub(crate) fn probe<T: Copy + Default>(object: Pointer, offset: u64) -> T {
    // SAFETY: bpf_probe_read_kernel takes any address and fails on one that is not mapped.
    unsafe { bpf_probe_read_kernel(object.wrapping_byte_add(offset as usize).cast::<T>()) }.unwrap_or_default()
}

/// Nanoseconds since the boot, suspended time included.
#[inline(always)]
pub(crate) fn boot_nanos() -> u64 {
    // SAFETY: takes nothing, always succeeds.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A task's root directory.
#[derive(Clone, Copy)]
pub(crate) struct Root {
    pub(crate) dentry: Pointer,
    pub(crate) super_block: Pointer,
}

impl Root {
    #[inline(always)]
    pub(crate) fn of(task: Pointer) -> Self {
        let fs = probe::<u64>(task, TASK_STRUCT_FS.load()) as Pointer;
        let dentry = probe::<u64>(fs, FS_STRUCT_ROOT.load() + PATH_DENTRY.load()) as Pointer;
        Self {
            dentry,
            super_block: probe::<u64>(dentry, DENTRY_D_SB.load()) as Pointer,
        }
    }

    /// `s_dev` of its file system.
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        probe(self.super_block, SUPER_BLOCK_S_DEV.load())
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> u64 {
        let inode = probe::<u64>(self.dentry, DENTRY_D_INODE.load()) as Pointer;
        probe(inode, INODE_I_INO.load())
    }
}

/// Number of a task's mount namespace.
#[inline(always)]
pub(crate) fn mount_namespace(task: Pointer) -> u32 {
    probe(
        mounts_of(task) as Pointer,
        MNT_NAMESPACE_NS.load() + NS_COMMON_INUM.load(),
    )
}

/// Address of a task's mount namespace.
#[inline(always)]
pub(crate) fn mounts_of(task: Pointer) -> u64 {
    let namespaces = probe::<u64>(task, TASK_STRUCT_NSPROXY.load()) as Pointer;
    probe(namespaces, NSPROXY_MNT_NS.load())
}

/// `struct cgroup`.
#[derive(Clone, Copy)]
pub(crate) struct Cgroup(pub(crate) Pointer);

impl Cgroup {
    /// Whether it belongs to the cgroup2 hierarchy. Ids of other hierarchies are other numbers of the same range.
    #[inline(always)]
    pub(crate) fn is_v2(self) -> bool {
        let root = probe::<u64>(self.0, CGROUP_ROOT.load()) as Pointer;
        !root.is_null() && probe::<u32>(root, CGROUP_ROOT_HIERARCHY_ID.load()) == 0
    }

    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        let node = probe::<u64>(self.0, CGROUP_KN.load()) as Pointer;
        probe(node, KERNFS_NODE_ID.load())
    }

    /// Id of the ancestor at a level (the root is 0, the cgroup itself is at its own level); `None` below the cgroup.
    #[inline(always)]
    pub(crate) fn ancestor_id(self, level: u32) -> Option<u64> {
        if level > probe::<u32>(self.0, CGROUP_LEVEL.load()) {
            return None;
        }
        let element: u64 = probe(self.0, CGROUP_ANCESTORS.load() + u64::from(level) * 8);
        Some(if CGROUP_ANCESTORS_ARE_POINTERS.load() == 1 {
            Cgroup(element as Pointer).id()
        } else {
            element
        })
    }
}
