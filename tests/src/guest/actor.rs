//! The actor: enters a cgroup, then starts a program in one of many ways. It is this suite's own program, started anew.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStringExt as _, fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    process::{Command, ExitCode, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, RenameFlags, SealFlag, fcntl, renameat2},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{chroot, fexecve},
};

use super::overlay::{Overlay, bind};

/// First argument of an actor.
pub const VERB: &str = "act";
/// In place of a cgroup: the actor is where it has to be already.
pub const HERE: &str = "-";
/// Exit code of an actor whose exec was refused: this and the errno.
pub const ERRNO_BASE: u8 = 100;
/// Exit code of an actor that could not get as far as the exec.
pub const BROKEN: u8 = 99;

/// How the program is started; the words are the actor's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// execve.
    Exec,
    /// execveat with AT_EMPTY_PATH.
    Descriptor,
    /// execve of /proc/self/fd/N.
    ProcDescriptor,
    /// From a copy in a memfd that stays open for writing.
    Memory,
    /// From a copy in a sealed memfd.
    SealedMemory,
    /// From an open file that was deleted.
    Deleted,
    /// From a thread that is not the first.
    Thread,
    /// By a child (vfork and execve); the actor ends as the child did, a signal as 128 and its number.
    Child,
    /// After leaving for the cgroup that the first argument names.
    AfterMove,
    /// After a chroot to the first argument.
    AfterChroot,
    /// After the first argument was mounted over the program, in a mount namespace of its own.
    AfterMount,
    /// After mounting the overlay whose parts lie in the folder that the first argument names.
    AfterOverlay,
    /// With a listed program's path as argv\[0\].
    OtherName,
    /// With the first argument as argv\[0\].
    CalledAs,
    /// After the first two arguments have changed places (RENAME_EXCHANGE).
    AfterExchange,
    /// From a copy in a file that never had a name (O_TMPFILE), in the folder that the first argument names.
    Nameless,
    /// In a user and mount namespace of its own, after the first argument was mounted over the second.
    AfterBind,
    /// In a user and mount namespace of its own, after a chroot to the first argument.
    AfterOwnChroot,
    /// By `/proc/PID/root` of a child in a user and mount namespace of its own, where the first argument is mounted over the second.
    ThroughRoot,
    /// In a user and mount namespace of its own, mounts the first argument over the second, says so, and stays.
    Held,
    /// From a thread that is not the first, once the file is there that the first argument names, and after it has left for the root
    /// cgroup.
    LateThread,
}

const WORDS: [(Way, &str); 21] = [
    (Way::Exec, "exec"),
    (Way::Descriptor, "descriptor"),
    (Way::ProcDescriptor, "proc-descriptor"),
    (Way::Memory, "memory"),
    (Way::SealedMemory, "sealed-memory"),
    (Way::Deleted, "deleted"),
    (Way::Thread, "thread"),
    (Way::Child, "child"),
    (Way::AfterMove, "after-move"),
    (Way::AfterChroot, "after-chroot"),
    (Way::AfterMount, "after-mount"),
    (Way::AfterOverlay, "after-overlay"),
    (Way::OtherName, "other-name"),
    (Way::CalledAs, "called-as"),
    (Way::AfterExchange, "after-exchange"),
    (Way::Nameless, "nameless"),
    (Way::AfterBind, "after-bind"),
    (Way::AfterOwnChroot, "after-own-chroot"),
    (Way::LateThread, "late-thread"),
    (Way::ThroughRoot, "through-root"),
    (Way::Held, "held"),
];

impl Way {
    /// The actor's argument.
    pub fn word(self) -> &'static str {
        // Every way stands in the table.
        WORDS.iter().find(|(way, _)| *way == self).map_or("", |(_, word)| word)
    }
}

/// Runs the actor: `CGROUP WAY [EXTRA] PROGRAM [ARGUMENT]…`. Returns only where the program did not start.
pub fn act(arguments: &[String]) -> ExitCode {
    match try_to_act(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("actor {arguments:?}: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

fn try_to_act(arguments: &[String]) -> io::Result<u8> {
    let bad = || io::Error::other("CGROUP WAY PROGRAM are missing");
    let [cgroup, word, rest @ ..] = arguments else {
        return Err(bad());
    };
    let way = WORDS
        .iter()
        .find(|(_, known)| known == word)
        .map(|(way, _)| *way)
        .ok_or_else(bad)?;
    // Opened before the cgroup is entered and the root is changed.
    if cgroup != HERE {
        enter(cgroup)?;
    }
    let mut nameless = None;
    let mut called = "/usr/bin/good";
    let rest = match (way, rest) {
        (Way::AfterMove, [elsewhere, rest @ ..]) => {
            enter(elsewhere)?;
            rest
        }
        (Way::AfterChroot, [root, rest @ ..]) => {
            chroot(root.as_str())?;
            std::env::set_current_dir("/")?;
            rest
        }
        (Way::AfterMount, [from, rest @ ..]) => {
            mount_privately(from, rest.first().ok_or_else(bad)?)?;
            rest
        }
        (Way::AfterOverlay, [parts, rest @ ..]) => {
            Overlay::at(parts.into()).mount().map_err(io::Error::other)?;
            rest
        }
        (Way::AfterExchange, [one, other, rest @ ..]) => {
            let flags = RenameFlags::RENAME_EXCHANGE;
            renameat2(AT_FDCWD, one.as_str(), AT_FDCWD, other.as_str(), flags)?;
            rest
        }
        (Way::CalledAs, [name, rest @ ..]) => {
            called = name;
            rest
        }
        (Way::Nameless, [folder, rest @ ..]) => {
            nameless = Some(folder);
            rest
        }
        (Way::AfterBind, [from, over, rest @ ..]) => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            bind(from.as_ref(), over.as_ref()).map_err(io::Error::other)?;
            rest
        }
        (Way::ThroughRoot, [from, over, program, rest @ ..]) => {
            let mut child = Command::new("/proc/self/exe")
                .args([VERB, HERE, Way::Held.word(), from, over, program])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                // A runtime waits until nobody has what it gave the session for output.
                .stderr(Stdio::null())
                .spawn()?;
            let mut ready = [0];
            child.stdout.take().ok_or_else(bad)?.read_exact(&mut ready)?;
            let there = format!("/proc/{}/root{program}", child.id());
            return execute(&[&[there], rest].concat());
        }
        (Way::Held, [from, over, ..]) => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            bind(from.as_ref(), over.as_ref()).map_err(io::Error::other)?;
            println!("mounted");
            loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        }
        (Way::AfterOwnChroot, [root, rest @ ..]) => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            // So that a program there can leave its mark.
            let marks = format!("{root}/marks");
            fs::create_dir_all(&marks)?;
            bind("/marks".as_ref(), marks.as_ref()).map_err(io::Error::other)?;
            chroot(root.as_str())?;
            std::env::set_current_dir("/")?;
            rest
        }
        _ => rest,
    };
    let [program, ..] = rest else { return Err(bad()) };
    match way {
        Way::OtherName | Way::CalledAs => errno_code(&Command::new(program).arg0(called).args(&rest[1..]).exec()),
        Way::Nameless => {
            let folder = nameless.ok_or_else(bad)?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .mode(0o755)
                .custom_flags(OFlag::O_TMPFILE.bits())
                .open(folder)?;
            file.write_all(&fs::read(program)?)?;
            // Without a writer left.
            let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            drop(file);
            execute_file(&readable, rest)
        }
        Way::ThroughRoot | Way::Held => Err(bad()),
        Way::Exec
        | Way::AfterMove
        | Way::AfterChroot
        | Way::AfterMount
        | Way::AfterOverlay
        | Way::AfterExchange
        | Way::AfterBind
        | Way::AfterOwnChroot => execute(rest),
        Way::Descriptor => execute_file(&File::open(program)?, rest),
        Way::Deleted => {
            let file = File::open(program)?;
            fs::remove_file(program)?;
            execute_file(&file, rest)
        }
        Way::ProcDescriptor => {
            let file = File::open(program)?;
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
            let mut words = rest.to_vec();
            words[0] = format!("/proc/self/fd/{}", file.as_raw_fd());
            execute(&words)
        }
        Way::Memory | Way::SealedMemory => {
            let mut memory = File::from(memfd_create(
                c"copy",
                MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
            )?);
            memory.write_all(&fs::read(program)?)?;
            if way == Way::SealedMemory {
                let seals =
                    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
                fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
            }
            execute_file(&memory, rest)
        }
        Way::LateThread => {
            let (signal, words) = (program.clone(), rest[1..].to_vec());
            std::thread::spawn(move || {
                while !std::path::Path::new(&signal).exists() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                enter("/sys/fs/cgroup")?;
                execute(&words)
            })
            .join()
            .map_err(|_| io::Error::other("the thread panicked"))?
        }
        Way::Thread => {
            let words = rest.to_vec();
            std::thread::spawn(move || execute(&words))
                .join()
                .map_err(|_| io::Error::other("the thread panicked"))?
        }
        Way::Child => {
            use std::os::unix::process::ExitStatusExt as _;
            match Command::new(program).args(&rest[1..]).status() {
                Ok(status) => Ok(status
                    .code()
                    .or(status.signal().map(|signal| 128 + signal))
                    .map_or(BROKEN, |code| code as u8)),
                Err(error) => errno_code(&error),
            }
        }
    }
}

fn mount_privately(from: &str, over: &str) -> io::Result<()> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    Ok(mount(Some(from), over, nothing, MsFlags::MS_BIND, nothing)?)
}

fn enter(cgroup: &str) -> io::Result<()> {
    fs::write(format!("{cgroup}/cgroup.procs"), "0")
}

fn execute(words: &[String]) -> io::Result<u8> {
    errno_code(&Command::new(&words[0]).args(&words[1..]).exec())
}

fn execute_file(file: &File, words: &[String]) -> io::Result<u8> {
    let text = |words: Vec<Vec<u8>>| {
        words
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)
    };
    let arguments = text(words.iter().map(|word| word.clone().into_bytes()).collect())?;
    let environment = text(
        std::env::vars_os()
            .map(|(name, value)| [name.into_vec(), b"=".to_vec(), value.into_vec()].concat())
            .collect(),
    )?;
    match fexecve(file, &arguments, &environment) {
        Err(errno) => errno_code(&errno.into()),
        Ok(never) => match never {},
    }
}

fn errno_code(error: &io::Error) -> io::Result<u8> {
    let errno = error
        .raw_os_error()
        .ok_or_else(|| io::Error::other(error.to_string()))?;
    if errno == Errno::ENOENT as i32 {
        eprintln!("actor: {error}");
    }
    u8::try_from(errno)
        .map(|errno| ERRNO_BASE.saturating_add(errno))
        .map_err(io::Error::other)
}
