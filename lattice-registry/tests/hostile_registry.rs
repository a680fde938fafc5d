//! A registry that lies, stalls, floods or sends us elsewhere.

mod support;

use std::time::{Duration, Instant};

use lattice_registry::{ClientLimits, Credentials, Limits, RegistryClient, RegistryEndpoint, RegistryError};
use support::{
    MANIFEST, TestImage, archive, client, digest, endpoint,
    hostile::{Answer, Server, honest, ok, status, status_with},
    image, static_elf,
};

fn small_image() -> TestImage {
    image("/app", &[archive(&[("app", 0o755, &static_elf())])])
}

/// What comes of inspecting an image on this server, with requests tried at most three times.
async fn inspect(server: &Server) -> Result<(), RegistryError> {
    client(server.port)
        .inspect_image(&format!("127.0.0.1:{}/x:v1", server.port))
        .await
        .map(|_| ())
}

#[track_caller]
fn check(result: Result<(), RegistryError>, is_transient: bool, part: &str) {
    let error = result.expect_err("refused");
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.is_transient(), is_transient, "{error}");
}

#[tokio::test]
async fn an_honest_answer_is_taken() {
    let image = small_image();
    let server = Server::start(move |seen, _| honest(&image, &seen.path)).await;
    inspect(&server).await.unwrap();
}

#[tokio::test]
async fn documents_that_end_early() {
    let image = small_image();
    let body = image.manifest.as_bytes()[..20].to_vec();
    let server = Server::start(move |_, _| Answer::Short(body.clone(), 1000)).await;
    check(inspect(&server).await, true, "ended early, after 20 bytes");
}

#[tokio::test]
async fn layers_that_end_early() {
    let image = small_image();
    let layer = image.blobs[0].clone();
    let server = Server::start(move |seen, _| match seen.path.ends_with(&digest(&layer)) {
        true => Answer::Short(layer[..layer.len() / 2].to_vec(), layer.len()),
        false => honest(&image, &seen.path),
    })
    .await;
    check(inspect(&server).await, true, "ended early");
    // The same without a promise: only the manifest's size shows it.
    let image = small_image();
    let layer = image.blobs[0].clone();
    let server = Server::start(move |seen, _| match seen.path.ends_with(&digest(&layer)) {
        true => ok("application/octet-stream", &layer[..layer.len() / 2]),
        false => honest(&image, &seen.path),
    })
    .await;
    check(inspect(&server).await, true, "is truncated");
}

#[tokio::test]
async fn other_bytes_than_asked_for() {
    for part in ["/manifests/", "config", "layer"] {
        let image = small_image();
        let manifest_digest = digest(image.manifest.as_bytes());
        let (layer, config) = (digest(&image.blobs[0]), digest(&image.blobs[1]));
        let server = Server::start(move |seen, _| {
            let lies = match part {
                "config" => seen.path.ends_with(&config),
                "layer" => seen.path.ends_with(&layer),
                part => seen.path.contains(part),
            };
            match honest(&image, &seen.path) {
                Answer::Full(code, headers, mut body) if lies => {
                    let at = body.len() / 2;
                    body[at] ^= 1;
                    Answer::Full(code, headers, body)
                }
                answer => answer,
            }
        })
        .await;
        let reference = format!("127.0.0.1:{}/x@{manifest_digest}", server.port);
        let error = client(server.port).inspect_image(&reference).await.unwrap_err();
        assert!(
            !error.is_transient() && error.to_string().contains("digest"),
            "{part}: {error}"
        );
    }
}

#[tokio::test]
async fn documents_without_end() {
    let server = Server::start(|_, _| Answer::Endless).await;
    check(inspect(&server).await, false, "is larger than 4194304 bytes");
    let server = Server::start(|_, _| Answer::Short(Vec::new(), 1 << 40)).await;
    check(inspect(&server).await, false, "is larger than 4194304 bytes");
}

#[tokio::test]
async fn a_configuration_larger_than_allowed_is_not_asked_for() {
    let mut image = small_image();
    let size = format!("\"size\":{}", image.blobs[1].len());
    image.manifest = image.manifest.replace(&size, "\"size\":99999999");
    let server = Server::start(move |seen, _| honest(&image, &seen.path)).await;
    check(inspect(&server).await, false, "the configuration of image");
    assert_eq!(server.count("/blobs/"), 0);
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let image = small_image();
    let server = Server::start(move |seen, number| match number {
        0 => status_with(429, "retry-after", "0"),
        1 => status(503),
        _ => honest(&image, &seen.path),
    })
    .await;
    inspect(&server).await.unwrap();
}

#[tokio::test]
async fn a_long_wait_is_reported_and_not_waited() {
    let server = Server::start(|_, _| status_with(429, "retry-after", "600")).await;
    let begun = Instant::now();
    check(inspect(&server).await, true, "asks to wait 600 s");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_failing_registry_is_given_up() {
    let server = Server::start(|_, _| status(500)).await;
    check(inspect(&server).await, true, "fails with status 500");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn redirects_to_hosts_that_are_not_listed_are_not_followed() {
    let elsewhere = Server::start(|_, _| status(200)).await;
    let image = small_image();
    let target = format!("http://127.0.0.1:{}/stolen", elsewhere.port);
    let server = Server::start(move |seen, _| match seen.path.contains("/blobs/") {
        true => status_with(307, "location", target.clone()),
        false => honest(&image, &seen.path),
    })
    .await;
    check(
        inspect(&server).await,
        false,
        "which is not listed as its blob host; it was not followed",
    );
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test]
async fn listed_blob_hosts_get_no_credentials() {
    let image = small_image();
    let blobs = image.clone();
    let elsewhere = Server::start(move |seen, _| honest(&blobs, &seen.path)).await;
    let target = format!("http://127.0.0.1:{}", elsewhere.port);
    let server = Server::start(move |seen, _| {
        if !seen.head.contains("authorization: Basic") {
            return status_with(401, "www-authenticate", "Basic realm=\"x\"");
        }
        match seen.path.contains("/blobs/") {
            true => status_with(307, "location", format!("{target}{}", seen.path)),
            false => honest(&image, &seen.path),
        }
    })
    .await;
    let endpoint = RegistryEndpoint {
        credentials: Some(Credentials {
            username: "reader".into(),
            password: "secret".into(),
        }),
        blob_hosts: vec![format!("127.0.0.1:{}", elsewhere.port)],
        ..endpoint(server.port)
    };
    let client = RegistryClient::new(vec![endpoint], Limits::default()).unwrap();
    client
        .inspect_image(&format!("127.0.0.1:{}/x:v1", server.port))
        .await
        .unwrap();
    assert_eq!(elsewhere.seen().len(), 2);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| !seen.head.to_lowercase().contains("authorization")),
        "{:?}",
        elsewhere.seen()
    );
}

#[tokio::test]
async fn credentials_do_not_go_to_other_token_hosts() {
    let thief = Server::start(|_, _| ok("application/json", b"{\"token\":\"x\"}")).await;
    let realm = format!("Bearer realm=\"http://127.0.0.1:{}/token\"", thief.port);
    let server = Server::start(move |_, _| status_with(401, "www-authenticate", realm.clone())).await;
    let endpoint = RegistryEndpoint {
        credentials: Some(Credentials {
            username: "reader".into(),
            password: "secret".into(),
        }),
        ..endpoint(server.port)
    };
    let client = RegistryClient::new(vec![endpoint], Limits::default()).unwrap();
    let result = client
        .inspect_image(&format!("127.0.0.1:{}/x:v1", server.port))
        .await
        .map(|_| ());
    check(
        result,
        false,
        "which is not listed as its token host; they were not sent",
    );
    assert_eq!(thief.seen().len(), 0);
}

#[tokio::test]
async fn tokens_of_the_registry_itself_are_used() {
    let image = small_image();
    let server = Server::start(move |seen, _| {
        let host = seen
            .head
            .to_lowercase()
            .split("host: ")
            .nth(1)
            .unwrap()
            .split('\r')
            .next()
            .unwrap()
            .to_owned();
        if seen.path.starts_with("/token") {
            return ok("application/json", b"{\"token\":\"abc\",\"expires_in\":300}");
        }
        match seen.head.contains("authorization: Bearer abc") {
            true => honest(&image, &seen.path),
            false => status_with(
                401,
                "www-authenticate",
                format!("Bearer realm=\"http://{host}/token\",service=\"s\""),
            ),
        }
    })
    .await;
    inspect(&server).await.unwrap();
    let tokens: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.path.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?service=s&scope=repository%3Ax%3Apull");
}

#[tokio::test]
async fn refused_credentials_end_the_matter() {
    let server = Server::start(|_, _| status_with(401, "www-authenticate", "Basic realm=\"x\"")).await;
    check(inspect(&server).await, false, "refuses image");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn silence_ends_by_a_time_limit() {
    let server = Server::start(|_, _| Answer::Silence).await;
    let limits = Limits {
        client: ClientLimits {
            document_timeout: Duration::from_millis(300),
            ..ClientLimits::default()
        },
        ..Limits::default()
    };
    let client = RegistryClient::new(vec![endpoint(server.port)], limits).unwrap();
    let result = client
        .inspect_image(&format!("127.0.0.1:{}/x:v1", server.port))
        .await
        .map(|_| ());
    check(result, true, "took longer than");
}

#[tokio::test]
async fn a_layer_is_read_once() {
    let image = small_image();
    let layer = digest(&image.blobs[0]);
    let server = Server::start(move |seen, _| honest(&image, &seen.path)).await;
    let client = client(server.port);
    let references: Vec<String> = (0..20)
        .map(|number| format!("127.0.0.1:{}/x{number}:v1", server.port))
        .collect();
    let all = references.iter().map(|reference| client.inspect_image(reference));
    for found in futures::future::join_all(all).await {
        found.unwrap();
    }
    assert_eq!(server.count(&layer), 1);
}

#[tokio::test]
async fn a_failed_layer_is_read_again() {
    let image = small_image();
    let layer = digest(&image.blobs[0]);
    let wanted = layer.clone();
    let failed = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |seen, _| {
        let first = seen.path.ends_with(&wanted)
            && !failed.swap(seen.path.ends_with(&wanted), std::sync::atomic::Ordering::SeqCst);
        if first {
            Answer::Short(vec![0x1f, 0x8b], 100)
        } else {
            honest(&image, &seen.path)
        }
    })
    .await;
    let client = client(server.port);
    let reference = format!("127.0.0.1:{}/x:v1", server.port);
    assert!(client.inspect_image(&reference).await.unwrap_err().is_transient());
    client.inspect_image(&reference).await.unwrap();
    assert_eq!(server.count(&layer), 2);
}

#[tokio::test]
async fn a_manifest_that_is_two_things_is_refused() {
    let image = small_image();
    let server =
        Server::start(move |_, _| ok("application/vnd.oci.image.index.v1+json", image.manifest.as_bytes())).await;
    check(inspect(&server).await, false, &format!("it calls itself {MANIFEST:?}"));
}
