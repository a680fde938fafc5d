//! From the store and what holds now to what a simulation goes by.

use std::sync::Arc;

use lattice_api::{
    Object,
    object::LatticeRollout,
    v1::{self as wire, event::Kind},
};
use lattice_policy::ExecPolicy;
use prost::Message as _;

use super::{
    driver::Rollouts,
    miss::Review,
    observe,
    simulate::{Candidate, Place, Question, Recorded, Simulation, simulate},
    state::{RolloutState, UnixNanos},
};
use crate::{server::Shared, store::StoreError};

/// Events that are read from the store at a time.
const EVENTS_AT_A_TIME: u32 = 1_024;
/// Programs and gaps that a simulation takes in.
const RECORDED_MAXIMUM: usize = 200_000;

/// Why there is no simulation.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The documents are not of one namespace's rollout.
    #[error("{0}")]
    Documents(String),
    /// More than can be looked at.
    #[error("more than {RECORDED_MAXIMUM} events of namespace {0} are recorded; look at fewer with --since")]
    TooMany(String),
}

/// A simulation, of what and over which time.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// What was tried out.
    pub candidate: Candidate,
    /// When it began.
    pub from: UnixNanos,
    /// When it ended.
    pub until: UnixNanos,
    /// What came of it.
    pub simulation: Simulation,
}

impl Rollouts {
    /// Runs the machine over what is recorded since a time, with these objects in place of those in force. Changes nothing.
    ///
    /// # Errors
    /// When the objects are of no one namespace, or the store cannot be read.
    pub async fn simulate(
        &self,
        shared: &Shared,
        objects: Vec<Object>,
        since: UnixNanos,
        until: UnixNanos,
    ) -> Result<Replayed, SimulateError> {
        let written = Written::of(objects)?;
        let namespace = written.namespace.clone();
        let (mut document, mut state) = (written.rollout, RolloutState::default());
        for (of, kept) in self.all().await {
            if of.namespace == namespace {
                document = document.or_else(|| Some(of.as_ref().clone()));
                state = kept.unwrap_or_default();
            }
        }
        let Some(document) = document else {
            let message = format!(
                "namespace {namespace} has no LatticeRollout, whose rules would hold; write one into the file beside the policies"
            );
            return Err(SimulateError::Documents(message));
        };
        let published = shared.board.policies().borrow().clone();
        // Which mode they are given out with makes no difference to what they list.
        let of_namespace = published.policies.iter().filter(|policy| policy.namespace == namespace);
        let in_force: Vec<_> = of_namespace
            .filter_map(|policy| ExecPolicy::try_from(policy.clone()).ok())
            .map(Arc::new)
            .collect();
        let policies = match written.policies.is_empty() {
            true => in_force.iter().map(|policy| policy.as_ref().clone()).collect(),
            false => written.policies,
        };
        let candidate = Candidate {
            namespace: namespace.clone(),
            spec: document.spec,
            policies,
        };
        let recorded = read(shared, &namespace, since, until).await?;
        // Where nobody says since when, what is recorded says it.
        let from = match since {
            0 => recorded.iter().map(time_of).min().unwrap_or(until),
            since => since.min(until),
        };
        let misses = state
            .tracks
            .into_values()
            .flat_map(|track| track.misses.kept.into_values());
        let dismissed: Vec<_> = misses
            .filter_map(|miss| match miss.review.clone() {
                Review::Dismissed(why) => Some((miss, why)),
                Review::Open | Review::Listed => None,
            })
            .collect();
        let containers = containers(shared, &namespace);
        let work = move || {
            let simulation = simulate(&Question {
                candidate: &candidate,
                in_force: &in_force,
                dismissed: &dismissed,
                containers: &containers,
                recorded: &recorded,
                from,
                until,
            });
            Replayed {
                candidate,
                from,
                until,
                simulation,
            }
        };
        // Weeks are a second of work, which must not keep others waiting.
        let replayed = tokio::task::spawn_blocking(work).await;
        replayed.map_err(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// What a candidate's file says.
struct Written {
    namespace: String,
    policies: Vec<ExecPolicy>,
    rollout: Option<LatticeRollout>,
}

impl Written {
    fn of(objects: Vec<Object>) -> Result<Self, SimulateError> {
        let refused = |message: String| Err(SimulateError::Documents(message));
        let mut written = Self {
            namespace: String::new(),
            policies: Vec::new(),
            rollout: None,
        };
        for object in objects {
            let namespace = object.namespace().to_owned();
            if !written.namespace.is_empty() && written.namespace != namespace {
                return refused(format!(
                    "the documents are of namespaces {} and {namespace}; a rollout is of one",
                    written.namespace
                ));
            }
            written.namespace = namespace;
            match object {
                Object::ExecPolicy(policy) => written.policies.push(policy),
                Object::LatticeRollout(_) if written.rollout.is_some() => {
                    return refused("there are two LatticeRollouts; a namespace has one".to_owned());
                }
                Object::LatticeRollout(rollout) => written.rollout = Some(rollout),
                other => {
                    return refused(format!(
                        "{} {}: a candidate is of ExecPolicies and a LatticeRollout",
                        other.kind(),
                        other.name()
                    ));
                }
            }
        }
        match written.namespace.is_empty() {
            true => refused(
                "there is no document; write the ExecPolicies, or the LatticeRollout, that is to be tried out"
                    .to_owned(),
            ),
            false => Ok(written),
        }
    }
}

fn time_of(recorded: &Recorded) -> UnixNanos {
    match recorded {
        Recorded::Violation { facts, .. } => facts.time,
        Recorded::Gap { time, .. } => *time,
    }
}

async fn read(
    shared: &Shared,
    namespace: &str,
    since: UnixNanos,
    until: UnixNanos,
) -> Result<Vec<Recorded>, SimulateError> {
    let mut recorded = Vec::new();
    let mut cursor = 0;
    loop {
        let events = shared.store.events_after(cursor, None, EVENTS_AT_A_TIME).await?;
        let Some(last) = events.last() else { return Ok(recorded) };
        cursor = last.cursor;
        // What cannot be read the driver has told of when it came.
        let events = events
            .iter()
            .filter_map(|stored| wire::Event::decode(stored.event.as_slice()).ok());
        let in_time = events.filter(|event| (since..=until).contains(&event.time_unix_nanos));
        recorded.extend(in_time.filter_map(|event| recorded_of(event, namespace)));
        if recorded.len() > RECORDED_MAXIMUM {
            return Err(SimulateError::TooMany(namespace.to_owned()));
        }
    }
}

fn recorded_of(event: wire::Event, namespace: &str) -> Option<Recorded> {
    let (node, time) = (event.node, event.time_unix_nanos);
    match event.kind? {
        Kind::Violation(violation) => {
            if observe::namespace_of(&violation)? != namespace {
                return None;
            }
            let place = place(&node, violation.container.as_ref()?);
            let facts = Box::new(observe::violation_facts(&node, time, violation));
            Some(Recorded::Violation { place, facts })
        }
        Kind::Gap(gap) => Some(Recorded::Gap {
            time,
            node,
            text: format!("{}–{} ({})", gap.first_sequence, gap.last_sequence, gap.cause),
        }),
        Kind::Notice(_) => None,
    }
}

fn containers(shared: &Shared, namespace: &str) -> Vec<Place> {
    let all = shared.standings.all().into_iter();
    all.filter_map(|status| {
        let container = status.container.filter(|container| container.namespace == namespace)?;
        Some(place(&status.node, &container))
    })
    .collect()
}

fn place(node: &str, container: &wire::Container) -> Place {
    Place {
        node: node.to_owned(),
        id: observe::container_id(container),
        pod: observe::pod(container),
        workload: container.workload.clone(),
        name: container.name.clone(),
        image: container.image_digest.clone(),
    }
}
