//! The last set of policies that was put in force, on disk: so that a start without central is not a start without policies.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lattice_api::v1;
use lattice_policy::Mode;
use prost::Message;

use super::policy_set::{PolicySet, PolicySetError};
use crate::checked_file::{self, CheckedFileError};

/// Where central's set is kept in the state folder.
const POLICIES_FILE: &str = "policies.last-good";
/// Where central's denylist is kept.
const DENYLIST_FILE: &str = "denylist.last-good";
/// Where modes are kept that were set at the agent itself.
const MODES_FILE: &str = "modes.last-good";
const FILE_BYTES: usize = 256 << 20;

/// Why what was kept is not used.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file cannot be read or written, or its checksum is wrong.
    #[error(transparent)]
    File(#[from] CheckedFileError),
    /// It is whole, but no message of central's.
    #[error("{} is not what central sends and is not used", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// It holds what this release does not accept.
    #[error("{} is not used", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PolicySetError,
    },
}

fn store(path: &Path, set: &PolicySet) -> Result<(), LastGoodError> {
    Ok(checked_file::write(path, &v1::PolicySet::from(set).encode_to_vec())?)
}

fn read(path: PathBuf) -> Result<Option<PolicySet>, LastGoodError> {
    let Some(payload) = checked_file::read(&path, FILE_BYTES)? else {
        return Ok(None);
    };
    let message = v1::PolicySet::decode(payload.as_slice()).map_err(|source| LastGoodError::Form {
        path: path.clone(),
        source,
    })?;
    Ok(Some(
        message
            .try_into()
            .map_err(|source| LastGoodError::Content { path, source })?,
    ))
}

/// Keeps central's set.
///
/// # Errors
/// When the state folder cannot be written.
pub fn save(state: &Path, set: &PolicySet) -> Result<(), LastGoodError> {
    store(&state.join(POLICIES_FILE), set)
}

/// Reads central's set back, or `None` if there never was one. Call it before the first connection, and apply what it says.
///
/// # Errors
/// When it cannot be read, is damaged, or holds what is not valid; nothing of it may be used then.
pub fn load(state: &Path) -> Result<Option<PolicySet>, LastGoodError> {
    read(state.join(POLICIES_FILE))
}

/// Keeps central's denylist as it came: a later release may understand more of it.
///
/// # Errors
/// When the state folder cannot be written.
pub fn save_denylist(state: &Path, list: &v1::Denylist) -> Result<(), LastGoodError> {
    Ok(checked_file::write(&state.join(DENYLIST_FILE), &list.encode_to_vec())?)
}

/// Reads central's denylist back, or `None` if there never was one.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn load_denylist(state: &Path) -> Result<Option<v1::Denylist>, LastGoodError> {
    let path = state.join(DENYLIST_FILE);
    let Some(payload) = checked_file::read(&path, FILE_BYTES)? else {
        return Ok(None);
    };
    let list = v1::Denylist::decode(payload.as_slice());
    Ok(Some(list.map_err(|source| LastGoodError::Form { path, source })?))
}

/// Keeps the modes that were set at the agent itself, where there is no central.
///
/// # Errors
/// When the state folder cannot be written.
pub fn save_modes(state: &Path, revision: u64, modes: &BTreeMap<String, Mode>) -> Result<(), LastGoodError> {
    let set = PolicySet {
        revision,
        policies: Vec::new(),
        namespace_modes: modes.clone(),
    };
    store(&state.join(MODES_FILE), &set)
}

/// Reads those modes and their revision back.
///
/// # Errors
/// When the file cannot be read, is damaged, or holds what is not valid.
pub fn load_modes(state: &Path) -> Result<(u64, BTreeMap<String, Mode>), LastGoodError> {
    let set = read(state.join(MODES_FILE))?;
    Ok(set.map(|set| (set.revision, set.namespace_modes)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_or_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
        let modes = BTreeMap::from([("payments".to_owned(), Mode::Deny)]);
        let set = PolicySet {
            revision: 3,
            policies: Vec::new(),
            namespace_modes: modes.clone(),
        };
        save(folder.path(), &set).unwrap();
        assert_eq!(load(folder.path()).unwrap(), Some(set));
        assert_eq!(load_modes(folder.path()).unwrap(), (0, BTreeMap::new()));
        save_modes(folder.path(), 4, &modes).unwrap();
        assert_eq!(load_modes(folder.path()).unwrap(), (4, modes));

        assert_eq!(load_denylist(folder.path()).unwrap(), None);
        let list = v1::Denylist {
            revision: 5,
            denials: vec![v1::Denial::default()],
        };
        save_denylist(folder.path(), &list).unwrap();
        assert_eq!(load_denylist(folder.path()).unwrap(), Some(list));
        fs::write(folder.path().join(DENYLIST_FILE), "").unwrap();
        assert!(load_denylist(folder.path()).is_err());

        let path = folder.path().join(POLICIES_FILE);
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&path, content).unwrap();
        assert!(
            load(folder.path())
                .unwrap_err()
                .to_string()
                .contains("its checksum differs")
        );
        checked_file::write(&path, b"\xff\xff").unwrap();
        assert!(matches!(load(folder.path()), Err(LastGoodError::Form { .. })));
        let wrong = v1::PolicySet {
            namespace_modes: vec![v1::NamespaceMode {
                namespace: "payments".into(),
                mode: "off".into(),
            }],
            ..v1::PolicySet::default()
        };
        checked_file::write(&path, &wrong.encode_to_vec()).unwrap();
        assert!(matches!(load(folder.path()), Err(LastGoodError::Content { .. })));
    }
}
