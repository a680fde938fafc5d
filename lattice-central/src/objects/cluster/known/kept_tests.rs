use serde_json::json;
use tempfile::TempDir;

use super::*;

const GOOD: &str = "registry.example.com";
const BROKEN: &str = "https://registry.example.com/";

fn known(folder: &TempDir) -> Known {
    Known::new(LastGood::open(folder.path()).unwrap())
}

fn trust_policy(uid: &str, registry: &str) -> DynamicObject {
    let document = json!({
        "metadata": {"name": "main", "uid": uid},
        "spec": {"registry": registry, "cosign": {"publicKey": {"secretRef": "keys/cosign"}}},
    });
    serde_json::from_value(document).unwrap()
}

fn tell(known: &mut Known, event: Event<DynamicObject>) {
    let kind = KINDS.into_iter().find(|kind| kind.name == TrustPolicy::KIND).unwrap();
    known.take(Change {
        of: Watched::Kind(kind),
        event,
    });
}

/// Whether the registry's policy counts, and whether something is wrong with the newest one.
#[track_caller]
fn check(known: &Known, counts: bool, is_good: bool) {
    let registries: Vec<String> = known.wanted_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(!registries.is_empty(), counts, "counts");
    let subjects = known.subjects();
    assert_eq!(subjects[0].standing == Standing::Good, is_good, "{subjects:?}");
}

#[test]
fn a_broken_change_leaves_what_was_good_also_over_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut before = known(&folder);
    tell(&mut before, Event::Apply(trust_policy("1", GOOD)));
    check(&before, true, true);
    tell(&mut before, Event::Apply(trust_policy("1", BROKEN)));
    check(&before, true, false);
    let mut after = known(&folder);
    tell(&mut after, Event::Apply(trust_policy("1", BROKEN)));
    check(&after, true, false);
}

#[test]
fn one_made_anew_under_the_name_has_nothing_of_the_one_before() {
    let folder = TempDir::new().unwrap();
    let mut told = known(&folder);
    tell(&mut told, Event::Apply(trust_policy("1", GOOD)));
    tell(&mut told, Event::Delete(trust_policy("1", GOOD)));
    tell(&mut told, Event::Apply(trust_policy("2", BROKEN)));
    check(&told, false, false);

    // Nobody told that the first one went: the watch had ended meanwhile.
    let mut untold = known(&folder);
    tell(&mut untold, Event::Apply(trust_policy("3", GOOD)));
    tell(&mut untold, Event::Apply(trust_policy("4", BROKEN)));
    check(&untold, false, false);

    // Or this program was not there.
    tell(&mut untold, Event::Apply(trust_policy("5", GOOD)));
    let mut restarted = known(&folder);
    tell(&mut restarted, Event::Apply(trust_policy("6", BROKEN)));
    check(&restarted, false, false);
}

#[test]
fn what_a_list_does_not_show_is_gone() {
    let folder = TempDir::new().unwrap();
    let mut known = known(&folder);
    tell(&mut known, Event::Apply(trust_policy("1", GOOD)));
    tell(&mut known, Event::Init);
    tell(&mut known, Event::InitDone);
    assert!(known.subjects().is_empty());
    assert!(known.wanted_secrets().is_empty());
}
