//! The image's file system, merged from its layers as overlayfs merges them, and path look-up in it.
//!
//! ```text
//!   layer 0 ─► tree ─► layer 1: links to lower files ─► whiteouts, opaque ─► hides ─► its own files ─► tree ─► …
//! ```
//!
//! Where a layer has `bin/foo` and no entry for `bin`, and a lower layer has `bin -> usr/bin`, runtimes differ: overlayfs
//! shows a directory `bin` with `foo` alone; an unpacking runtime writes through the link. The tree has the directory,
//! and looks up through the old link what the directory does not have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use lattice_policy::FilePath;

use crate::{
    image::DiffId,
    layer::{FileFacts, LayerNode, LayerSummary, PathKey},
    path,
};

/// Symbolic links that one look-up follows at most, as Linux has it.
pub const SYMLINKS_MAX: usize = 40;

/// One file of the image: hard links share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    layer: u32,
    file: u32,
}

#[derive(Debug, Clone)]
enum Node {
    Directory(Directory),
    File(FileId),
    Symlink(FilePath),
}

#[derive(Debug, Clone, Default)]
struct Directory {
    children: BTreeMap<Vec<u8>, Child>,
    /// The symbolic link that this directory hides without having an entry of its own.
    hidden_link: Option<HiddenLink>,
}

#[derive(Debug, Clone)]
struct Child {
    key: PathKey,
    node: Node,
}

/// A directory without an entry of its own that hides a symbolic link of a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenLink {
    /// The directory.
    pub path: FilePath,
    /// The link's target.
    pub target: FilePath,
    /// The layer that writes below it.
    pub layer: DiffId,
}

/// The merged image.
#[derive(Debug, Clone)]
pub struct ImageTree {
    layers: Vec<Arc<LayerSummary>>,
    root: Directory,
    hidden_links: Vec<HiddenLink>,
    names: BTreeMap<FileId, Vec<FilePath>>,
}

/// Where a look-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// At a file that may be executable.
    File {
        /// The file.
        file: FileId,
        /// Its path without symbolic links.
        real_path: FilePath,
        /// The symbolic links on the way: where they lie and what they say.
        links: Vec<(FilePath, FilePath)>,
    },
    /// At a directory.
    Directory(FilePath),
}

/// Why a look-up ended nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The image has no executable there.
    #[error("the image has no executable file at {at}")]
    NotFound {
        /// The first path that is not there.
        at: FilePath,
    },
    /// The image has a file there without any execute permission.
    #[error("{at} is in the image, but is not executable (no x permission)")]
    NotExecutable {
        /// The file.
        at: FilePath,
    },
    /// More than 40 symbolic links.
    #[error("{at} leads through more than {SYMLINKS_MAX} symbolic links")]
    SymlinkLoop {
        /// The path that was asked for.
        at: FilePath,
    },
}

impl ImageTree {
    /// Merges `layers`, lowest first.
    pub fn merge(layers: Vec<Arc<LayerSummary>>) -> Self {
        let mut tree = Self {
            layers: Vec::new(),
            root: Directory::default(),
            hidden_links: Vec::new(),
            names: BTreeMap::new(),
        };
        for layer in layers {
            tree.apply(layer);
        }
        let mut names: BTreeMap<FileId, Vec<FilePath>> = BTreeMap::new();
        let mut hidden_links = Vec::new();
        visit(&tree.root, &mut Vec::new(), &mut |path, node| match node {
            Node::File(file) => names.entry(*file).or_default().push(path),
            Node::Directory(directory) => hidden_links.extend(directory.hidden_link.clone()),
            Node::Symlink(_) => {}
        });
        tree.names = names;
        tree.hidden_links = hidden_links;
        tree
    }

    /// What is known of a file.
    pub fn facts(&self, file: FileId) -> &FileFacts {
        &self.layers[file.layer as usize].files[file.file as usize]
    }

    /// The layer that has a file's content.
    pub fn layer_of(&self, file: FileId) -> DiffId {
        self.layers[file.layer as usize].diff_id
    }

    /// All paths of a file, sorted; more than one where it has hard links.
    pub fn names(&self, file: FileId) -> &[FilePath] {
        self.names.get(&file).map(Vec::as_slice).unwrap_or_default()
    }

    /// All kept files with the first of their paths, in path order.
    pub fn files(&self) -> Vec<(FilePath, FileId)> {
        let mut all: Vec<_> = self
            .names
            .iter()
            .map(|(file, names)| (names[0].clone(), *file))
            .collect();
        all.sort();
        all
    }

    /// All symbolic links, in path order.
    pub fn symlinks(&self) -> Vec<FilePath> {
        let mut all = Vec::new();
        visit(&self.root, &mut Vec::new(), &mut |path, node| {
            if matches!(node, Node::Symlink(_)) {
                all.push(path);
            }
        });
        all
    }

    /// Directories that hide a symbolic link of a lower layer, where runtimes differ.
    pub fn hidden_links(&self) -> &[HiddenLink] {
        &self.hidden_links
    }

    /// Names in a directory, sorted; empty where there is none.
    pub fn list(&self, directory: &FilePath) -> Vec<FilePath> {
        let Ok(Found::Directory(real)) = self.look_up(directory) else {
            return Vec::new();
        };
        let Some(Some(found)) = self.directory_at(&real) else {
            return Vec::new();
        };
        found
            .children
            .keys()
            .map(|name| path::absolute(directory, name))
            .collect()
    }

    /// Follows `path` (absolute) from the image's root as the kernel would.
    ///
    /// # Errors
    /// When it ends at no executable file and at no directory.
    pub fn look_up(&self, path: &FilePath) -> Result<Found, LookupError> {
        let mut pending: VecDeque<Vec<u8>> = path::components(path.as_bytes()).map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links: Vec<(FilePath, FilePath)> = Vec::new();
        let mut hops = 0;
        while let Some(component) = pending.pop_front() {
            if component == b".." {
                done.pop();
                continue;
            }
            let here = path::join(done.iter().map(Vec::as_slice).chain([component.as_slice()]));
            let Some(directory) = self.directory_at(&path::join(done.iter().map(Vec::as_slice))).flatten() else {
                return Err(self.missing(&here, &pending));
            };
            let target = match directory.children.get(&component).map(|child| &child.node) {
                Some(Node::Directory(_)) => {
                    done.push(component);
                    continue;
                }
                Some(Node::File(file)) if pending.is_empty() => {
                    return Ok(Found::File {
                        file: *file,
                        real_path: here,
                        links,
                    });
                }
                Some(Node::File(_)) => return Err(LookupError::NotFound { at: here }),
                Some(Node::Symlink(target)) => {
                    links.push((here, target.clone()));
                    target
                }
                None => {
                    // A directory that hides a link: look at where the link leads.
                    let Some(link) = &directory.hidden_link else {
                        return Err(self.missing(&here, &pending));
                    };
                    pending.push_front(component);
                    links.push((link.path.clone(), link.target.clone()));
                    done.pop();
                    &link.target
                }
            };
            hops += 1;
            if hops > SYMLINKS_MAX {
                return Err(LookupError::SymlinkLoop { at: path.clone() });
            }
            if target.as_bytes().starts_with(b"/") {
                done.clear();
            }
            for component in path::components(target.as_bytes()).rev() {
                pending.push_front(component.to_vec());
            }
        }
        Ok(Found::Directory(path::join(done.iter().map(Vec::as_slice))))
    }

    /// Why nothing is at `here` and below: a file that cannot be executed, or really nothing.
    fn missing(&self, here: &FilePath, pending: &VecDeque<Vec<u8>>) -> LookupError {
        let here = path::join(path::components(here.as_bytes()).chain(pending.iter().map(Vec::as_slice)));
        let key = PathKey::of(here.as_bytes());
        for layer in self.layers.iter().rev() {
            if layer.hiding_files.binary_search(&key).is_ok() {
                return LookupError::NotExecutable { at: here };
            }
            if layer.whiteouts.contains(&here) {
                break;
            }
        }
        LookupError::NotFound { at: here }
    }

    /// `None` where something else than a directory is there; `Some(None)` where nothing is known of it.
    fn directory_at(&self, real: &FilePath) -> Option<Option<&Directory>> {
        let mut directory = &self.root;
        for component in path::components(real.as_bytes()) {
            match directory.children.get(component).map(|child| &child.node) {
                Some(Node::Directory(next)) => directory = next,
                Some(_) => return None,
                None => return Some(None),
            }
        }
        Some(Some(directory))
    }

    fn apply(&mut self, layer: Arc<LayerSummary>) {
        let number = u32::try_from(self.layers.len()).unwrap_or(u32::MAX);
        // Links to lower files are read before anything of the lower layers is hidden: the link survives its target.
        let mut lower: BTreeMap<&FilePath, Option<Node>> = BTreeMap::new();
        for node in layer.nodes.values() {
            if let LayerNode::LowerLink(target) = node {
                lower.insert(target, self.node_at(target).cloned());
            }
        }
        for hidden in &layer.whiteouts {
            remove(&mut self.root, hidden);
        }
        for directory in &layer.opaque {
            if let Some(directory) = directory_mut(&mut self.root, directory) {
                *directory = Directory::default();
            } else {
                remove(&mut self.root, directory);
            }
        }
        hide(&mut self.root, &layer, &mut Vec::new());
        for (path, node) in &layer.nodes {
            let node = match node {
                LayerNode::File(file) => Some(Node::File(FileId {
                    layer: number,
                    file: *file,
                })),
                LayerNode::Symlink(target) => Some(Node::Symlink(target.clone())),
                LayerNode::LowerLink(target) => lower.get(target).cloned().flatten(),
            };
            match node {
                Some(node) => insert(&mut self.root, path, node),
                None => remove(&mut self.root, path),
            }
        }
        self.layers.push(layer);
    }

    /// The file or link at a path whose parents may be symbolic links.
    fn node_at(&self, path: &FilePath) -> Option<&Node> {
        let Ok(Found::Directory(parent)) = self.look_up(&path::parent(path)) else {
            return None;
        };
        let directory = self.directory_at(&parent)??;
        let child = directory.children.get(path::base_name(path.as_bytes()))?;
        (!matches!(child.node, Node::Directory(_))).then_some(&child.node)
    }
}

/// Removes or replaces what the layer's plain files and directories hide.
fn hide(directory: &mut Directory, layer: &LayerSummary, at: &mut Vec<Vec<u8>>) {
    let has = |keys: &[PathKey], key: &PathKey| keys.binary_search(key).is_ok();
    directory
        .children
        .retain(|_, child| !has(&layer.hiding_files, &child.key));
    for (name, child) in &mut directory.children {
        at.push(name.clone());
        let explicit = has(&layer.directories, &child.key);
        let implied = has(&layer.implied_directories, &child.key);
        match &mut child.node {
            Node::Directory(inner) => {
                if explicit {
                    inner.hidden_link = None;
                }
                hide(inner, layer, at);
            }
            Node::Symlink(target) if implied => {
                let path = path::join(at.iter().map(Vec::as_slice));
                let hidden_link = Some(HiddenLink {
                    path,
                    target: target.clone(),
                    layer: layer.diff_id,
                });
                child.node = Node::Directory(Directory {
                    children: BTreeMap::new(),
                    hidden_link,
                });
            }
            Node::File(_) | Node::Symlink(_) if explicit || implied => {
                child.node = Node::Directory(Directory::default());
            }
            Node::File(_) | Node::Symlink(_) => {}
        }
        at.pop();
    }
}

fn directory_mut<'a>(root: &'a mut Directory, path: &FilePath) -> Option<&'a mut Directory> {
    let mut directory = root;
    for component in path::components(path.as_bytes()) {
        match &mut directory.children.get_mut(component)?.node {
            Node::Directory(next) => directory = next,
            _ => return None,
        }
    }
    Some(directory)
}

fn remove(root: &mut Directory, path: &FilePath) {
    if let Some(parent) = directory_mut(root, &path::parent(path)) {
        parent.children.remove(path::base_name(path.as_bytes()));
    }
}

/// Puts a node; parents become directories.
fn insert(root: &mut Directory, path: &FilePath, node: Node) {
    let all: Vec<&[u8]> = path::components(path.as_bytes()).collect();
    let Some((base, parents)) = all.split_last() else {
        return;
    };
    let mut directory = root;
    for (depth, component) in parents.iter().enumerate() {
        let child = directory.children.entry(component.to_vec()).or_insert_with(|| Child {
            key: PathKey::of(path::join(all[..=depth].iter().copied()).as_bytes()),
            node: Node::Directory(Directory::default()),
        });
        if !matches!(child.node, Node::Directory(_)) {
            child.node = Node::Directory(Directory::default());
        }
        let Node::Directory(next) = &mut child.node else { return };
        directory = next;
    }
    directory.children.insert(
        base.to_vec(),
        Child {
            key: PathKey::of(path.as_bytes()),
            node,
        },
    );
}

fn visit(directory: &Directory, at: &mut Vec<Vec<u8>>, found: &mut impl FnMut(FilePath, &Node)) {
    for (name, child) in &directory.children {
        at.push(name.clone());
        found(path::join(at.iter().map(Vec::as_slice)), &child.node);
        if let Node::Directory(inner) = &child.node {
            visit(inner, at, found);
        }
        at.pop();
    }
}
