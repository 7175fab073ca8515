//! C2SP trust policies ([c2sp.org/tlog-policy]): which logs and cosigners are trusted, and how many of them.
//!
//! A policy file is what an auditor needs besides a proof. It is configuration of whoever verifies, never taken from whom
//! is verified.
//!
//! [c2sp.org/tlog-policy]: https://c2sp.org/tlog-policy

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::checkpoint::{Checkpoint, parse_decimal};
use crate::error::VerifyError;
use crate::group::GroupConfig;
use crate::note::{KeyType, Note, NoteError, VerifierKey};

/// Most bytes of a policy file.
pub const POLICY_LIMIT: usize = 512 * 1024;

/// Most logs, and most witnesses and groups together.
pub const ENTRIES_LIMIT: usize = 1024;

/// A policy file that is refused, or a note that does not satisfy one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A line breaks the format.
    #[error("policy line {line}: {reason}")]
    Malformed {
        /// Line number from 1; 0 for the whole file.
        line: usize,
        /// The rule it breaks.
        reason: String,
    },
    /// The note is malformed or a known key's signature on it is bad.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// No trusted log of that origin signed.
    #[error("no trusted log signed for origin {origin}")]
    LogNotTrusted {
        /// Origin of the checkpoint.
        origin: String,
    },
    /// The cosigners that signed do not satisfy the quorum rule.
    #[error("{got} known cosigners signed, the quorum is not reached")]
    QuorumNotReached {
        /// Known cosigners with a valid line.
        got: usize,
    },
}

impl PolicyError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "BadConfig",
            Self::Note(error) => error.kind(),
            Self::LogNotTrusted { .. } => "SignerNotMember",
            Self::QuorumNotReached { .. } => "QuorumNotReached",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: Vec<u8>,
    rule: Rule,
    /// Whether a group lists it; none may be listed twice.
    listed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// Place in `Policy::witnesses`.
    Witness(usize),
    /// At least `need` of these places in `Policy::entries`, all before the group's own.
    Group { need: usize, members: Vec<usize> },
}

/// A parsed policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    entries: Vec<Entry>,
    /// Place in `entries`; none for `quorum none`.
    quorum: Option<usize>,
}

/// A cosigner whose line was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// Name of the cosigner's key.
    pub name: String,
    /// When it signed, in POSIX seconds, as it claims.
    pub timestamp: u64,
}

/// What a satisfied policy vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The head.
    pub checkpoint: Checkpoint,
    /// Log that signed it; none when the policy names no log.
    pub log: Option<String>,
    /// Cosigners that signed it, in the order of the policy.
    pub witnesses: Vec<Witnessed>,
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > POLICY_LIMIT {
            return Err(refuse(0, "file is too large"));
        }
        let mut parser = Parser::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            parser.line(line).map_err(|reason| PolicyError::Malformed { line: index + 1, reason })?;
        }
        let quorum = parser.quorum.ok_or(refuse(0, "there is no quorum line"))?;
        Ok(Self { logs: parser.logs, witnesses: parser.witnesses, entries: parser.entries, quorum })
    }

    /// The policy that demands the quorum of a group's cosigners; `log` adds a log whose signature is demanded too.
    pub fn text_for_group(group: &GroupConfig, log: Option<&VerifierKey>) -> Result<String, VerifyError> {
        let quorum = group.rule()?.quorum();
        let mut text = format!("# Group {} in epoch {}\n", group.name, group.epoch);
        if let Some(log) = log {
            text.push_str(&format!("log {log}\n"));
        }
        let mut names = String::new();
        for (index, member) in group.members.iter().enumerate() {
            let key = group.cosigner(index as u16)?;
            text.push_str(&format!("witness {} {key}\n", member.name));
            names.push(' ');
            names.push_str(&member.name);
        }
        // A member's name cannot contain a slash, so these two never collide.
        text.push_str(&format!("group {0}/quorum {quorum}{names}\nquorum {0}/quorum\n", group.name));
        Ok(text)
    }

    /// Trusted logs.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Trusted cosigners.
    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }

    /// How many of its members the quorum demands: of a group its threshold, of a single cosigner 1, and 0 of nobody.
    pub fn quorum(&self) -> usize {
        match self.quorum.and_then(|quorum| self.entries.get(quorum)).map(|entry| &entry.rule) {
            Some(Rule::Group { need, .. }) => *need,
            Some(Rule::Witness(_)) => 1,
            None => 0,
        }
    }

    /// Checks a checkpoint note: a trusted log of its origin signed it (where the policy names logs), the cosigners
    /// satisfy the quorum, and no line of a known key is bad.
    pub fn evaluate(&self, note: &Note) -> Result<Accepted, PolicyError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        let log = self.signing_log(note, &checkpoint)?;
        let mut times: Vec<Option<u64>> = alloc::vec![None; self.witnesses.len()];
        for line in note.verify(&self.witnesses)? {
            times[line.key] = line.timestamp;
        }
        let mut satisfied: Vec<bool> = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let holds = match &entry.rule {
                Rule::Witness(witness) => times[*witness].is_some(),
                Rule::Group { need, members } => {
                    members.iter().filter(|member| satisfied[**member]).count() >= *need
                }
            };
            satisfied.push(holds);
        }
        let witnesses: Vec<Witnessed> = self
            .witnesses
            .iter()
            .zip(times)
            .filter_map(|(key, time)| Some(Witnessed { name: key.name().to_string(), timestamp: time? }))
            .collect();
        match self.quorum {
            Some(quorum) if !satisfied[quorum] => Err(PolicyError::QuorumNotReached { got: witnesses.len() }),
            _ => Ok(Accepted { checkpoint, log, witnesses }),
        }
    }

    fn signing_log(&self, note: &Note, checkpoint: &Checkpoint) -> Result<Option<String>, PolicyError> {
        if self.logs.is_empty() {
            return Ok(None);
        }
        let signed = note.verify(&self.logs)?;
        let mut names = signed.iter().map(|line| self.logs[line.key].name());
        match names.find(|name| *name == checkpoint.origin()) {
            Some(name) => Ok(Some(name.to_string())),
            None => Err(PolicyError::LogNotTrusted { origin: checkpoint.origin().to_string() }),
        }
    }
}

fn refuse(line: usize, reason: &str) -> PolicyError {
    PolicyError::Malformed { line, reason: reason.to_string() }
}

#[derive(Default)]
struct Parser {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    entries: Vec<Entry>,
    quorum: Option<Option<usize>>,
}

impl Parser {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
            return Err("control character".to_string());
        }
        let words: Vec<&[u8]> =
            line.split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty()).collect();
        match words[..] {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", key] | [b"log", key, _] => self.log(key),
            [b"witness", name, key] | [b"witness", name, key, _] => self.witness(name, key),
            [b"group", name, need, ref members @ ..] if !members.is_empty() => {
                self.group(name, need, members)
            }
            [b"quorum", name] => self.quorum(name),
            _ => Err("not a log, witness, group or quorum line".to_string()),
        }
    }

    fn log(&mut self, key: &[u8]) -> Result<(), String> {
        let key = verifier_key(key)?;
        if self.logs.iter().any(|known| known.key() == key.key()) {
            return Err("log key occurs twice".to_string());
        }
        if self.logs.len() >= ENTRIES_LIMIT {
            return Err(format!("more than {ENTRIES_LIMIT} logs"));
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8]) -> Result<(), String> {
        let key = verifier_key(key)?;
        if key.key_type() != KeyType::Cosignature {
            return Err("witness key is not of a cosignature type".to_string());
        }
        if self.witnesses.iter().any(|known| known.key() == key.key()) {
            return Err("witness key occurs twice".to_string());
        }
        self.define(name, Rule::Witness(self.witnesses.len()))?;
        self.witnesses.push(key);
        Ok(())
    }

    fn group(&mut self, name: &[u8], need: &[u8], members: &[&[u8]]) -> Result<(), String> {
        let need = match need {
            b"all" => members.len(),
            b"any" => 1,
            number => {
                let number = core::str::from_utf8(number).ok().and_then(parse_decimal);
                let number = number.and_then(|number| usize::try_from(number).ok());
                number
                    .filter(|number| (1..=members.len()).contains(number))
                    .ok_or("threshold is not between 1 and the number of members")?
            }
        };
        let mut places = Vec::with_capacity(members.len());
        for member in members {
            let place = self.find(member)?;
            if core::mem::replace(&mut self.entries[place].listed, true) {
                return Err(format!("{} is a member twice", String::from_utf8_lossy(member)));
            }
            places.push(place);
        }
        self.define(name, Rule::Group { need, members: places })
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("second quorum line".to_string());
        }
        self.quorum = Some(if name == b"none" { None } else { Some(self.find(name)?) });
        Ok(())
    }

    fn define(&mut self, name: &[u8], rule: Rule) -> Result<(), String> {
        if name == b"none" {
            return Err("the name none is predefined".to_string());
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(format!("{} is defined twice", String::from_utf8_lossy(name)));
        }
        if self.entries.len() >= ENTRIES_LIMIT {
            return Err(format!("more than {ENTRIES_LIMIT} witnesses and groups"));
        }
        self.entries.push(Entry { name: name.to_vec(), rule, listed: false });
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<usize, String> {
        let unknown = || format!("{} is not defined above", String::from_utf8_lossy(name));
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(unknown)
    }
}

fn verifier_key(text: &[u8]) -> Result<VerifierKey, String> {
    let text = core::str::from_utf8(text).map_err(|_| "key is not UTF-8".to_string())?;
    text.parse().map_err(|error: NoteError| error.to_string())
}

#[cfg(test)]
mod tests;
