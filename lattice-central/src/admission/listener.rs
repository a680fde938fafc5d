//! The listener: HTTP/1.1 over TLS, for whoever reaches it. Nothing that is asked here changes anything, and nothing is left open for long.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Counts, Outcome, Stage,
    answer::{Answer, Came, answer},
    certificate::RenewedCertificate,
    judge::Judge,
    notices::Notices,
    review::{self, BYTES_MAXIMUM, Malformed, Review},
};
use crate::server::{Shared, stopped};

/// Connections at a time; the API server keeps one for each review that is under way.
const CONNECTIONS_MAXIMUM: usize = 1_024;
/// Reviews that are being judged, with those that the API server no longer waits for.
const REVIEWS_MAXIMUM: usize = 1_024;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A request's head, and how long a connection may be idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// What the API server waits for an answer if it does not say so, and the most that is believed.
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAXIMUM: Duration = Duration::from_secs(30);
/// The answer has to be there before the API server stops waiting: of its time so much is used.
const USED_PERCENT: u32 = 80;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address is taken or not ours.
    #[error("--admission-listen {0}: cannot listen there")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// TLS.
    #[error("--admission-listen: TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// What answers reviews.
pub struct Admission {
    judge: Arc<Judge>,
    shared: Arc<Shared>,
    notices: Option<Notices>,
    reviews: Arc<Semaphore>,
}

/// A listener that is bound, but does not answer yet.
pub struct BoundAdmission {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    address: SocketAddr,
}

impl BoundAdmission {
    /// Binds.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(listen: SocketAddr, certificate: Arc<RenewedCertificate>) -> Result<Self, ListenerError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ListenerError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let failed = |error| ListenerError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stopping` turns true.
    pub async fn serve(self, admission: Arc<Admission>, stopping: watch::Receiver<bool>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAXIMUM));
        let mut ending = stopping.clone();
        let accepting = async {
            loop {
                // Never closed. Who comes on top of that waits in the kernel's queue.
                let Ok(permit) = connections.clone().acquire_owned().await else {
                    return;
                };
                let Ok((stream, _)) = self.listener.accept().await else {
                    // No file descriptors, say: others end meanwhile.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (acceptor, admission, stopping) = (self.acceptor.clone(), admission.clone(), stopping.clone());
                tokio::spawn(async move {
                    admission.connection(acceptor, stream, stopping).await;
                    drop(permit);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stopped(&mut ending) => {}
        }
    }
}

impl Admission {
    /// Judges by `judge`, counts in `shared`, and tells the cluster of what it refuses where there is one.
    pub fn new(judge: Arc<Judge>, shared: Arc<Shared>, notices: Option<Notices>) -> Arc<Self> {
        Arc::new(Self {
            judge,
            shared,
            notices,
            reviews: Arc::new(Semaphore::new(REVIEWS_MAXIMUM)),
        })
    }

    async fn connection(
        self: Arc<Self>,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        mut stopping: watch::Receiver<bool>,
    ) {
        // Who does not finish his handshake, or speaks no HTTP, learns nothing and is not worth a line for each try.
        let Ok(Ok(stream)) = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await else {
            tracing::debug!("a TLS handshake at the admission listener did not succeed");
            return;
        };
        let admission = self.clone();
        let service = service_fn(move |request| {
            let admission = admission.clone();
            async move { Ok::<_, Infallible>(admission.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the admission listener ended");
        }
    }

    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let stage = Stage::ALL
            .into_iter()
            .find(|stage| stage.path() == request.uri().path());
        let Some(stage) = stage else {
            return plain(StatusCode::NOT_FOUND, "there are /admission/warn and /admission/deny");
        };
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is posted");
        }
        let limit = used_of(requested_timeout(request.uri().query()));
        let end = Instant::now() + limit;
        let body = Limited::new(request.into_body(), BYTES_MAXIMUM).collect();
        let body = match timeout_at(end, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                self.counts().review(stage, Outcome::Malformed);
                let problem = format!("the body has more than {BYTES_MAXIMUM} bytes");
                return plain(StatusCode::PAYLOAD_TOO_LARGE, &problem);
            }
            Ok(Err(_)) | Err(_) => {
                self.counts().review(stage, Outcome::Malformed);
                return plain(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
            }
        };
        let review = match review::read(&body) {
            Ok(review) => Arc::new(review),
            Err(malformed) => return self.malformed(stage, &malformed),
        };
        let came = self.judge(review.clone(), limit, end).await;
        self.tell(stage, &review, answer(stage, &review, came))
    }

    fn malformed(&self, stage: Stage, malformed: &Malformed) -> Response<Full<Bytes>> {
        self.counts().review(stage, Outcome::Malformed);
        tracing::warn!(%stage, problem = %malformed, "what came to the admission listener is no review");
        plain(StatusCode::BAD_REQUEST, &malformed.to_string())
    }

    /// What the API server no longer waits for goes on, so that its next try finds the answer.
    async fn judge(&self, review: Arc<Review>, limit: Duration, end: Instant) -> Came {
        if review.images.is_empty() {
            return Came::Judged(Default::default());
        }
        let Ok(permit) = self.reviews.clone().try_acquire_owned() else {
            return Came::Unready("has too many reviews to judge");
        };
        let judge = self.judge.clone();
        let judging = tokio::spawn(async move {
            let judgement = judge.judge(&review).await;
            drop(permit);
            judgement
        });
        match timeout_at(end, judging).await {
            Ok(Ok(Some(judgement))) => Came::Judged(judgement),
            Ok(Ok(None)) => Came::Unready("has not seen all TrustPolicies and CedarPolicies yet"),
            // The task panicked, which has been printed already.
            Ok(Err(_)) => Came::Unready("could not judge it"),
            Err(_) => Came::Late(limit),
        }
    }

    fn tell(&self, stage: Stage, review: &Review, answer: Answer) -> Response<Full<Bytes>> {
        let Answer {
            response,
            outcome,
            notice,
        } = answer;
        self.counts().review(stage, outcome);
        let (namespace, kind, workload) = (&review.namespace, &review.kind, &review.workload.name);
        let (user, dry_run, allowed) = (review.user.escape_debug(), review.is_dry_run(), response.allowed);
        if outcome != Outcome::Allowed {
            let said = notice.as_ref().map(|(_, text)| text.as_str());
            let said = said.unwrap_or(response.result.message.as_str());
            tracing::warn!(
                %stage, outcome = outcome.word(), allowed, namespace = %namespace.escape_debug(), kind = %kind.escape_debug(),
                workload = %workload.escape_debug(), %user, dry_run, "admission: {}", said.escape_debug()
            );
        }
        if let (Some(notices), Some((reason, text)), false) = (&self.notices, notice, dry_run)
            && !notices.send(review, reason, text)
        {
            self.counts().notice_lost();
        }
        match serde_json::to_vec(&response.into_review()) {
            Ok(body) => {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            // Strings and numbers have no form that JSON lacks.
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    fn counts(&self) -> &Counts {
        self.shared.counters.admission()
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

/// The API server appends how long it waits: `timeout=10s`.
fn requested_timeout(query: Option<&str>) -> Duration {
    let mut parameters = query.unwrap_or_default().split('&');
    let asked = parameters.find_map(|parameter| parameter.strip_prefix("timeout="));
    let seconds = asked.and_then(|text| text.strip_suffix('s')?.parse::<u64>().ok());
    seconds.map_or(TIMEOUT, |seconds| {
        Duration::from_secs(seconds).clamp(Duration::from_secs(1), TIMEOUT_MAXIMUM)
    })
}

fn used_of(timeout: Duration) -> Duration {
    timeout * USED_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_before_the_api_server_stops_waiting() {
        for (query, seconds) in [
            (None, 10),
            (Some("timeout=10s"), 10),
            (Some("dryRun=All&timeout=5s"), 5),
            (Some("timeout=0s"), 1),
            (Some("timeout=3600s"), 30),
            (Some("timeout=-5s"), 10),
            (Some("timeout=99999999999999999999s"), 10),
            (Some("timeout=5"), 10),
            (Some("timeout="), 10),
        ] {
            let asked = Duration::from_secs(seconds);
            assert_eq!(requested_timeout(query), asked, "{query:?}");
            assert_eq!(used_of(asked), asked * 4 / 5);
        }
    }
}
