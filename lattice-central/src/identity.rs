//! Who is at the other end: read from the client certificate, which TLS has already held against the client CA.

use std::fmt;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};

/// DNS SAN of a node's certificate: `<node>.node.lattice`.
pub const NODE_SUFFIX: &str = ".node.lattice";
/// DNS SAN of an operator's certificate.
pub const OPERATOR_NAME: &str = "operator.lattice";

/// The role that a certificate gives; exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The agent of this node.
    Node(String),
    /// A person or program that may ask and change things.
    Operator,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(formatter, "node {name}"),
            Self::Operator => formatter.write_str("operator"),
        }
    }
}

/// Why a certificate gives no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// No certificate came with the connection.
    #[error("the connection has no client certificate")]
    Missing,
    /// The certificate cannot be read.
    #[error("the client certificate cannot be read: {0}")]
    Unreadable(String),
    /// No name gives a role, or several do.
    #[error(
        "the client certificate must have exactly one DNS name that gives a role, `<node>{NODE_SUFFIX}` or \
         `{OPERATOR_NAME}`; found: {0:?}"
    )]
    NotOne(Vec<String>),
}

/// Whether a text can be a node's name: a DNS name in lower case, as Kubernetes has it.
pub fn is_node_name(name: &str) -> bool {
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 200 && name.split('.').all(label_is_valid)
}

impl Identity {
    /// The role that the first (the client's own) certificate gives.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or its DNS names give no role or several.
    pub fn from_certificates(certificates: &[CertificateDer<'_>]) -> Result<Self, InvalidIdentity> {
        let certificate = certificates.first().ok_or(InvalidIdentity::Missing)?;
        let certificate = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| InvalidIdentity::Unreadable(error.to_string()))?;
        let mut roles = Vec::new();
        let mut names = Vec::new();
        for name in certificate.valid_dns_names().take(64) {
            names.push(name.to_owned());
            if name == OPERATOR_NAME {
                roles.push(Self::Operator);
            } else if let Some(node) = name.strip_suffix(NODE_SUFFIX).filter(|node| is_node_name(node)) {
                roles.push(Self::Node(node.to_owned()));
            }
        }
        match <[Self; 1]>::try_from(roles) {
            Ok([role]) => Ok(role),
            Err(_) => Err(InvalidIdentity::NotOne(names)),
        }
    }

    /// The role of whoever sent this request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, with the reason, where the certificate gives none.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let certificates = request.peer_certs().unwrap_or_default();
        Self::from_certificates(&certificates).map_err(|error| Status::unauthenticated(error.to_string()))
    }
}

/// SHA-256 of the certificate that the request came with, in the form of `openssl x509 -fingerprint`'s digits: which of several
/// certificates with one role it was.
pub fn certificate_fingerprint<T>(request: &Request<T>) -> Option<String> {
    let certificates = request.peer_certs()?;
    Some(format!("sha256:{}", hex::encode(Sha256::digest(certificates.first()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(names: &[&str]) -> Result<Identity, InvalidIdentity> {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Identity::from_certificates(std::slice::from_ref(certificate.der()))
    }

    #[test]
    fn one_name_gives_the_role() {
        assert_eq!(
            identity(&["worker-1.node.lattice"]),
            Ok(Identity::Node("worker-1".to_owned()))
        );
        assert_eq!(
            identity(&["a.example.com.node.lattice"]),
            Ok(Identity::Node("a.example.com".to_owned()))
        );
        assert_eq!(identity(&["localhost", "operator.lattice"]), Ok(Identity::Operator));
    }

    #[track_caller]
    fn refused(names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let found = identity(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(matches!(found, Err(InvalidIdentity::NotOne(_))), "{names:?}: {found:?}");
    }

    #[test]
    fn no_name_or_several_give_none() {
        refused(&[]);
        refused(&["localhost"]);
        refused(&["node.lattice"]);
        refused(&["a.node.lattice", "b.node.lattice"]);
        refused(&["a.node.lattice", "operator.lattice"]);
        refused(&["operator.lattice.example.com"]);
        refused(&["a.node.lattice.example.com"]);
        refused(&["x.operator.lattice"]);
        refused(&["*.node.lattice"]);
        assert_eq!(Identity::from_certificates(&[]), Err(InvalidIdentity::Missing));
        let junk = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(
            Identity::from_certificates(&[junk]),
            Err(InvalidIdentity::Unreadable(_))
        ));
    }
}
