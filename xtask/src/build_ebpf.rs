//! `cargo xtask build-ebpf`: compiles crate lattice-ebpf for the kernel.
//!
//! The result is one object a tier, `target/bpf-objects/<tier>.o`, rewritten only where it changed, so that what embeds
//! it is rebuilt only then.

pub(crate) mod toolchain;

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{process, workspace};
use toolchain::BpfToolchain;

/// The binaries of lattice-ebpf; each becomes an object of its own.
pub(crate) const TIERS: [&str; 2] = ["tier1", "tier2"];

const BPF_TARGET: &str = "bpfel-unknown-none";

/// What the compiler is told: BTF and debug info for the verifier's messages, and the third BPF instruction set, which
/// brings atomic fetch operations and 32-bit jumps; every kernel we support has it.
const COMPILER_FLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
];

#[derive(Default, clap::Args)]
pub(crate) struct Arguments {
    /// Print only errors
    #[arg(long)]
    quiet: bool,
}

impl Arguments {
    /// As another verb calls it: silent unless something is wrong.
    pub(crate) fn quiet() -> Self {
        Self { quiet: true }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = BpfToolchain::find()?;
    if !arguments.quiet {
        println!("build-ebpf: {toolchain}");
    }
    let build_folder = workspace::target().join("bpf");
    let mut flags: Vec<String> = COMPILER_FLAGS.map(String::from).into();
    flags.push(format!("-Clinker={}", toolchain.linker.display()));
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(workspace::root())
        .args([
            "build",
            "--package",
            "lattice-ebpf",
            "--profile",
            "bpf",
            "--target",
            BPF_TARGET,
            "--target-dir",
        ])
        .arg(&build_folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    if arguments.quiet {
        cargo.arg("--quiet");
    }
    process::execute(&mut cargo)?;
    for tier in TIERS {
        let object = workspace::bpf_object(tier);
        let changed = install(&build_folder.join(BPF_TARGET).join("bpf").join(tier), &object)?;
        if !arguments.quiet {
            println!(
                "build-ebpf: {} ({})",
                object.display(),
                if changed { "new" } else { "unchanged" }
            );
        }
    }
    Ok(())
}

/// Copies where the content differs; says whether it did.
fn install(built: &Path, object: &Path) -> Result<bool> {
    let content = fs::read(built).with_context(|| format!("cannot read the linked object {}", built.display()))?;
    if fs::read(object).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(object, content).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(true)
}
