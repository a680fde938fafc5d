//! The bytes of a layer, counted, hashed, decompressed and bounded.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lattice_derive::DiffId;
use lattice_policy::ImageDigest;
use sha2::{Digest, Sha256};

use super::{LayerDescriptor, LayerError, ScanLimits};

/// Largest window of a zstd frame, as a power of two: 32 MiB. Level 19 needs 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
const BUFFER_BYTES: usize = 64 * 1024;

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames, skippable ones included.
    Zstd,
}

/// The blob as it comes.
struct Blob<R> {
    source: R,
    hasher: Sha256,
    received_bytes: u64,
    expected_bytes: u64,
    /// The source said more than the manifest does.
    too_long: bool,
    /// What the source failed with.
    failure: Option<String>,
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error.to_string());
                    return Err(error);
                }
                Ok(count) => break count,
            }
        };
        self.received_bytes += count as u64;
        if self.received_bytes > self.expected_bytes {
            self.too_long = true;
            return Err(io::Error::other("longer than its descriptor says"));
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

enum Decoder<R: Read> {
    None(BufReader<Blob<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Blob<R>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Blob<R>>>>),
}

impl<R: Read> Decoder<R> {
    fn buffered(&mut self) -> &mut BufReader<Blob<R>> {
        match self {
            Self::None(buffered) => buffered,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// A layer's uncompressed archive.
pub(super) struct LayerStream<R: Read> {
    decoder: Decoder<R>,
    hasher: Sha256,
    uncompressed_bytes: u64,
    descriptor: LayerDescriptor,
    limits: ScanLimits,
}

impl<R: Read> LayerStream<R> {
    pub(super) fn open(source: R, descriptor: &LayerDescriptor, limits: &ScanLimits) -> Result<Self, LayerError> {
        let blob = Blob {
            source,
            hasher: Sha256::new(),
            received_bytes: 0,
            expected_bytes: descriptor.size_bytes,
            too_long: false,
            failure: None,
        };
        let buffered = BufReader::with_capacity(BUFFER_BYTES, blob);
        let decoder = match descriptor.compression {
            Compression::None => Decoder::None(buffered),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(buffered))),
            Compression::Zstd => {
                let compression = |error: io::Error| LayerError::Compression {
                    layer: descriptor.digest,
                    reason: error.to_string(),
                };
                let mut decoder = zstd::Decoder::with_buffer(buffered).map_err(compression)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(compression)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        let (descriptor, limits) = (descriptor.clone(), limits.clone());
        Ok(Self {
            decoder,
            hasher: Sha256::new(),
            uncompressed_bytes: 0,
            descriptor,
            limits,
        })
    }

    pub(super) fn layer(&self) -> ImageDigest {
        self.descriptor.digest
    }

    /// Some bytes of the archive; none at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let read = match &mut self.decoder {
            Decoder::None(buffered) => buffered.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        };
        let count = read.map_err(|error| LayerError::Compression {
            layer: self.layer(),
            reason: error.to_string(),
        })?;
        self.hasher.update(&buffer[..count]);
        self.uncompressed_bytes += count as u64;
        let too_large = |what, limit| LayerError::TooLarge {
            layer: self.descriptor.digest,
            what,
            limit,
        };
        if self.uncompressed_bytes > self.limits.uncompressed_bytes {
            return Err(too_large("uncompressed bytes", self.limits.uncompressed_bytes));
        }
        if self.uncompressed_bytes > self.limits.ratio_free_bytes {
            let received = self.decoder.buffered().get_ref().received_bytes.max(1);
            if self.uncompressed_bytes / received > self.limits.ratio {
                return Err(too_large(
                    "uncompressed bytes for each compressed one",
                    self.limits.ratio,
                ));
            }
        }
        Ok(count)
    }

    /// Reads what is behind the archive's end, and checks size, digest and diff_id.
    pub(super) fn finish(mut self) -> Result<(), LayerError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
        if let Some(error) = self.blob_error() {
            return Err(error);
        }
        let found = DiffId(self.hasher.finalize().into());
        if found != self.descriptor.diff_id {
            let (layer, expected) = (self.descriptor.digest, self.descriptor.diff_id);
            return Err(LayerError::DiffIdMismatch { layer, expected, found });
        }
        Ok(())
    }

    /// The cause behind an error: bytes that are missing or wrong, where they are; else the error itself.
    pub(super) fn explain(mut self, error: LayerError) -> LayerError {
        match error {
            LayerError::TooLarge { .. } => error,
            _ => self.blob_error().unwrap_or(error),
        }
    }

    /// Reads the blob to its end. `None` where it is what the manifest names.
    fn blob_error(&mut self) -> Option<LayerError> {
        let layer = self.descriptor.digest;
        let expected_bytes = self.descriptor.size_bytes;
        let buffered = self.decoder.buffered();
        while let Ok(bytes) = buffered.fill_buf() {
            let count = bytes.len();
            if count == 0 {
                break;
            }
            buffered.consume(count);
        }
        let blob = buffered.get_ref();
        let received_bytes = blob.received_bytes;
        if blob.too_long {
            return Some(LayerError::TooLong { layer, expected_bytes });
        }
        if let Some(reason) = &blob.failure {
            return Some(LayerError::Source {
                layer,
                reason: reason.clone(),
            });
        }
        if received_bytes < expected_bytes {
            return Some(LayerError::Truncated {
                layer,
                expected_bytes,
                received_bytes,
            });
        }
        let found = ImageDigest(blob.hasher.clone().finalize().into());
        (found != layer).then_some(LayerError::DigestMismatch { layer, found })
    }
}
