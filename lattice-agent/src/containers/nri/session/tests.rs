//! A runtime of the test's own at the other end of the socket: one that keeps to the protocol, and ones that do not.

use std::{future::pending, sync::Mutex, time::Instant};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{io::AsyncWriteExt as _, net::UnixListener, time::timeout};

use super::{super::Plugin, *};

const SOON: Duration = Duration::from_secs(10);

/// Does what it is told for a start, and notes what else it hears.
#[derive(Default)]
struct Heard {
    starts: Mutex<Vec<(String, u32)>>,
    others: Mutex<Vec<String>>,
    done: Arc<Mutex<bool>>,
}

impl Heard {
    fn note(&self, text: String) {
        self.others.lock().unwrap().push(text);
    }
}

impl Runtime for Heard {
    fn listed(&self, id: String, pid: u32, is_running: bool) {
        self.note(format!("listed {id} {pid} {is_running}"));
    }

    fn starting(&self, id: String, pid: u32) -> BoxFuture<'static, Result<(), NotGuarded>> {
        self.starts.lock().unwrap().push((id.clone(), pid));
        let done = Arc::clone(&self.done);
        match id.as_str() {
            "slow" => async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                *done.lock().unwrap() = true;
                Ok(())
            }
            .boxed(),
            "never" => pending().boxed(),
            "bad" => async { Err(NotGuarded::NoCgroup) }.boxed(),
            "panics" => async { panic!("as a fault of ours would") }.boxed(),
            _ => async { Ok(()) }.boxed(),
        }
    }

    fn unguarded(&self, id: Option<String>, cause: LateCause) {
        self.note(format!("unguarded {} {}", id.unwrap_or_default(), cause.text()));
    }

    fn running(&self, id: String, pid: u32) {
        self.note(format!("running {id} {pid}"));
    }

    fn stopped(&self, id: String) {
        self.note(format!("stopped {id}"));
    }

    fn removed(&self, id: String) {
        self.note(format!("removed {id}"));
    }
}

struct World {
    listener: UnixListener,
    plugin: Plugin,
    heard: Arc<Heard>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(answer_within: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nri.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = Arc::new(Heard::default());
        let settings = Settings { socket, answer_within };
        Self {
            listener,
            plugin: Plugin::start(settings, Arc::clone(&heard) as Arc<_>),
            heard,
            _folder: folder,
        }
    }

    /// The next connection of the plugin, registered.
    async fn peer(&self) -> Peer {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let mut peer = Peer {
            stream,
            assembler: Assembler::default(),
            stream_number: 1,
        };
        let Received::Request { stream, request } = peer.receive(RUNTIME_CONNECTION).await else {
            panic!("the plugin answers before it is asked");
        };
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            (RUNTIME_SERVICE, "RegisterPlugin")
        );
        let plugin = RegisterPluginRequest::decode(request.payload.as_slice()).unwrap();
        assert_eq!(
            (plugin.plugin_name.as_str(), plugin.plugin_idx.as_str()),
            ("lattice", "99")
        );
        peer.send(RUNTIME_CONNECTION, &Response::of(&()).to_bytes(stream)).await;
        peer
    }

    /// Registered, configured and told of nothing that runs.
    async fn ready(&self) -> Peer {
        let mut peer = self.peer().await;
        peer.call("Configure", &ConfigureRequest::default()).await;
        peer.call("Synchronize", &SynchronizeRequest::default()).await;
        let mut connection = self.plugin.connection();
        let is_ready = connection.wait_for(|connection| *connection == Connection::Registered);
        timeout(SOON, is_ready).await.unwrap().unwrap();
        peer
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.plugin.counters().all();
        counters.iter().find(|(found, _)| found.contains(name)).unwrap().1
    }

    fn others(&self) -> Vec<String> {
        self.heard.others.lock().unwrap().clone()
    }
}

struct Peer {
    stream: UnixStream,
    assembler: Assembler,
    stream_number: u32,
}

impl Peer {
    async fn send(&mut self, connection: u32, bytes: &[u8]) {
        write_frames(&mut self.stream, connection, bytes).await.unwrap();
    }

    async fn receive(&mut self, connection: u32) -> Received {
        loop {
            let frame = timeout(SOON, read_frame(&mut self.stream)).await.unwrap().unwrap();
            let (of, bytes) = frame.expect("the plugin closed the connection");
            assert_eq!(of, connection);
            if let Some(message) = self.assembler.take(&bytes).unwrap().pop() {
                return message;
            }
        }
    }

    async fn ask(&mut self, method: &str, payload: Vec<u8>) -> u32 {
        self.stream_number += 2;
        let request = Request {
            service: PLUGIN_SERVICE.into(),
            method: method.into(),
            payload,
            timeout_nano: 0,
        };
        self.send(PLUGIN_CONNECTION, &request.to_bytes(self.stream_number))
            .await;
        self.stream_number
    }

    async fn answer(&mut self) -> (u32, Response) {
        match self.receive(PLUGIN_CONNECTION).await {
            Received::Response { stream, response } => (stream, response),
            request => panic!("{request:?}"),
        }
    }

    async fn call_raw(&mut self, method: &str, payload: Vec<u8>) -> Response {
        let asked = self.ask(method, payload).await;
        let (stream, response) = self.answer().await;
        assert_eq!(stream, asked);
        response
    }

    async fn call(&mut self, method: &str, message: &impl prost::Message) -> Vec<u8> {
        let response = self.call_raw(method, message.encode_to_vec()).await;
        assert_eq!(response.status, None, "{method}");
        response.payload
    }

    async fn start(&mut self, id: &str) {
        assert!(
            self.call("StateChange", &change(Event::StartContainer, id))
                .await
                .is_empty()
        );
    }

    /// Waits until the plugin has closed the connection.
    async fn until_dropped(mut self) {
        let ended = async { while let Ok(Some(_)) = read_frame(&mut self.stream).await {} };
        timeout(SOON, ended)
            .await
            .expect("the plugin goes on with a peer that breaks the protocol");
    }
}

fn container(id: &str) -> Container {
    Container {
        id: id.into(),
        pid: 42,
        ..Container::default()
    }
}

fn change(event: Event, id: &str) -> StateChangeEvent {
    StateChangeEvent {
        event: event as i32,
        container: Some(container(id)),
        ..StateChangeEvent::default()
    }
}

#[tokio::test]
async fn registers_is_configured_and_guards() {
    let world = World::new(SOON);
    let mut peer = world.peer().await;
    let configured = peer.call("Configure", &ConfigureRequest::default()).await;
    // START_CONTAINER 6, POST_START_CONTAINER 7, STOP_CONTAINER 10, REMOVE_CONTAINER 11; a bit each, from bit 0 for event 1.
    let events = ConfigureResponse::decode(configured.as_slice()).unwrap().events;
    assert_eq!(events, 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10);
    let running = Container {
        state: ContainerState::ContainerRunning as i32,
        ..container("old")
    };
    for more in [true, false] {
        assert_eq!(*world.plugin.connection().borrow(), Connection::Away);
        let list = SynchronizeRequest {
            containers: vec![running.clone(), container("made"), running.clone(), container("")],
            more,
            ..SynchronizeRequest::default()
        };
        let answer = SynchronizeResponse::decode(peer.call("Synchronize", &list).await.as_slice()).unwrap();
        assert_eq!(answer.more, more, "a list in parts goes on only if the plugin says so");
    }
    peer.start("a").await;
    assert_eq!(*world.heard.starts.lock().unwrap(), [("a".into(), 42)]);
    assert_eq!(world.counter("guarded"), 1);
    assert_eq!(world.counter("registrations"), 1);
    peer.call("StateChange", &change(Event::PostStartContainer, "a")).await;
    let stop = StopContainerRequest {
        container: Some(container("a")),
        ..StopContainerRequest::default()
    };
    peer.call("StopContainer", &stop).await;
    peer.call("StateChange", &change(Event::RemoveContainer, "a")).await;
    assert_eq!(
        world.others(),
        [
            "listed old 42 true",
            "listed made 42 false",
            "listed old 42 true",
            "listed made 42 false",
            "running a 42",
            "stopped a",
            "removed a"
        ]
    );
}

#[tokio::test]
async fn an_answer_comes_in_time_and_is_never_an_error() {
    let world = World::new(Duration::from_millis(100));
    let mut peer = world.ready().await;
    let started = Instant::now();
    peer.start("slow").await;
    assert!(
        started.elapsed() < Duration::from_millis(390),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(world.counter("late"), 1);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        *world.heard.done.lock().unwrap(),
        "the work that was late is not given up"
    );
    peer.start("bad").await;
    peer.start("panics").await;
    peer.start("").await;
    peer.start(&"x".repeat(300)).await;
    assert_eq!(world.counter("unresolved"), 4);
    assert_eq!(world.counter("guarded"), 0);
    assert_eq!(
        *world.heard.others.lock().unwrap(),
        [
            "unguarded slow timeout",
            "unguarded bad unresolved",
            "unguarded panics unresolved",
            "unguarded  unresolved",
            "unguarded  unresolved"
        ]
    );
}

#[tokio::test]
async fn half_of_what_the_runtime_waits_is_the_most() {
    let world = World::new(SOON);
    let mut peer = world.peer().await;
    let configuration = ConfigureRequest {
        request_timeout: 200,
        ..ConfigureRequest::default()
    };
    peer.call("Configure", &configuration).await;
    peer.call("Synchronize", &SynchronizeRequest::default()).await;
    let started = Instant::now();
    peer.start("never").await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(world.counter("late"), 1);
}

#[tokio::test]
async fn starts_do_not_wait_for_each_other() {
    let world = World::new(Duration::from_secs(2));
    let mut peer = world.ready().await;
    let slow = peer
        .ask("StateChange", change(Event::StartContainer, "never").encode_to_vec())
        .await;
    let quick = peer
        .ask("StateChange", change(Event::StartContainer, "a").encode_to_vec())
        .await;
    assert_eq!(peer.answer().await.0, quick);
    assert_eq!(peer.answer().await.0, slow);
    // More at once than are worked on: answered at once, and counted.
    for _ in 0..CALLS_AT_ONCE + 10 {
        peer.ask("StateChange", change(Event::StartContainer, "never").encode_to_vec())
            .await;
    }
    for _ in 0..10 {
        peer.answer().await;
    }
    assert!(world.counter("unresolved") >= 10, "{}", world.counter("unresolved"));
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_all_the_same() {
    let world = World::new(SOON);
    let mut peer = world.ready().await;
    for method in ["Configure", "Synchronize", "StateChange", "StopContainer"] {
        let response = peer.call_raw(method, vec![0xff; 20]).await;
        assert_eq!(response.status, None, "{method}");
    }
    for method in [
        "CreateContainer",
        "UpdateContainer",
        "UpdatePodSandbox",
        "ValidateContainerAdjustment",
        "Shutdown",
    ] {
        let response = peer.call_raw(method, Vec::new()).await;
        assert_eq!((response.status, response.payload.len()), (None, 0), "{method}");
    }
    let status = peer.call_raw("Explode", Vec::new()).await.status.unwrap();
    assert_eq!(status.code, UNIMPLEMENTED);
    assert_eq!(world.counter("not_understood"), 5);
    // A connection that nobody opened is nobody's.
    peer.send(7, b"whatever").await;
    peer.start("a").await;
    assert_eq!(world.counter("guarded"), 1);
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_dropped_and_tried_again() {
    let world = World::new(SOON);
    let long_frame = [&[0, 0, 0, 1][..], &[0xff; 4]].concat();
    let header = |connection: u8, length: u8, kind: u8, flags: u8| {
        [
            &[0, 0, 0, connection, 0, 0, 0, 10, length][..],
            &[0, 0, 0, 0, 0, 0, 1, kind, flags],
        ]
        .concat()
    };
    let broken: [(&str, Vec<u8>); 6] = [
        ("a frame of 4 GiB", long_frame),
        ("a message of 4 GiB", header(1, 0xff, 1, 0)),
        ("a stream", header(1, 0, 3, 1)),
        ("an answer that was not asked for", header(1, 0, 2, 0)),
        ("a call on the wrong connection", header(2, 0, 1, 0)),
        ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in broken {
        let mut peer = world.ready().await;
        peer.stream.write_all(&bytes).await.unwrap();
        timeout(SOON, peer.until_dropped())
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    }
    // Closed between two frames, and within one.
    drop(world.ready().await);
    let mut peer = world.ready().await;
    peer.stream.write_all(&[0, 0]).await.unwrap();
    drop(peer);
    world.ready().await.start("after").await;
    assert_eq!(world.counter("registrations"), 9);
    assert_eq!(world.counter("disconnections"), 8);
    assert_eq!(world.counter("guarded"), 1);
}

#[tokio::test]
async fn a_runtime_that_refuses_us_is_asked_again() {
    let world = World::new(SOON);
    let (stream, _) = world.listener.accept().await.unwrap();
    let mut peer = Peer {
        stream,
        assembler: Assembler::default(),
        stream_number: 1,
    };
    peer.receive(RUNTIME_CONNECTION).await;
    let refusal = Response::failed(2, "no plugins today").to_bytes(REGISTER_STREAM);
    peer.send(RUNTIME_CONNECTION, &refusal).await;
    peer.until_dropped().await;
    assert_eq!(*world.plugin.connection().borrow(), Connection::Away);
    world.ready().await;
}

#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_dropped() {
    let world = World::new(SOON);
    let mut peer = world.ready().await;
    // More answers than the socket's buffer and the queue hold.
    let flood = async {
        loop {
            peer.stream_number += 2;
            let request = Request {
                service: PLUGIN_SERVICE.into(),
                method: "x".repeat(10),
                payload: Vec::new(),
                timeout_nano: 0,
            };
            if write_frames(
                &mut peer.stream,
                PLUGIN_CONNECTION,
                &request.to_bytes(peer.stream_number),
            )
            .await
            .is_err()
            {
                return;
            }
        }
    };
    timeout(Duration::from_secs(30), flood)
        .await
        .expect("the plugin takes calls without end");
    world.ready().await.start("after").await;
}
