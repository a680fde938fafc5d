//! The container runtime's own programs, which may start in a container's cgroup before the container's first program does.
//!
//! By content: runc starts itself again from a sealed copy in memory, which has no path.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use lattice_common::{
    abi::{EntryRule, digest_words},
    verdict::Role,
};
use sha2::{Digest as _, Sha256};

use crate::enforcement::compile::EntrySet;

/// Names that are looked for along PATH where none is given.
pub const WELL_KNOWN: [&str; 5] = ["runc", "crun", "youki", "containerd-shim-runc-v2", "conmon"];

/// The well-known runtime programs that this node has.
pub fn find(path: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = path
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .flat_map(|folder| WELL_KNOWN.map(|name| Path::new(folder).join(name)))
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The set of these programs, by digest and size, in any role and from anywhere.
///
/// # Errors
/// When a file cannot be read; the error names it.
pub fn entry_set(programs: &[PathBuf]) -> io::Result<EntrySet> {
    let mut set = EntrySet::default();
    for program in programs {
        let (digest, size_bytes) =
            hash(program).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        let mut rule = EntryRule::default();
        for role in Role::ALL {
            rule = rule.with(*role, EntryRule::ANY_ORIGIN);
        }
        set.digests.insert(digest_words(&digest), rule);
        set.sizes_bytes.insert(size_bytes);
    }
    Ok(set)
}

fn hash(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hasher.finalize().into(), size_bytes));
        }
        hasher.update(&buffer[..read]);
        size_bytes += read as u64;
    }
}
