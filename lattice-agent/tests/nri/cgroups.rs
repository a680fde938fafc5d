//! Control groups of the test's own, in every hierarchy that is mounted: one for what it starts, one for its pods.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lattice_agent::containers::cgroup_tree::CgroupTree;

pub(crate) struct Cgroups {
    name: String,
    unified: PathBuf,
    legacy: Vec<PathBuf>,
}

impl Cgroups {
    pub(crate) fn create(tree: &CgroupTree) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let legacy = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            (kind == "cgroup").then(|| path.into())
        });
        let cgroups = Self {
            name: format!("lattice-nri-{}", std::process::id()),
            unified: tree.mount().into(),
            legacy: legacy.collect(),
        };
        for folder in [cgroups.managed(), cgroups.daemons()] {
            fs::create_dir(folder).unwrap();
        }
        cgroups
    }

    /// Below it are pods alone: the agent's managed root.
    pub(crate) fn managed(&self) -> PathBuf {
        self.unified.join(&self.name)
    }

    fn daemons(&self) -> PathBuf {
        self.unified.join(format!("{}-daemons", self.name))
    }

    /// A pod's cgroup as the CRI names it.
    pub(crate) fn of_pod(&self, pod: &str) -> String {
        format!("/{}/{pod}", self.name)
    }

    /// What a daemon starts is found here afterwards, shims too.
    pub(crate) fn take_daemon(&self, pid: u32) {
        fs::write(self.daemons().join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        for folder in [self.managed(), self.daemons()] {
            // Before Linux 5.14 there is no such file; then what is left ends by itself or stays, and the next line says so.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
            while !remove_tree(&folder) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            if folder.exists() {
                println!("{} is in use and stays", folder.display());
            }
        }
        for hierarchy in &self.legacy {
            remove_tree(&hierarchy.join(&self.name));
        }
    }
}

/// Removes a cgroup and those below it; says whether all are gone.
fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}
