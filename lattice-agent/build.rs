//! Embeds the BPF objects. They are built by `cargo xtask build-ebpf`, with a compiler of their own.

use std::{env, fs, path::PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-env-changed=LATTICE_BPF_OBJECTS");
    let objects = env::var_os("LATTICE_BPF_OBJECTS").map_or_else(
        // OUT_DIR is <target>/<profile>/build/<package>/out.
        || {
            out.ancestors()
                .nth(4)
                .map_or_else(|| manifest.join("../target"), PathBuf::from)
                .join("bpf-objects")
        },
        PathBuf::from,
    );
    for tier in ["tier1.o", "tier2.o"] {
        let object = objects.join(tier);
        println!("cargo::rerun-if-changed={}", object.display());
        if let Err(error) = fs::copy(&object, out.join(tier)) {
            println!(
                "cargo::error=no BPF object {}: {error}. Run `cargo xtask build-ebpf` first",
                object.display()
            );
        }
    }
}
