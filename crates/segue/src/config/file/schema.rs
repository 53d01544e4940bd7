//! The JSON schema of `segue.toml`, for editors. It is made from the table of settings.

use serde_json::{Map, Value, json};

use super::shape::{ARGS, COMMAND, Shape, shape};
use crate::config::keys::{KEYS, Key};

/// The schema.
pub(crate) fn schema() -> Value {
    let mut app = Tree::default();
    app.put(
        COMMAND,
        json!({
            "type": "string",
            "description": "A script for node (.js .mjs .cjs .ts .mts .cts), or a program; no shell"
        }),
    );
    app.put(
        ARGS,
        json!({
            "type": "array",
            "items": { "type": ["string", "integer"] },
            "description": "What follows the command, untouched"
        }),
    );
    for key in KEYS.iter().filter(|key| key.name != "name") {
        app.put(key.name, of_key(key));
    }
    let mut app = app.into_schema();
    app.insert("required".to_owned(), json!([COMMAND]));
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "segue.toml",
        "type": "object",
        "additionalProperties": false,
        "required": ["app"],
        "properties": {
            "app": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": { "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$" },
                "additionalProperties": app
            },
            "supervisor": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "control": { "type": "string", "description": "Where the control socket is made" },
                    "metrics": { "type": "string", "description": "Where Prometheus finds metrics: 127.0.0.1:9464" }
                }
            }
        }
    })
}

/// As a file: two blanks, a line feed at the end.
pub(crate) fn text() -> String {
    // A tree of texts and numbers always has a JSON form.
    let mut text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text.push('\n');
    text
}

fn of_key(key: &Key) -> Value {
    let text = json!({ "type": "string" });
    let object = |properties: Value, required: Value| {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": properties,
            "required": required
        })
    };
    let number = json!({ "type": ["integer", "string"] });
    let mut value = match shape(key.name) {
        Shape::Text => match words(key.value) {
            Some(words) => json!({ "type": "string", "enum": words }),
            None => text,
        },
        Shape::Number | Shape::Amount => number,
        Shape::Switch => json!({ "enum": [true, false, "on", "off"] }),
        Shape::Watch => json!({ "anyOf": [
            { "type": "boolean" }, text, { "type": "array", "items": { "type": "string" } }
        ] }),
        Shape::Texts => {
            json!({ "anyOf": [text, { "type": "array", "items": { "type": "string" } }] })
        }
        Shape::Variables => json!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] }
        }),
        Shape::Headers => json!({ "anyOf": [
            { "type": "object", "additionalProperties": { "type": "string" } },
            { "type": "array", "items": { "type": "string" } },
            text
        ] }),
        Shape::Ready => {
            let probe = object(
                json!({
                    "http": { "type": "string" }, "status": { "type": "string" },
                    "timeout": { "type": "string" }, "interval": { "type": "string" },
                    "successes": number, "headers": { "type": ["object", "array", "string"] },
                    "host": { "type": "string" }
                }),
                json!(["http"]),
            );
            json!({ "anyOf": [text, probe, { "type": "array", "items": { "anyOf": [text, probe] } }] })
        }
        Shape::Canary => json!({ "anyOf": [text, object(
            json!({ "percent": number, "for": { "type": "string" }, "max_errors": number }),
            json!(["percent", "for"])
        )] }),
        Shape::Intensity => json!({ "anyOf": [text, object(
            json!({ "restarts": number, "within": { "type": "string" } }),
            json!(["restarts", "within"])
        )] }),
        Shape::Request => {
            json!({ "anyOf": [text, object(json!({ "message": text }), json!(["message"]))] })
        }
    };
    if let Some(members) = value.as_object_mut() {
        members.insert("description".to_owned(), key.doc.into());
        if let Some(default) = key.default {
            members.insert("default".to_owned(), default.into());
        }
    }
    value
}

/// The words, of a value that is one of several.
fn words(value: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = value.split('|').collect();
    let is_word = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase());
    (words.len() > 1 && words.iter().all(is_word)).then_some(words)
}

/// Keys with dots, as tables in tables.
#[derive(Default)]
struct Tree(Map<String, Value>);

impl Tree {
    fn put(&mut self, name: &str, value: Value) {
        let mut place = &mut self.0;
        let mut rest = name;
        while let Some((table, inner)) = rest.split_once('.') {
            let entry = place.entry(table).or_insert_with(
                || json!({ "type": "object", "additionalProperties": false, "properties": {} }),
            );
            let Some(properties) = entry.get_mut("properties").and_then(Value::as_object_mut)
            else {
                return;
            };
            place = properties;
            rest = inner;
        }
        place.insert(rest.to_owned(), value);
    }

    fn into_schema(self) -> Map<String, Value> {
        let mut schema = Map::new();
        schema.insert("type".to_owned(), "object".into());
        schema.insert("additionalProperties".to_owned(), false.into());
        schema.insert("properties".to_owned(), self.0.into());
        schema
    }
}
