//! Which field offset goes into which global of the BPF objects.

use super::btf::{Btf, BtfError};

/// Values of the objects' read-only globals, by name.
pub type Globals = Vec<(&'static str, u64)>;

/// Globals that are a plain field's offset.
const FIELDS: &[(&str, &str, &str)] = &[
    ("LINUX_BINPRM_FILE", "linux_binprm", "file"),
    ("LINUX_BINPRM_FILENAME", "linux_binprm", "filename"),
    ("LINUX_BINPRM_INTERP", "linux_binprm", "interp"),
    ("LINUX_BINPRM_BUF", "linux_binprm", "buf"),
    ("LINUX_BINPRM_ARGC", "linux_binprm", "argc"),
    ("LINUX_BINPRM_P", "linux_binprm", "p"),
    ("FILE_F_PATH", "file", "f_path"),
    ("FILE_F_INODE", "file", "f_inode"),
    ("FILE_F_FLAGS", "file", "f_flags"),
    ("FILE_F_MODE", "file", "f_mode"),
    ("INODE_I_SB", "inode", "i_sb"),
    ("INODE_I_INO", "inode", "i_ino"),
    ("INODE_I_SIZE", "inode", "i_size"),
    ("INODE_I_NLINK", "inode", "i_nlink"),
    ("INODE_I_WRITECOUNT", "inode", "i_writecount"),
    ("SUPER_BLOCK_S_DEV", "super_block", "s_dev"),
    ("SUPER_BLOCK_S_MAGIC", "super_block", "s_magic"),
    ("SUPER_BLOCK_S_FLAGS", "super_block", "s_flags"),
    ("SUPER_BLOCK_S_ROOT", "super_block", "s_root"),
    ("SUPER_BLOCK_S_BDEV", "super_block", "s_bdev"),
    ("BLOCK_DEVICE_BD_DISK", "block_device", "bd_disk"),
    ("GENDISK_MAJOR", "gendisk", "major"),
    ("DENTRY_D_INODE", "dentry", "d_inode"),
    ("DENTRY_D_SB", "dentry", "d_sb"),
    ("TASK_STRUCT_REAL_PARENT", "task_struct", "real_parent"),
    ("TASK_STRUCT_TGID", "task_struct", "tgid"),
    ("TASK_STRUCT_FS", "task_struct", "fs"),
    ("TASK_STRUCT_MM", "task_struct", "mm"),
    ("TASK_STRUCT_NSPROXY", "task_struct", "nsproxy"),
    ("TASK_STRUCT_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_STRUCT_CGROUPS", "task_struct", "cgroups"),
    ("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    ("NSPROXY_MNT_NS", "nsproxy", "mnt_ns"),
    ("MNT_NAMESPACE_NS", "mnt_namespace", "ns"),
    ("NS_COMMON_INUM", "ns_common", "inum"),
    ("TASK_STRUCT_START_BOOTTIME", "task_struct", "start_boottime"),
    ("MM_STRUCT_SAVED_AUXV", "mm_struct", "saved_auxv"),
    ("MM_STRUCT_ARG_START", "mm_struct", "arg_start"),
    ("MM_STRUCT_EXE_FILE", "mm_struct", "exe_file"),
    ("VM_AREA_STRUCT_VM_FILE", "vm_area_struct", "vm_file"),
    ("VM_AREA_STRUCT_VM_FLAGS", "vm_area_struct", "vm_flags"),
    ("VM_AREA_STRUCT_ANON_VMA", "vm_area_struct", "anon_vma"),
    ("FS_STRUCT_ROOT", "fs_struct", "root"),
    ("PATH_DENTRY", "path", "dentry"),
    ("PATH_MNT", "path", "mnt"),
    ("MOUNT_MNT", "mount", "mnt"),
    ("MOUNT_MNT_NS", "mount", "mnt_ns"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("CGROUP_LEVEL", "cgroup", "level"),
    ("CGROUP_ROOT", "cgroup", "root"),
    ("CGROUP_ROOT_HIERARCHY_ID", "cgroup_root", "hierarchy_id"),
    ("KERNFS_NODE_ID", "kernfs_node", "id"),
];

/// Takes every offset from the kernel's BTF.
///
/// # Errors
/// When a structure or field is missing that every supported kernel has; the error names it.
pub fn globals(btf: &Btf) -> Result<Globals, BtfError> {
    let mut globals = Globals::with_capacity(FIELDS.len() + 5);
    for &(global, structure, field) in FIELDS {
        globals.push((global, btf.field(structure, field)?.offset_bytes()));
    }
    let name = btf.field("dentry", "d_name")?.offset_bytes() + btf.field("qstr", "name")?.offset_bytes();
    globals.push(("DENTRY_D_NAME_NAME", name));
    // From 6.7 on a file that an overlay maps keeps the user's path apart from its own.
    let user_path = match btf.field("backing_file", "user_path") {
        Ok(field) => field.offset_bytes(),
        Err(BtfError::NoField { .. } | BtfError::NoStruct(_)) => 0,
        Err(error) => return Err(error),
    };
    globals.push(("BACKING_FILE_USER_PATH", user_path));
    globals.push(("INODE_SIZE", btf.size_of("inode")?));
    let nested = |outer: (&'static str, &'static str), inner: (&'static str, &'static str)| -> Result<u64, BtfError> {
        Ok(btf.field(outer.0, outer.1)?.offset_bytes() + btf.field(inner.0, inner.1)?.offset_bytes())
    };
    globals.push((
        "TASK_STRUCT_STATUS",
        nested(("task_struct", "thread_info"), ("thread_info", "status"))?,
    ));
    globals.push(("DENTRY_D_NAME", nested(("dentry", "d_name"), ("qstr", "name"))?));
    let seals = btf.field("shmem_inode_info", "seals")?.offset_bytes();
    let inode = btf.field("shmem_inode_info", "vfs_inode")?.offset_bytes();
    globals.push(("SHMEM_SEALS_BEFORE_INODE", inode.wrapping_sub(seals)));
    // `ancestor_ids` became `ancestors` in 6.1.
    let (ancestors, are_pointers) = match btf.field("cgroup", "ancestors") {
        Ok(field) => (field, btf.is_array_of_pointers("cgroup", "ancestors")?),
        Err(BtfError::NoField { .. }) => (btf.field("cgroup", "ancestor_ids")?, false),
        Err(error) => return Err(error),
    };
    globals.push(("CGROUP_ANCESTORS", ancestors.offset_bytes()));
    globals.push(("CGROUP_ANCESTORS_ARE_POINTERS", u64::from(are_pointers)));
    // AT_EXECVE_CHECK came with 6.14.
    let (is_check, mask) = match btf.field("linux_binprm", "is_check") {
        Ok(field) => (field.offset_bytes(), 1 << (field.offset_bits % 8)),
        Err(BtfError::NoField { .. }) => (0, 0),
        Err(error) => return Err(error),
    };
    globals.push(("LINUX_BINPRM_IS_CHECK", is_check));
    globals.push(("LINUX_BINPRM_IS_CHECK_MASK", mask));
    Ok(globals)
}
