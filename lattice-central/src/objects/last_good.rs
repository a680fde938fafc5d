//! The last good content of each file, kept in the state directory: a restart while a file is broken takes nothing away.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Bytes of the checksum before the content.
const CHECKSUM_BYTES: usize = 32;

/// A folder with a file for each that was good, its checksum first.
pub(super) struct LastGood {
    directory: PathBuf,
}

impl LastGood {
    /// Creates the folder (0700) where it is absent.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The content that was kept under the name; `None` where there is none, or its checksum does not hold.
    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.directory.join(name)).ok()?;
        let (checksum, content) = bytes.split_at_checked(CHECKSUM_BYTES)?;
        if Sha256::digest(content).as_slice() != checksum {
            tracing::error!(file = %name, "the kept last good content's checksum does not hold; it does not count");
            return None;
        }
        Some(content.to_vec())
    }

    /// Keeps the content under the name, whole or not at all.
    pub(super) fn keep(&self, name: &str, content: &[u8]) {
        let kept = || -> io::Result<()> {
            // No name of a file that is read begins with a dot.
            let temporary = self.directory.join(".new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&Sha256::digest(content))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, self.directory.join(name))
        };
        if let Err(error) = kept() {
            tracing::error!(file = %name, %error, "the last good content cannot be kept; a restart would not have it");
        }
    }

    /// Forgets what is kept under the name, if anything is.
    pub(super) fn forget(&self, name: &str) {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(file = %name, %error, "the last good content of what is gone cannot be removed");
            }
            _ => {}
        }
    }

    /// Forgets every kept file whose name is not among these.
    pub(super) fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !is_wanted(name)) {
                // What cannot be removed is tried again at the next change.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
