//! Code that an allowed program loads: from the image alone, or by name.

use std::{fs, path::Path};

use anyhow::Result;
use lattice_policy::{CodeLoading, FileDigest, MapRule, Mode, Origin, Role};
use nix::errno::Errno;

use crate::guest::{
    actor::Way,
    canaries,
    corpus::Outcome,
    overlay::Overlay,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
};

const FOREIGN: Cause = cause("mapping", "mapping", "not-in-image");
const OF_THE_IMAGE: Cause = cause("mapping", "mapping", "unlisted-in-image");
const ANONYMOUS: Cause = cause("mapped-anonymous", "mapping", "");
/// The system's own loader.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Where the dynamic canary looks for its own.
const INTERPRETER: &str = "/t/interpreter-preload-";

/// A listed program, and a library that nobody knows.
fn program_and_library(place: &Place, policy: Policy) -> Result<Policy> {
    place.canary("library", "library")?;
    policy.allow(&place.canary("program", "program")?)
}

/// The program tries to load something.
fn load(trial: &mut Trial<'_>, program: &Path, verb: &str, file: &Path, expected: Expected) -> Result<()> {
    let words = [path_word(program), verb.to_owned(), path_word(file)];
    trial.start(Way::Exec, &words, expected)
}

fn both(trial: &mut Trial<'_>, expected: Expected) -> Result<()> {
    let (program, library) = (trial.path("program"), trial.path("library"));
    for verb in ["map", "protect"] {
        load(trial, &program, verb, &library, expected)?;
    }
    Ok(())
}

fn loading(mut policy: Policy, loading: CodeLoading) -> Policy {
    policy.0.code_loading = loading;
    policy
}

/// The program and a library on the read-only layer.
fn layered(place: &Place, policy: Policy) -> Result<Policy> {
    let overlay = Overlay::at(place.path("overlay"));
    let program = overlay.lower().join("program");
    canaries::write_static(&program, "program")?;
    canaries::write_static(&overlay.lower().join("library"), "library")?;
    overlay.mount()?;
    policy.allow(&program)
}

fn of_overlay(trial: &Trial<'_>, name: &str) -> std::path::PathBuf {
    Overlay::at(trial.path("overlay")).merged().join(name)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_library_that_the_image_did_not_bring_is_refused",
        prepare: |place| program_and_library(place, Policy::enforce()),
        run: |trial| {
            both(trial, Expected::Denied(FOREIGN))?;
            trial.golden("mapping-not-in-image")?;
            trial.exec(&trial.path("program"), Expected::Runs)
        },
    },
    Case {
        name: "code_in_a_memfd_is_refused",
        prepare: |place| program_and_library(place, Policy::enforce()),
        run: |trial| {
            let words = [path_word(&trial.path("program")), "map-memory".to_owned()];
            trial.start(
                Way::Exec,
                &words,
                Expected::Denied(cause("mapping", "mapping", "memfd")),
            )?;
            trial.golden("mapping-memfd")
        },
    },
    Case {
        name: "a_foreign_library_is_noted_in_monitor",
        prepare: |place| program_and_library(place, Policy::new(Mode::Monitor)),
        run: |trial| {
            both(trial, Expected::Noted(FOREIGN))?;
            trial.golden("mapping-in-monitor")
        },
    },
    Case {
        name: "code_loading_note_refuses_nothing",
        prepare: |place| program_and_library(place, loading(Policy::enforce(), CodeLoading::Note)),
        run: |trial| both(trial, Expected::Noted(FOREIGN)),
    },
    Case {
        name: "code_loading_off_says_nothing",
        prepare: |place| program_and_library(place, loading(Policy::enforce(), CodeLoading::Off)),
        run: |trial| both(trial, Expected::Runs),
    },
    Case {
        name: "a_library_of_the_image_loads_until_it_is_changed",
        prepare: |place| layered(place, Policy::enforce()),
        run: |trial| {
            let (program, library) = (of_overlay(trial, "program"), of_overlay(trial, "library"));
            for verb in ["map", "protect"] {
                load(trial, &program, verb, &library, Expected::Runs)?;
            }
            fs::File::options().append(true).open(&library)?;
            for verb in ["map", "protect"] {
                load(trial, &program, verb, &library, Expected::Denied(FOREIGN))?;
            }
            Ok(())
        },
    },
    Case {
        name: "a_library_that_map_names_by_path_loads",
        prepare: |place| {
            let mut policy = program_and_library(place, Policy::enforce())?;
            place.canary("other", "library")?;
            policy.0.map.push(MapRule {
                path: Some(path_word(&place.path("library")).as_str().into()),
                sha256: None,
            });
            Ok(policy)
        },
        run: |trial| {
            let program = trial.path("program");
            load(trial, &program, "map", &trial.path("library"), Expected::Runs)?;
            load(trial, &program, "map", &trial.path("other"), Expected::Denied(FOREIGN))?;
            // It may be loaded, and not started.
            trial.exec(
                &trial.path("library"),
                Expected::Killed(cause("role", "target", "unlisted-in-image")),
            )
        },
    },
    Case {
        name: "code_loading_listed_lets_only_map_load",
        prepare: |place| {
            let mut policy = layered(place, loading(Policy::enforce(), CodeLoading::Listed))?;
            let lower = Overlay::at(place.path("overlay")).lower();
            policy.0.map.push(MapRule {
                path: None,
                sha256: Some(FileDigest(canaries::digest(&lower.join("library"))?)),
            });
            Ok(policy)
        },
        run: |trial| {
            let (program, library) = (of_overlay(trial, "program"), of_overlay(trial, "library"));
            for _ in 0..2 {
                load(trial, &program, "map", &library, Expected::Runs)?;
                load(trial, &program, "map", &program, Expected::Denied(OF_THE_IMAGE))?;
            }
            trial.golden("mapping-unlisted-in-image")
        },
    },
    Case {
        name: "memory_that_turns_executable_is_noted_once_a_program",
        prepare: |place| program_and_library(place, Policy::enforce()),
        run: |trial| {
            let words = [path_word(&trial.path("program")), "anonymous".to_owned()];
            trial.start(Way::Exec, &words, Expected::Noted(ANONYMOUS))?;
            trial.start(Way::Exec, &words, Expected::Noted(ANONYMOUS))?;
            trial.golden("mapped-anonymous")
        },
    },
    Case {
        // Pages that are written to are no file's any more: once this was no word of.
        name: "a_private_mapping_of_the_image_that_is_written_to_is_noted",
        prepare: |place| layered(place, Policy::enforce()),
        run: |trial| {
            let (program, library) = (of_overlay(trial, "program"), of_overlay(trial, "library"));
            load(trial, &program, "map-written", &library, Expected::Noted(ANONYMOUS))
        },
    },
    Case {
        name: "a_foreign_ld_preload_is_not_loaded",
        prepare: |place| {
            let shell = place.path("sh");
            fs::copy("/usr/bin/busybox", &shell)?;
            let program = place.path("program");
            canaries::write_dynamic(&program, "dynamic", Path::new(INTERPRETER))?;
            canaries::write(Path::new(INTERPRETER), &fs::read(LOADER)?)?;
            canaries::write(&place.path("preload.so"), &fs::read(LOADER)?)?;
            Policy::enforce().allow(&shell)?.allow(&program)?.allow_as(
                Path::new(LOADER),
                &[Role::ElfInterpreter],
                Origin::Any,
            )
        },
        run: |trial| {
            let folder = path_word(&trial.place.folder);
            let line = format!("LD_PRELOAD={folder}/preload.so exec {folder}/program");
            let words = [path_word(&trial.path("sh")), "-c".to_owned(), line];
            // The loader says so and goes on without it.
            trial.start(Way::Exec, &words, Expected::Runs)?;
            trial.owed(Expected::Denied(FOREIGN))?;
            trial.tell(Outcome::Refused(Errno::EPERM as i32))
        },
    },
];
