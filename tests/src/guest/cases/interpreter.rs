//! The ELF interpreter: mapped by the kernel, past every bprm hook.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::Result;
use lattice_policy::{Origin, Role};

use crate::guest::{
    actor::Way,
    canaries,
    overlay::{Overlay, bind},
    policy::Policy,
    trial::{Case, Cause, Expected, Place, cause, path_word},
};

/// The system's own loader.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// A loader that nobody listed.
const FOREIGN: Cause = cause("unlisted", "elf-interpreter", "not-in-image");
/// A loader on a read-only layer that nobody listed.
const FOREIGN_ON_LAYER: Cause = cause("unlisted", "elf-interpreter", "unlisted-in-image");
/// The listed loader, as a command.
const AS_TARGET: Cause = cause("role", "target", "unlisted-in-image");

/// Where the dynamic canary of a case looks for its interpreter; eight characters tell the cases apart.
fn interpreter(word: &str) -> PathBuf {
    PathBuf::from(format!("/t/interpreter-{word}"))
}

/// The listed program and the listed loader at the place where the kernel looks for it.
fn dynamic(place: &Place, word: &str) -> Result<Policy> {
    let program = place.path("program");
    canaries::write_dynamic(&program, "dynamic", &interpreter(word))?;
    put(&fs::read(LOADER)?, &interpreter(word))?;
    Policy::enforce()
        .allow(&program)?
        .allow_as(Path::new(LOADER), &[Role::ElfInterpreter], Origin::Any)
}

fn put(bytes: &[u8], path: &Path) -> Result<()> {
    crate::guest::overlay::unmount_below(path)?;
    canaries::write(path, bytes)
}

/// A foreign loader that its size does not give away: it has to be hashed where it is mapped.
fn evil_of_equal_size(path: &Path) -> Result<()> {
    canaries::write_loader(path, "evil loader")?;
    let mut bytes = fs::read(path)?;
    bytes.resize(fs::read(LOADER)?.len(), 0);
    canaries::write(path, &bytes)
}

/// The dynamic program and its loader in the lower layer of an overlay.
fn layered(place: &Place, word: &str) -> Result<(Overlay, Policy)> {
    let overlay = Overlay::at(place.path("overlay"));
    let program = overlay.lower().join("program");
    canaries::write_dynamic(&program, "dynamic", &interpreter(word))?;
    canaries::write(&overlay.lower().join("loader"), &fs::read(LOADER)?)?;
    // One that is not there is no error.
    let _ = fs::remove_file(interpreter(word));
    symlink(overlay.merged().join("loader"), interpreter(word))?;
    let policy =
        Policy::enforce()
            .allow(&program)?
            .allow_as(Path::new(LOADER), &[Role::ElfInterpreter], Origin::Any)?;
    Ok((overlay, policy))
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_dynamic_program_runs_with_its_listed_loader",
        prepare: |place| dynamic(place, "plain---"),
        run: |trial| {
            trial.exec(&trial.path("program"), Expected::Runs)?;
            trial.exec(&trial.path("program"), Expected::Runs)
        },
    },
    Case {
        name: "the_loader_as_target_is_refused",
        prepare: |place| {
            canaries::write(&place.path("loader-copy"), &fs::read(LOADER)?)?;
            dynamic(place, "target--")
        },
        run: |trial| {
            let program = path_word(&trial.path("program"));
            for loader in [LOADER.to_owned(), path_word(&trial.path("loader-copy"))] {
                trial.start(Way::Exec, &[loader, program.clone()], Expected::Killed(AS_TARGET))?;
            }
            trial.golden("role-of-the-loader")
        },
    },
    Case {
        name: "a_loader_that_is_not_listed_is_refused",
        prepare: |place| {
            let policy = dynamic(place, "unlisted")?;
            put(&fs::read(LOADER)?, &interpreter("unlisted"))?;
            drop(policy);
            Policy::enforce().allow(&place.path("program"))
        },
        run: |trial| {
            trial.exec(&trial.path("program"), Expected::Killed(FOREIGN))?;
            trial.golden("not-in-image-as-elf-interpreter")
        },
    },
    Case {
        name: "a_loader_that_is_listed_as_target_alone_is_refused",
        prepare: |place| {
            dynamic(place, "by-role-")?;
            Policy::enforce()
                .allow(&place.path("program"))?
                .allow(Path::new(LOADER))
        },
        run: |trial| {
            trial.exec(
                &trial.path("program"),
                Expected::Killed(cause("role", "elf-interpreter", "unlisted-in-image")),
            )
        },
    },
    Case {
        name: "a_loader_replaced_by_a_mount_is_refused_cold_and_warm",
        prepare: |place| {
            canaries::write_loader(&place.path("evil"), "evil loader")?;
            dynamic(place, "by-mount")
        },
        run: |trial| {
            let (program, evil, at) = (trial.path("program"), trial.path("evil"), interpreter("by-mount"));
            trial.exec(&program, Expected::Runs)?;
            bind(&evil, &at)?;
            trial.exec(&program, Expected::Killed(FOREIGN))?;
            trial.exec(&program, Expected::Killed(FOREIGN))?;
            crate::guest::overlay::unmount(&at)?;
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        name: "a_loader_of_equal_size_and_other_bytes_is_refused",
        prepare: |place| {
            evil_of_equal_size(&place.path("evil"))?;
            dynamic(place, "equal---")
        },
        run: |trial| {
            let at = interpreter("equal---");
            bind(&trial.path("evil"), &at)?;
            trial.exec(&trial.path("program"), Expected::Killed(FOREIGN))?;
            trial.exec(&trial.path("program"), Expected::Killed(FOREIGN))?;
            crate::guest::overlay::unmount(&at)
        },
    },
    Case {
        name: "a_loader_replaced_by_rename_is_refused",
        prepare: |place| {
            canaries::write_loader(&place.path("evil"), "evil loader")?;
            dynamic(place, "renamed-")
        },
        run: |trial| {
            let program = trial.path("program");
            trial.exec(&program, Expected::Runs)?;
            fs::copy(trial.path("evil"), "/t/next")?;
            fs::rename("/t/next", interpreter("renamed-"))?;
            trial.exec(&program, Expected::Killed(FOREIGN))
        },
    },
    Case {
        name: "a_loader_replaced_in_the_writable_layer_is_refused",
        prepare: |place| {
            let (overlay, policy) = layered(place, "in-upper")?;
            canaries::write_loader(&place.path("evil"), "evil loader")?;
            overlay.mount()?;
            Ok(policy)
        },
        run: |trial| {
            let merged = Overlay::at(trial.path("overlay")).merged();
            let program = merged.join("program");
            trial.exec(&program, Expected::Runs)?;
            trial.exec(&program, Expected::Runs)?;
            fs::copy(trial.path("evil"), merged.join("next"))?;
            fs::rename(merged.join("next"), merged.join("loader"))?;
            trial.exec(&program, Expected::Killed(FOREIGN))?;
            trial.exec(&program, Expected::Killed(FOREIGN))
        },
    },
    Case {
        name: "a_loader_overwritten_in_place_in_the_writable_layer_is_refused",
        prepare: |place| {
            let (overlay, policy) = layered(place, "in-place")?;
            canaries::write_loader(&place.path("evil"), "evil loader")?;
            overlay.mount()?;
            Ok(policy)
        },
        run: |trial| {
            let merged = Overlay::at(trial.path("overlay")).merged();
            let program = merged.join("program");
            trial.exec(&program, Expected::Runs)?;
            // Copied up with its bytes: still the listed loader, now hashed at every exec.
            fs::File::options().append(true).open(merged.join("loader"))?;
            trial.exec(&program, Expected::Runs)?;
            fs::write(merged.join("loader"), fs::read(trial.path("evil"))?)?;
            trial.exec(&program, Expected::Killed(FOREIGN))
        },
    },
    Case {
        name: "an_unlisted_loader_of_the_read_only_layer_is_refused_cold_and_warm",
        prepare: |place| {
            let (overlay, policy) = layered(place, "in-lower")?;
            evil_of_equal_size(&overlay.lower().join("loader"))?;
            overlay.mount()?;
            Ok(policy)
        },
        run: |trial| {
            let program = Overlay::at(trial.path("overlay")).merged().join("program");
            // The first is hashed when it is mapped; then its digest is known when it is opened.
            for _ in 0..3 {
                trial.exec(&program, Expected::Killed(FOREIGN_ON_LAYER))?;
            }
            Ok(())
        },
    },
    Case {
        // On an overlay the kernel opens two files for one: the one below was once taken for what will be mapped.
        name: "a_loader_of_equal_size_in_the_writable_layer_is_refused",
        prepare: |place| {
            let (overlay, policy) = layered(place, "eq-upper")?;
            evil_of_equal_size(&place.path("evil"))?;
            overlay.mount()?;
            Ok(policy)
        },
        run: |trial| {
            let merged = Overlay::at(trial.path("overlay")).merged();
            let program = merged.join("program");
            trial.exec(&program, Expected::Runs)?;
            fs::copy(trial.path("evil"), merged.join("next"))?;
            fs::rename(merged.join("next"), merged.join("loader"))?;
            trial.exec(&program, Expected::Killed(FOREIGN))?;
            trial.exec(&program, Expected::Killed(FOREIGN))
        },
    },
    Case {
        // What a static program leaves behind was once taken for the next program's interpreter.
        name: "a_program_that_a_static_one_becomes_is_no_interpreter",
        prepare: |place| {
            let overlay = Overlay::at(place.path("overlay"));
            let shell = overlay.lower().join("sh");
            canaries::write(&shell, &fs::read("/usr/bin/busybox")?)?;
            let good = overlay.lower().join("good");
            canaries::write_static(&good, "good")?;
            overlay.mount()?;
            Policy::enforce().allow(&shell)?.allow(&good)
        },
        run: |trial| {
            let merged = Overlay::at(trial.path("overlay")).merged();
            let words = [
                path_word(&merged.join("sh")),
                "-c".into(),
                format!("exec {}", path_word(&merged.join("good"))),
            ];
            // Cold, then with digests that are kept.
            for _ in 0..3 {
                trial.start(Way::Exec, &words, Expected::Runs)?;
            }
            Ok(())
        },
    },
];
