//! The committed Rust of containerd's services is what its `.proto` files say.

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

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = FILES.map(|name| format!("{API}/{name}.proto"));
    let descriptors = protox::compile(names, [root.join("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_server(false)
        .disable_comments(["."])
        .include_file("mod.rs")
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .unwrap();
    let generated = files(folder.path());
    let committed_folder = root.join("src/containers/containerd/generated");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        for (name, text) in &generated {
            fs::write(committed_folder.join(name), text).unwrap();
        }
    }
    let committed = files(&committed_folder);
    let changed: Vec<_> = generated
        .keys()
        .chain(committed.keys())
        .filter(|name| generated.get(*name) != committed.get(*name))
        .collect();
    assert!(
        changed.is_empty(),
        "{changed:?} in src/containers/containerd/generated are not current: run \
         `UPDATE_GENERATED=1 cargo test -p lattice-agent --test containerd_generated` and commit the result"
    );
}
