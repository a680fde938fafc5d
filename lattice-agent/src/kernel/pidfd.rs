//! Processes by descriptor: what is held is the process, also when its number has gone to another.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Opens the process that has this number now.
///
/// # Errors
/// When there is none, or no descriptor to be had.
///
/// # Minimum kernel version
/// 5.3
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Ends a process by SIGKILL.
///
/// # Errors
/// When it has ended (`ESRCH`), or may not be signalled.
pub fn kill(process: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open; the signal's information is null, which the kernel allows and fills itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
        process::Command,
    };

    use super::*;

    #[test]
    fn the_held_process_is_ended_and_then_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = open(child.id().cast_signed()).unwrap();
        kill(process.as_fd()).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(kill(process.as_fd()).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(open(-1).is_err());
    }
}
