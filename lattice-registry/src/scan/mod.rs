//! Reads one layer as a stream, once, and keeps what a derivation needs of it. Nothing is written to disk.
//!
//! ```text
//!   bytes ─► counted, hashed ─► gunzip │ unzstd ─► counted, hashed ─► tar headers ─► LayerBuilder ─► LayerSummary
//!              size, digest                          diff_id, caps        file's bytes ─► probe: SHA-256, ELF, #!
//! ```
//!
//! The summary is handed out only after size, digest and diff_id were right.

mod elf;
mod error;
mod probe;
mod stream;
mod tape;

use std::io::Read;

use lattice_derive::{DiffId, LayerBuilder, LayerSummary};
use lattice_policy::FilePath;

pub use error::LayerError;
pub use stream::Compression;

use probe::FileProbe;
use stream::LayerStream;
use tape::{Entry, EntryKind, Tape};

/// What one layer may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanLimits {
    /// Archive headers, extension headers included.
    pub entries: u64,
    /// Bytes of the uncompressed archive.
    pub uncompressed_bytes: u64,
    /// Uncompressed bytes for one compressed byte, looked at beyond [`Self::ratio_free_bytes`].
    pub ratio: u64,
    /// Up to here any ratio is fine.
    pub ratio_free_bytes: u64,
    /// Bytes of one extension header (PAX, GNU long name).
    pub extension_bytes: u64,
    /// Bytes of names and keys that are kept.
    pub kept_bytes: usize,
    /// Bytes of scripts' text that are kept.
    pub script_bytes: usize,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            uncompressed_bytes: 32 << 30,
            ratio: 500,
            ratio_free_bytes: 256 << 20,
            extension_bytes: 1 << 20,
            kept_bytes: 128 << 20,
            script_bytes: 16 << 20,
        }
    }
}

/// What the manifest and the configuration say about a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// SHA-256 of the blob, as the manifest has it.
    pub digest: lattice_policy::ImageDigest,
    /// Size of the blob in bytes, as the manifest has it.
    pub size_bytes: u64,
    /// By its media type.
    pub compression: Compression,
    /// SHA-256 of the uncompressed archive, as the configuration has it.
    pub diff_id: DiffId,
}

/// Reads a layer to its end.
///
/// # Errors
/// When the blob is not what `descriptor` says, is no archive that can be read, or exceeds `limits`.
pub fn scan_layer(
    blob: impl Read,
    descriptor: &LayerDescriptor,
    limits: &ScanLimits,
) -> Result<LayerSummary, LayerError> {
    let stream = LayerStream::open(blob, descriptor, limits)?;
    let mut tape = Tape::new(stream, limits.clone());
    match read_archive(&mut tape, limits) {
        Ok(builder) => {
            tape.into_stream().finish()?;
            Ok(builder.finish(descriptor.diff_id))
        }
        Err(error) => Err(tape.into_stream().explain(error)),
    }
}

fn read_archive<R: Read>(tape: &mut Tape<R>, limits: &ScanLimits) -> Result<LayerBuilder, LayerError> {
    let mut layer = LayerBuilder::new();
    let mut script_bytes_left = limits.script_bytes;
    while let Some(entry) = tape.next_entry()? {
        if is_table_of_contents(&entry.name) {
            tape.skip(entry.size_bytes)?;
            continue;
        }
        put(tape, &mut layer, &entry, &mut script_bytes_left)?;
        if layer.kept_bytes() > limits.kept_bytes {
            let limit = limits.kept_bytes as u64;
            return Err(tape.too_large("the names of its files", limit));
        }
    }
    Ok(layer)
}

fn put<R: Read>(
    tape: &mut Tape<R>,
    layer: &mut LayerBuilder,
    entry: &Entry,
    script_bytes_left: &mut usize,
) -> Result<(), LayerError> {
    let name = entry.name.as_slice();
    let done = match &entry.kind {
        EntryKind::Directory => layer.directory(name),
        EntryKind::Symlink(target) => layer.symlink(name, target),
        EntryKind::HardLink(target) => layer.hard_link(name, target),
        EntryKind::Other => layer.other(name),
        EntryKind::Sparse if entry.mode & 0o111 != 0 => {
            return Err(tape.malformed(
                name,
                "it is an executable stored as a sparse file, which cannot be hashed".into(),
            ));
        }
        EntryKind::Sparse => {
            tape.skip(entry.size_bytes)?;
            layer.other(name)
        }
        EntryKind::File => {
            let mut probe = FileProbe::new(
                name,
                entry.mode,
                entry.size_bytes,
                entry.capabilities,
                *script_bytes_left,
            );
            tape.read_data(entry.size_bytes, |bytes| probe.take(bytes))?;
            match probe.finish() {
                Some(facts) => {
                    *script_bytes_left -= probe::text_bytes(&facts).min(*script_bytes_left);
                    layer.file(name, facts)
                }
                None => layer.other(name),
            }
        }
    };
    done.map_err(|source| LayerError::Path {
        layer: tape.layer(),
        source,
    })
}

/// eStargz's own entries, which no runtime shows.
fn is_table_of_contents(name: &[u8]) -> bool {
    let path = FilePath::from_bytes(name);
    let name = path.as_bytes().strip_prefix(b"./").unwrap_or(path.as_bytes());
    matches!(
        name,
        b"stargz.index.json" | b".prefetch.landmark" | b".no.prefetch.landmark"
    )
}

#[cfg(test)]
mod tests;
