//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lattice_agent::{admin::AdminAddress, host_process::HostProcess};
use lattice_policy::FailAction;

/// Exit code where the answer could not be found out.
pub(crate) const CANNOT: u8 = 2;
/// Exit code of a command line that is not understood.
pub(crate) const USAGE: u8 = 64;

/// The node agent of Lattice: lets a program start in a container only if its policy lists its content.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  lattice-agent probe
  lattice-agent run --policies /etc/lattice/policies --cgroup /sys/fs/cgroup/payments=payments/api/server
  lattice-agent run --containerd /run/containerd/containerd.sock --nri /var/run/nri/nri.sock \\
      --managed-root /sys/fs/cgroup/kubepods.slice --central https://central:7443 \\
      --client-cert node.pem --client-key node.key --ca ca.pem
  lattice-agent uninstall

Exit codes: 0 done, 1 refused, 2 could not find out, 64 usage.
The log goes to standard error; LATTICE_LOG=debug says more."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Enforce policies until told to stop. What is enforced stays in force when the agent ends, however it ends.
    Run(Box<Settings>),
    /// Say what this node offers and which tier follows, by trying
    #[command(after_help = "Exit codes: 0 this node can enforce, 1 it cannot, 2 it could not be found out, 64 usage.")]
    Probe(Probe),
    /// Ask the running agent whether it is well, as a kubelet's probe does
    #[command(after_help = "Exit codes: 0 it is, 1 it is not, 2 it does not answer, 64 usage.")]
    Health(Health),
    /// Ask central for this node's certificate, as the agent does with --enrolment, and say what it answers; nothing is kept
    #[command(after_help = "Exit codes: 0 it gives one, 1 it refuses, 2 it could not be asked, 64 usage.")]
    Enrol(Enrol),
    /// Print the seccomp profile that the agent can be confined to, or put it in a file
    SeccompProfile(SeccompProfile),
    /// Enters a cgroup and becomes a program; started by `probe`
    #[command(hide = true)]
    ProbeChild {
        /// Folder of the cgroup
        cgroup: PathBuf,
        /// The program
        program: PathBuf,
    },
    /// Ends an agent that hangs; started by the agent itself
    #[command(hide = true)]
    FrontWatchdog {
        /// The agent's process id
        agent: u32,
    },
    /// Remove every pinned program and map: from then on nothing is enforced
    Uninstall(Uninstall),
}

#[derive(Args)]
pub(crate) struct Pins {
    /// Where a BPF file system is mounted, or is to be
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub(crate) bpf_file_system: PathBuf,
}

#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) pins: Pins,
    /// Remove besides, where nothing is enforced any more, what the agent keeps in this folder: its --state (with events that central has
    /// not acknowledged), the folder of its --socket, or of its seccomp profile. Folders in it other than the spool stay; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) empty: Vec<PathBuf>,
    /// Stay afterwards until told to end, as the program of a pod that does this on every node
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Args)]
pub(crate) struct Probe {
    /// How to show the result
    #[arg(short, long, value_enum, default_value_t = OutputForm::Text)]
    pub(crate) output: OutputForm,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// containerd's socket [default: looked for at its usual places]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) containerd: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Health {
    /// Where the agent answers: unix:/PATH or a loopback ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/lattice/admin.sock")]
    pub(crate) admin: AdminAddress,
    /// Ask whether it is ready, instead of whether it is healthy
    #[arg(long)]
    pub(crate) ready: bool,
}

#[derive(Args)]
pub(crate) struct Enrol {
    /// Name of this node
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,
    /// Where central gives agents their certificates, https://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) enrolment: String,
    /// A token of the agent's service account, for the audience lattice-central and bound to its pod
    #[arg(long, value_name = "FILE")]
    pub(crate) enrolment_token: PathBuf,
    /// Certificate of the authority that signed central's (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
}

#[derive(Args)]
pub(crate) struct SeccompProfile {
    /// Write it to this file, unless it is there already
    #[arg(long, value_name = "FILE")]
    pub(crate) install: Option<PathBuf>,
}

/// How a result is shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Text,
    /// For programs: one versioned document
    Json,
}

#[derive(Args)]
pub(crate) struct Settings {
    /// Read settings from this TOML file, whose keys are the names of these flags; flags win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pins: Pins,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Folder with ExecPolicy files (YAML, JSON); changes are taken up live
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    /// A container by its cgroup, where its root file system is mounted, if it has one of its own, its image's digest, and its pod, whose
    /// cgroup is the one above; may be repeated
    #[arg(
        long,
        value_name = "PATH=NAMESPACE/WORKLOAD/CONTAINER[,root=DIR][,image=DIGEST][,pod=NAME]"
    )]
    pub(crate) cgroup: Vec<String>,
    /// File of digests that are refused everywhere, in every mode: lines "file DIGEST" and "image sha256:DIGEST"; changes are taken up
    /// live. What central denies holds besides
    #[arg(long, value_name = "FILE")]
    pub(crate) denylist: Option<PathBuf>,
    /// Kill what runs of an image when the denylist names it
    #[arg(long, requires = "denylist")]
    pub(crate) kill_denied: bool,
    /// Namespace whose containers may use bpf(2), which is refused to every container with a policy; may be repeated
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) allow_bpf: Vec<String>,
    /// Namespace in whose containers programs are killed that run already and that no entry of the enforced policy lists (`*` is every
    /// namespace); elsewhere they are told. May be repeated
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) kill_running: Vec<String>,
    /// containerd's socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) containerd: Option<PathBuf>,
    /// Its NRI socket (/var/run/nri/nri.sock), where it has NRI: it then asks the agent before a container's first program starts.
    /// Never taken by itself: the socket must be that of the runtime at --containerd
    #[arg(long, value_name = "SOCKET", requires = "containerd")]
    pub(crate) nri: Option<PathBuf>,
    /// Cgroup below which everything is a container's: what no map knows there gets the `--unknown` verdict
    #[arg(long, value_name = "PATH")]
    pub(crate) managed_root: Option<PathBuf>,
    /// What a cgroup below the managed root means that nobody has named
    #[arg(long, value_enum, default_value_t = Fail::Closed)]
    pub(crate) unknown: Fail,
    /// A process that has the root and the namespaces of the node's own programs [default: 1]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) host_process: Option<u32>,
    /// A program of the container runtime on the host, by its content; may be repeated [default: runc, crun, … along PATH and in the
    /// usual folders]
    #[arg(long, value_name = "FILE")]
    pub(crate) runtime_program: Vec<PathBuf>,
    /// Tier to use [default: the highest that the kernel allows]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2))]
    pub(crate) tier: Option<u32>,
    /// Entries over all sets
    #[arg(long, value_name = "COUNT", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(16..=4_194_304))]
    pub(crate) max_entries: u32,
    /// Entries that are a path alone, over all sets
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) max_paths: u32,
    /// Names of applets, over all sets
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) max_applets: u32,
    /// Containers on this node
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_containers: u32,
    /// Policies in force on this node
    #[arg(long, value_name = "COUNT", default_value_t = 10_240, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) max_policies: u32,
    /// Namespaces that containers on this node are in
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_namespaces: u32,
    /// Central's URL, https://HOST:PORT; without it policies come from files alone
    #[arg(long, value_name = "URL", requires_all = ["node_identity", "ca"])]
    pub(crate) central: Option<String>,
    /// This node's certificate (PEM); its name is NODE.node.lattice
    #[arg(long, value_name = "FILE", group = "node_identity", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// Where central gives this agent its certificate, instead of --client-cert: https://HOST:PORT
    #[arg(long, value_name = "URL", group = "node_identity", requires = "enrolment_token")]
    pub(crate) enrolment: Option<String>,
    /// A token of the agent's service account, for the audience lattice-central and bound to its pod; shown at --enrolment alone
    #[arg(long, value_name = "FILE", requires = "enrolment")]
    pub(crate) enrolment_token: Option<PathBuf>,
    /// Certificate of the authority that signed central's (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Where latticectl finds the agent
    #[arg(long, value_name = "SOCKET", default_value = "/run/lattice/agent.sock")]
    pub(crate) socket: PathBuf,
    /// Metrics, health and readiness: unix:/PATH or a loopback ADDRESS:PORT [default: admin.sock beside the --socket]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<AdminAddress>,
    /// Metrics besides, over TLS, for who has a certificate of the --ca with the name metrics.lattice: a Prometheus on another machine.
    /// Shows this node's own certificate
    #[arg(long, value_name = "ADDRESS:PORT", requires = "central")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Room for events that central has not acknowledged, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) spool_size: u64,
    /// Where state is kept between starts
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lattice")]
    pub(crate) state: PathBuf,
}

impl Settings {
    /// By which process the host is found.
    ///
    /// # Errors
    /// When the one that was named may not be looked at.
    pub(crate) fn host(&self) -> anyhow::Result<HostProcess> {
        match self.host_process {
            Some(process) => {
                HostProcess::named(process).with_context(|| format!("--host-process {process} cannot be looked at"))
            }
            None => Ok(HostProcess::default()),
        }
    }

    /// Where metrics, health and readiness are.
    pub(crate) fn admin(&self) -> AdminAddress {
        let beside = || AdminAddress::Unix(self.socket.with_file_name("admin.sock"));
        self.admin.clone().unwrap_or_else(beside)
    }
}

/// What a failure means.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fail {
    /// Allowed, counted, with an event
    Open,
    /// Refused
    Closed,
    /// Refused and killed
    Kill,
}

impl From<Fail> for FailAction {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Open => Self::Open,
            Fail::Closed => Self::Closed,
            Fail::Kill => Self::Kill,
        }
    }
}
