//! What the kernel itself starts.

use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;

use super::agent_life::last_sequence;
use crate::guest::{
    canaries::{self, MARK_BYTES},
    container::{Container, prepare},
    corpus::Outcome,
    events,
    host::host,
    trial::{Case, Trial, path_word},
};

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
/// Short, since a pattern is.
const OF_THE_HOST: &str = "/tmp/host-helper";
const LIMIT: Duration = Duration::from_secs(30);

/// Puts the host's own pattern back.
struct Restored(String);

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = fs::write(PATTERN, &self.0);
    }
}

/// A process dies with a core dump for the program; whether that left its mark.
fn dump_to(trial: &mut Trial<'_>, program: &Path, waits_for_mark: bool) -> Result<bool> {
    let mark = trial.new_mark()?;
    let pattern = format!("|{} LATTICE_MARK={}", program.display(), mark.display());
    ensure!(pattern.len() < 128, "the kernel cuts the pattern {pattern}");
    fs::write(PATTERN, pattern)?;
    let status = Command::new("busybox").args(["sh", "-c", "kill -SEGV $$"]).status()?;
    ensure!(!status.success(), "nothing crashed");
    let started = Instant::now();
    loop {
        if fs::metadata(&mark).is_ok_and(|mark| mark.len() == MARK_BYTES as u64) {
            return Ok(true);
        }
        // The one that crashed is gone only when who reads its core is.
        if !waits_for_mark || started.elapsed() > LIMIT {
            return Ok(false);
        }
        sleep(Duration::from_millis(10));
    }
}

fn refused(trial: &mut Trial<'_>, program: &Path) -> Result<()> {
    let is_control = trial.is_control();
    let before = last_sequence(trial);
    let ran = dump_to(trial, program, is_control)?;
    if is_control {
        ensure!(ran, "without the agent {} did not run", program.display());
        return Ok(());
    }
    trial.tell(if ran {
        Outcome::Ran
    } else {
        Outcome::Refused(Errno::EPERM as i32)
    })?;
    ensure!(!ran, "{} ran", program.display());
    let started = Instant::now();
    loop {
        let events = events::all(&trial.node.told);
        let violation = events
            .into_iter()
            .filter(|event| event.sequence > before)
            .find_map(|event| event.violation);
        if let Some(violation) = violation {
            ensure!(
                (violation.reason.as_str(), violation.effective_action.as_str()) == ("unknown", "deny")
                    && violation.path_as_passed == path_word(program),
                "the event of {} says {violation:?}",
                program.display()
            );
            return Ok(());
        }
        ensure!(started.elapsed() < LIMIT, "no event of {} came", program.display());
        sleep(Duration::from_millis(10));
    }
}

pub(super) const CASES: &[Case] = &[Case {
    name: "a_kernel_helper_from_a_container_is_refused",
    prepare: |place| {
        prepare(place)?;
        canaries::write_static(Path::new(OF_THE_HOST), "of the host")?;
        super::evasion::policy()
    },
    run: |trial| {
        let container = Container::start(trial)?;
        let _restored = Restored(fs::read_to_string(PATTERN)?);
        let processes = fs::read_to_string(trial.place.cgroup.join("cgroup.procs"))?;
        let process = processes.lines().next().context("the container has no process")?;
        let root = Path::new("/proc").join(process).join("root");
        // On its overlay, and on its own tmpfs.
        refused(trial, &root.join("usr/bin/longer"))?;
        let program = host()
            .layer_file("/usr/bin/longer")
            .context("the image has no such file")?;
        fs::copy(program, root.join("dev/x"))?;
        refused(trial, &root.join("dev/x"))?;
        // The host's own helpers are its own business.
        ensure!(
            dump_to(trial, Path::new(OF_THE_HOST), true)?,
            "the host's helper did not run"
        );
        container.end()
    },
}];
