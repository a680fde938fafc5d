//! Any bytes are ExecPolicy documents, or refused with diagnostics that a terminal shows as they are.
#![no_main]

use lattice_policy::{read_documents, to_json, to_yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match read_documents("fuzz", bytes) {
        Ok(policies) => {
            for policy in policies {
                assert_eq!(policy.check(), Ok(()));
                for text in [to_yaml(&policy), to_json(&policy)] {
                    assert_eq!(read_documents("written", text.as_bytes()), Ok(vec![policy.clone()]), "{text}");
                }
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
