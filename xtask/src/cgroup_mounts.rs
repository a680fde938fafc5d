//! Where this machine's control group hierarchies are: one of version 2, and on hybrid hosts those of version 1 beside.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};

pub(crate) struct CgroupMounts {
    /// The cgroup2 hierarchy.
    pub(crate) unified: PathBuf,
    /// Version 1 hierarchies, in which runc makes folders too.
    pub(crate) legacy: Vec<PathBuf>,
}

impl CgroupMounts {
    /// # Errors
    ///
    /// Where no cgroup2 hierarchy is mounted.
    pub(crate) fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        Self::among(&mounts).ok_or_else(|| {
            anyhow!("no cgroup2 hierarchy is mounted: Lattice needs one; mount it with `mount -t cgroup2 none DIR`")
        })
    }

    fn among(mounts: &str) -> Option<Self> {
        let of_type = |kind: &str| -> Vec<PathBuf> {
            mounts
                .lines()
                .filter_map(|line| {
                    let mut words = line.split(' ').skip(1);
                    let (path, found) = (words.next()?, words.next()?);
                    (found == kind).then(|| PathBuf::from(path))
                })
                .collect()
        };
        Some(Self {
            unified: of_type("cgroup2").into_iter().next()?,
            legacy: of_type("cgroup"),
        })
    }
}

/// Removes the folders of a control group, the deepest first; says whether all are gone.
pub(crate) fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_both_versions_and_a_pure_one_only_the_second() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = CgroupMounts::among(hybrid).unwrap();
        assert_eq!(found.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.legacy, [Path::new("/sys/fs/cgroup/cpu")]);
        let pure = CgroupMounts::among("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap();
        assert_eq!(
            (pure.unified.as_path(), pure.legacy.len()),
            (Path::new("/sys/fs/cgroup"), 0)
        );
        assert!(CgroupMounts::among("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n").is_none());
    }
}
