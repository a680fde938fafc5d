//! Questions to containerd over its socket.

use std::{collections::BTreeSet, path::Path};

use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    generated::containerd::{
        services::{
            containers::v1::{
                Container, GetContainerRequest, ListContainersRequest, containers_client::ContainersClient,
            },
            content::v1::{ReadContentRequest, content_client::ContentClient},
            events::v1::{SubscribeRequest, events_client::EventsClient},
            images::v1::{GetImageRequest, images_client::ImagesClient},
            namespaces::v1::{ListNamespacesRequest, namespaces_client::NamespacesClient},
            snapshots::v1::{StatSnapshotRequest, snapshots_client::SnapshotsClient},
            tasks::v1::{GetRequest, ListTasksRequest, tasks_client::TasksClient},
        },
        types::Envelope,
        v1::types::Process,
    },
    table::Key,
};

/// Larger than any answer of a node with some thousand containers; containerd itself stops at 16 MiB.
const ANSWER_BYTES: usize = 32 << 20;

/// Why containerd could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody answers at the socket.
    #[error("containerd does not answer at {socket}: is it running, and is --containerd its socket?")]
    Connect {
        /// Path of the socket.
        socket: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It answered with an error.
    #[error("containerd refused {question}: {}", status.message())]
    Refused {
        /// What was asked.
        question: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// A namespace that no header can carry.
    #[error("{0:?} is no namespace of containerd")]
    Namespace(String),
    /// More content than there should be.
    #[error("content {digest} is larger than {limit_bytes} bytes")]
    Size {
        /// Its digest.
        digest: String,
        /// What would have been accepted.
        limit_bytes: usize,
    },
    /// It closed the stream of events.
    #[error("containerd ended the stream of events")]
    EventsEnded,
}

fn refused(question: &'static str) -> impl FnOnce(Status) -> ClientError {
    move |status| ClientError::Refused {
        question,
        status: Box::new(status),
    }
}

/// A connection; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let shown = socket.display().to_string();
        let failed = |source| ClientError::Connect {
            socket: shown.clone(),
            source,
        };
        let endpoint = Endpoint::from_shared(format!("unix://{shown}")).map_err(failed)?;
        Ok(Self {
            channel: endpoint.connect().await.map_err(failed)?,
        })
    }

    pub(super) async fn events(&self) -> Result<Streaming<Envelope>, ClientError> {
        let topics = [
            "/containers/create",
            "/containers/update",
            "/containers/delete",
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete",
        ];
        let filters = topics.map(|topic| format!("topic=={topic:?}")).to_vec();
        let answer = EventsClient::new(self.channel.clone())
            .subscribe(SubscribeRequest { filters })
            .await;
        Ok(answer.map_err(refused("the stream of events"))?.into_inner())
    }

    pub(super) async fn namespaces(&self) -> Result<Vec<String>, ClientError> {
        let request = ListNamespacesRequest { filter: String::new() };
        let answer = NamespacesClient::new(self.channel.clone()).list(request).await;
        let namespaces = answer
            .map_err(refused("the list of namespaces"))?
            .into_inner()
            .namespaces;
        Ok(namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    pub(super) async fn containers(&self, namespace: &str) -> Result<Vec<Container>, ClientError> {
        let request = in_namespace(namespace, ListContainersRequest { filters: Vec::new() })?;
        let mut client = ContainersClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        Ok(client
            .list(request)
            .await
            .map_err(refused("the list of containers"))?
            .into_inner()
            .containers)
    }

    pub(super) async fn container(&self, key: &Key) -> Result<Option<Container>, ClientError> {
        let request = in_namespace(&key.namespace, GetContainerRequest { id: key.id.clone() })?;
        let mut client = ContainersClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let answer = found(client.get(request).await, "a container")?;
        Ok(answer.and_then(|answer| answer.container))
    }

    pub(super) async fn tasks(&self, namespace: &str) -> Result<Vec<Process>, ClientError> {
        let request = in_namespace(namespace, ListTasksRequest { filter: String::new() })?;
        let mut client = TasksClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        Ok(client
            .list(request)
            .await
            .map_err(refused("the list of tasks"))?
            .into_inner()
            .tasks)
    }

    pub(super) async fn task(&self, key: &Key) -> Result<Option<Process>, ClientError> {
        let request = GetRequest {
            container_id: key.id.clone(),
            exec_id: String::new(),
        };
        let request = in_namespace(&key.namespace, request)?;
        let answer = found(TasksClient::new(self.channel.clone()).get(request).await, "a task")?;
        Ok(answer.and_then(|answer| answer.process))
    }

    /// The digest that an image's name stands for in the image store.
    pub(super) async fn image_target(&self, namespace: &str, name: &str) -> Result<Option<String>, ClientError> {
        let request = in_namespace(namespace, GetImageRequest { name: name.into() })?;
        let answer = found(ImagesClient::new(self.channel.clone()).get(request).await, "an image")?;
        Ok(answer
            .and_then(|answer| answer.image?.target)
            .map(|target| target.digest))
    }

    /// The name of the snapshot that a container's snapshot stands on.
    pub(super) async fn snapshot_parent(
        &self,
        namespace: &str,
        snapshotter: &str,
        key: &str,
    ) -> Result<Option<String>, ClientError> {
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.into(),
        };
        let request = in_namespace(namespace, request)?;
        let answer = found(
            SnapshotsClient::new(self.channel.clone()).stat(request).await,
            "a snapshot",
        )?;
        Ok(answer.and_then(|answer| answer.info).map(|info| info.parent))
    }

    /// A blob of the content store, or `None` if it is not there.
    pub(super) async fn content(
        &self,
        namespace: &str,
        digest: &str,
        limit_bytes: usize,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let request = in_namespace(
            namespace,
            ReadContentRequest {
                digest: digest.into(),
                offset: 0,
                size: 0,
            },
        )?;
        let answer = ContentClient::new(self.channel.clone()).read(request).await;
        let Some(mut parts) = found(answer, "content")? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        loop {
            match found(parts.message().await.map(tonic::Response::new), "content") {
                Ok(Some(Some(part))) => content.extend_from_slice(&part.data),
                Ok(Some(None)) => return Ok(Some(content)),
                Ok(None) => return Ok(None),
                Err(error) => return Err(error),
            }
            if content.len() > limit_bytes {
                return Err(ClientError::Size {
                    digest: digest.chars().take(80).collect(),
                    limit_bytes,
                });
            }
        }
    }
}

fn in_namespace<Message>(namespace: &str, message: Message) -> Result<Request<Message>, ClientError> {
    let value = MetadataValue::try_from(namespace).map_err(|_| ClientError::Namespace(namespace.into()))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}

/// What is not there is an answer, not an error.
fn found<Message>(
    answer: Result<tonic::Response<Message>, Status>,
    question: &'static str,
) -> Result<Option<Message>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refused(question)(status)),
    }
}

/// Containerd's namespaces that are watched: those named, or all.
pub(super) async fn watched_namespaces(client: &Client, named: &BTreeSet<String>) -> Result<Vec<String>, ClientError> {
    let all = client.namespaces().await?;
    Ok(all
        .into_iter()
        .filter(|namespace| named.is_empty() || named.contains(namespace))
        .collect())
}
