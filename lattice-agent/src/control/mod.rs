//! What `latticectl` asks of the agent, on a Unix socket that only root may open.
//!
//! ```text
//!   latticectl ──► socket ──► service ──► Backend (status, policies, modes in force)
//!                                 ├──► RecentEvents (a bounded memory of the latest, and who follows it)
//!                                 └──► LocalModes (overrides, where there is no central)
//! ```

mod local_modes;
mod recent_events;
mod service;
mod socket;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use lattice_api::v1::{Denial, EffectiveMode, GetStatusResponse, NodeReport, control_server::ControlServer};
use lattice_policy::{ExecPolicy, Mode};
pub use local_modes::{LocalModes, SetModeError};
pub use recent_events::RecentEvents;
pub(crate) use socket::Incoming;
pub use socket::{ControlSocket, SocketError};
use tonic::transport::Server;

use self::service::Service;

/// What the rest of the agent answers. Called where it may block for a moment.
pub trait Backend: Send + Sync + 'static {
    /// All of `GetStatus`.
    fn status(&self) -> GetStatusResponse;

    /// The mode that holds for each policy of a namespace, or of all where it is empty, and where it comes from.
    fn effective_modes(&self, namespace: &str) -> Vec<EffectiveMode>;

    /// Policies in force, of a namespace or of all where it is empty.
    fn policies(&self, namespace: &str) -> Vec<ExecPolicy>;

    /// What is denied on this node, and the revision of central's part of it.
    fn denials(&self) -> (u64, Vec<Denial>);

    /// What the node offers, tried anew.
    ///
    /// # Errors
    /// When nothing could be tried.
    fn node_report(&self) -> Result<NodeReport, String>;

    /// Replaces the overrides by namespace; only called where there is no central.
    ///
    /// # Errors
    /// What was not put in force, and why.
    fn apply_namespace_modes(&self, modes: BTreeMap<String, Mode>) -> Result<(), String>;
}

/// Answers on the socket until `stop`.
///
/// # Errors
/// When the server fails.
pub async fn serve(
    socket: ControlSocket,
    backend: Arc<dyn Backend>,
    events: Arc<RecentEvents>,
    modes: Arc<LocalModes>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let service = ControlServer::new(Service {
        backend,
        events: Arc::clone(&events),
        modes,
    });
    let stop = async {
        stop.await;
        // Who follows would keep the server up.
        events.close();
    };
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(socket.incoming(), stop)
        .await
}
