//! Signs that cgroup folders were made or removed: inotify on the folders above them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

/// The watched folders.
pub(super) struct FolderWatch {
    inotify: Inotify,
    watched: Mutex<BTreeMap<PathBuf, WatchDescriptor>>,
}

impl FolderWatch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            inotify,
            watched: Mutex::default(),
        })
    }

    /// Watches these folders and no others. Returns whether one is new: then something may have been made in it before.
    pub(super) fn set(&self, folders: &BTreeSet<PathBuf>) -> bool {
        let inotify = &self.inotify;
        // A poisoned lock guards a map that at worst lacks a watch; the regular check makes up for it.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|folder, descriptor| {
            let wanted = folders.contains(folder);
            if !wanted {
                // EINVAL: the folder is gone, and its watch with it.
                let _ = inotify.rm_watch(*descriptor);
            }
            wanted
        });
        let mut grown = false;
        for folder in folders {
            if watched.contains_key(folder) {
                continue;
            }
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            match inotify.add_watch(folder, flags) {
                Ok(descriptor) => {
                    watched.insert(folder.clone(), descriptor);
                    grown = true;
                }
                // Removed meanwhile: the next look finds the folder above it.
                Err(Errno::ENOENT) => {}
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "folder is not watched; it is looked at every second instead");
                }
            }
        }
        grown
    }

    /// Waits until something was made or removed in a watched folder, at most this long.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events
            .iter()
            .filter(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
        {
            watched.retain(|_, descriptor| *descriptor != event.wd);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    #[track_caller]
    fn wait(watch: &FolderWatch) {
        let start = Instant::now();
        watch.wait(Duration::from_secs(5)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "no sign");
    }

    #[test]
    fn notices_folders_and_forgets_removed_ones() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        let watch = FolderWatch::new().unwrap();
        let only = |path: &std::path::Path| BTreeSet::from([path.to_path_buf()]);
        assert!(watch.set(&only(folder.path())));
        assert!(!watch.set(&only(folder.path())));
        fs::create_dir(&below).unwrap();
        wait(&watch);
        assert!(watch.set(&only(&below)));
        fs::remove_dir(&below).unwrap();
        wait(&watch);
        fs::create_dir(&below).unwrap();
        assert!(watch.set(&only(&below)), "a folder that was made anew is watched anew");
    }
}
