//! Images that a real registry serves, from reference to list.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use lattice_derive::{ContainerSpec, Platform, ServiceSpec, Settings};
use lattice_registry::RegistryError;
use support::{INDEX, MANIFEST, archive, client, descriptor, digest, image, real::Registry, static_elf};

const REPOSITORY: &str = "team/payment-service";

fn two_layers() -> support::TestImage {
    let elf = static_elf();
    let lower = archive(&[
        ("usr/bin/dash", 0o755, &elf),
        ("bin", 0o777, b"-> usr/bin"),
        ("usr/bin/sh", 0o777, b"-> dash"),
    ]);
    let upper = archive(&[
        ("app/start.sh", 0o755, b"#!/bin/sh\nexec /app/server\n"),
        ("app/server", 0o755, &elf),
    ]);
    image("/app/start.sh", &[lower, upper])
}

#[tokio::test]
async fn from_reference_to_list() {
    let Some(registry) = Registry::start("from_reference_to_list").await else {
        return;
    };
    let pushed = two_layers();
    registry.push(REPOSITORY, "v1", &pushed).await;
    let client = client(registry.port);
    let by_tag = client
        .resolve(&format!("127.0.0.1:{}/{REPOSITORY}:v1", registry.port))
        .await
        .unwrap();
    assert_eq!(by_tag.digest.to_string(), digest(pushed.manifest.as_bytes()));
    assert!(by_tag.by_tag);
    let reference = format!("127.0.0.1:{}/{REPOSITORY}@{}", registry.port, by_tag.digest);
    assert!(!client.resolve(&reference).await.unwrap().by_tag);

    let facts = client.inspect_image(&reference).await.unwrap();
    assert_eq!((facts.digest, facts.platform_digest), (by_tag.digest, by_tag.digest));
    assert_eq!(facts.layers.len(), 2);
    let container = ContainerSpec {
        name: "server".into(),
        ..ContainerSpec::default()
    };
    let service = ServiceSpec {
        name: "s".into(),
        namespace: "n".into(),
        containers: vec![container],
        init_containers: vec![],
    };
    let images = BTreeMap::from([("server".to_owned(), Arc::new(facts.into_image().unwrap()))]);
    let derived = lattice_derive::derive(&service, &images, &Settings::default()).unwrap();
    let paths: Vec<String> = derived[0]
        .policy
        .entries
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert_eq!(paths, ["/app/server", "/app/start.sh", "/bin/sh"]);
    let expected = digest(&static_elf());
    assert_eq!(
        format!("sha256:{}", derived[0].policy.entries[0].sha256.unwrap()),
        expected
    );
}

#[tokio::test]
async fn an_index_gives_the_platform_asked_for() {
    let Some(registry) = Registry::start("an_index_gives_the_platform_asked_for").await else {
        return;
    };
    let pushed = two_layers();
    registry.push(REPOSITORY, "amd64", &pushed).await;
    let of = |platform: &str| {
        let descriptor = descriptor(MANIFEST, pushed.manifest.as_bytes());
        format!("{},\"platform\":{platform}}}", descriptor.trim_end_matches('}'))
    };
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":{INDEX:?},\"manifests\":[{},{}]}}",
        of("{\"os\":\"unknown\",\"architecture\":\"unknown\"}"),
        of("{\"os\":\"linux\",\"architecture\":\"amd64\"}")
    );
    registry.push_manifest(REPOSITORY, "multi", INDEX, &index).await;
    let client = client(registry.port);
    let reference = format!("127.0.0.1:{}/{REPOSITORY}:multi", registry.port);
    let facts = client.inspect_image(&reference).await.unwrap();
    assert_eq!(facts.digest.to_string(), digest(index.as_bytes()));
    assert_eq!(facts.platform_digest.to_string(), digest(pushed.manifest.as_bytes()));
    let arm = Platform {
        architecture: "arm64".into(),
        ..Platform::default()
    };
    let error = client
        .read_image(&client.resolve(&reference).await.unwrap(), &arm)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not built for linux/arm64, but for linux/amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn signatures_are_handed_out_as_they_are() {
    let Some(registry) = Registry::start("signatures_are_handed_out_as_they_are").await else {
        return;
    };
    let pushed = two_layers();
    registry.push(REPOSITORY, "v1", &pushed).await;
    let client = client(registry.port);
    let resolved = client
        .resolve(&format!("127.0.0.1:{}/{REPOSITORY}:v1", registry.port))
        .await
        .unwrap();
    assert_eq!(client.signatures(&resolved).await.unwrap(), []);

    let payload = br#"{"critical":{}}"#;
    registry.push_blob(REPOSITORY, payload).await;
    registry.push_blob(REPOSITORY, b"{}").await;
    let layer = descriptor("application/vnd.dev.cosign.simplesigning.v1+json", payload);
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":{MANIFEST:?},\"config\":{},\"layers\":[{},\"annotations\":{{\"dev.cosignproject.cosign/signature\":\"MEUC\"}}}}]}}",
        descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        layer.trim_end_matches('}')
    );
    let tag = format!("{}.sig", resolved.digest.to_string().replace(':', "-"));
    registry.push_manifest(REPOSITORY, &tag, MANIFEST, &manifest).await;
    let found = client.signatures(&resolved).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].payload, payload);
    assert_eq!(found[0].media_type, "application/vnd.dev.cosign.simplesigning.v1+json");
    assert_eq!(found[0].annotations["dev.cosignproject.cosign/signature"], "MEUC");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_listed() {
    let Some(registry) = Registry::start("what_is_not_there_and_what_is_not_listed").await else {
        return;
    };
    let port = registry.port;
    let client = client(port);
    let error = client
        .resolve(&format!("127.0.0.1:{port}/nobody:v1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::NotFound { .. }) && !error.is_transient(),
        "{error}"
    );
    let error = client.resolve("registry.example.com/x:v1").await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("registry registry.example.com is not among those"),
        "{error}"
    );
    let error = client.resolve(&format!("127.0.0.1:{port}/UPPER:v1")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Reference { .. }), "{error}");
    drop(registry);
    let error = client
        .resolve(&format!("127.0.0.1:{port}/nobody:v1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }) && error.is_transient(),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_without_layers_says_so() {
    let Some(registry) = Registry::start("an_image_without_layers_says_so").await else {
        return;
    };
    registry.push(REPOSITORY, "empty", &image("/x", &[])).await;
    let error = client(registry.port)
        .inspect_image(&format!("127.0.0.1:{}/{REPOSITORY}:empty", registry.port))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("has no layers; build it with at least one"),
        "{error}"
    );
}
