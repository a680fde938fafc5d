//! The listener: gRPC over TLS, with a client certificate from every caller.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lattice_api::v1::{
    agent_hub_server::AgentHubServer, control_server::ControlServer, enrolment_server::EnrolmentServer,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming};

use crate::{
    admission, authority::Pair, board::Board, denials::Denials, enrolment::Refusal, nodes::Nodes,
    rollout::driver::Rollouts, settings::Settings, standings::Standings, store::Store,
};

mod control;
mod denial;
mod enrol;
mod hub;
mod rollout;
mod scrape;

pub use enrol::Enroller;
pub use scrape::BoundMetrics;

/// A message from an agent; a batch of events.
pub const INBOUND_BYTES_MAXIMUM: usize = 4 * 1024 * 1024;
/// A request of latticectl; a candidate's documents, and what goes with them.
const REQUEST_BYTES_MAXIMUM: usize = lattice_policy::document::MAX_FILE_BYTES + 64 * 1024;
/// A message to an agent; the whole policy set. Agents must accept as much.
pub const OUTBOUND_BYTES_MAXIMUM: usize = 64 * 1024 * 1024;

/// What the services share.
pub struct Shared {
    /// What holds now.
    pub board: Arc<Board>,
    /// What is refused everywhere.
    pub denials: Denials,
    /// How namespaces get from monitor to enforce.
    pub rollouts: Rollouts,
    /// The agents.
    pub nodes: Nodes,
    /// Their containers.
    pub standings: Standings,
    /// Events.
    pub store: Store,
    /// What was counted.
    pub counters: Counters,
    /// Turns true when central is asked to stop.
    pub stopping: watch::Receiver<bool>,
}

impl Shared {
    /// Everything that is counted, by its documented name.
    pub async fn counted(&self) -> BTreeMap<String, u64> {
        let mut counted: BTreeMap<String, u64> = self.counters.all().into_iter().collect();
        counted.extend(self.rollouts.counts().await);
        counted.extend(self.nodes.counts());
        counted
    }
}

/// Counters of the hub.
#[derive(Debug, Default)]
pub struct Counters {
    stored: AtomicU64,
    repeated: AtomicU64,
    spoofed: AtomicU64,
    enrolled: AtomicU64,
    enrolments_refused: [AtomicU64; Refusal::REASONS.len()],
    admission: admission::Counts,
}

impl Counters {
    fn stored(&self, received: usize, stored: usize) {
        // Both are at most a batch's length.
        self.stored.fetch_add(stored as u64, Ordering::Relaxed);
        self.repeated.fetch_add((received - stored) as u64, Ordering::Relaxed);
    }

    fn spoofed(&self) {
        self.spoofed.fetch_add(1, Ordering::Relaxed);
    }

    fn enrolled(&self) {
        self.enrolled.fetch_add(1, Ordering::Relaxed);
    }

    fn enrolment_refused(&self, refusal: &Refusal) {
        self.enrolments_refused[refusal.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Those of admission.
    pub fn admission(&self) -> &admission::Counts {
        &self.admission
    }

    /// Every counter by its documented name.
    pub fn all(&self) -> Vec<(String, u64)> {
        let refused = Refusal::REASONS
            .iter()
            .zip(&self.enrolments_refused)
            .map(|(reason, count)| {
                (
                    format!("lattice_central_enrolments_refused_total{{reason=\"{reason}\"}}"),
                    count.load(Ordering::Relaxed),
                )
            });
        let mut all = vec![
            (
                "lattice_central_enrolments_total".to_owned(),
                self.enrolled.load(Ordering::Relaxed),
            ),
            (
                "lattice_central_events_stored_total".to_owned(),
                self.stored.load(Ordering::Relaxed),
            ),
            (
                "lattice_central_events_repeated_total".to_owned(),
                self.repeated.load(Ordering::Relaxed),
            ),
            (
                "lattice_central_spoofed_messages_total".to_owned(),
                self.spoofed.load(Ordering::Relaxed),
            ),
        ];
        all.extend(refused);
        all.extend(self.admission.all());
        all
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A certificate or key could not be read.
    #[error(
        "{path}: cannot read the {what}; `lattice-central init-tls --directory DIR` makes one for local use \
         (--tls-cert, --tls-key, --client-ca name the files)"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The certificate, key or authority is not usable.
    #[error("the TLS certificates ({0}) cannot be used together")]
    Tls(String, #[source] tonic::transport::Error),
    /// The address is taken or not ours.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The certificates are of no use for metrics.
    #[error("metrics cannot be served with the certificates of {0}")]
    Scraping(String, #[source] lattice_scrape::CredentialsError),
    /// The server ended with an error.
    #[error("the server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// A server that is bound, but does not answer yet.
pub struct BoundServer {
    listener: TcpListener,
    tls: ServerTlsConfig,
    /// Where its certificates come from.
    tls_source: String,
    address: SocketAddr,
}

impl BoundServer {
    /// Reads the certificates and binds.
    ///
    /// # Errors
    /// When a file cannot be read or the address cannot be bound.
    pub async fn bind(settings: &Settings) -> Result<Self, ServerError> {
        let certificate = read(&settings.tls_cert, "server certificate")?;
        let key = read(&settings.tls_key, "server key")?;
        let client_ca = read(&settings.client_ca, "authority of client certificates")?;
        let tls = tls(certificate, key).client_ca_root(Certificate::from_pem(client_ca));
        let tls_source = format!(
            "{}, {}, {}",
            settings.tls_cert.display(),
            settings.tls_key.display(),
            settings.client_ca.display()
        );
        Self::at(settings.listen, tls, tls_source).await
    }

    /// Binds with a certificate that was made for this process, and takes who has one of the same authority.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind_as(listen: SocketAddr, server: &Pair, authority: &str) -> Result<Self, ServerError> {
        let tls = tls(&server.certificate, &server.key).client_ca_root(Certificate::from_pem(authority));
        Self::at(listen, tls, "of --identity".to_owned()).await
    }

    async fn at(listen: SocketAddr, tls: ServerTlsConfig, tls_source: String) -> Result<Self, ServerError> {
        let failed = |error| ServerError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            tls,
            tls_source,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shared.stopping` turns true and the open streams have ended.
    ///
    /// # Errors
    /// When the certificates cannot be used, or the listener fails.
    pub async fn serve(self, shared: Arc<Shared>) -> Result<(), ServerError> {
        let mut stopping = shared.stopping.clone();
        let hub = AgentHubServer::new(hub::Hub { shared: shared.clone() })
            .max_decoding_message_size(INBOUND_BYTES_MAXIMUM)
            .max_encoding_message_size(OUTBOUND_BYTES_MAXIMUM);
        let control = ControlServer::new(control::ControlService { shared })
            .max_decoding_message_size(REQUEST_BYTES_MAXIMUM)
            .max_encoding_message_size(OUTBOUND_BYTES_MAXIMUM);
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        Server::builder()
            .tls_config(self.tls)
            .map_err(|error| ServerError::Tls(self.tls_source, error))?
            // A dead peer is noticed within half a minute, also where no packet says that it is gone.
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .max_concurrent_streams(Some(64))
            .add_service(hub)
            .add_service(control)
            .serve_with_incoming_shutdown(incoming, async move { stopped(&mut stopping).await })
            .await
            .map_err(ServerError::Serve)
    }
}

/// The listener where agents enrol: bound, but not answering yet. No certificate is asked for.
pub struct BoundEnrolment {
    bound: BoundServer,
    enroller: Enroller,
}

impl BoundEnrolment {
    /// Binds.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(listen: SocketAddr, server: &Pair, enroller: Enroller) -> Result<Self, ServerError> {
        let tls = tls(&server.certificate, &server.key);
        let bound = BoundServer::at(listen, tls, "of --identity".to_owned()).await?;
        Ok(Self { bound, enroller })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// Answers until `shared.stopping` turns true. Whoever connects is unknown, so nothing is left open for long.
    ///
    /// # Errors
    /// When the certificates cannot be used, or the listener fails.
    pub async fn serve(self, shared: Arc<Shared>) -> Result<(), ServerError> {
        let Self { bound, enroller } = self;
        let mut stopping = shared.stopping.clone();
        let service = EnrolmentServer::new(enrol::EnrolmentService::new(shared, enroller))
            .max_decoding_message_size(ENROLMENT_BYTES_MAXIMUM);
        Server::builder()
            .tls_config(bound.tls)
            .map_err(|error| ServerError::Tls(bound.tls_source, error))?
            .timeout(Duration::from_secs(20))
            .max_concurrent_streams(Some(2))
            .max_connection_age(Duration::from_secs(30))
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(bound.listener), async move {
                stopped(&mut stopping).await;
            })
            .await
            .map_err(ServerError::Serve)
    }
}

/// A token, a request and a name.
const ENROLMENT_BYTES_MAXIMUM: usize = 16 * 1024;

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|source| ServerError::File {
        path: path.to_owned(),
        what,
        source,
    })
}

fn tls(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .timeout(Duration::from_secs(10))
}

/// Waits until central is stopping.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Where the sender is gone, central is gone too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
