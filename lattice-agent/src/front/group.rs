//! The group as its users share it: closed once, for all.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

use crate::kernel::fanotify::Group;

#[derive(Debug)]
pub(super) struct SharedGroup {
    /// `None` once it is closed. Nothing that can wait for a file system is done under this lock.
    group: RwLock<Option<Group>>,
    /// How often the ignored files were flushed.
    flushes: Mutex<u64>,
}

impl SharedGroup {
    pub(super) fn new(group: Group) -> Self {
        Self {
            group: RwLock::new(Some(group)),
            flushes: Mutex::new(0),
        }
    }

    /// # Errors
    /// Those of the call, and `NotConnected` once the group is closed.
    pub(super) fn with<T>(&self, call: impl FnOnce(&Group) -> io::Result<T>) -> io::Result<T> {
        match &*self.group.read().unwrap_or_else(PoisonError::into_inner) {
            Some(group) => call(group),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the front has ended")),
        }
    }

    /// The kernel lets everything pending go on.
    pub(super) fn close(&self) {
        drop(self.group.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn lock_flushes(&self) -> MutexGuard<'_, u64> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before judging, for [`Self::ignore`].
    pub(super) fn flushes(&self) -> u64 {
        *self.lock_flushes()
    }

    /// Ignores a file, unless there was a flush since judging began: the verdict may be of before. Says whether it did.
    pub(super) fn ignore(&self, flushes: u64, file: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
        let now = self.lock_flushes();
        if *now != flushes {
            return Ok(false);
        }
        self.with(|group| group.ignore(file)).map(|()| true)
    }

    pub(super) fn flush_ignored(&self) -> io::Result<()> {
        let mut flushes = self.lock_flushes();
        *flushes += 1;
        self.with(Group::flush_ignored)
    }
}
