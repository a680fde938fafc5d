//! Events of whole containers, which the agent makes itself: numbered by the kernel side's counter, as those of single programs are.

use lattice_api::{
    event::notice_message,
    v1::{ContainerNotice, Event, event::Kind},
};
use tokio::sync::mpsc::Sender;

use crate::{
    events::{clock, explain::Node},
    kernel::sequence::SequenceCounter,
};

/// Where such events go.
pub struct NoticeSender {
    sequence: SequenceCounter,
    events: Sender<Event>,
    node: Node,
}

impl NoticeSender {
    /// Sends to the reader of events. What finds no room there is a gap, which the reader reports.
    pub fn new(sequence: SequenceCounter, events: Sender<Event>, node: Node) -> Self {
        Self { sequence, events, node }
    }

    /// Numbers a notice, writes its sentence, and sends it. Never waits.
    pub fn send(&self, mut notice: ContainerNotice) {
        notice.message = notice_message(&notice);
        let sequence = self.sequence.next();
        let event = Event {
            node: self.node.name.clone(),
            boot_id: self.node.boot_id.clone(),
            sequence,
            time_unix_nanos: clock::now_nanos(),
            kind: Some(Kind::Notice(notice)),
        };
        if self.events.try_send(event).is_err() {
            tracing::error!(sequence, "the event of a container found no room and is a gap");
        }
    }
}
