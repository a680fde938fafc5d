//! The listener's certificate: from central's own authority, for a short time, made anew by itself while connections come and go.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;

use crate::{
    authority::{Authority, Holder, remaining},
    images::with_causes,
};

/// A certificate that could not be made is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be made.
    #[error("the certificate of the admission listener cannot be made; --server-name must be a DNS name or an address")]
    Made(#[source] rcgen::Error),
    /// Nor used.
    #[error("the certificate of the admission listener cannot be used")]
    Used(#[source] rustls::Error),
    /// Nor read.
    #[error("the certificate of the admission listener cannot be read")]
    Read,
}

/// A certificate that is renewed when half of its time is over.
pub struct RenewedCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    lifetime: Duration,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for RenewedCertificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RenewedCertificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl RenewedCertificate {
    /// The first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(authority: Arc<Authority>, names: Vec<String>, lifetime: Duration) -> Result<Self, CertificateError> {
        let first = issue(&authority, &names, lifetime)?;
        Ok(Self {
            authority,
            names,
            lifetime,
            current: RwLock::new(first),
        })
    }

    /// How long the present one holds; zero where it has ended.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        let current = self.current();
        let certificate = current.cert.first();
        certificate
            .and_then(|certificate| remaining(certificate, now))
            .unwrap_or_default()
    }

    /// Makes a new one, which connections from now on are shown.
    ///
    /// # Errors
    /// When it cannot be made; then the present one stays.
    pub fn renew(&self) -> Result<(), CertificateError> {
        let next = issue(&self.authority, &self.names, self.lifetime)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Renews it for ever.
    pub async fn keep(&self) {
        loop {
            let left = self.remaining(SystemTime::now());
            let due = left.saturating_sub(self.lifetime / 2);
            if !due.is_zero() {
                // Also a clock that was set, or a machine that slept, is noticed before half of the time is over.
                sleep(due.min(self.lifetime / 8)).await;
                continue;
            }
            match self.renew() {
                Ok(()) => tracing::info!(
                    valid_seconds = self.lifetime.as_secs(),
                    "the admission listener has a new certificate"
                ),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        error = with_causes(error),
                        "the certificate is not renewed; trying again"
                    );
                    sleep(AGAIN).await;
                }
            }
        }
    }

    fn current(&self) -> Arc<CertifiedKey> {
        // A pointer, which is whole whatever panicked.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for RenewedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn issue(authority: &Authority, names: &[String], lifetime: Duration) -> Result<Arc<CertifiedKey>, CertificateError> {
    let pair = authority
        .issue(&Holder::Server(names.to_vec()), lifetime)
        .map_err(CertificateError::Made)?;
    let certificate =
        CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(|_| CertificateError::Read)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|_| CertificateError::Read)?;
    let key = any_supported_type(&key).map_err(CertificateError::Used)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}
