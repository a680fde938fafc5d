//! Brings a service's objects to the cluster: all of them, or none; and puts right what somebody else changed.
//!
//! ```text
//!   Derived ─► children ─► is any of them somebody else's? ─► dry run of all ─► apply, in order ─► delete what is no longer asked for
//!   watch children ─► deleted, or its specification changed ─► the service's key ─► reconciler
//! ```

use std::collections::BTreeSet;

use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::StreamExt as _;

use crate::{
    board::Key,
    children::{Child, ChildKind, Derived, KINDS, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL, children},
    images::with_causes,
};

/// Who applies, to the API server.
const FIELD_MANAGER: &str = "lattice-central";

/// Why a service's objects are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An object of that name belongs to somebody else. Nothing was changed.
    #[error(
        "{kind} {namespace}/{name} exists and is not this service's; nothing was applied. Rename the service or that object, or delete it"
    )]
    Taken {
        /// Kind of the object.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server would not take an object. Nothing was changed.
    #[error("the API server would refuse {kind} {namespace}/{name}, so nothing was applied: {problem}")]
    Refused {
        /// Kind of the object.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What it said.
        problem: String,
    },
    /// It failed on the way, which is tried again.
    #[error(
        "{kind} {namespace}/{name} could not be {action}: {problem}; what came before it is applied, and it is tried again"
    )]
    Failed {
        /// applied, deleted, listed or read.
        action: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        problem: String,
    },
}

impl ApplyError {
    /// One word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "ObjectTaken",
            Self::Refused { .. } => "ObjectRefused",
            Self::Failed { .. } => "ApplyFailed",
        }
    }
}

/// Brings objects to one cluster.
#[derive(Clone)]
pub struct Applier {
    client: Client,
}

impl Applier {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes the cluster's objects those of the service; says which there are.
    ///
    /// # Errors
    /// When one is somebody else's or would be refused: then nothing was changed. When the API server fails on the way.
    pub async fn apply(&self, derived: &Derived) -> Result<String, ApplyError> {
        let all = children(derived);
        let namespace = &derived.service.namespace;
        for child in &all {
            self.check_owner(namespace, child, &derived.uid).await?;
        }
        let trial = PatchParams {
            dry_run: true,
            ..PatchParams::apply(FIELD_MANAGER).force()
        };
        for child in &all {
            self.patch(namespace, child, &trial)
                .await
                .map_err(|error| ApplyError::Refused {
                    kind: child.kind.kind,
                    namespace: namespace.clone(),
                    name: child.name.clone(),
                    problem: said(&error),
                })?;
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        for child in &all {
            self.patch(namespace, child, &parameters).await.map_err(failed(
                "applied",
                namespace,
                child.kind,
                &child.name,
            ))?;
        }
        self.remove_others(derived, &all).await?;
        let shown: Vec<String> = all
            .iter()
            .map(|child| format!("{} {}", child.kind.kind, child.name))
            .collect();
        Ok(shown.join(", "))
    }

    async fn check_owner(&self, namespace: &str, child: &Child, uid: &str) -> Result<(), ApplyError> {
        let there = self.api(namespace, child.kind).get_metadata_opt(&child.name).await;
        let there: Option<PartialObjectMeta<DynamicObject>> = match there {
            // A kind that the cluster does not have is refused by the dry run, which says so better.
            Err(kube::Error::Api(answer)) if answer.code == 404 => None,
            other => other.map_err(failed("read", namespace, child.kind, &child.name))?,
        };
        let is_taken = there.is_some_and(|there| {
            let owners = there.metadata.owner_references.unwrap_or_default();
            owners.iter().all(|owner| owner.uid != uid)
        });
        if is_taken {
            return Err(ApplyError::Taken {
                kind: child.kind.kind,
                namespace: namespace.to_owned(),
                name: child.name.clone(),
            });
        }
        Ok(())
    }

    async fn patch(&self, namespace: &str, child: &Child, parameters: &PatchParams) -> Result<(), kube::Error> {
        let api = self.api(namespace, child.kind);
        api.patch(&child.name, parameters, &Patch::Apply(&child.document))
            .await?;
        Ok(())
    }

    /// Deletes what an earlier state of the service came to and this one does not.
    async fn remove_others(&self, derived: &Derived, wanted: &[Child]) -> Result<(), ApplyError> {
        let namespace = &derived.service.namespace;
        let own = ListParams::default().labels(&format!(
            "{MANAGED_BY_LABEL}={MANAGED_BY},{SERVICE_LABEL}={}",
            derived.service.name
        ));
        for kind in KINDS {
            let api = self.api(namespace, kind);
            let names: BTreeSet<&str> = wanted
                .iter()
                .filter(|child| child.kind == kind)
                .map(|child| child.name.as_str())
                .collect();
            let listed = match api.list_metadata(&own).await {
                // The cluster does not have the kind, and so none of it.
                Err(kube::Error::Api(answer)) if answer.code == 404 => continue,
                other => other.map_err(failed("listed", namespace, kind, "*"))?,
            };
            for object in listed.items {
                let name = object.metadata.name.unwrap_or_default();
                let owners = object.metadata.owner_references.unwrap_or_default();
                if names.contains(name.as_str()) || owners.iter().all(|owner| owner.uid != derived.uid) {
                    continue;
                }
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                    other => drop(other.map_err(failed("deleted", namespace, kind, &name))?),
                }
                tracing::info!(kind = kind.kind, %namespace, %name, "deleted: the service does not ask for it any more");
            }
        }
        Ok(())
    }

    fn api(&self, namespace: &str, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }

    /// Tells of services whose objects were deleted or changed by somebody. Watches until the receiver is gone.
    pub fn watch(&self, services: &mpsc::Sender<Key>) -> Vec<JoinHandle<()>> {
        KINDS
            .into_iter()
            .map(|kind| {
                let api = Api::all_with(self.client.clone(), &resource(kind));
                tokio::spawn(follow(kind, api, services.clone()))
            })
            .collect()
    }
}

async fn follow(kind: ChildKind, api: Api<PartialObjectMeta<DynamicObject>>, services: mpsc::Sender<Key>) {
    let own = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
    let mut events = std::pin::pin!(watcher(api, own).default_backoff());
    // An object's generation changes with its specification, and not with its status.
    let mut generations = std::collections::BTreeMap::new();
    while let Some(event) = events.next().await {
        let (object, is_gone) = match event {
            Ok(Event::Apply(object)) => (object, false),
            Ok(Event::Delete(object)) => (object, true),
            Ok(Event::InitApply(object)) => {
                generations.insert(identity(&object), object.metadata.generation);
                continue;
            }
            Ok(_) => continue,
            Err(error) => {
                // A kind that the cluster does not have is looked for again, at ever longer intervals.
                tracing::debug!(kind = kind.kind, error = with_causes(&error), "cannot watch");
                continue;
            }
        };
        let identity = identity(&object);
        let is_news = if is_gone {
            generations.remove(&identity);
            true
        } else {
            let generation = object.metadata.generation;
            generations
                .insert(identity, generation)
                .is_some_and(|before| before != generation)
        };
        let labels = object.metadata.labels.unwrap_or_default();
        if let (true, Some(service)) = (is_news, labels.get(SERVICE_LABEL)) {
            let key = (object.metadata.namespace.unwrap_or_default(), service.clone());
            if services.send(key).await.is_err() {
                return;
            }
        }
    }
}

fn identity(object: &PartialObjectMeta<DynamicObject>) -> Key {
    let metadata = &object.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn resource(kind: ChildKind) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(kind.group, kind.version, kind.kind), kind.plural)
}

fn failed(
    action: &'static str,
    namespace: &str,
    kind: ChildKind,
    name: &str,
) -> impl FnOnce(kube::Error) -> ApplyError {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    move |error| ApplyError::Failed {
        action,
        kind: kind.kind,
        namespace,
        name,
        problem: said(&error),
    }
}

/// What the API server said, without what the client adds.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(answer) if !answer.message.is_empty() => answer.message.clone(),
        other => with_causes(other),
    }
}
