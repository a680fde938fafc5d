//! The agent's one stream to central: policies come down, events go up and are kept until they are acknowledged.
//!
//! ```text
//!   Hello ──►            ◄── Denylist ──► denylist (checked) ──► PolicySink, last_good
//!                        ◄── PolicySet ──► policy_set (checked) ──► PolicySink, last_good
//!   StandingSource ──► standings (what differs) ──► Standings ──►
//!   spool ──► EventBatch ──►             ──► Applied
//!   spool ◄── acknowledge ◄── Acknowledgement
//! ```
//!
//! Central may be absent for any time: what was last received stays in force, and is read back after a restart.

pub mod denylist;
mod enrolment;
pub mod last_good;
pub mod policy_set;
mod session;
mod standings;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use lattice_api::v1::Hello;
use lattice_policy::{ExecPolicy, Mode};
use lattice_scrape::Credentials;
pub use standings::StandingSource;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use self::enrolment::Enrolled;
use crate::{backoff::Backoff, error_chain::ErrorChain, spool::Spool};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RENEWAL_WAIT: Duration = Duration::from_secs(5);
const RENEWAL_LONGEST_WAIT: Duration = Duration::from_secs(300);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const PEM_BYTES: u64 = 1 << 20;

/// Where policies from central go.
pub trait PolicySink: Send + Sync {
    /// Replaces all policies and overrides. May take its time; it is called where it may block.
    ///
    /// # Errors
    /// What was not put in force, and why; the rest is.
    fn apply(&self, policies: Vec<ExecPolicy>, namespace_modes: BTreeMap<String, Mode>) -> Result<(), String>;

    /// Replaces all denials of central's. Called where it may block.
    ///
    /// # Errors
    /// Why what was in force stays.
    fn deny(&self, list: denylist::CentralDenylist) -> Result<(), String>;
}

/// Where the agent's certificate comes from.
#[derive(Debug, Clone)]
pub enum NodeIdentity {
    /// Two files.
    Files {
        /// Certificate chain of the node (PEM).
        certificate: PathBuf,
        /// Its private key (PEM).
        key: PathBuf,
    },
    /// Central, for a token that is bound to the node.
    Enrolment {
        /// `https://HOST:PORT` of central's enrolment.
        url: String,
        /// The token's file.
        token: PathBuf,
    },
}

/// Which central, and who the agent is to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://HOST:PORT`.
    pub central: String,
    /// Where its certificate comes from, whose DNS SAN is `<node>.node.lattice`.
    pub identity: NodeIdentity,
    /// Certificates of the authority that signed central's (PEM).
    pub certificate_authority: PathBuf,
    /// What the agent says of itself first.
    pub hello: Hello,
    /// Folder where the last good set of policies is kept.
    pub state: PathBuf,
}

/// Why central cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Not a URL for this.
    #[error("{flag} {url:?} is not https://HOST:PORT")]
    Url {
        /// The flag that has it.
        flag: &'static str,
        /// What it is.
        url: String,
    },
    /// A file is missing.
    #[error("{flag} {} could not be read", path.display())]
    Read {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{flag} {} holds no PEM block \"{label}\"", path.display())]
    NoPem {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        label: &'static str,
    },
    /// Certificate, key and authority do not make a TLS client.
    #[error("certificate, key and authority do not fit together")]
    Tls(#[source] tonic::transport::Error),
    /// Nobody there, or not the right one.
    #[error("no connection to {central}")]
    Connect {
        /// Its URL.
        central: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// No key or request can be made.
    #[error("no key can be made")]
    Key(#[source] rcgen::Error),
    /// There is no certificate.
    #[error("central gives this agent no certificate: {}", .0.message())]
    NotEnrolled(Box<tonic::Status>),
    /// What came is none.
    #[error("central answered with no certificate")]
    NoCertificate,
    /// It ended the stream with a reason.
    #[error("central ended the stream: {}", .0.message())]
    Ended(Box<tonic::Status>),
    /// It ended the stream without one.
    #[error("central ended the stream")]
    Closed,
    /// It takes events and says nothing.
    #[error("central has acknowledged nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// The spool cannot be read.
    #[error("events cannot be sent")]
    Spool(#[from] crate::spool::SpoolError),
}

impl UplinkError {
    /// Whether central was reached and will not have this agent.
    pub fn is_refusal(&self) -> bool {
        let (Self::Ended(status) | Self::NotEnrolled(status)) = self else {
            return false;
        };
        matches!(
            status.code(),
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated | tonic::Code::InvalidArgument
        )
    }
}

/// How it stands with central.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not connected; trying.
    Away,
    /// Connected, and its policies were received.
    Connected,
}

/// A certificate and its key (PEM).
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The way to central.
pub struct Uplink {
    settings: Settings,
    connection: watch::Sender<Connection>,
    /// What is shown to who scrapes this agent: the certificate that central knows it by.
    scraping: watch::Sender<Option<Credentials>>,
    standings: Option<Arc<dyn StandingSource>>,
}

impl Uplink {
    /// Checks the settings, reading certificate, key and authority.
    ///
    /// # Errors
    /// When the URL is not `https://HOST:PORT`, or one of the files cannot be used.
    pub fn prepare(settings: Settings) -> Result<Self, UplinkError> {
        address("--central", &settings.central)?;
        match &settings.identity {
            NodeIdentity::Files { certificate, key } => drop(endpoint(&settings, &pair(certificate, key)?)?),
            // Its files may come later: central has not made its authority yet, or nobody has seen it.
            NodeIdentity::Enrolment { url, .. } => drop(address("--enrolment", url)?),
        }
        Ok(Self {
            settings,
            connection: watch::Sender::new(Connection::Away),
            scraping: watch::Sender::new(None),
            standings: None,
        })
    }

    /// Tells central, besides, what holds for the node's containers.
    pub fn with_standings(self, source: Arc<dyn StandingSource>) -> Self {
        Self {
            standings: Some(source),
            ..self
        }
    }

    /// How it stands with central, now and at every change.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    /// What there is to show to a scraper, now and at every change; nothing before the first certificate.
    pub fn scraping(&self) -> watch::Receiver<Option<Credentials>> {
        self.scraping.subscribe()
    }

    /// Connects, and connects again whenever the connection ends; never returns. Logs once when central comes and once when it
    /// goes. Only one may run for a spool.
    pub async fn run(self, spool: Arc<Spool>, sink: Arc<dyn PolicySink>) -> std::convert::Infallible {
        let central = &self.settings.central;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut said = String::new();
        let mut enrolled = None;
        loop {
            let error = match self.ready(&mut enrolled).await {
                Ok(endpoint) => tokio::select! {
                    ended = session::run(endpoint, &self, &spool, &sink) => match ended {
                        Ok(never) => match never {},
                        Err(error) => error,
                    },
                    renewed = self.renewed(enrolled.as_ref()) => {
                        enrolled = Some(renewed);
                        tracing::info!(central, "central has given this agent its next certificate; connecting anew");
                        continue;
                    }
                },
                Err(error) => error,
            };
            let was = self.connection.send_replace(Connection::Away);
            let is_refused = error.is_refusal();
            let error = ErrorChain(&error).to_string();
            if was == Connection::Connected {
                backoff.reset();
            }
            if was == Connection::Connected || said != error {
                if is_refused {
                    let must = match &self.settings.identity {
                        NodeIdentity::Files { .. } => {
                            "--client-cert must be of the node that --node names, and of central's authority"
                        }
                        NodeIdentity::Enrolment { .. } => {
                            "the token must be one of the agent's own service account on the node that --node names"
                        }
                    };
                    tracing::error!(
                        central,
                        error,
                        "central refuses this agent: {must}; the last policies stay in force, events are kept, trying again"
                    );
                } else {
                    tracing::warn!(
                        central,
                        error,
                        "central is away; its last policies stay in force, events are kept, trying again"
                    );
                }
                said = error;
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }
}

/// Asks for a certificate and throws it away; says how long it would have held.
///
/// # Errors
/// When a file cannot be read, or central is away or refuses.
pub async fn try_enrolment(url: &str, token: &Path, authority: &Path, node: &str) -> Result<Duration, UplinkError> {
    let asked = Instant::now();
    let enrolled = enrolment::enrol(authority, node, url, token).await?;
    Ok(enrolled.end().saturating_duration_since(asked))
}

impl Uplink {
    /// What to connect by. Files are read anew each time, so that a renewed certificate or authority is taken up.
    async fn ready(&self, enrolled: &mut Option<Enrolled>) -> Result<Endpoint, UplinkError> {
        let pair = match &self.settings.identity {
            NodeIdentity::Files { certificate, key } => pair(certificate, key)?,
            NodeIdentity::Enrolment { url, token } => {
                let now = Instant::now();
                let authority = pem("--ca", &self.settings.certificate_authority, "CERTIFICATE")?;
                let kept = enrolled.take().filter(|enrolled| enrolled.holds(&authority, now));
                let kept = match kept {
                    Some(kept) => kept,
                    None => self.enrol(url, token).await?,
                };
                enrolled.insert(kept).pair()
            }
        };
        self.show_scrapers(&pair)?;
        endpoint(&self.settings, &pair)
    }

    fn show_scrapers(&self, pair: &Pair) -> Result<(), UplinkError> {
        let authority = pem("--ca", &self.settings.certificate_authority, "CERTIFICATE")?;
        match Credentials::new(&pair.certificate, &pair.key, &authority) {
            Ok(credentials) => drop(self.scraping.send_replace(Some(credentials))),
            // For central they may do all the same.
            Err(error) => tracing::warn!(
                error = ErrorChain(&error).to_string(),
                "metrics are not served with the certificate that central knows this agent by"
            ),
        }
        Ok(())
    }

    async fn enrol(&self, url: &str, token: &Path) -> Result<Enrolled, UplinkError> {
        let Settings {
            certificate_authority,
            hello,
            ..
        } = &self.settings;
        enrolment::enrol(certificate_authority, &hello.node, url, token).await
    }

    /// The certificate after this one; never where there is none to renew.
    async fn renewed(&self, enrolled: Option<&Enrolled>) -> Enrolled {
        let (Some(enrolled), NodeIdentity::Enrolment { url, token }) = (enrolled, &self.settings.identity) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(enrolled.renew().into()).await;
        let mut backoff = Backoff::new(RENEWAL_WAIT, RENEWAL_LONGEST_WAIT);
        loop {
            match self.enrol(url, token).await {
                Ok(next) => return next,
                Err(error) => {
                    let error = ErrorChain(&error).to_string();
                    tracing::warn!(
                        error,
                        "the next certificate is not to be had yet; going on with this one, trying again"
                    );
                }
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }
}

/// Where somebody is expected; nothing of it is looked up.
fn address(flag: &'static str, url: &str) -> Result<Endpoint, UplinkError> {
    let wrong = || UplinkError::Url {
        flag,
        url: url.chars().take(256).collect(),
    };
    if !url.starts_with("https://") {
        return Err(wrong());
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
    match endpoint.uri().host() {
        Some(_) => Ok(endpoint),
        None => Err(wrong()),
    }
}

fn pair(certificate: &Path, key: &Path) -> Result<Pair, UplinkError> {
    Ok(Pair {
        certificate: pem("--client-cert", certificate, "CERTIFICATE")?,
        key: pem("--client-key", key, "PRIVATE KEY")?,
    })
}

fn endpoint(settings: &Settings, pair: &Pair) -> Result<Endpoint, UplinkError> {
    let authority = pem("--ca", &settings.certificate_authority, "CERTIFICATE")?;
    let tls = ClientTlsConfig::new()
        .identity(Identity::from_pem(&pair.certificate, &pair.key))
        .ca_certificate(Certificate::from_pem(authority));
    Ok(address("--central", &settings.central)?
        .tls_config(tls)
        .map_err(UplinkError::Tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// `label` is the end of a block's label: keys have several.
fn pem(flag: &'static str, path: &Path, label: &'static str) -> Result<Vec<u8>, UplinkError> {
    let read = |source| UplinkError::Read {
        flag,
        path: path.into(),
        source,
    };
    if fs::metadata(path).map_err(read)?.len() > PEM_BYTES {
        return Err(UplinkError::NoPem {
            flag,
            path: path.into(),
            label,
        });
    }
    let content = fs::read_to_string(path).map_err(read)?;
    let is_there = content
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----")));
    if !is_there {
        return Err(UplinkError::NoPem {
            flag,
            path: path.into(),
            label,
        });
    }
    Ok(content.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let settings = Settings {
            central: "https://central:7443".into(),
            identity: NodeIdentity::Files {
                certificate: file("cert", "-----BEGIN CERTIFICATE-----\n"),
                key: file("key", "nothing"),
            },
            certificate_authority: folder.path().join("none"),
            hello: Hello::default(),
            state: folder.path().into(),
        };
        let error = |settings: Settings| Uplink::prepare(settings).err().unwrap().to_string();
        assert!(
            error(Settings {
                central: "http://central:1".into(),
                ..settings.clone()
            })
            .contains("is not https://HOST:PORT")
        );
        assert!(
            error(Settings {
                central: "https://".into(),
                ..settings.clone()
            })
            .contains("--c")
        );
        assert!(
            error(Settings {
                identity: NodeIdentity::Enrolment {
                    url: "central:7444".into(),
                    token: "none".into(),
                },
                ..settings.clone()
            })
            .contains("--enrolment \"central:7444\" is not")
        );
        assert!(error(settings.clone()).contains("key holds no PEM block \"PRIVATE KEY\""));
        file("key", "-----BEGIN EC PRIVATE KEY-----\n");
        assert!(error(settings).contains("none could not be read"));
    }
}
