//! The container runtime's own programs, which may start in a container's cgroup before the container's first program does: the
//! runtime itself, and the hooks that bundles name.
//!
//! By content: runc starts itself again from a sealed copy in memory, which has no path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lattice_common::{
    abi::{EntryRule, digest_words},
    verdict::Role,
};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::{Digest as _, Sha256};

use crate::enforcement::compile::EntrySet;

/// Names that are looked for along PATH where none is given.
pub const WELL_KNOWN: [&str; 5] = ["runc", "crun", "youki", "containerd-shim-runc-v2", "conmon"];

/// Hooks' programs that are kept; whoever makes more is not believed.
const PROGRAMS: usize = 256;
/// A hook's program that is larger is not read.
const PROGRAM_BYTES: u64 = 256 << 20;

/// Where a node's programs are, besides those on the agent's own PATH: in a pod that one is an image's.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The well-known runtime programs that this node has, by their paths below the host's root `host`.
pub fn find(host: &Path, path: &str) -> Vec<PathBuf> {
    let Ok(host) = File::open(host) else { return Vec::new() };
    // Several names often lead to one file.
    let mut seen = BTreeSet::new();
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .chain(FOLDERS)
        .flat_map(|folder| WELL_KNOWN.map(|name| Path::new(folder).join(name)))
        .filter(|path| {
            open_below(&host, path)
                .and_then(|file| file.metadata())
                .is_ok_and(|metadata| metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())))
        })
        .collect()
}

/// What was read of a program, and of which state of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    digest: [u8; 32],
    size_bytes: u64,
    state: State,
}

/// A file that changes changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The programs that pass, each with its last content.
#[derive(Debug, Default)]
pub struct RuntimePrograms {
    known: BTreeMap<PathBuf, Known>,
}

impl RuntimePrograms {
    /// Adds the runtime's programs by their paths below the host's root `host`, or reads them again.
    ///
    /// # Errors
    /// When a file cannot be read; the error names it.
    pub fn add(&mut self, host: &Path, programs: &[PathBuf]) -> io::Result<()> {
        let host = File::open(host)?;
        for program in programs {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", program.display()));
            self.read(program, open_below(&host, program).map_err(named)?, u64::MAX)
                .map_err(named)?;
        }
        Ok(())
    }

    /// Adds a hook's program by its path below the host's root `host`; whether that changed anything.
    ///
    /// # Errors
    /// When it cannot be read, is larger than 256 MiB, or there are more than 256 programs.
    pub fn add_hook(&mut self, host: &Path, program: &Path) -> io::Result<bool> {
        if self.known.len() >= PROGRAMS && !self.known.contains_key(program) {
            return Err(io::Error::other(format!("there are {PROGRAMS} programs already")));
        }
        self.read(program, open_below(&File::open(host)?, program)?, PROGRAM_BYTES)
    }

    fn read(&mut self, program: &Path, mut file: File, limit_bytes: u64) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > limit_bytes {
            return Err(io::Error::other(format!(
                "no regular file of at most {limit_bytes} bytes"
            )));
        }
        let state = State::of(&metadata);
        if self.known.get(program).is_some_and(|known| known.state == state) {
            return Ok(false);
        }
        let (digest, size_bytes) = hash(&mut file)?;
        let known = Known {
            digest,
            size_bytes,
            state,
        };
        self.known.insert(program.to_owned(), known);
        Ok(true)
    }

    /// The set of them, by digest and size, in any role and from anywhere.
    pub fn entry_set(&self) -> EntrySet {
        let mut set = EntrySet::default();
        let mut rule = EntryRule::default();
        for role in Role::ALL {
            rule = rule.with(*role, EntryRule::ANY_ORIGIN);
        }
        for known in self.known.values() {
            set.digests.insert(digest_words(&known.digest), rule);
            set.sizes_bytes.insert(known.size_bytes);
        }
        set
    }
}

/// Opens a file of the host. Links lead where they lead there.
fn open_below(host: &File, path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(File::from(openat2(host, path, how)?))
}

fn hash(file: &mut File) -> io::Result<([u8; 32], u64)> {
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_program_is_read_again_only_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let hook = Path::new("/usr/bin/hook");
        let file = folder.path().join("usr/bin/hook");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "one").unwrap();
        let mut programs = RuntimePrograms::default();
        assert!(programs.add_hook(folder.path(), hook).unwrap());
        assert!(!programs.add_hook(folder.path(), hook).unwrap());
        let one = programs.entry_set();
        let digest: [u8; 32] = Sha256::digest("one").into();
        assert_eq!(one.digests.keys().collect::<Vec<_>>(), [&digest_words(&digest)]);
        assert_eq!(one.sizes_bytes.iter().collect::<Vec<_>>(), [&3]);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "other").unwrap();
        assert!(programs.add_hook(folder.path(), hook).unwrap());
        let other = programs.entry_set();
        assert_eq!(other.sizes_bytes.iter().collect::<Vec<_>>(), [&5]);
    }

    #[test]
    fn links_stay_below_the_hosts_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("target"), "the host's").unwrap();
        symlink("/target", folder.path().join("absolute")).unwrap();
        symlink("../../../target", folder.path().join("above")).unwrap();
        let mut programs = RuntimePrograms::default();
        for link in ["/absolute", "/above"] {
            assert!(programs.add_hook(folder.path(), Path::new(link)).unwrap(), "{link}");
        }
        assert_eq!(programs.entry_set().digests.len(), 1);
    }

    #[test]
    fn the_hosts_programs_are_found_below_its_root_once_each() {
        let folder = tempfile::tempdir().unwrap();
        for folder in ["usr/bin", "opt/runtime"].map(|name| folder.path().join(name)) {
            fs::create_dir_all(folder).unwrap();
        }
        symlink("usr/bin", folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("opt/runtime/crun"), "crun").unwrap();
        // Absolute, so that it leads out of the root where it is not followed below it.
        symlink("/opt/runtime/crun", folder.path().join("usr/bin/runc")).unwrap();
        fs::create_dir(folder.path().join("usr/bin/conmon")).unwrap();
        assert_eq!(find(folder.path(), "relative"), [Path::new("/usr/bin/runc")]);
        assert_eq!(find(folder.path(), "/opt/runtime"), [Path::new("/opt/runtime/crun")]);
        let mut programs = RuntimePrograms::default();
        programs.add(folder.path(), &[PathBuf::from("/usr/bin/runc")]).unwrap();
        assert_eq!(programs.entry_set().digests.len(), 1);
        let missing = programs.add(folder.path(), &[PathBuf::from("/no/runc")]).unwrap_err();
        assert!(missing.to_string().starts_with("/no/runc: "), "{missing}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let huge = File::create(folder.path().join("huge")).unwrap();
        huge.set_len(PROGRAM_BYTES + 1).unwrap();
        nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut programs = RuntimePrograms::default();
        for name in ["/folder", "/huge", "/fifo", "/missing"] {
            assert!(programs.add_hook(folder.path(), Path::new(name)).is_err(), "{name}");
        }
        for number in 0..=PROGRAMS {
            let name = format!("/hook-{number}");
            fs::write(folder.path().join(&name[1..]), &name).unwrap();
            let added = programs.add_hook(folder.path(), Path::new(&name));
            assert_eq!(added.is_ok(), number < PROGRAMS, "{name}");
        }
    }
}
