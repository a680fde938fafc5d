//! A process by its id and its start, so that a number that was given away again is never taken for it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) pid: i32,
    /// In ticks since the machine's start, as in proc_pid_stat(5).
    started: u64,
}

impl Running {
    /// The process that has this id now; None where there is none, or it has ended and waits for its parent.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        started_in(&stat).map(|started| Self { pid, started })
    }

    /// # Errors
    ///
    /// Where the file cannot be written.
    pub(super) fn write(self, path: &Path) -> Result<()> {
        fs::write(path, format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// As it was written; None where no process ever was.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Asks it to end; nothing happens where it has.
    pub(super) fn ask_to_end(self) {
        if self.is_alive() {
            // It may have ended this moment.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
        }
    }
}

/// The name may hold spaces and parentheses; what follows its last parenthesis is fields 3 and up.
fn started_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_with_its_number_and_another_start_is_not() {
        let own = Running::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        let other = Running {
            started: own.started + 1,
            ..own
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = Running::of(std::process::id().cast_signed()).unwrap();
        own.write(file.path()).unwrap();
        assert_eq!(Running::read(file.path()), Some(own));
        assert_eq!(Running::read(Path::new("/nowhere")), None);
    }

    #[test]
    fn the_start_is_found_behind_a_name_with_parentheses_and_a_zombie_is_gone() {
        let stat = |state: &str| format!("7 (a) b) {state} 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0");
        assert_eq!(started_in(&stat("S")), Some(4711));
        assert_eq!(started_in(&stat("Z")), None);
    }
}
