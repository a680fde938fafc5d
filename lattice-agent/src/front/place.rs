//! On which file system an opened file is, as the kernel counts it.
//!
//! stat does not always tell: where an overlay's layers are on several file systems, it shows for each file a device that stands for
//! its layer. The file's mount tells, if the process that asks can see it.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::{root::stat_identity, watched::Watched};

/// Device and inode of a file that process `pid` opens; the device is 0 where it was not found out.
pub(super) fn place(watched: &Watched, file: BorrowedFd<'_>, pid: i32) -> io::Result<(u32, u64)> {
    let (device, inode) = stat_identity(file)?;
    if watched.contains(device) {
        return Ok((device, inode));
    }
    // A process may hide its mounts by chroot, and may be gone: then it stays unknown.
    let by_mount = by_mount(file, &pid.to_string()).ok().flatten();
    Ok((by_mount.filter(|device| watched.contains(*device)).unwrap_or(0), inode))
}

/// The device of the mount that a file was opened through, as the named process sees it.
pub(super) fn by_mount(file: BorrowedFd<'_>, process: &str) -> io::Result<Option<u32>> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mounts = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(mount_id(&information).and_then(|id| device_of(&mounts, id)))
}

fn mount_id(information: &str) -> Option<u64> {
    information
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim()
        .parse()
        .ok()
}

fn device_of(mounts: &[u8], mount_id: u64) -> Option<u32> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let number = line.split(|byte| *byte == b' ').next()?;
        (std::str::from_utf8(number).ok()?.parse() == Ok(mount_id)).then(|| device_in(line))?
    })
}

/// The devices of all that is mounted on the root, seen or covered.
pub(super) fn root_devices(mounts: &[u8]) -> Vec<u32> {
    let lines = mounts.split(|byte| *byte == b'\n');
    lines
        .filter(|line| line.split(|byte| *byte == b' ').nth(4) == Some(b"/"))
        .filter_map(device_in)
        .collect()
}

fn device_in(line: &[u8]) -> Option<u32> {
    let device = line.split(|byte| *byte == b' ').nth(2)?;
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[track_caller]
    fn check(mounts: &[u8], mount_id: u64, expected: Option<u32>) {
        assert_eq!(device_of(mounts, mount_id), expected);
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let mounts = b"22 1 254:2 / / rw - ext4 /dev/vda2 rw\n\
            520 22 0:52 / /a\xff\\040b rw - overlay overlay rw,lowerdir=/x\n\
            52 22 0:53 / /c rw - overlay overlay rw\n";
        check(mounts, 22, Some(254 << 20 | 2));
        check(mounts, 52, Some(53));
        check(mounts, 520, Some(52));
        check(mounts, 2, None);
        check(b"", 22, None);
        check(b"22 1 4096:0 / / rw\n", 22, None);
        check(b"22 1 x / / rw\n22", 22, None);
        assert_eq!(root_devices(mounts), [254 << 20 | 2]);
        assert_eq!(
            root_devices(b"1 0 0:2 / / rw - rootfs r rw\n2 1 8:1 / / rw - ext4 e rw\n"),
            [2, 8 << 20 | 1]
        );
        assert_eq!(root_devices(b"1 0 8:1 / /proc rw\n"), [0; 0]);
        assert_eq!(mount_id("pos:\t0\nflags:\t02\nmnt_id:\t29\nino:\t5\n"), Some(29));
        assert_eq!(mount_id("pos:\t0\n"), None);
    }

    #[test]
    fn a_file_is_on_the_device_that_its_mount_says() {
        let file = fs::File::open("/proc/self/status").unwrap();
        let (device, inode) = stat_identity(file.as_fd()).unwrap();
        assert_eq!(by_mount(file.as_fd(), "self").unwrap(), Some(device));
        assert_eq!(place(&Watched::default(), file.as_fd(), 0).unwrap(), (0, inode));
    }
}
