//! What /proc tells of a container's first process.

use std::{fs, path::PathBuf};

use super::cgroup_tree::{CgroupError, CgroupTree, Mount};

/// The first process of a container, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstProcess {
    /// Its process identifier on the host.
    pub pid: u32,
    /// Its cgroup; `None` where that is also the cgroup of the process that started it, and so not the container's own.
    pub cgroup_folder: Option<PathBuf>,
    /// Device of its root file system, `major << 20 | minor`; 0 where it is not known.
    pub root_device: u32,
}

impl FirstProcess {
    /// Looks at a process.
    ///
    /// # Errors
    /// When it is gone, or its cgroup cannot be seen from here.
    pub fn look(tree: &CgroupTree, pid: u32) -> Result<Self, CgroupError> {
        let folder = tree.of_process(pid)?;
        let parent_folder = parent_of(pid).and_then(|parent| tree.of_process(parent).ok());
        let own = folder != tree.mount() && Some(&folder) != parent_folder.as_ref();
        Ok(Self {
            pid,
            cgroup_folder: own.then_some(folder),
            root_device: root_device(pid).unwrap_or(0),
        })
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
        .filter(|parent| *parent != 0)
}

/// `stat` is not asked: some file systems show another device there than their superblock's.
fn root_device(pid: u32) -> Option<u32> {
    root_device_in(&fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?)
}

fn root_device_in(mounts: &str) -> Option<u32> {
    // Of several mounts on one folder the last is the one that is seen.
    let root = mounts
        .lines()
        .filter_map(Mount::parse)
        .rfind(|mount| mount.point == "/")?;
    let (major, minor) = root.device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_device_is_that_of_the_mount_in_front() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:52 / / rw - overlay overlay rw\n3 2 0:5 / /proc rw - proc p rw\n";
        assert_eq!(root_device_in(mounts), Some(52));
        assert_eq!(
            root_device_in("1 0 259:2 / / rw - ext4 /dev/n rw\n"),
            Some(259 << 20 | 2)
        );
        assert_eq!(root_device_in("1 0 4096:1 / / rw - ext4 /dev/n rw\n"), None);
        assert_eq!(root_device_in(""), None);
    }

    #[test]
    fn a_cgroup_shared_with_the_parent_is_not_the_childs_own() {
        let tree = match CgroupTree::find() {
            Ok(tree) => tree,
            Err(error) => return println!("skipped: a_cgroup_shared_with_the_parent_is_not_the_childs_own: {error}"),
        };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = FirstProcess::look(&tree, child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let seen = seen.unwrap();
        assert_eq!(seen.cgroup_folder, None);
        assert_ne!(seen.root_device, 0);
    }
}
