//! A fanotify group that is asked before a file is opened for execution.
//!
//! `nix` makes the calls; the events are read here because it drops the records that hold the asking process' descriptor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    sys::fanotify::{
        EventFFlags, FANOTIFY_METADATA_VERSION, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
    },
    unistd::read,
};

/// Bytes of events taken at once: at most 128 events, each of which holds two descriptors.
const BUFFER_BYTES: usize = 4096;
/// Size of `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;

/// The group. Dropping it answers everything that is pending with "allow": so the kernel does it.
#[derive(Debug)]
pub struct Group {
    descriptor: Fanotify,
    /// Ignore marks may be thrown out with their inode: Linux 5.19.
    evictable: AtomicBool,
}

/// One question.
#[derive(Debug)]
pub struct Question {
    /// The file, opened for reading; the question's name in the answer, so it stays open until then.
    pub file: OwnedFd,
    /// The process that opens it; `None` where it has ended or is not to be seen from the agent's PID namespace.
    pub process: Option<OwnedFd>,
    /// Its number, only to be shown or looked up in /proc; 0 where it is not to be seen.
    pub pid: i32,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they were asked.
    pub questions: Vec<Question>,
    /// How often the kernel said that its queue was full.
    pub overflows: u64,
}

impl Group {
    /// Makes a group without marks.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or where the kernel was built without permission events.
    ///
    /// # Minimum kernel version
    /// 5.15
    pub fn open() -> io::Result<Self> {
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_REPORT_PIDFD;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC | EventFFlags::O_NOATIME;
        Ok(Self {
            descriptor: Fanotify::init(flags, files)?,
            evictable: AtomicBool::new(true),
        })
    }

    /// Asks from now on for every file of the file system that is opened for execution, through whichever mount.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        self.mark_file_system(MarkFlags::FAN_MARK_ADD, root)
    }

    /// Asks no more.
    ///
    /// # Errors
    /// `ENOENT` where it was not watched.
    pub fn unwatch(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        self.mark_file_system(MarkFlags::FAN_MARK_REMOVE, root)
    }

    fn mark_file_system(&self, action: MarkFlags, root: BorrowedFd<'_>) -> io::Result<()> {
        let flags = action | MarkFlags::FAN_MARK_FILESYSTEM;
        Ok(self
            .descriptor
            .mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, root, Some("."))?)
    }

    /// Asks no more for this file until it is written to, or ignored files are flushed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ignore(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_IGNORED_MASK;
        let mark = |flags| {
            self.descriptor
                .mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, file, None::<&str>)
        };
        if self.evictable.load(Ordering::Relaxed) {
            match mark(flags | MarkFlags::FAN_MARK_EVICTABLE) {
                Err(Errno::EINVAL) => self.evictable.store(false, Ordering::Relaxed),
                result => return Ok(result?),
            }
        }
        Ok(mark(flags)?)
    }

    /// Asks for every ignored file again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flush_ignored(&self) -> io::Result<()> {
        // Of the three kinds of marks, ignored files alone are marked as inodes.
        let flags = MarkFlags::FAN_MARK_FLUSH | MarkFlags::FAN_MARK_INODE;
        Ok(self
            .descriptor
            .mark(flags, MaskFlags::empty(), nix::fcntl::AT_FDCWD, None::<&str>)?)
    }

    /// Takes what was asked; nothing where nothing was.
    ///
    /// # Errors
    /// When the kernel cannot hand out descriptors (it has then refused the exec by itself), or speaks another version.
    pub fn read(&self) -> io::Result<Batch> {
        let mut buffer = [0; BUFFER_BYTES];
        let length = match read(&self.descriptor, &mut buffer) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Batch::default()),
            Err(error) => return Err(error.into()),
        };
        let mut batch = Batch::default();
        for record in records(&buffer[..length])? {
            match adopt(record.file) {
                Some(file) => batch.questions.push(Question {
                    file,
                    process: adopt(record.process),
                    pid: record.pid,
                }),
                None => batch.overflows += u64::from(record.is_overflow),
            }
        }
        Ok(batch)
    }

    /// Lets the open go on, or fail with EPERM.
    ///
    /// # Errors
    /// When nothing was asked under this descriptor.
    pub fn answer(&self, file: BorrowedFd<'_>, is_allowed: bool) -> io::Result<()> {
        let response = if is_allowed {
            Response::FAN_ALLOW
        } else {
            Response::FAN_DENY
        };
        Ok(self.descriptor.write_response(FanotifyResponse::new(file, response))?)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn adopt(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: every non-negative number in an event is a descriptor that the kernel has opened for this read alone, and `read` takes
    // each from its record once.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// One event as the kernel wrote it; descriptors below 0 are none.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    file: RawFd,
    process: RawFd,
    pid: i32,
    is_overflow: bool,
}

fn records(mut bytes: &[u8]) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = record(bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel's fanotify events are of another version",
            )
        })?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}

fn record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let length = u32::from_ne_bytes(field(bytes, 0)?) as usize;
    let [version] = field(bytes, 4)?;
    let metadata_bytes = usize::from(u16::from_ne_bytes(field(bytes, 6)?));
    if version != FANOTIFY_METADATA_VERSION || metadata_bytes < METADATA_BYTES || length < metadata_bytes {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(length)?;
    let mask = u64::from_ne_bytes(field(event, 8)?);
    let record = Record {
        file: i32::from_ne_bytes(field(event, 16)?),
        process: process(event.get(metadata_bytes..)?),
        pid: i32::from_ne_bytes(field(event, 20)?),
        is_overflow: mask & libc::FAN_Q_OVERFLOW != 0,
    };
    Some((record, rest))
}

/// The process' descriptor out of the records behind an event; -1 where there is none.
fn process(mut information: &[u8]) -> RawFd {
    while let (Some([kind]), Some(length)) = (field(information, 0), field(information, 2).map(u16::from_ne_bytes)) {
        if kind == libc::FAN_EVENT_INFO_TYPE_PIDFD {
            return field(information, 4).map_or(libc::FAN_NOPIDFD, i32::from_ne_bytes);
        }
        match information.get(usize::from(length)..) {
            Some(rest) if length >= 4 => information = rest,
            _ => break,
        }
    }
    libc::FAN_NOPIDFD
}

fn field<const BYTES: usize>(bytes: &[u8], offset: usize) -> Option<[u8; BYTES]> {
    bytes.get(offset..offset.checked_add(BYTES)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(version: u8, mask: u64, file: i32, pid: i32, information: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((24 + information.len() as u32).to_ne_bytes());
        bytes.extend([version, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(file.to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(information);
        bytes
    }

    fn information(kind: u8, descriptor: i32) -> Vec<u8> {
        [
            vec![kind, 0],
            8_u16.to_ne_bytes().to_vec(),
            descriptor.to_ne_bytes().to_vec(),
        ]
        .concat()
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Vec<(i32, i32, i32, bool)>>) {
        let seen = records(bytes).ok().map(|records| {
            let plain = |record: Record| (record.file, record.process, record.pid, record.is_overflow);
            records.into_iter().map(plain).collect::<Vec<_>>()
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn events_are_taken_apart() {
        let asked = libc::FAN_OPEN_EXEC_PERM;
        check(&[], Some(vec![]));
        check(&event(3, asked, 7, 42, &[]), Some(vec![(7, -1, 42, false)]));
        check(
            &event(3, asked, 7, 42, &information(4, 9)),
            Some(vec![(7, 9, 42, false)]),
        );
        let two = [information(1, 5), information(4, -2)].concat();
        check(&event(3, asked, 7, 42, &two), Some(vec![(7, -2, 42, false)]));
        let both = [
            event(3, asked, 7, 1, &information(4, 9)),
            event(3, libc::FAN_Q_OVERFLOW, -1, 0, &[]),
        ]
        .concat();
        check(&both, Some(vec![(7, 9, 1, false), (-1, -1, 0, true)]));
    }

    #[test]
    fn what_is_of_another_version_or_cut_is_refused() {
        let whole = event(3, libc::FAN_OPEN_EXEC_PERM, 7, 42, &[]);
        check(&event(4, libc::FAN_OPEN_EXEC_PERM, 7, 42, &[]), None);
        check(&whole[..23], None);
        check(&[&[0; 4], &whole[4..]].concat(), None);
        // An information record of no length must not be read for ever.
        check(
            &event(3, libc::FAN_OPEN_EXEC_PERM, 7, 42, &[1, 0, 0, 0]),
            Some(vec![(7, -1, 42, false)]),
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let seen = records(&bytes).map(|records| records.len()).unwrap_or(0);
            prop_assert!(seen <= bytes.len() / METADATA_BYTES);
        }
    }
}
