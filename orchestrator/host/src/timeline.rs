//! Phases of a migration, measured where they happen.

use super::clock::monotonic_ns;
use crate::protocol::Phase;

/// Collects the phases of one party.
#[derive(Clone, Debug)]
pub struct Timeline {
    party: &'static str,
    open: Vec<(&'static str, u64)>,
    phases: Vec<Phase>,
}

impl Timeline {
    /// An empty timeline of `source` or `destination`.
    pub fn new(party: &'static str) -> Self {
        Self { party, open: Vec::new(), phases: Vec::new() }
    }

    /// A phase begins now.
    pub fn begin(&mut self, name: &'static str) {
        if self.open.iter().all(|(open, _)| *open != name) {
            self.open.push((name, monotonic_ns()));
        }
    }

    /// A phase ends now; without a beginning nothing is noted.
    pub fn end(&mut self, name: &'static str, bytes: u64, votes: u32) {
        let Some(position) = self.open.iter().position(|(open, _)| *open == name) else { return };
        let (_, start_ns) = self.open.remove(position);
        self.add(name, start_ns, monotonic_ns(), bytes, votes);
    }

    /// Notes a phase that was measured elsewhere.
    pub fn add(&mut self, name: &'static str, start_ns: u64, end_ns: u64, bytes: u64, votes: u32) {
        let (name, party) = (name.to_owned(), self.party.to_owned());
        self.phases.push(Phase { name, party, start_ns, end_ns, bytes, votes });
    }

    /// All finished phases.
    pub fn phases(&self) -> Vec<Phase> {
        self.phases.clone()
    }
}
