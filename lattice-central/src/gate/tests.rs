use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn image() -> ImageFacts {
    ImageFacts {
        reference: "registry.example.com/payment-service@sha256:9f86".to_owned(),
        registry: "registry.example.com".to_owned(),
        repository: "payment-service".to_owned(),
        tag: None,
        digest: Some("sha256:9f86".to_owned()),
        signers: vec!["signing-keys/cosign-public".to_owned()],
    }
}

fn question(action: Action) -> Question {
    Question {
        service: ServiceIdentity {
            namespace: "payments".to_owned(),
            name: "payment-service".to_owned(),
            environment: "production".to_owned(),
        },
        action,
        actor: "lattice-central".to_owned(),
        time: UNIX_EPOCH + Duration::from_secs(1_795_242_894),
    }
}

fn deploy() -> Question {
    question(Action::DeployImage(image()))
}

fn tag() -> Question {
    let reference = "registry.example.com/payment-service:v1".to_owned();
    let facts = ImageFacts {
        reference,
        tag: Some("v1".to_owned()),
        digest: None,
        signers: Vec::new(),
        ..image()
    };
    question(Action::AllowTagReference(facts))
}

fn gate(text: &str) -> Gate {
    Gate::read(&[PolicySource {
        file: "gates.cedar".to_owned(),
        text: text.to_owned(),
    }])
    .unwrap()
}

const SIGNED: &str = r#"
@id("signed-images")
permit(principal, action == Action::"DeployImage", resource) when { resource.signed };
"#;

#[track_caller]
fn allowed(text: &str, question: &Question) {
    let decision = gate(text).decide(question);
    assert_eq!(decision.denial, None);
}

#[track_caller]
fn denied(text: &str, question: &Question, expected: &str) {
    let denial = gate(text).decide(question).denial.expect("must be denied");
    assert_eq!(denial, expected);
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let source = PolicySource {
        file: "gates.cedar".to_owned(),
        text: text.to_owned(),
    };
    let problems: Vec<_> = Gate::read(&[source])
        .expect_err("must be refused")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\nexpected: {expected}");
    }
}

#[test]
fn what_a_policy_permits_is_allowed() {
    allowed(SIGNED, &deploy());
    allowed(
        r#"permit(principal == Service::"payments/payment-service", action, resource == Image::"registry.example.com/payment-service@sha256:9f86")
           when { resource.signers.contains("signing-keys/cosign-public") && context.environment == "production"
             && context.time > datetime("2026-01-01") && context.actor == "lattice-central" && principal.namespace == "payments" };"#,
        &deploy(),
    );
    allowed(
        r#"permit(principal, action == Action::"AllowTagReference", resource) when { resource has tag && resource.tag == "v1" };"#,
        &tag(),
    );
}

#[test]
fn default_is_denial() {
    denied(
        "",
        &deploy(),
        "DeployImage of registry.example.com/payment-service@sha256:9f86 for payments/payment-service is denied: no policy \
         permits it, and none is written for this action. Bring about the fact that is missing (a signature by the wanted \
         key, say), or have the policies' owner permit DeployImage for this service",
    );
    // A permit for DeployImage is none for tags.
    denied(
        SIGNED,
        &tag(),
        "AllowTagReference of registry.example.com/payment-service:v1 for payments/payment-service is denied: no policy \
         permits it, and none is written for this action. Name the image by its digest, \
         registry.example.com/payment-service@sha256:…, since a tag can be moved to another image; or have the policies' \
         owner permit AllowTagReference for it",
    );
    denied(
        SIGNED,
        &question(Action::AccessExternalSecret {
            store: "vault".to_owned(),
            key: "payments/db".to_owned(),
        }),
        "AccessExternalSecret of vault/payments/db for payments/payment-service is denied: no policy permits it, and none is \
         written for this action. Remove the secret from the service, or have the policies' owner permit \
         AccessExternalSecret for it",
    );
}

#[test]
fn a_denial_names_the_permit_that_nearly_held_and_what_it_lacked() {
    denied(
        r#"
@id("release-key")
permit(principal, action == Action::"DeployImage", resource)
when { resource.signed && resource.signers.contains("signing-keys/release") }
unless { context.environment == "production" };
permit(principal == Service::"shop/cart", action, resource);
"#,
        &deploy(),
        "DeployImage of registry.example.com/payment-service@sha256:9f86 for payments/payment-service is denied: no policy \
         permits it. \"gates.cedar#2\" (gates.cedar:6) wants another principal or resource; \"release-key\" (gates.cedar:2) \
         wants `resource.signers.contains(\"signing-keys/release\")` (resource.signers is [\"signing-keys/cosign-public\"]) \
         and not `context.environment == \"production\"` (context.environment is \"production\"). Bring about the fact that \
         is missing (a signature by the wanted key, say), or have the policies' owner permit DeployImage for this service",
    );
}

#[test]
fn a_denial_names_the_forbid_that_decided_and_on_what_fact() {
    denied(
        &format!(
            r#"{SIGNED}
@id("no-payments")
@advice("Ask payments@example.com for a freeze exception.")
forbid(principal, action, resource) when {{ context.namespace == "payments" && resource has digest }};
"#
        ),
        &deploy(),
        "DeployImage of registry.example.com/payment-service@sha256:9f86 for payments/payment-service is denied: policy \
         \"no-payments\" (gates.cedar:5) forbids it, since `context.namespace == \"payments\"` (context.namespace is \
         \"payments\") and `resource has digest` (resource.digest is \"sha256:9f86\"). Ask payments@example.com for a freeze \
         exception.",
    );
}

#[test]
fn warn_and_info_show_and_never_deny() {
    let text = format!(
        r#"{SIGNED}
@id("old-registry") @outcome("warn")
forbid(principal, action, resource is Image) when {{ resource.registry == "registry.example.com" }};
@id("seen") @outcome("info")
forbid(principal, action, resource);
@id("elsewhere") @outcome("warn")
forbid(principal, action, resource is Image) when {{ resource.registry == "other.example.com" }};
"#
    );
    let decision = gate(&text).decide(&deploy());
    assert_eq!(decision.denial, None);
    assert_eq!(
        decision.warnings,
        [
            "policy \"old-registry\" (gates.cedar:5) warns of it, since `resource.registry == \"registry.example.com\"` \
          (resource.registry is \"registry.example.com\")"
        ]
    );
    assert_eq!(decision.notes, ["policy \"seen\" (gates.cedar:7) notes it"]);
}

#[test]
fn a_forbid_that_cannot_be_evaluated_denies() {
    let text = format!(
        r#"{SIGNED}
@id("overflow")
forbid(principal, action, resource is Image) when {{
  context.time.toTime().toMilliseconds() * 9223372036854775807 > 1
}};
"#
    );
    let denial = gate(&text).decide(&deploy()).denial.expect("must be denied");
    assert!(
        denial.contains("could not be evaluated") && denial.contains("overflow"),
        "{denial}"
    );
}

#[test]
fn policies_are_validated_before_they_count() {
    refused(
        "permit(principal, action, resource",
        &["gates.cedar:1: unexpected end of input"],
    );
    refused(
        "\n\npermit(principal, action == Action::\"DeployImage\", resource)\nwhen { resource.singed };",
        &["gates.cedar:4: for policy `gates.cedar#1`, attribute `singed` on entity type `Image` not found"],
    );
    refused(
        "permit(principal, action == Action::\"DeployImage\", resource) when { resource.digest == \"x\" };",
        &[
            "gates.cedar:1: for policy `gates.cedar#1`, unable to guarantee safety of access to optional attribute `digest`",
        ],
    );
    refused(
        "permit(principal, action == Action::\"Deploy\", resource);",
        &["gates.cedar:1: for policy `gates.cedar#1`, unrecognized action"],
    );
    refused(
        "permit(principal == ?principal, action, resource);",
        &["gates.cedar: templates"],
    );
    refused(
        "@outcome(\"maybe\") forbid(principal, action, resource);\n@outcome(\"warn\") permit(principal, action, resource);",
        &[
            "gates.cedar:1: @outcome(\"maybe\") is none of",
            "gates.cedar:2: @outcome(\"warn\") and",
        ],
    );
    refused(
        "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
        &["gates.cedar:2: @id(\"a\") is taken by the policy at gates.cedar:1"],
    );
}

#[test]
fn the_same_text_twice_is_two_policies() {
    allowed(&format!("{0}{0}", "permit(principal, action, resource);\n"), &deploy());
}

#[test]
fn every_action_of_the_contract_is_in_the_schema() {
    for action in [
        "DeployImage",
        "AllowTagReference",
        "AccessExternalSecret",
        "PromoteEnforcement",
        "GrantException",
    ] {
        gate(&format!("permit(principal, action == Action::\"{action}\", resource);"));
    }
}
