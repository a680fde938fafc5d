//! Central's denylist, from the wire or from disk. Unlike a set of policies it is not taken whole or not at all: a denial that this
//! release does not understand is named, and the others hold.

use std::collections::BTreeMap;

use lattice_api::v1;
use lattice_policy::Denied;

/// Denials of one kind; more are not looked at.
const DENIALS_OF_A_KIND: usize = 4_096;
/// A longer text is cut: that it is long is no reason to let the digest through.
const TEXT_CHARACTERS: usize = 500;
/// Problems that are named; of the others the number.
const PROBLEMS: usize = 8;

/// What central denies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CentralDenylist {
    /// Rises with every change at central.
    pub revision: u64,
    /// By digest.
    pub denials: BTreeMap<Denied, v1::Denial>,
}

impl CentralDenylist {
    /// What can be understood of a message, and what is wrong with the rest; empty where nothing is.
    pub fn read(message: &v1::Denylist) -> (Self, String) {
        let (mut denials, mut problems) = (BTreeMap::new(), Vec::new());
        let (mut images, mut files) = (0, 0);
        for denial in &message.denials {
            let denied = match Denied::parse(&denial.kind, &denial.digest) {
                Ok(denied) => denied,
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            };
            let count = match denied {
                Denied::Image(_) => &mut images,
                Denied::File(_) => &mut files,
            };
            *count += 1;
            if *count > DENIALS_OF_A_KIND {
                problems.push(format!(
                    "{denied} is more than the {DENIALS_OF_A_KIND} of its kind that are held"
                ));
                continue;
            }
            let cut = |text: &str| text.chars().take(TEXT_CHARACTERS).collect();
            let denial = v1::Denial {
                kind: denied.kind().into(),
                digest: denied.digest(),
                kill_running: denial.kill_running && denied.kind() == "image",
                reason: cut(&denial.reason),
                set_by: cut(&denial.set_by),
                set_unix_nanos: denial.set_unix_nanos,
                ..v1::Denial::default()
            };
            denials.insert(denied, denial);
        }
        let more = problems.len().saturating_sub(PROBLEMS);
        problems.truncate(PROBLEMS);
        let mut said = problems.join("; ");
        if more != 0 {
            said.push_str(&format!("; and {more} more"));
        }
        let list = Self {
            revision: message.revision,
            denials,
        };
        (list, said)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn denial(kind: &str, digest: &str) -> v1::Denial {
        v1::Denial {
            kind: kind.into(),
            digest: digest.into(),
            kill_running: true,
            reason: "x".repeat(600),
            ..v1::Denial::default()
        }
    }

    #[test]
    fn what_is_not_understood_holds_up_nothing() {
        let digest = |number: u32| format!("sha256:{number:064x}");
        let message = v1::Denylist {
            revision: 7,
            denials: vec![
                denial("registry", "example.com"),
                denial("image", &digest(1)),
                denial("file", "abc"),
                denial("file", &digest(2)),
            ],
        };
        let (list, problems) = CentralDenylist::read(&message);
        let held: Vec<(String, bool, usize)> = list
            .denials
            .iter()
            .map(|(denied, denial)| (denied.to_string(), denial.kill_running, denial.reason.len()))
            .collect();
        assert_eq!(
            held,
            [
                (format!("image {}", digest(1)), true, 500),
                (format!("file {}", digest(2)), false, 500),
            ]
        );
        assert!(
            problems.contains("\"registry\" is neither image nor file; \"abc\" is not 64"),
            "{problems}"
        );

        let many = v1::Denylist {
            revision: 8,
            denials: (0..4_200).map(|number| denial("file", &digest(number))).collect(),
        };
        let (list, problems) = CentralDenylist::read(&many);
        assert_eq!(list.denials.len(), 4_096);
        assert!(problems.ends_with("; and 96 more"), "{problems}");
    }

    proptest! {
        #[test]
        fn foreign_texts_never_panic(kind: String, digest: String, reason: String) {
            let message = v1::Denylist { revision: 1, denials: vec![v1::Denial { reason, ..denial(&kind, &digest) }] };
            let (list, problems) = CentralDenylist::read(&message);
            prop_assert_eq!(list.denials.is_empty(), !problems.is_empty());
        }
    }
}
