//! As much of JSON Schema as the API's document uses.

use serde_json::Value;

/// Checks that an answer has the form that the document gives for it.
pub fn check(document: &Value, method: &str, path: &str, status: u16, value: &Value) {
    let response = &document["paths"][path][method]["responses"][status.to_string()];
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} has no answer {status} in the document");
    fits(document, schema, value, &format!("{method} {path}"));
}

fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        return fits(document, &document["components"]["schemas"][name], value, place);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().find(|choice| is_null(choice) == value.is_null());
        return fits(document, fitting.unwrap_or_else(|| panic!("{place}: {value}")), value, place);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        other => panic!("{place}: type {other}"),
    };
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&got), "{place}: {value} is not {types:?}");
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(document, &schema["items"], item, &format!("{place}[{index}]"));
    }
    if let Some(fields) = value.as_object() {
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(fields.contains_key(required.as_str().unwrap()), "{place} has no {required}");
        }
        for (name, field) in fields {
            let property = &schema["properties"][name];
            assert!(property.is_object(), "{place}.{name} is not described");
            fits(document, property, field, &format!("{place}.{name}"));
        }
    }
}

fn is_null(schema: &Value) -> bool {
    schema["type"] == "null"
}
