//! lattice-central with objects in a folder, the certificates of everybody, and `latticectl` as its operator uses it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    daemon::{self, Daemon},
    interrupt,
    place::Place,
    progress,
};
use crate::{process, workspace};

/// The node's name in certificates and events.
pub(super) const NODE: &str = "demo-node";

const TRUST: &str = include_str!("../../demo/objects/trust.yaml");
const SERVICE: &str = include_str!("../../demo/objects/service.yaml");
const GATES: &str = include_str!("../../demo/objects/gates.cedar");

const LIMIT: Duration = Duration::from_secs(60);
/// How long the chain from a file to its consequence may take.
pub(super) const CHAIN_LIMIT: Duration = Duration::from_secs(60);

/// A LatticeService as the demo varies it.
pub(super) struct ServiceFile<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    pub(super) listen: &'a str,
    /// YAML of a probe.
    pub(super) probe: &'a str,
}

/// A running central.
pub(super) struct Central {
    objects: PathBuf,
    tls: PathBuf,
    port: u16,
    registry: String,
    _daemon: Daemon,
}

impl Central {
    /// Writes trust and gates, makes the certificates, and starts central.
    ///
    /// # Errors
    ///
    /// Where a file cannot be written, or central does not come up.
    pub(super) fn start(place: &Place, registry: &str, public_key: &str) -> Result<Self> {
        let (objects, tls) = (place.folder("objects")?, place.folder("tls")?);
        let program = workspace::host_program("lattice-central");
        let made = daemon::finish(
            Command::new(&program)
                .args(["init-tls", "--node", NODE, "--directory"])
                .arg(&tls),
            LIMIT,
        )?;
        if !made.status.success() {
            bail!("lattice-central init-tls failed: {}", made.stderr.trim());
        }
        let port = daemon::free_port()?;
        let mut command = Command::new(&program);
        command
            .arg("--local")
            .arg(&objects)
            .arg("--state")
            .arg(place.folder("central")?)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--plain-http-registry", registry])
            .args(["--drain-seconds", "2"]);
        for (flag, file) in [
            ("--tls-cert", "server.crt"),
            ("--tls-key", "server.key"),
            ("--client-ca", "ca.crt"),
        ] {
            command.arg(flag).arg(tls.join(file));
        }
        let indented: Vec<String> = public_key.lines().map(|line| format!("    {line}")).collect();
        let trust = TRUST
            .replace("@REGISTRY@", registry)
            .replace("@PUBLIC_KEY@", &indented.join("\n"));
        write(&objects, "trust.yaml", &trust)?;
        write(&objects, "gates.cedar", GATES)?;
        let mut daemon = Daemon::start(
            "lattice-central",
            &command,
            Some(&place.cgroups),
            &place.log("central"),
            None,
        )?;
        daemon.wait_until(|| daemon::answers(port))?;
        Ok(Self {
            objects,
            tls,
            port,
            registry: registry.to_owned(),
            _daemon: daemon,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A certificate or key that `init-tls` made.
    pub(super) fn tls(&self, file: &str) -> PathBuf {
        self.tls.join(file)
    }

    /// Writes or replaces a service.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub(super) fn apply(&self, service: &ServiceFile<'_>) -> Result<()> {
        let text = SERVICE
            .replace("@NAME@", service.name)
            .replace("@IMAGE@", &format!("{}/{}", self.registry, service.image))
            .replace("@LISTEN@", service.listen)
            .replace("@PROBE@", service.probe);
        write(&self.objects, &format!("{}.yaml", service.name), &text)
    }

    /// `latticectl` that asks central as its operator, or an agent where the arguments say so.
    pub(super) fn latticectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(workspace::host_program("latticectl"));
        command
            .args(arguments)
            // What the caller's own environment says must not decide whom the demo asks.
            .env_remove("LATTICE_AGENT");
        let settings = [
            ("LATTICE_CENTRAL", PathBuf::from(self.url())),
            ("LATTICE_CLIENT_CERT", self.tls("operator.crt")),
            ("LATTICE_CLIENT_KEY", self.tls("operator.key")),
            ("LATTICE_CA", self.tls("ca.crt")),
        ];
        let asks_agent = arguments.contains(&"--agent");
        for (name, value) in settings {
            if asks_agent {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        command
    }

    /// The document with which an agent answers on its socket.
    ///
    /// # Errors
    ///
    /// Where it fails, or prints no JSON.
    pub(super) fn ask_agent(&self, socket: &str, arguments: &[&str]) -> Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--agent", socket]);
        self.ask(&arguments)
    }

    /// Runs it as a person would, and shows what it printed.
    ///
    /// # Errors
    ///
    /// Where it fails.
    pub(super) fn show(&self, arguments: &[&str]) -> Result<()> {
        progress::say(&format!("$ latticectl {}", arguments.join(" ")));
        let output = self.capture(arguments)?;
        progress::quote(&output);
        Ok(())
    }

    /// Its document, with `-o json`.
    ///
    /// # Errors
    ///
    /// Where it fails, or prints no JSON.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        let output = self.capture(&arguments)?;
        serde_json::from_str(&output).with_context(|| format!("latticectl {} printed no JSON", arguments.join(" ")))
    }

    fn capture(&self, arguments: &[&str]) -> Result<String> {
        capture(&mut self.latticectl(arguments))
    }

    /// The conditions of a service once `accept` accepts its Ready condition's reason.
    ///
    /// # Errors
    ///
    /// Where that does not come; the error says how far the service came.
    pub(super) fn wait_for_service(&self, name: &str, accept: impl Fn(&str) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = interrupt::wait_for(CHAIN_LIMIT, || {
            let list = self.ask(&["service", "list"])?;
            let service = items(&list)
                .find(|item| item["name"] == name)
                .cloned()
                .unwrap_or_default();
            let ready = condition(&service, "Ready")["reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            last = service.clone();
            Ok((!ready.is_empty() && accept(&ready)).then_some(service))
        })?;
        match found {
            Some(service) => Ok(service),
            None => bail!("service {name} did not come as far as it should; it is at {last}"),
        }
    }

    /// The policy of a service, as an ExecPolicy document; None where there is none.
    ///
    /// # Errors
    ///
    /// Where central cannot be asked.
    pub(super) fn policy(&self, name: &str) -> Result<Option<Value>> {
        let list = self.ask(&["policy", "list"])?;
        Ok(items(&list).find(|item| item["metadata"]["name"] == name).cloned())
    }

    /// The newest revision that the node says it has applied, where it is connected.
    ///
    /// # Errors
    ///
    /// Where central cannot be asked.
    pub(super) fn node(&self) -> Result<Option<Value>> {
        let status = self.ask(&["status"])?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        Ok(nodes
            .into_iter()
            .find(|node| node["node"] == NODE && node["connected"] == true))
    }
}

/// One condition of a service.
pub(super) fn condition<'a>(service: &'a Value, kind: &str) -> &'a Value {
    let conditions = service["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn capture(command: &mut Command) -> Result<String> {
    let finished = daemon::finish(command, LIMIT)?;
    if !finished.status.success() {
        bail!(
            "`{}` failed with {}: {}{}",
            process::display(command),
            finished.status,
            finished.stdout,
            finished.stderr.trim()
        );
    }
    Ok(finished.stdout)
}

/// Under another name first, so that central never reads half of it.
fn write(folder: &std::path::Path, name: &str, text: &str) -> Result<()> {
    let (unfinished, path) = (folder.join(format!(".{name}.unfinished")), folder.join(name));
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}
