//! The listener: gRPC over TLS, with a client certificate from every caller.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lattice_api::v1::{agent_hub_server::AgentHubServer, control_server::ControlServer};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming};

use crate::{
    board::Board, denials::Denials, nodes::Nodes, rollout::driver::Rollouts, settings::Settings, standings::Standings,
    store::Store,
};

mod control;
mod denial;
mod hub;
mod rollout;

/// A message from an agent; a batch of events.
pub const INBOUND_BYTES_MAXIMUM: usize = 4 * 1024 * 1024;
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

/// Counters of the hub.
#[derive(Debug, Default)]
pub struct Counters {
    stored: AtomicU64,
    repeated: AtomicU64,
    spoofed: AtomicU64,
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

    /// Every counter by its documented name.
    pub fn all(&self) -> [(String, u64); 3] {
        [
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
        ]
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
    #[error("the TLS files ({0}) cannot be used together")]
    Tls(String, #[source] tonic::transport::Error),
    /// The address is taken or not ours.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The server ended with an error.
    #[error("the server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// A server that is bound, but does not answer yet.
pub struct BoundServer {
    listener: TcpListener,
    tls: ServerTlsConfig,
    tls_files: String,
    address: SocketAddr,
}

impl BoundServer {
    /// Reads the certificates and binds.
    ///
    /// # Errors
    /// When a file cannot be read or the address cannot be bound.
    pub async fn bind(settings: &Settings) -> Result<Self, ServerError> {
        let read = |path: &PathBuf, what: &'static str| {
            std::fs::read(path).map_err(|source| ServerError::File {
                path: path.clone(),
                what,
                source,
            })
        };
        let certificate = read(&settings.tls_cert, "server certificate")?;
        let key = read(&settings.tls_key, "server key")?;
        let client_ca = read(&settings.client_ca, "authority of client certificates")?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(client_ca))
            .timeout(Duration::from_secs(10));
        let tls_files = format!(
            "{}, {}, {}",
            settings.tls_cert.display(),
            settings.tls_key.display(),
            settings.client_ca.display()
        );
        let failed = |error| ServerError::Listen(settings.listen, error);
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            tls,
            tls_files,
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
            .max_decoding_message_size(64 * 1024)
            .max_encoding_message_size(OUTBOUND_BYTES_MAXIMUM);
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        Server::builder()
            .tls_config(self.tls)
            .map_err(|error| ServerError::Tls(self.tls_files, error))?
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

/// Waits until central is stopping.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Where the sender is gone, central is gone too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
