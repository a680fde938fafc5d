//! The programs that a trial starts: a page of machine code each, so that nothing is tried but the exec itself.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use nix::errno::Errno;

/// The hidden command that enters a cgroup and becomes a program.
pub const CHILD_COMMAND: &str = "probe-child";
/// What a program of [`content`] ends with.
const EXIT_STATUS: u8 = 7;
/// Words of [`child`] on standard output, before the error's number.
const EXEC_FAILED: &str = "exec failed with errno ";

/// `mov eax, 60; mov edi, EXIT_STATUS; syscall`.
const EXIT: [u8; 12] = [0xb8, 60, 0, 0, 0, 0xbf, EXIT_STATUS, 0, 0, 0, 0x0f, 0x05];

/// A static program for x86-64 that ends with a status of its own. Another tag makes another content of the same size.
pub(super) fn content(tag: u8) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_X86_64, the version.
    file.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    // Entry point, program headers, no section headers.
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(u64::to_le_bytes(word));
    }
    // Flags, sizes of both headers, one program header, no sections.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let bytes = HEADERS + EXIT.len() as u64 + 1;
    // PT_LOAD, readable and executable, the whole file.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, bytes, bytes, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(EXIT);
    file.push(tag);
    file
}

/// Writes a program, over what is there.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// How an exec went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// The program did what it does.
    Yes,
    /// The kernel refused it with this error.
    Refused(Errno),
    /// A signal came before or instead.
    Killed(i32),
}

/// Starts a process that enters a cgroup and becomes a program.
pub(super) fn start(cgroup: &Path, program: &Path) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg(CHILD_COMMAND)
        .args([cgroup, program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
}

/// Waits for it.
pub(super) fn ended(child: Child) -> io::Result<Ran> {
    let output = child.wait_with_output()?;
    if let Some(signal) = output.status.signal() {
        return Ok(Ran::Killed(signal));
    }
    if output.status.code() == Some(i32::from(EXIT_STATUS)) {
        return Ok(Ran::Yes);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    match said
        .trim()
        .strip_prefix(EXEC_FAILED)
        .and_then(|number| number.parse().ok())
    {
        Some(number) => Ok(Ran::Refused(Errno::from_raw(number))),
        None => Err(io::Error::other(format!(
            "the trial's program ended with {}",
            output.status
        ))),
    }
}

/// What the hidden command does: enters the cgroup, then becomes the program. Returns only where that failed.
pub fn child(cgroup: &Path, program: &Path) -> ExitCode {
    let error = match become_program(cgroup, program) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    match error {
        Failed::Exec(error) => println!("{EXEC_FAILED}{}", error.raw_os_error().unwrap_or(0)),
        Failed::Cgroup(error) => eprintln!("lattice-agent: cannot enter {}: {error}", cgroup.display()),
    }
    ExitCode::FAILURE
}

enum Failed {
    Cgroup(io::Error),
    Exec(io::Error),
}

fn become_program(cgroup: &Path, program: &Path) -> Result<Infallible, Failed> {
    // 0 is who writes it.
    fs::write(cgroup.join("cgroup.procs"), "0").map_err(Failed::Cgroup)?;
    Err(Failed::Exec(Command::new(program).exec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_and_its_tag_changes_no_more_than_a_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        write(&path, &content(1)).unwrap();
        let status = Command::new(&path).status().unwrap();
        assert_eq!(status.code(), Some(i32::from(EXIT_STATUS)));
        let differing = content(1)
            .iter()
            .zip(content(2))
            .filter(|(left, right)| **left != *right)
            .count();
        assert_eq!((differing, content(1).len()), (1, content(2).len()));
    }
}
