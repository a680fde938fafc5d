//! What a policy must hold to, however it was written or sent: the one place where that is decided.

use std::{collections::HashMap, fmt};

use crate::{Entry, ExecPolicy, FileDigest, FileKind, FilePath, Role, escape::escaped_and_cut};

/// A policy has at most so many entries, and at most so many map rules.
pub const MAX_ENTRIES: usize = 4096;
/// An entry names at most so many applets.
pub const MAX_APPLETS: usize = 1024;
/// An entry gives at most so many reasons.
pub const MAX_REASONS: usize = 64;
/// A reason has at most so many bytes.
pub const MAX_REASON_BYTES: usize = 8192;
/// A workload's or container's name has at most so many bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// An applet's name has at most so many bytes (NAME_MAX).
const MAX_APPLET_BYTES: usize = 255;

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPolicy {
    /// The field by its path in the document, like `spec.entries[3].path`.
    pub field: String,
    /// The value, escaped and cut; empty where none is meant.
    pub value: String,
    /// What is wrong; without a full stop at its end.
    pub message: String,
    /// What to do about it: a sentence.
    pub advice: &'static str,
}

impl InvalidPolicy {
    /// A finding; the value is escaped and cut here.
    pub fn new(field: impl Into<String>, value: &str, message: impl Into<String>, advice: &'static str) -> Self {
        Self {
            field: field.into(),
            value: escaped_and_cut(value, 80),
            message: message.into(),
            advice,
        }
    }
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.field)?;
        if !self.value.is_empty() {
            write!(formatter, ": \"{}\"", self.value)?;
        }
        write!(formatter, ": {}. {}", self.message, self.advice)
    }
}

impl std::error::Error for InvalidPolicy {}

/// What an entry gives a right to: a file's content, in a role, under a name if the names count.
type Right<'a> = (&'a FilePath, Option<FileDigest>, Role, Option<&'a str>);

impl ExecPolicy {
    /// Checks everything that the types alone do not guarantee.
    ///
    /// # Errors
    /// Each field that is wrong, in the order of the document.
    pub fn check(&self) -> Result<(), Vec<InvalidPolicy>> {
        let mut found = Vec::new();
        for (name, value, is_namespace) in [("name", &self.name, false), ("namespace", &self.namespace, true)] {
            if let Err(message) = check_object_name(value, is_namespace) {
                found.push(InvalidPolicy::new(
                    format!("metadata.{name}"),
                    value,
                    message,
                    OBJECT_NAME_ADVICE,
                ));
            }
        }
        let target = [
            ("workload", &self.target.workload),
            ("container", &self.target.container),
        ];
        for (name, value) in target {
            if let Some(value) = value {
                check_name(&format!("spec.target.{name}"), value, &mut found);
            }
        }
        check_count("spec.entries", self.entries.len(), MAX_ENTRIES, &mut found);
        check_count("spec.map", self.map.len(), MAX_ENTRIES, &mut found);
        let mut seen: HashMap<Right<'_>, usize> = HashMap::new();
        for (index, entry) in self.entries.iter().enumerate().take(MAX_ENTRIES) {
            let field = format!("spec.entries[{index}]");
            check_entry(&field, entry, &mut found);
            // Of a program of many applets each name has rights of its own.
            let applets: Vec<Option<&str>> = match entry.applets.as_slice() {
                [] => vec![None],
                applets => applets
                    .iter()
                    .take(MAX_APPLETS)
                    .map(|name| Some(name.as_str()))
                    .collect(),
            };
            let rights = entry
                .roles
                .iter()
                .flat_map(|role| applets.iter().map(move |applet| (*role, *applet)));
            for (role, applet) in rights {
                let earlier = *seen.entry((&entry.path, entry.sha256, role, applet)).or_insert(index);
                if earlier != index {
                    let message = format!("spec.entries[{earlier}] is for the same file and role");
                    let advice = "Make one entry of the two, or give them different roles.";
                    found.push(InvalidPolicy::new(&field, &entry.path.to_string(), message, advice));
                    break;
                }
            }
        }
        for (index, rule) in self.map.iter().enumerate().take(MAX_ENTRIES) {
            let field = format!("spec.map[{index}]");
            if let Some(path) = &rule.path {
                check_path(&format!("{field}.path"), path, &mut found);
            } else if rule.sha256.is_none() {
                let message = "the rule names neither a path nor a digest";
                found.push(InvalidPolicy::new(
                    field,
                    "",
                    message,
                    "Give it a path, a sha256, or both.",
                ));
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

/// What to do about a name that [`check_object_name`] refuses.
pub const OBJECT_NAME_ADVICE: &str = "Use lower-case letters, digits and hyphens, a letter or digit first and last.";

/// Kubernetes' rules: a namespace is a label of RFC 1123 (63 bytes), an object's name such labels with dots between (253).
///
/// # Errors
/// What the name is not.
pub fn check_object_name(name: &str, is_namespace: bool) -> Result<(), String> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let (most_bytes, is_good) = match is_namespace {
        true => (63, is_label(name)),
        false => (253, name.split('.').all(is_label)),
    };
    match is_good && name.len() <= most_bytes {
        true => Ok(()),
        false => Err(format!(
            "this is not a name of at most {most_bytes} bytes that Kubernetes would take"
        )),
    }
}

fn check_entry(field: &str, entry: &Entry, found: &mut Vec<InvalidPolicy>) {
    check_path(&format!("{field}.path"), &entry.path, found);
    if let Some(real_path) = &entry.real_path {
        check_path(&format!("{field}.realPath"), real_path, found);
    }
    if entry.roles.is_empty() {
        let message = "the list is empty, so the entry would allow nothing";
        found.push(InvalidPolicy::new(
            format!("{field}.roles"),
            "",
            message,
            "Name a role, or remove the entry.",
        ));
    }
    for (index, role) in entry.roles.iter().enumerate() {
        if entry.roles[..index].contains(role) {
            let role_field = format!("{field}.roles[{index}]");
            found.push(InvalidPolicy::new(
                role_field,
                role.word(),
                "the role is listed twice",
                "Remove one of them.",
            ));
            break;
        }
    }
    if !entry.applets.is_empty() && entry.kind != Some(FileKind::Multicall) {
        let message = "only an entry of kind multicall has applets";
        let advice = "Write \"kind: multicall\" if the file is one, or remove the applets.";
        found.push(InvalidPolicy::new(format!("{field}.applets"), "", message, advice));
    }
    check_count(&format!("{field}.applets"), entry.applets.len(), MAX_APPLETS, found);
    for (index, applet) in entry.applets.iter().enumerate().take(MAX_APPLETS) {
        if applet.is_empty() || applet.len() > MAX_APPLET_BYTES || applet.contains(['/', '\0']) {
            let message = format!("an applet is a file name of 1 to {MAX_APPLET_BYTES} bytes without \"/\"");
            let advice = "Write the name that the program is called by, such as \"wget\".";
            found.push(InvalidPolicy::new(
                format!("{field}.applets[{index}]"),
                applet,
                message,
                advice,
            ));
        }
    }
    check_count(&format!("{field}.because"), entry.because.len(), MAX_REASONS, found);
    for (index, reason) in entry.because.iter().enumerate().take(MAX_REASONS) {
        if reason.len() > MAX_REASON_BYTES {
            let message = format!("the reason has {} bytes, more than {MAX_REASON_BYTES}", reason.len());
            found.push(InvalidPolicy::new(
                format!("{field}.because[{index}]"),
                reason,
                message,
                "Shorten it.",
            ));
        }
    }
}

fn check_path(field: &str, path: &FilePath, found: &mut Vec<InvalidPolicy>) {
    if let Err(error) = path.check() {
        found.push(InvalidPolicy::new(
            field,
            "",
            format!("\"{}\" {error}", cut(path)),
            error.advice(),
        ));
    }
}

/// A path for a message: it is escaped already.
fn cut(path: &FilePath) -> String {
    let text = path.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn check_name(field: &str, name: &str, found: &mut Vec<InvalidPolicy>) {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(|character: char| character.is_control()) {
        let message = format!("a name here has 1 to {MAX_NAME_BYTES} bytes and no control characters");
        found.push(InvalidPolicy::new(
            field,
            name,
            message,
            "Correct it, or remove the field to match every name.",
        ));
    }
}

fn check_count(field: &str, count: usize, most: usize, found: &mut Vec<InvalidPolicy>) {
    if count > most {
        let message = format!("the list has {count} items, more than the {most} that are held");
        found.push(InvalidPolicy::new(field, "", message, "Make the list shorter."));
    }
}
