//! Which file systems may be watched.
//!
//! A mark on a file system that the agent, the container runtime or the node's own programs start from freezes the node as soon as the
//! front waits for one of them. So: overlays only, and none that the node or the agent itself lives on.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open as open_file},
    sys::{
        stat::Mode,
        statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs},
    },
};

use super::{
    FrontError,
    place::{Placer, by_stat, root_devices},
};

/// Devices that are never watched, each with who lives there.
#[derive(Debug)]
pub(super) struct Protected(Vec<(u32, String)>);

impl Protected {
    /// The host's root as process 1 has it, the agent's own, and its program's.
    pub(super) fn find(placer: &Placer) -> Result<Self, FrontError> {
        let mut devices = Vec::new();
        for (path, owner) in [("/", "the agent's root"), ("/proc/self/exe", "the agent's program")] {
            let failed = |source| FrontError::Protected {
                path: PathBuf::from(path),
                source,
            };
            let file = open_file(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
                .map_err(failed)?;
            // Of a file, stat may show a layer's device instead of the overlay's.
            let (device, _) = placer.by_kernel(file.as_fd()).map_err(failed)?;
            devices.push((device, owner.to_owned()));
        }
        // Not by /proc/1/root, which is not to be opened by everybody who may watch.
        let failed = |source| FrontError::Protected {
            path: PathBuf::from("/proc/1/mountinfo"),
            source,
        };
        let host_roots = root_devices(&fs::read("/proc/1/mountinfo").map_err(failed)?);
        if host_roots.is_empty() {
            return Err(failed(io::Error::other("it names no root")));
        }
        devices.extend(host_roots.into_iter().map(|device| (device, "process 1".to_owned())));
        Ok(Self(devices))
    }

    #[cfg(test)]
    pub(super) fn of(device: u32, owner: &str) -> Self {
        Self(vec![(device, owner.to_owned())])
    }

    fn owner(&self, device: u32) -> Option<&str> {
        self.0
            .iter()
            .find(|(protected, _)| *protected == device)
            .map(|(_, owner)| owner.as_str())
    }
}

/// A root that may be watched. Held only while the mark is made: it keeps the mount busy.
#[derive(Debug)]
pub(super) struct Root {
    folder: OwnedFd,
    pub(super) device: u32,
}

impl Root {
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Opens a root and checks it; the mark is made by the descriptor, so on what was checked.
pub(super) fn open(root: &Path, protected: &Protected) -> Result<Root, FrontError> {
    let failed = |source: nix::Error| FrontError::Open {
        root: root.to_path_buf(),
        source: source.into(),
    };
    // O_PATH: nothing is opened on the file system itself.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open_file(root, flags, Mode::empty()).map_err(failed)?;
    let file_system = fstatfs(&folder).map_err(failed)?.filesystem_type();
    if file_system != OVERLAYFS_SUPER_MAGIC {
        return Err(FrontError::NotAnOverlay {
            root: root.to_path_buf(),
            file_system: file_system.0,
        });
    }
    // Of a folder, an overlay shows its own device.
    let (device, _) = by_stat(folder.as_fd()).map_err(|source| FrontError::Open {
        root: root.to_path_buf(),
        source,
    })?;
    if let Some(owner) = protected.owner(device) {
        return Err(FrontError::NotTheContainersOwn {
            root: root.to_path_buf(),
            major: device >> 20,
            minor: device & 0xf_ffff,
            owner: owner.to_owned(),
        });
    }
    Ok(Root { folder, device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_and_the_agents_file_systems_are_refused() {
        let protected = match Placer::new()
            .map_err(FrontError::Unsupported)
            .and_then(|placer| Protected::find(&placer))
        {
            Ok(protected) => protected,
            Err(error) => {
                return println!("skipped: the_hosts_and_the_agents_file_systems_are_refused: {error}");
            }
        };
        for path in ["/", "/proc/1/root", "/proc", "/dev/shm"] {
            let Ok(root) = fs::canonicalize(path) else { continue };
            let error = open(&root, &protected).expect_err(path);
            assert!(
                matches!(
                    error,
                    FrontError::NotAnOverlay { .. } | FrontError::NotTheContainersOwn { .. }
                ),
                "{path}: {error}"
            );
        }
        let error = open(Path::new("/no/such/root"), &protected).unwrap_err();
        assert!(matches!(error, FrontError::Open { .. }), "{error}");
    }
}
