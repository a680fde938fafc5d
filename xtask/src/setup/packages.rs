//! Debian's packages: which are needed, which are missing, and how they come without starting anything.

mod services;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{progress, say};
use crate::{build_ebpf::toolchain::BpfToolchain, process, workspace};
use services::ServicesStayDown;

/// How one knows that a package is not needed.
enum Satisfied {
    /// Any program of that name does, Debian's or not: whoever has Docker's containerd keeps it.
    Program(&'static str),
    /// The file that the builds look for.
    File(&'static str),
    /// Any compiler for BPF does.
    BpfCompiler,
    /// What bpf-linker is built with: its file, or a bpf-linker that is there already.
    BpfLinkerBuild(&'static str),
    /// Only what runs in the guest or in an image; it has to be static.
    StaticProgram(&'static str),
}

struct Requirement {
    package: &'static str,
    satisfied: Satisfied,
}

const fn requirement(package: &'static str, satisfied: Satisfied) -> Requirement {
    Requirement { package, satisfied }
}

const REQUIREMENTS: &[Requirement] = &[
    // Building for the host: the linker, and C for sqlite, aws-lc and zstd.
    requirement("gcc", Satisfied::Program("gcc")),
    requirement("g++", Satisfied::Program("g++")),
    requirement("make", Satisfied::Program("make")),
    requirement("libc6-dev", Satisfied::File("/usr/include/stdio.h")),
    requirement("pkg-config", Satisfied::Program("pkg-config")),
    requirement("git", Satisfied::Program("git")),
    requirement("ca-certificates", Satisfied::File("/etc/ssl/certs/ca-certificates.crt")),
    // Building for the kernel: a compiler with `core` for BPF, and LLVM for bpf-linker.
    requirement("rustc-web", Satisfied::BpfCompiler),
    requirement("cargo-web", Satisfied::BpfCompiler),
    requirement("libstd-rust-web-dev-bpf", Satisfied::BpfCompiler),
    requirement(
        "llvm-22-dev",
        Satisfied::BpfLinkerBuild("/usr/lib/llvm-22/lib/libLLVMCore.a"),
    ),
    requirement(
        "libpolly-22-dev",
        Satisfied::BpfLinkerBuild("/usr/lib/llvm-22/lib/libPolly.a"),
    ),
    requirement("libzstd-dev", Satisfied::BpfLinkerBuild("/usr/include/zstd.h")),
    requirement("zlib1g-dev", Satisfied::BpfLinkerBuild("/usr/include/zlib.h")),
    // The test VM.
    requirement("qemu-system-x86", Satisfied::Program("qemu-system-x86_64")),
    requirement("busybox-static", Satisfied::StaticProgram("busybox")),
    requirement("xz-utils", Satisfied::Program("xz")),
    // Containers and a registry, run from the command line with folders of their own.
    requirement("containerd", Satisfied::Program("containerd")),
    requirement("runc", Satisfied::Program("runc")),
    requirement("docker-registry", Satisfied::Program("docker-registry")),
    // What the demo's image is made of.
    requirement("curl", Satisfied::Program("curl")),
    requirement("wget", Satisfied::Program("wget")),
];

/// What a cluster needs besides: its network, and runc's headers.
const CLUSTER_REQUIREMENTS: &[Requirement] = &[
    requirement("iproute2", Satisfied::Program("ip")),
    requirement("nftables", Satisfied::Program("nft")),
    requirement("libseccomp-dev", Satisfied::File("/usr/include/seccomp.h")),
];

impl Satisfied {
    fn holds(&self) -> bool {
        match self {
            Self::Program(name) => workspace::find_program(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::BpfCompiler => BpfToolchain::has_compiler(),
            Self::BpfLinkerBuild(path) => Path::new(path).exists() || workspace::find_program("bpf-linker").is_some(),
            Self::StaticProgram(name) => workspace::find_program(name).is_some_and(|path| is_static(&path)),
        }
    }
}

/// Installs what is missing.
///
/// # Errors
///
/// Where something is missing and there is no apt, we are not root, or apt fails.
pub(crate) fn ensure() -> Result<()> {
    install_missing(REQUIREMENTS)
}

/// Installs what only `cluster` needs.
///
/// # Errors
///
/// As those of [`ensure`].
pub(crate) fn ensure_for_cluster() -> Result<()> {
    install_missing(CLUSTER_REQUIREMENTS)
}

fn install_missing(requirements: &[Requirement]) -> Result<()> {
    let missing: Vec<&str> = requirements
        .iter()
        .filter(|requirement| !requirement.satisfied.holds())
        .map(|requirement| requirement.package)
        .collect();
    if missing.is_empty() {
        say(&format!(
            "packages: all {} needs are met, nothing to install",
            requirements.len()
        ));
        return Ok(());
    }
    say(&format!("packages: to install: {}", missing.join(" ")));
    if workspace::find_program("apt-get").is_none() {
        bail!(
            "this machine has no apt-get: install what serves as {} in its own way",
            missing.join(", ")
        );
    }
    let is_root = process::capture(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_root {
        bail!(
            "installing packages needs root: run `cargo xtask setup` as root, or `apt-get install {}`",
            missing.join(" ")
        );
    }
    update_lists()?;
    let services = ServicesStayDown::begin()?;
    let result = progress::execute(
        "apt-get install",
        // What the user has must not go to make room for ours.
        apt_get()
            .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
            .args(&missing),
    );
    services.end(&missing)?;
    result
}

/// Fetches apt's lists; once a run is enough.
pub(crate) fn update_lists() -> Result<()> {
    use std::sync::OnceLock;
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        progress::execute("apt-get update", apt_get().arg("update"))?;
        DONE.get_or_init(|| ());
    }
    Ok(())
}

/// apt-get that asks nothing and works where its unprivileged user may not read our folders.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "--quiet",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether an ELF file asks for no interpreter.
fn is_static(program: &PathBuf) -> bool {
    use object::{
        Endianness,
        elf::FileHeader64,
        read::elf::{FileHeader, ProgramHeader},
    };
    let Ok(content) = fs::read(program) else { return false };
    let content = content.as_slice();
    let Ok(header) = FileHeader64::<Endianness>::parse(content) else {
        return false;
    };
    let Ok(endian) = header.endian() else { return false };
    header.program_headers(endian, content).is_ok_and(|segments| {
        segments
            .iter()
            .all(|segment| matches!(segment.interpreter(endian, content), Ok(None)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_program_is_told_from_a_dynamic_one_and_from_none() {
        let program = |name: &str| workspace::find_program(name).unwrap_or_else(|| panic!("no {name} on PATH"));
        assert!(!is_static(&program("ls")));
        assert!(!is_static(&program("ldd")), "a script is not a static program");
        assert!(is_static(&program("busybox")), "busybox-static is what setup installs");
    }

    #[test]
    fn each_package_is_listed_once() {
        let mut names: Vec<_> = REQUIREMENTS
            .iter()
            .chain(CLUSTER_REQUIREMENTS)
            .map(|requirement| requirement.package)
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
