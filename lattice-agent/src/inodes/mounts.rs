//! Mounts, from mountinfo: which device a path is on as the kernel counts it, and what an overlay is made of.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `s_dev` in the kernel's encoding (major << 20 | minor). stat shows another one on btrfs and on some overlays.
    pub device: u32,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// overlay, ext4, …
    pub file_system: String,
    /// An overlay's layers, topmost first; empty for others.
    pub lower_folders: Vec<PathBuf>,
}

/// All mounts of a mount namespace, in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Of a process: `self` for our own, `1` for the host's.
    ///
    /// # Errors
    /// When procfs does not say.
    pub fn of(process: &str) -> io::Result<Self> {
        Ok(Self::parse(&fs::read(format!("/proc/{process}/mountinfo"))?))
    }

    /// From the text of a mountinfo file; lines that are not of its form are left out.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|&byte| byte == b'\n').filter_map(parse_line).collect())
    }

    /// The mount that shows a path: of the longest mount points above it the one that was mounted last.
    pub fn of_path(&self, path: &Path) -> Option<&Mount> {
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.mount_point))
            .max_by_key(|mount| mount.mount_point.as_os_str().len())
    }

    /// What was mounted last of a file system.
    pub fn of_device(&self, device: u32) -> Option<&Mount> {
        self.0.iter().rev().find(|mount| mount.device == device)
    }

    /// The root file system of a container: what its runtime mounted at `…/<container id>/rootfs`.
    pub fn root_of_container(&self, container_id: &str) -> Option<&Mount> {
        let end = Path::new(container_id).join("rootfs");
        // An id with a slash is no id.
        if container_id.is_empty() || container_id.contains('/') {
            return None;
        }
        self.0.iter().rev().find(|mount| mount.mount_point.ends_with(&end))
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let device = major.parse::<u32>().ok()?.checked_shl(20)? | minor.parse::<u32>().ok()?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = String::from_utf8_lossy(after.next()?).into_owned();
    let options = after.nth(1).unwrap_or_default();
    let lower_folders = if file_system == "overlay" {
        lower_folders(&unescape(options))
    } else {
        Vec::new()
    };
    Some(Mount {
        device,
        mount_point,
        file_system,
        lower_folders,
    })
}

/// `lowerdir=A:B` or, from newer mount calls, several `lowerdir+=A`. A colon in a name is written `\:`.
fn lower_folders(options: &[u8]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for option in options.split(|&byte| byte == b',') {
        let Some(list) = option
            .strip_prefix(b"lowerdir=")
            .or_else(|| option.strip_prefix(b"lowerdir+="))
        else {
            continue;
        };
        let mut folder = Vec::new();
        let mut bytes = list.iter().copied();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => folder.extend(bytes.next()),
                b':' => folders.push(PathBuf::from(OsString::from_vec(std::mem::take(&mut folder)))),
                _ => folder.push(byte),
            }
        }
        folders.push(PathBuf::from(OsString::from_vec(folder)));
    }
    folders.retain(|folder| folder.as_os_str().as_bytes().starts_with(b"/"));
    folders
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .first_chunk::<3>()
            .filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                let value = digits
                    .iter()
                    .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push((value & 0xff) as u8);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:45 / /run/demo/abc/rootfs rw - overlay overlay rw,lowerdir=/l/2:/l/with\\134:colon,upperdir=/u,workdir=/w
31 21 0:46 / /mnt/a\\040b rw - tmpfs tmpfs rw
not a line
";

    #[test]
    fn overlays_are_taken_apart() {
        let mounts = Mounts::parse(TEXT);
        let root = mounts.root_of_container("abc").unwrap();
        assert_eq!(root.device, 45);
        assert_eq!(root.lower_folders, [Path::new("/l/2"), Path::new("/l/with:colon")]);
        assert!(mounts.root_of_container("bc").is_none());
        assert!(mounts.root_of_container("").is_none());
        assert!(mounts.root_of_container("../abc").is_none());
    }

    #[test]
    fn a_path_belongs_to_its_nearest_mount() {
        let mounts = Mounts::parse(TEXT);
        assert_eq!(mounts.of_path(Path::new("/usr/bin/x")).unwrap().device, 254 << 20);
        assert_eq!(mounts.of_path(Path::new("/mnt/a b/x")).unwrap().device, 46);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text: Vec<u8>) {
            let _ = Mounts::parse(&text);
        }
    }
}
