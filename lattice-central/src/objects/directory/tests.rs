use std::sync::Arc;

use super::*;

const TRUST: &str = "apiVersion: lattice.dev/v1alpha1
kind: TrustPolicy
metadata: {name: internal-registry}
spec:
  registry: registry.example.com
  cosign: {publicKey: {secretRef: signing-keys/cosign-public}}
";

const SERVICE: &str = "apiVersion: lattice.dev/v1alpha1
kind: LatticeService
metadata: {name: payment-service, namespace: payments}
spec:
  environment: production
  containers:
  - name: server
    image: registry.example.com/payment-service:v1
";

const PERMIT: &str =
    "@id(\"signed\")\npermit(principal, action == Action::\"DeployImage\", resource) when { resource.signed };\n";

fn secret(keys: &[(&str, &str)]) -> String {
    let mut text =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: cosign-public, namespace: signing-keys}\nstringData:\n"
            .to_owned();
    for (name, value) in keys {
        text += &format!("  {name}: |\n");
        for line in value.lines() {
            text += &format!("    {line}\n");
        }
    }
    text
}

fn public_key() -> &'static str {
    include_str!("../../../../lattice-verify/tests/vectors/one.pub")
}

struct Fixture {
    directory: tempfile::TempDir,
    state: tempfile::TempDir,
    reader: DirectoryReader,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut reader = DirectoryReader::open(directory.path(), &state.path().join("last-good")).unwrap();
        // The first look tells that there is nothing.
        reader.scan();
        Self {
            directory,
            state,
            reader,
        }
    }

    /// What a central that starts now would read.
    fn restart(&mut self) -> ObjectSet {
        self.reader = DirectoryReader::open(self.directory.path(), &self.state.path().join("last-good")).unwrap();
        self.reader.scan();
        self.reader.objects()
    }

    fn write(&mut self, name: &str, text: &str) -> ObjectSet {
        fs::write(self.directory.path().join(name), text).unwrap();
        assert!(self.reader.scan(), "{name} is new");
        self.reader.objects()
    }

    #[track_caller]
    fn problem(&mut self, name: &str, text: &str, expected: &str) -> ObjectSet {
        let set = self.write(name, text);
        let problems = set.problems.get(name).cloned().unwrap_or_default().join("\n");
        assert!(problems.contains(expected), "{problems}");
        set
    }
}

fn services(set: &ObjectSet) -> Vec<String> {
    set.services
        .values()
        .map(|service| service.spec.containers[0].image.clone())
        .collect()
}

#[test]
fn reads_all_kinds_and_joins_trust() {
    let mut fixture = Fixture::new();
    assert!(!fixture.reader.scan(), "empty");
    fixture.write(
        "trust.yaml",
        &format!(
            "{TRUST}---\n{}",
            secret(&[("cosign.pub", public_key()), ("other", "x")])
        ),
    );
    fixture.write("gates.cedar", PERMIT);
    let set = fixture.write("service.yml", SERVICE);
    assert_eq!(set.problems, BTreeMap::new());
    assert_eq!(services(&set), ["registry.example.com/payment-service:v1"]);
    assert_eq!(set.trust.problems, BTreeMap::new());
    let keys = set.trust.registries.keys_for("registry.example.com").unwrap();
    assert_eq!(keys[0].name(), "signing-keys/cosign-public");
    assert!(!fixture.reader.scan(), "nothing changed");
}

#[test]
fn an_invalid_new_version_leaves_the_last_good_one() {
    let mut fixture = Fixture::new();
    fixture.write("service.yaml", SERVICE);
    let v2 = SERVICE.replace(":v1", ":v2");
    let set = fixture.problem("service.yaml", &v2.replace("image:", "imgae:"), "service.yaml:8:");
    assert_eq!(services(&set), ["registry.example.com/payment-service:v1"]);
    assert!(
        set.problems["service.yaml"]
            .iter()
            .any(|problem| problem.contains("imgae")),
        "{:?}",
        set.problems
    );
    let set = fixture.problem("service.yaml", "{", "service.yaml:");
    assert_eq!(services(&set), ["registry.example.com/payment-service:v1"]);
    let set = fixture.write("service.yaml", &v2);
    assert_eq!(
        (services(&set), set.problems.len()),
        (vec!["registry.example.com/payment-service:v2".to_owned()], 0)
    );
}

#[test]
fn a_file_that_never_was_good_says_so_and_gives_nothing() {
    let mut fixture = Fixture::new();
    let set = fixture.problem(
        "service.yaml",
        &SERVICE.replace("production", "prod"),
        "spec.environment",
    );
    assert_eq!(services(&set), Vec::<String>::new());
}

#[test]
fn an_invalid_policy_leaves_the_last_good_set() {
    let mut fixture = Fixture::new();
    fixture.write("gates.cedar", PERMIT);
    let good = fixture.reader.objects().gate;
    let set = fixture.problem(
        "gates.cedar",
        &PERMIT.replace("signed }", "singed }"),
        "gates.cedar:2: ",
    );
    assert!(Arc::ptr_eq(&set.gate, &good));
    // A second, good file does not bring half of the set into force.
    let set = fixture.write("more.cedar", "forbid(principal, action, resource);");
    assert!(Arc::ptr_eq(&set.gate, &good));
    let set = fixture.write("gates.cedar", PERMIT);
    assert!(!Arc::ptr_eq(&set.gate, &good));
    assert_eq!(set.problems, BTreeMap::new());
}

#[test]
fn a_file_that_is_gone_takes_its_objects_along() {
    let mut fixture = Fixture::new();
    fixture.write("service.yaml", SERVICE);
    fs::remove_file(fixture.directory.path().join("service.yaml")).unwrap();
    assert!(fixture.reader.scan());
    assert_eq!(services(&fixture.reader.objects()), Vec::<String>::new());
}

#[test]
fn the_first_of_two_files_with_one_object_counts() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", SERVICE);
    let set = fixture.problem("b.yaml", &SERVICE.replace(":v1", ":v2"), "is in a.yaml already");
    assert_eq!(services(&set), ["registry.example.com/payment-service:v1"]);
}

#[test]
fn a_directory_that_is_gone_changes_nothing_else() {
    let mut fixture = Fixture::new();
    fixture.write("service.yaml", SERVICE);
    let away = fixture.directory.path().with_extension("away");
    fs::rename(fixture.directory.path(), &away).unwrap();
    assert!(fixture.reader.scan());
    let set = fixture.reader.objects();
    assert_eq!(services(&set).len(), 1);
    assert!(
        set.problems
            .values()
            .flatten()
            .any(|problem| problem.contains("cannot list the directory"))
    );
    assert!(!fixture.reader.scan(), "said once");
    fs::rename(&away, fixture.directory.path()).unwrap();
    assert!(fixture.reader.scan());
    assert_eq!(fixture.reader.objects().problems, BTreeMap::new());
}

#[test]
fn what_is_no_file_of_objects_is_left_alone_or_named() {
    let mut fixture = Fixture::new();
    for name in ["service.yaml.swp", ".hidden.yaml", "README.md"] {
        fs::write(fixture.directory.path().join(name), "}").unwrap();
    }
    assert!(!fixture.reader.scan());
    fs::create_dir(fixture.directory.path().join("folder.yaml")).unwrap();
    assert!(fixture.reader.scan());
    assert_eq!(
        fixture.reader.objects().problems["folder.yaml"],
        ["folder.yaml: cannot read the file: it is no regular file"]
    );
    fixture.problem("large.yaml", &" ".repeat(5 << 20), "more than 4194304 bytes");
}

#[track_caller]
fn untrusted(secret: &str, expected: &str) {
    let mut fixture = Fixture::new();
    let set = fixture.write("trust.yaml", &format!("{TRUST}---\n{secret}"));
    let problems = set.trust.problems["registry.example.com"].join("\n");
    assert!(problems.contains(expected), "{problems}");
    assert!(
        problems
            .starts_with("TrustPolicy internal-registry: spec.cosign.publicKey.secretRef signing-keys/cosign-public: ")
    );
    assert_eq!(
        set.trust.registries.keys_for("registry.example.com").map(<[_]>::len),
        Some(0)
    );
}

#[test]
fn a_key_that_cannot_be_used_is_named() {
    untrusted(
        &secret(&[("cosign.pub", public_key())]).replace("cosign-public", "other"),
        "there is no such Secret",
    );
    untrusted(
        &secret(&[("a", public_key()), ("b", public_key())]),
        "has 2 keys and none is cosign.pub",
    );
    untrusted(
        &secret(&[("cosign.pub", "hello")]),
        "no ECDSA P-256 public key in PEM form",
    );
}

#[test]
fn the_only_key_of_a_secret_is_the_key() {
    let mut fixture = Fixture::new();
    let set = fixture.write(
        "trust.yaml",
        &format!("{TRUST}---\n{}", secret(&[("anything", public_key())])),
    );
    assert_eq!(
        set.trust.registries.keys_for("registry.example.com").map(<[_]>::len),
        Some(1)
    );
}

#[test]
fn a_restart_while_files_are_broken_takes_nothing_away() {
    let mut fixture = Fixture::new();
    fixture.write("service.yaml", SERVICE);
    let permits = |set: &ObjectSet| {
        let facts = crate::gate::ImageFacts {
            signers: vec!["a".to_owned()],
            ..Default::default()
        };
        let identity = |text: &str| text.to_owned();
        let (namespace, name, environment) = (identity("a"), identity("b"), identity("staging"));
        let service = crate::gate::ServiceIdentity {
            namespace,
            name,
            environment,
        };
        let action = crate::gate::Action::DeployImage(facts);
        let question = crate::gate::Question {
            service,
            action,
            actor: identity("test"),
            time: std::time::SystemTime::now(),
        };
        set.gate.decide(&question).is_allowed()
    };
    assert!(permits(&fixture.write("gates.cedar", PERMIT)));
    fixture.problem("service.yaml", "{", "service.yaml:");
    fixture.problem("gates.cedar", "permit(", "gates.cedar:1");
    for _ in 0..2 {
        let set = fixture.restart();
        assert_eq!(services(&set), ["registry.example.com/payment-service:v1"]);
        assert!(permits(&set));
        assert_eq!(set.problems.len(), 2, "and it says so");
    }
    // A kept file that was tampered with does not count.
    let kept = fixture.state.path().join("last-good/service.yaml");
    let text = fs::read(&kept).unwrap();
    let tampered: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'1' { b'2' } else { *byte })
        .collect();
    assert_ne!(text, tampered);
    fs::write(&kept, tampered).unwrap();
    assert_eq!(services(&fixture.restart()), Vec::<String>::new());
    // What is gone is forgotten.
    fs::remove_file(fixture.directory.path().join("service.yaml")).unwrap();
    fixture.restart();
    assert!(!kept.exists());
    fs::remove_file(fixture.directory.path().join("gates.cedar")).unwrap();
    assert!(!permits(&fixture.restart()));
    assert!(!permits(&fixture.restart()));
}

#[test]
fn rules_may_stand_in_an_object() {
    let mut fixture = Fixture::new();
    let object = |policies: &str| {
        let text: String = policies.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: CedarPolicy\nmetadata: {{name: signed}}\nspec:\n  policies: |\n{text}"
        )
    };
    let set = fixture.write("rules.yaml", &object(PERMIT));
    assert_eq!(set.problems, BTreeMap::new());
    let good = set.gate;
    // The same name in a file and in an object is one name twice.
    let set = fixture.write("rules.cedar", PERMIT);
    assert!(set.problems.contains_key("rules.cedar") || set.problems.contains_key("CedarPolicy signed"));
    assert!(Arc::ptr_eq(&set.gate, &good), "the last good set stays in force");
    fs::remove_file(fixture.directory.path().join("rules.cedar")).unwrap();
    fixture.reader.scan();
    let set = fixture.write(
        "rules.yaml",
        &object("permit(principal, action, resource) when { resource.nothing };"),
    );
    let problems = &set.problems["CedarPolicy signed"];
    assert!(problems[0].contains("CedarPolicy signed:1"), "{problems:?}");
}
