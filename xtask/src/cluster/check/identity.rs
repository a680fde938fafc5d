//! Which tokens give a certificate: those of the agent's own pods, each for its own node, and no others.
//!
//! Every token here comes from the API server, as a kubelet or a thief would have it, and is shown to central over its own listener.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{FREE, NAMESPACE, World, central::ADDRESS, central::Operator, wait_until};
use crate::workspace;

const AGENTS: &str = "lattice-agent";
const AUDIENCE: &str = "lattice-central";
const OTHER_ACCOUNT: &str = include_str!("../../../cluster/objects/other-account.yaml");

/// A token that the API server makes for a service account, bound to a pod where one is named.
fn token(world: &World, namespace: &str, account: &str, audience: &str, pod: Option<&str>) -> Result<String> {
    let audience = format!("--audience={audience}");
    let mut arguments = vec![
        "create",
        "token",
        account,
        "--namespace",
        namespace,
        &audience,
        "--duration=600s",
    ];
    let pod = pod.map(|pod| format!("--bound-object-name={pod}"));
    if let Some(pod) = &pod {
        arguments.extend(["--bound-object-kind=Pod", pod.as_str()]);
    }
    Ok(world.kubectl.run(&arguments)?.trim().to_owned())
}

/// What central says to who asks for a node's certificate by a token.
fn enrol(world: &World, node: &str, token: &str) -> Result<Result<String, String>> {
    let folder = world.place.run().join("enrol");
    super::super::place::create(&folder)?;
    let (token_file, ca_file) = (folder.join("token"), folder.join("ca.crt"));
    fs::write(&token_file, token).context("cannot write a token")?;
    let authority = world.kubectl.run(&[
        "get",
        "configmap",
        "lattice-central-authority",
        "--namespace",
        NAMESPACE,
        "--output=jsonpath={.data.ca\\.crt}",
    ])?;
    fs::write(&ca_file, authority).context("cannot write an authority")?;
    let url = format!("https://{ADDRESS}:7444");
    let (token_file, ca_file) = (token_file.display().to_string(), ca_file.display().to_string());
    let arguments = [
        "enrol",
        "--enrolment",
        &url,
        "--enrolment-token",
        &token_file,
        "--ca",
        &ca_file,
        "--node",
        node,
    ];
    let output = super::super::component::inside(&world.place, &workspace::host_program("lattice-agent"))?
        .args(arguments)
        .output()
        .context("cannot run lattice-agent")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(Ok(text(&output.stdout))),
        Some(1) => Ok(Err(text(&output.stderr))),
        _ => bail!("lattice-agent enrol: {}", text(&output.stderr)),
    }
}

fn agent_pod(world: &World) -> Result<String> {
    world.kubectl.run(&[
        "get",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector=app.kubernetes.io/name=lattice-agent",
        "--output=jsonpath={.items[0].metadata.name}",
    ])
}

/// The agent has come to its certificate and its policies by itself.
pub(super) fn connected(world: &World) -> Result<()> {
    wait_until("the agent is connected", Duration::from_secs(150), || {
        let Ok(operator) = Operator::of(world) else {
            return Ok(false);
        };
        let status = operator.status(world)?;
        Ok(status["nodes"].as_array().is_some_and(|nodes| {
            nodes
                .iter()
                .any(|node| node["node"] == "node1" && node["connected"] == true)
        }))
    })?;
    let log = world
        .kubectl
        .run(&["logs", "deployment/lattice-central", "--namespace", NAMESPACE])?;
    ensure!(
        log.contains("an agent has got a certificate"),
        "central's log does not say so: {log}"
    );
    Ok(())
}

pub(super) fn tokens(world: &World) -> Result<()> {
    let operator = Operator::of(world)?;
    let pod = agent_pod(world)?;
    // The control: the agent's own gives one for its own node.
    let own = token(world, NAMESPACE, AGENTS, AUDIENCE, Some(&pod))?;
    let given = enrol(world, "node1", &own)?;
    ensure!(given.is_ok(), "the agent's own token gives no certificate: {given:?}");
    world.kubectl.apply(
        &OTHER_ACCOUNT
            .replace("@NAMESPACE@", FREE)
            .replace("@IMAGE@", super::material::IMAGE),
    )?;
    world.kubectl.run(&[
        "wait",
        "pod/curious",
        "--namespace",
        FREE,
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;
    let mut forged = own.clone();
    // Another first character of the signature.
    if let Some(at) = forged.rfind('.') {
        let other = if forged.as_bytes().get(at + 1) == Some(&b'A') {
            "B"
        } else {
            "A"
        };
        forged.replace_range(at + 1..at + 2, other);
    }
    let refused = [
        (
            "another service account's",
            "other_account",
            "node1",
            token(world, FREE, "curious", AUDIENCE, Some("curious"))?,
        ),
        (
            "one for another audience",
            "token",
            "node1",
            token(world, NAMESPACE, AGENTS, "somebody", Some(&pod))?,
        ),
        (
            "one for the API server",
            "token",
            "node1",
            token(world, NAMESPACE, AGENTS, "https://kubernetes.default.svc", Some(&pod))?,
        ),
        (
            "one that is bound to no pod",
            "not_bound",
            "node1",
            token(world, NAMESPACE, AGENTS, AUDIENCE, None)?,
        ),
        ("a forged one", "token", "node1", forged),
        ("the agent's own for another node", "other_node", "node2", own),
    ];
    for (what, reason, node, token) in refused {
        let name = format!("lattice_central_enrolments_refused_total{{reason=\"{reason}\"}}");
        let before = operator.counter(world, &name)?;
        let answer = enrol(world, node, &token)?;
        ensure!(answer.is_err(), "{what} gives a certificate");
        let after = operator.counter(world, &name)?;
        ensure!(
            after == before + 1,
            "{what}: {name} went from {before} to {after}; {answer:?}"
        );
        let log = world
            .kubectl
            .run(&["logs", "deployment/lattice-central", "--namespace", NAMESPACE])?;
        ensure!(
            log.contains(&format!("reason=\"{reason}\"")),
            "{what}: the log does not say {reason}: {log}"
        );
        ensure!(!log.contains(&token), "{what}: the token is in the log");
    }
    Ok(())
}

/// A token ends with its pod, and by its time.
pub(super) fn ended_tokens(world: &World) -> Result<()> {
    let bound = token(world, FREE, "curious", AUDIENCE, Some("curious"))?;
    world
        .kubectl
        .run(&["delete", "pod", "curious", "--namespace", FREE, "--wait=true"])?;
    let refused = enrol(world, "node1", &bound)?;
    let said = refused.err().unwrap_or_default();
    ensure!(
        said.contains("does not take the token"),
        "the token of a pod that is gone: {said}"
    );
    let expired = super::super::tokens::expired(&world.place, NAMESPACE, AGENTS, AUDIENCE)?;
    let refused = enrol(world, "node1", &expired)?;
    let said = refused.err().unwrap_or_default();
    ensure!(said.contains("expired"), "a token that has ended: {said}");
    Ok(())
}

/// Certificates are renewed, and the agent stays.
pub(super) fn renewed(world: &World) -> Result<()> {
    let operator = Operator::of(world)?;
    let name = "lattice_central_enrolments_total";
    let before = operator.counter(world, name)?;
    // Half of nodeCertificateSeconds, twice.
    wait_until(
        "the agent has renewed its certificate twice",
        Duration::from_secs(240),
        || Ok(operator.counter(world, name)? >= before + 2),
    )?;
    connected(world)
}
