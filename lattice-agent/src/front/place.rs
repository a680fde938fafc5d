//! Which file is asked for, as the kernel itself counts: its superblock's device and its inode.
//!
//! stat does not always tell: where an overlay's layers are on several file systems, it shows for each file a device that stands for
//! its layer. The mount tables of the process that asks do not tell either: it can hide them by chroot. What an inotify watch on the
//! file says of itself is the kernel's own word.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::{fstat, major, minor},
    },
};

use super::watched::Watched;

/// Finds out; one for a whole front.
#[derive(Debug)]
pub(super) struct Placer(Mutex<Inotify>);

impl Placer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Mutex::new(Inotify::init(
            InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK,
        )?)))
    }

    /// Device (major << 20 | minor) and inode of a file on a watched file system, in the cheapest way.
    pub(super) fn place(&self, watched: &Watched, file: BorrowedFd<'_>) -> io::Result<(u32, u64)> {
        let (device, inode) = by_stat(file)?;
        if watched.contains(device) {
            return Ok((device, inode));
        }
        self.by_kernel(file)
    }

    /// The same for any file, in the sure way.
    pub(super) fn by_kernel(&self, file: BorrowedFd<'_>) -> io::Result<(u32, u64)> {
        let inotify = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Some event must be named; none is ever waited for.
        let watch = inotify.add_watch(path.as_str(), AddWatchFlags::IN_DELETE_SELF)?;
        let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", inotify.as_fd().as_raw_fd()));
        // The watch is gone by itself where the file is; what is left in the queue says so, and nobody wants to know.
        match inotify.rm_watch(watch) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        watched_file(&information?).ok_or_else(|| io::Error::other("the kernel does not say what inotify watches"))
    }
}

/// Device and inode by stat, the device as the kernel counts it. Of a folder, an overlay shows its own device.
pub(super) fn by_stat(file: BorrowedFd<'_>) -> io::Result<(u32, u64)> {
    let stat = fstat(file)?;
    // The kernel has 12 bits of major and 20 of minor.
    let device = (major(stat.st_dev) << 20 | minor(stat.st_dev)) as u32;
    Ok((device, stat.st_ino))
}

/// Out of an inotify descriptor's fdinfo, if it watches exactly one file.
fn watched_file(information: &str) -> Option<(u32, u64)> {
    let mut watches = information.lines().filter_map(|line| line.strip_prefix("inotify "));
    let (watch, None) = (watches.next()?, watches.next()) else {
        return None;
    };
    let field = |name: &str| watch.split(' ').find_map(|field| field.strip_prefix(name));
    let device = u32::from_str_radix(field("sdev:")?, 16).ok()?;
    let inode = u64::from_str_radix(field("ino:")?, 16).ok()?;
    Some((device, inode))
}

/// The devices of all that a mount table shows on the root, seen or covered.
pub(super) fn root_devices(mounts: &[u8]) -> Vec<u32> {
    let fields = |line: &[u8]| -> Option<u32> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.nth(2)?;
        if fields.nth(1)? != b"/" {
            return None;
        }
        let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
    };
    mounts.split(|byte| *byte == b'\n').filter_map(fields).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_watch(information: &str, expected: Option<(u32, u64)>) {
        assert_eq!(watched_file(information), expected);
    }

    #[test]
    fn the_one_watched_file_is_found() {
        let head = "pos:\t0\nflags:\t02004000\nmnt_id:\t15\nino:\t1041\n";
        let watch =
            "inotify wd:7 ino:9e7e sdev:800013 mask:400 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e\n";
        check_watch(&format!("{head}{watch}"), Some((0x80_0013, 0x9e7e)));
        check_watch(head, None);
        check_watch(&format!("{head}{watch}{watch}"), None);
        check_watch("inotify wd:7 ino:9e7e mask:400\n", None);
        check_watch("inotify wd:7 ino:x sdev:1\n", None);
    }

    #[track_caller]
    fn check_roots(mounts: &[u8], expected: &[u32]) {
        assert_eq!(root_devices(mounts), expected);
    }

    #[test]
    fn every_root_of_a_mount_table_is_found() {
        check_roots(
            b"22 1 254:2 / / rw - ext4 /dev/vda2 rw\n520 22 0:52 / /a\xff\\040b rw - overlay o rw\n",
            &[254 << 20 | 2],
        );
        check_roots(
            b"1 0 0:2 / / rw - rootfs r rw\n2 1 8:1 / / rw - ext4 e rw\n",
            &[2, 8 << 20 | 1],
        );
        check_roots(b"1 0 8:1 / /proc rw\n", &[]);
        check_roots(b"1 0 4096:0 / / rw\n1 0 x / / rw\n1\n", &[]);
    }

    #[test]
    fn stat_and_the_kernel_agree_where_stat_is_right() {
        let placer = Placer::new().unwrap();
        for path in ["/proc/self/status", "/dev/null", "/"] {
            let file = fs::File::open(path).unwrap();
            // Twice: the first watch must not be in the way of the second.
            for _ in 0..2 {
                assert_eq!(
                    placer.by_kernel(file.as_fd()).unwrap(),
                    by_stat(file.as_fd()).unwrap(),
                    "{path}"
                );
            }
        }
    }
}
