//! Layouts that cross the kernel boundary: keys and values of maps, and the record in the ring buffer.
//!
//! All are `repr(C)` without padding. [`SCHEMA_VERSION`] names the pin directory: a change of any layout raises it.

use crate::verdict::{FailAction, Mode, Origin, Role};

/// Version of these layouts; part of the pin directory's name.
pub const SCHEMA_VERSION: u32 = 3;

/// SHA-256 of a file in memory order: `u64::from_ne_bytes` of each eight bytes, so that BPF compares words.
pub type DigestWords = [u64; 4];

/// Set number that no policy has.
pub const NO_SET: u32 = 0;
/// Set of the container runtime's own programs.
pub const RUNTIME_SET: u32 = 1;
/// First set number for policies.
pub const FIRST_POLICY_SET: u32 = 2;

/// Length of the path in a [`PathKey`], with at least one terminating zero.
pub const PATH_KEY_BYTES: usize = 252;
/// Length of the name in an [`AppletKey`], with at least one terminating zero.
pub const APPLET_NAME_BYTES: usize = 56;
/// Room for the resolved path in an [`ExecRecord`].
pub const RECORD_PATH_BYTES: usize = 1024;
/// Room for the path as passed in an [`ExecRecord`].
pub const RECORD_NAME_BYTES: usize = 256;
/// Arguments of a program that an [`ExecRecord`] has at most.
pub const RECORD_ARGUMENTS: u32 = 16;
/// Bytes of one argument that an [`ExecRecord`] has at most, with its terminating zero.
pub const RECORD_ARGUMENT_BYTES: usize = 128;
/// An argument that would begin behind so many bytes of arguments is left out.
pub const RECORD_ARGV_LIMIT: usize = 512;
/// Room for the arguments in an [`ExecRecord`]: so that the last one may begin at the limit.
pub const RECORD_ARGV_BYTES: usize = RECORD_ARGV_LIMIT + RECORD_ARGUMENT_BYTES;
/// Ancestors that an [`ExecRecord`] has at most, nearest first.
pub const RECORD_ANCESTORS: usize = 8;
/// Room for the name of an ancestor's executable, with its terminating zero.
pub const ANCESTOR_NAME_BYTES: usize = 48;
/// Ancestor levels of a cgroup that are looked up, from the root down.
pub const CGROUP_LEVELS: u32 = 12;

/// Names of the maps in both objects.
pub mod maps {
    /// `Array<NodeConfig>`, one element.
    pub const NODE: &str = "NODE";
    /// `Hash<u64, CgroupEntry>` by cgroup id.
    pub const CGROUPS: &str = "CGROUPS";
    /// `Array<Container>` by container index.
    pub const CONTAINERS: &str = "CONTAINERS";
    /// `Array<Started>` by container index: the epoch whose first program has started, and where. Apart from `CONTAINERS`, because the
    /// kernel side writes it.
    pub const STARTED: &str = "STARTED";
    /// `Array<Policy>` by policy index; 0 stays empty.
    pub const POLICIES: &str = "POLICIES";
    /// `Array<Namespace>` by namespace index; 0 stays empty.
    pub const NAMESPACES: &str = "NAMESPACES";
    /// `Hash<EntryKey, EntryRule>`.
    pub const ENTRIES: &str = "ENTRIES";
    /// `Hash<SizeKey, u32>`: sizes that a set's entries have, with the number of such entries.
    pub const SIZES: &str = "SIZES";
    /// `Hash<PathKey, EntryRule>`.
    pub const PATHS: &str = "PATHS";
    /// `Hash<AppletKey, EntryRule>`.
    pub const APPLETS: &str = "APPLETS";
    /// `Hash<DigestWords, u32>`.
    pub const DENYLIST: &str = "DENYLIST";
    /// `Hash<InodeKey, KnownInode>`: what the agent found out of files for tier 2.
    pub const INODES: &str = "INODES";
    /// `PerCpuArray<u64>` by [`Reason`](crate::verdict::Reason), then by [`Counter`](super::counter).
    pub const COUNTERS: &str = "COUNTERS";
    /// `Array<u64>`, one element: the sequence that was given last.
    pub const SEQUENCE: &str = "SEQUENCE";
    /// `Array<u64>`, one element: the number of the window that repeats are counted in now. The agent alone raises it.
    pub const WINDOW: &str = "WINDOW";
    /// `Hash<RepeatKey, Repeat>`: refusals that are counted rather than told one by one.
    pub const REPEATS: &str = "REPEATS";
    /// `RingBuf`.
    pub const EVENTS: &str = "EVENTS";
    /// `TaskStorage<TaskState>`.
    pub const TASKS: &str = "TASKS";
    /// `InodeStorage<CachedDigest>`.
    pub const DIGESTS: &str = "DIGESTS";
}

/// Slots of `COUNTERS` after the reasons.
pub mod counter {
    /// Events that found the ring buffer full.
    pub const RING_FULL: u32 = 32;
    /// `bpf_send_signal` that failed.
    pub const SIGNAL_FAILED: u32 = 33;
    /// Digests that were computed.
    pub const HASHED: u32 = 34;
    /// Digests that were found kept on the inode.
    pub const DIGEST_KEPT: u32 = 35;
    /// Files whose size no entry has, refused without a digest.
    pub const SIZE_MISS: u32 = 36;
    /// Digests that could not be kept on their inode.
    pub const KEEP_FAILED: u32 = 37;
    /// Task marks that could not be made.
    pub const MARK_FAILED: u32 = 38;
    /// Number of slots.
    pub const SLOTS: u32 = 64;
}

/// What holds for the whole node.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeConfig {
    /// [`FailAction`] for a cgroup below the managed root that no map knows.
    pub unknown: u32,
    /// Number of elements in `DENYLIST`; 0 spares the look-up.
    pub denylist_entries: u32,
    /// Whether new cgroups are announced in the ring buffer (1) or not (0).
    pub announce_cgroups: u32,
    /// `s_dev` of the host's root file system.
    pub host_root_device: u32,
    /// The agent's process, as the host numbers it; 0 where there was none.
    pub agent_process: u32,
    /// `s_dev` of the BPF file system that holds the pins.
    pub pins_device: u32,
    /// Inode of the folder of pinned links.
    pub links_inode: u64,
    /// Inode of the folder of pinned maps.
    pub maps_inode: u64,
    /// First eight bytes of the SHA-256 of the loaded object and its offsets: whose programs the pinned links hold.
    pub release: u64,
}

/// What a cgroup is.
pub mod cgroup_kind {
    /// The cgroup of a container; `index` names it.
    pub const CONTAINER: u32 = 1;
    /// The cgroup of a pod: what is below it and unknown is pending; `index` names its namespace.
    pub const POD: u32 = 2;
    /// The managed root: what is below it and unknown is unknown.
    pub const MANAGED_ROOT: u32 = 3;
}

/// What the agent knows of a cgroup.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupEntry {
    /// One of [`cgroup_kind`].
    pub kind: u32,
    /// Container index or namespace index.
    pub index: u32,
    /// [`Container::epoch`] that this entry is for.
    pub epoch: u32,
    /// [`FailAction`] of a pending container (pods only), and [`IN_MONITOR`].
    pub pending: u32,
}

/// A container slot. A slot is used again with a higher epoch, so that a task's old mark never speaks for a new container.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Container {
    /// Rises each time the slot is given to another container; 0 is an empty slot.
    pub epoch: u32,
    /// Index in `POLICIES`; 0 where no policy matches.
    pub policy: u32,
    /// Index in `NAMESPACES`.
    pub namespace: u32,
    /// [`container_flag`] bits.
    pub flags: u32,
    /// `s_dev` of the container's root file system in the kernel's encoding; 0 where it is not known.
    pub root_device: u32,
    /// [`FailAction`] where `policy` is 0, and [`IN_MONITOR`].
    pub missing: u32,
    /// The container's cgroup.
    pub cgroup_id: u64,
}

/// Where a container's first program started. The runtime has made this root and mount namespace, and nothing of the container has run
/// in them: what a member has made for itself later differs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Started {
    /// [`Container::epoch`] whose first program has started.
    pub epoch: u32,
    /// `s_dev` of its root file system; 0 where it is not known.
    pub root_device: u32,
    /// Inode number of its root directory; 0 where it is not known: then the root must be its file system's own.
    pub root_inode: u64,
    /// Its mount namespace, as `/proc/PID/ns/mnt` numbers it; 0 where it is not known.
    pub mount_namespace: u32,
    /// 0.
    pub reserved: u32,
}

/// Bits of [`Container::flags`].
pub mod container_flag {
    /// A runtime made it: its programs start in a root of their own, and what starts before in the host's root is the runtime.
    pub const OWN_ROOT: u32 = 1;
    /// Its image is on the denylist: it starts nothing any more.
    pub const DENIED: u32 = 2;
}

/// A policy as the kernel needs it. The flip to a new set or mode is one write of this value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Set number of its entries.
    pub set: u32,
    /// [`Mode`].
    pub mode: u32,
    /// [`FailAction`] for a file whose digest or path could not be had.
    pub unresolved: u32,
    /// [`policy_flag`] bits.
    pub flags: u32,
    /// Generation of the ExecPolicy that is loaded, for the event.
    pub generation: u64,
}

/// Bits of [`Policy::flags`].
pub mod policy_flag {
    /// The set has path entries.
    pub const PATHS: u32 = 1;
    /// An entry has no size, so a file of any size must be hashed.
    pub const ANY_SIZE: u32 = 2;
    /// Where the [`Act`](crate::verdict::Act) of a mapping begins, four bits wide; 0 there acts as `listed`.
    pub const MAP_ACT_SHIFT: u32 = 8;

    /// The flags with what a mapping is judged as.
    pub const fn with_map_act(flags: u32, act: crate::verdict::Act) -> u32 {
        flags | (act.0 & 0xf) << MAP_ACT_SHIFT
    }

    /// What a mapping is judged as. An exec's value, or one of another release, acts as the strictest.
    #[inline(always)]
    pub const fn map_act(flags: u32) -> crate::verdict::Act {
        match crate::verdict::Act(flags >> MAP_ACT_SHIFT & 0xf) {
            act @ (crate::verdict::Act::MAP_OFF | crate::verdict::Act::MAP_NOTE | crate::verdict::Act::MAP_IMAGE) => {
                act
            }
            _ => crate::verdict::Act::MAP_LISTED,
        }
    }
}

/// What holds for a namespace. Its mode flips with one write.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespace {
    /// [`Mode`] that wins over the policies' own; 0 where there is none.
    pub mode: u32,
    /// [`namespace_flag`] bits.
    pub flags: u32,
}

/// Bits of [`Namespace::flags`].
pub mod namespace_flag {
    /// Its containers may use bpf(2).
    pub const BPF: u32 = 1;
}

/// Key of `ENTRIES`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// The file's SHA-256.
    pub digest: DigestWords,
    /// Set number.
    pub set: u32,
    /// 0.
    pub reserved: u32,
}

/// Key of `SIZES`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SizeKey {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Set number.
    pub set: u32,
    /// 0.
    pub reserved: u32,
}

/// Key of `PATHS`: the whole path, so that no two paths share a key.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathKey {
    /// Set number.
    pub set: u32,
    /// The path, then zeros.
    pub path: [u8; PATH_KEY_BYTES],
}

/// Key of `APPLETS`: a name under which a program of many applets may start.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppletKey {
    /// Set number.
    pub set: u32,
    /// [`EntryRule::entry`] of the program's digest in that set.
    pub entry: u32,
    /// The name, then zeros.
    pub name: [u8; APPLET_NAME_BYTES],
}

/// Key of `INODES`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeKey {
    /// Inode number.
    pub inode: u64,
    /// `s_dev` in the kernel's encoding.
    pub device: u32,
    /// 0.
    pub reserved: u32,
}

/// What the agent found out of a file (tier 2, whose programs cannot read one).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KnownInode {
    /// SHA-256 of its content; of a path entry's path where [`inode_flag::PATH`] says so.
    pub digest: DigestWords,
    /// [`inode_flag`] bits.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// Bits of [`KnownInode::flags`].
pub mod inode_flag {
    /// A path entry names it: it may start whatever its content.
    pub const PATH: u32 = 1;
    /// A file of a layer's own file system, below an overlay: as such nobody in a container reaches it.
    pub const LAYER: u32 = 2;
}

/// What an entry allows: for each role, from which origins.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryRule {
    /// Three bits of [`Origin`] for each [`Role`], role 0 lowest, four bits apart. The fourth says that in this role the program's
    /// name counts besides: what `APPLETS` has for it is allowed as well.
    pub origins: u32,
    /// Number of the entry in its policy, for the event.
    pub entry: u32,
}

impl EntryRule {
    /// Bits of one role.
    const ROLE_BITS: u32 = 4;
    /// All origins.
    pub const ANY_ORIGIN: u32 = Origin::INIT.0 | Origin::EXEC_SESSION.0 | Origin::UNKNOWN.0;

    /// The fourth bit of a role.
    const BY_NAME: u32 = 8;

    /// The rule with `origins` (bits) allowed for `role` besides.
    #[must_use]
    pub const fn with(self, role: Role, origins: u32) -> Self {
        Self {
            origins: self.origins | (origins & Self::ANY_ORIGIN) << (role.0 * Self::ROLE_BITS),
            entry: self.entry,
        }
    }

    /// The rule with the names in `APPLETS` counting for `role` besides.
    #[must_use]
    pub const fn with_names(self, role: Role) -> Self {
        Self {
            origins: self.origins | Self::BY_NAME << (role.0 * Self::ROLE_BITS),
            entry: self.entry,
        }
    }

    /// Whether names count for `role`.
    #[inline(always)]
    pub const fn is_by_name(self, role: Role) -> bool {
        self.origins >> ((role.0 & 3) * Self::ROLE_BITS) & Self::BY_NAME != 0
    }

    /// The origins that are allowed for `role` under any name, as bits.
    #[inline(always)]
    pub const fn origins_for(self, role: Role) -> u32 {
        (self.origins >> ((role.0 & 3) * Self::ROLE_BITS)) & Self::ANY_ORIGIN
    }
}

/// A task's mark, kept in task storage; forks inherit it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskState {
    /// Container index.
    pub container: u32,
    /// The container's epoch when the mark was made.
    pub epoch: u32,
    /// [`Origin`]; 0 while the task has entered but not yet started a program of the container.
    pub origin: u32,
    /// One of [`stage`].
    pub stage: u32,
    /// Address of the inode that is to become the ELF interpreter; an identity, never dereferenced.
    pub interpreter_inode: u64,
    /// Files judged since the exec began.
    pub judged: u32,
    /// Number of arguments of the exec at hand, as of the file judged last.
    pub arguments: u32,
    /// Thread group id of the process that entered from outside and whose descendant this is; 0 for what did not.
    pub session: u32,
    /// 1 once memory that turned executable was told since the exec began.
    pub told_anonymous: u32,
    /// [`AppletKey::set`] under which the program's first argument is still to be judged; 0 where it is not.
    pub applet_set: u32,
    /// [`AppletKey::entry`] likewise.
    pub applet_entry: u32,
}

/// How far an exec has come.
pub mod stage {
    /// No exec, or one that has just begun.
    pub const START: u32 = 0;
    /// An ELF file was allowed: the next file opened for exec is its interpreter.
    pub const ELF_ALLOWED: u32 = 1;
    /// The interpreter was opened; its content is judged when it is mapped.
    pub const INTERPRETER_OPENED: u32 = 2;
    /// The interpreter was judged.
    pub const INTERPRETER_JUDGED: u32 = 3;
}

/// A digest that is kept on an inode while its file cannot change.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CachedDigest {
    /// SHA-256.
    pub digest: DigestWords,
    /// 1 once `digest` is filled.
    pub filled: u32,
    /// 0.
    pub reserved: u32,
}

/// Kinds of records in the ring buffer; the first `u32` of each.
pub mod record_kind {
    /// [`ExecRecord`](super::ExecRecord).
    pub const EXEC: u32 = 1;
    /// [`CgroupRecord`](super::CgroupRecord).
    pub const CGROUP: u32 = 2;
}

/// Hooks, as numbers in a record.
pub mod hook {
    /// `bprm_check_security`.
    pub const BPRM_CHECK_SECURITY: u32 = 1;
    /// `bprm_creds_for_exec`, for AT_EXECVE_CHECK.
    pub const BPRM_CREDS_FOR_EXEC: u32 = 2;
    /// `file_open`.
    pub const FILE_OPEN: u32 = 3;
    /// `mmap_file`.
    pub const MMAP_FILE: u32 = 4;
    /// `sched_process_exec`.
    pub const SCHED_PROCESS_EXEC: u32 = 5;
    /// `file_mprotect`.
    pub const FILE_MPROTECT: u32 = 6;
    /// `bpf`.
    pub const BPF: u32 = 7;
    /// `task_kill`.
    pub const TASK_KILL: u32 = 8;
    /// `ptrace_access_check`.
    pub const PTRACE_ACCESS_CHECK: u32 = 9;
    /// `inode_unlink`.
    pub const INODE_UNLINK: u32 = 10;
    /// `inode_rename`.
    pub const INODE_RENAME: u32 = 11;
    /// `bprm_committed_creds`: the program's first argument, from its own memory.
    pub const BPRM_COMMITTED_CREDS: u32 = 12;
    /// `file_send_sigiotask`.
    pub const FILE_SEND_SIGIOTASK: u32 = 13;
    /// `task_setrlimit`.
    pub const TASK_SETRLIMIT: u32 = 14;
    /// `task_setscheduler`.
    pub const TASK_SETSCHEDULER: u32 = 15;
    /// The name that events use.
    pub const fn name(hook: u32) -> &'static str {
        match hook {
            BPRM_CHECK_SECURITY => "bprm_check_security",
            BPRM_CREDS_FOR_EXEC => "bprm_creds_for_exec",
            FILE_OPEN => "file_open",
            MMAP_FILE => "mmap_file",
            SCHED_PROCESS_EXEC => "sched_process_exec",
            FILE_MPROTECT => "file_mprotect",
            BPF => "bpf",
            TASK_KILL => "task_kill",
            PTRACE_ACCESS_CHECK => "ptrace_access_check",
            INODE_UNLINK => "inode_unlink",
            INODE_RENAME => "inode_rename",
            BPRM_COMMITTED_CREDS => "bprm_committed_creds",
            FILE_SEND_SIGIOTASK => "file_send_sigiotask",
            TASK_SETRLIMIT => "task_setrlimit",
            TASK_SETSCHEDULER => "task_setscheduler",
            _ => "unknown",
        }
    }
}

/// Bits of [`ExecRecord::flags`].
pub mod record_flag {
    /// `digest` is filled.
    pub const DIGEST: u32 = 1;
    /// `signal_result` is filled: a signal was tried.
    pub const SIGNAL: u32 = 2;
    /// The file lies on the container's read-only layers.
    pub const LOWER: u32 = 4;
    /// The file lies in the container's writable layer.
    pub const UPPER: u32 = 8;
    /// The file has no name any more (deleted, memfd, O_TMPFILE).
    pub const UNLINKED: u32 = 16;
    /// An entry matched, for another role or origin; `entry` names it.
    pub const ENTRY: u32 = 32;
    /// `argv` is filled.
    pub const ARGV: u32 = 64;
    /// `argv` is not all of it: an argument is longer than its room, or there are more.
    pub const ARGV_CUT: u32 = 128;
    /// `argv` was read from the new program's memory, which nobody else has; else from the caller's, which another of its threads may
    /// have changed since the kernel took it.
    pub const ARGV_OF_PROGRAM: u32 = 256;
}

/// A process above the one that was judged.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AncestorRecord {
    /// When it started, on the boot clock; with `pid` this names it for the whole boot.
    pub start_boot_nanos: u64,
    /// Thread group id.
    pub pid: u32,
    /// Bytes of `name`, without a terminating zero; 0 where it has no executable (a kernel thread).
    pub name_length: u32,
    /// File name (the last part of the path) of its executable.
    pub name: [u8; ANCESTOR_NAME_BYTES],
}

/// One judged file that an event is owed for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExecRecord {
    /// [`record_kind::EXEC`].
    pub kind: u32,
    /// One of [`hook`].
    pub hook: u32,
    /// The kernel's sequence number.
    pub sequence: u64,
    /// `bpf_ktime_get_boot_ns`.
    pub time_boot_nanos: u64,
    /// The caller's cgroup.
    pub cgroup_id: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256, where [`record_flag::DIGEST`] says so.
    pub digest: DigestWords,
    /// Generation of the policy that was used.
    pub generation: u64,
    /// When the caller's process started, on the boot clock.
    pub start_boot_nanos: u64,
    /// `s_dev` of the file's file system.
    pub device: u32,
    /// `s_magic` of the file's file system.
    pub file_system: u32,
    /// [`Membership`](crate::verdict::Membership).
    pub membership: u32,
    /// [`Mode`] that held.
    pub mode: u32,
    /// [`Effect`](crate::verdict::Effect).
    pub effect: u32,
    /// [`Reason`](crate::verdict::Reason).
    pub reason: u32,
    /// [`Role`].
    pub role: u32,
    /// [`Origin`].
    pub origin: u32,
    /// [`record_flag`] bits.
    pub flags: u32,
    /// Return code of `bpf_send_signal`.
    pub signal_result: i32,
    /// Container index; 0xffff_ffff where there is none.
    pub container: u32,
    /// The container's epoch.
    pub epoch: u32,
    /// Policy index.
    pub policy: u32,
    /// Number of the matched entry.
    pub entry: u32,
    /// Thread group id.
    pub pid: u32,
    /// Parent's thread group id.
    pub parent_pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Bytes of `path`, without a terminating zero; negative where the path could not be had (an errno).
    pub path_length: i32,
    /// Bytes of `name`, likewise.
    pub name_length: i32,
    /// Bytes of `argv`, with the zero that ends each argument.
    pub argv_length: u32,
    /// Elements of `ancestors`.
    pub ancestor_count: u32,
    /// [`TaskState::session`] of the caller.
    pub session: u32,
    /// 0.
    pub reserved: u32,
    /// The caller's command name.
    pub comm: [u8; 16],
    /// The path as the kernel resolved it.
    pub path: [u8; RECORD_PATH_BYTES],
    /// The path as the caller passed it.
    pub name: [u8; RECORD_NAME_BYTES],
    /// Arguments, each with a terminating zero.
    pub argv: [u8; RECORD_ARGV_BYTES],
    /// The caller's ancestors, nearest first.
    pub ancestors: [AncestorRecord; RECORD_ANCESTORS],
}

/// Container index of a record without a container.
pub const NO_CONTAINER: u32 = u32::MAX;

/// A new cgroup below the managed root or a pod.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupRecord {
    /// [`record_kind::CGROUP`].
    pub kind: u32,
    /// 1 made, 2 removed.
    pub change: u32,
    /// Its id: the inode number of its folder in the cgroup2 hierarchy.
    pub cgroup_id: u64,
}

impl PathKey {
    /// The key of a path; `None` where it is too long or holds a zero.
    pub fn new(set: u32, path: &[u8]) -> Option<Self> {
        if path.len() >= PATH_KEY_BYTES || path.contains(&0) {
            return None;
        }
        let mut key = Self {
            set,
            path: [0; PATH_KEY_BYTES],
        };
        key.path.get_mut(..path.len())?.copy_from_slice(path);
        Some(key)
    }
}

impl AppletKey {
    /// The key of a name; `None` where it is empty, too long, or holds a zero.
    pub fn new(set: u32, entry: u32, name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() >= APPLET_NAME_BYTES || name.contains(&0) {
            return None;
        }
        let mut key = Self {
            set,
            entry,
            name: [0; APPLET_NAME_BYTES],
        };
        key.name.get_mut(..name.len())?.copy_from_slice(name);
        Some(key)
    }

    /// The name without the zeros behind it.
    pub fn text(&self) -> &[u8] {
        let length = self.name.iter().position(|&byte| byte == 0);
        self.name.get(..length.unwrap_or(self.name.len())).unwrap_or_default()
    }
}

/// A digest as BPF compares it.
pub fn digest_words(digest: &[u8; 32]) -> DigestWords {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// A digest as people read it.
pub fn digest_bytes(words: &DigestWords) -> [u8; 32] {
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    digest
}

/// The mode that holds, from the namespace's override and the policy's own.
#[inline(always)]
pub const fn effective_mode(namespace_override: u32, policy_mode: u32) -> Mode {
    if namespace_override != 0 {
        Mode(namespace_override)
    } else {
        Mode(policy_mode)
    }
}

/// Bit of [`Container::missing`] and [`CgroupEntry::pending`]: who said the word is in monitor, where no failure refuses anything.
pub const IN_MONITOR: u32 = 8;

/// [`FailAction`] of a map's field.
#[inline(always)]
pub const fn fail_action(value: u32) -> FailAction {
    FailAction(value & !IN_MONITOR)
}

/// The mode in which the failure that such a field is about is judged.
#[inline(always)]
pub const fn failure_mode(namespace_override: u32, value: u32) -> Mode {
    let own = if value & IN_MONITOR != 0 {
        Mode::MONITOR
    } else {
        Mode::ENFORCE
    };
    effective_mode(namespace_override, own.0)
}

// A layout that moves breaks pinned maps: these lines make the change deliberate, together with SCHEMA_VERSION.
const _: () = {
    assert!(size_of::<NodeConfig>() == 48);
    assert!(size_of::<CgroupEntry>() == 16);
    assert!(size_of::<Container>() == 32);
    assert!(size_of::<Started>() == 24);
    assert!(size_of::<Policy>() == 24);
    assert!(size_of::<Namespace>() == 8);
    assert!(size_of::<EntryKey>() == 40);
    assert!(size_of::<SizeKey>() == 16);
    assert!(size_of::<PathKey>() == 256);
    assert!(size_of::<InodeKey>() == 16);
    assert!(size_of::<EntryRule>() == 8);
    assert!(size_of::<AppletKey>() == 64);
    assert!(size_of::<TaskState>() == 48);
    assert!(size_of::<CachedDigest>() == 40);
    assert!(size_of::<KnownInode>() == 40);
    assert!(size_of::<CgroupRecord>() == 16);
    assert!(size_of::<AncestorRecord>() == 16 + ANCESTOR_NAME_BYTES);
    assert!(
        size_of::<ExecRecord>()
            == 208
                + RECORD_PATH_BYTES
                + RECORD_NAME_BYTES
                + RECORD_ARGV_BYTES
                + RECORD_ANCESTORS * size_of::<AncestorRecord>()
    );
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_keeps_roles_apart() {
        let rule = EntryRule::default()
            .with(Role::SCRIPT_INTERPRETER, EntryRule::ANY_ORIGIN)
            .with(Role::TARGET, Origin::EXEC_SESSION.0);
        assert_eq!(rule.origins_for(Role::TARGET), Origin::EXEC_SESSION.0);
        assert_eq!(rule.origins_for(Role::SCRIPT_INTERPRETER), EntryRule::ANY_ORIGIN);
        assert_eq!(rule.origins_for(Role::ELF_INTERPRETER), 0);
    }

    #[test]
    fn a_rule_by_name_allows_nothing_by_itself() {
        let rule = EntryRule::default().with_names(Role::TARGET);
        assert_eq!(rule.origins_for(Role::TARGET), 0);
        assert!(rule.is_by_name(Role::TARGET));
        assert!(!rule.is_by_name(Role::SCRIPT_INTERPRETER));
        // No origin, however many, is taken for the mark.
        let any = EntryRule::default().with(Role::TARGET, u32::MAX);
        assert!(!any.is_by_name(Role::TARGET) && !any.is_by_name(Role::SCRIPT_INTERPRETER));
    }

    #[test]
    fn an_applet_that_does_not_fit_has_no_key() {
        assert!(AppletKey::new(2, 0, &[b'a'; APPLET_NAME_BYTES]).is_none());
        assert!(AppletKey::new(2, 0, b"").is_none());
        assert!(AppletKey::new(2, 0, b"a\0").is_none());
        assert_eq!(AppletKey::new(2, 0, b"sh").unwrap().text(), b"sh");
    }

    #[test]
    fn a_path_that_does_not_fit_has_no_key() {
        assert!(PathKey::new(2, &[b'a'; PATH_KEY_BYTES]).is_none());
        assert!(PathKey::new(2, b"/a\0b").is_none());
        assert_eq!(&PathKey::new(2, b"/a").unwrap().path[..3], b"/a\0");
    }

    #[test]
    fn digests_round_trip() {
        let mut digest = [0; 32];
        for (index, byte) in digest.iter_mut().enumerate() {
            *byte = u8::try_from(index).unwrap();
        }
        assert_eq!(digest_bytes(&digest_words(&digest)), digest);
    }
}
