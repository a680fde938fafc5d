//! Who reads metrics, and who does not, over real connections.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, routing::get};
use lattice_scrape::{AGENT_SERVER_NAME, Credentials, CredentialsError, Listener, SCRAPER_NAME};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

const TEXT: &str = "# EOF\n";

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(parameters, key),
        }
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Pair {
            certificate: parameters.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn credentials(&self) -> Credentials {
        let own = self.issue(AGENT_SERVER_NAME);
        Credentials::new(
            own.certificate.as_bytes(),
            own.key.as_bytes(),
            self.certificate.as_bytes(),
        )
        .unwrap()
    }
}

struct Served {
    address: SocketAddr,
    credentials: watch::Sender<Option<Credentials>>,
    serving: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(credentials: Option<Credentials>) -> Served {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.address().unwrap();
    let (credentials, newest) = watch::channel(credentials);
    let router = Router::new().route("/metrics", get(|| async { TEXT }));
    let serving = tokio::spawn(async move {
        let _ = listener.serve(newest, router).await;
    });
    Served {
        address,
        credentials,
        serving,
    }
}

/// What is answered; an error where nothing is.
async fn scrape(address: SocketAddr, believes: &Authority, own: Option<&Pair>) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(believes.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some(own) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(AGENT_SERVER_NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}

#[track_caller]
fn is_answered(answer: Result<String, std::io::Error>) {
    let answer = answer.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(TEXT),
        "{answer}"
    );
}

#[tokio::test]
async fn a_scraper_is_answered_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let served = serve(Some(authority.credentials())).await;
    let scraper = authority.issue(SCRAPER_NAME);
    is_answered(scrape(served.address, &authority, Some(&scraper)).await);
    for name in [
        "operator.lattice",
        "node1.node.lattice",
        "x.metrics.lattice",
        "metrics.lattice.example.com",
        AGENT_SERVER_NAME,
    ] {
        let own = authority.issue(name);
        assert!(scrape(served.address, &authority, Some(&own)).await.is_err(), "{name}");
    }
    assert!(
        scrape(served.address, &authority, None).await.is_err(),
        "no certificate"
    );
    let forged = other.issue(SCRAPER_NAME);
    assert!(
        scrape(served.address, &authority, Some(&forged)).await.is_err(),
        "another authority's"
    );
    is_answered(scrape(served.address, &authority, Some(&scraper)).await);
}

#[tokio::test]
async fn nothing_is_said_in_the_clear() {
    let authority = Authority::new();
    let served = serve(Some(authority.credentials())).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("EOF"), "{answer:?}");
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_holds_up_nobody() {
    let authority = Authority::new();
    let served = serve(Some(authority.credentials())).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let scraper = authority.issue(SCRAPER_NAME);
    is_answered(scrape(served.address, &authority, Some(&scraper)).await);
}

#[tokio::test]
async fn the_newest_credentials_count() {
    let (first, second) = (Authority::new(), Authority::new());
    let served = serve(None).await;
    let scraper = first.issue(SCRAPER_NAME);
    assert!(
        scrape(served.address, &first, Some(&scraper)).await.is_err(),
        "there are none yet"
    );
    served.credentials.send_replace(Some(first.credentials()));
    is_answered(scrape(served.address, &first, Some(&scraper)).await);
    served.credentials.send_replace(Some(second.credentials()));
    assert!(
        scrape(served.address, &first, Some(&scraper)).await.is_err(),
        "of the authority before"
    );
    let scraper = second.issue(SCRAPER_NAME);
    is_answered(scrape(served.address, &second, Some(&scraper)).await);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("a"), authority.issue("b"));
    let made = |certificate: &str, key: &str, authority: &str| {
        Credentials::new(certificate.as_bytes(), key.as_bytes(), authority.as_bytes())
    };
    assert!(matches!(
        made(&one.certificate, &other.key, &authority.certificate),
        Err(CredentialsError::Pair(_))
    ));
    assert!(matches!(
        made(&one.certificate, "", &authority.certificate),
        Err(CredentialsError::Unreadable { what: "key", .. })
    ));
    assert!(matches!(
        made(&one.certificate, &one.key, ""),
        Err(CredentialsError::Authority(_))
    ));
}
