//! Waiting for the ring buffer, and how far it was read.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, RingBuf};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};
use tokio::io::unix::AsyncFd;

/// The ring buffer, to be waited for by the agent's event loop.
///
/// # Errors
/// When the kernel refuses to poll it.
pub fn pollable(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: a RingBuf owns its map's descriptor, returns the same one from every as_raw_fd, and closes it only when it is dropped,
    // which AsyncFd does after it has deregistered it.
    unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)
}

/// The ring's positions, as the kernel shares them: two pages, the first with the consumer's, the second with the producer's
/// (`struct bpf_ringbuf` in kernel/bpf/ringbuf.c).
pub struct RingPositions {
    pages: NonNull<u8>,
    page_bytes: NonZeroUsize,
}

// SAFETY: the pages are only read, as one atomic word each, and stay mapped until this is dropped.
unsafe impl Send for RingPositions {}
// SAFETY: as above.
unsafe impl Sync for RingPositions {}

impl RingPositions {
    /// Maps the positions of a ring.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn of(ring: &RingBuf<MapData>) -> io::Result<Self> {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE)?
            .and_then(|bytes| NonZeroUsize::new(usize::try_from(bytes).unwrap_or(0)))
            .ok_or_else(|| io::Error::other("the size of a page is not known"))?;
        let both = page_bytes.saturating_mul(NonZeroUsize::MIN.saturating_add(1));
        // SAFETY: the ring owns its descriptor, which is open as long as the ring is borrowed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        // SAFETY: a new mapping, for reading; nothing else of this process is affected. It outlives the descriptor.
        let pages = unsafe { mmap(None, both, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, descriptor, 0) }?;
        Ok(Self {
            pages: pages.cast(),
            page_bytes,
        })
    }

    /// Where the next record will be reserved: all that has been reserved lies before.
    pub fn end(&self) -> u64 {
        self.word(self.page_bytes.get())
    }

    /// Up to where records were read and given back. A record that is not yet submitted holds up all behind it.
    pub fn read_to(&self) -> u64 {
        self.word(0)
    }

    fn word(&self, offset: usize) -> u64 {
        // SAFETY: both pages are mapped; each begins with an aligned word that both sides access atomically.
        unsafe { self.pages.add(offset).cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for RingPositions {
    fn drop(&mut self) {
        // SAFETY: both pages were mapped by `of` with this length and are not used any more.
        let _ = unsafe { munmap(self.pages.cast(), self.page_bytes.get() * 2) };
    }
}
