//! The agents' streams: policies go down, events come up, and an acknowledgement goes down after the commit.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lattice_api::{
    event::event_namespace,
    v1::{self as wire, agent_hub_server::AgentHub},
};
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, stopped};
use crate::{
    authority::remaining,
    identity::Identity,
    nodes::{Given, Introduction, Session},
    store::NewEvent,
};

/// Messages that wait for an agent that does not read; then its own are not read either.
const MESSAGES_WAITING_MAXIMUM: usize = 16;
/// An agent that has not introduced itself, or has not read for so long, loses its stream and may come again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events in one batch.
const BATCH_EVENTS_MAXIMUM: usize = 4_096;
/// /proc/sys/kernel/random/boot_id has 36 characters.
const BOOT_ID_BYTES_MAXIMUM: usize = 64;

/// The service that agents call.
pub(super) struct Hub {
    pub(super) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl AgentHub for Hub {
    type ConnectStream = ReceiverStream<Result<wire::HubMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let node = match Identity::of(&request)? {
            Identity::Node(node) => node,
            other => {
                let message =
                    format!("the certificate is that of the {other}; agents need one for `<node>.node.lattice`");
                return Err(Status::permission_denied(message));
            }
        };
        let certificate_holds = request
            .peer_certs()
            .and_then(|certificates| remaining(certificates.first()?, SystemTime::now()))
            .ok_or_else(|| Status::unauthenticated("the client certificate's end cannot be read"))?;
        let (outbound, receiver) = mpsc::channel(MESSAGES_WAITING_MAXIMUM);
        let stream = AgentStream {
            shared: self.shared.clone(),
            node,
            certificate_holds,
            inbound: request.into_inner(),
            outbound,
        };
        tokio::spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct AgentStream {
    shared: Arc<Shared>,
    /// The name that the certificate gives.
    node: String,
    /// From the beginning of the stream. TLS looks at it then, and never again.
    certificate_holds: Duration,
    inbound: Streaming<wire::AgentMessage>,
    outbound: mpsc::Sender<Result<wire::HubMessage, Status>>,
}

impl AgentStream {
    async fn run(mut self) {
        let ended = match self.introduce().await {
            Ok(mut session) => {
                tracing::info!(node = %self.node, "agent connected");
                let ended = self.serve(&mut session).await;
                self.shared.nodes.disconnect(&session);
                ended
            }
            Err(status) => Err(status),
        };
        match ended {
            Ok(()) => tracing::info!(node = %self.node, "agent disconnected"),
            Err(status) => {
                tracing::warn!(node = %self.node, code = ?status.code(), "agent's stream ends: {}", status.message());
                // It may be gone already; then nobody needs to be told.
                let _ = timeout(PATIENCE, self.outbound.send(Err(status))).await;
            }
        }
    }

    async fn introduce(&mut self) -> Result<Session, Status> {
        let first = timeout(PATIENCE, self.inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(wire::AgentMessage {
            kind: Some(wire::agent_message::Kind::Hello(hello)),
        }) = first
        else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        self.check_name(&hello.node, "Hello")?;
        check_boot_id(&hello.boot_id)?;
        let last_sequence = self
            .shared
            .store
            .last_sequence(self.node.clone(), hello.boot_id.clone())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let introduction = Introduction {
            boot_id: hello.boot_id,
            agent_version: hello.agent_version.chars().take(64).collect(),
            tier: hello.tier,
            kernel_release: hello.kernel_release.chars().take(128).collect(),
        };
        self.shared
            .nodes
            .connect(&self.node, introduction, last_sequence)
            .ok_or_else(|| Status::resource_exhausted("this central knows too many nodes already"))
    }

    async fn serve(&mut self, session: &mut Session) -> Result<(), Status> {
        let mut denylist = self.shared.denials.list();
        let mut policies = self.shared.board.policies();
        let mut stopping = self.shared.stopping.clone();
        let mut certificate_ends = pin!(sleep(self.certificate_holds));
        denylist.mark_changed();
        policies.mark_changed();
        loop {
            tokio::select! {
                // Policies first: what agents enforce matters more than what they report.
                biased;
                () = stopped(&mut stopping) => {
                    return Err(Status::unavailable("central is stopping; connect again"));
                }
                () = &mut certificate_ends => {
                    return Err(Status::unauthenticated("the client certificate has ended; connect again with a new one"));
                }
                _ = &mut session.replaced => {
                    return Err(Status::aborted("a newer stream of this node has taken over"));
                }
                // And of these the denials: they are small, and an incident is on.
                changed = denylist.changed() => {
                    changed.map_err(|_| Status::unavailable("central is stopping; connect again"))?;
                    let list = denylist.borrow_and_update().as_ref().clone();
                    self.send(wire::hub_message::Kind::Denylist(list)).await?;
                }
                changed = policies.changed() => {
                    changed.map_err(|_| Status::unavailable("central is stopping; connect again"))?;
                    let set = policies.borrow_and_update().for_node(&self.node);
                    self.send(wire::hub_message::Kind::Policies(set)).await?;
                }
                message = self.inbound.message() => match message? {
                    Some(message) => self.receive(session, message).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn receive(&mut self, session: &Session, message: wire::AgentMessage) -> Result<(), Status> {
        match message.kind {
            Some(wire::agent_message::Kind::Events(batch)) => self.store(session, batch.events).await,
            Some(wire::agent_message::Kind::Applied(applied)) => {
                self.note(session, Given::Policies, &applied);
                Ok(())
            }
            Some(wire::agent_message::Kind::DenylistApplied(applied)) => {
                self.note(session, Given::Denylist, &applied);
                Ok(())
            }
            Some(wire::agent_message::Kind::Standings(standings)) => {
                for status in &standings.containers {
                    self.check_name(&status.node, "a container's standing")?;
                }
                if !self.shared.nodes.is_current(session) {
                    return Err(Status::aborted("a newer stream of this node has taken over"));
                }
                let taken = self.shared.standings.take(&self.node, standings);
                taken.map_err(|error| Status::invalid_argument(format!("standings: {error}")))
            }
            Some(wire::agent_message::Kind::Hello(_)) => Err(Status::invalid_argument("Hello came twice")),
            None => Err(Status::invalid_argument(
                "a message of a kind that this central does not know",
            )),
        }
    }

    fn note(&self, session: &Session, given: Given, applied: &wire::Applied) {
        let error: String = applied.error.chars().take(1_024).collect();
        if !error.is_empty() {
            tracing::warn!(node = %self.node, ?given, revision = applied.revision, %error, "the agent could not apply");
        }
        self.shared.nodes.applied(session, given, applied.revision, error);
    }

    /// Stores a batch and acknowledges it: all of it, or nothing where one event is not this node's to send.
    async fn store(&mut self, session: &Session, events: Vec<wire::Event>) -> Result<(), Status> {
        if events.len() > BATCH_EVENTS_MAXIMUM {
            let message = format!(
                "{} events in a batch are more than {BATCH_EVENTS_MAXIMUM}",
                events.len()
            );
            return Err(Status::invalid_argument(message));
        }
        let mut sequences: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            self.check_name(&event.node, "an event")?;
            check_boot_id(&event.boot_id)?;
            if event.kind.is_none() {
                let message = format!("event {} is of a kind that this central does not know", event.sequence);
                return Err(Status::invalid_argument(message));
            }
            let namespace = event_namespace(&event).to_owned();
            sequences.entry(event.boot_id.clone()).or_default().push(event.sequence);
            let is_gap = matches!(&event.kind, Some(wire::event::Kind::Gap(_)));
            let encoded = event.encode_to_vec();
            let (node, boot_id, sequence) = (event.node, event.boot_id, event.sequence);
            rows.push(NewEvent {
                node,
                boot_id,
                sequence,
                namespace,
                event: encoded,
                is_gap,
            });
        }
        let received = rows.len();
        let stored = self
            .shared
            .store
            .insert_events(rows)
            .await
            .map_err(|error| Status::unavailable(format!("not acknowledged: {error}")))?;
        self.shared.counters.stored(received, stored);
        for (boot_id, sequences) in sequences {
            if let Some(last) = sequences.iter().max() {
                self.shared.nodes.stored(session, *last);
            }
            let acknowledgement = wire::Acknowledgement { boot_id, sequences };
            self.send(wire::hub_message::Kind::Acknowledgement(acknowledgement))
                .await?;
        }
        Ok(())
    }

    /// A node speaks only for itself.
    fn check_name(&self, claimed: &str, what: &str) -> Result<(), Status> {
        if claimed == self.node {
            return Ok(());
        }
        self.shared.counters.spoofed();
        let claimed: String = claimed.escape_debug().take(200).collect();
        tracing::error!(node = %self.node, %claimed, "{what} claims to be of another node; nothing of it is stored");
        let message = format!(
            "{what} is of node \"{claimed}\", but the certificate is that of node \"{}\"",
            self.node
        );
        Err(Status::permission_denied(message))
    }

    async fn send(&self, kind: wire::hub_message::Kind) -> Result<(), Status> {
        let message = wire::HubMessage { kind: Some(kind) };
        match timeout(PATIENCE, self.outbound.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the agent is gone")),
            Err(_) => Err(Status::deadline_exceeded("the agent does not read")),
        }
    }
}

fn check_boot_id(boot_id: &str) -> Result<(), Status> {
    if (1..=BOOT_ID_BYTES_MAXIMUM).contains(&boot_id.len()) && boot_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "boot_id must have 1 to {BOOT_ID_BYTES_MAXIMUM} printable ASCII characters"
    )))
}
