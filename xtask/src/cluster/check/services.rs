//! A service from its signed image to its pods, and what central does about whoever changes its objects.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{
    FREE, World,
    central::Operator,
    registry::{SIGNED, UNSIGNED},
    wait_until,
};
use crate::cluster::registry::HOST;

/// Where services are.
pub(super) const SHOP: &str = "shop";
const TRUST: &str = include_str!("../../../cluster/objects/trust.yaml");
const SERVICE: &str = include_str!("../../../cluster/objects/service.yaml");

fn service(name: &str, image: &str) -> String {
    SERVICE
        .replace("@NAME@", name)
        .replace("@NAMESPACE@", SHOP)
        .replace("@IMAGE@", image)
}

/// `kubectl get` of one thing of a service's namespace.
fn get(world: &World, what: &str, path: &str) -> Result<String> {
    world
        .kubectl
        .run(&["get", what, "--namespace", SHOP, &format!("--output=jsonpath={path}")])
}

fn condition(world: &World, service: &str, name: &str, field: &str) -> Result<String> {
    let path = format!("{{.status.conditions[?(@.type==\"{name}\")].{field}}}");
    get(world, &format!("latticeservice/{service}"), &path)
}

/// A kernel that refuses inline says so before the kill.
fn is_action(violation: &Value, action: &str) -> bool {
    let said = violation["effectiveAction"].as_str().unwrap_or_default();
    said.split('+').any(|part| part == action)
}

pub(super) fn signed(world: &World) -> Result<()> {
    let key: Vec<String> = world
        .pushed
        .public_key
        .lines()
        .map(|line| format!("    {line}"))
        .collect();
    let trust = TRUST
        .replace("@PUBLIC_KEY@", &key.join("\n"))
        .replace("@REGISTRY@", HOST)
        .replace("@NAMESPACE@", SHOP);
    world.kubectl.apply(&trust)?;
    world.kubectl.apply(&service("web", &world.pushed.reference(SIGNED)))?;
    let wait = world.kubectl.run(&[
        "wait",
        "latticeservice/web",
        "--namespace",
        SHOP,
        "--for=condition=Ready",
        "--timeout=120s",
    ]);
    wait.with_context(|| format!("{:?}", get(world, "latticeservice/web", "{.status}")))?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/web",
        "--namespace",
        SHOP,
        "--timeout=120s",
    ])?;
    let image = get(world, "deployment/web", "{.spec.template.spec.containers[0].image}")?;
    ensure!(
        image == world.pushed.reference(SIGNED),
        "the Deployment's image is {image}"
    );
    let policy = get(world, "execpolicies", "{.items[*].spec.entries[*].path}")?;
    for path in ["/app/server", "/usr/bin/curl"] {
        ensure!(
            policy.split(' ').any(|listed| listed == path),
            "{path} is not among {policy}"
        );
    }
    ensure!(
        !policy.contains("wget"),
        "wget is listed, which nothing starts: {policy}"
    );
    Ok(())
}

pub(super) fn unsigned(world: &World) -> Result<()> {
    world
        .kubectl
        .apply(&service("unsigned", &world.pushed.reference(UNSIGNED)))?;
    wait_until("the unsigned image is refused", Duration::from_secs(60), || {
        Ok(condition(world, "unsigned", "ImageVerified", "status")? == "False")
    })?;
    let objects = world.kubectl.run(&[
        "get",
        "deployments,execpolicies,services",
        "--namespace",
        SHOP,
        "--selector=lattice.dev/service=unsigned",
        "--output=name",
    ])?;
    ensure!(objects.is_empty(), "an unsigned image came to {objects}");
    Ok(())
}

pub(super) fn event_at_central(world: &World) -> Result<()> {
    let operator = Operator::of(world)?;
    let command = ["/usr/bin/wget", "--version"];
    // As every new service it is in monitor, where the program runs.
    let (status, output) = world.kubectl.exec_in(SHOP, "deployment/web", &command)?;
    ensure!(
        status == 0 && output.contains("GNU Wget"),
        "in monitor it does not run: {status} {output}"
    );
    let pod = get(world, "pods", "{.items[0].metadata.name}")?;
    let told = |mode: &str, action: &str| {
        wait_until("the event is at central", Duration::from_secs(60), || {
            let events = operator.events(world, SHOP)?;
            Ok(events.iter().any(|event| {
                let violation = &event["violation"];
                let container = &violation["container"];
                event["node"] == "node1"
                    && container["pod"] == pod.as_str()
                    && container["name"] == "server"
                    && container["workload"] == "web"
                    && violation["mode"] == mode
                    && is_action(violation, action)
            }))
        })
    };
    told("monitor", "none")?;
    operator.ask(world, &["mode", "set", "--namespace", SHOP, "enforce"])?;
    let (status, output) = world.kubectl.exec_in(SHOP, "deployment/web", &command)?;
    ensure!(
        status == 137 && output.is_empty(),
        "it was not killed: {status} {output}"
    );
    told("enforce", "kill")?;
    // Its probe goes on.
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/web",
        "--namespace",
        SHOP,
        "--timeout=30s",
    ])?;
    Ok(())
}

pub(super) fn put_right(world: &World) -> Result<()> {
    let policies = get(world, "execpolicies", "{.items[*].metadata.name}")?;
    let policy = policies.split(' ').next().unwrap_or_default();
    let before = get(world, &format!("execpolicy/{policy}"), "{.metadata.uid}")?;
    world
        .kubectl
        .run(&["delete", "execpolicy", policy, "--namespace", SHOP])?;
    wait_until("the deleted policy is back", Duration::from_secs(60), || {
        let now = get(world, "execpolicies", "{.items[*].metadata.uid}")?;
        Ok(!now.is_empty() && now.split(' ').all(|uid| uid != before))
    })?;
    // Somebody else's Deployment stays as it was made.
    let replicas = |namespace: &str, name: &str| -> Result<String> {
        let deployment = format!("deployment/{name}");
        world.kubectl.run(&[
            "get",
            &deployment,
            "--namespace",
            namespace,
            "--output=jsonpath={.spec.replicas}",
        ])
    };
    for (namespace, name) in [(FREE, "payment-service"), (SHOP, "web")] {
        let deployment = format!("deployment/{name}");
        world
            .kubectl
            .run(&["scale", &deployment, "--replicas=3", "--namespace", namespace])?;
    }
    wait_until("the scaled Deployment is put right", Duration::from_secs(60), || {
        Ok(replicas(SHOP, "web")? == "1")
    })?;
    let other = replicas(FREE, "payment-service")?;
    ensure!(
        other == "3",
        "a Deployment that is nobody's business has {other} replicas"
    );
    world.kubectl.run(&[
        "scale",
        "deployment/payment-service",
        "--replicas=1",
        "--namespace",
        FREE,
    ])?;
    Ok(())
}

pub(super) fn outlives_central(world: &World) -> Result<()> {
    let killed = || {
        world
            .kubectl
            .exec_in(SHOP, "deployment/web", &["/usr/bin/wget", "--version"])
    };
    world.kubectl.run(&[
        "scale",
        "deployment/lattice-central",
        "--replicas=0",
        "--namespace",
        super::NAMESPACE,
    ])?;
    wait_until("central is gone", Duration::from_secs(60), || {
        Ok(world.process_of(b"lattice-central", None).is_err())
    })?;
    let (status, output) = killed()?;
    ensure!(
        status == 137 && output.is_empty(),
        "without central it runs: {status} {output}"
    );
    let spooled = world.agent_events(SHOP)?;
    ensure!(!spooled.is_empty(), "the agent has no event of it");
    world.kubectl.run(&[
        "scale",
        "deployment/lattice-central",
        "--replicas=1",
        "--namespace",
        super::NAMESPACE,
    ])?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/lattice-central",
        "--namespace",
        super::NAMESPACE,
        "--timeout=120s",
    ])?;
    let operator = Operator::of(world)?;
    wait_until("the agent is back with what it kept", Duration::from_secs(120), || {
        let events = operator.events(world, SHOP)?;
        Ok(events.iter().any(|event| is_action(&event["violation"], "kill")))
    })
    .map_err(|error| anyhow!("{error}; the agent's own: {}", spooled.len()))
}
