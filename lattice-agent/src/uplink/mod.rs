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
pub mod last_good;
pub mod policy_set;
mod session;
mod standings;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lattice_api::v1::Hello;
use lattice_policy::{ExecPolicy, Mode};
pub use standings::StandingSource;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{backoff::Backoff, error_chain::ErrorChain, spool::Spool};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Which central, and who the agent is to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://HOST:PORT`.
    pub central: String,
    /// Certificate chain of the node (PEM); its DNS SAN is `<node>.node.lattice`.
    pub client_certificate: PathBuf,
    /// Its private key (PEM).
    pub client_key: PathBuf,
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
    #[error("--central {0:?} is not https://HOST:PORT")]
    Url(String),
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
    fn is_refusal(&self) -> bool {
        let Self::Ended(status) = self else { return false };
        matches!(
            status.code(),
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated
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

/// The way to central.
pub struct Uplink {
    settings: Settings,
    connection: watch::Sender<Connection>,
    standings: Option<Arc<dyn StandingSource>>,
}

impl Uplink {
    /// Checks the settings, reading certificate, key and authority.
    ///
    /// # Errors
    /// When the URL is not `https://HOST:PORT`, or one of the files cannot be used.
    pub fn prepare(settings: Settings) -> Result<Self, UplinkError> {
        endpoint(&settings)?;
        Ok(Self {
            settings,
            connection: watch::Sender::new(Connection::Away),
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

    /// Connects, and connects again whenever the connection ends; never returns. Logs once when central comes and once when it
    /// goes. Only one may run for a spool.
    pub async fn run(self, spool: Arc<Spool>, sink: Arc<dyn PolicySink>) -> std::convert::Infallible {
        let central = &self.settings.central;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut said = String::new();
        loop {
            // Read anew each time, so that a renewed certificate is taken up.
            let error = match endpoint(&self.settings) {
                Ok(endpoint) => match session::run(endpoint, &self, &spool, &sink).await {
                    Ok(never) => match never {},
                    Err(error) => error,
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
                    tracing::error!(
                        central,
                        error,
                        "central refuses this agent: --client-cert must be of the node that --node names, and of central's authority; the last \
                         policies stay in force, events are kept, trying again"
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

fn endpoint(settings: &Settings) -> Result<Endpoint, UplinkError> {
    let url = || UplinkError::Url(settings.central.chars().take(256).collect());
    if !settings.central.starts_with("https://") {
        return Err(url());
    }
    let certificate = pem("--client-cert", &settings.client_certificate, "CERTIFICATE")?;
    let key = pem("--client-key", &settings.client_key, "PRIVATE KEY")?;
    let authority = pem("--ca", &settings.certificate_authority, "CERTIFICATE")?;
    let tls = ClientTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .ca_certificate(Certificate::from_pem(authority));
    let endpoint = Endpoint::from_shared(settings.central.clone()).map_err(|_| url())?;
    if endpoint.uri().host().is_none() {
        return Err(url());
    }
    Ok(endpoint
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
            client_certificate: file("cert", "-----BEGIN CERTIFICATE-----\n"),
            client_key: file("key", "nothing"),
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
        assert!(error(settings.clone()).contains("key holds no PEM block \"PRIVATE KEY\""));
        file("key", "-----BEGIN EC PRIVATE KEY-----\n");
        assert!(error(settings).contains("none could not be read"));
    }
}
