//! Programs inside the node: started beside us, or run in our place.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns},
    unistd::setsid,
};

use super::{place::Place, programs, running::Running};
use crate::process;

const LOG_TAIL_LINES: usize = 20;

/// A program of the node that goes on when we end.
pub(super) struct Component {
    name: &'static str,
    child: Child,
}

impl Component {
    /// Starts a program inside, with its output appended to its log and its process id in a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub(super) fn start(place: &Place, holder: Running, name: &'static str, command: &Command) -> Result<Self> {
        let mut inside = enter_command(place, holder)?;
        inside.arg("--detach");
        inside.arg("--").arg(command.get_program()).args(command.get_args());
        Self::start_outside(place, name, &mut inside)
    }

    /// Starts a program of ours that enters by itself.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub(super) fn start_outside(place: &Place, name: &'static str, command: &mut Command) -> Result<Self> {
        let path = place.log(name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let errors = log.try_clone().context("cannot share a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let component = Self { name, child };
        component
            .running()
            .ok_or_else(|| anyhow!("{name} ended at once"))?
            .write(&place.process_files().join(name))?;
        Ok(component)
    }

    /// The process; entering a namespace and becoming a program changes neither its id nor its start.
    pub(super) fn running(&self) -> Option<Running> {
        Running::of(self.child.id().cast_signed())
    }

    /// # Errors
    ///
    /// Where it has ended: with the end of its log.
    pub(super) fn check(&mut self, place: &Place) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}:\n{}",
                self.name,
                log_tail(&place.log(self.name))
            ),
        }
    }
}

fn log_tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// A command that runs another inside and waits for it.
///
/// # Errors
///
/// Where the cluster is not up.
pub(super) fn inside(place: &Place, program: &Path) -> Result<Command> {
    let mut command = enter_command(place, holder_of(place)?)?;
    command.arg("--").arg(program);
    Ok(command)
}

/// Becomes a command inside, as the user typed it.
///
/// # Errors
///
/// Returns only where it fails.
pub(super) fn become_inside(place: &Place, command: &[OsString]) -> Result<Error> {
    let holder = holder_of(place)?;
    let processes = place.control_groups()?.system_processes();
    let [program, arguments @ ..] = command else {
        bail!("no command to run inside");
    };
    let mut found = vec![programs::find(Path::new(program))?.into_os_string()];
    found.extend_from_slice(arguments);
    enter(holder.pid.cast_unsigned(), &processes, false, &found)
}

/// The process that keeps the node's namespaces.
///
/// # Errors
///
/// Where the cluster is not up.
pub(super) fn holder_of(place: &Place) -> Result<Running> {
    Running::read(&place.process_files().join("holder"))
        .filter(|holder| holder.is_alive())
        .ok_or_else(|| anyhow!("cluster {0} is not up: cargo xtask cluster up --name {0}", place.name))
}

fn enter_command(place: &Place, holder: Running) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command
        .args(["cluster", "enter", "--holder", &holder.pid.to_string(), "--processes"])
        .arg(place.control_groups()?.system_processes());
    Ok(command)
}

/// # Errors
///
/// Where the system does not say which program we are.
pub(super) fn own_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

/// Enters the control group and the namespaces, then becomes the command: so nothing that it starts can be outside.
///
/// # Errors
///
/// Returns only where it fails.
pub(super) fn enter(holder: u32, processes: &Path, detach: bool, command: &[OsString]) -> Result<Error> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command to run inside");
    };
    let folder = std::env::current_dir().context("cannot find the working directory")?;
    fs::write(processes, "0").with_context(|| format!("cannot enter {}", processes.display()))?;
    enter_namespace(holder, "net", CloneFlags::CLONE_NEWNET)?;
    enter_namespace(holder, "mnt", CloneFlags::CLONE_NEWNS)?;
    // Entering another mount namespace leaves us at its root. Where the folder is one of the node's own, that is where we stay.
    let _ = std::env::set_current_dir(folder);
    if detach {
        setsid().context("cannot leave the terminal's session")?;
    }
    let failed = Command::new(program)
        .args(arguments)
        .env("PATH", programs::path()?)
        .exec();
    Ok(Error::from(failed).context(format!("cannot run {} inside", program.display())))
}

pub(super) fn enter_namespace(holder: u32, name: &str, kind: CloneFlags) -> Result<()> {
    let path = format!("/proc/{holder}/ns/{name}");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}: is the cluster up?"))?;
    setns(namespace, kind).with_context(|| format!("cannot enter {path}"))
}

/// Runs a command that is asked again until it succeeds, without its output.
pub(super) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Looks until `look` is true.
///
/// # Errors
///
/// Where it is not in time, or a component has ended meanwhile.
pub(super) fn wait_until(
    place: &Place,
    what: &str,
    limit: Duration,
    components: &mut [Component],
    mut look: impl FnMut() -> bool,
) -> Result<()> {
    let started = std::time::Instant::now();
    while !look() {
        for component in &mut *components {
            component.check(place)?;
        }
        if started.elapsed() > limit {
            bail!(
                "{what}: not so within {} s; the logs are in {}",
                limit.as_secs(),
                place.logs().display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Runs a command inside to its end.
///
/// # Errors
///
/// Where it fails.
pub(super) fn run_inside(place: &Place, program: &Path, arguments: &[&str]) -> Result<String> {
    process::capture(inside(place, program)?.args(arguments))
}
