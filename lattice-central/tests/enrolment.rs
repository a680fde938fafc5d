//! Agents enrol over real TLS; what the API server would say of their tokens is the test's.

mod common;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Agent, Central, PATIENCE, Place, channel, hello};
use lattice_api::v1::{self as wire, enrolment_client::EnrolmentClient};
use lattice_central::{
    authority::{Authority, Holder, Pair, remaining_of_pem},
    cluster_identity::Reviewer,
    enrolment::{AUDIENCE, Review},
    server::{BoundEnrolment, Enroller},
};
use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

/// Takes tokens of the form NODE, of the agent's account, and knows no others; `away` is a server that does not answer.
struct Words;

#[tonic::async_trait]
impl Reviewer for Words {
    async fn review(&self, token: &str) -> Result<Review, String> {
        let node = match token {
            "away" => return Err("connection refused".to_owned()),
            "expired" => {
                return Ok(Review {
                    error: "token has expired".to_owned(),
                    ..Review::default()
                });
            }
            node => node,
        };
        let extra = [("pod-name", "lattice-agent-1"), ("node-name", node)];
        Ok(Review {
            authenticated: true,
            audiences: vec![AUDIENCE.to_owned()],
            username: "system:serviceaccount:lattice-system:lattice-agent".to_owned(),
            extra: extra
                .into_iter()
                .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]))
                .collect::<BTreeMap<_, _>>(),
            error: String::new(),
        })
    }
}

/// A central that is its own authority, with the hub's listener and that of the enrolment.
struct Enrolling {
    central: Central,
    place: Place,
    authority: Arc<Authority>,
    address: std::net::SocketAddr,
}

impl Enrolling {
    async fn start(lifetime: Duration) -> Self {
        let mut place = Place::new();
        let authority = Arc::new(Authority::generate().unwrap());
        let names = vec!["localhost".to_owned()];
        let server = authority
            .issue(&Holder::Server(names), Duration::from_secs(3_600))
            .unwrap();
        write_pair(&place, "server", &server);
        write_pair(&place, "ca", authority.pair());
        place.settings.client_ca = place.tls().join("ca.crt");
        let central = Central::start(&place).await;
        let enroller = Enroller {
            authority: authority.clone(),
            reviewer: Arc::new(Words),
            agents: "lattice-system/lattice-agent".parse().unwrap(),
            lifetime,
        };
        let bound = BoundEnrolment::bind("127.0.0.1:0".parse().unwrap(), &server, enroller)
            .await
            .unwrap();
        let address = bound.address();
        tokio::spawn(bound.serve(central.shared.clone()));
        Self {
            central,
            place,
            authority,
            address,
        }
    }

    fn tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(&self.authority.pair().certificate))
    }

    async fn client(&self) -> EnrolmentClient<Channel> {
        EnrolmentClient::new(channel(self.address, self.tls()).await.unwrap())
    }

    fn counter(&self, name: &str) -> u64 {
        let all: BTreeMap<String, u64> = self.central.shared.counters.all().into_iter().collect();
        all[name]
    }
}

fn write_pair(place: &Place, name: &str, pair: &Pair) {
    std::fs::write(place.tls().join(format!("{name}.crt")), &pair.certificate).unwrap();
    std::fs::write(place.tls().join(format!("{name}.key")), &pair.key).unwrap();
}

fn request(key: &rcgen::KeyPair, node: &str, token: &str) -> wire::EnrolRequest {
    wire::EnrolRequest {
        node: node.to_owned(),
        public_key: key.public_key_raw().to_vec(),
        token: token.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enrolled_speaks_for_that_node_until_the_certificate_ends() {
    let enrolling = Enrolling::start(Duration::from_secs(6)).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let answer = enrolling
        .client()
        .await
        .enrol(request(&key, "worker-1", "worker-1"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.valid_seconds, 6);
    let left = remaining_of_pem(&answer.certificate, SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(6), "{left:?}");
    assert_eq!(enrolling.counter("lattice_central_enrolments_total"), 1);

    let own = Pair {
        certificate: answer.certificate,
        key: key.serialize_pem(),
    };
    write_pair(&enrolling.place, "node-worker-1", &own);
    let mut agent = Agent::connect(&enrolling.place, enrolling.central.address, "worker-1").await;
    let ended = timeout(PATIENCE, async {
        loop {
            match agent.inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    });
    let status = ended.await.expect("the stream ends with the certificate");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("has ended"), "{status}");

    // Another node's name in this node's stream is refused as ever.
    let other = enrolling
        .client()
        .await
        .enrol(request(&key, "worker-1", "worker-1"))
        .await
        .unwrap();
    let tls = enrolling
        .tls()
        .identity(Identity::from_pem(other.into_inner().certificate, key.serialize_pem()));
    let mut hub = wire::agent_hub_client::AgentHubClient::new(channel(enrolling.central.address, tls).await.unwrap());
    let first = wire::AgentMessage {
        kind: Some(wire::agent_message::Kind::Hello(hello("worker-2"))),
    };
    let mut stream = hub.connect(tokio_stream::iter([first])).await.unwrap().into_inner();
    let refused = timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    enrolling.central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_reason_and_its_counter() {
    let enrolling = Enrolling::start(Duration::from_secs(60)).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut client = enrolling.client().await;
    let no_point = wire::EnrolRequest {
        public_key: vec![4; 64],
        ..request(&key, "worker-1", "worker-1")
    };
    for (request, code, reason) in [
        (request(&key, "worker-1", "expired"), Code::PermissionDenied, "token"),
        (
            request(&key, "worker-2", "worker-1"),
            Code::PermissionDenied,
            "other_node",
        ),
        (request(&key, "Worker", "worker-1"), Code::InvalidArgument, "malformed"),
        (no_point, Code::InvalidArgument, "malformed"),
    ] {
        let counter = format!("lattice_central_enrolments_refused_total{{reason=\"{reason}\"}}");
        let before = enrolling.counter(&counter);
        let status = client.enrol(request).await.expect_err("must be refused");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(enrolling.counter(&counter), before + 1, "{reason}");
    }
    // An API server that is away is no refusal: it is tried again.
    let status = client.enrol(request(&key, "worker-1", "away")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let status: Status = loop {
        if let Err(status) = client.enrol(request(&key, "worker-1", "worker-1")).await {
            break status;
        }
    };
    assert_eq!(
        status.code(),
        Code::ResourceExhausted,
        "one address asks without end: {status}"
    );
    let large = "a".repeat(32 * 1024);
    let status = enrolling
        .client()
        .await
        .enrol(request(&key, "worker-1", &large))
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::OutOfRange,
        "read no further than it may be long: {status}"
    );
    assert_eq!(enrolling.counter("lattice_central_spoofed_messages_total"), 0);
    enrolling.central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_answers_nobody_without_a_certificate() {
    let enrolling = Enrolling::start(Duration::from_secs(60)).await;
    let connected = channel(enrolling.central.address, enrolling.tls()).await;
    let refused = match connected {
        Err(_) => true,
        // TLS 1.3 says it with the first message.
        Ok(channel) => {
            let mut hub = wire::agent_hub_client::AgentHubClient::new(channel);
            hub.connect(tokio_stream::iter(Vec::new())).await.is_err()
        }
    };
    assert!(refused);
    enrolling.central.stop().await;
}
