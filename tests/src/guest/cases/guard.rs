//! Nobody turns Lattice off from inside, whatever the mode.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Result, ensure};
use lattice_policy::Mode;

use crate::guest::{
    actor::Way,
    agent,
    host::host,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
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
    for (verb, reason) in [("signal", "signal"), ("trace", "trace")] {
        attempt(trial, verb, &process.to_string(), Expected::Denied(reach(reason)))?;
        if trial.place.workload().ends_with("monitor") {
            trial.golden(&format!("{reason}-at-the-agent"))?;
        }
        // Another process is nobody's business.
        let other = StandIn::start()?;
        attempt(trial, verb, &other.0.id().to_string(), Expected::Runs)?;
    }
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
