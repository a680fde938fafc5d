//! The policy itself: what may start in which containers, how, and what happens to the rest.

use crate::{FileDigest, FilePath, ImageDigest};

/// What is done about a program that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// It runs, and an event says what would have happened.
    Monitor,
    /// -EPERM where the kernel has BPF LSM, and SIGKILL.
    Enforce,
    /// -EPERM without the signal.
    Deny,
}

/// What an internal failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailAction {
    /// The program runs; counted, with an event.
    Open,
    /// The program is refused with -EPERM.
    Closed,
    /// The program is refused and its task killed.
    Kill,
}

/// The chosen meaning of each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailSemantics {
    /// Path or digest could not be had.
    pub unresolved: FailAction,
    /// A cgroup below the managed root that no map knows.
    pub unknown: FailAction,
    /// A kernel map had no room for the policy.
    pub map_full: FailAction,
    /// No policy for a known container.
    pub missing: FailAction,
}

impl Default for FailSemantics {
    fn default() -> Self {
        Self {
            unresolved: FailAction::Closed,
            unknown: FailAction::Closed,
            map_full: FailAction::Closed,
            missing: FailAction::Open,
        }
    }
}

/// What may be mapped executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CodeLoading {
    /// Not looked at.
    Off,
    /// An event, never a refusal.
    Note,
    /// Only files of the image's own layers, or listed in `map`.
    #[default]
    Image,
    /// Only what is listed in `map`.
    Listed,
}

/// How wide a derived list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// What the specification says should run, and its closure.
    #[default]
    Declared,
    /// Any executable of the image.
    Image,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// An ELF executable.
    Elf,
    /// A file that begins with `#!`.
    Script,
    /// One ELF file with many applets, told apart by name.
    Multicall,
}

/// How a file may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Named by execve itself.
    Target,
    /// Named by the `#!` line of a listed script.
    ScriptInterpreter,
    /// Named by PT_INTERP of a listed ELF file.
    ElfInterpreter,
}

/// From where a program may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Origin {
    /// From anywhere in the container.
    #[default]
    Any,
    /// Only from the entrypoint's own tree.
    Init,
    /// Only from a session that entered from outside: probes, hooks, kubectl exec.
    ExecSession,
}

/// One allowed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the image or the author says that it lies.
    pub path: FilePath,
    /// The content that is allowed, at any path; `None` makes this a path entry.
    pub sha256: Option<FileDigest>,
    /// The path with all symbolic links resolved.
    pub real_path: Option<FilePath>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// What the file is.
    pub kind: Option<FileKind>,
    /// How it may start; never empty.
    pub roles: Vec<Role>,
    /// From where it may start.
    pub from: Origin,
    /// Applets that are allowed; `multicall` only.
    pub applets: Vec<String>,
    /// Why it is here, from the cause to the file.
    pub because: Vec<String>,
}

/// A file that may be mapped executable besides the image's own: named by path, by content, or by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRule {
    /// Where it lies; `None` allows the content at any path.
    pub path: Option<FilePath>,
    /// Its content; `None` allows whatever lies at the path.
    pub sha256: Option<FileDigest>,
}

/// Which containers of the namespace a policy is for. What is absent matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Name of the workload.
    pub workload: Option<String>,
    /// Name of the container in its pod.
    pub container: Option<String>,
    /// Digest of the image that the container was created from.
    pub image_digest: Option<ImageDigest>,
}

/// What may start in the containers of a namespace that `target` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecPolicy {
    /// Namespace of the policy and of the containers.
    pub namespace: String,
    /// Name, unique in its namespace.
    pub name: String,
    /// Which containers.
    pub target: Target,
    /// What happens to what is not allowed, unless a rollout or an override says otherwise.
    pub mode: Mode,
    /// What internal failures mean.
    pub fail: FailSemantics,
    /// What may be mapped executable.
    pub code_loading: CodeLoading,
    /// How wide the list was derived.
    pub scope: Scope,
    /// Rises with every change.
    pub generation: u64,
    /// What may start.
    pub entries: Vec<Entry>,
    /// What may be mapped executable besides.
    pub map: Vec<MapRule>,
}
