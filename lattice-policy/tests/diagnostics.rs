//! What people read when a document is wrong. Each `diagnostics/NAME.yaml` has its texts in `NAME.txt`;
//! `UPDATE_GOLDEN=1 cargo test` writes them anew.

use std::{fs, path::Path};

use lattice_policy::{
    Diagnostic,
    document::{MAX_DEPTH, MAX_FILE_BYTES},
    read_documents,
};

fn texts(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

#[test]
fn texts_are_the_golden_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut checked = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let diagnostics = read_documents(name, &fs::read(&path).unwrap()).expect_err(name);
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, texts(&diagnostics)).unwrap();
        }
        assert_eq!(
            texts(&diagnostics),
            fs::read_to_string(&golden).unwrap_or_default(),
            "{name}"
        );
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} files in {}", folder.display());
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    let diagnostics = read_documents("hostile.yaml", bytes).expect_err(expected);
    assert_eq!(diagnostics[0].to_string(), expected);
}

#[test]
fn hostile_files_are_refused_before_they_grow() {
    check(
        &vec![b' '; MAX_FILE_BYTES + 1],
        "hostile.yaml: the file has 4194305 bytes, more than the 4194304 that are read. Split it into several files.",
    );
    check(
        b"a: b\nc: \xff",
        "hostile.yaml:2:4: the file is not UTF-8 here. Save it as UTF-8; write other bytes as \\xNN.",
    );
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    check(
        laughs.as_bytes(),
        "hostile.yaml:6:25: a5[3]: the aliases repeat more than is read. Write the values out, or split the file.",
    );
    let long = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1024 * 1024), "*a, ".repeat(100));
    check(
        long.as_bytes(),
        "hostile.yaml:2:17: b[3]: the aliases repeat more than is read. Write the values out, or split the file.",
    );
    check(
        "[1,".repeat(600_000).as_bytes(),
        "hostile.yaml:1:193: lists and objects lie more than 64 deep in one another. No object of this format needs that; remove levels.",
    );
    check(
        format!("[{}]", "1,".repeat(600_000)).as_bytes(),
        "hostile.yaml:1:1000002: [500000]: the file has more than 500000 values. Split it into several files.",
    );
    check(
        b"a: &a [*a]",
        "hostile.yaml:1:8: a[0]: an alias lies inside what it repeats. Write the value out.",
    );
}

#[test]
fn aliases_count_towards_the_depth() {
    let half = MAX_DEPTH / 2 + 1;
    let text = format!(
        "a: &a {}{}\nb: {}*a{}\n",
        "[".repeat(half),
        "]".repeat(half),
        "[".repeat(half),
        "]".repeat(half)
    );
    let diagnostics = read_documents("deep.yaml", text.as_bytes()).unwrap_err();
    assert!(
        diagnostics[0].message.contains("more than 64 deep"),
        "{}",
        diagnostics[0]
    );
}

#[test]
fn a_file_full_of_faults_is_not_read_to_its_end_for_more() {
    let text = "apiVersion: lattice.dev/v1alpha1\nkind: Nothing\n---\n".repeat(500);
    assert_eq!(read_documents("many.yaml", text.as_bytes()).unwrap_err().len(), 100);
}
