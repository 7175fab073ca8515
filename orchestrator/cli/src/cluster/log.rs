//! What the nodes of a cluster wrote about what they refused.
//!
//! Logs are JSON, one event a line; events about something refused carry a field `error_kind`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

/// Most bytes of a log that are read.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// A refusal that a node logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Error kind of the threat model.
    pub kind: String,
    /// What was found, for people.
    pub detail: String,
}

/// All refusals in a log file; an unreadable one has none.
pub fn refusals(path: &Path) -> Vec<Refusal> {
    match File::open(path) {
        Ok(file) => read(BufReader::new(file.take(LOG_BYTES_MAX))),
        Err(_) => Vec::new(),
    }
}

fn read(log: impl BufRead) -> Vec<Refusal> {
    log.lines().map_while(Result::ok).filter_map(|line| parse(&line)).collect()
}

fn parse(line: &str) -> Option<Refusal> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields")?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let kind = text("error_kind")?.to_owned();
    let parts = [text("message"), text("error"), text("detail")];
    let detail: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let detail = detail.join(": ");
    // That it was refused is what `kind` says.
    Some(Refusal { kind, detail: detail.strip_prefix("refused: ").unwrap_or(&detail).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_with_an_error_kind_are_found_among_others() {
        let log = concat!(
            "{\"level\":\"INFO\",\"fields\":{\"message\":\"started\"}}\n",
            "no json at all\n",
            "{\"level\":\"WARN\",\"fields\":{\"message\":\"refused\",\"error_kind\":\"StaleSlot\",\"error\":\"old\"}}\n",
        );
        let found = read(log.as_bytes());
        assert_eq!(found, [Refusal { kind: "StaleSlot".into(), detail: "old".into() }]);
    }

    #[test]
    fn missing_log_has_no_refusals() {
        assert!(refusals(Path::new("/nowhere/node.log")).is_empty());
    }
}
