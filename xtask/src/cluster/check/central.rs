//! Central in its pod, as an operator reaches it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{NAMESPACE, World};
use crate::workspace;

/// A fixed address, since the cluster looks up no names.
pub(super) const ADDRESS: &str = "10.96.0.43";

/// Files with a certificate, out of a Secret that central filled.
pub(super) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// For this role: `operator`, `metrics`.
    ///
    /// # Errors
    ///
    /// Where there is no such Secret, or it has not been filled.
    pub(super) fn of(world: &World, role: &str) -> Result<Self> {
        let name = format!("lattice-central-{role}");
        let secret = world
            .kubectl
            .json(&["get", "secret", &name, "--namespace", NAMESPACE])?;
        let folder = world.place.run().join(role);
        super::super::place::create(&folder)?;
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let encoded = secret["data"][file]
                .as_str()
                .ok_or_else(|| anyhow!("the Secret {name} has no {file}"))?;
            let content = STANDARD
                .decode(encoded)
                .with_context(|| format!("{file} is no base64"))?;
            fs::write(folder.join(file), content).with_context(|| format!("cannot write {file}"))?;
        }
        Ok(Self { folder })
    }

    /// The path of `tls.crt`, `tls.key` or `ca.crt`.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// What central shows to whom it knows.
pub(super) struct Operator {
    certificate: Certificate,
}

impl Operator {
    /// # Errors
    ///
    /// Where there is no such Secret, or it has not been filled.
    pub(super) fn of(world: &World) -> Result<Self> {
        Certificate::of(world, "operator").map(Self::with)
    }

    /// Who comes with this certificate instead.
    pub(super) fn with(certificate: Certificate) -> Self {
        Self { certificate }
    }

    /// What latticectl says that central says.
    ///
    /// # Errors
    ///
    /// Where it fails; the error has what it said.
    pub(super) fn ask(&self, world: &World, arguments: &[&str]) -> Result<String> {
        let (url, certificate, key, authority) = (
            format!("https://{ADDRESS}:7443"),
            self.certificate.file("tls.crt"),
            self.certificate.file("tls.key"),
            self.certificate.file("ca.crt"),
        );
        let mut all = vec![
            "--central",
            &url,
            "--client-cert",
            &certificate,
            "--client-key",
            &key,
            "--ca",
            &authority,
        ];
        all.extend(arguments);
        super::super::component::run_inside(&world.place, &workspace::host_program("latticectl"), &all)
    }

    /// The events that central has of a namespace.
    pub(super) fn events(&self, world: &World, namespace: &str) -> Result<Vec<Value>> {
        let lines = self.ask(
            world,
            &["events", "--limit", "0", "--namespace", namespace, "--output", "json"],
        )?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
            .collect()
    }

    pub(super) fn status(&self, world: &World) -> Result<Value> {
        serde_json::from_str(&self.ask(world, &["status", "--output", "json"])?).context("no status")
    }

    /// One of central's counters.
    pub(super) fn counter(&self, world: &World, name: &str) -> Result<u64> {
        let status = self.status(world)?;
        status["counters"][name]
            .as_u64()
            .or_else(|| status["counters"][name].as_str()?.parse().ok())
            .ok_or_else(|| anyhow!("no counter {name} in {}", status["counters"]))
    }
}

/// Central is there, and no more than it says of itself.
pub(super) fn footprint(world: &World) -> Result<()> {
    let pid = world.process_of(b"lattice-central", None)?;
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("central's process is gone")?;
    for (name, expected) in [
        ("Uid:", "65532\t65532\t65532\t65532"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        let found = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        ensure!(found == Some(expected), "{name} {found:?} instead of {expected:?}");
    }
    let log = world
        .kubectl
        .run(&["logs", "deployment/lattice-central", "--namespace", NAMESPACE])?;
    ensure!(!log.contains("PRIVATE KEY"), "a key is in the log");
    Ok(())
}

/// Its service account may do what the code does, and nothing that would lead further.
pub(super) fn permissions(world: &World) -> Result<()> {
    let may = |question: &[&str]| -> Result<bool> {
        let mut all = vec!["auth", "can-i"];
        all.extend(question);
        all.push("--as=system:serviceaccount:lattice-system:lattice-central");
        Ok(world.kubectl.answer(&all)? == "yes")
    };
    for question in [
        &["watch", "trustpolicies.lattice.dev", "--all-namespaces"][..],
        &[
            "patch",
            "latticeservices.lattice.dev",
            "--subresource=status",
            "--namespace=default",
        ],
        &["create", "deployments.apps", "--namespace=default"],
        &["create", "tokenreviews.authentication.k8s.io"],
        &[
            "patch",
            "secret/lattice-central-authority",
            "--namespace=lattice-system",
        ],
        &["watch", "secret/cosign-public", "--namespace=signing-keys"],
        &[
            "patch",
            "validatingwebhookconfigurations.admissionregistration.k8s.io/lattice-central",
        ],
        &["create", "events.events.k8s.io", "--namespace=default"],
    ] {
        ensure!(may(question)?, "central may not {question:?}");
    }
    for question in [
        &["list", "secrets", "--all-namespaces"][..],
        &["get", "secret/other", "--namespace=signing-keys"],
        &["list", "secrets", "--namespace=lattice-system"],
        &["create", "secrets", "--namespace=lattice-system"],
        &["get", "secret/cosign-public", "--namespace=signing-keys"],
        &["create", "pods", "--namespace=default"],
        &["create", "pods", "--subresource=exec", "--namespace=default"],
        &["patch", "trustpolicies.lattice.dev"],
        &["patch", "latticeservices.lattice.dev", "--namespace=default"],
        &["create", "clusterrolebindings.rbac.authorization.k8s.io"],
        &["impersonate", "users"],
        &[
            "create",
            "serviceaccounts",
            "--subresource=token",
            "--namespace=lattice-system",
        ],
        &["get", "nodes"],
        &[
            "patch",
            "validatingwebhookconfigurations.admissionregistration.k8s.io/other",
        ],
        &["create", "validatingwebhookconfigurations.admissionregistration.k8s.io"],
        &["patch", "namespaces"],
    ] {
        ensure!(!may(question)?, "central may {question:?}");
    }
    for question in [&["get", "pods"][..], &["create", "tokenreviews.authentication.k8s.io"]] {
        let mut all = vec!["auth", "can-i"];
        all.extend(question);
        all.push("--as=system:serviceaccount:lattice-system:lattice-agent");
        ensure!(world.kubectl.answer(&all)? == "no", "the agent may {question:?}");
    }
    Ok(())
}
