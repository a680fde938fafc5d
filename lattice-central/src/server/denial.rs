//! `latticectl deny`: what an operator asks, to what `Denials` does.

use std::time::{SystemTime, UNIX_EPOCH};

use lattice_api::v1 as wire;
use lattice_policy::Denied;
use tokio::time::timeout;
use tonic::Status;

use super::{Shared, control::APPLY_PATIENCE};
use crate::{
    denials::{DenialError, message},
    nodes::{Given, Progress},
};

/// Denials that are shown, with those that were lifted.
const HISTORY_MAXIMUM: u32 = 10_000;

fn refused(error: &DenialError) -> Status {
    match error {
        DenialError::Store(error) => Status::unavailable(error.to_string()),
        DenialError::Reason(_) | DenialError::NothingToKill => Status::invalid_argument(error.to_string()),
        DenialError::Full(_) => Status::failed_precondition(error.to_string()),
        DenialError::NotDenied(_) => Status::not_found(error.to_string()),
    }
}

fn denied(kind: &str, digest: &str) -> Result<Denied, Status> {
    Denied::parse(kind, digest).map_err(|error| Status::invalid_argument(format!("{kind} digest: {error}")))
}

pub(super) fn now_unix_nanos() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) async fn deny(
    shared: &Shared,
    operator: String,
    request: wire::DenyRequest,
) -> Result<wire::DenyResponse, Status> {
    let denied = denied(&request.kind, &request.digest)?;
    let revision = shared
        .denials
        .deny(
            denied,
            request.kill_running,
            &request.reason,
            operator,
            now_unix_nanos(),
        )
        .await
        .map_err(|error| refused(&error))?;
    let progress = wait_for(shared, revision, request.wait, "denied").await?;
    Ok(response(shared, denied, revision, &progress))
}

pub(super) async fn lift(
    shared: &Shared,
    operator: String,
    request: wire::LiftDenialRequest,
) -> Result<wire::DenyResponse, Status> {
    let denied = denied(&request.kind, &request.digest)?;
    let revision = shared
        .denials
        .lift(denied, &request.reason, operator, now_unix_nanos())
        .await
        .map_err(|error| refused(&error))?;
    let progress = wait_for(shared, revision, request.wait, "lifted").await?;
    Ok(wire::DenyResponse {
        running: Vec::new(),
        ..response(shared, denied, revision, &progress)
    })
}

pub(super) async fn list(
    shared: &Shared,
    request: wire::ListDenialsRequest,
) -> Result<wire::ListDenialsResponse, Status> {
    let list = shared.denials.list().borrow().as_ref().clone();
    let denials = if request.history {
        let kept = shared.store.denials(HISTORY_MAXIMUM).await;
        let kept = kept.map_err(|error| Status::unavailable(error.to_string()))?;
        kept.iter().map(message).collect()
    } else {
        list.denials
    };
    Ok(wire::ListDenialsResponse {
        revision: list.revision,
        denials,
    })
}

async fn wait_for(shared: &Shared, revision: u64, wait: bool, what: &str) -> Result<Progress, Status> {
    if !wait {
        return Ok(shared.nodes.progress(Given::Denylist, revision));
    }
    let waiting = shared.nodes.wait_for(Given::Denylist, revision);
    timeout(APPLY_PATIENCE, waiting).await.map_err(|_| {
        let waiting = shared.nodes.progress(Given::Denylist, revision).waiting.join("; ");
        Status::deadline_exceeded(format!(
            "it is {what} and that is kept (revision {revision}), but after {} s not every connected agent has applied it: {waiting}",
            APPLY_PATIENCE.as_secs()
        ))
    })
}

fn response(shared: &Shared, denied: Denied, revision: u64, progress: &Progress) -> wire::DenyResponse {
    let image = match denied {
        Denied::Image(_) => denied.digest(),
        // Which containers run a file, central does not know.
        Denied::File(_) => String::new(),
    };
    let running = shared.standings.all().into_iter().filter(|status| {
        let container = status.container.as_ref();
        container.is_some_and(|container| !image.is_empty() && container.image_digest == image)
    });
    wire::DenyResponse {
        revision,
        agents_applied: progress.applied,
        agents_connected: progress.connected,
        running: running.collect(),
    }
}
