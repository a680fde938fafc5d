//! The committed Rust is what the `.proto` files say.

use std::{fs, path::Path};

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("proto");
    let names = [
        "agent_hub",
        "containers",
        "control",
        "denylist",
        "enrolment",
        "events",
        "node_report",
        "policy",
        "rollout",
    ]
    .map(|name| format!("lattice/v1/{name}.proto"));
    let descriptors = protox::compile(names, [&protos]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Without `connect()` in the clients, which would collide with the rpc of that name; callers make their channels.
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .unwrap();
    let generated = fs::read_to_string(folder.path().join("lattice.v1.rs")).unwrap();
    let committed_path = root.join("src/generated/lattice.v1.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&committed_path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&committed_path).unwrap_or_default();
    assert!(
        generated == committed,
        "src/generated is not current: run `cargo xtask codegen` and commit the result"
    );
}
