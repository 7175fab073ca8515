//! How old things may be.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_attest::note::Note;
use quorate_attest::policy::{Policy, Witnessed};
use quorate_attest::vm::SlotCertificate;

use super::finding::Finding;
use super::trust::Trust;

/// Oldest time that is accepted, in seconds of POSIX time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The time.
    pub not_before: u64,
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no age: write 90s, 10m, 2h, 7d, or @SECONDS of POSIX time");
        if let Some(seconds) = text.strip_prefix('@') {
            return Ok(Self { not_before: seconds.parse().map_err(|_| bad())? });
        }
        let unit = text.chars().last().ok_or_else(bad)?;
        let seconds_each: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let count: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
        let age = count.checked_mul(seconds_each).ok_or_else(bad)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs();
        Ok(Self { not_before: now.saturating_sub(age) })
    }
}

/// Whether the quorum still stands when only cosignatures count that are recent enough; else why not.
pub fn check_note(policy: &Policy, note: &Note, witnesses: &[Witnessed], age: Age) -> Option<String> {
    let fresh: Vec<&str> = witnesses
        .iter()
        .filter(|witness| witness.timestamp >= age.not_before)
        .map(|witness| witness.name.as_str())
        .collect();
    let known = |name: &str| witnesses.iter().any(|witness| witness.name == name);
    // Lines of the log and of unknown keys have no time and stay.
    let lines = note.lines().iter().filter(|line| !known(&line.name) || fresh.contains(&line.name.as_str()));
    let fresh_note = Note::new(note.text(), lines.cloned().collect());
    let holds = fresh_note.is_ok_and(|note| policy.evaluate(&note).is_ok());
    let newest = witnesses.iter().map(|witness| witness.timestamp).max().unwrap_or(0);
    (!holds).then(|| {
        format!(
            "{} of {} cosignatures are from {} or later, the newest is from {newest}",
            fresh.len(),
            witnesses.len(),
            age.not_before,
        )
    })
}

/// Whether the newest certificate is of the slot demanded.
pub fn check_slot(trust: &Trust, certificates: &[(PathBuf, SlotCertificate)]) -> Option<Finding> {
    let demanded = trust.slot_min?;
    let (path, newest) = certificates.iter().max_by_key(|(_, certificate)| certificate.statement.slot)?;
    let newest = newest.statement.slot.get();
    let finding = Finding::new(path, "newest-slot").holds(format!("the newest slot is {newest}"));
    if newest >= demanded {
        return Some(finding);
    }
    let stale = format!("the newest slot is {newest}, demanded is {demanded}");
    Some(Finding { stale: Some(stale), ..finding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_durations_or_times() {
        assert_eq!("@1700000000".parse::<Age>().unwrap().not_before, 1_700_000_000);
        let hour = "1h".parse::<Age>().unwrap().not_before;
        let minutes = "60m".parse::<Age>().unwrap().not_before;
        assert!(hour.abs_diff(minutes) <= 1);
        for bad in ["", "h", "1", "1w", "-1s", "@", "@x", "99999999999999999999s", "é"] {
            assert!(bad.parse::<Age>().is_err(), "{bad:?}");
        }
    }
}
