//! Merging layers, against a union file system written out as naively as the specification reads.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use lattice_derive::{
    DiffId, ImageTree, InvalidPath, LayerBuilder,
    tree::{Found, LookupError},
};
use lattice_policy::FilePath;
use proptest::prelude::*;
use support::{layer, static_elf};

fn tree(layers: &[&str]) -> ImageTree {
    ImageTree::merge(
        layers
            .iter()
            .zip(1..)
            .map(|(lines, number)| layer(number, lines))
            .collect(),
    )
}

/// Where a path leads, and the layer that has the file; or the error.
#[track_caller]
fn check(layers: &[&str], path: &str, expected: Result<(&str, u8), &str>) {
    let tree = tree(layers);
    let found = match tree.look_up(&FilePath::from(path)) {
        Ok(Found::File { file, real_path, .. }) => Ok((real_path.to_string(), tree.layer_of(file).0[0])),
        Ok(Found::Directory(path)) => Err(format!("directory {path}")),
        Err(LookupError::NotFound { .. }) => Err("not found".into()),
        Err(LookupError::NotExecutable { .. }) => Err("not executable".into()),
        Err(LookupError::SymlinkLoop { .. }) => Err("loop".into()),
    };
    assert_eq!(
        found,
        expected
            .map(|(path, layer)| (path.to_owned(), layer))
            .map_err(str::to_owned),
        "{path} of {layers:?}"
    );
}

#[test]
fn upper_layers_win() {
    check(&["static a", "static a"], "/a", Ok(("/a", 2)));
    check(&["static a", "data a"], "/a", Err("not executable"));
    check(&["static a", "dir a"], "/a", Err("directory /a"));
    check(&["static a/b", "static a"], "/a/b", Err("not found"));
    check(&["static a/b", "data a"], "/a/b", Err("not found"));
    check(&["static a", "static a/b"], "/a/b", Ok(("/a/b", 2)));
    check(&["static a", "data a/b"], "/a", Err("directory /a"));
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    check(&["static a", "data .wh.a"], "/a", Err("not found"));
    check(&["static a/b", "data .wh.a"], "/a/b", Err("not found"));
    check(&["static a", "static a\ndata .wh.a"], "/a", Ok(("/a", 2)));
    check(&["static a", "data .wh.a\nstatic a"], "/a", Ok(("/a", 2)));
    check(&["static a", "data .wh.a", "static a"], "/a", Ok(("/a", 3)));
    check(
        &["static d/a", "static d/b\ndata d/.wh..wh..opq"],
        "/d/a",
        Err("not found"),
    );
    check(
        &["static d/a", "static d/b\ndata d/.wh..wh..opq"],
        "/d/b",
        Ok(("/d/b", 2)),
    );
    check(&["static a", "data .wh..wh.plnk/x"], "/a", Ok(("/a", 1)));
}

#[test]
fn hard_links() {
    check(&["static a\nhard b a"], "/b", Ok(("/b", 1)));
    check(&["static a", "hard b a"], "/b", Ok(("/b", 1)));
    check(&["static a", "hard b a\ndata .wh.a"], "/b", Ok(("/b", 1)));
    check(&["static a", "hard b a\ndata .wh.a"], "/a", Err("not found"));
    check(&["static b", "data a\nhard b a"], "/b", Err("not executable"));
    check(&["static a\nhard b a\nstatic a"], "/b", Ok(("/b", 1)));
    check(&["static b", "hard b nothing"], "/b", Err("not found"));
    check(
        &["static usr/bin/a\nlink bin usr/bin", "hard b bin/a"],
        "/b",
        Ok(("/b", 1)),
    );
    let tree = tree(&["static a\nhard c a", "hard b a"]);
    let Ok(Found::File { file, .. }) = tree.look_up(&FilePath::from("/b")) else {
        panic!()
    };
    let names: Vec<String> = tree.names(file).iter().map(FilePath::to_string).collect();
    assert_eq!(names, ["/a", "/b", "/c"]);
}

#[test]
fn symbolic_links_through_layers() {
    check(
        &["static usr/bin/a", "link bin usr/bin"],
        "/bin/a",
        Ok(("/usr/bin/a", 1)),
    );
    check(
        &["static usr/bin/a\nlink bin /usr/bin"],
        "/bin/a",
        Ok(("/usr/bin/a", 1)),
    );
    check(&["static x/a\nlink y/l ../x"], "/y/l/a", Ok(("/x/a", 1)));
    check(&["static a\nlink l ../../../a"], "/l", Ok(("/a", 1)));
    check(&["link a b\nlink b a"], "/a", Err("loop"));
    check(&["link a b"], "/a", Err("not found"));
    check(&["static a"], "/a/b", Err("not found"));
    let chain: String = (0..40)
        .map(|number| format!("link l{number} l{}\n", number + 1))
        .collect();
    check(&[&format!("{chain}static l40")], "/l0", Ok(("/l40", 1)));
    check(&[&format!("{chain}link l40 l41\nstatic l41")], "/l0", Err("loop"));
}

#[test]
fn a_layer_writes_through_its_own_links() {
    check(&["link bin usr/bin\nstatic bin/a"], "/usr/bin/a", Ok(("/usr/bin/a", 1)));
    check(
        &["static usr/bin/a", "link bin usr/bin\ndata bin/.wh.a"],
        "/usr/bin/a",
        Err("not found"),
    );
    let mut looping = LayerBuilder::new();
    looping.symlink(b"a", b"a").unwrap();
    assert!(matches!(looping.other(b"a/b"), Err(InvalidPath::SymlinkLoop(_))));
}

#[test]
fn usrmerge_where_runtimes_differ() {
    let merged = ["link bin usr/bin\nstatic usr/bin/sh", "static bin/foo"];
    check(&merged, "/bin/foo", Ok(("/bin/foo", 2)));
    check(&merged, "/bin/sh", Ok(("/usr/bin/sh", 1)));
    check(&merged, "/usr/bin/foo", Err("not found"));
    let tree = tree(&merged);
    assert_eq!(tree.hidden_links().len(), 1);
    assert_eq!(tree.hidden_links()[0].path.to_string(), "/bin");
    // An entry for the directory itself replaces the link in every runtime.
    check(&[merged[0], "dir bin\nstatic bin/foo"], "/bin/sh", Err("not found"));
}

#[test]
fn names_that_no_layer_may_have() {
    #[track_caller]
    fn check(name: &[u8], expected: &str) {
        let error = LayerBuilder::new().other(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    check(b"a/../../etc/passwd", "\"..\"");
    check(b"a/.wh.b/c", "reserved prefix");
    check(b".wh.", "reserved prefix");
    check(b".wh...", "reserved prefix");
    check(b"a\0", "NUL");
    let deep = "d/".repeat(3000);
    check(deep.as_bytes(), "longer than 4096");
}

#[test]
fn the_deepest_path_is_merged() {
    let deep = "d/".repeat(2047) + "a";
    let mut layer = LayerBuilder::new();
    layer.file(deep.as_bytes(), static_elf("a")).unwrap();
    let tree = ImageTree::merge(vec![Arc::new(layer.finish(DiffId([1; 32])))]);
    assert_eq!(tree.files().len(), 1);
    assert!(tree.look_up(&FilePath::from(format!("/{deep}").as_str())).is_ok());
}

/// One entry of a generated layer.
#[derive(Debug, Clone)]
enum Line {
    File(String, bool),
    Directory(String),
    Whiteout(String),
    Opaque(String),
    HardLink(String, String),
}

/// What the naive union has at a path.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Thing {
    Executable(u32),
    Plain,
    Directory,
}

/// Every path of a file system, directories included.
#[derive(Debug, Clone, Default)]
struct Union(BTreeMap<String, Thing>);

/// Whether a layer puts a file where it had a directory itself. No tool writes such layers; the builder then keeps hiding
/// what was in the directory, which may lose a lower file and never shows one.
fn replaces_own_directory(layer: &[Line]) -> bool {
    let mut own = Union::default();
    let mut found = false;
    for line in layer {
        if let Line::File(path, _) | Line::HardLink(path, _) = line {
            found |= own.0.get(path) == Some(&Thing::Directory);
            own.put(path, Thing::Plain);
        } else if let Line::Directory(path) | Line::Opaque(path) = line {
            own.make_directory(path);
        } else if let Line::Whiteout(path) = line
            && let Some((parent, _)) = path.rsplit_once('/')
        {
            own.make_directory(parent);
        }
    }
    found
}

impl Union {
    fn remove(&mut self, path: &str) {
        self.0.remove(path);
        let below = format!("{path}/");
        self.0.retain(|name, _| !name.starts_with(&below));
    }

    /// A directory replaces a file; it leaves a directory and what is in it.
    fn make_directory(&mut self, path: &str) {
        for end in path.match_indices('/').map(|(end, _)| end).chain([path.len()]) {
            self.0.insert(path[..end].to_owned(), Thing::Directory);
        }
    }

    fn put(&mut self, path: &str, thing: Thing) {
        self.remove(path);
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_directory(parent);
        }
        self.0.insert(path.to_owned(), thing);
    }

    /// The layer is unpacked by itself; then its markers hide, then it lies over what is below.
    fn apply(&mut self, layer: &[Line], number: &mut u32) {
        let mut own = Union::default();
        for line in layer {
            match line {
                Line::File(path, executable) => {
                    own.put(
                        path,
                        if *executable {
                            Thing::Executable(*number)
                        } else {
                            Thing::Plain
                        },
                    );
                    *number += 1;
                }
                Line::Directory(path) | Line::Opaque(path) => own.make_directory(path),
                Line::HardLink(path, target) => {
                    let file = |union: &Union| union.0.get(target).copied().filter(|thing| *thing != Thing::Directory);
                    own.put(path, file(&own).or_else(|| file(self)).unwrap_or(Thing::Plain));
                }
                Line::Whiteout(path) => {
                    if let Some((parent, _)) = path.rsplit_once('/') {
                        own.make_directory(parent);
                    }
                }
            }
        }
        for line in layer {
            if let Line::Whiteout(path) | Line::Opaque(path) = line {
                self.remove(path);
            }
        }
        for (path, thing) in own.0 {
            match thing {
                Thing::Directory => self.make_directory(&path),
                _ => self.put(&path, thing),
            }
        }
    }
}

fn line() -> impl Strategy<Value = Line> {
    let path = || proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        4 => (path(), any::<bool>()).prop_map(|(path, executable)| Line::File(path, executable)),
        1 => path().prop_map(Line::Directory),
        1 => path().prop_map(Line::Whiteout),
        1 => path().prop_map(Line::Opaque),
        1 => (path(), path()).prop_map(|(path, target)| Line::HardLink(path, target)),
    ]
}

fn marked(path: &str, marker: &str) -> String {
    match path.rsplit_once('/') {
        Some((parent, base)) => format!("{parent}/{marker}{base}"),
        None => format!("{marker}{path}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn merging_equals_the_naive_union(
        layers in proptest::collection::vec(proptest::collection::vec(line(), 0..8), 1..5)
    ) {
        let mut union = Union::default();
        let (mut expected_number, mut number) = (0, 0_u32);
        let mut summaries = Vec::new();
        for (index, lines) in layers.iter().enumerate() {
            union.apply(lines, &mut expected_number);
            let mut builder = LayerBuilder::new();
            for line in lines {
                match line {
                    Line::File(path, executable) => {
                        if *executable {
                            builder.file(path.as_bytes(), static_elf(&number.to_string())).unwrap();
                        } else {
                            builder.other(path.as_bytes()).unwrap();
                        }
                        number += 1;
                    }
                    Line::Directory(path) => builder.directory(path.as_bytes()).unwrap(),
                    Line::Whiteout(path) => builder.other(marked(path, ".wh.").as_bytes()).unwrap(),
                    Line::Opaque(path) => builder.other(format!("{path}/.wh..wh..opq").as_bytes()).unwrap(),
                    Line::HardLink(path, target) => builder.hard_link(path.as_bytes(), target.as_bytes()).unwrap(),
                }
            }
            summaries.push(Arc::new(builder.finish(DiffId([u8::try_from(index).unwrap(); 32]))));
        }
        let tree = ImageTree::merge(summaries);
        let mut found = BTreeMap::new();
        for (_, file) in tree.files() {
            for name in tree.names(file) {
                found.insert(name.to_string(), tree.facts(file).sha256);
            }
        }
        let executable = |(path, thing): (String, Thing)| match thing {
            Thing::Executable(number) => Some((format!("/{path}"), support::digest(&number.to_string()))),
            _ => None,
        };
        let expected: BTreeMap<String, _> = union.0.into_iter().filter_map(executable).collect();
        if layers.iter().any(|layer| replaces_own_directory(layer)) {
            prop_assert!(found.iter().all(|(path, digest)| expected.get(path) == Some(digest)), "{found:?} {expected:?}");
        } else {
            prop_assert_eq!(found, expected);
        }
    }
}
