//! The Control service: converts and calls.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use lattice_api::v1::{
    ChangeRolloutRequest, ChangeRolloutResponse, DenyRequest, DenyResponse, Event, GetModeRequest, GetModeResponse,
    GetNodeReportRequest, GetStatusRequest, GetStatusResponse, LiftDenialRequest, ListDenialsRequest,
    ListDenialsResponse, ListEventsRequest, ListPoliciesRequest, ListPoliciesResponse, ListRolloutHistoryRequest,
    ListRolloutHistoryResponse, ListRolloutMissesRequest, ListRolloutMissesResponse, ListRolloutsRequest,
    ListRolloutsResponse, ListServicesRequest, ListServicesResponse, NodeReport, SetModeRequest, SetModeResponse,
    SimulateRolloutRequest, SimulateRolloutResponse, control_server::Control,
};
use lattice_policy::Mode;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Request, Response, Status};

use super::{Backend, LocalModes, RecentEvents, SetModeError, recent_events::is_of};
use crate::error_chain::ErrorChain;

const NAMESPACE_BYTES: usize = 253;
const WHO_ROLLS_OUT: &str = "an agent has the modes that it is given: ask central, with latticectl --central URL";
const WHO_DENIES: &str = "an agent denies what central and its own --denylist file say: ask central, with latticectl --central URL, or write the file";

pub(super) struct Service {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) events: Arc<RecentEvents>,
    pub(super) modes: Arc<LocalModes>,
}

impl Service {
    /// Asks the backend where it may block.
    async fn ask<Answer: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Backend) -> Answer + Send + 'static,
    ) -> Result<Answer, Status> {
        let backend = Arc::clone(&self.backend);
        let asked = tokio::task::spawn_blocking(move || question(&*backend)).await;
        asked.map_err(|error| Status::internal(format!("the agent failed while it answered: {error}")))
    }
}

fn checked(namespace: &str) -> Result<(), Status> {
    if namespace.len() > NAMESPACE_BYTES {
        return Err(Status::invalid_argument(format!(
            "the namespace has {} bytes, more than {NAMESPACE_BYTES}",
            namespace.len()
        )));
    }
    Ok(())
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.ask(|backend| backend.status()).await?))
    }

    type ListEventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        let ListEventsRequest {
            follow,
            namespace,
            limit,
        } = request.into_inner();
        checked(&namespace)?;
        let (stored, following) = self
            .events
            .look(usize::try_from(limit).unwrap_or(usize::MAX), &namespace);
        let stored = stream::iter(stored).map(|event| Ok((*event).clone()));
        let Some(following) = following.filter(|_| follow) else {
            return Ok(Response::new(Box::pin(stored)));
        };
        let following = BroadcastStream::new(following).filter_map(move |received| {
            let event = match received {
                Ok(event) if is_of(&event, &namespace) => Some(Ok((*event).clone())),
                Ok(_) => None,
                Err(BroadcastStreamRecvError::Lagged(count)) => Some(Err(Status::data_loss(format!(
                    "events come faster than they are read: {count} were left out here (none is lost to central); ask again"
                )))),
            };
            std::future::ready(event)
        });
        Ok(Response::new(Box::pin(stored.chain(following))))
    }

    async fn set_mode(&self, request: Request<SetModeRequest>) -> Result<Response<SetModeResponse>, Status> {
        let SetModeRequest {
            namespace,
            mode,
            wait: _,
        } = request.into_inner();
        checked(&namespace)?;
        if namespace.is_empty() {
            return Err(Status::invalid_argument(
                "a mode is set for one namespace: name it with --namespace",
            ));
        }
        let mode = match mode.as_str() {
            "" => None,
            word => Some(
                word.parse::<Mode>()
                    .map_err(|error| Status::invalid_argument(format!("mode: {error}")))?,
            ),
        };
        let modes = Arc::clone(&self.modes);
        let set =
            move |backend: &dyn Backend| modes.set(&namespace, mode, |modes| backend.apply_namespace_modes(modes));
        match self.ask(set).await? {
            // It is in force when this returns, so there is nothing to wait for.
            Ok(revision) => Ok(Response::new(SetModeResponse {
                revision,
                agents_applied: 1,
                agents_connected: 1,
            })),
            Err(error @ SetModeError::CentralDecides { .. }) => Err(Status::failed_precondition(error.to_string())),
            Err(error) => Err(Status::internal(ErrorChain(&error).to_string())),
        }
    }

    async fn get_mode(&self, request: Request<GetModeRequest>) -> Result<Response<GetModeResponse>, Status> {
        let namespace = request.into_inner().namespace;
        checked(&namespace)?;
        let modes = self.ask(move |backend| backend.effective_modes(&namespace)).await?;
        Ok(Response::new(GetModeResponse { modes }))
    }

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let namespace = request.into_inner().namespace;
        checked(&namespace)?;
        let policies = self.ask(move |backend| backend.policies(&namespace)).await?;
        Ok(Response::new(ListPoliciesResponse {
            policies: policies.iter().map(Into::into).collect(),
        }))
    }

    async fn list_services(&self, _: Request<ListServicesRequest>) -> Result<Response<ListServicesResponse>, Status> {
        Err(Status::unimplemented(
            "an agent knows no services: ask central, with latticectl --central URL",
        ))
    }

    async fn deny(&self, _: Request<DenyRequest>) -> Result<Response<DenyResponse>, Status> {
        Err(Status::unimplemented(WHO_DENIES))
    }

    async fn lift_denial(&self, _: Request<LiftDenialRequest>) -> Result<Response<DenyResponse>, Status> {
        Err(Status::unimplemented(WHO_DENIES))
    }

    async fn list_denials(
        &self,
        request: Request<ListDenialsRequest>,
    ) -> Result<Response<ListDenialsResponse>, Status> {
        if request.into_inner().history {
            return Err(Status::unimplemented(
                "an agent knows what is denied now: ask central for what was, with latticectl --central URL",
            ));
        }
        let (revision, denials) = self.ask(|backend| backend.denials()).await?;
        Ok(Response::new(ListDenialsResponse { revision, denials }))
    }

    async fn list_rollouts(&self, _: Request<ListRolloutsRequest>) -> Result<Response<ListRolloutsResponse>, Status> {
        Err(Status::unimplemented(WHO_ROLLS_OUT))
    }

    async fn list_rollout_misses(
        &self,
        _: Request<ListRolloutMissesRequest>,
    ) -> Result<Response<ListRolloutMissesResponse>, Status> {
        Err(Status::unimplemented(WHO_ROLLS_OUT))
    }

    async fn list_rollout_history(
        &self,
        _: Request<ListRolloutHistoryRequest>,
    ) -> Result<Response<ListRolloutHistoryResponse>, Status> {
        Err(Status::unimplemented(WHO_ROLLS_OUT))
    }

    async fn change_rollout(
        &self,
        _: Request<ChangeRolloutRequest>,
    ) -> Result<Response<ChangeRolloutResponse>, Status> {
        Err(Status::unimplemented(WHO_ROLLS_OUT))
    }

    async fn simulate_rollout(
        &self,
        _: Request<SimulateRolloutRequest>,
    ) -> Result<Response<SimulateRolloutResponse>, Status> {
        Err(Status::unimplemented(WHO_ROLLS_OUT))
    }

    async fn get_node_report(&self, _: Request<GetNodeReportRequest>) -> Result<Response<NodeReport>, Status> {
        match self.ask(|backend| backend.node_report()).await? {
            Ok(report) => Ok(Response::new(report)),
            Err(error) => Err(Status::unavailable(error)),
        }
    }
}
