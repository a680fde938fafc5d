//! A real container: what its application and what its sessions may start, and what is dropped or changed in it.

use anyhow::{Result, ensure};
use lattice_policy::{Mode, Origin, Role};
use nix::sys::signal::Signal;

use super::content::{MODIFIED, NOT_IN_IMAGE};
use crate::guest::{
    agent::{self, log_length, wait_for_log},
    container::{Container, SERVER, loader, prepare},
    host::is_tier_1,
    policy::Policy,
    trial::{Case, Cause, Expected, Trial, cause},
};

const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");
/// The case that looks at the kernel's hashing, which tier 2 has not.
pub(super) const HASHED_ONCE: &str = "in_a_container_a_second_exec_of_the_image_is_not_hashed";
/// Of a file of the image, of a size that no entry has.
pub(super) const UNLISTED: Cause = cause("unlisted", "target", "unlisted-in-image");
const FOREIGN_LOADER: Cause = cause("unlisted", "elf-interpreter", "modified");

/// Of a file of the image that is as long as a listed one: tier 2 knows the digests of listed inodes alone.
pub(super) fn equally_long() -> Cause {
    UNLISTED.in_tier_2(cause("unresolved", "target", "unresolved"))
}

/// The floor cannot resolve the loader's path, so it cannot say that it is a listed one.
pub(super) fn foreign_loader() -> Cause {
    FOREIGN_LOADER.in_tier_2(cause("unlisted", "elf-interpreter", "not-in-image"))
}

/// What the server needs, a shell and busybox for all; of the canaries `good` for all, `probe` for sessions, `worker` for the
/// application.
pub(super) fn listing(mode: Mode) -> Result<Policy> {
    fewer(mode)?
        .allow_image("/usr/bin/good", &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/probe", &[Role::Target], Origin::ExecSession)?
        .allow_image("/usr/bin/worker", &[Role::Target], Origin::Init)
}

fn fewer(mode: Mode) -> Result<Policy> {
    Policy::new(mode)
        .allow_image(SERVER, &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/dash", &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/busybox", &[Role::Target], Origin::Any)?
        .allow_image(loader()?, &[Role::ElfInterpreter], Origin::Any)
}

/// Replaces the case's policy, and waits until it is in force.
pub(super) fn replace(trial: &Trial<'_>, policy: &Policy) -> Result<()> {
    let before = log_length()?;
    policy.write(&trial.place.workload())?;
    wait_for_log(before, "policies from files are in force")
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "in_a_container_the_application_and_sessions_are_told_apart",
        prepare: |place| prepare(place).and_then(|()| listing(Mode::Enforce)),
        run: |trial| {
            let helpers = helper_count(trial)?;
            let container = Container::start(trial)?;
            container.application(trial, "/bin/good", Expected::Runs)?;
            container.application(trial, "/bin/worker", Expected::Runs)?;
            trial.trick("probe's program, by the application");
            container.application(trial, "/bin/probe", Expected::Killed(ORIGIN))?;
            container.application(trial, "/bin/sh -c '/bin/probe; exit $?'", Expected::Killed(ORIGIN))?;
            trial.trick("unlisted file");
            container.application(trial, "/bin/longer", Expected::Killed(UNLISTED))?;
            container.application(trial, "/bin/bad", Expected::Killed(equally_long()))?;
            container.session(trial, &["/bin/good"], Expected::Runs)?;
            container.session(trial, &["/bin/probe"], Expected::Runs)?;
            container.session(trial, &["/bin/sh", "-c", "/bin/probe; exit $?"], Expected::Runs)?;
            trial.trick("application's program, by a session");
            container.session(trial, &["/bin/worker"], Expected::Killed(ORIGIN))?;
            trial.trick("unlisted file");
            container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/bad"], Expected::Killed(equally_long()))?;
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
        prepare: |place| prepare(place).and_then(|()| listing(Mode::Enforce)),
        run: |trial| {
            let container = Container::start(trial)?;
            trial.trick("dropped file");
            let attack = "cp /bin/bad /tmp/backdoor && chmod +x /tmp/backdoor && exec /tmp/backdoor";
            let attack = attack.replace("chmod", "/bin/busybox chmod");
            container.session(trial, &["/bin/sh", "-c", &attack], Expected::Killed(NOT_IN_IMAGE))?;
            container.session(trial, &["/tmp/backdoor"], Expected::Killed(NOT_IN_IMAGE))?;
            container.application(trial, "/tmp/backdoor", Expected::Killed(NOT_IN_IMAGE))?;
            trial.trick("listed file copied up");
            // Copied up with its bytes it is still what is listed, where it can be hashed at every exec.
            let copied_up = if is_tier_1() {
                Expected::Runs
            } else {
                Expected::Killed(MODIFIED)
            };
            let touch = "touch /usr/bin/good && exec /usr/bin/good";
            container.session(trial, &["/bin/sh", "-c", touch], copied_up)?;
            container.session(trial, &["/usr/bin/good"], copied_up)?;
            trial.trick("rename over a listed path");
            let swap = "cp /bin/bad /usr/bin/next && mv /usr/bin/next /usr/bin/good && exec /usr/bin/good";
            container.session(trial, &["/bin/sh", "-c", swap], Expected::Killed(MODIFIED))?;
            trial.trick("loader replaced by a rename");
            // The last: no dynamic program starts after it.
            let swap = format!(
                "cp /bin/evil-loader /tmp/next && mv /tmp/next {} && exec /bin/sh -c :",
                loader()?
            );
            container.session(trial, &["/bin/sh", "-c", &swap], Expected::Killed(foreign_loader()))?;
            container.session(trial, &["/bin/sh", "-c", ":"], Expected::Killed(foreign_loader()))?;
            container.end()
        },
    },
    Case {
        name: HASHED_ONCE,
        prepare: |place| prepare(place).and_then(|()| listing(Mode::Enforce)),
        run: |trial| {
            let container = Container::start(trial)?;
            container.session(trial, &["/bin/good"], Expected::Runs)?;
            container.application(trial, "exec /bin/good", Expected::Runs)?;
            let before = kept_and_hashed(trial)?;
            container.application(trial, "exec /bin/good", Expected::Runs)?;
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
        prepare: |place| prepare(place).and_then(|()| listing(Mode::Monitor)),
        run: |trial| {
            let container = Container::start(trial)?;
            container.application(trial, "/bin/longer", Expected::Noted(UNLISTED))?;
            container.session(trial, &["/bin/longer"], Expected::Noted(UNLISTED))?;
            if !trial.is_control() {
                replace(trial, &fewer(Mode::Enforce)?)?;
            }
            container.application(trial, "/bin/longer", Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
            if !trial.is_control() {
                trial.node.end(Signal::SIGKILL)?;
                trial.hold_events(true);
            }
            container.application(trial, "/bin/longer", Expected::Killed(UNLISTED))?;
            container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
            if !trial.is_control() {
                trial.node.start()?;
                trial.hold_events(false);
                trial.owed(Expected::Killed(UNLISTED))?;
                trial.owed(Expected::Killed(UNLISTED))?;
            }
            container.application(trial, "/bin/longer", Expected::Killed(UNLISTED))?;
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
