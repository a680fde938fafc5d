//! Builds a layer's summary from its entries, one at a time and in the archive's order.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lattice_policy::FilePath;

use crate::{
    image::DiffId,
    layer::{FileFacts, LayerNode, LayerSummary, PathKey},
    path::{self, InvalidPath},
    tree::SYMLINKS_MAX,
};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Collects the entries of one layer. The last entry of a path wins, as it does when a runtime unpacks the layer.
///
/// Paths are taken as the archive writes them. Inside a layer they go through the symbolic links that the layer itself
/// has made so far; links of lower layers are not followed, since overlayfs unpacks each layer by itself.
#[derive(Debug, Default)]
pub struct LayerBuilder {
    files: Vec<FileFacts>,
    nodes: BTreeMap<FilePath, LayerNode>,
    whiteouts: BTreeSet<FilePath>,
    opaque: BTreeSet<FilePath>,
    hiding_files: HashSet<PathKey>,
    directories: HashSet<PathKey>,
    implied_directories: HashSet<PathKey>,
    kept_bytes: usize,
    /// Archives are ordered by directory: the parents of this one are known to be implied.
    last_parent: Option<FilePath>,
}

/// How an entry's name is to be read.
enum Place {
    Root,
    Path(FilePath),
    Whiteout(FilePath),
    Opaque(FilePath),
    Ignored,
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of names and keys that the layer has made us keep so far; scripts' text not counted.
    pub fn kept_bytes(&self) -> usize {
        let keys = self.hiding_files.len() + self.directories.len() + self.implied_directories.len();
        self.kept_bytes + keys * size_of::<PathKey>()
    }

    /// A directory entry.
    ///
    /// # Errors
    /// When `name` cannot be a path in an image.
    pub fn directory(&mut self, name: &[u8]) -> Result<(), InvalidPath> {
        if let Some(path) = self.take_place(name)? {
            self.nodes.remove(&path);
            let key = PathKey::of(path.as_bytes());
            self.hiding_files.remove(&key);
            self.directories.insert(key);
        }
        Ok(())
    }

    /// A regular file that may be executed, or is the text of a script.
    ///
    /// # Errors
    /// When `name` cannot be a path in an image.
    pub fn file(&mut self, name: &[u8], facts: FileFacts) -> Result<(), InvalidPath> {
        if let Some(path) = self.take_place(name)? {
            let index = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
            self.files.push(facts);
            self.put(path, LayerNode::File(index));
        }
        Ok(())
    }

    /// A file that can never be executed: it only hides what lower layers have at its path.
    ///
    /// # Errors
    /// When `name` cannot be a path in an image.
    pub fn other(&mut self, name: &[u8]) -> Result<(), InvalidPath> {
        if let Some(path) = self.take_place(name)? {
            self.hide(&path);
        }
        Ok(())
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// When `name` cannot be a path in an image, or `target` is longer than Linux accepts or contains NUL.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), InvalidPath> {
        if target.len() > path::PATH_BYTES_MAX {
            return Err(InvalidPath::TooLong(target.len()));
        }
        if target.contains(&0) {
            return Err(InvalidPath::Nul(FilePath::from_bytes(target)));
        }
        if let Some(path) = self.take_place(name)? {
            self.kept_bytes += target.len();
            self.put(path, LayerNode::Symlink(FilePath::from_bytes(target)));
        }
        Ok(())
    }

    /// A hard link; `target` is a path from the image's root.
    ///
    /// # Errors
    /// When `name` or `target` cannot be a path in an image.
    pub fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), InvalidPath> {
        let target = self.follow_parents(&path::normalize_entry_name(target)?)?;
        // Before the link's own parents are made: they may take the target's place.
        let node = self.nodes.get(&target).cloned();
        let is_hidden = self.hiding_files.contains(&PathKey::of(target.as_bytes()));
        let Some(path) = self.take_place(name)? else {
            return Ok(());
        };
        match node {
            Some(node) => self.put(path, node),
            None if is_hidden => self.hide(&path),
            None => {
                self.kept_bytes += target.as_bytes().len();
                self.put(path, LayerNode::LowerLink(target));
            }
        }
        Ok(())
    }

    /// The summary of what was collected.
    pub fn finish(self, diff_id: DiffId) -> LayerSummary {
        let sorted = |keys: HashSet<PathKey>| {
            let mut keys: Vec<PathKey> = keys.into_iter().collect();
            keys.sort_unstable();
            keys
        };
        let implied_directories = self
            .implied_directories
            .difference(&self.directories)
            .copied()
            .collect();
        let mut summary = LayerSummary {
            diff_id,
            files: self.files,
            nodes: self.nodes,
            whiteouts: self.whiteouts,
            opaque: self.opaque,
            hiding_files: sorted(self.hiding_files),
            directories: sorted(self.directories),
            implied_directories: sorted(implied_directories),
        };
        drop_unnamed_files(&mut summary);
        summary
    }

    /// Reads the name, notes whiteouts and parents, and clears what the layer had at the path before.
    fn take_place(&mut self, name: &[u8]) -> Result<Option<FilePath>, InvalidPath> {
        let path = match self.place(name)? {
            Place::Root | Place::Ignored => return Ok(None),
            Place::Whiteout(path) => {
                self.kept_bytes += path.as_bytes().len() + 48;
                self.imply_parents(&path);
                self.whiteouts.insert(path);
                return Ok(None);
            }
            Place::Opaque(path) => {
                self.kept_bytes += path.as_bytes().len() + 48;
                self.imply_parents(&path::absolute(&path, OPAQUE_MARKER));
                self.opaque.insert(path);
                return Ok(None);
            }
            Place::Path(path) => path,
        };
        self.imply_parents(&path);
        Ok(Some(path))
    }

    fn place(&self, name: &[u8]) -> Result<Place, InvalidPath> {
        let path = path::normalize_entry_name(name)?;
        let all: Vec<&[u8]> = path::components(path.as_bytes()).collect();
        let Some((base, parents)) = all.split_last() else {
            return Ok(Place::Root);
        };
        let is_aufs = all[0].starts_with(AUFS_PREFIX) && all[0] != OPAQUE_MARKER;
        if is_aufs {
            return Ok(Place::Ignored);
        }
        if parents.iter().any(|component| component.starts_with(WHITEOUT_PREFIX)) {
            return Err(InvalidPath::Whiteout(path));
        }
        if *base == OPAQUE_MARKER {
            let directory = path::join(parents.iter().copied());
            return Ok(Place::Opaque(self.follow_all(&directory)?));
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT_PREFIX) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(WHITEOUT_PREFIX) {
                return Err(InvalidPath::Whiteout(path));
            }
            let target = path::join(parents.iter().copied().chain([hidden]));
            return Ok(Place::Whiteout(self.follow_parents(&target)?));
        }
        Ok(Place::Path(self.follow_parents(&path)?))
    }

    /// The path with this layer's own symbolic links resolved in all but the last component.
    fn follow_parents(&self, path: &FilePath) -> Result<FilePath, InvalidPath> {
        let directory = self.follow_all(&path::parent(path))?;
        Ok(path::absolute(&directory, path::base_name(path.as_bytes())))
    }

    fn follow_all(&self, path: &FilePath) -> Result<FilePath, InvalidPath> {
        let mut pending: Vec<Vec<u8>> = path::components(path.as_bytes()).rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            if component == b".." {
                done.pop();
                continue;
            }
            done.push(component);
            let here = path::join(done.iter().map(Vec::as_slice));
            if let Some(LayerNode::Symlink(target)) = self.nodes.get(&here) {
                links += 1;
                if links > SYMLINKS_MAX {
                    return Err(InvalidPath::SymlinkLoop(path.clone()));
                }
                done.pop();
                if target.as_bytes().starts_with(b"/") {
                    done.clear();
                }
                pending.extend(path::components(target.as_bytes()).rev().map(<[u8]>::to_vec));
            }
        }
        Ok(path::join(done.iter().map(Vec::as_slice)))
    }

    /// Every parent is a directory now, whatever the layer had there before.
    fn imply_parents(&mut self, path: &FilePath) {
        let nearest = path::parent(path);
        if self.last_parent.as_ref() == Some(&nearest) {
            return;
        }
        let mut parent = nearest.clone();
        while parent.as_bytes() != b"/" {
            let key = PathKey::of(parent.as_bytes());
            self.implied_directories.insert(key);
            self.hiding_files.remove(&key);
            self.nodes.remove(&parent);
            parent = path::parent(&parent);
        }
        self.last_parent = Some(nearest);
    }

    fn put(&mut self, path: FilePath, node: LayerNode) {
        self.clear(&path);
        self.kept_bytes += path.as_bytes().len() + 96;
        self.nodes.insert(path, node);
    }

    fn hide(&mut self, path: &FilePath) {
        self.clear(path);
        self.hiding_files.insert(PathKey::of(path.as_bytes()));
    }

    /// A file takes the place of what was there: of a file, or of a directory with all below it. What hid lower files from
    /// inside that directory goes on hiding them: it is kept as keys, which cannot be listed by directory.
    fn clear(&mut self, path: &FilePath) {
        let key = PathKey::of(path.as_bytes());
        self.hiding_files.remove(&key);
        self.nodes.remove(path);
        let was_directory = self.directories.remove(&key) | self.implied_directories.remove(&key);
        if was_directory {
            self.last_parent = None;
            let mut prefix = path.as_bytes().to_vec();
            prefix.push(b'/');
            let below: Vec<FilePath> = self
                .nodes
                .range(FilePath::from_bytes(prefix.clone())..)
                .take_while(|(name, _)| name.as_bytes().starts_with(&prefix))
                .map(|(name, _)| name.clone())
                .collect();
            for name in below {
                self.nodes.remove(&name);
            }
        }
    }
}

/// Forgets files that a later entry of the layer replaced.
fn drop_unnamed_files(summary: &mut LayerSummary) {
    let used: BTreeSet<u32> = summary
        .nodes
        .values()
        .filter_map(|node| match node {
            LayerNode::File(index) => Some(*index),
            _ => None,
        })
        .collect();
    if used.len() == summary.files.len() {
        return;
    }
    let renumbered: BTreeMap<u32, u32> = used.iter().copied().zip(0..).collect();
    let mut index = 0;
    summary.files.retain(|_| {
        let keep = used.contains(&index);
        index += 1;
        keep
    });
    for node in summary.nodes.values_mut() {
        if let LayerNode::File(index) = node {
            *index = renumbered[index];
        }
    }
}
