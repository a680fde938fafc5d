use super::*;

fn paths(names: &str) -> BTreeSet<FilePath> {
    names.split_whitespace().map(FilePath::from).collect()
}

/// `in /a /b [init|session] => kill`; an empty condition matches always.
fn selector(text: &str) -> Selector {
    let (conditions, outcome) = text.split_once("=>").unwrap();
    let (mut path_conditions, mut starts) = (Vec::new(), Vec::new());
    for condition in conditions.split('&').map(str::trim).filter(|text| !text.is_empty()) {
        match condition.split_once(' ') {
            Some(("in", names)) => path_conditions.push(PathCondition::In(paths(names))),
            Some(("not", names)) => path_conditions.push(PathCondition::NotIn(paths(names))),
            _ if condition == "init" => starts.push(Start::Init),
            _ if condition == "session" => starts.push(Start::ExecSession),
            _ => panic!("{condition}"),
        }
    }
    let outcome = match outcome.trim() {
        "run" => Outcome::Run,
        "post" => Outcome::Post,
        "deny" => Outcome::Deny,
        "kill" => Outcome::Kill,
        other => panic!("{other}"),
    };
    Selector {
        paths: path_conditions,
        starts,
        outcome,
    }
}

fn shown(hooks: &[&[&str]]) -> String {
    let hooks: Vec<Hook> = hooks
        .iter()
        .map(|selectors| Hook {
            selectors: selectors.iter().map(|text| selector(text)).collect(),
        })
        .collect();
    match decide(&hooks, &[]) {
        Err(undecided) => format!("{undecided:?}"),
        Ok(decided) => {
            let entries = decided.entries.iter().map(|entry| match entry.from {
                Origin::Any => entry.path.to_string(),
                from => format!("{} from {from}", entry.path),
            });
            format!("{}: {}", decided.mode, entries.collect::<Vec<_>>().join(", "))
        }
    }
}

#[track_caller]
fn check(selectors: &[&str], expected: &str) {
    assert_eq!(shown(&[selectors]), expected);
}

#[test]
fn a_hook_comes_to_a_list() {
    check(&["not /a /b => kill"], "enforce: /a, /b");
    check(&["not /a /b => deny"], "deny: /a, /b");
    check(&["not /a /b => post"], "monitor: /a, /b");
    check(&["=> kill"], "enforce: ");
    check(&[], "monitor: ");
    // A denylist wins over an allowlist, whichever stands first.
    check(&["in /a => kill", "not /a /b => kill"], "enforce: /b");
    check(&["not /a /b => kill", "in /a => kill"], "enforce: /b");
    // Selectors are tried in order, and the first that matches decides.
    check(&["in /a => run", "=> kill"], "enforce: /a");
    check(&["=> kill", "in /a => run"], "enforce: ");
    check(&["in /a => post", "not /b => kill"], "enforce: /a, /b");
    // Conditions of a selector must all hold.
    check(&["not /a & not /b => kill"], "enforce: /a, /b");
    check(&["in /a /b & not /a => run", "=> kill"], "enforce: /b");
    check(&["in /a & in /b => run", "=> kill"], "enforce: ");
    // Where something is refused, Post is logging.
    check(&["not /a => kill", "=> post"], "enforce: /a");
}

#[test]
fn a_start_may_count() {
    check(
        &["not /a /b => kill", "in /b & init => kill"],
        "enforce: /a, /b from exec-session",
    );
    check(
        &["not /a /b => kill", "in /b & session => kill"],
        "enforce: /a, /b from init",
    );
    check(&["in /a & init & session => run", "=> kill"], "enforce: ");
    check(&["session => kill"], "OpenFromOneSide");
    check(&["not /a & init => deny"], "OpenFromOneSide");
}

#[test]
fn what_is_no_list_of_what_may_start() {
    check(&["in /a => kill"], "DenylistAlone");
    check(&["in /a => post"], "DenylistAlone");
    check(&["in /a => kill", "=> post"], "DenylistAlone");
    check(&["=> run"], "Nothing");
    check(&["in /a => run"], "Nothing");
    check(&["in /a => deny", "not /b => kill"], "TwoModes");
    assert_eq!(shown(&[]), "Nothing");
}

#[test]
fn any_hook_refuses_for_all() {
    assert_eq!(shown(&[&["not /a /b => kill"], &["in /a => kill"]]), "enforce: /b");
    assert_eq!(shown(&[&["not /a /b => kill"], &["not /b /c => kill"]]), "enforce: /b");
    assert_eq!(shown(&[&["not /a => kill"], &[]]), "enforce: /a");
    assert_eq!(shown(&[&["not /a => deny"], &["not /a => kill"]]), "enforce: /a");
}

#[test]
fn hooks_are_compared_by_what_they_do() {
    let hook = |texts: &[&str]| Hook {
        selectors: texts.iter().map(|text| selector(text)).collect(),
    };
    assert!(are_equal(
        &hook(&["not /a => kill"]),
        &hook(&["in /a => run", "=> kill"])
    ));
    assert!(!are_equal(&hook(&["not /a => kill"]), &hook(&["not /b => kill"])));
    assert!(!are_equal(&hook(&["not /a => kill"]), &hook(&["not /a => deny"])));
}
