//! Where events go.

use std::sync::Arc;

use lattice_agent::{admin_source::EventCounts, control::RecentEvents, events::EventSink, spool::Spool};
use lattice_api::{event::event_message, v1::Event};

/// Keeps events on disk first, then shows them.
pub(super) struct Keeper {
    pub(super) spool: Arc<Spool>,
    pub(super) recent: Arc<RecentEvents>,
    pub(super) counts: Arc<EventCounts>,
}

impl EventSink for Keeper {
    fn accept(&self, event: &Event) -> Result<(), String> {
        EventSink::accept(&*self.spool, event)?;
        tracing::info!(sequence = event.sequence, "{}", event_message(event));
        self.counts.add(event);
        self.recent.push(event.clone());
        Ok(())
    }
}
