//! Bytes that a digest cannot hold: too many of them, from a file system that lies in a file, or read by a program that the kernel chooses.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::guest::{
    canaries, fuse,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, cause, path_word},
};

const UNRESOLVED: Cause = cause("unresolved", "target", "unresolved");
/// More than is hashed outside of read-only layers, and less than would be hashed there.
const HUGE_BYTES: u64 = 512 << 20;

/// Of a file system within a file.
const IMAGE_BYTES: u64 = 1 << 20;

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).output()?;
    ensure!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Loads a module that the guest has; one that is loaded already, or built in, is no error.
fn load_module(name: &str) -> Result<()> {
    let file = format!("/usr/lib/modules/{name}.ko");
    if Path::new(&file).exists() && !Path::new(&format!("/sys/module/{name}")).exists() {
        run("insmod", &[&file])?;
    }
    Ok(())
}

/// Mounts the one partition of a disk within a file: its device has a number like any other disk's.
fn mount_partition(image: &Path, at: &Path) -> Result<()> {
    const DISK: &str = "/dev/loop7";
    const PARTITION: &str = "/dev/loop7p1";
    const SECTOR_BYTES: u64 = 512;
    const FIRST_SECTOR: u32 = 8;
    // A table of the oldest kind: one partition of Linux's type, where it begins, how long it is, and the table's own mark.
    let sectors = u32::try_from(IMAGE_BYTES / SECTOR_BYTES)? - FIRST_SECTOR;
    let mut table = vec![0; SECTOR_BYTES as usize];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&FIRST_SECTOR.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    // What an earlier phase has left; there may be none.
    let _ = run("losetup", &["-d", DISK]);
    fs::write(image, &table)?;
    File::options().write(true).open(image)?.set_len(IMAGE_BYTES)?;
    run("losetup", &["-P", DISK, &path_word(image)])?;
    run("mke2fs", &["-F", PARTITION])?;
    run("mount", &["-t", "ext2", PARTITION, &path_word(at)])
}

/// Two listed files, one of them a program, for which the kernel is told to start an interpreter that nobody listed.
fn by_binfmt_misc(place: &Place) -> Result<Policy> {
    const FOLDER: &str = "/proc/sys/fs/binfmt_misc";
    const ENTRY: &str = "/proc/sys/fs/binfmt_misc/lattice";
    load_module("binfmt_misc")?;
    if !Path::new(FOLDER).join("register").exists() {
        mount(
            Some("none"),
            FOLDER,
            Some("binfmt_misc"),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    if Path::new(ENTRY).exists() {
        fs::write(ENTRY, "-1")?;
    }
    let interpreter = place.canary("interpreter", "interpreter")?;
    let rule = format!(":lattice:E::lattice::{}:", path_word(&interpreter));
    fs::write(Path::new(FOLDER).join("register"), rule)?;
    canaries::write(&place.path("data.lattice"), b"no program at all\n")?;
    Policy::enforce()
        .allow(&place.path("data.lattice"))?
        .allow(&place.canary("program.lattice", "program")?)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_file_too_large_to_hash_is_unresolved_at_once",
        prepare: |place| {
            // Without a size in its entries a policy has every file hashed.
            let mut policy = Policy::enforce().allow(&place.canary("good", "good")?)?;
            for entry in &mut policy.0.entries {
                entry.size_bytes = None;
            }
            let huge = place.canary("huge", "huge")?;
            File::options().write(true).open(huge)?.set_len(HUGE_BYTES)?;
            Ok(policy)
        },
        // The trial gives it ten seconds.
        run: |trial| {
            trial.exec(&trial.path("good"), Expected::Runs)?;
            trial.exec(&trial.path("huge"), Expected::Denied(UNRESOLVED))
        },
    },
    Case {
        name: "a_file_system_that_serves_two_contents_has_none_to_be_known_by",
        prepare: |place| {
            load_module("fuse")?;
            let listed = place.canary("listed", "listed")?;
            let other = fs::read(place.canary("other", "other")?)?;
            fuse::mount_liar(&place.path("liar"), fs::read(&listed)?, other)?;
            Policy::enforce().allow(&listed)
        },
        run: |trial| {
            let program = trial.path("liar").join(fuse::PROGRAM);
            // Whoever looks first sees what is listed.
            ensure!(
                fs::read(&program)? == fs::read(trial.path("listed"))?,
                "the file system does not lie"
            );
            trial.exec(&program, Expected::Denied(UNRESOLVED))
        },
    },
    Case {
        // Who can write to the file below is kept away by no guard of the file system above: pages that are read again are others.
        name: "listed_bytes_on_a_file_system_within_a_file_are_unresolved",
        prepare: |place| {
            load_module("loop")?;
            let listed = place.canary("listed", "listed")?;
            let (image, folder) = (place.path("image"), place.path("mounted"));
            File::create(&image)?.set_len(IMAGE_BYTES)?;
            run("mke2fs", &["-F", &path_word(&image)])?;
            fs::create_dir_all(&folder)?;
            run(
                "mount",
                &["-t", "ext2", "-o", "loop", &path_word(&image), &path_word(&folder)],
            )?;
            fs::copy(&listed, folder.join("program"))?;
            let partitioned = place.path("partitioned");
            fs::create_dir_all(&partitioned)?;
            mount_partition(&place.path("disk"), &partitioned)?;
            fs::copy(&listed, partitioned.join("program"))?;
            Policy::enforce().allow(&listed)
        },
        run: |trial| {
            for folder in ["mounted", "partitioned"] {
                trial.exec(&trial.path(folder).join("program"), Expected::Denied(UNRESOLVED))?;
            }
            Ok(())
        },
    },
    Case {
        name: "an_interpreter_of_binfmt_misc_is_judged",
        prepare: by_binfmt_misc,
        run: |trial| {
            let killed = Expected::Killed(cause("unlisted", "script-interpreter", "not-in-image"));
            trial.exec(&trial.path("data.lattice"), killed)?;
            trial.exec(&trial.path("program.lattice"), killed)
        },
    },
];
