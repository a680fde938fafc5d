//! The objects from an API server, watched: each at its last good state.
//!
//! ```text
//!   watch TrustPolicy ────┐
//!   watch LatticeService ─┤
//!   watch ExecPolicy ─────┼──► Known (each: last good object, or why not) ──► ObjectSet ──► reconciler ──► Board
//!   watch LatticeRollout ─┤
//!   watch CedarPolicy ────┤         ▲                        │                                             │
//!   watch each Secret ◄───┼─ that a TrustPolicy names        └──────────► statuses ◄───────────────────────┘
//!                         └──────────────────────────────────────────────────┴──► PATCH …/status
//! ```
//!
//! Nothing is given out before the first list of every kind is complete: an API server that cannot be reached takes nothing away that held
//! before. After that a watch that ends begins anew by itself, and what was known stays meanwhile.

mod known;
mod reading;
mod statuses;
mod watching;

use std::{path::Path, sync::Arc, time::Duration};

use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use self::{known::Known, statuses::Statuses, watching::Watches};
use super::{ObjectSet, last_good::LastGood};
use crate::{applier::Applier, server::Shared};

/// Changes come in bursts; what follows so soon is taken along.
const QUIET: Duration = Duration::from_millis(100);
/// But nothing waits longer than this.
const QUIET_AT_MOST: Duration = Duration::from_secs(1);
/// Changes that wait to be taken; then the watches wait.
const CHANGES_WAITING_MAXIMUM: usize = 1_024;

/// Why the cluster's objects cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path}: cannot use it")]
    Kubeconfig {
        /// The file.
        path: std::path::PathBuf,
        /// The reason.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Neither a pod's service account nor a kubeconfig.
    #[error("--kubernetes: no API server is configured: run in a pod, or name a file with --kubeconfig")]
    NoConfiguration(#[source] kube::config::InferConfigError),
    /// The client cannot be made.
    #[error("--kubernetes: cannot make a client for the API server")]
    Client(#[source] kube::Error),
    /// The folder for what was good last.
    #[error("cannot use the folder of the last good objects")]
    LastGood(#[source] std::io::Error),
}

/// A source of objects that has not begun.
pub struct ClusterSource {
    client: Client,
    /// Of the pod's service account, or of the kubeconfig.
    namespace: String,
    last_good: LastGood,
}

impl ClusterSource {
    /// By a kubeconfig, else by the service account of the pod, else by the user's own kubeconfig. Asks nothing yet.
    ///
    /// # Errors
    /// When none of them can be used, or the folder for the last good objects cannot be made.
    pub async fn open(kubeconfig: Option<&Path>, last_good: &Path) -> Result<Self, ClusterError> {
        let config = match kubeconfig {
            Some(path) => {
                let unusable = |source| ClusterError::Kubeconfig {
                    path: path.to_owned(),
                    source,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(unusable)?
            }
            None => Config::infer().await.map_err(ClusterError::NoConfiguration)?,
        };
        tracing::info!(api_server = %config.cluster_url, "objects come from the API server");
        Ok(Self {
            namespace: config.default_namespace.clone(),
            client: Client::try_from(config).map_err(ClusterError::Client)?,
            last_good: LastGood::open(last_good).map_err(ClusterError::LastGood)?,
        })
    }

    /// Brings what services come to there.
    pub fn applier(&self) -> Applier {
        Applier::new(self.client.clone())
    }

    /// Speaks to the API server.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of central itself.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Watches, and returns once every kind was listed. What central says of the objects is written to them from
    /// then on.
    pub async fn watch(self, shared: Arc<Shared>) -> watch::Receiver<ObjectSet> {
        let Self { client, last_good, .. } = self;
        let (changes, mut incoming) = mpsc::channel(CHANGES_WAITING_MAXIMUM);
        let mut watches = Watches::begin(client.clone(), changes);
        let mut known = Known::new(last_good);
        // The watches live as long as their sender is held here.
        while !known.is_complete(watches.secrets()) {
            let Some(change) = incoming.recv().await else { break };
            known.take(change);
            watches.follow(known.wanted_secrets());
        }
        let first = known.objects();
        tracing::info!(
            services = first.services.len(),
            documents = first.documents.len(),
            rollouts = first.rollouts.len(),
            "the API server's objects are known"
        );
        let (sender, receiver) = watch::channel(first);
        let statuses = Statuses::begin(client, shared);
        tokio::spawn(run(known, watches, incoming, sender, statuses));
        receiver
    }
}

async fn run(
    mut known: Known,
    mut watches: Watches,
    mut incoming: mpsc::Receiver<watching::Change>,
    sender: watch::Sender<ObjectSet>,
    statuses: Statuses,
) {
    statuses.tell(known.subjects());
    while !sender.is_closed() {
        let Some(change) = incoming.recv().await else { return };
        let mut is_changed = known.take(change);
        let end = Instant::now() + QUIET_AT_MOST;
        loop {
            let quiet = (Instant::now() + QUIET).min(end);
            match timeout_at(quiet, incoming.recv()).await {
                Ok(Some(change)) => is_changed |= known.take(change),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        watches.follow(known.wanted_secrets());
        if is_changed {
            let set = known.objects();
            super::log_problems(&set, Some(&sender.borrow()));
            sender.send_replace(set);
        }
        // Afterwards: how an object fares with the others is found out when they are put together.
        statuses.tell(known.subjects());
    }
}
