//! The listener itself.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::credentials::{Credentials, is_scraper};

/// Who connects is unknown until then, and is not waited for any longer.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Who comes on top of these waits in the kernel's queue.
const HANDSHAKES_AT_A_TIME: usize = 16;
/// Wait after a connection that could not be taken: there may be no descriptor left.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// When the address is taken, or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// The address, with the port that was given where it was left open.
    ///
    /// # Errors
    /// When the socket is none any more.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers scrapers by the router, with the newest credentials; nobody as long as there are none. Ends when it is dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        credentials: watch::Receiver<Option<Credentials>>,
        router: Router,
    ) -> io::Result<Infallible> {
        let (arriving, arrived) = mpsc::channel(1);
        let answering = async { axum::serve(Scrapers { arrived }, router).await };
        tokio::select! {
            ended = answering => match ended {
                Ok(()) => Err(io::Error::other("the listener ended")),
                Err(error) => Err(error),
            },
            never = welcome(self.listener, credentials, arriving) => match never {},
        }
    }
}

/// Takes connections and shakes hands, each beside the others, so that a slow one holds up nobody.
async fn welcome(
    listener: TcpListener,
    credentials: watch::Receiver<Option<Credentials>>,
    arriving: mpsc::Sender<TlsStream<TcpStream>>,
) -> Infallible {
    let room = Arc::new(Semaphore::new(HANDSHAKES_AT_A_TIME));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            // Nobody closes it.
            return std::future::pending().await;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the metrics' listener could not be taken");
                sleep(RETRY_INTERVAL).await;
                continue;
            }
        };
        let Some(credentials) = credentials.borrow().clone() else {
            tracing::debug!("a scraper is turned away: there is no certificate to show to it yet");
            continue;
        };
        let arriving = arriving.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(credentials.config).accept(stream)).await {
                Ok(Ok(stream)) if is_scraper(stream.get_ref().1.peer_certificates().unwrap_or_default()) => {
                    // Where nobody answers any more, nobody is to be answered.
                    let _ = arriving.send(stream).await;
                }
                Ok(Ok(_)) => tracing::debug!("who is turned away has a certificate that is not for metrics"),
                Ok(Err(error)) => tracing::debug!(%error, "who connects is no scraper"),
                Err(_) => tracing::debug!("who connects does not finish the handshake"),
            }
        });
    }
}

/// Those whose certificate was seen.
struct Scrapers {
    arrived: mpsc::Receiver<TlsStream<TcpStream>>,
}

impl axum::serve::Listener for Scrapers {
    type Io = TlsStream<TcpStream>;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        match self.arrived.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
