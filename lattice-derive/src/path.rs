//! Paths as layers and specifications write them, made canonical.

use lattice_policy::FilePath;

/// Longest path that Linux accepts, in bytes (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest name of one component, in bytes (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Why a name cannot be a path in an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Longer than Linux accepts.
    #[error("path of {0} bytes is longer than {PATH_BYTES_MAX}")]
    TooLong(usize),
    /// A component is longer than Linux accepts.
    #[error("path {0} has a component longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong(FilePath),
    /// A NUL byte, which no file system stores.
    #[error("path {0} contains a NUL byte")]
    Nul(FilePath),
    /// `..` in a layer entry.
    #[error("path {0} contains \"..\"")]
    ParentDirectory(FilePath),
    /// A whiteout marker where none may be.
    #[error("path {0} uses the reserved prefix \".wh.\" where it has no meaning")]
    Whiteout(FilePath),
    /// Symbolic links that lead into each other.
    #[error("path {0} leads through more than 40 symbolic links")]
    SymlinkLoop(FilePath),
}

/// The components of a path, without empty ones and `.`.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
}

/// `/` and the components joined.
pub fn join<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> FilePath {
    let mut bytes = Vec::new();
    for component in components {
        bytes.push(b'/');
        bytes.extend_from_slice(component);
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    FilePath::from_bytes(bytes)
}

/// The canonical form of a tar entry's name: absolute, no empty component, no `.`, no `..`.
///
/// # Errors
/// When the name is longer than Linux accepts, or contains NUL or `..`.
pub fn normalize_entry_name(name: &[u8]) -> Result<FilePath, InvalidPath> {
    if name.len() > PATH_BYTES_MAX {
        return Err(InvalidPath::TooLong(name.len()));
    }
    let shown = || FilePath::from_bytes(name);
    if name.contains(&0) {
        return Err(InvalidPath::Nul(shown()));
    }
    for component in components(name) {
        if component == b".." {
            return Err(InvalidPath::ParentDirectory(shown()));
        }
        if component.len() > NAME_BYTES_MAX {
            return Err(InvalidPath::NameTooLong(shown()));
        }
    }
    Ok(join(components(name)))
}

/// `path` itself where it is absolute, else `directory/path`; nothing is resolved.
pub fn absolute(directory: &FilePath, path: &[u8]) -> FilePath {
    if path.starts_with(b"/") {
        join(components(path))
    } else {
        join(components(directory.as_bytes()).chain(components(path)))
    }
}

/// The last component; empty for `/`.
pub fn base_name(path: &[u8]) -> &[u8] {
    components(path).next_back().unwrap_or_default()
}

/// All but the last component.
pub fn parent(path: &FilePath) -> FilePath {
    let mut all: Vec<&[u8]> = components(path.as_bytes()).collect();
    all.pop();
    join(all)
}

/// Whether this is what ELF loaders are called: `ld-linux-x86-64.so.2`, `ld-musl-x86_64.so.1`, `ld.so`.
pub fn is_loader_name(path: &FilePath) -> bool {
    let name = base_name(path.as_bytes());
    name == b"ld.so" || (name.starts_with(b"ld-") && name.windows(3).any(|part| part == b".so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<&str, &str>) {
        let found = normalize_entry_name(name.as_bytes())
            .map(|path| path.to_string())
            .map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(path), Ok(expected)) => assert_eq!(path, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{name}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn entry_names() {
        check("./usr//bin/./sh", Ok("/usr/bin/sh"));
        check("/etc/", Ok("/etc"));
        check("./", Ok("/"));
        check("", Ok("/"));
        check("a/../../etc", Err("\"..\""));
        check("a\0b", Err("NUL"));
        check(&"a".repeat(256), Err("longer than 255"));
        check(&"a/".repeat(2049), Err("longer than 4096"));
    }

    #[test]
    fn relative_paths_start_at_the_directory() {
        let directory = FilePath::from("/app");
        assert_eq!(absolute(&directory, b"./bin/../x").to_string(), "/app/bin/../x");
        assert_eq!(absolute(&directory, b"/x").to_string(), "/x");
        assert_eq!(parent(&FilePath::from("/app/x")).to_string(), "/app");
        assert_eq!(base_name(b"/app/x"), b"x");
        assert_eq!(base_name(b"/"), b"");
    }
}
