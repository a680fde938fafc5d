//! Tier 2: which files of a container are which, by (super block, inode).
//!
//! The floor cannot read a file. So the agent takes the digest of every listed file when a container or a policy comes, before the
//! container's first program starts, and tells the kernel under which inodes it is to be met: the overlay's, and for the ELF
//! interpreter that of the layer below, which is what an overlay maps.

pub mod mounts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use lattice_common::abi::{DigestWords, InodeKey, KnownInode, digest_words, inode_flag};
use lattice_policy::{Entry, ExecPolicy};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode as FileMode,
};
use sha2::{Digest as _, Sha256};

use self::mounts::{Mount, Mounts};
use crate::{containers::ContainerInfo, enforcement::tables::TableError, kernel::maps::InodeTable};

/// Largest file whose digest is taken when a container starts.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What makes a file the same as before.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified_nanos: i128,
    changed_nanos: i128,
}

/// What the kernel was told.
pub struct Inodes {
    table: InodeTable,
    told: BTreeMap<u64, BTreeSet<(u32, u64)>>,
    /// Digests by file: images are shared, and a layer's file is hashed once.
    digests: BTreeMap<Stamp, DigestWords>,
}

/// The value that stands for a path entry in a set: a digest of the path, which no file's content has.
pub fn path_digest(path: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"lattice path entry\0");
    hasher.update(path);
    hasher.finalize().into()
}

impl Inodes {
    /// Nothing told yet; what an earlier agent told stays until its containers are told again.
    pub fn new(table: InodeTable) -> Self {
        Self {
            table,
            told: BTreeMap::new(),
            digests: BTreeMap::new(),
        }
    }

    /// Tells the kernel where the policy's files lie in this container. Returns what could not be found out, a sentence each: such a
    /// file is then unresolved, and has the meaning that the policy chose for that.
    pub fn container(&mut self, container: &ContainerInfo, policy: Option<&ExecPolicy>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut keys = BTreeSet::new();
        match Root::of(container) {
            Ok(root) => {
                for entry in policy.iter().flat_map(|policy| &policy.entries) {
                    if let Err(problem) = self.entry(&root, entry, &mut keys) {
                        problems.push(problem);
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
        let before = self.told.insert(container.cgroup_id, keys).unwrap_or_default();
        self.forget(before);
        problems
    }

    /// What the kernel was told of a file: its digest (a path entry's value), and whether it is a path entry.
    pub fn known(&self, device: u32, inode: u64) -> Option<(DigestWords, bool)> {
        let known = self.table.get(InodeKey {
            inode,
            device,
            reserved: 0,
        })?;
        Some((known.digest, known.flags & inode_flag::PATH != 0))
    }

    /// A container is gone.
    pub fn remove(&mut self, cgroup_id: u64) {
        let before = self.told.remove(&cgroup_id).unwrap_or_default();
        self.forget(before);
    }

    fn forget(&mut self, keys: BTreeSet<(u32, u64)>) {
        for (device, inode) in keys {
            let is_used = self.told.values().any(|told| told.contains(&(device, inode)));
            if !is_used
                && let Err(error) = self.table.remove(InodeKey {
                    inode,
                    device,
                    reserved: 0,
                })
            {
                tracing::warn!(%error, "a file of a container that is gone could not be removed from the maps");
            }
        }
    }

    fn entry(&mut self, root: &Root, entry: &Entry, keys: &mut BTreeSet<(u32, u64)>) -> Result<(), String> {
        let path = entry.real_path.as_ref().unwrap_or(&entry.path);
        let said = |error: io::Error| format!("{path}: {error}");
        let file = match open_in(&root.path, path.as_bytes()) {
            Ok(file) => file,
            // An entry whose file this container does not have allows nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(said(error)),
        };
        let metadata = file.metadata().map_err(said)?;
        if !metadata.is_file() {
            return Err(format!("{path} is no regular file"));
        }
        let device = root
            .device_of(path.as_bytes())
            .ok_or_else(|| format!("{path}: its mount is not known"))?;
        let in_layers = root.in_layers(path.as_bytes());
        let (digest, flags) = match (entry.sha256, &in_layers) {
            (None, _) => (digest_words(&path_digest(entry.path.as_bytes())), inode_flag::PATH),
            // The layer's file, not what the overlay shows: that may have been written to since, and the layer's inode is shared with
            // every other container of the image.
            (Some(_), Some(layer)) => (self.digest(&layer.file).map_err(said)?, 0),
            (Some(_), None) => (self.digest(&file).map_err(said)?, 0),
        };
        self.tell(
            device,
            metadata.ino(),
            KnownInode {
                digest,
                flags,
                reserved: 0,
            },
            keys,
        )
        .map_err(|error| format!("{path}: {error}"))?;
        if flags == 0
            && let Some(layer) = in_layers
        {
            let known = KnownInode {
                digest,
                flags: inode_flag::LAYER,
                reserved: 0,
            };
            self.tell(layer.device, layer.inode, known, keys)
                .map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        device: u32,
        inode: u64,
        known: KnownInode,
        keys: &mut BTreeSet<(u32, u64)>,
    ) -> Result<(), TableError> {
        self.table.insert(
            InodeKey {
                inode,
                device,
                reserved: 0,
            },
            known,
        )?;
        keys.insert((device, inode));
        Ok(())
    }

    fn digest(&mut self, mut file: &File) -> io::Result<DigestWords> {
        let stamp = stamp(file)?;
        if let Some(digest) = self.digests.get(&stamp) {
            return Ok(*digest);
        }
        if stamp.size_bytes > MAX_FILE_BYTES {
            return Err(io::Error::other(format!(
                "{} bytes are more than the {MAX_FILE_BYTES} that are hashed",
                stamp.size_bytes
            )));
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let digest = digest_words(&hasher.finalize().into());
        // A file that changed while it was read has no digest.
        if self::stamp(file)? != stamp {
            return Err(io::Error::other("it changed while it was read"));
        }
        if self.digests.len() >= MAX_DIGESTS {
            self.digests.clear();
        }
        self.digests.insert(stamp, digest);
        Ok(digest)
    }
}

/// Digests that are remembered; past that all are taken anew.
const MAX_DIGESTS: usize = 65_536;

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size_bytes: metadata.size(),
        modified_nanos: nanos(metadata.mtime(), metadata.mtime_nsec()),
        changed_nanos: nanos(metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// A file of an overlay's read-only layers, which nobody in a container can change.
struct LayerFile {
    device: u32,
    inode: u64,
    file: File,
}

/// A container's root as the agent sees it.
struct Root {
    path: PathBuf,
    mount: Option<Mount>,
    mounts: Mounts,
}

impl Root {
    fn of(container: &ContainerInfo) -> Result<Self, String> {
        let mounts = Mounts::of("self").map_err(|error| format!("the agent's mounts cannot be read: {error}"))?;
        if !container.has_own_root {
            return Ok(Self {
                path: "/".into(),
                mount: None,
                mounts,
            });
        }
        let mount = mounts
            .root_of_container(&container.container_id)
            .or_else(|| {
                mounts
                    .of_device(container.root_device)
                    .filter(|_| container.root_device != 0)
            })
            .cloned()
            .ok_or_else(|| {
                format!(
                    "the root file system of container {} is not mounted where the agent sees it",
                    container.container_id
                )
            })?;
        Ok(Self {
            path: mount.mount_point.clone(),
            mount: Some(mount),
            mounts,
        })
    }

    fn device_of(&self, path: &[u8]) -> Option<u32> {
        match &self.mount {
            Some(mount) => Some(mount.device),
            None => self
                .mounts
                .of_path(Path::new(std::ffi::OsStr::from_bytes(path)))
                .map(|mount| mount.device),
        }
    }

    /// The file of the topmost layer that has the path, which is what the overlay shows.
    fn in_layers(&self, path: &[u8]) -> Option<LayerFile> {
        let layers = &self.mount.as_ref()?.lower_folders;
        let (layer, file) = layers
            .iter()
            .find_map(|layer| Some((layer, open_in(layer, path).ok()?)))?;
        let device = self.mounts.of_path(layer)?.device;
        Some(LayerFile {
            device,
            inode: file.metadata().ok()?.ino(),
            file,
        })
    }
}

/// Opens a path as if `root` were the root directory: links in the container never lead out of it.
fn open_in(root: &Path, path: &[u8]) -> io::Result<File> {
    let folder = File::open(root)?;
    let relative: &[u8] = path.strip_prefix(b"/").unwrap_or(path);
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(FileMode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let descriptor = openat2(&folder, std::ffi::OsStr::from_bytes(relative), how)?;
    Ok(File::from(descriptor))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_a_container_stay_in_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("inside"), "x").unwrap();
        symlink("/inside", root.path().join("absolute")).unwrap();
        symlink("../../../../../../etc/hostname", root.path().join("out")).unwrap();
        assert_eq!(open_in(root.path(), b"/absolute").unwrap().metadata().unwrap().len(), 1);
        assert_eq!(
            open_in(root.path(), b"/out").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_path_is_no_content() {
        assert_ne!(path_digest(b"/a"), path_digest(b"/b"));
        let content: [u8; 32] = Sha256::digest(b"/a").into();
        assert_ne!(path_digest(b"/a"), content);
    }
}
