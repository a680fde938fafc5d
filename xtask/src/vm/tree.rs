//! The file tree of a guest, put together on the host and written out as one archive.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    cpio::{Attributes, Writer},
    libraries::LibraryResolver,
};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// As Debian has it: these are links into /usr, and a file named through them lands there.
const MERGED_INTO_USR: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

enum Content {
    None,
    Bytes(Vec<u8>),
    HostFile(PathBuf),
}

struct Node {
    attributes: Attributes,
    content: Content,
}

/// Files by their path relative to the root, parents before children.
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    libraries: LibraryResolver,
}

impl Tree {
    /// A root with nothing but the links into /usr.
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            libraries: LibraryResolver::for_this_machine(),
        };
        for name in MERGED_INTO_USR {
            tree.add_directory(&format!("/usr/{name}"), 0o755);
            tree.add_symlink(Path::new("/").join(name), format!("usr/{name}"));
        }
        tree
    }

    pub(crate) fn add_directory(&mut self, path: &str, permissions: u32) {
        let attributes = Attributes {
            mode: DIRECTORY | permissions,
            ..Attributes::default()
        };
        self.insert(Path::new(path), attributes, Content::None);
    }

    pub(crate) fn add_file(&mut self, path: &str, permissions: u32, content: impl Into<Vec<u8>>) {
        let attributes = Attributes {
            mode: REGULAR | permissions,
            ..Attributes::default()
        };
        self.insert(Path::new(path), attributes, Content::Bytes(content.into()));
    }

    pub(crate) fn add_symlink(&mut self, path: impl AsRef<Path>, target: impl Into<OsString>) {
        let attributes = Attributes {
            mode: SYMLINK | 0o777,
            ..Attributes::default()
        };
        let target = target.into().as_bytes().to_vec();
        self.insert(path.as_ref(), attributes, Content::Bytes(target));
    }

    pub(crate) fn add_character_device(&mut self, path: &str, device: (u32, u32)) {
        let attributes = Attributes {
            mode: CHARACTER_DEVICE | 0o600,
            device,
            ..Attributes::default()
        };
        self.insert(Path::new(path), attributes, Content::None);
    }

    /// Copies a file or a folder with all below it: modes, owners, symlinks and device files are kept; extended
    /// attributes are not (the archive's form has none). A file that is named itself brings the libraries it needs;
    /// those in a folder do not, since a container's root has its own.
    ///
    /// # Errors
    ///
    /// Where the host's file cannot be read, or needs a library that this machine lacks.
    pub(crate) fn copy(&mut self, host: &Path, guest: &Path) -> Result<()> {
        // The file that was named is followed, so that /usr/bin/awk copies a program and not a dangling link.
        let metadata = fs::metadata(host).with_context(|| format!("cannot copy {} into the VM", host.display()))?;
        if metadata.is_dir() {
            return self.copy_folder(host, guest);
        }
        self.copy_one(host, guest, &metadata)?;
        for library in self.libraries.resolve(host)? {
            let metadata = fs::metadata(&library).with_context(|| format!("cannot read {}", library.display()))?;
            self.copy_one(&library, &library, &metadata)?;
        }
        Ok(())
    }

    fn copy_folder(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let metadata = fs::metadata(host).with_context(|| format!("cannot read {}", host.display()))?;
        let mut pending = vec![(host.to_path_buf(), guest.to_path_buf(), metadata)];
        while let Some((host, guest, metadata)) = pending.pop() {
            self.copy_one(&host, &guest, &metadata)?;
            if !metadata.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&host).with_context(|| format!("cannot list {}", host.display()))? {
                let entry = entry.with_context(|| format!("cannot list {}", host.display()))?;
                let path = entry.path();
                let metadata =
                    fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
                pending.push((path, guest.join(entry.file_name()), metadata));
            }
        }
        Ok(())
    }

    fn copy_one(&mut self, host: &Path, guest: &Path, metadata: &fs::Metadata) -> Result<()> {
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            let target = fs::read_link(host).with_context(|| format!("cannot read {}", host.display()))?;
            Content::Bytes(target.as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            Content::HostFile(host.to_path_buf())
        } else if kind.is_socket() {
            // A socket is an end of a running program; its name without the program is of no use.
            return Ok(());
        } else {
            Content::None
        };
        let attributes = Attributes {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            device: split_device(metadata.rdev()),
        };
        self.insert(guest, attributes, content);
        Ok(())
    }

    fn insert(&mut self, path: &Path, attributes: Attributes, content: Content) {
        let path = normalize(path);
        if path.as_os_str().is_empty() {
            return;
        }
        let mut parent = path.as_path();
        while let Some(above) = parent.parent().filter(|above| !above.as_os_str().is_empty()) {
            self.nodes.entry(above.to_path_buf()).or_insert(Node {
                attributes: Attributes {
                    mode: DIRECTORY | 0o755,
                    ..Attributes::default()
                },
                content: Content::None,
            });
            parent = above;
        }
        self.nodes.insert(path, Node { attributes, content });
    }

    /// Sum of all contents in bytes, as far as files can be read.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| match &node.content {
                Content::None => 0,
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::HostFile(path) => path.metadata().map_or(0, |metadata| metadata.len()),
            })
            .sum()
    }

    /// Writes the tree as an archive that the kernel unpacks.
    ///
    /// # Errors
    ///
    /// Where a host file cannot be read any more or the output cannot be written.
    pub(crate) fn write(&self, output: impl Write) -> Result<()> {
        let mut writer = Writer::new(output);
        for (path, node) in &self.nodes {
            if path
                .ancestors()
                .skip(1)
                .any(|above| self.nodes.get(above).is_some_and(|node| !node.is_directory()))
            {
                bail!("/{} lies below what is not a folder in the guest", path.display());
            }
            let name = path.as_os_str().as_bytes();
            let written = match &node.content {
                Content::None => writer.append(name, node.attributes, 0, io::empty()),
                Content::Bytes(bytes) => writer.append(name, node.attributes, bytes.len() as u64, bytes.as_slice()),
                Content::HostFile(host) => File::open(host)
                    .and_then(|file| Ok((file.metadata()?.len(), file)))
                    .and_then(|(size, file)| writer.append(name, node.attributes, size, file)),
            };
            written.with_context(|| format!("cannot put /{} into the guest's root", path.display()))?;
        }
        writer.finish()?;
        Ok(())
    }
}

impl Node {
    fn is_directory(&self) -> bool {
        self.attributes.mode & 0o170_000 == DIRECTORY
    }
}

/// Relative to the root, without `.` and `..`, and through the links into /usr.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    let mut components = normal.components();
    match components.next() {
        Some(Component::Normal(first))
            if MERGED_INTO_USR.iter().any(|name| first == *name) && components.clone().next().is_some() =>
        {
            Path::new("usr").join(&normal)
        }
        _ => normal,
    }
}

/// glibc's encoding of a device number in 64 bits (gnu_dev_major, gnu_dev_minor).
fn split_device(device: u64) -> (u32, u32) {
    let major = ((device >> 32) & 0xffff_f000) | ((device >> 8) & 0xfff);
    let minor = ((device >> 12) & 0xffff_ff00) | (device & 0xff);
    // Both are masked to 32 bits above.
    (major as u32, minor as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_normalized(path: &str, expected: &str) {
        assert_eq!(normalize(Path::new(path)), Path::new(expected), "{path}");
    }

    #[test]
    fn guest_paths_land_where_the_links_lead() {
        check_normalized("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6");
        check_normalized("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2");
        check_normalized("/usr/bin/runc", "usr/bin/runc");
        check_normalized("/lib", "lib");
        check_normalized("/library/x", "library/x");
        check_normalized("opt/../srv/./data", "srv/data");
        check_normalized("/../../etc/passwd", "etc/passwd");
    }

    #[test]
    fn device_numbers_are_split_as_stat_shows_them() {
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!(split_device(null.rdev()), (1, 3));
    }

    #[test]
    fn a_copied_folder_keeps_links_and_modes_and_parents_come_first() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("tool"), b"x").unwrap();
        fs::set_permissions(inner.join("tool"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("tool", inner.join("link")).unwrap();
        let mut tree = Tree::new();
        tree.copy(folder.path(), Path::new("/srv/root")).unwrap();
        let node = |path: &str| {
            tree.nodes
                .get(Path::new(path))
                .unwrap_or_else(|| panic!("{path} is missing"))
        };
        assert_eq!(node("srv/root/a/b/tool").attributes.mode & 0o7777, 0o4750);
        assert!(matches!(&node("srv/root/a/b/link").content, Content::Bytes(target) if target == b"tool"));
        let order: Vec<_> = tree.nodes.keys().filter(|path| path.starts_with("srv")).collect();
        assert_eq!(order[0], Path::new("srv"));
        tree.write(Vec::new()).unwrap();
    }

    #[test]
    fn a_file_below_a_file_is_refused() {
        let mut tree = Tree::new();
        tree.add_file("/etc", 0o644, "not a folder");
        tree.add_file("/etc/hosts", 0o644, "");
        let message = format!("{:#}", tree.write(Vec::new()).unwrap_err());
        assert!(message.contains("/etc/hosts"), "{message}");
    }
}
