//! One connection to containerd after the other: list what is there, then follow what happens.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    super::process::FirstProcess,
    Connection, Settings,
    client::{Client, ClientError, watched_namespaces},
    describe::describe,
    generated::containerd::{
        events::{ContainerCreate, ContainerDelete, ContainerUpdate, TaskCreate, TaskDelete, TaskExit, TaskStart},
        services::containers::v1::Container,
        types::Envelope,
        v1::types::{Process, Status},
    },
    image::ImageCache,
    table::{Key, Task},
    tell::Shared,
};
use crate::{backoff::Backoff, error_chain::ErrorChain};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Containers that are asked about at the same time after a connect.
const ASKED_AT_ONCE: usize = 16;

/// Events that may wait while containerd is asked for the list.
const WAITING_EVENTS: usize = 4096;
/// The stream of events is there for certain by then; what came between the first list and the stream is in the second.
const RELIST_AFTER: Duration = Duration::from_secs(1);
/// How often the list is held against what the events said.
const RELIST_INTERVAL: Duration = Duration::from_secs(60);

/// Never ends. Logs once when containerd comes and once when it goes. `current` has the session while there is one.
pub(super) async fn keep_watching(
    settings: Settings,
    shared: Arc<Shared>,
    connection: watch::Sender<Connection>,
    current: watch::Sender<Option<Session>>,
) {
    let socket = settings.socket.display().to_string();
    let images = Arc::new(ImageCache::default());
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said = false;
    loop {
        let error = match watch_once(&settings, &shared, &images, &connection, &current).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        current.send_replace(None);
        let was = connection.send_replace(Connection::Away);
        if was == Connection::Watching {
            backoff.reset();
        }
        if was == Connection::Watching || !said {
            said = true;
            let error = ErrorChain(&error);
            tracing::warn!(socket, %error, "containerd is away; containers that are known stay guarded, trying again");
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

async fn watch_once(
    settings: &Settings,
    shared: &Arc<Shared>,
    images: &Arc<ImageCache>,
    connection: &watch::Sender<Connection>,
    current: &watch::Sender<Option<Session>>,
) -> Result<std::convert::Infallible, ClientError> {
    let client = Client::connect(&settings.socket).await?;
    let session = Session {
        client,
        shared: Arc::clone(shared),
        images: Arc::clone(images),
    };
    current.send_replace(Some(session.clone()));
    // First the stream, so that nothing falls between the list and the stream. Containerd answers this question only with the
    // first event, so nobody can wait for the answer; see RELIST_AFTER.
    let (sender, mut events) = mpsc::channel(WAITING_EVENTS);
    let mut following = JoinSet::new();
    following.spawn(follow(session.client.clone(), sender));
    tokio::task::yield_now().await;
    let containers = session.list(&settings.namespaces).await?;
    connection.send_replace(Connection::Watching);
    tracing::info!(socket = %settings.socket.display(), containers, "watching containerd");
    let mut questions = JoinSet::new();
    let relist = tokio::time::sleep(RELIST_AFTER);
    tokio::pin!(relist);
    loop {
        tokio::select! {
            event = events.recv() => {
                let envelope = event.ok_or(ClientError::EventsEnded)??;
                if settings.namespaces.is_empty() || settings.namespaces.contains(&envelope.namespace) {
                    session.take(envelope, &mut questions);
                }
            }
            () = &mut relist => {
                session.list(&settings.namespaces).await?;
                relist.as_mut().reset(tokio::time::Instant::now() + RELIST_INTERVAL);
            }
        }
        while questions.try_join_next().is_some() {}
    }
}

/// Hands on events until the stream or the receiver ends.
async fn follow(client: Client, sender: mpsc::Sender<Result<Envelope, ClientError>>) {
    let mut events = match client.events().await {
        Ok(events) => events,
        Err(error) => {
            // Nobody waits for it any more: that is fine.
            let _ = sender.send(Err(error)).await;
            return;
        }
    };
    loop {
        let next = match events.message().await {
            Ok(Some(envelope)) => Ok(envelope),
            Ok(None) => return,
            Err(status) => Err(ClientError::Refused {
                question: "the next event",
                status: Box::new(status),
            }),
        };
        let is_end = next.is_err();
        if sender.send(next).await.is_err() || is_end {
            return;
        }
    }
}

/// Questions to a containerd that answers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
    shared: Arc<Shared>,
    images: Arc<ImageCache>,
}

impl Session {
    /// Takes all that is there, and forgets what is not. Returns the number of containers.
    async fn list(&self, named: &BTreeSet<String>) -> Result<usize, ClientError> {
        let mut there = BTreeSet::new();
        for namespace in watched_namespaces(&self.client, named).await? {
            let containers = self.client.containers(&namespace).await?;
            let key = |id: String| Key {
                namespace: namespace.clone(),
                id,
            };
            // Containerd 1.6 leaves container_id empty here.
            let id = |task: &Process| {
                if task.container_id.is_empty() {
                    task.id.clone()
                } else {
                    task.container_id.clone()
                }
            };
            let tasks: HashMap<String, Process> = self
                .client
                .tasks(&namespace)
                .await?
                .into_iter()
                .map(|task| (id(&task), task))
                .collect();
            there.extend(containers.iter().map(|container| key(container.id.clone())));
            // A container is described once; changes come as events. Asking again could only say less: its image's name may
            // stand for another image by now.
            let (known, new): (Vec<_>, Vec<_>) = containers
                .into_iter()
                .partition(|container| self.shared.knows(&key(container.id.clone())));
            for container in known {
                let key = key(container.id);
                if let Some(task) = tasks.get(&key.id).and_then(|task| self.task_of(&key, task)) {
                    self.shared.apply(|table| table.task(&key, &task));
                }
            }
            let described = futures::stream::iter(new)
                .map(|container| {
                    let task = tasks.get(&container.id).cloned();
                    self.expect(key(container.id.clone()), container, task)
                })
                .buffer_unordered(ASKED_AT_ONCE);
            let described: Vec<Result<(), ClientError>> = described.collect().await;
            described.into_iter().collect::<Result<(), _>>()?;
        }
        self.shared.apply(|table| table.keep_only(&there));
        Ok(there.len())
    }

    async fn expect(&self, key: Key, container: Container, task: Option<Process>) -> Result<(), ClientError> {
        let (description, hooks) = describe(&self.client, &self.images, &self.shared.tree, &key, container).await?;
        self.shared.has_hooks(hooks).await;
        let is_late = description.cgroup_folder.as_ref().is_none_or(|folder| folder.exists());
        let task = match task {
            None if is_late => self.client.task(&key).await?,
            task => task,
        };
        let task = task.and_then(|task| self.task_of(&key, &task));
        self.shared.apply(|table| table.expect(key, description, task.as_ref()));
        Ok(())
    }

    fn task_of(&self, key: &Key, task: &Process) -> Option<Task> {
        match task.status() {
            Status::Stopped => None,
            status => look(&self.shared, key, task.pid, status != Status::Created),
        }
    }

    /// Takes an event. What needs a question to containerd does not hold up the events behind it: the table takes its answers
    /// in any order.
    fn take(&self, envelope: Envelope, questions: &mut JoinSet<()>) {
        let Envelope {
            namespace,
            topic,
            event,
            ..
        } = envelope;
        let payload = event.map(|event| event.value).unwrap_or_default();
        let key = |id: String| Key {
            namespace: namespace.clone(),
            id,
        };
        let taken: Result<(), prost::DecodeError> = (|| {
            match topic.as_str() {
                "/containers/create" => {
                    let key = key(ContainerCreate::decode(payload.as_slice())?.id);
                    questions.spawn(self.clone().ask(key));
                }
                "/containers/update" => {
                    let key = key(ContainerUpdate::decode(payload.as_slice())?.id);
                    questions.spawn(self.clone().ask(key));
                }
                "/tasks/create" => {
                    let TaskCreate { container_id, pid, .. } = TaskCreate::decode(payload.as_slice())?;
                    self.take_task(key(container_id), pid, false, questions);
                }
                "/tasks/start" => {
                    let TaskStart { container_id, pid } = TaskStart::decode(payload.as_slice())?;
                    self.take_task(key(container_id), pid, true, questions);
                }
                "/tasks/exit" => {
                    let TaskExit { container_id, id, .. } = TaskExit::decode(payload.as_slice())?;
                    // The exit of an exec session has the session's identifier.
                    if id == container_id {
                        self.shared.apply(|table| table.exited(&key(container_id)));
                    }
                }
                "/tasks/delete" => {
                    let TaskDelete { container_id, id, .. } = TaskDelete::decode(payload.as_slice())?;
                    if id.is_empty() || id == container_id {
                        self.shared.apply(|table| table.exited(&key(container_id)));
                    }
                }
                "/containers/delete" => {
                    let key = key(ContainerDelete::decode(payload.as_slice())?.id);
                    self.shared.apply(|table| table.deleted(&key));
                }
                _ => {}
            }
            Ok(())
        })();
        if let Err(error) = taken {
            tracing::warn!(topic, %error, "event of containerd could not be read");
        }
    }

    fn take_task(&self, key: Key, pid: u32, is_running: bool, questions: &mut JoinSet<()>) {
        if !self.shared.knows(&key) {
            questions.spawn(self.clone().ask(key));
        } else if let Some(task) = look(&self.shared, &key, pid, is_running) {
            self.shared.apply(|table| table.task(&key, &task));
        }
    }

    /// Asks what a container is, and takes it into the table. Whether there is one.
    ///
    /// # Errors
    /// When containerd cannot be asked.
    pub(super) async fn describe(&self, key: &Key) -> Result<bool, ClientError> {
        let Some(container) = self.client.container(key).await? else {
            return Ok(false);
        };
        self.expect(key.clone(), container, None).await?;
        Ok(true)
    }

    async fn ask(self, key: Key) {
        if let Err(error) = self.describe(&key).await {
            let (container_id, containerd_namespace, error) = (&key.id, &key.namespace, ErrorChain(&error));
            tracing::warn!(container_id, containerd_namespace, %error, "containerd does not say what this container is");
        }
    }
}

/// Looks at a container's first process.
pub(super) fn look(shared: &Shared, key: &Key, pid: u32, is_running: bool) -> Option<Task> {
    let (container_id, containerd_namespace) = (&key.id, &key.namespace);
    match FirstProcess::look(&shared.tree, pid) {
        Ok(process) if process.cgroup_folder.is_none() => {
            tracing::error!(
                container_id,
                containerd_namespace,
                pid,
                "container has no cgroup of its own in the cgroup2 hierarchy and cannot be guarded: give it one \
                 (linux.cgroupsPath), with runc 1.1 or later"
            );
            None
        }
        Ok(process) => Some(Task { process, is_running }),
        // It has ended already: its exit is the next event.
        Err(error) => {
            tracing::debug!(container_id, pid, error = %ErrorChain(&error), "task is gone");
            None
        }
    }
}
