//! The guest part of `cargo xtask bench`: measures what an exec costs with the agent, in a VM that counts instructions.
//!
//! ```text
//!  stage (files, overlay, policies) ─► agent ─► cycle (vfork, exec, exit, wait) ─► "measurement {…}" on stdout
//!                                                 └─ statistics: the kernel's own counts, by BPF program and map
//! ```
#![forbid(unsafe_code)]

mod agent;
mod central;
mod cycle;
mod elf;
#[path = "../../../bench/measurement.rs"]
mod measurement;
mod parts;
mod stage;
mod statistics;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

use measurement::{LINE_PREFIX, Measurement};

#[derive(Parser)]
#[command(about = "Measures the agent; run by `cargo xtask bench` in a VM of its own")]
struct Arguments {
    /// What to measure
    part: parts::Part,
    /// Fewer repetitions and steps
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match parts::run(arguments.part, arguments.quick) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Hands a measurement to the host part.
///
/// # Errors
///
/// Where it cannot be written as JSON, which a figure that is no number brings about.
fn tell(measurement: &Measurement) -> Result<()> {
    println!(
        "{LINE_PREFIX}{}",
        serde_json::to_string(measurement).context("a measurement is no JSON")?
    );
    Ok(())
}

/// Lets the kernel count runs and time of BPF programs, or not: the counting itself costs instructions.
fn count_bpf(on: bool) -> Result<()> {
    let path = "/proc/sys/kernel/bpf_stats_enabled";
    fs::write(path, if on { "1" } else { "0" }).with_context(|| format!("cannot write {path}"))
}
