//! What can be wrong with a layer.

use lattice_derive::{DiffId, InvalidPath};
use lattice_policy::{FilePath, ImageDigest};

/// Why a layer was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The blob ended early.
    #[error(
        "layer {layer} is truncated: {received_bytes} of {expected_bytes} bytes came; try again, or push the image anew"
    )]
    Truncated {
        /// The blob.
        layer: ImageDigest,
        /// Its size in the manifest.
        expected_bytes: u64,
        /// What came.
        received_bytes: u64,
    },
    /// The blob is longer than the manifest says.
    #[error(
        "layer {layer} is longer than the {expected_bytes} bytes of its manifest; do not trust this registry's copy"
    )]
    TooLong {
        /// The blob.
        layer: ImageDigest,
        /// Its size in the manifest.
        expected_bytes: u64,
    },
    /// The blob's bytes are not those that the manifest names.
    #[error(
        "layer {layer} has another digest, {found}: its bytes were changed; push the image anew, and look at the registry"
    )]
    DigestMismatch {
        /// The blob.
        layer: ImageDigest,
        /// What its bytes give.
        found: ImageDigest,
    },
    /// The archive is not the one that the configuration names.
    #[error("layer {layer} unpacks to {found}, but the image's configuration says {expected}; build the image anew")]
    DiffIdMismatch {
        /// The blob.
        layer: ImageDigest,
        /// What the configuration says.
        expected: DiffId,
        /// What the archive gives.
        found: DiffId,
    },
    /// More than the limits allow.
    #[error("layer {layer} is too large: {what} beyond {limit}; make the image smaller, or raise the limit")]
    TooLarge {
        /// The blob.
        layer: ImageDigest,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The compression cannot be undone.
    #[error("layer {layer} cannot be decompressed: {reason}; push the image anew")]
    Compression {
        /// The blob.
        layer: ImageDigest,
        /// What the decoder said.
        reason: String,
    },
    /// The archive cannot be read.
    #[error("layer {layer}, entry {entry}: {reason}; build the image anew with another tool")]
    Malformed {
        /// The blob.
        layer: ImageDigest,
        /// The entry, or the last one before.
        entry: FilePath,
        /// What is wrong.
        reason: String,
    },
    /// A name in the archive cannot be a path.
    #[error("layer {layer}: {source}; build the image anew with another tool")]
    Path {
        /// The blob.
        layer: ImageDigest,
        /// What is wrong.
        source: InvalidPath,
    },
    /// The source of the bytes failed.
    #[error("layer {layer} could not be read on: {reason}; try again")]
    Source {
        /// The blob.
        layer: ImageDigest,
        /// What the source said.
        reason: String,
    },
}
