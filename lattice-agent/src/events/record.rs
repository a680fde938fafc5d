//! Records of the ring buffer, from bytes. The other side may be of another release: nothing is taken on trust.

use lattice_common::{
    abi::{
        ANCESTOR_NAME_BYTES, CgroupRecord, DigestWords, ExecRecord, RECORD_ANCESTORS, RECORD_ARGUMENTS,
        RECORD_ARGV_BYTES, RECORD_NAME_BYTES, RECORD_PATH_BYTES, record_flag, record_kind,
    },
    verdict::{Effect, Membership, Mode, Origin, Reason, Role},
};

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another length than its kind has.
    #[error("a record of kind {kind} has {found} bytes instead of {needed}")]
    Length {
        /// Its kind.
        kind: u32,
        /// Bytes that came.
        found: usize,
        /// Bytes that its kind has.
        needed: usize,
    },
    /// Too short for a kind.
    #[error("a record of {0} bytes is too short to have a kind")]
    Empty(usize),
    /// No kind of this release.
    #[error("no record of this release has kind {0}")]
    Kind(u32),
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A judged file.
    Exec(Box<JudgedFile>),
    /// A cgroup that was made (or removed).
    Cgroup {
        /// Its id.
        cgroup_id: u64,
        /// Whether it was made rather than removed.
        made: bool,
    },
}

/// What the kernel side wrote of a judged file; field by field as in [`ExecRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented at ExecRecord")]
pub struct JudgedFile {
    pub hook: u32,
    pub sequence: u64,
    pub time_boot_nanos: u64,
    pub cgroup_id: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub digest: DigestWords,
    pub generation: u64,
    pub start_boot_nanos: u64,
    pub device: u32,
    pub file_system: u32,
    pub membership: Membership,
    pub mode: Mode,
    pub effect: Effect,
    pub reason: Reason,
    pub role: Role,
    pub origin: Origin,
    pub flags: u32,
    pub signal_result: i32,
    pub container: u32,
    pub epoch: u32,
    pub policy: u32,
    pub entry: u32,
    pub pid: u32,
    pub parent_pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// The resolved path; `None` where the kernel could not give it.
    pub path: Option<Vec<u8>>,
    /// The path as passed.
    pub name: Option<Vec<u8>>,
    /// The arguments; `None` where they could not be had.
    pub argv: Option<Vec<Vec<u8>>>,
    pub session: u32,
    pub comm: Vec<u8>,
    /// Nearest first.
    pub ancestors: Vec<Ancestor>,
}

/// A process above the judged one, as the kernel side saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Thread group id.
    pub pid: u32,
    /// When it started, on the boot clock.
    pub start_boot_nanos: u64,
    /// File name of its executable; empty where it has none.
    pub name: Vec<u8>,
}

/// Reads the fields in their order.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn take<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        // The length was checked against the record's own before the first field is read.
        let (head, rest) = self
            .bytes
            .split_first_chunk::<BYTES>()
            .map_or(([0; BYTES], &[][..]), |(head, rest)| (*head, rest));
        self.bytes = rest;
        head
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn long(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    fn ancestor(&mut self) -> Ancestor {
        let start_boot_nanos = self.long();
        let [pid, name_length] = std::array::from_fn(|_| self.word());
        let name: [u8; ANCESTOR_NAME_BYTES] = self.take();
        Ancestor {
            pid,
            start_boot_nanos,
            name: name.get(..name_length as usize).unwrap_or(&name).to_vec(),
        }
    }
}

/// Decodes one record.
///
/// # Errors
/// When the kind or the length is not one of this release.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let kind = bytes
        .first_chunk::<4>()
        .map(|kind| u32::from_ne_bytes(*kind))
        .ok_or(RecordError::Empty(bytes.len()))?;
    let needed = match kind {
        record_kind::EXEC => size_of::<ExecRecord>(),
        record_kind::CGROUP => size_of::<CgroupRecord>(),
        _ => return Err(RecordError::Kind(kind)),
    };
    if bytes.len() != needed {
        return Err(RecordError::Length {
            kind,
            found: bytes.len(),
            needed,
        });
    }
    let mut cursor = Cursor { bytes };
    cursor.word();
    if kind == record_kind::CGROUP {
        let made = cursor.word() == 1;
        return Ok(Record::Cgroup {
            cgroup_id: cursor.long(),
            made,
        });
    }
    let hook = cursor.word();
    let [sequence, time_boot_nanos, cgroup_id, inode, size_bytes] = std::array::from_fn(|_| cursor.long());
    let digest = std::array::from_fn(|_| cursor.long());
    let [generation, start_boot_nanos] = std::array::from_fn(|_| cursor.long());
    let [
        device,
        file_system,
        membership,
        mode,
        effect,
        reason,
        role,
        origin,
        flags,
    ] = std::array::from_fn(|_| cursor.word());
    let signal_result = cursor.word().cast_signed();
    let [container, epoch, policy, entry, pid, parent_pid, uid, gid] = std::array::from_fn(|_| cursor.word());
    let [path_length, name_length] = std::array::from_fn(|_| cursor.word().cast_signed());
    let [argv_length, ancestor_count, session, _reserved] = std::array::from_fn(|_| cursor.word());
    let comm: [u8; 16] = cursor.take();
    let path: [u8; RECORD_PATH_BYTES] = cursor.take();
    let name: [u8; RECORD_NAME_BYTES] = cursor.take();
    let argv: [u8; RECORD_ARGV_BYTES] = cursor.take();
    let ancestors: [Ancestor; RECORD_ANCESTORS] = std::array::from_fn(|_| cursor.ancestor());
    Ok(Record::Exec(Box::new(JudgedFile {
        hook,
        sequence,
        time_boot_nanos,
        cgroup_id,
        inode,
        size_bytes,
        digest,
        generation,
        start_boot_nanos,
        device,
        file_system,
        membership: Membership(membership),
        mode: Mode(mode),
        effect: Effect(effect),
        reason: Reason(reason),
        role: Role(role),
        origin: Origin(origin),
        flags,
        signal_result,
        container,
        epoch,
        policy,
        entry,
        pid,
        parent_pid,
        uid,
        gid,
        path: text(&path, path_length),
        name: text(&name, name_length),
        argv: (flags & record_flag::ARGV != 0).then(|| texts(&argv, argv_length)),
        session,
        comm: comm.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
        ancestors: ancestors.into_iter().take(ancestor_count as usize).collect(),
    })))
}

/// Texts that each end with a zero, in the first `length` bytes.
fn texts(bytes: &[u8], length: u32) -> Vec<Vec<u8>> {
    let used = bytes.get(..length as usize).unwrap_or(bytes);
    let Some(used) = used.strip_suffix(&[0]).or((!used.is_empty()).then_some(used)) else {
        return Vec::new();
    };
    used.split(|&byte| byte == 0)
        .take(RECORD_ARGUMENTS as usize)
        .map(<[u8]>::to_vec)
        .collect()
}

fn text(bytes: &[u8], length: i32) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|&length| length > 0)?;
    bytes.get(..length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use lattice_common::abi::AncestorRecord;

    use super::*;

    #[test]
    fn a_cgroup_record_is_read() {
        let mut bytes = Vec::new();
        bytes.extend(record_kind::CGROUP.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        assert_eq!(
            decode(&bytes),
            Ok(Record::Cgroup {
                cgroup_id: 77,
                made: true
            })
        );
    }

    #[test]
    fn fields_are_read_in_the_order_of_the_layout() {
        let mut bytes = vec![0; size_of::<ExecRecord>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(std::mem::offset_of!(ExecRecord, kind), &record_kind::EXEC.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, sequence), &5u64.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, reason), &Reason::ROLE.0.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, signal_result), &(-16i32).to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, gid), &42u32.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, path_length), &4i32.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, name_length), &(-1i32).to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, comm), b"sh\0junk");
        put(std::mem::offset_of!(ExecRecord, path), b"/a/bjunk");
        put(
            std::mem::offset_of!(ExecRecord, flags),
            &record_flag::ARGV.to_ne_bytes(),
        );
        put(std::mem::offset_of!(ExecRecord, argv), b"one\0\0\xff\x1b\0junk");
        put(std::mem::offset_of!(ExecRecord, argv_length), &8u32.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, session), &9u32.to_ne_bytes());
        put(std::mem::offset_of!(ExecRecord, ancestor_count), &1u32.to_ne_bytes());
        let ancestor = std::mem::offset_of!(ExecRecord, ancestors);
        put(
            ancestor + std::mem::offset_of!(AncestorRecord, pid),
            &7u32.to_ne_bytes(),
        );
        put(
            ancestor + std::mem::offset_of!(AncestorRecord, name_length),
            &2u32.to_ne_bytes(),
        );
        put(ancestor + std::mem::offset_of!(AncestorRecord, name), b"shjunk");
        let Ok(Record::Exec(record)) = decode(&bytes) else {
            panic!("not an exec record")
        };
        assert_eq!(
            (record.sequence, record.reason, record.signal_result, record.gid),
            (5, Reason::ROLE, -16, 42)
        );
        assert_eq!((record.path, record.name), (Some(b"/a/b".to_vec()), None));
        assert_eq!(record.comm, b"sh");
        assert_eq!(
            record.argv,
            Some(vec![b"one".to_vec(), Vec::new(), b"\xff\x1b".to_vec()])
        );
        assert_eq!(record.session, 9);
        let parent = Ancestor {
            pid: 7,
            start_boot_nanos: 0,
            name: b"sh".to_vec(),
        };
        assert_eq!(record.ancestors, [parent]);
    }

    #[test]
    fn arguments_end_where_their_length_says() {
        let check = |bytes: &[u8], length: u32, expected: &[&[u8]]| {
            assert_eq!(texts(bytes, length), expected, "{bytes:?} {length}");
        };
        check(b"a\0b\0", 0, &[]);
        check(b"a\0b\0", 2, &[b"a"]);
        check(b"a\0b\0", 4, &[b"a", b"b"]);
        check(b"\0\0", 2, &[b"", b""]);
        check(b"\0", 1, &[b""]);
        // A length that no kernel writes.
        check(b"ab", u32::MAX, &[b"ab"]);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, kind in 0u32..4) {
            let mut with_kind = kind.to_ne_bytes().to_vec();
            with_kind.extend(&bytes);
            let _ = decode(&with_kind);
            let mut sized = vec![0xff; size_of::<ExecRecord>()];
            sized[..4].copy_from_slice(&record_kind::EXEC.to_ne_bytes());
            for (at, byte) in bytes.iter().enumerate() {
                if let Some(slot) = sized.get_mut(4 + at * 7) {
                    *slot = *byte;
                }
            }
            prop_assert!(decode(&sized).is_ok());
        }
    }
}
