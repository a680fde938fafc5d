//! An overlay in a mount namespace of the test's thread, programs in it, and judges that remember what they were asked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            process::ExitStatusExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use super::super::{Answer, Judge};
use crate::kernel::fanotify::Group;

/// Mounted until it is dropped. Only the thread that made it, and what that starts, sees it.
pub(super) struct World {
    scratch: TempDir,
    root: PathBuf,
}

/// What became of a program.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) has_mark: bool,
    pub(super) signal: Option<i32>,
    /// The exec's.
    pub(super) error: Option<i32>,
}

/// Or why there can be none here.
pub(super) fn world() -> Result<World, String> {
    World::new(false)
}

impl World {
    pub(super) fn with_lower_on_tmpfs() -> Result<Self, String> {
        Self::new(true)
    }

    fn new(is_lower_apart: bool) -> Result<Self, String> {
        drop(Group::open().map_err(|error| format!("no fanotify: {error}"))?);
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("no mount namespace of its own: {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(|error| format!("private: {error}"))?;
        let busybox = find("busybox").ok_or("no busybox in PATH")?;
        let scratch = TempDir::new().map_err(|error| error.to_string())?;
        let folder = |name: &str| {
            let path = scratch.path().join(name);
            fs::create_dir(&path).map(|()| path).map_err(|error| error.to_string())
        };
        let layers = folder("layers")?;
        mount(Some("layers"), &layers, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("no tmpfs: {error}"))?;
        let lower = if is_lower_apart {
            folder("layers/lower")?
        } else {
            folder("lower")?
        };
        let (upper, work, root) = (folder("upper")?, folder("work")?, folder("root")?);
        fill(&lower, &busybox).map_err(|error| error.to_string())?;
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        if is_lower_apart {
            // Otherwise free bits of the inode numbers could make room for the layer.
            options.push_str(",xino=off");
        }
        let world = Self { scratch, root };
        mount(
            Some("overlay"),
            &world.root,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .map_err(|error| format!("no overlay: {error}"))?;
        Ok(world)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn inode(&self, name: &str) -> u64 {
        fs::metadata(self.root.join(name)).unwrap().ino()
    }

    /// By another way than the front's.
    pub(super) fn device(&self) -> u32 {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == self.root.to_str())
            .unwrap();
        let (major, minor) = line.split(' ').nth(2).unwrap().split_once(':').unwrap();
        major.parse::<u32>().unwrap() << 20 | minor.parse::<u32>().unwrap()
    }

    /// Bytes behind an ELF file's end change nothing but its content.
    pub(super) fn append(&self, name: &str) {
        OpenOptions::new()
            .append(true)
            .open(self.root.join(name))
            .unwrap()
            .write_all(b"\n")
            .unwrap();
    }

    /// Runs a program with the overlay as its root, from outside as a container runtime does. A program's mark is `/mark`.
    pub(super) fn run(&self, program: &str) -> Seen {
        match program {
            "busybox-mark" | "busybox-other" => self.run_with(program, &["touch", "/mark"]),
            "sleep-it" => self.run_with("busybox-mark", &["sh", "-c", "sleep 1; : > /mark"]),
            _ => self.run_with(program, &["/mark"]),
        }
    }

    pub(super) fn run_with(&self, program: &str, arguments: &[&str]) -> Seen {
        let mark = self.root.join("mark");
        // 126 is what chroot makes of an exec that fails with anything but ENOENT; it says which error.
        let output = Command::new("chroot")
            .arg(&self.root)
            .arg(format!("/{program}"))
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let has_mark = fs::remove_file(&mark).is_ok();
        let text = String::from_utf8_lossy(&output.stderr);
        let error = (output.status.code() == Some(126)).then(|| {
            assert!(text.contains("Operation not permitted"), "{text}");
            libc::EPERM
        });
        assert!(
            error.is_some() || output.status.success() || output.status.signal().is_some(),
            "{text}"
        );
        Seen {
            has_mark,
            signal: output.status.signal(),
            error,
        }
    }

    /// Adds a dynamic program; its name and its loader's.
    pub(super) fn add_dynamic(&self) -> Result<(String, String), String> {
        let touch = find("touch")
            .and_then(|path| fs::canonicalize(path).ok())
            .ok_or("no touch in PATH")?;
        let listed = Command::new("ldd")
            .arg(&touch)
            .output()
            .map_err(|error| format!("no ldd: {error}"))?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut loader = None;
        for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = self.root.join(path.trim_start_matches('/'));
            fs::create_dir_all(to.parent().ok_or("a library at the root")?).map_err(|error| error.to_string())?;
            fs::copy(path, &to).map_err(|error| format!("{path}: {error}"))?;
            if path.contains("/ld-") {
                loader = Some(path.trim_start_matches('/').to_owned());
            }
        }
        fs::copy(&touch, self.root.join("dynamic")).map_err(|error| error.to_string())?;
        Ok((
            "dynamic".to_owned(),
            loader.ok_or("touch is not a dynamic program with a loader called ld-…")?,
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in [&self.root, &self.scratch.path().join("layers")] {
            if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
                eprintln!("cannot unmount {}: {error}", path.display());
            }
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn fill(lower: &Path, busybox: &Path) -> io::Result<()> {
    for name in ["bin", "dev"] {
        fs::create_dir(lower.join(name))?;
    }
    // A shell opens it for what it starts in the background.
    File::create(lower.join("dev/null"))?;
    // busybox under a name that begins with its own takes the applet from the first argument.
    for name in ["busybox-mark", "busybox-other", "bin/sh"] {
        fs::copy(busybox, lower.join(name))?;
    }
    let mut script = File::create(lower.join("script"))?;
    script.write_all(b"#!/bin/sh\n: > \"$1\"\n")?;
    script.set_permissions(fs::Permissions::from_mode(0o755))
}

/// What a judge was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) device: u32,
    pub(super) inode: u64,
    /// Read from the file that was handed over.
    pub(super) bytes: u64,
}

/// Remembers, and answers as told; without an answer it hangs until it is released, and then denies.
pub(super) struct Recorder<A> {
    answer: A,
    asked: Mutex<Vec<Asked>>,
    is_released: Mutex<bool>,
    was_asked: Condvar,
    released: Condvar,
}

impl<A: Fn(&Asked) -> Option<Answer> + Send + Sync> Recorder<A> {
    pub(super) fn hanging(answer: A) -> Arc<Self> {
        Arc::new(Self {
            answer,
            asked: Mutex::default(),
            is_released: Mutex::new(false),
            was_asked: Condvar::new(),
            released: Condvar::new(),
        })
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn take_inodes(&self) -> Vec<u64> {
        self.asked.lock().unwrap().drain(..).map(|asked| asked.inode).collect()
    }

    pub(super) fn release(&self) {
        *self.is_released.lock().unwrap() = true;
        self.released.notify_all();
    }

    pub(super) fn wait_until_asked(&self, count: usize) {
        let asked = self.asked.lock().unwrap();
        let wait = self
            .was_asked
            .wait_timeout_while(asked, Duration::from_secs(10), |asked| asked.len() < count);
        assert!(!wait.unwrap().1.timed_out(), "nothing was asked");
    }
}

impl Recorder<()> {
    pub(super) fn new(
        answer: impl Fn(&Asked) -> Answer + Send + Sync,
    ) -> Arc<Recorder<impl Fn(&Asked) -> Option<Answer> + Send + Sync>> {
        Recorder::hanging(move |asked: &Asked| Some(answer(asked)))
    }
}

impl<A: Fn(&Asked) -> Option<Answer> + Send + Sync> Judge for Recorder<A> {
    fn judge(&self, pid: i32, file: BorrowedFd<'_>, device: u32, inode: u64) -> Answer {
        assert!(pid > 0);
        let bytes = File::from(file.as_fd().try_clone_to_owned().unwrap())
            .metadata()
            .unwrap()
            .len();
        let asked = Asked { device, inode, bytes };
        self.asked.lock().unwrap().push(asked.clone());
        self.was_asked.notify_all();
        (self.answer)(&asked).unwrap_or_else(|| {
            let released = self.is_released.lock().unwrap();
            drop(self.released.wait_while(released, |is_released| !*is_released).unwrap());
            Answer::Deny
        })
    }
}
