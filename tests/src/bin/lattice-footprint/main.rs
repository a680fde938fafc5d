//! What the agent needs on a node, by trying: it is run with exactly its capabilities, then with each one less, and what fails is written
//! down; then with all of them below a read-only root and its seccomp profile, where nothing may fail.
//!
//! ```text
//!  for each set ─► lattice-footprint with … (capabilities, root, seccomp) ─► lattice-agent ─► checks ─► a row
//! ```
//!
//! Run as root, natively or in the VM. It ends with 1 where the whole set is not enough, where one of it is not needed, or where
//! something fails below the read-only root or the profile.
#![forbid(unsafe_code)]

mod agent;
mod checks;
mod confined;
mod node;
mod profile;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use caps::Capability;
use clap::{Parser, Subcommand};

use checks::{Check, checks_of};
use confined::Confinement;

/// What docs/footprint.md says that the agent needs.
const NEEDED: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_KILL,
];
const SECCOMP_PROFILE: &str = "deploy/seccomp/lattice-agent.json";

#[derive(Parser)]
#[command(
    about = "Runs the agent with each capability less, with a read-only root and with its seccomp profile, and says what fails"
)]
struct Arguments {
    /// The agent's seccomp profile
    #[arg(long, value_name = "FILE", default_value = SECCOMP_PROFILE)]
    seccomp: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Becomes a program that may do no more than this
    #[command(hide = true)]
    With(confined::With),
    /// Prints the names of Lattice's BPF programs that the kernel has loaded, whoever keeps them
    Loaded,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.verb {
        Some(Verb::With(with)) => with.become_program(),
        Some(Verb::Loaded) => loaded(),
        None => table(&arguments.seccomp),
    }
}

fn loaded() -> Result<ExitCode> {
    // One that goes while they are listed is not loaded.
    for program in aya::programs::loaded_programs().flatten() {
        if let Some(name) = program.name_as_str().filter(|name| name.starts_with("lattice")) {
            println!("{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(seccomp: &Path) -> Result<ExitCode> {
    let tier = node::tier()?;
    let checks = checks_of(tier);
    println!("Tier {tier}.\n");
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    println!("| The agent has | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    let mut problems = Vec::new();
    let mut reasons = Vec::new();
    let mut table = Table {
        checks: &checks,
        reasons: &mut reasons,
    };
    if table.row("all six", &Confinement::of(&NEEDED))? != 0 {
        problems.push("the whole set is not enough".to_owned());
    }
    for without in NEEDED {
        // For bpf(2), CAP_SYS_ADMIN contains these two.
        let is_contained = matches!(without, Capability::CAP_BPF | Capability::CAP_PERFMON);
        let rest: Vec<Capability> = NEEDED
            .into_iter()
            .filter(|held| *held != without && !(is_contained && *held == Capability::CAP_SYS_ADMIN))
            .collect();
        let name = match is_contained {
            true => format!("all but {without} and CAP_SYS_ADMIN"),
            false => format!("all but {without}"),
        };
        if table.row(&name, &Confinement::of(&rest))? == 0 {
            problems.push(format!("{without} is not needed here"));
        }
    }
    let all = || Confinement::of(&NEEDED);
    for (name, confinement) in [
        ("all six, read-only root", all().with_read_only_root()),
        ("all six, seccomp profile", all().with_seccomp(seccomp)),
        ("all six, both", all().with_read_only_root().with_seccomp(seccomp)),
    ] {
        if table.row(name, &confinement)? != 0 {
            problems.push(format!("{name}: something fails"));
        }
    }
    println!();
    for reason in &reasons {
        println!("* {reason}");
    }
    for problem in &problems {
        println!("not as documented: {problem}");
    }
    Ok(ExitCode::from(u8::from(!problems.is_empty())))
}

struct Table<'table> {
    checks: &'table [Check],
    reasons: &'table mut Vec<String>,
}

impl Table<'_> {
    /// Makes all checks, with a node of its own for each, and returns how many fail.
    fn row(&mut self, name: &str, confinement: &Confinement) -> Result<usize> {
        let mut cells = Vec::new();
        let mut failures = 0;
        for check in self.checks {
            let node = node::Node::new(confinement.clone())?;
            let result = match (check.run)(&node) {
                Ok(()) => "works",
                Err(error) => {
                    failures += 1;
                    self.reasons.push(format!("{name}; {}: {error:#}", check.name));
                    "**fails**"
                }
            };
            cells.push(result);
            // A row takes minutes in an emulated VM.
            eprintln!("footprint: {name}; {}: {result}", check.name);
        }
        println!("| {name} | {} |", cells.join(" | "));
        Ok(failures)
    }
}
