//! What central has acknowledged, on disk: so that it is neither sent again nor taken for lost after a restart.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::ranges::Ranges;
use crate::checked_file::{self, CheckedFileError};

const FILE_BYTES: usize = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// By boot, the acknowledged ranges: first and last sequence.
    boots: BTreeMap<String, Vec<(u64, u64)>>,
}

/// Acknowledged sequences by boot.
pub(super) type Acknowledged = BTreeMap<String, Ranges>;

/// Reads them back.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub(super) fn read(path: &Path) -> Result<Acknowledged, CheckedFileError> {
    let Some(payload) = checked_file::read(path, FILE_BYTES)? else {
        return Ok(Acknowledged::new());
    };
    let damaged = |_| CheckedFileError::Damaged {
        path: path.into(),
        reason: "it is of another form",
    };
    let document: Document = serde_json::from_slice(&payload).map_err(damaged)?;
    Ok(document
        .boots
        .into_iter()
        .map(|(boot_id, spans)| {
            let mut ranges = Ranges::default();
            for (first, last) in spans {
                ranges.insert(first, last);
            }
            (boot_id, ranges)
        })
        .collect())
}

/// Replaces them.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, acknowledged: &Acknowledged) -> Result<(), CheckedFileError> {
    let boots = acknowledged
        .iter()
        .map(|(boot_id, ranges)| (boot_id.clone(), ranges.iter().collect()))
        .collect();
    // A map of strings to pairs of numbers has no form that JSON cannot write.
    let payload = serde_json::to_vec(&Document { boots }).unwrap_or_default();
    checked_file::write(path, &payload)
}
