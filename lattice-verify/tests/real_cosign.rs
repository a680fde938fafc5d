//! Against the real cosign, where it is on PATH or in target/tools: a fresh key and a fresh signature each time.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use lattice_verify::{
    Rejection, SIGNATURE_ANNOTATION, SIMPLE_SIGNING_MEDIA_TYPE, SignatureObject, TrustedKey, verify_signatures,
};

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// The cosign program that answers to `version`, or a line on standard error that says why there is none.
fn cosign(test: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join("cosign"))
        .chain([tools.join("bin/cosign"), tools.join("cosign")])
        .find(|program| {
            Command::new(program)
                .arg("version")
                .output()
                .is_ok_and(|output| output.status.success())
        });
    if found.is_none() {
        // Not println!, which the test harness swallows.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test}: no cosign on PATH nor in target/tools"
        );
    }
    found
}

#[track_caller]
fn run(program: &Path, folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("COSIGN_PASSWORD", "")
        .output()
        .expect("starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_cosign_signs_is_verified() {
    let Some(cosign) = cosign("what_cosign_signs_is_verified") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut keys = Vec::new();
    for name in ["right", "wrong"] {
        run(&cosign, folder, &["generate-key-pair", "--output-key-prefix", name]);
        let pem = fs::read_to_string(folder.join(format!("{name}.pub"))).unwrap();
        keys.push(TrustedKey::from_pem(name, &pem).unwrap());
    }
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r/p"}},"image":{{"docker-manifest-digest":"{DIGEST}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    fs::write(folder.join("payload.json"), &payload).unwrap();
    run(
        &cosign,
        folder,
        &[
            "sign-blob",
            "-y",
            "--key",
            "right.key",
            "--use-signing-config=false",
            "--tlog-upload=false",
            "--new-bundle-format=false",
            "--output-signature",
            "payload.sig",
            "payload.json",
        ],
    );
    let signature = fs::read_to_string(folder.join("payload.sig")).unwrap();
    let object = SignatureObject {
        media_type: SIMPLE_SIGNING_MEDIA_TYPE.to_owned(),
        annotations: [(SIGNATURE_ANNOTATION.to_owned(), signature.trim().to_owned())].into(),
        payload: payload.into_bytes(),
    };
    let facts = verify_signatures(DIGEST.parse().unwrap(), std::slice::from_ref(&object), &keys);
    assert_eq!(facts.signers, ["right"]);
    let facts = verify_signatures(DIGEST.parse().unwrap(), &[object], &keys[1..]);
    assert_eq!(facts.examined[0].outcome, Err(Rejection::OtherKey));
}
