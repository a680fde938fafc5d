//! A certificate authority of central's own: what it makes, and for whom. No file and no cluster; those are `init_tls`' and
//! `cluster_identity`'s.

use std::time::{Duration, SystemTime};

use lattice_scrape::{AGENT_SERVER_NAME, SCRAPER_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq};

use crate::identity::{NODE_SUFFIX, OPERATOR_NAME};

/// Certificates hold from an hour ago, for clocks that differ.
const VALID_BEFORE: Duration = Duration::from_secs(3_600);
/// The issuer of all certificates. It never changes: an issuer is found by its name.
const NAME: &str = "Lattice local authority";
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);

/// For whom a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Central, under these names and addresses.
    Server(Vec<String>),
    /// Who may ask and change.
    Operator,
    /// The agent of this node.
    Node(String),
    /// Who may read metrics, and do nothing else.
    Scraper,
}

impl Holder {
    fn names(&self) -> Vec<String> {
        match self {
            Self::Server(names) => names.clone(),
            Self::Operator => vec![OPERATOR_NAME.to_owned()],
            Self::Node(node) => vec![format!("{node}{NODE_SUFFIX}"), AGENT_SERVER_NAME.to_owned()],
            Self::Scraper => vec![SCRAPER_NAME.to_owned()],
        }
    }

    fn common_name(&self) -> String {
        match self {
            Self::Server(_) => "server".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::Node(node) => format!("node-{node}"),
            Self::Scraper => "metrics".to_owned(),
        }
    }

    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Server(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Operator | Self::Scraper => vec![ExtendedKeyUsagePurpose::ClientAuth],
            // Agents are scraped by this one too. Nobody takes either of its names for central's.
            Self::Node(_) => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        }
    }
}

/// A certificate and its key, PEM. The key is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Pair({:?}, …)", self.certificate)
    }
}

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificate or key cannot be read or made.
    #[error("the authority's certificate or key cannot be used")]
    Unusable(#[source] rcgen::Error),
    /// The key is of another authority.
    #[error("the authority's key is not that of its certificate")]
    OtherKey,
}

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pair: Pair,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Unusable)?;
        let certificate = authority_parameters().and_then(|parameters| parameters.self_signed(&key));
        Self::from_pair(Pair {
            certificate: certificate.map_err(AuthorityError::Unusable)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// One that was made before.
    ///
    /// # Errors
    /// When the certificate or the key cannot be read, or they do not belong together.
    pub fn from_pair(pair: Pair) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(&pair.key).map_err(AuthorityError::Unusable)?;
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|_| AuthorityError::Unusable(rcgen::Error::CouldNotParseCertificate))?;
        let read = webpki::EndEntityCert::try_from(&certificate)
            .map_err(|_| AuthorityError::Unusable(rcgen::Error::CouldNotParseCertificate))?;
        if read.subject_public_key_info().as_ref() != key.subject_public_key_info() {
            return Err(AuthorityError::OtherKey);
        }
        // The issuer's name and key identifier follow from these parameters and the key, so they are those of the certificate.
        let parameters = authority_parameters().map_err(AuthorityError::Unusable)?;
        let issuer = Issuer::new(parameters, key);
        Ok(Self { issuer, pair })
    }

    /// Its certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A new key, and a certificate for it.
    ///
    /// # Errors
    /// When a name is none, or there is no randomness.
    pub fn issue(&self, holder: &Holder, lifetime: Duration) -> Result<Pair, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = leaf(holder, lifetime)?.signed_by(&key, &self.issuer)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate for somebody's public key. That he has its other half shows when he uses the certificate, and not before.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn issue_for(&self, key: &PublicKey, holder: &Holder, lifetime: Duration) -> Result<String, rcgen::Error> {
        Ok(leaf(holder, lifetime)?.signed_by(key, &self.issuer)?.pem())
    }
}

/// A public key of P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: Vec<u8>,
}

impl PublicKey {
    /// From an uncompressed point (SEC 1, 2.3.3): a byte 4, and two numbers of 32 bytes. `None` where it is none.
    pub fn from_point(point: &[u8]) -> Option<Self> {
        (point.len() == 65 && point[0] == 4).then(|| Self { point: point.to_vec() })
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn authority_parameters() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = parameters(Vec::new(), NAME, AUTHORITY_LIFETIME)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn leaf(holder: &Holder, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = parameters(holder.names(), &holder.common_name(), lifetime)?;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = holder.usages();
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn parameters(names: Vec<String>, common_name: &str, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    parameters.not_before = (now - VALID_BEFORE).into();
    parameters.not_after = (now + lifetime).into();
    Ok(parameters)
}

/// How long a certificate (DER) holds from now on; `None` where it cannot be read, zero where it has ended.
pub fn remaining(certificate: &[u8], now: SystemTime) -> Option<Duration> {
    let end = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let end = parts.next().read_sequence(end_of)?;
            // The signature is TLS' business.
            skip(parts, 2)?;
            Ok(end)
        })
    });
    Some(end.ok()?.duration_since(now).unwrap_or_default())
}

/// Of the signed part (RFC 5280, 4.1): version, serial number, algorithm and issuer come before it.
fn end_of(parts: &mut BERReaderSeq<'_, '_>) -> ASN1Result<SystemTime> {
    skip(parts, 4)?;
    let end = parts.next().read_sequence(|validity| {
        skip(validity, 1)?;
        read_time(validity.next())
    })?;
    while parts.read_optional(|reader| reader.read_der())?.is_some() {}
    Ok(end)
}

fn read_time(reader: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    let seconds = match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => reader.read_utctime()?.datetime().unix_timestamp(),
        _ => reader.read_generalized_time()?.datetime().unix_timestamp(),
    };
    let seconds = u64::try_from(seconds).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn skip(parts: &mut BERReaderSeq<'_, '_>, count: usize) -> ASN1Result<()> {
    (0..count).try_for_each(|_| parts.next().read_der().map(drop))
}

/// The same of the first certificate of a PEM text.
pub fn remaining_of_pem(text: &str, now: SystemTime) -> Option<Duration> {
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    remaining(&certificate, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    const DAY: Duration = Duration::from_secs(86_400);

    fn read(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[track_caller]
    fn check_signed_by(authority: &Authority, certificate: &str) {
        let (anchor, certificate) = (read(&authority.pair().certificate), read(certificate));
        let anchor = webpki::anchor_from_trusted_cert(&anchor).unwrap();
        let certificate = webpki::EndEntityCert::try_from(&certificate).unwrap();
        certificate
            .verify_for_usage(
                rustls::crypto::aws_lc_rs::default_provider()
                    .signature_verification_algorithms
                    .all,
                &[anchor],
                &[],
                rustls::pki_types::UnixTime::now(),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .unwrap();
    }

    #[test]
    fn a_certificate_is_of_the_node_and_of_the_key() {
        let authority = Authority::generate().unwrap();
        let key = KeyPair::generate().unwrap();
        let point = PublicKey::from_point(key.public_key_raw()).unwrap();
        let node = Holder::Node("worker-1".to_owned());
        let pem = authority.issue_for(&point, &node, DAY).unwrap();
        check_signed_by(&authority, &pem);
        let der = read(&pem);
        assert_eq!(
            Identity::from_certificates(std::slice::from_ref(&der)),
            Ok(Identity::Node("worker-1".to_owned()))
        );
        let found = webpki::EndEntityCert::try_from(&der).unwrap();
        assert_eq!(found.subject_public_key_info().as_ref(), key.subject_public_key_info());
        let left = remaining(&der, SystemTime::now()).unwrap();
        assert!(left <= DAY && left > DAY - Duration::from_secs(60), "{left:?}");
        assert_eq!(remaining(&der, SystemTime::now() + 2 * DAY), Some(Duration::ZERO));
    }

    #[test]
    fn who_reads_metrics_has_no_role_at_central() {
        let authority = Authority::generate().unwrap();
        let scraper = authority.issue(&Holder::Scraper, DAY).unwrap();
        check_signed_by(&authority, &scraper.certificate);
        let der = read(&scraper.certificate);
        assert!(Identity::from_certificates(std::slice::from_ref(&der)).is_err());
    }

    #[test]
    fn what_is_no_point_is_no_key() {
        let compressed = [&[2_u8][..], &[7; 32]].concat();
        for foreign in [&b""[..], b"\x04", &compressed, &[4; 64], &[4; 66], &[6; 65]] {
            assert_eq!(PublicKey::from_point(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn the_end_of_what_is_no_certificate_cannot_be_read() {
        let authority = Authority::generate().unwrap();
        // After 2049 the end is written in another form.
        let distant = authority.issue(&Holder::Operator, 50 * 365 * DAY).unwrap();
        let der = read(&distant.certificate);
        let now = SystemTime::now();
        assert!(remaining(&der, now).unwrap() > 49 * 365 * DAY);
        for length in 0..der.len() {
            assert_eq!(remaining(&der[..length], now), None, "{length}");
        }
        assert_eq!(remaining(b"\x30\x00", now), None);
    }

    #[test]
    fn an_authority_that_was_kept_signs_as_before() {
        let first = Authority::generate().unwrap();
        let again = Authority::from_pair(first.pair().clone()).unwrap();
        let issued = again.issue(&Holder::Operator, DAY).unwrap();
        check_signed_by(&first, &issued.certificate);
        assert!(!format!("{issued:?}").contains(&issued.key), "a key is never shown");
        let other = Authority::generate().unwrap();
        let mixed = Pair {
            key: other.pair().key.clone(),
            ..first.pair().clone()
        };
        assert!(matches!(Authority::from_pair(mixed), Err(AuthorityError::OtherKey)));
    }
}
