//! Where programs and maps outlive the agent: `<bpffs>/lattice/v<schema>/{maps,links}`.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use lattice_common::abi::SCHEMA_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

/// `BPF_FS_MAGIC`.
const BPF_FILE_SYSTEM: i64 = 0xcafe_4a11;

/// Why the pin directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No BPF file system, and none could be mounted.
    #[error("{path} is not on a BPF file system and mounting one failed; mount it with `mount -t bpf bpf {path}`")]
    NoBpfFileSystem {
        /// The mount point.
        path: PathBuf,
        /// What mount said.
        #[source]
        source: nix::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    move |source| PinError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

/// The folders of pins, as the kernel side knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinFolders {
    /// `s_dev` of the BPF file system in the kernel's encoding.
    pub device: u32,
    /// Inode of the folder of links.
    pub links_inode: u64,
    /// Inode of the folder of maps.
    pub maps_inode: u64,
}

/// The pin directory of this schema version.
#[derive(Debug, Clone)]
pub struct PinDirectory {
    root: PathBuf,
}

impl PinDirectory {
    /// Below a mounted BPF file system, `/sys/fs/bpf` by default. Makes nothing.
    pub fn new(bpf_file_system: &Path) -> Self {
        Self {
            root: bpf_file_system.join("lattice").join(format!("v{SCHEMA_VERSION}")),
        }
    }

    /// Makes the folders, root's alone, and mounts the BPF file system where there is none.
    ///
    /// # Errors
    /// When there is no BPF file system and none can be mounted, or a folder cannot be made.
    pub fn create(&self) -> Result<(), PinError> {
        let mount_point = self.mount_point();
        let mounted = statfs(mount_point).is_ok_and(|found| found.filesystem_type().0 == BPF_FILE_SYSTEM);
        if !mounted {
            mount(
                Some("bpf"),
                mount_point,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("mode=700"),
            )
            .map_err(|source| PinError::NoBpfFileSystem {
                path: mount_point.to_path_buf(),
                source,
            })?;
            tracing::info!(path = %mount_point.display(), "mounted a BPF file system");
        }
        for folder in [self.maps(), self.links()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(failed("create", &folder))?;
        }
        Ok(())
    }

    fn mount_point(&self) -> &Path {
        // `new` appended two components.
        self.root.parent().and_then(Path::parent).unwrap_or(&self.root)
    }

    /// The folders, once they are made.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub fn folders(&self) -> Result<PinFolders, PinError> {
        let look = |folder: PathBuf| fs::metadata(&folder).map_err(failed("look at", &folder));
        let (links, maps) = (look(self.links())?, look(self.maps())?);
        let device = links.dev();
        Ok(PinFolders {
            device: (nix::sys::stat::major(device) as u32) << 20 | nix::sys::stat::minor(device) as u32,
            links_inode: links.ino(),
            maps_inode: maps.ino(),
        })
    }

    /// Folder of the pinned maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Folder of the pinned links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Pin of one map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Pin of one program's link.
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Where a new link is pinned until the one before is gone. No dot: the BPF file system reserves names with one.
    pub fn next_link(&self, program: &str) -> PathBuf {
        self.links().join(format!("next-{program}"))
    }

    /// Removes every link, then every map, of every schema version. What was enforced no longer is.
    ///
    /// # Errors
    /// When a pin cannot be removed; those before it are gone.
    pub fn remove_all(&self) -> Result<usize, PinError> {
        let Some(lattice) = self.root.parent() else {
            return Ok(0);
        };
        let mut removed = 0;
        for version in list(lattice)? {
            // Links first: a program without its maps would be worse than none.
            for folder in [version.join("links"), version.join("maps")] {
                for pin in list(&folder)? {
                    fs::remove_file(&pin).map_err(failed("remove", &pin))?;
                    removed += 1;
                }
                remove_folder(&folder)?;
            }
            remove_folder(&version)?;
        }
        remove_folder(lattice)?;
        Ok(removed)
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(failed("list", folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list", folder)(error)),
    }
}

fn remove_folder(folder: &Path) -> Result<(), PinError> {
    match fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", folder)(error)),
    }
}
