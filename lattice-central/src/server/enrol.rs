//! The agents of a cluster come here for their certificates: the one service that answers who has none.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lattice_api::v1::{self as wire, enrolment_server::Enrolment};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    authority::{Authority, Holder, PublicKey},
    cluster_identity::Reviewer,
    enrolment::{Rates, Refusal, ServiceAccount, check_form, decide},
};

/// Tokens that the API server is asked about at a time; who comes on top of that comes again.
const REVIEWS_AT_A_TIME: usize = 16;

/// What it takes to enrol agents.
pub struct Enroller {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Says what a token is worth.
    pub reviewer: Arc<dyn Reviewer>,
    /// Whose tokens count.
    pub agents: ServiceAccount,
    /// How long a certificate holds.
    pub lifetime: Duration,
}

pub(super) struct EnrolmentService {
    shared: Arc<Shared>,
    enroller: Enroller,
    rates: Mutex<Rates>,
    reviews: Semaphore,
}

impl EnrolmentService {
    pub(super) fn new(shared: Arc<Shared>, enroller: Enroller) -> Self {
        Self {
            shared,
            enroller,
            rates: Mutex::default(),
            reviews: Semaphore::new(REVIEWS_AT_A_TIME),
        }
    }

    async fn answer(&self, address: IpAddr, request: &wire::EnrolRequest) -> Result<wire::EnrolResponse, Failure> {
        // A poisoned lock would be that of a table of counts, which is whole after each step.
        let may_ask = self
            .rates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(address, Instant::now());
        if !may_ask {
            return Err(Refusal::TooOften.into());
        }
        check_form(&request.node, &request.token)?;
        let key = PublicKey::from_point(&request.public_key)
            .ok_or(Refusal::Malformed("public_key is no uncompressed point of P-256"))?;
        let _permit = self
            .reviews
            .try_acquire()
            .map_err(|_| Failure::Unavailable("too many agents enrol at once".to_owned()))?;
        let review = self.enroller.reviewer.review(&request.token).await;
        let review = review.map_err(|error| Failure::Unavailable(format!("the token cannot be reviewed: {error}")))?;
        let node = decide(&review, &self.enroller.agents, &request.node)?;
        let Enroller {
            authority, lifetime, ..
        } = &self.enroller;
        let certificate = authority
            .issue_for(&key, &Holder::Node(node), *lifetime)
            .map_err(|error| Failure::Unavailable(format!("no certificate can be made: {error}")))?;
        Ok(wire::EnrolResponse {
            certificate,
            valid_seconds: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
        })
    }
}

/// Why an agent goes without.
enum Failure {
    Refused(Refusal),
    Unavailable(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<wire::EnrolRequest>) -> Result<Response<wire::EnrolResponse>, Status> {
        let address = request.remote_addr().map(|address| address.ip().to_canonical());
        let address = address.ok_or_else(|| Status::internal("the connection has no address"))?;
        let request = request.into_inner();
        // What comes from outside is shown so that it can be nothing but one line.
        let node: String = request.node.escape_debug().take(200).collect();
        match self.answer(address, &request).await {
            Ok(response) => {
                self.shared.counters.enrolled();
                tracing::info!(%node, %address, valid_seconds = response.valid_seconds, "an agent has got a certificate");
                Ok(Response::new(response))
            }
            Err(Failure::Refused(refusal)) => {
                self.shared.counters.enrolment_refused(&refusal);
                let status = match &refusal {
                    Refusal::Malformed(_) => Status::invalid_argument(refusal.to_string()),
                    Refusal::TooOften => Status::resource_exhausted(refusal.to_string()),
                    _ => Status::permission_denied(refusal.to_string()),
                };
                tracing::warn!(%node, %address, reason = refusal.reason(), "no certificate for who asks as an agent: {refusal}");
                Err(status)
            }
            Err(Failure::Unavailable(problem)) => {
                tracing::warn!(%node, %address, problem, "an agent cannot be enrolled now");
                Err(Status::unavailable(problem))
            }
        }
    }
}
