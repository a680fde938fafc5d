//! The node's cgroup2 hierarchy: where it is mounted, and which folder is whose.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

/// Why a cgroup could not be found.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of /proc could not be read.
    #[error("{path} could not be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Pure cgroup v1.
    #[error(
        "no cgroup2 file system is mounted, and with cgroup v1 alone the kernel cannot tell containers apart: boot with \
         systemd.unified_cgroup_hierarchy=1, or mount one beside v1: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none \
         /sys/fs/cgroup/unified"
    )]
    NoUnifiedHierarchy,
    /// Only a part of the hierarchy is visible.
    #[error(
        "the cgroup2 mount at {} shows only {root:?} of the hierarchy: start the agent in the host's cgroup namespace and \
         mount the host's /sys/fs/cgroup",
        mount.display()
    )]
    PartOfHierarchy {
        /// The mount point.
        mount: PathBuf,
        /// The folder that it shows.
        root: String,
    },
    /// /proc/PID/cgroup without a `0::` line.
    #[error("process {pid} has no cgroup2 line in /proc/{pid}/cgroup")]
    NoUnifiedLine {
        /// The process.
        pid: u32,
    },
    /// A cgroup outside the agent's cgroup namespace.
    #[error(
        "the cgroup of process {pid} is {path:?}, outside the agent's cgroup namespace: start the agent in the host's"
    )]
    OutsideNamespace {
        /// The process.
        pid: u32,
        /// The path as the kernel showed it.
        path: String,
    },
}

/// The mounted cgroup2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupTree {
    mount: PathBuf,
}

impl CgroupTree {
    /// Finds the hierarchy of this node: `/sys/fs/cgroup` usually, `/sys/fs/cgroup/unified` on hybrid hosts.
    ///
    /// # Errors
    /// When /proc/self/mountinfo cannot be read, when there is no cgroup2 mount (pure cgroup v1), or only one that shows a part.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).map_err(|source| CgroupError::Read {
            path: path.into(),
            source,
        })?;
        Self::in_mounts(&mounts)
    }

    /// The hierarchy that is mounted at `mount`.
    pub fn at(mount: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into() }
    }

    fn in_mounts(mounts: &str) -> Result<Self, CgroupError> {
        let mut part = None;
        for mount in mounts
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| mount.kind == "cgroup2")
        {
            if mount.root == "/" {
                return Ok(Self {
                    mount: unescape(mount.point),
                });
            }
            part = Some(CgroupError::PartOfHierarchy {
                mount: unescape(mount.point),
                root: mount.root.into(),
            });
        }
        Err(part.unwrap_or(CgroupError::NoUnifiedHierarchy))
    }

    /// Where the hierarchy is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The folder that a path of the hierarchy (`/a/b`, as the kernel and the OCI specification write it) stands for.
    pub fn folder(&self, path: &str) -> Option<PathBuf> {
        let relative = Path::new(path.strip_prefix('/')?);
        let plain = relative
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        plain.then(|| self.mount.join(relative))
    }

    /// The folder of the cgroup that a process is in.
    ///
    /// # Errors
    /// When the process is gone, is in no cgroup2 cgroup, or in one that this agent cannot see.
    pub fn of_process(&self, pid: u32) -> Result<PathBuf, CgroupError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        let cgroup = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .ok_or(CgroupError::NoUnifiedLine { pid })?;
        self.folder(cgroup).ok_or_else(|| CgroupError::OutsideNamespace {
            pid,
            path: cgroup.into(),
        })
    }
}

/// The kernel's identifier of the cgroup whose folder this is, or `None` if there is no such folder.
pub fn cgroup_id(folder: &Path) -> Option<u64> {
    fs::symlink_metadata(folder)
        .ok()
        .filter(fs::Metadata::is_dir)
        .map(|metadata| metadata.ino())
}

/// Whether any process is in the cgroup or below it.
pub fn is_populated(folder: &Path) -> bool {
    match fs::read_to_string(folder.join("cgroup.events")) {
        Ok(events) => !events.lines().any(|line| line == "populated 0"),
        Err(_) => false,
    }
}

/// A line of /proc/PID/mountinfo (proc(5)).
pub(super) struct Mount<'line> {
    /// `major:minor` of the file system.
    pub(super) device: &'line str,
    /// What of the file system is mounted.
    pub(super) root: &'line str,
    /// Where, with octal escapes.
    pub(super) point: &'line str,
    /// Name of the file system's type.
    pub(super) kind: &'line str,
}

impl<'line> Mount<'line> {
    pub(super) fn parse(line: &'line str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        Some(Self {
            device: fields.next()?,
            root: fields.next()?,
            point: fields.next()?,
            kind: file_system.split(' ').next()?,
        })
    }
}

/// Undoes the kernel's escapes of blanks and backslashes (`\040`).
fn unescape(point: &str) -> PathBuf {
    let bytes = point.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'\\')
            .then(|| point.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "33 32 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n";

    #[track_caller]
    fn check(mounts: &str, expected: &str) {
        let found = match CgroupTree::in_mounts(mounts) {
            Ok(tree) => tree.mount().display().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(found.starts_with(expected), "{found}");
    }

    #[test]
    fn finds_the_unified_hierarchy() {
        check(
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            "/sys/fs/cgroup",
        );
        check(
            &format!("{V1}42 32 0:37 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n"),
            "/sys/fs/cgroup/unified",
        );
        check("42 32 0:37 / /a\\040b\\134c rw - cgroup2 none rw\n", "/a b\\c");
        check("42 32 0:37 / /\\9é rw - cgroup2 none rw\n", "/\\9é");
    }

    #[test]
    fn says_why_there_is_none() {
        check(V1, "no cgroup2 file system is mounted");
        check("", "no cgroup2 file system is mounted");
        check("not a mount table", "no cgroup2 file system is mounted");
        check(
            "42 32 0:37 /../.. /host rw - cgroup2 none rw\n",
            "the cgroup2 mount at /host shows only \"/../..\"",
        );
    }

    #[test]
    fn a_path_never_leaves_the_hierarchy() {
        let tree = CgroupTree::at("/cg");
        assert_eq!(tree.folder("/a/b"), Some("/cg/a/b".into()));
        assert_eq!(tree.folder("/../a"), None);
        assert_eq!(tree.folder("/a/../../b"), None);
        assert_eq!(tree.folder("a"), None);
    }

    #[test]
    fn knows_its_own_cgroup() {
        let tree = match CgroupTree::find() {
            Ok(tree) => tree,
            Err(CgroupError::NoUnifiedHierarchy) => {
                println!("skipped: knows_its_own_cgroup: this host mounts no cgroup2");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let folder = tree.of_process(std::process::id()).unwrap();
        assert!(cgroup_id(&folder).is_some(), "{}", folder.display());
        assert!(folder == tree.mount() || is_populated(&folder));
    }
}
