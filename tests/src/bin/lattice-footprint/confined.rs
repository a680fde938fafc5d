//! A program that may do no more than it is given: capabilities, a read-only root, a seccomp profile.

use std::{
    os::unix::{fs::chroot, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use caps::{CapSet, Capability};
use clap::Args;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::profile;

/// What a program is given.
#[derive(Clone)]
pub(crate) struct Confinement {
    capabilities: Vec<Capability>,
    has_read_only_root: bool,
    seccomp: Option<PathBuf>,
}

/// The same as arguments of this program, which becomes the other one.
#[derive(Args)]
pub(crate) struct With {
    /// Comma-separated
    #[arg(long, default_value = "")]
    capabilities: String,
    /// Everything but this folder is read-only
    #[arg(long)]
    only_writable: Option<PathBuf>,
    #[arg(long)]
    filter: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Confinement {
    /// These capabilities, and nothing else that is narrower than usual.
    pub(crate) fn of(capabilities: &[Capability]) -> Self {
        Self {
            capabilities: capabilities.to_vec(),
            has_read_only_root: false,
            seccomp: None,
        }
    }

    /// One more.
    pub(crate) fn with_capability(mut self, capability: Capability) -> Self {
        self.capabilities.push(capability);
        self
    }

    /// Nothing can be written to but one folder and what is mounted.
    pub(crate) fn with_read_only_root(self) -> Self {
        Self {
            has_read_only_root: true,
            ..self
        }
    }

    /// No system calls but those of a profile.
    pub(crate) fn with_seccomp(self, profile: &Path) -> Self {
        Self {
            seccomp: Some(profile.to_owned()),
            ..self
        }
    }

    /// A program below it. `folder` is what it may write to in any case.
    pub(crate) fn command(&self, folder: &Path, program: &Path, arguments: &[&str]) -> Result<Command> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let names: Vec<String> = self.capabilities.iter().map(ToString::to_string).collect();
        let mut command = Command::new(own);
        command.arg("with").arg(format!("--capabilities={}", names.join(",")));
        if self.has_read_only_root {
            command.arg("--only-writable").arg(folder);
        }
        if let Some(profile) = &self.seccomp {
            command.arg("--filter").arg(profile);
        }
        command.arg("--").arg(program).args(arguments);
        Ok(command)
    }
}

impl With {
    /// A program that root starts gets what is left of the bounding set.
    pub(crate) fn become_program(self) -> Result<ExitCode> {
        if let Some(folder) = &self.only_writable {
            make_read_only(folder)?;
        }
        let kept: Vec<Capability> = self
            .capabilities
            .split(',')
            .filter(|name| !name.is_empty())
            .map(|name| name.parse().with_context(|| format!("{name} is no capability")))
            .collect::<Result<_>>()?;
        for capability in caps::all() {
            if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
        if let Some(profile) = &self.filter {
            seccompiler::apply_filter(&profile::filter(profile)?).context("cannot apply the seccomp profile")?;
            // A profile that lets everything pass would show nothing.
            let changed = chroot("/").map_err(|error| error.raw_os_error());
            ensure!(
                changed == Err(Some(Errno::ENOSYS as i32)),
                "the seccomp profile lets chroot pass"
            );
        }
        let Some((program, arguments)) = self.command.split_first() else {
            bail!("no program");
        };
        Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot start {program}"))
    }
}

/// As a runtime does with a read-only root: what is mounted below it, and the folder, stays as it is.
fn make_read_only(folder: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).context("cannot make the mount namespace private")?;
    // With what is mounted below it.
    let with_all = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(folder), folder, NONE, with_all, NONE).context("cannot mount the folder over itself")?;
    // Of a root that is a file system in memory too, only the mount becomes read-only.
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, "/", NONE, read_only, NONE).context("cannot make the root read-only")?;
    let probe = std::fs::write("/lattice-footprint", "");
    ensure!(probe.is_err(), "the root can still be written to");
    Ok(())
}
