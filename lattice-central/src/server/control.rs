//! What latticectl asks of central. Only an operator's certificate may.

use std::{sync::Arc, time::Duration};

use lattice_api::v1::{self as wire, control_server::Control};
use lattice_policy::Mode;
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, denial, rollout, stopped};
use crate::{
    identity::{Identity, certificate_fingerprint},
    nodes::Given,
    rollout::state::Reach,
    store::StoreError,
};

/// How long a change with `wait` waits for the agents.
pub(super) const APPLY_PATIENCE: Duration = Duration::from_secs(10);
/// Events that are read from the store at a time.
const EVENTS_AT_A_TIME: u32 = 256;

/// The service that latticectl calls.
pub(super) struct ControlService {
    pub(super) shared: Arc<Shared>,
}

fn require_operator<T>(request: &Request<T>) -> Result<(), Status> {
    match Identity::of(request)? {
        Identity::Operator => Ok(()),
        other => Err(Status::permission_denied(format!(
            "the certificate is that of {other}; this needs an operator's (DNS name `operator.lattice`)"
        ))),
    }
}

/// Who asks, for the record: the role, and the certificate by its fingerprint.
fn operator<T>(request: &Request<T>) -> Result<String, Status> {
    require_operator(request)?;
    Ok(match certificate_fingerprint(request) {
        Some(fingerprint) => format!("operator {fingerprint}"),
        None => "operator".to_owned(),
    })
}

fn unavailable(error: &StoreError) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        require_operator(&request)?;
        let nodes = self.shared.nodes.all();
        Ok(Response::new(wire::GetStatusResponse {
            role: "central".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tier: None,
            nodes: nodes
                .into_iter()
                .map(|(name, node)| wire::NodeStatus {
                    node: name,
                    tier: node.introduction.tier,
                    kernel_release: node.introduction.kernel_release,
                    agent_version: node.introduction.agent_version,
                    connected: node.connected,
                    applied_revision: node.applied_revision,
                    apply_error: node.apply_error,
                    last_sequence: node.last_sequence,
                    denylist_revision: node.denylist_revision,
                    denylist_error: node.denylist_error,
                })
                .collect(),
            containers: self.shared.standings.all(),
            counters: self.shared.counted().await.into_iter().collect(),
        }))
    }

    type ListEventsStream = ReceiverStream<Result<wire::Event, Status>>;

    async fn list_events(
        &self,
        request: Request<wire::ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        require_operator(&request)?;
        let wire::ListEventsRequest {
            follow,
            namespace,
            limit,
        } = request.into_inner();
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let (sender, receiver) = mpsc::channel(EVENTS_AT_A_TIME as usize);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            // Whoever asked may be gone; then there is nobody to tell.
            if let Err(status) = send_events(&shared, &sender, follow, namespace, limit).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn set_mode(
        &self,
        request: Request<wire::SetModeRequest>,
    ) -> Result<Response<wire::SetModeResponse>, Status> {
        require_operator(&request)?;
        let wire::SetModeRequest { namespace, mode, wait } = request.into_inner();
        let is_label = (1..=63).contains(&namespace.len())
            && namespace
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !is_label {
            let message =
                "namespace must be a Kubernetes namespace: lower-case letters, digits and hyphens, at most 63";
            return Err(Status::invalid_argument(message));
        }
        let parsed = match mode.as_str() {
            "" => None,
            word => Some(
                word.parse::<Mode>()
                    .map_err(|error| Status::invalid_argument(format!("mode: {error}")))?,
            ),
        };
        let revision = self
            .shared
            .board
            .set_mode(namespace.clone(), parsed)
            .await
            .map_err(|error| unavailable(&error))?;
        tracing::info!(%namespace, %mode, revision, "mode override set");
        let progress = if wait {
            timeout(APPLY_PATIENCE, self.shared.nodes.wait_for(Given::Policies, revision)).await.map_err(|_| {
                let waiting = self.shared.nodes.progress(Given::Policies, revision).waiting.join("; ");
                Status::deadline_exceeded(format!(
                    "the mode is set and kept (revision {revision}), but after {} s not every connected agent has applied \
                     it: {waiting}",
                    APPLY_PATIENCE.as_secs()
                ))
            })?
        } else {
            self.shared.nodes.progress(Given::Policies, revision)
        };
        Ok(Response::new(wire::SetModeResponse {
            revision,
            agents_applied: progress.applied,
            agents_connected: progress.connected,
        }))
    }

    async fn get_mode(
        &self,
        request: Request<wire::GetModeRequest>,
    ) -> Result<Response<wire::GetModeResponse>, Status> {
        require_operator(&request)?;
        let wanted = request.into_inner().namespace;
        let set = self.shared.board.policies().borrow().clone();
        let is_wanted = |namespace: &str| wanted.is_empty() || namespace == wanted;
        let mut modes = Vec::new();
        for policy in set.policies.iter().filter(|policy| is_wanted(&policy.namespace)) {
            let over = set
                .namespace_modes
                .iter()
                .find(|over| over.namespace == policy.namespace);
            let reach = set.reach(&policy.namespace, &policy.name);
            let source = match (over, reach) {
                (Some(_), _) => "namespace-override",
                (None, Some(_)) => "rollout",
                (None, None) => "policy",
            };
            let mode = wire::EffectiveMode {
                namespace: policy.namespace.clone(),
                policy: policy.name.clone(),
                mode: over.map_or(&policy.mode, |over| &over.mode).clone(),
                source: source.to_owned(),
                nodes: Vec::new(),
            };
            if let (None, Some(Reach::Nodes(nodes))) = (over, reach) {
                // What holds on the canaries, besides what holds elsewhere.
                let canary = nodes
                    .first()
                    .map(|node| set.for_node(node).policies)
                    .unwrap_or_default();
                let is_it =
                    |other: &&wire::ExecPolicy| (&other.namespace, &other.name) == (&policy.namespace, &policy.name);
                if let Some(canary) = canary.iter().find(is_it) {
                    modes.push(wire::EffectiveMode {
                        mode: canary.mode.clone(),
                        nodes: nodes.iter().cloned().collect(),
                        ..mode.clone()
                    });
                }
            }
            modes.push(mode);
        }
        for over in set.namespace_modes.iter().filter(|over| is_wanted(&over.namespace)) {
            if !set.policies.iter().any(|policy| policy.namespace == over.namespace) {
                modes.push(wire::EffectiveMode {
                    namespace: over.namespace.clone(),
                    policy: String::new(),
                    mode: over.mode.clone(),
                    source: "namespace-override".to_owned(),
                    nodes: Vec::new(),
                });
            }
        }
        Ok(Response::new(wire::GetModeResponse { modes }))
    }

    async fn list_policies(
        &self,
        request: Request<wire::ListPoliciesRequest>,
    ) -> Result<Response<wire::ListPoliciesResponse>, Status> {
        require_operator(&request)?;
        let namespace = request.into_inner().namespace;
        let set = self.shared.board.policies().borrow().clone();
        let is_wanted = |policy: &&wire::ExecPolicy| namespace.is_empty() || policy.namespace == namespace;
        let policies = set.policies.iter().filter(is_wanted).cloned().collect();
        Ok(Response::new(wire::ListPoliciesResponse { policies }))
    }

    async fn list_services(
        &self,
        request: Request<wire::ListServicesRequest>,
    ) -> Result<Response<wire::ListServicesResponse>, Status> {
        require_operator(&request)?;
        let wanted = request.into_inner().namespace;
        let services = self
            .shared
            .board
            .services()
            .await
            .into_iter()
            // Files that cannot be read have no namespace; they concern everybody.
            .filter(|((namespace, _), _)| wanted.is_empty() || namespace.is_empty() || *namespace == wanted)
            .map(|((namespace, name), conditions)| wire::ServiceStatus {
                namespace,
                name,
                conditions: conditions
                    .all()
                    .iter()
                    .map(|condition| wire::Condition {
                        r#type: condition.step.word().to_owned(),
                        status: condition.holds.word().to_owned(),
                        reason: condition.reason.clone(),
                        message: condition.message.clone(),
                    })
                    .collect(),
            })
            .collect();
        Ok(Response::new(wire::ListServicesResponse { services }))
    }

    async fn deny(&self, request: Request<wire::DenyRequest>) -> Result<Response<wire::DenyResponse>, Status> {
        let operator = operator(&request)?;
        let answer = denial::deny(&self.shared, operator, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn lift_denial(
        &self,
        request: Request<wire::LiftDenialRequest>,
    ) -> Result<Response<wire::DenyResponse>, Status> {
        let operator = operator(&request)?;
        let answer = denial::lift(&self.shared, operator, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_denials(
        &self,
        request: Request<wire::ListDenialsRequest>,
    ) -> Result<Response<wire::ListDenialsResponse>, Status> {
        require_operator(&request)?;
        let answer = denial::list(&self.shared, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_rollouts(
        &self,
        request: Request<wire::ListRolloutsRequest>,
    ) -> Result<Response<wire::ListRolloutsResponse>, Status> {
        require_operator(&request)?;
        Ok(Response::new(
            rollout::list(&self.shared, &request.into_inner().namespace).await,
        ))
    }

    async fn list_rollout_misses(
        &self,
        request: Request<wire::ListRolloutMissesRequest>,
    ) -> Result<Response<wire::ListRolloutMissesResponse>, Status> {
        require_operator(&request)?;
        Ok(Response::new(
            rollout::misses(&self.shared, &request.into_inner()).await,
        ))
    }

    async fn list_rollout_history(
        &self,
        request: Request<wire::ListRolloutHistoryRequest>,
    ) -> Result<Response<wire::ListRolloutHistoryResponse>, Status> {
        require_operator(&request)?;
        let answer = rollout::history(&self.shared, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn change_rollout(
        &self,
        request: Request<wire::ChangeRolloutRequest>,
    ) -> Result<Response<wire::ChangeRolloutResponse>, Status> {
        let operator = operator(&request)?;
        let answer = rollout::change(&self.shared, operator, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn simulate_rollout(
        &self,
        request: Request<wire::SimulateRolloutRequest>,
    ) -> Result<Response<wire::SimulateRolloutResponse>, Status> {
        require_operator(&request)?;
        let answer = rollout::simulate(&self.shared, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn get_node_report(
        &self,
        request: Request<wire::GetNodeReportRequest>,
    ) -> Result<Response<wire::NodeReport>, Status> {
        require_operator(&request)?;
        Err(Status::unimplemented(
            "central is on no node of its own: ask the agent, with latticectl doctor on the node",
        ))
    }
}

/// Sends what is stored, then, where asked, what comes: by cursor, so that a slow reader loses nothing.
async fn send_events(
    shared: &Shared,
    sender: &mpsc::Sender<Result<wire::Event, Status>>,
    follow: bool,
    namespace: Option<String>,
    limit: u32,
) -> Result<(), Status> {
    let mut committed = shared.store.last_cursor();
    let mut stopping = shared.stopping.clone();
    let mut cursor = match limit {
        0 => 0,
        count => shared
            .store
            .cursor_before_newest(namespace.clone(), count)
            .await
            .map_err(|error| unavailable(&error))?,
    };
    loop {
        // Marked as seen before the query: a commit during it wakes the wait below.
        committed.borrow_and_update();
        loop {
            let events = shared
                .store
                .events_after(cursor, namespace.clone(), EVENTS_AT_A_TIME)
                .await
                .map_err(|error| unavailable(&error))?;
            let Some(last) = events.last() else { break };
            cursor = last.cursor;
            for stored in &events {
                let event = wire::Event::decode(stored.event.as_slice())
                    .map_err(|error| Status::data_loss(format!("stored event {}: {error}", stored.cursor)))?;
                if sender.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            changed = committed.changed() => if changed.is_err() { return Ok(()) },
            () = stopped(&mut stopping) => return Err(Status::unavailable("central is stopping")),
            () = sender.closed() => return Ok(()),
        }
    }
}
