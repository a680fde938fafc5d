//! `lattice-central init-tls`: a certificate authority of one's own and what it signs, for use on one machine or a few.
//!
//! ```text
//!   DIRECTORY/ca.crt, ca.key            the authority; reused where it exists
//!   DIRECTORY/server.crt, server.key    central: localhost, 127.0.0.1, ::1, and --server-name
//!   DIRECTORY/operator.crt, .key        latticectl: `operator.lattice`
//!   DIRECTORY/metrics.crt, .key         Prometheus: `metrics.lattice`
//!   DIRECTORY/node-NAME.crt, .key       the agent of a node: `NAME.node.lattice`
//! ```
//!
//! Certificates that exist are left as they are, so that the command can be repeated with more names.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    authority::{Authority, AuthorityError, Holder, Pair},
    identity::is_node_name,
};

const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(825 * 86_400);

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitTlsError {
    /// A file could not be read or written.
    #[error("{path}: cannot {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// read, write, create.
        what: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Only one half of a pair is there.
    #[error(
        "{present} is there, but {absent} is not: restore the missing half, or remove the other to make a new pair"
    )]
    HalfPair {
        /// The half that is there.
        present: PathBuf,
        /// The half that is not.
        absent: PathBuf,
    },
    /// The authority that is there cannot be used, or none can be made.
    #[error("{path}")]
    Authority {
        /// Its certificate.
        path: PathBuf,
        /// The reason.
        #[source]
        source: AuthorityError,
    },
    /// Not a name that a node can have.
    #[error("node name {0:?} is no DNS name in lower case (letters, digits, `-`, `.`)")]
    NodeName(String),
    /// A key or certificate could not be made.
    #[error("{name}: the certificate cannot be made")]
    Certificate {
        /// Which.
        name: String,
        /// The reason.
        #[source]
        source: rcgen::Error,
    },
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct TlsRequest {
    /// Where the files go; created with mode 0700 where absent.
    pub directory: PathBuf,
    /// Nodes that get a certificate.
    pub nodes: Vec<String>,
    /// Names or addresses of central, besides those of the loopback.
    pub server_names: Vec<String>,
}

/// Makes what is missing, and returns the files that were written.
///
/// # Errors
/// When a name is invalid, a file cannot be written, or half of a pair is missing.
pub fn init_tls(request: &TlsRequest) -> Result<Vec<PathBuf>, InitTlsError> {
    if let Some(name) = request.nodes.iter().find(|name| !is_node_name(name)) {
        return Err(InitTlsError::NodeName(name.clone()));
    }
    let directory = request.directory.as_path();
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder
        .create(directory)
        .map_err(|source| file_error(directory, "create", source))?;

    let mut written = Vec::new();
    let authority = authority(directory, &mut written)?;
    let mut server_names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    server_names.extend(request.server_names.iter().cloned());
    let mut wanted = vec![
        ("server".to_owned(), Holder::Server(server_names)),
        ("operator".to_owned(), Holder::Operator),
        ("metrics".to_owned(), Holder::Scraper),
    ];
    wanted.extend(
        request
            .nodes
            .iter()
            .map(|node| (format!("node-{node}"), Holder::Node(node.clone()))),
    );
    for (name, holder) in wanted {
        let (certificate_path, key_path) = pair(directory, &name);
        if pair_exists(&certificate_path, &key_path)? {
            continue;
        }
        let issued = authority
            .issue(&holder, CERTIFICATE_LIFETIME)
            .map_err(|source| InitTlsError::Certificate { name, source })?;
        write_secret(&key_path, &issued.key, &mut written)?;
        write_secret(&certificate_path, &issued.certificate, &mut written)?;
    }
    Ok(written)
}

/// The authority of the directory; a new one where there is none.
fn authority(directory: &Path, written: &mut Vec<PathBuf>) -> Result<Authority, InitTlsError> {
    let (certificate_path, key_path) = pair(directory, "ca");
    let failed = |source| InitTlsError::Authority {
        path: certificate_path.clone(),
        source,
    };
    if pair_exists(&certificate_path, &key_path)? {
        let read = |path: &Path| fs::read_to_string(path).map_err(|source| file_error(path, "read", source));
        let (certificate, key) = (read(&certificate_path)?, read(&key_path)?);
        return Authority::from_pair(Pair { certificate, key }).map_err(failed);
    }
    let authority = Authority::generate().map_err(failed)?;
    write_secret(&key_path, &authority.pair().key, written)?;
    write_secret(&certificate_path, &authority.pair().certificate, written)?;
    Ok(authority)
}

fn pair(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    (
        directory.join(format!("{name}.crt")),
        directory.join(format!("{name}.key")),
    )
}

fn pair_exists(certificate: &Path, key: &Path) -> Result<bool, InitTlsError> {
    let half = |present: &Path, absent: &Path| InitTlsError::HalfPair {
        present: present.to_owned(),
        absent: absent.to_owned(),
    };
    match (certificate.exists(), key.exists()) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) => Err(half(certificate, key)),
        (false, true) => Err(half(key, certificate)),
    }
}

/// Writes a file that only its owner may read, and never over another.
fn write_secret(path: &Path, text: &str, written: &mut Vec<PathBuf>) -> Result<(), InitTlsError> {
    let failed = |source| file_error(path, "write", source);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    written.push(path.to_owned());
    Ok(())
}

fn file_error(path: &Path, what: &'static str, source: io::Error) -> InitTlsError {
    InitTlsError::File {
        path: path.to_owned(),
        what,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn request(directory: &Path, nodes: &[&str]) -> TlsRequest {
        TlsRequest {
            directory: directory.join("tls"),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            server_names: vec!["central.example.com".to_owned()],
        }
    }

    #[test]
    fn makes_what_is_missing_and_leaves_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let written = init_tls(&request(directory.path(), &["worker-1"])).unwrap();
        let names: Vec<_> = written
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "ca.key",
                "ca.crt",
                "server.key",
                "server.crt",
                "operator.key",
                "operator.crt",
                "metrics.key",
                "metrics.crt",
                "node-worker-1.key",
                "node-worker-1.crt"
            ]
        );
        for path in &written {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{path:?}"
            );
        }
        let authority = fs::read(directory.path().join("tls/ca.crt")).unwrap();
        let written = init_tls(&request(directory.path(), &["worker-1", "worker-2"])).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(fs::read(directory.path().join("tls/ca.crt")).unwrap(), authority);
    }

    #[test]
    fn what_a_reused_authority_signs_chains_to_it() {
        use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
        let directory = tempfile::tempdir().unwrap();
        init_tls(&request(directory.path(), &[])).unwrap();
        init_tls(&request(directory.path(), &["late"])).unwrap();
        let read = |name: &str| CertificateDer::from_pem_file(directory.path().join("tls").join(name)).unwrap();
        let (authority, node) = (read("ca.crt"), read("node-late.crt"));
        let anchor = webpki::anchor_from_trusted_cert(&authority).unwrap();
        let node = webpki::EndEntityCert::try_from(&node).unwrap();
        node.verify_for_usage(
            rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .all,
            &[anchor],
            &[],
            UnixTime::now(),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .unwrap();
    }

    #[test]
    fn refuses_half_a_pair_and_bad_names() {
        let directory = tempfile::tempdir().unwrap();
        init_tls(&request(directory.path(), &[])).unwrap();
        fs::remove_file(directory.path().join("tls/ca.key")).unwrap();
        let error = init_tls(&request(directory.path(), &[])).unwrap_err().to_string();
        assert!(error.contains("ca.crt is there, but"), "{error}");
        for name in ["", "UPPER", "a b", "../etc", "a..b", "-a", "*"] {
            assert!(
                matches!(
                    init_tls(&request(directory.path(), &[name])),
                    Err(InitTlsError::NodeName(_))
                ),
                "{name:?}"
            );
        }
    }
}
