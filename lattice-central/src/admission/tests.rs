//! Reading reviews, whatever is sent, and what is said of them.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Counts, Outcome, Stage,
    answer::{Answer, Came, answer},
    judge::{Finding, Judgement, Refused},
    object::{Named, images, workload},
    review::{self, Review},
};

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

/// An object of this kind around a pod's metadata and spec.
fn object(kind: &str, pod: &Value) -> Value {
    match kind {
        "Pod" => pod.clone(),
        "CronJob" => json!({"metadata": {"name": "nightly"}, "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
        _ => json!({"metadata": {"name": "web"}, "spec": {"template": pod}}),
    }
}

fn asked(kind: &str, object: &Value, before: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "kind": {"group": "", "version": "v1", "kind": kind},
            "resource": {"group": "", "version": "v1", "resource": "any"},
            "namespace": "shop", "operation": if before.is_null() { "CREATE" } else { "UPDATE" },
            "userInfo": {"username": "alice"}, "object": object, "oldObject": before, "dryRun": false,
        },
    })
}

fn read(review: &Value) -> Result<Review, String> {
    review::read(review.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn named(review: &Review) -> Vec<(&str, &str)> {
    let images = review.images.iter();
    images
        .map(|named| (named.field.as_str(), named.image.as_str()))
        .collect()
}

const KINDS: [(&str, &str); 8] = [
    ("Pod", "spec"),
    ("ReplicationController", "spec.template.spec"),
    ("Deployment", "spec.template.spec"),
    ("ReplicaSet", "spec.template.spec"),
    ("StatefulSet", "spec.template.spec"),
    ("DaemonSet", "spec.template.spec"),
    ("Job", "spec.template.spec"),
    ("CronJob", "spec.jobTemplate.spec.template.spec"),
];

#[test]
fn every_image_of_every_kind_is_found() {
    let pod = json!({"metadata": {"name": "web"}, "spec": {
        "containers": [container("server", "r/a:1"), container("mesh", "r/b:1")],
        "initContainers": [container("setup", "r/c:1")],
        "ephemeralContainers": [container("debugger", "r/d:1")],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "model", "image": {"reference": "r/e:1"}}],
    }});
    for (kind, path) in KINDS {
        let review = read(&asked(kind, &object(kind, &pod), &Value::Null)).unwrap();
        let expected = [
            (format!("{path}.initContainers[0].image"), "r/c:1"),
            (format!("{path}.containers[0].image"), "r/a:1"),
            (format!("{path}.containers[1].image"), "r/b:1"),
            (format!("{path}.ephemeralContainers[0].image"), "r/d:1"),
            (format!("{path}.volumes[1].image.reference"), "r/e:1"),
        ];
        let expected: Vec<_> = expected.iter().map(|(field, image)| (field.as_str(), *image)).collect();
        assert_eq!(named(&review), expected, "{kind}");
    }
}

#[test]
fn what_an_object_named_before_is_not_judged_again() {
    let of = |images: &[&str]| {
        let containers: Vec<_> = images.iter().map(|image| container("c", image)).collect();
        json!({"metadata": {"name": "web"}, "spec": {"containers": containers}})
    };
    let new = |before: &[&str], after: &[&str]| {
        let review = read(&asked("Pod", &of(after), &of(before))).unwrap();
        let images = review.images.into_iter();
        images.map(|named| named.image).collect::<Vec<_>>()
    };
    assert_eq!(new(&["a"], &["a"]), [""; 0]);
    assert_eq!(new(&["a"], &["b", "a"]), ["b"]);
    assert_eq!(new(&[], &["a"]), ["a"]);
    // An object before that cannot be read excuses nothing.
    let odd = json!({"metadata": {}, "spec": {"containers": "a"}});
    let review = read(&asked("Pod", &of(&["a"]), &odd)).unwrap();
    assert_eq!(review.images.len(), 1);
    // A debugger comes by an update.
    let mut with_debugger = of(&["a"]);
    with_debugger["spec"]["ephemeralContainers"] = json!([container("debugger", "evil")]);
    let review = read(&asked("Pod", &with_debugger, &of(&["a"]))).unwrap();
    assert_eq!(named(&review), [("spec.ephemeralContainers[0].image", "evil")]);
}

#[test]
fn a_workload_is_called_as_its_owner_called_it() {
    let check = |kind: &str, metadata: Value, expected: &str| {
        let object = match kind {
            "Pod" => json!({"metadata": metadata, "spec": {}}),
            _ => json!({"metadata": metadata, "spec": {"template": {"metadata": metadata, "spec": {}}}}),
        };
        assert_eq!(workload(kind, &object).unwrap().name, expected, "{kind} {object}");
    };
    let of = |name: &str| json!([{"kind": "Any", "name": "other"}, {"kind": "Any", "name": name, "controller": true}]);
    check("Deployment", json!({"name": "web"}), "web");
    check(
        "ReplicaSet",
        json!({"name": "web-5d8f", "ownerReferences": of("web"), "labels": {"pod-template-hash": "5d8f"}}),
        "web",
    );
    check(
        "Pod",
        json!({"generateName": "web-5d8f-", "ownerReferences": of("web-5d8f"), "labels": {"pod-template-hash": "5d8f"}}),
        "web",
    );
    check("Pod", json!({"generateName": "loose-"}), "loose");
    check("Pod", json!({}), "");
    let labelled = json!({"metadata": {"labels": {"lattice.dev/service": "web"}}, "spec": {}});
    assert_eq!(workload("Pod", &labelled).unwrap().service.as_deref(), Some("web"));
    let template = json!({"metadata": {}, "spec": {"template": labelled}});
    assert_eq!(workload("Job", &template).unwrap().service.as_deref(), Some("web"));
}

#[test]
fn what_is_not_in_the_form_is_refused_by_field_and_value() {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [container("a", "r/a:1")]}});
    let with = |pointer: &str, value: Value| {
        let mut review = asked("Pod", &pod, &Value::Null);
        *review.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        read(&review).expect_err(pointer)
    };
    let long = "a".repeat(5_000);
    let many: Vec<_> = (0..65).map(|index| container("c", &format!("r/{index}"))).collect();
    let very_many: Vec<_> = (0..1_001).map(|_| container("c", "r/a")).collect();
    for (pointer, value, expected) in [
        (
            "/apiVersion",
            json!("admission.k8s.io/v1beta1"),
            "apiVersion: is \"admission.k8s.io/v1beta1\" instead of",
        ),
        ("/kind", json!("Pod"), "kind: is \"Pod\""),
        ("/request", Value::Null, "request: is missing"),
        ("/request/uid", json!(""), "request.uid: is missing"),
        ("/request/uid", json!(long), "request.uid: has 5000 bytes"),
        ("/request/uid", json!(7), "AdmissionReview: invalid type: integer `7`"),
        ("/request/namespace", Value::Null, "request.namespace: is missing"),
        (
            "/request/userInfo/username",
            json!(long),
            "request.userInfo.username: has 5000 bytes",
        ),
        (
            "/request/kind/kind",
            json!("Node\n"),
            "request.kind.kind: \"Node\\n\" runs no images",
        ),
        (
            "/request/operation",
            json!("DELETE"),
            "request.operation: is neither CREATE nor UPDATE",
        ),
        ("/request/object", Value::Null, "request.object: is missing"),
        ("/request/object/spec", Value::Null, "spec: is missing"),
        (
            "/request/object/spec/containers",
            json!("a"),
            "spec.containers: is no list: \"\\\"a\\\"\"",
        ),
        (
            "/request/object/spec/containers/0/image",
            json!(7),
            "spec.containers[0].image: is no text: \"7\"",
        ),
        (
            "/request/object/spec/containers/0/image",
            json!(""),
            "spec.containers[0].image: is missing",
        ),
        (
            "/request/object/spec/containers/0/image",
            json!(long),
            "spec.containers[0].image: has 5000 bytes instead of at most 1024: \"aaa",
        ),
        (
            "/request/object/spec/containers/0/name",
            json!([]),
            "spec.containers[0].name: is no text",
        ),
        (
            "/request/object/spec/containers/0",
            json!(null),
            "spec.containers[0].image: is missing",
        ),
        (
            "/request/object/spec/containers",
            json!(many),
            "spec: names 65 different images",
        ),
        (
            "/request/object/spec/containers",
            json!(very_many),
            "spec.containers: has 1001 items",
        ),
    ] {
        let error = with(pointer, value);
        assert!(error.contains(expected), "{pointer}: {error}");
        assert!(error.len() < 400, "{pointer}: {} bytes", error.len());
    }
    // A template may leave the image to somebody else; its pod may not.
    let template = object("Deployment", &json!({"spec": {"containers": [{"name": "a"}]}}));
    assert_eq!(read(&asked("Deployment", &template, &Value::Null)).unwrap().images, []);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(json!("r/a@sha256:9f86")),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let key = prop_oneof![
            Just("spec"),
            Just("template"),
            Just("containers"),
            Just("image"),
            Just("name"),
            Just("metadata"),
            Just("labels"),
            Just("ownerReferences"),
            Just("volumes"),
            Just("reference"),
            Just("jobTemplate"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// Every text under a key that names an image, of whatever is a container.
fn count_images(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| usize::from(key == "image" && value.is_string()) + count_images(value))
            .sum(),
        Value::Array(items) => items.iter().map(count_images).sum(),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = review::read(&bytes);
    }

    #[test]
    fn no_object_panics_and_what_is_found_was_there(object in any_json(), kind in prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec())) {
        if let Ok(found) = images(kind, &object) {
            prop_assert!(found.iter().filter(|named| !named.field.contains("volumes")).count() <= count_images(&object));
            for named in found {
                prop_assert!(!named.image.is_empty());
            }
        }
        let _ = workload(kind, &object);
        let _ = read(&asked(kind, &object, &Value::Null));
        let _ = read(&asked(kind, &object, &object));
    }
}

fn refused(reason: &'static str, is_transient: bool) -> Refused {
    Refused {
        named: Named {
            field: "spec.containers[0].image".to_owned(),
            container: "server".to_owned(),
            image: "r.example.com/a@sha256:12".to_owned(),
        },
        finding: Finding {
            reason,
            message: "what is wrong.".to_owned(),
            command: "cosign sign a".to_owned(),
            is_transient,
            is_denied: reason == "Denied",
        },
    }
}

fn answered(stage: Stage, came: Came) -> Answer {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [container("server", "r.example.com/a@sha256:12")]}});
    answer(stage, &read(&asked("Pod", &pod, &Value::Null)).unwrap(), came)
}

#[test]
fn the_stage_says_what_comes_of_a_finding() {
    let judged = |refused: Vec<Refused>| {
        Came::Judged(Judgement {
            refused,
            warnings: Vec::new(),
        })
    };
    for (stage, came, allowed, code, outcome, notice) in [
        (Stage::Deny, judged(vec![]), true, 0, Outcome::Allowed, None),
        (
            Stage::Deny,
            judged(vec![refused("Unsigned", false)]),
            false,
            403,
            Outcome::Refused,
            Some("ImageRefused"),
        ),
        (
            Stage::Warn,
            judged(vec![refused("Unsigned", false)]),
            true,
            0,
            Outcome::Refused,
            Some("ImageWouldBeRefused"),
        ),
        (
            Stage::Deny,
            judged(vec![refused("RegistryUnavailable", true)]),
            false,
            503,
            Outcome::Unknown,
            Some("ImageUnknown"),
        ),
        (
            Stage::Warn,
            judged(vec![refused("RegistryUnavailable", true)]),
            true,
            0,
            Outcome::Unknown,
            Some("ImageUnknown"),
        ),
        // A denial holds in every stage.
        (
            Stage::Warn,
            judged(vec![refused("Denied", false)]),
            false,
            403,
            Outcome::Refused,
            Some("ImageRefused"),
        ),
        (
            Stage::Deny,
            Came::Late(Duration::from_secs(8)),
            false,
            503,
            Outcome::Unknown,
            None,
        ),
        (
            Stage::Warn,
            Came::Late(Duration::from_secs(8)),
            true,
            0,
            Outcome::Unknown,
            None,
        ),
        (
            Stage::Deny,
            Came::Unready("is busy"),
            false,
            503,
            Outcome::Unready,
            None,
        ),
        (Stage::Warn, Came::Unready("is busy"), true, 0, Outcome::Unready, None),
    ] {
        let what = format!("{stage} {came:?}");
        let answer = answered(stage, came);
        assert_eq!(
            (answer.response.allowed, answer.response.result.code),
            (allowed, code),
            "{what}"
        );
        assert_eq!(answer.outcome, outcome, "{what}");
        assert_eq!(answer.notice.as_ref().map(|(reason, _)| *reason), notice, "{what}");
        let said = answer.response.warnings.unwrap_or_default();
        assert_eq!(
            said.is_empty(),
            !allowed || outcome == Outcome::Allowed,
            "{what}: {said:?}"
        );
    }
}

#[test]
fn an_answer_names_image_field_and_reason_and_ends_with_a_command() {
    let both = || {
        Came::Judged(Judgement {
            refused: vec![refused("Unsigned", false), refused("RegistryUnavailable", true)],
            warnings: vec!["policy says so".to_owned()],
        })
    };
    let denied = answered(Stage::Deny, both()).response;
    assert_eq!(
        denied.result.message,
        "namespace shop has lattice.dev/admission=deny: spec.containers[0].image (server): r.example.com/a@sha256:12: Unsigned: what is \
         wrong; spec.containers[0].image (server): r.example.com/a@sha256:12: RegistryUnavailable: what is wrong. Next: cosign sign a"
    );
    let warned = answered(Stage::Warn, both()).response.warnings.unwrap();
    assert_eq!(
        warned[1],
        "spec.containers[0].image would be refused with lattice.dev/admission=deny: r.example.com/a@sha256:12: Unsigned: what is wrong. \
         Next: cosign sign a"
    );
    assert_eq!((warned.len(), warned[0].as_str()), (3, "policy says so"));
    let late = answered(Stage::Deny, Came::Late(Duration::from_secs(8)))
        .response
        .result
        .message;
    assert!(
        late.contains("not verified within 8.0 s (spec.containers[0].image r.example.com/a@sha256:12)"),
        "{late}"
    );
    // Of a hundred refused images a refusal names some, and warnings keep within what the API server passes on.
    let many = |stage| {
        let mut one = refused("Unsigned", false);
        one.finding.message = "wrong ".repeat(500);
        answered(
            stage,
            Came::Judged(Judgement {
                refused: vec![one; 100],
                warnings: vec!["w".repeat(5_000); 100],
            }),
        )
    };
    assert!(
        many(Stage::Deny)
            .response
            .result
            .message
            .contains("; and 95 more. Next: cosign")
    );
    let warnings = many(Stage::Warn).response.warnings.unwrap();
    assert!(warnings.iter().map(String::len).sum::<usize>() <= 4_096, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .any(|warning| warning == "100 images would be refused in all")
    );
}

#[test]
fn each_review_is_counted_once() {
    let counts = Counts::default();
    counts.review(Stage::Deny, Outcome::Refused);
    counts.review(Stage::Deny, Outcome::Refused);
    counts.review(Stage::Warn, Outcome::Unknown);
    let mut counted = counts.all();
    counted.retain(|(_, count)| *count > 0);
    assert_eq!(
        counted,
        [
            (
                "lattice_central_admission_reviews_total{stage=\"warn\",outcome=\"unknown\"}".to_owned(),
                1
            ),
            (
                "lattice_central_admission_reviews_total{stage=\"deny\",outcome=\"refused\"}".to_owned(),
                2
            ),
        ]
    );
}
