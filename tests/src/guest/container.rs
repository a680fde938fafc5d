//! Real containers of the demo's image: its application is the demo's server, which can be asked to start a shell; sessions enter from
//! outside, as a probe's command or an operator's does.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    host::{Runtime, host},
    overlay::Overlay,
    trial::{Expected, Place, Trial, path_word, wait},
};
use crate::material::IMAGE;

/// The server of the image.
pub const SERVER: &str = "/app/server";
/// `ctr` has no option for the environment of a session: all of a container leave their mark here.
const SESSIONS_MARK: &str = "session";
/// How long a step of the runtime or an answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Where Debian's image has the dynamic loader as a file.
const LOADERS: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/lib64/ld-linux-x86-64.so.2",
];

/// The dynamic loader's real path in the image.
///
/// # Errors
/// When the image has none.
pub fn loader() -> Result<&'static str> {
    LOADERS
        .into_iter()
        .find(|path| host().layer_file(path).is_some())
        .context("the image has no dynamic loader")
}

fn root(place: &Place) -> Overlay {
    Overlay::of_layers(place.path("overlay"), host().layers())
}

/// Mounts the root of a case's container where the suite has to: the agent is told of it when it starts.
///
/// # Errors
/// When the kernel refuses.
pub fn prepare(place: &Place) -> Result<()> {
    match &host().runtime {
        Runtime::Runc => root(place).mount(),
        Runtime::Containerd { .. } => Ok(()),
    }
}

/// What came of a command in a container.
#[derive(Debug)]
pub struct Output {
    /// Exit status; 128 and the number for a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// Where its canary would have left a mark.
    pub mark: PathBuf,
}

impl Output {
    /// Whether a canary left a mark.
    pub fn is_marked(&self) -> bool {
        fs::read(&self.mark).is_ok_and(|bytes| !bytes.is_empty())
    }
}

/// A running container.
pub struct Container {
    id: String,
    folder: PathBuf,
    cgroup: PathBuf,
    /// Where its server listens.
    pub listen: String,
}

impl Container {
    /// Starts a container whose workload is the case's, and waits for its server.
    ///
    /// # Errors
    /// When the runtime says no, or the server does not answer.
    pub fn start(trial: &mut Trial<'_>) -> Result<Self> {
        let marks = trial
            .new_mark()?
            .parent()
            .context("a mark lies in a folder")?
            .to_path_buf();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let container = Self {
            id: trial.place.name.to_owned(),
            folder: trial.place.folder.clone(),
            cgroup: trial.place.cgroup.clone(),
            listen: format!("127.0.0.1:{port}"),
        };
        match &host().runtime {
            Runtime::Runc => container.start_by_runc(&trial.place, &marks)?,
            Runtime::Containerd { .. } => container.start_by_containerd(&trial.place, &marks)?,
        }
        let started = Instant::now();
        while container.healthz().is_err() {
            ensure!(
                started.elapsed() < LIMIT,
                "the container's server does not answer: {}",
                fs::read_to_string(trial.path("server.log")).unwrap_or_default().trim()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(container)
    }

    fn start_by_runc(&self, place: &Place, marks: &Path) -> Result<()> {
        let overlay = root(place);
        let bundle = place.path("bundle");
        fs::create_dir_all(&bundle)?;
        let configuration = self.configuration(&overlay, marks);
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&configuration)?)?;
        self.runtime(&["run", "--detach", "--bundle", &path_word(&bundle), &self.id])
    }

    /// `ctr` puts it into the cgroup /NAMESPACE/ID, which is the case's own.
    fn start_by_containerd(&self, place: &Place, marks: &Path) -> Result<()> {
        let workload = format!("lattice.dev/workload={}", place.workload());
        let mount = format!("type=bind,src={},dst=/marks,options=rbind:rw", marks.display());
        let listen = format!("LISTEN={}", self.listen);
        let mut create = vec!["containers", "create", "--snapshotter", "overlayfs", "--net-host"];
        let variable = format!("LATTICE_MARK=/marks/{SESSIONS_MARK}");
        create.extend(["--mount", &mount, "--env", &listen, "--env", &variable]);
        create.extend(["--label", "lattice.dev/namespace=vm", "--label", &workload]);
        create.extend(["--label", "lattice.dev/container=c", IMAGE, &self.id]);
        self.runtime(&create)?;
        let log = format!("file://{}", place.path("server.log").display());
        let fifos = path_word(&host().run.join("fifos"));
        let mut start = vec!["tasks", "start", "--detach", "--log-uri", &log];
        start.extend(["--fifo-dir", &fifos, &self.id]);
        self.runtime(&start)
    }

    /// The runtime's command line, with what it takes before the verb.
    fn command(&self) -> Command {
        match &host().runtime {
            Runtime::Runc => Command::new("runc"),
            Runtime::Containerd { socket, namespace } => {
                let mut command = Command::new("ctr");
                command.arg("--address").arg(socket).args(["--namespace", namespace]);
                command
            }
        }
    }

    /// A verb of the runtime that must succeed.
    fn runtime(&self, words: &[&str]) -> Result<()> {
        // Not a pipe: a detached container's application inherits it.
        let log = fs::File::create(self.folder.join("server.log"))?;
        let mut command = self.command();
        command.args(words).env("LATTICE_MARK", "").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let status = wait(&mut command.spawn().with_context(|| format!("cannot start {command:?}"))?)?;
        if !status.success() {
            let said = fs::read_to_string(self.folder.join("server.log"))?;
            bail!("{command:?}: {status}: {}", said.trim());
        }
        Ok(())
    }

    /// A session from outside.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn session(&self, trial: &mut Trial<'_>, words: &[&str], expected: Expected) -> Result<()> {
        let line = std::panic::Location::caller().line();
        self.in_session(trial, words)
            .and_then(|output| trial.judge_code(output.code, &output.mark, expected))
            .with_context(|| format!("session {words:?}, line {line}, expected {expected:?}"))
    }

    /// As [`Container::session`], and says what came of it.
    ///
    /// # Errors
    /// When the runtime cannot be started or hangs.
    pub fn in_session(&self, trial: &mut Trial<'_>, words: &[&str]) -> Result<Output> {
        let mut mark = trial.new_mark()?;
        let name = name_of(&mark)?;
        let variable = format!("LATTICE_MARK=/marks/{name}");
        if host().runtime != Runtime::Runc {
            mark = mark.with_file_name(SESSIONS_MARK);
            // One that is not there is no error.
            let _ = fs::remove_file(&mark);
        }
        let mut command = self.command();
        match &host().runtime {
            Runtime::Runc => command.args(["exec", "--env", &variable, &self.id]).args(words),
            Runtime::Containerd { .. } => command
                .args(["tasks", "exec", "--exec-id", &name, "--fifo-dir"])
                .arg(host().run.join("fifos"))
                .arg(&self.id)
                .args(words),
        };
        let (stdout, stderr) = (self.folder.join("stdout"), self.folder.join("stderr"));
        command.stdin(Stdio::null());
        command
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?);
        let status = wait(&mut command.spawn().with_context(|| format!("cannot start {command:?}"))?)?;
        Ok(Output {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&fs::read(&stdout)?).into_owned(),
            mark,
        })
    }

    /// A shell's line, started by the application itself.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn application(&self, trial: &mut Trial<'_>, line: &str, expected: Expected) -> Result<()> {
        let at = std::panic::Location::caller().line();
        self.by_application(trial, line)
            .and_then(|output| trial.judge_code(output.code, &output.mark, expected))
            .with_context(|| format!("application's {line:?}, line {at}, expected {expected:?}"))
    }

    /// As [`Container::application`], and says what came of it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn by_application(&self, trial: &mut Trial<'_>, line: &str) -> Result<Output> {
        let mark = trial.new_mark()?;
        let body = format!("export LATTICE_MARK=/marks/{}; {line}", name_of(&mark)?);
        let answer = self.request("POST", "/convert", body.as_bytes())?;
        let (first, rest) = answer.split_once('\n').unwrap_or((&answer, ""));
        let code = match first.split_once(' ') {
            Some(("exited", code)) => code.parse()?,
            Some(("signal", signal)) => 128 + signal.parse::<i32>()?,
            // The server's own words where the shell could not be started.
            _ if first.contains("os error 1)") => 126,
            _ => bail!("the server answers {answer:?}"),
        };
        Ok(Output {
            code,
            stdout: rest.to_owned(),
            mark,
        })
    }

    /// What the server says to a probe.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn healthz(&self) -> Result<String> {
        self.request("GET", "/healthz", &[])
    }

    /// Makes the server write a file.
    ///
    /// # Errors
    /// When it says no.
    pub fn upload(&self, path: &str, content: &[u8]) -> Result<()> {
        let answer = self.request("POST", &format!("/upload?path={path}"), content)?;
        ensure!(answer.starts_with("wrote "), "the server answers {answer:?}");
        Ok(())
    }

    fn request(&self, method: &str, target: &str, body: &[u8]) -> Result<String> {
        let mut stream = TcpStream::connect(&self.listen)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: payment-service\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("the server answers {answer:?}"))?;
        Ok(body.to_owned())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the runtime says no.
    pub fn end(self) -> Result<()> {
        match &host().runtime {
            Runtime::Runc => {
                self.runtime(&["delete", "--force", &self.id])?;
                // runc has removed its cgroup, which the agent's next start is told again.
                Ok(fs::create_dir_all(&self.cgroup)?)
            }
            Runtime::Containerd { .. } => {
                self.runtime(&["tasks", "rm", "--force", &self.id])?;
                self.runtime(&["containers", "rm", &self.id])
            }
        }
    }

    fn configuration(&self, overlay: &Overlay, marks: &Path) -> serde_json::Value {
        let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"];
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": [SERVER],
                "env": ["PATH=/usr/bin:/bin", format!("LISTEN={}", self.listen)],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": overlay.merged()},
            "hostname": "container",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/marks", "type": "bind", "source": marks, "options": ["bind", "rw"]},
            ],
            "linux": {
                "cgroupsPath": self.cgroup.strip_prefix("/sys/fs/cgroup").map(|path| Path::new("/").join(path)).unwrap_or_default(),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            },
        })
    }
}

fn name_of(mark: &Path) -> Result<String> {
    Ok(mark
        .file_name()
        .context("a mark has a name")?
        .to_string_lossy()
        .into_owned())
}
