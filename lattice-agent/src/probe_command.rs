//! `lattice-agent probe`.

use std::process::ExitCode;

use anyhow::Result;
use lattice_agent::{
    host_name::host_name,
    probe::{Options, probe},
};
use lattice_api::node_report::{exit_code, to_json, to_text};
use nix::unistd::alarm;

use crate::cli::{OutputForm, Probe};

/// A probe that takes longer hangs; SIGALRM ends it, and the kernel takes away what it had attached.
const LIMIT_SECONDS: u32 = 120;

pub(crate) fn run(settings: &Probe) -> Result<ExitCode> {
    alarm::set(LIMIT_SECONDS);
    let report = probe(&Options {
        node: settings.node.clone().unwrap_or_else(host_name),
        containerd: settings.containerd.clone(),
    });
    match settings.output {
        OutputForm::Text => println!("{}", to_text(&report)),
        OutputForm::Json => println!("{}", to_json(&report)),
    }
    Ok(ExitCode::from(exit_code(&report)))
}
