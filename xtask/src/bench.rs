//! `cargo xtask bench`: the figures P1 to P3 and N6 of the requirements, counted rather than timed where that can be.
//!
//! ```text
//!  build ─► for each kernel and part: vm --icount ─► bench-guest ─► measurements ─► goals ─► tables, JSON, docs
//!       └─► natively: what only a real clock shows ──┘
//! ```
//!
//! In a VM with one processor whose clock is its instruction counter, a guest nanosecond is one executed instruction: the
//! kernel's own time statistics of BPF programs and cgroups become exact counts, whatever else this machine is doing. What
//! a real processor makes of them is another matter; so everything that can be is stated as a ratio.

mod goals;
#[path = "../../tests/bench/measurement.rs"]
mod measurement;
mod page;
mod run;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{process, setup::kernels, workspace};
use measurement::Measurement;

/// Version of the report's layout.
const REPORT_VERSION: u32 = 1;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fewer repetitions and steps: minutes instead of a quarter of an hour
    #[arg(long)]
    quick: bool,
    /// Kernel series to measure on, or `native` for this machine's own kernel; by default all
    #[arg(long = "kernel", value_parser = parse_kernel)]
    kernels: Vec<String>,
    /// Parts to measure; by default all
    #[arg(long = "part", value_enum)]
    parts: Vec<run::Part>,
    /// Take the programs as they were built last
    #[arg(long)]
    no_build: bool,
    /// Take what an earlier run's --report has of other kernels, as it stands there
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
    /// Write everything that was measured as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// This machine's own kernel.
const NATIVE: &str = "native";

fn parse_kernel(text: &str) -> Result<String, String> {
    if text == NATIVE {
        Ok(text.to_owned())
    } else {
        kernels::parse_series(text)
    }
}

impl Arguments {
    /// The chosen parts that are measured there.
    fn parts(&self, series: &str) -> impl Iterator<Item = run::Part> {
        run::Part::all().filter(move |part| {
            part.is_native() == (series == NATIVE) && (self.parts.is_empty() || self.parts.contains(part))
        })
    }
}

/// All that one run measured.
#[derive(Serialize, Deserialize)]
struct Report {
    version: u32,
    /// Commit of the checkout, with `+` where files differ from it.
    revision: String,
    /// Day of the run, as the machine has it.
    date: String,
    quick: bool,
    emulator: String,
    kernels: Vec<KernelReport>,
}

/// One kernel's part of it.
#[derive(Clone, Serialize, Deserialize)]
struct KernelReport {
    series: String,
    release: String,
    measurements: Vec<Measurement>,
    /// Parts that ended badly: nothing is known of what they had still to measure.
    failures: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.no_build {
        run::build()?;
    }
    // Read first: it would be a pity to find out at the end.
    let earlier = arguments.add.as_deref().map(earlier).transpose()?;
    let mut kernels = Vec::new();
    for series in kernels::SERIES.into_iter().chain([NATIVE]) {
        let is_chosen = arguments.kernels.is_empty() || arguments.kernels.iter().any(|chosen| chosen == series);
        if is_chosen && arguments.parts(series).next().is_some() {
            kernels.push(measure(arguments, series)?);
        } else if let Some(found) = earlier.iter().flatten().find(|kernel| kernel.series == series) {
            kernels.push(found.clone());
        }
    }
    let report = Report {
        version: REPORT_VERSION,
        revision: revision(),
        date: first_line(Command::new("date").args(["--utc", "+%Y-%m-%d"])),
        quick: arguments.quick,
        emulator: first_line(Command::new("qemu-system-x86_64").arg("--version")),
        kernels,
    };
    println!("{}", page::tables(&report));
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string_pretty(&report).context("the report is no JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.write {
        page::write(&report)?;
    }
    let failures: usize = report.kernels.iter().map(|kernel| kernel.failures.len()).sum();
    // A missed goal is a result; a part that could not be measured is none.
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a report has.
fn earlier(path: &Path) -> Result<Vec<KernelReport>> {
    let text = fs::read_to_string(path).with_context(|| format!("--add {}", path.display()))?;
    let report: Report = serde_json::from_str(&text).with_context(|| format!("--add {}", path.display()))?;
    ensure!(
        report.version == REPORT_VERSION,
        "--add {}: version {} of the report, and this release reads {REPORT_VERSION}",
        path.display(),
        report.version
    );
    Ok(report.kernels)
}

/// Measures on a kernel of a VM, or on this machine's own.
fn measure(arguments: &Arguments, series: &str) -> Result<KernelReport> {
    let is_native = series == NATIVE;
    let mut report = KernelReport {
        series: series.to_owned(),
        release: if is_native {
            first_line(Command::new("uname").arg("--kernel-release"))
        } else {
            kernels::ensure(series)?.release
        },
        measurements: Vec::new(),
        failures: Vec::new(),
    };
    for part in arguments.parts(series) {
        eprintln!("bench: {part} on {}", report.release);
        let measured = if is_native {
            run::on_this_machine(part, arguments.quick, &mut report.measurements)
        } else {
            run::in_guest(part, series, arguments.quick, &mut report.measurements)
        };
        if let Err(error) = measured {
            eprintln!("bench: {part} on {series}: {error:#}");
            report.failures.push(format!("{part}: {error:#}"));
        }
    }
    Ok(report)
}

fn revision() -> String {
    let git = |words: &[&str]| first_line(Command::new("git").current_dir(workspace::root()).args(words));
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    format!(
        "{}{}",
        git(&["rev-parse", "--short=12", "HEAD"]),
        if changed.is_empty() { "" } else { "+" }
    )
}

/// Empty where the program is missing or fails: it only names a circumstance.
fn first_line(command: &mut Command) -> String {
    process::capture(command)
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
