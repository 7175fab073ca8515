use serde_json::Value;

use super::*;

#[test]
fn the_document_describes_every_path_and_every_schema_it_refers_to() {
    let document: Value = serde_json::from_str(&document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let expected = [
        "/livez",
        "/metrics",
        "/openapi.json",
        "/readyz",
        "/v1/groups",
        "/v1/log",
        "/v1/log/{index}/proof",
        "/v1/migrations",
        "/v1/operations",
        "/v1/services",
        "/v1/services/{name}",
        "/v1/status",
        "/v1/vms",
        "/v1/vms/{id}",
    ];
    let mut names: Vec<_> = paths.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    let text = document.to_string();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not described");
    }
}
