//! Task storage from user space, by pidfd; aya has no API for it (<https://github.com/aya-rs/aya/issues/203>).

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use lattice_common::abi::TaskState;

/// `BPF_MAP_LOOKUP_ELEM`.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
/// `BPF_MAP_UPDATE_ELEM`.
const MAP_UPDATE_ELEM: libc::c_int = 2;

/// The head of `union bpf_attr` for element operations.
#[repr(C)]
struct ElementAttributes {
    map_descriptor: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The marks.
pub struct TaskTable(MapData);

impl TaskTable {
    /// Around the pinned map.
    pub(super) fn new(map: MapData) -> Self {
        Self(map)
    }

    /// Marks a process' main task. One that is gone is no error: it has no children to mark either.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn put(&self, process: u32, state: &TaskState) -> io::Result<()> {
        let mut state = *state;
        self.element(MAP_UPDATE_ELEM, process, &mut state).or_else(gone_is_fine)
    }

    /// The mark of a process' main task; `None` where it has none, or is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self, process: u32) -> io::Result<Option<TaskState>> {
        let mut state = TaskState::default();
        match self.element(MAP_LOOKUP_ELEM, process, &mut state) {
            Ok(()) => Ok(Some(state)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, command: libc::c_int, process: u32, state: &mut TaskState) -> io::Result<()> {
        let process = i32::try_from(process).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let pidfd = super::pidfd::open(process)?;
        let key = pidfd.as_raw_fd();
        let attributes = ElementAttributes {
            map_descriptor: self.0.fd().as_fd().as_raw_fd().cast_unsigned(),
            padding: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw mut *state).addr() as u64,
            flags: 0,
        };
        // SAFETY: the map's keys are descriptors and its values TaskState, which both pointers lead to and which outlive the call;
        // the kernel reads no more of the attributes than their size, and writes at most a value.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                &raw const attributes,
                size_of::<ElementAttributes>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(())
    } else {
        Err(error)
    }
}
