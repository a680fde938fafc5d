//! Small files of state that are replaced as a whole, and believed only if their checksum says that they are whole.
//!
//! The first line is `lattice-state 1 <SHA-256 of the rest>`. It guards against torn writes and rot, not against whoever may
//! write to the state folder.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

const MARK: &str = "lattice-state 1 ";
const HEADER_BYTES: usize = MARK.len() + 64 + 1;

/// Why a file of state is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CheckedFileError {
    /// It cannot be read or written.
    #[error("{} could not be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// read or written.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content is not what was written.
    #[error("{} is damaged ({reason}) and is not used", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Replaces the file. After a crash there is either the old content or the new.
///
/// # Errors
/// When the file or its folder cannot be written; then the old content is still there.
pub fn write(path: &Path, payload: &[u8]) -> Result<(), CheckedFileError> {
    let failed = |source| CheckedFileError::File {
        path: path.into(),
        action: "written",
        source,
    };
    let folder = path
        .parent()
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut name: OsString = path.file_name().unwrap_or_default().into();
    name.push(".new");
    let new = folder.join(name);
    let replace = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{MARK}{}", hex::encode(Sha256::digest(payload)))?;
        file.write_all(payload)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    replace().map_err(failed)
}

/// Reads the content back, or `None` if there is no such file.
///
/// # Errors
/// When the file cannot be read, is larger than `limit_bytes`, or is not what was written.
pub fn read(path: &Path, limit_bytes: usize) -> Result<Option<Vec<u8>>, CheckedFileError> {
    let failed = |source| CheckedFileError::File {
        path: path.into(),
        action: "read",
        source,
    };
    let damaged = |reason| CheckedFileError::Damaged {
        path: path.into(),
        reason,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let limit = limit_bytes.saturating_add(HEADER_BYTES);
    let mut content = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > limit {
        return Err(damaged("it is too large"));
    }
    if content.len() < HEADER_BYTES {
        return Err(damaged("it is cut short"));
    }
    let payload = content.split_off(HEADER_BYTES);
    let expected = format!("{MARK}{}\n", hex::encode(Sha256::digest(&payload)));
    if content != expected.as_bytes() {
        return Err(damaged("its checksum differs"));
    }
    Ok(Some(payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replaces_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(read(&path, 100).unwrap().is_none());
        write(&path, b"one").unwrap();
        write(&path, b"").unwrap();
        assert_eq!(read(&path, 100).unwrap().unwrap(), b"");
        write(&path, b"three").unwrap();
        assert_eq!(read(&path, 5).unwrap().unwrap(), b"three");
        assert!(read(&path, 4).unwrap_err().to_string().contains("too large"));
        assert!(write(&folder.path().join("none/state"), b"").is_err());
    }

    proptest! {
        #[test]
        fn any_damage_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8u8, cut: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            write(&path, &payload).unwrap();
            let mut content = fs::read(&path).unwrap();
            let at = at.index(content.len());
            if cut {
                content.truncate(at);
            } else {
                content[at] ^= 1 << bit;
            }
            fs::write(&path, content).unwrap();
            let read = read(&path, 1000);
            prop_assert!(matches!(read, Err(CheckedFileError::Damaged { .. })), "{read:?}");
        }
    }
}
