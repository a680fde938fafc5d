//! A process that has the host's root and namespaces, by which an agent in a pod finds them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{enforcement::HostRoot, inodes::mounts::Mounts};

/// Process 1, unless the node's own programs live in namespaces that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProcess(u32);

impl Default for HostProcess {
    fn default() -> Self {
        Self(1)
    }
}

impl HostProcess {
    /// A process that was named.
    ///
    /// # Errors
    /// When it may not be looked at: then nothing that is found by it would be the host's.
    pub fn named(process: u32) -> io::Result<Self> {
        let host = Self(process);
        fs::metadata(host.link("root"))?;
        Ok(host)
    }

    /// The host's root as this process sees it; its own where process 1 may not be looked at.
    pub fn root(self) -> PathBuf {
        let root = self.link("root");
        if fs::metadata(&root).is_ok() {
            root
        } else {
            PathBuf::from("/")
        }
    }

    /// Where the kernel shows a namespace of it.
    pub fn namespace(self, name: &str) -> PathBuf {
        self.link("ns").join(name)
    }

    /// What the host's own processes have for root, as the kernel side compares it.
    ///
    /// # Errors
    /// When the host's mounts or its root directory cannot be looked at.
    pub fn host_root(self) -> io::Result<HostRoot> {
        let mounts = Mounts::of(&self.0.to_string()).or_else(|_| Mounts::of("self"))?;
        let namespace = fs::metadata(self.namespace("mnt")).or_else(|_| fs::metadata("/proc/self/ns/mnt"));
        Ok(HostRoot {
            device: mounts.of_path(Path::new("/")).map_or(0, |mount| mount.device),
            inode: fs::metadata(self.root())?.ino(),
            mount_namespace: namespace.map_or(0, |namespace| namespace.ino() as u32),
        })
    }

    fn link(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_is_no_host() {
        assert!(HostProcess::named(std::process::id()).is_ok());
        // Larger than any process id on Linux.
        assert!(HostProcess::named(u32::MAX).is_err());
        assert_eq!(HostProcess(u32::MAX).root(), Path::new("/"));
    }

    #[test]
    fn this_process_has_its_own_root() {
        let host = HostProcess::named(std::process::id()).unwrap();
        let root = host.host_root().unwrap();
        assert_eq!(root.inode, fs::metadata("/").unwrap().ino());
        let namespace = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        assert_eq!(u64::from(root.mount_namespace), namespace);
    }
}
