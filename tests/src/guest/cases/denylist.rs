//! The node's denylist: at once, also in monitor.

use std::fs;

use lattice_policy::Mode;
use nix::sys::signal::Signal;

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    agent::{log_length, wait_for_log},
    canaries::digest,
    policy::Policy,
    trial::{Case, Cause, Expected, cause, path_word},
};

const DENYLISTED: Cause = cause("denylisted", "target", "denylisted");

pub(super) const CASES: &[Case] = &[Case {
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
        trial.node.more_arguments.clear();
        trial.node.restart(Signal::SIGTERM)
    },
}];
