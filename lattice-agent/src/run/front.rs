//! Tier 2's front: its start, and what holds without it.

use std::sync::Arc;

use lattice_agent::{
    events::explain::Node,
    front::{self, Front},
    kernel::{pins::PinDirectory, sequence::SequenceCounter},
    script_judge::ScriptJudge,
    state::Shared,
};
use lattice_api::v1::Event;
use tokio::sync::mpsc;

use super::FRONT_WATCHDOG;

/// The floor holds without the front: where that cannot be had, scripts are not judged, and the log says so.
pub(super) fn start_front(pins: &PinDirectory, state: &Arc<Shared>, events: mpsc::Sender<Event>, node: &Node) {
    let sequence = match SequenceCounter::open(pins) {
        Ok(sequence) => sequence,
        Err(error) => {
            return tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "no front: scripts are not judged"
            );
        }
    };
    let judge = Arc::new(ScriptJudge {
        state: Arc::clone(state),
        sequence,
        events,
        node: node.clone(),
    });
    let heartbeat = front::watchdog::spawn(&[FRONT_WATCHDOG]);
    if let Err(error) = &heartbeat {
        tracing::error!(%error, "the front has no watchdog: if the agent hangs, so do execs in its containers");
    }
    match Front::start_with(
        judge,
        front::Options {
            heartbeat: heartbeat.ok(),
            ..front::Options::default()
        },
    ) {
        Ok(front) => state.set_front(front),
        Err(error) => tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "no front: scripts are not judged"
        ),
    }
}
