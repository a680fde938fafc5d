use proptest::prelude::*;

use super::*;

/// The commands of a text, one a line, as a person would write them.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let script = scan(text.as_bytes()).unwrap();
    let shown = |command: &SimpleCommand| command.words.iter().map(Word::shown).collect::<Vec<_>>().join(" ");
    let found: Vec<String> = script
        .commands
        .iter()
        .filter(|command| !command.words.is_empty())
        .map(shown)
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn simple_commands() {
    check("curl -fs localhost:8080/healthz", &["curl -fs localhost:8080/healthz"]);
    check("a; b && c || d | e & f\ng", &["a", "b", "c", "d", "e", "f", "g"]);
    check("A=1 B=\"$x\" exec curl 'a b'", &["exec curl a b"]);
    check("a \\\n b # comment; c\nd", &["a b", "d"]);
    check("cu\"rl\" a", &["curl a"]);
    check(
        "/bin/[ a ]; [ -x b ]; [[ -x c && d ]]; e",
        &["/bin/[ a ]", "[ -x b ]", "e"],
    );
}

#[test]
fn substitutions_are_scanned() {
    check(
        "echo $(date -u) `hostname`",
        &["date -u", "hostname", "echo $(date -u) `hostname`"],
    );
    check("x=$(a \"$(b ')' )\")", &["b )", "a $(b ')' )"]);
    check(
        "echo ${X:-$(id -u)} $((1 + (2)))",
        &["id -u", "echo ${X:-$(id -u)} $((1 + (2)))"],
    );
    check(
        "diff <(sort a) <(sort b)",
        &["sort a", "sort b", "diff <(sort a) <(sort b)"],
    );
}

#[test]
fn compound_commands() {
    check(
        "if test -f a; then b; elif c; then d; else e; fi",
        &["test -f a", "b", "c", "d", "e"],
    );
    check("for x in a b; do c \"$x\"; done", &["c $x"]);
    check("while read l; do a; done < f", &["read l", "a"]);
    check("case \"$1\" in a|b) c ;; (d) e;; *) f; esac; g", &["c", "e", "f", "g"]);
    check("case a in b) case c in d) e;; esac ;; f) g;; esac", &["e", "g"]);
    check("f() { a; }\nfunction g { b; }\nf", &["a", "b", "f"]);
    check("( a; b ) && { c; }", &["a", "b", "c"]);
    check("! a", &["a"]);
    check("((i++)); for ((i=0;i<3;i++)); do a; done", &["a"]);
    check("x=(curl wget); y", &["y"]);
}

#[test]
fn redirections_are_no_arguments() {
    check("a >f 2>&1 <g b", &["a b"]);
    check("2>/dev/null a", &["a"]);
    check("echo 2 >f; echo 2>f", &["echo 2", "echo"]);
    check("a &>f; b", &["a", "b"]);
    check("cat <<E\nnot a command $(but this)\nE\nb", &["but this", "cat", "b"]);
    check("cat <<-'E' | c\n\tnot $(this)\n\tE\nb", &["cat", "c", "b"]);
}

#[test]
fn what_only_a_run_can_tell_is_not_literal() {
    let command = |text: &str| scan(text.as_bytes()).unwrap().commands.remove(0).words.remove(0);
    for text in ["$X", "\"$@\"", "a$1", "*.sh", "~/x", "${X%y}", "$'\\x63url'", "{a,b}"] {
        assert_eq!(command(text).literal(), None, "{text}");
    }
    assert_eq!(command("$'curl'").literal().unwrap(), b"curl");
    assert_eq!(command("\"$@\"").parts, [Part::Variable("@".into())]);
}

#[test]
fn alternatives_stand_beside_or() {
    let script = scan(b"curl a ||\n wget b && c").unwrap();
    let found: Vec<bool> = script.commands.iter().map(|command| command.alternative).collect();
    assert_eq!(found, [true, true, false]);
}

#[test]
fn unreadable_text_is_an_error() {
    for text in [
        "echo 'a",
        "echo \"a",
        "echo $(a",
        "echo `a",
        "echo ${a",
        "cat <<E\na",
        "a \"$(b",
    ] {
        assert!(scan(text.as_bytes()).is_err(), "{text}");
    }
    let deep = "$(".repeat(40) + &")".repeat(40);
    assert_eq!(scan(deep.as_bytes()), Err(ShellError::TooDeep));
}

proptest! {
    #[test]
    fn never_panics(text: Vec<u8>) {
        let _ = scan(&text);
    }

    #[test]
    fn never_panics_on_likely_text(text in "[a-c \\\\\n\"'`$(){};&|<>#=@*]{0,60}") {
        let _ = scan(text.as_bytes());
    }

    #[test]
    fn any_literal_survives_single_quotes(word in "[^']{1,40}") {
        let script = scan(format!("x '{word}'").as_bytes()).unwrap();
        prop_assert_eq!(script.commands[0].words[1].literal(), Some(word.into_bytes()));
    }
}
