//! `cargo xtask tidy`: what a reviewer should not have to look for.

mod lock_files;
mod metrics;
mod references;
mod words;

use anyhow::{Result, bail};

use crate::{build, build_ebpf, codegen, install_file, process, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {}

type Check = fn() -> Result<()>;

const CHECKS: [(&str, Check); 8] = [
    ("formatting", formatting),
    ("forbidden words", words::check_words),
    ("files that documents name", references::check),
    ("lock files", lock_files::check),
    ("names of metrics", metrics::check),
    ("lints", lints),
    ("generated code", codegen::check),
    ("deploy/install.yaml", install_file::check),
];

/// Runs every check, also after one has failed.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("tidy: {name}");
        if let Err(error) = check() {
            eprintln!("tidy: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not tidy: {}", failed.join(", "));
    }
    println!("tidy: all is well");
    Ok(())
}

fn formatting() -> Result<()> {
    process::execute(build::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    // The agent embeds the objects, so that without them not even its lints can run.
    if !build_ebpf::TIERS
        .iter()
        .all(|tier| workspace::bpf_object(tier).exists())
    {
        build_ebpf::run(&build_ebpf::Arguments::quiet())?;
    }
    process::execute(build::cargo().args(["clippy", "--quiet", "--all-targets", "--", "--deny", "warnings"]))
}
