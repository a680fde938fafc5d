//! Says when to look at a folder of policies again: when inotify saw a change in it, when the folder is another one, and now and then
//! without a reason.
//!
//! A look costs a stat a file; the watch is what spares it. Swapped symbolic links are changes like others: of the folder's own entries
//! (`..data` of a mounted ConfigMap) inotify tells, and whether the folder itself is another one is asked every second. What is changed
//! behind a link that leads out of the folder is only seen by the look without a reason.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};

/// How often is asked whether the folder is still the watched one.
const FOLDER_INTERVAL: Duration = Duration::from_secs(1);
/// A look without a reason, while the folder is watched.
pub const CROSS_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The same while it cannot be watched.
pub const UNWATCHED_INTERVAL: Duration = Duration::from_secs(2);
/// Editors and copies take several steps: the look waits until nothing happened for so long.
const QUIET: Duration = Duration::from_millis(50);
/// It waits no longer than this.
const QUIET_AT_MOST: Duration = Duration::from_millis(500);

/// A watch on a folder.
pub struct PolicyWatch {
    folder: PathBuf,
    changes: Receiver<()>,
    sender: SyncSender<()>,
    watched: Option<Watched>,
    looked: Instant,
    complaint: String,
}

struct Watched {
    /// Device and inode.
    identity: (u64, u64),
    // Watches until it is dropped.
    _watcher: RecommendedWatcher,
}

impl PolicyWatch {
    /// Of a folder, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        // One sign is as good as many.
        let (sender, changes) = mpsc::sync_channel(1);
        Self {
            folder: folder.into(),
            changes,
            sender,
            watched: None,
            looked: Instant::now(),
            complaint: String::new(),
        }
    }

    /// Waits until it is time to look. At once where the folder was not watched before: something may have happened meanwhile.
    pub fn wait(&mut self) {
        if !self.watch_folder() {
            self.wait_for_sign();
        }
        self.looked = Instant::now();
    }

    fn wait_for_sign(&mut self) {
        loop {
            let interval = match self.watched {
                Some(_) => CROSS_CHECK_INTERVAL,
                None => UNWATCHED_INTERVAL,
            };
            let left = interval.saturating_sub(self.looked.elapsed());
            if left.is_zero() {
                return;
            }
            match self.changes.recv_timeout(left.min(FOLDER_INTERVAL)) {
                Ok(()) => return self.wait_for_quiet(),
                Err(RecvTimeoutError::Timeout) => {
                    if self.watch_folder() {
                        return;
                    }
                }
                // Cannot be: a sender is in `self`.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left.min(FOLDER_INTERVAL)),
            }
        }
    }

    fn wait_for_quiet(&self) {
        let end = Instant::now() + QUIET_AT_MOST;
        while Instant::now() < end && self.changes.recv_timeout(QUIET).is_ok() {}
    }

    /// Watches what is at the path now. Returns whether that is new.
    fn watch_folder(&mut self) -> bool {
        let identity = match identity(&self.folder) {
            Ok(identity) => identity,
            Err(_) => {
                // Who looks at it next says that it cannot be read.
                self.watched = None;
                return false;
            }
        };
        if self
            .watched
            .as_ref()
            .is_some_and(|watched| watched.identity == identity)
        {
            return false;
        }
        self.watched = None;
        match watcher(&self.folder, self.sender.clone()) {
            Ok(watcher) => {
                self.complaint.clear();
                self.watched = Some(Watched {
                    identity,
                    _watcher: watcher,
                });
                true
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint != complaint {
                    tracing::warn!(
                        folder = %self.folder.display(),
                        error = complaint,
                        "the policy folder cannot be watched: changes are seen within {} s",
                        UNWATCHED_INTERVAL.as_secs()
                    );
                    self.complaint = complaint;
                }
                false
            }
        }
    }
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn watcher(folder: &Path, sender: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error is a lost event: a reason to look. Our own reading makes events that are none.
        let is_change = event.map_or(true, |event| !is_reading(&event.kind));
        if is_change {
            // Full: a sign waits already.
            let _ = sender.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_reading(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access != AccessKind::Close(AccessMode::Write),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Between the slowest sign and the fastest look without a reason.
    const SOON: Duration = Duration::from_millis(1900);

    #[track_caller]
    fn seen_soon(watch: &mut PolicyWatch, what: &str, change: impl FnOnce()) {
        change();
        let start = Instant::now();
        watch.wait();
        assert!(start.elapsed() < SOON, "{what}: seen after {:?}", start.elapsed());
    }

    fn watched(folder: &Path) -> PolicyWatch {
        let mut watch = PolicyWatch::new(folder);
        // The first look is due at once.
        let start = Instant::now();
        watch.wait();
        assert!(start.elapsed() < Duration::from_millis(500));
        assert!(watch.watched.is_some());
        watch
    }

    #[test]
    fn sees_files_written_moved_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut watch = watched(folder.path());
        seen_soon(&mut watch, "written", || fs::write(path("a.yaml"), "a").unwrap());
        seen_soon(&mut watch, "written in place", || {
            fs::write(path("a.yaml"), "b").unwrap()
        });
        // As editors and careful programs do.
        seen_soon(&mut watch, "moved into place", || {
            fs::write(path(".a.yaml.new"), "c").unwrap();
            fs::rename(path(".a.yaml.new"), path("a.yaml")).unwrap();
        });
        seen_soon(&mut watch, "removed", || fs::remove_file(path("a.yaml")).unwrap());
    }

    #[test]
    fn sees_a_configmap_swap() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (data, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(path(data)).unwrap();
            fs::write(path(data).join("a.yaml"), text).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/a.yaml", path("a.yaml")).unwrap();
        let mut watch = watched(folder.path());
        seen_soon(&mut watch, "swapped", || {
            symlink("..2", path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        });
        assert_eq!(fs::read_to_string(path("a.yaml")).unwrap(), "new");
    }

    #[test]
    fn sees_a_folder_that_was_replaced_or_came_later() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        fs::create_dir(path("old")).unwrap();
        fs::create_dir(path("new")).unwrap();
        symlink("old", path("policies")).unwrap();
        let mut watch = watched(&path("policies"));
        seen_soon(&mut watch, "replaced", || {
            symlink("new", path("next")).unwrap();
            fs::rename(path("next"), path("policies")).unwrap();
        });
        seen_soon(&mut watch, "written to the new one", || {
            fs::write(path("new/a.yaml"), "a").unwrap();
        });
        fs::remove_file(path("policies")).unwrap();
        watch.wait();
        assert!(watch.watched.is_none());
        seen_soon(&mut watch, "back", || symlink("old", path("policies")).unwrap());
        assert!(watch.watched.is_some());
    }

    #[test]
    fn reading_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "a").unwrap();
        let mut watch = watched(folder.path());
        fs::read(folder.path().join("a.yaml")).unwrap();
        assert!(watch.changes.recv_timeout(Duration::from_millis(300)).is_err());
        watch.looked = Instant::now().checked_sub(CROSS_CHECK_INTERVAL).unwrap();
        let start = Instant::now();
        watch.wait();
        assert!(
            start.elapsed() < Duration::from_millis(100),
            "the look without a reason"
        );
    }
}
