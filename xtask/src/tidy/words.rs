//! Words that have no place in a committed file: places of one person's machine.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Larger files are data.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// No committed file names a home folder, or the folder that this checkout happens to be in.
pub(super) fn check_words() -> Result<()> {
    let root = workspace::root();
    let checkout = root.display().to_string();
    let mut found = Vec::new();
    let files = process::capture(Command::new("git").args(["ls-files", "-z"]).current_dir(&root))?;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        // Listed but removed, a link, or large.
        if !path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE_BYTES)
        {
            continue;
        }
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let Ok(text) = String::from_utf8(content) else { continue };
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = forbidden_word(line, &checkout) {
                found.push(format!("{name}:{}: names `{word}`", index + 1));
            }
        }
    }
    if !found.is_empty() {
        bail!("places of one machine in committed files:\n{}", found.join("\n"));
    }
    Ok(())
}

fn forbidden_word(line: &str, checkout: &str) -> Option<String> {
    if line.contains(checkout) {
        return Some(checkout.to_owned());
    }
    let home = ["home", "Users"].iter().find_map(|folder| {
        let start = format!("/{folder}/");
        let (before, after) = line.split_once(&start)?;
        // A path of which this is the beginning, and a name after it.
        let begins = !before.ends_with(|letter: char| letter.is_alphanumeric() || "._-}/".contains(letter));
        let name: String = after
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric())
            .collect();
        (begins && !name.is_empty()).then(|| format!("{start}{name}"))
    });
    home.or_else(|| {
        let tool_folder = ["cargo", "rustup"].map(|tool| format!("/root/.{tool}"));
        tool_folder.into_iter().find(|folder| line.contains(folder.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, is_forbidden: bool) {
        assert_eq!(
            forbidden_word(line, "/srv/checkout/of/mine").is_some(),
            is_forbidden,
            "{line}"
        );
    }

    #[test]
    fn places_of_one_machine_are_found_and_others_are_not() {
        check("see /srv/checkout/of/mine/x.rs", true);
        // Put together here, so that this file does not name them itself.
        check(&format!("key = /{}/anna/key", "home"), true);
        check(&format!("open '/{}/anna'", "Users"), true);
        check(&format!("/root/.{}/bin", "cargo"), true);
        check("/home is a folder of the guest", false);
        check("https://example.com/home/page", false);
        check("HOME=/root", false);
    }
}
