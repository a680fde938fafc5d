//! What the listener shows, and whom it believes.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};

use crate::SCRAPER_NAME;

/// Why certificate, key and authority make no listener.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One of them is no PEM.
    #[error("the {what} cannot be read")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The authority is none.
    #[error("the authority cannot be used")]
    Authority(#[source] VerifierBuilderError),
    /// Or its certificate is none.
    #[error("the authority's certificate cannot be used")]
    AuthorityCertificate(#[source] rustls::Error),
    /// Certificate and key do not belong together, or are of no kind that is known.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// The certificate and key that are shown to a scraper, and the authority of the scraper's own.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) config: Arc<ServerConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// From PEM: a chain, its key, and the certificates of the authority.
    ///
    /// # Errors
    /// When one of them cannot be read, or certificate and key do not belong together.
    pub fn new(certificate: &[u8], key: &[u8], authority: &[u8]) -> Result<Self, CredentialsError> {
        let unreadable = |what| move |source| CredentialsError::Unreadable { what, source };
        let chain = certificates(certificate).map_err(unreadable("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unreadable("key"))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority).map_err(unreadable("authority"))? {
            roots.add(certificate).map_err(CredentialsError::AuthorityCertificate)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(CredentialsError::Authority)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(CredentialsError::Pair)?;
        // A session that is taken up again would outlive its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text).collect()
}

/// Whether who showed these may read metrics. TLS has held them against the authority already.
pub(crate) fn is_scraper(certificates: &[CertificateDer<'_>]) -> bool {
    certificates
        .first()
        .and_then(|certificate| webpki::EndEntityCert::try_from(certificate).ok())
        .is_some_and(|certificate| certificate.valid_dns_names().any(|name| name == SCRAPER_NAME))
}
