//! From a JSON schema to a structural one, as Kubernetes demands it of custom resources: no `oneOf`, no null, no `additionalProperties: false`
//! (unknown fields are dropped, or refused where the client asks for strict validation), and only the formats that it knows.

use schemars::{
    Schema,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Map, Value, json};

pub(super) fn of(mut schema: Schema) -> Value {
    Structural.transform(&mut schema);
    schema.remove("$schema");
    schema.into()
}

struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        object.remove("title");
        take_the_one_that_is_not_null(object);
        join_words(object);
        if object.get("additionalProperties") == Some(&Value::Bool(false)) {
            object.remove("additionalProperties");
        }
        if let Some(format) = object.get("format").and_then(Value::as_str) {
            match format {
                "uint8" | "uint16" => drop(object.insert("format".to_owned(), json!("int32"))),
                "uint32" | "uint64" => drop(object.insert("format".to_owned(), json!("int64"))),
                _ => {}
            }
        }
        // "null" as a default is the same as none.
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
    }
}

/// An optional field may be left out; null is not a value of its own.
fn take_the_one_that_is_not_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get("type") {
        let mut types: Vec<Value> = types.iter().filter(|name| *name != "null").cloned().collect();
        if types.len() == 1 {
            object.insert("type".to_owned(), types.remove(0));
        }
    }
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    let Some(Value::Array(choices)) = object.get("anyOf") else {
        return;
    };
    let mut rest: Vec<Value> = choices
        .iter()
        .filter(|choice| choice.get("type") != Some(&json!("null")))
        .cloned()
        .collect();
    if let (1, Some(Value::Object(only))) = (rest.len(), rest.pop()) {
        object.remove("anyOf");
        for (key, value) in only {
            // The field's own description says more than its type's.
            object.entry(key).or_insert(value);
        }
    }
}

/// A choice between words, each with a description of its own, becomes a list of words.
fn join_words(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.get("oneOf") else {
        return;
    };
    let words: Option<Vec<Value>> = choices.iter().map(|choice| choice.get("const").cloned()).collect();
    let Some(words) = words else { return };
    let meanings: Vec<String> = choices
        .iter()
        .filter_map(|choice| {
            let (word, meaning) = (choice.get("const")?.as_str()?, choice.get("description")?.as_str()?);
            Some(format!("`{word}`: {meaning}"))
        })
        .collect();
    object.remove("oneOf");
    object.insert("type".to_owned(), json!("string"));
    object.insert("enum".to_owned(), Value::Array(words));
    if !meanings.is_empty() {
        let own = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let description = format!("{own} {}", meanings.join(" ")).trim().to_owned();
        object.insert("description".to_owned(), json!(description));
    }
}
