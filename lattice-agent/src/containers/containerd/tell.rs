//! The table behind its lock, and the telling: every change goes to the sink in order, before the lock is given up.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    super::{LateCause, Sink, cgroup_tree::CgroupTree},
    folder_watch::FolderWatch,
    table::{Change, Key, Table},
};

/// How often to look even without a sign.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    table: Mutex<Table>,
    folders: FolderWatch,
    pub(super) tree: CgroupTree,
    sink: Arc<dyn Sink>,
}

impl Shared {
    pub(super) fn new(tree: CgroupTree, sink: Arc<dyn Sink>) -> io::Result<Self> {
        Ok(Self {
            table: Mutex::default(),
            folders: FolderWatch::new()?,
            tree,
            sink,
        })
    }

    /// Makes a step and tells the sink what came of it.
    pub(super) fn apply(&self, step: impl FnOnce(&mut Table) -> Vec<Change>) {
        let mut table = self.table();
        let changes = step(&mut table);
        self.tell(&mut table, &changes);
        // A folder may have been made between the look and the watch; each round goes one folder deeper.
        while self.folders.set(&table.folders_to_watch(self.tree.mount())) {
            let changes = table.appeared();
            self.tell(&mut table, &changes);
        }
    }

    /// Tells the sink, which reads the files.
    pub(super) async fn has_hooks(&self, programs: Vec<PathBuf>) {
        if programs.is_empty() {
            return;
        }
        let sink = Arc::clone(&self.sink);
        if let Err(error) = tokio::task::spawn_blocking(move || sink.has_hooks(&programs)).await {
            tracing::error!(%error, "hooks of a bundle could not be taken into account");
        }
    }

    /// Tells the sink, without the table's lock: whoever holds that may be why it is late.
    pub(super) fn started_late(&self, container_id: &str, cause: LateCause) {
        self.sink.started_late(container_id, cause);
    }

    pub(super) fn knows(&self, key: &Key) -> bool {
        self.table().knows(key)
    }

    pub(super) fn is_told(&self, key: &Key) -> bool {
        self.table().is_told(key)
    }

    pub(super) fn running_count(&self) -> usize {
        self.table().running_count()
    }

    /// A sink that panicked has left the table as it was before the call, and the call is repeated.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, table: &mut Table, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Stopped(cgroup_id) => {
                    tracing::info!(cgroup_id, "container stopped");
                    self.sink.stopped(*cgroup_id);
                }
                Change::Started(key) => {
                    let Some(info) = table.info(key) else { continue };
                    let (container_id, cgroup_id, namespace, workload, name) = (
                        &info.container_id,
                        info.cgroup_id,
                        &info.namespace,
                        &info.workload,
                        &info.name,
                    );
                    match self.sink.started(info.clone()) {
                        Ok(()) => {
                            tracing::info!(
                                container_id,
                                cgroup_id,
                                namespace,
                                workload,
                                name,
                                pid = info.pid,
                                "container starts"
                            );
                            table.told(key, info);
                        }
                        Err(reason) => {
                            tracing::error!(
                                container_id,
                                cgroup_id,
                                namespace,
                                workload,
                                name,
                                reason,
                                "container not guarded; trying again"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Looks whenever a folder was made or removed, and now and then anyway, until `stopping`.
pub(super) fn follow_folders(shared: &Shared, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        if let Err(error) = shared.folders.wait(LOOK_INTERVAL) {
            tracing::error!(%error, "inotify failed; folders are looked at every second instead");
            std::thread::sleep(LOOK_INTERVAL);
        }
        shared.apply(Table::check);
    }
}
