//! What these tests say to containerd as a kubelet does: the part of the CRI (k8s.io/cri-api, runtime/v1/api.proto) that starts
//! containers. Only those pass NRI; what `ctr` starts does not.

use std::{collections::HashMap, path::Path};

use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

/// Network 2 is the host's, which needs no CNI.
#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

/// RunPodSandboxResponse and CreateContainerResponse, and every request that names one pod or container.
#[derive(Clone, PartialEq, prost::Message)]
struct Identifier {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerStatus {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int32, tag = "7")]
    exit_code: i32,
}

const EXITED: i32 = 2;
const HOST_NETWORK: i32 = 2;

/// A connection; cheap to clone.
#[derive(Clone)]
pub(crate) struct Cri {
    channel: Channel,
}

/// A pod, as it was asked for.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) id: String,
    name: String,
    config: PodSandboxConfig,
}

/// What a kubelet writes on pods and containers; containerd itself does not.
fn labels(namespace: &str, pod: &str, container: Option<&str>) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        ("io.kubernetes.pod.namespace".into(), namespace.into()),
        ("io.kubernetes.pod.name".into(), pod.into()),
    ]);
    labels.extend(container.map(|name| ("io.kubernetes.container.name".into(), name.into())));
    labels
}

impl Cri {
    pub(crate) async fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self {
            channel: endpoint.connect().await?,
        })
    }

    async fn call<Answer: prost::Message + Default + 'static>(
        &self,
        method: &str,
        message: impl prost::Message + 'static,
    ) -> Result<Answer, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let answer = client.unary(Request::new(message), path, ProstCodec::default()).await;
        Ok(answer?.into_inner())
    }

    /// Whether the CRI plugin serves.
    pub(crate) async fn is_ready(&self) -> bool {
        self.call::<Empty>("Version", Empty {}).await.is_ok()
    }

    pub(crate) async fn run_pod(
        &self,
        namespace: &str,
        name: &str,
        cgroup: &str,
        handler: &str,
    ) -> Result<Pod, Status> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: namespace.into(),
            }),
            labels: labels(namespace, name, None),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup.into(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { network: HOST_NETWORK }),
                }),
            }),
        };
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        let answer: Identifier = self.call("RunPodSandbox", request).await?;
        Ok(Pod {
            id: answer.id,
            name: name.into(),
            config,
        })
    }

    /// Creates and starts; the answer is the container's identifier.
    pub(crate) async fn run_container(
        &self,
        pod: &Pod,
        name: &str,
        attempt: u32,
        image: &str,
        command: &[&str],
        marks: &Path,
    ) -> Result<String, Status> {
        let metadata = pod.config.metadata.as_ref().unwrap();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt,
            }),
            image: Some(ImageSpec { image: image.into() }),
            command: command.iter().map(|word| (*word).into()).collect(),
            mounts: vec![Mount {
                container_path: "/marks".into(),
                host_path: marks.display().to_string(),
            }],
            labels: labels(&metadata.namespace, &pod.name, Some(name)),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let created: Identifier = self.call("CreateContainer", request).await?;
        let _: Empty = self.call("StartContainer", created.clone()).await?;
        Ok(created.id)
    }

    /// The exit code, once it has ended.
    pub(crate) async fn exit_code(&self, id: &str) -> Result<Option<i32>, Status> {
        let answer: ContainerStatusResponse = self.call("ContainerStatus", Identifier { id: id.into() }).await?;
        let status = answer.status.unwrap_or_default();
        Ok((status.state == EXITED).then_some(status.exit_code))
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        self.call::<Empty>("RemoveContainer", Identifier { id: id.into() })
            .await
            .map(drop)
    }
}
