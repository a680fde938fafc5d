//! `cargo xtask cluster`: a real Kubernetes node on this machine, with folders, mounts and a network of its own.
//!
//! ```text
//!   xtask/go ──► programs, built once ──► up ──┬─► hold: a mount and a network namespace, kept open by one process
//!                                              ├─► etcd, kube-apiserver, controllers, scheduler, containerd + NRI, kubelet, …
//!   127.0.0.1:PORT ◄─ relay ◄─ API server ◄────┘     all inside, each with its process id and its log in a file
//! ```
//!
//! In there it looks like any node: containerd at /run/containerd, NRI at /run/nri, the kubelet at /var/lib/kubelet. On the
//! machine all of that is one folder below target, and one control group in each hierarchy. `down` ends what runs by its
//! process id, and with the last process the namespaces go, and all that was mounted in them.
//!
//! Several may run side by side, by `--name`. Nothing is shared between them but the programs.

mod certificates;
mod check;
mod component;
mod components;
mod configuration;
mod control_groups;
mod down;
mod images;
mod kubeconfig;
mod node;
mod place;
mod programs;
mod registry;
mod relay;
mod running;
mod status;
mod tokens;
mod up;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{oci::Image, process};
use place::Place;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Args)]
struct Which {
    /// Which cluster: a name of your choice, since several may run side by side
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: String,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what is missing, start a cluster of one node, and wait until it is ready
    Up(Which),
    /// End it and remove all that it made; only its logs stay
    Down(Which),
    /// Say what is up, in which version, and where its kubeconfig is; of all clusters, or of one
    Status {
        /// Only this one
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Run kubectl against it
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Run a command inside, as on the node itself (ctr, curl, nft)
    Exec {
        #[command(flatten)]
        which: Which,
        /// The command
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            required = true,
            value_name = "COMMAND"
        )]
        command: Vec<OsString>,
    },
    /// Hold Lattice to its promises on a cluster of its own (a suite of `test`, run where it is named)
    #[command(hide = true)]
    Check(check::Arguments),
    /// Make the namespaces and keep them open; started by `up`
    #[command(hide = true)]
    Hold(Which),
    /// Become a program inside the namespaces of a process; started by `up`
    #[command(hide = true)]
    Enter {
        /// The process that keeps the namespaces
        #[arg(long)]
        holder: u32,
        /// The cgroup.procs of the control group to enter first
        #[arg(long)]
        processes: PathBuf,
        /// Leave the terminal's session, to go on without it
        #[arg(long)]
        detach: bool,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Pass connections to a port of this machine's loopback on to the API server; started by `up`
    #[command(hide = true)]
    Relay {
        /// The process that keeps the namespaces
        #[arg(long)]
        holder: u32,
        /// The cgroup.procs of the control group to enter first
        #[arg(long)]
        processes: PathBuf,
        /// Where to write the port
        #[arg(long)]
        port_file: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.verb {
        Verb::Up(which) => {
            needs_root()?;
            up::run(&Place::named(&which.name)?).map(|()| ExitCode::SUCCESS)
        }
        Verb::Down(which) => {
            needs_root()?;
            down::run(&Place::named(&which.name)?).map(|()| ExitCode::SUCCESS)
        }
        Verb::Status { name: Some(name) } => status::of_one(&Place::named(name)?),
        Verb::Status { name: None } => status::of_all(),
        Verb::Kubectl { which, arguments } => Err(programs::become_kubectl(&Place::named(&which.name)?, arguments)?),
        Verb::Exec { which, command } => Err(component::become_inside(&Place::named(&which.name)?, command)?),
        Verb::Check(arguments) => {
            needs_root()?;
            check::run(arguments)
        }
        Verb::Hold(which) => node::hold(&Place::named(&which.name)?),
        Verb::Enter {
            holder,
            processes,
            detach,
            command,
        } => Err(component::enter(*holder, processes, *detach, command)?),
        Verb::Relay {
            holder,
            processes,
            port_file,
        } => relay::run(*holder, processes, port_file),
    }
}

/// Imports an image into a running cluster under a name, so that pods can be started of it.
///
/// # Errors
///
/// Where the cluster is not up, or containerd does not take the image.
pub(crate) fn import(cluster: &str, name: &str, image: &Image) -> Result<()> {
    images::import(&Place::named(cluster)?, name, image)?;
    say(&format!("{cluster}: imported {name}"));
    Ok(())
}

fn needs_root() -> Result<()> {
    if process::capture(std::process::Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("namespaces, control groups and a kubelet need root: run `cargo xtask cluster` as root");
    }
    Ok(())
}

/// One line about one step.
fn say(text: &str) {
    println!("cluster: {text}");
}
