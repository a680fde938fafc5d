use lattice_api::object::{Object, read_objects};

use super::*;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn derived(text: &str) -> Derived {
    let objects = read_objects("service.yaml", text.as_bytes()).unwrap();
    let mut policies = Vec::new();
    let mut services = Vec::new();
    for object in objects {
        match object {
            Object::LatticeService(service) => services.push(service),
            Object::ExecPolicy(policy) => policies.push(policy),
            other => panic!("{other:?}"),
        }
    }
    let service = services.remove(0);
    let all = service.spec.containers.iter().chain(&service.spec.init_containers);
    let images = all
        .map(|container| {
            (
                container.name.clone(),
                format!("r.example.com/{}@{DIGEST}", container.name),
            )
        })
        .collect();
    Derived {
        service,
        uid: "4711".to_owned(),
        images,
        policies,
    }
}

const WHOLE: &str = "
apiVersion: lattice.dev/v1alpha1
kind: LatticeService
metadata: {name: payment-service, namespace: payments}
spec:
  environment: production
  replicas: 2
  containers:
  - name: server
    image: r.example.com/server:v1
    ports: [{containerPort: 8080, name: http}, {containerPort: 9000, protocol: UDP}]
    volumeMounts: [{name: db, mountPath: /db}, {name: scratch, mountPath: /scratch}]
    readinessProbe: {exec: {command: [/bin/true]}, periodSeconds: 5}
    resources: {limits: {cpu: 2}}
  initContainers:
  - {name: proxy, image: 'r.example.com/proxy:v1', restartPolicy: Always}
  secrets: [{name: db, externalRef: {store: vault, key: payments/db}}]
---
apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: payment-service-server, namespace: payments}
spec: {target: {workload: payment-service, container: server}, generation: 3, entries: []}
";

#[test]
fn a_service_comes_to_its_objects_in_order() {
    let all = children(&derived(WHOLE));
    let names: Vec<String> = all
        .iter()
        .map(|child| format!("{} {}", child.kind.kind, child.name))
        .collect();
    assert_eq!(
        names,
        [
            "ExecPolicy payment-service-server",
            "ExternalSecret db",
            "Service payment-service",
            "Deployment payment-service"
        ]
    );
    for child in &all {
        let metadata = &child.document["metadata"];
        assert_eq!(metadata["namespace"], "payments");
        assert_eq!(metadata["labels"][MANAGED_BY_LABEL], MANAGED_BY);
        assert_eq!(metadata["ownerReferences"][0]["uid"], "4711");
    }
    assert_eq!(all[0].document["spec"]["generation"], 3);
    assert_eq!(all[1].document["spec"]["dataFrom"][0]["extract"]["key"], "payments/db");
    let ports = &all[2].document["spec"]["ports"];
    assert_eq!(
        (&ports[0]["name"], &ports[1]["name"]),
        (&json!("http"), &json!("udp-9000"))
    );
}

#[test]
fn a_pod_has_the_verified_digests_and_the_volumes_that_are_mounted() {
    let all = children(&derived(WHOLE));
    let pod = &all[3].document["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], format!("r.example.com/server@{DIGEST}"));
    assert_eq!(
        pod["initContainers"][0]["image"],
        format!("r.example.com/proxy@{DIGEST}")
    );
    assert_eq!(pod["initContainers"][0]["restartPolicy"], "Always");
    let probe = &pod["containers"][0]["readinessProbe"];
    assert_eq!(*probe, json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 5}));
    assert_eq!(
        pod["volumes"],
        json!([{"name": "db", "secret": {"secretName": "db"}}, {"name": "scratch", "emptyDir": {}}])
    );
    let selector = &all[3].document["spec"]["selector"]["matchLabels"];
    let labels = &all[3].document["spec"]["template"]["metadata"]["labels"];
    assert_eq!(selector[SERVICE_LABEL], labels[SERVICE_LABEL]);
}

#[test]
fn a_service_without_ports_has_no_service_in_front() {
    let text = "apiVersion: lattice.dev/v1alpha1\nkind: LatticeService\nmetadata: {name: a, namespace: b}\nspec: {environment: staging, \
                containers: [{name: c, image: 'r.example.com/c:v1'}]}\n";
    let kinds: Vec<&str> = children(&derived(text)).iter().map(|child| child.kind.kind).collect();
    assert_eq!(kinds, ["Deployment"]);
}
