//! A real container: what its application and what its sessions may start, and the usual attack.

use anyhow::{Result, ensure};
use lattice_policy::{Mode, Origin, Role};
use nix::sys::signal::Signal;

use super::content::{MODIFIED, NOT_IN_IMAGE};
use crate::guest::{
    agent::{self, log_length, wait_for_log},
    canaries,
    container::{Container, LOADER, prepare},
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause},
};

const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");
const UNLISTED: Cause = cause("unlisted", "target", "unlisted-in-image");
const FOREIGN_LOADER: Cause = cause("unlisted", "elf-interpreter", "modified");

/// Shell, loader and busybox are listed; of the canaries `good` for all, `probe` for sessions, `worker` for the application.
fn image(place: &Place, mode: Mode) -> Result<Policy> {
    let lower = prepare(place)?;
    for name in ["good", "probe", "worker", "bad"] {
        canaries::write_static(&lower.join("bin").join(name), name)?;
    }
    canaries::write_loader(&lower.join("bin/evil-loader"), "evil loader")?;
    let bin = |name: &str| lower.join("bin").join(name);
    Policy::new(mode)
        .allow(&bin("sh"))?
        .allow(&bin("busybox"))?
        .allow(&bin("good"))?
        .allow_as(&bin("probe"), &[Role::Target], Origin::ExecSession)?
        .allow_as(&bin("worker"), &[Role::Target], Origin::Init)?
        .allow_as(&lower.join(&LOADER[1..]), &[Role::ElfInterpreter], Origin::Any)
        .map(|policy| policy.below(&lower))
}

fn replace(trial: &Trial<'_>, mode: Mode) -> Result<()> {
    // The files are below the mounted overlay; the policy is made from the same bytes.
    let lower = crate::guest::overlay::Overlay::at(trial.path("overlay")).lower();
    let bin = |name: &str| lower.join("bin").join(name);
    let policy = Policy::new(mode)
        .allow(&bin("sh"))?
        .allow(&bin("busybox"))?
        .allow_as(&lower.join(&LOADER[1..]), &[Role::ElfInterpreter], Origin::Any)?
        .below(&lower);
    let before = log_length()?;
    policy.write(&trial.place.workload())?;
    wait_for_log(before, "policies from files are in force")
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "in_a_container_the_application_and_sessions_are_told_apart",
        prepare: |place| image(place, Mode::Enforce),
        run: |trial| {
            let helpers = helper_count(trial)?;
            let container = Container::start(trial)?;
            container.application(trial, "/bin/good", Expected::Runs)?;
            container.application(trial, "/bin/worker", Expected::Runs)?;
            container.application(trial, "/bin/probe", Expected::Killed(ORIGIN))?;
            container.application(trial, "/bin/sh -c '/bin/probe; exit $?'", Expected::Killed(ORIGIN))?;
            container.application(trial, "/bin/bad", Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/good"], Expected::Runs)?;
            container.session(trial, &["/bin/probe"], Expected::Runs)?;
            container.session(trial, &["/bin/sh", "-c", "/bin/probe; exit $?"], Expected::Runs)?;
            container.session(trial, &["/bin/worker"], Expected::Killed(ORIGIN))?;
            container.session(trial, &["/bin/bad"], Expected::Killed(UNLISTED))?;
            if !trial.is_control() {
                println!(
                    "note: {} execs of the runtime's own programs passed",
                    helper_count(trial)? - helpers
                );
            }
            container.end()
        },
    },
    Case {
        name: "in_a_container_what_is_dropped_or_changed_dies",
        prepare: |place| image(place, Mode::Enforce),
        run: |trial| {
            let container = Container::start(trial)?;
            let attack = "cp /bin/bad /tmp/backdoor && chmod +x /tmp/backdoor && exec /tmp/backdoor";
            container.session(trial, &["/bin/sh", "-c", attack], Expected::Killed(NOT_IN_IMAGE))?;
            container.session(trial, &["/tmp/backdoor"], Expected::Killed(NOT_IN_IMAGE))?;
            container.application(trial, "/tmp/backdoor", Expected::Killed(NOT_IN_IMAGE))?;
            // Copied up with its bytes it is still what is listed, hashed at every exec.
            container.session(
                trial,
                &["/bin/sh", "-c", "touch /bin/good && exec /bin/good"],
                Expected::Runs,
            )?;
            container.session(trial, &["/bin/good"], Expected::Runs)?;
            let swap = "cp /bin/bad /bin/next && mv /bin/next /bin/good && exec /bin/good";
            container.session(trial, &["/bin/sh", "-c", swap], Expected::Killed(MODIFIED))?;
            // The last: no dynamic program starts after it.
            let loader = format!("cp /bin/evil-loader /tmp/next && mv /tmp/next {LOADER} && exec /bin/sh -c :");
            container.session(trial, &["/bin/sh", "-c", &loader], Expected::Killed(FOREIGN_LOADER))?;
            container.session(trial, &["/bin/sh", "-c", ":"], Expected::Killed(FOREIGN_LOADER))?;
            container.end()
        },
    },
    Case {
        name: "in_a_container_a_second_exec_of_the_image_is_not_hashed",
        prepare: |place| image(place, Mode::Enforce),
        run: |trial| {
            let container = Container::start(trial)?;
            container.session(trial, &["/bin/good"], Expected::Runs)?;
            let before = kept_and_hashed(trial)?;
            container.application(trial, "/bin/good", Expected::Runs)?;
            if !trial.is_control() {
                let after = kept_and_hashed(trial)?;
                ensure!(
                    after.0 > before.0,
                    "no kept digest was used: {before:?}, then {after:?}"
                );
                ensure!(
                    after.1 == before.1,
                    "a file was hashed again: {before:?}, then {after:?}"
                );
            }
            container.end()
        },
    },
    Case {
        name: "in_a_container_the_flip_to_enforce_is_live_and_outlives_the_agent",
        prepare: |place| image(place, Mode::Monitor),
        run: |trial| {
            let container = Container::start(trial)?;
            container.application(trial, "/bin/bad", Expected::Noted(UNLISTED))?;
            container.session(trial, &["/bin/bad"], Expected::Noted(UNLISTED))?;
            if !trial.is_control() {
                replace(trial, Mode::Enforce)?;
            }
            container.application(trial, "/bin/bad", Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/bad"], Expected::Killed(UNLISTED))?;
            if !trial.is_control() {
                trial.node.end(Signal::SIGKILL)?;
                trial.hold_events(true);
            }
            container.application(trial, "/bin/bad", Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/bad"], Expected::Killed(UNLISTED))?;
            if !trial.is_control() {
                trial.node.start()?;
                trial.hold_events(false);
                trial.owed(Expected::Killed(UNLISTED))?;
                trial.owed(Expected::Killed(UNLISTED))?;
            }
            container.application(trial, "/bin/bad", Expected::Killed(UNLISTED))?;
            container.end()
        },
    },
];

fn helper_count(trial: &Trial<'_>) -> Result<u64> {
    if trial.is_control() {
        Ok(0)
    } else {
        agent::counter("lattice_verdicts_total{reason=\"runtime-helper\"}")
    }
}

fn kept_and_hashed(trial: &Trial<'_>) -> Result<(u64, u64)> {
    if trial.is_control() {
        return Ok((0, 0));
    }
    Ok((
        agent::counter("lattice_digests_kept_used_total")?,
        agent::counter("lattice_files_hashed_total")?,
    ))
}
