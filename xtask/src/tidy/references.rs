//! Files that the documents name, by a path or by a link, are there: a document that points nowhere misleads.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Of these the end says that a word is a file's name.
const ENDINGS: [&str; 8] = ["rs", "md", "proto", "sql", "toml", "yaml", "cedar", "json"];

/// Every path in backticks that begins with a folder of the repository, and every relative link.
pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    let docs = root.join("docs");
    for entry in fs::read_dir(&docs).with_context(|| format!("cannot list {}", docs.display()))? {
        documents.push(entry.context("cannot list the documents")?.path());
    }
    documents.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    documents.sort();
    let mut missing = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let folder = document.parent().unwrap_or(&root);
        let shown = document.strip_prefix(&root).unwrap_or(document).display();
        for (index, line) in text.lines().enumerate() {
            let paths = paths(line, &root).map(|path| (path, root.join(path)));
            let links = links(line).map(|path| (path, folder.join(path)));
            for (name, path) in paths.chain(links) {
                if !path.exists() {
                    missing.push(format!("{shown}:{}: {name}", index + 1));
                }
            }
        }
    }
    if !missing.is_empty() {
        bail!("documents name files that are not there:\n{}", missing.join("\n"));
    }
    Ok(())
}

/// Words in backticks that can only be paths from the repository's root.
fn paths<'a>(line: &'a str, root: &'a Path) -> impl Iterator<Item = &'a str> {
    line.split('`').skip(1).step_by(2).filter(|word| {
        let is_plain = word
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter));
        let has_ending = word
            .rsplit_once('.')
            .is_some_and(|(_, ending)| ENDINGS.contains(&ending));
        let first = word.split_once('/').map(|(first, _)| first);
        is_plain && has_ending && first.is_some_and(|first| first != "target" && root.join(first).is_dir())
    })
}

/// Targets of Markdown links to files beside the document.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split_once('#').map_or(target, |(file, _)| file))
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_with_a_folder_and_end_as_files_do() {
        let root = workspace::root();
        let line = "see `xtask/src/main.rs`, `names.rs`, `target/x/y.rs`, `docs/none.md`, `xtask/src/{a,b}.rs` and `xtask test`";
        let found: Vec<&str> = paths(line, &root).collect();
        assert_eq!(found, ["xtask/src/main.rs", "docs/none.md"]);
    }

    #[test]
    fn links_lead_to_files() {
        let line = "[a](docs/a.md) [b](b.md#part) [c](#here) [d](https://example.com/d.md)";
        assert_eq!(links(line).collect::<Vec<_>>(), ["docs/a.md", "b.md"]);
    }
}
