use lattice_policy::{CodeLoading, Entry, FailSemantics, FilePath, Origin, Role, Scope, Target};

use super::*;

fn policy(name: &str, path: &str) -> ExecPolicy {
    ExecPolicy {
        namespace: "payments".to_owned(),
        name: name.to_owned(),
        target: Target {
            workload: Some(name.to_owned()),
            ..Target::default()
        },
        mode: Mode::Monitor,
        fail: FailSemantics::default(),
        code_loading: CodeLoading::Image,
        scope: Scope::Declared,
        generation: 0,
        entries: vec![Entry {
            path: FilePath::from(path),
            sha256: Some(lattice_policy::FileDigest([7; 32])),
            real_path: None,
            size_bytes: None,
            kind: None,
            roles: vec![Role::Target],
            from: Origin::Any,
            applets: Vec::new(),
            because: Vec::new(),
        }],
        map: Vec::new(),
    }
}

fn key(name: &str) -> Key {
    ("payments".to_owned(), name.to_owned())
}

fn board(directory: &tempfile::TempDir) -> Board {
    let (store, remembered) = Store::open(directory.path()).unwrap();
    Board::new(store, remembered)
}

/// Name, generation and first path of each policy that is given out.
fn given_out(board: &Board) -> Vec<String> {
    let set = board.policies().borrow().clone();
    let path = |policy: &wire::ExecPolicy| String::from_utf8(policy.entries[0].path.clone()).unwrap();
    set.policies
        .iter()
        .map(|policy| format!("{} {} {}", policy.name, policy.generation, path(policy)))
        .collect()
}

#[tokio::test]
async fn a_generation_rises_only_when_content_changes() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory);
    let service = key("server");
    board.set_derived(&service, vec![policy("server", "/a")]).await.unwrap();
    let revision = board.policies().borrow().revision;
    board.set_derived(&service, vec![policy("server", "/a")]).await.unwrap();
    assert_eq!(
        board.policies().borrow().revision,
        revision,
        "nothing changed, nothing is given out"
    );
    assert_eq!(given_out(&board), ["server 1 /a"]);
    board
        .set_derived(&service, vec![policy("server", "/b"), policy("server.proxy", "/c")])
        .await
        .unwrap();
    assert_eq!(given_out(&board), ["server 2 /b", "server.proxy 1 /c"]);
    board.set_derived(&service, vec![policy("server", "/b")]).await.unwrap();
    assert_eq!(given_out(&board), ["server 2 /b"]);
}

#[tokio::test]
async fn what_held_before_a_restart_holds_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = board(&directory);
    first
        .set_derived(&key("server"), vec![policy("server", "/a")])
        .await
        .unwrap();
    first
        .set_mode("payments".to_owned(), Some(Mode::Enforce))
        .await
        .unwrap();
    let before = first.policies().borrow().clone();
    drop(first);
    let second = board(&directory);
    assert_eq!(second.policies().borrow().clone(), before);
    // A service that is gone loses its policy; when it comes back, its generation goes on.
    second.retain_services(&BTreeSet::new()).await.unwrap();
    assert_eq!(given_out(&second), Vec::<String>::new());
    drop(second);
    let third = board(&directory);
    assert_eq!(given_out(&third), Vec::<String>::new());
    third
        .set_derived(&key("server"), vec![policy("server", "/a")])
        .await
        .unwrap();
    assert_eq!(given_out(&third), ["server 2 /a"]);
    assert!(third.policies().borrow().revision > before.revision);
    third.set_mode("payments".to_owned(), None).await.unwrap();
    assert_eq!(third.policies().borrow().namespace_modes, []);
}

#[tokio::test]
async fn a_name_that_is_taken_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory);
    board
        .set_documents([(key("manual"), policy("manual", "/m"))].into())
        .await
        .unwrap();
    let taken = board
        .set_derived(&key("manual"), vec![policy("manual", "/x")])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        taken.contains("payments/manual is taken by an ExecPolicy document"),
        "{taken}"
    );
    board.set_derived(&key("a.b"), vec![policy("a.b", "/a")]).await.unwrap();
    let taken = board
        .set_derived(&key("a"), vec![policy("a.b", "/x"), policy("a.c", "/x")])
        .await
        .unwrap_err()
        .to_string();
    assert!(taken.contains("taken by the service a.b"), "{taken}");
    assert_eq!(given_out(&board), ["manual 0 /m", "a.b 1 /a"]);
    // A document that takes the name of a derived policy wins.
    board
        .set_documents([(key("a.b"), policy("a.b", "/hand"))].into())
        .await
        .unwrap();
    assert_eq!(given_out(&board), ["a.b 0 /hand"]);
    board.set_documents(BTreeMap::new()).await.unwrap();
    assert_eq!(given_out(&board), ["a.b 1 /a"]);
}
