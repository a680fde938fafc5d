//! What NRI says of this containerd's containers: the same table, told sooner than by containerd's events.
//!
//! Both say the same things in any order; each step of the table can be made twice.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, spawn_blocking},
};

use super::{
    super::{
        LateCause,
        nri::{NotGuarded, Runtime},
    },
    session::{Session, look},
    table::Key,
    tell::Shared,
};
use crate::error_chain::ErrorChain;

/// containerd's CRI plugin keeps its containers in this namespace, and only they pass NRI.
const CRI_NAMESPACE: &str = "k8s.io";
/// Notices that may wait. What is more is left to containerd's events.
const WAITING_NOTICES: usize = 1024;
/// How long one container that was there before holds up the notices behind it.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

enum Notice {
    Listed { key: Key, pid: u32, is_running: bool },
    Running { key: Key, pid: u32 },
    Stopped(Key),
    Removed(Key),
    Unguarded { id: Option<String>, cause: LateCause },
}

/// Takes NRI's word into the table of a [`ContainerdWatcher`](super::ContainerdWatcher).
pub struct Notices {
    shared: Arc<Shared>,
    current: watch::Receiver<Option<Session>>,
    sender: mpsc::Sender<Notice>,
    worker: AbortHandle,
}

fn key(id: String) -> Key {
    Key {
        namespace: CRI_NAMESPACE.into(),
        id,
    }
}

impl Notices {
    pub(super) fn new(shared: Arc<Shared>, current: watch::Receiver<Option<Session>>) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_NOTICES);
        let worker = tokio::spawn(take_all(Arc::clone(&shared), current.clone(), waiting));
        Self {
            shared,
            current,
            sender,
            worker: worker.abort_handle(),
        }
    }

    fn send(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            tracing::warn!("NRI says more than can be taken at once; containerd's events say it again");
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl Runtime for Notices {
    fn listed(&self, id: String, pid: u32, is_running: bool) {
        self.send(Notice::Listed {
            key: key(id),
            pid,
            is_running,
        });
    }

    fn starting(&self, id: String, pid: u32) -> BoxFuture<'static, Result<(), NotGuarded>> {
        let (shared, current, key) = (Arc::clone(&self.shared), self.current.clone(), key(id));
        Box::pin(async move {
            make_known(&shared, current, &key).await?;
            take_task(&shared, key, pid, false).await
        })
    }

    fn unguarded(&self, id: Option<String>, cause: LateCause) {
        if self.sender.try_send(Notice::Unguarded { id, cause }).is_err() {
            tracing::error!("more containers start unguarded than can be told; lattice_nri_starts_total counts them");
        }
    }

    fn running(&self, id: String, pid: u32) {
        self.send(Notice::Running { key: key(id), pid });
    }

    fn stopped(&self, id: String) {
        self.send(Notice::Stopped(key(id)));
    }

    fn removed(&self, id: String) {
        self.send(Notice::Removed(key(id)));
    }
}

/// Takes notices one after the other, so that their order holds.
async fn take_all(shared: Arc<Shared>, current: watch::Receiver<Option<Session>>, mut waiting: mpsc::Receiver<Notice>) {
    while let Some(notice) = waiting.recv().await {
        let taken = match notice {
            Notice::Listed { key, pid, is_running } => {
                let known = tokio::time::timeout(KNOWN_WITHIN, make_known(&shared, current.clone(), &key)).await;
                match known {
                    Ok(Ok(())) if pid != 0 => take_task(&shared, key, pid, is_running).await,
                    Ok(result) => result,
                    Err(_) => Err(NotGuarded::Unknown("it does not answer".into())),
                }
            }
            Notice::Running { key, pid } => take_task(&shared, key, pid, true).await,
            Notice::Stopped(key) => step(&shared, move |shared| shared.apply(|table| table.exited(&key))).await,
            Notice::Unguarded { id, cause } => {
                step(&shared, move |shared| {
                    shared.started_late(id.as_deref().unwrap_or_default(), cause)
                })
                .await
            }
            Notice::Removed(key) => step(&shared, move |shared| shared.apply(|table| table.deleted(&key))).await,
        };
        if let Err(reason) = taken {
            tracing::debug!(%reason, "NRI's word is left to containerd's events");
        }
    }
}

/// Asks containerd what a container is, unless that is known. Waits for containerd where it does not answer.
async fn make_known(
    shared: &Arc<Shared>,
    mut current: watch::Receiver<Option<Session>>,
    key: &Key,
) -> Result<(), NotGuarded> {
    let wanted = key.clone();
    if step(shared, move |shared| shared.knows(&wanted)).await? {
        return Ok(());
    }
    let gone = |error: watch::error::RecvError| NotGuarded::CutOff(error.to_string());
    let session = current.wait_for(Option::is_some).await.map_err(gone)?.clone();
    let Some(session) = session else {
        return Err(NotGuarded::Unknown("it does not answer".into()));
    };
    match session.describe(key).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(NotGuarded::Unknown("it has no such container".into())),
        Err(error) => Err(NotGuarded::Unknown(ErrorChain(&error).to_string())),
    }
}

/// Takes a container's first process; done when the sink has taken it.
async fn take_task(shared: &Arc<Shared>, key: Key, pid: u32, is_running: bool) -> Result<(), NotGuarded> {
    step(shared, move |shared| {
        let task = look(shared, &key, pid, is_running).ok_or(NotGuarded::NoCgroup)?;
        shared.apply(|table| table.task(&key, &task));
        if shared.is_told(&key) {
            Ok(())
        } else {
            Err(NotGuarded::NotTaken)
        }
    })
    .await?
}

/// A step that may take its time, for which no thread of the runtime waits: the sink reads files, and others hold the table's lock
/// while it does.
async fn step<Done: Send + 'static>(
    shared: &Arc<Shared>,
    make: impl FnOnce(&Shared) -> Done + Send + 'static,
) -> Result<Done, NotGuarded> {
    let shared = Arc::clone(shared);
    spawn_blocking(move || make(&shared))
        .await
        .map_err(|error| NotGuarded::CutOff(error.to_string()))
}
