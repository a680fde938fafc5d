//! The committed Rust of containerd's services and of NRI is what their `.proto` files say.

use std::{collections::BTreeMap, fs, path::Path};

const API: &str = "github.com/containerd/containerd/api";
const FILES: [&str; 9] = [
    "events/container",
    "events/task",
    "services/containers/v1/containers",
    "services/content/v1/content",
    "services/events/v1/events",
    "services/images/v1/images",
    "services/namespaces/v1/namespace",
    "services/snapshots/v1/snapshots",
    "services/tasks/v1/tasks",
];

fn files(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// Generates into a folder of its own, and compares with what is committed.
#[track_caller]
fn check(
    names: &[String],
    committed: &str,
    configure: impl FnOnce(tonic_prost_build::Builder) -> tonic_prost_build::Builder,
) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(names, [root.join("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    configure(
        tonic_prost_build::configure()
            .build_server(false)
            .disable_comments(["."])
            .out_dir(folder.path()),
    )
    .compile_fds(descriptors)
    .unwrap();
    let generated = files(folder.path());
    let committed_folder = root.join(committed);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        for (name, text) in &generated {
            fs::write(committed_folder.join(name), text).unwrap();
        }
    }
    let found = files(&committed_folder);
    let changed: Vec<_> = generated
        .keys()
        .chain(found.keys())
        .filter(|name| generated.get(*name) != found.get(*name))
        .collect();
    assert!(
        changed.is_empty(),
        "{changed:?} in {committed} are not current: run `cargo xtask codegen` and commit the result"
    );
}

#[test]
fn generated_code_is_current() {
    let names = FILES.map(|name| format!("{API}/{name}.proto"));
    check(&names, "src/containers/containerd/generated", |builder| {
        builder.include_file("mod.rs")
    });
}

/// Messages alone: NRI's calls go over ttrpc, not gRPC.
#[test]
fn generated_code_of_nri_is_current() {
    let names = ["github.com/containerd/nri/pkg/api/api.proto".to_owned()];
    check(&names, "src/containers/nri/generated", |builder| {
        builder.build_client(false).include_file("mod.rs")
    });
}
