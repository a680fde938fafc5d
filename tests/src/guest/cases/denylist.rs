//! The node's denylist: at once, also in monitor.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;
use lattice_policy::Mode;
use nix::sys::signal::Signal;

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    agent::{log_length, wait_for_log},
    canaries::digest,
    events::notices_of_workload,
    golden,
    node::IMAGE_FILE,
    policy::Policy,
    trial::{Case, Cause, Expected, cause, path_word, wait},
};

const DENYLISTED: Cause = cause("denylisted", "target", "denylisted");

pub(super) const CASES: &[Case] = &[FILE, IMAGE];

const FILE: Case = Case {
    name: "a_denylisted_file_is_killed_in_monitor_also_where_it_is_listed",
    prepare: |place| {
        place.canary("other", "other")?;
        Policy::new(Mode::Monitor).allow(&place.canary("listed", "listed")?)
    },
    run: |trial| {
        let (listed, other) = (trial.path("listed"), trial.path("other"));
        trial.exec(&listed, Expected::Runs)?;
        trial.exec(&other, Expected::Noted(NOT_IN_IMAGE))?;
        if trial.is_control() {
            return Ok(());
        }
        let list = trial.path("denylist");
        let line = |digest: [u8; 32]| {
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("file {digits}\n")
        };
        fs::write(&list, line(digest(&listed)?))?;
        trial.node.more_arguments = vec!["--denylist".into(), path_word(&list)];
        trial.node.restart(Signal::SIGTERM)?;
        trial.exec(&listed, Expected::Killed(DENYLISTED))?;
        trial.golden("denylisted")?;
        trial.exec(&other, Expected::Noted(NOT_IN_IMAGE))?;
        let before = log_length()?;
        fs::write(&list, format!("# live\n{}", line(digest(&other)?)))?;
        wait_for_log(before, "the denylist is in force")?;
        trial.exec(&listed, Expected::Runs)?;
        trial.exec(&other, Expected::Killed(DENYLISTED))?;
        let before = log_length()?;
        fs::write(&list, "")?;
        wait_for_log(before, "the denylist is in force")?;
        trial.exec(&other, Expected::Noted(NOT_IN_IMAGE))?;
        // Without the file its denials end with the next start.
        fs::write(&list, line(digest(&other)?))?;
        trial.node.restart(Signal::SIGTERM)?;
        trial.exec(&other, Expected::Killed(DENYLISTED))?;
        trial.node.more_arguments.clear();
        trial.node.restart(Signal::SIGTERM)?;
        trial.exec(&other, Expected::Noted(NOT_IN_IMAGE))
    },
};

/// What the case's container is said to be of.
const DENIED_IMAGE: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// By image: whatever its container starts is killed, and what runs in it where that is asked for.
const IMAGE: Case = Case {
    name: "a_container_of_a_denied_image_starts_nothing_and_is_killed_where_asked",
    prepare: |place| {
        fs::write(place.path(IMAGE_FILE), DENIED_IMAGE)?;
        Policy::new(Mode::Monitor).allow(&place.canary("listed", "listed")?)
    },
    run: |trial| {
        let listed = trial.path("listed");
        trial.exec(&listed, Expected::Runs)?;
        if trial.is_control() {
            return Ok(());
        }
        let list = trial.path("denylist");
        let line = format!("image {DENIED_IMAGE}\n");
        fs::write(&list, "")?;
        trial.node.more_arguments = vec!["--denylist".into(), path_word(&list), "--kill-denied".into()];
        trial.node.restart(Signal::SIGTERM)?;
        trial.exec(&listed, Expected::Runs)?;
        let mut stays = Command::new("sleep").arg("60").spawn()?;
        fs::write(trial.place.cgroup.join("cgroup.procs"), stays.id().to_string())?;
        let before = log_length()?;
        fs::write(&list, &line)?;
        wait_for_log(before, "which is on the denylist, and was killed")?;
        let ended = wait(&mut stays)?;
        ensure!(ended.signal() == Some(9), "what ran of the image ended with {ended}");
        let started = Instant::now();
        let notice = loop {
            let notices = notices_of_workload(&trial.node.told, &trial.place.workload());
            if let Some(notice) = notices.into_iter().next() {
                break notice;
            }
            ensure!(started.elapsed() < Duration::from_secs(30), "no notice came");
            sleep(Duration::from_millis(10));
        };
        golden::check("denied-image-killed", &notice)?;
        trial.exec(&listed, Expected::Killed(DENYLISTED))?;
        // It holds over a restart, and for what is met then.
        trial.node.restart(Signal::SIGKILL)?;
        trial.exec(&listed, Expected::Killed(DENYLISTED))?;
        let before = log_length()?;
        fs::write(&list, format!("# another\nimage sha256:{:064x}\n", 1))?;
        wait_for_log(before, "the denylist is in force")?;
        trial.exec(&listed, Expected::Runs)?;
        trial.node.more_arguments.clear();
        trial.node.restart(Signal::SIGTERM)
    },
};
