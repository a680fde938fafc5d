//! Where a suite lives: a VM that it has to itself, or folders of its own on a machine that others use too.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// How containers are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// runc, on overlays that the suite mounts; the agent is told the cgroup.
    Runc,
    /// A containerd of the suite's own, which has the image; the agent asks it.
    Containerd {
        /// Its socket.
        socket: PathBuf,
        /// Its namespace, also the parent of the containers' cgroups.
        namespace: String,
    },
}

/// The suite's surroundings.
#[derive(Debug, Clone)]
pub struct Host {
    /// Tier of the agent under test.
    pub tier: u8,
    /// Folder of files that last as long as the suite.
    pub run: PathBuf,
    /// Folder of the cases' own files.
    pub scratch: PathBuf,
    /// Cgroup below which every case has its own.
    pub cgroups: PathBuf,
    /// Where the agent pins.
    pub bpf_file_system: PathBuf,
    /// Folder with the compiled canaries (`canary`) and the image's unpacked layers (`layers`).
    pub material: PathBuf,
    /// Folder of the programs under test; where there is none they are on PATH.
    pub programs: Option<PathBuf>,
    /// How containers are run.
    pub runtime: Runtime,
    /// Refused execs in a row of the case that counts them.
    pub refused_execs: u64,
}

/// Where nobody says another number; `xtask soak` does.
pub const REFUSED_EXECS: u64 = 5000;

static HOST: OnceLock<Host> = OnceLock::new();

impl Host {
    /// A VM: everything is where it is by default.
    pub fn vm() -> Self {
        Self {
            tier: 1,
            run: "/run".into(),
            scratch: "/tmp".into(),
            cgroups: "/sys/fs/cgroup/lattice-vm".into(),
            bpf_file_system: "/sys/fs/bpf".into(),
            material: "/material".into(),
            programs: None,
            runtime: Runtime::Runc,
            refused_execs: REFUSED_EXECS,
        }
    }

    /// Settles it for this process; the first word holds.
    pub fn settle(self) {
        // A second word would be a mistake of the suite's own, and changes nothing.
        let _ = HOST.set(self);
    }

    /// A program under test.
    pub fn program(&self, name: &str) -> Command {
        Command::new(
            self.programs
                .as_deref()
                .map_or_else(|| PathBuf::from(name), |folder| folder.join(name)),
        )
    }

    /// Where the agent can be asked.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// A file of the image's layers, by its real path there.
    pub fn layer_file(&self, path: &str) -> Option<PathBuf> {
        self.layers()
            .into_iter()
            .map(|layer| layer.join(path.trim_start_matches('/')))
            // A link could lead out of the layer.
            .find(|file| file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()))
    }

    /// The image's unpacked layers, the topmost first.
    pub fn layers(&self) -> Vec<PathBuf> {
        let mut layers: Vec<PathBuf> = (0..)
            .map(|number: u32| self.material.join("layers").join(number.to_string()))
            .take_while(|layer| layer.is_dir())
            .collect();
        layers.reverse();
        layers
    }
}

/// The surroundings that were settled; a VM's where none were.
pub fn host() -> &'static Host {
    HOST.get_or_init(Host::vm)
}

/// Whether the agent under test refuses inline.
pub fn is_tier_1() -> bool {
    host().tier == 1
}

/// A path below the suite's own folder.
pub fn in_run(name: impl AsRef<Path>) -> PathBuf {
    host().run.join(name)
}
