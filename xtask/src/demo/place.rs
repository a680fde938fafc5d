//! Where the demo keeps everything: one folder of its own, which a run empties before it begins and when it ends.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use sha2::{Digest, Sha256};

use super::cgroups::Cgroups;
use crate::workspace;

/// The kernel's limit for a socket's path is 108 bytes; containerd appends to its own.
const LONGEST_SOCKET_FOLDER: usize = 80;

/// The folders of one run.
pub(super) struct Place {
    run: PathBuf,
    sockets: PathBuf,
    logs: PathBuf,
    pub(super) cgroups: Cgroups,
    /// Held as long as the demo plays.
    _lock: File,
}

impl Place {
    /// Makes the place, after what an earlier run may have left is ended and removed.
    ///
    /// # Errors
    ///
    /// Where another demo plays in this checkout, or a folder cannot be made.
    pub(super) fn prepare() -> Result<Self> {
        let root = root();
        create(&root)?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "another demo plays in this checkout ({} is locked); wait for its end",
                lock_path.display()
            );
        }
        // Two checkouts on one machine must not share a cgroup.
        let short = hex::encode(&Sha256::digest(root.as_os_str().as_encoded_bytes())[..4]);
        let name = format!("lattice-demo-{short}");
        let run = root.join("run");
        let sockets = if run.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
            run.join("s")
        } else {
            Path::new("/run").join(&name)
        };
        let place = Self {
            logs: root.join("logs"),
            sockets,
            run,
            cgroups: Cgroups::find(&name)?,
            _lock: lock,
        };
        place.clear();
        let _ = fs::remove_dir_all(&place.logs);
        for folder in [&place.run, &place.sockets, &place.logs] {
            create(folder)?;
        }
        place.cgroups.create()?;
        Ok(place)
    }

    /// A folder of this run.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.run.join(name);
        create(&folder)?;
        Ok(folder)
    }

    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(name)
    }

    /// Logs stay when the demo ends.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    fn clear(&self) {
        self.cgroups.remove();
        unmount_below(&self.run);
        // The shim keeps runc's state there, by containerd's namespace; `ctr containers create` has no flag for another place.
        let runc_state = Path::new("/run/containerd/runc").join(self.cgroups.containers_name());
        for folder in [&self.run, &self.sockets, &runc_state] {
            if folder.exists()
                && let Err(error) = fs::remove_dir_all(folder)
            {
                eprintln!("demo: cannot remove {}: {error}", folder.display());
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What is built once for all runs.
///
/// # Errors
///
/// Where the folder cannot be made.
pub(super) fn cache() -> Result<PathBuf> {
    let folder = root().join("cache");
    create(&folder)?;
    Ok(folder)
}

fn root() -> PathBuf {
    workspace::target().join("demo")
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Containers' roots and the agent's BPF file system; the last mounted first.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect();
    for point in points.iter().rev() {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("demo: cannot unmount {}: {error}", point.display());
        }
    }
}

/// How long a daemon may take until it answers.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);
