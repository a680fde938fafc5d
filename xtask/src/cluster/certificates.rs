//! The authority of a cluster and what it signs, by the names that Kubernetes knows its parts by.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{
    node::{API_SERVICE_ADDRESS, NODE_ADDRESS, NODE_NAME},
    place::Place,
    registry,
};

/// Certificates hold from an hour ago, for clocks that differ.
const VALID_BEFORE: Duration = Duration::from_secs(3_600);
/// Longer than a cluster for tests runs.
const LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// Who gets a certificate: a file's name, the common name, a group, and as a server the names that it answers to.
const HOLDERS: [(&str, &str, &str, &[&str]); 9] = [
    (
        "apiserver",
        "kube-apiserver",
        "",
        &[
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            NODE_ADDRESS,
            API_SERVICE_ADDRESS,
        ],
    ),
    ("kubelet-server", NODE_NAME, "", &[NODE_NAME, NODE_ADDRESS, "127.0.0.1"]),
    (registry::HOLDER, registry::HOLDER, "", &[NODE_ADDRESS]),
    ("apiserver-to-kubelet", "apiserver-to-kubelet", "system:masters", &[]),
    ("admin", "admin", "system:masters", &[]),
    ("controller-manager", "system:kube-controller-manager", "", &[]),
    ("scheduler", "system:kube-scheduler", "", &[]),
    ("kubelet", "system:node:node1", "system:nodes", &[]),
    ("proxy", "system:kube-proxy", "", &[]),
];

/// A certificate and its key.
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    /// Of a holder, or of the authority, which is called `ca`.
    pub(super) fn of(place: &Place, name: &str) -> Self {
        Self {
            certificate: place.keys().join(format!("{name}.crt")),
            key: place.keys().join(format!("{name}.key")),
        }
    }
}

/// The private half signs the tokens of service accounts, the public one proves them.
pub(super) fn token_keys(place: &Place) -> (PathBuf, PathBuf) {
    let keys = place.keys();
    (keys.join("tokens.key"), keys.join("tokens.pub"))
}

/// Makes all keys and certificates of a cluster anew.
///
/// # Errors
///
/// Where one cannot be made or written.
pub(super) fn make(place: &Place) -> Result<()> {
    let authority_key = KeyPair::generate().context("cannot make the authority's key")?;
    let mut authority = parameters(&[], "lattice-cluster", "")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority
        .self_signed(&authority_key)
        .context("cannot make the authority's certificate")?;
    write_pair(&Pair::of(place, "ca"), &certificate.pem(), &authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    for (file, name, group, server_names) in HOLDERS {
        let key = KeyPair::generate().with_context(|| format!("cannot make the key of {file}"))?;
        let mut holder = parameters(server_names, name, group)?;
        holder.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        holder.extended_key_usages = vec![if server_names.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        let certificate = holder
            .signed_by(&key, &issuer)
            .with_context(|| format!("cannot make the certificate of {file}"))?;
        write_pair(&Pair::of(place, file), &certificate.pem(), &key)?;
    }

    let tokens = KeyPair::generate().context("cannot make the key of tokens")?;
    let (private, public) = token_keys(place);
    write(&private, &tokens.serialize_pem())?;
    write(&public, &tokens.public_key_pem())
}

fn parameters(server_names: &[&str], common_name: &str, group: &str) -> Result<CertificateParams> {
    let names: Vec<String> = server_names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).with_context(|| format!("names of {common_name}"))?;
    let mut subject = DistinguishedName::new();
    if !group.is_empty() {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, common_name);
    parameters.distinguished_name = subject;
    let now = SystemTime::now();
    parameters.not_before = (now - VALID_BEFORE).into();
    parameters.not_after = (now + LIFETIME).into();
    Ok(parameters)
}

fn write_pair(pair: &Pair, certificate: &str, key: &KeyPair) -> Result<()> {
    write(&pair.certificate, certificate)?;
    write(&pair.key, &key.serialize_pem())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_certificate_is_that_of_its_node() {
        let (_, name, group, _) = HOLDERS.iter().find(|(file, ..)| *file == "kubelet").unwrap();
        assert_eq!(
            *name,
            format!("system:node:{NODE_NAME}"),
            "the node authorizer goes by this name"
        );
        assert_eq!(*group, "system:nodes");
    }
}
