//! What was refused, or would have been, as events of the object's namespace: `kubectl get events` shows them to its owners, also where a
//! controller asked and nobody read the answer. Repeated ones become a series.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};

use super::{answer::shortened, review::Review};
use crate::images::with_causes;

/// Events that wait; what comes on top of that is counted as lost, and stands in the log.
const WAITING_MAXIMUM: usize = 256;
/// events.k8s.io allows so many bytes of a note.
const NOTE_BYTES_MAXIMUM: usize = 1_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Who tells.
const REPORTER: &str = "lattice.dev/central";

/// Where events are handed in.
pub struct Notices {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
}

impl Notices {
    /// Begins to tell; it ends when this is dropped.
    pub fn begin(client: Client) -> Self {
        let (waiting, mut incoming) = mpsc::channel::<(Event, ObjectReference)>(WAITING_MAXIMUM);
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some("lattice-central".to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            let mut is_said = false;
            while let Some((event, regarding)) = incoming.recv().await {
                let problem = match timeout(ANSWER_WITHIN, recorder.publish(&event, &regarding)).await {
                    Ok(Ok(())) => {
                        is_said = false;
                        continue;
                    }
                    Ok(Err(error)) => with_causes(&error),
                    Err(_) => "the API server does not answer".to_owned(),
                };
                if !is_said {
                    tracing::warn!(
                        problem,
                        "what was refused at admission cannot be told as an event; it stands in this log"
                    );
                    is_said = true;
                }
            }
        });
        Self { waiting }
    }

    /// Hands one in; whether there was room.
    pub(super) fn send(&self, review: &Review, reason: &'static str, text: String) -> bool {
        let kind = &review.request.kind;
        let api_version = match kind.group.as_str() {
            "" => kind.version.clone(),
            group => format!("{group}/{}", kind.version),
        };
        // A pod that a controller makes has no name yet.
        let name = match review.request.name.as_str() {
            "" => review.workload.name.clone(),
            name => name.to_owned(),
        };
        let regarding = ObjectReference {
            api_version: Some(api_version),
            kind: Some(review.kind.clone()),
            name: Some(name),
            namespace: Some(review.namespace.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shortened(text, NOTE_BYTES_MAXIMUM)),
            action: "Admission".to_owned(),
            secondary: None,
        };
        self.waiting.try_send((event, regarding)).is_ok()
    }
}
