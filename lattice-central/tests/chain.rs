//! From a signed image to a policy at an agent: real registry, real cosign, the program itself, real TLS.

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    Agent, NODES, PATIENCE, Place, operator,
    program::{Program, free_address},
    registry::{Cosign, Registry, tools},
};
use lattice_api::v1 as wire;

/// An ELF file without a program header: x86-64, statically linked, and different by its last byte.
fn elf(last: u8) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..20].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0]);
    bytes[20] = 1;
    bytes[52] = 64; // e_ehsize
    bytes[54] = 56; // e_phentsize
    bytes[127] = last;
    bytes
}

/// A registry with an image, its key, and a place for a central.
struct World {
    place: Place,
    registry: Registry,
    cosign: Cosign,
}

const EXEC_PROBE: &str = "{exec: {command: [/bin/sh, -c, 'curl -fs localhost:8080/healthz']}}";
const HTTP_PROBE: &str = "{httpGet: {path: /healthz, port: 8080}}";

const GATES: &str = r#"
@id("signed-by-our-key")
permit(principal, action == Action::"DeployImage", resource)
when { resource.signed && resource.signers.contains("signing-keys/cosign-public") };
"#;

impl World {
    fn new(test: &str) -> Option<Self> {
        let (registry, cosign) = tools(test)?;
        let (mut place, registry, cosign) = (Place::new(), Registry::start(&registry), Cosign::new(&cosign));
        place.settings.plain_http_registries = vec![registry.address.to_string()];
        let key = cosign.generate("ours");
        let indented: String = key.lines().map(|line| format!("    {line}\n")).collect();
        let world = Self {
            place,
            registry,
            cosign,
        };
        world.write(
            "trust.yaml",
            &format!(
                "apiVersion: lattice.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {{name: local}}\nspec:\n  registry: {}\n  \
                 cosign: {{publicKey: {{secretRef: signing-keys/cosign-public}}}}\n---\napiVersion: v1\nkind: Secret\n\
                 metadata: {{name: cosign-public, namespace: signing-keys}}\nstringData:\n  cosign.pub: |\n{indented}",
                world.registry.address
            ),
        );
        world.write("gates.cedar", GATES);
        Some(world)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.place.objects().join(file), text).unwrap();
    }

    fn write_service(&self, image: &str, probe: &str) {
        self.write(
            "service.yaml",
            &format!(
                "apiVersion: lattice.dev/v1alpha1\nkind: LatticeService\nmetadata: {{name: payment-service, namespace: payments}}\n\
                 spec:\n  environment: production\n  containers:\n  - name: server\n    image: {image}\n    readinessProbe: {probe}\n"
            ),
        );
    }

    /// Pushes the image and returns its reference by digest.
    async fn push(&self, repository: &str, server: u8) -> String {
        let (server, shell, curl) = (elf(server), elf(1), elf(2));
        let files: [(&str, &[u8]); 3] = [("app/server", &server), ("bin/sh", &shell), ("usr/bin/curl", &curl)];
        let digest = self.registry.push(repository, "v1", &files).await;
        format!("{}/{repository}@{digest}", self.registry.address)
    }

    fn start(&self) -> Program {
        Program::start(&self.place, free_address())
    }

    /// Waits until the service's Ready condition has this reason, and returns all its conditions.
    async fn conditions(&self, program: &Program, reason: &str) -> Vec<wire::Condition> {
        let mut control = operator(&self.place, program.address).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = wire::ListServicesRequest {
                namespace: "payments".to_owned(),
            };
            let services = control.list_services(request).await.unwrap().into_inner().services;
            let found = services.into_iter().find(|service| service.name == "payment-service");
            if let Some(service) = &found
                && service.conditions[3].reason == reason
            {
                return service.conditions.clone();
            }
            assert!(Instant::now() < deadline, "no {reason}: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn paths(set: &wire::PolicySet) -> Vec<String> {
    let policy = set.policies.iter().find(|policy| policy.name == "payment-service");
    let mut paths: Vec<_> = policy
        .map(|policy| {
            policy
                .entries
                .iter()
                .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
                .collect()
        })
        .unwrap_or_default();
    paths.sort();
    paths
}

/// The next set in which the service has a policy.
async fn next_policy(agent: &mut Agent) -> wire::PolicySet {
    loop {
        let set = agent.policies().await;
        if !set.policies.is_empty() {
            return set;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_image_becomes_a_policy_and_follows_its_specification() {
    let Some(mut world) = World::new("a_signed_image_becomes_a_policy_and_follows_its_specification") else {
        return;
    };
    let image = world.push("payment-service", 7).await;
    world.cosign.sign("ours", &image);
    world.write_service(&image, EXEC_PROBE);
    let program = world.start();
    let mut agent = Agent::connect(&world.place, program.address, NODES[0]).await;
    let set = next_policy(&mut agent).await;
    assert_eq!(paths(&set), ["/app/server", "/bin/sh", "/usr/bin/curl"]);
    let policy = &set.policies[0];
    assert_eq!((policy.mode.as_str(), policy.generation), ("monitor", 1));
    let target = policy.target.clone().unwrap();
    assert_eq!(target.workload.as_deref(), Some("payment-service"));
    assert_eq!(target.container.as_deref(), Some("server"));
    assert_eq!(target.image_digest.as_deref(), image.split('@').nth(1));
    let conditions = world.conditions(&program, "InForce").await;
    assert!(
        conditions.iter().all(|condition| condition.status == "True"),
        "{conditions:?}"
    );
    assert!(
        conditions[0].message.contains("signed by signing-keys/cosign-public"),
        "{}",
        conditions[0].message
    );

    // The exec probe becomes an HTTP probe: neither sh nor curl is listed any more, at once.
    world.write_service(&image, HTTP_PROBE);
    let set = next_policy(&mut agent).await;
    assert_eq!(
        (paths(&set), set.policies[0].generation),
        (vec!["/app/server".to_owned()], 2)
    );

    // The registry goes away: what was derived stays in force, the condition says why, and it heals by itself.
    world.registry.stop();
    world.write_service(&image, EXEC_PROBE);
    let conditions = world.conditions(&program, "RegistryUnavailable").await;
    assert_eq!(
        (conditions[0].r#type.as_str(), conditions[0].status.as_str()),
        ("ImageVerified", "Unknown")
    );
    assert!(
        conditions[3]
            .message
            .contains("stays in force: policy payment-service, generation 2"),
        "{conditions:?}"
    );
    let address = program.address;
    drop(program);
    // Also through a restart while it is away.
    let program = Program::start(&world.place, address);
    let mut agent = Agent::connect(&world.place, address, NODES[0]).await;
    let set = agent.policies().await;
    assert_eq!(
        (paths(&set), set.policies[0].generation),
        (vec!["/app/server".to_owned()], 2)
    );
    world.conditions(&program, "RegistryUnavailable").await;
    world.registry.start_again();
    let set = next_policy(&mut agent).await;
    assert_eq!((paths(&set).len(), set.policies[0].generation), (3, 3));

    // The service goes away, and its policy with it.
    fs::remove_file(world.place.objects().join("service.yaml")).unwrap();
    assert_eq!(agent.policies().await.policies, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_by_our_key_gets_no_policy() {
    let Some(world) = World::new("what_is_not_signed_by_our_key_gets_no_policy") else {
        return;
    };
    let unsigned = world.push("unsigned-twin", 7).await;
    let foreign = world.push("foreign-twin", 8).await;
    world.cosign.generate("theirs");
    world.cosign.sign("theirs", &foreign);
    world.write_service(&unsigned, EXEC_PROBE);
    let program = world.start();
    let conditions = world.conditions(&program, "Unsigned").await;
    assert_eq!(conditions[0].status, "False");
    let message = &conditions[3].message;
    assert!(
        message.starts_with("stopped at ImageVerified: container server, image 127.0.0.1:"),
        "{message}"
    );
    assert!(
        message.contains("the image has no signature in cosign's `.sig` form"),
        "{message}"
    );
    assert!(message.contains("No policy is in force"), "{message}");

    world.write_service(&foreign, EXEC_PROBE);
    let conditions = world.conditions(&program, "SignedByOtherKey").await;
    assert!(
        conditions[0]
            .message
            .contains("by another key than signing-keys/cosign-public"),
        "{}",
        conditions[0].message
    );

    // An image that is not there is not "unsigned".
    let absent = unsigned.replace("unsigned-twin", "absent");
    world.write_service(&absent, EXEC_PROBE);
    world.conditions(&program, "NotFound").await;

    // Nobody has been given a policy by any of it.
    let mut agent = Agent::connect(&world.place, program.address, NODES[0]).await;
    assert_eq!(agent.policies().await.policies, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_decides_over_tags_and_images_and_is_asked_anew() {
    let Some(world) = World::new("the_gate_decides_over_tags_and_images_and_is_asked_anew") else {
        return;
    };
    let image = world.push("payment-service", 7).await;
    world.cosign.sign("ours", &image);
    let tag = format!("{}/payment-service:v1", world.registry.address);
    world.write_service(&tag, HTTP_PROBE);
    let program = world.start();
    let conditions = world.conditions(&program, "TagNotAllowed").await;
    let message = &conditions[0].message;
    assert!(
        message.contains("no policy permits it, and none is written for this action. Name the image by its digest"),
        "{message}"
    );

    // Permitted: the tag is resolved once, and the policy is for the digest.
    let tags = "permit(principal, action == Action::\"AllowTagReference\", resource) when { resource has tag && resource.tag == \"v1\" };";
    world.write("tags.cedar", tags);
    world.conditions(&program, "InForce").await;
    let mut agent = Agent::connect(&world.place, program.address, NODES[0]).await;
    let set = next_policy(&mut agent).await;
    let target = set.policies[0].target.clone().unwrap();
    assert_eq!(target.image_digest.as_deref(), image.split('@').nth(1));

    // A forbid: what is in force stays, and the condition names the policy, the fact and the file.
    world.write(
        "freeze.cedar",
        "@id(\"freeze\")\nforbid(principal, action == Action::\"DeployImage\", resource)\nwhen { context.environment == \"production\" };",
    );
    let conditions = world.conditions(&program, "Denied").await;
    assert_eq!(
        (conditions[0].status.as_str(), conditions[1].status.as_str()),
        ("True", "False")
    );
    let message = &conditions[1].message;
    assert!(
        message.contains(
            "policy \"freeze\" (freeze.cedar:1) forbids it, since `context.environment == \"production\"` \
             (context.environment is \"production\")"
        ),
        "{message}"
    );
    assert!(
        conditions[3].message.contains("What was derived before stays in force"),
        "{}",
        conditions[3].message
    );

    // A policy file that is wrong changes nothing; one that warns shows.
    world.write(
        "freeze.cedar",
        "forbid(principal, action, resource) when { resource.singed };",
    );
    world.conditions(&program, "Denied").await;
    world.write(
        "freeze.cedar",
        "@id(\"old\") @outcome(\"warn\")\nforbid(principal, action == Action::\"DeployImage\", resource);",
    );
    let conditions = world.conditions(&program, "InForce").await;
    assert!(
        conditions[3]
            .message
            .contains("warning: policy \"old\" (freeze.cedar:1) warns of it"),
        "{conditions:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_no_policy_names_is_not_contacted() {
    let Some(world) = World::new("a_registry_that_no_policy_names_is_not_contacted") else {
        return;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap();
    world.write_service(
        &format!("{other}/payment-service@sha256:{}", "9f".repeat(32)),
        HTTP_PROBE,
    );
    let program = world.start();
    let conditions = world.conditions(&program, "RegistryNotTrusted").await;
    let expected = format!("no TrustPolicy names the registry {other}, so it is not contacted; add a TrustPolicy");
    assert!(conditions[0].message.contains(&expected), "{}", conditions[0].message);
    let contacted = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(contacted.is_err(), "somebody came");
}
