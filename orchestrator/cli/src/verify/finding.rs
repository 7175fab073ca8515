//! What one check found.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::output::{Output, Tone, wrap};

/// Where the sentences begin.
const INDENT: usize = 37;

/// One check: of a file, or of several files together.
#[derive(Clone, Debug)]
pub struct Finding {
    /// File it is about.
    pub file: PathBuf,
    /// What was checked.
    pub what: &'static str,
    /// The first rule that failed: its stable name, and what was found.
    pub failed: Option<(String, String)>,
    /// Why it is older than demanded.
    pub stale: Option<String>,
    /// For people.
    pub summary: String,
    /// For programs.
    pub facts: Map<String, Value>,
    /// Attestations by re-execution.
    pub replayed: u64,
    /// Attestations by sampling.
    pub sampled: u64,
}

impl Finding {
    /// A check that has found nothing wrong so far.
    pub fn new(file: &Path, what: &'static str) -> Self {
        Self {
            file: file.to_owned(),
            what,
            failed: None,
            stale: None,
            summary: String::new(),
            facts: Map::new(),
            replayed: 0,
            sampled: 0,
        }
    }

    /// For people: what holds.
    #[must_use]
    pub fn holds(self, summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..self }
    }

    /// A rule failed.
    #[must_use]
    pub fn fails(self, kind: &str, detail: impl ToString) -> Self {
        Self { failed: Some((kind.to_owned(), detail.to_string())), ..self }
    }

    /// Adds what programs want to know.
    #[must_use]
    pub fn with(mut self, facts: Value) -> Self {
        if let Value::Object(facts) = facts {
            self.facts.extend(facts);
        }
        self
    }

    /// Prints it.
    pub fn print(&self, output: &Output) {
        let (mark, text) = match (&self.failed, &self.stale) {
            (Some((kind, detail)), _) => (output.tint(Tone::Bad, "FAIL"), format!("{kind}: {detail}")),
            (None, Some(detail)) => (output.tint(Tone::Notable, "old "), detail.clone()),
            (None, None) => (output.tint(Tone::Good, "ok  "), self.summary.clone()),
        };
        let name = self
            .file
            .file_name()
            .map_or_else(|| self.file.display().to_string(), |name| name.to_string_lossy().into_owned());
        let text = wrap(&text, output.width(), INDENT);
        let width = INDENT - 9;
        output.line(&format!("  {mark}  {name:<width$} {text}"));
        let mut object = self.facts.clone();
        object.insert("file".into(), json!(self.file));
        object.insert("type".into(), json!(self.what));
        object.insert("valid".into(), json!(self.failed.is_none()));
        object.insert("rule_failed".into(), json!(self.failed.as_ref().map(|(kind, _)| kind)));
        object.insert("error".into(), json!(self.failed.as_ref().map(|(_, detail)| detail)));
        object.insert("stale".into(), json!(self.stale));
        output.object(&Value::Object(object));
    }
}
