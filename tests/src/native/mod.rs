//! The native suite: the container cases on this machine's own kernel, in whichever tier it gives, in containers of a private containerd.
//!
//! It shares the kernel with whatever else runs here: own folders, cgroups and BPF file system; what it started it ends by pid.

mod containerd;
mod surroundings;

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use self::surroundings::Surroundings;
use crate::{guest, report::Report};

/// Runs the cases whose name holds one of the words; all where there is none.
///
/// # Errors
/// When the suite's own surroundings cannot be made.
pub fn run(programs: &Path, only: &[String]) -> Result<ExitCode> {
    let tier = match surroundings::missing(programs)? {
        Err(reason) => {
            let mut report = Report::default();
            report.skip("native", &reason);
            return Ok(report.finish());
        }
        Ok(tier) => tier,
    };
    println!("note: tier {tier} on this machine's kernel");
    let surroundings = Surroundings::make(programs, tier)?;
    let code = guest::run(guest::cases::native(), only);
    surroundings.end(programs)?;
    Ok(code)
}
