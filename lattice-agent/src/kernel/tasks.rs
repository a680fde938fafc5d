//! Task storage from user space, by pidfd; aya has no API for it (<https://github.com/aya-rs/aya/issues/203>).

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::maps::MapData;
use lattice_common::abi::TaskState;

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
        // SAFETY: takes two integers; the descriptor that it returns is ours alone.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
        if descriptor < 0 {
            return gone_is_fine(io::Error::last_os_error());
        }
        let descriptor = i32::try_from(descriptor).map_err(|_| io::Error::other("no descriptor"))?;
        // SAFETY: the descriptor was just made for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let key = pidfd.as_raw_fd();
        let attributes = ElementAttributes {
            map_descriptor: self.0.fd().as_fd().as_raw_fd().cast_unsigned(),
            padding: 0,
            key: (&raw const key).addr() as u64,
            value: std::ptr::from_ref(state).addr() as u64,
            flags: 0,
        };
        // SAFETY: the map's keys are descriptors and its values TaskState, which both pointers lead to and which outlive the call;
        // the kernel reads no more of the attributes than their size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                MAP_UPDATE_ELEM,
                &raw const attributes,
                size_of::<ElementAttributes>(),
            )
        };
        if result < 0 {
            gone_is_fine(io::Error::last_os_error())
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
