//! The ELF interpreter: mapped by the kernel, past every bprm hook.

use std::{
    fs,
    os::unix::{
        fs::{FileExt as _, symlink},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{Origin, Role};
use nix::errno::Errno;

use crate::guest::{
    actor::{VERB, Way},
    canaries,
    corpus::Outcome,
    overlay::{Overlay, bind},
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word, wait},
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

/// Variant of a loader that is listed.
const LISTED_LOADER: &str = "listed loader";

fn changed_under_the_running_program(trial: &mut Trial<'_>) -> Result<()> {
    let merged = Overlay::at(trial.path("overlay")).merged();
    let (loader, go) = (merged.join("loader"), trial.path("go"));
    let _ = fs::remove_file(&go);
    // On the read-only layer it is as good as any.
    trial.exec(&merged.join("program"), Expected::Runs)?;
    // Copied up with its bytes.
    fs::File::options().append(true).open(&loader)?;
    let mark = trial.new_mark()?;
    let mut child = Command::new("lattice-vm-suite")
        .args([VERB, &path_word(&trial.place.cgroup), Way::Exec.word()])
        .args([&merged.join("program"), Path::new("wait-for"), &go])
        .env("LATTICE_MARK", &mark)
        .stdin(Stdio::null())
        .spawn()?;
    let name = format!("/proc/{}/comm", child.id());
    let started = Instant::now();
    while child.try_wait()?.is_none()
        && fs::read_to_string(&name).unwrap_or_default() != "program\n"
        && started.elapsed() < Duration::from_secs(30)
    {
        sleep(Duration::from_millis(2));
    }
    // The program runs and waits; in place, so that it is the same file.
    let bytes = fs::read(&loader)?;
    let (listed, other) = (canaries::mark(LISTED_LOADER), canaries::mark("other loader"));
    let at = bytes
        .windows(listed.len())
        .position(|window| window == listed.as_bytes())
        .context("the loader does not hold its mark")?;
    let file = loop {
        match fs::File::options().write(true).open(&loader) {
            // The program has its name before the exec is done.
            Err(error)
                if error.raw_os_error() == Some(Errno::ETXTBSY as i32)
                    && started.elapsed() < Duration::from_secs(30) =>
            {
                sleep(Duration::from_millis(2));
            }
            opened => break opened?,
        }
    };
    file.write_all_at(other.as_bytes(), at as u64)?;
    fs::write(&go, "")?;
    let status = wait(&mut child)?;
    let marks = fs::read_to_string(&mark).unwrap_or_default();
    if trial.is_control() {
        ensure!(
            status.success() && marks == other,
            "without the agent: {status}, {marks}"
        );
        return Ok(());
    }
    trial.tell(if marks.is_empty() {
        Outcome::Killed
    } else {
        Outcome::Ran
    })?;
    ensure!(status.signal().is_some() && marks.is_empty(), "{status}, {marks}");
    trial.owed(Expected::Denied(cause("unresolved", "elf-interpreter", "unresolved")))
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
        // The kernel keeps writers from a program as long as it runs, and from its loader only until the exec is done: what was listed
        // when it was mapped was once whatever was written there later.
        name: "a_loader_that_can_change_under_the_running_program_is_unresolved",
        prepare: |place| {
            let overlay = Overlay::at(place.path("overlay"));
            let (program, loader) = (overlay.lower().join("program"), overlay.lower().join("loader"));
            canaries::write_dynamic(&program, "dynamic", &interpreter("running-"))?;
            canaries::write_loader(&loader, LISTED_LOADER)?;
            // One that is not there is no error.
            let _ = fs::remove_file(interpreter("running-"));
            symlink(overlay.merged().join("loader"), interpreter("running-"))?;
            let policy = Policy::enforce().allow(&program)?;
            let policy = policy.allow_as(&loader, &[Role::ElfInterpreter], Origin::Any)?;
            overlay.mount()?;
            Ok(policy)
        },
        run: changed_under_the_running_program,
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
