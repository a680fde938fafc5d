//! A real runc container over an overlay root: a static canary or two, dash with its loader and library, busybox's cp, cat and chmod.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

use super::{
    canaries,
    overlay::Overlay,
    trial::{Expected, Place, Trial, path_word, wait},
};

/// The dynamic loader, in the guest and in the container.
pub const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const LIBRARY: &str = "/lib/x86_64-linux-gnu/libc.so.6";
/// How long a command of the application may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// The application: does what it reads, and says how it ended. Its own pid 1 is what started first.
const APPLICATION: &str =
    "while :; do read -r line < /control/command; eval \"$line\"; echo $? > /control/status; done";

/// A running container.
pub struct Container {
    id: String,
    folder: PathBuf,
    cgroup: PathBuf,
    /// Its root.
    pub overlay: Overlay,
}

/// Writes the layers; mounts nothing. Returns the read-only layer, which a case may add to.
///
/// # Errors
/// When a file cannot be written.
pub fn prepare(place: &Place) -> Result<PathBuf> {
    let lower = Overlay::at(place.path("overlay")).lower();
    for (from, to) in [
        ("/usr/bin/dash", "bin/sh"),
        ("/usr/bin/busybox", "bin/busybox"),
        (LOADER, &LOADER[1..]),
        (LIBRARY, &LIBRARY[1..]),
    ] {
        canaries::write(
            &lower.join(to),
            &fs::read(from).with_context(|| format!("cannot read {from}"))?,
        )?;
    }
    for applet in ["cp", "mv", "cat", "chmod", "touch"] {
        symlink("busybox", lower.join("bin").join(applet))?;
    }
    for folder in ["proc", "dev", "tmp", "marks", "control", "sys"] {
        fs::create_dir_all(lower.join(folder))?;
    }
    let control = place.path("control");
    fs::create_dir_all(&control)?;
    mkfifo(&control.join("command"), Mode::from_bits_truncate(0o600))?;
    Ok(lower)
}

impl Container {
    /// Mounts the root and starts the application.
    ///
    /// # Errors
    /// When runc says no.
    pub fn start(trial: &mut Trial<'_>) -> Result<Self> {
        let overlay = Overlay::at(trial.path("overlay"));
        overlay.mount()?;
        let marks = trial
            .new_mark()?
            .parent()
            .context("a mark lies in a folder")?
            .to_path_buf();
        let bundle = trial.path("bundle");
        fs::create_dir_all(&bundle)?;
        let configuration = configuration(&trial.place, &overlay, &marks);
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&configuration)?)?;
        let container = Self {
            id: trial.place.name.to_owned(),
            folder: trial.place.folder.clone(),
            cgroup: trial.place.cgroup.clone(),
            overlay,
        };
        let log = fs::File::create(trial.path("run.log"))?;
        let mut runc = Command::new("runc")
            .args(["run", "--detach", "--bundle", &path_word(&bundle), &container.id])
            .env("LATTICE_MARK", "")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start runc")?;
        let status = wait(&mut runc)?;
        if !status.success() {
            bail!(
                "runc run: {status}: {}",
                fs::read_to_string(trial.path("run.log"))?.trim()
            );
        }
        Ok(container)
    }

    /// A session from outside, as a probe or an operator's command is: `runc exec`.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn session(&self, trial: &mut Trial<'_>, words: &[&str], expected: Expected) -> Result<()> {
        let line = std::panic::Location::caller().line();
        self.try_session(trial, words, expected)
            .with_context(|| format!("session {words:?}, line {line}, expected {expected:?}"))
    }

    fn try_session(&self, trial: &mut Trial<'_>, words: &[&str], expected: Expected) -> Result<()> {
        let mark = trial.new_mark()?;
        let name = mark
            .file_name()
            .context("a mark has a name")?
            .to_string_lossy()
            .into_owned();
        let mut runc = Command::new("runc")
            .args(["exec", "--env", &format!("LATTICE_MARK=/marks/{name}"), &self.id])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start runc exec")?;
        let status = wait(&mut runc)?;
        trial.judge_code(status.code().unwrap_or(-1), &mark, expected)
    }

    /// A command of the application itself.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn application(&self, trial: &mut Trial<'_>, line: &str, expected: Expected) -> Result<()> {
        let at = std::panic::Location::caller().line();
        self.try_application(trial, line, expected)
            .with_context(|| format!("application's {line:?}, line {at}, expected {expected:?}"))
    }

    fn try_application(&self, trial: &mut Trial<'_>, line: &str, expected: Expected) -> Result<()> {
        let mark = trial.new_mark()?;
        let name = mark
            .file_name()
            .context("a mark has a name")?
            .to_string_lossy()
            .into_owned();
        let control = self.folder.join("control");
        // One that is not there is no error.
        let _ = fs::remove_file(control.join("status"));
        let started = Instant::now();
        let mut command = loop {
            // Without a reader the open fails rather than waits.
            match fs::File::options()
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(control.join("command"))
            {
                Ok(command) => break command,
                Err(error) if started.elapsed() > COMMAND_LIMIT => {
                    return Err(error).context("the application does not listen");
                }
                Err(_) => sleep(Duration::from_millis(5)),
            }
        };
        writeln!(command, "LATTICE_MARK=/marks/{name} {line}")?;
        drop(command);
        let code = loop {
            let text = fs::read_to_string(control.join("status")).unwrap_or_default();
            if let Ok(code) = text.trim().parse() {
                break code;
            }
            ensure!(started.elapsed() < COMMAND_LIMIT, "the application does not answer");
            sleep(Duration::from_millis(5));
        };
        trial.judge_code(code, &mark, expected)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When runc says no.
    pub fn end(self) -> Result<()> {
        let status = Command::new("runc").args(["delete", "--force", &self.id]).status()?;
        ensure!(status.success(), "runc delete: {status}");
        // runc has removed its cgroup, which the agent's next start is told again.
        Ok(fs::create_dir_all(&self.cgroup)?)
    }
}

fn configuration(place: &Place, overlay: &Overlay, marks: &Path) -> serde_json::Value {
    let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"];
    let bind = |from: &Path, to: &str| serde_json::json!({"destination": to, "type": "bind", "source": from, "options": ["bind", "rw"]});
    serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", APPLICATION],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": overlay.merged()},
        "hostname": "container",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            bind(marks, "/marks"),
            bind(&place.path("control"), "/control"),
        ],
        "linux": {
            "cgroupsPath": place.cgroup.strip_prefix("/sys/fs/cgroup").map(|path| Path::new("/").join(path)).unwrap_or_default(),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    })
}
