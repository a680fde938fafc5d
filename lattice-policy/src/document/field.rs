//! Reading an object field by field: whatever is wrong becomes a finding that names the field.

use std::{cell::RefCell, str::FromStr};

use super::{Findings, Location, Member, Node, Value};
use crate::escape::escaped_and_cut;

/// So many unknown fields of one object are reported; the search for the nearest name is not free.
const MAX_UNKNOWN_FIELDS: usize = 20;

/// An object that is being read. Every name asked for is known; [`Object::finish`] reports the others.
///
/// Like [`Field`] it has no `Debug`: it may hold a secret.
pub struct Object<'n> {
    findings: &'n Findings,
    path: String,
    location: Location,
    members: &'n [Member],
    shows_values: bool,
    known: RefCell<Vec<&'static str>>,
}

impl<'n> Object<'n> {
    /// The object that a whole document is.
    pub fn root(findings: &'n Findings, node: &'n Node) -> Option<Self> {
        Field {
            findings,
            path: String::new(),
            location: node.location,
            node: Some(node),
            shows_values: true,
        }
        .object()
    }

    /// A field, which may be absent.
    pub fn field(&self, name: &'static str) -> Field<'n> {
        self.known.borrow_mut().push(name);
        let path = join(&self.path, name);
        let node = self
            .members
            .iter()
            .find(|member| member.key == name)
            .map(|member| &member.node);
        Field {
            findings: self.findings,
            path,
            location: node.map_or(self.location, |node| node.location),
            node,
            shows_values: self.shows_values,
        }
    }

    /// A field that must be there; its absence is a finding.
    pub fn required(&self, name: &'static str) -> Field<'n> {
        let field = self.field(name);
        if field.node.is_none() {
            field.report(None, "the field is missing", "Add it.");
        }
        field
    }

    /// Reports every field that nobody asked for, with the nearest known name.
    pub fn finish(self) {
        let known = self.known.borrow();
        let unknown = self
            .members
            .iter()
            .filter(|member| !known.contains(&member.key.as_str()));
        for member in unknown.take(MAX_UNKNOWN_FIELDS) {
            let path = join(&self.path, &member.key);
            let advice = match nearest(&member.key, &known) {
                Some(name) => format!("Did you mean \"{name}\"? Otherwise remove it."),
                None => format!("Remove it; known here: {}.", known.join(", ")),
            };
            self.findings.add(
                member.key_location,
                &path,
                None,
                "there is no such field".to_owned(),
                &advice,
            );
        }
    }

    /// All members by name, for objects whose keys are the user's own, such as labels.
    pub fn members(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> + '_ {
        self.members.iter().map(|member| {
            let path = join(&self.path, &member.key);
            let location = member.node.location;
            (
                member.key.as_str(),
                Field {
                    findings: self.findings,
                    path,
                    location,
                    node: Some(&member.node),
                    shows_values: self.shows_values,
                },
            )
        })
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// One value with its path, present or not.
pub struct Field<'n> {
    findings: &'n Findings,
    path: String,
    location: Location,
    node: Option<&'n Node>,
    shows_values: bool,
}

impl<'n> Field<'n> {
    /// Whether the field is there.
    pub fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// Its path, like `spec.entries[3].path`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it stands; where its object stands, if it is absent.
    pub fn location(&self) -> Location {
        self.location
    }

    /// The value as it was parsed.
    pub fn node(&self) -> Option<&'n Node> {
        self.node
    }

    /// The same field, of which no finding shows a value: for secrets.
    pub fn hide_values(mut self) -> Self {
        self.shows_values = false;
        self
    }

    /// Adds a finding about this field.
    pub fn report(&self, value: Option<&str>, message: impl Into<String>, advice: &str) {
        let value = value.filter(|_| self.shows_values);
        self.findings
            .add(self.location, &self.path, value, message.into(), advice);
    }

    /// An object; `None` where the field is absent, or is something else, which is a finding.
    pub fn object(&self) -> Option<Object<'n>> {
        let node = self.node?;
        let Value::Mapping(members) = &node.value else {
            self.wrong_type("an object");
            return None;
        };
        let (path, location) = (self.path.clone(), node.location);
        Some(Object {
            findings: self.findings,
            path,
            location,
            members,
            shows_values: self.shows_values,
            known: RefCell::default(),
        })
    }

    /// The items of a list; none where the field is absent, or is something else, which is a finding.
    pub fn items(&self) -> Vec<Field<'n>> {
        let Some(node) = self.node else { return Vec::new() };
        let Value::Sequence(items) = &node.value else {
            self.wrong_type("a list");
            return Vec::new();
        };
        let item = |(index, node): (usize, &'n Node)| {
            let path = format!("{}[{index}]", self.path);
            Field {
                findings: self.findings,
                path,
                location: node.location,
                node: Some(node),
                shows_values: self.shows_values,
            }
        };
        items.iter().enumerate().map(item).collect()
    }

    /// A string.
    pub fn text(&self) -> Option<&'n str> {
        match &self.node?.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong_type("a string");
                None
            }
        }
    }

    /// A string that is not empty.
    pub fn non_empty_text(&self) -> Option<&'n str> {
        let text = self.text()?;
        if text.is_empty() {
            self.report(
                Some(text),
                "the string is empty",
                "Give it a value, or remove the field.",
            );
            return None;
        }
        Some(text)
    }

    /// A list of strings.
    pub fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Field::text).map(str::to_owned).collect()
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node?.value {
            Value::Boolean(boolean) => Some(*boolean),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }

    /// A whole number within the type's range.
    pub fn integer<T: TryFrom<i128>>(&self) -> Option<T> {
        let node = self.node?;
        let Value::Integer(integer) = node.value else {
            self.wrong_type("a whole number");
            return None;
        };
        let converted = T::try_from(integer).ok();
        if converted.is_none() {
            self.report(
                Some(&integer.to_string()),
                "the number is out of range",
                "Give a number that is in range.",
            );
        }
        converted
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            let advice = match nearest(text, &words) {
                Some(word) => format!("Did you mean \"{word}\"? Possible: {}.", words.join(", ")),
                None => format!("Write one of: {}.", words.join(", ")),
            };
            self.report(Some(text), "this value is not known here", &advice);
        }
        chosen
    }

    /// A string in a form of its own; its error's text becomes the message.
    pub fn parse<T: FromStr>(&self, advice: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                // The message may quote the text, which is hostile: not for fields whose values are hidden.
                self.report(Some(text), escaped_and_cut(&error.to_string(), 300), advice);
                None
            }
        }
    }

    fn wrong_type(&self, expected: &str) {
        let Some(node) = self.node else { return };
        let message = format!("{expected} belongs here, not {}", node.value.type_name());
        let advice = match &node.value {
            Value::Null => "Give it a value, or remove the field.",
            Value::Ambiguous(_) => {
                "Put it in quotes if it is a string; write true or false, or a number without a leading 0."
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) if expected == "a string" => "Put it in quotes.",
            _ if expected == "an object" => "Write its fields below it, indented, or between { and }.",
            _ if expected == "a list" => "Write its items below it, each after \"- \", or between [ and ].",
            Value::Text(_) => "Write it without quotes.",
            _ => "Write a single value.",
        };
        self.report(node.value.scalar_text().as_deref(), message, advice);
    }
}

/// The known word that is at most two edits away.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let closest = known
        .iter()
        .map(|candidate| (edit_distance(word, candidate), *candidate))
        .min()?;
    (closest.0 <= 2 && closest.0 < word.chars().count()).then_some(closest.1)
}

/// Levenshtein distance, letter case counted as half nothing: `imagedigest` is 0 from `imageDigest`.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, left_character) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right_character) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left_character != *right_character);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
