//! A file that somebody can still change has no content to be known by.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lattice_policy::FailAction;
use nix::errno::Errno;

use crate::guest::{
    actor::Way,
    host::host,
    overlay::Overlay,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
};

const UNRESOLVED: Cause = cause("unresolved", "target", "unresolved");

/// A process outside of every container that can write to a file until it is dropped.
struct Writer(Child);

impl Writer {
    fn start(trial: &Trial<'_>, word: &str, file: &Path) -> Result<Self> {
        let ready = trial.path("ready");
        let _ = fs::remove_file(&ready);
        let child = Command::new(host().material.join("canary/static"))
            .arg(word)
            .args([file, &ready])
            .stdin(Stdio::null())
            .spawn()?;
        let writer = Self(child);
        let started = Instant::now();
        while !ready.exists() {
            ensure!(started.elapsed() < Duration::from_secs(30), "the writer is not ready");
            sleep(Duration::from_millis(1));
        }
        Ok(writer)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn plain(place: &Place) -> Result<Policy> {
    Policy::enforce().allow(&place.canary("program", "good")?)
}

/// The program in the writable layer.
fn in_upper(place: &Place) -> Result<Policy> {
    let overlay = Overlay::at(place.path("overlay"));
    overlay.mount()?;
    let program = overlay.merged().join("program");
    crate::guest::canaries::write_static(&program, "good")?;
    Policy::enforce().allow(&program)
}

fn program_of(trial: &Trial<'_>) -> std::path::PathBuf {
    Overlay::at(trial.path("overlay")).merged().join("program")
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an_open_writer_on_tmpfs_is_refused_by_the_kernel_itself",
        prepare: plain,
        run: |trial| {
            let program = trial.path("program");
            let writer = Writer::start(trial, "hold-open", &program)?;
            trial.exec(&program, Expected::Fails(Errno::ETXTBSY as i32))?;
            drop(writer);
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        name: "a_mapped_writer_on_tmpfs_is_refused_by_the_kernel_itself",
        prepare: plain,
        run: |trial| {
            let program = trial.path("program");
            let writer = Writer::start(trial, "hold-map", &program)?;
            trial.exec(&program, Expected::Fails(Errno::ETXTBSY as i32))?;
            drop(writer);
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        name: "an_open_writer_in_the_writable_layer_is_refused_by_the_kernel_itself",
        prepare: in_upper,
        run: |trial| {
            let program = program_of(trial);
            trial.exec(&program, Expected::Runs)?;
            let writer = Writer::start(trial, "hold-open", &program)?;
            trial.exec(&program, Expected::Fails(Errno::ETXTBSY as i32))?;
            drop(writer);
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        // On overlayfs deny-write guards the overlay's inode; the mapping holds the one below.
        name: "a_mapping_in_the_writable_layer_whose_descriptor_is_closed_is_unresolved",
        prepare: in_upper,
        run: |trial| {
            let program = program_of(trial);
            let writer = Writer::start(trial, "hold-map", &program)?;
            trial.exec(&program, Expected::Denied(UNRESOLVED))?;
            drop(writer);
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        name: "a_writer_on_the_upper_folder_itself_is_unresolved",
        prepare: in_upper,
        run: |trial| {
            let program = program_of(trial);
            let upper = Overlay::at(trial.path("overlay")).upper().join("program");
            let writer = Writer::start(trial, "hold-open", &upper)?;
            trial.exec(&program, Expected::Denied(UNRESOLVED))?;
            drop(writer);
            trial.exec(&program, Expected::Runs)
        },
    },
    Case {
        name: "unresolved_kill_kills",
        prepare: |place| Ok(in_upper(place)?.unresolved(FailAction::Kill)),
        run: |trial| {
            let program = program_of(trial);
            let _writer = Writer::start(trial, "hold-map", &program)?;
            trial.exec(&program, Expected::Killed(UNRESOLVED))
        },
    },
    Case {
        name: "unresolved_open_runs_with_an_event",
        prepare: |place| Ok(in_upper(place)?.unresolved(FailAction::Open)),
        run: |trial| {
            let program = program_of(trial);
            let _writer = Writer::start(trial, "hold-map", &program)?;
            trial.exec(
                &program,
                Expected::Noted(cause("unresolved-open", "target", "unresolved")),
            )?;
            trial.golden("unresolved-open")
        },
    },
    Case {
        // Whoever mounts an overlay himself can write to what it calls read-only, also after the program has started: no guard is on
        // the file below. So nothing there has a content to be known by.
        name: "a_lower_layer_of_an_overlay_that_the_container_mounted_can_change",
        prepare: |place| {
            let overlay = Overlay::at(place.path("own-overlay"));
            crate::guest::canaries::write_static(&overlay.lower().join("program"), "good")?;
            place.canary("bad", "bad")?;
            Policy::enforce().allow(&place.canary("good", "good")?)
        },
        run: |trial| {
            let overlay = Overlay::at(trial.path("own-overlay"));
            let program = overlay.merged().join("program");
            // Mounted by a task of the container, with the node's mount namespace to itself as a privileged one has it.
            let words = [path_word(&overlay.root), path_word(&program)];
            trial.start(Way::AfterOverlay, &words, Expected::Denied(UNRESOLVED))?;
            trial.exec(&program, Expected::Denied(UNRESOLVED))?;
            fs::write(overlay.lower().join("program"), fs::read(trial.path("bad"))?)?;
            trial.exec(&program, Expected::Denied(UNRESOLVED))?;
            // The writable layer of such an overlay is reached from beside, too.
            let copied_up = overlay.merged().join("copied-up");
            fs::copy(trial.path("good"), &copied_up)?;
            trial.exec(&copied_up, Expected::Denied(UNRESOLVED))?;
            trial.exec(&trial.path("good"), Expected::Runs)
        },
    },
];
