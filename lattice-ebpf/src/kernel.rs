//! Reading kernel objects: fields by offsets that the agent takes from the running kernel's BTF.
//!
//! Rust emits no CO-RE relocations. Each offset is a read-only global that is frozen before the program loads, so the verifier sees
//! a constant and keeps the pointer's type: `bpf_d_path`, `bpf_ima_file_hash` and inode storage need that.

use core::ffi::c_void;

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

macro_rules! globals {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        $($(#[$meta])* #[unsafe(no_mangle)] static $name: Global<u64> = Global::new(0);)+
    };
}

globals! {
    LINUX_BINPRM_FILE,
    LINUX_BINPRM_FILENAME,
    LINUX_BINPRM_INTERP,
    LINUX_BINPRM_BUF,
    /// Byte that holds the bit field `is_check`.
    LINUX_BINPRM_IS_CHECK,
    /// Mask of `is_check` in that byte; 0 where the kernel has no AT_EXECVE_CHECK.
    LINUX_BINPRM_IS_CHECK_MASK,
    FILE_F_PATH,
    FILE_F_INODE,
    FILE_F_FLAGS,
    INODE_I_SB,
    INODE_I_INO,
    INODE_I_SIZE,
    INODE_I_NLINK,
    INODE_I_WRITECOUNT,
    /// Size of `struct inode`: overlayfs keeps the upper dentry right behind it.
    INODE_SIZE,
    SUPER_BLOCK_S_DEV,
    SUPER_BLOCK_S_MAGIC,
    DENTRY_D_INODE,
    TASK_STRUCT_REAL_PARENT,
    TASK_STRUCT_TGID,
    TASK_STRUCT_FS,
    TASK_STRUCT_MM,
    MM_STRUCT_SAVED_AUXV,
    VM_AREA_STRUCT_VM_FILE,
    FS_STRUCT_ROOT,
    PATH_DENTRY,
    DENTRY_D_SB,
    CGROUP_KN,
    CGROUP_LEVEL,
    CGROUP_ROOT,
    CGROUP_ANCESTORS,
    /// 1 where `ancestors` holds pointers (from 6.1), 0 where it holds ids.
    CGROUP_ANCESTORS_ARE_POINTERS,
    CGROUP_ROOT_HIERARCHY_ID,
    KERNFS_NODE_ID,
}

/// `__FMODE_EXEC` in `file.f_flags`: only the kernel's own exec code sets it.
const FMODE_EXEC: u32 = 0x20;
/// `s_magic` of overlayfs.
const OVERLAYFS: u64 = 0x794c_7630;

/// A kernel pointer whose type the verifier knows.
pub(crate) type Pointer = *const c_void;

/// Reads a field of an object that the verifier tracks.
///
/// # Safety
/// `object` must be a pointer that the verifier holds for trusted and non-null.
#[inline(always)]
unsafe fn field<T: Copy>(object: Pointer, offset: &Global<u64>) -> T {
    // SAFETY: the caller's promise; the offset is the field's own, from the running kernel's BTF. Volatile, so that LLVM neither
    // moves the load before a check nor splits it.
    unsafe { core::ptr::read_volatile(object.byte_add(offset.load() as usize).cast::<T>()) }
}

/// Reads a field of an object that the verifier does not track; zero where the memory cannot be read.
#[inline(always)]
fn probe<T: Copy + Default>(object: Pointer, offset: u64) -> T {
    // SAFETY: bpf_probe_read_kernel takes any address and fails on one that is not mapped.
    unsafe { bpf_probe_read_kernel(object.wrapping_byte_add(offset as usize).cast::<T>()) }.unwrap_or_default()
}

/// `struct linux_binprm`.
#[derive(Clone, Copy)]
pub(crate) struct Binprm(pub(crate) Pointer);

impl Binprm {
    /// The file of this stage of the exec.
    #[inline(always)]
    pub(crate) fn file(self) -> File {
        // SAFETY: bprm is the hook's trusted argument; `file` is never null while a hook runs.
        File(unsafe { field(self.0, &LINUX_BINPRM_FILE) })
    }

    /// Address of the path as passed.
    #[inline(always)]
    pub(crate) fn filename(self) -> Pointer {
        // SAFETY: bprm is the hook's trusted argument.
        unsafe { field(self.0, &LINUX_BINPRM_FILENAME) }
    }

    /// Address of the path as passed, where the verifier does not follow.
    #[inline(always)]
    pub(crate) fn filename_probed(self) -> Pointer {
        probe::<u64>(self.0, LINUX_BINPRM_FILENAME.load()) as Pointer
    }

    /// Whether the file of this stage is the interpreter of another: binfmt_script and binfmt_misc put their own name here.
    #[inline(always)]
    pub(crate) fn is_interpreter(self) -> bool {
        probe::<u64>(self.0, LINUX_BINPRM_INTERP.load()) != probe::<u64>(self.0, LINUX_BINPRM_FILENAME.load())
    }

    /// Whether the file begins as an ELF file does.
    #[inline(always)]
    pub(crate) fn is_elf(self) -> bool {
        probe::<u32>(self.0, LINUX_BINPRM_BUF.load()) == u32::from_ne_bytes(*b"\x7fELF")
    }

    /// Whether this is AT_EXECVE_CHECK: nothing will run.
    #[inline(always)]
    pub(crate) fn is_check(self) -> bool {
        let mask = LINUX_BINPRM_IS_CHECK_MASK.load() as u8;
        mask != 0 && probe::<u8>(self.0, LINUX_BINPRM_IS_CHECK.load()) & mask != 0
    }
}

/// `struct file`.
#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) Pointer);

impl File {
    /// `&file->f_path`, for `bpf_d_path`.
    #[inline(always)]
    pub(crate) fn path(self) -> Pointer {
        // SAFETY: stays within the object; the verifier matches the type at this offset.
        unsafe { self.0.byte_add(FILE_F_PATH.load() as usize) }
    }

    /// The file's inode; on overlayfs the overlay's own.
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        // SAFETY: the file is the hook's trusted argument or a trusted field of it; an open file has an inode.
        Inode(unsafe { field(self.0, &FILE_F_INODE) })
    }

    /// Whether the kernel opened this file in order to execute it.
    #[inline(always)]
    pub(crate) fn is_for_exec(self) -> bool {
        // SAFETY: as in `inode`.
        let flags: u32 = unsafe { field(self.0, &FILE_F_FLAGS) };
        flags & FMODE_EXEC != 0
    }
}

/// Where a file's bytes lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// On an overlay's read-only layers: nobody in the container can change it.
    Lower,
    /// In an overlay's writable layer.
    Upper,
    /// On another local file system.
    Local,
    /// Where one content can be served to the hash and another to the program (FUSE, network).
    Foreign,
}

/// `struct inode`.
#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) Pointer);

impl Inode {
    #[inline(always)]
    pub(crate) fn number(self) -> u64 {
        // SAFETY: reached by trusted fields from a trusted file.
        unsafe { field(self.0, &INODE_I_INO) }
    }

    #[inline(always)]
    pub(crate) fn size_bytes(self) -> u64 {
        // SAFETY: reached by trusted fields from a trusted file.
        unsafe { field(self.0, &INODE_I_SIZE) }
    }

    #[inline(always)]
    pub(crate) fn links(self) -> u32 {
        probe(self.0, INODE_I_NLINK.load())
    }

    #[inline(always)]
    fn super_block(self) -> Pointer {
        // SAFETY: reached by trusted fields from a trusted file; every inode has a super block.
        unsafe { field(self.0, &INODE_I_SB) }
    }

    /// `s_dev`, in the kernel's encoding (major << 20 | minor).
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        // SAFETY: reached by trusted fields from a trusted file.
        unsafe { field(self.super_block(), &SUPER_BLOCK_S_DEV) }
    }

    #[inline(always)]
    pub(crate) fn file_system(self) -> u64 {
        // SAFETY: reached by trusted fields from a trusted file.
        unsafe { field(self.super_block(), &SUPER_BLOCK_S_MAGIC) }
    }

    /// The overlay's upper dentry; null while the file is on the lower layers alone. `struct ovl_inode` has had it right behind its
    /// `vfs_inode` since 4.13.
    #[inline(always)]
    fn upper_dentry(self) -> Pointer {
        probe::<u64>(self.0, INODE_SIZE.load()) as Pointer
    }

    #[inline(always)]
    pub(crate) fn layer(self) -> Layer {
        match self.file_system() {
            OVERLAYFS if self.upper_dentry().is_null() => Layer::Lower,
            OVERLAYFS => Layer::Upper,
            magic if is_local(magic) => Layer::Local,
            _ => Layer::Foreign,
        }
    }

    /// Whether somebody holds the file that has the bytes open for writing. On overlayfs that is the upper inode: a shared writable
    /// mapping outlives the overlay's own count.
    #[inline(always)]
    pub(crate) fn has_writers(self, layer: Layer) -> bool {
        let backing = match layer {
            Layer::Lower => return false,
            Layer::Upper => probe::<u64>(self.upper_dentry(), DENTRY_D_INODE.load()) as Pointer,
            Layer::Local | Layer::Foreign => self.0,
        };
        probe::<i32>(backing, INODE_I_WRITECOUNT.load()) > 0
    }
}

/// File systems whose bytes only this kernel writes.
#[inline(always)]
fn is_local(magic: u64) -> bool {
    matches!(
        magic,
        0xef53          // ext2, ext3, ext4
            | 0x0102_1994 // tmpfs, and memfd
            | 0x8584_58f6 // ramfs: the initial root
            | 0x5846_5342 // xfs
            | 0x9123_683e // btrfs
            | 0xf2f5_2010 // f2fs
            | 0x2fc1_2fc1 // zfs
            | 0x7371_7368 // squashfs
            | 0xe0f5_e1e2 // erofs
            | 0x9660      // iso9660
    )
}

/// Thread group id of a task's parent.
#[inline(always)]
pub(crate) fn parent_pid(task: Pointer) -> u32 {
    let parent = probe::<u64>(task, TASK_STRUCT_REAL_PARENT.load()) as Pointer;
    probe(parent, TASK_STRUCT_TGID.load())
}

/// `s_dev` of the task's root directory.
#[inline(always)]
pub(crate) fn root_device(task: Pointer) -> u32 {
    let fs = probe::<u64>(task, TASK_STRUCT_FS.load()) as Pointer;
    let dentry = probe::<u64>(fs, FS_STRUCT_ROOT.load() + PATH_DENTRY.load()) as Pointer;
    let super_block = probe::<u64>(dentry, DENTRY_D_SB.load()) as Pointer;
    probe(super_block, SUPER_BLOCK_S_DEV.load())
}

/// A file as the floor sees it: read by the helper alone, since a tracepoint's pointers lead further than the verifier follows.
#[derive(Clone, Copy)]
pub(crate) struct ProbedFile(pub(crate) Pointer);

impl ProbedFile {
    /// The file of a `struct linux_binprm`.
    #[inline(always)]
    pub(crate) fn of_binprm(bprm: Pointer) -> Self {
        Self(probe::<u64>(bprm, LINUX_BINPRM_FILE.load()) as Pointer)
    }

    /// The file that a `struct vm_area_struct` maps.
    #[inline(always)]
    pub(crate) fn of_area(area: Pointer) -> Self {
        Self(probe::<u64>(area, VM_AREA_STRUCT_VM_FILE.load()) as Pointer)
    }

    #[inline(always)]
    fn inode(self) -> Pointer {
        probe::<u64>(self.0, FILE_F_INODE.load()) as Pointer
    }

    #[inline(always)]
    pub(crate) fn inode_number(self) -> u64 {
        probe(self.inode(), INODE_I_INO.load())
    }

    #[inline(always)]
    pub(crate) fn size_bytes(self) -> u64 {
        probe(self.inode(), INODE_I_SIZE.load())
    }

    #[inline(always)]
    pub(crate) fn links(self) -> u32 {
        probe(self.inode(), INODE_I_NLINK.load())
    }

    #[inline(always)]
    fn super_block(self) -> Pointer {
        probe::<u64>(self.inode(), INODE_I_SB.load()) as Pointer
    }

    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        probe(self.super_block(), SUPER_BLOCK_S_DEV.load())
    }

    #[inline(always)]
    pub(crate) fn file_system(self) -> u64 {
        probe(self.super_block(), SUPER_BLOCK_S_MAGIC.load())
    }

    #[inline(always)]
    pub(crate) fn layer(self) -> Layer {
        if self.file_system() != OVERLAYFS {
            return Layer::Local;
        }
        if probe::<u64>(self.inode(), INODE_SIZE.load()) == 0 { Layer::Lower } else { Layer::Upper }
    }
}

/// Where the dynamic loader of a task's new program was mapped; 0 for a program without one. From the auxiliary vector that the kernel
/// itself has just built.
#[inline(always)]
pub(crate) fn loader_address(task: Pointer) -> u64 {
    /// `AT_BASE` and the vector's end.
    const AT_BASE: u64 = 7;
    const AT_NULL: u64 = 0;
    const PAIRS: u64 = 26;
    let memory = probe::<u64>(task, TASK_STRUCT_MM.load()) as Pointer;
    let mut pair = 0;
    while pair < PAIRS {
        let kind: u64 = probe(memory, MM_STRUCT_SAVED_AUXV.load() + pair * 16);
        if kind == AT_BASE {
            return probe(memory, MM_STRUCT_SAVED_AUXV.load() + pair * 16 + 8);
        }
        if kind == AT_NULL {
            break;
        }
        pair += 1;
    }
    0
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
        Some(if CGROUP_ANCESTORS_ARE_POINTERS.load() == 1 { Cgroup(element as Pointer).id() } else { element })
    }
}
