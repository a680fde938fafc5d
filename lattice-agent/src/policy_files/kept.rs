//! The last good content of every policy file, on disk: so that a file that is broken when the agent starts again still has its last
//! good state.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use prost::Message as _;

use crate::checked_file::{self, CheckedFileError};

/// In the state folder.
const FILE: &str = "policy-files.last-good";
const FILE_BYTES: usize = 256 << 20;

/// Contents by the files' names.
pub(super) type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Why what was kept is not to be had, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// The file cannot be read or written, or its checksum is wrong.
    #[error(transparent)]
    File(#[from] CheckedFileError),
    /// It is whole, but holds something else.
    #[error("{} does not hold policy files and is not used", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptFiles {
    #[prost(message, repeated, tag = "1")]
    files: Vec<KeptFile>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptFile {
    /// Within the policy folder.
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// Where it is kept.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join(FILE) }
    }

    /// What was kept; empty where nothing ever was.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is something else.
    pub(super) fn load(&self) -> Result<Contents, KeptError> {
        let Some(payload) = checked_file::read(&self.path, FILE_BYTES)? else {
            return Ok(Contents::new());
        };
        let kept = KeptFiles::decode(payload.as_slice()).map_err(|source| KeptError::Form {
            path: self.path.clone(),
            source,
        })?;
        Ok(kept.files.into_iter().map(|file| (file.name, file.content)).collect())
    }

    /// Replaces what is kept.
    ///
    /// # Errors
    /// When it cannot be written; what was kept before is then still there.
    pub(super) fn save(&self, contents: Contents) -> Result<(), KeptError> {
        let files = contents
            .into_iter()
            .map(|(name, content)| KeptFile { name, content })
            .collect();
        Ok(checked_file::write(&self.path, &KeptFiles { files }.encode_to_vec())?)
    }
}
