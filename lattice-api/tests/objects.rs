//! The objects that users write: what is read from them, and what people read when they are wrong.

use std::{fs, path::Path};

use lattice_api::{
    Object,
    object::{
        ApprovalMode, Container, Environment, ExecAction, Handler, LatticeRolloutSpec, LatticeService, OnOpen, Port,
        Runtime, Secret, SecretReference, TrustPolicy,
    },
    read_objects,
};

const ALL_KINDS: &str = include_str!("all_kinds.yaml");

fn objects() -> Vec<Object> {
    read_objects("all_kinds.yaml", ALL_KINDS.as_bytes()).unwrap_or_else(|diagnostics| panic!("{}", diagnostics[0]))
}

fn service() -> LatticeService {
    objects()
        .into_iter()
        .find_map(|object| match object {
            Object::LatticeService(service) => Some(service),
            _ => None,
        })
        .unwrap()
}

fn secret() -> Secret {
    objects()
        .into_iter()
        .find_map(|object| match object {
            Object::Secret(secret) => Some(secret),
            _ => None,
        })
        .unwrap()
}

fn container() -> Container {
    service().spec.containers.remove(0)
}

#[test]
fn a_file_may_mix_kinds() {
    let found: Vec<String> = objects()
        .iter()
        .map(|object| format!("{} {}/{}", object.kind(), object.namespace(), object.name()))
        .collect();
    assert_eq!(
        found,
        [
            "TrustPolicy /internal-registry",
            "LatticeService payments/payment-service",
            "Secret signing-keys/cosign-public",
            "ExecPolicy payments/by-hand"
        ]
    );
}

#[test]
fn a_trust_policy_names_the_registry_and_the_key() {
    let Object::TrustPolicy(TrustPolicy { spec, .. }) = objects().remove(0) else {
        panic!("not the first")
    };
    assert_eq!(spec.registry, "registry.example.com");
    let expected = SecretReference {
        namespace: "signing-keys".to_owned(),
        name: "cosign-public".to_owned(),
    };
    assert_eq!(spec.cosign.public_key.secret_ref, expected);
    assert_eq!(expected.to_string(), "signing-keys/cosign-public");
}

#[test]
fn a_service_says_what_should_run() {
    let spec = service().spec;
    assert_eq!((spec.environment, spec.replicas), (Environment::Production, 2));
    assert_eq!(spec.init_containers[0].restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.secrets[0].external_ref.key, "payments/db");

    let container = container();
    assert_eq!(container.command, ["/app/server"]);
    assert_eq!(container.args, ["--port", "8080"]);
    assert_eq!(container.working_dir.as_deref(), Some("/app"));
    assert_eq!(container.env[0].value.as_deref(), Some("/usr/bin"));
    assert_eq!(
        container.env[1]
            .value_from
            .as_ref()
            .unwrap()
            .secret_key_ref
            .as_ref()
            .unwrap()
            .key,
        "password"
    );
    assert_eq!(container.ports[0].container_port, 8080);
    assert_eq!(container.resources.as_ref().unwrap().limits["cpu"], "2");
    assert_eq!(container.volume_mounts[0].mount_path, "/data");
    let shell_line = ["/bin/sh", "-c", "curl -fs localhost:8080/healthz"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(
        container.readiness_probe.unwrap().handler,
        Handler::Exec(ExecAction { command: shell_line })
    );
    let Handler::HttpGet(action) = container.liveness_probe.unwrap().handler else {
        panic!("not HTTP")
    };
    assert_eq!(action.port, Port::Name("http".to_owned()));
    let Some(Handler::Sleep(action)) = container.lifecycle.unwrap().pre_stop else {
        panic!("not a sleep")
    };
    assert_eq!(action.seconds, 5);
}

#[test]
fn a_secret_is_decoded_and_shown_nowhere() {
    let secret = secret();
    assert_eq!(secret.data["cosign.pub"].expose(), b"hello");
    assert_eq!(secret.data["plain"].expose(), b"as it is");
    let shown = format!("{secret:?}");
    assert!(
        !shown.contains("hello") && !shown.contains("as it is") && shown.contains("[5 bytes]"),
        "{shown}"
    );
}

#[test]
fn types_say_the_same_as_json() {
    // What the cluster will speak with these types is what the reader reads.
    let json = serde_json::to_string(&service().spec).unwrap();
    let document = format!(
        "{{\"apiVersion\":\"lattice.dev/v1alpha1\",\"kind\":\"LatticeService\",\"metadata\":{{\"name\":\"payment-service\",\"namespace\":\"payments\"}},\"spec\":{json}}}"
    );
    let objects = read_objects("service.json", document.as_bytes()).unwrap_or_else(|found| panic!("{}", found[0]));
    assert_eq!(objects, [Object::LatticeService(service())]);
    assert_eq!(
        serde_json::from_str::<lattice_api::object::LatticeServiceSpec>(&json).unwrap(),
        service().spec
    );
}

/// `UPDATE_GOLDEN=1 cargo test` writes the texts anew.
#[test]
fn texts_are_the_golden_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut checked = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let diagnostics = read_objects(name, &fs::read(&path).unwrap()).expect_err(name);
        let texts: String = diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect();
        assert!(!texts.contains("TOP-SECRET"), "{texts}");
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &texts).unwrap();
        }
        assert_eq!(texts, fs::read_to_string(&golden).unwrap_or_default(), "{name}");
        checked += 1;
    }
    assert!(checked >= 4, "only {checked} files in {}", folder.display());
}

fn rollout(text: &str) -> LatticeRolloutSpec {
    let head =
        "apiVersion: lattice.dev/v1alpha1\nkind: LatticeRollout\nmetadata: {name: payments, namespace: payments}\n";
    let objects = read_objects("rollout.yaml", format!("{head}spec: {text}\n").as_bytes());
    match objects
        .unwrap_or_else(|diagnostics| panic!("{}", diagnostics[0]))
        .remove(0)
    {
        Object::LatticeRollout(rollout) => rollout.spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rollout_has_what_its_environment_says_where_it_says_nothing() {
    let staging = rollout("{environment: staging, runtime: enforce}");
    assert_eq!(staging, LatticeRolloutSpec::defaults(Environment::Staging));
    assert_eq!(staging.burn_in.min_duration.to_string(), "2w");
    let production = rollout("{environment: production, runtime: monitor}");
    assert_eq!(production.burn_in.min_duration.to_string(), "1w");
    assert_eq!(
        (production.runtime, production.approval.approvers),
        (Runtime::Monitor, 2)
    );
    // A quiet period that nobody asked for is not longer than the whole.
    let short = rollout("{environment: production, runtime: enforce, burnIn: {minDuration: 1h}}");
    assert_eq!(short.burn_in.quiet_period.to_string(), "1h");
}

#[test]
fn a_rollout_says_how_far_how_fast_and_who() {
    let spec = rollout(
        "{environment: development, runtime: enforce, burnIn: {minDuration: 36h, quietPeriod: 1h30m},
          steps: [{pods: 1, hold: 10m}, {pods: \"10%\", hold: 0s}], approval: {mode: manual, approvers: 3},
          breaker: {window: 5m, refusals: 2, pods: 1, onOpen: pause, backOff: 1m, maxAutoRearm: 0},
          freezeWindows: [{every: friday 16:00, for: 64h}, {from: \"2026-12-20T00:00:00Z\", for: 2w, reason: holidays}], paused: true}",
    );
    let steps: Vec<_> = spec
        .steps
        .iter()
        .map(|step| format!("{} {}", step.pods, step.hold))
        .collect();
    assert_eq!(steps, ["1 10m", "10% 0s"]);
    assert_eq!((spec.approval.mode, spec.approval.approvers), (ApprovalMode::Manual, 3));
    assert_eq!((spec.breaker.on_open, spec.breaker.max_auto_rearm), (OnOpen::Pause, 0));
    assert_eq!((spec.freeze_windows.len(), spec.paused), (2, true));
}
