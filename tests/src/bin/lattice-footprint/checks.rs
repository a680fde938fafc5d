//! What the agent must be able to do, each as an outside observer sees it.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use caps::Capability;
use serde_json::Value;

use crate::node::{Node, program};

/// Somebody who is not root, as in most containers.
const OTHER_USER: u32 = 1000;
/// How long an event may take.
const EVENT_LIMIT: Duration = Duration::from_secs(10);
/// What it starts.
const PROGRAM: &str = "/bin/sleep";
/// Where the container's process is.
const WORKING_DIRECTORY: &str = "/proc";

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Node) -> Result<()>,
    /// In tier 1 there is no front.
    is_for_tier_1: bool,
}

const fn check(name: &'static str, run: fn(&Node) -> Result<()>) -> Check {
    Check {
        name,
        run,
        is_for_tier_1: true,
    }
}

/// In the order of the table's columns.
const CHECKS: [Check; 8] = [
    check("starts, refuses", refuses),
    check("whole events", reports),
    Check {
        is_for_tier_1: false,
        ..check("front", asks_for_scripts)
    },
    check("hashes others' files", hashes),
    check("kills others' processes", kills),
    check("mounts the BPF file system", mounts),
    check("probe", probes),
    check("uninstall", uninstalls),
];

/// Those that a tier has.
pub(crate) fn checks_of(tier: u64) -> Vec<Check> {
    let applies = |check: &Check| tier != 1 || check.is_for_tier_1;
    CHECKS.into_iter().filter(applies).collect()
}

/// A process of another user is put into the container, and starts a program that takes a second.
fn exec_of_other_user(node: &Node) -> Result<ExitStatus> {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &format!("read go; {PROGRAM} 1; exit $?")])
        .uid(OTHER_USER)
        .gid(OTHER_USER)
        .current_dir(WORKING_DIRECTORY)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a shell")?;
    node.enter(shell.id())?;
    // The shell waits for its input until it is in the container.
    let mut input = shell.stdin.take().context("the shell has no input")?;
    input.write_all(b"go\n").context("cannot tell the shell to go on")?;
    shell.wait().context("cannot wait for the shell")
}

fn refuses(node: &Node) -> Result<()> {
    node.mount()?;
    let _agent = node.start(&[])?;
    let status = exec_of_other_user(node)?;
    // The shell says 128 and the signal of what it started.
    ensure!(
        status.code() == Some(137),
        "an unlisted program was not killed ({status})"
    );
    Ok(())
}

fn reports(node: &Node) -> Result<()> {
    // What is killed is gone before the agent looks.
    node.set_mode("monitor")?;
    node.mount()?;
    let _agent = node.start(&[])?;
    exec_of_other_user(node)?;
    let deadline = Instant::now() + EVENT_LIMIT;
    loop {
        let output = Command::new(program("latticectl")?)
            .arg("--agent")
            .arg(node.path("run/agent.sock"))
            .args(["events", "-o", "json"])
            .output()
            .context("cannot start latticectl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).context("an event is no JSON"))
            .collect::<Result<_>>()?;
        // The shell, which ran before the container was known, may have an event too.
        let of_program = |event: &&Value| event["violation"]["pathAsPassed"] == PROGRAM;
        if let Some(event) = events.iter().find(of_program) {
            let violation = &event["violation"];
            let directory = &violation["cwd"];
            ensure!(
                directory == WORKING_DIRECTORY,
                "an event does not say in which directory the program was started: {directory}"
            );
            let parent = &violation["ancestors"][0]["executable"];
            ensure!(
                parent.as_str().is_some_and(|file| file.starts_with('/')),
                "an event does not say from which file its parent runs: {}",
                violation["ancestors"]
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no event came");
        thread::sleep(Duration::from_millis(50));
    }
}

fn asks_for_scripts(node: &Node) -> Result<()> {
    node.mount()?;
    let _agent = node.start(&[])?;
    let log = node.log();
    let problem = log.lines().find(|line| line.contains("no front"));
    ensure!(problem.is_none(), "scripts are not judged: fanotify is refused");
    Ok(())
}

/// A program of another user that root may not read but by a capability: as files of an image's layers can be.
fn hashes(node: &Node) -> Result<()> {
    node.mount()?;
    let file = node.path("program");
    fs::write(&file, "content").context("cannot write a program")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).context("cannot close a program")?;
    chown(&file, Some(OTHER_USER), Some(OTHER_USER)).context("cannot give a program away")?;
    let file = file.display().to_string();
    node.start(&["--runtime-program", &file]).map(drop)
}

/// What the agent does where the kernel side could not send the signal: tried with the system call itself.
fn kills(node: &Node) -> Result<()> {
    let mut other = Command::new("sleep")
        .arg("60")
        .uid(OTHER_USER)
        .gid(OTHER_USER)
        .spawn()
        .context("cannot start a process")?;
    let kill = node
        .command(Path::new("/bin/kill"), &["-KILL", &other.id().to_string()])?
        .stderr(Stdio::null())
        .status()
        .context("cannot start kill")?;
    if !kill.success() {
        other.kill().context("cannot end a process")?;
    }
    let ended = other.wait().context("cannot wait for a process")?;
    ensure!(kill.success() && ended.signal() == Some(9), "kill is refused");
    Ok(())
}

fn mounts(node: &Node) -> Result<()> {
    node.start(&[]).map(drop)
}

/// It makes a cgroup, and the folder of a hierarchy's root is closed even to root but for this capability, which the agent itself never
/// needs.
fn probes(node: &Node) -> Result<()> {
    let status = node
        .command_with(
            Capability::CAP_DAC_OVERRIDE,
            &program("lattice-agent")?,
            &["probe", "-o", "json"],
        )?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start the probe")?;
    ensure!(status.success(), "it could not find the tier out ({status})");
    Ok(())
}

fn uninstalls(node: &Node) -> Result<()> {
    node.mount()?;
    drop(node.start(&[])?);
    // Beside it the kernel may have files of its own.
    let own = node.path("bpf/lattice");
    let pinned = || if own.exists() { pins(&own) } else { Ok(0) };
    ensure!(pinned()? != 0, "nothing is pinned");
    let folder = node.path("bpf").display().to_string();
    let output = node
        .command(&program("lattice-agent")?, &["uninstall", "--bpf-file-system", &folder])?
        .output()
        .context("cannot start lattice-agent")?;
    ensure!(pinned()? == 0, "what is pinned stays ({})", output.status);
    // Programs of another agent of this machine are none of this one's.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() || said.contains("are still loaded"),
        "it cannot see whether programs are still loaded: {said}"
    );
    Ok(())
}

/// Programs, links and maps below a folder.
fn pins(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder).context("cannot read the pins")? {
        let entry = entry.context("cannot read the pins")?;
        count += match entry.file_type().context("cannot read the pins")?.is_dir() {
            true => pins(&entry.path())?,
            false => 1,
        };
    }
    Ok(count)
}
