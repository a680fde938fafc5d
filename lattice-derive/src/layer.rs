//! What is kept of one layer: executables, links and what hides lower layers; never a list of all files.
//!
//! Plain files and directories matter only because they hide what a lower layer has at their place. They are kept as
//! 16-byte keys of their path (a truncated SHA-256), so that an image of millions of files stays small. Two paths with
//! one key would hide a lower file that is still there: that loses an entry, and never allows one.

use std::collections::{BTreeMap, BTreeSet};

use lattice_policy::{FileDigest, FilePath};
use sha2::{Digest, Sha256};

use crate::image::DiffId;

/// Bytes of a script that are kept at least: what the kernel reads of it.
pub const SCRIPT_HEAD_BYTES: usize = 256;
/// Bytes of a shell script that are kept at most, to find the programs that it names.
pub const SCRIPT_BYTES_MAX: usize = 64 * 1024;

/// The interpreter that an ELF file names in PT_INTERP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElfInterpreter {
    /// Statically linked: none.
    None,
    /// This path.
    Path(FilePath),
    /// The file is laid out so that a single pass over it could not read it.
    Unreadable,
}

/// What a file is, from its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// An ELF file.
    Elf {
        /// Its PT_INTERP.
        interpreter: ElfInterpreter,
    },
    /// Begins with `#!`.
    Script(ScriptText),
    /// Neither. Text is kept as of a script: a shell that starts such a file runs it itself.
    Other(Option<ScriptText>),
}

/// The first bytes of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptText {
    /// At least [`SCRIPT_HEAD_BYTES`], or all.
    pub bytes: Vec<u8>,
    /// Whether `bytes` is the whole file.
    pub complete: bool,
}

/// An executable, as its layer has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// SHA-256 of the content.
    pub sha256: FileDigest,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// What it is.
    pub content: FileContent,
    /// Has a `security.capability` attribute.
    pub capabilities: bool,
    /// The content says that it is a program of many applets (BusyBox, Toybox).
    pub multicall: bool,
}

impl FileFacts {
    /// Whether any execute bit is set; without one the kernel refuses even root.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

/// What a layer has at a path that is kept by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerNode {
    /// Index in `LayerSummary::files`; two paths with one index are hard links.
    File(u32),
    /// Symbolic link with this target, as written.
    Symlink(FilePath),
    /// Hard link to a path that this layer does not have.
    LowerLink(FilePath),
}

/// A path, shortened: the first half of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathKey([u8; 16]);

impl PathKey {
    pub(crate) fn of(path: &[u8]) -> Self {
        let digest = Sha256::digest(path);
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}

/// What a derivation needs of one layer. Made by a [`LayerBuilder`](crate::LayerBuilder).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSummary {
    pub(crate) diff_id: DiffId,
    pub(crate) files: Vec<FileFacts>,
    pub(crate) nodes: BTreeMap<FilePath, LayerNode>,
    pub(crate) whiteouts: BTreeSet<FilePath>,
    pub(crate) opaque: BTreeSet<FilePath>,
    /// Files of no interest, sorted.
    pub(crate) hiding_files: Vec<PathKey>,
    /// Directories that have an entry of their own, sorted.
    pub(crate) directories: Vec<PathKey>,
    /// Parents of entries, without an entry of their own, sorted.
    pub(crate) implied_directories: Vec<PathKey>,
}

impl LayerSummary {
    /// The layer that this is a summary of.
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Number of executables that are kept.
    pub fn executable_count(&self) -> usize {
        self.files.len()
    }

    /// The kept files with their paths, in path order. Hard links show the same facts under each name.
    pub fn files(&self) -> impl Iterator<Item = (&FilePath, &FileFacts)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            LayerNode::File(index) => Some((path, &self.files[*index as usize])),
            _ => None,
        })
    }

    /// About how much memory the summary takes, in bytes: what a cache should count.
    pub fn memory_bytes(&self) -> usize {
        let text = |content: &FileContent| match content {
            FileContent::Script(text) | FileContent::Other(Some(text)) => text.bytes.len(),
            _ => 0,
        };
        let files: usize = self
            .files
            .iter()
            .map(|file| size_of::<FileFacts>() + text(&file.content))
            .sum();
        let nodes: usize = self.nodes.keys().map(|path| path.as_bytes().len() + 96).sum();
        let hides: usize = self
            .whiteouts
            .iter()
            .chain(&self.opaque)
            .map(|path| path.as_bytes().len() + 48)
            .sum();
        let keys = self.hiding_files.len() + self.directories.len() + self.implied_directories.len();
        files + nodes + hides + keys * size_of::<PathKey>()
    }
}
