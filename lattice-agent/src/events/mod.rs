//! From the ring buffer to events: decoded, explained, numbered without a silent hole.
//!
//! ```text
//!   ring buffer ──► record (bytes, checked) ──► explain (container, policy, drift) ──► EventSink (spool) ──► consumed
//!                        └── sequence ──► gaps ──► gap events
//! ```

pub mod clock;
pub mod explain;
pub mod gaps;
pub(crate) mod process;
pub mod reader;
pub mod record;
pub(crate) mod repeats;

use lattice_api::v1::Event;

/// Who keeps events. A record leaves the ring buffer only after it was accepted.
pub trait EventSink: Send + Sync {
    /// Keeps an event.
    ///
    /// # Errors
    /// When it could not be kept; it is then offered again.
    fn accept(&self, event: &Event) -> Result<(), String>;
}
