//! Scripts and their interpreters: both are judged.

use std::path::PathBuf;

use anyhow::Result;
use lattice_policy::{Origin, Role};

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    canaries,
    policy::Policy,
    trial::{Case, Expected, Place, cause, path_word},
};

fn script(place: &Place, name: &str, interpreter: &str, comment: &str) -> Result<PathBuf> {
    let path = place.path(name);
    let interpreter = path_word(&place.path(interpreter));
    canaries::write(&path, format!("#!{interpreter}\n# {comment}\n").as_bytes())?;
    Ok(path)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_listed_script_with_a_listed_interpreter_runs",
        prepare: |place| {
            let interpreter = place.canary("interpreter", "interpreter")?;
            Policy::enforce()
                .allow_as(&interpreter, &[Role::ScriptInterpreter], Origin::Any)?
                .allow(&script(place, "script", "interpreter", "listed")?)
        },
        run: |trial| {
            trial.exec(&trial.path("script"), Expected::Runs)?;
            // The interpreter is good only after a listed script.
            trial.exec(
                &trial.path("interpreter"),
                Expected::Killed(cause("role", "target", "unlisted-in-image")),
            )?;
            trial.golden("role-of-a-script-interpreter")
        },
    },
    Case {
        name: "an_unlisted_script_is_refused_before_its_interpreter",
        prepare: |place| {
            let interpreter = place.canary("interpreter", "interpreter")?;
            script(place, "script", "interpreter", "unlisted")?;
            Policy::enforce().allow_as(&interpreter, &[Role::Target, Role::ScriptInterpreter], Origin::Any)
        },
        run: |trial| trial.exec(&trial.path("script"), Expected::Killed(NOT_IN_IMAGE)),
    },
    Case {
        name: "a_listed_script_with_an_unlisted_interpreter_is_refused",
        prepare: |place| {
            place.canary("interpreter", "interpreter")?;
            Policy::enforce().allow(&script(place, "script", "interpreter", "listed")?)
        },
        run: |trial| {
            trial.exec(
                &trial.path("script"),
                Expected::Killed(cause("unlisted", "script-interpreter", "not-in-image")),
            )?;
            trial.golden("not-in-image-as-script-interpreter")
        },
    },
    Case {
        name: "an_interpreter_that_is_listed_as_target_alone_is_refused",
        prepare: |place| {
            Policy::enforce()
                .allow(&place.canary("interpreter", "interpreter")?)?
                .allow(&script(place, "script", "interpreter", "listed")?)
        },
        run: |trial| {
            trial.exec(
                &trial.path("script"),
                Expected::Killed(cause("role", "script-interpreter", "unlisted-in-image")),
            )?;
            trial.exec(&trial.path("interpreter"), Expected::Runs)
        },
    },
    Case {
        name: "a_script_that_interprets_a_script_is_judged_as_interpreter",
        prepare: |place| {
            let interpreter = place.canary("interpreter", "interpreter")?;
            let middle = script(place, "middle", "interpreter", "middle")?;
            let outer = script(place, "outer", "middle", "outer")?;
            Policy::enforce()
                .allow_as(&interpreter, &[Role::ScriptInterpreter], Origin::Any)?
                .allow(&middle)?
                .allow(&outer)
        },
        run: |trial| {
            trial.exec(&trial.path("middle"), Expected::Runs)?;
            trial.exec(
                &trial.path("outer"),
                Expected::Killed(cause("role", "script-interpreter", "unlisted-in-image")),
            )
        },
    },
    Case {
        name: "a_script_without_a_known_start_is_no_way_around",
        prepare: |place| {
            let shell = place.path("sh");
            std::fs::copy("/usr/bin/busybox", &shell)?;
            // Where execve says ENOEXEC a shell runs the file by itself; the kernel has judged it before.
            canaries::write(&place.path("plain"), b"printf '%-32s' mark >> \"$LATTICE_MARK\"\n")?;
            Policy::enforce().allow(&shell)
        },
        run: |trial| {
            let line = format!("exec {}", path_word(&trial.path("plain")));
            let words = [path_word(&trial.path("sh")), "-c".into(), line];
            trial.start(crate::guest::actor::Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))
        },
    },
];
