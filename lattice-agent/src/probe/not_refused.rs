//! What a tier does not refuse, in the words of `docs/kernel-support.md`: that file itself is read, so that the two cannot differ.

use lattice_api::v1::NotRefused;

const DOCUMENT: &str = include_str!("../../../docs/kernel-support.md");
/// Heading of what both tiers have, unless a tier is named.
const HOLES: &str = "Known holes";

pub(super) fn of_tier(tier: u32) -> Vec<NotRefused> {
    if tier == 0 {
        return Vec::new();
    }
    let mut found = rows(&section(DOCUMENT, &format!("Tier {tier}")));
    found.extend(holes(&section(DOCUMENT, HOLES), tier));
    found
}

/// Lines below the heading of the second level that begins with these words.
fn section<'text>(document: &'text str, heading: &str) -> Vec<&'text str> {
    let mut lines = document.lines();
    let is_heading = |line: &str| {
        let words = line.strip_prefix("## ").and_then(|title| title.strip_prefix(heading));
        words.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    for line in lines.by_ref() {
        if is_heading(line) {
            break;
        }
    }
    lines.take_while(|line| !line.starts_with("## ")).collect()
}

/// Rows whose answer is in bold: what is not refused stands out in the table.
fn rows(lines: &[&str]) -> Vec<NotRefused> {
    lines
        .iter()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let [what, answer, why, ..] = cells[..] else {
                return None;
            };
            answer.starts_with("**").then(|| NotRefused {
                what: plain(&format!("{what}: {answer}")),
                why: plain(why),
            })
        })
        .collect()
}

/// Items that begin in bold, each up to the next one. One that begins with a tier's name is that tier's alone.
fn holes(lines: &[&str], tier: u32) -> Vec<NotRefused> {
    let mut items: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in lines {
        if let Some(begin) = line.strip_prefix("* ") {
            items.push(begin.into());
            is_open = true;
        } else if let Some(more) = line.strip_prefix("  ").filter(|_| is_open)
            && let Some(item) = items.last_mut()
        {
            item.push(' ');
            item.push_str(more.trim());
        } else {
            is_open = false;
        }
    }
    items
        .iter()
        .filter_map(|item| {
            let (what, why) = item.strip_prefix("**")?.split_once("**")?;
            let other = format!("Tier {}", 3 - tier.min(2));
            (!what.starts_with(&other)).then(|| NotRefused {
                what: plain(what.trim_end_matches('.')),
                why: plain(why.trim_start_matches(|next: char| next == ',' || next.is_whitespace())),
            })
        })
        .collect()
}

/// Without Markdown's marks. Links keep their words.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        match link
            .split_once("](")
            .and_then(|(words, target)| Some((words, target.split_once(')')?.1)))
        {
            Some((words, after)) => {
                plain.push_str(words);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain.replace("**", "").replace('`', "").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# Title
## Tier 1

| Way | 6.1 | How |
|---|---|---|
| a file | refused | by content |
| **a `thing`** | **not judged** | see [there](x.md) |

## Tier 2

| **another** | **not answered** | because |

## Known holes and gaps

Words.

* **Both.** Of both
  tiers.
* **Tier 2: scripts** are open.
* **Tier 1 and IMA.** Closed.
* No bold.

## What costs what
* **Not here.**
";

    #[track_caller]
    fn check(tier: u32, expected: &[(&str, &str)]) {
        let mut found = rows(&section(SAMPLE, &format!("Tier {tier}")));
        found.extend(holes(&section(SAMPLE, HOLES), tier));
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|hole| (hole.what.as_str(), hole.why.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tier_has_its_own_rows_and_the_holes_of_both() {
        check(
            1,
            &[
                ("a thing: not judged", "see there"),
                ("Both", "Of both tiers."),
                ("Tier 1 and IMA", "Closed."),
            ],
        );
        check(
            2,
            &[
                ("another: not answered", "because"),
                ("Both", "Of both tiers."),
                ("Tier 2: scripts", "are open."),
            ],
        );
    }

    #[test]
    fn the_document_says_something_of_each_tier() {
        assert!(of_tier(0).is_empty());
        let (one, two) = (of_tier(1), of_tier(2));
        let has = |report: &[NotRefused], words: &str| report.iter().any(|hole| hole.what.contains(words));
        assert!(has(&two, "a script on a volume or tmpfs: not judged"), "{two:?}");
        assert!(!has(&one, "a script on a volume"));
        assert!(
            one.len() >= 3 && two.len() > one.len(),
            "{} and {}",
            one.len(),
            two.len()
        );
        assert!(
            one.iter()
                .chain(&two)
                .all(|hole| !hole.what.is_empty() && !hole.what.contains("**"))
        );
    }
}
