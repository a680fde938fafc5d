//! The demo's own control groups: one for its daemons, one for its containers. By them it finds all that it started.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::cgroup_mounts::{CgroupMounts, remove_tree};

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// Two folders below the root of the cgroup2 hierarchy.
pub(super) struct Cgroups {
    unified: PathBuf,
    /// Mount points of version 1 hierarchies, in which runc makes folders too on hybrid hosts.
    legacy: Vec<PathBuf>,
    name: String,
}

impl Cgroups {
    /// # Errors
    ///
    /// Where no cgroup2 hierarchy is mounted.
    pub(super) fn find(name: &str) -> Result<Self> {
        let CgroupMounts { unified, legacy } = CgroupMounts::find()?;
        Ok(Self {
            unified,
            legacy,
            name: name.to_owned(),
        })
    }

    /// Also the name of containerd's namespace, since `ctr` puts a container into `/NAMESPACE/ID`.
    pub(super) fn containers_name(&self) -> String {
        self.name.clone()
    }

    /// The parent of the containers' cgroups: the agent's managed root.
    pub(super) fn containers(&self) -> PathBuf {
        self.unified.join(&self.name)
    }

    fn daemons_name(&self) -> String {
        format!("{}-daemons", self.name)
    }

    /// Where a process goes that is to be one of the daemons.
    pub(super) fn daemons_processes(&self) -> PathBuf {
        self.unified.join(self.daemons_name()).join("cgroup.procs")
    }

    pub(super) fn create(&self) -> Result<()> {
        for folder in [self.containers(), self.unified.join(self.daemons_name())] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot create the cgroup {}", folder.display()))?;
        }
        Ok(())
    }

    /// Kills whatever is in them, and removes them.
    pub(super) fn remove(&self) {
        let names = [self.containers_name(), self.daemons_name()];
        for name in &names {
            // Without the file (before Linux 5.14) or the folder there is nothing that could be done or needs to be.
            let _ = fs::write(self.unified.join(name).join("cgroup.kill"), "1");
        }
        let started = Instant::now();
        for name in &names {
            let unified = self.unified.join(name);
            while unified.exists() && !remove_tree(&unified) && started.elapsed() < GONE_LIMIT {
                thread::sleep(Duration::from_millis(20));
            }
            if unified.exists() {
                eprintln!("demo: cannot remove the cgroup {}: it is in use", unified.display());
            }
            for hierarchy in &self.legacy {
                remove_tree(&hierarchy.join(name));
            }
        }
    }
}
