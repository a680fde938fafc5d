//! Events that central has not acknowledged yet, on disk.
//!
//! ```text
//!   append ──► lane by importance ──► segment files (frames with CRC-32C) ──► next_batch ──► central
//!                                        ▲ removed once all is acknowledged ◄── acknowledge ◄──┘
//! ```
//!
//! An event that was taken survives a kill of the agent at once and a power loss after at most [`SYNC_INTERVAL`]. The spool is
//! bounded: where it is full the oldest of the least important goes, and a gap event says which. In a lane events are sent in the
//! order in which they came; between lanes the more important come first, so a receiver orders by sequence, not by arrival.

mod acknowledged;
mod frame;
mod hand_out;
mod lane;
mod load;
mod log;
mod ranges;
mod room;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub use frame::read_segment;
use lattice_api::v1::Event;
pub use log::Metrics;
use tokio::sync::Notify;

use self::log::Log;
use crate::{
    checked_file::CheckedFileError,
    error_chain::ErrorChain,
    events::{EventSink, clock::boot_id},
};

/// Its folder in the agent's state.
pub const FOLDER: &str = "spool";
/// Size of the spool where nothing else is said.
pub const DEFAULT_LIMIT_BYTES: u64 = 64 << 20;
/// How long an event may wait until it is on the disk itself.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// How long an acknowledgement may wait until it is written down; lost ones are only sent again.
const ACKNOWLEDGED_INTERVAL: Duration = Duration::from_secs(1);

/// Why the spool could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// One of its files.
    #[error("the spool's {} could not be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of acknowledgements.
    #[error("what central acknowledged could not be written down")]
    Acknowledged(#[from] CheckedFileError),
    /// Another process has it.
    #[error("the spool {} is in use: another agent runs with the same --state", folder.display())]
    InUse {
        /// Its folder.
        folder: PathBuf,
    },
}

impl SpoolError {
    /// Whether what is missing is room on the disk.
    fn is_full(&self) -> bool {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(source) = error {
            if let Some(source) = source.downcast_ref::<io::Error>() {
                return matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            }
            error = source.source();
        }
        false
    }
}

/// The error of one of the spool's files.
fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_path_buf();
    move |source| SpoolError::File { path, action, source }
}

struct Inner {
    log: Mutex<Log>,
    appended: Notify,
    stop: (Mutex<bool>, Condvar),
}

impl Inner {
    fn log(&self) -> MutexGuard<'_, Log> {
        // No step of the log can panic half-way in a way that matters: files are written before they are noted.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The spool. One process may have it open.
pub struct Spool {
    inner: Arc<Inner>,
    syncing: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the spool in a folder that is its own, or begins one. What a crash left half written is cut off and reported.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read or written, or another process has the spool open.
    pub fn open(folder: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        let inner = Arc::new(Inner {
            log: Mutex::new(Log::open(folder, limit_bytes, &boot_id().unwrap_or_default())?),
            appended: Notify::new(),
            stop: (Mutex::new(false), Condvar::new()),
        });
        let syncing = Arc::clone(&inner);
        let thread = thread::Builder::new()
            .name("spool-sync".into())
            .spawn(move || keep_syncing(&syncing));
        let syncing = thread.map_err(|source| SpoolError::File {
            path: folder.into(),
            action: "synced by a thread",
            source,
        })?;
        Ok(Self {
            inner,
            syncing: Some(syncing),
        })
    }

    /// Takes events. Those that it has already (by boot and sequence) are left out.
    ///
    /// # Errors
    /// When they could not be written. None or some of them were taken then; offer them again.
    pub fn append(&self, events: &[Event]) -> Result<(), SpoolError> {
        let result = self.inner.log().append(events);
        self.inner.appended.notify_one();
        result
    }

    /// The next events to send, oldest first: at most `max_events`, and no more once `max_bytes` are reached. Empty when all
    /// were handed out; [`appended`](Self::appended) says when there are more.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub fn next_batch(&self, max_events: usize, max_bytes: usize) -> Result<Vec<Event>, SpoolError> {
        self.inner.log().next_batch(max_events, max_bytes)
    }

    /// What was handed out and not acknowledged is handed out again; for a new connection.
    pub fn rewind(&self) {
        self.inner.log().rewind();
    }

    /// Central has committed these; they are forgotten.
    pub fn acknowledge(&self, boot_id: &str, sequences: &[u64]) {
        self.inner.log().acknowledge(boot_id, sequences);
    }

    /// The newest events that are still there, acknowledged or not, oldest first.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub fn newest(&self, max_events: usize) -> Result<Vec<Event>, SpoolError> {
        self.inner.log().newest(max_events)
    }

    /// Waits until something was appended since the last such wait. For one waiter.
    pub async fn appended(&self) {
        self.inner.appended.notified().await;
    }

    /// The highest sequence of a boot such that it and all below were taken.
    pub fn kept_through(&self, boot_id: &str) -> u64 {
        self.inner.log().kept_through(boot_id)
    }

    /// The highest sequence of a boot that was taken.
    pub fn highest(&self, boot_id: &str) -> u64 {
        self.inner.log().highest(boot_id)
    }

    /// Counts and sizes.
    pub fn metrics(&self) -> Metrics {
        self.inner.log().metrics()
    }
}

impl EventSink for Spool {
    fn accept(&self, event: &Event) -> Result<(), String> {
        self.append(std::slice::from_ref(event))
            .map_err(|error| ErrorChain(&error).to_string())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        *self.inner.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.stop.1.notify_all();
        if let Some(syncing) = self.syncing.take() {
            // It ends at the notice; a panic in it was printed by the thread.
            let _ = syncing.join();
        }
    }
}

/// Syncs until told to stop, then once more.
fn keep_syncing(inner: &Inner) {
    let mut acknowledged_at = Instant::now();
    let mut is_stopping = false;
    while !is_stopping {
        let stop = inner.stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = inner.stop.1.wait_timeout_while(stop, SYNC_INTERVAL, |stop| !*stop);
        is_stopping = *waited.unwrap_or_else(PoisonError::into_inner).0;
        // Outside the lock: events are taken while the disk works.
        let unsynced = inner.log().take_unsynced();
        for error in unsynced.iter().filter_map(|file| file.sync_data().err()) {
            tracing::error!(%error, "the spool could not be synced: a power loss would take the latest events");
        }
        if is_stopping || acknowledged_at.elapsed() >= ACKNOWLEDGED_INTERVAL {
            acknowledged_at = Instant::now();
            if let Err(error) = inner.log().store_acknowledged() {
                tracing::error!(error = %ErrorChain(&error), "acknowledged events would be sent again after a restart");
            }
        }
    }
}
