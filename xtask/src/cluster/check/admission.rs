//! What the API server lets in, as kubectl and the cluster's own controllers see it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    NAMESPACE, World,
    registry::{SIGNED, UNSIGNED},
    services::SHOP,
    wait_until,
};
use crate::cluster::registry::HOST;

const NAMESPACES: &str = include_str!("../../../cluster/objects/admission.yaml");
const REFUSING: &str = "refusing";
const WARNED: &str = "warned";
const UNASKED: &str = "unasked";
/// Of the webhook and central together.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing runs of it, and the webhooks are asked all the same, since they change nothing.
const TRIED: &[&str] = &["--dry-run=server"];

/// A pod's specification, of the image with the server.
fn pod(image: &str) -> Value {
    json!({"automountServiceAccountToken": false, "containers": [{"name": "server", "image": image}]})
}

fn object(api_version: &str, kind: &str, namespace: &str, spec: &Value) -> String {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "tried", "namespace": namespace}, "spec": spec}).to_string()
}

fn single_pod(namespace: &str, image: &str) -> String {
    object("v1", "Pod", namespace, &pod(image))
}

/// A template of each kind that has one.
fn templates(namespace: &str, image: &str) -> Vec<String> {
    let labels = json!({"app": "tried"});
    let template = |policy: &str| {
        let mut spec = pod(image);
        spec["restartPolicy"] = policy.into();
        json!({"metadata": {"labels": labels}, "spec": spec})
    };
    let selected = |more: Value| {
        let mut spec = json!({"selector": {"matchLabels": labels}, "template": template("Always")});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        spec
    };
    let job = json!({"template": template("Never")});
    vec![
        object("apps/v1", "Deployment", namespace, &selected(json!({}))),
        object("apps/v1", "ReplicaSet", namespace, &selected(json!({}))),
        object(
            "apps/v1",
            "StatefulSet",
            namespace,
            &selected(json!({"serviceName": "tried"})),
        ),
        object("apps/v1", "DaemonSet", namespace, &selected(json!({}))),
        object("batch/v1", "Job", namespace, &job),
        object(
            "batch/v1",
            "CronJob",
            namespace,
            &json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": job}}),
        ),
        object(
            "v1",
            "ReplicationController",
            namespace,
            &json!({"selector": labels, "template": template("Always")}),
        ),
    ]
}

/// It is refused, and the answer says this.
fn refused(world: &World, what: &str, object: &str, says: &[&str]) -> Result<()> {
    let (is_done, said) = world.kubectl.create(object, TRIED)?;
    ensure!(!is_done, "{what} is let in: {said}");
    for says in says {
        ensure!(said.contains(says), "{what}: the answer does not say {says:?}: {said}");
    }
    Ok(())
}

/// It is let in; what kubectl prints besides.
fn admitted(world: &World, what: &str, object: &str) -> Result<String> {
    let (is_done, said) = world.kubectl.create(object, TRIED)?;
    ensure!(is_done, "{what} is refused: {said}");
    Ok(said)
}

pub(super) fn by_stage(world: &World) -> Result<()> {
    world.kubectl.apply(NAMESPACES)?;
    let (signed, unsigned) = (world.pushed.reference(SIGNED), world.pushed.reference(UNSIGNED));
    // The API server sees a namespace's label a little later than kubectl.
    wait_until("the unsigned image is refused", PATIENCE, || {
        Ok(!world.kubectl.create(&single_pod(REFUSING, &unsigned), TRIED)?.0)
    })?;
    refused(
        world,
        "an unsigned image",
        &single_pod(REFUSING, &unsigned),
        &[
            "deny.admission.lattice.dev",
            "spec.containers[0].image (server)",
            &unsigned,
            "Unsigned",
            "Next: cosign sign",
        ],
    )?;
    let said = admitted(world, "a signed image", &single_pod(REFUSING, &signed))?;
    ensure!(!said.contains("Warning"), "a signed image is warned of: {said}");
    let said = admitted(
        world,
        "an unsigned image where it is warned of",
        &single_pod(WARNED, &unsigned),
    )?;
    ensure!(
        said.contains("Warning")
            && said.contains("would be refused with lattice.dev/admission=deny")
            && said.contains("Unsigned"),
        "nobody is warned: {said}"
    );
    // Who has no label is warned; who says off, and the namespaces that everything starts from, are not asked about.
    let said = admitted(
        world,
        "an unsigned image without a label",
        &single_pod("default", &unsigned),
    )?;
    ensure!(said.contains("Unsigned"), "without a label nobody is warned: {said}");
    for namespace in [UNASKED, NAMESPACE, "kube-system"] {
        let said = admitted(world, namespace, &single_pod(namespace, &unsigned))?;
        ensure!(!said.contains("Warning"), "{namespace} is asked about: {said}");
    }
    let tag = format!("{HOST}/{SIGNED}:1");
    refused(world, "a tag", &single_pod(REFUSING, &tag), &[&tag])?;
    refused(
        world,
        "another registry",
        &single_pod(
            REFUSING,
            "docker.io/library/busybox@sha256:9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7",
        ),
        &["docker.io"],
    )
}

pub(super) fn every_kind(world: &World) -> Result<()> {
    let (signed, unsigned) = (world.pushed.reference(SIGNED), world.pushed.reference(UNSIGNED));
    for (good, bad) in templates(REFUSING, &signed).iter().zip(templates(REFUSING, &unsigned)) {
        refused(world, &bad, &bad, &["template.spec.containers[0].image", "Unsigned"])?;
        admitted(world, good, good)?;
    }
    let mut with_init = pod(&signed);
    with_init["initContainers"] = json!([{"name": "setup", "image": unsigned}]);
    let with_init = object("v1", "Pod", REFUSING, &with_init);
    refused(
        world,
        "an init container",
        &with_init,
        &["spec.initContainers[0].image (setup)"],
    )?;

    // A debugger comes later, by a subresource.
    let (is_done, said) = world.kubectl.create(&single_pod(REFUSING, &signed), &[])?;
    ensure!(is_done, "a signed pod is refused: {said}");
    let debug = |image: &str| {
        let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": image}]}}).to_string();
        world.kubectl.try_run(&[
            "patch",
            "pod",
            "tried",
            "--namespace",
            REFUSING,
            "--subresource=ephemeralcontainers",
            "--patch",
            &debugger,
        ])
    };
    let (is_done, said) = debug(&unsigned)?;
    ensure!(
        !is_done && said.contains("spec.ephemeralContainers[0].image (debugger)") && said.contains("Unsigned"),
        "an unsigned debugger: {said}"
    );
    let (is_done, said) = debug(&signed)?;
    ensure!(is_done, "a signed debugger is refused: {said}");
    world
        .kubectl
        .run(&["delete", "pod", "tried", "--namespace", REFUSING, "--wait=false"])?;
    Ok(())
}

/// Who reads no answers is told too: a controller's pods are refused, and the namespace's events say so.
pub(super) fn told(world: &World) -> Result<()> {
    let unsigned = world.pushed.reference(UNSIGNED);
    let labels = json!({"app": "later"});
    let spec = json!({
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod(&unsigned)},
    });
    // It was let in while the namespace was only warned.
    let label = |stage: &str| {
        let label = format!("lattice.dev/admission={stage}");
        world
            .kubectl
            .run(&["label", "namespace", WARNED, "--overwrite", &label])
    };
    let (is_done, said) = world.kubectl.create(
        &object("apps/v1", "Deployment", WARNED, &{
            let mut spec = spec.clone();
            spec["replicas"] = 0.into();
            spec
        }),
        &[],
    )?;
    ensure!(is_done, "it is refused where it is only warned of: {said}");
    label("deny")?;
    wait_until("the namespace refuses", PATIENCE, || {
        Ok(!world.kubectl.create(&single_pod(WARNED, &unsigned), TRIED)?.0)
    })?;
    // It can still be scaled, since that names no other image; its pods are what is refused.
    world
        .kubectl
        .run(&["scale", "deployment/tried", "--replicas=1", "--namespace", WARNED])?;
    wait_until("an event tells of the refused pod", PATIENCE, || {
        let events = world.kubectl.run(&[
            "get",
            "events",
            "--namespace",
            WARNED,
            "--field-selector=reason=ImageRefused",
            "--output=jsonpath={.items[*].note}{.items[*].message}",
        ])?;
        Ok(events.contains(&unsigned) && events.contains("Unsigned"))
    })?;
    let pods = world
        .kubectl
        .run(&["get", "pods", "--namespace", WARNED, "--output=name"])?;
    ensure!(pods.is_empty(), "there are pods of an unsigned image: {pods}");
    world
        .kubectl
        .run(&["delete", "deployment", "tried", "--namespace", WARNED])?;
    label("warn")?;
    // And what central itself makes passes by the same rules.
    let shop = ["label", "namespace", SHOP, "--overwrite", "lattice.dev/admission=deny"];
    world.kubectl.run(&shop)?;
    world
        .kubectl
        .run(&["rollout", "restart", "deployment/web", "--namespace", SHOP])?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/web",
        "--namespace",
        SHOP,
        "--timeout=120s",
    ])?;
    Ok(())
}

/// What nobody can judge is refused where it must be, and stops nothing elsewhere; central comes back by itself.
pub(super) fn without_central(world: &World) -> Result<()> {
    let signed = world.pushed.reference(SIGNED);
    let scale = |replicas: &str| {
        world.kubectl.run(&[
            "scale",
            "deployment/lattice-central",
            replicas,
            "--namespace",
            NAMESPACE,
        ])
    };
    let deployment = templates(REFUSING, &signed).remove(0);
    let (is_done, said) = world.kubectl.create(&deployment, &[])?;
    ensure!(is_done, "a signed Deployment is refused: {said}");
    scale("--replicas=0")?;
    wait_until("central is gone", PATIENCE, || {
        Ok(world.process_of(b"lattice-central", None).is_err())
    })?;
    wait_until("nobody is asked any more", PATIENCE, || {
        let (is_done, said) = world.kubectl.create(&single_pod(REFUSING, &signed), TRIED)?;
        Ok(!is_done && said.contains("failed calling webhook"))
    })?;
    for namespace in [WARNED, "default", UNASKED, NAMESPACE, "kube-system"] {
        admitted(world, namespace, &single_pod(namespace, &signed))?;
    }
    let tag = format!("{HOST}/{SIGNED}:1");
    refused(
        world,
        "a tag without central",
        &single_pod(REFUSING, &tag),
        &["is named by a tag"],
    )?;
    // What changes no image needs nobody's word.
    for arguments in [
        &["scale", "deployment/tried", "--replicas=0"][..],
        &["label", "deployment/tried", "seen=yes"],
        &["delete", "deployment/tried"],
    ] {
        world.kubectl.run(&[arguments, &["--namespace", REFUSING]].concat())?;
    }
    scale("--replicas=1")?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "deployment/lattice-central",
        "--namespace",
        NAMESPACE,
        "--timeout=120s",
    ])?;
    wait_until("central is asked again", PATIENCE, || {
        Ok(world.kubectl.create(&single_pod(REFUSING, &signed), TRIED)?.0)
    })
}

/// What the API server tells without central: a tag, and a registry that nobody named. What only central can tell waits for it.
pub(super) fn floor(world: &World) -> Result<()> {
    let signed = world.pushed.reference(SIGNED);
    let tag = format!("{HOST}/{SIGNED}:1");
    let elsewhere = signed.replace(HOST, "registry.example.com");
    let hub = signed.replace(&format!("{HOST}/"), "");
    let policy = "ValidatingAdmissionPolicy 'lattice-central-images'";
    for (image, says) in [
        (&tag, "is named by a tag"),
        (&elsewhere, "no TrustPolicy names the registry"),
        (&hub, "no TrustPolicy names the registry"),
    ] {
        refused(
            world,
            image,
            &single_pod(REFUSING, image),
            &[policy, says, image, "Next: "],
        )?;
        for object in templates(REFUSING, image) {
            refused(world, image, &object, &[policy, image])?;
        }
        // Nobody else is held to it.
        for namespace in [WARNED, UNASKED, "kube-system"] {
            admitted(world, image, &single_pod(namespace, image))?;
        }
    }
    let mut with_volume = pod(&signed);
    with_volume["volumes"] = json!([{"name": "model", "image": {"reference": tag}}]);
    refused(
        world,
        "a volume",
        &object("v1", "Pod", REFUSING, &with_volume),
        &["is named by a tag"],
    )?;
    let (is_done, said) = world.kubectl.try_run(&[
        "label",
        "namespace",
        UNASKED,
        "--overwrite",
        "lattice.dev/admission=Deny",
    ])?;
    ensure!(
        !is_done && said.contains("it can be deny, warn or off"),
        "a stage that there is none: {said}"
    );
    // The list is central's: what somebody writes there is put right, and a registry that nobody trusts any more is gone.
    let list = || {
        world.kubectl.run(&[
            "get",
            "configmap",
            "lattice-central-trusted",
            "--namespace",
            NAMESPACE,
            "--output=jsonpath={.data.registries}",
        ])
    };
    ensure!(list()? == HOST, "the trusted registries are {:?}", list()?);
    let forged = json!({"data": {"registries": "registry.example.com"}}).to_string();
    world.kubectl.run(&[
        "patch",
        "configmap",
        "lattice-central-trusted",
        "--namespace",
        NAMESPACE,
        "--patch",
        &forged,
    ])?;
    wait_until("the list is put right", PATIENCE, || Ok(list()? == HOST))
}

/// The listener's certificate is another one, and the API server never noticed; what somebody does to the configuration is put right.
pub(super) fn rotated(world: &World) -> Result<()> {
    let signed = world.pushed.reference(SIGNED);
    let renewals = || -> Result<usize> {
        let log = world.kubectl.run(&[
            "logs",
            "deployment/lattice-central",
            "--namespace",
            NAMESPACE,
            "--tail=-1",
        ])?;
        Ok(log.matches("the admission listener has a new certificate").count())
    };
    let before = renewals()?;
    // Half of certificateSeconds, twice.
    wait_until("the certificate is renewed twice", Duration::from_secs(180), || {
        admitted(world, "a signed image meanwhile", &single_pod(REFUSING, &signed))?;
        Ok(renewals()? >= before + 2)
    })?;
    let configuration = "validatingwebhookconfiguration/lattice-central";
    let remove = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    world
        .kubectl
        .run(&["patch", configuration, "--type=json", "--patch", &remove])?;
    wait_until("the authority is there again", PATIENCE, || {
        let bundles = world.kubectl.run(&[
            "get",
            configuration,
            "--output=jsonpath={.webhooks[*].clientConfig.caBundle}",
        ])?;
        Ok(bundles.split(' ').filter(|bundle| bundle.len() > 100).count() == 2)
    })?;
    wait_until("the API server believes central", PATIENCE, || {
        Ok(world.kubectl.create(&single_pod(REFUSING, &signed), TRIED)?.0)
    })
}
