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
use lattice_api::{crd, object::LatticeService};
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use super::{
    known::{Standing, Subject},
    watching::Kind,
};
use crate::{
    board::{Board, Key},
    conditions::{Holds, ServiceConditions, Step},
};

/// Who writes, to the API server.
const FIELD_MANAGER: &str = "lattice-central";
/// What could not be written is tried again after so long, and everything is looked at again.
const AGAIN: Duration = Duration::from_secs(10);
/// metav1.Condition allows so many bytes.
const MESSAGE_BYTES_MAXIMUM: usize = 32_768;

/// The task that writes. Dropped, it ends.
pub(super) struct Statuses {
    subjects: watch::Sender<Vec<Subject>>,
}

impl Statuses {
    pub(super) fn begin(client: Client, board: Arc<Board>) -> Self {
        let (subjects, incoming) = watch::channel(Vec::new());
        tokio::spawn(run(client, board, incoming));
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

async fn run(client: Client, board: Arc<Board>, mut subjects: watch::Receiver<Vec<Subject>>) {
    let mut said = board.said();
    // What was refused is told once.
    let mut refused: BTreeSet<(Kind, Key)> = BTreeSet::new();
    loop {
        let services = {
            said.borrow_and_update();
            board.services().await
        };
        let now: Vec<Subject> = subjects.borrow_and_update().clone();
        for subject in &now {
            let Some(wanted) = wanted(subject, &services, SystemTime::now().into()) else {
                continue;
            };
            let identity = (subject.kind, subject.key.clone());
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
        refused.retain(|(kind, key)| now.iter().any(|subject| subject.kind == *kind && subject.key == *key));
        tokio::select! {
            changed = subjects.changed() => if changed.is_err() { return },
            changed = said.changed() => if changed.is_err() { return },
            () = sleep(AGAIN) => {}
        }
    }
}

async fn write(client: &Client, subject: &Subject, conditions: &[crd::Condition]) -> Result<(), kube::Error> {
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
        "status": {"observedGeneration": subject.generation, "conditions": conditions},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(name, &parameters, &Patch::Apply(&status)).await {
        // It was deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// The conditions that an object should have; `None` where it has them, or nothing is known of it yet.
fn wanted(
    subject: &Subject,
    services: &BTreeMap<Key, ServiceConditions>,
    now: DateTime<Utc>,
) -> Option<Vec<crd::Condition>> {
    let is_service = subject.kind.name == LatticeService::KIND;
    let ready = |holds: Holds, reason: &str, message: String| {
        vec![(Step::Ready.word().to_owned(), holds.word(), reason.to_owned(), message)]
    };
    let shown = match (services.get(&subject.key).filter(|_| is_service), &subject.standing) {
        // How far the chain came says more than that the object can be read, and with what it came so far.
        (Some(conditions), _) => conditions
            .all()
            .iter()
            .map(|condition| {
                (
                    condition.step.word().to_owned(),
                    condition.holds.word(),
                    condition.reason.clone(),
                    condition.message.clone(),
                )
            })
            .collect(),
        (None, Standing::Invalid(problems)) => {
            let message = format!("{problems}. What it said before, if it ever was good, stays in force");
            ready(Holds::False, "Invalid", message)
        }
        (None, Standing::Unusable(problems)) => ready(Holds::False, "KeyUnusable", problems.clone()),
        // The chain has not looked at it yet.
        (None, Standing::Good) if is_service => return None,
        (None, Standing::Good) => ready(Holds::True, "InForce", "in force".to_owned()),
    };
    let wanted: Vec<crd::Condition> = shown
        .into_iter()
        .map(|(kind, status, reason, mut message)| {
            let end = message.floor_char_boundary(MESSAGE_BYTES_MAXIMUM);
            message.truncate(end);
            let before = subject
                .conditions
                .iter()
                .find(|before| before.kind == kind && before.status == status);
            crd::Condition {
                last_transition_time: match before {
                    Some(before) => before.last_transition_time.clone(),
                    None => now.to_rfc3339_opts(SecondsFormat::Secs, true),
                },
                kind,
                status: status.to_owned(),
                observed_generation: u64::try_from(subject.generation).ok(),
                reason,
                message,
            }
        })
        .collect();
    (wanted != subject.conditions).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::{super::watching::KINDS, *};

    fn subject(kind: &str, conditions: Vec<crd::Condition>) -> Subject {
        Subject {
            kind: KINDS.into_iter().find(|known| known.name == kind).unwrap(),
            key: ("payments".to_owned(), "a".to_owned()),
            origin: format!("{kind} payments/a"),
            generation: 3,
            conditions,
            standing: Standing::Good,
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let key = ("payments".to_owned(), "a".to_owned());
        let stopped = |reason: &str| {
            ServiceConditions::stopped(
                Step::ImageVerified,
                Holds::False,
                reason,
                "unsigned",
                &[],
                "Nothing is in force",
            )
        };
        let services = BTreeMap::from([(key.clone(), stopped("Unsigned"))]);
        let first = wanted(&subject("LatticeService", Vec::new()), &services, at(0)).unwrap();
        assert_eq!(first.len(), 4);
        let ready = first.last().unwrap();
        assert_eq!(
            (ready.kind.as_str(), ready.status.as_str(), ready.observed_generation),
            ("Ready", "False", Some(3))
        );
        assert_eq!(
            wanted(&subject("LatticeService", first.clone()), &services, at(60)),
            None
        );
        // Another reason is news, but it does not hold any less than before.
        let services = BTreeMap::from([(key.clone(), stopped("Untrusted"))]);
        let second = wanted(&subject("LatticeService", first.clone()), &services, at(60)).unwrap();
        assert_eq!(second[0].reason, "Untrusted");
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        let ready = ServiceConditions::ready(["a", "b", "c", "d"].map(str::to_owned));
        let third = wanted(
            &subject("LatticeService", second),
            &BTreeMap::from([(key, ready)]),
            at(120),
        )
        .unwrap();
        assert!(third.iter().all(|condition| condition.status == "True"));
        assert_eq!(third[3].last_transition_time, "1970-01-01T00:02:00Z");
    }

    #[test]
    fn nothing_is_said_before_something_is_known() {
        assert_eq!(
            wanted(&subject("LatticeService", Vec::new()), &BTreeMap::new(), at(0)),
            None
        );
        let good = wanted(&subject("TrustPolicy", Vec::new()), &BTreeMap::new(), at(0)).unwrap();
        assert_eq!((good[0].kind.as_str(), good[0].status.as_str()), ("Ready", "True"));
        let bad = |standing| Subject {
            standing,
            ..subject("TrustPolicy", Vec::new())
        };
        let invalid = wanted(&bad(Standing::Invalid("wrong".to_owned())), &BTreeMap::new(), at(0)).unwrap();
        assert_eq!(
            (invalid[0].status.as_str(), invalid[0].reason.as_str()),
            ("False", "Invalid")
        );
        assert!(invalid[0].message.starts_with("wrong. What it said before"));
        let unusable = wanted(&bad(Standing::Unusable("no key".to_owned())), &BTreeMap::new(), at(0)).unwrap();
        assert_eq!(
            (unusable[0].reason.as_str(), unusable[0].message.as_str()),
            ("KeyUnusable", "no key")
        );
    }
}
