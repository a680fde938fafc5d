//! `latticectl crds`.

use std::io::Write as _;

use lattice_api::crd::definitions;

use crate::failure::Failure;

/// Prints the custom resource definitions as a stream of YAML documents, for `kubectl apply --server-side -f -`.
pub(crate) fn run() -> Result<(), Failure> {
    let mut stream = String::new();
    for definition in definitions() {
        stream.push_str("---\n");
        stream.push_str(&definition.to_yaml());
    }
    std::io::stdout()
        .write_all(stream.as_bytes())
        .map_err(|source| Failure::Io {
            what: "write the definitions".to_owned(),
            source,
        })
}
