//! `$(NAME)` in commands and environment, as the kubelet expands it (k8s.io/kubernetes/third_party/forked/golang/expansion).

use std::collections::BTreeMap;

use crate::service::{EnvValue, EnvVar};

/// A word of a command after expansion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Argument {
    /// Its bytes are known.
    Known(Vec<u8>),
    /// It depends on what is not known now; the text is as written.
    Unknown(String),
}

impl Argument {
    /// The bytes, where they are known.
    pub(crate) fn known(&self) -> Option<&[u8]> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Unknown(_) => None,
        }
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Known(text.as_bytes().to_vec())
    }
}

/// A container's own variables, each expanded with those before it. `None` stands for a value that is not known.
pub(crate) fn environment(variables: &[EnvVar]) -> BTreeMap<String, Option<String>> {
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for variable in variables {
        let value = match &variable.value {
            EnvValue::Literal(text) => expand(text, &known),
            EnvValue::Unknown => None,
        };
        known.insert(variable.name.clone(), value);
    }
    known
}

/// The words of a command with `$(NAME)` replaced.
pub(crate) fn arguments(words: &[String], environment: &BTreeMap<String, Option<String>>) -> Vec<Argument> {
    let expanded = |word: &String| match expand(word, environment) {
        Some(text) => Argument::Known(text.into_bytes()),
        None => Argument::Unknown(word.clone()),
    };
    words.iter().map(expanded).collect()
}

/// `None` where `text` refers to a variable whose value is not known. References to no variable stay as they are.
fn expand(text: &str, environment: &BTreeMap<String, Option<String>>) -> Option<String> {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        output.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            output.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match environment.get(name) {
                Some(value) => output.push_str(value.as_ref()?),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = tail;
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let variable = |name: &str, value: EnvValue| EnvVar {
            name: name.into(),
            value,
        };
        let environment = environment(&[
            variable("BIN", EnvValue::Literal("/app/bin".into())),
            variable("SERVER", EnvValue::Literal("$(BIN)/server".into())),
            variable("SECRET", EnvValue::Unknown),
        ]);
        assert_eq!(expand(text, &environment).as_deref(), expected);
    }

    #[test]
    fn references() {
        check("$(SERVER)", Some("/app/bin/server"));
        check("a$(BIN)b", Some("a/app/binb"));
        check("$$(BIN)", Some("$(BIN)"));
        check("$(NOBODY)", Some("$(NOBODY)"));
        check("$BIN $( $", Some("$BIN $( $"));
        check("x$(SECRET)", None);
    }
}
