//! A parsed document.

/// Where a value stands in its file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line.
    pub line: u64,
    /// Column in characters.
    pub column: u64,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub location: Location,
    /// What it is.
    pub value: Value,
}

/// What a YAML or JSON value can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number that fits.
    Integer(i128),
    /// Any other number, as it was written.
    Float(String),
    /// A string.
    Text(String),
    /// A plain scalar that readers of different YAML versions understand differently (`yes`, `0644`), as it was written.
    Ambiguous(String),
    /// A list.
    Sequence(Vec<Node>),
    /// An object; keys are unique.
    Mapping(Vec<Member>),
}

/// One key of an object with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_location: Location,
    /// The value.
    pub node: Node,
}

impl Node {
    /// Where the value of a field path like `spec.entries[3].path` stands; of its nearest existing ancestor where it does not
    /// exist.
    pub fn locate(&self, field: &str) -> Location {
        let mut node = self;
        for step in field.split(['.', '[']) {
            let next = match (&node.value, step.strip_suffix(']')) {
                (Value::Sequence(items), Some(index)) => index.parse().ok().and_then(|index: usize| items.get(index)),
                (Value::Mapping(members), None) => members
                    .iter()
                    .find(|member| member.key == step)
                    .map(|member| &member.node),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node.location
    }
}

impl Value {
    /// The value's type, in words of the format.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "an empty value",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::Ambiguous(_) => "a value that YAML readers understand differently",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "an object",
        }
    }

    /// A scalar as text for a message; `None` for lists and objects.
    pub fn scalar_text(&self) -> Option<String> {
        match self {
            Self::Null => Some("null".to_owned()),
            Self::Boolean(boolean) => Some(boolean.to_string()),
            Self::Integer(integer) => Some(integer.to_string()),
            Self::Float(text) | Self::Text(text) | Self::Ambiguous(text) => Some(text.clone()),
            Self::Sequence(_) | Self::Mapping(_) => None,
        }
    }
}
