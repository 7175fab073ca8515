//! Prometheus HTTP service discovery: groups of targets with their labels.

use std::collections::BTreeMap;

use quorate_registry::Record;
use quorate_registry::endpoint::Endpoints;
use serde::Serialize;

/// Label that tells the registry's name of a target.
const NAME_LABEL: &str = "__meta_quorate_name";

/// Targets that share their labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `host:port`.
    pub targets: Vec<String>,
    /// Labels of the endpoints, and the name they are registered under.
    pub labels: BTreeMap<String, String>,
}

/// The groups of all records whose value is a list of endpoints. Other values are somebody else's and left out, and so are
/// names that are no text, which no label could tell.
#[must_use]
pub fn groups(records: &BTreeMap<Vec<u8>, Record>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, record) in records {
        let (Ok(name), Ok(endpoints)) = (std::str::from_utf8(name), Endpoints::from_value(&record.value))
        else {
            continue;
        };
        let mut of_name: BTreeMap<BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
        for endpoint in endpoints.as_slice() {
            let mut labels = endpoint.labels().clone();
            labels.insert(NAME_LABEL.to_owned(), name.to_owned());
            of_name.entry(labels).or_default().push(endpoint.address());
        }
        groups.extend(of_name.into_iter().map(|(labels, targets)| Group { targets, labels }));
    }
    groups
}
