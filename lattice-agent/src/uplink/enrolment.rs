//! How the agent of a cluster comes to its certificate: for a token of its service account, which is bound to its pod and so to its node.
//!
//! ```text
//!   key (memory) ─► its public half ─┐
//!   token (a projected file) ────────┴─► central: Enrolment ─► certificate (memory), renewed when half of its time is over
//! ```
//!
//! Neither key nor certificate is ever on a disk: after a restart there are new ones. While central is away none are needed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use lattice_api::v1::{EnrolRequest, EnrolResponse, enrolment_client::EnrolmentClient};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::{Pair, UplinkError, address, pem};

/// For the whole of it; central asks the API server meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A chain of a few certificates.
const ANSWER_BYTES: usize = 64 << 10;
/// A token of Kubernetes has about 1.2 KiB.
const TOKEN_BYTES: u64 = 64 << 10;

/// A certificate and its key, and how long they are good for.
pub(super) struct Enrolled {
    certificate: String,
    key: String,
    /// The certificates that central was believed by.
    authority: Vec<u8>,
    renew: Instant,
    end: Instant,
}

impl Enrolled {
    fn new(response: EnrolResponse, key: String, authority: Vec<u8>, now: Instant) -> Result<Self, UplinkError> {
        if !response.certificate.starts_with("-----BEGIN CERTIFICATE-----") || response.valid_seconds == 0 {
            return Err(UplinkError::NoCertificate);
        }
        let valid = Duration::from_secs(response.valid_seconds.into());
        Ok(Self {
            certificate: response.certificate,
            key,
            authority,
            renew: now + valid / 2,
            end: now + valid,
        })
    }

    pub(super) fn pair(&self) -> Pair {
        Pair {
            certificate: self.certificate.clone().into_bytes(),
            key: self.key.clone().into_bytes(),
        }
    }

    /// When another is to be had.
    pub(super) fn renew(&self) -> Instant {
        self.renew
    }

    /// When central takes it no more.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// Whether central would still take it: a new authority takes nothing of the old one's.
    pub(super) fn holds(&self, authority: &[u8], now: Instant) -> bool {
        now < self.end && self.authority == authority
    }
}

/// Asks for a certificate for a new key.
///
/// # Errors
/// When the token or the authority cannot be read, or central is away or refuses.
pub(super) async fn enrol(authority: &Path, node: &str, url: &str, token: &Path) -> Result<Enrolled, UplinkError> {
    let authority = pem("--ca", authority, "CERTIFICATE")?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority));
    let endpoint = address("--enrolment", url)?
        .tls_config(tls)
        .map_err(UplinkError::Tls)?
        .connect_timeout(super::CONNECT_TIMEOUT)
        .timeout(ANSWER_WITHIN);
    let key = rcgen::KeyPair::generate().map_err(UplinkError::Key)?;
    let request = EnrolRequest {
        node: node.to_owned(),
        public_key: key.public_key_raw().to_vec(),
        token: read_token(token)?,
    };
    let channel = endpoint.connect().await.map_err(|source| UplinkError::Connect {
        central: url.to_owned(),
        source,
    })?;
    // Before the answer, so that it is never thought to hold for longer than it does.
    let now = Instant::now();
    let answer = EnrolmentClient::new(channel)
        .max_decoding_message_size(ANSWER_BYTES)
        .enrol(request)
        .await
        .map_err(|status| UplinkError::NotEnrolled(Box::new(status)))?;
    Enrolled::new(answer.into_inner(), key.serialize_pem(), authority, now)
}

/// Read anew each time, since the kubelet writes a new one long before the old one ends.
fn read_token(path: &Path) -> Result<String, UplinkError> {
    let read = |source| UplinkError::Read {
        flag: "--enrolment-token",
        path: path.into(),
        source,
    };
    if fs::metadata(path).map_err(read)?.len() > TOKEN_BYTES {
        return Err(read(std::io::Error::other("it is too large for a token")));
    }
    Ok(fs::read_to_string(path).map_err(read)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_long_before_it_ends_and_goes_with_its_authority() {
        let now = Instant::now();
        let response = EnrolResponse {
            certificate: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            valid_seconds: 100,
        };
        let enrolled = Enrolled::new(response.clone(), String::new(), b"a".to_vec(), now).unwrap();
        assert_eq!(enrolled.renew(), now + Duration::from_secs(50));
        assert!(enrolled.holds(b"a", now + Duration::from_secs(99)));
        assert!(!enrolled.holds(b"a", now + Duration::from_secs(100)));
        assert!(!enrolled.holds(b"b", now));
        for bad in [
            EnrolResponse {
                valid_seconds: 0,
                ..response.clone()
            },
            EnrolResponse {
                certificate: "-----BEGIN PRIVATE KEY-----\n".to_owned(),
                ..response
            },
        ] {
            assert!(Enrolled::new(bad, String::new(), Vec::new(), now).is_err());
        }
    }
}
