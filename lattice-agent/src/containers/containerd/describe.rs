//! From containerd's record of a container to what the agent calls one.

use std::path::PathBuf;

use super::{
    super::{
        ContainerInfo,
        cgroup_tree::CgroupTree,
        identity::{IMAGE_DIGEST_LABEL, Identity, possibly_from_image},
        runtime_spec::RuntimeSpec,
    },
    client::{Client, ClientError},
    generated::containerd::services::containers::v1::Container,
    image::{ImageCache, ImageError},
    table::{Description, Key},
};
use crate::error_chain::ErrorChain;

/// Collects what there is to know before the container runs, and which programs its bundle names as hooks.
///
/// # Errors
/// When containerd cannot be asked. What is missing or wrong in its answers makes a description that says less.
pub(super) async fn describe(
    client: &Client,
    images: &ImageCache,
    tree: &CgroupTree,
    key: &Key,
    container: Container,
) -> Result<(Description, Vec<PathBuf>), ClientError> {
    let (container_id, containerd_namespace) = (&key.id, &key.namespace);
    let spec = match RuntimeSpec::read(container.spec.as_ref().map_or(b"{}", |spec| &spec.value)) {
        Ok(spec) => spec,
        Err(error) => {
            let error = ErrorChain(&error);
            tracing::warn!(container_id, containerd_namespace, %error, "container is found only once it has a task");
            RuntimeSpec::default()
        }
    };
    let proven = images
        .prove(
            client,
            &key.namespace,
            &container.image,
            &container.snapshotter,
            &container.snapshot_key,
        )
        .await;
    let image = match proven {
        Ok(image) => Some(image),
        Err(ImageError::Client(error)) => return Err(error),
        Err(error) => {
            let error = ErrorChain(&error);
            tracing::warn!(container_id, containerd_namespace, %error, "container has no image digest: policies with imageDigest do not match it");
            None
        }
    };
    if let Some(claimed) = container.labels.get(IMAGE_DIGEST_LABEL) {
        let stored = image.as_ref().map(|image| image.digest.to_string());
        if stored.as_deref() != Some(claimed) {
            tracing::warn!(
                container_id,
                claimed,
                stored,
                "label {IMAGE_DIGEST_LABEL} is not what the image store says, and is not believed"
            );
        }
    }
    if let Some(image) = &image {
        let labels = possibly_from_image(&container.labels, &image.labels);
        if !labels.is_empty() && !spec.is_from_kubelet() {
            let labels = labels.join(" ");
            tracing::warn!(
                container_id,
                labels,
                "the image itself carries labels that name its container: its author may have chosen them"
            );
        }
    }
    let identity = Identity::of(&key.namespace, &key.id, &container.labels, &spec.annotations);
    let description = Description {
        cgroup_folder: spec.cgroup_folder(tree),
        info: ContainerInfo {
            container_id: key.id.clone(),
            namespace: identity.namespace,
            pod: identity.pod,
            workload: identity.workload,
            name: identity.name,
            service_account: String::new(),
            image_reference: container.image,
            image_digest: image.map(|image| image.digest),
            cgroup_path: PathBuf::new(),
            cgroup_id: 0,
            pod_cgroup_id: None,
            root_device: 0,
            pid: None,
            is_running: false,
            has_own_root: true,
        },
    };
    Ok((description, spec.hook_programs()))
}
