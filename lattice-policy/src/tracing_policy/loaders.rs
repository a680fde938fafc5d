//! Tetragon does not judge the ELF interpreter of a program, and Lattice does: the loaders that a policy for Tetragon means.

use crate::{Entry, FilePath, Origin, Role};

/// Where x86-64 images keep their loader, links resolved: glibc and musl, merged `/usr` or not, and glibc before 2.34, whose file
/// has its version in its name.
const LOADERS: [&str; 14] = [
    "/lib/ld-musl-x86_64.so.1",
    "/lib/x86_64-linux-gnu/ld-2.28.so",
    "/lib/x86_64-linux-gnu/ld-2.31.so",
    "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/ld-linux-x86-64.so.2",
    "/usr/lib/ld-musl-x86_64.so.1",
    "/usr/lib/x86_64-linux-gnu/ld-2.31.so",
    "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/lib64/ld-2.17.so",
    "/usr/lib64/ld-2.26.so",
    "/usr/lib64/ld-2.28.so",
    "/usr/lib64/ld-2.31.so",
    "/usr/lib64/ld-linux-x86-64.so.2",
];

/// An entry for each loader, good as such and never as a command.
pub(super) fn entries() -> impl Iterator<Item = Entry> {
    LOADERS.into_iter().map(|path| Entry {
        path: FilePath::from(path),
        sha256: None,
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: vec![Role::ElfInterpreter],
        from: Origin::Any,
        applets: Vec::new(),
        because: vec!["a loader: Tetragon does not judge the ELF interpreter of a program".to_owned()],
    })
}
