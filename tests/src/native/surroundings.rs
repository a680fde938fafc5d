//! Folders, cgroups and a BPF file system of the suite's own, and what this machine must have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::containerd::Containerd;
use crate::{
    guest::{
        agent,
        host::{Host, REFUSED_EXECS, Runtime},
        overlay::unmount_below,
    },
    material,
};

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// The tier that this kernel gives, or what is missing here.
///
/// # Errors
/// When the agent cannot be asked.
pub(super) fn missing(programs: &Path) -> Result<Result<u8, String>> {
    if !geteuid().is_root() {
        return Ok(Err("containers and BPF programs need root".to_owned()));
    }
    for name in ["containerd", "ctr", "runc"] {
        if material::find(name).is_err() {
            return Ok(Err(format!("no {name} on PATH")));
        }
    }
    if unified().is_none() {
        return Ok(Err("no cgroup2 hierarchy is mounted".to_owned()));
    }
    let output = Command::new(programs.join("lattice-agent"))
        .args(["probe", "-o", "json"])
        .output()
        .context("cannot start lattice-agent")?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("lattice-agent probe ended with {}: {}", output.status, said.trim())
    })?;
    match (report["tier"].as_u64(), output.status.code()) {
        (Some(tier), Some(0)) => Ok(Ok(u8::try_from(tier).context("there is no such tier")?)),
        // Refused here, as tried: no other end of the probe excuses the suite.
        (None, Some(1)) => Ok(Err(format!("this kernel gives no tier: {}", report["findings"]))),
        _ => bail!("lattice-agent probe ended with {}: {report}", output.status),
    }
}

/// Mount points of a kind of file system.
fn mounts_of(kind: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, found) = (words.next()?, words.next()?);
            (found == kind).then(|| path.into())
        })
        .collect()
}

fn unified() -> Option<PathBuf> {
    mounts_of("cgroup2").into_iter().next()
}

/// All that the suite has to itself.
pub(super) struct Surroundings {
    folder: TempDir,
    name: String,
    containerd: Containerd,
}

impl Surroundings {
    /// Makes the folders, the image and a containerd that has it.
    ///
    /// # Errors
    /// When a step fails.
    pub(super) fn make(programs: &Path, tier: u8) -> Result<Self> {
        // Short, since sockets lie below; on a disk, since a container's layers do.
        let folder = tempfile::Builder::new()
            .prefix("lattice-native-")
            .tempdir_in("/var/tmp")
            .context("cannot make a folder in /var/tmp")?;
        let name = format!("lattice-native-{}", std::process::id());
        let run = folder.path().join("run");
        for part in ["run/fifos", "run/policies", "scratch", "bpf", "material"] {
            fs::create_dir_all(folder.path().join(part))?;
        }
        let cgroups = unified().context("no cgroup2 hierarchy")?.join(&name);
        fs::create_dir_all(&cgroups).with_context(|| format!("cannot create {}", cgroups.display()))?;
        let material_folder = folder.path().join("material");
        material::build(
            &material_folder,
            &programs.join("xtask"),
            &programs.join("lattice-vm-suite"),
            true,
        )?;
        let containerd = Containerd::start(&folder.path().join("containerd"), &name)?;
        containerd.import(&material_folder.join("image.tar"))?;
        Host {
            tier,
            run,
            scratch: folder.path().join("scratch"),
            cgroups,
            bpf_file_system: folder.path().join("bpf"),
            material: material_folder,
            programs: Some(programs.to_path_buf()),
            runtime: Runtime::Containerd {
                socket: containerd.socket.clone(),
                namespace: name.clone(),
            },
            refused_execs: REFUSED_EXECS,
        }
        .settle();
        Ok(Self {
            folder,
            name,
            containerd,
        })
    }

    /// Ends and removes all of it; nothing stays pinned.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(super) fn end(self, programs: &Path) -> Result<()> {
        // It complains of programs that are loaded still, which other agents on this kernel may have; of ours the pins tell.
        let said = agent::uninstall();
        let log = programs.with_file_name("native-agent.log");
        agent::keep_log(&log)?;
        println!("note: the agent's log: {}", log.display());
        let is_pinned = agent::pins().exists();
        self.containerd.end();
        let mut folders: Vec<PathBuf> = mounts_of("cgroup");
        folders.extend(unified());
        let started = Instant::now();
        for folder in folders.into_iter().map(|hierarchy| hierarchy.join(&self.name)) {
            // Hierarchies of version 1 have no such file.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
            while folder.exists() && !remove_tree(&folder) && started.elapsed() < GONE_LIMIT {
                sleep(Duration::from_millis(20));
            }
        }
        unmount_below(self.folder.path())?;
        let path = self.folder.path().to_path_buf();
        self.folder
            .close()
            .with_context(|| format!("cannot remove {}", path.display()))?;
        ensure!(!is_pinned, "uninstall left pins: {said:?}");
        Ok(())
    }
}

/// Removes the folders of a cgroup, the deepest first; says whether all are gone.
fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok()
}
