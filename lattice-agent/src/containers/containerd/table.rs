//! What is known of containerd's containers, and what of it the [`Sink`](super::super::Sink) was told: without a clock and
//! without a connection, driven by what happened.
//!
//! ```text
//!   expect ──► expected ── folder appears, or its task says where ──► running ── folder gone, or empty after exit ──► expected
//!                 └────────────────────────────── delete ──────────────┴──► forgotten, once nothing runs
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::super::{
    ContainerInfo,
    cgroup_tree::{cgroup_id, is_populated},
    process::FirstProcess,
};

/// Names a container on the node: containerd's namespace, and the identifier in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) id: String,
}

/// What the sink must be told, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Started(Key),
    Stopped(u64),
}

/// A container as containerd describes it; `info` has no cgroup yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) info: ContainerInfo,
    /// Where its cgroup will be, if that can be known beforehand.
    pub(super) cgroup_folder: Option<PathBuf>,
}

/// A container's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) process: FirstProcess,
    /// Whether the runtime has let it start its program.
    pub(super) is_running: bool,
}

#[derive(Debug)]
struct Record {
    description: Description,
    /// With the cgroup; `None` while it only is expected.
    running: Option<ContainerInfo>,
    /// What the sink has taken.
    told: Option<ContainerInfo>,
    first_process_exited: bool,
    deleted: bool,
    /// A cgroup that was left over: not this container's start unless its task says so.
    spent_cgroup: Option<u64>,
}

/// All containers.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: BTreeMap<Key, Record>,
}

impl Table {
    /// Takes what containerd says of a container, before or while it runs.
    ///
    /// `task` is its task, if it is known to have one: where it runs already, its folder alone would look like a start.
    pub(super) fn expect(&mut self, key: Key, mut description: Description, task: Option<&Task>) -> Vec<Change> {
        if let Some(record) = self.records.get_mut(&key) {
            // What was proven once stays so: the image's name may have been given to another image since.
            let before = &record.description.info;
            if description.info.image_digest.is_none() && description.info.image_reference == before.image_reference {
                description.info.image_digest = before.image_digest;
            }
            if let Some(running) = &mut record.running {
                let ContainerInfo {
                    cgroup_path,
                    cgroup_id,
                    root_device,
                    pid,
                    is_running,
                    ..
                } = running.clone();
                *running = ContainerInfo {
                    cgroup_path,
                    cgroup_id,
                    root_device,
                    pid,
                    is_running,
                    ..description.info.clone()
                };
            }
            record.description = description;
            record.deleted = false;
        } else {
            let record = Record {
                description,
                running: None,
                told: None,
                first_process_exited: false,
                deleted: false,
                spent_cgroup: None,
            };
            self.records.insert(key.clone(), record);
        }
        let mut changes = match task {
            Some(task) => self.task(&key, task),
            None => Vec::new(),
        };
        changes.extend(self.appeared());
        if let Some(untold) = self.untold(&key).filter(|untold| !changes.contains(untold)) {
            changes.push(untold);
        }
        changes
    }

    /// Whether the container was described.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.records.get(key).is_some_and(|record| !record.deleted)
    }

    /// Takes what was seen of a container's first process.
    pub(super) fn task(&mut self, key: &Key, task: &Task) -> Vec<Change> {
        let Task { process, is_running } = task;
        let Some(record) = self.records.get(key) else {
            return Vec::new();
        };
        // A container may move its processes to cgroups below its own; its own is the one that it was given.
        let given = record.description.cgroup_folder.as_ref();
        let folder = match (&process.cgroup_folder, given) {
            (Some(actual), Some(given)) if actual.starts_with(given) => given.clone(),
            (Some(actual), _) => actual.clone(),
            (None, _) => return Vec::new(),
        };
        let Some(id) = cgroup_id(&folder) else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        let before = record.running.as_ref().map(|running| running.cgroup_id);
        if before != Some(id) {
            if self.holder(id).is_some() {
                return Vec::new();
            }
            changes.extend(before.map(Change::Stopped));
        }
        let Some(record) = self.records.get_mut(key) else {
            return changes;
        };
        if before != Some(id) {
            record.told = None;
        }
        // Of two who saw the same start, the slower one does not undo what the other knows.
        let ran = record
            .running
            .as_ref()
            .is_some_and(|running| running.cgroup_id == id && running.pid == Some(process.pid) && running.is_running);
        record.running = Some(ContainerInfo {
            cgroup_path: folder,
            cgroup_id: id,
            pid: Some(process.pid),
            root_device: process.root_device,
            is_running: *is_running || ran,
            ..record.description.info.clone()
        });
        record.first_process_exited = false;
        changes.extend(self.untold(key));
        changes
    }

    /// Looks for the folders of containers that are expected. Called at every sign that a folder was made.
    pub(super) fn appeared(&mut self) -> Vec<Change> {
        let mut found = Vec::new();
        for (key, record) in self
            .records
            .iter()
            .filter(|(_, record)| record.running.is_none() && !record.deleted)
        {
            let Some(folder) = &record.description.cgroup_folder else {
                continue;
            };
            if let Some(id) = cgroup_id(folder).filter(|id| record.spent_cgroup != Some(*id)) {
                found.push((key.clone(), folder.clone(), id));
            }
        }
        let mut changes = Vec::new();
        for (key, cgroup_path, cgroup_id) in found {
            if self.holder(cgroup_id).is_some() {
                continue;
            }
            if let Some(record) = self.records.get_mut(&key) {
                record.running = Some(ContainerInfo {
                    cgroup_path,
                    cgroup_id,
                    ..record.description.info.clone()
                });
                record.first_process_exited = false;
                changes.push(Change::Started(key));
            }
        }
        changes
    }

    /// Looks for containers that ended, and for what the sink has not taken yet.
    pub(super) fn check(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for record in self.records.values_mut() {
            let Some(running) = &record.running else { continue };
            let there = cgroup_id(&running.cgroup_path) == Some(running.cgroup_id);
            if there && (!record.first_process_exited || is_populated(&running.cgroup_path)) {
                continue;
            }
            changes.push(Change::Stopped(running.cgroup_id));
            record.spent_cgroup = there.then_some(running.cgroup_id);
            record.running = None;
            record.told = None;
        }
        self.records
            .retain(|_, record| !record.deleted || record.running.is_some());
        changes.extend(self.appeared());
        let waiting = self
            .records
            .iter()
            .filter(|(_, record)| record.running.is_some() && record.running != record.told);
        for (key, _) in waiting {
            let started = Change::Started(key.clone());
            if !changes.contains(&started) {
                changes.push(started);
            }
        }
        changes
    }

    /// The container's first process has ended.
    pub(super) fn exited(&mut self, key: &Key) -> Vec<Change> {
        if let Some(record) = self.records.get_mut(key) {
            record.first_process_exited = true;
        }
        self.check()
    }

    /// Containerd has no such container any more.
    pub(super) fn deleted(&mut self, key: &Key) -> Vec<Change> {
        if let Some(record) = self.records.get_mut(key) {
            record.deleted = true;
            record.first_process_exited = true;
        }
        self.check()
    }

    /// Forgets all containers but these, as `deleted` does.
    pub(super) fn keep_only(&mut self, there: &BTreeSet<Key>) -> Vec<Change> {
        for (_, record) in self.records.iter_mut().filter(|(key, _)| !there.contains(key)) {
            record.deleted = true;
            record.first_process_exited = true;
        }
        self.check()
    }

    /// What to tell the sink of a container.
    pub(super) fn info(&self, key: &Key) -> Option<ContainerInfo> {
        self.records.get(key)?.running.clone()
    }

    /// The sink has taken this.
    pub(super) fn told(&mut self, key: &Key, info: ContainerInfo) {
        if let Some(record) = self.records.get_mut(key) {
            record.told = Some(info);
        }
    }

    /// Whether the sink has taken all that is known of a container that has a cgroup.
    pub(super) fn is_told(&self, key: &Key) -> bool {
        self.records
            .get(key)
            .is_some_and(|record| record.running.is_some() && record.running == record.told)
    }

    /// Number of containers that run.
    pub(super) fn running_count(&self) -> usize {
        self.records.values().filter(|record| record.running.is_some()).count()
    }

    /// Folders in which something will be made or removed that matters: for each container the nearest one that exists above
    /// its cgroup.
    pub(super) fn folders_to_watch(&self, mount: &Path) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for record in self.records.values() {
            let folder = match &record.running {
                Some(running) => Some(&running.cgroup_path),
                None => record.description.cgroup_folder.as_ref(),
            };
            let above = folder.into_iter().flat_map(|folder| folder.ancestors().skip(1));
            if let Some(nearest) = above
                .take_while(|above| above.starts_with(mount))
                .find(|above| above.is_dir())
            {
                folders.insert(nearest.to_path_buf());
            }
        }
        folders
    }

    fn holder(&self, cgroup: u64) -> Option<&Key> {
        self.records
            .iter()
            .find(|(_, record)| {
                record
                    .running
                    .as_ref()
                    .is_some_and(|running| running.cgroup_id == cgroup)
            })
            .map(|(key, _)| key)
    }

    fn untold(&self, key: &Key) -> Option<Change> {
        let record = self.records.get(key)?;
        (record.running.is_some() && record.running != record.told).then(|| Change::Started(key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn folder(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn make(&self, name: &str) -> u64 {
            fs::create_dir_all(self.folder(name)).unwrap();
            self.populate(name, true);
            cgroup_id(&self.folder(name)).unwrap()
        }

        fn populate(&self, name: &str, populated: bool) {
            let events = format!("populated {}\nfrozen 0\n", u8::from(populated));
            fs::write(self.folder(name).join("cgroup.events"), events).unwrap();
        }

        fn remove(&self, name: &str) {
            fs::remove_dir_all(self.folder(name)).unwrap();
        }

        fn description(&self, name: &str) -> Description {
            let info = ContainerInfo {
                container_id: name.into(),
                namespace: "payments".into(),
                pod: String::new(),
                workload: "shop".into(),
                name: "server".into(),
                service_account: String::new(),
                image_reference: String::new(),
                image_digest: None,
                cgroup_path: PathBuf::new(),
                cgroup_id: 0,
                pod_cgroup_id: None,
                root_device: 0,
                pid: None,
                is_running: false,
                has_own_root: true,
            };
            Description {
                info,
                cgroup_folder: Some(self.folder(name)),
            }
        }

        fn task(&self, name: &str, is_running: bool) -> Task {
            let process = FirstProcess {
                pid: 42,
                cgroup_folder: Some(self.folder(name)),
                root_device: 7,
            };
            Task { process, is_running }
        }
    }

    fn key(id: &str) -> Key {
        Key {
            namespace: "default".into(),
            id: id.into(),
        }
    }

    fn tell(table: &mut Table, changes: &[Change]) {
        for change in changes {
            if let Change::Started(key) = change {
                let info = table.info(key).unwrap();
                table.told(key, info);
            }
        }
    }

    #[test]
    fn a_container_starts_with_its_folder_and_stops_without() {
        let (tree, mut table) = (Tree::new(), Table::default());
        assert_eq!(table.expect(key("a"), tree.description("a"), None), []);
        assert_eq!(table.appeared(), []);
        let id = tree.make("a");
        assert_eq!(table.appeared(), [Change::Started(key("a"))]);
        assert_eq!(table.info(&key("a")).unwrap().cgroup_id, id);
        tell(&mut table, &[Change::Started(key("a"))]);
        assert_eq!(table.check(), []);
        assert_eq!(
            table.task(&key("a"), &tree.task("a", false)),
            [Change::Started(key("a"))]
        );
        let info = table.info(&key("a")).unwrap();
        assert_eq!((info.pid, info.root_device), (Some(42), 7));
        tell(&mut table, &[Change::Started(key("a"))]);
        assert_eq!(table.task(&key("a"), &tree.task("a", false)), []);
        tree.remove("a");
        assert_eq!(table.check(), [Change::Stopped(id)]);
        let again = tree.make("a");
        assert_eq!(table.check(), [Change::Started(key("a"))]);
        tree.remove("a");
        assert_eq!(table.deleted(&key("a")), [Change::Stopped(again)]);
        assert!(!table.knows(&key("a")));
    }

    #[test]
    fn what_runs_already_is_told_so_at_once() {
        let (tree, mut table) = (Tree::new(), Table::default());
        tree.make("a");
        let changes = table.expect(key("a"), tree.description("a"), Some(&tree.task("a", true)));
        assert_eq!(changes, [Change::Started(key("a"))]);
        assert!(table.info(&key("a")).unwrap().is_running);
    }

    #[test]
    fn what_the_sink_refused_is_told_again() {
        let (tree, mut table) = (Tree::new(), Table::default());
        tree.make("a");
        assert_eq!(
            table.expect(key("a"), tree.description("a"), None).first(),
            Some(&Change::Started(key("a")))
        );
        assert_eq!(table.check(), [Change::Started(key("a"))]);
        tell(&mut table, &[Change::Started(key("a"))]);
        assert_eq!(table.check(), []);
    }

    #[test]
    fn an_exit_ends_a_container_only_when_its_cgroup_is_empty() {
        let (tree, mut table) = (Tree::new(), Table::default());
        let id = tree.make("a");
        let changes = table.expect(key("a"), tree.description("a"), None);
        tell(&mut table, &changes);
        assert_eq!(table.exited(&key("a")), []);
        tree.populate("a", false);
        assert_eq!(table.check(), [Change::Stopped(id)]);
        // The folder that was left behind is not a new start; a task in it is.
        assert_eq!(table.check(), []);
        assert_eq!(
            table.task(&key("a"), &tree.task("a", false)),
            [Change::Started(key("a"))]
        );
    }

    #[test]
    fn a_deleted_container_is_guarded_while_anything_of_it_runs() {
        let (tree, mut table) = (Tree::new(), Table::default());
        let id = tree.make("a");
        let changes = table.expect(key("a"), tree.description("a"), None);
        tell(&mut table, &changes);
        assert_eq!(table.keep_only(&BTreeSet::new()), []);
        assert_eq!(table.running_count(), 1);
        tree.populate("a", false);
        assert_eq!(table.check(), [Change::Stopped(id)]);
        assert_eq!(table.running_count(), 0);
    }

    #[test]
    fn a_cgroup_has_one_container() {
        let (tree, mut table) = (Tree::new(), Table::default());
        tree.make("a");
        let changes = table.expect(key("a"), tree.description("a"), None);
        tell(&mut table, &changes);
        assert_eq!(table.expect(key("b"), tree.description("a"), None), []);
        assert_eq!(table.task(&key("b"), &tree.task("a", false)), []);
    }

    #[test]
    fn the_cgroup_given_wins_over_one_below_it_and_loses_to_another() {
        let (tree, mut table) = (Tree::new(), Table::default());
        let given = tree.make("a");
        tree.make("a/below");
        let other = tree.make("other");
        let changes = table.expect(key("a"), tree.description("a"), None);
        tell(&mut table, &changes);
        table.task(&key("a"), &tree.task("a/below", false));
        assert_eq!(table.info(&key("a")).unwrap().cgroup_id, given);
        let changes = table.task(&key("a"), &tree.task("other", false));
        assert_eq!(changes, [Change::Stopped(given), Change::Started(key("a"))]);
        assert_eq!(table.info(&key("a")).unwrap().cgroup_id, other);
    }

    #[test]
    fn a_new_description_keeps_the_cgroup() {
        let (tree, mut table) = (Tree::new(), Table::default());
        let id = tree.make("a");
        let changes = table.expect(key("a"), tree.description("a"), None);
        tell(&mut table, &changes);
        let mut renamed = tree.description("a");
        renamed.info.workload = "bakery".into();
        assert_eq!(table.expect(key("a"), renamed, None), [Change::Started(key("a"))]);
        let info = table.info(&key("a")).unwrap();
        assert_eq!((info.cgroup_id, info.workload.as_str()), (id, "bakery"));
    }

    #[test]
    fn a_proven_image_stays_proven() {
        let (tree, mut table) = (Tree::new(), Table::default());
        tree.make("a");
        let digest = Some(lattice_policy::ImageDigest([7; 32]));
        let mut proven = tree.description("a");
        proven.info.image_digest = digest;
        let changes = table.expect(key("a"), proven, None);
        tell(&mut table, &changes);
        assert_eq!(table.expect(key("a"), tree.description("a"), None), []);
        assert_eq!(table.info(&key("a")).unwrap().image_digest, digest);
        let mut other = tree.description("a");
        other.info.image_reference = "other".into();
        table.expect(key("a"), other, None);
        assert_eq!(table.info(&key("a")).unwrap().image_digest, None);
    }

    #[test]
    fn watches_the_nearest_folder_there_is() {
        let (tree, mut table) = (Tree::new(), Table::default());
        table.expect(key("x/y/a"), tree.description("x/y/a"), None);
        assert_eq!(
            table.folders_to_watch(tree.0.path()),
            BTreeSet::from([tree.0.path().to_path_buf()])
        );
        tree.make("x/y");
        assert_eq!(
            table.folders_to_watch(tree.0.path()),
            BTreeSet::from([tree.folder("x/y")])
        );
        assert!(table.folders_to_watch(Path::new("/elsewhere")).is_empty());
    }
}
