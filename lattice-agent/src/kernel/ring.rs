//! Waiting for the ring buffer.

use std::io;

use aya::maps::{MapData, RingBuf};
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
