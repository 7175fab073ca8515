//! What an attacker found out, as one JSON line in `attack.json` of its data directory.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use quorate_verifier::protocol::Refused;
use serde_json::{Value, json};

/// Name of the file.
pub const FILE: &str = "attack.json";

/// Who refused an attack and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBy {
    /// Name of the node.
    pub name: String,
    /// Error kind and detail.
    pub refused: Refused,
}

/// The outcome of an attack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the attack.
    pub attack: &'static str,
    /// Signatures it obtained.
    pub votes: u64,
    /// Signatures it needed.
    pub need: u64,
    /// Who refused.
    pub refusals: Vec<RefusedBy>,
}

impl Outcome {
    /// As one JSON object.
    pub fn to_json(&self) -> Value {
        let refusals: Vec<_> = self
            .refusals
            .iter()
            .map(|by| json!({"by": by.name, "error_kind": by.refused.kind, "detail": by.refused.detail}))
            .collect();
        json!({"attack": self.attack, "votes": self.votes, "need": self.need, "refusals": refusals})
    }

    /// Writes the outcome to the log and to `attack.json`.
    pub fn publish(&self, data_dir: &Path) {
        for RefusedBy { name, refused } in &self.refusals {
            tracing::warn!(error_kind = %refused.kind, by = %name, attack = self.attack, "{}", refused.detail);
        }
        let line = self.to_json();
        let file = OpenOptions::new().create(true).append(true).open(data_dir.join(FILE));
        // One write for the whole line, so that a reader never sees half of it.
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            tracing::error!(%error, attack = self.attack, "the outcome of the attack cannot be written");
        }
    }
}

/// All outcomes in the `attack.json` of a data directory, oldest first.
pub fn read(data_dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(data_dir.join(FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
