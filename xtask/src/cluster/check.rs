//! `cargo xtask test cluster`: what Lattice does on a real Kubernetes node, from its own images and its own chart.
//!
//! A cluster of its own is brought up for it and taken down again, and that nothing of it stays is one of the cases. Each refusal
//! is held against the same pod in a namespace without a policy, where the same command must run.

mod admission;
mod central;
mod helm;
mod identity;
mod install_file;
mod kubectl;
mod material;
mod metrics;
mod registry;
mod services;
mod uninstall;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use self::{helm::Helm, kubectl::Kubectl, material::Material, registry::Pushed};
use super::{down, place::Place, say, up};
use crate::{images, install_file::NAMESPACE, process, workspace};

/// Its name, so that a developer's own cluster stays as it is.
const NAME: &str = "check";
/// Where a policy holds.
const GUARDED: &str = "payments";
/// Where none does.
const FREE: &str = "free";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the cluster up, to look around in it
    #[arg(long)]
    keep: bool,
}

struct World {
    place: Place,
    kubectl: Kubectl,
    helm: Helm,
    material: Material,
    pushed: Pushed,
}

type Case = (&'static str, fn(&World) -> Result<()>);

/// In this order: each stands on what those before it made.
const CASES: [Case; 29] = [
    ("the_install_file_is_what_the_chart_renders", install_file::is_current),
    ("a_value_that_the_chart_does_not_know_is_refused", typo_is_refused),
    ("the_chart_brings_central_and_the_agent_up_from_their_images", install),
    ("the_agent_has_no_more_than_it_needs", footprint),
    ("central_is_nobody_and_has_no_capability", central::footprint),
    ("central_may_do_what_it_does_and_no_more", central::permissions),
    ("the_agent_comes_to_its_certificate_by_itself", identity::connected),
    ("metrics_are_read_by_who_may_and_by_nobody_else", metrics::are_scraped),
    ("pods_with_and_without_a_policy_become_ready", workloads),
    ("an_unlisted_program_is_killed_where_a_policy_holds", exec_is_refused),
    ("the_event_names_pod_workload_container_and_image", event_names),
    ("the_first_program_of_a_new_pod_is_judged", first_program),
    ("what_was_enforced_holds_while_the_agent_is_replaced", replaced),
    (
        "no_token_but_the_agents_own_gives_its_nodes_certificate",
        identity::tokens,
    ),
    ("a_token_ends_with_its_pod_and_by_its_time", identity::ended_tokens),
    ("a_certificate_is_renewed_while_the_agent_runs", identity::renewed),
    (
        "a_signed_image_becomes_a_running_service_with_its_policy",
        services::signed,
    ),
    ("an_unsigned_image_becomes_nothing", services::unsigned),
    (
        "an_unlisted_program_in_its_pod_is_an_event_at_central",
        services::event_at_central,
    ),
    ("what_somebody_changes_is_put_right", services::put_right),
    (
        "an_image_is_refused_or_warned_of_as_its_namespace_says",
        admission::by_stage,
    ),
    ("every_kind_that_runs_images_is_judged", admission::every_kind),
    ("the_api_server_holds_a_floor_by_itself", admission::floor),
    ("owners_are_told_what_a_controller_is_refused", admission::told),
    (
        "without_central_new_images_wait_only_where_they_are_refused",
        admission::without_central,
    ),
    ("the_admission_certificate_is_renewed_by_itself", admission::rotated),
    (
        "what_central_said_holds_without_it_and_its_events_arrive_later",
        services::outlives_central,
    ),
    (
        "told_to_uninstall_agents_leave_nothing_on_the_node",
        uninstall::cleans_the_node,
    ),
    (
        "uninstalled_it_leaves_nothing_in_the_cluster",
        uninstall::leaves_nothing,
    ),
];

/// Runs all cases, and says what came of each.
///
/// # Errors
///
/// Where the cluster does not come up or does not go down.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let place = Place::named(NAME)?;
    down::run(&place)?;
    up::run(&place)?;
    let (mut passed, mut failed) = (0, 0);
    let mut count = |name: &str, result: Result<()>| match result {
        Ok(()) => {
            println!("ok {name}");
            passed += 1;
        }
        Err(error) => {
            println!("FAILED: {name}: {error:#}");
            failed += 1;
        }
    };
    match prepare(&place) {
        Ok(world) => {
            for (name, case) in CASES {
                count(name, case(&world));
            }
        }
        Err(error) => count("the_images_are_there", Err(error)),
    }
    if arguments.keep {
        say(&format!(
            "{NAME} stays up; cargo xtask cluster down --name {NAME} ends it"
        ));
    } else {
        count("down_leaves_nothing", down_leaves_nothing(&place));
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn prepare(place: &Place) -> Result<World> {
    let own = std::env::current_exe().context("cannot find our own program")?;
    process::execute(std::process::Command::new(own).args([
        "images",
        "--as-built",
        "--cluster",
        NAME,
        "lattice-agent",
        "lattice-central",
    ]))?;
    let material = Material::make()?;
    super::images::import(place, material::IMAGE, &material.image)?;
    Ok(World {
        kubectl: Kubectl::new(place)?,
        helm: Helm::ensure(place)?,
        pushed: Pushed::make(place, &material.image)?,
        place: Place::named(NAME)?,
        material,
    })
}

fn typo_is_refused(world: &World) -> Result<()> {
    let values = serde_json::json!({"agent": {"seccomp": "localhost", "unknwon": "closed"}});
    let refusal = world.helm.install(NAMESPACE, &values);
    let Err(refusal) = refusal else {
        bail!("the chart took a value that it does not know");
    };
    let said = format!("{refusal:#}");
    ensure!(said.contains("unknwon"), "the refusal does not name the key: {said}");
    Ok(())
}

fn install(world: &World) -> Result<()> {
    world.helm.install(NAMESPACE, &world.values()?)?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "daemonset/lattice-agent",
        "--namespace",
        NAMESPACE,
        "--timeout=120s",
    ])?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/lattice-central",
        "--namespace",
        NAMESPACE,
        "--timeout=120s",
    ])?;
    Ok(())
}

fn footprint(world: &World) -> Result<()> {
    let status = world.agent(&["status"])?;
    ensure!(status.contains("node1"), "the agent does not know its node: {status}");
    // As the kernel has it of the process, not as the pod's specification asks for it.
    let pid = world.agent_process()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent's process is gone")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim_start_matches(':').trim().to_owned())
            .unwrap_or_default()
    };
    let bits = u64::from_str_radix(&field("CapEff"), 16).context("no CapEff")?;
    // In the order of capabilities(7): DAC_READ_SEARCH, KILL, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF.
    let expected = [2, 5, 19, 21, 38, 39].iter().fold(0_u64, |bits, bit| bits | 1 << bit);
    ensure!(bits == expected, "capabilities {bits:x} instead of {expected:x}");
    ensure!(field("Seccomp") == "2", "no seccomp filter: {}", field("Seccomp"));
    Ok(())
}

fn workloads(world: &World) -> Result<()> {
    for namespace in [GUARDED, FREE] {
        world.kubectl.apply(&world.material.workloads(namespace))?;
    }
    for namespace in [GUARDED, FREE] {
        // Its exec probe has to run for that.
        world.kubectl.run(&[
            "rollout",
            "status",
            "deployment/payment-service",
            "--namespace",
            namespace,
            "--timeout=60s",
        ])?;
    }
    Ok(())
}

fn exec_is_refused(world: &World) -> Result<()> {
    let command = ["/usr/bin/wget", "--version"];
    let free = world.kubectl.exec(FREE, &command)?;
    ensure!(
        free.0 == 0 && free.1.contains("GNU Wget"),
        "without a policy it does not run either: {free:?}"
    );
    let guarded = world.kubectl.exec(GUARDED, &command)?;
    ensure!(
        guarded.0 == 137 && guarded.1.is_empty(),
        "it was not killed before its first instruction: {guarded:?}"
    );
    Ok(())
}

fn event_names(world: &World) -> Result<()> {
    let pod = world.kubectl.run(&[
        "get",
        "pods",
        "--namespace",
        GUARDED,
        "--selector=app=payment-service",
        "--output=jsonpath={.items[0].metadata.name}",
    ])?;
    let events = world.agent_events(GUARDED)?;
    let event = events
        .iter()
        .find(|event| event["violation"]["container"]["pod"] == pod.as_str())
        .ok_or_else(|| anyhow!("no event of pod {pod} among {events:?}"))?;
    let violation = &event["violation"];
    let digest = world.material.image.digest();
    for (found, expected) in [
        (&violation["container"]["namespace"], GUARDED),
        (&violation["container"]["workload"], "payment-service"),
        (&violation["container"]["name"], "server"),
        (&violation["container"]["imageDigest"], &digest),
        (&violation["policy"]["name"], "payment-service"),
        (&violation["effectiveAction"], "kill"),
        (&violation["mode"], "enforce"),
    ] {
        ensure!(found == expected, "{found} instead of {expected:?} in {event}");
    }
    ensure!(event["node"] == "node1", "the event's node is {}", event["node"]);
    ensure!(
        world.agent_events(FREE)?.is_empty(),
        "there are events of a namespace that has no policy"
    );
    Ok(())
}

fn first_program(world: &World) -> Result<()> {
    for namespace in [FREE, GUARDED] {
        world.kubectl.apply(&world.material.first_program(namespace))?;
    }
    let end = |namespace: &str| -> Result<(String, String)> {
        world.kubectl.run(&[
            "wait",
            "pod/batch",
            "--namespace",
            namespace,
            "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}",
            "--timeout=60s",
        ])?;
        let code = world.kubectl.run(&[
            "get",
            "pod/batch",
            "--namespace",
            namespace,
            "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}",
        ])?;
        let log = world.kubectl.run(&["logs", "pod/batch", "--namespace", namespace])?;
        Ok((code, log))
    };
    let free = end(FREE)?;
    ensure!(
        free.0 == "0" && free.1.contains("GNU Wget"),
        "without a policy it does not run either: {free:?}"
    );
    let guarded = end(GUARDED)?;
    ensure!(guarded.0 == "137" && guarded.1.is_empty(), "it ran: {guarded:?}");
    Ok(())
}

fn replaced(world: &World) -> Result<()> {
    let before = world.agent_process()?;
    world.kubectl.run(&[
        "delete",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector=app.kubernetes.io/name=lattice-agent",
        "--wait=false",
    ])?;
    // Refused before, while and after the agent is away.
    for _ in 0..20 {
        let (status, output) = world.kubectl.exec(GUARDED, &["/usr/bin/wget", "--version"])?;
        ensure!(status == 137 && output.is_empty(), "it ran: {output}");
    }
    install(world)?;
    ensure!(world.agent_process()? != before, "the agent was not replaced");
    let (status, output) = world.kubectl.exec(GUARDED, &["/usr/bin/wget", "--version"])?;
    ensure!(status == 137 && output.is_empty(), "it ran after the restart: {output}");
    Ok(())
}

fn down_leaves_nothing(place: &Place) -> Result<()> {
    let groups = place.control_groups()?;
    let folder = groups.unified();
    ensure!(folder.exists(), "{} is not where it was made", folder.display());
    down::run(place)?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    ensure!(groups.processes().is_empty(), "processes are left");
    ensure!(!place.run().exists(), "{} is still there", place.run().display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let run = place.run().display().to_string();
    ensure!(!mounts.contains(&run), "mounts are left: {mounts}");
    Ok(())
}

/// Looks until it is so.
fn wait_until(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    let mut last = Ok(false);
    while started.elapsed() < limit {
        last = look();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(500));
    }
    match last {
        Err(error) => Err(error.context(format!("{what}: not within {} s", limit.as_secs()))),
        Ok(_) => bail!("{what}: not within {} s", limit.as_secs()),
    }
}

impl World {
    /// The chart's values for this cluster.
    fn values(&self) -> Result<Value> {
        let programs = super::programs::Programs::ensure()?;
        let authority = super::certificates::Pair::of(&self.place, "ca").certificate;
        let authority = std::fs::read_to_string(authority).context("cannot read the cluster's authority")?;
        Ok(serde_json::json!({
            "image": {"registry": "localhost", "tag": images::version(), "pullPolicy": "Never"},
            "central": {
                "service": {"clusterIP": central::ADDRESS},
                "registryAuthorities": {super::registry::HOST: authority},
                // The agent renews every 45 s.
                "nodeCertificateSeconds": 90,
                // Renewed every 30 s.
                "admission": {"certificateSeconds": 60},
            },
            "metrics": {"enabled": true, "dashboard": {"enabled": true}},
            "agent": {
                "policies": {"payments.yaml": self.material.policies},
                // Process 1 has another /run and /var/lib than this node.
                "hostProcess": super::component::holder_of(&self.place)?.pid,
                "runtimePrograms": [programs.runc, programs.containerd("containerd-shim-runc-v2")],
            },
        }))
    }

    /// What latticectl prints on the node.
    fn agent(&self, arguments: &[&str]) -> Result<String> {
        super::component::run_inside(&self.place, &workspace::host_program("latticectl"), arguments)
    }

    fn agent_events(&self, namespace: &str) -> Result<Vec<Value>> {
        let lines = self.agent(&["events", "--limit", "0", "--namespace", namespace, "--output", "json"])?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
            .collect()
    }

    /// The agent's process id on this machine.
    fn agent_process(&self) -> Result<u32> {
        self.process_of(b"lattice-agent", Some(b"run"))
    }

    /// The one process of a program in the cluster, which has this first argument.
    fn process_of(&self, name: &[u8], argument: Option<&[u8]>) -> Result<u32> {
        let mut found = Vec::new();
        for process in self.place.control_groups()?.processes() {
            let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let mut words = arguments.split(|byte| *byte == 0);
            if words.next().is_some_and(|program| program.ends_with(name))
                && argument.is_none_or(|argument| words.next() == Some(argument))
            {
                found.push(process.cast_unsigned());
            }
        }
        match found.as_slice() {
            [one] => Ok(*one),
            _ => bail!("not one {} runs, but {found:?}", String::from_utf8_lossy(name)),
        }
    }
}
