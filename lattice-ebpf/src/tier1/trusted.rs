//! Objects that the verifier tracks: the arguments of LSM hooks, and what is reached from them by typed fields. The helpers that read
//! files and resolve paths take nothing else.

use aya_ebpf::Global;

use crate::kernel::{
    BLOCK_DEVICE_BD_DISK, DENTRY_D_INODE, FILE_F_FLAGS, FILE_F_INODE, FILE_F_PATH, GENDISK_MAJOR, INODE_I_INO,
    INODE_I_NLINK, INODE_I_SB, INODE_I_SIZE, INODE_I_WRITECOUNT, INODE_SIZE, LINUX_BINPRM_ARGC, LINUX_BINPRM_BUF,
    LINUX_BINPRM_FILE, LINUX_BINPRM_FILENAME, LINUX_BINPRM_INTERP, LINUX_BINPRM_IS_CHECK, LINUX_BINPRM_IS_CHECK_MASK,
    LINUX_BINPRM_P, MOUNT_MNT, MOUNT_MNT_NS, OVERLAYFS, PATH_MNT, Pointer, SHMEM_SEALS_BEFORE_INODE,
    SUPER_BLOCK_S_BDEV, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_FLAGS, SUPER_BLOCK_S_MAGIC, probe,
};

/// `__FMODE_EXEC` in `file.f_flags`: only the kernel's own exec code sets it.
const FMODE_EXEC: u32 = 0x20;
/// `s_magic` of tmpfs, and of the kernel's own mount of it, where memfds live.
const TMPFS: u64 = 0x0102_1994;
/// `SB_KERNMOUNT` in `super_block.s_flags`.
const KERNEL_MOUNT: u64 = 1 << 22;
/// `LOOP_MAJOR`.
const LOOP_MAJOR: u32 = 7;
/// `F_SEAL_WRITE`: no one can write any more, by descriptor or by mapping.
const SEAL_WRITE: u32 = 8;

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

    /// Address of the path of this stage's file: as passed, or as the script names its interpreter.
    #[inline(always)]
    pub(crate) fn stage_path(self) -> Pointer {
        probe::<u64>(self.0, LINUX_BINPRM_INTERP.load()) as Pointer
    }

    /// Address of the first argument in the new program's memory, once that is the task's.
    #[inline(always)]
    pub(crate) fn first_argument(self) -> u64 {
        probe(self.0, LINUX_BINPRM_P.load())
    }

    /// Number of arguments; a script's interpreter has others than the script.
    #[inline(always)]
    pub(crate) fn argument_count(self) -> u32 {
        probe(self.0, LINUX_BINPRM_ARGC.load())
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

    /// Address of the mount namespace that it was opened in; an error's number where it lies on a mount of the kernel's own.
    #[inline(always)]
    pub(crate) fn mount_namespace(self) -> u64 {
        let mount = probe::<u64>(self.path(), PATH_MNT.load()) as Pointer;
        let mount = mount.wrapping_byte_sub(MOUNT_MNT.load() as usize);
        probe(mount, MOUNT_MNT_NS.load())
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
    /// On the read-only layers of the container's own root: nobody in the container can change it.
    Lower,
    /// In the writable layer of the container's own root.
    Upper,
    /// On another local file system.
    Local,
    /// Where one content can be served to the hash and another to the program: FUSE, network, a file system within a file, and every
    /// other overlay. Who has mounted an overlay reaches its layers beside it, and the kernel's guard against writers is on the overlay
    /// alone.
    Foreign,
}

/// Super blocks whose overlays the runtime has mounted, by `s_dev`, as far as the caller goes.
#[derive(Clone, Copy)]
pub(crate) struct OwnRoot {
    /// The container's; 0 where it is not known.
    pub(crate) container: u32,
    /// The host's, for who is still entering; else 0.
    pub(crate) host: u32,
}

impl OwnRoot {
    #[inline(always)]
    fn is(self, device: u32) -> bool {
        device != 0 && (device == self.container || device == self.host)
    }
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
    pub(crate) fn layer(self, own: OwnRoot) -> Layer {
        // By the helper, so that it is a number: a global function takes no pointer to a kernel object.
        let super_block: u64 = probe(self.0, INODE_I_SB.load());
        match lattice_layer(super_block, self.upper_dentry() as u64, own.container, own.host) {
            LOWER => Layer::Lower,
            UPPER => Layer::Upper,
            LOCAL => Layer::Local,
            _ => Layer::Foreign,
        }
    }

    /// Whether the file is a memfd, or other memory that only the kernel has mounted.
    #[inline(always)]
    fn is_memory(self) -> bool {
        self.file_system() == TMPFS && probe::<u64>(self.super_block(), SUPER_BLOCK_S_FLAGS.load()) & KERNEL_MOUNT != 0
    }

    #[inline(always)]
    fn is_sealed(self) -> bool {
        let seals = self.0.wrapping_byte_sub(SHMEM_SEALS_BEFORE_INODE.load() as usize);
        probe::<u32>(seals, 0) & SEAL_WRITE != 0
    }

    /// Whether somebody holds the file that has the bytes open for writing. On overlayfs that is the upper inode: a shared writable
    /// mapping outlives the overlay's own count.
    #[inline(always)]
    pub(crate) fn has_writers(self, layer: Layer) -> bool {
        let backing = match layer {
            Layer::Lower => return false,
            Layer::Upper => probe::<u64>(self.upper_dentry(), DENTRY_D_INODE.load()) as Pointer,
            // Nobody counts who may write to a memfd: only a seal says that none can.
            Layer::Local if self.is_memory() => return !self.is_sealed(),
            Layer::Local | Layer::Foreign => self.0,
        };
        probe::<i32>(backing, INODE_I_WRITECOUNT.load()) > 0
    }
}

const LOWER: u32 = 0;
const UPPER: u32 = 1;
const LOCAL: u32 = 2;
const FOREIGN: u32 = 3;

/// The [`Layer`] of a file, by its super block and its overlay's upper dentry (where it has one). A global BPF function, verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_layer(super_block: u64, upper_dentry: u64, container: u32, host: u32) -> u32 {
    let super_block = super_block as Pointer;
    let own = OwnRoot { container, host };
    let is_own = own.is(probe(super_block, SUPER_BLOCK_S_DEV.load()));
    match probe::<u64>(super_block, SUPER_BLOCK_S_MAGIC.load()) {
        OVERLAYFS if !is_own => FOREIGN,
        OVERLAYFS if upper_dentry == 0 => LOWER,
        OVERLAYFS => UPPER,
        magic if is_local(magic) && (is_own || !is_on_loop(super_block)) => LOCAL,
        _ => FOREIGN,
    }
}

/// Whether the file system lies in a file (`/dev/loopN`): who can write to that one changes what is read next, below every guard. By the
/// disk rather than by `s_dev`: a partition of a loop device has a number of another range.
#[inline(always)]
fn is_on_loop(super_block: Pointer) -> bool {
    let device = probe::<u64>(super_block, SUPER_BLOCK_S_BDEV.load()) as Pointer;
    if device.is_null() {
        return false;
    }
    let disk = probe::<u64>(device, BLOCK_DEVICE_BD_DISK.load()) as Pointer;
    probe::<u32>(disk, GENDISK_MAJOR.load()) == LOOP_MAJOR
}

/// File systems whose bytes only this kernel writes.
#[inline(always)]
fn is_local(magic: u64) -> bool {
    matches!(
        magic,
        0xef53          // ext2, ext3, ext4
            | TMPFS // and memfd
            | 0x8584_58f6 // ramfs: the initial root
            | 0x5846_5342 // xfs
            | 0x9123_683e // btrfs
            | 0xf2f5_2010 // f2fs
            | 0x2fc1_2fc1 // zfs
            | 0x7371_7368 // squashfs
            | 0xe0f5_e1e2 // erofs
            | 0x9660 // iso9660
    )
}
