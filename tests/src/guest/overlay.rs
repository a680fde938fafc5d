//! Overlays as container runtimes mount them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted overlay.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Where its parts are.
    pub root: PathBuf,
    /// Read-only layers, the topmost first.
    layers: Vec<PathBuf>,
}

impl Overlay {
    /// The parts of an overlay with one layer of its own below a folder; mounts nothing.
    pub fn at(root: PathBuf) -> Self {
        let layers = vec![root.join("lower")];
        Self { root, layers }
    }

    /// An overlay over layers that lie elsewhere, the topmost first; mounts nothing.
    pub fn of_layers(root: PathBuf, layers: Vec<PathBuf>) -> Self {
        Self { root, layers }
    }

    /// The read-only layer of its own.
    pub fn lower(&self) -> PathBuf {
        self.root.join("lower")
    }

    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.root.join("upper")
    }

    /// What a container would see.
    pub fn merged(&self) -> PathBuf {
        self.root.join("merged")
    }

    /// Mounts it. What the lower folder holds must be there before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(&self) -> Result<()> {
        let work = self.root.join("work");
        for folder in [&self.upper(), &self.merged(), &work].into_iter().chain(&self.layers) {
            fs::create_dir_all(folder)?;
        }
        let layers: Vec<String> = self.layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            self.upper().display(),
            work.display()
        );
        mount(
            Some("overlay"),
            &self.merged(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("cannot mount an overlay at {}", self.merged().display()))
    }
}

/// Mounts one file over another.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(from: &Path, over: &Path) -> Result<()> {
    mount(Some(from), over, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} over {}", from.display(), over.display()))
}

/// Unmounts, however busy.
///
/// # Errors
/// When nothing is mounted there.
pub fn unmount(path: &Path) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))
}

/// Unmounts all that is mounted below a folder.
///
/// # Errors
/// When the mounts cannot be listed.
pub fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with(folder))
        .collect();
    below.reverse();
    for point in below {
        unmount(Path::new(point))?;
    }
    Ok(())
}
