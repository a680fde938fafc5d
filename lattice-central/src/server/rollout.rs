//! `latticectl rollout`: where each is, and what an operator says to it.

use lattice_api::{
    object::{ApprovalMode, LatticeRollout, Runtime},
    read_objects, v1 as wire,
};
use tokio::time::timeout;
use tonic::Status;

use super::{Shared, control::APPLY_PATIENCE, denial::now_unix_nanos};
use crate::{
    nodes::Given,
    rollout::{
        command::{Action, Command, CommandError},
        driver::ChangeError,
        machine,
        miss::{Miss, Review},
        replay::{Replayed, SimulateError},
        state::{Phase, RolloutState, Track, Transition},
    },
    store::StoredTransition,
};

/// Transitions that are shown at once.
const HISTORY_MAXIMUM: u32 = 10_000;
/// Misses that are dismissed at once.
const MISSES_MAXIMUM: usize = 1_000;

pub(super) async fn list(shared: &Shared, wanted: &str) -> wire::ListRolloutsResponse {
    let modes = shared.board.policies().borrow().namespace_modes.clone();
    let all = shared.rollouts.all().await;
    let rollouts = all
        .into_iter()
        .filter(|(document, _)| wanted.is_empty() || document.namespace == wanted);
    let message = |(document, state): (std::sync::Arc<LatticeRollout>, Option<RolloutState>)| {
        let over = modes.iter().find(|over| over.namespace == document.namespace);
        let over = over.map(|over| over.mode.clone()).unwrap_or_default();
        rollout(&document, &state.unwrap_or_default(), &over)
    };
    wire::ListRolloutsResponse {
        rollouts: rollouts.map(message).collect(),
    }
}

fn rollout(document: &LatticeRollout, state: &RolloutState, overridden_by: &str) -> wire::Rollout {
    let spec = &document.spec;
    wire::Rollout {
        namespace: document.namespace.clone(),
        name: document.name.clone(),
        environment: spec.environment.to_string(),
        runtime: match spec.runtime {
            Runtime::Monitor => "monitor",
            Runtime::Enforce => "enforce",
        }
        .to_owned(),
        standstill: machine::standstill(state, spec, now_unix_nanos()).unwrap_or_default(),
        min_duration_seconds: spec.burn_in.min_duration.seconds(),
        quiet_period_seconds: spec.burn_in.quiet_period.seconds(),
        approvers: match spec.approval.mode {
            ApprovalMode::Manual => spec.approval.approvers,
            ApprovalMode::Auto => 0,
        },
        steps: u32::try_from(spec.steps.len()).unwrap_or(u32::MAX),
        tracks: state
            .tracks
            .iter()
            .map(|(workload, of)| track(workload, of, overridden_by))
            .collect(),
    }
}

fn track(workload: &str, track: &Track, overridden_by: &str) -> wire::RolloutTrack {
    let mut message = wire::RolloutTrack {
        workload: workload.to_owned(),
        phase: track.phase.word().to_owned(),
        since_unix_nanos: track.since,
        policies: track.lists.keys().cloned().collect(),
        elapsed_seconds: track.clock.elapsed.as_secs(),
        quiet_seconds: track.clock.quiet.as_secs(),
        hold: track.clock.hold.clone().unwrap_or_default(),
        open_misses: u32::try_from(track.misses.open()).unwrap_or(u32::MAX),
        breaker_opened: track.breaker.opened,
        overridden_by: overridden_by.to_owned(),
        ..wire::RolloutTrack::default()
    };
    let approvals = track.approvals.0.iter().map(|approved| wire::RolloutApproval {
        by: approved.by.clone(),
        unix_nanos: approved.time,
    });
    message.approvals = approvals.collect();
    match &track.phase {
        Phase::AwaitingApproval { gate } => message.gate.clone_from(gate),
        Phase::Canary { step, held, nodes } => {
            message.step = u32::try_from(step + 1).unwrap_or(u32::MAX);
            message.held_seconds = held / 1_000_000_000;
            message.nodes = nodes.iter().cloned().collect();
        }
        Phase::RolledBack { until, reason } => {
            message.rolled_back_because.clone_from(reason);
            message.rearm_unix_nanos = until.unwrap_or_default();
        }
        Phase::Monitoring | Phase::Enforced => {}
    }
    message
}

pub(super) async fn misses(
    shared: &Shared,
    request: &wire::ListRolloutMissesRequest,
) -> wire::ListRolloutMissesResponse {
    let mut misses = Vec::new();
    for (document, state) in shared.rollouts.all().await {
        let namespace = &document.namespace;
        if !request.namespace.is_empty() && request.namespace != *namespace {
            continue;
        }
        for (workload, track) in state.unwrap_or_default().tracks {
            let shown = track
                .misses
                .kept
                .into_iter()
                .filter(|(_, miss)| request.all || miss.review == Review::Open);
            misses.extend(shown.map(|(id, kept)| miss(namespace, &workload, id, kept)));
        }
    }
    wire::ListRolloutMissesResponse { misses }
}

fn miss(namespace: &str, workload: &str, id: String, miss: Miss) -> wire::RolloutMiss {
    let (review, dismissed) = match miss.review {
        Review::Open => ("open", None),
        Review::Listed => ("listed", None),
        Review::Dismissed(why) => ("dismissed", Some(why)),
    };
    let (dismissed_by, dismissed_unix_nanos, dismissed_because) =
        dismissed.map(|why| (why.by, why.time, why.reason)).unwrap_or_default();
    wire::RolloutMiss {
        id,
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        policy: miss.policy,
        path: miss.path,
        sha256: miss.sha256,
        role: miss.role,
        origin: miss.origin,
        reason: miss.reason,
        drift: miss.drift,
        count: miss.count,
        was_refused: miss.was_refused,
        first_unix_nanos: miss.first,
        last_unix_nanos: miss.last,
        review: review.to_owned(),
        dismissed_by,
        dismissed_unix_nanos,
        dismissed_because,
    }
}

pub(super) async fn history(
    shared: &Shared,
    request: wire::ListRolloutHistoryRequest,
) -> Result<wire::ListRolloutHistoryResponse, Status> {
    let namespace = Some(request.namespace).filter(|namespace| !namespace.is_empty());
    let limit = match request.limit {
        0 => HISTORY_MAXIMUM,
        limit => limit.min(HISTORY_MAXIMUM),
    };
    let kept = shared.store.rollout_history(namespace, limit).await;
    let kept = kept.map_err(|error| Status::unavailable(error.to_string()))?;
    let message = |kept: StoredTransition| wire::RolloutTransition {
        namespace: kept.namespace,
        unix_nanos: kept.unix_nanos,
        workload: kept.workload,
        from: kept.from,
        to: kept.to,
        by: kept.by,
        reason: kept.reason,
        evidence: kept.evidence,
    };
    Ok(wire::ListRolloutHistoryResponse {
        transitions: kept.into_iter().map(message).collect(),
    })
}

pub(super) async fn change(
    shared: &Shared,
    operator: String,
    request: wire::ChangeRolloutRequest,
) -> Result<wire::ChangeRolloutResponse, Status> {
    let wire::ChangeRolloutRequest {
        namespace,
        workload,
        action,
        reason,
        gate,
        misses,
        wait,
    } = request;
    let action = match action.as_str() {
        "approve" => Action::Approve { gate },
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "rollback" => Action::RollBack,
        "dismiss" if (1..=MISSES_MAXIMUM).contains(&misses.len()) => Action::Dismiss(misses),
        "dismiss" => {
            let message = format!("misses: {} are named; name 1 to {MISSES_MAXIMUM}", misses.len());
            return Err(Status::invalid_argument(message));
        }
        _ => {
            let message = "action: it is none of approve, pause, resume, rollback, dismiss";
            return Err(Status::invalid_argument(message));
        }
    };
    let command = Command {
        action,
        workload: Some(workload).filter(|workload| !workload.is_empty()),
        by: operator,
        reason,
    };
    let changed = shared.rollouts.change(shared, &namespace, command).await;
    let changed = changed.map_err(|error| refused(&error))?;
    let time = now_unix_nanos();
    let revision = changed.revision;
    let progress = match (wait, revision) {
        (true, 1..) => {
            let waiting = shared.nodes.wait_for(Given::Policies, revision);
            timeout(APPLY_PATIENCE, waiting).await.map_err(|_| {
                let waiting = shared.nodes.progress(Given::Policies, revision).waiting.join("; ");
                Status::deadline_exceeded(format!(
                    "it is done and kept (revision {revision}), but after {} s not every connected agent has applied it: {waiting}",
                    APPLY_PATIENCE.as_secs()
                ))
            })?
        }
        _ => shared.nodes.progress(Given::Policies, revision),
    };
    let message = |told: Transition| wire::RolloutTransition {
        namespace: namespace.clone(),
        unix_nanos: time,
        workload: told.workload,
        from: told.from,
        to: told.to,
        by: told.by,
        reason: told.reason,
        evidence: told.evidence,
    };
    Ok(wire::ChangeRolloutResponse {
        transitions: changed.transitions.into_iter().map(message).collect(),
        revision,
        agents_applied: progress.applied,
        agents_connected: progress.connected,
    })
}

/// Findings that are told at once.
const FINDINGS_MAXIMUM: usize = 20;

pub(super) async fn simulate(
    shared: &Shared,
    request: wire::SimulateRolloutRequest,
) -> Result<wire::SimulateRolloutResponse, Status> {
    let objects = read_objects(&request.file, &request.documents).map_err(|findings| {
        let shown: Vec<String> = findings
            .iter()
            .take(FINDINGS_MAXIMUM)
            .map(ToString::to_string)
            .collect();
        Status::invalid_argument(shown.join("\n"))
    })?;
    let until = now_unix_nanos();
    let replayed = shared
        .rollouts
        .simulate(shared, objects, request.since_unix_nanos, until)
        .await
        .map_err(|error| match error {
            SimulateError::Store(_) => Status::unavailable(error.to_string()),
            SimulateError::Documents(_) => Status::invalid_argument(error.to_string()),
            SimulateError::TooMany(_) => Status::resource_exhausted(error.to_string()),
        })?;
    Ok(simulation(replayed))
}

fn simulation(replayed: Replayed) -> wire::SimulateRolloutResponse {
    let Replayed {
        candidate,
        from,
        until,
        simulation,
    } = replayed;
    let namespace = &candidate.namespace;
    let counts = simulation.counts;
    let transitions = simulation
        .transitions
        .into_iter()
        .map(|(time, told)| wire::RolloutTransition {
            namespace: namespace.clone(),
            unix_nanos: time,
            workload: told.workload,
            from: told.from,
            to: told.to,
            by: told.by,
            reason: told.reason,
            evidence: told.evidence,
        });
    let mut message = wire::SimulateRolloutResponse {
        namespace: namespace.clone(),
        outcome: simulation.outcome.word().to_owned(),
        from_unix_nanos: from,
        until_unix_nanos: until,
        policies: candidate.policies.iter().map(|policy| policy.name.clone()).collect(),
        violations: counts.violations,
        allowed: counts.allowed,
        refused: counts.refused,
        by_path: counts.by_path,
        of_others: counts.of_others,
        gaps: counts.gaps,
        transitions: transitions.collect(),
        unseen: simulation.unseen,
        ..wire::SimulateRolloutResponse::default()
    };
    let dropped = simulation.dropped.into_iter().map(|dropped| wire::DroppedEntry {
        policy: dropped.policy,
        path: dropped.path,
        role: dropped.role,
    });
    message.dropped = dropped.collect();
    for (workload, of) in simulation.tracks {
        message.tracks.push(track(&workload, &of, ""));
        let open = of
            .misses
            .kept
            .into_iter()
            .filter(|(_, miss)| miss.review == Review::Open);
        message
            .misses
            .extend(open.map(|(id, kept)| miss(namespace, &workload, id, kept)));
    }
    message
}

fn refused(error: &ChangeError) -> Status {
    let text = error.to_string();
    match error {
        ChangeError::Store(_) => Status::unavailable(text),
        ChangeError::Reason(_) => Status::invalid_argument(text),
        ChangeError::NoRollout(_) | ChangeError::Command(CommandError::NoMiss(_) | CommandError::NoWorkload(_)) => {
            Status::not_found(text)
        }
        // The certificate is one of an operator; which operator may is Cedar's to say.
        ChangeError::Forbidden(_) | ChangeError::Command(_) => Status::failed_precondition(text),
    }
}
