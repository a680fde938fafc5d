//! The sequence counter, shared with the kernel side: for events that the agent itself makes.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use lattice_common::abi::maps as names;

use super::{
    object::{ObjectError, open},
    pins::PinDirectory,
};

/// One page, which is what the kernel gives a memory-mapped array of one element.
const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// The kernel's own counter, mapped: both sides add to the same word.
pub struct SequenceCounter {
    page: NonNull<AtomicU64>,
    _map: MapData,
}

// SAFETY: the page is only ever accessed as one atomic word, and stays mapped until the counter is dropped.
unsafe impl Send for SequenceCounter {}
// SAFETY: as above.
unsafe impl Sync for SequenceCounter {}

impl SequenceCounter {
    /// Maps the pinned counter.
    ///
    /// # Errors
    /// When it is not pinned, or was made by a release whose counter cannot be mapped.
    pub fn open(pins: &PinDirectory) -> Result<Self, ObjectError> {
        let map = open(pins, names::SEQUENCE)?;
        // SAFETY: a new mapping of a descriptor that stays open; nothing else of this process is affected.
        let page = unsafe {
            mmap(
                None,
                PAGE_BYTES,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        let page = page.map_err(|error| ObjectError::Sequence(error.into()))?;
        Ok(Self {
            page: page.cast(),
            _map: map,
        })
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        // SAFETY: the page is mapped, aligned, and only accessed atomically, by the kernel side too.
        unsafe { self.page.as_ref() }.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Drop for SequenceCounter {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `open` with this length and is not used any more.
        let _ = unsafe { munmap(self.page.cast(), PAGE_BYTES.get()) };
    }
}
