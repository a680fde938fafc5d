//! From where a program may start: the entrypoint's tree, or a session that entered from outside.

use std::fs;

use anyhow::Result;
use lattice_policy::{Origin, Role};

use crate::guest::{
    actor::Way,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
};

const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");

/// A listed shell as the application, a program for probes alone, and one for the application alone.
fn prepare(place: &Place) -> Result<Policy> {
    let shell = place.path("sh");
    fs::copy("/usr/bin/busybox", &shell)?;
    Policy::enforce()
        .allow(&shell)?
        .allow_as(&place.canary("probe", "probe")?, &[Role::Target], Origin::ExecSession)?
        .allow_as(&place.canary("worker", "worker")?, &[Role::Target], Origin::Init)
}

fn shell(trial: &Trial<'_>, line: &str) -> Vec<String> {
    vec![
        path_word(&trial.path("sh")),
        "-c".into(),
        line.replace("DIR", &path_word(&trial.place.folder)),
    ]
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_probes_program_cannot_be_started_by_the_application",
        prepare,
        run: |trial| {
            // The first that enters is the application.
            let application = shell(trial, "DIR/probe; exit $?");
            trial.start(Way::Exec, &application, Expected::Killed(ORIGIN))?;
            trial.golden("origin")?;
            // The next comes from outside, as a probe does.
            trial.exec(&trial.path("probe"), Expected::Runs)?;
            let probe = shell(trial, "DIR/probe; exit $?");
            trial.start(Way::Exec, &probe, Expected::Runs)
        },
    },
    Case {
        name: "the_applications_program_cannot_be_started_by_a_session",
        prepare,
        run: |trial| {
            let application = shell(trial, "DIR/worker; exit $?");
            trial.start(Way::Exec, &application, Expected::Runs)?;
            trial.exec(&trial.path("worker"), Expected::Killed(ORIGIN))?;
            let session = shell(trial, "DIR/worker; exit $?");
            trial.start(Way::Exec, &session, Expected::Killed(ORIGIN))
        },
    },
    Case {
        name: "the_applications_first_program_may_be_for_init_alone",
        prepare,
        run: |trial| trial.exec(&trial.path("worker"), Expected::Runs),
    },
];
