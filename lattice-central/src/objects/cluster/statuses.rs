//! What central says of each object, written to its status: how far a service came, and what is wrong with the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use lattice_api::{
    crd,
    object::{LatticeRollout, LatticeService},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    known::{Standing, Subject},
    watching::Kind,
};
use crate::{
    board::Key,
    conditions::{Holds, ServiceConditions, Step, Told},
    rollout::report::Report,
    server::Shared,
};

/// Who writes, to the API server.
const FIELD_MANAGER: &str = "lattice-central";
/// What could not be written is tried again after so long, and everything is looked at again.
const AGAIN: Duration = Duration::from_secs(10);
/// The status of a rollout is written no more often than this, whatever its nodes do.
const ROLLOUT_AT_MOST_EVERY: Duration = Duration::from_secs(2);
/// metav1.Condition allows so many bytes.
const MESSAGE_BYTES_MAXIMUM: usize = 32_768;

/// The task that writes. Dropped, it ends.
pub(super) struct Statuses {
    subjects: watch::Sender<Vec<Subject>>,
}

impl Statuses {
    pub(super) fn begin(client: Client, shared: Arc<Shared>) -> Self {
        let (subjects, incoming) = watch::channel(Vec::new());
        tokio::spawn(run(client, shared, incoming));
        Self { subjects }
    }

    /// Says which objects there are, and what their statuses say now.
    pub(super) fn tell(&self, subjects: Vec<Subject>) {
        self.subjects.send_if_modified(|before| {
            let is_changed = *before != subjects;
            *before = subjects;
            is_changed
        });
    }
}

/// What is known of the objects besides what stands in them.
#[derive(Default)]
struct Findings {
    services: BTreeMap<Key, ServiceConditions>,
    rollouts: BTreeMap<Key, Report>,
}

async fn run(client: Client, shared: Arc<Shared>, mut subjects: watch::Receiver<Vec<Subject>>) {
    let mut said = shared.board.said();
    let mut moved = shared.rollouts.moved();
    // What was refused is told once.
    let mut refused: BTreeSet<(Kind, Key)> = BTreeSet::new();
    let mut pace = Pace::default();
    loop {
        let findings = {
            said.borrow_and_update();
            moved.borrow_and_update();
            Findings {
                services: shared.board.services().await,
                rollouts: shared.rollouts.reports(&shared).await,
            }
        };
        let now: Vec<Subject> = subjects.borrow_and_update().clone();
        let mut again = AGAIN;
        for subject in &now {
            let Some(wanted) = wanted(subject, &findings, SystemTime::now().into()) else {
                continue;
            };
            let identity = (subject.kind, subject.key.clone());
            if let Some(wait) = pace.wait(&identity, Instant::now()) {
                again = again.min(wait);
                continue;
            }
            match write(&client, subject, &wanted).await {
                Ok(()) => drop(refused.remove(&identity)),
                Err(error) => {
                    if refused.insert(identity) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(object = %subject.origin, error, "the status cannot be written; trying again");
                    }
                }
            }
        }
        let is_there =
            |(kind, key): &(Kind, Key)| now.iter().any(|subject| subject.kind == *kind && subject.key == *key);
        refused.retain(is_there);
        pace.written.retain(|identity, _| is_there(identity));
        tokio::select! {
            changed = subjects.changed() => if changed.is_err() { return },
            changed = said.changed() => if changed.is_err() { return },
            changed = moved.changed() => if changed.is_err() { return },
            () = sleep(again) => {}
        }
    }
}

/// Keeps rollouts from being written at each turn of what their nodes tell.
#[derive(Default)]
struct Pace {
    written: BTreeMap<(Kind, Key), Instant>,
}

impl Pace {
    /// How long to wait before this one is written; `None` where it may be now, which counts as done.
    fn wait(&mut self, identity: &(Kind, Key), now: Instant) -> Option<Duration> {
        if identity.0.name != LatticeRollout::KIND {
            return None;
        }
        let since = self.written.get(identity).map(|at| now.saturating_duration_since(*at));
        if let Some(wait) = since.and_then(|since| ROLLOUT_AT_MOST_EVERY.checked_sub(since)) {
            return Some(wait).filter(|wait| !wait.is_zero());
        }
        self.written.insert(identity.clone(), now);
        None
    }
}

async fn write(client: &Client, subject: &Subject, status: &Value) -> Result<(), kube::Error> {
    let resource = subject.kind.resource();
    let (namespace, name) = &subject.key;
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let status = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(name, &parameters, &Patch::Apply(&status)).await {
        // It was deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// The status that an object should have; `None` where it has it, or nothing is known of it yet.
fn wanted(subject: &Subject, findings: &Findings, now: DateTime<Utc>) -> Option<Value> {
    if subject.kind.name == LatticeRollout::KIND {
        let status = rollout_status(subject, findings.rollouts.get(&subject.key), now)?;
        // Numbers and texts: JSON lacks none of them.
        return serde_json::to_value(status).ok();
    }
    let before: crd::Status = before(subject);
    let is_service = subject.kind.name == LatticeService::KIND;
    let told = match (
        findings.services.get(&subject.key).filter(|_| is_service),
        &subject.standing,
    ) {
        // How far the chain came says more than that the object can be read, and with what it came so far.
        (Some(conditions), _) => conditions.told(),
        (None, Standing::Invalid(problems)) => vec![invalid(problems)],
        (None, Standing::Unusable(problems)) => vec![ready(Holds::False, "KeyUnusable", problems.clone())],
        (None, Standing::Surplus(why)) => vec![ready(Holds::False, "Surplus", why.clone())],
        // The chain has not looked at it yet.
        (None, Standing::Good) if is_service => return None,
        (None, Standing::Good) => vec![ready(Holds::True, "InForce", "in force".to_owned())],
    };
    let conditions = dated(told, &before.conditions, subject.generation, now);
    if conditions == before.conditions {
        return None;
    }
    Some(json!({"observedGeneration": subject.generation, "conditions": conditions}))
}

/// What a rollout's status should say. An invalid one goes on by what it said before, and one that is too many is not looked at.
fn rollout_status(subject: &Subject, report: Option<&Report>, now: DateTime<Utc>) -> Option<crd::RolloutStatus> {
    let before: crd::RolloutStatus = before(subject);
    let (mut status, mut told) = match (report, &subject.standing) {
        (_, Standing::Surplus(why)) => {
            let told = vec![ready(Holds::False, "Surplus", why.clone())];
            (crd::RolloutStatus::default(), told)
        }
        (Some(report), _) => (report.status.clone(), report.conditions.clone()),
        // The driver has not looked at it yet.
        (None, Standing::Good) => return None,
        (None, _) => Default::default(),
    };
    if let Standing::Invalid(problems) = &subject.standing {
        told.retain(|condition| condition.kind != Step::Ready.word());
        told.push(invalid(problems));
    }
    status.observed_generation = u64::try_from(subject.generation).ok();
    status.conditions = dated(told, &before.conditions, subject.generation, now);
    (status != before).then_some(status)
}

/// What somebody else wrote there and cannot be read is written anew.
fn before<T: serde::de::DeserializeOwned + Default>(subject: &Subject) -> T {
    serde_json::from_value(subject.status.clone()).unwrap_or_default()
}

fn ready(holds: Holds, reason: &str, message: String) -> Told {
    Told::new(Step::Ready.word(), holds, reason, message)
}

fn invalid(problems: &str) -> Told {
    let problems = problems.trim_end_matches('.');
    let message = format!("{problems}. What it said before, if it ever was good, stays in force");
    ready(Holds::False, "Invalid", message)
}

/// Conditions with the time since when each holds.
fn dated(told: Vec<Told>, before: &[crd::Condition], generation: i64, now: DateTime<Utc>) -> Vec<crd::Condition> {
    told.into_iter()
        .map(|told| {
            let Told {
                kind,
                holds,
                reason,
                mut message,
            } = told;
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAXIMUM));
            let before = before
                .iter()
                .find(|before| before.kind == kind && before.status == holds.word());
            crd::Condition {
                kind: kind.to_owned(),
                status: holds.word().to_owned(),
                observed_generation: u64::try_from(generation).ok(),
                last_transition_time: match before {
                    Some(before) => before.last_transition_time.clone(),
                    None => now.to_rfc3339_opts(SecondsFormat::Secs, true),
                },
                reason,
                message,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::watching::KINDS, *};

    fn subject(kind: &str, status: Value) -> Subject {
        Subject {
            kind: KINDS.into_iter().find(|known| known.name == kind).unwrap(),
            key: ("payments".to_owned(), "a".to_owned()),
            origin: format!("{kind} payments/a"),
            generation: 3,
            status,
            standing: Standing::Good,
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn findings(conditions: ServiceConditions) -> Findings {
        Findings {
            services: BTreeMap::from([(("payments".to_owned(), "a".to_owned()), conditions)]),
            ..Findings::default()
        }
    }

    fn conditions(status: Option<Value>) -> Vec<crd::Condition> {
        serde_json::from_value::<crd::Status>(status.unwrap())
            .unwrap()
            .conditions
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let stopped = |reason: &str| {
            findings(ServiceConditions::stopped(
                Step::ImageVerified,
                Holds::False,
                reason,
                "unsigned",
                &[],
                "Nothing is in force",
            ))
        };
        let service = |status: Value| subject("LatticeService", status);
        let status = wanted(&service(Value::Null), &stopped("Unsigned"), at(0)).unwrap();
        assert_eq!(status["observedGeneration"], 3);
        let first = conditions(Some(status.clone()));
        assert_eq!(first.len(), 4);
        let ready = first.last().unwrap();
        assert_eq!(
            (ready.kind.as_str(), ready.status.as_str(), ready.observed_generation),
            ("Ready", "False", Some(3))
        );
        assert_eq!(wanted(&service(status.clone()), &stopped("Unsigned"), at(60)), None);
        // Another reason is news, but it does not hold any less than before.
        let status = wanted(&service(status), &stopped("Untrusted"), at(60)).unwrap();
        let second = conditions(Some(status.clone()));
        assert_eq!(second[0].reason, "Untrusted");
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        let ready = findings(ServiceConditions::ready(["a", "b", "c", "d"].map(str::to_owned)));
        let third = conditions(wanted(&service(status), &ready, at(120)));
        assert!(third.iter().all(|condition| condition.status == "True"));
        assert_eq!(third[3].last_transition_time, "1970-01-01T00:02:00Z");
    }

    #[test]
    fn nothing_is_said_before_something_is_known() {
        let nothing = Findings::default();
        for kind in ["LatticeService", "LatticeRollout"] {
            assert_eq!(wanted(&subject(kind, Value::Null), &nothing, at(0)), None, "{kind}");
        }
        let good = conditions(wanted(&subject("TrustPolicy", Value::Null), &nothing, at(0)));
        assert_eq!((good[0].kind.as_str(), good[0].status.as_str()), ("Ready", "True"));
        let told = |standing| {
            let bad = Subject {
                standing,
                ..subject("TrustPolicy", Value::Null)
            };
            conditions(wanted(&bad, &nothing, at(0))).remove(0)
        };
        let invalid = told(Standing::Invalid("wrong".to_owned()));
        assert_eq!((invalid.status.as_str(), invalid.reason.as_str()), ("False", "Invalid"));
        assert!(invalid.message.starts_with("wrong. What it said before"));
        let unusable = told(Standing::Unusable("no key".to_owned()));
        assert_eq!(
            (unusable.reason.as_str(), unusable.message.as_str()),
            ("KeyUnusable", "no key")
        );
    }

    fn rollout(standing: Standing, status: Value, report: Option<Report>) -> Option<crd::RolloutStatus> {
        let subject = Subject {
            standing,
            ..subject("LatticeRollout", status)
        };
        let key = subject.key.clone();
        let findings = Findings {
            rollouts: report.into_iter().map(|report| (key.clone(), report)).collect(),
            ..Findings::default()
        };
        wanted(&subject, &findings, at(0)).map(|status| serde_json::from_value(status).unwrap())
    }

    fn enforced() -> Report {
        Report {
            status: crd::RolloutStatus {
                phase: "Enforced".to_owned(),
                open_misses: 2,
                ..crd::RolloutStatus::default()
            },
            conditions: vec![
                Told::new(
                    "Degraded",
                    Holds::False,
                    "AsExpected",
                    "no workload was rolled back".to_owned(),
                ),
                Told::new(
                    "Ready",
                    Holds::True,
                    "Enforced",
                    "1 of 1 workloads are enforced".to_owned(),
                ),
            ],
        }
    }

    #[test]
    fn a_rollout_says_how_far_it_is_also_while_what_is_written_is_wrong() {
        let status = rollout(Standing::Good, Value::Null, Some(enforced())).unwrap();
        assert_eq!((status.phase.as_str(), status.open_misses), ("Enforced", 2));
        assert_eq!((status.observed_generation, status.conditions.len()), (Some(3), 2));
        // Only what differs is written.
        let written = serde_json::to_value(&status).unwrap();
        assert_eq!(rollout(Standing::Good, written.clone(), Some(enforced())), None);
        let invalid = rollout(Standing::Invalid("wrong".to_owned()), written, Some(enforced())).unwrap();
        assert_eq!(invalid.phase, "Enforced");
        let ready = invalid.conditions.last().unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Invalid"));
        assert_eq!(invalid.conditions.len(), 2);
        // One that was never good has no phase.
        let never = rollout(Standing::Invalid("wrong".to_owned()), Value::Null, None).unwrap();
        assert_eq!((never.phase.as_str(), never.conditions.len()), ("", 1));
        let surplus = rollout(Standing::Surplus("b counts".to_owned()), Value::Null, None).unwrap();
        assert_eq!(surplus.conditions[0].message, "b counts");
    }

    #[test]
    fn a_rollout_is_not_written_at_every_turn_and_others_are() {
        let mut pace = Pace::default();
        let begin = Instant::now();
        let identity = |kind: &str| {
            let subject = subject(kind, Value::Null);
            (subject.kind, subject.key)
        };
        let after = |millis| begin + Duration::from_millis(millis);
        assert_eq!(pace.wait(&identity("LatticeRollout"), after(0)), None);
        assert_eq!(
            pace.wait(&identity("LatticeRollout"), after(500)),
            Some(Duration::from_millis(1_500))
        );
        assert_eq!(pace.wait(&identity("LatticeRollout"), after(2_000)), None);
        for _ in 0..2 {
            assert_eq!(pace.wait(&identity("LatticeService"), after(2_000)), None);
        }
    }
}
