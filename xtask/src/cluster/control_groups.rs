//! A cluster's control groups: one name in each hierarchy. By them all that it started is found.
//!
//! ```text
//!   NAME/             the kubelet's root; on a hybrid host in each version 1 hierarchy too
//!   NAME/system       etcd, the API server, containerd, the kubelet …, and the shims of containers
//!   NAME/kubepods/…   pods, by the kubelet
//! ```

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cgroup_mounts::{CgroupMounts, remove_tree};

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct ControlGroups {
    mounts: CgroupMounts,
    name: String,
}

impl ControlGroups {
    /// # Errors
    ///
    /// Where no cgroup2 hierarchy is mounted.
    pub(super) fn find(name: &str) -> Result<Self> {
        Ok(Self {
            mounts: CgroupMounts::find()?,
            name: name.to_owned(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The folder in the cgroup2 hierarchy.
    pub(super) fn unified(&self) -> PathBuf {
        self.mounts.unified.join(&self.name)
    }

    /// Where a process goes that is to be one of the node's own.
    pub(super) fn system_processes(&self) -> PathBuf {
        self.unified().join("system/cgroup.procs")
    }

    /// # Errors
    ///
    /// Where one cannot be made.
    pub(super) fn create(&self) -> Result<()> {
        for hierarchy in &self.mounts.legacy {
            let folder = hierarchy.join(&self.name);
            make(&folder)?;
            // A cpuset takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(hierarchy.join(file)) {
                    fs::write(folder.join(file), all)
                        .with_context(|| format!("cannot write {file} in {}", folder.display()))?;
                }
            }
        }
        make(&self.unified().join("system"))
    }

    /// The processes in all of them.
    pub(super) fn processes(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for hierarchy in self.mounts.legacy.iter().chain([&self.mounts.unified]) {
            collect(&hierarchy.join(&self.name), &mut found);
        }
        found
    }

    /// Kills every process in them, by its id, until there is none.
    ///
    /// # Errors
    ///
    /// Where one does not go.
    pub(super) fn kill_all(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            if started.elapsed() > GONE_LIMIT {
                bail!("these processes do not end: {processes:?}");
            }
            for process in processes {
                // It may have ended this moment.
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Removes them all, once nothing is in them.
    ///
    /// # Errors
    ///
    /// Where one stays.
    pub(super) fn remove(&self) -> Result<()> {
        let started = Instant::now();
        for hierarchy in self.mounts.legacy.iter().chain([&self.mounts.unified]) {
            let folder = hierarchy.join(&self.name);
            while folder.exists() && !remove_tree(&folder) {
                if started.elapsed() > GONE_LIMIT {
                    bail!("cannot remove the control group {}: it is in use", folder.display());
                }
                thread::sleep(LOOK_INTERVAL);
            }
        }
        Ok(())
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create the control group {}", folder.display()))
}

fn collect(folder: &Path, found: &mut BTreeSet<i32>) {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(processes.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}
