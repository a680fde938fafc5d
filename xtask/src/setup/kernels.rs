//! The kernels that the test VM boots: Debian's signed cloud kernels, unpacked and never installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{packages, progress};
use crate::{process, workspace};

/// The kernel series that Debian 12 carries; each is one run of the VM suite.
pub(crate) const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Modules that guests may want; built into some kernels, and then not kept.
const KEPT_MODULES: [&str; 4] = ["binfmt_misc", "fuse", "loop", "overlay"];

/// What every guest has in force; none depends on another module.
pub(crate) const MODULES_LOADED_AT_BOOT: [&str; 1] = ["overlay"];

/// Written last, so that an unpacking that was interrupted does not count.
const RELEASE_FILE: &str = "release";

/// A kernel in the target folder.
pub(crate) struct Kernel {
    folder: PathBuf,
    /// As `uname -r` says it.
    pub(crate) release: String,
}

impl Kernel {
    fn load(series: &str) -> Option<Self> {
        let folder = folder_of(series);
        let release = fs::read_to_string(folder.join(RELEASE_FILE)).ok()?;
        Some(Self {
            folder,
            release: release.trim().to_owned(),
        })
    }

    /// What QEMU boots.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// All modules that were kept.
    ///
    /// # Errors
    ///
    /// Where their folder cannot be read.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("modules");
        let mut modules = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            modules.push(
                entry
                    .with_context(|| format!("cannot list {}", folder.display()))?
                    .path(),
            );
        }
        modules.sort();
        Ok(modules)
    }
}

/// For clap: one of [`SERIES`].
pub(crate) fn parse_series(text: &str) -> Result<String, String> {
    if SERIES.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "there is no kernel {text} here; choose one of {}",
            SERIES.join(", ")
        ))
    }
}

/// The kernel of a series, fetched and unpacked where it is not there yet.
///
/// # Errors
///
/// Where apt knows no such kernel, or it cannot be fetched or unpacked.
pub(crate) fn ensure(series: &str) -> Result<Kernel> {
    if let Some(kernel) = Kernel::load(series) {
        return Ok(kernel);
    }
    let package = match newest_package(series)? {
        Some(package) => package,
        None => {
            packages::update_lists()?;
            newest_package(series)?.ok_or_else(|| {
                anyhow!("apt knows no kernel package for {series}: are Debian 12's main and security archives in its sources?")
            })?
        }
    };
    // Two runs at once each have their own folder; the last to finish moves its own into place.
    let kernels = workspace::target().join("kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    let unpacked = tempfile::Builder::new()
        .prefix("unpack-")
        .tempdir_in(&kernels)
        .context("cannot create a folder to unpack in")?;
    let archive = download(&package, series, unpacked.path())?;
    let content = unpacked.path().join("content");
    process::execute(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&content))?;
    let ready = unpacked.path().join("ready");
    keep(&content, &ready).with_context(|| format!("package {package} is not as expected"))?;
    let folder = folder_of(series);
    match fs::rename(&ready, &folder) {
        Ok(()) => {}
        // An older unpacking without its release file, or another run that was faster.
        Err(_) if folder.exists() => {
            if Kernel::load(series).is_none() {
                fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
                fs::rename(&ready, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {}", folder.display())),
    }
    Kernel::load(series).ok_or_else(|| anyhow!("{} is incomplete after unpacking", folder.display()))
}

fn folder_of(series: &str) -> PathBuf {
    workspace::target().join("kernels").join(series)
}

/// The newest signed cloud kernel of the series that apt can fetch.
fn newest_package(series: &str) -> Result<Option<String>> {
    let names = process::capture(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]))?;
    for package in newest_first(&names) {
        // A name may be known only because another package mentions it.
        let shown = process::capture(Command::new("apt-cache").args(["show", "--no-all-versions", &package]));
        if shown.is_ok_and(|text| text.lines().any(|line| line.starts_with("Filename:"))) {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

/// Debug and unsigned variants left out, sorted by the numbers in the name.
fn newest_first(names: &str) -> Vec<String> {
    let mut packages: Vec<(Vec<u64>, String)> = names
        .lines()
        .filter_map(|name| {
            let version = name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
            let numbers = version
                .split(|letter: char| !letter.is_ascii_digit())
                .filter_map(|part| part.parse().ok());
            Some((numbers.collect(), name.to_owned()))
        })
        .collect();
    packages.sort_by(|left, right| right.cmp(left));
    packages.into_iter().map(|(_, name)| name).collect()
}

/// Fetches the package; apt checks its signature and hash.
fn download(package: &str, series: &str, folder: &Path) -> Result<PathBuf> {
    let fetch = || {
        progress::execute(
            &format!("kernel {series}: fetch {package}"),
            packages::apt_get().args(["download", package]).current_dir(folder),
        )
    };
    // Old lists may name a version that the archive has replaced.
    fetch().or_else(|_| packages::update_lists().and_then(|()| fetch()))?;
    fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow!("apt-get download left no package for {package}"))
}

/// Takes the kernel and the modules that guests may want out of an unpacked package.
fn keep(content: &Path, ready: &Path) -> Result<()> {
    let images = content.join("boot");
    let release = fs::read_dir(&images)
        .with_context(|| format!("cannot list {}", images.display()))?
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(String::from))
        .ok_or_else(|| anyhow!("there is no vmlinuz in it"))?;
    let modules = content.join("lib/modules").join(&release);
    fs::create_dir_all(ready.join("modules")).with_context(|| format!("cannot create {}", ready.display()))?;
    fs::copy(images.join(format!("vmlinuz-{release}")), ready.join("vmlinuz")).context("cannot copy the kernel")?;
    let built_in = fs::read_to_string(modules.join("modules.builtin")).context("cannot read modules.builtin")?;
    for name in KEPT_MODULES {
        if built_in.lines().any(|line| line.ends_with(&format!("/{name}.ko"))) {
            continue;
        }
        let module = find_file(&modules, &[&format!("{name}.ko"), &format!("{name}.ko.xz")])?
            .ok_or_else(|| anyhow!("module {name} is not in it"))?;
        decompress(&module, &ready.join("modules").join(format!("{name}.ko")))?;
    }
    fs::write(ready.join(RELEASE_FILE), format!("{release}\n")).context("cannot write the release")
}

fn find_file(folder: &Path, names: &[&str]) -> Result<Option<PathBuf>> {
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            } else if names.iter().any(|name| entry.file_name() == *name) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// busybox's insmod takes plain modules only.
fn decompress(module: &Path, plain: &Path) -> Result<()> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        fs::copy(module, plain).with_context(|| format!("cannot copy {}", module.display()))?;
        return Ok(());
    }
    let output = File::create(plain).with_context(|| format!("cannot create {}", plain.display()))?;
    let status = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(module)
        .stdout(Stdio::from(output))
        .status()
        .context("cannot start xz")?;
    if !status.success() {
        bail!("xz cannot decompress {}", module.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number_and_variants_do_not_count() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-56-cloud-amd64\n\
                     linux-image-6.1.0-57-cloud-amd64-unsigned\nlinux-image-6.1.0-58-cloud-amd64-dbg\n\
                     linux-image-6.1.0-56-amd64\nlinux-image-6.1.0-56-rt-amd64\n";
        assert_eq!(
            newest_first(names),
            ["linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"]
        );
        let names = "linux-image-6.12.9+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\n";
        assert_eq!(newest_first(names)[0], "linux-image-6.12.117+deb12-cloud-amd64");
    }

    #[test]
    fn an_unknown_series_names_the_known_ones() {
        assert_eq!(parse_series("6.1").as_deref(), Ok("6.1"));
        let message = parse_series("5.4").unwrap_err();
        assert!(message.contains("5.4") && message.contains("6.12"), "{message}");
    }
}
