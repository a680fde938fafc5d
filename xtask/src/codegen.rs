//! `cargo xtask codegen`: writes generated code anew.
//!
//! The generators are tests of the crates that own the code: a plain run proves that what is committed is current, a
//! run with `UPDATE_GENERATED=1` writes it. So `cargo test` alone finds stale code, and nothing is generated twice.

use anyhow::Result;

use crate::{build, process};

/// Package and test that owns generated code.
const GENERATORS: [(&str, &str); 3] = [
    ("lattice-api", "generated"),
    ("lattice-api", "crds"),
    ("lattice-agent", "containerd_generated"),
];

#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    for (package, test) in GENERATORS {
        println!("codegen: {package}");
        process::execute(
            build::cargo()
                .args(["test", "--quiet", "--package", package, "--test", test])
                .env("UPDATE_GENERATED", "1"),
        )?;
    }
    Ok(())
}

/// Proves that what is committed is what would be generated.
///
/// # Errors
///
/// Where it is not; the test's own output says which file.
pub(crate) fn check() -> Result<()> {
    for (package, test) in GENERATORS {
        process::execute(
            build::cargo()
                .args(["test", "--quiet", "--package", package, "--test", test])
                .env_remove("UPDATE_GENERATED"),
        )?;
    }
    Ok(())
}
