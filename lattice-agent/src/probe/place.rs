//! Where trials happen: a mount namespace of this process alone, with a BPF file system for pins and a file system for programs. Nobody
//! else sees either, and the kernel takes both away, programs attached or not, when the process ends.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::kernel::pins::PinDirectory;

/// A folder that every kernel with BPF has, and that nothing else is mounted over in this namespace.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Why there is no such place.
#[derive(Debug, thiserror::Error)]
#[error("it could not be tried: cannot {action}: {errno}")]
pub(super) struct PlaceError {
    action: &'static str,
    errno: Errno,
}

impl PlaceError {
    pub(super) fn advice(&self) -> String {
        match self.errno {
            Errno::EPERM | Errno::EACCES => "run it as root of the host, with CAP_SYS_ADMIN".into(),
            Errno::ENOENT => format!("mount sysfs on /sys: there is no {MOUNT_POINT}"),
            _ => String::new(),
        }
    }
}

/// The place, once this process is there.
pub(super) struct Place(());

impl Place {
    /// # Errors
    /// When the namespace or a mount is refused.
    pub(super) fn enter() -> Result<Self, PlaceError> {
        let refused = |action| move |errno| PlaceError { action, errno };
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused("make a mount namespace"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(refused("make the mount namespace private"))?;
        let small = Some("mode=700,size=1m");
        mount(Some("tmpfs"), MOUNT_POINT, Some("tmpfs"), quiet, small).map_err(refused("mount a tmpfs"))?;
        let place = Self(());
        for folder in [place.programs(), place.bpf_file_system()] {
            fs::create_dir(folder).map_err(|error| PlaceError {
                action: "make a folder on a tmpfs",
                errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            })?;
        }
        let pins = place.bpf_file_system();
        mount(
            Some("bpf"),
            &pins,
            Some("bpf"),
            quiet | MsFlags::MS_NOEXEC,
            Some("mode=700"),
        )
        .map_err(refused("mount a BPF file system"))?;
        Ok(place)
    }

    /// Where programs lie. They can be executed.
    pub(super) fn programs(&self) -> PathBuf {
        Path::new(MOUNT_POINT).join("programs")
    }

    fn bpf_file_system(&self) -> PathBuf {
        Path::new(MOUNT_POINT).join("pins")
    }

    /// Where programs and maps are pinned.
    pub(super) fn pins(&self) -> PinDirectory {
        PinDirectory::new(&self.bpf_file_system())
    }
}
