//! One connection to the runtime after the other: register, be configured, then answer its calls.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    Connection, Counters, LateCause, NotGuarded, Runtime, Settings,
    counters::Outcome,
    generated::nri::pkg::api::v1alpha1::{
        ConfigureRequest, ConfigureResponse, Container, ContainerState, Event, RegisterPluginRequest, StateChangeEvent,
        StopContainerRequest, SynchronizeRequest, SynchronizeResponse,
    },
    message::{Assembler, MessageError, OK, Received, Request, Response, UNIMPLEMENTED},
    trunk::{PLUGIN_CONNECTION, RUNTIME_CONNECTION, TrunkError, read_frame, write_frames},
};
use crate::{backoff::Backoff, error_chain::ErrorChain};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long connecting, registering and the first configuration may take; containerd itself gives up after 5 s.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
const PLUGIN_NAME: &str = "lattice";
/// Plugins are asked in the order of their index: we come last, when nobody changes the container any more.
const PLUGIN_INDEX: &str = "99";
/// The one call of ours.
const REGISTER_STREAM: u32 = 1;

/// Calls that are worked on at once; containerd makes one after the other. What is more is answered at once, unguarded.
const CALLS_AT_ONCE: usize = 64;
/// After this long, work for a start that was answered long ago is given up.
const WORK_WITHIN: Duration = Duration::from_secs(30);
/// Answers that wait to be written. A peer that asks and does not read is dropped.
const WAITING_ANSWERS: usize = 256;
/// A container identifier that no runtime gives is not asked about.
const IDENTIFIER_BYTES: usize = 256;
/// Containers of one list that are asked about; more than run on any node.
const LISTED_CONTAINERS: usize = 4096;

/// What is subscribed to.
const EVENTS: [Event; 4] = [
    Event::StartContainer,
    Event::PostStartContainer,
    Event::StopContainer,
    Event::RemoveContainer,
];

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("nobody answers at {socket}: does the runtime run, and is NRI enabled there?")]
    Connect {
        socket: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the runtime did not register the plugin within {REGISTER_WITHIN:?}")]
    NotRegistered,
    #[error("the runtime refused the plugin: {0}")]
    Refused(String),
    #[error("the runtime closed the connection")]
    Closed,
    #[error("the runtime asks and does not read the answers")]
    NotReading,
    #[error("the runtime's messages cannot be read")]
    Trunk(#[from] TrunkError),
    #[error("the runtime's messages cannot be read")]
    Message(#[from] MessageError),
}

/// Never ends. Logs once when the runtime comes and once when it goes.
pub(super) async fn keep_connected(
    settings: Settings,
    runtime: Arc<dyn Runtime>,
    counters: Arc<Counters>,
    connection: watch::Sender<Connection>,
) {
    let socket = settings.socket.display().to_string();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said = false;
    loop {
        let error = match connect_once(&settings, &runtime, &counters, &connection).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let was = connection.send_replace(Connection::Away);
        if was == Connection::Registered {
            backoff.reset();
            counters.disconnected();
        }
        if was == Connection::Registered || !said {
            said = true;
            let error = ErrorChain(&error);
            tracing::warn!(
                socket,
                %error,
                "not (any more) a plugin of the runtime; until it takes us again, new containers start without asking, and the \
                 kernel's verdicts for unknown cgroups hold"
            );
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

async fn connect_once(
    settings: &Settings,
    runtime: &Arc<dyn Runtime>,
    counters: &Arc<Counters>,
    connection: &watch::Sender<Connection>,
) -> Result<Infallible, SessionError> {
    let stream = UnixStream::connect(&settings.socket)
        .await
        .map_err(|source| SessionError::Connect {
            socket: settings.socket.display().to_string(),
            source,
        })?;
    let (reader, writer) = stream.into_split();
    let (answers, to_write) = mpsc::channel(WAITING_ANSWERS);
    let mut session = Session {
        runtime: Arc::clone(runtime),
        counters: Arc::clone(counters),
        answers,
        answer_within: Arc::new(AtomicU64::new(millis(settings.answer_within))),
        permits: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        calls: JoinSet::new(),
        listed: 0,
        is_synchronized: false,
        is_misunderstood: false,
    };
    session.register()?;
    // Both ends are watched: a socket that cannot be written is as good as closed.
    let mut writing = JoinSet::new();
    writing.spawn(write_answers(writer, to_write));
    let reading = session.read(reader, connection, &settings.socket);
    tokio::select! {
        ended = reading => ended,
        Some(ended) = writing.join_next() => match ended {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) | Err(_) => Err(SessionError::Closed),
        },
    }
}

async fn write_answers(mut writer: OwnedWriteHalf, mut to_write: mpsc::Receiver<Answer>) -> Result<(), TrunkError> {
    while let Some(answer) = to_write.recv().await {
        write_frames(&mut writer, answer.connection, &answer.bytes).await?;
        if let Some(written) = answer.written {
            // Whoever asked may not wait any more.
            let _ = written.send(());
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A message of ours.
struct Answer {
    connection: u32,
    bytes: Vec<u8>,
    /// Who is to know that the runtime was there to take it: one that has waited long enough closes the connection.
    written: Option<oneshot::Sender<()>>,
}

type Answers = mpsc::Sender<Answer>;

struct Session {
    runtime: Arc<dyn Runtime>,
    counters: Arc<Counters>,
    answers: Answers,
    /// Milliseconds.
    answer_within: Arc<AtomicU64>,
    permits: Arc<Semaphore>,
    /// Calls that are worked on; they end with the connection.
    calls: JoinSet<()>,
    /// Containers that the list named so far.
    listed: usize,
    is_synchronized: bool,
    /// Of what we do not understand the log names the first of each connection; the counter has all.
    is_misunderstood: bool,
}

impl Session {
    fn register(&self) -> Result<(), SessionError> {
        let plugin = RegisterPluginRequest {
            plugin_name: PLUGIN_NAME.into(),
            plugin_idx: PLUGIN_INDEX.into(),
        };
        let request = Request {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            payload: plugin.encode_to_vec(),
            timeout_nano: 0,
        };
        self.answers
            .try_send(Answer {
                connection: RUNTIME_CONNECTION,
                bytes: request.to_bytes(REGISTER_STREAM),
                written: None,
            })
            .map_err(|_| SessionError::NotReading)
    }

    async fn read(
        &mut self,
        mut reader: OwnedReadHalf,
        connection: &watch::Sender<Connection>,
        socket: &std::path::Path,
    ) -> Result<Infallible, SessionError> {
        let (mut calls, mut responses) = (Assembler::default(), Assembler::default());
        let registered_by = tokio::time::Instant::now() + REGISTER_WITHIN;
        loop {
            let frame = if self.is_synchronized {
                read_frame(&mut reader).await
            } else {
                tokio::time::timeout_at(registered_by, read_frame(&mut reader))
                    .await
                    .map_err(|_| SessionError::NotRegistered)?
            };
            let (of, bytes) = frame?.ok_or(SessionError::Closed)?;
            let received = match of {
                PLUGIN_CONNECTION => calls.take(&bytes)?,
                RUNTIME_CONNECTION => responses.take(&bytes)?,
                // As the reference does it: connections that nobody opened are nobody's.
                _ => continue,
            };
            for message in received {
                match message {
                    Received::Request { stream, request } if of == PLUGIN_CONNECTION => self.take(stream, request)?,
                    Received::Response { response, .. } if of == RUNTIME_CONNECTION => {
                        if let Some(status) = response.status.filter(|status| status.code != OK) {
                            return Err(SessionError::Refused(status.message.chars().take(256).collect()));
                        }
                    }
                    // Who calls the runtime, or answers us who did not ask, mixes up the connections.
                    Received::Request { .. } => return Err(MessageError::Kind { kind: 1, flags: 0 }.into()),
                    Received::Response { .. } => return Err(MessageError::Kind { kind: 2, flags: 0 }.into()),
                }
            }
            while self.calls.try_join_next().is_some() {}
            if self.is_synchronized && *connection.borrow() != Connection::Registered {
                connection.send_replace(Connection::Registered);
                self.counters.connected();
                tracing::info!(socket = %socket.display(), containers = self.listed, "a plugin of the runtime: it asks before a container starts");
            }
        }
    }

    /// Answers a call, now or when its work is done. There is no error for what we cannot read or do: the runtime would refuse the
    /// container.
    fn take(&mut self, stream: u32, request: Request) -> Result<(), SessionError> {
        if request.service != PLUGIN_SERVICE {
            let response = self.unimplemented(&request);
            return self.answer(stream, &response);
        }
        let payload = request.payload.as_slice();
        let response = match request.method.as_str() {
            "Configure" => {
                let configuration = self.read_payload::<ConfigureRequest>(payload, "Configure");
                Response::of(&self.configured(&configuration))
            }
            "Synchronize" => {
                let list = self.read_payload::<SynchronizeRequest>(payload, "Synchronize");
                let more = list.more;
                self.synchronize(list);
                Response::of(&SynchronizeResponse {
                    update: Vec::new(),
                    more,
                })
            }
            "StateChange" => {
                let change = self.read_payload::<StateChangeEvent>(payload, "StateChange");
                if change.event() == Event::StartContainer {
                    return self.starting(stream, change.container.unwrap_or_default());
                }
                self.changed(change);
                Response::of(&())
            }
            "StopContainer" => {
                let stop = self.read_payload::<StopContainerRequest>(payload, "StopContainer");
                if let Some(id) = usable_id(stop.container.unwrap_or_default()) {
                    self.runtime.stopped(id);
                }
                Response::of(&())
            }
            // An empty answer to what changes a container changes nothing. We did not subscribe to it.
            "CreateContainer" | "UpdateContainer" | "UpdatePodSandbox" | "ValidateContainerAdjustment" | "Shutdown" => {
                Response::of(&())
            }
            _ => self.unimplemented(&request),
        };
        self.answer(stream, &response)
    }

    fn unimplemented(&mut self, request: &Request) -> Response {
        let (service, method) = (shown(&request.service), shown(&request.method));
        self.misunderstood(&format!("there is no {method} of {service} here"));
        Response::failed(UNIMPLEMENTED, "no such method")
    }

    /// What cannot be read says nothing; the default of each message is harmless.
    fn read_payload<Kind: prost::Message + Default>(&mut self, payload: &[u8], method: &str) -> Kind {
        Kind::decode(payload).unwrap_or_else(|error| {
            self.misunderstood(&format!("{method}: {error}"));
            Kind::default()
        })
    }

    fn misunderstood(&mut self, reason: &str) {
        self.counters.refused_call();
        if !std::mem::replace(&mut self.is_misunderstood, true) {
            tracing::warn!(
                reason,
                "a call of the runtime cannot be understood; more of these are counted only"
            );
        }
    }

    fn answer(&self, stream: u32, response: &Response) -> Result<(), SessionError> {
        answer(&self.answers, stream, response, None)
    }

    fn configured(&self, configuration: &ConfigureRequest) -> ConfigureResponse {
        let runtime_waits = u64::try_from(configuration.request_timeout).unwrap_or(0);
        if runtime_waits != 0 {
            self.answer_within
                .fetch_min((runtime_waits / 2).max(1), Ordering::Relaxed);
        }
        tracing::info!(
            runtime = shown(&configuration.runtime_name),
            version = shown(&configuration.runtime_version),
            answer_within_milliseconds = self.answer_within.load(Ordering::Relaxed),
            "configured by the runtime"
        );
        ConfigureResponse {
            // Bit n - 1 is event n (containerd/nri, pkg/api/event.go).
            events: EVENTS.iter().map(|event| 1 << (*event as i32 - 1)).sum(),
        }
    }

    /// What runs already. The watcher of the runtime's API lists the same; this is for what it has not seen yet.
    fn synchronize(&mut self, list: SynchronizeRequest) {
        self.is_synchronized |= !list.more;
        let mut seen = BTreeSet::new();
        for container in list.containers {
            let (state, pid) = (container.state(), container.pid);
            let Some(id) = usable_id(container).filter(|id| seen.insert(id.clone())) else {
                continue;
            };
            self.listed += 1;
            if self.listed > LISTED_CONTAINERS {
                tracing::warn!(
                    "the runtime lists more than {LISTED_CONTAINERS} containers; the rest is left to its API"
                );
                return;
            }
            let is_running = matches!(
                state,
                ContainerState::ContainerRunning | ContainerState::ContainerPaused
            );
            self.runtime.listed(id, pid, is_running);
        }
    }

    fn changed(&self, change: StateChangeEvent) {
        let event = change.event();
        let container = change.container.unwrap_or_default();
        let pid = container.pid;
        let Some(id) = usable_id(container) else { return };
        match event {
            Event::PostStartContainer => self.runtime.running(id, pid),
            Event::StopContainer => self.runtime.stopped(id),
            Event::RemoveContainer => self.runtime.removed(id),
            _ => {}
        }
    }

    /// The one call whose answer waits for work.
    fn starting(&mut self, stream: u32, container: Container) -> Result<(), SessionError> {
        let pid = container.pid;
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let id = usable_id(container);
        let (Some(id), Ok(permit)) = (id.clone(), permit) else {
            self.counters.start(Outcome::Unresolved);
            self.runtime.unguarded(id, LateCause::Unresolved);
            tracing::error!(
                pid,
                "a container starts that the runtime does not name, or too many start at once: it starts unguarded"
            );
            return self.answer(stream, &Response::of(&()));
        };
        let guarding = Guarding {
            answer_within: Duration::from_millis(self.answer_within.load(Ordering::Relaxed)),
            work: self.runtime.starting(id.clone(), pid),
        };
        let mut start = Start {
            counters: Arc::clone(&self.counters),
            runtime: Arc::clone(&self.runtime),
            id,
            is_told: false,
        };
        let answers = self.answers.clone();
        self.calls.spawn(async move {
            let done = guarding.within_time(permit).await;
            let is_done = done.is_ok();
            if !is_done {
                start.tell(done);
            }
            let (written, is_written) = oneshot::channel();
            // Where it cannot be said any more the connection is over.
            let _ = answer(&answers, stream, &Response::of(&()), Some(written));
            if is_done {
                start.tell(is_written.await.map_err(|_| NotInTime::NotHeard));
            }
        });
        Ok(())
    }
}

fn answer(
    answers: &Answers,
    stream: u32,
    response: &Response,
    written: Option<oneshot::Sender<()>>,
) -> Result<(), SessionError> {
    answers
        .try_send(Answer {
            connection: PLUGIN_CONNECTION,
            bytes: response.to_bytes(stream),
            written,
        })
        .map_err(|_| SessionError::NotReading)
}

/// A name of the runtime's, for the log.
fn shown(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

fn usable_id(container: Container) -> Option<String> {
    let id = container.id;
    (!id.is_empty() && id.len() <= IDENTIFIER_BYTES).then_some(id)
}

/// Why a container's start was not guarded.
enum NotInTime {
    /// The maps were not filled in time; the work goes on.
    Working(Duration),
    /// They cannot be filled.
    Impossible(NotGuarded),
    /// They are filled, and the runtime has given up before: this process stood still, say.
    NotHeard,
}

/// What came of a container's start, counted and told once: also where the connection ends before, and with it the call.
struct Start {
    counters: Arc<Counters>,
    runtime: Arc<dyn Runtime>,
    id: String,
    is_told: bool,
}

impl Start {
    fn tell(&mut self, done: Result<(), NotInTime>) {
        self.is_told = true;
        let (outcome, cause) = match done {
            Ok(()) => return self.counters.start(Outcome::Guarded),
            Err(NotInTime::Working(answer_within)) => {
                tracing::error!(
                    container_id = self.id,
                    ?answer_within,
                    "a container starts before its maps are filled: until they are, the kernel's verdicts for unknown cgroups hold"
                );
                (Outcome::Late, LateCause::Timeout)
            }
            Err(NotInTime::NotHeard) => {
                tracing::error!(
                    container_id = self.id,
                    "the runtime did not wait for the answer: the container may have started before its maps were filled, under the \
                     kernel's verdicts for unknown cgroups"
                );
                (Outcome::Late, LateCause::Timeout)
            }
            Err(NotInTime::Impossible(reason)) => {
                tracing::error!(container_id = self.id, %reason, "a container starts unguarded: the kernel's verdicts for unknown cgroups hold");
                (Outcome::Unresolved, LateCause::Unresolved)
            }
        };
        self.counters.start(outcome);
        self.runtime.unguarded(Some(self.id.clone()), cause);
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Err(NotInTime::NotHeard));
        }
    }
}

/// A container's start that waits for the maps.
struct Guarding {
    answer_within: Duration,
    work: futures::future::BoxFuture<'static, Result<(), NotGuarded>>,
}

impl Guarding {
    /// Ends when the maps are filled, when they cannot be, or when the time is up; the work goes on then.
    async fn within_time(self, permit: OwnedSemaphorePermit) -> Result<(), NotInTime> {
        let Self { answer_within, work } = self;
        let work = tokio::spawn(async move {
            let done = tokio::time::timeout(WORK_WITHIN, work).await;
            drop(permit);
            done.unwrap_or_else(|_| Err(NotGuarded::CutOff(format!("it took longer than {WORK_WITHIN:?}"))))
        });
        match tokio::time::timeout(answer_within, work).await {
            Ok(Ok(done)) => done.map_err(NotInTime::Impossible),
            Ok(Err(cut_off)) => Err(NotInTime::Impossible(NotGuarded::CutOff(cut_off.to_string()))),
            Err(_) => Err(NotInTime::Working(answer_within)),
        }
    }
}

#[cfg(test)]
mod tests;
