//! What is in a layer, and the layer's archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Links of a Debian with merged /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// No real chain of links is longer (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// A path of the image, without its first slash, and what is there.
pub(crate) type Files = BTreeMap<PathBuf, Entry>;

#[derive(Debug)]
pub(crate) enum Entry {
    File { content: Vec<u8>, mode: u32 },
    Link(PathBuf),
    Folder { mode: u32 },
}

/// All that is in a folder, as if the folder were the root.
pub(crate) fn files_below(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", next.display()))?.path();
            let place = Path::new("/").join(path.strip_prefix(folder).unwrap_or(&path));
            if let Ok(target) = fs::read_link(&path) {
                files.insert(without_root(&place), Entry::Link(target));
            } else if path.is_dir() {
                pending.push(path);
            } else {
                add_as(&mut files, &place.to_string_lossy(), &path)?;
            }
        }
    }
    Ok(files)
}

/// Links of this machine's root that a file's place below /usr makes necessary.
pub(crate) fn merged_folders() -> Files {
    MERGED
        .iter()
        .filter_map(|name| {
            let target = fs::read_link(Path::new("/").join(name)).ok()?;
            Some((PathBuf::from(name), Entry::Link(target)))
        })
        .collect()
}

pub(crate) fn add_all(files: &mut Files, paths: &BTreeSet<PathBuf>) -> Result<()> {
    paths.iter().try_for_each(|path| add(files, path))
}

/// Adds what is at an absolute path of this machine, under the path that it has once /usr is merged; links with their
/// targets.
pub(crate) fn add(files: &mut Files, path: &Path) -> Result<()> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} is no file", path.display());
        };
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot follow {}", folder.display()))?;
        let real = folder.join(name);
        let Ok(target) = fs::read_link(&real) else {
            return add_as(files, &real.to_string_lossy(), &real);
        };
        path = folder.join(&target);
        files.insert(without_root(&real), Entry::Link(target));
    }
    bail!("{} is at the end of too many links", path.display())
}

pub(crate) fn add_as(files: &mut Files, place: &str, source: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let metadata = source
        .metadata()
        .with_context(|| format!("cannot read {}", source.display()))?;
    let mode = metadata.permissions().mode() & 0o755;
    files.insert(without_root(Path::new(place)), Entry::File { content, mode });
    Ok(())
}

pub(crate) fn without_root(path: &Path) -> PathBuf {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect()
}

/// A layer as a tar archive, each folder before what is in it. `seen` has the folders of the layers below.
pub(crate) fn archive(files: &Files, seen: &mut BTreeSet<PathBuf>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in files {
        let mut parents: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|path| path.components().count() > 0)
            .collect();
        parents.reverse();
        for parent in parents {
            if seen.insert(parent.to_path_buf()) && !files.contains_key(parent) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                append(&mut builder, &mut header, parent, &[])?;
            }
        }
        match entry {
            Entry::File { content, mode } => {
                let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
                append(&mut builder, &mut header, path, content)?;
            }
            Entry::Folder { mode } => {
                seen.insert(path.clone());
                let mut header = header(tar::EntryType::Directory, *mode, 0);
                append(&mut builder, &mut header, path, &[])?;
            }
            Entry::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                builder
                    .append_link(&mut header, path, target)
                    .with_context(|| format!("cannot archive {}", path.display()))?;
            }
        }
    }
    builder.into_inner().context("cannot end an archive")
}

pub(crate) fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    header: &mut tar::Header,
    path: &Path,
    content: &[u8],
) -> Result<()> {
    builder
        .append_data(header, path, content)
        .with_context(|| format!("cannot archive {}", path.display()))
}

/// Without times and owners of this machine, so that equal files make an equal digest.
pub(crate) fn header(kind: tar::EntryType, mode: u32, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_with_their_targets_and_folders_before_files() {
        let mut files = merged_folders();
        add(&mut files, Path::new("/bin/sh")).unwrap();
        let archive = archive(&files, &mut BTreeSet::new()).unwrap();
        let mut reader = tar::Archive::new(archive.as_slice());
        let mut folders = BTreeSet::from([PathBuf::new()]);
        let mut regular = BTreeSet::new();
        for entry in reader.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(
                folders.contains(path.parent().unwrap()),
                "{} comes too early",
                path.display()
            );
            if entry.header().entry_type().is_dir() {
                assert!(folders.insert(path.clone()), "{} twice", path.display());
            }
            if entry.header().entry_type().is_file() {
                regular.insert(path);
            }
        }
        let shell = without_root(&fs::canonicalize("/bin/sh").unwrap());
        assert!(
            regular.contains(&shell),
            "{} is missing from {regular:?}",
            shell.display()
        );
    }
}
