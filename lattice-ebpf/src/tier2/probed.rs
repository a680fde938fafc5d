//! Objects that the verifier does not track: a tracepoint's pointers lead no further, so every field is read by the helper.

use crate::kernel::{
    FILE_F_INODE, INODE_I_INO, INODE_I_NLINK, INODE_I_SB, INODE_I_SIZE, INODE_SIZE, LINUX_BINPRM_ARGC,
    LINUX_BINPRM_FILE, LINUX_BINPRM_FILENAME, LINUX_BINPRM_INTERP, MM_STRUCT_SAVED_AUXV, OVERLAYFS, Pointer,
    SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_MAGIC, TASK_STRUCT_MM, VM_AREA_STRUCT_VM_FILE, probe,
};

/// Where a file's bytes lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// On an overlay's read-only layers: nobody in the container can change it.
    Lower,
    /// In an overlay's writable layer.
    Upper,
    /// Elsewhere.
    Other,
}

/// `struct linux_binprm`.
#[derive(Clone, Copy)]
pub(crate) struct ProbedBinprm(pub(crate) Pointer);

impl ProbedBinprm {
    /// Address of the path as passed, where the verifier does not follow.
    #[inline(always)]
    pub(crate) fn filename(self) -> Pointer {
        probe::<u64>(self.0, LINUX_BINPRM_FILENAME.load()) as Pointer
    }

    /// Address of the path of this stage's file: as passed, or as the script names its interpreter.
    #[inline(always)]
    pub(crate) fn stage_path(self) -> Pointer {
        probe::<u64>(self.0, LINUX_BINPRM_INTERP.load()) as Pointer
    }

    /// Whether the file of this stage is the interpreter of another: binfmt_script and binfmt_misc put their own name here.
    #[inline(always)]
    pub(crate) fn is_interpreter(self) -> bool {
        probe::<u64>(self.0, LINUX_BINPRM_INTERP.load()) != probe::<u64>(self.0, LINUX_BINPRM_FILENAME.load())
    }

    /// Number of arguments of the program that runs.
    #[inline(always)]
    pub(crate) fn argument_count(self) -> u32 {
        probe(self.0, LINUX_BINPRM_ARGC.load())
    }

    /// The file that runs.
    #[inline(always)]
    pub(crate) fn file(self) -> ProbedFile {
        ProbedFile(probe::<u64>(self.0, LINUX_BINPRM_FILE.load()) as Pointer)
    }
}

/// A file as the floor sees it: read by the helper alone, since a tracepoint's pointers lead further than the verifier follows.
#[derive(Clone, Copy)]
pub(crate) struct ProbedFile(pub(crate) Pointer);

impl ProbedFile {
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
            return Layer::Other;
        }
        if probe::<u64>(self.inode(), INODE_SIZE.load()) == 0 {
            Layer::Lower
        } else {
            Layer::Upper
        }
    }
}

/// An address in the ELF interpreter of a task's new program; 0 for a program without one.
///
/// It is where the task's first instruction lies, unless that is the program's own: an interpreter that is linked to a fixed address
/// (`ET_EXEC`) has an `AT_BASE` of 0 (load_elf_interp in fs/binfmt_elf.c), as a program without one has. By then the kernel has set the
/// registers and the auxiliary vector, and nothing of the program has run. A vector without `AT_ENTRY`, which is what a 32-bit
/// program's looks like here, counts as one with an interpreter, so that it is judged.
#[inline(always)]
pub(crate) fn loader_address(task: Pointer, first_instruction: u64) -> u64 {
    /// The vector's end, and two of its kinds.
    const AT_NULL: u64 = 0;
    const AT_BASE: u64 = 7;
    const AT_ENTRY: u64 = 9;
    const PAIRS: u64 = 26;
    let memory = probe::<u64>(task, TASK_STRUCT_MM.load()) as Pointer;
    let (mut base, mut entry) = (0, 0);
    let mut pair = 0;
    while pair < PAIRS {
        let kind: u64 = probe(memory, MM_STRUCT_SAVED_AUXV.load() + pair * 16);
        if kind == AT_BASE {
            base = probe(memory, MM_STRUCT_SAVED_AUXV.load() + pair * 16 + 8);
        } else if kind == AT_ENTRY {
            entry = probe(memory, MM_STRUCT_SAVED_AUXV.load() + pair * 16 + 8);
        } else if kind == AT_NULL {
            break;
        }
        pair += 1;
    }
    if first_instruction != entry {
        first_instruction
    } else {
        base
    }
}
