//! Admission over its own TLS listener, with a real registry and real cosign: as the API server asks, and as somebody else may.

mod common;

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Central, PATIENCE, Place,
    registry::{Cosign, Registry, tools},
};
use lattice_central::{
    admission::{
        certificate::RenewedCertificate,
        judge::Judge,
        listener::{Admission, BoundAdmission},
    },
    authority::Authority,
    images::Images,
    objects::{self, DirectoryReader},
};
use lattice_policy::Denied;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const GATES: &str = r#"
@id("signed-by-our-key")
permit(principal, action == Action::"DeployImage", resource)
when { resource.signed && resource.signers.contains("signing-keys/cosign-public") };
@id("no-mesh") @outcome("warn")
forbid(principal, action == Action::"DeployImage", resource)
when { resource.repository == "old" };
@id("web-alone")
forbid(principal, action == Action::"DeployImage", resource)
when { resource.repository == "web" && principal.environment != "staging" };
"#;

/// A central that answers reviews, by the objects of a directory.
struct Webhook {
    central: Central,
    place: Place,
    address: SocketAddr,
    certificate: Arc<RenewedCertificate>,
    authority: Arc<Authority>,
}

impl Webhook {
    async fn start(place: Place, lifetime: Duration) -> Self {
        let central = Central::start(&place).await;
        let images = Images::new(&place.settings.plain_http_registries).unwrap();
        let judge = Arc::new(Judge::new(Arc::new(images), central.shared.denials.list()));
        let reader = DirectoryReader::open(&place.objects(), &place.directory.path().join("last-good")).unwrap();
        judge.follow(objects::watch(reader).unwrap());
        Self::with(place, central, judge, lifetime).await
    }

    async fn with(place: Place, central: Central, judge: Arc<Judge>, lifetime: Duration) -> Self {
        let authority = Arc::new(Authority::generate().unwrap());
        let names = vec!["localhost".to_owned()];
        let certificate = Arc::new(RenewedCertificate::new(authority.clone(), names, lifetime).unwrap());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = BoundAdmission::bind(loopback, certificate.clone()).await.unwrap();
        let address = bound.address();
        let admission = Admission::new(judge, central.shared.clone(), None);
        tokio::spawn(bound.serve(admission, central.shared.stopping.clone()));
        Self {
            central,
            place,
            address,
            certificate,
            authority,
        }
    }

    /// As the API server has it: it believes the authority of the configuration, and no other.
    fn client(&self) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(self.authority.pair().certificate.as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    fn url(&self, stage: &str, query: &str) -> String {
        format!("https://localhost:{}/admission/{stage}{query}", self.address.port())
    }

    async fn post(&self, stage: &str, query: &str, body: String) -> (u16, String) {
        let client = self.client();
        let sent = client.post(self.url(stage, query)).body(body).send().await.unwrap();
        (sent.status().as_u16(), sent.text().await.unwrap())
    }

    /// The response to who wants to make a pod of these images in the namespace shop.
    async fn ask(&self, stage: &str, images: &[&str]) -> Value {
        let (status, text) = self
            .post(stage, "?timeout=10s", pod(images, &json!({})).to_string())
            .await;
        assert_eq!(status, 200, "{text}");
        let review: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["response"]["uid"], "705ab4f5");
        review["response"].clone()
    }

    fn counter(&self, stage: &str, outcome: &str) -> u64 {
        let name = format!("lattice_central_admission_reviews_total{{stage=\"{stage}\",outcome=\"{outcome}\"}}");
        let all = self.central.shared.counters.all();
        all.iter().find(|(counter, _)| *counter == name).unwrap().1
    }
}

fn pod(images: &[&str], labels: &Value) -> Value {
    let containers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "web", "namespace": "shop", "operation": "CREATE", "userInfo": {"username": "alice", "groups": ["g"]},
            "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": labels}, "spec": {"containers": containers}},
            "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn message(response: &Value) -> &str {
    response["status"]["message"].as_str().unwrap_or_default()
}

fn warnings(response: &Value) -> String {
    response["warnings"].to_string()
}

/// A registry, a key that counts for it, and the gates.
struct World {
    place: Place,
    registry: Registry,
    cosign: Cosign,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        let (registry, cosign) = tools(test)?;
        let (mut place, registry, cosign) = (Place::new(), Registry::start(&registry), Cosign::new(&cosign));
        place.settings.plain_http_registries = vec![registry.address.to_string()];
        let key = cosign.generate("ours");
        write_trust(&place, &registry.address.to_string(), &key);
        fs::write(place.objects().join("gates.cedar"), GATES).unwrap();
        Some(Self {
            place,
            registry,
            cosign,
        })
    }

    async fn push(&self, repository: &str) -> String {
        let digest = self
            .registry
            .push(repository, "v1", &[("app/server", b"a server")])
            .await;
        format!("{}/{repository}@{digest}", self.registry.address)
    }
}

fn write_trust(place: &Place, registry: &str, key: &str) {
    let indented: String = key.lines().map(|line| format!("    {line}\n")).collect();
    let trust = format!(
        "apiVersion: lattice.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {{name: local}}\nspec:\n  registry: \"{registry}\"\n  \
         cosign: {{publicKey: {{secretRef: signing-keys/cosign-public}}}}\n---\napiVersion: v1\nkind: Secret\n\
         metadata: {{name: cosign-public, namespace: signing-keys}}\nstringData:\n  cosign.pub: |\n{indented}"
    );
    fs::write(place.objects().join("trust.yaml"), trust).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_permitted_is_let_in_and_nothing_else() {
    let Some(world) = World::new("what_is_signed_and_permitted_is_let_in_and_nothing_else") else {
        return;
    };
    let (signed, unsigned, old) = (
        world.push("signed").await,
        world.push("unsigned").await,
        world.push("old").await,
    );
    world.cosign.sign("ours", &signed);
    world.cosign.sign("ours", &old);
    let registry = world.registry.address;
    let webhook = Webhook::start(world.place, Duration::from_secs(600)).await;

    let allowed = webhook.ask("deny", &[&signed]).await;
    assert_eq!(allowed["allowed"], true, "{allowed}");
    assert_eq!(allowed["warnings"], Value::Null, "{allowed}");
    let warned = webhook.ask("deny", &[&old]).await;
    assert_eq!(warned["allowed"], true, "{warned}");
    assert!(warnings(&warned).contains("no-mesh"), "{warned}");

    let refused = webhook.ask("deny", &[&signed, &unsigned]).await;
    assert_eq!(refused["allowed"], false, "{refused}");
    assert_eq!(refused["status"]["code"], 403);
    let text = message(&refused);
    assert!(
        text.starts_with(&format!(
            "namespace shop has lattice.dev/admission=deny: spec.containers[1].image (c1): {unsigned}: Unsigned: "
        )),
        "{text}"
    );
    assert!(
        text.ends_with(&format!(" {unsigned}")) && text.contains(". Next: cosign sign "),
        "{text}"
    );
    assert!(!text.contains(&signed), "{text}");

    let would = webhook.ask("warn", &[&unsigned]).await;
    assert_eq!(would["allowed"], true, "{would}");
    assert!(
        warnings(&would).contains("would be refused with lattice.dev/admission=deny"),
        "{would}"
    );

    // A tag is refused before anybody is asked what it means; a registry that nobody named is never contacted.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("{}/a@sha256:{}", silent.local_addr().unwrap(), "9".repeat(64));
    for (image, reason) in [
        (format!("{registry}/signed:v1"), "TagNotAllowed"),
        (elsewhere, "RegistryNotTrusted"),
        ("docker.io/library/busybox".to_owned(), "RegistryNotTrusted"),
        ("$(reboot)".to_owned(), "InvalidReference"),
        (format!("{registry}/gone@sha256:{}", "9".repeat(64)), "NotFound"),
    ] {
        let refused = webhook.ask("deny", &[&image]).await;
        assert_eq!(refused["allowed"], false, "{image}: {refused}");
        let text = message(&refused);
        assert!(text.contains(&format!(": {reason}: ")), "{image}: {text}");
        let command = text.rsplit("Next: ").next().unwrap_or_default();
        assert!(!command.contains(['$', '(', ';', '|', '`']), "{image}: {command}");
    }
    let contacted = timeout(Duration::from_millis(100), silent.accept()).await;
    assert!(contacted.is_err(), "a registry that is not trusted was contacted");
    assert_eq!(
        (webhook.counter("deny", "allowed"), webhook.counter("deny", "refused")),
        (2, 6)
    );
    assert_eq!(webhook.counter("warn", "refused"), 1);

    // What an operator denies, no stage lets in.
    let digest = signed.rsplit('@').next().unwrap().to_owned();
    let denied = Denied::parse("image", &digest).unwrap();
    let denials = &webhook.central.shared.denials;
    denials
        .deny(denied, false, "incident 7", "operator".to_owned(), 0)
        .await
        .unwrap();
    for stage in ["deny", "warn"] {
        let refused = webhook.ask(stage, &[&signed]).await;
        assert_eq!(refused["allowed"], false, "{refused}");
        assert!(
            message(&refused).contains("Denied: ") && message(&refused).contains("incident 7"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_withdrawn_counts_no_longer_and_a_signature_is_seen() {
    let Some(world) = World::new("a_key_that_is_withdrawn_counts_no_longer_and_a_signature_is_seen") else {
        return;
    };
    let (signed, other) = (world.push("signed").await, world.cosign.generate("other"));
    world.cosign.sign("ours", &signed);
    let address = world.registry.address.to_string();
    let (mut registry, cosign) = (world.registry, world.cosign);
    let webhook = Webhook::start(world.place, Duration::from_secs(600)).await;
    assert_eq!(webhook.ask("deny", &[&signed]).await["allowed"], true);
    // What was proven holds without the registry.
    registry.stop();
    assert_eq!(webhook.ask("deny", &[&signed]).await["allowed"], true);
    // But not without the key.
    write_trust(&webhook.place, &address, &other);
    let begin = Instant::now();
    loop {
        let answer = webhook.ask("deny", &[&signed]).await;
        if answer["allowed"] == false {
            assert_eq!(answer["status"]["code"], 503, "{answer}");
            assert!(message(&answer).contains("RegistryUnavailable"), "{answer}");
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "a key that is gone still counts");
        sleep(Duration::from_millis(50)).await;
    }
    // A registry that is back is asked again at once: what could not be found out is not kept.
    registry.start_again();
    let answer = webhook.ask("deny", &[&signed]).await;
    assert!(message(&answer).contains("SignedByOtherKey"), "{answer}");
    drop(cosign);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_own_images_are_judged_as_the_services() {
    let Some(world) = World::new("a_services_own_images_are_judged_as_the_services") else {
        return;
    };
    let web = world.push("web").await;
    world.cosign.sign("ours", &web);
    let service = |name: &str, image: &str| {
        format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: LatticeService\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  environment: staging\n  containers:\n  - {{name: server, image: \"{image}\"}}\n"
        )
    };
    let services = format!(
        "{}---\n{}",
        service("web", &web),
        service("other", &web.replace("/web@", "/other@"))
    );
    fs::write(world.place.objects().join("services.yaml"), services).unwrap();
    let webhook = Webhook::start(world.place, Duration::from_secs(600)).await;
    for (label, allowed) in [
        (json!({"lattice.dev/service": "web"}), true),
        // Whoever makes pods writes labels: that of a service which does not name the image, or of none, is worth nothing.
        (json!({"lattice.dev/service": "other"}), false),
        (json!({"lattice.dev/service": "none"}), false),
        (json!({}), false),
    ] {
        let (_, text) = webhook.post("deny", "", pod(&[&web], &label).to_string()).await;
        let review: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(review["response"]["allowed"], allowed, "{label}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hangs_costs_no_more_than_the_time_and_is_asked_once() {
    let place = Place::new();
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = hanging.local_addr().unwrap().to_string();
    let key = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n\
               6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----";
    write_trust(&place, &registry, key);
    fs::write(place.objects().join("gates.cedar"), GATES).unwrap();
    let mut place = place;
    place.settings.plain_http_registries = vec![registry.clone()];
    let webhook = Arc::new(Webhook::start(place, Duration::from_secs(600)).await);
    let image = format!("{registry}/a@sha256:{}", "9".repeat(64));
    let asking: Vec<_> = ["deny", "warn"]
        .into_iter()
        .cycle()
        .take(20)
        .map(|stage| {
            let (webhook, image) = (webhook.clone(), image.clone());
            tokio::spawn(async move {
                let begin = Instant::now();
                let (status, text) = webhook
                    .post(stage, "?timeout=2s", pod(&[&image], &json!({})).to_string())
                    .await;
                assert_eq!(status, 200, "{text}");
                let review: Value = serde_json::from_str(&text).unwrap();
                (stage, review["response"].clone(), begin.elapsed())
            })
        })
        .collect();
    for asked in asking {
        let (stage, response, elapsed) = asked.await.unwrap();
        assert_eq!(response["allowed"], stage == "warn", "{response}");
        let said = format!("{}{}", message(&response), warnings(&response));
        assert!(
            said.contains("not verified within 1.6 s") && said.contains(&image),
            "{said}"
        );
        assert!(elapsed >= Duration::from_millis(1_600), "{elapsed:?}");
    }
    // One look for all of them, which goes on. What is taken is held, since who is hung up on comes again.
    let mut held = Vec::new();
    while let Ok(accepted) = timeout(Duration::from_millis(100), hanging.accept()).await {
        held.push(accepted.unwrap());
    }
    assert_eq!(held.len(), 1);
    assert_eq!(
        (webhook.counter("deny", "unknown"), webhook.counter("warn", "unknown")),
        (10, 10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_something_else_learns_what_is_wrong_with_it() {
    let webhook = Webhook::start(Place::new(), Duration::from_secs(600)).await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, status, expected) in [
        (String::new(), 400, "AdmissionReview: EOF"),
        ("{}".to_owned(), 400, "missing field `apiVersion`"),
        (deep, 400, "recursion limit"),
        (format!("\"{}\"", "a".repeat(9_000_000)), 413, "more than 8388608 bytes"),
    ] {
        let (found, text) = webhook.post("deny", "", body).await;
        assert_eq!(found, status, "{text}");
        assert!(text.contains(expected) && text.len() < 400, "{text}");
    }
    assert_eq!(webhook.counter("deny", "malformed"), 4);
    let (status, _) = webhook.post("allow", "", pod(&["a"], &json!({})).to_string()).await;
    assert_eq!(status, 404);
    let got = webhook.client().get(webhook.url("deny", "")).send().await.unwrap();
    assert_eq!(got.status().as_u16(), 405);
    // Nothing listens in the clear.
    let mut plain = TcpStream::connect(webhook.address).await.unwrap();
    plain
        .write_all(b"POST /admission/deny HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("ends");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // Without any policy nothing is trusted, and what names no image is nobody's business.
    let refused = webhook.ask("deny", &["r.example.com/a"]).await;
    assert!(message(&refused).contains("RegistryNotTrusted"), "{refused}");
    assert_eq!(webhook.ask("deny", &[]).await["allowed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_all_objects_were_seen_the_stage_says_what_comes_of_it() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let judge = Arc::new(Judge::new(
        Arc::new(Images::new(&[]).unwrap()),
        central.shared.denials.list(),
    ));
    let webhook = Webhook::with(place, central, judge, Duration::from_secs(600)).await;
    let refused = webhook.ask("deny", &["r.example.com/a"]).await;
    assert_eq!(
        (&refused["allowed"], &refused["status"]["code"]),
        (&json!(false), &json!(503))
    );
    let warned = webhook.ask("warn", &["r.example.com/a"]).await;
    assert_eq!(warned["allowed"], true);
    for said in [message(&refused).to_owned(), warnings(&warned)] {
        assert!(said.contains("has not seen all TrustPolicies"), "{said}");
    }
    assert_eq!(webhook.counter("deny", "unready"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_renewed_before_it_ends_and_only_its_authority_is_believed() {
    let webhook = Webhook::start(Place::new(), Duration::from_secs(6)).await;
    let certificate = webhook.certificate.clone();
    let keeping = tokio::spawn(async move { certificate.keep().await });
    let begin = Instant::now();
    // Longer than one certificate holds, each time by a new connection.
    while begin.elapsed() < Duration::from_secs(9) {
        assert_eq!(webhook.ask("deny", &[]).await["allowed"], true);
        sleep(Duration::from_millis(500)).await;
    }
    keeping.abort();
    let other = reqwest::Certificate::from_pem(Authority::generate().unwrap().pair().certificate.as_bytes()).unwrap();
    let other = reqwest::Client::builder().tls_certs_only([other]).build().unwrap();
    assert!(other.post(webhook.url("deny", "")).send().await.is_err());
    // And one that has ended is believed by nobody.
    sleep(Duration::from_secs(7)).await;
    assert!(webhook.certificate.remaining(std::time::SystemTime::now()).is_zero());
    assert!(webhook.client().post(webhook.url("deny", "")).send().await.is_err());
}
