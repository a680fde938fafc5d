//! Where things are: the checkout, and what is cached under its target folder.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compiled-in value serves a copied binary.
    let manifest_folder = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest_folder
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's target folder, which also caches tools, kernels and BPF objects.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(&folder).unwrap_or_else(|_| PathBuf::from(folder)),
        None => root().join("target"),
    }
}

/// What is built once for all checkouts of this user: programs from Go modules.
///
/// # Errors
///
/// Where neither XDG_CACHE_HOME nor HOME says where that is.
pub(crate) fn user_cache() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("lattice"))
        .ok_or_else(|| anyhow!("neither HOME nor XDG_CACHE_HOME names a folder for caches"))
}

/// Tools that `setup` built, found there before those on PATH: bpf-linker, cosign.
pub(crate) fn tools_bin() -> PathBuf {
    target().join("tools/bin")
}

/// containerd with NRI, its shim and `ctr`: a link to the user's cache, apart from [`tools_bin`], so that nothing takes them for the machine's own.
pub(crate) fn containerd_with_nri() -> PathBuf {
    target().join("tools/containerd")
}

/// A program that cargo built for the host.
pub(crate) fn host_program(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// The BPF object of a tier, as `build-ebpf` leaves it.
pub(crate) fn bpf_object(tier: &str) -> PathBuf {
    target().join("bpf-objects").join(format!("{tier}.o"))
}

/// The first executable of this name in [`tools_bin`] or on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools_bin())
        .chain(env::split_paths(&path))
        // A user's PATH may lack the folders of the administrator's programs.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
