//! The control service as `latticectl` uses it: over its socket.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use lattice_agent::control::{Backend, ControlSocket, LocalModes, RecentEvents, serve};
use lattice_api::v1::{
    Container, Denial, DenyRequest, EffectiveMode, Event, GetModeRequest, GetStatusRequest, GetStatusResponse,
    LiftDenialRequest, ListDenialsRequest, ListEventsRequest, ListPoliciesRequest, ListServicesRequest, NodeReport,
    SetModeRequest, Violation, control_client::ControlClient, event::Kind,
};
use lattice_policy::{ExecPolicy, Mode};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: shop, namespace: payments}
spec:
  entries:
  - path: /app/server
";

struct Node {
    policies: Vec<ExecPolicy>,
    modes: Mutex<BTreeMap<String, Mode>>,
}

impl Backend for Node {
    fn status(&self) -> GetStatusResponse {
        GetStatusResponse {
            role: "agent".into(),
            tier: Some(2),
            ..GetStatusResponse::default()
        }
    }

    fn effective_modes(&self, namespace: &str) -> Vec<EffectiveMode> {
        let modes = self.modes.lock().unwrap();
        modes
            .iter()
            .filter(|(name, _)| namespace.is_empty() || *name == namespace)
            .map(|(name, mode)| EffectiveMode {
                namespace: name.clone(),
                mode: mode.word().into(),
                source: "namespace-override".into(),
                policy: String::new(),
                nodes: Vec::new(),
            })
            .collect()
    }

    fn policies(&self, namespace: &str) -> Vec<ExecPolicy> {
        self.policies
            .iter()
            .filter(|policy| namespace.is_empty() || policy.namespace == namespace)
            .cloned()
            .collect()
    }

    fn denials(&self) -> (u64, Vec<Denial>) {
        let denial = Denial {
            kind: "image".into(),
            ..Denial::default()
        };
        (4, vec![denial])
    }

    fn node_report(&self) -> Result<NodeReport, String> {
        Err("nothing can be tried in this test".into())
    }

    fn apply_namespace_modes(&self, modes: BTreeMap<String, Mode>) -> Result<(), String> {
        *self.modes.lock().unwrap() = modes;
        Ok(())
    }
}

fn event(sequence: u64, namespace: &str) -> Event {
    let container = Container {
        namespace: namespace.into(),
        ..Container::default()
    };
    let violation = Violation {
        container: Some(container),
        ..Violation::default()
    };
    Event {
        sequence,
        kind: Some(Kind::Violation(violation)),
        ..Event::default()
    }
}

struct Running {
    client: ControlClient<Channel>,
    events: Arc<RecentEvents>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn start(folder: &Path, central: Option<&str>) -> Running {
    let path = folder.join("run/agent.sock");
    let socket = ControlSocket::bind(&path).unwrap();
    let policies = lattice_policy::read_documents("shop.yaml", POLICY.as_bytes()).unwrap();
    let modes = Arc::new(LocalModes::load(folder, central.map(str::to_owned)));
    let backend = Arc::new(Node {
        policies,
        modes: Mutex::new(modes.all()),
    });
    let events = Arc::new(RecentEvents::new(100, vec![event(1, "payments"), event(2, "other")]));
    let (stop, stopped) = oneshot::channel();
    let served = serve(socket, backend, Arc::clone(&events), modes, async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(async { served.await.unwrap() });
    let channel = Endpoint::from_shared(format!("unix://{}", path.display()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Running {
        client: ControlClient::new(channel),
        events,
        stop,
        server,
    }
}

fn set(namespace: &str, mode: &str) -> SetModeRequest {
    SetModeRequest {
        namespace: namespace.into(),
        mode: mode.into(),
        wait: true,
    }
}

#[tokio::test]
async fn answers_what_latticectl_asks() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(folder.path(), None).await;
    let client = &mut running.client;
    assert_eq!(
        client.get_status(GetStatusRequest {}).await.unwrap().into_inner().role,
        "agent"
    );
    let policies = |namespace: &str| ListPoliciesRequest {
        namespace: namespace.into(),
    };
    assert_eq!(
        client
            .list_policies(policies(""))
            .await
            .unwrap()
            .into_inner()
            .policies
            .len(),
        1
    );
    assert!(
        client
            .list_policies(policies("other"))
            .await
            .unwrap()
            .into_inner()
            .policies
            .is_empty()
    );
    assert_eq!(
        client
            .list_services(ListServicesRequest::default())
            .await
            .unwrap_err()
            .code(),
        Code::Unimplemented
    );
    let denials = |history| ListDenialsRequest { history };
    let listed = client.list_denials(denials(false)).await.unwrap().into_inner();
    assert_eq!((listed.revision, listed.denials.len()), (4, 1));
    for status in [
        client.list_denials(denials(true)).await.unwrap_err(),
        client.deny(DenyRequest::default()).await.unwrap_err(),
        client.lift_denial(LiftDenialRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("ask central"), "{}", status.message());
    }
    for (namespace, mode, expected) in [
        ("", "enforce", "--namespace"),
        ("payments", "kill", "\"kill\" is none of"),
    ] {
        let error = client.set_mode(set(namespace, mode)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(expected), "{}", error.message());
    }
    assert_eq!(
        client
            .set_mode(set("payments", "enforce"))
            .await
            .unwrap()
            .into_inner()
            .revision,
        1
    );
    drop(running.stop);
    running.server.await.unwrap();
    assert!(!folder.path().join("run/agent.sock").exists());

    let mut running = start(folder.path(), None).await;
    let modes = running
        .client
        .get_mode(GetModeRequest::default())
        .await
        .unwrap()
        .into_inner()
        .modes;
    assert_eq!(modes.len(), 1);
    assert_eq!(
        (modes[0].namespace.as_str(), modes[0].mode.as_str()),
        ("payments", "enforce")
    );
    assert_eq!(
        running
            .client
            .set_mode(set("payments", ""))
            .await
            .unwrap()
            .into_inner()
            .revision,
        2
    );
    assert!(
        running
            .client
            .get_mode(GetModeRequest::default())
            .await
            .unwrap()
            .into_inner()
            .modes
            .is_empty()
    );
}

#[tokio::test]
async fn central_keeps_its_modes() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(folder.path(), Some("https://central:7443")).await;
    let error = running.client.set_mode(set("payments", "enforce")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error
            .message()
            .contains("latticectl --central https://central:7443 mode set"),
        "{}",
        error.message()
    );
}

#[tokio::test]
async fn events_are_listed_and_followed_without_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(folder.path(), None).await;
    let request = ListEventsRequest {
        follow: true,
        namespace: "payments".into(),
        limit: 0,
    };
    let mut followed = running.client.list_events(request.clone()).await.unwrap().into_inner();
    let listed = running
        .client
        .list_events(ListEventsRequest {
            follow: false,
            ..request
        })
        .await
        .unwrap();
    for sequence in 3..=300 {
        running
            .events
            .push(event(sequence, if sequence % 2 == 0 { "payments" } else { "other" }));
    }
    let next = async |stream: &mut tonic::Streaming<Event>| {
        timeout(Duration::from_secs(10), stream.message())
            .await
            .expect("no event came")
            .unwrap()
    };
    let mut listed = listed.into_inner();
    assert_eq!(next(&mut listed).await.unwrap().sequence, 1);
    assert!(next(&mut listed).await.is_none());
    assert_eq!(next(&mut followed).await.unwrap().sequence, 1);
    for sequence in (4..=300).step_by(2) {
        assert_eq!(next(&mut followed).await.unwrap().sequence, sequence);
    }
    // A follower does not keep the agent from stopping.
    running.stop.send(()).unwrap();
    assert!(next(&mut followed).await.is_none());
    timeout(Duration::from_secs(10), running.server)
        .await
        .expect("the server did not stop")
        .unwrap();
}
