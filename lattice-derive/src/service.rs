//! The part of a LatticeService that says what runs: the caller converts its own type to this one.

/// The value of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// Written in the specification; may refer to earlier variables as `$(NAME)`.
    Literal(String),
    /// From a Secret, a ConfigMap or a field: not known when the list is derived.
    Unknown,
}

/// One environment variable of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvValue,
}

/// One container, with Kubernetes' meaning of each field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerSpec {
    /// Unique in the service.
    pub name: String,
    /// Replaces the image's entrypoint, and drops its cmd; empty where absent.
    pub command: Vec<String>,
    /// Replaces the image's cmd; empty where absent.
    pub args: Vec<String>,
    /// In order.
    pub env: Vec<EnvVar>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// `readinessProbe.exec.command`; empty where the probe is absent or of another sort.
    pub readiness_probe: Vec<String>,
    /// `livenessProbe.exec.command`.
    pub liveness_probe: Vec<String>,
    /// `startupProbe.exec.command`.
    pub startup_probe: Vec<String>,
    /// `lifecycle.postStart.exec.command`.
    pub post_start: Vec<String>,
    /// `lifecycle.preStop.exec.command`.
    pub pre_stop: Vec<String>,
}

/// The containers of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSpec {
    /// Name of the service, and of its workload.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Containers that run together.
    pub containers: Vec<ContainerSpec>,
    /// Init containers, sidecars (`restartPolicy: Always`) included.
    pub init_containers: Vec<ContainerSpec>,
}
