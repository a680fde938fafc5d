//! A central with the stage's policies as its objects, and its operator.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

const FOLDER: &str = "/tmp/bench-central";
const NODE: &str = "bench-node";
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running central; killed when dropped.
pub(crate) struct Central {
    child: Child,
    port: u16,
}

impl Central {
    /// Makes certificates, starts it with the objects of a folder, and waits until it listens.
    ///
    /// # Errors
    ///
    /// Where it does not come up; its log is in the error.
    pub(crate) fn start(objects: &Path) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER}"))?;
        let made = Command::new("lattice-central")
            .args(["init-tls", "--node", NODE, "--directory"])
            .arg(tls(""))
            .output()
            .context("cannot start lattice-central")?;
        ensure!(
            made.status.success(),
            "init-tls failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
        let port = listener.local_addr().context("cannot find a free port")?.port();
        drop(listener);
        let log = Path::new(FOLDER).join("log");
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new("lattice-central")
            .arg("--local")
            .arg(objects)
            .arg("--state")
            .arg(Path::new(FOLDER).join("state"))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--tls-cert")
            .arg(tls("server.crt"))
            .arg("--tls-key")
            .arg(tls("server.key"))
            .arg("--client-ca")
            .arg(tls("ca.crt"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .context("cannot start lattice-central")?;
        let central = Self { child, port };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                Instant::now() < deadline,
                "central does not listen:\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(central)
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What an agent must be started with to be of this central.
    pub(crate) fn agent_arguments(&self) -> Vec<String> {
        let file = |name: &str| tls(name).display().to_string();
        vec![
            format!("--node={NODE}"),
            format!("--central={}", self.url()),
            format!("--client-cert={}", file(&format!("node-{NODE}.crt"))),
            format!("--client-key={}", file(&format!("node-{NODE}.key"))),
            format!("--ca={}", file("ca.crt")),
        ]
    }

    /// `latticectl` as the operator runs it.
    ///
    /// # Errors
    ///
    /// Where it fails; what it said is in the error.
    pub(crate) fn latticectl(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("latticectl")
            .args(arguments)
            .env_remove("LATTICE_AGENT")
            .env("LATTICE_CENTRAL", self.url())
            .env("LATTICE_CLIENT_CERT", tls("operator.crt"))
            .env("LATTICE_CLIENT_KEY", tls("operator.key"))
            .env("LATTICE_CA", tls("ca.crt"))
            .stdin(Stdio::null())
            .output()
            .context("cannot start latticectl")?;
        ensure!(
            done.status.success(),
            "latticectl {} ended with {}: {}",
            arguments.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tls(name: &str) -> PathBuf {
    Path::new(FOLDER).join("tls").join(name)
}
