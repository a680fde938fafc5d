//! bpf-linker: links the BPF objects; built from source against Debian's LLVM.

use anyhow::Result;

use super::{progress, say};
use crate::{build, workspace};

const VERSION: &str = "0.13.0";
/// Debian's; its major must be at least that of the LLVM in the BPF compiler.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

pub(crate) fn ensure() -> Result<()> {
    if let Some(linker) = workspace::find_program("bpf-linker") {
        say(&format!("bpf-linker: {} is there", linker.display()));
        return Ok(());
    }
    say(&format!("bpf-linker: building {VERSION} (about a minute)"));
    let tools = workspace::tools_bin();
    let root = tools.parent().unwrap_or(&tools);
    progress::execute(
        "cargo install bpf-linker",
        build::cargo()
            .args([
                "install",
                &format!("bpf-linker@{VERSION}"),
                "--no-default-features",
                "--features",
                "llvm-22",
                "--force",
            ])
            .arg("--root")
            .arg(root)
            .env("LLVM_PREFIX", LLVM_PREFIX),
    )
}
