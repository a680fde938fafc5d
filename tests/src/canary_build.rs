//! Compiles the canaries, on the host, with the compiler that builds everything else.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

/// What the kernel is told to load as ELF interpreter of the dynamic canary; the last eight characters are patched.
pub const INTERPRETER: &str = "/t/interpreter-00000000";

/// Where the source lies.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/canary/canary.rs");

/// Compiles `static`, `dynamic` and `loader` into a folder: the last is what the kernel can load as ELF interpreter.
///
/// # Errors
/// When the compiler cannot be started or says no.
pub fn build(folder: &Path) -> Result<()> {
    let interpreter = format!("-nostartfiles -nostdlib -pie -Wl,--dynamic-linker={INTERPRETER}");
    let kinds = [
        (
            "static",
            vec!["relocation-model=static", "target-feature=+crt-static"],
            "-nostartfiles -nostdlib -static -no-pie".to_owned(),
        ),
        ("dynamic", vec!["relocation-model=pic"], interpreter),
        (
            "loader",
            vec!["relocation-model=pic"],
            "-nostartfiles -nostdlib -pie -Wl,--no-dynamic-linker".to_owned(),
        ),
    ];
    for (name, options, link_arguments) in kinds {
        compile(&folder.join(name), &options, &link_arguments)?;
    }
    Ok(())
}

fn compile(output: &Path, options: &[&str], link_arguments: &str) -> Result<()> {
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    compiler.args([
        "--edition",
        "2024",
        "--crate-type",
        "bin",
        "-C",
        "opt-level=s",
        "-C",
        "panic=abort",
        "-C",
        "strip=symbols",
    ]);
    for option in options {
        compiler.args(["-C", option]);
    }
    compiler
        .arg("-C")
        .arg(format!("link-args={link_arguments}"))
        .arg(SOURCE)
        .arg("-o")
        .arg(output);
    let status = compiler.status().context("cannot start rustc")?;
    if !status.success() {
        bail!("rustc could not compile {SOURCE}: {status}");
    }
    Ok(())
}
