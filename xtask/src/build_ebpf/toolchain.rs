//! Which compiler and linker make the BPF objects.
//!
//! Two kinds are found in the wild: a compiler with a prebuilt `core` for BPF (Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`), which needs nothing but a bootstrap flag for one crate, and rustup's nightly with
//! `rust-src`, which builds `core` itself. The prebuilt one is taken first: it is the one that CI sees.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, anyhow, bail};

use super::BPF_TARGET;
use crate::{process, workspace};

/// A compiler that can make BPF objects, and the linker it is told to use.
pub(crate) struct BpfToolchain {
    compiler: Compiler,
    pub(crate) linker: PathBuf,
}

enum Compiler {
    /// rustc and cargo beside it, with `core` for BPF in the sysroot.
    Prebuilt { bin: PathBuf, version: String },
    /// `rustup run nightly`, with the sources of `core`.
    RustupNightly { version: String },
}

impl BpfToolchain {
    /// Looks for both parts.
    ///
    /// # Errors
    ///
    /// Where either is missing; the message says what would bring it.
    pub(crate) fn find() -> Result<Self> {
        let compiler = Compiler::find_prebuilt()
            .or_else(Compiler::find_nightly)
            .ok_or_else(|| {
                anyhow!(
                    "no compiler for {BPF_TARGET}: run `cargo xtask setup` as root on Debian 12, or add one with \
                 `rustup toolchain install nightly --component rust-src`"
                )
            })?;
        let Some(linker) = workspace::find_program("bpf-linker") else {
            bail!(
                "no bpf-linker in {} or on PATH: run `cargo xtask setup`",
                workspace::tools_bin().display()
            );
        };
        Ok(Self { compiler, linker })
    }

    /// Whether a compiler for BPF is there, whatever the linker.
    pub(crate) fn has_compiler() -> bool {
        Compiler::find_prebuilt().or_else(Compiler::find_nightly).is_some()
    }

    /// A cargo that compiles for BPF once it is given the target and the flags.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = match &self.compiler {
            Compiler::Prebuilt { bin, .. } => {
                let mut cargo = Command::new(bin.join("cargo"));
                // aya-ebpf has one `#![feature]` (inline assembly for BPF); the flag opens the gate for it alone.
                cargo
                    .env("RUSTC", bin.join("rustc"))
                    .env("RUSTC_BOOTSTRAP", "aya_ebpf,tier1,tier2");
                cargo
            }
            Compiler::RustupNightly { .. } => {
                let mut cargo = Command::new("rustup");
                cargo
                    .args(["run", "nightly", "cargo", "-Zbuild-std=core"])
                    .env_remove("RUSTC");
                cargo
            }
        };
        // What the cargo that runs xtask told us is about its own toolchain and its own flags.
        for variable in [
            "CARGO",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
        ] {
            cargo.env_remove(variable);
        }
        cargo
    }
}

impl fmt::Display for BpfToolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.compiler {
            Compiler::Prebuilt { bin, version } => {
                write!(formatter, "{version} in {} with prebuilt core", bin.display())?;
            }
            Compiler::RustupNightly { version } => write!(formatter, "{version} from rustup, building core")?,
        }
        write!(formatter, "; linker {}", self.linker.display())
    }
}

impl Compiler {
    fn find_prebuilt() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/bin")])
            .find_map(|bin| {
                let rustc = bin.join("rustc");
                if !rustc.is_file() || !bin.join("cargo").is_file() {
                    return None;
                }
                let sysroot = process::capture(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
                let libraries = Path::new(sysroot.trim())
                    .join("lib/rustlib")
                    .join(BPF_TARGET)
                    .join("lib");
                let has_core = libraries
                    .read_dir()
                    .ok()?
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
                let version = process::capture(Command::new(&rustc).arg("--version")).ok()?;
                has_core.then(|| Self::Prebuilt {
                    bin,
                    version: version.trim().to_owned(),
                })
            })
    }

    fn find_nightly() -> Option<Self> {
        let nightly = |arguments: &[&str]| {
            process::capture(Command::new("rustup").args(["run", "nightly", "rustc"]).args(arguments)).ok()
        };
        let sysroot = nightly(&["--print", "sysroot"])?;
        let has_source = Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir();
        let version = nightly(&["--version"])?;
        has_source.then(|| Self::RustupNightly {
            version: version.trim().to_owned(),
        })
    }
}
