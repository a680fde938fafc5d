//! Any bytes are policies, or refused; what is read for Tetragon can be written for Tetragon, and says the same.
#![no_main]

use lattice_policy::{
    read_policies,
    tracing_policy::{Carry, TracingPolicyDocument},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match read_policies("fuzz", bytes) {
        Ok(file) => {
            for document in file.documents {
                assert_eq!(document.policy.check(), Ok(()));
                // Names can be no labels, and paths too many for an annotation: that is said, and nothing is written.
                if let Ok((written, _)) = TracingPolicyDocument::of(&document.policy, Carry::Annotation) {
                    for text in [written.to_yaml(), written.to_json()] {
                        let read = read_policies("written", text.as_bytes()).unwrap_or_else(|found| panic!("{found:?}\n{text}"));
                        assert_eq!(read.documents[0].policy, document.policy, "{text}");
                    }
                }
            }
            for note in file.notes {
                assert!(note.to_string().chars().all(|character| !character.is_control()), "{note:?}");
            }
        }
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            for diagnostic in diagnostics {
                assert!(diagnostic.to_string().chars().all(|character| !character.is_control()), "{diagnostic:?}");
            }
        }
    }
});
