//! The archive's headers, one after the other. Fields are decoded by the `tar` crate; blocks, extension headers and limits
//! are walked here, since the crate reads extension headers of any size into memory.

use std::{borrow::Cow, io::Read};

use lattice_policy::{FilePath, ImageDigest};
use tar::{EntryType, Header};

use super::{LayerError, ScanLimits, stream::LayerStream};

const BLOCK_BYTES: usize = 512;
const DATA_BUFFER_BYTES: usize = 64 * 1024;
/// Largest size that the header's eleven octal digits hold.
const OCTAL_SIZE_MAX: u64 = 0o77_777_777_777;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    /// A device, a pipe.
    Other,
    /// A file whose stored bytes are not its content.
    Sparse,
}

/// One entry; its data follows on the tape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) size_bytes: u64,
    pub(super) mode: u32,
    pub(super) capabilities: bool,
}

/// What extension headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    capabilities: bool,
    sparse: bool,
}

pub(super) struct Tape<R: Read> {
    stream: LayerStream<R>,
    limits: ScanLimits,
    entries: u64,
    /// Data and padding of the last entry that were not read yet.
    unread_bytes: u64,
    padding_bytes: u64,
    /// For messages about what has no name of its own.
    last_name: Vec<u8>,
    buffer: Vec<u8>,
}

impl<R: Read> Tape<R> {
    pub(super) fn new(stream: LayerStream<R>, limits: ScanLimits) -> Self {
        let (last_name, buffer) = (Vec::new(), vec![0; DATA_BUFFER_BYTES]);
        Self {
            stream,
            limits,
            entries: 0,
            unread_bytes: 0,
            padding_bytes: 0,
            last_name,
            buffer,
        }
    }

    pub(super) fn into_stream(self) -> LayerStream<R> {
        self.stream
    }

    pub(super) fn layer(&self) -> ImageDigest {
        self.stream.layer()
    }

    pub(super) fn malformed(&self, entry: &[u8], reason: String) -> LayerError {
        let mut entry = entry.to_vec();
        entry.truncate(256);
        LayerError::Malformed {
            layer: self.layer(),
            entry: FilePath::from_bytes(entry),
            reason,
        }
    }

    pub(super) fn too_large(&self, what: &'static str, limit: u64) -> LayerError {
        LayerError::TooLarge {
            layer: self.layer(),
            what,
            limit,
        }
    }

    /// The next entry; `None` at the archive's end.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip(self.unread_bytes)?;
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.read_block()? else {
                return Ok(None);
            };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.too_large("archive entries", self.limits.entries));
            }
            let header = Header::from_byte_slice(&block);
            self.check_sum(&block, header)?;
            let size = header
                .entry_size()
                .map_err(|error| self.malformed(&self.last_name, error.to_string()))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.long_name = Some(self.read_name(size)?),
                EntryType::GNULongLink => extensions.long_link = Some(self.read_name(size)?),
                EntryType::XHeader => {
                    let records = self.read_extension(size)?;
                    self.read_pax(&records, &mut extensions)?;
                }
                EntryType::XGlobalHeader => {
                    let records = self.read_extension(size)?;
                    let mut global = Extensions::default();
                    self.read_pax(&records, &mut global)?;
                    if global.path.is_some()
                        || global.link_path.is_some()
                        || global.size_bytes.is_some()
                        || global.sparse
                    {
                        return Err(
                            self.malformed(&self.last_name, "a global header changes path, link or size".into())
                        );
                    }
                }
                _ => return self.entry(header, size, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, header_size: u64, extensions: Extensions) -> Result<Entry, LayerError> {
        let name = match extensions.path.or(extensions.long_name) {
            Some(name) => Cow::Owned(name),
            None => header.path_bytes(),
        };
        self.last_name = name.to_vec();
        let size_bytes = match extensions.size_bytes {
            None => header_size,
            Some(size) if size == header_size || size > OCTAL_SIZE_MAX => size,
            Some(size) => {
                // Two readers would see two archives.
                return Err(self.malformed(
                    &name,
                    format!("its size is {header_size} in one header and {size} in another"),
                ));
            }
        };
        let mode = header
            .mode()
            .map_err(|error| self.malformed(&name, error.to_string()))?
            & 0o7777;
        let link = extensions
            .link_path
            .or(extensions.long_link)
            .or_else(|| header.link_name_bytes().map(Cow::into_owned))
            .unwrap_or_default();
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous if extensions.sparse => EntryKind::Sparse,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(link),
            EntryType::Link => EntryKind::HardLink(link),
            EntryType::Char | EntryType::Block | EntryType::Fifo => EntryKind::Other,
            EntryType::GNUSparse => {
                self.skip_sparse_maps(header)?;
                EntryKind::Sparse
            }
            other => {
                return Err(self.malformed(
                    &name,
                    format!("entry type {:?} is not supported", char::from(other.as_byte())),
                ));
            }
        };
        // Only files have data; the size that other types may carry is not followed by any (Go's archive/tar agrees).
        let has_data = matches!(kind, EntryKind::File | EntryKind::Sparse);
        let size_bytes = if has_data { size_bytes } else { 0 };
        self.unread_bytes = size_bytes;
        self.padding_bytes = padding(size_bytes);
        Ok(Entry {
            name: name.into_owned(),
            kind,
            size_bytes,
            mode,
            capabilities: extensions.capabilities,
        })
    }

    /// Hands the entry's data over in pieces.
    pub(super) fn read_data(&mut self, size_bytes: u64, mut take: impl FnMut(&[u8])) -> Result<(), LayerError> {
        let mut left = size_bytes;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut done = Ok(());
        while left > 0 && done.is_ok() {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match self.stream.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    done = Err(self.malformed(&self.last_name, format!("the archive ends {left} bytes before its end")))
                }
                Ok(count) => {
                    take(&buffer[..count]);
                    left -= count as u64;
                }
                Err(error) => done = Err(error),
            }
        }
        self.buffer = buffer;
        done?;
        self.unread_bytes -= size_bytes.min(self.unread_bytes);
        if self.unread_bytes == 0 {
            let padding = std::mem::take(&mut self.padding_bytes);
            let mut block = [0; BLOCK_BYTES];
            // Padding is less than a block.
            self.read_exactly(&mut block[..padding as usize])?;
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, size_bytes: u64) -> Result<(), LayerError> {
        if size_bytes == 0 && self.padding_bytes == 0 {
            return Ok(());
        }
        self.read_data(size_bytes, |_| {})
    }

    fn read_exactly(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..])? {
                0 => return Err(self.malformed(&self.last_name, "the archive ends in the middle of a block".into())),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// `None` where the archive ends at a block's border.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, LayerError> {
        let mut block = [0; BLOCK_BYTES];
        let count = self.stream.read(&mut block)?;
        if count == 0 {
            return Ok(None);
        }
        self.read_exactly(&mut block[count..])?;
        Ok(Some(block))
    }

    fn check_sum(&self, block: &[u8; BLOCK_BYTES], header: &Header) -> Result<(), LayerError> {
        let invalid = |reason: String| self.malformed(&self.last_name, format!("the header after it {reason}"));
        let written = header
            .cksum()
            .map_err(|error| invalid(format!("has no checksum: {error}")))?;
        let byte = |(index, byte): (usize, &u8)| if (148..156).contains(&index) { b' ' } else { *byte };
        let unsigned: u32 = block.iter().enumerate().map(byte).map(u32::from).sum();
        // Some old writers summed signed bytes.
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(byte)
            .map(|byte| i64::from(byte.cast_signed()))
            .sum();
        if written == unsigned || i64::from(written) == signed {
            Ok(())
        } else {
            Err(invalid("has a wrong checksum".into()))
        }
    }

    fn read_extension(&mut self, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        if size_bytes > self.limits.extension_bytes {
            return Err(self.too_large("bytes of one extension header", self.limits.extension_bytes));
        }
        self.unread_bytes = size_bytes;
        self.padding_bytes = padding(size_bytes);
        let mut bytes = Vec::new();
        self.read_data(size_bytes, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    fn read_name(&mut self, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.read_extension(size_bytes)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// `LENGTH KEY=VALUE\n`, where LENGTH counts all of it (POSIX.1-2001, pax, "pax Extended Header").
    fn read_pax(&self, mut records: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
        let invalid = |reason: &str| self.malformed(&self.last_name, format!("the PAX header after it {reason}"));
        while !records.is_empty() {
            let blank = records
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(|| invalid("has no length"))?;
            let length = std::str::from_utf8(&records[..blank])
                .ok()
                .and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length > blank + 1 && *length <= records.len());
            let length = length.ok_or_else(|| invalid("has a wrong length"))?;
            let (record, rest) = records.split_at(length);
            records = rest;
            let record = record[blank + 1..]
                .strip_suffix(b"\n")
                .ok_or_else(|| invalid("has a record without an end"))?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(|| invalid("has a record without \"=\""))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.link_path = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    extensions.size_bytes = Some(size.ok_or_else(|| invalid("has a size that is no number"))?);
                }
                b"SCHILY.xattr.security.capability" => extensions.capabilities = true,
                _ if key.starts_with(b"GNU.sparse.") => extensions.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Old GNU sparse files carry more maps in blocks between header and data.
    fn skip_sparse_maps(&mut self, header: &Header) -> Result<(), LayerError> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while more {
            let Some(block) = self.read_block()? else {
                return Err(self.malformed(&self.last_name, "its sparse map does not end".into()));
            };
            // 21 pairs of 24 bytes, then one byte that says whether more follow.
            more = block[504] != 0;
        }
        Ok(())
    }
}

fn padding(size_bytes: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - size_bytes % block) % block
}
