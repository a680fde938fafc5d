//! Containers of a containerd (1.6 and later), by its gRPC API.
//!
//! When a container is created it has no task yet: its labels, image and the place of its cgroup are collected then. Its cgroup
//! folder, made by runc before any process of the container exists, is the sign that it starts; whoever sees that first
//! (the kernel's announcement by [`ContainerdWatcher::cgroup_made`], inotify, containerd's own event) causes the one call of
//! [`Sink::started`](super::Sink::started). Containerd's events alone would come too late.

mod client;
mod describe;
mod folder_watch;
#[allow(
    missing_docs,
    unreachable_pub,
    unused,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from containerd's .proto files"
)]
mod generated;
mod image;
mod notices;
mod session;
mod table;
mod tell;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

pub use self::notices::Notices;
use self::{session::Session, tell::Shared};
use super::{Sink, cgroup_tree::CgroupTree};
use crate::error_chain::ErrorChain;

/// How long a containerd may take to answer whether it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks a containerd how many namespaces it has, which says whether it answers. Blocks; not for use inside a runtime.
///
/// # Errors
/// When it does not answer in time, or refuses; in words.
pub fn count_namespaces(socket: &Path) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = async {
        let client = client::Client::connect(socket).await?;
        client.namespaces().await
    };
    let answer = runtime
        .map_err(|error| error.to_string())?
        .block_on(async { tokio::time::timeout(ANSWER_WITHIN, asked).await });
    match answer {
        Ok(Ok(namespaces)) => Ok(namespaces.len()),
        Ok(Err(error)) => Err(ErrorChain(&error).to_string()),
        Err(_) => Err(format!("containerd does not answer at {}", socket.display())),
    }
}

/// Which containerd, and what of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its socket, as given by `--containerd`.
    pub socket: PathBuf,
    /// Its namespaces that are watched; empty for all.
    pub namespaces: BTreeSet<String>,
}

/// How it stands with containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It does not answer (yet, or any more). Containers that were known stay known.
    Away,
    /// All its containers were told to the sink, and new ones are.
    Watching,
}

/// Watches a containerd until it is dropped.
pub struct ContainerdWatcher {
    shared: Arc<Shared>,
    connection: watch::Receiver<Connection>,
    current: watch::Receiver<Option<Session>>,
    session: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl ContainerdWatcher {
    /// Starts to watch. Whether containerd runs does not matter: it is waited for.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance or no thread.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: Settings, tree: CgroupTree, sink: Arc<dyn Sink>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(tree, sink)?);
        let (sender, connection) = watch::channel(Connection::Away);
        let (sessions, current) = watch::channel(None);
        let stopping = Arc::new(AtomicBool::new(false));
        let (folders, stop) = (Arc::clone(&shared), Arc::clone(&stopping));
        // A thread of its own: the wait for a folder must not stand behind other work of the runtime.
        thread::Builder::new()
            .name("cgroup-folders".into())
            .spawn(move || tell::follow_folders(&folders, &stop))?;
        let session = tokio::spawn(session::keep_watching(settings, Arc::clone(&shared), sender, sessions));
        Ok(Self {
            shared,
            connection,
            current,
            session,
            stopping,
        })
    }

    /// The kernel announced a new cgroup. If it is that of an expected container, the sink is told before this returns.
    pub fn cgroup_made(&self, _cgroup_id: u64) {
        self.shared.apply(table::Table::appeared);
    }

    /// The way by which containerd's plugin interface tells the same table what happens, sooner than its events do.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn notices(&self) -> Notices {
        Notices::new(Arc::clone(&self.shared), self.current.clone())
    }

    /// How it stands with containerd, now and at every change.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Number of containers that run.
    pub fn running_count(&self) -> usize {
        self.shared.running_count()
    }
}

impl Drop for ContainerdWatcher {
    fn drop(&mut self) {
        self.session.abort();
        self.stopping.store(true, Ordering::Relaxed);
    }
}
