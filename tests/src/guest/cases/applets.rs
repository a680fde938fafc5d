//! Programs of many applets: the name by which one is called decides what it does, so the name is judged besides the content.

use std::{fs, os::unix::fs::symlink};

use anyhow::Result;
use lattice_policy::{Mode, Origin, Role};

use crate::guest::{
    actor::{HERE, VERB, Way},
    container::{Container, SERVER, loader, prepare},
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
};

const APPLET: Cause = cause("applet", "target", "unlisted-in-image");
const INTERPRETER_APPLET: Cause = cause("applet", "script-interpreter", "unlisted-in-image");
const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");

/// Leaves a mark as a canary does, by what the shell has built in.
const MARK: &str = "printf '%-32s' mark >> \"$LATTICE_MARK\"";

/// busybox, with names for two of its shells.
fn shells(place: &Place) -> Result<()> {
    fs::copy("/usr/bin/busybox", place.path("busybox"))?;
    for name in ["sh", "ash"] {
        symlink("busybox", place.path(name))?;
    }
    Ok(())
}

fn call(trial: &mut Trial<'_>, name: &str, expected: Expected) -> Result<()> {
    let words = [path_word(&trial.path(name)), "-c".into(), MARK.into()];
    trial.start(Way::Exec, &words, expected)
}

fn call_as(trial: &mut Trial<'_>, called: &str, name: &str, expected: Expected) -> Result<()> {
    let path = path_word(&trial.path(name));
    let words = [called.into(), path, "-c".into(), MARK.into()];
    trial.start(Way::CalledAs, &words, expected)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an_applet_is_listed_for_its_own_origin",
        prepare: |place| {
            shells(place)?;
            let busybox = place.path("busybox");
            Ok(Policy::enforce()
                .allow_as(&busybox, &[Role::Target], Origin::Init)?
                .applets(&["sh"])
                .allow_as(&busybox, &[Role::Target], Origin::ExecSession)?
                .applets(&["ash"]))
        },
        run: |trial| {
            // The first that enters is the application, every other one a session.
            call(trial, "sh", Expected::Runs)?;
            call(trial, "sh", Expected::Killed(ORIGIN))?;
            call(trial, "ash", Expected::Runs)?;
            // Either name is listed, but never for both.
            call_as(trial, "sh", "ash", Expected::Killed(ORIGIN))?;
            call_as(trial, "ash", "sh", Expected::Killed(ORIGIN))
        },
    },
    Case {
        name: "an_entry_without_applets_allows_every_name",
        prepare: |place| {
            shells(place)?;
            let busybox = place.path("busybox");
            let policy = Policy::enforce().allow(&busybox)?.applets(&["sh"]);
            policy.allow_as(&busybox, &[Role::Target], Origin::ExecSession)
        },
        run: |trial| {
            // The application may run sh alone, a session every name.
            call(trial, "sh", Expected::Runs)?;
            call(trial, "ash", Expected::Runs)?;
            call_as(trial, "ash", "sh", Expected::Runs)
        },
    },
    Case {
        name: "in_deny_a_name_is_refused_by_path_and_killed_by_argument",
        prepare: |place| {
            shells(place)?;
            Ok(Policy::new(Mode::Deny).allow(&place.path("busybox"))?.applets(&["sh"]))
        },
        run: |trial| {
            call(trial, "sh", Expected::Runs)?;
            call(trial, "ash", Expected::Denied(APPLET))?;
            trial.golden("applet-by-path")?;
            // The first argument is judged past the point of no return: no error reaches the caller any more.
            let words = ["ash".into(), path_word(&trial.path("sh")), "-c".into(), MARK.into()];
            let cgroup = trial.place.cgroup.clone();
            let outcome = trial.act(&cgroup, Way::CalledAs, &words)?;
            if trial.is_control() {
                anyhow::ensure!(outcome.ran(), "without the agent: {outcome:?}");
                return Ok(());
            }
            anyhow::ensure!(outcome.was_killed(), "{outcome:?}");
            let event = trial.event(APPLET, "kill")?;
            anyhow::ensure!(event.hook == "bprm_committed_creds", "the event is of {}", event.hook);
            anyhow::ensure!(
                event.argv.first().is_some_and(|argument| argument == "ash"),
                "the event's arguments are {:?}: {event:?}",
                event.argv
            );
            trial.golden("applet-by-argument")
        },
    },
    Case {
        name: "in_monitor_another_applet_is_told",
        prepare: |place| {
            shells(place)?;
            Ok(Policy::new(Mode::Monitor)
                .allow(&place.path("busybox"))?
                .applets(&["sh"]))
        },
        run: |trial| {
            call(trial, "sh", Expected::Runs)?;
            call(trial, "ash", Expected::Noted(APPLET))?;
            call_as(trial, "ash", "sh", Expected::Noted(APPLET))
        },
    },
];

pub(super) const IN_A_CONTAINER: &[Case] = &[Case {
    name: "in_a_container_an_applet_is_judged_by_both_its_names",
    prepare: |place| {
        prepare(place)?;
        let both = [Role::Target, Role::ScriptInterpreter];
        let mut policy = Policy::enforce()
            .allow_image(SERVER, &[Role::Target], Origin::Any)?
            .allow_image("/usr/bin/busybox", &both, Origin::Any)?
            .applets(&["ash"]);
        for path in [
            "/usr/bin/actor",
            "/usr/bin/good",
            "/app/script-of-ash",
            "/app/script-of-sh",
        ] {
            policy = policy.allow_image(path, &[Role::Target], Origin::Any)?;
        }
        policy.allow_image(loader()?, &[Role::ElfInterpreter], Origin::Any)
    },
    run: |trial| {
        let container = Container::start(trial)?;
        let mut session = |words: &[&str], expected| container.session(trial, words, expected);
        session(&["/app/ash", "-c", MARK], Expected::Runs)?;
        session(&["/app/sh", "-c", MARK], Expected::Killed(APPLET))?;
        session(&["/usr/bin/busybox", "ash", "-c", MARK], Expected::Killed(APPLET))?;
        session(
            &["/app/ash", "-c", &format!("exec /app/sh -c '{MARK}'")],
            Expected::Killed(APPLET),
        )?;
        let mut called = |name: &str, words: &[&str], expected| {
            let actor = ["/usr/bin/actor", VERB, HERE, Way::CalledAs.word(), name];
            container.session(trial, &[&actor, words].concat(), expected)
        };
        for name in ["ash", "-ash", "-/bin/ash", "/no/such/folder/ash"] {
            called(name, &["/app/ash", "-c", MARK], Expected::Runs)?;
        }
        called("sh", &["/app/ash", "-c", MARK], Expected::Killed(APPLET))?;
        called("ash/sh", &["/app/ash", "-c", MARK], Expected::Killed(APPLET))?;
        called("ash", &["/app/sh", "-c", MARK], Expected::Killed(APPLET))?;
        called("busybox", &["/app/ash", "ash", "-c", MARK], Expected::Killed(APPLET))?;
        container.session(trial, &["/app/script-of-ash"], Expected::Runs)?;
        container.session(trial, &["/app/script-of-sh"], Expected::Killed(INTERPRETER_APPLET))?;
        container.end()
    },
}];
