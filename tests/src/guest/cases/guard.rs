//! Nobody turns Lattice off from inside, whatever the mode.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Result, ensure};
use lattice_policy::Mode;
use nix::errno::Errno;

use crate::guest::{
    actor::Way,
    agent,
    corpus::Outcome,
    host::host,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word, wait},
};

/// Who stands in for the agent while there is none.
struct StandIn(Child);

impl StandIn {
    fn start() -> Result<Self> {
        let mut command = Command::new(host().material.join("canary/static"));
        Ok(Self(command.arg("wait").stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(place: &Place, mode: Mode) -> Result<Policy> {
    Policy::new(mode).allow(&place.canary("program", "program")?)
}

const fn reach(reason: &'static str) -> Cause {
    cause(reason, "", "")
}

fn attempt(trial: &mut Trial<'_>, verb: &str, argument: &str, expected: Expected) -> Result<()> {
    let words = [path_word(&trial.path("program")), verb.to_owned(), argument.to_owned()];
    trial.start(Way::Exec, &words, expected)
}

fn at_the_agent(trial: &mut Trial<'_>) -> Result<()> {
    let stand_in = StandIn::start()?;
    let process = match trial.is_control() {
        true => stand_in.0.id(),
        false => trial.node.agent()?.process(),
    };
    for (verb, reason) in [
        ("signal", "signal"),
        ("trace", "trace"),
        ("limit", "signal"),
        ("starve", "signal"),
    ] {
        attempt(trial, verb, &process.to_string(), Expected::Denied(reach(reason)))?;
        if verb == reason && trial.place.workload().ends_with("monitor") {
            trial.golden(&format!("{reason}-at-the-agent"))?;
        }
        // Another process is nobody's business.
        let other = StandIn::start()?;
        attempt(trial, verb, &other.0.id().to_string(), Expected::Runs)?;
    }
    Ok(())
}

/// The kernel sends what a file's owner asked for by itself: no call fails, and who is signalled is who is to be looked at.
fn by_sigio(trial: &mut Trial<'_>) -> Result<()> {
    let mut stand_in = StandIn::start()?;
    let process = match trial.is_control() {
        true => stand_in.0.id(),
        false => trial.node.agent()?.process(),
    };
    let words = [
        path_word(&trial.path("program")),
        "sigio".to_owned(),
        process.to_string(),
    ];
    let cgroup = trial.place.cgroup.clone();
    let outcome = trial.act(&cgroup, Way::Exec, &words)?;
    ensure!(outcome.ran(), "{outcome:?}");
    if trial.is_control() {
        let ended = wait(&mut stand_in.0)?;
        ensure!(
            ended.signal() == Some(9),
            "without the agent the other ended with {ended}"
        );
        return Ok(());
    }
    // As often as the kernel tries.
    trial.event(reach("signal"), "deny")?;
    trial.count_events();
    let lives = agent::status().is_ok() && trial.node.agent()?.process() == process;
    trial.tell(if lives {
        Outcome::Refused(Errno::EPERM as i32)
    } else {
        Outcome::Ran
    })?;
    ensure!(lives, "the agent is gone");
    // Another process is nobody's business.
    let words = [words[0].clone(), words[1].clone(), stand_in.0.id().to_string()];
    trial.act(&cgroup, Way::Exec, &words)?;
    let ended = wait(&mut stand_in.0)?;
    ensure!(ended.signal() == Some(9), "the other ended with {ended}");
    Ok(())
}

/// A pinned link; without the agent a file that is none.
fn pin(trial: &Trial<'_>) -> Result<PathBuf> {
    if trial.is_control() {
        let file = trial.path("no-pin");
        fs::write(&file, "")?;
        return Ok(file);
    }
    let version = fs::read_dir(agent::pins())?.flatten().next();
    let links = version.map(|version| version.path().join("links")).unwrap_or_default();
    Ok(links.join("lattice_exec_file"))
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "the_agent_is_neither_signalled_nor_traced_from_a_container",
        prepare: |place| program(place, Mode::Enforce),
        run: at_the_agent,
    },
    Case {
        name: "the_agent_is_neither_signalled_nor_traced_in_monitor",
        prepare: |place| program(place, Mode::Monitor),
        run: at_the_agent,
    },
    Case {
        name: "the_agent_is_not_signalled_by_a_file_that_is_ready",
        prepare: |place| program(place, Mode::Monitor),
        run: by_sigio,
    },
    Case {
        name: "bpf_is_closed_to_containers_in_every_mode",
        prepare: |place| program(place, Mode::Monitor),
        run: |trial| {
            attempt(trial, "bpf", "", Expected::Denied(reach("bpf")))?;
            trial.golden("bpf")
        },
    },
    Case {
        name: "a_pin_is_not_removed_from_a_container",
        prepare: |place| program(place, Mode::Monitor),
        run: |trial| {
            let pin = pin(trial)?;
            ensure!(pin.exists(), "{} is not there", pin.display());
            attempt(trial, "unlink", &path_word(&pin), Expected::Denied(reach("pins")))?;
            trial.golden("pins")?;
            ensure!(trial.is_control() || pin.exists(), "{} is gone", pin.display());
            Ok(())
        },
    },
];
