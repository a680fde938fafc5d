use std::path::Path;

use serde_json::json;

use super::*;

fn known(directory: &Path) -> Known {
    Known::new(LastGood::open(directory).unwrap())
}

fn rollouts() -> Watched {
    let kind = KINDS.into_iter().find(|kind| kind.name == LatticeRollout::KIND);
    Watched::Kind(kind.unwrap())
}

fn rollout(name: &str, created: &str, runtime: &str) -> DynamicObject {
    let object = json!({
        "metadata": {
            "namespace": "payments", "name": name, "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": created,
        },
        "spec": {"environment": "staging", "runtime": runtime},
    });
    serde_json::from_value(object).unwrap()
}

fn take(known: &mut Known, event: Event<DynamicObject>) -> bool {
    known.take(Change { of: rollouts(), event })
}

fn counting(known: &mut Known) -> Vec<String> {
    let set = known.objects();
    set.rollouts.values().map(|rollout| rollout.name.clone()).collect()
}

fn standings(known: &Known) -> Vec<(String, Standing)> {
    let subjects = known.subjects().into_iter();
    subjects.map(|subject| (subject.key.1, subject.standing)).collect()
}

#[test]
fn of_several_rollouts_the_oldest_counts_whatever_it_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = known(directory.path());
    assert!(take(
        &mut known,
        Event::Apply(rollout("b", "2026-11-01T00:00:00Z", "enforce"))
    ));
    assert_eq!(counting(&mut known), ["b"]);
    assert!(take(
        &mut known,
        Event::Apply(rollout("a", "2026-11-02T00:00:00Z", "monitor"))
    ));
    assert_eq!(counting(&mut known), ["b"]);
    let why = "namespace payments has a LatticeRollout already, b, which is older and counts; remove one of them";
    assert_eq!(
        standings(&known),
        [
            ("a".to_owned(), Standing::Surplus(why.to_owned())),
            ("b".to_owned(), Standing::Good),
        ]
    );
    assert!(take(
        &mut known,
        Event::Delete(rollout("b", "2026-11-01T00:00:00Z", "enforce"))
    ));
    assert_eq!(counting(&mut known), ["a"]);
    assert_eq!(standings(&known), [("a".to_owned(), Standing::Good)]);
}

#[test]
fn a_rollout_that_turns_invalid_says_what_it_said_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = self::known(directory.path());
    take(
        &mut known,
        Event::Apply(rollout("a", "2026-11-01T00:00:00Z", "enforce")),
    );
    let invalid = || Event::Apply(rollout("a", "2026-11-01T00:00:00Z", "permissive"));
    let check = |known: &mut Known| {
        assert!(take(known, invalid()));
        assert_eq!(counting(known), ["a"]);
        let (_, standing) = standings(known).remove(0);
        assert!(
            matches!(&standing, Standing::Invalid(problem) if problem.starts_with("spec.runtime \"permissive\": ")),
            "{standing:?}"
        );
    };
    check(&mut known);
    drop(known);
    let mut known = self::known(directory.path());
    check(&mut known);
    // One that was never good is none.
    take(
        &mut known,
        Event::Delete(rollout("a", "2026-11-01T00:00:00Z", "enforce")),
    );
    take(
        &mut known,
        Event::Apply(rollout("c", "2026-11-01T00:00:00Z", "permissive")),
    );
    assert!(counting(&mut known).is_empty());
}

#[test]
fn a_list_that_does_not_show_a_rollout_takes_it_along() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = known(directory.path());
    take(
        &mut known,
        Event::Apply(rollout("a", "2026-11-01T00:00:00Z", "enforce")),
    );
    assert!(!take(&mut known, Event::Init));
    assert_eq!(counting(&mut known), ["a"]);
    assert!(take(&mut known, Event::InitDone));
    assert!(counting(&mut known).is_empty());
}
