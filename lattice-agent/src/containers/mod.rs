//! Which containers run on this node, and who they are.
//!
//! ```text
//!   --cgroup PATH=NAMESPACE/WORKLOAD/CONTAINER ──► by_hand ─────┐
//!   containerd: events, image store ──► containerd ──► table ───┼──► Sink (the kernel's maps)
//!   cgroup folders: inotify, the kernel's announcements ──► table ┘
//! ```
//!
//! A container is told to the [`Sink`] as soon as its cgroup folder exists, which is before the runtime moves the first
//! process there: what identifies it was collected when the container was created, before it had a task.

pub mod by_hand;
pub mod cgroup_namespace;
pub mod cgroup_tree;
pub mod containerd;
pub mod identity;
pub mod nri;
pub mod process;
pub mod runtime_spec;

use std::path::PathBuf;

use lattice_policy::ImageDigest;

/// A container that has a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Identifier in its runtime.
    pub container_id: String,
    /// Namespace that its policies are in.
    pub namespace: String,
    /// Name of its pod; empty outside Kubernetes.
    pub pod: String,
    /// Name of its workload.
    pub workload: String,
    /// Name of the container in its pod or service.
    pub name: String,
    /// Service account of its pod; empty where it is not known.
    pub service_account: String,
    /// Image as its runtime names it; empty where there is none.
    pub image_reference: String,
    /// What the image store says that the reference stands for, if the container's root stands on that image's layers. It may
    /// be the digest of an index.
    pub image_digest: Option<ImageDigest>,
    /// Folder of its cgroup, below the cgroup2 mount.
    pub cgroup_path: PathBuf,
    /// Inode of that folder, which is the kernel's identifier of the cgroup.
    pub cgroup_id: u64,
    /// The cgroup of its pod, the one above; `None` outside pods.
    pub pod_cgroup_id: Option<u64>,
    /// Device of the container's root file system as the kernel encodes it (`major << 20 | minor`); 0 while it is not known.
    pub root_device: u32,
    /// Its first process, once there is one.
    pub pid: Option<u32>,
    /// Whether its first program has started: what starts next has entered from outside, or descends from what runs.
    pub is_running: bool,
    /// Whether a runtime gives it a root file system of its own.
    pub has_own_root: bool,
}

/// Where containers are told to. Called in the order in which things happened, never at the same time for one watcher.
pub trait Sink: Send + Sync {
    /// The container's cgroup exists. Called again with the same `cgroup_id` when more is known.
    ///
    /// # Errors
    /// When the container could not be taken into account; the call is repeated.
    fn started(&self, container: ContainerInfo) -> Result<(), String>;

    /// Nothing runs in that cgroup any more.
    fn stopped(&self, cgroup_id: u64);

    /// A container's bundle names these programs, by their paths on the host, as hooks that the runtime starts in the container's
    /// cgroup. Told before the container's start is.
    fn has_hooks(&self, _programs: &[PathBuf]) {}

    /// A container's first program may start, or have started, before [`Sink::started`] was done with it. Called once a start.
    fn started_late(&self, _container_id: &str, _cause: LateCause) {}
}

/// Why a container was not told in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateCause {
    /// The runtime does not wait so long.
    Timeout,
    /// What it is could not be found out, or not be taken into account.
    Unresolved,
}

impl LateCause {
    /// The word in events.
    pub fn text(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unresolved => "unresolved",
        }
    }
}
