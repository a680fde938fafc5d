//! `lattice-agent enrol`: asks central for a certificate as `run` does, and says what it answers. Nothing is kept.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lattice_agent::uplink::{self, UplinkError};

use crate::cli::Enrol;

/// Exit code where central refuses.
const REFUSED: u8 = 1;

/// Prints what central answers.
///
/// # Errors
/// Where it cannot be asked.
pub(crate) fn run(settings: &Enrol) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let asked = uplink::try_enrolment(
        &settings.enrolment,
        &settings.enrolment_token,
        &settings.ca,
        &settings.node,
    );
    match runtime.block_on(asked) {
        Ok(valid) => {
            println!(
                "central gives the agent of node {} a certificate for {} s",
                settings.node,
                valid.as_secs()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ UplinkError::NotEnrolled(_)) if error.is_refusal() => {
            eprintln!("lattice-agent: {error}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error.into()),
    }
}
