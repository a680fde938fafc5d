//! The watches: one for each kind, and one for each Secret that a TrustPolicy names, so that no other Secret is ever read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use lattice_api::{
    crd,
    object::{CedarPolicy, LatticeRollout, LatticeService, SecretReference, TrustPolicy},
};
use lattice_policy::exec_policy_document;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::StreamExt as _;

/// A kind that is watched as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    plural: &'static str,
}

/// All of them.
pub(super) const KINDS: [Kind; 5] = [
    Kind {
        name: TrustPolicy::KIND,
        plural: "trustpolicies",
    },
    Kind {
        name: CedarPolicy::KIND,
        plural: "cedarpolicies",
    },
    Kind {
        name: exec_policy_document::KIND,
        plural: "execpolicies",
    },
    Kind {
        name: LatticeService::KIND,
        plural: "latticeservices",
    },
    Kind {
        name: LatticeRollout::KIND,
        plural: "latticerollouts",
    },
];

impl Kind {
    pub(super) fn resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(crd::GROUP, crd::VERSION, self.name), self.plural)
    }
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watched {
    /// All objects of a kind.
    Kind(Kind),
    /// One Secret.
    Secret(SecretReference),
}

impl fmt::Display for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => formatter.write_str(kind.plural),
            Self::Secret(reference) => write!(formatter, "Secret {reference}"),
        }
    }
}

/// What a watch tells.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) of: Watched,
    pub(super) event: Event<DynamicObject>,
}

/// The watches that run. Dropped, they end.
pub(super) struct Watches {
    client: Client,
    changes: mpsc::Sender<Change>,
    kinds: Vec<JoinHandle<()>>,
    secrets: BTreeMap<SecretReference, JoinHandle<()>>,
}

impl Watches {
    /// Begins those of the kinds.
    pub(super) fn begin(client: Client, changes: mpsc::Sender<Change>) -> Self {
        let kinds = KINDS.map(|kind| {
            let api = Api::all_with(client.clone(), &kind.resource());
            follow(Watched::Kind(kind), api, watcher::Config::default(), changes.clone())
        });
        Self {
            client,
            changes,
            kinds: kinds.into(),
            secrets: BTreeMap::new(),
        }
    }

    /// Watches these Secrets, and no others any more.
    pub(super) fn follow(&mut self, wanted: BTreeSet<SecretReference>) {
        self.secrets.retain(|reference, watch| {
            let is_wanted = wanted.contains(reference);
            if !is_wanted {
                watch.abort();
            }
            is_wanted
        });
        for reference in wanted {
            let (client, changes) = (&self.client, &self.changes);
            self.secrets.entry(reference.clone()).or_insert_with(|| {
                let secret = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
                let api = Api::namespaced_with(client.clone(), &reference.namespace, &secret);
                let only = watcher::Config::default().fields(&format!("metadata.name={}", reference.name));
                follow(Watched::Secret(reference), api, only, changes.clone())
            });
        }
    }

    /// The Secrets that are watched.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &SecretReference> {
        self.secrets.keys()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.kinds
            .iter()
            .chain(self.secrets.values())
            .for_each(JoinHandle::abort);
    }
}

/// A watch that ends, or is refused, begins anew after a while, for ever.
fn follow(
    of: Watched,
    api: Api<DynamicObject>,
    config: watcher::Config,
    changes: mpsc::Sender<Change>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut was_refused = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // A list begins before anything is asked.
                    if was_refused && !matches!(event, Event::Init) {
                        tracing::info!(what = %of, "the API server answers again");
                        was_refused = false;
                    }
                    let change = Change { of: of.clone(), event };
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Said once: it is tried again for as long as it takes.
                    if !was_refused {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(what = %of, error, "the API server's objects cannot be watched; what was known stays in force");
                    }
                    was_refused = true;
                }
            }
        }
    })
}
