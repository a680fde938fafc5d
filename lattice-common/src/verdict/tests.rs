//! Every combination of facts against rules that are stated apart from the code.

use super::*;

/// Every combination for execs.
fn every_combination(check: impl FnMut(Facts, Decision)) {
    combinations(&[Act::EXEC], check);
}

const MAPPINGS: [Act; 6] = [
    Act::MAP_OFF,
    Act::MAP_NOTE,
    Act::MAP_IMAGE,
    Act::MAP_LISTED,
    Act(9),
    Act(15),
];
const REACHES: [Act; 4] = [Act::BPF, Act::SIGNAL, Act::TRACE, Act::PINS];

fn combinations(acts: &[Act], mut check: impl FnMut(Facts, Decision)) {
    for &act in acts {
        of_act(act, &mut check);
    }
}

fn of_act(act: Act, check: &mut impl FnMut(Facts, Decision)) {
    for &membership in Membership::ALL.iter().chain(&[Membership(0), Membership(99)]) {
        for &identity in Identity::ALL.iter().chain(&[Identity(0), Identity(99)]) {
            for allowed_origins in 0..8 {
                for (other_role, other_name) in [(false, false), (true, false), (true, true)] {
                    for &origin in Origin::ALL.iter().chain(&[Origin(0)]) {
                        for denylisted in [false, true] {
                            for &mode in Mode::ALL.iter().chain(&[Mode(0), Mode(99)]) {
                                for &fail in FailAction::ALL.iter().chain(&[FailAction(99)]) {
                                    let facts = Facts {
                                        act,
                                        membership,
                                        identity,
                                        allowed_origins,
                                        other_role,
                                        other_name,
                                        origin,
                                        denylisted,
                                        mode,
                                        fail,
                                    };
                                    check(facts, verdict(facts));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

const EXEMPT: [Membership; 2] = [Membership::OUTSIDE, Membership::RUNTIME_HELPER];

fn is_listed(facts: Facts) -> bool {
    facts.membership == Membership::MEMBER && [Identity::LISTED_DIGEST, Identity::LISTED_PATH].contains(&facts.identity)
}

#[test]
fn a_silent_run_is_exempt_or_listed_for_role_and_origin_or_missing_by_choice() {
    every_combination(|facts, decision| {
        let exempt = EXEMPT.contains(&facts.membership);
        let listed = is_listed(facts) && facts.allowed_origins & facts.origin.0 != 0 && !facts.denylisted;
        let missing_open =
            facts.membership == Membership::MISSING_POLICY && facts.fail == FailAction::OPEN && !facts.denylisted;
        assert_eq!(
            decision.effect == Effect::RUN,
            exempt || listed || missing_open,
            "{facts:?} {decision:?}"
        );
    });
}

#[test]
fn what_runs_with_an_event_is_monitored_or_fails_open() {
    every_combination(|facts, decision| {
        if decision.effect == Effect::NOTE {
            assert!(
                facts.mode == Mode::MONITOR || facts.fail == FailAction::OPEN,
                "{facts:?} {decision:?}"
            );
            assert!(!facts.denylisted, "{facts:?}");
        }
    });
}

#[test]
fn the_denylist_kills_members_in_every_mode() {
    every_combination(|facts, decision| {
        if facts.denylisted && !EXEMPT.contains(&facts.membership) {
            assert_eq!(
                decision,
                Decision {
                    effect: Effect::KILL,
                    reason: Reason::DENYLISTED
                },
                "{facts:?}"
            );
        }
    });
}

#[test]
fn enforce_kills_and_deny_denies_what_no_entry_allows() {
    every_combination(|facts, decision| {
        let judged = facts.membership == Membership::MEMBER && !facts.denylisted;
        let policy_refuses =
            facts.identity == Identity::UNLISTED || (is_listed(facts) && facts.allowed_origins & facts.origin.0 == 0);
        if judged && policy_refuses {
            let expected = match facts.mode {
                Mode::MONITOR => Effect::NOTE,
                Mode::ENFORCE => Effect::KILL,
                _ => Effect::DENY,
            };
            assert_eq!(decision.effect, expected, "{facts:?}");
        }
    });
}

#[test]
fn a_failure_means_what_was_chosen_unless_monitored() {
    every_combination(|facts, decision| {
        let member_unresolved =
            facts.membership == Membership::MEMBER && !is_listed(facts) && facts.identity != Identity::UNLISTED;
        let failure = member_unresolved
            || ![
                Membership::OUTSIDE,
                Membership::RUNTIME_HELPER,
                Membership::MEMBER,
                Membership::MISSING_POLICY,
            ]
            .contains(&facts.membership);
        if failure && !facts.denylisted {
            let expected = match (facts.fail, facts.mode) {
                (FailAction::OPEN, _) | (_, Mode::MONITOR) => Effect::NOTE,
                (FailAction::KILL, _) => Effect::KILL,
                _ => Effect::DENY,
            };
            assert_eq!(decision.effect, expected, "{facts:?}");
        }
    });
}

#[test]
fn every_reason_occurs_and_tells_runs_from_refusals() {
    let mut seen = [false; 64];
    combinations(&[&[Act::EXEC][..], &MAPPINGS, &REACHES].concat(), |_, decision| {
        seen[decision.reason.0 as usize] = true;
        if decision.effect == Effect::RUN {
            assert!(decision.reason.0 < 16, "{decision:?}");
        }
        if !decision.runs() {
            assert!(decision.reason.0 >= 16, "{decision:?}");
        }
    });
    for reason in Reason::ALL {
        assert!(seen[reason.0 as usize], "{reason:?} never occurs");
    }
}

#[test]
fn nothing_is_lost_in_a_register() {
    combinations(&[&[Act::EXEC][..], &MAPPINGS, &REACHES].concat(), |facts, decision| {
        assert_eq!(verdict(Facts::unpack(facts.pack())), decision, "{facts:?}");
        assert_eq!(Decision::unpack(decision.pack()), decision);
    });
}

#[test]
fn a_listed_file_in_another_role_says_so() {
    let facts = Facts {
        act: Act::EXEC,
        membership: Membership::MEMBER,
        identity: Identity::LISTED_DIGEST,
        allowed_origins: 0,
        other_role: true,
        other_name: false,
        origin: Origin::INIT,
        denylisted: false,
        mode: Mode::ENFORCE,
        fail: FailAction::CLOSED,
    };
    assert_eq!(verdict(facts).reason, Reason::ROLE);
    assert_eq!(
        verdict(Facts {
            other_name: true,
            ..facts
        })
        .reason,
        Reason::APPLET
    );
    assert_eq!(
        verdict(Facts {
            other_role: false,
            ..facts
        })
        .reason,
        Reason::UNLISTED
    );
    assert_eq!(
        verdict(Facts {
            allowed_origins: Origin::EXEC_SESSION.0,
            ..facts
        })
        .reason,
        Reason::ORIGIN
    );
}

fn may_map_listed(facts: Facts) -> bool {
    [Identity::LISTED_DIGEST, Identity::LISTED_PATH].contains(&facts.identity)
        && facts.allowed_origins & facts.origin.0 != 0
}

#[test]
fn a_member_maps_silently_what_is_in_the_image_or_listed_or_anything_when_off() {
    combinations(&MAPPINGS, |facts, decision| {
        if facts.membership != Membership::MEMBER || facts.denylisted {
            return;
        }
        let by_place = [Act::MAP_NOTE, Act::MAP_IMAGE].contains(&facts.act) && facts.identity == Identity::IN_IMAGE;
        let is_silent = facts.act == Act::MAP_OFF || may_map_listed(facts) || by_place;
        assert_eq!(decision.effect == Effect::RUN, is_silent, "{facts:?} {decision:?}");
    });
}

#[test]
fn a_mapping_is_denied_without_a_signal_unless_a_failure_or_the_denylist_says_kill() {
    combinations(&MAPPINGS, |facts, decision| {
        let may_kill = facts.denylisted || facts.identity.0 == Identity::UNRESOLVED.0;
        assert!(decision.effect != Effect::KILL || may_kill, "{facts:?} {decision:?}");
        let is_foreign = facts.membership == Membership::MEMBER
            && !facts.denylisted
            && facts.identity == Identity::UNLISTED
            && ![Act::MAP_OFF, Act::MAP_NOTE].contains(&facts.act);
        if is_foreign {
            let expected = if facts.mode == Mode::MONITOR {
                Effect::NOTE
            } else {
                Effect::DENY
            };
            assert_eq!(
                (decision.effect, decision.reason),
                (expected, Reason::MAPPING),
                "{facts:?}"
            );
        }
    });
}

#[test]
fn note_and_anonymous_memory_never_refuse() {
    combinations(&MAPPINGS, |facts, decision| {
        let only_noted = facts.act == Act::MAP_NOTE || facts.identity == Identity::ANONYMOUS;
        if only_noted && !facts.denylisted {
            assert!(decision.runs(), "{facts:?} {decision:?}");
        }
    });
}

#[test]
fn a_denylisted_mapping_kills_whoever_is_no_helper() {
    combinations(&MAPPINGS, |facts, decision| {
        if facts.denylisted && !EXEMPT.contains(&facts.membership) {
            assert_eq!(
                (decision.effect, decision.reason),
                (Effect::KILL, Reason::DENYLISTED),
                "{facts:?}"
            );
        }
    });
}

#[test]
fn who_has_no_policy_maps_what_it_likes() {
    combinations(&MAPPINGS, |facts, decision| {
        if facts.membership != Membership::MEMBER && !facts.denylisted {
            assert_eq!(
                (decision.effect, decision.reason),
                (Effect::RUN, Reason::MAPPED_FREELY),
                "{facts:?}"
            );
        }
    });
}

#[test]
fn what_reaches_for_lattice_is_refused_in_every_mode() {
    combinations(&REACHES, |facts, decision| {
        let is_granted =
            facts.act == Act::BPF && (facts.allowed_origins != 0 || facts.membership == Membership::MISSING_POLICY);
        let is_free = EXEMPT.contains(&facts.membership) || is_granted;
        let expected = if is_free { Effect::RUN } else { Effect::DENY };
        assert_eq!(decision.effect, expected, "{facts:?}");
    });
}
