//! Agents and operators against the real listener, over real TLS.

mod common;

use common::{Agent, Central, NODES, PATIENCE, Place, channel, event, hello, stored};
use lattice_api::v1::{self as wire, control_client::ControlClient};
use lattice_central::init_tls::{TlsRequest, init_tls};
use lattice_policy::Mode;
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;

/// A counter of central's.
#[track_caller]
fn count(central: &Central, name: &str) -> u64 {
    let all = central.shared.counters.all();
    let found = all.into_iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("central has no {name}")).1
}

#[tokio::test]
async fn an_acknowledged_event_is_on_disk() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    let events = (1..=100)
        .map(|sequence| event(NODES[0], sequence, "payments"))
        .collect();
    agent.send_events(events).await;
    let acknowledged = agent.acknowledged().await;
    assert_eq!(acknowledged, (1..=100).collect::<Vec<_>>());
    let stored = stored(&place.settings.state);
    assert_eq!(stored.len(), 100);
    assert!(stored.values().all(|count| *count == 1));
    let nodes = central.shared.nodes.all();
    assert_eq!(nodes[NODES[0]].last_sequence, 100);
}

#[tokio::test]
async fn what_was_committed_but_not_acknowledged_is_stored_once() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent
        .send_events(vec![event(NODES[0], 1, "payments"), event(NODES[0], 2, "payments")])
        .await;
    let mut committed = central.shared.store.last_cursor();
    timeout(PATIENCE, committed.wait_for(|cursor| *cursor == 2))
        .await
        .unwrap()
        .unwrap();
    // Gone before it read the acknowledgement.
    drop(agent);
    central.stop().await;

    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent
        .send_events((1..=3).map(|sequence| event(NODES[0], sequence, "payments")).collect())
        .await;
    assert_eq!(agent.acknowledged().await, [1, 2, 3]);
    let stored = stored(&place.settings.state);
    assert_eq!(
        stored.into_iter().collect::<Vec<_>>(),
        (1..=3).map(|n| (format!("{}/{n}", NODES[0]), 1)).collect::<Vec<_>>()
    );
    assert_eq!(
        [
            "lattice_central_events_stored_total",
            "lattice_central_events_repeated_total",
            "lattice_central_spoofed_messages_total"
        ]
        .map(|name| count(&central, name)),
        [1, 2, 0]
    );
}

#[tokio::test]
async fn what_was_stored_and_given_up_since_its_acknowledgement_was_lost_is_not_said_to_be_lost() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent
        .send_events((1..=40).map(|sequence| event(NODES[0], sequence, "payments")).collect())
        .await;
    let mut committed = central.shared.store.last_cursor();
    timeout(PATIENCE, committed.wait_for(|cursor| *cursor == 40))
        .await
        .unwrap()
        .unwrap();
    // Gone before it read the acknowledgement. Its spool fills, the oldest go, and the gap names what it never heard of again.
    drop(agent);
    let gap = wire::Gap {
        first_sequence: 1,
        last_sequence: 90,
        cause: "spool-full".to_owned(),
        ranges: Vec::new(),
    };
    let gap = wire::Event {
        kind: Some(wire::event::Kind::Gap(gap)),
        ..event(NODES[0], 1, "")
    };
    // Twice, as after one more lost acknowledgement.
    for _ in 0..2 {
        let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
        agent
            .send_events(vec![gap.clone(), event(NODES[0], 91, "payments")])
            .await;
        assert_eq!(agent.acknowledged().await, [1, 91]);
    }
    let stored = central.shared.store.events_after(0, None, 1_000).await.unwrap();
    let mut whole = Vec::new();
    let mut lost = Vec::new();
    for stored in stored {
        let event = wire::Event::decode(&stored.event[..]).unwrap();
        match event.kind.unwrap() {
            wire::event::Kind::Gap(gap) => lost.push((event.sequence, gap.first_sequence, gap.last_sequence)),
            wire::event::Kind::Violation(_) => whole.push(event.sequence),
            wire::event::Kind::Notice(notice) => panic!("{notice:?}"),
        }
    }
    assert_eq!(whole, (1..=40).chain([91]).collect::<Vec<_>>());
    assert_eq!(lost, [(41, 41, 90)]);
}

#[tokio::test]
async fn an_event_of_another_node_ends_the_stream_and_nothing_is_stored() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent
        .send_events(vec![event(NODES[0], 1, "payments"), event(NODES[1], 2, "payments")])
        .await;
    let status = agent.ended().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "an event is of node \"worker-2\", but the certificate is that of node \"worker-1\""
    );
    assert!(stored(&place.settings.state).is_empty());
    assert_eq!(count(&central, "lattice_central_spoofed_messages_total"), 1);
    assert!(!central.shared.nodes.all()[NODES[0]].connected);
}

#[tokio::test]
async fn a_hello_of_another_node_is_refused() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let certificate = format!("node-{}", NODES[0]);
    let mut agent = Agent::connect_as(&place, central.address, &certificate, hello(NODES[1]))
        .await
        .unwrap();
    assert_eq!(agent.ended().await.code(), Code::PermissionDenied);
    assert!(central.shared.nodes.all().is_empty());
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let place = Place::new();
    let central = Central::start(&place).await;
    // An operator is no node.
    let refused = Agent::connect_as(&place, central.address, "operator", hello(NODES[0]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // A node is no operator: not for one method.
    let node = channel(central.address, place.client_tls(Some("node-worker-1")))
        .await
        .unwrap();
    let mut control = ControlClient::new(node);
    let set = wire::SetModeRequest {
        namespace: "payments".to_owned(),
        mode: "monitor".to_owned(),
        wait: false,
    };
    let codes = [
        control.set_mode(set).await.map(drop).unwrap_err().code(),
        control
            .get_status(wire::GetStatusRequest::default())
            .await
            .map(drop)
            .unwrap_err()
            .code(),
        control
            .list_events(wire::ListEventsRequest::default())
            .await
            .map(drop)
            .unwrap_err()
            .code(),
        control
            .get_mode(wire::GetModeRequest::default())
            .await
            .map(drop)
            .unwrap_err()
            .code(),
        control
            .list_policies(wire::ListPoliciesRequest::default())
            .await
            .map(drop)
            .unwrap_err()
            .code(),
        control
            .list_services(wire::ListServicesRequest::default())
            .await
            .map(drop)
            .unwrap_err()
            .code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 6]);
    // The server's own certificate has no role.
    let server = channel(central.address, place.client_tls(Some("server"))).await;
    if let Ok(server) = server {
        let refused = ControlClient::new(server)
            .get_status(wire::GetStatusRequest::default())
            .await;
        assert!(refused.is_err());
    }
}

#[tokio::test]
async fn without_a_certificate_of_the_authority_nobody_gets_in() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let ask = async |tls| match channel(central.address, tls).await {
        Ok(channel) => ControlClient::new(channel)
            .get_status(wire::GetStatusRequest::default())
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(
        ask(place.client_tls(Some("operator"))).await,
        "the same question with a good certificate"
    );
    assert!(!ask(place.client_tls(None)).await);
    // The right name, by another authority.
    let foreign = place.directory.path().join("foreign");
    init_tls(&TlsRequest {
        directory: foreign.clone(),
        ..TlsRequest::default()
    })
    .unwrap();
    for half in ["operator.crt", "operator.key"] {
        std::fs::copy(foreign.join(half), place.tls().join(format!("foreign-{half}"))).unwrap();
    }
    assert!(!ask(place.client_tls(Some("foreign-operator"))).await);
    // In the clear.
    let clear = tonic::transport::Channel::from_shared(format!("http://{}", central.address))
        .unwrap()
        .connect()
        .await;
    if let Ok(clear) = clear {
        assert!(
            ControlClient::new(clear)
                .get_status(wire::GetStatusRequest::default())
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn a_mode_reaches_the_agents_and_survives_a_restart() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    let first = agent.policies().await;
    assert_eq!((first.revision, first.namespace_modes.len()), (0, 0));
    let mut control = central.control(&place).await;
    let set = wire::SetModeRequest {
        namespace: "payments".to_owned(),
        mode: "enforce".to_owned(),
        wait: true,
    };
    let setting = tokio::spawn(async move { control.set_mode(set).await });
    let second = agent.policies().await;
    assert!(second.revision > first.revision);
    assert_eq!(second.namespace_modes[0].mode, "enforce");
    assert!(!setting.is_finished(), "nobody has applied it yet");
    agent.apply(second.revision, "").await;
    let response = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(
        (response.revision, response.agents_applied, response.agents_connected),
        (second.revision, 1, 1)
    );
    drop(agent);
    central.stop().await;

    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    let third = agent.policies().await;
    assert_eq!(third, second);
    let mut control = central.control(&place).await;
    let modes = control
        .get_mode(wire::GetModeRequest::default())
        .await
        .unwrap()
        .into_inner()
        .modes;
    assert_eq!(
        modes,
        [wire::EffectiveMode {
            namespace: "payments".to_owned(),
            policy: String::new(),
            mode: "enforce".to_owned(),
            source: "namespace-override".to_owned(),
            nodes: Vec::new(),
        }]
    );
    // Empty clears it.
    let clear = wire::SetModeRequest {
        namespace: "payments".to_owned(),
        ..wire::SetModeRequest::default()
    };
    control.set_mode(clear).await.unwrap();
    assert_eq!(agent.policies().await.namespace_modes, []);
}

#[tokio::test]
async fn an_agent_that_cannot_apply_is_named() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent.policies().await;
    let mut control = central.control(&place).await;
    let set = wire::SetModeRequest {
        namespace: "payments".to_owned(),
        mode: "deny".to_owned(),
        wait: true,
    };
    let setting = tokio::spawn(async move { control.set_mode(set).await });
    let set = agent.policies().await;
    agent.apply(set.revision, "the policy map is full").await;
    let status = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().contains("worker-1: the policy map is full"),
        "{}",
        status.message()
    );
    // It is kept all the same.
    assert_eq!(
        central.shared.board.policies().borrow().namespace_modes[0].mode,
        Mode::Deny.word()
    );
}

#[tokio::test]
async fn a_bad_mode_or_namespace_is_refused() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut control = central.control(&place).await;
    for (namespace, mode, expected) in [
        ("payments", "Enforce", "mode: \"Enforce\" is none of"),
        ("", "enforce", "namespace"),
        ("A/b", "enforce", "namespace"),
    ] {
        let set = wire::SetModeRequest {
            namespace: namespace.to_owned(),
            mode: mode.to_owned(),
            wait: false,
        };
        let status = control.set_mode(set).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
}

#[tokio::test]
async fn whoever_follows_misses_nothing() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent
        .send_events((1..=10).map(|sequence| event(NODES[0], sequence, "payments")).collect())
        .await;
    agent.acknowledged().await;
    let mut control = central.control(&place).await;
    let newest = wire::ListEventsRequest {
        follow: false,
        namespace: String::new(),
        limit: 3,
    };
    let mut listed = control.list_events(newest).await.unwrap().into_inner();
    let mut sequences = Vec::new();
    while let Some(event) = listed.message().await.unwrap() {
        sequences.push(event.sequence);
    }
    assert_eq!(sequences, [8, 9, 10]);

    let follow = wire::ListEventsRequest {
        follow: true,
        namespace: "payments".to_owned(),
        limit: 0,
    };
    let mut followed = control.list_events(follow).await.unwrap().into_inner();
    // More than any buffer between them holds, while the follower does not read; every third of another namespace.
    for batch in 0..20_u64 {
        let events = (0..300)
            .map(|place| 11 + batch * 300 + place)
            .map(|sequence| event(NODES[0], sequence, if sequence % 3 == 0 { "shop" } else { "payments" }))
            .collect();
        agent.send_events(events).await;
        agent.acknowledged().await;
    }
    let expected = (1..=10).chain((11..6_011).filter(|sequence| sequence % 3 != 0));
    for wanted in expected {
        let event = timeout(PATIENCE, followed.message())
            .await
            .expect("in time")
            .unwrap()
            .unwrap();
        assert_eq!(event.sequence, wanted);
    }
    agent.send_events(vec![event(NODES[0], 7_000, "payments")]).await;
    assert_eq!(
        timeout(PATIENCE, followed.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .sequence,
        7_000
    );
}

#[tokio::test]
async fn a_newer_stream_of_a_node_takes_over() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut older = Agent::connect(&place, central.address, NODES[0]).await;
    older.policies().await;
    let mut newer = Agent::connect(&place, central.address, NODES[0]).await;
    newer.policies().await;
    assert_eq!(older.ended().await.code(), Code::Aborted);
    assert!(central.shared.nodes.all()[NODES[0]].connected);
    let mut control = central.control(&place).await;
    let status = control
        .get_status(wire::GetStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.role, "central");
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(
        (status.nodes[0].tier, status.nodes[0].kernel_release.as_str()),
        (1, "6.12.0")
    );
}

#[tokio::test]
async fn what_agents_say_of_their_containers_is_shown() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent.policies().await;
    let status = |node: &str| wire::ContainerStatus {
        node: node.to_owned(),
        container: Some(wire::Container {
            namespace: "payments".to_owned(),
            cgroup_id: 7,
            ..Default::default()
        }),
        mode: "enforce".to_owned(),
        ..Default::default()
    };
    let standings = |node: &str| {
        wire::agent_message::Kind::Standings(wire::Standings {
            clear: true,
            containers: vec![status(node)],
            gone: Vec::new(),
        })
    };
    agent.send(standings(NODES[0])).await;
    let mut control = central.control(&place).await;
    let shown = timeout(PATIENCE, async {
        loop {
            let answer = control.get_status(wire::GetStatusRequest::default()).await.unwrap();
            let containers = answer.into_inner().containers;
            if !containers.is_empty() {
                return containers;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(shown.await.unwrap(), [status(NODES[0])]);

    // Only of its own.
    agent.send(standings(NODES[1])).await;
    assert_eq!(agent.ended().await.code(), Code::PermissionDenied);
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    let nameless = wire::Standings {
        containers: vec![wire::ContainerStatus {
            container: None,
            ..status(NODES[0])
        }],
        ..Default::default()
    };
    agent.send(wire::agent_message::Kind::Standings(nameless)).await;
    let ended = agent.ended().await;
    assert_eq!(
        ended.message(),
        "standings: containers has an element without a container"
    );
    assert_eq!(central.shared.standings.all(), [status(NODES[0])]);
}

#[tokio::test]
async fn what_is_no_protocol_is_refused() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let many = (0..5_000)
        .map(|sequence| event(NODES[0], sequence, "payments"))
        .collect();
    let mut nameless = event(NODES[0], 1, "payments");
    nameless.boot_id = String::new();
    let mut kindless = event(NODES[0], 1, "payments");
    kindless.kind = None;
    let mut large = event(NODES[0], 1, "payments");
    large.kind = Some(wire::event::Kind::Violation(wire::Violation {
        path: vec![0; 5 << 20],
        ..Default::default()
    }));
    for (events, code) in [
        (many, Code::InvalidArgument),
        (vec![nameless], Code::InvalidArgument),
        (vec![kindless], Code::InvalidArgument),
        (vec![large], Code::OutOfRange),
    ] {
        let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
        agent.send_events(events).await;
        assert_eq!(agent.ended().await.code(), code);
    }
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    agent.send(wire::agent_message::Kind::Hello(hello(NODES[0]))).await;
    assert_eq!(agent.ended().await.message(), "Hello came twice");
    assert!(stored(&place.settings.state).is_empty());
}

#[tokio::test]
async fn denials_come_first_and_only_operators_set_them() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let mut agent = Agent::connect(&place, central.address, NODES[0]).await;
    // Also where there are none: an agent that kept some is to forget them.
    let first = agent.receive().await.unwrap();
    assert!(
        matches!(&first, wire::hub_message::Kind::Denylist(list) if list.denials.is_empty()),
        "{first:?}"
    );
    let deny = |digest: &str, wait| wire::DenyRequest {
        kind: "file".to_owned(),
        digest: digest.to_owned(),
        reason: "incident 17".to_owned(),
        wait,
        ..Default::default()
    };
    let digest = format!("sha256:{:064x}", 1);
    let certificate = place.client_tls(Some("node-worker-1"));
    let mut node = ControlClient::new(channel(central.address, certificate).await.unwrap());
    let status = node.deny(deny(&digest, false)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let mut control = central.control(&place).await;
    let status = control.deny(deny("abc", false)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "file digest: \"abc\" is not 64 lower-case hexadecimal digits"
    );
    let setting = tokio::spawn(async move { control.deny(deny(&digest, true)).await });
    let list = agent.denylist().await;
    assert_eq!(
        (list.denials.len(), list.denials[0].reason.as_str()),
        (1, "incident 17")
    );
    let error = "4097 denied files are more than the 4096".to_owned();
    let applied = wire::Applied {
        revision: list.revision,
        error,
    };
    agent.send(wire::agent_message::Kind::DenylistApplied(applied)).await;
    let status = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().contains("worker-1: 4097 denied files"),
        "{}",
        status.message()
    );
    let node = central.shared.nodes.all()[NODES[0]].clone();
    assert_eq!((node.apply_error.as_str(), node.denylist_revision), ("", list.revision));
}
