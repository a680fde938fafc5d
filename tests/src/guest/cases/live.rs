//! What changes while the agent runs: policies, good and bad ones.

use std::{fs, process::Command, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use lattice_policy::Mode;
use nix::sys::signal::Signal;

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    agent::{log_length, wait_for_log},
    policy::{Policy, write_text},
    trial::{Case, Expected, Place, Trial, cause, path_word},
};

/// What the agent says once it has taken up a changed folder.
const IN_FORCE: &str = "policies from files are in force";

fn first_alone(place: &Place) -> Result<Policy> {
    place.canary("second", "second")?;
    Policy::enforce().allow(&place.canary("first", "first")?)
}

/// Half of what the verifier follows at most.
const VERIFIED_LIMIT: u64 = 500_000;

/// Replaces the case's policy, and waits until it is in force.
fn replace(trial: &Trial<'_>, policy: &Policy) -> Result<()> {
    let before = log_length()?;
    policy.write(&trial.place.workload())?;
    wait_for_log(before, IN_FORCE)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "what_runs_is_reported_when_its_policy_tightens",
        prepare: first_alone,
        run: |trial| {
            let first = trial.path("first");
            let mut child = Command::new("lattice-vm-suite")
                .args([
                    "act",
                    &path_word(&trial.place.cgroup),
                    "exec",
                    &path_word(&first),
                    "wait",
                ])
                .spawn()?;
            sleep(Duration::from_millis(300));
            let result = if trial.is_control() {
                Ok(())
            } else {
                replace(trial, &Policy::enforce().allow(&trial.path("second"))?).and_then(|()| {
                    let told = trial.event(cause("running-unlisted", "target", "not-in-image"), "none")?;
                    ensure!(told.pid == child.id(), "it names process {}", told.pid);
                    trial.golden("running-unlisted")
                })
            };
            child.kill()?;
            child.wait()?;
            result
        },
    },
    Case {
        name: "a_changed_policy_file_holds_at_once",
        prepare: first_alone,
        run: |trial| {
            let (first, second) = (trial.path("first"), trial.path("second"));
            trial.exec(&first, Expected::Runs)?;
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            replace(trial, &Policy::enforce().allow(&second)?)?;
            trial.exec(&second, Expected::Runs)?;
            trial.exec(&first, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "a_flip_from_monitor_to_enforce_and_back_is_live",
        prepare: |place| {
            place.canary("bad", "bad")?;
            Ok(Policy::new(Mode::Monitor))
        },
        run: |trial| {
            let bad = trial.path("bad");
            trial.exec(&bad, Expected::Noted(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            replace(trial, &Policy::new(Mode::Enforce))?;
            trial.exec(&bad, Expected::Killed(NOT_IN_IMAGE))?;
            replace(trial, &Policy::new(Mode::Deny))?;
            trial.exec(&bad, Expected::Denied(NOT_IN_IMAGE))?;
            replace(trial, &Policy::new(Mode::Monitor))?;
            trial.exec(&bad, Expected::Noted(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "a_malformed_policy_file_keeps_the_last_good_state",
        prepare: first_alone,
        run: |trial| {
            let (first, second) = (trial.path("first"), trial.path("second"));
            if !trial.is_control() {
                for text in [
                    "spec: [",
                    "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {name: x, namespace: vm}\nspec: {entries: [], modus: open}\n",
                ] {
                    let before = log_length()?;
                    write_text(&trial.place.workload(), text)?;
                    // The file is named, and its line.
                    wait_for_log(before, &format!("{}.yaml:", trial.place.workload()))?;
                    trial.exec(&first, Expected::Runs)?;
                    trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))?;
                }
                replace(trial, &Policy::enforce().allow(&second)?)?;
                return trial.exec(&second, Expected::Runs);
            }
            trial.exec(&first, Expected::Runs)?;
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "a_restart_with_a_broken_policy_file_opens_nothing",
        prepare: first_alone,
        run: |trial| {
            let (first, second) = (trial.path("first"), trial.path("second"));
            trial.exec(&first, Expected::Runs)?;
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            trial.node.end(Signal::SIGKILL)?;
            let before = log_length()?;
            write_text(&trial.place.workload(), "spec: [")?;
            trial.node.start()?;
            wait_for_log(before, "its last good state stays in force")?;
            trial.exec(&first, Expected::Runs)?;
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))?;
            replace(trial, &Policy::enforce().allow(&second)?)?;
            trial.exec(&second, Expected::Runs)
        },
    },
    Case {
        name: "a_policy_that_is_gone_leaves_its_container_to_the_missing_word",
        prepare: first_alone,
        run: |trial| {
            let second = trial.path("second");
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            let before = log_length()?;
            fs::remove_file(crate::guest::policy::folder().join(format!("{}.yaml", trial.place.workload())))?;
            wait_for_log(before, IN_FORCE)?;
            // `missing: open` is the default: containers without a policy are not Lattice's.
            trial.exec(&second, Expected::Runs)?;
            replace(trial, &Policy::enforce())?;
            trial.exec(&second, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "every_program_is_verified_with_room_to_spare",
        prepare: first_alone,
        run: |trial| {
            trial.exec(&trial.path("first"), Expected::Runs)?;
            if trial.is_control() {
                return Ok(());
            }
            let log = crate::guest::agent::log_after(0)?;
            let mut programs = 0;
            let mut most = (0, "");
            for line in log.lines() {
                let Some((program, rest)) = line.split_once("verified_instructions=") else {
                    continue;
                };
                let digits: String = rest.chars().filter(char::is_ascii_digit).collect();
                // Kernels without the figure say nothing.
                let Ok(instructions) = digits.parse::<u64>() else {
                    continue;
                };
                programs += 1;
                most = most.max((
                    instructions,
                    program.rsplit("program=").next().unwrap_or_default().trim(),
                ));
                ensure!(
                    instructions < VERIFIED_LIMIT,
                    "near the verifier's limit of a million: {line}"
                );
            }
            ensure!(
                programs >= 4,
                "the log names only {programs} programs with their verified instructions"
            );
            let (instructions, program) = most;
            println!(
                "note: the kernel verified {instructions} instructions of {program}, and fewer of each other program"
            );
            Ok(())
        },
    },
];
