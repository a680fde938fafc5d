//! Centrals that answer garbage, endlessly, or about what was never sent. The certificate is good: what a stolen server can do.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body::Frame;
use lattice_agent::{
    spool::Spool,
    uplink::{Connection, PolicySink, last_good},
};
use lattice_api::v1::{Acknowledgement, HubMessage, PolicySet, hub_message};
use lattice_policy::Mode;
use prost::{Message as _, bytes::Bytes};
use tokio::runtime::Runtime;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    Central, Certificates, Hub, Maps, Seen, denylist, event, free_address, listen, policy_set, uplink, wait_for,
};

/// What is answered to each request, whatever it was.
#[derive(Clone)]
struct Answer {
    status: u16,
    content_type: &'static str,
    frames: Vec<Bytes>,
    /// How often the frames come, one after the other.
    times: usize,
    /// Whether the answer ends then, or leaves the agent waiting.
    ends: bool,
}

/// gRPC in form.
fn grpc(frames: Vec<Bytes>, times: usize, ends: bool) -> Answer {
    Answer {
        status: 200,
        content_type: "application/grpc",
        frames,
        times,
        ends,
    }
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap();
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn said(kind: hub_message::Kind) -> Bytes {
    framed(&HubMessage { kind: Some(kind) }.encode_to_vec())
}

#[derive(Clone)]
struct Liar {
    answer: Answer,
    requests: Arc<AtomicUsize>,
}

impl NamedService for Liar {
    const NAME: &'static str = "lattice.v1.AgentHub";
}

impl Service<http::Request<Body>> for Liar {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let Answer {
            status,
            content_type,
            frames,
            times,
            ends,
        } = self.answer.clone();
        let told = Told {
            queue: frames.iter().cloned().cycle().take(frames.len() * times).collect(),
            ends,
            // Held, so that the agent can go on sending.
            _request: request.into_body(),
        };
        let response = http::Response::builder()
            .status(status)
            .header("content-type", content_type)
            .body(Body::new(told));
        ready(Ok(response.unwrap()))
    }
}

struct Told {
    queue: VecDeque<Bytes>,
    ends: bool,
    _request: Body,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.queue.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn serve(answer: Answer, certificates: &Certificates, address: SocketAddr) -> (Central, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let liar = Liar {
        answer,
        requests: Arc::clone(&requests),
    };
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(
            certificates.text("server.pem"),
            certificates.text("server.key"),
        ))
        .client_ca_root(Certificate::from_pem(certificates.text("ca.pem")));
    let server = Server::builder().tls_config(tls).unwrap().add_service(liar);
    let listener = listen(address);
    let runtime = Runtime::new().unwrap();
    runtime.spawn(async move {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
        server.serve_with_incoming(incoming).await.unwrap();
    });
    (Central(Some(runtime)), requests)
}

/// The agent has policies and events of before; they must be there afterwards, and an honest central must get along with it.
async fn check(name: &str, answer: Answer) {
    let (certificates, state) = (Certificates::new(), tempfile::tempdir().unwrap());
    let spool = Arc::new(Spool::open(&state.path().join("spool"), 1 << 20).unwrap());
    for sequence in 1..=3 {
        spool.append(&[event(sequence)]).unwrap();
    }
    let maps = Arc::new(Maps::default());
    let address = free_address();
    let ends = answer.ends;
    let (liar, requests) = serve(answer, &certificates, address);
    let uplink = uplink(&certificates, address, "ca.pem", state.path());
    let connection = uplink.connection();
    let running = tokio::spawn(uplink.run(Arc::clone(&spool), Arc::clone(&maps) as Arc<dyn PolicySink>));
    // Where the answer ends the agent must come again, and not at once: more often than it waits it cannot.
    let enough = if ends { 2 } else { 1 };
    wait_for(&format!("{name}: the agent asks"), || {
        requests.load(Ordering::SeqCst) >= enough
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(requests.load(Ordering::SeqCst) < 20, "{name}: the agent asks in a loop");
    assert!(!running.is_finished(), "{name}: the uplink has ended");
    assert_eq!(*connection.borrow(), Connection::Away, "{name}");
    assert!(
        maps.put.lock().unwrap().is_empty(),
        "{name}: something was put in force"
    );
    assert!(
        last_good::load(state.path()).unwrap().is_none(),
        "{name}: something was kept"
    );
    assert_eq!(spool.metrics().pending_events, 3, "{name}: events were forgotten");
    drop(liar);

    let seen = Arc::new(Mutex::new(Seen::default()));
    let hub = Hub {
        seen: Arc::clone(&seen),
        set: policy_set(1, "enforce"),
        denylist: denylist(1, &[]),
        acknowledges: true,
    };
    let _honest = Central::serve(hub, &certificates, address);
    wait_for(&format!("{name}: the events are acknowledged"), || {
        spool.metrics().pending_events == 0
    })
    .await;
    wait_for(&format!("{name}: the policies are in force"), || {
        !maps.put.lock().unwrap().is_empty()
    })
    .await;
    running.abort();
    let mut sequences: Vec<u64> = seen.lock().unwrap().events.iter().map(|event| event.sequence).collect();
    sequences.dedup();
    assert_eq!(sequences, [1, 2, 3], "{name}");
    assert_eq!(maps.put.lock().unwrap()[0].1["payments"], Mode::Enforce, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_end_the_connection_and_nothing_else() {
    let page = Answer {
        status: 502,
        content_type: "text/html",
        frames: vec![Bytes::from_static(b"<html>Bad Gateway</html>")],
        times: 1,
        ends: true,
    };
    check("a page of a proxy", page).await;
    check("an empty stream", grpc(Vec::new(), 0, true)).await;
    check("no frames", grpc(vec![Bytes::from_static(&[0xff; 64])], 1, true)).await;
    check(
        "a frame of 4 GiB",
        grpc(vec![Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 0, 0])], 1, true),
    )
    .await;
    check("no message", grpc(vec![framed(&[0xff; 32])], 1, true)).await;
    check(
        "a frame that is cut off",
        grpc(vec![Bytes::from_static(&[0, 0, 0, 1, 0, 1, 2, 3])], 1, true),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_end_change_nothing() {
    // Field 99, of a release to come.
    let unknown = framed(&[0x9a, 0x06, 0x01, 0x00]);
    check("100,000 unknown messages", grpc(vec![unknown], 100_000, false)).await;
    check("nothing at all", grpc(Vec::new(), 0, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_of_what_was_never_sent_forget_nothing() {
    let acknowledgement = |boot_id: &str, sequences: Vec<u64>| {
        said(hub_message::Kind::Acknowledgement(Acknowledgement {
            boot_id: boot_id.to_owned(),
            sequences,
        }))
    };
    let frames = vec![
        acknowledgement("boot", vec![0, 4, 5, u64::MAX]),
        acknowledgement("another boot", vec![1, 2, 3]),
        acknowledgement("", vec![1, 2, 3]),
        acknowledgement("boot", (100..50_000).collect()),
        acknowledgement("boot", Vec::new()),
    ];
    check("acknowledgements", grpc(frames, 20, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_that_are_none_are_answered_and_change_nothing() {
    let good = policy_set(7, "enforce");
    let mut broken: Vec<PolicySet> = Vec::new();
    let mut with = |change: &dyn Fn(&mut PolicySet)| {
        let mut set = good.clone();
        change(&mut set);
        broken.push(set);
    };
    with(&|set| set.policies[0].namespace = "../../etc".to_owned());
    with(&|set| set.policies[0].name = "\u{1b}[2J".to_owned());
    with(&|set| set.policies[0].entries[0].sha256 = vec![1; 31]);
    with(&|set| set.policies[0].entries[0].path = vec![0; 5000]);
    with(&|set| set.policies[0].entries = vec![set.policies[0].entries[0].clone(); 100_000]);
    with(&|set| set.namespace_modes[0].mode = "\0".repeat(100_000));
    let certificates = Certificates::new();
    for (number, set) in broken.into_iter().enumerate() {
        let state = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(&state.path().join("spool"), 1 << 20).unwrap());
        let (seen, maps) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Maps::default()));
        let hub = Hub {
            seen: Arc::clone(&seen),
            set,
            denylist: denylist(1, &[]),
            acknowledges: true,
        };
        let address = free_address();
        let _central = Central::serve(hub, &certificates, address);
        let running = tokio::spawn(
            uplink(&certificates, address, "ca.pem", state.path())
                .run(Arc::clone(&spool), Arc::clone(&maps) as Arc<dyn PolicySink>),
        );
        wait_for("an answer", || !seen.lock().unwrap().applied.is_empty()).await;
        running.abort();
        let applied = seen.lock().unwrap().applied[0].clone();
        assert_eq!(applied.revision, 7);
        assert!(
            !applied.error.is_empty() && applied.error.len() < 4096,
            "set {number}: {:.200}",
            applied.error
        );
        assert!(
            applied.error.chars().all(|character| !character.is_control()),
            "set {number}: {:?}",
            applied.error
        );
        assert!(maps.put.lock().unwrap().is_empty(), "set {number} was put in force");
        assert!(last_good::load(state.path()).unwrap().is_none());
    }
}
