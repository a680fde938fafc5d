//! Who a container is, from what its runtime says of it.

use std::collections::HashMap;

/// Label of a container outside Kubernetes: its namespace.
pub const NAMESPACE_LABEL: &str = "lattice.dev/namespace";
/// Label of a container outside Kubernetes: its workload.
pub const WORKLOAD_LABEL: &str = "lattice.dev/workload";
/// Label of a container outside Kubernetes: its name in the workload.
pub const CONTAINER_LABEL: &str = "lattice.dev/container";
/// Label of a container outside Kubernetes: its pod.
pub const POD_LABEL: &str = "lattice.dev/pod";
/// Label that repeats the image's digest; worth nothing unless the image store says the same.
pub const IMAGE_DIGEST_LABEL: &str = "lattice.dev/image-digest";

const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// Written by containerd's CRI plugin into the specification of each container that a kubelet asked for. An image cannot
/// bring it along, as it can labels.
pub(super) const CRI_KIND_ANNOTATION: &str = "io.kubernetes.cri.container-type";
/// The value of that annotation for the container that only holds a pod's namespaces.
const CRI_SANDBOX: &str = "sandbox";
/// The name of that container, and of no other that containerd runs. No container of a pod can be called so: Kubernetes wants
/// small letters.
pub const SANDBOX_NAME: &str = "POD";
const VALUE_BYTES: usize = 253;

/// The names by which policies find a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace that its policies are in.
    pub namespace: String,
    /// Pod; empty outside Kubernetes.
    pub pod: String,
    /// Workload.
    pub workload: String,
    /// Name in its pod or service.
    pub name: String,
}

impl Identity {
    /// The identity of a container of containerd: by the kubelet's labels if its CRI plugin made it, else by `lattice.dev/`
    /// labels, else by the kubelet's labels (other tools set them too). Without any it is known by its identifier, in the
    /// namespace `containerd/<containerd's namespace>`, so that it is still reported.
    pub fn of(
        containerd_namespace: &str,
        container_id: &str,
        labels: &HashMap<String, String>,
        annotations: &HashMap<String, String>,
    ) -> Self {
        let label = |key: &str| labels.get(key).map(String::as_str).filter(|value| is_usable(value));
        let name_in = |key: &str| label(key).filter(|name| *name != SANDBOX_NAME);
        if !annotations.contains_key(CRI_KIND_ANNOTATION)
            && let Some(namespace) = label(NAMESPACE_LABEL)
        {
            let name = name_in(CONTAINER_LABEL)
                .or(name_in(WORKLOAD_LABEL))
                .unwrap_or(container_id);
            return Self {
                namespace: namespace.into(),
                pod: label(POD_LABEL).unwrap_or_default().into(),
                workload: label(WORKLOAD_LABEL).unwrap_or(container_id).into(),
                name: name.into(),
            };
        }
        if let (Some(namespace), Some(pod)) = (label(POD_NAMESPACE_LABEL), label(POD_NAME_LABEL)) {
            let is_sandbox = annotations
                .get(CRI_KIND_ANNOTATION)
                .is_some_and(|kind| kind == CRI_SANDBOX);
            let name = if is_sandbox {
                SANDBOX_NAME
            } else {
                name_in(CONTAINER_NAME_LABEL).unwrap_or(container_id)
            };
            return Self {
                namespace: namespace.into(),
                pod: pod.into(),
                workload: workload_of_pod(pod).into(),
                name: name.into(),
            };
        }
        Self {
            namespace: format!("containerd/{containerd_namespace}"),
            pod: String::new(),
            workload: container_id.into(),
            name: container_id.into(),
        }
    }
}

/// The labels that name a container and that its image has with the same value: containerd copies an image's labels to its
/// containers, so these may be the image author's word and not the operator's.
pub fn possibly_from_image<'labels>(
    labels: &'labels HashMap<String, String>,
    image_labels: &HashMap<String, String>,
) -> Vec<&'labels str> {
    [
        NAMESPACE_LABEL,
        WORKLOAD_LABEL,
        CONTAINER_LABEL,
        POD_LABEL,
        POD_NAMESPACE_LABEL,
        POD_NAME_LABEL,
    ]
    .into_iter()
    .filter_map(|key| labels.get_key_value(key))
    .filter(|(key, value)| image_labels.get(*key) == Some(*value))
    .map(|(key, _)| key.as_str())
    .collect()
}

fn is_usable(value: &str) -> bool {
    !value.is_empty() && value.len() <= VALUE_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The workload that made a pod of this name, by how Kubernetes' controllers name pods: `NAME-<hash>-<random>` (Deployment),
/// `NAME-<minutes>-<random>` (CronJob), `NAME-<random>` (DaemonSet, Job), `NAME-<ordinal>` (StatefulSet), or the pod itself.
fn workload_of_pod(pod: &str) -> &str {
    // The letters of k8s.io/apimachinery/pkg/util/rand; a hash is decimal digits mapped onto ten of them.
    let random =
        |text: &str| text.len() == 5 && text.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    let hash = |text: &str| (6..=10).contains(&text.len()) && text.bytes().all(|byte| b"456789bcdf".contains(&byte));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((owner, last)) = pod.rsplit_once('-').filter(|(owner, _)| !owner.is_empty()) else {
        return pod;
    };
    if random(last) {
        return match owner.rsplit_once('-') {
            Some((name, middle)) if !name.is_empty() && (hash(middle) || middle.len() == 8 && digits(middle)) => name,
            _ => owner,
        };
    }
    if digits(last) && last.len() <= 6 { owner } else { pod }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(labels: &[(&str, &str)], annotations: &[(&str, &str)], expected: [&str; 4]) {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let found = Identity::of("default", "c0ffee", &map(labels), &map(annotations));
        assert_eq!([&found.namespace, &found.pod, &found.workload, &found.name], expected);
    }

    #[test]
    fn names_come_from_labels() {
        let kubelet = [
            (POD_NAMESPACE_LABEL, "payments"),
            (POD_NAME_LABEL, "shop-7d4b9c6f5d-x2x9p"),
            (CONTAINER_NAME_LABEL, "server"),
        ];
        let cri = [(CRI_KIND_ANNOTATION, "container")];
        check(&kubelet, &cri, ["payments", "shop-7d4b9c6f5d-x2x9p", "shop", "server"]);
        check(
            &kubelet[..2],
            &[(CRI_KIND_ANNOTATION, "sandbox")],
            ["payments", "shop-7d4b9c6f5d-x2x9p", "shop", "POD"],
        );
        let by_hand = [
            (NAMESPACE_LABEL, "payments"),
            (WORKLOAD_LABEL, "shop"),
            (CONTAINER_LABEL, "server"),
        ];
        check(&by_hand, &[], ["payments", "", "shop", "server"]);
        check(&by_hand[..2], &[], ["payments", "", "shop", "shop"]);
        check(&by_hand[..1], &[], ["payments", "", "c0ffee", "c0ffee"]);
    }

    #[test]
    fn an_image_cannot_rename_what_a_kubelet_started() {
        let labels = [
            (NAMESPACE_LABEL, "elsewhere"),
            (POD_NAMESPACE_LABEL, "payments"),
            (POD_NAME_LABEL, "shop-0"),
            (CONTAINER_NAME_LABEL, "server"),
        ];
        check(
            &labels,
            &[(CRI_KIND_ANNOTATION, "container")],
            ["payments", "shop-0", "shop", "server"],
        );
    }

    #[test]
    fn only_a_sandbox_of_the_cri_has_a_sandboxs_name() {
        let pod = [(POD_NAMESPACE_LABEL, "payments"), (POD_NAME_LABEL, "shop-0")];
        let named = [pod[0], pod[1], (CONTAINER_NAME_LABEL, SANDBOX_NAME)];
        let cri = [(CRI_KIND_ANNOTATION, "container")];
        for labels in [&pod[..], &named[..]] {
            check(labels, &cri, ["payments", "shop-0", "shop", "c0ffee"]);
            check(labels, &[], ["payments", "shop-0", "shop", "c0ffee"]);
        }
        let by_hand = [
            (NAMESPACE_LABEL, "payments"),
            (WORKLOAD_LABEL, SANDBOX_NAME),
            (CONTAINER_LABEL, SANDBOX_NAME),
        ];
        check(&by_hand, &[], ["payments", "", "POD", "c0ffee"]);
    }

    #[test]
    fn who_has_no_name_is_known_by_identifier() {
        check(&[], &[], ["containerd/default", "", "c0ffee", "c0ffee"]);
        check(
            &[(NAMESPACE_LABEL, "")],
            &[],
            ["containerd/default", "", "c0ffee", "c0ffee"],
        );
        check(
            &[(NAMESPACE_LABEL, "a\nb")],
            &[],
            ["containerd/default", "", "c0ffee", "c0ffee"],
        );
        check(
            &[(NAMESPACE_LABEL, &"x".repeat(254))],
            &[],
            ["containerd/default", "", "c0ffee", "c0ffee"],
        );
        check(
            &[(WORKLOAD_LABEL, "shop")],
            &[],
            ["containerd/default", "", "c0ffee", "c0ffee"],
        );
    }

    #[test]
    fn pods_name_their_workload() {
        for (pod, workload) in [
            ("shop-7d4b9c6f5d-x2x9p", "shop"),
            ("shop-web-7d4b9c6f5d-x2x9p", "shop-web"),
            ("backup-28406401-x2x9p", "backup"),
            ("node-agent-x2x9p", "node-agent"),
            ("database-12", "database"),
            ("by-hand", "by-hand"),
            ("alone", "alone"),
            ("-x2x9p", "-x2x9p"),
            ("", ""),
        ] {
            assert_eq!(workload_of_pod(pod), workload, "{pod}");
        }
    }

    #[test]
    fn labels_that_the_image_has_too_are_named() {
        let label = |value: &str| HashMap::from([(NAMESPACE_LABEL.to_owned(), value.to_owned())]);
        assert_eq!(possibly_from_image(&label("a"), &label("a")), [NAMESPACE_LABEL]);
        assert!(possibly_from_image(&label("a"), &label("b")).is_empty());
        assert!(possibly_from_image(&label("a"), &HashMap::new()).is_empty());
    }

    proptest! {
        #[test]
        fn any_pod_name_is_cut_at_its_end_only(pod in "[a-z0-9é-]{0,40}") {
            prop_assert!(pod.starts_with(workload_of_pod(&pod)));
        }
    }
}
