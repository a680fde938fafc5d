//! Field offsets from the running kernel's BTF.
//!
//! Reads `/sys/kernel/btf/vmlinux` in place: a table of type positions and the raw bytes, a few MiB that are freed once the offsets are
//! known. Format: <https://docs.kernel.org/bpf/btf.html>.

use std::path::Path;

/// Why BTF could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read the kernel's type information {path}; Lattice needs CONFIG_DEBUG_INFO_BTF")]
    Read {
        /// Where it was looked for.
        path: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no BTF of this machine's byte order.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
    /// A structure that every supported kernel has.
    #[error("the kernel's BTF has no struct {0}")]
    NoStruct(&'static str),
    /// A field that every supported kernel has.
    #[error("the kernel's struct {structure} has no field {field}")]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Where a field lies in its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset in bits.
    pub offset_bits: u32,
    /// Width in bits of a bit field; 0 for an ordinary field.
    pub width_bits: u32,
    type_id: u32,
}

impl Field {
    /// Offset in bytes; for a bit field, of the byte that holds its first bit.
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.offset_bits / 8)
    }
}

/// The types of one kernel.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type's header in `data`; type 0 is void and has none.
    types: Vec<u32>,
}

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
/// Typedefs and qualifiers that are followed before a type counts as malformed.
const INDIRECTIONS: usize = 16;

mod kind {
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const INT: u32 = 1;
}

impl Btf {
    /// Reads a BTF file.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(data)
    }

    /// Reads BTF from memory.
    ///
    /// # Errors
    /// When a header, a type or a string lies outside `data`, or the byte order is another machine's.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| read_word(&data, at).ok_or(BtfError::Malformed("truncated header"));
        if data.get(..2).map(|magic| u16::from_ne_bytes([magic[0], magic[1]])) != Some(MAGIC) {
            return Err(BtfError::Malformed("no BTF magic of this byte order"));
        }
        let header = word(4)? as usize;
        if header < HEADER_BYTES {
            return Err(BtfError::Malformed("header is too short"));
        }
        let section = |offset: u32, length: u32| -> Result<(usize, usize), BtfError> {
            let start = header
                .checked_add(offset as usize)
                .ok_or(BtfError::Malformed("section out of range"))?;
            let end = start
                .checked_add(length as usize)
                .ok_or(BtfError::Malformed("section out of range"))?;
            if end > data.len() {
                Err(BtfError::Malformed("section out of range"))
            } else {
                Ok((start, end))
            }
        };
        let (types_start, types_end) = section(word(8)?, word(12)?)?;
        let (strings, _) = section(word(16)?, word(20)?)?;
        let mut types = vec![0];
        let mut at = types_start;
        while at < types_end {
            types.push(u32::try_from(at).map_err(|_| BtfError::Malformed("larger than 4 GiB"))?);
            let info = read_word(&data, at + 4).ok_or(BtfError::Malformed("truncated type"))?;
            at += TYPE_BYTES + trailer_bytes(info).ok_or(BtfError::Malformed("a kind of type that is not known"))?;
        }
        Ok(Self { data, strings, types })
    }

    /// The size of a structure in bytes.
    ///
    /// # Errors
    /// When there is no such structure.
    pub fn size_of(&self, structure: &'static str) -> Result<u64, BtfError> {
        let at = self.position_of(structure)?;
        read_word(&self.data, at + 8)
            .map(u64::from)
            .ok_or(BtfError::Malformed("truncated type"))
    }

    /// Where a field lies; fields of anonymous members count as the structure's own.
    ///
    /// # Errors
    /// When there is no such structure or field.
    pub fn field(&self, structure: &'static str, field: &'static str) -> Result<Field, BtfError> {
        self.find_field(self.position_of(structure)?, field, 0)?
            .ok_or(BtfError::NoField { structure, field })
    }

    /// Whether an array field's elements are pointers.
    ///
    /// # Errors
    /// When there is no such structure or field.
    pub fn is_array_of_pointers(&self, structure: &'static str, field: &'static str) -> Result<bool, BtfError> {
        let position = self.resolve(self.field(structure, field)?.type_id)?;
        if self.kind(position)? != kind::ARRAY {
            return Ok(false);
        }
        let element = read_word(&self.data, position + TYPE_BYTES).ok_or(BtfError::Malformed("truncated type"))?;
        Ok(self.kind(self.resolve(element)?)? == kind::PTR)
    }

    fn position_of(&self, structure: &'static str) -> Result<usize, BtfError> {
        for &position in self.types.iter().skip(1) {
            let position = position as usize;
            if self.kind(position)? == kind::STRUCT && self.name(position)? == structure.as_bytes() {
                return Ok(position);
            }
        }
        Err(BtfError::NoStruct(structure))
    }

    fn find_field(&self, position: usize, name: &str, depth: usize) -> Result<Option<Field>, BtfError> {
        if depth > INDIRECTIONS {
            return Err(BtfError::Malformed("members nested too deeply"));
        }
        let word = |at: usize| read_word(&self.data, at).ok_or(BtfError::Malformed("truncated member"));
        let info = word(position + 4)?;
        let has_bit_fields = info >> 31 == 1;
        for member in 0..(info & 0xffff) as usize {
            let at = position + TYPE_BYTES + member * 12;
            let (name_at, type_id, offset) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let (width_bits, offset_bits) = if has_bit_fields {
                (offset >> 24, offset & 0xff_ffff)
            } else {
                (0, offset)
            };
            let member_name = self.string(name_at)?;
            if member_name == name.as_bytes() {
                return Ok(Some(Field {
                    offset_bits,
                    width_bits,
                    type_id,
                }));
            }
            if member_name.is_empty() {
                let inner = self.resolve(type_id)?;
                if matches!(self.kind(inner)?, kind::STRUCT | kind::UNION)
                    && let Some(found) = self.find_field(inner, name, depth + 1)?
                {
                    let offset_bits = offset_bits + found.offset_bits;
                    return Ok(Some(Field { offset_bits, ..found }));
                }
            }
        }
        Ok(None)
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut type_id: u32) -> Result<usize, BtfError> {
        for _ in 0..INDIRECTIONS {
            let position = *self
                .types
                .get(type_id as usize)
                .ok_or(BtfError::Malformed("type id out of range"))? as usize;
            if type_id == 0 {
                return Err(BtfError::Malformed("void where a type is needed"));
            }
            match self.kind(position)? {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    type_id = read_word(&self.data, position + 8).ok_or(BtfError::Malformed("truncated type"))?;
                }
                _ => return Ok(position),
            }
        }
        Err(BtfError::Malformed("typedefs nested too deeply"))
    }

    fn kind(&self, position: usize) -> Result<u32, BtfError> {
        read_word(&self.data, position + 4)
            .map(|info| info >> 24 & 0x1f)
            .ok_or(BtfError::Malformed("truncated type"))
    }

    fn name(&self, position: usize) -> Result<&[u8], BtfError> {
        self.string(read_word(&self.data, position).ok_or(BtfError::Malformed("truncated type"))?)
    }

    fn string(&self, offset: u32) -> Result<&[u8], BtfError> {
        let text = self
            .data
            .get(self.strings + offset as usize..)
            .ok_or(BtfError::Malformed("string out of range"))?;
        let end = text
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(BtfError::Malformed("unterminated string"))?;
        Ok(&text[..end])
    }
}

fn read_word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

/// Bytes that follow a type's header.
fn trailer_bytes(info: u32) -> Option<usize> {
    let elements = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => elements * 12,
        kind::ENUM | kind::FUNC_PROTO => elements * 8,
        kind::PTR | 7..=12 | 16 | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct s { int a; union { int b; }; unsigned c:1; }` and `struct t { struct s *p[4]; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0c\0t\0p\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, kind::INT << 24, 4, 32]); // 1: int
        types.extend([0, kind::UNION << 24 | 1, 4, 9, 1, 0]); // 2: union { int b }
        types.extend([
            5,
            1 << 31 | kind::STRUCT << 24 | 3,
            12,
            7,
            1,
            0,
            0,
            2,
            32,
            11,
            1,
            1 << 24 | 66,
        ]); // 3: s
        types.extend([0, kind::PTR << 24, 3]); // 4: s *
        types.extend([0, kind::ARRAY << 24, 0, 4, 1, 4]); // 5: s *[4]
        types.extend([13, kind::STRUCT << 24 | 1, 32, 15, 5, 0]); // 6: t
        let type_bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        for word in [HEADER_BYTES, 0, type_bytes.len(), type_bytes.len(), strings.len()] {
            data.extend(u32::try_from(word).unwrap().to_ne_bytes());
        }
        data.extend(type_bytes);
        data.extend(strings);
        data
    }

    #[test]
    fn finds_plain_anonymous_and_bit_fields() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.field("s", "a").unwrap().offset_bytes(), 0);
        assert_eq!(btf.field("s", "b").unwrap().offset_bytes(), 4);
        let bit = btf.field("s", "c").unwrap();
        assert_eq!((bit.offset_bits, bit.width_bits), (66, 1));
        assert_eq!(btf.size_of("s").unwrap(), 12);
        assert!(btf.is_array_of_pointers("t", "p").unwrap());
        assert!(matches!(btf.field("s", "z"), Err(BtfError::NoField { .. })));
        assert!(matches!(btf.field("z", "a"), Err(BtfError::NoStruct("z"))));
    }

    proptest! {
        #[test]
        fn damage_never_panics(position in 0..200usize, value: u8, cut in 0..250usize) {
            let mut data = sample();
            if let Some(byte) = data.get_mut(position) {
                *byte = value;
            }
            data.truncate(cut);
            if let Ok(btf) = Btf::parse(data) {
                let _ = btf.field("s", "c");
                let _ = btf.is_array_of_pointers("t", "p");
            }
        }
    }
}
